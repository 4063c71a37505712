"""What a worker shows to others: one surface, whichever enclave answers.

While an upgrade passes from one enclave to the next, connections stay: requests
go to the instance that executes, and what comes in between waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from aiohttp import web

from sealift.base import Digest, Fingerprint, SealiftError
from sealift.protocol import SealedReceipt
from sealift.transport.http import Handler

from ._api import (
    BINARY,
    WAITS,
    Api,
    Handlers,
    Health,
    Receipts,
    Submitter,
    api_app,
    carry_call,
    give_receipt,
    read_envelope,
    show_health,
    stream_executions,
)
from ._carry import CarryGate
from ._door import Door
from ._errors import EnclaveGoneError, EnclaveRefusedError, SwitchingError
from ._follower import Executions

#: So long a read waits for the next enclave; clients give a worker a little more.
SWITCH_SECONDS: Final = 10.0
#: How an enclave names that another code runs the shard now, or that L1 does not
#: cover yet the state that it took over.
_NOT_SERVING: Final = frozenset({"NotServingError", "StateUnconfirmedError"})
#: How it names a key epoch of which it has not heard, or which is over.
_UNKNOWN_EPOCH: Final = "UnknownEpochError"
#: So many of those who waited are answered at a time.
_TURNS: Final = 8
T = TypeVar("T")


class News(Protocol):
    """Where executed blocks are heard of."""

    def listen(self, listener: Callable[[Executions], None]) -> Callable[[], None]:
        """Hear of every executed block; the answer stops it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """How far an instance is: the generation that it has executed for, a block."""

    generation: int = -1
    height: int = -1

    def key(self) -> tuple[int, int]:
        """For comparison: a later generation is ahead of any block."""
        return self.generation, self.height


@dataclass(slots=True, kw_only=True)
class Seat:
    """An instance that answers."""

    fingerprint: Fingerprint
    api: Api
    handlers: Handlers
    receipts: Receipts
    news: News
    rank: Rank


class Board:
    """Which instances there are, and which of them answers.

    Guarantees: that is always the one that is furthest, by generation, then by
    block. So it changes when the next generation's first block is executed, and
    back when a rescue's is.

    Args:
        awaited: Whether an instance is being staged or started, so that waiting
            for one makes sense.
        is_new: Whether a key epoch begins about now: who sealed to it may be a block
            ahead of the enclave.
    """

    def __init__(
        self, awaited: Callable[[], bool], is_new: Callable[[int], bool]
    ) -> None:
        self._awaited = awaited
        self._is_new = is_new
        self._seats: dict[Fingerprint, Seat] = {}
        self._stops: dict[Fingerprint, Callable[[], None]] = {}
        self._archives: dict[Fingerprint, Receipts] = {}
        self._listeners: set[Callable[[Executions], None]] = set()
        self._changed = asyncio.Event()
        #: All who waited go on at once: in turn, so that they crowd out nobody.
        self._turns = asyncio.Semaphore(_TURNS)
        #: How often the answering instance has changed.
        self.switches = 0

    @property
    def current(self) -> Seat | None:
        """Whoever answers; ``None``: nobody is up."""
        return max(self._seats.values(), key=lambda one: one.rank.key(), default=None)

    def seat(self, fingerprint: Fingerprint) -> Seat | None:
        """An instance that is up."""
        return self._seats.get(fingerprint)

    def enter(self, seat: Seat) -> None:
        """An instance has come up."""
        with self._noticing():
            self._seats[seat.fingerprint] = seat
        self._stops[seat.fingerprint] = seat.news.listen(self._tell)

    def leave(self, fingerprint: Fingerprint) -> None:
        """An instance has ended."""
        with self._noticing():
            self._seats.pop(fingerprint, None)
        stop = self._stops.pop(fingerprint, None)
        if stop is not None:
            stop()

    def advance(self, fingerprint: Fingerprint, rank: Rank) -> None:
        """An instance has come so far; it is never less far than it was."""
        seat = self._seats.get(fingerprint)
        if seat is not None and rank.key() > seat.rank.key():
            with self._noticing():
                seat.rank = rank
            if self.current is seat:  # it may answer what it refused before
                self._wake()

    def keep(self, fingerprint: Fingerprint, receipts: Receipts | None) -> None:
        """What an instance that has ended left behind; ``None``: it is up again."""
        self._archives.pop(fingerprint, None)
        if receipts is not None:
            self._archives[fingerprint] = receipts

    def receipt(self, envelope: Digest) -> SealedReceipt | None:
        """The receipt of an envelope, whichever instance executed it."""
        current = self.current
        seats = sorted(self._seats.values(), key=lambda one: one is not current)
        places: list[Receipts] = [one.receipts for one in seats]
        for place in (*places, *self._archives.values()):
            found = place.receipt(envelope)
            if found is not None:
                return found
        return None

    def listen(self, listener: Callable[[Executions], None]) -> Callable[[], None]:
        """Hear of every block that any instance executes; the answer stops it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def patiently(
        self,
        step: Callable[[Seat], Awaitable[T]],
        *,
        epoch: int,
        door: Door,
        peer: str,
    ) -> T:
        """Have the answering instance do something; wait for it, if it changes.

        Args:
            step: What is to be done.
            epoch: The key epoch of what it is asked.
            door: Has the places in which is waited.
            peer: Who asks.

        Raises:
            SwitchingError: None answered within :data:`SWITCH_SECONDS`.
            CrowdedError, CrowdOfPeerError: No place to wait is free.
            SealiftError: As the step, where waiting would not help.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + SWITCH_SECONDS
        why: SealiftError | None = None
        turn: AbstractAsyncContextManager[None] = nullcontext()
        while True:
            seat, changed = self.current, self._changed
            if seat is not None:
                try:
                    async with turn:
                        return await step(seat)
                except EnclaveRefusedError as error:
                    if not self._passes(error.refused, epoch):
                        raise
                    why = error
                except EnclaveGoneError as error:
                    if not self._awaited():
                        raise
                    why = error
            if changed is not self._changed:  # something has changed meanwhile
                continue
            with door.entered(peer):
                try:
                    async with asyncio.timeout_at(end):
                        await changed.wait()
                except TimeoutError:
                    raise _switching(why) from why
            turn = self._turns

    async def steadily(self, step: Callable[[Seat], Awaitable[T]]) -> T:
        """Ask the answering instance; again, if another answers by then.

        What is read of the board in the same moment fits to the answer: nobody is
        told of one enclave's state beside the roles of after the switch.

        Args:
            step: What is asked.

        Raises:
            SwitchingError: Nobody is up.
            SealiftError: As the step, of an instance that still answers.
        """
        while True:
            seat = self.someone()
            try:
                found = await step(seat)
            except SealiftError:
                if self.current is seat:
                    raise
            else:
                if self.current is seat:
                    return found

    def someone(self) -> Seat:
        """Whoever answers.

        Raises:
            SwitchingError: Nobody is up.
        """
        seat = self.current
        if seat is None:
            raise _switching(None)
        return seat

    def _passes(self, refused: str, epoch: int) -> bool:
        """Whether what is refused so may be answered in a moment."""
        if refused == _UNKNOWN_EPOCH:
            return self._is_new(epoch)
        return refused in _NOT_SERVING and self._awaited()

    def _tell(self, event: Executions) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    def _noticing(self) -> "_Noticing":
        return _Noticing(self)

    def noticed(self, before: Seat | None) -> None:
        """Wake whoever waits, if another instance answers than before."""
        if self.current is not before:
            self.switches += before is not None and self.current is not None
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Noticing:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._before: Seat | None = None

    def __enter__(self) -> None:
        self._before = self._board.current

    def __exit__(self, *_: object) -> None:
        self._board.noticed(self._before)


def _switching(why: SealiftError | None) -> SwitchingError:
    return SwitchingError(
        "the enclave that would answer does not yet",
        got="nobody is up" if why is None else str(why),
        expected=f"an answer within {SWITCH_SECONDS:g} s",
        hint="Ask again in two seconds, or ask another worker.",
    )


class Overseer(Protocol):
    """Judges the whole service."""

    def health(self) -> Health:
        """Of whoever answers, and of what is being staged."""

    def about(self) -> dict[str, object]:
        """What ``worker status`` shows beside the answering instance."""

    def metrics(self) -> bytes:
        """What ``/metrics`` shows beside the answering instance's."""


class Front:
    """The worker's HTTP surface.

    Args:
        board: Who answers.
        submitter: Carries calls to L1.
        gate: Which of them it carries.
        overseer: Health and status of all.
    """

    def __init__(
        self, board: Board, *, submitter: Submitter, gate: CarryGate, overseer: Overseer
    ) -> None:
        self._board = board
        self._submitter = submitter
        self._gate = gate
        self._overseer = overseer
        self._waits = Door(WAITS, what="waiting requests")
        #: Those that wait for the next enclave do not take the place of listeners.
        self._switching = Door(WAITS, what="requests that wait for the next enclave")

    def application(self, like: Handlers) -> web.Application:
        """The routes: those of an instance, some of them answered for all.

        Args:
            like: An instance's handlers.
        """
        mine: dict[tuple[str, str], Handler] = {
            ("GET", "/healthz"): self._healthz,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/status"): self._status,
            ("POST", "/v1/submit"): self._submit,
            ("POST", "/v1/ask"): self._ask,
            ("GET", "/v1/receipts/{envelope}"): self._receipt,
            ("GET", "/v1/executions"): self._executions,
        }
        passed = {route: self._pass(route) for route in like}
        return api_app({**passed, **mine})

    def _pass(self, route: tuple[str, str]) -> Handler:
        """To whichever instance answers now; it keeps the request to its end."""

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._board.someone().handlers[route](request)

        return handler

    async def _healthz(self, _: web.Request) -> web.Response:
        return show_health(self._overseer.health())

    async def _metrics(self, request: web.Request) -> web.Response:
        peer = request.remote or ""
        text = await self._board.steadily(
            lambda seat: seat.api.render_metrics(peer=peer)
        )
        body = text + self._overseer.metrics()
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    async def _status(self, request: web.Request) -> web.Response:
        peer = request.remote or ""
        found = await self._board.steadily(lambda seat: seat.api.described(peer=peer))
        health = self._overseer.health()
        told = {"ok": health.ok, "reasons": list(health.reasons)}
        return web.json_response({**found, **told, **self._overseer.about()})

    async def _submit(self, request: web.Request) -> web.Response:
        """No enclave is asked: a call waits on L1 for the one that executes it."""
        return await carry_call(request, self._gate, self._submitter)

    async def _ask(self, request: web.Request) -> web.Response:
        raw, envelope = await read_envelope(request)
        peer = request.remote or ""
        sealed = await self._board.patiently(
            lambda seat: seat.api.answer(raw, peer=peer),
            epoch=envelope.epoch,
            door=self._switching,
            peer=peer,
        )
        return web.Response(body=sealed, content_type=BINARY)

    async def _receipt(self, request: web.Request) -> web.Response:
        return await give_receipt(
            request, self._board, listen=self._board.listen, door=self._waits
        )

    async def _executions(self, request: web.Request) -> web.WebSocketResponse:
        """A stream of ``[height, [sealed receipt, …]]``, over all switches."""
        with self._waits.entered(request.remote or ""):
            return await stream_executions(request, self._board.listen)


def archives_of(places: Sequence[Receipts]) -> Receipts:
    """Several places where receipts are, as one."""

    class _All:
        def receipt(self, envelope: Digest) -> SealedReceipt | None:
            found = (place.receipt(envelope) for place in places)
            return next((one for one in found if one is not None), None)

    return _All()
