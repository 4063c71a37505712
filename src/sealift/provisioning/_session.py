"""The driver of one mu-ra session: bytes and proofs in, bytes and wishes out.

On the wire every chunk starts with one byte: 0 a plain message (before TLS is
open), 1 TLS bytes. Inside TLS each message is one frame. A session ends with
the first error, which both ends then know by name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, cast

from sealift.attestation import (
    RatlsSession,
    parse_ratls_certificate,
    verify_key_binding,
)
from sealift.base import (
    FrameReader,
    InvariantError,
    Message,
    SealiftError,
    TooLargeError,
    canonical_decode,
    encode,
    frame,
)
from sealift.protocol import (
    MuRaAcknowledged,
    MuRaChallenge,
    MuRaHello,
    MuRaMessage,
    MuRaReady,
    MuRaRefusal,
    Role,
    SealedKeyPackage,
)
from sealift.protocol.ecall import Registration

from ._errors import RefusedByPeerError, SessionOrderError
from ._ports import Instance, ProvenState
from ._steps import (
    Announce,
    Answer,
    Channel,
    Hear,
    Install,
    OpenTls,
    Prove,
    Say,
    Step,
    provide,
    request,
)
from ._table import ENDED, Event, State, next_state

#: Most bytes of one chunk and of one message.
MAX_CHUNK_BYTES = 256 * 1024
#: Most bytes that a session takes altogether: an attacker's cost is bounded.
MAX_SESSION_BYTES = 4 * 1024 * 1024
_PLAIN = b"\x00"
_TLS = b"\x01"
_EXPORTER_LABEL = b"EXPORTER-sealift-mu-ra"
_EXPORTER_BYTES = 32
_SHOWN_REFUSAL = 2000
_EVENTS: dict[type[Message], Event] = {
    MuRaHello: Event.HELLO,
    MuRaChallenge: Event.CHALLENGE,
    MuRaReady: Event.READY,
    SealedKeyPackage: Event.PACKAGE,
    MuRaAcknowledged: Event.ACKNOWLEDGED,
}
_TLS_ROLE: dict[Role, Literal["server", "client"]] = {
    "provider": "server",
    "requester": "client",
}


@dataclass(slots=True)
class Output:
    """What the host has to do next; ``error`` is (name, sentence)."""

    send: list[bytes] = field(default_factory=list)
    wanted: tuple[bytes, ...] = ()
    registration: Registration | None = None
    key_store: bytes | None = None
    done: bool = False
    error: tuple[str, str] | None = None


class MuRaSession:
    """One end of a session; after an error or ``done`` it is over.

    Args:
        role: Which end.
        instance: The enclave around it.
    """

    def __init__(self, role: Role, instance: Instance) -> None:
        self.role: Role = role
        self.state = State.P_HELLO if role == "provider" else State.R_CHALLENGE
        self._steps = provide(instance) if role == "provider" else request(instance)
        self._step: Step | None = None
        self._tls: RatlsSession | None = None
        self._early: list[bytes] = []
        self._frames = FrameReader(limit=MAX_CHUNK_BYTES)
        self._inbox: list[Message] = []
        self._taken = 0
        self._output = Output()

    def start(self) -> Output:
        """Begin; the requester speaks first."""
        return self._guarded(self._begin)

    def feed(self, chunks: Iterable[bytes]) -> Output:
        """Take what came from the other end, in order."""
        return self._guarded(lambda: self._take(chunks))

    def prove(self, state: ProvenState) -> Output:
        """Take proven state for the keys that were wanted."""
        return self._guarded(lambda: self._take_proof(state))

    def _guarded(self, act: Callable[[], None]) -> Output:
        self._output = Output()
        try:
            if self.state in ENDED:
                raise SessionOrderError("the session is over", got=self.state.value)
            act()
        except InvariantError:
            raise  # a bug is no refusal: the process ends before anything leaves
        except SealiftError as error:
            self._fail(error)
        return self._output

    def _begin(self) -> None:
        if self._step is not None:
            raise SessionOrderError("the session was started already")
        self._advance(None)

    def _fail(self, error: SealiftError) -> None:
        self._output.wanted, self._output.done = (), False
        self._output.error = (type(error).__name__, str(error))
        if self.state in ENDED:
            return
        self.state = State.FAILED
        self._steps.close()
        if not isinstance(error, RefusedByPeerError):
            refusal = MuRaRefusal(
                code=type(error).__name__, message=str(error)[:_SHOWN_REFUSAL]
            )
            self._send(refusal)

    def _advance(self, answer: Answer) -> None:
        """Run the steps until one has to wait."""
        while True:
            try:
                step = self._steps.send(answer)
            except StopIteration:
                self.state = State.DONE
                self._output.done = True
                return
            self._step, answer = step, None
            match step:
                case Say(message=message):
                    self._send(message)
                case Announce(registration=registration):
                    self._output.registration = registration
                case Install(key_store=key_store):
                    self._output.key_store = key_store
                case Prove(keys=keys):
                    self._output.wanted = keys
                    return
                case OpenTls():
                    self._open(step)
                    return
                case Hear():
                    if not self._inbox:
                        return
                    answer = self._hear(self._inbox.pop(0))

    def _hear(self, message: Message) -> Message:
        event = _EVENTS[type(message)]
        then = next_state(self.state, event)
        if then is not State.DONE:
            self.state = then
        return message

    def _take(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self._taken += len(chunk)
            if len(chunk) > MAX_CHUNK_BYTES or self._taken > MAX_SESSION_BYTES:
                raise TooLargeError(
                    "a session takes no more",
                    got=f"{self._taken} B",
                    expected=f"≤ {MAX_SESSION_BYTES} B",
                )
            if chunk[:1] == _TLS:
                self._take_tls(chunk[1:])
            elif chunk[:1] == _PLAIN:
                self._take_plain(chunk[1:])
            else:
                raise SessionOrderError("a chunk of no kind", got=chunk[:1])
            self._pump()

    def _take_plain(self, data: bytes) -> None:
        message = _not_refused(_parse(data))
        if self._tls is not None:
            raise SessionOrderError("a plain message after TLS was opened")
        self._accept(message)

    def _accept(self, message: Message) -> None:
        """Let a message in if it is the next; it may come ahead of my proofs."""
        state, event = self.state, _EVENTS[type(message)]
        if isinstance(self._step, Prove):
            state = next_state(state, Event.PROOFS)
        next_state(state, event)
        if self._inbox:
            raise SessionOrderError("a message twice", got=event.value)
        self._inbox.append(message)

    def _take_tls(self, data: bytes) -> None:
        if self._tls is None:
            self._early.append(data)
            return
        self._tls.feed(data)

    def _open(self, step: OpenTls) -> None:
        self._tls = RatlsSession(
            role=_TLS_ROLE[step.role],
            certificate=step.certificate,
            key=step.key,
            verify_peer=_well_formed,
        )
        for data in self._early:
            self._tls.feed(data)
        self._early.clear()
        self._pump()

    def _pump(self) -> None:
        """Move what is ready: TLS output, the handshake's end, messages."""
        if self._tls is not None:
            self._flush()
            if isinstance(self._step, OpenTls) and self._tls.handshake_done:
                self.state = next_state(self.state, Event.HANDSHAKE)
                channel = Channel(
                    peer_der=self._tls.peer_certificate,
                    exporter=self._tls.export_keying_material(
                        _EXPORTER_LABEL, _EXPORTER_BYTES
                    ),
                )
                self._advance(channel)
            for payload in self._frames.feed(self._tls.receive()):
                self._accept(_not_refused(_parse(payload)))
        if isinstance(self._step, Hear) and self._inbox:
            self._advance(self._hear(self._inbox.pop(0)))
        if self._tls is not None:
            self._flush()

    def _take_proof(self, state: ProvenState) -> None:
        self.state = next_state(self.state, Event.PROOFS)
        self._advance(state)
        self._pump()

    def _send(self, message: MuRaMessage) -> None:
        data = encode(message)
        if self._tls is not None and self._tls.handshake_done:
            self._tls.send(frame(data))
            self._flush()
        else:
            self._output.send.append(_PLAIN + data)

    def _flush(self) -> None:
        if self._tls is None:
            return
        data = self._tls.take_output()
        if data:
            self._output.send.append(_TLS + data)


def _parse(data: bytes) -> Message:
    kind = cast("type[Message]", MuRaMessage)
    return canonical_decode(kind, data, limit=MAX_CHUNK_BYTES)


def _not_refused(message: Message) -> Message:
    if isinstance(message, MuRaRefusal):
        words = f"{message.code}: {message.message}"[:_SHOWN_REFUSAL]
        # A stranger's words, on their way to logs and terminals.
        shown = "".join(each if each.isprintable() else "?" for each in words)
        raise RefusedByPeerError("the other end refused", got=shown)
    return message


def _well_formed(der: bytes) -> None:
    """Inside the handshake: evidence of this TLS key, whoever's it is.

    Whose, and whether it is good, is judged by the steps, before any secret.
    """
    verify_key_binding(parse_ratls_certificate(der))
