"""From envelopes to opened calls: HPKE and signatures, on one thread.

HPKE and ZIP-215 verification hold the GIL (facts/performance §1), so there is
one function and no pool; an enclave hides its latency by calling it while it
waits for the header that commits to the results.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from sealift.base import (
    AccountId,
    Bytes32,
    CallId,
    DecodeError,
    Digest,
    InvariantError,
    SealiftError,
    ShardId,
    TooLargeError,
    decode,
    encode,
)
from sealift.crypto import HpkeError, sha256, verify_by_account
from sealift.frame import MAX_ARGUMENT_DEPTH, depth_exceeds
from sealift.protocol import (
    SIZE_CLASSES,
    Envelope,
    GetterBody,
    PaddingError,
    TrustedCallBody,
    call_of,
    open_call_bytes,
    open_getter,
)

from ._errors import (
    EnvelopeError,
    KeyEpochExpiredError,
    UnknownEpochError,
    UnreadableCallError,
    WrongShardError,
)

#: Most bytes of an envelope: the largest size class and what HPKE adds to it.
MAX_ENVELOPE_BYTES = SIZE_CLASSES[-1] + 256

_MADE_HERE = object()
#: Gives what is in an envelope; raises ``HpkeError`` if it does not open.
_Opener: TypeAlias = Callable[[Envelope], bytes]
_NOT_OPENED: Final = "the call does not open"


class OpenedCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that opened, is for this shard, and was signed by its signer.

    Guarantees nothing about nonce, validity or sense of the call.
    ``envelope`` is the SHA-256 of the envelope's bytes on L1. Only
    :func:`open_and_verify` makes it.
    """

    envelope: Digest
    call_id: CallId
    body: TrustedCallBody
    made_by: object

    def __post_init__(self) -> None:
        if self.made_by is not _MADE_HERE:
            raise InvariantError("OpenedCall is made by open_and_verify only")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCall:
    """An envelope that yields no call, and the name of the refusal.

    ``reply_key`` is known if the envelope opened; whoever sealed it chose it.
    ``call_id`` then is the digest of what it held, else the envelope's.
    """

    envelope: Digest
    call_id: CallId
    reply_key: Bytes32 | None
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedGetter:
    """A read that is for this shard and was signed by its signer.

    Owed by the caller: that this enclave may answer at its head. Only
    :func:`open_and_verify_getter` makes it.
    """

    body: GetterBody
    made_by: object = field(repr=False, compare=False)

    @property
    def reader(self) -> AccountId:
        """Who asks."""
        return self.body.signer

    def __post_init__(self) -> None:
        if self.made_by is not _MADE_HERE:
            raise InvariantError("VerifiedGetter is made by its verifier only")


def open_and_verify(
    envelopes: Sequence[bytes],
    *,
    keys: Mapping[int, bytes],
    chain_id: str,
    shard: ShardId,
    accepted: Collection[int] | None = None,
) -> list[OpenedCall | RefusedCall]:
    """Open envelopes in order; never raises for a bad one.

    1. The bytes are an envelope (else ``EnvelopeError``).
    2. Its epoch is accepted. One before the current one, the highest accepted,
       is over (``KeyEpochExpiredError``): the envelope is opened only to learn
       whom to tell. Any other is unknown (``UnknownEpochError``).
    3. It opens, bound to calls of this chain, shard and epoch (``HpkeError``),
       and is the canonical, padded encoding of a call (``UnreadableCallError``).
    4. What was signed names this chain and shard (``WrongShardError``).
    5. The signer signed it, by ZIP-215 (``SignatureInvalidError``).

    Which calls run is decided by ``accepted`` alone, never by which keys happen
    to be held. Owed by the caller: every key of an accepted epoch, and, so that
    receipts agree, every key of the epochs before.

    Args:
        envelopes: Encoded envelopes as they stand in ``invoke`` on L1.
        keys: Secret shielding key of every epoch that is held.
        chain_id: The L1 chain.
        shard: This shard.
        accepted: Epochs whose calls are taken in the block, as the schedule has
            them; ``None``: those of all ``keys``.

    Returns:
        One item for every envelope, in the same order.

    Raises:
        InvariantError: The key of an accepted epoch is not held.
    """
    taken = _taken(keys, accepted)

    def opener(envelope: Envelope) -> bytes:
        secret = keys.get(envelope.epoch)
        if secret is None:
            raise HpkeError(_NOT_OPENED)
        return open_call_bytes(envelope, secret=secret, chain_id=chain_id, shard=shard)

    return _open_all(((raw, opener) for raw in envelopes), taken, (chain_id, shard))


def open_for_audit(
    raw: bytes, *, keys: Mapping[int, bytes], chain_id: str, shard: ShardId
) -> bytes | None:
    """What is in an envelope, unread; ``None`` if it opens by none of the keys.

    The keys' holder says only this to the code that judges it
    (:func:`verify_opened`): what the bytes mean is that code's to say.
    """
    try:
        envelope = _parse_envelope(raw)
        secret = keys.get(envelope.epoch)
        if secret is None:
            return None
        return open_call_bytes(envelope, secret=secret, chain_id=chain_id, shard=shard)
    except (EnvelopeError, HpkeError):
        return None


def verify_opened(
    envelopes: Sequence[tuple[bytes, bytes | None]],
    *,
    chain_id: str,
    shard: ShardId,
    accepted: Collection[int],
) -> list[OpenedCall | RefusedCall]:
    """:func:`open_and_verify`, by somebody who holds no key (DESIGN §13).

    The same steps with the same outcome, except that step 3 is given: beside each
    envelope stands what :func:`open_for_audit` found in it.
    """
    taken = _Taken(accepted=accepted, current=max(accepted, default=None))
    given = ((raw, _given(plain)) for raw, plain in envelopes)
    return _open_all(given, taken, (chain_id, shard))


def _given(plain: bytes | None) -> _Opener:
    def opener(_: Envelope) -> bytes:
        if plain is None:
            raise HpkeError(_NOT_OPENED)
        return plain

    return opener


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """The epochs whose calls are taken, and the current one of them."""

    accepted: Collection[int]
    current: int | None


def _taken(keys: Mapping[int, bytes], accepted: Collection[int] | None) -> _Taken:
    if accepted is None:
        return _Taken(accepted=keys.keys(), current=None)
    lacking = sorted(set(accepted) - set(keys))
    if lacking:
        raise InvariantError("the key of an accepted epoch is not held", got=lacking)
    return _Taken(accepted=accepted, current=max(accepted, default=None))


class _Sealed(msgspec.Struct, frozen=True, gc=False):
    """An envelope yet to be opened; if ``expired``, to learn whom to tell so."""

    digest: Digest
    envelope: Envelope
    opener: _Opener
    expired: KeyEpochExpiredError | None


class _Signed(msgspec.Struct, frozen=True, gc=False):
    """A call that was read and is for this place; whose it is comes last."""

    digest: Digest
    body: TrustedCallBody
    preimage: bytes
    signature: bytes


def _open_all(
    raws: Iterable[tuple[bytes, _Opener]], taken: _Taken, place: tuple[str, ShardId]
) -> list[OpenedCall | RefusedCall]:
    """Steps 1 to 5 of every envelope.

    In passes over the block, those of the cryptography with nothing else in them:
    what comes between two of its calls runs out of cold caches.
    """
    sealed = [_parse_one(raw, taken, opener) for raw, opener in raws]
    plain = [_open_one(one) if isinstance(one, _Sealed) else one for one in sealed]
    read = [_read_one(*one, place) if isinstance(one, tuple) else one for one in plain]
    signed = [_verify_one(one) if isinstance(one, _Signed) else one for one in read]
    return [_opened(one) if isinstance(one, _Signed) else one for one in signed]


def _parse_one(raw: bytes, taken: _Taken, opener: _Opener) -> _Sealed | RefusedCall:
    digest = sha256(raw)
    expired = None
    try:
        envelope = _parse_envelope(raw)  # 1
        try:
            _check_taken(envelope, taken)  # 2
        except KeyEpochExpiredError as error:
            expired = error
    except SealiftError as error:
        return _refused(digest, error)
    return _Sealed(digest, envelope, opener, expired)


def _open_one(one: _Sealed) -> tuple[_Sealed, bytes] | RefusedCall:
    try:
        return one, one.opener(one.envelope)  # 3
    except HpkeError as error:
        return _refused(one.digest, one.expired or error)


def _read_one(
    one: _Sealed, plain: bytes, place: tuple[str, ShardId]
) -> _Signed | RefusedCall:
    try:
        call = call_of(plain)  # 3
    except (DecodeError, PaddingError):
        return _refused(one.digest, one.expired or _unreadable("call"))
    body = call.body
    if one.expired is not None:
        return _refused(one.digest, one.expired, body)
    try:
        _check_place(body, *place)  # 4
    except SealiftError as error:
        return _refused(one.digest, error, body)
    return _Signed(one.digest, body, body.preimage(), call.signature)


def _verify_one(one: _Signed) -> _Signed | RefusedCall:
    signer = one.body.signer
    try:
        verify_by_account(signer, one.preimage, one.signature, what="the call")  # 5
    except SealiftError as error:
        return _refused(one.digest, error, one.body)
    return one


def _opened(one: _Signed) -> OpenedCall:
    return OpenedCall(
        envelope=one.digest,
        call_id=CallId(sha256(one.preimage)),
        body=one.body,
        made_by=_MADE_HERE,
    )


def _refused(
    envelope: Digest, error: SealiftError, body: TrustedCallBody | None = None
) -> RefusedCall:
    if isinstance(error, InvariantError):
        raise error
    return RefusedCall(
        envelope=envelope,
        call_id=CallId(envelope) if body is None else body.call_id(),
        reply_key=None if body is None else body.reply_key,
        code=error.code,
        message=error.what,
    )


def open_and_verify_getter(
    raw: bytes,
    *,
    keys: Mapping[int, bytes],
    chain_id: str,
    shard: ShardId,
    accepted: Collection[int] | None = None,
) -> VerifiedGetter:
    """Open one sealed getter, by the same steps as :func:`open_and_verify`.

    Raises:
        EnvelopeError: Step 1.
        KeyEpochExpiredError: Step 2.
        UnknownEpochError: Step 2.
        HpkeError: Step 3: it does not open.
        UnreadableCallError: Step 3: it is no getter.
        WrongShardError: Step 4.
        SignatureInvalidError: Step 5.
        InvariantError: The key of an accepted epoch is not held.
    """
    envelope = _parse_envelope(raw)  # 1
    _check_taken(envelope, _taken(keys, accepted))  # 2
    secret = keys[envelope.epoch]
    try:
        getter = open_getter(envelope, secret=secret, chain_id=chain_id, shard=shard)
    except (DecodeError, PaddingError) as error:  # 3
        raise _unreadable("getter") from error
    body = getter.body
    _check_place(body, chain_id, shard)  # 4
    body.verify(body.signer, getter.signature)  # 5
    return VerifiedGetter(body=body, made_by=_MADE_HERE)


def _parse_envelope(raw: bytes) -> Envelope:
    try:
        envelope = decode(Envelope, raw, limit=MAX_ENVELOPE_BYTES)
    except (DecodeError, TooLargeError) as error:
        raise EnvelopeError("not an envelope") from error
    # What a decoder skips must not depend on how deep the stack already is. Of the
    # canonical encoding it skips nothing.
    if encode(envelope) != raw and depth_exceeds(raw, MAX_ARGUMENT_DEPTH):
        raise EnvelopeError("envelope is nested too deep")
    return envelope


def _check_taken(envelope: Envelope, taken: _Taken) -> None:
    if envelope.epoch in taken.accepted:
        return
    hint = "Seal to the shard's current shielding key"
    if taken.current is not None and envelope.epoch < taken.current:
        raise KeyEpochExpiredError(
            f"sealed to key epoch {envelope.epoch}; the current one is {taken.current}",
            hint=hint,
        )
    raise UnknownEpochError(
        "key epoch is not accepted",
        got=envelope.epoch,
        expected=f"one of {sorted(taken.accepted)}",
        hint=hint,
    )


def _check_place(
    body: TrustedCallBody | GetterBody, chain_id: str, shard: ShardId
) -> None:
    if body.chain_id != chain_id or body.shard != shard:
        raise WrongShardError(
            "signed for another shard or chain",
            got=f"{body.chain_id}/{body.shard.hex()}",
            expected=f"{chain_id}/{shard.hex()}",
        )


def _unreadable(what: str) -> UnreadableCallError:
    # One name for every way not to be readable: which of the decoder's
    # complaints comes first may depend on how deep the stack is.
    return UnreadableCallError(f"not the canonical encoding of a {what}")
