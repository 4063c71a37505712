"""Every state of provisioning that a lying host can bring about, within bounds."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from session_enclaves import Enclaves
from session_model import Bounds, Explored, World

from sealift.attestation import _ratls, parse_ratls_certificate, verify_ratls
from sealift.base import Height, UnixSeconds
from sealift.enclave import _sessions
from sealift.provisioning import ProvenState, _entitled, _steps, requester_entry

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


class BrokenError(Exception):
    """A state that breaks an invariant, and the moves that lead to it."""


class Explanation(NamedTuple):
    """How far it went: ``closed`` if nothing new is left within the bounds."""

    states: int
    depth: int
    closed: bool


def played(model: Explored, *moves: str) -> World:
    """The state that some moves lead to; each is named by how it begins."""
    world = model.begin()
    for move in moves:
        found = [after for what, after in model.moves(world) if what.startswith(move)]
        if not found:
            raise LookupError(f"{move}: {[what for what, _ in model.moves(world)]}")
        world = found[0]
    return world


def explore(
    model: Explored, *, states: int, begin: tuple[str, ...] = ()
) -> Explanation:
    """Breadth first, so the first trace found is a shortest one.

    Raises:
        BrokenError: A state breaks an invariant.
    """
    first = played(model, *begin)
    before: dict[World, tuple[World, str] | None] = {first: None}
    waiting, depth = deque([(first, 0)]), 0
    while waiting and len(before) < states:
        world, depth = waiting.popleft()
        for what, after in model.moves(world):
            if after in before:
                continue
            before[after] = (world, what)
            broken = model.violation(after)
            if broken:
                raise BrokenError(broken + ":\n  " + "\n  ".join(trace(before, after)))
            waiting.append((after, depth + 1))
    if waiting:
        depth = waiting[0][1] - 1  # all to this depth were visited
    return Explanation(len(before), depth, not waiting)


def trace(before: dict[World, Any], world: World) -> list[str]:
    moves = []
    while (step := before[world]) is not None:
        world, what = step
        moves.append(what)
    return moves[::-1]


# --- where it begins ---

Moves = tuple[str, ...]


def asked(who: str, its: int = 1, mine: int = 1) -> Moves:
    """P has challenged ``who``, in sessions of these numbers."""
    return (
        "P opens as provider",
        f"{who} opens as requester",
        f"{who}/1's hello to P/{its}",  # all its hellos are the same bytes
        f"P/{its}'s challenge to {who}/{mine}",
    )


def registered(who: str, block: int, its: int = 1, mine: int = 1) -> Moves:
    """L1 holds the registration, and both were shown it."""
    return (
        *asked(who, its, mine),
        f"block {block}: register {who}/{mine}",
        f"show {block} to {who}",
        f"show {block} to P",
    )


def in_channel(who: str, block: int, its: int = 1, mine: int = 1) -> Moves:
    """The channel is open at both ends; evidence is not yet judged."""
    return (*registered(who, block, its, mine), *shaken(who, block, its, mine))


def shaken(who: str, block: int, its: int = 1, mine: int = 1) -> Moves:
    """From the registration to the open channel."""
    return (
        f"prove {block} to {who}/{mine}",
        f"{who}/{mine}'s ready to P/{its}",
        f"prove {block} to P/{its}",
        f"{who}/{mine}'s TLS hello to P/{its}",
        f"P/{its}'s TLS answer to {who}/{mine}",
        f"{who}/{mine}'s TLS finish to P/{its}",
    )


NOTICE = ("block 11: nothing",)
PN = Bounds(providers=(("P", 1),), requesters=(("N", 1),), acts=("cancel",), blocks=2)
FOUR = Bounds(
    providers=(("P", 3), ("Q", 1), ("N", 1)),
    requesters=(("N", 1), ("Q", 1), ("X", 1)),
    blocks=4,
    restarts=1,
)
SMALL = PN._replace(providers=(("P", 2),), acts=(), host_ends=False)
TWICE = FOUR._replace(providers=(("P", 2),), requesters=(("N", 2), ("X", 1)), blocks=6)


@pytest.fixture
def enclaves(tmp_path: Path) -> Iterator[Enclaves]:
    with Enclaves(tmp_path / "intel").running() as made:
        yield made


def shown(model: Explored, done: Explanation) -> None:
    how = "all there are" if done.closed else f"all to a depth of {done.depth}"
    print(
        f"{done.states} states, {how} (depth {done.depth}), "
        f"{model.enclaves.played} session steps played"
    )
    print("refusals by name:", dict(sorted(model.refusals.items())))


def test_a_session_of_two_has_no_state_that_breaks_an_invariant(
    enclaves: Enclaves,
) -> None:
    """Not to a depth: all states there are, with one session at each end."""
    model = Explored(enclaves, PN)
    done = explore(model, states=10**6)
    shown(model, done)
    assert done.closed
    page = PAGE.read_text(encoding="utf-8")
    assert f"all {done.states:,} states there are" in page
    assert f"the last after {done.depth} moves" in page
    assert {
        "ChallengeMismatchError",
        "NoticeNotRunError",
        "NotScheduledError",
        "RatlsRefusedError",
        "SessionFailedError",
        "SessionOrderError",
        "StaleProofError",
        "WrongShardError",
    } <= set(model.refusals)


@pytest.mark.campaign
def test_a_session_of_two_with_a_longer_chain(enclaves: Enclaves, states: int) -> None:
    """One block, all acts and a restart more: CI goes a part of the way."""
    longer = PN._replace(acts=FOUR.acts, blocks=3, restarts=1)
    model = Explored(enclaves, longer)
    done = explore(model, states=states)
    shown(model, done)
    assert done.states >= states or done.closed


BEGINS: dict[str, tuple[Bounds, Moves]] = {
    "from birth": (FOUR, ()),
    "registered": (FOUR, (*NOTICE, *registered("N", 12))),
    "in the channel": (FOUR, (*NOTICE, *in_channel("N", 12))),
    "keys sent": (
        TWICE,
        (*NOTICE, *in_channel("N", 12), "prove 12 to P/1", "prove 12 to N/1"),
    ),
    "keys held": (
        FOUR,
        (
            *NOTICE,
            *in_channel("N", 12),
            "prove 12 to P/1",
            "prove 12 to N/1",
            "P/1's TLS record to N/1",
        ),
    ),
    "keys held, and withdrawn": (
        TWICE,
        (
            *NOTICE,
            *in_channel("N", 12),
            "prove 12 to P/1",
            "prove 12 to N/1",
            "P/1's TLS record to N/1",
            "block 13: cancel",
            "block 14: rotate",
        ),
    ),
}


@pytest.mark.parametrize("begin", BEGINS)
def test_four_enclaves_reach_no_state_that_breaks_an_invariant(
    begin: str, enclaves: Enclaves, states: int
) -> None:
    bounds, moves = BEGINS[begin]
    model = Explored(enclaves, bounds)
    done = explore(model, states=states, begin=moves)
    print(begin, end=": ")
    shown(model, done)
    assert done.states >= states or done.closed
    assert done.depth >= 2
    if begin == "from birth":
        expected = {"KeyStoreUnreadableError", "NoKeysError", "SessionLimitError"}
        assert expected <= set(model.refusals)


def test_the_host_can_bring_a_session_to_its_end(enclaves: Enclaves) -> None:
    """Or the invariants would hold of nothing."""
    model = Explored(enclaves, FOUR)
    world = played(model, *BEGINS["keys held"][1])
    assert enclaves.epochs(world.of("N").store) == (0,)
    assert [given.to for given, _, _ in world.given] == ["N"]


# --- planted bugs: each is found, by a shortest trace ---

Bug = Callable[[], contextlib.AbstractContextManager[Any]]


def patched(target: Any, name: str, double: Any) -> Bug:
    return lambda: mock.patch.object(target, name, double)


def before_the_notice(standing: Any, record: Any, *, held_at: int) -> Any:
    return requester_entry(standing, record, held_at=10**6)


def any_state(self: Any, request: Any) -> Any:
    """``Sessions.prove`` without asking whether the state is the newest."""
    header = self._shard.relay.header_at(Height(request.height + 1))
    state = ProvenState(
        height=request.height,
        time=UnixSeconds(header.time.seconds),
        values=_sessions.verify_proofs(header, request.proofs),
    )
    return self._reply(request.session, self._session(request.session).prove(state))


def any_nonce(der: bytes, *, nonce: bytes, **options: Any) -> Any:
    return verify_ratls(der, nonce=parse_ratls_certificate(der).nonce, **options)


@contextlib.contextmanager
def any_challenge() -> Iterator[None]:
    with (
        mock.patch.object(_steps, "check_registration", return_value=None),
        mock.patch.object(_steps, "verify_ratls", any_nonce),
    ):
        yield


class Planted(NamedTuple):
    """A bug, where it is looked for, and what it breaks."""

    bug: Bug
    bounds: Bounds
    breaks: str
    begin: Moves = ()
    seed: Callable[[str, int], bytes] | None = None
    policy: str = "mrenclave"


BUGS = {
    "keys before the notice has run": Planted(
        patched(_steps, "requester_entry", before_the_notice),
        PN._replace(blocks=1),
        "3: N got keys in block 11, unscheduled then",
    ),
    "a cancelled entry counts": Planted(
        patched(_entitled, "_DEAD", frozenset()),
        PN,
        "3: P answered N after a cancel it had seen",
    ),
    "raised floors are not looked at": Planted(
        patched(_steps, "judge_instance", lambda *_: None),
        PN._replace(acts=("floor",)),
        "3: P answered N under a floor it had seen",
        ("block 11: floor", *asked("N")),
    ),
    "a stale chain is accepted": Planted(
        patched(_sessions.Sessions, "prove", any_state),
        PN._replace(blocks=3),
        "3: P answered N after a cancel it had seen",
        (*NOTICE, *registered("N", 12)),
    ),
    "a channel is not bound to its quote": Planted(
        patched(_ratls, "_binding_failures", lambda _: []),
        PN._replace(blocks=1),
        "3: N takes the host for an enclave",
    ),
    "a package is not bound to its session": Planted(
        patched(_steps, "_package_info", lambda *_: b"package"),
        SMALL._replace(requesters=(("N", 2),), blocks=3),
        "11: N took keys of another session",
        (
            *NOTICE,
            *asked("N"),
            *asked("N", its=2, mine=2),
            "block 12: register N/1",
            "show 12 to N",
            "show 12 to P",
            *shaken("N", 12),
            "prove 12 to P/1",
            "block 13: register N/2",
            "show 13 to N",
            "show 13 to P",
        ),
    ),
    "a challenge of another session will do": Planted(
        any_challenge,
        SMALL,
        "11: N got keys for another session's registration",
        (*NOTICE, *registered("N", 12)),
    ),
    "a challenge serves two sessions": Planted(
        contextlib.nullcontext,
        SMALL,
        "3: stale: N got keys by a block older than the question",
        (*NOTICE, *asked("N")),
        seed=lambda who, n: b"P" if who == "P" else f"{who} {n}".encode(),
    ),
    "a key store is the vendor's, not the code's": Planted(
        contextlib.nullcontext,
        FOUR,
        "3: X holds epochs",
        policy="mrsigner",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    planted = BUGS[bug]
    options = {} if planted.seed is None else {"seed": planted.seed}
    made = Enclaves(tmp_path / "intel", policy=planted.policy, **options)
    with made.running(), planted.bug(), pytest.raises(BrokenError) as caught:
        explore(Explored(made, planted.bounds), states=60_000, begin=planted.begin)
    moves = len(str(caught.value).splitlines()) - 1
    print(f"{bug}, {moves} moves after {len(planted.begin)} -> {caught.value}")
    assert str(caught.value).startswith(planted.breaks), caught.value
