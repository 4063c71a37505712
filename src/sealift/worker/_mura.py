"""The host's part in mu-ra: it carries bytes, proofs and a registration.

Nothing here can make either enclave skip a check: what is carried wrongly ends
the session with a typed error (DESIGN §8).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from sealift.base import AccountId, Height, InvariantError
from sealift.protocol import enclave_key
from sealift.protocol.ecall import (
    CloseSession,
    FeedSession,
    OpenSession,
    ProveSession,
    Registration,
    SessionReply,
    StateProof,
)

from ._channel import EnclaveChannel
from ._errors import EnclaveRefusedError, SessionSilentError, UpstreamError

#: For how many blocks a wanted registration may be waited for.
PATIENCE_BLOCKS = 40
#: The other end has at least this long before a session ends, …
SILENCE_SECONDS: Final = 60.0
#: … and as many blocks: it may wait for its registration to stand in one.
SILENCE_BLOCKS: Final = 8
#: Also where L1 stands still, no session is kept for longer than this.
MOST_SILENCE_SECONDS: Final = 6 * 3600.0
_ACCOUNT_BYTES = 32


class Wire(Protocol):
    """A connection to the other worker that carries whole messages."""

    async def send(self, data: bytes) -> None:
        """Send one message."""

    def receive(self) -> AsyncIterator[bytes]:
        """The messages of the other end, until it closes."""


class ChainView(Protocol):
    """What a session needs of the worker around it."""

    async def prove_at_head(
        self, keys: tuple[bytes, ...]
    ) -> tuple[Height, tuple[StateProof, ...]]:
        """Proofs against the newest state that the enclave can judge."""

    def standing_still(self) -> AbstractAsyncContextManager[None]:
        """While held, the enclave imports no block: its head does not move."""

    async def next_block(self) -> None:
        """Until the enclave has imported another block."""


async def serve_session(
    channel: EnclaveChannel, chain: ChainView, wire: Wire
) -> frozenset[AccountId]:
    """Carry a provider's end of a session.

    A session that the other end leads no further ends: silence neither fills the
    enclave nor stops a worker that waits for keys.

    Returns:
        The signing key of the instance that was served.

    Raises:
        EnclaveRefusedError: The enclave ended it, by name.
        SessionSilentError: The other end said nothing more for too long.
        UpstreamError: The other end went away before.
    """
    opened = await channel.call(OpenSession(role="provider"), SessionReply)
    carrier = _Session(channel, chain, wire, opened.session)
    await carrier.run(opened)
    return frozenset(carrier.peers)


async def request_session(
    channel: EnclaveChannel,
    chain: ChainView,
    wire: Wire,
    *,
    operator: AccountId,
    register: Callable[[Registration], Awaitable[Height]],
    keep: Callable[[bytes], None],
) -> frozenset[AccountId]:
    """Carry a requester's end of a session until it has the keys.

    Args:
        channel: The requester's enclave.
        chain: The worker around it.
        wire: The connection to the provider's worker.
        operator: The account that brings the registration to L1.
        register: Does so; the height of its block.
        keep: Makes the sealed key store durable.

    Returns:
        The signing key of the provider.

    Raises:
        EnclaveRefusedError: Either enclave ended the session, by name.
        SessionSilentError: The provider said nothing more for too long.
        UpstreamError: The other end went away before the keys came.
    """
    opened = await channel.call(
        OpenSession(role="requester", operator=operator), SessionReply
    )
    carrier = _Session(channel, chain, wire, opened.session)
    carrier.register, carrier.keep = register, keep
    await carrier.run(opened)
    return frozenset(carrier.peers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patience:
    """When a silent session ends: after both, or at the latest."""

    until_time: float
    until_height: int
    at_most: float


def _leads_on(reply: SessionReply) -> bool:
    return bool(reply.send or reply.wanted or reply.registration or reply.key_store)


async def _first_of(messages: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(messages)
    except StopAsyncIteration:
        return None


class _Session:
    def __init__(
        self, channel: EnclaveChannel, chain: ChainView, wire: Wire, number: int
    ) -> None:
        self._channel = channel
        self._chain = chain
        self._wire = wire
        self._number = number
        #: Whose records the enclave wanted: the other end's.
        self.peers: set[AccountId] = set()
        self.register: Callable[[Registration], Awaitable[Height]] | None = None
        self.keep: Callable[[bytes], None] | None = None

    async def run(self, first: SessionReply) -> None:
        try:
            if await self._settle(first):
                return
            messages = self._wire.receive()
            patience = await self._patience()
            while (data := await self._next(messages, patience)) is not None:
                reply = await self._channel.call(
                    FeedSession(session=self._number, data=(data,)), SessionReply
                )
                if await self._settle(reply):
                    return
                if _leads_on(reply):  # bytes that lead nowhere win no time
                    patience = await self._patience()
        finally:
            await asyncio.shield(self._close())
        raise UpstreamError(
            "the other worker closed the connection before the keys came",
            hint="Ask again, or look at its log.",
        )

    async def _patience(self) -> "_Patience":
        height, _ = await self._chain.prove_at_head(())
        now = asyncio.get_running_loop().time()
        return _Patience(
            until_time=now + SILENCE_SECONDS,
            until_height=height + SILENCE_BLOCKS,
            at_most=now + MOST_SILENCE_SECONDS,
        )

    async def _next(
        self, messages: AsyncIterator[bytes], patience: "_Patience"
    ) -> bytes | None:
        """The other end's next message; None where it has closed.

        Raises:
            SessionSilentError: It let the time and the blocks pass that it has.
        """
        message = asyncio.ensure_future(_first_of(messages))
        passing = asyncio.ensure_future(self._pass(patience))
        try:
            await asyncio.wait((message, passing), return_when=asyncio.FIRST_COMPLETED)
            if message.done():
                return message.result()
            passing.result()
        finally:
            for task in (message, passing):
                task.cancel()
            await asyncio.gather(message, passing, return_exceptions=True)
        raise SessionSilentError(
            "the other end of the session says nothing",
            got="silence",
            expected=f"its next word within {SILENCE_SECONDS:g} s "
            f"and {SILENCE_BLOCKS} blocks",
            hint="Ask again, or another worker.",
        )

    async def _pass(self, patience: "_Patience") -> None:
        """Until the time and the blocks have passed."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, patience.until_time - loop.time()))
        try:
            async with asyncio.timeout_at(patience.at_most):
                while (await self._chain.prove_at_head(()))[0] < patience.until_height:
                    await self._chain.next_block()
        except TimeoutError:
            return

    async def _close(self) -> None:
        try:
            await self._channel.ask(CloseSession(session=self._number))
        except EnclaveRefusedError:
            return  # it was over already

    async def _settle(self, reply: SessionReply) -> bool:
        """Do what the enclave wants done; whether the session is over."""
        while True:
            if reply.key_store is not None and self.keep is not None:
                self.keep(reply.key_store)
            for data in reply.send:
                await self._send(data)
            if reply.error is not None:
                raise EnclaveRefusedError(*reply.error)
            if reply.done:
                return True
            if reply.registration is not None and self.register is not None:
                height = await self.register(reply.registration)
                await self._reach(height)
            if not reply.wanted:
                return False
            reply = await self._prove(reply.wanted)

    async def _send(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._wire.send(data)
        except TimeoutError as error:
            raise SessionSilentError(
                "the other end of the session does not read",
                got=f"{len(data)} B not taken",
                expected=f"taken within {SILENCE_SECONDS:g} s",
                hint="Ask again, or another worker.",
            ) from error

    async def _reach(self, height: Height) -> None:
        for _ in range(PATIENCE_BLOCKS):
            at, _proofs = await self._chain.prove_at_head(())
            if at >= height:
                return
            await self._chain.next_block()

    async def _prove(self, keys: tuple[bytes, ...]) -> SessionReply:
        """Prove what is wanted; what is absent is waited for, within reason."""
        ends = (AccountId(key[-_ACCOUNT_BYTES:]) for key in keys)
        self.peers.update(
            end for key, end in zip(keys, ends, strict=True) if enclave_key(end) == key
        )
        for left in range(PATIENCE_BLOCKS, -1, -1):
            async with self._chain.standing_still():
                height, proofs = await self._chain.prove_at_head(keys)
                if not left or all(proof.value is not None for proof in proofs):
                    request = ProveSession(
                        session=self._number, height=height, proofs=proofs
                    )
                    return await self._channel.call(request, SessionReply)
            await self._chain.next_block()
        raise InvariantError("patience ran out without an answer")
