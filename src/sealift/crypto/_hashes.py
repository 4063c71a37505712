"""Hashes and key derivation: SHA-256, HMAC, HKDF, keyed BLAKE2b."""

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealift.base import Digest


def sha256(data: bytes) -> Digest:
    """SHA-256 (FIPS 180-4)."""
    return Digest(hashlib.sha256(data).digest())


def hmac_sha256(key: bytes, data: bytes) -> Digest:
    """HMAC-SHA-256 (RFC 2104), 32 bytes."""
    return Digest(hmac.digest(key, data, "sha256"))


def keyed_hash(key: bytes, data: bytes, *, size: int) -> bytes:
    """Keyed BLAKE2b of ``size`` bytes (RFC 7693); ``key`` is at most 64 bytes."""
    return hashlib.blake2b(data, key=key, digest_size=size).digest()


def hkdf(key: bytes, *, info: bytes, salt: bytes = b"", size: int = 32) -> bytes:
    """HKDF-SHA-256 (RFC 5869): ``size`` bytes from a secret, bound to ``info``."""
    return HKDF(algorithm=SHA256(), length=size, salt=salt or None, info=info).derive(
        key
    )


def constant_time_equal(left: bytes, right: bytes) -> bool:
    """Equality whose time does not depend on where the bytes differ."""
    return hmac.compare_digest(left, right)
