"""The hosts' part in mu-ra: bytes, proofs and a registration are carried."""

from collections import deque
from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

from sealift.base import AccountId, Height, Message
from sealift.protocol.ecall import (
    CloseSession,
    EnclaveStatus,
    FeedSession,
    OpenSession,
    ProveSession,
    Registration,
    SessionReply,
    StateProof,
)

from ._chain import Sent
from ._errors import RefusedError

M = TypeVar("M", bound=Message)

#: For so many blocks a session waits for what it wants proven.
PATIENCE_BLOCKS = 6


class _Chain(Protocol):
    def prove(self, height: int, keys: Iterable[bytes]) -> tuple[StateProof, ...]: ...


class _World(Protocol):
    @property
    def chain(self) -> _Chain: ...

    def block(self) -> Height: ...


class _End(Protocol):
    @property
    def account(self) -> AccountId: ...

    def call(self, request: Message, kind: type[M]) -> M: ...
    def status(self) -> EnclaveStatus: ...
    def keep_key_store(self, sealed: bytes) -> None: ...
    def send_registration(self, registration: Registration) -> Sent: ...


def provision(world: _World, *, provider: _End, requester: _End) -> None:
    """Carry one session until the requester has the keys.

    Raises:
        RefusedError: Either enclave, or L1, ended it.
    """
    given = _Session(world, provider, "provider")
    wanted = _Session(world, requester, "requester")
    try:
        wanted.begin()
        given.begin()
        while wanted.outbox or given.outbox:
            given.take(wanted.outbox)
            wanted.take(given.outbox)
    finally:
        given.close()
        wanted.close()
    errors = [one.error for one in (given, wanted) if one.error is not None]
    if errors:
        # Both ends know the same error; the one that decided it says it itself.
        raise min(errors, key=lambda error: error.name == "RefusedByPeerError")


class _Session:
    """One end: what its enclave says goes to the outbox, or is done here."""

    def __init__(
        self, world: _World, end: _End, role: Literal["provider", "requester"]
    ) -> None:
        self.outbox: deque[bytes] = deque()
        self.error: RefusedError | None = None
        self._over = False
        self._world = world
        self._end = end
        self._role: Literal["provider", "requester"] = role
        self._number: int | None = None

    def begin(self) -> None:
        operator = self._end.account if self._role == "requester" else None
        opened = self._end.call(
            OpenSession(role=self._role, operator=operator), SessionReply
        )
        self._number = opened.session
        self._settle(opened)

    def take(self, incoming: deque[bytes]) -> None:
        while incoming:
            data = incoming.popleft()
            if self._over or self._number is None:
                continue
            request = FeedSession(session=self._number, data=(data,))
            self._settle(self._end.call(request, SessionReply))

    def close(self) -> None:
        if self._number is not None and not self._over:
            self._over = True
            self._end.call(CloseSession(session=self._number), SessionReply)

    def _settle(self, reply: SessionReply) -> None:
        while True:
            if reply.key_store is not None:
                self._end.keep_key_store(reply.key_store)
            self.outbox.extend(reply.send)
            if reply.error is not None:
                self.error, self._over = RefusedError(*reply.error), True
                return
            if reply.done:
                self._over = True
                return
            if reply.registration is not None:
                sent = self._end.send_registration(reply.registration)
                self._reach(sent.height or Height(0))
            if not reply.wanted:
                return
            reply = self._prove(reply.wanted)

    def _reach(self, height: Height) -> None:
        """Until the enclave has followed a block: an older record is no answer."""
        for _ in range(PATIENCE_BLOCKS):
            if self._end.status().head > height:
                return
            self._world.block()

    def _prove(self, keys: tuple[bytes, ...]) -> SessionReply:
        """Prove what is wanted; what is absent is waited for, within reason."""
        left = PATIENCE_BLOCKS
        while True:
            height = Height(self._end.status().head - 1)
            proofs = self._world.chain.prove(height, keys)
            if not left or all(proof.value is not None for proof in proofs):
                break
            left -= 1
            self._world.block()
        return self._end.call(
            ProveSession(session=self._number or 0, height=height, proofs=proofs),
            SessionReply,
        )
