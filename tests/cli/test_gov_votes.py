"""Votes: workers' openly on L1, holders' secretly inside the shard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shard_world import CHAIN, Enclave, Thread, World

from sealift.base import ShardId, canonical_decode, encode
from sealift.cli import _gov_votes, _polls
from sealift.cli._council import wanted_ayes
from sealift.cli._endorse import read_order
from sealift.client import (
    CallResult,
    Reading,
    WorkerAnswerError,
    WorkerUnreachableError,
    read_card,
)
from sealift.crypto import account_of, sha256, system_entropy
from sealift.insecure_sim import SimMachine
from sealift.ledger import Motion
from sealift.protocol import (
    CancelOrder,
    Order,
    Ratio,
    UpgradeOrder,
    WorkersAuthority,
)
from sealift.transport.account import L1Account
from sealift.transport.keys import read_account_key

OTHER_CODE = "insecure-sim=" + "ab" * 32
WORKERS = {"workers": {"threshold": "1/2", "seat_age": 0, "period": 5_000}}
STAKE = {"stake": {"threshold": "1/2", "quorum": "1/10", "stake_age": 20, "period": 30}}


@pytest.fixture
def council(world: World, thread: Thread, govern: Any) -> tuple[Path, list[str]]:
    """A shard that its two machines govern: its card, and their instances' keys."""
    operator = world.key("operator")
    card = govern(
        WORKERS, "--operator", operator,
        "--code", f"insecure-sim={world.enclave.identity.mrenclave.hex()}",
    )  # fmt: skip
    shard = ShardId(bytes.fromhex(read_card(card).shard))

    async def seat(name: str) -> str:
        machine = SimMachine(world.sim, name, entropy=system_entropy)
        enclave = Enclave(machine, world.enclave.runtime)
        account = L1Account(read_account_key(operator), world.l1, CHAIN)
        await enclave.register(account, world.l1, shard)
        return account_of(enclave.secret).hex()

    return card, [thread.play(seat(name)) for name in ("one", "two")]


def test_workers_propose_vote_and_decide(
    world: World, council: Any, tmp_path: Path, sealift: Any
) -> None:
    card, (one, two) = council
    me = ("--via", "workers", "--card", card, "--key", world.key("operator"), "--json")
    made = sealift(
        "gov", "propose", *me, "--signing-key", one, "--code", OTHER_CODE,
        "--at", "+90000",
    )  # fmt: skip
    assert made.code == 0, made
    assert (made.json["seats"], made.json["ayes"], made.json["missing"]) == (2, 1, 1)
    digest = made.json["order"]

    told = sealift("gov", "tally", "--card", card, "--json").json
    assert sorted(row["vote"] for row in told["votes"]) == ["-", "aye"]
    assert told["motions"][0]["closes_in"] > 4_000
    shown = sealift("gov", "status", "--card", card, "--json").json
    assert [row["order"] for row in shown["motions"]] == [digest]
    assert shown["votes"] == told["votes"]
    assert "motions:" in sealift("gov", "tally", "--card", card).out

    second = ("gov", "vote", digest, *me, "--signing-key", two)
    against = sealift(*second, "--nay")
    assert against.json["nays"] == 1
    changed = sealift(*second, "--aye")
    assert changed.code == 0, changed
    assert changed.json["passed"] is True
    rows = sealift("gov", "history", "--card", card, "--json").json["generations"]
    assert rows[-1]["order"] == digest
    gone = sealift(*second, "--aye")
    assert gone.code == 1
    assert "no such motion" in gone.err


def test_who_has_no_seat_and_what_is_no_motion(
    world: World, council: Any, govern: Any, boss: Path, sealift: Any
) -> None:
    card, (one, _) = council
    me = ("--card", card, "--key", world.key("operator"))
    workers = ("--via", "workers")
    what = ("--code", OTHER_CODE, "--at", "+90000")
    single = govern({"sudo": "ab" * 32})
    for words, code, sentence in (
        (("propose", *me, *workers, *what), 2, "--signing-key"),
        (("propose", *me, *workers), 2, "not both"),
        (("propose", *me, *workers, *what, "--signing-key", "zz"), 1, "hexadecimal"),
        (("propose", *me, *workers, *what, "--signing-key", "00" * 32), 1, ""),
        (("propose", *me, "--via", "stake", *what, "--json"), 1, "no such member"),
        (("propose", "--card", single, *me[2:], *workers, *what,
          "--signing-key", one), 1, "no such member"),
        (("vote", "7", *me, *workers, "--aye", "--signing-key", one), 1, "hexadecimal"),
        (("vote", "x", *me, "--via", "stake", "--aye"), 2, "number of a poll"),
        (("vote", "00" * 32, *me, *workers, "--signing-key", one), 2, "--nay"),
    ):  # fmt: skip
        said = sealift("gov", *words)
        assert said.code == code, (words, said)
        assert sentence in said.err, (words, said)
        assert "Traceback" not in said.err
        if "--json" in words:
            assert said.json["error"]["code"] == "NoSuchVoteError"


def test_a_seat_is_found_by_its_workers_home(
    world: World, council: Any, tmp_path: Path, tiny_bundle: Path, sealift: Any
) -> None:
    card, _ = council
    home = tmp_path / "w1"
    sealift(
        "worker", "init", home, "--card", card, "--bundle", tiny_bundle,
        "--sim", world.sim.folder, "--machine", "one",
    )  # fmt: skip
    (home / "worker.url").write_text(world.enclave.url + "\n")
    said = sealift(
        "gov", "propose", "--via", "workers", "--card", card, "--key",
        world.key("operator"), "--signing-key", home, "--code", OTHER_CODE,
        "--at", "+90000",
    )  # fmt: skip
    assert said.code == 1  # its instance is another shard's
    assert "council.propose" in said.err


@pytest.mark.parametrize(
    ("top", "bottom", "seats", "wanted"),
    [(1, 2, 2, 2), (1, 2, 3, 2), (0, 1, 5, 1), (2, 3, 3, 3), (1, 2, 0, 1)],
)
def test_how_many_are_wanted(top: int, bottom: int, seats: int, wanted: int) -> None:
    motion = Motion(
        order=CancelOrder(
            chain_id="c", shard=bytes(32), serial=0, generation=1, expiry=9
        ),
        terms=WorkersAuthority(
            threshold=Ratio(numerator=top, denominator=bottom), seat_age=0, period=1
        ),
        generation=0,
        opened_at=1,
        closes_at=2,
        seats=tuple(bytes([at]) * 32 for at in range(seats)),
    )
    assert wanted_ayes(motion) == wanted


# --- stake ---

HEAD = 100
MINE: dict[str, Any] = {"type": "MyVote", "stake": 5, "aye": True}
POLL = {
    "poll": 4, "order": "0x" + "cd" * 32, "kind": "UpgradeOrder", "proposed_at": 1,
    "opens_at": 2, "closes_at": 10**9, "deposit": 0,
}  # fmt: skip
RESULTS = [
    {"poll": 1, "order": "0x" + "ce" * 32, "kind": "CancelOrder", "outcome": "passed",
     "closed_at": 9, "tally": {"ayes": 5, "nays": 1, "electorate": 9, "voters": 12}},
    {"poll": 2, "order": "0x" + "cf" * 32, "kind": "CancelOrder",
     "outcome": "rejected", "closed_at": 9, "tally": None},
]  # fmt: skip


class FakeUser:
    """A client of a shard that takes every call, unless it is told an outcome."""

    def __init__(self) -> None:
        self.account = b"\xee" * 32
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.outcome = "ok"
        self.free = 9
        self.said: dict[str, Any] = {
            "democracy.polls": [POLL],
            "democracy.results": RESULTS,
            "democracy.my_vote": MINE,
        }

    async def call(self, name: str, args: dict[str, object], **_: Any) -> CallResult:
        self.calls.append((name, args))
        return CallResult(
            call_id=bytes(32), nonce=0, height=7, index=0, outcome=self.outcome,
            message="A sentence.", confirmed=False,
            events=(("democracy.Proposed", {"poll": 3}),),
        )  # fmt: skip

    async def ask(self, getter: str, _: Any) -> Reading:
        found = self.said[getter]
        if isinstance(found, list) and found and isinstance(found[0], list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(found, Exception):
            raise found
        reply: Any = SimpleNamespace(head_height=HEAD)
        return Reading(value=found, reply=reply)

    async def balance(self) -> int:
        return self.free


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> FakeUser:
    fake = FakeUser()

    @asynccontextmanager
    async def open_fake(*_: Any, **__: Any) -> AsyncIterator[FakeUser]:
        yield fake

    monkeypatch.setattr(_gov_votes, "open_user", open_fake)
    return fake


def test_holders_propose_and_vote_by_sealed_calls(
    govern: Any, user: FakeUser, boss: Path, tmp_path: Path, sealift: Any
) -> None:
    card = govern({"any-of": [STAKE, {"sudo": "ab" * 32}]})
    me = ("--via", "stake", "--card", card, "--key", boss, "--json")
    what = ("--code", OTHER_CODE, "--at", "+900")
    made = sealift("gov", "propose", *me, *what)
    assert made.code == 0, made
    assert made.json["poll"] == 3
    assert (made.json["opens_at"], made.json["closes_at"]) == (27, 57)
    name, args = user.calls.pop()
    assert name == "democracy.propose"
    order = canonical_decode(Order, args["order"])
    assert isinstance(order, UpgradeOrder)
    assert order.digest().hex() == made.json["order"]
    assert order.expiry > order.release_from > 50  # after the vote

    file = tmp_path / "order.bin"
    sealift("gov", "withdraw", "--card", card, "--out", file)
    assert sealift("gov", "propose", *me, "--order", file).code == 0
    assert user.calls.pop()[1] == {"order": encode(read_order(file).order)}
    assert sealift("gov", "propose", *me, "--order", file, *what).code == 2

    voted = sealift("gov", "vote", 4, *me, "--nay")
    assert voted.json == {
        "poll": 4, "vote": "nay", "stake": 5, "replaces": "aye", "block": 7,
        "closes_at": 10**9, "taken": True,
    }  # fmt: skip
    assert user.calls.pop() == ("democracy.vote", {"poll": 4, "aye": False})


def test_a_vote_that_can_not_count_is_not_sent(
    govern: Any, user: FakeUser, boss: Path, sealift: Any
) -> None:
    me = ("--via", "stake", "--card", govern(STAKE), "--key", boss, "--json")
    early = {**POLL, "opens_at": HEAD + 3}
    late = {**POLL, "closes_at": HEAD + 1}
    nothing = {**MINE, "stake": 0, "aye": None}
    for polls, mine, code, words in (
        ([early], MINE, "PollClosedError", ("yet", f"got block {HEAD}", "in 3 blocks")),
        ([late], MINE, "PollClosedError", ("any more", f"expected 2 … {HEAD}")),
        ([], MINE, "NoSuchPollError", ("got 4", "none runs now", "gov tally")),
        ([{**POLL, "poll": 6}], MINE, "NoSuchPollError", ("expected one of 6",)),
        ([POLL], nothing, "NoVotingStakeError", ("got 0 tokens", "until block 2")),
        ([POLL], None, "NoSuchPollError", ("got 4", "gov tally")),
        ([POLL], {"stake": "much"}, "WorkerAnswerError", ("polls",)),
    ):
        user.said |= {"democracy.polls": polls, "democracy.my_vote": mine}
        said = sealift("gov", "vote", 4, "--aye", *me)
        assert (said.code, said.json["error"]["code"]) == (1, code), said
        assert not [one for one in words if one not in said.err], said
        assert not user.calls
    soon = {**POLL, "opens_at": HEAD + 2}  # it is open when the vote is there
    user.said |= {"democracy.polls": [soon], "democracy.my_vote": MINE}
    assert sealift("gov", "vote", 4, "--aye", *me).code == 0


def test_what_the_shard_refuses_after_all_is_explained(
    govern: Any, user: FakeUser, boss: Path, sealift: Any
) -> None:
    me = ("--via", "stake", "--card", govern(STAKE), "--key", boss, "--json")
    user.outcome = "UnknownPollError"
    user.said["democracy.polls"] = [[POLL], []]  # it ended while the vote was sent
    said = sealift("gov", "vote", 4, "--aye", *me)
    assert said.json["error"]["code"] == "NoSuchPollError"
    user.outcome, user.said["democracy.polls"] = "NonceConsumedError", [POLL]
    said = sealift("gov", "vote", 4, "--aye", *me)
    assert said.json["error"]["code"] == "CallFailedError"
    assert "NonceConsumedError (A sentence)" in said.err
    assert "make it again" in said.err


def test_a_proposal_that_can_not_begin_is_explained(
    govern: Any, user: FakeUser, boss: Path, tmp_path: Path, sealift: Any
) -> None:
    terms = {"stake": {**STAKE["stake"], "deposit": 10}}
    card, file = govern(terms), tmp_path / "order.bin"
    me = ("--via", "stake", "--card", card, "--key", boss, "--json")
    sealift("gov", "withdraw", "--card", card, "--out", file)
    propose = ("gov", "propose", *me, "--order", file)
    poor = sealift(*propose)
    assert poor.json["error"]["code"] == "DepositError"
    assert "got 9 free, expected ≥ 10" in poor.err
    assert not user.calls
    user.free = 10
    user.outcome = "OrderHeightsError"
    assert "Make the order again, with later blocks" in sealift(*propose).err
    twin = {**POLL, "order": "0x" + read_order(file).order.digest().hex()}
    user.outcome, user.said["democracy.polls"] = "PollExistsError", [[POLL], [twin]]
    assert sealift(*propose).json["error"]["code"] == "PollRunsError"
    user.calls.clear()
    assert "votes in poll 4" in sealift(*propose).err
    assert not user.calls


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, user: FakeUser) -> dict[str, Any]:
    """What a worker's enclave answers, by getter; an error is raised."""
    monkeypatch.setattr(_polls, "ShardClient", lambda *_, **__: user)
    return user.said


def test_of_an_open_poll_only_its_phase_is_told(
    govern: Any, answers: dict[str, Any], boss: Path, sealift: Any
) -> None:
    card = govern(STAKE)
    said = sealift("gov", "tally", "--card", card, "--key", boss, "--json").json
    (poll,) = said["polls"]
    assert poll["phase"] == "open"
    assert poll["blocks_left"] > 10**8
    assert poll["my_vote"] == {"stake": 5, "aye": True}
    assert not {"ayes", "nays", "tally"} & set(poll)
    assert said["results"][0]["tally"]["ayes"] == 5
    assert said["results"][1]["tally"] is None
    assert sealift("gov", "tally", "--via", "stake", "--card", card).code == 0
    wrong = sealift("gov", "tally", "--via", "workers", "--card", card)
    assert (wrong.code, "expected StakeAuthority" in wrong.err) == (1, True)
    shown = sealift("gov", "status", "--card", card, "--json").json
    assert [row["poll"] for row in shown["polls"]] == [4]
    for opens, closes, phase in ((10**8, 10**9, "announced"), (1, 2, "being counted")):
        answers["democracy.polls"] = [{**POLL, "opens_at": opens, "closes_at": closes}]
        said = sealift("gov", "tally", "--card", card, "--json").json
        assert said["polls"][0]["phase"] == phase


def test_a_worker_that_is_gone_or_lies_about_polls(
    govern: Any, answers: dict[str, Any], sealift: Any
) -> None:
    card = govern(STAKE)
    for answer, code in (
        ([{"poll": "all"}], 1),
        ({"poll": 1}, 1),
        (WorkerAnswerError("nonsense"), 1),
        (WorkerUnreachableError("gone"), 3),
    ):
        answers["democracy.polls"] = answer
        assert sealift("gov", "tally", "--card", card).code == code
        shown = sealift("gov", "status", "--card", card)  # says the rest
        assert shown.code == 0
        assert "Polls are not shown" in shown.err


def test_the_order_of_a_poll_is_reviewed_before_it_is_voted_on(
    govern: Any, monkeypatch: Any, user: FakeUser, tiny_bundle: Path, sealift: Any
) -> None:
    monkeypatch.setattr(_polls, "ShardClient", lambda *_, **__: user)
    card = govern({"any-of": [STAKE, {"sudo": "ab" * 32}]})
    order = card.with_name("order.bin")
    sealift(
        "gov", "schedule", "--card", card, "--bundle", tiny_bundle, "--at", "+900",
        "--out", order,
    )  # fmt: skip
    polls = {7: read_order(order).order}

    async def ask_raw(getter: str, args: bytes) -> Any:
        assert getter == "democracy.order"
        return SimpleNamespace(value=encode(polls.get(args[-1])))

    encoder = SimpleNamespace(encode_getter=lambda _, args: bytes([args["poll"]]))
    user.ask_raw, user.metadata = ask_raw, encoder  # type: ignore[attr-defined]
    me = ("gov", "review", "--card", card, "--bundle", tiny_bundle, "--json")
    said = sealift(*me, "--poll", 7)
    assert said.code == 0, said
    assert said.json["under_review"] == "the order of poll 7"
    assert said.json["bundle_sha256"] == sha256(tiny_bundle.read_bytes()).hex()
    gone = sealift(*me, "--poll", 8)
    assert gone.json["error"]["code"] == "NoSuchPollError"
    assert sealift(*me, "--poll", 7, "--order", order).code == 2
