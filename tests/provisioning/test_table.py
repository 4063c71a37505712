"""The state table: every row is walked, everything else is refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from mura_world import Talk

from sealift.base import InvariantError, encode, frame
from sealift.protocol import (
    MuRaAcknowledged,
    MuRaChallenge,
    MuRaHello,
    MuRaReady,
    MuRaRefusal,
    SealedKeyPackage,
)
from sealift.provisioning import (
    TABLE,
    Event,
    SessionOrderError,
    State,
    _session,
    _steps,
    next_state,
)

PAGE = Path(__file__).parents[2] / "docs" / "spec" / "provisioning.md"
ROWS = {(row.state, row.event): row.then for row in TABLE}
ENDED = {State.DONE, State.FAILED}
MESSAGES: dict[Event, Any] = {
    Event.HELLO: MuRaHello(
        version_low=1, version_high=1, shard=b"S" * 32, fingerprint=bytes(32)
    ),
    Event.CHALLENGE: MuRaChallenge(
        version=1,
        challenge=bytes(32),
        provider=bytes(32),
        head_height=1,
        head_hash=bytes(32),
    ),
    Event.READY: MuRaReady(signing_key=bytes(32)),
    Event.PACKAGE: SealedKeyPackage(sealed=b""),
    Event.ACKNOWLEDGED: MuRaAcknowledged(package=bytes(32)),
}


def diagram() -> str:
    """The state diagram in mermaid, from the table and nothing else."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {state.name}: {state.value}" for state in State]
    lines += [
        f"    {row.state.name} --> {row.then.name}: {row.event.value} (step {row.step})"
        for row in TABLE
    ]
    lines += [
        f"    [*] --> {State.P_HELLO.name}",
        f"    [*] --> {State.R_CHALLENGE.name}",
        f"    {State.DONE.name} --> [*]",
        f"    {State.FAILED.name} --> [*]",
    ]
    return "\n".join(lines)


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (shown,) = [part.split("```")[0].strip() for part in text.split("```mermaid")[1:]]
    assert shown == diagram()


def test_no_row_is_ambiguous() -> None:
    assert len(ROWS) == len(TABLE)


def test_every_state_can_be_left_and_reached() -> None:
    starts = {State.P_HELLO, State.R_CHALLENGE}
    assert {row.state for row in TABLE} == set(State) - ENDED
    assert {row.then for row in TABLE} == set(State) - starts - {State.FAILED}


def test_steps_never_go_back() -> None:
    by_state = {row.state: row for row in TABLE}
    for row in TABLE:
        if row.then not in ENDED:
            assert by_state[row.then].step >= row.step


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_an_event_without_a_row_is_refused(state: State, event: Event) -> None:
    if (state, event) in ROWS:
        assert next_state(state, event) is ROWS[state, event]
    elif event is Event.REFUSED and state not in ENDED:
        assert next_state(state, event) is State.FAILED
    else:
        with pytest.raises(SessionOrderError):
            next_state(state, event)


def test_an_honest_session_walks_every_row(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[tuple[State, Event]] = []

    def spy(state: State, event: Event) -> State:
        walked.append((state, event))
        return next_state(state, event)

    monkeypatch.setattr(_session, "next_state", spy)
    talk.run()
    assert set(walked) >= set(ROWS)


INSIDE = [State.P_VERIFY, State.P_ACK, State.R_VERIFY, State.R_KEYS]
PLAIN = [state for state in State if state not in INSIDE and state not in ENDED]
#: May come before the proofs that the end is waiting for (TLS 1.3, slow host).
EARLY = {(State.P_VERIFY, Event.ACKNOWLEDGED), (State.R_VERIFY, Event.PACKAGE)}


def wrong(states: list[State]) -> list[tuple[State, Event]]:
    """Messages that are not due in these states."""
    return [
        pair
        for pair in itertools.product(states, MESSAGES)
        if pair not in ROWS and pair not in EARLY
    ]


def stopped(talk: Talk, state: State) -> Any:
    role = "provider" if state.name.startswith("P_") else "requester"
    talk.until = (role, state.name)
    talk.run()
    assert talk.ends[role].state is state
    return talk.ends[role]


@pytest.mark.parametrize(("state", "event"), wrong(PLAIN))
def test_a_plain_message_out_of_order(talk: Talk, state: State, event: Event) -> None:
    end = stopped(talk, state)
    output = end.feed([b"\x00" + encode(MESSAGES[event])])
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"
    assert end.state is State.FAILED


@pytest.mark.parametrize(("state", "event"), wrong(INSIDE))
def test_a_message_inside_tls_out_of_order(
    talk: Talk, state: State, event: Event
) -> None:
    end = stopped(talk, state)
    other = talk.ends["requester" if state.name.startswith("P_") else "provider"]
    tls = other._tls
    assert tls is not None
    ahead = [chunk for source, chunk in talk._queue if talk.ends[source] is other]
    for source, chunk in talk._queue:
        if talk.ends[source] is end and not tls.handshake_done:
            ahead += other.feed([chunk]).send
    tls.send(frame(encode(MESSAGES[event])))
    output = end.feed([*ahead, b"\x01" + tls.take_output()])
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"
    assert end.state is State.FAILED
    assert talk.requester_node.installed is None


@pytest.mark.parametrize(
    ("state", "event"),
    [*sorted(EARLY), (State.P_ACK, Event.ACKNOWLEDGED), (State.R_KEYS, Event.PACKAGE)],
)
def test_the_message_that_is_due_is_not_heard_outside_tls(
    talk: Talk, state: State, event: Event
) -> None:
    end = stopped(talk, state)
    output = end.feed([b"\x00" + encode(MESSAGES[event])])
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"
    assert "plain" in output.error[1]


def test_a_key_package_twice_ahead_of_the_proofs(talk: Talk) -> None:
    """One message may wait for the proofs, not a heap of them."""
    end = stopped(talk, State.R_VERIFY)
    provider = talk.ends["provider"]
    tls = provider._tls
    assert tls is not None
    ahead = [
        chunk
        for source, sent in talk._queue
        if source == "requester"
        for chunk in provider.feed([sent]).send
    ]
    package = frame(encode(MESSAGES[Event.PACKAGE]))
    tls.send(package)
    assert end.feed([*ahead, b"\x01" + tls.take_output()]).error is None
    tls.send(package)
    output = end.feed([b"\x01" + tls.take_output()])
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"


@pytest.mark.parametrize("state", PLAIN + INSIDE)
def test_a_refusal_ends_every_state(talk: Talk, state: State) -> None:
    end = stopped(talk, state)
    refusal = MuRaRefusal(code="HaltedError", message="the other end halted")
    output = end.feed([b"\x00" + encode(refusal)])
    assert output.error is not None
    assert output.error[0] == "RefusedByPeerError"
    assert "HaltedError" in output.error[1]
    assert end.state is State.FAILED


@pytest.mark.parametrize("role", ["provider", "requester"])
def test_a_driver_that_answers_wrongly_is_a_bug_and_named_so(
    talk: Talk, role: str
) -> None:
    nodes = {"provider": talk.provider_node, "requester": talk.requester_node}
    make = {"provider": _steps.provide, "requester": _steps.request}[role]
    steps = make(nodes[role])
    step = next(steps)
    while not isinstance(step, _steps.Hear):
        step = steps.send(None)
    with pytest.raises(InvariantError):
        steps.send(MESSAGES[Event.READY])


def test_a_bug_is_no_refusal(talk: Talk) -> None:
    """It ends the process; neither host hears its sentence."""

    def broken(_: int) -> bytes:
        raise InvariantError("broken")

    talk.provider_node.entropy = broken
    end = talk.ends["provider"]
    end.start()
    with pytest.raises(InvariantError):
        end.feed([b"\x00" + encode(MESSAGES[Event.HELLO])])
