"""Providers, and hosts of providers, that a requester must refuse (DESIGN §8.6-8)."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from mura_world import (
    HEAD,
    NEW,
    OLD,
    OTHER,
    Node,
    Talk,
    World,
    entry,
    epoch_keys,
    header_at,
)

from sealift.base import decode, encode
from sealift.crypto import HpkeSuite, hpke_seal, sha256
from sealift.protocol import (
    AttestationPolicy,
    EntryStatus,
    Frontier,
    KeyPackage,
    MuRaChallenge,
    SealedKeyPackage,
    enclave_key,
)
from sealift.protocol.ecall import Registration
from sealift.provisioning import EntitledEpochs, ProvenState
from sealift.relay import (
    Commit,
    ForkEvidence,
    LightBlock,
    RelayCheckpoint,
    SignedHeader,
    TrustRoot,
    Validator,
    ValidatorSet,
)
from sealift.relay import header_hash as hash_of


def refused_after_keys(talk: Talk, name: str) -> None:
    """The requester refuses what it got: nothing installed, the other end told."""
    talk.run()
    assert talk.errors["requester"][0] == name, talk.errors
    assert talk.errors["provider"][0] == "RefusedByPeerError"
    assert name in talk.errors["provider"][1]
    assert talk.done == set()
    assert talk.requester_node.installed is None
    assert not any(output.key_store for _, output in talk.outputs)
    talk.no_secret_seen()


# --- entitlement and evidence ---


def test_code_two_generations_behind(talk: Talk) -> None:
    """The requester judges for itself, whatever the provider's relay was shown."""
    world, stale = talk.world, talk.world.schedule
    world.entries(
        entry(0, OLD, status=EntryStatus.RETIRED),
        entry(1, OTHER, status=EntryStatus.RETIRED, since=40, upgrade_at=40),
        entry(2, NEW, status=EntryStatus.ACTIVE, since=60, upgrade_at=60),
    )
    fresh = world.schedule

    def prove(role: str, state: ProvenState) -> ProvenState:
        world.schedule = stale if role == "provider" else fresh
        return world.state(tuple(state.values))

    talk.prove = prove
    talk.run().refused("requester", "ProviderNotEntitledError")


def test_code_that_is_only_scheduled_may_not_give(
    world: World, node: Callable[..., Node]
) -> None:
    """A later generation holds the keys already, but the frontier is not its."""
    provider = node("new", NEW, epochs=(epoch_keys(0),))
    world.register(provider, provider.register().statement)
    talk = Talk(world, provider, node("twin", OLD)).run()
    talk.refused("requester", "ProviderNotEntitledError")


def test_code_that_was_never_scheduled(
    world: World, requester: Node, node: Callable[..., Node]
) -> None:
    provider = node("stranger", OTHER, epochs=(epoch_keys(0),))
    world.register(provider, provider.register().statement)
    talk = Talk(world, provider, requester).run()
    talk.refused("requester", "ProviderNotEntitledError")


def test_a_provider_that_is_not_registered(talk: Talk) -> None:
    del talk.world.values[enclave_key(talk.provider_node.signing_key)]
    talk.run().refused("requester", "NotProvenError")


@pytest.mark.parametrize("field", ["shard", "chain_id"])
def test_a_provider_that_is_registered_elsewhere(talk: Talk, field: str) -> None:
    honest = talk.provider_node.register().statement
    elsewhere: Any = {"shard": b"X" * 32, "chain_id": "other-chain"}[field]
    changed = msgspec.structs.replace(honest, **{field: elsewhere})
    talk.world.record(talk.provider_node, statement=changed)
    talk.run().refused("requester", "WrongShardError")


def test_a_challenge_in_the_name_of_another_provider(
    talk: Talk, node: Callable[..., Node]
) -> None:
    """A stranger in the middle names the true provider; its quote is not that."""
    stranger = node("stranger", OTHER, epochs=(epoch_keys(0),))
    stranger.secret = talk.provider_node.secret
    stranger.hpke = talk.provider_node.hpke
    talk = Talk(talk.world, stranger, talk.requester_node).run()
    assert talk.errors["requester"][0] == "NotScheduledError"
    assert talk.requester_node.installed is None


def test_an_instance_with_other_keys_in_the_name_of_the_provider(
    talk: Talk, node: Callable[..., Node]
) -> None:
    twin = node("twin", OLD, epochs=(epoch_keys(0),))
    true = talk.provider_node.signing_key

    class Pretender(Node):
        @property
        def signing_key(self) -> Any:
            return true

    twin.__class__ = Pretender
    talk = Talk(talk.world, twin, talk.requester_node).run()
    talk.refused("requester", "RatlsRefusedError")


def test_an_out_of_date_provider(talk: Talk) -> None:
    svn = talk.world.intel.tcb_recovery(now=1_799_000_000, advisories=())
    talk.requester_node.machine.install_microcode(svn)
    talk.run().refused("requester", "PolicyRefusedError")


def test_the_providers_own_entry_judges_it(talk: Talk) -> None:
    svn = talk.world.intel.tcb_recovery(now=1_799_000_000, advisories=())
    talk.requester_node.machine.install_microcode(svn)
    lenient = AttestationPolicy(accepted_tcb_statuses=("UpToDate", "OutOfDate"))
    talk.world.configure(0, attestation=lenient)
    assert talk.run().done == {"provider", "requester"}


def test_a_debug_provider(talk: Talk) -> None:
    node = talk.provider_node
    node.machine.set_debug(debug=True)
    node.identity = talk.world.start(node.machine, OLD, 2)
    talk.run().refused("requester", "RatlsRefusedError")


def test_a_provider_below_the_floor(talk: Talk) -> None:
    talk.world.configure(0, min_isv_svn=3)
    talk.run().refused("requester", "IsvSvnTooLowError")


# --- the challenge ---


def challenged(talk: Talk, **changes: Any) -> None:
    """A host changes the provider's challenge on its way."""

    def carry(role: str, chunk: bytes) -> list[bytes]:
        if role == "provider" and b"MuRaChallenge" in chunk:
            honest = msgspec.msgpack.decode(chunk[1:], type=MuRaChallenge)
            return [b"\x00" + encode(msgspec.structs.replace(honest, **changes))]
        return [chunk]

    talk.carry = carry


@pytest.mark.parametrize("version", [0, 2, -1])
def test_a_version_that_nobody_offered(talk: Talk, version: int) -> None:
    challenged(talk, version=version)
    talk.run().refused("requester", "MuRaVersionError")


def test_a_host_changes_the_challenge(talk: Talk) -> None:
    challenged(talk, challenge=b"c" * 32)
    talk.run().refused("provider", "ChallengeMismatchError")


def test_a_host_changes_the_named_provider(talk: Talk) -> None:
    challenged(talk, provider=b"p" * 32)
    talk.run().refused("provider", "ChallengeMismatchError")


def test_a_host_changes_the_named_head(talk: Talk) -> None:
    """Keys travel under an info that holds the challenge as it was made."""
    challenged(talk, head_height=HEAD - 1, head_hash=hash_of(header_at(HEAD - 1)))
    talk.run()
    assert talk.errors["requester"][0] == "HpkeError"
    assert talk.requester_node.installed is None
    talk.no_secret_seen()


def test_my_registration_on_l1_is_of_another_session(talk: Talk) -> None:
    """A host shows the requester an old chain with an old challenge in it."""

    def bring(registration: Registration) -> None:
        old = msgspec.structs.replace(
            registration.statement, tls_key=sha256(b"an earlier session's")
        )
        talk.world.register(talk.requester_node, old)

    talk.bring = bring
    talk.run()
    assert talk.errors["requester"][0] == "KeyBindingError"
    assert talk.provider_node.asked_for_keys == 0


@pytest.mark.parametrize("role", ["provider", "requester"])
def test_proofs_that_go_back_in_time(talk: Talk, role: str) -> None:
    """A revocation between two proofs cannot be hidden by the older state."""
    seen: list[ProvenState] = []

    def prove(who: str, state: ProvenState) -> ProvenState:
        if who != role:
            return state
        seen.append(state)
        if len(seen) == 1:
            return state
        return ProvenState(
            height=seen[0].height - 1, time=state.time, values=state.values
        )

    talk.prove = prove
    talk.run().refused(role, "NotProvenError")


# --- the key package ---


@pytest.mark.parametrize("name", ["shielding_secret", "state_key", "root_key"])
def test_a_key_that_is_not_the_published_one(talk: Talk, name: str) -> None:
    wrong = msgspec.structs.replace(epoch_keys(0), **{name: sha256(b"wrong")})
    talk.provider_node.epochs = (wrong,)
    refused_after_keys(talk, "CommitmentMismatchError")


class LaterPackage(KeyPackage, tag="KeyPackage"):
    """What a later code may send: one field more."""

    more: int = 1


def test_a_later_code_provisions_an_older_one(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appended a field; an upgrade must not strand those that don't know it."""
    node = talk.provider_node
    honest = node.key_package

    def later(*, checkpoint_at: Any, entitled: Any) -> KeyPackage:
        package = honest(checkpoint_at=checkpoint_at, entitled=entitled)
        return LaterPackage(**msgspec.structs.asdict(package))

    monkeypatch.setattr(node, "key_package", later)
    talk.run()
    assert not talk.errors
    assert talk.requester_node.installed


def test_a_package_that_is_not_understood_shows_no_byte_of_a_key(talk: Talk) -> None:
    """The refusal goes to both hosts."""
    opened = talk.requester_node.open_package

    def longer(sealed: bytes, *, info: bytes) -> bytes:
        tag, epochs, *rest = msgspec.msgpack.decode(opened(sealed, info=info))
        name, number, secret, *others = epochs[0]
        odd = [name, number, secret + b"!", *others]
        return msgspec.msgpack.encode([tag, [odd], *rest])

    talk.requester_node.open_package = longer  # type: ignore[method-assign]
    refused_after_keys(talk, "DecodeError")
    first = epoch_keys(0).shielding_secret[:3].hex()
    assert first not in str(talk.errors)


def test_two_keys_exchanged(talk: Talk) -> None:
    """State and root key commit under names of their own."""
    keys = epoch_keys(0)
    swapped = msgspec.structs.replace(
        keys, state_key=keys.root_key, root_key=keys.state_key
    )
    talk.provider_node.epochs = (swapped,)
    refused_after_keys(talk, "CommitmentMismatchError")


@pytest.mark.parametrize(
    "epochs",
    [
        (),
        (epoch_keys(1),),
        (epoch_keys(1), epoch_keys(0)),
        (epoch_keys(0), epoch_keys(0)),
        (epoch_keys(0), epoch_keys(2)),
    ],
    ids=["none", "not from 0", "out of order", "doubled", "a gap"],
)
def test_epochs_that_are_not_all_in_order(talk: Talk, epochs: Any) -> None:
    talk.world.act(epoch_keys(1))
    talk.world.act(epoch_keys(2))
    talk.provider_node.epochs = epochs
    refused_after_keys(talk, "CommitmentMismatchError")


def test_an_epoch_that_l1_does_not_know(talk: Talk) -> None:
    talk.provider_node.epochs = (epoch_keys(0), epoch_keys(1))
    refused_after_keys(talk, "NotProvenError")


def test_keys_of_a_shard_that_published_none(talk: Talk) -> None:
    world = talk.world
    world.schedule = msgspec.structs.replace(world.schedule, epochs=())
    talk.run().refused("provider", "NotProvenError")


def test_a_checkpoint_on_another_chain(talk: Talk) -> None:
    """The provider follows a fork: another header at the same height."""
    talk.provider_node.salt = b"fork"
    refused_after_keys(talk, "CheckpointMismatchError")


def checkpoint_of(height: int) -> bytes:
    return encode(
        RelayCheckpoint(
            trust_root=TrustRoot(
                chain_id="sealift-test", height=1, header_hash=hash_of(header_at(1))
            ),
            header=header_at(height),
            next_validators=None,
        )
    )


def test_validators_that_the_checkpoints_header_did_not_announce(talk: Talk) -> None:
    """A trusted store with a set of the provider's own choice."""
    honest = decode(RelayCheckpoint, checkpoint_of(HEAD))
    mine = ValidatorSet(validators=(Validator(public_key=b"k" * 32, power=1),))
    store = msgspec.structs.replace(honest, next_validators=mine)
    talk.provider_node.package_changes = {"checkpoint": encode(store)}
    refused_after_keys(talk, "CheckpointMismatchError")


def test_a_provider_that_has_seen_a_fork(talk: Talk) -> None:
    honest = decode(RelayCheckpoint, checkpoint_of(HEAD))
    header = honest.header
    conflicting = LightBlock(
        signed_header=SignedHeader(header=header, commit=Commit()),
        validators=ValidatorSet(validators=()),
    )
    seen = ForkEvidence(trusted=header, conflicting=conflicting)
    store = msgspec.structs.replace(honest, evidence=seen)
    talk.provider_node.package_changes = {"checkpoint": encode(store)}
    refused_after_keys(talk, "CheckpointMismatchError")


def test_a_checkpoint_of_another_height_than_the_challenge(talk: Talk) -> None:
    talk.provider_node.package_changes = {"checkpoint": checkpoint_of(HEAD - 10)}
    refused_after_keys(talk, "CheckpointMismatchError")


def test_a_header_that_the_requester_does_not_remember(talk: Talk) -> None:
    talk.requester_node.forgotten = {HEAD}
    refused_after_keys(talk, "CheckpointMismatchError")


@pytest.mark.parametrize("data", [b"", b"\x91\x00", b"\xc1" * 40])
def test_a_checkpoint_that_is_none(talk: Talk, data: bytes) -> None:
    talk.provider_node.package_changes = {"checkpoint": data}
    refused_after_keys(talk, "DecodeError")


@pytest.mark.parametrize(
    "frontier",
    [
        Frontier(confirmed=99, root=sha256(b"another root"), generation=0),
        Frontier(confirmed=99, root=sha256(b"root"), generation=1),
    ],
    ids=["root", "generation"],
)
def test_another_frontier_at_the_same_block(talk: Talk, frontier: Frontier) -> None:
    talk.provider_node.package_changes = {"frontier": frontier}
    refused_after_keys(talk, "CheckpointMismatchError")


def test_a_frontier_that_has_moved_meanwhile_is_no_mismatch(talk: Talk) -> None:
    ahead = Frontier(confirmed=105, root=sha256(b"later"), generation=0)
    talk.provider_node.package_changes = {"frontier": ahead}
    assert talk.run().done == {"provider", "requester"}


def resealed(talk: Talk, make: Callable[[bytes, bytes], bytes]) -> None:
    """A hostile provider: ``make(package, info)`` goes out as the sealed keys."""
    end = talk.ends["provider"]
    honest = end._send

    def send(message: Any) -> None:
        if isinstance(message, SealedKeyPackage):
            message = SealedKeyPackage(sealed=make(message.sealed, b""))
        honest(message)

    end._send = send  # type: ignore[method-assign]


def test_a_package_sealed_to_nobody(talk: Talk) -> None:
    resealed(talk, lambda sealed, _: sealed[:-1])
    refused_after_keys(talk, "HpkeError")


def test_a_package_sealed_under_another_info(talk: Talk) -> None:
    """A package of another session, with the very same keys."""
    entitled = EntitledEpochs(acting=talk.world.schedule.epochs, staged=None)
    package = encode(
        talk.provider_node.key_package(checkpoint_at=HEAD, entitled=entitled)
    )
    talk.provider_node.asked_for_keys = 0
    public = talk.requester_node.hpke_key

    def make(_: bytes, __: bytes) -> bytes:
        suite = HpkeSuite.MLKEM768_X25519
        return hpke_seal(suite, public, package, info=b"another session")

    resealed(talk, make)
    refused_after_keys(talk, "HpkeError")


def test_a_package_that_is_something_else(talk: Talk) -> None:
    talk.requester_node.open_package = (  # type: ignore[method-assign]
        lambda _, info: encode(Frontier(confirmed=1, root=bytes(32), generation=0))
    )
    refused_after_keys(talk, "DecodeError")


def test_keys_before_the_requester_was_verified(talk: Talk) -> None:
    """A provider in haste: the requester still judges it before it opens them."""
    sealed: list[bytes] = []
    honest = talk.requester_node.open_package

    def opened(data: bytes, *, info: bytes) -> bytes:
        sealed.append(data)
        assert talk.proofs == 4  # all proofs of both ends were judged
        return honest(data, info=info)

    talk.requester_node.open_package = opened  # type: ignore[method-assign]
    talk.run()
    assert len(sealed) == 1


def test_the_store_is_handed_out_even_if_the_acknowledgement_cannot_leave(
    talk: Talk,
) -> None:
    """Keys that were taken over must become durable, whatever comes after."""
    end = talk.ends["requester"]
    honest = end._send

    def send(message: Any) -> None:
        if talk.requester_node.installed is not None:
            end._tls.close()  # type: ignore[union-attr]
        honest(message)

    end._send = send  # type: ignore[method-assign]
    talk.run()
    assert any(output.key_store for _, output in talk.outputs)


def test_a_provider_of_an_operator_whom_its_entry_does_not_name(talk: Talk) -> None:
    talk.world.configure(0, operators=(b"p" * 32,))
    talk.run().refused("requester", "OperatorNotListedError")
