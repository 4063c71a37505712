"""The commands of users, authorities and operators, against a living shard."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from shard_world import RICH, World

from sealift.base import Height
from sealift.cli import _check, _endorse
from sealift.cli._endorse import OrderNotRecordedError, Signing
from sealift.cli._params import run
from sealift.client import read_card, write_card
from sealift.crypto import account_of, sha256
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.protocol import StatusOrder
from sealift.transport.keys import write_account_key

DEAD = "http://127.0.0.1:9"
OTHER_CODE = "insecure-sim=" + "ab" * 32


@pytest.fixture
def card(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "card.json"
    write_card(path, world.card)
    return path


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    path = tmp_path / "rich.json"
    write_account_key(path, RICH)
    return path


@pytest.fixture
def home(world: World, tmp_path: Path, tiny_bundle: Path, sealift: Any) -> Path:
    """A worker's home whose worker answers."""
    path = tmp_path / "w1"
    card = tmp_path / "home-card.json"
    write_card(card, world.card)
    made = sealift(
        "worker", "init", path, "--card", card, "--bundle", tiny_bundle,
        "--sim", world.sim.folder, "--machine", "one", "--json",
    )  # fmt: skip
    assert made.code == 0, made
    (path / "worker.url").write_text(world.enclave.url + "\n")
    return path


def test_a_user_from_nothing_to_a_confirmed_transfer(
    world: World, card: Path, tmp_path: Path, sealift: Any
) -> None:
    alice, bob = tmp_path / "alice.json", tmp_path / "bob.json"
    made = sealift("client", "new-account", alice, "--json")
    assert made.json["account"] in alice.read_text()
    sealift("client", "new-account", bob)
    given = sealift(
        "client", "faucet", alice, "--amount", 10**6,
        "--from", world.key("faucet"), "--rpc", world.url, "--json",
    )  # fmt: skip
    assert given.json["l1_balance"] == 10**6
    me = ("--card", card, "--key", alice, "--json")
    assert sealift("client", "shield", 500, *me).code == 0
    while sealift("client", "balance", *me).json["balance"] != 500:
        pass
    moved = sealift("client", "transfer", bob, 200, *me, "--confirmed")
    assert moved.code == 0
    assert moved.json["outcome"] == "ok"
    assert moved.json["confirmed"] is True
    assert sealift("client", "balance", *me).json["balance"] == 300
    assert sealift("client", "nonce", *me).json["nonce"] == 1
    asked = sealift("client", "ask", "balances.issuance", *me)
    assert asked.json["answer"] >= 500


def test_a_call_that_fails_is_exit_code_1_with_its_receipt(
    card: Path, tmp_path: Path, sealift: Any
) -> None:
    poor = tmp_path / "poor.json"
    write_account_key(poor, sha256(b"poor at the command line"))
    said = sealift(
        "client", "transfer", "00" * 32, 5, "--card", card, "--key", poor, "--json"
    )
    assert said.code == 1
    assert said.json["outcome"] == "InsufficientFundsError"
    assert said.json["message"]


def test_calls_by_name_and_arguments(card: Path, rich: Path, sealift: Any) -> None:
    me = ("--card", card, "--key", rich)
    done = sealift(
        "client", "call", "balances.transfer", f"dest={'11' * 32}", "amount=7", *me
    )
    assert done.code == 0
    assert "balances.Transferred" in done.out
    by_json = msgspec.json.encode({"dest": "0x" + "11" * 32, "amount": "7"}).decode()
    assert (
        sealift("client", "call", "balances.transfer", "--args", by_json, *me).code == 0
    )
    for code, words in (
        (2, ["balances.steal"]),
        (2, ["balances.transfer", "amount=7"]),
        (2, ["balances.transfer", "amount"]),
        (2, ["balances.transfer", "--args", "{"]),
        (2, ["balances.transfer", "dest=zz", "amount=7"]),
        (1, ["balances.transfer", f"dest={'11' * 32}", "amount=7", "--pin", "00" * 32]),
    ):
        assert sealift("client", "call", *words, *me).code == code, words


def test_no_worker_and_no_node(
    world: World, rich: Path, tmp_path: Path, sealift: Any
) -> None:
    path = tmp_path / "dead.json"
    for changes in ({"workers": (DEAD,)}, {"l1": (DEAD,)}):
        write_card(path, msgspec.structs.replace(world.card, **changes))
        said = sealift("client", "balance", "--card", path, "--key", rich)
        assert said.code == 3
        assert "127.0.0.1:9" in said.err


def test_workers_are_listed_as_the_registry_proves_them(
    world: World, card: Path, sealift: Any
) -> None:
    # the world may be older than the blocks that are looked through by default
    words = ("client", "list-workers", "--card", card, "--blocks", 1_000_000)
    said = sealift(*words, "--json")
    (found,) = said.json["workers"]
    assert found["url"] == world.enclave.url
    assert found["runs_now"] is True
    assert found["answers"] == "yes"
    assert "missing" not in said.err, "all blocks were looked through"


def test_a_list_of_workers_says_where_it_may_lack_some(
    world: World, card: Path, sealift: Any
) -> None:
    said = sealift("client", "list-workers", "--card", card, "--blocks", 1)
    assert said.code == 0
    assert "Looked through blocks from " in said.err
    assert "--blocks" in said.err


def test_a_shard_stands_as_l1_proves_it(world: World, card: Path, sealift: Any) -> None:
    found = sealift("shard", "status", "--card", card, "--json").json
    assert found["shard"] == world.shard.hex()
    assert found["generation"] == 0
    assert found["born"] is True
    assert found["mode"] == "normal"


def test_a_card_is_changed_without_a_bundle(card: Path, sealift: Any) -> None:
    words = ("shard", "card", "--from", card, "--worker", "http://w:1", "-o", card)
    assert sealift(*words).code == 0
    assert read_card(card).workers == ("http://w:1",)
    assert sealift("shard", "card", "-o", card).code == 2


def test_an_address_that_is_none_does_not_spoil_the_card(
    card: Path, sealift: Any
) -> None:
    before = card.read_bytes()
    said = sealift("shard", "card", "--from", card, "--worker", "w:1", "-o", card)
    assert said.code == 4
    assert "workers" in said.err
    assert card.read_bytes() == before


def test_a_shard_is_created_from_a_bundle(
    world: World, tiny_bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    said = sealift(
        "shard", "create", "--rpc", world.url, "--authority", world.key("payer"),
        "--bundle", tiny_bundle, "--min-notice", 4, "--rescue-after", 9,
        "--genesis", tmp_path / "genesis.bin", "--card", tmp_path / "new.json",
        "--json",
    )  # fmt: skip
    assert said.code == 0, said
    made = said.json
    assert (
        sha256((tmp_path / "genesis.bin").read_bytes()).hex()
        == (made["genesis_sha256"])
    )
    fresh = read_card(tmp_path / "new.json")  # the tiny bundle has no real root
    rooted = msgspec.structs.replace(fresh, trust_root=world.card.trust_root)
    write_card(tmp_path / "new.json", rooted)
    found = sealift("shard", "status", "--card", tmp_path / "new.json", "--json").json
    assert found["shard"] == made["shard"]
    assert (found["min_notice"], found["rescue_after"]) == (4, 9)
    assert found["born"] is False
    rows = sealift("gov", "history", "--card", tmp_path / "new.json", "--json").json
    assert (
        rows["generations"][0]["code"] == f"insecure-sim={made['code']['insecure-sim']}"
    )


def test_a_shard_of_hardware_alone_has_no_place_for_simulated_instances(
    world: World, intel_bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    """The bundle's own fingerprint is the simulator's: another is asked for."""
    words = (
        "shard", "create", "--rpc", world.url, "--authority", world.key("payer"),
        "--bundle", intel_bundle, "--genesis", tmp_path / "genesis.bin",
        "--card", tmp_path / "new.json", "--json",
    )  # fmt: skip
    said = sealift(*words)
    assert said.code == 2
    assert "--code gramine-sgx=FINGERPRINT" in said.err
    assert list(tmp_path.iterdir()) == []
    code = "ab" * 32
    twice = ("--code", f"gramine-sgx={code}", "--code", f"gramine-sgx={'cd' * 32}")
    said = sealift(*words, *twice)
    assert said.code == 2
    assert "given twice" in said.err
    made = sealift(*words, "--code", f"gramine-sgx={code}")
    assert made.code == 0, made
    assert made.json["code"] == {"gramine-sgx": code}
    card = ("--card", tmp_path / "new.json", "--authority", world.key("payer"))
    said = sealift("gov", "schedule", *card, "--bundle", intel_bundle, "--at", "+9")
    assert said.code == 2
    assert "--code gramine-sgx=FINGERPRINT" in said.err


def test_another_shards_genesis_blob_is_not_written_over(
    world: World, tiny_bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    genesis = tmp_path / "genesis.bin"
    genesis.write_bytes(b"what the first worker of another shard needs")
    said = sealift(
        "shard", "create", "--rpc", world.url, "--authority", world.key("payer"),
        "--bundle", tiny_bundle, "--genesis", genesis, "--card", tmp_path / "c.json",
    )  # fmt: skip
    assert said.code == 4
    assert str(genesis) in said.err
    assert genesis.read_bytes() == b"what the first worker of another shard needs"
    assert not (tmp_path / "c.json").exists()


# --- the authority ---


def test_schedule_and_cancel_on_l1(world: World, card: Path, sealift: Any) -> None:
    boss = ("--card", card, "--authority", world.key("sudo"), "--json")
    made = sealift("gov", "schedule", *boss, "--code", OTHER_CODE, "--at", "+100000")
    assert made.code == 0, made
    assert made.json["status"] == "pending"
    assert made.json["code"] == OTHER_CODE
    # fast blocks: the order had seconds to get into one, not five of them
    assert made.json["release_from"] - made.json["recorded_at"] > 30
    number = made.json["generation"]
    shown = sealift("gov", "status", "--card", card, "--json").json
    assert shown["next_generation"] == number
    assert shown["upgrade_at"] == made.json["upgrade_at"]
    gone = sealift("gov", "cancel", number, *boss)
    assert gone.json["status"] == "cancelled"
    rows = sealift("gov", "history", "--card", card, "--json").json["generations"]
    assert [row["status"] for row in rows][-1] == "cancelled"
    again = sealift("gov", "cancel", number, *boss)
    assert again.code == 1
    assert "not pending" in again.err


def test_too_little_notice_is_said_before_anything_is_paid(
    world: World, card: Path, sealift: Any
) -> None:
    said = sealift(
        "gov", "schedule", "--card", card, "--authority", world.key("sudo"),
        "--code", OTHER_CODE, "--at", "+3",
    )  # fmt: skip
    assert said.code == 2
    assert "min_notice" in said.err


def test_maintenance_comes_and_goes(world: World, card: Path, sealift: Any) -> None:
    boss = ("--card", card, "--authority", world.key("sudo"), "--json")
    try:
        assert sealift("gov", "status", *boss, "--mode", "maintenance").code == 0
        while sealift("gov", "status", "--card", card, "--json").json["mode"] != (
            "maintenance"
        ):
            pass
        key = world.key("payer")
        refused = sealift("client", "shield", 5, "--card", card, "--key", key)
        assert refused.code == 1
        assert "maintenance" in refused.err
    finally:
        assert sealift("gov", "status", *boss, "--mode", "normal").code == 0
    assert sealift("gov", "status", "--card", card, "--mode", "normal").code == 2


def test_only_the_authority_decides(world: World, card: Path, sealift: Any) -> None:
    key = world.key("payer")
    said = sealift("gov", "cancel", 1, "--card", card, "--authority", key, "--json")
    assert said.code == 1
    assert said.json["error"]["code"] == "NotAuthorityKeyError"
    assert "no member of the shard's upgrade authority" in said.err


def test_an_order_that_nobody_carries_is_not_taken_for_recorded(
    world: World, card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard accepts it by a call, but the worker of this world carries none."""
    monkeypatch.setattr(_endorse, "_WAIT_SECONDS", 3.0)

    def make(now: Any) -> StatusOrder:
        return StatusOrder(
            chain_id=now.schedule.chain_id,
            shard=now.schedule.shard,
            serial=now.schedule.serial,
            status=now.schedule.status,
            expiry=Height(now.height + 100),
        )

    signing = Signing(
        keys=(world.key("sudo"),),
        vendors=(),
        payer=None,
        workers=(),
        out=None,
        order=None,
    )
    with pytest.raises(OrderNotRecordedError):
        run(_endorse.decide(card, signing, make, kind=StatusOrder))


@pytest.mark.parametrize(
    "words",
    [
        ("gov", "cancel", 2**64),
        ("gov", "status", "--mode", "normal", "--min-tcb-evaluation", 2**64),
    ],
)
def test_a_number_that_no_order_can_hold_is_wrong_usage(
    world: World, card: Path, sealift: Any, words: tuple[object, ...]
) -> None:
    said = sealift(*words, "--card", card, "--authority", world.key("sudo"))
    assert said.code == 2
    assert "range" in said.err


def test_a_height_that_no_block_can_have_is_wrong_usage(
    card: Path, rich: Path, sealift: Any
) -> None:
    said = sealift(
        "client", "ask", "system.nonce", "--min-height", 2**64,
        "--card", card, "--key", rich,
    )  # fmt: skip
    assert said.code == 2
    assert "range" in said.err


# --- the operator ---


def test_a_home_says_what_it_needs(
    world: World, home: Path, tiny_bundle: Path, sealift: Any
) -> None:
    text = (home / "worker.toml").read_text()
    assert world.shard.hex() in text
    assert str(tiny_bundle) in text
    assert (home / "operator.key").stat().st_mode & 0o777 == 0o600
    measured = sealift("worker", "mrenclave", home).out.strip()
    assert measured == sealift("measure", tiny_bundle).out.strip()
    again = sealift(
        "worker", "init", home, "--shard", "00" * 32, "--bundle", tiny_bundle,
        "--sim", world.sim.folder, "--machine", "one",
    )  # fmt: skip
    assert again.code == 4
    assert (home / "worker.toml").read_text() == text


@pytest.mark.parametrize("wrong", ["sim", "machine"])
def test_a_typo_makes_no_new_simulated_intel_or_machine(
    world: World, tmp_path: Path, tiny_bundle: Path, sealift: Any, wrong: str
) -> None:
    """It would have other fuses: what the right one sealed would seem lost."""
    sim = tmp_path / "smi" if wrong == "sim" else world.sim.folder
    before = world.sim.machines()
    made = sealift(
        "worker", "init", tmp_path / "w", "--shard", "00" * 32, "--bundle", tiny_bundle,
        "--sim", sim, "--machine", "onne" if wrong == "machine" else "one",
    )  # fmt: skip
    assert made.code == 4
    assert f"insecure-sim {'init' if wrong == 'sim' else 'platform'}" in made.err
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "smi").exists()
    assert world.sim.machines() == before


def test_a_path_with_quotes_stays_a_path(
    world: World, tmp_path: Path, tiny_bundle: Path, sealift: Any
) -> None:
    odd = tmp_path / 'a "quoted" folder'
    sim = tmp_path / 'a "quoted" sim\n[l1]'
    SimMachine(SimIntel(sim), "m", entropy=bytes)
    made = sealift(
        "worker", "init", odd, "--shard", "00" * 32, "--bundle", tiny_bundle,
        "--sim", sim, "--machine", "m",
    )  # fmt: skip
    assert made.code == 0, made
    assert sealift("worker", "mrenclave", odd).code == 0


def test_a_running_worker_is_asked(world: World, home: Path, sealift: Any) -> None:
    found = sealift("worker", "status", home, "--json")
    assert found.json["mrenclave"] == world.enclave.identity.mrenclave.hex()
    assert "KEYS HELD BY 1 INSTANCE" in found.err
    key = sealift("worker", "signing-key", home).out.strip()
    assert key == account_of(world.enclave.secret).hex()
    shielding = sealift("worker", "shielding-key", home, "--json").json
    assert shielding == {"shielding_key": world.enclave.shielding.public.hex()}


def test_a_worker_without_keys_has_no_shielding_key(
    world: World, home: Path, sealift: Any
) -> None:
    async def empty(_: web.Request) -> web.Response:
        return web.json_response({"shielding_key": ""})

    world.enclave.lies["status"] = empty
    assert sealift("worker", "shielding-key", home).code == 1


def test_a_status_that_is_none(world: World, home: Path, sealift: Any) -> None:
    async def garbage(_: web.Request) -> web.Response:
        return web.Response(body=b"[")

    world.enclave.lies["status"] = garbage
    assert sealift("worker", "status", home).code == 1


def checks(said: Any) -> dict[str, Any]:
    return {row["check"]: row for row in said.json["checks"]}


@pytest.fixture
def funded(world: World, home: Path, sealift: Any) -> Iterator[Path]:
    given = sealift(
        "client", "faucet", home / "operator.key", "--amount", 10**7,
        "--from", world.key("faucet"), "--rpc", world.url,
    )  # fmt: skip
    assert given.code == 0
    return home


def test_check_names_what_would_stop_the_worker(
    world: World, home: Path, sealift: Any
) -> None:
    said = sealift("worker", "check", home, "--json")
    assert said.code == 1
    found = checks(said)
    assert not found["funds"]["ok"]
    assert not found["schedule"]["ok"]  # another bundle than the shard's
    assert found["worker"]["ok"]
    assert found["bundle"]["ok"]
    assert found["attestation"]["ok"]


def test_check_says_whether_a_fork_would_be_seen_and_whether_one_was(
    home: Path, sealift: Any
) -> None:
    found = checks(sealift("worker", "check", home, "--json"))
    assert found["witnesses"]["ok"]
    assert "no witness of L1 is named" in found["witnesses"]["detail"]
    assert "fork" not in found
    config = home / "worker.toml"
    before = config.read_text()
    config.write_text(before.replace("witnesses = []", 'witnesses = ["a", "b"]'))
    (home / "fork_evidence.json").write_text("{}")
    try:
        found = checks(sealift("worker", "check", home, "--json"))
    finally:
        config.write_text(before)
        (home / "fork_evidence.json").unlink()
    assert found["witnesses"]["detail"] == "2 in worker.toml"
    assert not found["fork"]["ok"]


def test_check_sees_a_worker_that_is_gone(home: Path, sealift: Any) -> None:
    (home / "worker.url").unlink()
    found = checks(sealift("worker", "check", home, "--json"))
    assert not found["worker"]["ok"]
    found = checks(sealift("worker", "check", home, "--url", DEAD, "--json"))
    assert not found["worker"]["ok"]


def test_check_passes_when_nothing_is_wrong_and_warns_of_upgrades(
    world: World, funded: Path, card: Path, sealift: Any, monkeypatch: Any
) -> None:
    fingerprint = world.enclave.identity.mrenclave
    honest = _check._bundle

    def as_the_shards(config: Any) -> Any:
        return fingerprint, honest(config)[1]

    monkeypatch.setattr(_check, "_bundle", as_the_shards)
    assert sealift("worker", "check", funded).code == 0
    boss = ("--card", card, "--authority", world.key("sudo"), "--json")
    made = sealift("gov", "schedule", *boss, "--code", OTHER_CODE, "--at", "+90000")
    try:
        now = sealift("worker", "check", funded, "--json")
        assert now.code == 0
        assert "stops in" in checks(now)["upgrade"]["detail"]
        later = sealift("worker", "check", funded, "--for-upgrade", "--json")
        assert later.code == 1
        assert not checks(later)["upgrade"]["ok"]
    finally:
        assert sealift("gov", "cancel", made.json["generation"], *boss).code == 0


def test_check_tells_cron_what_lies_ahead(
    home: Path, sealift: Any, monkeypatch: Any
) -> None:
    well = checks(sealift("worker", "check", home, "--json"))
    assert well["ahead"]["ok"]
    assert well["collateral"]["ok"]
    risk = _check.Risk(
        rule="tcb-status", detail="OutOfDate", hint="Update.", blocks=400
    )
    monkeypatch.setattr(_check, "forecast", lambda *_: (risk,))
    monkeypatch.setattr(_check, "seconds_left", lambda *_, **__: 3600)
    said = sealift("worker", "check", home, "--json")
    assert said.code == 1
    found = checks(said)
    assert found["ahead"]["detail"] == "tcb-status, in 400 blocks: OutOfDate. Update."
    assert "expires in 1 h" in found["collateral"]["detail"]


def test_check_without_its_simulated_intel_tells_the_rest(
    home: Path, sealift: Any
) -> None:
    config = home / "worker.toml"
    config.write_text(re.sub(r'sim = ".*"', 'sim = "/nowhere"', config.read_text()))
    found = checks(sealift("worker", "check", home, "--json"))
    assert not found["collateral"]["ok"]
    assert "insecure-sim init" in found["collateral"]["detail"]
    assert found["attestation"]["ok"]


def test_check_survives_a_dead_l1_and_a_lost_key(
    home: Path, sealift: Any, world: World
) -> None:
    config = home / "worker.toml"
    (home / "operator.key").unlink()
    assert not checks(sealift("worker", "check", home, "--json"))["operator key"]["ok"]
    config.write_text(config.read_text().replace(world.url, DEAD))
    said = sealift("worker", "check", home, "--json")
    assert said.code == 1
    assert not checks(said)["l1"]["ok"]


def test_evidence_of_a_running_worker_is_verified_by_l1s_collateral(
    world: World, home: Path, card: Path, tmp_path: Path, sealift: Any
) -> None:
    out = tmp_path / "ra.der"
    said = sealift("worker", "dump-ra", home, "--card", card, "-o", out, "--json")
    assert said.code == 0
    found = said.json
    assert found["verified"] is True
    assert found["anchor"] == "insecure-sim"
    assert found["mrenclave"] == world.enclave.identity.mrenclave.hex()
    assert out.read_bytes()[:1] == b"\x30"
    plain = sealift("worker", "dump-ra", home, "--json").json
    assert plain["verified"] is False


def test_evidence_under_another_root_is_not_verified(
    world: World, home: Path, tmp_path: Path, sealift: Any
) -> None:
    other = tmp_path / "card.json"
    write_card(other, msgspec.structs.replace(world.card, attestation_roots=()))
    said = sealift("worker", "dump-ra", home, "--card", other, "--json")
    assert said.json["verified"] is False
    assert said.json["why_not"]
