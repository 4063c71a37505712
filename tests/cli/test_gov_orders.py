"""Orders of any authority: made once, endorsed one by one, here or offline."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shard_world import World

from sealift.base import encode
from sealift.bundle import verify_bundle
from sealift.cli import _endorse, _gov_status
from sealift.cli._cards import read_bundle
from sealift.cli._endorse import OrderOvertakenError, read_order, write_order
from sealift.cli._params import run
from sealift.crypto import account_of, rsa_public_modulus, sha256
from sealift.protocol import (
    CancelOrder,
    SignedOrder,
    StatusOrder,
    UpgradeOrder,
    sign_order,
)
from sealift.transport.keys import read_account_key

OTHER_CODE = "insecure-sim=" + "ab" * 32


@pytest.fixture
def vendor(tmp_path: Path, vendor_pem: bytes) -> Path:
    path = tmp_path / "vendor.pem"
    path.write_bytes(vendor_pem)
    path.chmod(0o600)
    return path


def public(key: Path) -> str:
    return account_of(read_account_key(key)).hex()


def mr_signer(pem: bytes) -> str:
    return sha256(rsa_public_modulus(pem).to_bytes(384, "little")).hex()


@dataclass(frozen=True)
class Pair:
    """A shard for which boss and vendor must agree, and their files."""

    card: Path
    boss: Path
    vendor: Path
    order: Path
    signed: Path
    bundle: Path


@pytest.fixture
def pair(govern: Any, boss: Path, vendor: Path, tiny_bundle: Path) -> Pair:
    who = mr_signer(vendor.read_bytes())
    signer = {"mr_signer": who, "prod_id": 1, "min_svn": 2}
    card = govern({"all-of": [{"sudo": public(boss)}, {"signer": signer}]})
    order, signed = card.with_name("order.bin"), card.with_name("signed.bin")
    return Pair(card, boss, vendor, order, signed, tiny_bundle)


def test_a_vendor_signs_offline_and_the_boss_decides(
    world: World, pair: Pair, sealift: Any
) -> None:
    card, boss, vendor, tiny_bundle = pair.card, pair.boss, pair.vendor, pair.bundle
    order, signed = pair.order, pair.signed
    made = sealift(
        "gov", "schedule", "--card", card, "--bundle", tiny_bundle, "--at", "+90000",
        "--bundle-url", "http://127.0.0.1:9/v2.bundle\x1b[2J", "--out", order, "--json",
    )  # fmt: skip
    assert made.code == 0, made
    assert made.json["decided"] is False
    assert len(made.json["lacking"]) == 2
    assert not read_order(order).endorsements

    shown = sealift("gov", "sign", order)  # no card, no network
    assert shown.code == 0
    assert "\x1b" not in shown.out
    wanted = shown.out
    assert verify_bundle(read_bundle(tiny_bundle)).fingerprint.hex() in wanted
    assert sha256(tiny_bundle.read_bytes()).hex() in wanted

    done = sealift("gov", "sign", order, "--vendor", vendor, "-o", signed, "--json")
    assert done.json["endorsed_by"] == [f"vendor {mr_signer(vendor.read_bytes())}"]
    payer = ("--payer", world.key("payer"))
    half = sealift("gov", "submit", signed, "--card", card, *payer, "--json")
    assert half.code == 0, half
    assert half.json["decided"] is False
    assert half.json["lacking"] == [f"key {public(boss)}"]
    assert "it lacks key" in half.err

    status = sealift("gov", "status", "--card", card, "--json").json
    (waiting,) = status["open_orders"]
    assert waiting["order"] == made.json["order"]
    assert waiting["lacking"] == [f"key {public(boss)}"]
    again = sealift("gov", "submit", signed, "--card", card, *payer)
    assert again.code == 1
    assert "no endorsement that was not known" in again.err

    words = ("--card", card, "--order", order, "--authority", boss, *payer)
    whole = sealift("gov", "schedule", *words, "--json")
    assert whole.code == 0, whole
    assert whole.json["decided"] is True
    assert whole.json["status"] == "pending"
    assert whole.json["bundle"] == sha256(tiny_bundle.read_bytes()).hex()
    plain = sealift("gov", "history", "--card", card)
    assert "\x1b" not in plain.out
    assert "\\x1b[2J" in plain.out
    status = sealift("gov", "status", "--card", card, "--json").json
    assert status["open_orders"] == []
    assert status["pending"][0]["upgrade_in"] > 80_000
    text = sealift("gov", "status", "--card", card).out
    assert "pending:" in text

    late = sealift("gov", "schedule", *words)  # the serial has risen
    assert late.code == 1
    assert "serial" in late.err


def test_who_may_not_decide_is_told_before_anything_is_paid(
    world: World, pair: Pair, sealift: Any
) -> None:
    card, boss, vendor, tiny_bundle = pair.card, pair.boss, pair.vendor, pair.bundle
    none = pair.card.with_name("none")
    what = ("--card", card, "--code", OTHER_CODE, "--at", "+900")
    payer = ("--payer", world.key("payer"))
    for words, code, sentence in (
        ((*what, "--authority", world.key("faucet")), 1, "no member"),
        ((*what, "--vendor", vendor), 2, "Who pays"),
        (what, 2, "Who endorses"),
        ((*what, "--via-call", "--vendor", vendor), 2, "one --authority"),
        (("--card", card, "--authority", boss), 2, "not both"),
        ((*what, "--order", none), 2, "not both"),
        (("--card", card, "--order", none), 4, "missing"),
        (("--card", card, "--order", tiny_bundle), 4, "order is not"),
        ((*what, "--vendor", boss, *payer), 1, "vendor key"),
        ((*what, "--vendor", vendor, "--prod-id", 7, *payer), 1, "product"),
        ((*what, "--vendor", vendor, "--min-isv-svn", 1, *payer), 1, "older version"),
        (("--card", card, "--bundle-url", "x" * 257, "--code", OTHER_CODE,
          "--at", "+900"), 2, "longer"),
    ):  # fmt: skip
        said = sealift("gov", "schedule", *words)
        assert said.code == code, (words, said)
        assert sentence in said.err, (words, said)
        assert "Traceback" not in said.err


def test_a_strange_vendor_is_no_member(
    world: World, govern: Any, boss: Path, vendor: Path, sealift: Any
) -> None:
    card = govern({"sudo": public(boss)})
    said = sealift(
        "gov", "cancel", 1, "--card", card, "--vendor", vendor,
        "--payer", world.key("payer"),
    )  # fmt: skip
    assert said.code == 1
    assert "no member of the shard's authority" in said.err


def test_an_order_is_of_the_commands_kind_and_this_shards(
    govern: Any, boss: Path, tmp_path: Path, sealift: Any
) -> None:
    card, other = govern({"sudo": public(boss)}), govern({"sudo": public(boss)})
    order = tmp_path / "order.bin"
    me = ("--authority", boss)
    made = sealift("gov", "cancel", 3, "--card", card, *me, "--out", order)
    assert made.code == 0
    assert isinstance(read_order(order).order, CancelOrder)
    for words, code in (
        (("schedule", "--card", card, "--order", order), "WrongOrderError"),
        (("cancel", 4, "--card", card, "--order", order), "WrongOrderError"),
        (("cancel", 3, "--card", other, "--order", order), "OrderForeignError"),
    ):
        said = sealift("gov", *words, *me, "--json")
        assert said.code == 1, said
        assert said.json["error"]["code"] == code, said
    over = sealift("gov", "cancel", 3, "--card", card, *me, "--out", order)
    assert over.code == 4
    assert "already" in over.err


def test_an_endorsement_of_another_order_is_not_shown_as_one(
    govern: Any, boss: Path, tmp_path: Path, sealift: Any
) -> None:
    card = govern({"sudo": public(boss)})
    first, second, mixed = (tmp_path / name for name in ("first", "second", "mixed"))
    me = ("--card", card, "--authority", boss)
    sealift("gov", "cancel", 1, *me, "--out", first)
    sealift("gov", "cancel", 2, *me, "--out", second)
    forged = SignedOrder(
        order=read_order(second).order, endorsements=read_order(first).endorsements
    )
    write_order(mixed, forged)
    said = sealift("gov", "sign", mixed)
    assert said.code == 1
    assert "invalid" in said.err
    assert said.out == ""
    assert sealift("gov", "submit", mixed, "--card", card, *me[2:]).code == 1
    assert sealift("gov", "sign", first, "-o", tmp_path / "x").code == 2


def test_other_rules_take_all_members_and_can_be_withdrawn(
    world: World, govern: Any, boss: Path, tmp_path: Path, sealift: Any
) -> None:
    deputy = world.key("faucet")
    card = govern({"any-of": [{"sudo": public(boss)}, {"sudo": public(deputy)}]})
    order, paper = tmp_path / "rules.bin", tmp_path / "new.json"
    paper.write_text(json.dumps({"sudo": public(boss)}))
    what = ("--authority-json", paper, "--effects-quorum", 1, "--at")
    soon = sealift("gov", "rules", "--card", card, *what, "+2", "--out", order)
    assert soon.code == 2
    assert "longest notice" in soon.err
    made = sealift("gov", "rules", "--card", card, *what, "+90000", "--out", order)
    assert made.code == 0, made
    assert "All members must endorse" in made.err
    assert "one platform alone pays out" in made.err
    pay = ("--payer", world.key("payer"), "--card", card, "--json")
    one = sealift("gov", "rules", "--order", order, "--authority", boss, *pay)
    assert one.json["lacking"] == [f"key {public(deputy)}"]
    two = sealift("gov", "submit", order, "--authority", deputy, *pay)
    assert two.json["decided"] is True
    change = sealift("gov", "status", "--card", card, "--json").json["rules_change"]
    assert change["authority"] == f"key {public(boss)}"
    gone = sealift("gov", "withdraw", "--authority", deputy, *pay)
    assert gone.json["decided"] is True
    after = sealift("gov", "status", "--card", card, "--json").json
    assert after["rules_change"] is None
    again = sealift("gov", "withdraw", "--authority", deputy, *pay)
    assert again.code == 1
    assert "no change" in again.err
    same = sealift(
        "gov", "rules", *pay, "--authority", deputy, "--min-notice", 4, "--at", "+90000"
    )
    assert same.json["error"]["code"] == "NothingToDoError"
    for words in ((), ("--grace", 5), ("--at", "+9")):
        said = sealift("gov", "rules", "--card", card, "--authority", boss, *words)
        assert said.code in {1, 2}, said


def test_one_act_for_a_vulnerability_day(
    govern: Any, boss: Path, world: World, sealift: Any
) -> None:
    pause = {"sudo": public(world.key("faucet"))}
    card = govern({"sudo": public(boss)})
    pay = ("--card", card, "--authority", boss, "--payer", world.key("payer"))
    said = sealift(
        "gov", "status", *pay, "--reject-advisory", "INTEL-SA-1", "--rotate",
        "--revoke-signer", "ee" * 32, "--not-before", "+0", "--json",
    )  # fmt: skip
    assert said.code == 0, said
    found = said.json
    assert found["rejected_advisories"] == ["INTEL-SA-1"]
    assert found["revoked_signers"] == ["ee" * 32]
    assert found["not_before"] > 0
    more = sealift("gov", "status", *pay, "--reject-advisory", "INTEL-SA-2", "--json")
    assert more.json["rejected_advisories"] == ["INTEL-SA-1", "INTEL-SA-2"]
    assert more.json["not_before"] == found["not_before"]
    lower = sealift("gov", "status", *pay, "--not-before", "1")
    assert lower.code == 1
    assert "only rise" in lower.err
    done = sealift("gov", "rotate-keys", *pay, "--not-before", "+0", "--json")
    assert done.json["decided"] is True
    assert pause
    assert sealift("gov", "status", *pay).code == 2
    assert sealift("gov", "status", "--card", card, "--rotate").code == 2


def test_a_generation_is_put_off(
    govern: Any, boss: Path, world: World, sealift: Any
) -> None:
    card = govern({"sudo": public(boss)})
    pay = ("--card", card, "--authority", boss, "--payer", world.key("payer"))
    made = sealift("gov", "schedule", *pay, "--code", OTHER_CODE, "--at", "+70000")
    assert made.code == 0, made
    later = sealift("gov", "postpone", 1, *pay, "--at", "+90000", "--json")
    assert later.code == 0, later
    assert later.json["upgrade_at"] > 80_000
    sooner = sealift("gov", "postpone", 1, *pay, "--at", "+60000")
    assert sooner.code == 1
    assert sealift("gov", "postpone", 1, *pay).code == 2


def test_emergency_code_waits_for_its_own_notice(
    govern: Any, boss: Path, world: World, sealift: Any
) -> None:
    pay = ("--authority", boss, "--payer", world.key("payer"))
    what = ("--code", OTHER_CODE, "--at", "+400", "--emergency")
    fast = govern(
        {"sudo": public(boss)},
        "--emergency-floor", 2, "--emergency-notice", 2, "--rules-notice", 500,
    )  # fmt: skip
    said = sealift("gov", "schedule", "--card", fast, *pay, *what, "--json")
    assert said.code == 0, said
    slow = govern({"sudo": public(boss)})
    said = sealift("gov", "schedule", "--card", slow, *pay, *what)
    assert said.code == 1
    assert "no emergency notice" in said.err


def test_an_order_whose_vote_is_needed_leaves_time_for_it(
    govern: Any, boss: Path, tmp_path: Path, sealift: Any
) -> None:
    stake = {"threshold": "1/2", "quorum": "1/10", "stake_age": 200, "period": 300}
    card = govern({"all-of": [{"sudo": public(boss)}, {"stake": stake}]})
    order = tmp_path / "order.bin"
    what = ("--card", card, "--code", OTHER_CODE, "--out", order)
    soon = sealift("gov", "schedule", *what, "--at", "+500")
    assert soon.code == 2
    assert "the vote takes" in soon.err
    assert sealift("gov", "schedule", *what, "--at", "+900").code == 0
    made = read_order(order).order
    assert isinstance(made, UpgradeOrder)
    assert made.expiry - made.release_from > 0


def test_any_bytes_are_an_order_or_a_refusal(tmp_path: Path, sealift: Any) -> None:
    path = tmp_path / "order"
    seed = sha256(b"x")
    order = StatusOrder(chain_id="c", shard=bytes(32), serial=0, status={}, expiry=1)
    whole = encode(sign_order(CancelOrder(
        chain_id="c", shard=bytes(32), serial=0, generation=1, expiry=9
    ), seed))  # fmt: skip
    for data in (b"", b"\x91", whole[:-1], whole + b"\0", encode([order]), b"\xff" * 9):
        path.write_bytes(data)
        said = sealift("gov", "sign", path)
        assert said.code == 4, said
        assert "Traceback" not in said.err
    path.write_bytes(whole)
    assert sealift("gov", "sign", path).code == 0


def test_another_act_that_came_first_is_not_taken_for_ones_own(
    govern: Any, boss: Path, world: World, tmp_path: Path, sealift: Any
) -> None:
    """Both raise the serial; only one stands in the schedule."""
    card = govern({"sudo": public(boss)})
    pay = ("--card", card, "--authority", boss, "--payer", world.key("payer"))
    what = ("--code", OTHER_CODE, "--at", "+90000")
    order = tmp_path / "order.bin"
    assert sealift("gov", "schedule", *pay, *what, "--out", order).code == 0
    mine = read_order(order).order
    assert sealift("gov", "schedule", *pay, *what).code == 0
    now = run(_gov_status._government(card))
    with pytest.raises(OrderOvertakenError):
        _endorse._require_recorded(now, mine)
