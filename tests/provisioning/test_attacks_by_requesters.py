"""Requesters, and hosts of requesters, that must not get keys (DESIGN §8.5)."""

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
    reconfigured,
    seeded,
)

from sealift.base import encode
from sealift.crypto import HpkeKeyPair, HpkeSuite, sha256
from sealift.protocol import (
    AttestationPolicy,
    EntryStatus,
    KeyPackage,
    MuRaHello,
    ShardStatus,
    enclave_key,
)
from sealift.protocol.ecall import Registration
from sealift.provisioning import ProvenState


def falsified(talk: Talk, **changes: Any) -> None:
    """The registration stands on L1 with other fields, as only the provider sees."""
    honest = talk.prove

    def prove(role: str, state: ProvenState) -> ProvenState:
        key = enclave_key(talk.requester_node.signing_key)
        if role == "provider" and state.values.get(key):
            record = talk.world.values[key]
            talk.world.record(talk.requester_node, **changes)
            state = talk.world.state(tuple(state.values))
            talk.world.values[key] = record
        return honest(role, state)

    talk.prove = prove


def restated(talk: Talk, **changes: Any) -> None:
    """What the provider's relay proves is a statement with other fields."""
    world = talk.world

    def bring(registration: Registration) -> None:
        honest = registration.statement
        world.register(talk.requester_node, honest)
        changed = msgspec.structs.replace(honest, **changes)
        falsified(talk, statement=changed)

    talk.bring = bring


# --- the schedule ---


def test_code_that_is_not_scheduled(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    talk = Talk(world, provider, node("stranger", OTHER)).run()
    talk.refused("provider", "NotScheduledError")


def test_a_release_that_is_ahead(talk: Talk) -> None:
    talk.world.change(1, release_from=HEAD + 10)
    talk.run().refused("provider", "NoticeNotRunError")


def test_a_challenge_that_was_held_before_the_release_though_it_is_over_now(
    talk: Talk,
) -> None:
    """The block that holds the challenge counts, not the newest one."""
    talk.world.change(1, release_from=HEAD + 10)

    def bring(registration: Registration) -> None:
        talk.world.register(talk.requester_node, registration.statement)
        talk.world.height = HEAD + 50

    talk.bring = bring
    talk.run().refused("provider", "NoticeNotRunError")


def test_the_same_for_an_entry_that_has_become_active(talk: Talk) -> None:
    talk.world.change(1, release_from=HEAD + 10)

    def bring(registration: Registration) -> None:
        talk.world.register(talk.requester_node, registration.statement)
        talk.world.height = HEAD + 150
        talk.world.change(1, status=EntryStatus.ACTIVE)

    talk.bring = bring
    talk.run().refused("provider", "NoticeNotRunError")


def test_exactly_at_the_release(talk: Talk) -> None:
    talk.world.change(1, release_from=talk.world.height + 1)
    assert talk.run().done == {"provider", "requester"}


def test_one_block_before_the_release(talk: Talk) -> None:
    talk.world.change(1, release_from=talk.world.height + 2)
    talk.run().refused("provider", "NoticeNotRunError")


def test_code_of_an_earlier_generation(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    world.entries(
        entry(0, OTHER, status=EntryStatus.RETIRED),
        entry(1, OLD, status=EntryStatus.ACTIVE, since=50, upgrade_at=50),
    )
    talk = Talk(world, provider, node("old", OTHER)).run()
    talk.refused("provider", "EarlierGenerationError")


@pytest.mark.parametrize(
    "status", [EntryStatus.CANCELLED, EntryStatus.LAPSED, EntryStatus.VOID]
)
def test_code_of_a_withdrawn_entry(talk: Talk, status: EntryStatus) -> None:
    talk.world.change(1, status=status)
    talk.run().refused("provider", "NotScheduledError")


def test_an_entry_that_is_cancelled_while_the_session_runs(talk: Talk) -> None:
    """Judged under the freshest state, not under the one that brought TLS."""

    def prove(role: str, state: ProvenState) -> ProvenState:
        if role == "provider":
            talk.world.change(1, status=EntryStatus.CANCELLED)
        return state

    talk.prove = prove
    talk.run().refused("provider", "NotScheduledError")


def test_a_fingerprint_of_another_platform_kind(talk: Talk) -> None:
    code = talk.requester_node.fingerprint
    talk.world.configure(1, code={"gramine-sgx": code})
    talk.run().refused("provider", "NotScheduledError")


def test_the_generation_does_not_hand_over(talk: Talk) -> None:
    talk.world.configure(0, handover="forbid")
    talk.run().refused("provider", "HandoverForbiddenError")


@pytest.mark.parametrize("running", [True, False], ids=["running", "ahead"])
def test_the_generation_before_hands_nothing_past_one_that_forbids(
    world: World, provider: Node, node: Callable[..., Node], *, running: bool
) -> None:
    """The predecessor of a generation that keeps its keys still holds them."""
    begun = {"status": EntryStatus.ACTIVE, "since": 60, "upgrade_at": 60}
    middle = entry(1, OTHER, **(begun if running else {}))
    world.entries(
        entry(0, OLD),
        reconfigured(middle, handover="forbid"),
        entry(2, NEW, upgrade_at=300, since=300),
    )
    talk = Talk(world, provider, node("requester", NEW)).run()
    talk.refused("provider", "HandoverForbiddenError")


def test_what_a_voided_generation_forbade_binds_nobody(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    voided = entry(1, OTHER, status=EntryStatus.VOID)
    world.entries(
        entry(0, OLD),
        reconfigured(voided, handover="forbid"),
        entry(2, NEW, predecessor=0, upgrade_at=300, since=300),
    )
    talk = Talk(world, provider, node("requester", NEW)).run()
    assert talk.done == {"provider", "requester"}


def test_forbidding_does_not_keep_keys_from_the_same_generation(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    world.configure(0, handover="forbid")
    talk = Talk(world, provider, node("twin", OLD)).run()
    assert talk.done == {"provider", "requester"}


def test_a_provider_that_has_fallen_behind_gives_nothing(talk: Talk) -> None:
    """Its own relay says so: two generations have come since."""
    talk.world.entries(
        entry(0, OLD, status=EntryStatus.RETIRED),
        entry(1, OTHER, status=EntryStatus.RETIRED, since=40, upgrade_at=40),
        entry(2, NEW, status=EntryStatus.ACTIVE, since=60, upgrade_at=60),
    )
    talk.run().refused("provider", "ProviderNotEntitledError")


def test_a_provider_of_a_voided_generation_gives_nothing(
    world: World, node: Callable[..., Node]
) -> None:
    provider = node("voided", OTHER)
    world.register(provider, provider.register().statement)
    world.entries(
        entry(0, OLD, status=EntryStatus.VOID),
        entry(1, OTHER, status=EntryStatus.VOID, since=40, upgrade_at=40),
        entry(2, NEW, status=EntryStatus.ACTIVE, since=60, upgrade_at=60),
    )
    talk = Talk(world, provider, node("requester", NEW)).run()
    talk.refused("provider", "ProviderNotEntitledError")


# --- the registration ---


def test_registered_without_the_challenge(talk: Talk) -> None:
    restated(talk, challenge=None)
    talk.run().refused("provider", "ChallengeMismatchError")


def test_registered_with_another_sessions_challenge(talk: Talk) -> None:
    restated(talk, challenge=b"c" * 32)
    talk.run().refused("provider", "ChallengeMismatchError")


def test_registered_for_another_provider(talk: Talk) -> None:
    restated(talk, provider=b"p" * 32)
    talk.run().refused("provider", "ChallengeMismatchError")


def test_registered_for_no_provider(talk: Talk) -> None:
    restated(talk, provider=None)
    talk.run().refused("provider", "ChallengeMismatchError")


def test_registered_anew_without_the_challenge_while_the_session_runs(
    talk: Talk,
) -> None:
    """The record of step 5 is judged again: it may have been replaced."""
    proofs: list[ProvenState] = []

    def prove(role: str, state: ProvenState) -> ProvenState:
        if role == "provider":
            proofs.append(state)
        if len(proofs) == 2:
            renewed = talk.requester_node.register().statement
            talk.world.register(talk.requester_node, renewed)
            return talk.world.state(tuple(state.values))
        return state

    talk.prove = prove
    talk.run().refused("provider", "ChallengeMismatchError")


def test_registered_for_another_shard(talk: Talk) -> None:
    restated(talk, shard=b"X" * 32)
    talk.run().refused("provider", "WrongShardError")


def test_registered_on_another_chain(talk: Talk) -> None:
    restated(talk, chain_id="other-chain")
    talk.run().refused("provider", "WrongShardError")


def test_registered_with_another_tls_key(talk: Talk) -> None:
    restated(talk, tls_key=sha256(b"another key"))
    talk.run().refused("provider", "KeyBindingError")


def test_registered_with_another_hpke_key(talk: Talk) -> None:
    """The keys would be sealed to somebody else: the quote binds the real one."""
    restated(talk, hpke_key=talk.provider_node.hpke_key)
    talk.run().refused("provider", "RatlsRefusedError")


def test_a_record_that_names_another_signing_key(talk: Talk) -> None:
    restated(talk, signing_key=talk.provider_node.signing_key)
    talk.run().refused("provider", "KeyBindingError")


def test_not_registered_at_all(talk: Talk) -> None:
    def prove(role: str, state: ProvenState) -> ProvenState:
        if role == "requester":
            return state
        return msgspec_replace(state, values=dict.fromkeys(state.values))

    talk.prove = prove
    talk.run().refused("provider", "NotProvenError")


def msgspec_replace(state: ProvenState, **changes: Any) -> ProvenState:
    values: dict[str, Any] = {
        "height": state.height,
        "time": state.time,
        "values": state.values,
    }
    return ProvenState(**(values | changes))


def test_a_registration_of_other_code_than_the_quote(
    talk: Talk, node: Callable[..., Node]
) -> None:
    """Scheduled code is registered, other code sits in the channel."""
    stranger = node("stranger", OTHER)
    honest = talk.requester_node.quote
    registered: list[Any] = []

    def quote(report_data: bytes) -> bytes:
        if not registered:  # step 3
            registered.append(report_data)
            return honest(report_data)
        return stranger.machine.quote(stranger.identity, report_data)

    talk.requester_node.quote = quote  # type: ignore[method-assign]
    talk.run().refused("provider", "NotScheduledError")


def test_a_quote_over_another_tls_key_fails_inside_the_handshake(talk: Talk) -> None:
    """No collateral is asked for evidence that does not even fit its channel."""
    node, honest = talk.requester_node, talk.requester_node.quote
    seen: list[bytes] = []

    def quote(report_data: bytes) -> bytes:
        seen.append(report_data)
        return honest(seen[0])  # the registration's quote, copied

    node.quote = quote  # type: ignore[method-assign]
    talk.run().refused("provider", "RatlsRefusedError")
    assert sum(role == "provider" and bool(o.wanted) for role, o in talk.outputs) == 1


def test_a_quote_by_another_vendor_than_registered(talk: Talk) -> None:
    falsified(talk, mr_signer=sha256(b"another vendor"))
    talk.run().refused("provider", "NotScheduledError")


def test_a_platform_kind_without_a_measured_root(talk: Talk) -> None:
    code = talk.requester_node.fingerprint
    talk.world.configure(1, code={"gramine-sgx": code})
    falsified(talk, platform="gramine-sgx")
    talk.run().refused("provider", "KeyBindingError")


def test_a_replayed_session_meets_another_challenge(
    world: World, provider: Node, requester: Node
) -> None:
    """All bytes of a requester, recorded and played to the same provider again."""
    first = Talk(world, provider, requester).run()
    assert first.done == {"provider", "requester"}
    recorded = [chunk for role, chunk in first.wire if role == "requester"]
    asked = provider.asked_for_keys
    again = Talk(world, provider, requester).ends["provider"]
    again.start()
    errors = []
    for chunk in recorded:
        output = again.feed([chunk])
        if output.wanted:
            output = again.prove(world.state(output.wanted))
        errors.append(output.error)
    assert errors[1] is not None
    assert errors[1][0] == "ChallengeMismatchError"
    assert provider.asked_for_keys == asked


def test_even_a_provider_whose_entropy_repeats_gives_a_recording_nothing(
    world: World, provider: Node, requester: Node
) -> None:
    """The recording lacks the exporter, and the handshake cannot be repeated."""
    provider.entropy = seeded(b"broken")
    first = Talk(world, provider, requester).run()
    assert first.done == {"provider", "requester"}
    recorded = [chunk for role, chunk in first.wire if role == "requester"]
    asked = provider.asked_for_keys
    provider.entropy = seeded(b"broken")
    again = Talk(world, provider, requester).ends["provider"]
    again.start()
    output = again.feed([])
    for chunk in recorded:
        output = again.feed([chunk])
        if output.wanted:
            output = again.prove(world.state(output.wanted))
        if output.error:
            break
    assert output.error is not None
    assert provider.asked_for_keys == asked


# --- hello ---


def hello_changed(talk: Talk, **changes: Any) -> None:
    def carry(role: str, chunk: bytes) -> list[bytes]:
        if role == "requester" and b"MuRaHello" in chunk:
            honest = msgspec.msgpack.decode(chunk[1:], type=MuRaHello)
            return [b"\x00" + encode(msgspec.structs.replace(honest, **changes))]
        return [chunk]

    talk.carry = carry


def test_another_shard(talk: Talk) -> None:
    talk.requester_node.shard = b"X" * 32
    talk.run().refused("provider", "WrongShardError")


def test_another_shard_gets_not_even_a_challenge(talk: Talk) -> None:
    hello_changed(talk, shard=b"X" * 32)
    talk.run().refused("provider", "WrongShardError")
    assert not any(b"MuRaChallenge" in chunk for _, chunk in talk.wire)


def test_no_version_in_common(talk: Talk) -> None:
    hello_changed(talk, version_low=2, version_high=9)
    talk.run().refused("provider", "MuRaVersionError")


def test_versions_upside_down(talk: Talk) -> None:
    hello_changed(talk, version_low=9, version_high=0)
    talk.run().refused("provider", "MuRaVersionError")


def test_a_later_requester_that_still_speaks_ours(talk: Talk) -> None:
    """But a host that only says so breaks the info under which keys travel."""
    hello_changed(talk, version_high=9)
    talk.run()
    assert talk.errors["requester"][0] == "HpkeError"
    assert talk.requester_node.installed is None
    talk.no_secret_seen()


# --- evidence ---


def policy(**changes: Any) -> AttestationPolicy:
    return AttestationPolicy(**changes)


def test_a_debug_enclave(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    requester = node("debugged", NEW)
    requester.machine.set_debug(debug=True)
    requester.identity = world.start(requester.machine, NEW, 2)
    talk = Talk(world, provider, requester).run()
    talk.refused("provider", "RatlsRefusedError")
    assert "debug" in talk.errors["provider"][1]


def update_provider(talk: Talk) -> None:
    """TCB recovery: the provider's machine is patched, the requester's is not."""
    svn = talk.world.intel.tcb_recovery(
        now=1_799_000_000, advisories=("INTEL-SA-00001",)
    )
    talk.provider_node.machine.install_microcode(svn)


def test_an_out_of_date_platform(talk: Talk) -> None:
    update_provider(talk)
    talk.run().refused("provider", "PolicyRefusedError")
    assert "OutOfDate" in talk.errors["provider"][1]


def test_the_requesters_own_entry_judges_it(talk: Talk) -> None:
    update_provider(talk)
    lenient = policy(accepted_tcb_statuses=("UpToDate", "OutOfDate"))
    talk.world.configure(0, attestation=lenient)  # not the requester's entry
    talk.run().refused("provider", "PolicyRefusedError")


def test_its_own_entry_may_accept_it(talk: Talk) -> None:
    update_provider(talk)
    lenient = policy(accepted_tcb_statuses=("UpToDate", "OutOfDate"))
    talk.world.configure(1, attestation=lenient)
    assert talk.run().done == {"provider", "requester"}


def test_an_advisory_that_the_policy_rejects(talk: Talk) -> None:
    update_provider(talk)
    strict = policy(
        accepted_tcb_statuses=("UpToDate", "OutOfDate"),
        rejected_advisories=("INTEL-SA-00001",),
    )
    talk.world.configure(1, attestation=strict)
    talk.run().refused("provider", "PolicyRefusedError")


def test_a_tcb_evaluation_number_below_the_entrys(talk: Talk) -> None:
    talk.world.configure(1, attestation=policy(min_tcb_evaluation_number=2))
    talk.run().refused("provider", "PolicyRefusedError")


def test_a_tcb_evaluation_number_below_the_raised_floor(talk: Talk) -> None:
    talk.world.schedule = msgspec.structs.replace(
        talk.world.schedule, status=ShardStatus(min_tcb_evaluation_number=2)
    )
    talk.run().refused("provider", "PolicyRefusedError")


def test_an_attestation_from_before_the_policys_first_height(talk: Talk) -> None:
    talk.world.configure(1, attestation=policy(not_before=HEAD + 50))
    talk.run().refused("provider", "PolicyRefusedError")


def test_an_attestation_that_is_too_old(talk: Talk) -> None:
    talk.world.configure(1, attestation=policy(max_age_blocks=5))

    def prove(role: str, state: ProvenState) -> ProvenState:
        talk.world.height += 10
        return talk.world.state(tuple(state.values))

    talk.prove = prove
    talk.run().refused("provider", "PolicyRefusedError")


def test_a_revoked_machine(talk: Talk) -> None:
    talk.requester_node.machine.revoke()
    talk.run().refused("provider", "RatlsRefusedError")


def test_a_machine_of_another_intel(talk: Talk, tmp_path: Any, vendor: bytes) -> None:
    elsewhere = World(tmp_path / "other-intel", vendor)
    foreign = Node(elsewhere, "requester", NEW)
    talk.requester_node.machine = foreign.machine
    talk.requester_node.identity = foreign.identity
    talk.run().refused("provider", "RatlsRefusedError")


def test_collateral_that_has_run_out(talk: Talk) -> None:
    def prove(role: str, state: ProvenState) -> ProvenState:
        return msgspec_replace(state, time=state.time + 40 * 86400)

    talk.prove = prove
    talk.run().refused("provider", "RatlsRefusedError")


def test_isv_svn_below_the_entrys_floor(talk: Talk) -> None:
    talk.world.configure(1, min_isv_svn=3)
    talk.run().refused("provider", "IsvSvnTooLowError")


def test_isv_svn_below_the_raised_floor(talk: Talk) -> None:
    talk.world.schedule = msgspec.structs.replace(
        talk.world.schedule, status=ShardStatus(min_isv_svn=3)
    )
    talk.run().refused("provider", "IsvSvnTooLowError")


def test_a_registration_that_claims_a_higher_isv_svn(talk: Talk) -> None:
    """Fresh evidence counts, not the record."""
    talk.world.configure(1, min_isv_svn=3)
    falsified(talk, isv_svn=9)
    talk.run().refused("provider", "IsvSvnTooLowError")


def test_a_garbage_hpke_key(talk: Talk) -> None:
    talk.requester_node.hpke = HpkeKeyPair(
        suite=HpkeSuite.MLKEM768_X25519,
        secret=talk.requester_node.hpke.secret,
        public=b"\xff" * 1216,
    )
    talk.run()
    assert talk.errors["provider"][0] == "HpkeError"
    assert "HpkeError" in talk.errors["requester"][1]
    talk.no_secret_seen()


def test_the_acknowledgement_of_another_package(talk: Talk) -> None:
    """A requester that installed something else is not counted as a holder."""
    opened = talk.requester_node.open_package

    def other(sealed: bytes, *, info: bytes) -> bytes:
        package = opened(sealed, info=info)
        held = msgspec.msgpack.decode(package, type=KeyPackage)
        return encode(msgspec.structs.replace(held, schedule=sha256(b"other")))

    talk.requester_node.open_package = other  # type: ignore[method-assign]
    talk.run()
    assert talk.errors["provider"][0] == "KeyBindingError"
    assert "provider" not in talk.done


def test_an_operator_whom_the_entry_does_not_name(talk: Talk) -> None:
    """L1 would not register it for this entry; P does not rely on that."""
    talk.world.configure(1, operators=(b"p" * 32,))
    talk.run().refused("provider", "OperatorNotListedError")
