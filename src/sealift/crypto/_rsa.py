"""RSA-3072 with exponent 3, PKCS#1 v1.5, SHA-256: what a SIGSTRUCT needs.

SGX fixes these parameters (SDM Vol. 3D, SIGSTRUCT); nothing else in Sealift
uses RSA.
"""

from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicNumbers,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sealift.base import SealiftError

from ._ed25519 import SignatureInvalidError

RSA_EXPONENT = 3
RSA_BITS = 3072


class RsaKeyError(SealiftError):
    """Not an unencrypted RSA-3072 private key with exponent 3."""


def rsa_generate() -> bytes:
    """A new vendor key: PEM (PKCS#8, unencrypted). Randomness is the library's."""
    key = generate_private_key(public_exponent=RSA_EXPONENT, key_size=RSA_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def rsa_public_modulus(pem: bytes) -> int:
    """The modulus of a vendor key.

    Raises:
        RsaKeyError: Not RSA-3072 with exponent 3.
    """
    return _load(pem).public_key().public_numbers().n


def rsa_sign_pkcs1_sha256(pem: bytes, data: bytes) -> bytes:
    """Sign ``data``: 384 bytes, big-endian. Equal inputs give equal bytes.

    Raises:
        RsaKeyError: Not RSA-3072 with exponent 3.
    """
    return _load(pem).sign(data, PKCS1v15(), SHA256())


def rsa_verify(modulus: int, data: bytes, signature: bytes, *, what: str) -> None:
    """Return only if the signature is valid under this modulus and exponent 3.

    Args:
        modulus: Any number; it must have exactly 3,072 bits.
        data: What was signed.
        signature: 384 bytes, big-endian.
        what: Name of the signed thing, for the refusal.

    Raises:
        SignatureInvalidError: It is not.
    """
    try:
        key = RSAPublicNumbers(e=RSA_EXPONENT, n=modulus).public_key()
        valid = key.key_size == RSA_BITS
        key.verify(signature, data, PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError, OverflowError):
        valid = False
    if not valid:
        raise SignatureInvalidError(
            f"signature of {what} is invalid",
            got=signature,
            expected="RSA-3072, e=3, PKCS#1 v1.5, SHA-256",
        )


@lru_cache(maxsize=1)  # reading a key checks its primes: half a second
def _load(pem: bytes) -> RSAPrivateKey:
    wanted = "PEM of an unencrypted RSA-3072 private key with exponent 3"
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RsaKeyError("vendor key cannot be read", expected=wanted) from error
    if (
        not isinstance(key, RSAPrivateKey)
        or key.key_size != RSA_BITS
        or key.public_key().public_numbers().e != RSA_EXPONENT
    ):
        raise RsaKeyError(
            "vendor key is of another kind",
            got=type(key).__name__,
            expected=wanted,
            hint="Make one with `openssl genrsa -3 3072`.",
        )
    return key
