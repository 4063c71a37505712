"""The two ends of mu-ra as generators of steps (DESIGN §8).

Each end is a generator: it yields what it needs done and is sent the answer,
so that one text serves every driver. Numbers in comments are §8's.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from sealift.attestation import (
    Collateral,
    TlsKey,
    VerifiedPeer,
    generate_tls_key,
    make_session_certificate,
    parse_ratls_certificate,
    quote_fmspc,
    verify_ratls,
)
from sealift.base import (
    AccountId,
    DecodeError,
    Digest,
    InvariantError,
    Message,
    ShardId,
    TooLargeError,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import HpkeSuite, hpke_seal, sha256
from sealift.protocol import (
    MU_RA_VERSIONS,
    CollateralRecord,
    EnclaveRecord,
    Frontier,
    KeyPackage,
    MuRaAcknowledged,
    MuRaChallenge,
    MuRaHello,
    MuRaMessage,
    MuRaReady,
    Role,
    Schedule,
    SealedKeyPackage,
    SessionBinding,
    collateral_key,
    enclave_key,
    frontier_key,
    schedule_key,
)
from sealift.protocol.ecall import Registration

from ._audit import PLATFORM_ANCHOR
from ._checks import check_checkpoint, check_registration
from ._entitled import (
    Standing,
    judge_instance,
    provider_entries,
    provider_entry,
    requester_entry,
)
from ._epochs import check_commitments, entitled_epochs
from ._errors import (
    HandoverForbiddenError,
    KeyBindingError,
    MuRaVersionError,
    NotProvenError,
    ProviderNotEntitledError,
    WrongShardError,
)
from ._ports import Instance, ProvenState

#: Domain of the HPKE ``info`` under which keys travel.
PACKAGE_DOMAIN = b"sealift/mu-ra-package/v1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Send a message to the other end."""

    message: MuRaMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Hear:
    """Wait for one message of this kind; the answer is the message."""

    kind: type[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prove:
    """Have these keys of L1's state proven; the answer is a ProvenState."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Have a registration brought to L1."""

    registration: Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTls:
    """Run the RA-TLS handshake; the answer is a :class:`Channel`."""

    role: Role
    certificate: bytes
    key: TlsKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """The sealed key store is to be made durable by the host."""

    key_store: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """An open TLS channel: the peer's certificate and the exporter's value."""

    peer_der: bytes
    exporter: bytes


Step: TypeAlias = Say | Hear | Prove | Announce | OpenTls | Install
Answer: TypeAlias = Message | ProvenState | Channel | None
Steps: TypeAlias = Generator[Step, Answer, None]


def provide(me: Instance) -> Steps:
    """The provider's end: it has the keys and gives them only in step 7.

    Raises:
        ProvisioningError: A rule of §8 is broken; nothing secret was sent.
        AttestationError: The requester's evidence is refused.
    """
    # 1. R -> P: hello
    hello = _heard(MuRaHello, (yield Hear(kind=MuRaHello)))
    version = _common_version(hello)
    if hello.shard != me.shard:
        raise WrongShardError(
            "the other end serves another shard",
            got=hello.shard,
            expected=me.shard.hex(),
        )
    # 2. P -> R: challenge; it serves this session only
    height, head = me.head()
    challenge = MuRaChallenge(
        version=version,
        challenge=me.entropy(32),
        provider=me.signing_key,
        head_height=height,
        head_hash=head,
    )
    yield Say(message=challenge)
    # 3. R has registered on L1, naming the challenge; P's own relay proves it
    ready = _heard(MuRaReady, (yield Hear(kind=MuRaReady)))
    state = _proven((yield Prove(keys=_instance_keys(me.shard, ready.signing_key))))
    record = _record(state, ready.signing_key)
    check_registration(
        record,
        chain_id=me.chain_id,
        shard=me.shard,
        challenge=challenge.challenge,
        provider=me.signing_key,
    )
    # 4. RA-TLS with certificates of this session
    tls_key = generate_tls_key(me.entropy)
    channel = _channel((yield _open_tls(me, "provider", challenge, tls_key)))
    # 5. P verifies R: under the freshest state that its own relay has proven
    fmspc = quote_fmspc(parse_ratls_certificate(channel.peer_der).quote)
    keys = (*_instance_keys(me.shard, ready.signing_key), collateral_key(fmspc))
    state = _not_older((yield Prove(keys=keys)), state)
    record = _record(state, ready.signing_key)
    check_registration(
        record,
        chain_id=me.chain_id,
        shard=me.shard,
        challenge=challenge.challenge,
        provider=me.signing_key,
    )
    standing = _standing(state, me.shard)
    entry = requester_entry(standing, record, held_at=record.attested_at)
    peer = _verify_peer(
        me, channel, state, record, role="requester", challenge=challenge, fmspc=fmspc
    )
    if sha256(peer.public_key) != record.statement.tls_key:
        raise KeyBindingError(
            "the requester's TLS key is not the registered one",
            got=sha256(peer.public_key),
            expected=record.statement.tls_key.hex(),
        )
    judge_instance(peer.quote, record, entry, standing)
    entitled = entitled_epochs(standing, record, entry)
    _check_own_entitlement(me, standing, entry.generation)
    # 7. P -> R: the keys, under HPKE to R's quoted key
    info = _package_info(hello, challenge, channel)
    package = encode(
        me.key_package(checkpoint_at=challenge.head_height, entitled=entitled)
    )
    sealed = hpke_seal(
        HpkeSuite.MLKEM768_X25519, record.statement.hpke_key, package, info=info
    )
    yield Say(message=SealedKeyPackage(sealed=sealed))
    # 8. R has checked and sealed
    done = _heard(MuRaAcknowledged, (yield Hear(kind=MuRaAcknowledged)))
    if done.package != sha256(package):
        raise KeyBindingError(
            "the acknowledgement names another key package",
            got=done.package,
            expected=sha256(package).hex(),
        )


def request(me: Instance) -> Steps:
    """The requester's end: it installs keys only after every check of step 8.

    Raises:
        ProvisioningError: A rule of §8 is broken; nothing was installed.
        AttestationError: The provider's evidence is refused.
    """
    # 1. R -> P: hello
    low, high = MU_RA_VERSIONS
    hello = MuRaHello(
        version_low=low, version_high=high, shard=me.shard, fingerprint=me.fingerprint
    )
    yield Say(message=hello)
    # 2. P -> R: challenge
    challenge = _heard(MuRaChallenge, (yield Hear(kind=MuRaChallenge)))
    if not low <= challenge.version <= high:
        raise MuRaVersionError(
            "the provider chose a version that I do not speak",
            got=challenge.version,
            expected=f"{low} to {high}",
        )
    # 3. R is registered on L1, naming the challenge and this session's TLS key
    tls_key = generate_tls_key(me.entropy)
    registration = me.register(
        tls_key=sha256(tls_key.public),
        challenge=challenge.challenge,
        provider=challenge.provider,
    )
    yield Announce(registration=registration)
    mine = _proven((yield Prove(keys=(enclave_key(me.signing_key),))))
    stated = _record(mine, me.signing_key).statement
    if stated != registration.statement:
        raise KeyBindingError(
            "my registration on L1 is not this session's",
            got=stated.digest(),
            expected=registration.statement.digest().hex(),
        )
    yield Say(message=MuRaReady(signing_key=me.signing_key))
    # 4. RA-TLS with certificates of this session
    channel = _channel((yield _open_tls(me, "requester", challenge, tls_key)))
    # 6. R verifies P the same way
    fmspc = quote_fmspc(parse_ratls_certificate(channel.peer_der).quote)
    keys = (*_instance_keys(me.shard, challenge.provider), collateral_key(fmspc))
    # Fresh: no older than the state that holds this session's own TLS key.
    state = _not_older((yield Prove(keys=keys)), mine)
    record = _record(state, challenge.provider)
    if (record.statement.shard, record.statement.chain_id) != (me.shard, me.chain_id):
        raise WrongShardError(
            "the provider is registered for another shard",
            got=record.statement.shard,
            expected=me.shard.hex(),
        )
    standing = _standing(state, me.shard)
    entry = provider_entry(standing, record)
    peer = _verify_peer(
        me, channel, state, record, role="provider", challenge=challenge, fmspc=fmspc
    )
    judge_instance(peer.quote, record, entry, standing)
    entitled = entitled_epochs(standing, record, entry)
    # 7. P -> R: the keys
    sealed = _heard(SealedKeyPackage, (yield Hear(kind=SealedKeyPackage)))
    opened = me.open_package(
        sealed.sealed, info=_package_info(hello, challenge, channel)
    )
    package = _package(opened)
    # 8. R checks what it got against L1, seals, acknowledges
    check_commitments(package, entitled)
    check_checkpoint(package, standing, challenge=challenge, header_hash=me.header_hash)
    yield Install(key_store=me.install(package, schedule=standing.schedule))
    yield Say(message=MuRaAcknowledged(package=sha256(opened)))


def _check_own_entitlement(me: Instance, standing: Standing, generation: int) -> None:
    """P itself must still be entitled, and its generation hand over.

    So must every live one between P's and R's: the keys are theirs too.
    """
    own = [
        entry
        for entry in provider_entries(standing)
        if me.fingerprint in entry.config.code.values()
    ]
    if not own:
        raise ProviderNotEntitledError(
            "I may not give keys any more",
            got=me.fingerprint,
            expected="the code of the frontier's generation or of the one before",
        )
    forbids = standing.schedule.rules.handover.forbids
    if forbids and generation > own[0].generation:
        raise HandoverForbiddenError(
            "this generation does not hand its keys over",
            got=f"generation {generation}",
            expected=f"generation {own[0].generation}",
        )


def _common_version(hello: MuRaHello) -> int:
    low = max(hello.version_low, MU_RA_VERSIONS[0])
    high = min(hello.version_high, MU_RA_VERSIONS[1])
    if low > high:
        raise MuRaVersionError(
            "no version in common",
            got=f"{hello.version_low} to {hello.version_high}",
            expected=f"{MU_RA_VERSIONS[0]} to {MU_RA_VERSIONS[1]}",
        )
    return high


def _binding(
    role: Role, me: Instance, signing_key: AccountId, hpke_key: bytes
) -> Digest:
    return SessionBinding(
        role=role,
        chain_id=me.chain_id,
        shard=me.shard,
        signing_key=signing_key,
        hpke_key=hpke_key,
    ).digest()


def _open_tls(
    me: Instance, role: Role, challenge: MuRaChallenge, key: TlsKey
) -> OpenTls:
    """RA-TLS with a certificate made for this session (TCG DICE)."""
    certificate = make_session_certificate(
        key=key,
        nonce=challenge.challenge,
        binding=_binding(role, me, me.signing_key, me.hpke_key),
        quote=me.quote,
    )
    return OpenTls(role=role, certificate=certificate, key=key)


def _verify_peer(
    me: Instance,
    channel: Channel,
    state: ProvenState,
    record: EnclaveRecord,
    *,
    role: Role,
    challenge: MuRaChallenge,
    fmspc: bytes,
) -> VerifiedPeer:
    held = decode(CollateralRecord, _value(state, collateral_key(fmspc), "collateral"))
    statement = record.statement
    anchor = next(
        (a for a in me.anchors if PLATFORM_ANCHOR.get(record.platform) == a.kind), None
    )
    if anchor is None:
        raise KeyBindingError(
            "no measured root for this platform",
            got=record.platform,
            expected=" or ".join(a.kind for a in me.anchors),
        )
    return verify_ratls(
        channel.peer_der,
        collateral=canonical_decode(Collateral, held.collateral),
        root=anchor,
        now=state.time,
        nonce=challenge.challenge,
        binding=_binding(role, me, statement.signing_key, statement.hpke_key),
    )


def _package_info(
    hello: MuRaHello, challenge: MuRaChallenge, channel: Channel
) -> bytes:
    return PACKAGE_DOMAIN + encode((hello, challenge, channel.exporter))


def _package(opened: bytes) -> KeyPackage:
    """A key package; the refusal of what is none shows no byte.

    Both hosts read it, and such bytes begin with a secret. What a later code has
    appended is not looked at: nothing of the package is hashed or handed on as it
    came, and every secret is held against L1's commitment.
    """
    try:
        return decode(KeyPackage, opened)
    except (DecodeError, TooLargeError) as error:
        raise type(error)(
            "what was sealed is no key package", expected="one that this code knows"
        ) from None


def _instance_keys(shard: ShardId, signing_key: AccountId) -> tuple[bytes, ...]:
    return enclave_key(signing_key), schedule_key(shard), frontier_key(shard)


def _standing(state: ProvenState, shard: ShardId) -> Standing:
    return Standing(
        schedule=decode(
            Schedule, _value(state, schedule_key(shard), "the shard's schedule")
        ),
        frontier=decode(
            Frontier, _value(state, frontier_key(shard), "the shard's frontier")
        ),
        height=state.height,
    )


def _record(state: ProvenState, signing_key: AccountId) -> EnclaveRecord:
    record = decode(
        EnclaveRecord, _value(state, enclave_key(signing_key), "the registration")
    )
    if record.statement.signing_key != signing_key:
        raise KeyBindingError(
            "the registration is of another signing key",
            got=record.statement.signing_key,
            expected=signing_key.hex(),
        )
    return record


def _value(state: ProvenState, key: bytes, what: str) -> bytes:
    value = state.values.get(key)
    if value is None:
        raise NotProvenError(
            f"{what} is not on L1",
            got="proof of absence" if key in state.values else "no proof",
            expected=f"a proof of its presence after block {state.height}",
        )
    return value


_A = TypeVar("_A", bound=Message | ProvenState | Channel)


def _heard(kind: type[_A], answer: Answer) -> _A:
    """The driver answers a step with what it asked for, or it is broken."""
    if not isinstance(answer, kind):
        raise InvariantError(
            "a step got another answer",
            got=type(answer).__name__,
            expected=kind.__name__,
        )
    return answer


def _proven(answer: Answer) -> ProvenState:
    return _heard(ProvenState, answer)


def _channel(answer: Answer) -> Channel:
    return _heard(Channel, answer)


def _not_older(answer: Answer, earlier: ProvenState) -> ProvenState:
    """A session never goes back in time: a later proof is of no older state."""
    state = _proven(answer)
    if state.height < earlier.height:
        raise NotProvenError(
            "proofs of an older state than before",
            got=f"after block {state.height}",
            expected=f"after block {earlier.height} or a later one",
        )
    return state


__all__ = [
    "Announce",
    "Channel",
    "Hear",
    "Install",
    "OpenTls",
    "Prove",
    "Say",
    "Step",
    "Steps",
    "provide",
    "request",
]
