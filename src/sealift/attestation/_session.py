"""Mutual RA-TLS 1.3 over memory: bytes in, bytes out, no socket, no clock.

TLS ends inside the enclave; the host pumps what :meth:`RatlsSession.take_output`
gives and feeds what the peer sent. What the peer's certificate must be is the
caller's ``verify_peer``; TLS proves that the peer holds its key. Facts §4.1.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

from OpenSSL import SSL, crypto

from sealift.base import SealiftError

from ._certificates import parse_certificate
from ._ratls import TlsKey, open_tls_key

Role: TypeAlias = Literal["client", "server"]

#: Most plaintext that waits for :meth:`RatlsSession.receive`.
MAX_PENDING_BYTES = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_SELF_SIGNED = 18
# The enclave has no clock and evidence no dates: a peer's validity period says
# nothing (X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED).
_TOLERATED = frozenset({0, 9, 10, _SELF_SIGNED})


class SessionFailedError(SealiftError):
    """TLS failed: not TLS 1.3, no certificate, altered bytes, or closed early."""


class PeerRefusedError(SealiftError):
    """The peer ended the session: it refused our evidence or the handshake."""


class SessionStateError(SealiftError):
    """The session cannot do that now: not yet open, or over."""


class RatlsSession:
    """One TLS 1.3 session in which both ends must show a certificate.

    A refusal is raised from :meth:`feed`: the error of ``verify_peer`` itself, or
    one of this module's; afterwards the session is over, and its last output (an
    alert) should still be sent so that the peer learns of it.

    In TLS 1.3 a client finishes before the server has checked its certificate.
    ``handshake_done`` means that *this* end has verified the peer;
    ``peer_accepted`` that the peer has verified this end (a client knows once
    anything arrives from the server). A secret needs both.

    Args:
        role: Who sends first.
        certificate: Own certificate, DER.
        key: Its key.
        verify_peer: Called with the peer's DER certificate, once; returns if it
            is acceptable, raises a ``SealiftError`` if not.

    Raises:
        CertificateFormatError: The own certificate cannot be read.
        SessionFailedError: It is another key's.
    """

    def __init__(
        self,
        *,
        role: Role,
        certificate: bytes,
        key: TlsKey,
        verify_peer: Callable[[bytes], None],
    ) -> None:
        self._verify_peer = verify_peer
        self._judged: bytes | None = None
        self._over: SealiftError | None = None
        self._closed = False
        self._role: Role = role
        self._done = False
        self._heard = False
        self._plain = bytearray()
        self._tls = SSL.Connection(self._context(certificate, key), None)
        if role == "client":
            self._tls.set_connect_state()
            self._shake()
        else:
            self._tls.set_accept_state()

    @property
    def handshake_done(self) -> bool:
        """Whether this end has verified the peer and can send."""
        return self._done and self._over is None

    @property
    def peer_accepted(self) -> bool:
        """Whether the peer is known to have accepted this end's certificate."""
        return self.handshake_done and (self._role == "server" or self._heard)

    @property
    def closed(self) -> bool:
        """Whether the peer has closed the session in order."""
        return self._closed

    @property
    def peer_certificate(self) -> bytes:
        """The peer's certificate, DER, as it was accepted.

        Raises:
            SessionStateError: None was accepted yet.
        """
        self._require_open()
        if self._judged is None:
            raise SessionStateError("no certificate was accepted")
        return self._judged

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer, in pieces of any size.

        Raises:
            PeerRefusedError: The peer ended the session by an alert.
            SessionFailedError: The bytes are not this session's.
            SessionStateError: The session is over.
            SealiftError: What ``verify_peer`` raised.
        """
        self._require_alive()
        for start in range(0, len(data), _CHUNK):
            self._write_all(data[start : start + _CHUNK])

    def take_output(self) -> bytes:
        """The bytes that wait to be sent to the peer; also after a failure."""
        pieces: list[bytes] = []
        while True:
            try:
                pieces.append(self._tls.bio_read(_CHUNK))
            except SSL.WantReadError:
                return b"".join(pieces)

    def send(self, plaintext: bytes) -> None:
        """Encrypt for the peer.

        Raises:
            SessionStateError: The handshake is not done, or the session is over.
        """
        self._require_open()
        self._guard(lambda: self._tls.sendall(plaintext))

    def receive(self) -> bytes:
        """All plaintext that has arrived; empty if none."""
        taken = bytes(self._plain)
        self._plain.clear()
        return taken

    def export_keying_material(self, label: bytes, size: int) -> bytes:
        """Secret bytes that only the two ends of this session have (RFC 8446 §7.5).

        Raises:
            SessionStateError: The handshake is not done.
        """
        self._require_open()
        return self._tls.export_keying_material(label, size)

    def close(self) -> None:
        """Say goodbye; the last output should be sent. Idempotent."""
        if self._over is None:
            if self._done:
                self._guard(self._tls.shutdown)
            self._over = SessionStateError("the session was closed")

    def _context(self, certificate: bytes, key: TlsKey) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_options(SSL.OP_NO_TICKET)  # resumption would skip the check
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._on_certificate
        )
        try:
            context.use_certificate(parse_certificate(certificate))
            context.use_privatekey(open_tls_key(key))
        except SSL.Error as error:
            raise SessionFailedError(
                "certificate and key do not fit", got=_reasons(error)
            ) from error
        return context

    def _on_certificate(
        self,
        _: SSL.Connection,
        certificate: crypto.X509,
        error: int,
        depth: int,
        _ok: int,
    ) -> bool:
        """OpenSSL asks several times; the decision falls once and is kept."""
        if depth != 0 or error not in _TOLERATED:
            return False
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        if self._judged is not None:
            return der == self._judged
        if self._over is not None:
            return False
        try:
            self._verify_peer(der)
        except SealiftError as refusal:
            self._over = refusal
            return False
        self._judged = der
        return True

    def _write_all(self, piece: bytes) -> None:
        while piece:
            written = self._tls.bio_write(piece)
            piece = piece[written:]
            if not self._done:
                self._shake()
            if self._done:
                self._read()

    def _shake(self) -> None:
        if self._guard(self._tls.do_handshake):
            self._done = True

    def _read(self) -> None:
        while not self._closed:
            if len(self._plain) > MAX_PENDING_BYTES:
                self._fail(SessionFailedError("the peer sent more than fits"))
            if not self._guard(self._read_some):
                return
            self._heard = True

    def _read_some(self) -> None:
        try:
            self._plain += self._tls.recv(_CHUNK)
        except SSL.ZeroReturnError:
            self._closed = True

    def _guard(self, act: Callable[[], object]) -> bool:
        """Run a step of TLS: False if it wants more bytes; typed errors."""
        try:
            act()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            self._fail(self._over or _named(error), error)
        return True

    def _fail(self, reason: SealiftError, cause: Exception | None = None) -> None:
        self._over = reason
        self._plain.clear()
        raise reason from cause

    def _require_alive(self) -> None:
        if self._over is not None or self._closed:
            raise SessionStateError("the session is over", got=self._over)

    def _require_open(self) -> None:
        if self._over is not None:
            raise SessionStateError("the session is over", got=self._over)
        if not self._done:
            raise SessionStateError("the handshake is not done")


def _reasons(error: SSL.Error) -> str:
    """OpenSSL's queue of reasons in words."""
    queue = error.args[0] if error.args else ()
    return ", ".join(str(entry[-1]) for entry in queue) or type(error).__name__


def _named(error: SSL.Error) -> SealiftError:
    """OpenSSL's failure as one of ours."""
    reasons = _reasons(error)
    if "alert" in reasons:
        return PeerRefusedError("the peer ended the session", got=reasons)
    return SessionFailedError("TLS failed", got=reasons)
