"""Records of an audit: sealed under its one-time key, each bound to its place."""

from typing import Final, Literal, TypeAlias

from sealift.base import SealiftError, encode
from sealift.crypto import (
    AEAD_KEY_BYTES,
    Entropy,
    HpkeSuite,
    hkdf,
    open_sealed,
    seal,
)
from sealift.protocol import AuditStatement
from sealift.protocol.audit import AUDIT_KEY_DOMAIN, AUDIT_RECORD_DOMAIN

from ._errors import AuditRecordError

#: What the key of an audit is sealed by, as key packages are.
AUDIT_SUITE: Final = HpkeSuite.MLKEM768_X25519

AuditRole: TypeAlias = Literal["auditor", "auditee"]
_OTHER: Final[dict[AuditRole, AuditRole]] = {
    "auditor": "auditee",
    "auditee": "auditor",
}


def audit_key_info(statement: AuditStatement) -> bytes:
    """HPKE ``info``: binds the key of an audit to all that the auditee has quoted."""
    return AUDIT_KEY_DOMAIN + encode(statement)


class AuditRecords:
    """One end of an audit's two streams, one each way.

    Guarantees that what opens is what the other end sealed next: nothing altered,
    left out, repeated, reordered, or turned back to its sender.

    Args:
        key: The one-time key of the audit.
        role: Whose end this is.
        entropy: Source of nonces.

    Raises:
        AuditRecordError: Not a key.
    """

    def __init__(self, key: bytes, role: AuditRole, *, entropy: Entropy) -> None:
        if len(key) != AEAD_KEY_BYTES:
            raise AuditRecordError(
                "not the key of an audit",
                got=f"{len(key)} bytes",
                expected=f"{AEAD_KEY_BYTES} bytes",
            )
        self._role: AuditRole = role
        self._key = key
        self._entropy = entropy
        self._sealed = 0
        self._opened = 0

    def seal(self, plain: bytes) -> bytes:
        """The next record to the other end."""
        context = _context(self._role, self._sealed)
        sealed = seal(
            self._stream_key(self._role), plain, context=context, entropy=self._entropy
        )
        self._sealed += 1
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """What the other end sealed next.

        Raises:
            AuditRecordError: It is not; nothing has changed.
        """
        sender = _OTHER[self._role]
        context = _context(sender, self._opened)
        try:
            plain = open_sealed(
                self._stream_key(sender), sealed, context=context, what="the record"
            )
        except SealiftError as error:
            raise AuditRecordError(
                f"record {self._opened} of the {sender} does not open ({error.code})",
                expected="the next one that it sealed, as it sealed it",
                hint="Begin the audit afresh.",
            ) from None
        self._opened += 1
        return plain

    def _stream_key(self, sender: AuditRole) -> bytes:
        return hkdf(self._key, info=AUDIT_RECORD_DOMAIN + sender.encode())


def _context(sender: AuditRole, number: int) -> bytes:
    return AUDIT_RECORD_DOMAIN + encode((sender, number))
