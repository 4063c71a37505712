"""The one door to cryptography: thin names over kept libraries.

No primitive is written here. Entropy is an argument everywhere but in
:mod:`sealift.crypto.entropy`; keys are plain bytes, so that they can be sealed.
"""

from ._aead import AEAD_KEY_BYTES, AEAD_OVERHEAD, SealedDataError, open_sealed, seal
from ._ed25519 import (
    ANYBODYS_KEYS,
    SignatureInvalidError,
    account_of,
    sign,
    verify_by_account,
    verify_signature,
)
from ._hashes import constant_time_equal, hkdf, hmac_sha256, keyed_hash, sha256
from ._hpke import (
    HpkeError,
    HpkeKeyPair,
    HpkeSuite,
    hpke_generate,
    hpke_open,
    hpke_public,
    hpke_seal,
)
from ._rsa import (
    RsaKeyError,
    rsa_generate,
    rsa_public_modulus,
    rsa_sign_pkcs1_sha256,
    rsa_verify,
)
from ._statement import sign_statement, statement_preimage, verify_statement
from .entropy import Entropy, system_entropy

__all__ = [
    "AEAD_KEY_BYTES",
    "AEAD_OVERHEAD",
    "ANYBODYS_KEYS",
    "Entropy",
    "HpkeError",
    "HpkeKeyPair",
    "HpkeSuite",
    "RsaKeyError",
    "SealedDataError",
    "SignatureInvalidError",
    "account_of",
    "constant_time_equal",
    "hkdf",
    "hmac_sha256",
    "hpke_generate",
    "hpke_open",
    "hpke_public",
    "hpke_seal",
    "keyed_hash",
    "open_sealed",
    "rsa_generate",
    "rsa_public_modulus",
    "rsa_sign_pkcs1_sha256",
    "rsa_verify",
    "seal",
    "sha256",
    "sign",
    "sign_statement",
    "statement_preimage",
    "system_entropy",
    "verify_by_account",
    "verify_signature",
    "verify_statement",
]
