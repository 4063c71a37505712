"""``sealift relay verify``: the verdicts of others' vectors, and of attacks, by exit
code."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sealift.relay import (
    ChainRelay,
    ForkDetectedError,
    ForkEvidence,
    RelayRules,
    header_hash,
)
from sealift.relay.rpc import EVIDENCE_FILE, LIGHT_BLOCK, render_attack
from sealift.testing import HeaderChain
from sealift.transport.clock import parse_time

EXITS = {"SUCCESS": 0, "NOT_ENOUGH_TRUST": 2, "INVALID": 1}
VERDICTS = {0: "success", 1: "invalid", 2: "not-enough-trust"}
DAYS_14 = 14 * 86_400


@pytest.fixture
def folder(vectors: Path) -> Path:
    return vectors / "cometbft"


def words(
    tmp_path: Path, trusted: Any, untrusted: Any, now: str, period: int, *more: str
) -> list[str]:
    """The command line for two values that are written to files."""
    for name, value in (("trusted", trusted), ("untrusted", untrusted)):
        (tmp_path / name).write_text(json.dumps(value))
    return [
        "relay", "verify",
        "--trusted", str(tmp_path / "trusted"),
        "--untrusted", str(tmp_path / "untrusted"),
        "--now", now,
        "--trusting-period", str(period),
        "--trust-level", "1/3",
        *more,
    ]  # fmt: skip


def model_steps(root: Path) -> Iterator[tuple[str, Any, Any, str, int, str]]:
    steps = root / "informalsystems-tendermint-rs" / "model_based_single_step"
    for path in sorted(steps.glob("*.json")):
        test = json.loads(path.read_bytes())
        trusted = test["initial"]
        period = int(trusted["trusting_period"]) // 1_000_000_000
        for step in test["input"]:
            known = {
                "signed_header": trusted["signed_header"],
                "next_validator_set": trusted["next_validator_set"],
            }
            yield path.name, known, step["block"], step["now"], period, step["verdict"]
            if step["verdict"] == "SUCCESS":
                trusted = step["block"]


def test_every_model_based_step_has_its_verdict(
    folder: Path, tmp_path: Path, sealift: Any
) -> None:
    found = []
    for name, trusted, block, now, period, verdict in model_steps(folder):
        said = sealift(*words(tmp_path, trusted, block, now, period, "--json"))
        assert said.code == EXITS[verdict], (name, said)
        assert said.json["verdict"] == VERDICTS[said.code]
        assert said.json["reason"]
        found.append(verdict)
    assert len(found) >= 81
    assert set(found) == set(EXITS)


def test_a_real_process_exits_with_the_verdict(folder: Path, tmp_path: Path) -> None:
    seen = set()
    for name, trusted, block, now, period, verdict in model_steps(folder):
        if verdict in seen:
            continue
        seen.add(verdict)
        command = words(tmp_path, trusted, block, now, period, "--json")
        done = subprocess.run(
            [sys.executable, "-m", "sealift", *command],
            capture_output=True,
            check=False,
        )
        assert done.returncode == EXITS[verdict], (name, done.stderr)
        assert json.loads(done.stdout)["verdict"] == VERDICTS[done.returncode]
    assert seen == set(EXITS)


def mocha(folder: Path, height: int) -> Any:
    """A signed block of Celestia's testnet, as its RPC answered."""
    path = folder / "succinctlabs-tendermintx" / "mocha-4" / str(height)
    data = json.loads((path / "signed_block.json").read_bytes())
    return data.get("result", data)


def trusted_of(folder: Path, height: int) -> Any:
    """A real header, with the set of the next height, or its own if it stays."""
    block = mocha(folder, height)
    header = block["header"]
    following = block["validator_set"]
    if header["next_validators_hash"] != header["validators_hash"]:
        following = mocha(folder, height + 1)["validator_set"]
    return {
        "signed_header": {"header": header, "commit": block["commit"]},
        "next_validator_set": following,
    }


@pytest.mark.parametrize(
    ("trusted", "untrusted"),
    [
        (3000, 3001),
        (10000, 10001), (10001, 10002), (10002, 10003), (10003, 10004),
        (11000, 11001),
        (3000, 10000), (10000, 10004), (10000, 11000), (11000, 11105),
        (11001, 11105), (11000, 50000),
    ],
)  # fmt: skip
def test_real_headers_of_a_testnet(
    folder: Path, tmp_path: Path, sealift: Any, trusted: int, untrusted: int
) -> None:
    """Each is valid (source: README of the vectors); far ones if trust reaches."""
    block = mocha(folder, untrusted)
    command = words(
        tmp_path, trusted_of(folder, trusted), block, block["header"]["time"],
        3650 * 86_400, "--clock-drift", "1", "--json",
    )  # fmt: skip
    said = sealift(*command)
    assert said.json["verdict"] == "success", said


def test_rpc_answers_of_mainnet_put_together(
    folder: Path, tmp_path: Path, sealift: Any
) -> None:
    """/commit and /validators of Celestia, height 3001, as they were answered."""
    root = folder / "succinctlabs-tendermintx" / "celestia"
    signed = json.loads((root / "3001" / "commit.json").read_bytes())["result"]
    sets = json.loads((root / "3001" / "validators_1.json").read_bytes())["result"]
    before = json.loads((root / "3000" / "header.json").read_bytes())["result"]
    trusted = {
        # only what the header says is judged of a trusted block
        "signed_header": {"header": before["header"], **_commit_of(signed)},
        "next_validator_set": sets["validators"],
    }
    block = {
        "jsonrpc": "2.0",
        "id": -1,
        "result": {**signed, "validator_set": sets["validators"]},
    }
    command = words(tmp_path, trusted, block, "2023-11-01T00:10:00Z", DAYS_14, "--json")
    assert sealift(*command).json["verdict"] == "success"


def _commit_of(signed: Any) -> Any:
    return {"commit": signed["signed_header"]["commit"]}


Attack = Callable[[Any, Any], None]


def _flip_signature(trusted: Any, block: Any) -> None:
    sig = block["commit"]["signatures"]
    one = next(entry for entry in sig if entry["block_id_flag"] == 2)
    one["signature"] = "A" * 86 + "=="


def _other_app_hash(trusted: Any, block: Any) -> None:
    block["header"]["app_hash"] = "AB" * 32


def _other_chain(trusted: Any, block: Any) -> None:
    block["header"]["chain_id"] = "mocha-5"


def _other_validators_hash(trusted: Any, block: Any) -> None:
    block["header"]["validators_hash"] = "AB" * 32


def _more_power(trusted: Any, block: Any) -> None:
    block["validator_set"]["validators"][0]["voting_power"] = "99999999999"


def _announced_others(trusted: Any, block: Any) -> None:
    trusted["next_validator_set"]["validators"].pop()


def _announced_hash(trusted: Any, block: Any) -> None:
    trusted["signed_header"]["header"]["next_validators_hash"] = "CD" * 32


def _commit_height(trusted: Any, block: Any) -> None:
    block["commit"]["height"] = "10002"


def _one_signature_less(trusted: Any, block: Any) -> None:
    block["commit"]["signatures"].pop()


def _a_validator_twice(trusted: Any, block: Any) -> None:
    listed = block["validator_set"]["validators"]
    listed.append(listed[0])


def _address_of_another(trusted: Any, block: Any) -> None:
    one, two = block["validator_set"]["validators"][:2]
    one["address"] = two["address"]


def _no_commit(trusted: Any, block: Any) -> None:
    del block["commit"]


def _no_validators(trusted: Any, block: Any) -> None:
    block["validator_set"] = {"validators": None}


def _trusted_without_header(trusted: Any, block: Any) -> None:
    trusted["signed_header"] = []


def _height_in_words(trusted: Any, block: Any) -> None:
    block["header"]["height"] = "ten"


def _ask_of_another_type(trusted: Any, block: Any) -> None:
    key = block["validator_set"]["validators"][0]["pub_key"]
    key["type"] = "tendermint/PubKeySecp256k1"


@pytest.mark.parametrize(
    "attack",
    [
        _flip_signature, _other_app_hash, _other_chain, _other_validators_hash,
        _more_power, _announced_others, _announced_hash, _commit_height,
        _one_signature_less, _a_validator_twice, _address_of_another, _no_commit,
        _no_validators, _trusted_without_header, _height_in_words,
        _ask_of_another_type,
    ],
)  # fmt: skip
@pytest.mark.parametrize("untrusted", [10001, 11000])
def test_a_real_block_with_one_thing_wrong_is_invalid(
    folder: Path, tmp_path: Path, sealift: Any, attack: Attack, untrusted: int
) -> None:
    """Next to the trusted header, and a skip from it."""
    trusted = trusted_of(folder, 10000)
    block = copy.deepcopy(mocha(folder, untrusted))
    attack(trusted, block)
    command = words(
        tmp_path, trusted, block, "2024-02-01T00:00:00Z", 3650 * 86_400, "--json"
    )
    said = sealift(*command)
    assert (said.code, said.json["verdict"]) == (1, "invalid"), said


class TestTimes:
    """The boundaries, to the second, on a real pair."""

    def said(
        self, folder: Path, tmp_path: Path, sealift: Any, now: str, *more: str
    ) -> Any:
        command = words(
            tmp_path, trusted_of(folder, 10000), mocha(folder, 10001), now, *more[:1],
            *more[1:], "--json",
        )  # type: ignore[arg-type]  # fmt: skip
        return sealift(*command)

    def seconds(self, folder: Path, height: int) -> int:
        return parse_time(mocha(folder, height)["header"]["time"]).seconds

    def test_expiry(self, folder: Path, tmp_path: Path, sealift: Any) -> None:
        start = self.seconds(folder, 10000)
        fine = self.said(folder, tmp_path, sealift, str(start + 1000), "1000")
        assert fine.json["verdict"] == "success"
        late = self.said(folder, tmp_path, sealift, str(start + 1001), "1000")
        assert late.json["verdict"] == "invalid"
        assert "TrustExpiredError" in late.json["reason"]

    def test_drift(self, folder: Path, tmp_path: Path, sealift: Any) -> None:
        early = str(self.seconds(folder, 10001) - 5)
        refused = self.said(folder, tmp_path, sealift, early, "1000")
        assert "HeaderFromFutureError" in refused.json["reason"]
        assert refused.code == 1
        drifting = self.said(
            folder, tmp_path, sealift, early, "1000", "--clock-drift", "6"
        )
        assert drifting.code == 0


class TestWrongUse:
    """Mistakes of whoever asks are no verdict."""

    @pytest.fixture
    def good(self, folder: Path, tmp_path: Path) -> list[str]:
        return words(
            tmp_path, trusted_of(folder, 10000), mocha(folder, 10001),
            "2024-02-01T00:00:00Z", 3650 * 86_400,
        )  # fmt: skip

    def test_good(self, good: list[str], sealift: Any) -> None:
        said = sealift(*good)
        assert said.code == 0
        assert said.out.startswith("verdict  success\nreason   header 10001 (")

    @pytest.mark.parametrize(
        ("option", "value", "word"),
        [
            ("--trust-level", "1/4", "1/3 to 1"),
            ("--trust-level", "4/3", "1/3 to 1"),
            ("--trust-level", "0/0", "1/3 to 1"),
            ("--trust-level", "third", "no fraction"),
            ("--trust-level", "100000/200000", "65536"),
            ("--trusting-period", "-1", "range"),
            ("--clock-drift", "soon", "integer"),
            ("--now", "yesterday", "RFC 3339"),
            ("--trusted", "/nowhere", "--trusted"),
        ],
    )
    def test_words(
        self, good: list[str], sealift: Any, option: str, value: str, word: str
    ) -> None:
        said = sealift(*good, option, value, "--json")
        assert said.code == 64
        assert word in said.err
        assert not said.out

    @pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000])
    @pytest.mark.parametrize("name", ["trusted", "untrusted"])
    def test_not_json(
        self, good: list[str], sealift: Any, tmp_path: Path, raw: bytes, name: str
    ) -> None:
        (tmp_path / name).write_bytes(raw)
        said = sealift(*good)
        assert said.code == 64
        assert f"--{name}" in said.err
        assert "Traceback" not in said.err

    @pytest.mark.parametrize("raw", [b"{}", b"[]", b"null", b"7", b'{"result":{}}'])
    @pytest.mark.parametrize("name", ["trusted", "untrusted"])
    def test_json_that_is_no_light_block_is_invalid(
        self, good: list[str], sealift: Any, tmp_path: Path, raw: bytes, name: str
    ) -> None:
        (tmp_path / name).write_bytes(raw)
        said = sealift(*good, "--json")
        assert (said.code, said.json["verdict"]) == (1, "invalid")

    def test_missing_option(self, good: list[str], sealift: Any) -> None:
        said = sealift(*good[:-2])
        assert said.code == 64
        assert "--trust-level" in said.err


class TestEvidence:
    """``sealift relay evidence``: what a stopped worker left."""

    def written(self, home: Path) -> HeaderChain:
        chain = HeaderChain(length=9, validators=4)
        fork = HeaderChain(length=9, validators=4, branch="x", branch_at=6)
        relay = ChainRelay.bootstrap(
            chain.trust_root(),
            chain.light_block(1),
            rules=RelayRules(trusting_period=10**6),
            now=None,
        )
        relay.skip(chain.light_block(6), now=None)
        with pytest.raises(ForkDetectedError):
            relay.judge([fork.light_block(6)], now=None)
        assert relay.evidence is not None
        shown = render_attack(
            relay.evidence, trusted=chain.light_block(6), common=chain.light_block(5)
        )
        (home / EVIDENCE_FILE).write_text(json.dumps(shown))
        return fork

    def test_it_is_shown_and_exported(self, tmp_path: Path, sealift: Any) -> None:
        fork = self.written(tmp_path)
        said = sealift("relay", "evidence", tmp_path)
        assert said.code == 0
        assert header_hash(fork.header(6)).hex() in said.out
        found = sealift("relay", "evidence", tmp_path, "--json").json
        value = found["value"]
        assert found["type"] == "tendermint/LightClientAttackEvidence"
        assert LIGHT_BLOCK.parse(value["conflicting_block"]) == fork.light_block(6)
        assert len(value["byzantine_validators"]) == 4

    def test_where_none_is(self, tmp_path: Path, sealift: Any) -> None:
        said = sealift("relay", "evidence", tmp_path)
        assert said.code == 4
        assert "evidence of a fork" in said.err

    @pytest.mark.parametrize("raw", ["{}", "[", '{"value":{}}'])
    def test_another_file(self, tmp_path: Path, sealift: Any, raw: str) -> None:
        (tmp_path / EVIDENCE_FILE).write_text(raw)
        said = sealift("relay", "evidence", tmp_path)
        assert said.code == 4
        assert "Traceback" not in said.err
        assert (tmp_path / EVIDENCE_FILE).read_text() == raw


def test_blame_follows_the_kind_of_attack() -> None:
    """As CometBFT's types/evidence.go: lunatic, equivocation, amnesia."""
    chain = HeaderChain(length=9, validators=4)
    fork = HeaderChain(length=9, validators=4, branch="x", branch_at=6)
    lunatic = ForkEvidence(trusted=chain.header(6), conflicting=fork.light_block(6))
    shown = render_attack(
        lunatic, trusted=chain.light_block(6), common=chain.light_block(5)
    )["value"]
    assert isinstance(shown, dict)
    assert shown["common_height"] == "5"
    # without the common block nobody can be named
    bare = render_attack(lunatic, trusted=None, common=None)
    value = bare["value"]
    assert isinstance(value, dict)
    assert (value["byzantine_validators"], bare["trusted_block"]) == ([], None)
    # the same execution, another parent: equivocation, in one round
    other = replace(chain.header(7), data_hash=bytes(32))
    second = replace(
        chain.light_block(7),
        signed_header=replace(chain.light_block(7).signed_header, header=other),
    )
    twice = ForkEvidence(trusted=chain.header(7), conflicting=second)
    value = render_attack(twice, trusted=chain.light_block(7), common=None)["value"]
    assert isinstance(value, dict)
    assert value["common_height"] == "7"
    assert len(value["byzantine_validators"]) == 4
    later = replace(second.commit, round=3)
    amnesia = replace(second, signed_header=replace(second.signed_header, commit=later))
    forgot = ForkEvidence(trusted=chain.header(7), conflicting=amnesia)
    value = render_attack(forgot, trusted=chain.light_block(7), common=None)["value"]
    assert isinstance(value, dict)
    assert value["byzantine_validators"] == []
