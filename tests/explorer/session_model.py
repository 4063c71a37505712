"""Provisioning as a graph of states: four enclaves, a chain, and a lying host.

The host keeps a bag of every chunk that was ever sent and delivers any of them to
any session, any number of times, or never. It forges what is not signed, is an end of
a channel itself, shows an enclave the chain late, restarts it from any key store it
ever saw, and has L1 take registrations, a cancel, a raised floor and a rotation
whenever it likes. It even breaks the record layer of the channel: key packages are
put into channels other than their own.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from session_chain import BORN, KINDS, RELEASE, SECRETS, Acts
from session_channel import (
    answered_by_host,
    certificate_in,
    flights,
    host_certificate,
    host_hello,
)
from session_enclaves import Enclaves, Event, Given, Outcome, act_of

from sealift.base import encode
from sealift.protocol import (
    MU_RA_VERSIONS,
    MuRaChallenge,
    MuRaHello,
    MuRaReady,
    SealedKeyPackage,
)
from sealift.provisioning import _session

_IN_CHANNEL = frozenset({"R_VERIFY", "R_KEYS"})
_TLS_STATES = frozenset({"P_TLS", "R_TLS"})


class Session(NamedTuple):
    """One open session; ``asked_at`` is L1's height when its challenge was made."""

    number: int
    role: str
    past: int
    state: str
    wanted: tuple[bytes, ...] = ()
    challenge: bytes = b""
    asked_at: int = 0
    channel: bytes = b""
    early: int = 0


class Enclave(NamedTuple):
    """One enclave: what it was shown of the chain, its key store, its sessions."""

    shown: int
    store: bytes
    opened: int = 0
    sessions: tuple[Session, ...] = ()


class World(NamedTuple):
    """One state of everything."""

    acts: Acts
    enclaves: tuple[tuple[str, Enclave], ...]
    bag: frozenset[bytes] = frozenset()
    registrations: frozenset[str] = frozenset()
    disks: frozenset[bytes] = frozenset()
    given: frozenset[tuple[Given, int, int]] = frozenset()
    restarts: int = 0
    broken: str = ""

    def of(self, name: str) -> Enclave:
        return dict(self.enclaves)[name]

    def having(self, name: str, enclave: Enclave) -> "World":
        changed = tuple((n, enclave if n == name else e) for n, e in self.enclaves)
        return self._replace(enclaves=changed)


class Bounds(NamedTuple):
    """How much of each: without bounds there is no end.

    ``providers`` and ``requesters`` say how often each enclave opens such an end.
    """

    providers: tuple[tuple[str, int], ...]
    requesters: tuple[tuple[str, int], ...]
    acts: tuple[str, ...] = ("cancel", "floor", "rotate")
    blocks: int = 4
    restarts: int = 0
    host_ends: bool = True


class Explored:
    """The moves of the host, and what must hold after each."""

    def __init__(self, enclaves: Enclaves, bounds: Bounds) -> None:
        self.enclaves, self.bounds = enclaves, bounds
        self._forged = self._forgeries()
        self._clean: set[bytes] = set()
        self._packages: dict[bytes, bytes] = {}
        self._senders: dict[bytes, str] = {}
        self._orders: dict[frozenset[bytes], list[bytes]] = {}
        self.refusals: dict[str, int] = {}

    def begin(self) -> World:
        born = self.enclaves.born
        return World(
            acts=(),
            enclaves=tuple((name, Enclave(0, born[name])) for name in sorted(KINDS)),
            disks=frozenset(born.values()),
        )

    def _forgeries(self) -> tuple[bytes, ...]:
        """Plain messages that anybody can write."""
        low, high = MU_RA_VERSIONS
        built = self.enclaves.built
        # Whoever has no record is refused as the next that has none.
        spoken = ["P", *(name for name, _ in self.bounds.requesters)]
        of = self.enclaves.chain.records
        said = [
            MuRaHello(
                version_low=low,
                version_high=high,
                shard=b"T" * 32,
                fingerprint=built["N"].me.mrenclave,
            ),
            *(MuRaReady(signing_key=of[n].statement.signing_key) for n in spoken),
        ]
        return tuple(b"\x00" + encode(one) for one in said)

    def _ordered(self, bag: frozenset[bytes]) -> list[bytes]:
        """The same order in every run, so that traces are the same."""
        if bag not in self._orders:
            self._orders[bag] = sorted(
                bag,
                key=lambda chunk: (self._senders.get(chunk, ""), told(chunk), chunk),
            )
        return self._orders[bag]

    # --- moves ---

    def moves(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self._chain_moves(world)
        for name, enclave in world.enclaves:
            yield from self._enclave_moves(world, name, enclave)
            for session in enclave.sessions:
                yield from self._session_moves(world, name, session)

    def _chain_moves(self, world: World) -> Iterator[tuple[str, World]]:
        height = BORN + len(world.acts) + 1
        if len(world.acts) >= self.bounds.blocks:
            return
        acts = ["nothing", *sorted(world.registrations - set(world.acts))]
        acts += [act for act in self.bounds.acts if act not in world.acts]
        for act in acts:
            if act == "rotate" and not self._owed(world.acts):
                continue
            yield f"block {height}: {act}", world._replace(acts=(*world.acts, act))

    def _owed(self, acts: Acts) -> bool:
        return self.enclaves.chain.schedule(acts).rotation is not None

    def _enclave_moves(
        self, world: World, name: str, enclave: Enclave
    ) -> Iterator[tuple[str, World]]:
        # Without an open session nothing hangs on when it is shown.
        if enclave.sessions:
            for shown in range(enclave.shown + 1, len(world.acts) + 1):
                after = self._shown(enclave, world.acts[:shown])
                yield (
                    f"show {BORN + shown} to {name}",
                    world.having(name, after)._replace(
                        disks=world.disks | {after.store}
                    ),
                )
        for role, often in (
            ("provider", self.bounds.providers),
            ("requester", self.bounds.requesters),
        ):
            for who, times in often:
                tried = enclave.opened >> (4 * (role == "provider")) & 15
                if who == name and tried < times:
                    opened = self._opened(world, name, enclave, role)
                    if opened is not None:
                        yield f"{name} opens as {role}", opened
        if world.restarts < self.bounds.restarts:
            yield from self._restarts(world, name, enclave)

    def _shown(self, enclave: Enclave, acts: Acts) -> Enclave:
        store = enclave.store
        for height in range(enclave.shown + 1, len(acts) + 1):
            store = self.enclaves.settled(store, acts[:height])
        return enclave._replace(shown=len(acts), store=store)

    def _opened(
        self, world: World, name: str, enclave: Enclave, role: str
    ) -> World | None:
        counted = enclave.opened + (16 if role == "provider" else 1)
        number = (counted >> 4) + (counted & 15)
        outcome = self.enclaves.happens(
            name,
            number,
            0,
            Event("open", role),
            acts=world.acts[: enclave.shown],
            store=enclave.store,
            others=len(enclave.sessions),
        )
        if outcome.error:  # no keys, or too many sessions
            self._note(outcome.error)
            return None
        session = Session(number, role, 0, "")
        enclave = enclave._replace(
            opened=counted, sessions=(*enclave.sessions, session)
        )
        return self._happened(world.having(name, enclave), name, session, outcome)

    def _restarts(
        self, world: World, name: str, enclave: Enclave
    ) -> Iterator[tuple[str, World]]:
        """From any key store that exists, the chain as at the trust root.

        A checkpoint only spares it what it can be shown again.
        """
        for blob in self._ordered(world.disks):
            owner = self.enclaves.owner_of(blob)
            holds = self.enclaves.epochs(blob)
            error = self.enclaves.started(name, blob)
            if error:
                self._note(error)
                continue
            after = Enclave(0, blob, enclave.opened)
            if enclave.sessions or after != enclave:
                what = f"restart {name} with {owner}'s {holds}"
                restarted = world._replace(restarts=world.restarts + 1)
                yield what, restarted.having(name, after)

    def _session_moves(
        self, world: World, name: str, session: Session
    ) -> Iterator[tuple[str, World]]:
        enclave = world.of(name)
        label = f"{name}/{session.number}"
        rest = tuple(one for one in enclave.sessions if one is not session)
        yield (
            f"drop {label}",
            world.having(name, enclave._replace(sessions=rest)),
        )
        for what, chunk in self._chunks(world, session):
            after = self._event(world, name, session, Event("feed", chunk))
            if after is not None:
                yield f"{what} to {label}", after
        if session.wanted:
            for shown in range(len(world.acts) + 1):
                proven = (world.acts[:shown], session.wanted)
                after = self._event(world, name, session, Event("prove", proven))
                if after is not None:
                    yield f"prove {BORN + shown} to {label}", after
            nothing = (world.acts[: enclave.shown], ())
            after = self._event(world, name, session, Event("prove", nothing))
            if after is not None:
                yield f"prove nothing to {label}", after

    def _chunks(self, world: World, session: Session) -> Iterator[tuple[str, bytes]]:
        early = session.state not in {*_TLS_STATES, *_IN_CHANNEL, "P_VERIFY", "P_ACK"}
        for chunk in self._ordered(world.bag):
            if chunk[:1] == b"\x01" and early and session.early:
                continue  # one chunk waits for the channel, not every heap of them
            yield f"{self._senders[chunk]}'s {told(chunk)}", chunk
        for chunk in self._forged:
            yield "forged " + told(chunk), chunk
        if session.role == "requester" and session.state == "R_CHALLENGE":
            yield from self._misnamed(world)
        if self.bounds.host_ends and session.state in _TLS_STATES:
            yield from self._host_flights(world, session)
        if session.state in _IN_CHANNEL:
            yield from self._injected(world, session)

    def _misnamed(self, world: World) -> Iterator[tuple[str, bytes]]:
        """A provider's challenge in another enclave's name."""
        for chunk in self._ordered(world.bag):
            if b"MuRaChallenge" not in chunk:
                continue
            said = _session._parse(chunk[1:])
            if not isinstance(said, MuRaChallenge):
                continue
            twin = self.enclaves.chain.records["Q"].statement.signing_key
            forged = MuRaChallenge(
                version=said.version,
                challenge=said.challenge,
                provider=twin,
                head_height=said.head_height,
                head_hash=said.head_hash,
            )
            if forged != said:
                yield "challenge as if by Q", b"\x00" + encode(forged)

    def _host_flights(
        self, world: World, session: Session
    ) -> Iterator[tuple[str, bytes]]:
        """The host as an end, with its own key and evidence of others."""
        if session.state == "P_TLS":
            yield "the host's hello", b"\x01" + host_hello()
        seen = [chunk for chunk in self._ordered(world.bag) if chunk[:1] == b"\x01"]
        stolen = (certificate_in(chunk[1:]) for chunk in seen)
        for certificate in sorted({one for one in stolen if one is not None}):
            mine = host_certificate(certificate)
            for chunk in seen:
                answer = answered_by_host(self.enclaves.wires, chunk[1:], mine)
                if answer is not None:
                    yield "the host's flight", b"\x01" + answer

    def _injected(self, world: World, session: Session) -> Iterator[tuple[str, bytes]]:
        """Packages of other channels, as if the record layer were broken."""
        for chunk in self._ordered(world.bag):
            package = self._packages.get(chunk)
            if package is not None:
                forged = self.enclaves.wires.record(
                    session.channel, "server", 0, package
                )
                yield "inject a package", b"\x01" + forged

    def _event(
        self, world: World, name: str, session: Session, event: Event
    ) -> World | None:
        enclave = world.of(name)
        outcome = self.enclaves.happens(
            name,
            session.number,
            session.past,
            event,
            acts=world.acts[: enclave.shown],
            store=enclave.store,
        )
        if outcome.error:
            self._note(outcome.error)
        if outcome.past == session.past:
            return None  # refused, and the session goes on as before
        if outcome.state == "FAILED":
            return None  # to a host the same as if it had dropped the session
        if event.what == "feed" and event.argument[:1] == b"\x01":
            waits = outcome.state == session.state and not outcome.sends
            session = session._replace(early=session.early + waits)
        return self._happened(world, name, session, outcome)

    def _happened(
        self, world: World, name: str, session: Session, outcome: Outcome
    ) -> World:
        enclave = world.of(name)
        asked_at = session.asked_at
        if session.role == "provider" and outcome.challenge:
            asked_at = len(world.acts)
        moved = session._replace(
            past=outcome.past,
            state=outcome.state,
            wanted=outcome.wanted,
            challenge=outcome.challenge or session.challenge,
            asked_at=asked_at,
            channel=outcome.channel,
        )
        kept = tuple(
            moved if one.number == session.number else one for one in enclave.sessions
        )
        if outcome.over:
            kept = tuple(one for one in kept if one is not moved)
        enclave = enclave._replace(sessions=kept, store=outcome.store or enclave.store)
        sent = frozenset(outcome.sends)
        for chunk in outcome.sends:
            self._senders.setdefault(chunk, f"{name}/{session.number}")
        if outcome.given is not None:
            self._remember(outcome)
        after = world.having(name, enclave)._replace(bag=world.bag | sent)
        if outcome.store:
            after = after._replace(disks=world.disks | {outcome.store})
        if outcome.registers:
            act = act_of(f"{name}/{session.number}", outcome.registers)
            after = after._replace(registrations=world.registrations | {act})
        given = outcome.given
        if given is not None:
            told_at = (given, enclave.shown, moved.asked_at)
            broken = self._given_broken(world, given, enclave.shown, moved)
            after = after._replace(given=world.given | {told_at}, broken=broken)
        return after._replace(
            broken=after.broken or self._session_broken(name, moved, outcome)
        )

    def _remember(self, outcome: Outcome) -> None:
        """What a package record holds, for the host that breaks records."""
        for chunk in outcome.sends:
            for flight in flights(chunk[1:]):
                said = self.enclaves.wires.said.get(flight.random, b"")
                if SealedKeyPackage.__name__.encode() in said:
                    self._packages[chunk] = said

    def _note(self, error: str) -> None:
        self.refusals[error] = self.refusals.get(error, 0) + 1

    # --- what must hold in every state ---

    def violation(self, world: World) -> str:
        """Which invariant a state breaks; empty while none."""
        return (
            world.broken or self._held_by_others(world) or self._secret_outside(world)
        )

    def _given_broken(
        self, world: World, given: Given, shown: int, session: Session
    ) -> str:
        """Invariants 3 and 11, when a package leaves: judged by the ground truth."""
        seen = world.acts[:shown]
        taker = given.to
        if KINDS[given.by].code != KINDS["P"].code:
            return f"3: {given.by} gave keys before its generation's time"
        if taker not in KINDS:
            return f"3: {given.by} sealed keys to {taker}"
        if not given.channel_to.startswith(f"{taker}/"):
            return f"3: {taker}'s keys went into a channel with {given.channel_to}"
        mine = f"register {taker}/"
        held = [n for n, act in enumerate(seen, 1) if act.startswith(mine)]
        if not held:
            return f"3: {taker} got keys without a registration"
        record = self.enclaves.chain.records[seen[held[-1] - 1]]
        if record.statement.challenge != session.challenge:
            return f"11: {taker} got keys for another session's registration"
        if held[-1] <= session.asked_at:
            return f"3: stale: {taker} got keys by a block older than the question"
        late = self._unentitled(given, seen, held[-1])
        return late or self._given_twice(world, given)

    @staticmethod
    def _unentitled(given: Given, seen: Acts, held: int) -> str:
        """Notice, cancel and floor, by what the provider was shown."""
        taker = given.to
        same = KINDS[taker].code == KINDS["P"].code
        after_notice = KINDS[taker].code == KINDS["N"].code and BORN + held >= RELEASE
        if not same and not after_notice:
            return f"3: {taker} got keys in block {BORN + held}, unscheduled then"
        if not same and "cancel" in seen:
            return f"3: {given.by} answered {taker} after a cancel it had seen"
        if KINDS[taker].isv_svn < 3 and "floor" in seen:
            return f"3: {given.by} answered {taker} under a floor it had seen"
        return ""

    @staticmethod
    def _given_twice(world: World, given: Given) -> str:
        for other, _, _ in world.given:
            if other.challenge == given.challenge:
                return f"11: one challenge gave keys to {other.to} and {given.to}"
        return ""

    def _session_broken(self, name: str, session: Session, outcome: Outcome) -> str:
        if outcome.state in {"P_ACK", "R_KEYS"} and outcome.peer == "host":
            return f"3: {name} takes the host for an enclave"
        taken = outcome.taken
        if taken is not None and (
            taken.to != name
            or taken.challenge != session.challenge
            or taken.channel != outcome.channel
        ):
            return f"11: {name} took keys of another session"
        return ""

    def _held_by_others(self, world: World) -> str:
        """Invariants 3 and 8: who holds what, however it came there."""
        for name, enclave in world.enclaves:
            epochs = self.enclaves.epochs(enclave.store)
            if name == "X" and epochs:
                return f"3: {name} holds epochs {epochs}"
            withdrawn = name == "N" and "rotate" in world.acts
            if withdrawn and self.enclaves.holds_next(enclave.store):
                return f"8: {name} holds epoch 1, which began after its withdrawal"
        return ""

    def _secret_outside(self, world: World) -> str:
        """No byte of a key in what a host has."""
        for chunk in world.bag:
            if chunk in self._clean:
                continue
            if any(secret in chunk for secret in SECRETS):
                return "3: a host reads a key"
            self._clean.add(chunk)
        return ""


@cache
def told(chunk: bytes) -> str:
    """A chunk by its kind."""
    if chunk[:1] == b"\x00":
        return type(_session._parse(chunk[1:])).__name__[4:].lower()
    if chunk[:1] != b"\x01":
        return "store"
    for kind in (b"hello", b"answer", b"finish", b"record"):
        if kind in chunk[:16]:
            return f"TLS {kind.decode()}"
    return "TLS"
