"""Statements: what is signed or quoted, with the domain that says what it is."""

from typing import ClassVar, TypeVar

from sealift.base import Digest, Message, canonical_decode, encode
from sealift.crypto import (
    sha256,
    sign_statement,
    statement_preimage,
    verify_statement,
)

S = TypeVar("S", bound="Statement")


class Statement(Message):
    """A message that is signed or quoted under its own domain.

    Every subclass names a :attr:`DOMAIN` of its own and stands in
    ``docs/spec/statements.md`` with its signer and its replay guard.
    """

    DOMAIN: ClassVar[str] = ""

    def preimage(self) -> bytes:
        """``domain || 0x00 || canonical encoding``."""
        return statement_preimage(self.DOMAIN, encode(self))

    def digest(self) -> Digest:
        """SHA-256 of the preimage: the statement's name."""
        return sha256(self.preimage())

    def sign(self, secret: bytes) -> bytes:
        """An Ed25519 signature over the preimage by a 32-byte secret seed."""
        return sign_statement(secret, self.DOMAIN, encode(self))

    def verify(self, public: bytes, signature: bytes) -> None:
        """Return only if ``public`` signed this statement.

        Raises:
            SignatureInvalidError: It did not.
        """
        verify_statement(public, self.DOMAIN, encode(self), signature)

    def report_data(self) -> bytes:
        """64 bytes for a quote: the digest, then 32 zero bytes."""
        return self.digest() + bytes(32)


def parse_statement(kind: type[S], data: bytes) -> S:
    """Parse a statement; only its one canonical encoding is accepted.

    Raises:
        DecodeError: Not such a statement, or not canonical.
    """
    return canonical_decode(kind, data)
