"""Ed25519: signing by pyca, verification by the ZIP-215 rule.

One rule for L1 votes and for calls (facts/cometbft §2): OpenSSL and libsodium
refuse signatures that CometBFT accepts, and a relay that used them could be
stalled by one validator.
"""

import ed25519_zebra
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealift.base import AccountId, SealiftError

_KEY = 32
_SIGNATURE = 64
_P = 2**255 - 19
_SIGN_BIT = 1 << 255
# The y of all points of small order, canonical and not (p and p + 1 are 0 and 1).
_SMALL_ORDER_Y = (
    0,
    1,
    _P - 1,
    _P,
    _P + 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
)
#: Public keys that everybody can sign with: under ZIP-215 one signature by a key
#: of small order holds for all messages.
ANYBODYS_KEYS = frozenset(
    (y | sign).to_bytes(_KEY, "little")
    for y in _SMALL_ORDER_Y
    for sign in (0, _SIGN_BIT)
)


class SignatureInvalidError(SealiftError):
    """A signature that does not belong to this key and these bytes."""


def account_of(secret: bytes) -> AccountId:
    """The public key of a 32-byte secret seed."""
    return AccountId(
        Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    )


def sign(secret: bytes, data: bytes) -> bytes:
    """A 64-byte signature over ``data`` by a 32-byte secret seed (RFC 8032)."""
    return Ed25519PrivateKey.from_private_bytes(secret).sign(data)


def verify_signature(
    public: bytes, data: bytes, signature: bytes, *, what: str
) -> None:
    """Return only if the signature is valid by ZIP-215.

    Args:
        public: 32-byte public key.
        data: What was signed.
        signature: 64 bytes.
        what: Name of the signed thing, for the refusal.

    Raises:
        SignatureInvalidError: It is not, or key or signature have a wrong length.
    """
    if (
        len(public) != _KEY
        or len(signature) != _SIGNATURE
        or ed25519_zebra.ed_verify(signature, data, public) is not True
    ):
        raise SignatureInvalidError(
            f"signature of {what} is invalid",
            got=signature,
            expected="by key " + public.hex(),
        )


def verify_by_account(
    public: bytes, data: bytes, signature: bytes, *, what: str
) -> None:
    """As :func:`verify_signature`, by a key that somebody can have as his own.

    For whatever speaks for an account, an authority or an instance. Votes on L1
    are judged by :func:`verify_signature` alone, as CometBFT does.

    Raises:
        SignatureInvalidError: Also for a key that everybody can sign with.
    """
    if public in ANYBODYS_KEYS:
        raise SignatureInvalidError(
            f"signature of {what} proves nothing",
            got=public,
            expected="a key that not everybody can sign with",
        )
    verify_signature(public, data, signature, what=what)
