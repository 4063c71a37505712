"""An honest chain, and whoever hands over the file lies."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from lineages import (
    WorldSource,
    call_of,
    export,
    heights_of,
    replace,
    trust_root,
    verify,
    without,
)

from sealift.attestation import parse_trust_anchor
from sealift.base import Height, ShardId, UnixSeconds
from sealift.client import EvidenceExportError, export_evidence
from sealift.evidence import (
    BirthRefusedError,
    EvidenceError,
    EvidenceFile,
    EvidenceFormatError,
    EvidenceStaleError,
    EvidenceTx,
    HeadersRefusedError,
    InclusionError,
    InstanceRefusedError,
    LineageForeignError,
    LineagePin,
    RootChainError,
    ScheduleUnexplainedError,
    follow_lineage,
    require_fresh,
)
from sealift.frame import Runtime
from sealift.insecure_sim import SimIntel
from sealift.protocol import (
    collateral_key,
    frontier_key,
    keys_key,
    schedule_key,
)
from sealift.relay import RelayRules
from sealift.testing import World

Make = Callable[..., World]


@pytest.fixture(scope="module")
def file(upgraded: World) -> EvidenceFile:
    return export(upgraded)


@pytest.fixture(scope="module")
def cancelled(new_world: Make, v1: Runtime, v2: Runtime) -> World:
    """An upgrade that was decided, and cancelled five blocks later."""
    world = new_world()
    world.begin(world.release(v1))
    at = world.height + 20
    world.schedule(world.release(v2), release_from=at, upgrade_at=at + 2)
    world.blocks(4)
    world.cancel(1)
    world.blocks(4)
    return world


def change_tx(
    file: EvidenceFile, call: str, change: Callable[[EvidenceTx], EvidenceTx]
) -> EvidenceFile:
    """The file with every transaction of a call changed."""
    blocks = tuple(
        replace(
            block,
            txs=tuple(change(tx) if call_of(tx.tx) == call else tx for tx in block.txs),
        )
        for block in file.blocks
    )
    return replace(file, blocks=blocks)


def without_state(file: EvidenceFile, key: bytes, height: int = 0) -> EvidenceFile:
    kept = tuple(
        one for one in file.states if not (one.key == key and height in (0, one.height))
    )
    assert len(kept) < len(file.states)
    return replace(file, states=kept)


# --- step 1 ---


def test_a_header_swapped_for_another_one(upgraded: World, file: EvidenceFile) -> None:
    headers = list(file.headers)
    headers[3], headers[4] = headers[4], headers[3]
    with pytest.raises(InclusionError, match="headers do not ascend"):
        verify(upgraded, replace(file, headers=tuple(headers)))
    forged = replace(
        headers[4].signed,
        header=replace(headers[4].signed.header, app_hash=bytes(32)),
    )
    changed = tuple(
        replace(one, signed=forged) if one == headers[4] else one
        for one in file.headers
    )
    with pytest.raises(HeadersRefusedError, match="step 1: header"):
        verify(upgraded, replace(file, headers=changed))


def test_a_header_of_another_chain_with_the_same_name(
    upgraded: World, file: EvidenceFile, cancelled: World
) -> None:
    """Both are called "world" and have one validator key; their states differ."""
    assert cancelled.chain.chain_id == upgraded.chain.chain_id
    other = {one.signed.header.height: one for one in export(cancelled).headers}
    height = max(set(other) & {one.signed.header.height for one in file.headers})
    swapped = tuple(
        other[height] if one.signed.header.height == height else one
        for one in file.headers
    )
    with pytest.raises(EvidenceError, match="step 1"):
        verify(upgraded, replace(file, headers=swapped))


def test_another_trust_root_is_not_led_to(
    upgraded: World, file: EvidenceFile, cancelled: World
) -> None:
    with pytest.raises(HeadersRefusedError, match="trust root"):
        verify(upgraded, file, trust_root=trust_root(cancelled, 2))
    foreign = replace(trust_root(upgraded), chain_id="elsewhere")
    with pytest.raises(HeadersRefusedError, match="another chain"):
        verify(upgraded, file, trust_root=foreign)


def test_trust_that_begins_after_the_shard(upgraded: World, file: EvidenceFile) -> None:
    """What lies before what is trusted cannot be judged from it."""
    later = trust_root(upgraded, upgraded.height - 1)
    with pytest.raises(HeadersRefusedError, match="trust root"):
        verify(upgraded, file, trust_root=later)


def test_a_missing_header_and_no_header_at_all(
    upgraded: World, file: EvidenceFile
) -> None:
    headers = file.headers[:4] + file.headers[5:]
    with pytest.raises(HeadersRefusedError, match="lacks header"):
        verify(upgraded, replace(file, headers=headers))
    with pytest.raises(HeadersRefusedError, match="no headers"):
        verify(upgraded, replace(file, headers=()))


def test_validators_that_the_file_lacks(upgraded: World, file: EvidenceFile) -> None:
    with pytest.raises(EvidenceFormatError, match="validators"):
        verify(upgraded, replace(file, validators=()))


def test_headers_from_the_future_and_trust_that_has_expired(
    upgraded: World, file: EvidenceFile
) -> None:
    born = upgraded.chain.block(1).block.header.time
    with pytest.raises(HeadersRefusedError, match="future"):
        verify(upgraded, file, now=born)
    with pytest.raises(HeadersRefusedError, match="too old"):
        verify(upgraded, file, now=born.plus(seconds=181 * 24 * 3600))
    assert verify(upgraded, file, now=None).head == upgraded.height


def test_a_transaction_with_another_signature(
    upgraded: World, file: EvidenceFile
) -> None:
    def forge(tx: EvidenceTx) -> EvidenceTx:
        return replace(tx, tx=tx.tx[:-1] + bytes([tx.tx[-1] ^ 1]))

    with pytest.raises(InclusionError, match="is not proven"):
        verify(upgraded, change_tx(file, "enclave_bridge.submit_order", forge))


def test_a_failed_transaction_shown_as_a_good_one(
    upgraded: World, file: EvidenceFile
) -> None:
    def fail(tx: EvidenceTx) -> EvidenceTx:
        return replace(tx, result=replace(tx.result, code=1))

    with pytest.raises(InclusionError, match="is not proven"):
        verify(upgraded, change_tx(file, "enclave_bridge.submit_order", fail))


def test_a_failure_that_is_proven_is_no_act(
    new_world: Make, v1: Runtime, v2: Runtime
) -> None:
    """An order that L1 refused, put into the file with its true result."""
    world = new_world()
    world.begin(world.release(v1))
    late = world.upgrade_order(world.release(v2), release_from=1, upgrade_at=2)
    sent = world.send("carrier", "enclave_bridge.submit_order", order=late)
    world.blocks(3)
    assert sent.refusal == "NoticeError"
    block = world.chain.block(sent.height)
    index = block.block.txs.index(sent.tx)
    source = WorldSource(world)

    class Lying(WorldSource):
        async def results(self, height: Height) -> object:
            found = await source.results(height)
            if height != sent.height:
                return found
            results = list(found.txs_results)
            shown = msgspec.msgpack.encode(
                [["EmittedEvent", "enclave_bridge.x", bytes(world.shard)]]
            )
            results[index] = replace(results[index], code=0, data=shown)
            return replace(found, txs_results=tuple(results))

    file = asyncio.run(
        export_evidence(Lying(world), world.shard, trust_root=trust_root(world))
    )
    with pytest.raises(InclusionError, match="is not proven"):
        verify(world, file)


def test_a_result_that_is_another_transactions(
    upgraded: World, file: EvidenceFile
) -> None:
    moved = change_tx(
        file,
        "enclave_bridge.submit_order",
        lambda tx: replace(tx, result_proof=replace(tx.result_proof, index=1, total=2)),
    )
    with pytest.raises(InclusionError, match="another one's result"):
        verify(upgraded, moved)


def test_a_transaction_of_no_concern(upgraded: World, file: EvidenceFile) -> None:
    """Proven and good, but not one that a lineage is made of."""
    height = next(iter(file.blocks)).height
    shown = file.blocks[0].txs[0]
    assert call_of(shown.tx) == "enclave_bridge.create_shard"
    collateral = upgraded.chain.block(2).block.txs[0]
    other = replace(shown, tx=collateral)
    block = replace(file.blocks[0], height=height, txs=(other,))
    with pytest.raises(InclusionError):
        verify(upgraded, replace(file, blocks=(block, *file.blocks[1:])))


def test_a_state_that_never_was(upgraded: World, file: EvidenceFile) -> None:
    states = list(file.states)
    states[-1] = replace(states[-1], value=b"\x90")
    with pytest.raises(InclusionError, match="a state after block"):
        verify(upgraded, replace(file, states=tuple(states)))


# --- step 2 ---


def test_a_file_that_begins_after_the_creation(
    upgraded: World, file: EvidenceFile
) -> None:
    late = without(file, lambda _, call: call == "enclave_bridge.create_shard")
    with pytest.raises(BirthRefusedError, match="does not begin"):
        verify(upgraded, late)


def test_another_shard_is_not_this_one(upgraded: World, file: EvidenceFile) -> None:
    with pytest.raises(BirthRefusedError, match="another shard's"):
        verify(upgraded, replace(file, shard=ShardId(bytes(32))))
    with pytest.raises(BirthRefusedError, match="another shard's"):
        verify(upgraded, replace(file, creation=1))


def test_the_first_keys_must_be_those_that_the_chain_keeps(
    upgraded: World, file: EvidenceFile
) -> None:
    with pytest.raises(InclusionError, match="lacks a state proof: got keys"):
        verify(upgraded, without_state(file, keys_key(file.shard, 0)))
    unborn = without(file, lambda _, call: call == "enclave_bridge.publish_key")
    with pytest.raises(EvidenceError):
        verify(upgraded, unborn)


# --- step 3 ---


def test_a_schedule_change_without_its_act(upgraded: World, file: EvidenceFile) -> None:
    hidden = without(file, lambda _, call: call == "enclave_bridge.submit_order")
    with pytest.raises(EvidenceError):
        verify(upgraded, hidden)


def test_an_upgrade_shown_without_the_cancel_that_followed(cancelled: World) -> None:
    whole = export(cancelled)
    orders = heights_of(whole, "enclave_bridge.submit_order")
    hidden = without(
        whole,
        lambda height, call: (
            call == "enclave_bridge.submit_order" and height == orders[1]
        ),
    )
    with pytest.raises(ScheduleUnexplainedError, match="in serial: got 2, expected 1"):
        verify(cancelled, hidden)
    with pytest.raises(InclusionError, match="lacks a state proof"):
        verify(cancelled, without_state(whole, schedule_key(whole.shard), orders[1]))


def test_a_file_that_ends_before_the_cancel_says_so(cancelled: World) -> None:
    """It is true, and old: who asks for a later block, or a young file, is told."""
    whole = export(cancelled)
    cancel = heights_of(whole, "enclave_bridge.submit_order")[1]
    early = verify(cancelled, export(cancelled, to=cancel - 1))
    assert early.last == cancel - 1
    assert early.generations[1].status == "pending"
    now = UnixSeconds(cancelled.chain.now())
    require_fresh(early, at_least=Height(cancel - 1), max_age=None, now=now)
    with pytest.raises(EvidenceStaleError, match="ends before"):
        require_fresh(early, at_least=Height(cancel), max_age=None, now=now)
    with pytest.raises(EvidenceStaleError, match="too old"):
        require_fresh(early, at_least=None, max_age=4, now=now)
    assert verify(cancelled, whole).generations[1].status == "cancelled"


def test_the_last_state_cannot_be_left_out(upgraded: World, file: EvidenceFile) -> None:
    last = max(one.height for one in file.states)
    with pytest.raises(InclusionError, match="lacks a state proof: got schedule"):
        verify(upgraded, without_state(file, schedule_key(file.shard), last))
    with pytest.raises(InclusionError, match="lacks a state proof: got frontier"):
        verify(upgraded, without_state(file, frontier_key(file.shard)))


# --- step 4 ---


def test_an_instance_whose_registration_is_left_out(
    upgraded: World, file: EvidenceFile
) -> None:
    quoted = without(file, lambda _, call: call == "teerex.register_sgx_enclave")
    with pytest.raises(InstanceRefusedError, match="without evidence"):
        verify(upgraded, quoted)


def test_quotes_under_another_root(
    upgraded: World,
    file: EvidenceFile,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    other = SimIntel(tmp_path_factory.mktemp("other") / "intel")
    with pytest.raises(InstanceRefusedError, match="chain ends in the trust anchor"):
        verify(upgraded, file, roots=(parse_trust_anchor(other.root_der),))
    with pytest.raises(InstanceRefusedError, match="collateral"):
        verify(upgraded, file, roots=())


def test_collateral_is_the_ledgers_own_of_that_time(
    upgraded: World, file: EvidenceFile
) -> None:
    key = collateral_key(upgraded.intel.fmspc)
    with pytest.raises(InstanceRefusedError, match="without the ledger's collateral"):
        verify(upgraded, without_state(file, key))


# --- step 6 ---


def test_a_gap_in_the_chain_of_roots(upgraded: World, file: EvidenceFile) -> None:
    confirms = heights_of(file, "enclave_bridge.confirm")
    for height in confirms[:-1]:
        gap = without(
            file,
            lambda at, call, height=height: (
                call == "enclave_bridge.confirm" and at == height
            ),
        )
        with pytest.raises(RootChainError, match=r"breaks|certificate"):
            verify(upgraded, gap)
    ends = without(
        file,
        lambda at, call: call == "enclave_bridge.confirm" and at == confirms[-1],
    )
    with pytest.raises(RootChainError, match="does not lead to the frontier"):
        verify(upgraded, ends)


# --- who trusted once ---


def test_from_a_pinned_generation_and_epoch_to_the_current_ones(
    upgraded: World, file: EvidenceFile
) -> None:
    lineage = verify(upgraded, file)
    first = lineage.generations[0]
    pin = LineagePin(
        generation=first.generation,
        fingerprint=upgraded.releases[0].fingerprint,
        epoch=lineage.epochs[0].epoch,
        shielding_key=lineage.epochs[0].shielding_key,
    )
    now = follow_lineage(lineage, pin)
    assert now.generation == 1
    assert now.passed == (0, 1)
    assert upgraded.releases[1].fingerprint in now.code.values()
    assert now.shielding_key == lineage.epochs[-1].shielding_key
    only = LineagePin(fingerprint=upgraded.releases[1].fingerprint)
    assert follow_lineage(lineage, only).passed == (1,)


@pytest.mark.parametrize(
    "pin",
    [
        LineagePin(),
        LineagePin(generation=0, fingerprint=bytes(32)),
        LineagePin(generation=7),
        LineagePin(epoch=0, shielding_key=bytes(32)),
        LineagePin(epoch=9),
    ],
    ids=["nothing", "code", "generation", "key", "epoch"],
)
def test_a_pin_of_another_lineage_leads_nowhere(
    upgraded: World, file: EvidenceFile, pin: LineagePin
) -> None:
    with pytest.raises(LineageForeignError):
        follow_lineage(verify(upgraded, file), pin)


def test_code_that_was_cancelled_is_no_pin(cancelled: World) -> None:
    lineage = verify(cancelled, export(cancelled))
    pin = LineagePin(fingerprint=cancelled.releases[1].fingerprint)
    with pytest.raises(LineageForeignError):
        follow_lineage(lineage, pin)


# --- the exporter ---


def test_what_the_node_does_not_show_is_not_exported(upgraded: World) -> None:
    with pytest.raises(EvidenceExportError, match="no such shard"):
        export(upgraded, shard=ShardId(bytes(32)))
    with pytest.raises(EvidenceExportError):
        asyncio.run(
            export_evidence(
                WorldSource(upgraded),
                upgraded.shard,
                trust_root=trust_root(upgraded, upgraded.height - 3),
            )
        )


def test_the_scan_tells_how_far_it_is(upgraded: World) -> None:
    told: list[tuple[int, int]] = []
    asyncio.run(
        export_evidence(
            WorldSource(upgraded),
            upgraded.shard,
            trust_root=trust_root(upgraded),
            progress=lambda at, of: told.append((at, of)),
        )
    )
    assert told[-1] == (upgraded.height - 1, upgraded.height - 1)


def test_the_clock_may_be_none_and_time_is_still_bounded(
    upgraded: World, file: EvidenceFile
) -> None:
    rules = RelayRules(trusting_period=1)
    with pytest.raises(HeadersRefusedError, match="too long a jump"):
        verify(upgraded, file, rules=rules, now=None)
