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
