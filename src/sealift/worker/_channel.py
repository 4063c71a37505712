"""The host's end of the ECALL table: typed requests and replies."""

import asyncio
from typing import Protocol, TypeVar, cast

from sealift.base import DecodeError, Message, SealiftError, decode, encode
from sealift.protocol.ecall import (
    ECALL_VERSIONS,
    MAX_FRAME_BYTES,
    Hello,
    HelloReply,
    Refused,
    Reply,
)

from ._errors import EnclaveGoneError, EnclaveRefusedError

R = TypeVar("R", bound=Message)
GONE_HINT = "What was confirmed is on disk: start the worker again."


class Carrier(Protocol):
    """Carries one frame to the enclave and its answer back."""

    async def call(self, payload: bytes) -> bytes:
        """Send a request, wait for the reply."""


class EnclaveChannel:
    """Calls one enclave; every answer is checked against the ECALL table.

    Args:
        carrier: A running enclave process.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        #: The version of the table that both speak; requests of later ones are not
        #: asked (0: not agreed on yet).
        self.version = 0

    async def call(self, request: Message, kind: type[R]) -> R:
        """Ask, and get a reply of the wanted kind.

        Raises:
            EnclaveRefusedError: The enclave refused by name; it goes on.
            EnclaveGoneError: The process has ended, or talks nonsense.
        """
        reply = await self.ask(request)
        if not isinstance(reply, kind):
            raise EnclaveGoneError(
                "the enclave answered out of turn",
                got=type(reply).__name__,
                expected=kind.__name__,
            )
        return reply

    async def ask(self, request: Message) -> Message:
        """Ask, and get whichever reply the table allows.

        Raises:
            EnclaveRefusedError: The enclave refused by name; it goes on.
            EnclaveGoneError: The process has ended, or talks nonsense.
        """
        try:
            # Shielded: a call that is cut off leaves the channel out of step.
            asked = asyncio.ensure_future(self._carrier.call(encode(request)))
            asked.add_done_callback(_heard)
            raw = await asyncio.shield(asked)
            reply: Message = decode(
                cast("type[Message]", Reply), raw, limit=MAX_FRAME_BYTES
            )
        except DecodeError as error:
            raise EnclaveGoneError(f"the enclave talks nonsense: {error}") from error
        except SealiftError as error:
            raise EnclaveGoneError(
                error.what, got=error.got, expected=error.expected, hint=GONE_HINT
            ) from error
        if isinstance(reply, Refused):
            raise EnclaveRefusedError(reply.code, reply.message)
        return reply

    async def hello(self) -> HelloReply:
        """Agree on a version of the table (a host starts older bundles too)."""
        low, high = ECALL_VERSIONS
        reply = await self.call(Hello(version_low=low, version_high=high), HelloReply)
        self.version = reply.version
        return reply


def _heard(asked: "asyncio.Future[bytes]") -> None:
    """Nobody may be waiting any more; how it ended is of no interest then."""
    if not asked.cancelled():
        asked.exception()
