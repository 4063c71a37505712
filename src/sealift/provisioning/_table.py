"""The state table of a mu-ra session (DESIGN §8): what may happen when.

The diagram in ``docs/spec/provisioning.md`` is generated from :data:`TABLE`;
the driver refuses every event that has no row.
"""

import enum
from dataclasses import dataclass

from ._errors import SessionOrderError


class State(enum.StrEnum):
    """Where one end of a session stands."""

    P_HELLO = "provider awaits hello"
    P_READY = "provider awaits ready"
    P_PROOFS = "provider awaits the requester's record"
    P_TLS = "provider in handshake"
    P_VERIFY = "provider awaits collateral"
    P_ACK = "provider awaits acknowledgement"
    R_CHALLENGE = "requester awaits challenge"
    R_REGISTER = "requester awaits its record on L1"
    R_TLS = "requester in handshake"
    R_VERIFY = "requester awaits collateral"
    R_KEYS = "requester awaits keys"
    DONE = "done"
    FAILED = "failed"


class Event(enum.StrEnum):
    """What can happen to a session."""

    HELLO = "hello"
    CHALLENGE = "challenge"
    READY = "ready"
    PROOFS = "proofs"
    HANDSHAKE = "handshake done"
    PACKAGE = "key package"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """In ``state``, ``event`` leads to ``then``; ``step`` as DESIGN §8 numbers it."""

    state: State
    event: Event
    then: State
    step: int


TABLE: tuple[Row, ...] = (
    Row(state=State.P_HELLO, event=Event.HELLO, then=State.P_READY, step=1),
    Row(state=State.P_READY, event=Event.READY, then=State.P_PROOFS, step=3),
    Row(state=State.P_PROOFS, event=Event.PROOFS, then=State.P_TLS, step=3),
    Row(state=State.P_TLS, event=Event.HANDSHAKE, then=State.P_VERIFY, step=4),
    Row(state=State.P_VERIFY, event=Event.PROOFS, then=State.P_ACK, step=5),
    Row(state=State.P_ACK, event=Event.ACKNOWLEDGED, then=State.DONE, step=8),
    Row(state=State.R_CHALLENGE, event=Event.CHALLENGE, then=State.R_REGISTER, step=2),
    Row(state=State.R_REGISTER, event=Event.PROOFS, then=State.R_TLS, step=3),
    Row(state=State.R_TLS, event=Event.HANDSHAKE, then=State.R_VERIFY, step=4),
    Row(state=State.R_VERIFY, event=Event.PROOFS, then=State.R_KEYS, step=6),
    Row(state=State.R_KEYS, event=Event.PACKAGE, then=State.DONE, step=7),
)

ENDED = frozenset({State.DONE, State.FAILED})
_NEXT = {(row.state, row.event): row.then for row in TABLE}


def next_state(state: State, event: Event) -> State:
    """Where ``event`` leads from ``state``.

    Raises:
        SessionOrderError: The table has no such row.
    """
    if event is Event.REFUSED and state not in ENDED:
        return State.FAILED
    then = _NEXT.get((state, event))
    if then is None:
        wanted = sorted(e.value for s, e in _NEXT if s is state)
        raise SessionOrderError(
            f"out of order: {state.value}",
            got=event.value,
            expected=" or ".join(wanted) or "nothing more",
        )
    return then
