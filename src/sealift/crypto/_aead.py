"""Authenticated encryption: AES-256-GCM with a key for one message.

Every caller derives a fresh key (HKDF over a context that holds fresh random
bytes), so the nonce may be fixed; :func:`seal` nevertheless takes 12 random
bytes and carries them, so that a repeated key is no disaster.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealift.base import SealiftError

from .entropy import Entropy

AEAD_KEY_BYTES = 32
_NONCE = 12
#: Bytes that sealing adds: nonce (12) and tag (16).
AEAD_OVERHEAD = _NONCE + 16


class SealedDataError(SealiftError):
    """Sealed bytes do not open: altered, cut, foreign, or another key."""


def seal(key: bytes, plaintext: bytes, *, context: bytes, entropy: Entropy) -> bytes:
    """Encrypt and authenticate under ``key``, bound to ``context``.

    Args:
        key: 32 bytes.
        plaintext: Any bytes.
        context: Associated data; opening needs exactly the same.
        entropy: Source of the 12-byte nonce.

    Returns:
        nonce (12 B) followed by ciphertext and tag (16 B).
    """
    nonce = entropy(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def open_sealed(key: bytes, sealed: bytes, *, context: bytes, what: str) -> bytes:
    """Open what :func:`seal` made.

    Args:
        key: 32 bytes.
        sealed: nonce, ciphertext and tag.
        context: The associated data it was sealed with.
        what: Name of the thing, for the refusal.

    Raises:
        SealedDataError: Altered, cut, sealed under another key or context.
    """
    if len(sealed) < AEAD_OVERHEAD:
        raise SealedDataError(
            f"{what} is cut", got=f"{len(sealed)} B", expected=f"≥ {AEAD_OVERHEAD} B"
        )
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
    except InvalidTag as error:
        raise SealedDataError(
            f"{what} does not open",
            expected="the key and the context it was sealed with",
            hint="It is kept as it is; nothing was overwritten.",
        ) from error
