"""Frames between an enclave and its platform (DESIGN §6).

Each request and each reply is one :func:`sealift.base.frame` of canonical
MessagePack on the enclave's second descriptor; one reply answers one request.
There is no authentication in them: whoever holds the other end *is* the
platform, and whoever holds this end is the process that it measured.
"""

from typing import Annotated, TypeAlias, cast

import msgspec

from sealift.base import (
    Bytes32,
    Fingerprint,
    Message,
    MrSigner,
    decode,
)

#: No platform frame is larger: a quote with its certificates is about 5 KiB.
MAX_PLATFORM_FRAME_BYTES = 64 * 1024

#: The only sealing policy (DESIGN §6): to this very code.
SEAL_TO_MRENCLAVE = "mrenclave"

CpuSvn: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
IsvNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class IdentityRequest(Message, frozen=True, kw_only=True):
    """Who am I, and on what?"""


class QuoteRequest(Message, frozen=True, kw_only=True):
    """A quote over these 64 bytes of report data."""

    report_data: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class SealKeyRequest(Message, frozen=True, kw_only=True):
    """A sealing key (EGETKEY, SDM Vol. 3D).

    ``label`` separates keys. Without SVNs the current ones are used; older
    ones may be named, newer ones are refused.
    """

    policy: Annotated[str, msgspec.Meta(max_length=16)]
    label: Annotated[bytes, msgspec.Meta(max_length=1024)]
    cpu_svn: CpuSvn | None = None
    isv_svn: IsvNumber | None = None


class IdentityReply(Message, frozen=True, kw_only=True):
    """The identity that this platform puts into quotes of this process.

    ``kind`` names the driver (``insecure-sim``, ``gramine-sgx``) and with it
    the kind of attestation root that its quotes lead to.
    """

    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    mrenclave: Fingerprint
    mrsigner: MrSigner
    isv_prod_id: IsvNumber
    isv_svn: IsvNumber
    cpu_svn: CpuSvn


class QuoteReply(Message, frozen=True, kw_only=True):
    """A quote over the wanted report data."""

    quote: Annotated[bytes, msgspec.Meta(max_length=32 * 1024)]


class SealKeyReply(Message, frozen=True, kw_only=True):
    """A sealing key, and the SVNs that get the same key again."""

    key: Bytes32
    cpu_svn: CpuSvn
    isv_svn: IsvNumber


class PlatformRefusal(Message, frozen=True, kw_only=True):
    """The platform refuses; ``code`` is the name of its error."""

    code: Annotated[str, msgspec.Meta(max_length=100)]
    message: Annotated[str, msgspec.Meta(max_length=4000)]


PlatformRequest: TypeAlias = IdentityRequest | QuoteRequest | SealKeyRequest
PlatformReply: TypeAlias = IdentityReply | QuoteReply | SealKeyReply | PlatformRefusal


def parse_platform_request(data: bytes) -> PlatformRequest:
    """Parse one request; total.

    Raises:
        DecodeError: Not a platform request.
        TooLargeError: More than :data:`MAX_PLATFORM_FRAME_BYTES`.
    """
    kind = cast("type[PlatformRequest]", PlatformRequest)
    return decode(kind, data, limit=MAX_PLATFORM_FRAME_BYTES)


def parse_platform_reply(data: bytes) -> PlatformReply:
    """Parse one reply; total.

    Raises:
        DecodeError: Not a platform reply.
        TooLargeError: More than :data:`MAX_PLATFORM_FRAME_BYTES`.
    """
    kind = cast("type[PlatformReply]", PlatformReply)
    return decode(kind, data, limit=MAX_PLATFORM_FRAME_BYTES)
