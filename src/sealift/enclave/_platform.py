"""The platform as the enclave sees it: identity, quotes, sealing keys."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sealift.base import Message, encode
from sealift.protocol.platform import (
    SEAL_TO_MRENCLAVE,
    IdentityReply,
    IdentityRequest,
    PlatformRefusal,
    PlatformRequest,
    QuoteReply,
    QuoteRequest,
    SealKeyReply,
    SealKeyRequest,
    parse_platform_reply,
)

from ._errors import PlatformAnswerError, PlatformRefusedError

R = TypeVar("R", bound=Message)


class PlatformPort(Protocol):
    """What the enclave asks of the TEE it runs on (DESIGN §6)."""

    def identity(self) -> IdentityReply:
        """Who this process is, as the platform would quote it."""
        ...

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes.

        Raises:
            PlatformRefusedError: The platform makes none.
        """
        ...

    def seal_key(
        self, label: bytes, *, cpu_svn: bytes | None, isv_svn: int | None
    ) -> SealKeyReply:
        """A sealing key for this MRENCLAVE; SVNs ``None``: the current ones.

        Raises:
            PlatformRefusedError: SVNs newer than the platform's or the code's.
        """
        ...


class PlatformClient:
    """The port over frames.

    Args:
        exchange: Sends one payload to the platform and returns its answer.
    """

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def identity(self) -> IdentityReply:
        """Who this process is.

        Raises:
            PlatformRefusedError: The platform does not say.
            PlatformAnswerError: Not an answer to that.
        """
        return self._ask(IdentityRequest(), IdentityReply)

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes.

        Raises:
            PlatformRefusedError: The platform makes none.
            PlatformAnswerError: Not an answer to that.
        """
        return self._ask(QuoteRequest(report_data=report_data), QuoteReply).quote

    def seal_key(
        self, label: bytes, *, cpu_svn: bytes | None, isv_svn: int | None
    ) -> SealKeyReply:
        """A sealing key for this MRENCLAVE.

        Raises:
            PlatformRefusedError: SVNs newer than the platform's or the code's.
            PlatformAnswerError: Not an answer to that.
        """
        request = SealKeyRequest(
            policy=SEAL_TO_MRENCLAVE, label=label, cpu_svn=cpu_svn, isv_svn=isv_svn
        )
        return self._ask(request, SealKeyReply)

    def _ask(self, request: PlatformRequest, kind: type[R]) -> R:
        reply = parse_platform_reply(self._exchange(encode(request)))
        if isinstance(reply, PlatformRefusal):
            raise PlatformRefusedError(
                f"the platform refuses ({reply.code})", got=reply.message
            )
        if not isinstance(reply, kind):
            raise PlatformAnswerError(
                "another answer was due",
                got=type(reply).__name__,
                expected=kind.__name__,
            )
        return reply
