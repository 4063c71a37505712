"""A channel whose bytes repeat: RA-TLS as the sessions use it, without OpenSSL.

OpenSSL takes no entropy from outside, and its connections can't be copied. Here a
flight names its randoms, carries the real certificate and a proof that only the
holder of its key can make; the real ``verify_peer`` judges the certificate. What is
said inside a channel is an opaque number that no host can open. The host may be an
end itself, with a key of its own: see :func:`answered_by_host`.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sealift.attestation import (
    RatlsFormatError,
    SessionFailedError,
    TlsKey,
    generate_tls_key,
    make_session_certificate,
    parse_ratls_certificate,
)
from sealift.base import SealiftError
from sealift.crypto import sha256

HELLO, ANSWER, FINISH, RECORD = "hello", "answer", "finish", "record"
#: The only keys that a host has.
HOST_KEY = generate_tls_key(lambda size: b"h" * size)
HOST_RANDOM = sha256(b"the host's random")


class Flight(msgspec.Struct, frozen=True, array_like=True):
    """Bytes on the wire: ``link`` is the hash of what they answer."""

    kind: str
    link: bytes
    random: bytes = b""
    certificate: bytes = b""
    proof: bytes = b""
    direction: str = ""
    number: int = 0


@dataclass
class Wires:
    """What holds for all channels of one exploration.

    ``secrets`` are the TLS keys that exist, ``said`` what records hold.
    """

    secrets: dict[bytes, bytes] = field(default_factory=dict)
    said: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.secrets[HOST_KEY.public] = HOST_KEY.secret

    def proof(self, public: bytes, transcript: bytes) -> bytes:
        """Only whoever has the secret key makes it; anybody verifies it."""
        return hmac.digest(self.secrets[public], transcript, "sha256")

    def record(self, channel: bytes, direction: str, number: int, said: bytes) -> bytes:
        """Bytes inside a channel, for those that have its secrets."""
        name = hashlib.sha256(
            b"record" + channel + direction.encode() + bytes([number]) + said
        ).digest()
        self.said[name] = said
        return packed(Flight(RECORD, channel, name, b"", b"", direction, number))


def packed(flight: Flight) -> bytes:
    data = msgspec.msgpack.encode(flight)
    return len(data).to_bytes(4) + data


def flights(data: bytes) -> list[Flight]:
    """Raises SessionFailedError for anything else than whole flights."""
    found = []
    while data:
        size = int.from_bytes(data[:4])
        try:
            found.append(msgspec.msgpack.decode(data[4 : 4 + size], type=Flight))
        except msgspec.MsgspecError as error:
            raise SessionFailedError("not a flight of this channel") from error
        data = data[4 + size :]
    return found


def transcript(*sent: Flight) -> bytes:
    return sha256(b"".join(packed(one) for one in sent))


class Channel:
    """One end: the part of ``RatlsSession`` that mu-ra uses."""

    wires: Wires
    entropy: Callable[[int], bytes]

    def __init__(
        self,
        *,
        role: str,
        certificate: bytes,
        key: TlsKey,
        verify_peer: Callable[[bytes], None],
    ) -> None:
        self.role, self.certificate, self.key = role, certificate, key
        self.wires = type(self).wires
        self._random = type(self).entropy(32)
        self._verify_peer = verify_peer
        self._out = bytearray()
        self._plain = bytearray()
        self._over: SealiftError | None = None
        self._numbers = {"client": 0, "server": 0}
        self._hello: Flight | None = None
        self._answer: Flight | None = None
        self.peer_certificate = b""
        self.name = b""
        self.handshake_done = False
        if role == "client":
            self._hello = Flight(HELLO, b"", self._random)
            self._out += packed(self._hello)

    # --- as RatlsSession ---

    def feed(self, data: bytes) -> None:
        if self._over is not None:
            raise SessionFailedError("the session is over", got=self._over)
        try:
            for flight in flights(data):
                self._take(flight)
        except SealiftError as error:
            self._over = error
            raise

    def take_output(self) -> bytes:
        data, self._out = bytes(self._out), bytearray()
        return data

    def send(self, plaintext: bytes) -> None:
        number = self._numbers[self.role]
        self._numbers[self.role] += 1
        self._out += self.wires.record(self.name, self.role, number, plaintext)

    def receive(self) -> bytes:
        data, self._plain = bytes(self._plain), bytearray()
        return data

    def export_keying_material(self, label: bytes, size: int) -> bytes:
        return hashlib.shake_256(b"exporter" + label + self.name).digest(size)

    # --- the handshake ---

    def _take(self, flight: Flight) -> None:
        step = (self.role, flight.kind)
        if flight.kind == RECORD:
            self._take_record(flight)
        elif step == ("server", HELLO) and self._hello is None:
            self._hello = flight
            bare = Flight(ANSWER, transcript(flight), self._random, self.certificate)
            self._answer = self._proven(bare)
            self._out += packed(self._answer)
        elif step == ("client", ANSWER) and not self.handshake_done:
            if self._hello is None or flight.link != transcript(self._hello):
                raise SessionFailedError("an answer to another hello")
            self._verify(flight)
            self._answer = flight
            self._open()
            bare = Flight(FINISH, self.name, b"", self.certificate)
            self._out += packed(self._proven(bare))
        elif step == ("server", FINISH) and self._answer and not self.handshake_done:
            if self._hello is None or flight.link != transcript(
                self._hello, self._answer
            ):
                raise SessionFailedError("the end of another handshake")
            self._verify(flight)
            self._open()
        else:
            raise SessionFailedError("a flight out of order", got=flight.kind)

    def _proven(self, bare: Flight) -> Flight:
        proof = self.wires.proof(self.key.public, transcript(bare))
        return msgspec.structs.replace(bare, proof=proof)

    def _verify(self, flight: Flight) -> None:
        public = parse_ratls_certificate(flight.certificate).public_key
        bare = msgspec.structs.replace(flight, proof=b"")
        if flight.proof != self.wires.proof(public, transcript(bare)):
            raise SessionFailedError("the peer does not hold its key")
        self._verify_peer(flight.certificate)
        self.peer_certificate = flight.certificate

    def _open(self) -> None:
        if self._hello is None or self._answer is None:
            raise SessionFailedError("no handshake")
        self.name = transcript(self._hello, self._answer)
        self.handshake_done = True

    def _take_record(self, flight: Flight) -> None:
        other = "server" if self.role == "client" else "client"
        wanted = (self.name, other, self._numbers[other])
        if not self.handshake_done or wanted != (
            flight.link,
            flight.direction,
            flight.number,
        ):
            raise SessionFailedError("a record of another place")
        if flight.random not in self.wires.said:
            raise SessionFailedError("a record that nobody made")
        self._numbers[other] += 1
        self._plain += self.wires.said[flight.random]


# --- what a host does as an end ---


def host_hello() -> bytes:
    """The host opens a channel to a provider itself."""
    return packed(Flight(HELLO, b"", HOST_RANDOM))


def host_certificate(stolen: bytes) -> bytes:
    """The host's own key, with the quote, nonce and binding of somebody's."""
    evidence = parse_ratls_certificate(stolen)
    return make_session_certificate(
        key=HOST_KEY,
        nonce=evidence.nonce or b"",
        binding=evidence.binding or b"",
        quote=lambda _: evidence.quote,
    )


def answered_by_host(wires: Wires, seen: bytes, certificate: bytes) -> bytes | None:
    """The host's answer to a flight that it saw, under its own key."""
    try:
        (flight,) = flights(seen)
    except (SessionFailedError, ValueError):
        return None
    if flight.kind == HELLO and flight.random != HOST_RANDOM:
        bare = Flight(ANSWER, transcript(flight), HOST_RANDOM, certificate)
    elif flight.kind == ANSWER and flight.link == transcript(
        Flight(HELLO, b"", HOST_RANDOM)
    ):
        hello = Flight(HELLO, b"", HOST_RANDOM)
        bare = Flight(FINISH, transcript(hello, flight), b"", certificate)
    else:
        return None
    proof = wires.proof(HOST_KEY.public, transcript(bare))
    return packed(msgspec.structs.replace(bare, proof=proof))


def certificate_in(seen: bytes) -> bytes | None:
    """The certificate that a flight carries; a host sees it, which is generous."""
    try:
        found = [one.certificate for one in flights(seen) if one.certificate]
    except SessionFailedError:
        return None
    return found[0] if found else None


def owner_key(certificate: bytes) -> bytes:
    """The public key of a certificate, empty if it can't be read."""
    try:
        return parse_ratls_certificate(certificate).public_key
    except RatlsFormatError:
        return b""


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which does the same work once: refusals too.

    Quotes, certificates and HPKE are real; their random parts so repeat.
    """
    known: dict[Any, tuple[Any, SealiftError | None]] = {}

    def again(*args: Any, **options: Any) -> Any:
        key = (args, tuple(sorted(options.items())))
        found = known.get(key)
        if found is None:
            try:
                found = (function(*args, **options), None)
            except SealiftError as error:
                found = (None, error)
            known[key] = found
        if found[1] is not None:
            raise found[1].with_traceback(None)
        return found[0]

    return again
