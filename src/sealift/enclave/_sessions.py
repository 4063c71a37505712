"""Provisioning sessions of one enclave: the port they need, and their table."""

from dataclasses import dataclass
from typing import Final

import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Fingerprint,
    Height,
    ShardId,
    UnixSeconds,
    encode,
)
from sealift.crypto import Entropy, HpkeSuite, hpke_open
from sealift.protocol import KeyPackage, Schedule
from sealift.protocol.ecall import (
    FeedSession,
    OpenSession,
    ProveSession,
    Registration,
    SessionReply,
)
from sealift.provisioning import EntitledEpochs, MuRaSession, Output, ProvenState
from sealift.relay import HeaderNotKeptError

from ._epochs import secrets_of, staged_here, with_package
from ._errors import (
    NoKeysError,
    NoStateError,
    SessionLimitError,
    StaleProofError,
    UnknownSessionError,
)
from ._identity import register
from ._keystore import seal_key_store
from ._shard import Shard
from ._view import verify_proofs

#: No more sessions are open at once.
MAX_SESSIONS: Final = 16
#: Larger validator sets stay out of a package: a session's frame has an end.
MAX_SET_IN_PACKAGE: Final = 2_000
_NOBODY = AccountId(bytes(32))


@dataclass(frozen=True, slots=True)
class SessionInstance:
    """This enclave as one end of a session sees it."""

    held: Shard
    roots: tuple[TrustAnchor, ...]
    operator: AccountId

    @property
    def chain_id(self) -> ChainId:
        """The chain of the measured trust root."""
        return self.held.chain_id

    @property
    def shard(self) -> ShardId:
        """The shard this process serves."""
        return self.held.shard

    @property
    def fingerprint(self) -> Fingerprint:
        """Its own MRENCLAVE."""
        return self.held.me.mrenclave

    @property
    def signing_key(self) -> AccountId:
        """Its own identity on L1."""
        return self.held.keys.signing_key

    @property
    def hpke_key(self) -> bytes:
        """Its MLKEM768_X25519 public key."""
        return self.held.keys.hpke_key

    @property
    def anchors(self) -> tuple[TrustAnchor, ...]:
        """The measured attestation roots."""
        return self.roots

    @property
    def entropy(self) -> Entropy:
        """Where challenges and TLS keys come from."""
        return self.held.entropy

    def head(self) -> tuple[Height, Digest]:
        """Height and hash of the relay's head."""
        head = self.held.relay.head
        return head.height, head.hash

    def header_hash(self, height: int) -> Digest | None:
        """Hash of a header the relay has verified, if it still remembers it."""
        try:
            return self.held.relay.header_at(Height(height)).hash
        except HeaderNotKeptError:
            return None

    def quote(self, report_data: bytes) -> bytes:
        """A quote of this enclave over 64 bytes."""
        return self.held.platform.quote(report_data)

    def register(
        self, *, tls_key: Digest, challenge: bytes, provider: AccountId
    ) -> Registration:
        """A signed and quoted registration for this session (step 3)."""
        return register(
            self.held,
            operator=self.operator,
            tls_key=tls_key,
            challenge=challenge,
            provider=provider,
        )

    def open_package(self, sealed: bytes, *, info: bytes) -> bytes:
        """Open what was sealed to :attr:`hpke_key`."""
        return hpke_open(
            HpkeSuite.MLKEM768_X25519,
            self.held.keys.hpke_seed,
            sealed,
            info=info,
            what="the key package",
        )

    def key_package(
        self, *, checkpoint_at: Height, entitled: EntitledEpochs
    ) -> KeyPackage:
        """The shard's secrets and where the provider stands (step 7).

        Raises:
            NoKeysError: Those of an acting epoch are not held.
            NoStateError: Schedule or frontier of the shard were not proven yet.
            HeaderNotKeptError: The header is not remembered any more.
        """
        held = self.held
        epochs = [secrets_of(held.keys, one) for one in entitled.acting]
        if held.keys.staged is not None and staged_here(held.keys, entitled.staged):
            epochs.append(held.keys.staged)
        if held.view.schedule is None or held.view.frontier is None:
            raise NoStateError("schedule or frontier were not proven yet")
        checkpoint = held.relay.checkpoint_at(checkpoint_at)
        following = checkpoint.next_validators
        if following is not None and len(following.validators) > MAX_SET_IN_PACKAGE:
            checkpoint = msgspec.structs.replace(checkpoint, next_validators=None)
        return KeyPackage(
            epochs=tuple(epochs),
            checkpoint=encode(checkpoint),
            schedule=held.view.schedule.digest(),
            frontier=held.view.frontier,
        )

    def install(self, package: KeyPackage, *, schedule: Schedule) -> bytes:
        """Take the keys over; the sealed key store to make durable (step 8).

        Raises:
            KeysContradictedError: Other keys of an epoch are held.
        """
        held = self.held
        store = with_package(held.keys, package, schedule, held.view.schedule)
        sealed = seal_key_store(store, held.platform, entropy=held.entropy)
        held.keys = store
        return sealed


class Sessions:
    """The open sessions of one enclave, by number.

    Args:
        shard: What they are about.
        anchors: The measured attestation roots.
    """

    def __init__(self, shard: Shard, anchors: tuple[TrustAnchor, ...]) -> None:
        self._shard = shard
        self._anchors = anchors
        self._open: dict[int, MuRaSession] = {}
        self._last = 0

    def open(self, request: OpenSession) -> SessionReply:
        """Open one end; the requester speaks first.

        Raises:
            SessionLimitError: Too many are open.
            NoKeysError: A provider without keys.
            HaltedError: The chain has forked.
        """
        self._shard.check_going()
        if len(self._open) >= MAX_SESSIONS:
            raise SessionLimitError(
                "too many sessions", got=len(self._open), expected=f"< {MAX_SESSIONS}"
            )
        if request.role == "provider" and not self._shard.keys.epochs:
            raise NoKeysError("a provider needs the shard's keys")
        instance = SessionInstance(
            self._shard, self._anchors, request.operator or _NOBODY
        )
        session = MuRaSession(request.role, instance)
        self._last += 1
        self._open[self._last] = session
        return self._reply(self._last, session.start())

    def feed(self, request: FeedSession) -> SessionReply:
        """Bytes from the other end.

        Raises:
            UnknownSessionError: No such session.
            HaltedError: The chain has forked.
        """
        session = self._session(request.session)
        return self._reply(request.session, session.feed(request.data))

    def prove(self, request: ProveSession) -> SessionReply:
        """Proofs of the newest state that this enclave has followed.

        Raises:
            UnknownSessionError: No such session.
            StaleProofError: Of another state than the newest.
            SealiftError: A proof that does not prove; the session goes on.
        """
        session = self._session(request.session)
        shard = self._shard
        if request.height != shard.view.height:
            raise StaleProofError(
                "proofs of another state than the newest",
                got=request.height,
                expected=shard.view.height,
                hint="Prove again.",
            )
        header = shard.relay.header_at(Height(request.height + 1))
        state = ProvenState(
            height=request.height,
            time=UnixSeconds(header.time.seconds),
            values=verify_proofs(header, request.proofs),
        )
        return self._reply(request.session, session.prove(state))

    def close(self, number: int) -> SessionReply:
        """The connection is gone.

        Raises:
            UnknownSessionError: No such session.
        """
        self._session(number)
        del self._open[number]
        return SessionReply(session=number)

    def _session(self, number: int) -> MuRaSession:
        self._shard.check_going()
        session = self._open.get(number)
        if session is None:
            raise UnknownSessionError("no such session is open", got=number)
        return session

    def _reply(self, number: int, output: Output) -> SessionReply:
        if output.done or output.error is not None:
            self._open.pop(number, None)
        return SessionReply(
            session=number,
            send=tuple(output.send),
            wanted=output.wanted,
            registration=output.registration,
            key_store=output.key_store,
            done=output.done,
            error=output.error,
        )
