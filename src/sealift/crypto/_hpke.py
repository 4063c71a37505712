"""HPKE (RFC 9180), base mode, single shot, from ``cryptography``.

Two suites: :attr:`HpkeSuite.X25519` for users' calls (fast), and
:attr:`HpkeSuite.MLKEM768_X25519` for provisioning (hybrid post-quantum,
draft-ietf-hpke-pq). Both with HKDF-SHA-256 and AES-256-GCM. Keys are plain
bytes; a secret is a 32-byte seed in both suites.
"""

import enum
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from sealift.base import SealiftError

from ._hashes import hkdf
from .entropy import Entropy

_SEED = 32
_MLKEM_SEED = 64
_MLKEM_PUBLIC = 1184


class HpkeError(SealiftError):
    """An HPKE ciphertext or key that does not fit."""


class HpkeSuite(enum.Enum):
    """Key encapsulations in use; the value is the wire name."""

    X25519 = "x25519"
    MLKEM768_X25519 = "mlkem768-x25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class HpkeKeyPair:
    """A 32-byte secret seed (never shown) and its public key (32 or 1,216 bytes)."""

    suite: HpkeSuite
    secret: bytes = field(repr=False)
    public: bytes


_SUITES = {
    HpkeSuite.X25519: hpke.Suite(
        hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM
    ),
    HpkeSuite.MLKEM768_X25519: hpke.Suite(
        hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM
    ),
}


def hpke_generate(suite: HpkeSuite, entropy: Entropy) -> HpkeKeyPair:
    """A new key pair from 32 bytes of entropy."""
    secret = entropy(_SEED)
    return HpkeKeyPair(suite=suite, secret=secret, public=hpke_public(suite, secret))


def hpke_public(suite: HpkeSuite, secret: bytes) -> bytes:
    """The public key that belongs to a 32-byte secret seed."""
    if suite is HpkeSuite.X25519:
        return (
            X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        )
    mlkem, x25519 = _hybrid_parts(secret)
    return mlkem.public_key().public_bytes_raw() + (
        x25519.public_key().public_bytes_raw()
    )


def hpke_seal(
    suite: HpkeSuite, public: bytes, plaintext: bytes, *, info: bytes
) -> bytes:
    """Encrypt to ``public``, bound to ``info``; ``enc || ciphertext``.

    Overhead is 48 bytes (X25519) or 1,136 bytes (hybrid). The encapsulation's
    randomness comes from the library.

    Raises:
        HpkeError: Not a public key of this suite.
    """
    try:
        return _SUITES[suite].encrypt(plaintext, _public_key(suite, public), info)
    except ValueError as error:
        raise HpkeError(
            f"not a {suite.value} public key ({error})", got=public
        ) from error


def hpke_open(
    suite: HpkeSuite, secret: bytes, ciphertext: bytes, *, info: bytes, what: str
) -> bytes:
    """Open what :func:`hpke_seal` made for this secret and ``info``.

    Raises:
        HpkeError: Altered, cut, for another key, or bound to another ``info``.
    """
    try:
        return _SUITES[suite].decrypt(ciphertext, _private_key(suite, secret), info)
    except (InvalidTag, ValueError) as error:
        raise HpkeError(
            f"{what} does not open",
            expected="sealed to this key, shard, chain and epoch",
        ) from error


@lru_cache(maxsize=16)
def _private_key(
    suite: HpkeSuite, secret: bytes
) -> X25519PrivateKey | hpke.MLKEM768X25519PrivateKey:
    if suite is HpkeSuite.X25519:
        return X25519PrivateKey.from_private_bytes(secret)
    return hpke.MLKEM768X25519PrivateKey(*_hybrid_parts(secret))


def _public_key(
    suite: HpkeSuite, public: bytes
) -> X25519PublicKey | hpke.MLKEM768X25519PublicKey:
    if suite is HpkeSuite.X25519:
        return X25519PublicKey.from_public_bytes(public)
    return hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC]),
        X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC:]),
    )


def _hybrid_parts(secret: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    wide = hkdf(secret, info=b"sealift/hpke/mlkem768-x25519", size=_MLKEM_SEED + _SEED)
    return (
        MLKEM768PrivateKey.from_seed_bytes(wide[:_MLKEM_SEED]),
        X25519PrivateKey.from_private_bytes(wide[_MLKEM_SEED:]),
    )
