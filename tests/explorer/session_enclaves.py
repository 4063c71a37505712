"""Enclaves and their chain, as a function: a session's past, and one event more.

What runs is the real session table of an enclave, with the real sessions, quotes,
certificates, HPKE, key stores, schedules and proofs of L1's state; the channel is
:mod:`session_channel`'s. A session is a generator and can't be copied, but it is a
function of what it was fed: so it is played again from its past, once for each
event that is new, and never twice.
"""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from session_chain import (
    BORN,
    CHAIN,
    KINDS,
    NOW,
    SHARD,
    Acts,
    Chain,
    Kind,
    Shown,
    epoch_keys,
    repeating,
)
from session_channel import Channel, Wires, owner_key, remembered

from sealift.attestation import (
    generate_tls_key,
    make_session_certificate,
    parse_collateral,
    parse_ratls_certificate,
    parse_trust_anchor,
    verify_key_binding,
    verify_ratls,
)
from sealift.base import InvariantError, SealiftError, decode, encode
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.crypto import hpke_open, hpke_seal, rsa_generate, sha256
from sealift.enclave import _keystore, _sessions
from sealift.enclave._epochs import settle_epochs
from sealift.enclave._keystore import KeyStore, open_key_store, seal_key_store
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.protocol import (
    CollateralRecord,
    EnclaveRecord,
    Frontier,
    RegistrationStatement,
    Schedule,
)
from sealift.protocol.ecall import FeedSession, OpenSession, ProveSession
from sealift.protocol.platform import IdentityReply, SealKeyReply
from sealift.provisioning import _session, _steps

OPERATOR = b"o" * 32
OPEN_AT_ONCE = 2


class Given(NamedTuple):
    """Ground truth of one key package that a provider sealed."""

    by: str
    session: int
    challenge: bytes
    to: str
    channel_to: str
    epochs: tuple[int, ...]
    channel: bytes


class Outcome(NamedTuple):
    """What an event did: the longer past, what went out, what the truth is."""

    past: int
    state: str
    sends: tuple[bytes, ...] = ()
    wanted: tuple[bytes, ...] = ()
    registers: bytes = b""
    store: bytes = b""
    error: str = ""
    challenge: bytes = b""
    given: Given | None = None
    taken: Given | None = None
    channel: bytes = b""
    peer: str = ""

    @property
    def over(self) -> bool:
        return self.state in {"DONE", "FAILED"}


class Event(NamedTuple):
    """``open`` by role, ``feed`` a chunk, or ``prove`` after a height."""

    what: str
    argument: Any


class View(NamedTuple):
    height: int
    schedule: Schedule
    frontier: Frontier


class Held:
    """What a session uses of an enclave's shard; notes what it was asked."""

    chain_id, shard = CHAIN, SHARD

    def __init__(self, enclave: "Built") -> None:
        self.me, self.platform = enclave.me, enclave
        self.entropy: Any = None
        self.touched = False

    def put(self, chain: "Chain", acts: Acts, keys: KeyStore) -> None:
        self._relay = Shown(chain, acts)
        self._view = View(BORN + len(acts), chain.schedule(acts), chain.frontier)
        self._keys = keys

    def check_going(self) -> None:
        """The relay has seen no fork."""

    @property
    def relay(self) -> Shown:
        self.touched = True
        return self._relay

    @property
    def view(self) -> View:
        self.touched = True
        return self._view

    @property
    def keys(self) -> KeyStore:
        return self._keys

    @keys.setter
    def keys(self, keys: KeyStore) -> None:
        self.touched = True
        self._keys = keys


class Built:
    """One enclave on its machine: the port of its platform, and who it is."""

    def __init__(
        self, intel: SimIntel, vendor: bytes, name: str, kind: Kind, policy: str
    ) -> None:
        self.name, self.kind, self.policy = name, kind, policy
        self.machine = SimMachine(
            intel, kind.machine, entropy=repeating(kind.machine.encode())
        )
        measured = measure({"app/a.py": kind.code})
        tbs = make_tbs(
            measured, isv_prod_id=1, isv_svn=kind.isv_svn, date=dt.date(2026, 11, 23)
        )
        self.identity = self.machine.einit(measured, sign_sigstruct(tbs, vendor))
        self.me = IdentityReply(
            kind="insecure-sim",
            mrenclave=self.identity.mrenclave,
            mrsigner=self.identity.mrsigner,
            isv_prod_id=1,
            isv_svn=kind.isv_svn,
            cpu_svn=self.machine.cpu_svn,
        )
        self.quote = remembered(lambda data: self.machine.quote(self.identity, data))

    def seal_key(
        self, label: bytes, *, cpu_svn: bytes | None, isv_svn: int | None
    ) -> SealKeyReply:
        made = self.machine.egetkey(
            self.identity,
            policy=self.policy,
            key_id=label,
            isv_svn=isv_svn,
            cpu_svn=cpu_svn,
        )
        return SealKeyReply(key=made.key, cpu_svn=made.cpu_svn, isv_svn=made.isv_svn)


class Enclaves:
    """All enclaves of one exploration, and what is known of their sessions.

    Args:
        folder: For the simulated Intel and its machines.
        seed: ``seed(enclave, session)``: what a session's entropy starts from.
        policy: What key stores are sealed to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: Callable[[str, int], bytes] = lambda who, n: f"{who} {n}".encode(),
        policy: str = "mrenclave",
    ) -> None:
        intel, vendor = SimIntel(folder), rsa_generate()
        self._seed = seed
        self.wires = Wires()
        collateral = parse_collateral(intel.collateral_json(now=NOW))
        record = CollateralRecord(
            collateral=encode(collateral),
            recorded_at=1,
            tcb_issued_at=NOW,
            qe_issued_at=NOW,
            tcb_evaluation_number=1,
            qe_evaluation_number=1,
            pck_crl_number=1,
            root_crl_number=1,
        )
        self.anchors = (parse_trust_anchor(intel.root_der),)
        self.chain = Chain((intel.fmspc, encode(record)))
        self.built = {
            name: Built(intel, vendor, name, kind, policy)
            for name, kind in KINDS.items()
        }
        self.stores: dict[bytes, KeyStore] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._owners = {b"": "host"}
        self._sealed: dict[bytes, Given] = {}
        self._current = ("host", 0)
        self._fact: dict[str, Given] = {}
        self._pasts: list[tuple[tuple[Event, Any], ...]] = [()]
        self._past_ids: dict[Any, int] = {(): 0}
        self._known: dict[Any, Outcome] = {}
        self._live: list[Channel] = []
        self.played = 0
        self.born = {name: self._birth(name) for name in KINDS}

    # --- birth, disks ---

    def _birth(self, name: str) -> bytes:
        entropy = repeating(b"birth " + name.encode())
        tls = generate_tls_key(entropy)
        kind = KINDS[name]
        keys = KeyStore(
            chain_id=CHAIN,
            shard=SHARD,
            seed=entropy(32),
            hpke_seed=entropy(32),
            tls_public=tls.public,
            tls_secret=tls.secret,
            epochs=tuple(epoch_keys(e) for e in kind.epochs),
            staged=epoch_keys(1) if kind.epochs else None,
        )
        self._owners[keys.hpke_key] = name
        self._owners[keys.signing_key] = name
        self._owners[keys.seed] = name
        statement = RegistrationStatement(
            chain_id=CHAIN,
            shard=SHARD,
            operator=OPERATOR,
            signing_key=keys.signing_key,
            tls_key=sha256(tls.public),
            hpke_key=keys.hpke_key,
            block_height=1,
            block_hash=bytes(32),
        )
        self.chain.records[name] = self.record(name, statement)
        sealed = seal_key_store(keys, self.built[name], entropy=entropy)
        return self.kept(sealed, keys)

    def kept(self, sealed: bytes, keys: KeyStore) -> bytes:
        """One blob for all that hold the same: nonces tell a host nothing."""
        blob = self._blobs.setdefault(encode(keys), sealed)
        self.stores[blob] = keys
        return blob

    def started(self, name: str, blob: bytes) -> str:
        """Why an enclave does not start with a key store; empty if it does."""
        key = ("start", name, blob)
        if key not in self._known:
            error = ""
            try:
                keys = open_key_store(
                    blob, self.built[name], chain_id=CHAIN, shard=SHARD
                )
            except SealiftError as refusal:
                error = type(refusal).__name__
            else:
                if keys != self.stores[blob]:
                    raise InvariantError("another key store than was sealed")
            self._known[key] = Outcome(0, "", error=error)
        return self._known[key].error

    def owner_of(self, blob: bytes) -> str:
        """Whose key store this is."""
        return self._owners[self.stores[blob].seed]

    def settled(self, blob: bytes, acts: Acts) -> bytes:
        """The key store after the enclave followed the chain so far."""
        key = ("settle", blob, acts)
        if key not in self._known:
            keys = settle_epochs(self.stores[blob], self.chain.schedule(acts))
            found = blob
            if keys != self.stores[blob]:
                owner = self.built[self.owner_of(blob)]
                found = self.kept(
                    seal_key_store(keys, owner, entropy=repeating(blob)), keys
                )
            self._known[key] = Outcome(0, "", store=found)
        return self._known[key].store

    def epochs(self, blob: bytes) -> tuple[int, ...]:
        return tuple(keys.epoch for keys in self.stores[blob].epochs)

    def holds_next(self, blob: bytes) -> bool:
        """Whether it has the keys of epoch 1, acting or not."""
        keys = self.stores[blob]
        return epoch_keys(1) in (*keys.epochs, keys.staged)

    def record(self, name: str, statement: RegistrationStatement) -> EnclaveRecord:
        me = self.built[name].me
        return EnclaveRecord(
            statement=statement,
            operator=statement.operator,
            platform=me.kind,
            fingerprint=me.mrenclave,
            mr_signer=me.mrsigner,
            isv_prod_id=me.isv_prod_id,
            isv_svn=me.isv_svn,
            platform_id=sha256(KINDS[name].machine.encode()),
            tcb_status="UpToDate",
            advisories=(),
            tcb_evaluation_number=1,
            registered_at=5,
            attested_at=5,
        )

    # --- sessions ---

    def happens(
        self,
        who: str,
        number: int,
        past: int,
        event: Event,
        *,
        acts: Acts,
        store: bytes,
        others: int = 0,
    ) -> Outcome:
        """What an event does to a session with this past, in an enclave so far.

        Args:
            who: The enclave.
            number: The session's.
            past: As :class:`Outcome` numbers it; 0 before it is opened.
            event: What happens.
            acts: The chain as the enclave was shown it.
            store: Its key store.
            others: How many sessions are open beside this one.
        """
        key = (who, number, past, event, acts, store, others)
        found = self._known.get(key)
        if found is None:
            found = self._play((who, number, past), event, acts, store, others)
            self._known[key] = found
        return found

    def _play(
        self,
        session_of: tuple[str, int, int],
        event: Event,
        acts: Acts,
        store: bytes,
        others: int,
    ) -> Outcome:
        who, number, past = session_of
        self.played += 1
        held = Held(self.built[who])
        held.entropy = Channel.entropy = repeating(self._seed(who, number))
        table = _sessions.Sessions(held, self.anchors)
        table._last = number - 1
        table._open = {-n: mock.sentinel.other for n in range(1, others + 1)}
        self._current, self._live = (who, number), []
        for before, (then, kept) in self._pasts[past]:
            held.put(self.chain, then, self.stores[kept])
            self._call(table, number, before)
        held.put(self.chain, acts, self.stores[store])
        session = table._open.get(number)
        held.touched, self._fact = event.what == "prove", {}
        try:
            reply = self._call(table, number, event)
        except SealiftError as error:  # refused by the table: nothing has changed
            name = "" if session is None else session.state.name
            return Outcome(past, name, error=type(error).__name__)
        session = session or table._open.get(number)
        # A step that did not ask the enclave is the same whatever that was shown.
        seen = acts if held.touched else ()
        opens = event.what == "open"
        context = (seen, store if held.touched or opens else self.born[who])
        return self._outcome(past, (event, context), reply, held, session)

    def _outcome(
        self, past: int, step: Any, reply: Any, held: Held, session: Any
    ) -> Outcome:
        who, number_of = self._current
        state = session.state.name
        channel = self._live[-1] if self._live else None
        peer, name = "", b""
        if channel is not None and channel.handshake_done:
            peer = self.owner(owner_key(channel.peer_certificate))
            name = channel.name
        registers, challenge, kept = b"", b"", b""
        if reply.registration is not None:
            statement = reply.registration.statement
            registers = encode(statement)
            act = act_of(f"{who}/{number_of}", registers)
            self.chain.records[act] = self.record(who, statement)
            challenge = statement.challenge
        for chunk in reply.send:
            if b"MuRaChallenge" in chunk:
                challenge = _session._parse(chunk[1:]).challenge
        if reply.key_store is not None:
            kept = self.kept(reply.key_store, held.keys)
        over = reply.done or reply.error is not None
        longer = (*self._pasts[past], step)
        number = -1 if over else self._past_ids.setdefault(longer, len(self._pasts))
        if number == len(self._pasts):
            self._pasts.append(longer)
        return Outcome(
            past=number,
            state=state,
            sends=() if reply.error else reply.send,
            wanted=reply.wanted,
            registers=registers,
            store=kept,
            error=reply.error[0] if reply.error else "",
            challenge=challenge,
            given=self._fact.get("given"),
            taken=self._fact.get("taken") if reply.key_store else None,
            channel=name,
            peer=peer,
        )

    def _call(self, table: Any, number: int, event: Event) -> Any:
        if event.what == "open":
            return table.open(OpenSession(role=event.argument, operator=OPERATOR))
        if event.what == "feed":
            return table.feed(FeedSession(session=number, data=(event.argument,)))
        acts, wanted = event.argument
        proofs = self.chain.proofs(acts, wanted)
        height = BORN + len(acts)
        return table.prove(ProveSession(session=number, height=height, proofs=proofs))

    def owner(self, public: bytes) -> str:
        return self._owners.get(public, "host")

    # --- the doubles ---

    @contextlib.contextmanager
    def running(self) -> Iterator["Enclaves"]:
        """The real code, with work done once, and a channel whose bytes repeat."""
        enclaves = self

        class Here(Channel):
            wires = self.wires

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                enclaves._live.append(self)

        def keys_of_tls(entropy: Any) -> Any:
            key = again_tls(entropy(40))
            self.wires.secrets[key.public] = key.secret
            who, number = self._current
            self._owners[key.public] = f"{who}/{number}"
            return key

        again_tls = remembered(lambda data: generate_tls_key(lambda _: data))
        certified: dict[Any, bytes] = {}

        def certify(*, key: Any, nonce: bytes, binding: bytes, quote: Any) -> bytes:
            known = (key.public, nonce, binding, self._current[0])
            if known not in certified:
                certified[known] = make_session_certificate(
                    key=key, nonce=nonce, binding=binding, quote=quote
                )
            return certified[known]

        patches = {
            (_session, "RatlsSession"): Here,
            (_session, "parse_ratls_certificate"): remembered(parse_ratls_certificate),
            (_session, "verify_key_binding"): remembered(verify_key_binding),
            (_steps, "parse_ratls_certificate"): remembered(parse_ratls_certificate),
            (_steps, "generate_tls_key"): keys_of_tls,
            (_steps, "make_session_certificate"): certify,
            (_steps, "verify_ratls"): remembered(verify_ratls),
            (_steps, "hpke_seal"): self._seal,
            (_sessions, "hpke_open"): self._open,
            (_sessions, "verify_proofs"): remembered(_sessions.verify_proofs),
            (_sessions, "MAX_SESSIONS"): OPEN_AT_ONCE,
            (_keystore, "account_of"): remembered(_keystore.account_of),
            (_keystore, "hpke_public"): remembered(_keystore.hpke_public),
        }
        self._seal_again = remembered(hpke_seal)
        self._open_again = remembered(hpke_open)
        with contextlib.ExitStack() as stack:
            for (module, name), double in patches.items():
                stack.enter_context(mock.patch.object(module, name, double))
            yield self

    def _seal(self, suite: Any, public: bytes, plain: bytes, *, info: bytes) -> bytes:
        sealed: bytes = self._seal_again(suite, public, plain, info=info)
        channel = self._live[-1]
        package = decode(_steps.KeyPackage, plain)
        who, number = self._current
        nonce = parse_ratls_certificate(channel.certificate).nonce
        given = Given(
            by=who,
            session=number,
            challenge=nonce or b"",
            to=self.owner(public),
            channel_to=self.owner(owner_key(channel.peer_certificate)),
            epochs=tuple(keys.epoch for keys in package.epochs),
            channel=channel.name,
        )
        self._sealed[sealed] = self._fact["given"] = given
        return sealed

    def _open(self, suite: Any, secret: bytes, sealed: bytes, **bound: Any) -> bytes:
        opened: bytes = self._open_again(suite, secret, sealed, **bound)
        if sealed in self._sealed:
            self._fact["taken"] = self._sealed[sealed]
        return opened


def act_of(session: str, statement: bytes) -> str:
    """What L1's act of taking a registration is called."""
    return f"register {session} {sha256(statement)[:3].hex()}"
