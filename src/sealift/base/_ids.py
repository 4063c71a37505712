"""NewTypes for everything that must not be confused with something else.

Digest-like ids are exactly 32 bytes and numbers are not negative; decoding a
message refuses anything else.
"""

from typing import Annotated, NewType, TypeAlias

import msgspec

_EXACTLY_32 = msgspec.Meta(min_length=32, max_length=32)
_NOT_NEGATIVE = msgspec.Meta(ge=0, le=2**63 - 1)

#: Any 32 bytes: a key, a nonce, a digest without a better name.
Bytes32: TypeAlias = Annotated[bytes, _EXACTLY_32]

#: An Ed25519 public key that owns funds and signs, on L1 and in shards.
AccountId = NewType("AccountId", Annotated[bytes, _EXACTLY_32])
#: SHA-256 of the signed part of a TrustedCall.
CallId = NewType("CallId", Annotated[bytes, _EXACTLY_32])
#: A SHA-256 digest.
Digest = NewType("Digest", Annotated[bytes, _EXACTLY_32])
#: MRENCLAVE: the measurement of an enclave's code.
Fingerprint = NewType("Fingerprint", Annotated[bytes, _EXACTLY_32])
#: MRSIGNER: SHA-256 of the vendor's RSA modulus.
MrSigner = NewType("MrSigner", Annotated[bytes, _EXACTLY_32])
#: A machine, as its PCK certificate names it.
PlatformId = NewType("PlatformId", Annotated[bytes, _EXACTLY_32])
#: A replicated confidential state machine, whatever code runs it.
ShardId = NewType("ShardId", Annotated[bytes, _EXACTLY_32])
#: The keyed root of a shard's state, as it stands on L1.
StateRoot = NewType("StateRoot", Annotated[bytes, _EXACTLY_32])

#: A quantity of the smallest unit of a token.
Amount = NewType("Amount", Annotated[int, _NOT_NEGATIVE])
#: The number of a shard's key generation (not of its code).
Epoch = NewType("Epoch", Annotated[int, _NOT_NEGATIVE])
#: The number of a schedule entry: 0, 1, 2 …
Generation = NewType("Generation", Annotated[int, _NOT_NEGATIVE])
#: An L1 block height; the first block is 1.
Height = NewType("Height", Annotated[int, _NOT_NEGATIVE])
#: How many transactions (or calls) an account has had.
Nonce = NewType("Nonce", Annotated[int, _NOT_NEGATIVE])
#: Seconds since 1970-01-01T00:00:00Z.
UnixSeconds = NewType("UnixSeconds", Annotated[int, _NOT_NEGATIVE])

ChainId = NewType("ChainId", Annotated[str, msgspec.Meta(min_length=1, max_length=50)])


def short(value: bytes) -> str:
    """The first eight hexadecimal digits of an id, for people."""
    return value[:4].hex() + "…"
