"""Trusted calls, getters, receipts: what users and enclaves say to each other."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import msgspec

from sealift.base import (
    AccountId,
    Bytes32,
    CallId,
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Height,
    Message,
    Nonce,
    SealiftError,
    ShardId,
    StateRoot,
    UnixSeconds,
    canonical_decode,
    encode,
)
from sealift.crypto import (
    AEAD_KEY_BYTES,
    Entropy,
    HpkeSuite,
    hkdf,
    hpke_open,
    hpke_seal,
    keyed_hash,
    open_sealed,
    seal,
    sha256,
)

from ._statement import Statement

_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
_CallName = Annotated[str, msgspec.Meta(max_length=128)]

#: A sealed call's plaintext is padded to one of these sizes (bytes).
SIZE_CLASSES = (512, 1024, 4096, 16_384, 65_536)
#: No call is valid for longer than this many blocks: receipts live as long.
MAX_VALIDITY = 1024


class CallTooLargeError(SealiftError):
    """A call or getter that fits no size class."""


class PaddingError(SealiftError):
    """An opened message whose padding is not ours."""


class TrustedCallBody(Statement):
    """What a user signs to change a shard's state (DESIGN §9).

    ``nonce`` is consumed even when the call fails; ``valid_until`` is at most
    :data:`MAX_VALIDITY` blocks ahead; ``pin`` refuses any other MRENCLAVE;
    ``reply_key`` is fresh for every call and opens its receipt.
    """

    DOMAIN: ClassVar[str] = "sealift/trusted-call/v1"
    chain_id: ChainId
    shard: ShardId
    signer: AccountId
    nonce: Nonce
    call: _CallName
    args: bytes
    valid_until: Height
    reply_key: Bytes32
    pin: Fingerprint | None = None

    def call_id(self) -> CallId:
        """The name of the call: the digest of what is signed."""
        return CallId(self.digest())


class TrustedCall(Message):
    """A signed call, as it is sealed to the shielding key."""

    body: TrustedCallBody
    signature: _Signature


class GetterBody(Statement):
    """What a user signs to read; refused below ``min_height``."""

    DOMAIN: ClassVar[str] = "sealift/getter/v1"
    chain_id: ChainId
    shard: ShardId
    signer: AccountId
    getter: _CallName
    args: bytes
    min_height: Height
    valid_until: Height
    reply_key: Bytes32


class Getter(Message):
    """A signed read, as it is sealed to the shielding key."""

    body: GetterBody
    signature: _Signature


class Envelope(Message):
    """What is carried: a sealed call or getter and the epoch of its key."""

    epoch: Epoch
    ciphertext: bytes


class Receipt(Message):
    """What became of a call. ``outcome`` is ``ok`` or an error's name.

    ``events`` are encoded events of the runtime, only for the caller's eyes.
    """

    call_id: CallId
    height: Height
    index: int
    outcome: str
    message: str = ""
    events: tuple[bytes, ...] = ()


class SealedReceipt(Message):
    """A receipt as it leaves the enclave, named by the envelope it answers.

    ``envelope`` is the SHA-256 of the envelope bytes on L1. The same call in
    the same block seals to the same bytes on every instance, so that their
    receipts roots agree. ``height`` is that of the block it was given in: of a copy,
    a later one than the receipt names, whose ``index`` is the first one's.
    """

    envelope: Digest
    height: Height
    index: int
    sealed: bytes

    def leaf(self) -> Digest:
        """The leaf of the block's receipts root."""
        return sha256(b"sealift/receipt-leaf\x00" + encode(self))


class GetterReply(Message):
    """An answer and what it is true of (DESIGN §9)."""

    value: bytes
    state_height: Height
    root: StateRoot
    confirmed: bool
    head_height: Height
    head_time: UnixSeconds


@lru_cache(maxsize=64)
def call_info(kind: str, chain_id: str, shard: bytes, epoch: int) -> bytes:
    """HPKE ``info``: binds a ciphertext to kind, chain, shard and epoch."""
    return b"sealift/" + kind.encode() + b"/v1\x00" + encode((chain_id, shard, epoch))


def seal_message(
    message: TrustedCall | Getter, *, shielding_key: bytes, epoch: Epoch
) -> Envelope:
    """Pad a signed call or getter to its size class and seal it to the shard.

    Raises:
        CallTooLargeError: Larger than the largest size class.
        HpkeError: ``shielding_key`` is not an X25519 public key.
    """
    body = message.body
    info = call_info(type(message).__name__, body.chain_id, body.shard, epoch)
    ciphertext = hpke_seal(
        HpkeSuite.X25519, shielding_key, _pad(encode(message)), info=info
    )
    return Envelope(epoch=epoch, ciphertext=ciphertext)


def open_call(
    envelope: Envelope, *, secret: bytes, chain_id: str, shard: bytes
) -> TrustedCall:
    """Open a sealed call; the signature is not verified here.

    Raises:
        HpkeError: Not sealed to this key, chain, shard and epoch.
        PaddingError: Padded otherwise than :func:`seal_message` does.
        DecodeError: Not the canonical encoding of a call.
    """
    return call_of(
        open_call_bytes(envelope, secret=secret, chain_id=chain_id, shard=shard)
    )


def open_call_bytes(
    envelope: Envelope, *, secret: bytes, chain_id: str, shard: bytes
) -> bytes:
    """What is in an envelope sealed as a call, whatever it is; for an audit.

    Raises:
        HpkeError: Not sealed to this key, chain, shard and epoch.
    """
    info = call_info(TrustedCall.__name__, chain_id, shard, envelope.epoch)
    return hpke_open(
        HpkeSuite.X25519, secret, envelope.ciphertext, info=info, what="the call"
    )


def call_of(plain: bytes) -> TrustedCall:
    """The call that opened bytes are; the second half of :func:`open_call`.

    Raises:
        PaddingError: Padded otherwise than :func:`seal_message` does.
        DecodeError: Not the canonical encoding of a call.
    """
    return canonical_decode(TrustedCall, _unpad(plain))


def open_getter(
    envelope: Envelope, *, secret: bytes, chain_id: str, shard: bytes
) -> Getter:
    """Open a sealed getter; the signature is not verified here.

    Raises:
        HpkeError: Not sealed to this key, chain, shard and epoch.
        PaddingError: Padded otherwise than :func:`seal_message` does.
        DecodeError: Not the canonical encoding of a getter.
    """
    info = call_info(Getter.__name__, chain_id, shard, envelope.epoch)
    plain = hpke_open(
        HpkeSuite.X25519, secret, envelope.ciphertext, info=info, what="the getter"
    )
    return canonical_decode(Getter, _unpad(plain))


def seal_receipt(
    receipt: Receipt,
    *,
    reply_key: bytes,
    envelope: Digest,
    block_hash: Digest,
    height: Height | None = None,
) -> SealedReceipt:
    """Seal a receipt for its caller, the same way on every instance.

    Args:
        receipt: The receipt; that of a copy is the first one's, of an earlier block.
        reply_key: The call's.
        envelope: The digest of the envelope that it answers.
        block_hash: Of the block in which it is given.
        height: Of that block, by which the caller finds the hash that opens it; by
            default the receipt's own: it is no copy's.

    Raises:
        CallTooLargeError: It fits no size class.

    The key is HKDF(reply key; block hash, envelope, index). It may serve two
    plaintexts: a generation and, after a rescue, its predecessor execute the same
    block. So the nonce is a keyed hash of the plaintext, by a key from the same HKDF,
    and is another one for another receipt.
    """
    padded = _Padded(receipt, reply_key, envelope, _pad(encode(receipt)))
    return _seal_padded([padded], block_hash, height)[0]


def seal_receipts(
    receipts: Iterable[tuple[Receipt, bytes, Digest]],
    *,
    block_hash: Digest,
    height: Height,
) -> tuple[SealedReceipt, ...]:
    """Seal all receipts of a block, each as :func:`seal_receipt` does.

    Of one that fits no size class the events are left out.

    Args:
        receipts: Receipt, reply key and digest of the envelope, of each.
        block_hash: Of the block in which they are given.
        height: Of that block.
    """
    padded = [
        _Padded(receipt, reply_key, envelope, _pad_receipt(receipt))
        for receipt, reply_key, envelope in receipts
    ]
    return _seal_padded(padded, block_hash, height)


class _Padded(msgspec.Struct, frozen=True, gc=False):
    """A receipt and the bytes of it that are sealed."""

    receipt: Receipt
    reply_key: bytes
    envelope: Digest
    plain: bytes


def _pad_receipt(receipt: Receipt) -> bytes:
    try:
        return _pad(encode(receipt))
    except CallTooLargeError:
        return _pad(encode(msgspec.structs.replace(receipt, events=())))


def _seal_padded(
    padded: Sequence[_Padded], block_hash: Digest, height: Height | None
) -> tuple[SealedReceipt, ...]:
    """In passes, since what comes between the cryptography runs out of cold caches."""
    infos = [
        _receipt_info(one.envelope, block_hash, one.receipt.index) for one in padded
    ]
    keys = [
        hkdf(one.reply_key, info=info, size=2 * AEAD_KEY_BYTES)
        for one, info in zip(padded, infos, strict=True)
    ]
    sealed = [
        _seal_plain(key, one.plain, one.envelope)
        for one, key in zip(padded, keys, strict=True)
    ]
    return tuple(
        SealedReceipt(
            envelope=one.envelope,
            height=one.receipt.height if height is None else height,
            index=one.receipt.index,
            sealed=ciphertext,
        )
        for one, ciphertext in zip(padded, sealed, strict=True)
    )


def _seal_plain(keys: bytes, plain: bytes, envelope: Digest) -> bytes:
    return seal(
        keys[:AEAD_KEY_BYTES],
        plain,
        context=envelope,
        entropy=lambda size: keyed_hash(keys[AEAD_KEY_BYTES:], plain, size=size),
    )


def open_receipt(
    sealed: SealedReceipt, *, reply_key: bytes, block_hash: Digest
) -> Receipt:
    """Open a receipt with the reply key of its call.

    Raises:
        SealedDataError: Not sealed for this call in this block.
        DecodeError: Not a receipt.
    """
    key = hkdf(reply_key, info=_receipt_info(sealed.envelope, block_hash, sealed.index))
    plain = open_sealed(key, sealed.sealed, context=sealed.envelope, what="the receipt")
    return canonical_decode(Receipt, _unpad(plain))


def seal_reply(reply: GetterReply, *, reply_key: bytes, entropy: Entropy) -> bytes:
    """Seal a getter's answer under the getter's reply key."""
    key = hkdf(reply_key, info=b"sealift/getter-reply/v1")
    return seal(key, _pad(encode(reply)), context=b"", entropy=entropy)


def open_reply(sealed: bytes, *, reply_key: bytes) -> GetterReply:
    """Open a getter's answer.

    Raises:
        SealedDataError: Not sealed under this reply key.
    """
    key = hkdf(reply_key, info=b"sealift/getter-reply/v1")
    plain = open_sealed(key, sealed, context=b"", what="the reply")
    return canonical_decode(GetterReply, _unpad(plain))


def _receipt_info(envelope: bytes, block_hash: bytes, index: int) -> bytes:
    return b"sealift/receipt/v1\x00" + encode((envelope, block_hash, index))


_LENGTH = 4


def _pad(data: bytes) -> bytes:
    need = len(data) + _LENGTH
    for size in SIZE_CLASSES:
        if need <= size:
            return len(data).to_bytes(_LENGTH, "big") + data + bytes(size - need)
    raise CallTooLargeError(
        "too large for any size class",
        got=f"{need} B",
        expected=f"≤ {SIZE_CLASSES[-1]} B",
    )


def _unpad(padded: bytes) -> bytes:
    size = int.from_bytes(padded[:_LENGTH], "big")
    data, rest = padded[_LENGTH : _LENGTH + size], padded[_LENGTH + size :]
    if len(padded) not in SIZE_CLASSES or len(data) != size or rest != bytes(len(rest)):
        raise PaddingError(
            "padding is wrong", got=f"{len(padded)} B", expected="a size class"
        )
    return data
