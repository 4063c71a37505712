"""Domain-separated signatures: what is signed says what it is.

The preimage of every signature and of every quote's report data is
``domain || 0x00 || canonical encoding``; ``docs/spec/statements.md`` lists all
domains. A domain is ASCII without NUL, so no two preimages can coincide.
"""

from ._ed25519 import sign, verify_by_account


def statement_preimage(domain: str, body: bytes) -> bytes:
    """``domain || 0x00 || body``: what is hashed or signed."""
    return domain.encode("ascii") + b"\x00" + body


def sign_statement(secret: bytes, domain: str, body: bytes) -> bytes:
    """A 64-byte Ed25519 signature over the preimage."""
    return sign(secret, statement_preimage(domain, body))


def verify_statement(public: bytes, domain: str, body: bytes, signature: bytes) -> None:
    """Return only if the signature over the preimage is valid (ZIP-215).

    A key that everybody can sign with states nothing.

    Raises:
        SignatureInvalidError: It is not.
    """
    verify_by_account(public, statement_preimage(domain, body), signature, what=domain)
