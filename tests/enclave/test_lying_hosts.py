"""A host that hides, adds, misreports, skips, repeats or reorders (DESIGN §10)."""

from typing import Any

import msgspec
import pytest
from enclave_world import (
    CODE_A,
    CODE_B,
    L1,
    SHARD,
    FakePlatform,
    Host,
    World,
    entry,
    schedule,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import decode, encode
from sealift.enclave import (
    CheckpointForgedError,
    DuplicateProofError,
    HaltedError,
    RecordMissingError,
    RepeatedBlockError,
    ScheduleNotBroughtError,
    SkippedBlockError,
    WrongRecordError,
    WrongScheduleError,
)
from sealift.enclave._checkpoint import SealedCheckpoint
from sealift.frame import ProofInvalidError
from sealift.protocol import ScheduleRecord, record_key, schedule_key
from sealift.protocol import ecall as e
from sealift.relay import (
    CheckpointInvalidError,
    ForkDetectedError,
    LightBlock,
    ResultsMismatchError,
    TrustRootMismatchError,
    TxResult,
    TxsMismatchError,
)

OK = encode(TxResult())
FAILED = encode(TxResult(code=1))


class Lies:
    """A host about to bring a block with two calls."""

    def __init__(self, world: World) -> None:
        self.world, self.l1, self.host = world, world.l1, world.host
        self.first = self.l1.invoke(self.host.transfer(7, nonce=0))
        self.second = self.l1.invoke(self.host.transfer(9, nonce=1))
        self.at = self.l1.block(self.first, self.second)
        for _ in range(3):
            self.l1.block()
        self.host.follow(self.at - 1)

    def bring(self, **changes: Any) -> None:
        """Tell a lie about the block."""
        self.before = self.host.status()
        self.host.call(self.l1.request(self.at, **changes))

    def truth_passes(self) -> None:
        """Nothing has changed, and the true block is executed as ever."""
        assert self.host.status() == self.before
        self.host.run()
        assert [self.host.opened(r).outcome for r in self.host.receipts] == ["ok"] * 2
        assert self.host.free() == 984


@pytest.fixture
def lies(world: World) -> Lies:
    return Lies(world)


def test_hidden_tx(lies: Lies) -> None:
    with pytest.raises(TxsMismatchError):
        lies.bring(txs=(lies.first,), results=(OK,))
    lies.truth_passes()


def test_added_tx(lies: Lies) -> None:
    more = lies.l1.invoke(lies.host.transfer(1, nonce=2))
    with pytest.raises(TxsMismatchError):
        lies.bring(txs=(lies.first, lies.second, more), results=(OK, OK, OK))
    lies.truth_passes()


def test_reordered_txs(lies: Lies) -> None:
    with pytest.raises(TxsMismatchError):
        lies.bring(txs=(lies.second, lies.first))
    lies.truth_passes()


def test_failure_misreported_for_success(lies: Lies) -> None:
    with pytest.raises(ResultsMismatchError):
        lies.bring(results=(OK, FAILED))
    lies.truth_passes()


def test_success_misreported_for_failure(world: World) -> None:
    host, l1 = world.host, world.l1
    at = l1.block(l1.invoke(host.transfer(7, nonce=0)), codes=[1])
    l1.block()
    host.follow(at - 1)
    with pytest.raises(ResultsMismatchError):
        host.call(l1.request(at, results=(OK,)))


def test_results_left_out(lies: Lies) -> None:
    with pytest.raises(ResultsMismatchError):
        lies.bring(results=(OK,))
    lies.truth_passes()


def test_skipped_block(lies: Lies) -> None:
    before = lies.host.status()
    with pytest.raises(SkippedBlockError):
        lies.host.call(lies.l1.request(lies.at + 1))
    assert lies.host.status() == before


def test_repeated_block(lies: Lies) -> None:
    lies.host.follow(lies.at)
    with pytest.raises(RepeatedBlockError):
        lies.host.call(lies.l1.request(lies.at))
    assert lies.host.status().waiting == 2


def test_next_header_of_another_height(lies: Lies) -> None:
    with pytest.raises(SkippedBlockError):
        lies.bring(light_block=lies.l1.light(lies.at + 2))
    lies.truth_passes()


def test_record_left_out(lies: Lies) -> None:
    with pytest.raises(RecordMissingError):
        lies.bring(proofs=())
    lies.truth_passes()


def test_record_of_the_block_before(lies: Lies) -> None:
    with pytest.raises(ProofInvalidError):
        lies.bring(proofs=lies.l1.proofs(lies.at - 1))
    lies.truth_passes()


def test_value_that_is_not_what_is_proven(lies: Lies) -> None:
    true = lies.l1.proof(lies.at, record_key(SHARD))
    forged = msgspec.structs.replace(true, value=true.value + b"x")
    with pytest.raises(ProofInvalidError):
        lies.bring(proofs=(forged,))
    lies.truth_passes()


def test_absence_claimed_of_what_is_there(lies: Lies) -> None:
    true = lies.l1.proof(lies.at, record_key(SHARD))
    with pytest.raises(ProofInvalidError):
        lies.bring(proofs=(msgspec.structs.replace(true, value=None),))
    lies.truth_passes()


def test_one_key_proven_twice(lies: Lies) -> None:
    one = lies.l1.proof(lies.at, record_key(SHARD))
    with pytest.raises(DuplicateProofError):
        lies.bring(proofs=(one, one))
    lies.truth_passes()


class TestStrangeLedger:
    """Records that a correct ledger does not write are refused all the same."""

    def follow(self, world: World) -> None:
        world.l1.block()
        world.host.follow()

    def record(self, world: World, **changes: Any) -> ScheduleRecord:
        fields = {
            "height": world.l1.height + 1,
            "generation": 0,
            "schedule": world.l1.ledger.shown().digest(),
        }
        return ScheduleRecord(**(fields | changes))

    def test_record_of_another_height(self, world: World) -> None:
        world.l1.block(record=self.record(world, height=3))
        with pytest.raises(WrongRecordError):
            self.follow(world)

    def test_record_of_a_generation_the_schedule_does_not_run(
        self, world: World
    ) -> None:
        world.l1.block(record=self.record(world, generation=1))
        with pytest.raises(WrongRecordError):
            self.follow(world)

    def test_record_that_vanished(self, world: World) -> None:
        world.l1.block(record=None)
        with pytest.raises(RecordMissingError):
            self.follow(world)

    def test_record_of_an_unknown_schedule(self, world: World) -> None:
        world.l1.block(record=self.record(world, schedule=b"x" * 32))
        with pytest.raises(ScheduleNotBroughtError):
            self.follow(world)

    def test_schedule_of_another_shard(self, world: World) -> None:
        world.l1.ledger.schedule = msgspec.structs.replace(
            world.l1.ledger.schedule, shard=b"o" * 32
        )
        world.l1.block()
        with pytest.raises(WrongScheduleError):
            self.follow(world)


def test_old_schedule_is_no_use_after_an_order(world: World) -> None:
    """The record names the new schedule; the host brings only the old one."""
    host, l1 = world.host, world.l1
    host.follow()
    l1.ledger.schedule = schedule(entry(0, CODE_A, 3), entry(1, CODE_B, l1.height + 2))
    at = l1.block()
    l1.block()
    only = (l1.proof(at, record_key(SHARD)),)
    host.follow(at - 1)
    with pytest.raises(ScheduleNotBroughtError):
        host.call(l1.request(at, proofs=only))
    with pytest.raises(ProofInvalidError):
        host.call(l1.request(at, proofs=(*only, l1.proof(at - 1, schedule_key(SHARD)))))
    host.follow()
    assert host.status().head == at + 1


def test_a_schedule_is_brought_only_when_it_is_new(world: World) -> None:
    host, l1 = world.host, world.l1
    at = l1.block()
    l1.block()
    host.follow(at - 1)
    only = (l1.proof(at, record_key(SHARD)),)
    assert host.call(l1.request(at, proofs=only)).mine


def test_a_forked_chain_stops_the_enclave_for_good(world: World) -> None:
    host, l1 = world.host, world.l1
    l1.block()
    l1.block()
    host.follow()
    other = L1()
    for _ in range(l1.height):
        other.block(b"another history")
    fork = decode(LightBlock, other.light(l1.height))
    with pytest.raises(ForkDetectedError):
        host.call(l1.request(l1.height - 1, light_block=encode(fork)))
    assert host.status().halted == "fork"
    for request in (
        e.Execute(),
        e.Confirm(after=5, durable=5),
        e.Ask(envelope=b""),
        e.SnapshotBegin(),
        e.OpenSession(role="provider"),
        l1.request(l1.height - 1),
    ):
        with pytest.raises(HaltedError):
            host.call(request)


def test_the_relay_starts_at_the_measured_block_only(world: World) -> None:
    host = Host(world.l1, FakePlatform(machine=b"m2"), start=False)
    for light in (world.l1.light(2), None):
        with pytest.raises((TrustRootMismatchError, CheckpointForgedError)):
            host.call(
                e.Start(shard=SHARD, key_store=None, checkpoint=None, light_block=light)
            )
    host.start()


class TestCheckpoints:
    def start(self, world: World, checkpoint: bytes) -> None:
        host = world.host
        host.boot()
        host.checkpoint = checkpoint
        host.start()

    def test_altered(self, world: World) -> None:
        outer = decode(SealedCheckpoint, world.host.checkpoint)
        body = bytearray(outer.body)
        body[-1] ^= 1
        forged = encode(msgspec.structs.replace(outer, body=bytes(body)))
        with pytest.raises(CheckpointForgedError):
            self.start(world, forged)

    def test_of_another_instance(self, world: World) -> None:
        other = world.twin()
        other.follow()
        with pytest.raises(CheckpointForgedError):
            self.start(world, other.checkpoint)

    def test_of_another_height(self, world: World) -> None:
        outer = decode(SealedCheckpoint, world.host.checkpoint)
        with pytest.raises(CheckpointForgedError):
            self.start(world, encode(msgspec.structs.replace(outer, height=3)))

    def test_of_a_bundle_with_another_trust_root(self, world: World) -> None:
        class Rooted(Host):
            def manifest(self) -> Any:
                true = super().manifest()
                l1 = msgspec.structs.replace(
                    true.l1, height=2, header_hash=self.l1.hash(2).hex()
                )
                return msgspec.structs.replace(true, l1=l1)

        world.host.__class__ = Rooted
        with pytest.raises(CheckpointInvalidError):
            self.start(world, world.host.checkpoint)

    def test_older_costs_time_only(self, world: World) -> None:
        host, l1 = world.host, world.l1
        old = host.checkpoint
        for _ in range(3):
            l1.block()
        host.run()
        root = host.status().root
        host.checkpoint = old
        host.restart()
        host.run()
        assert host.status().root == root


def test_too_many_blocks_stop_waiting_and_come_again_after_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.enclave._follow.MAX_WAITING_BLOCKS", 3)
    host, l1 = world.host, world.l1
    l1.block(l1.invoke(host.transfer(7, nonce=0)))
    for _ in range(4):
        l1.block()
    last = l1.block(l1.invoke(host.transfer(9, nonce=1)))
    l1.block()
    idle = host.run()
    assert idle.reason == "behind"
    assert host.status().state_height == 8
    host.restart()
    while host.status().state_height < last:
        assert host.run().reason in ("behind", "no-block")
        if host.status().state_height < last:
            host.restart()
    assert host.free() == 984


def test_waiting_bytes_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.enclave._follow.MAX_WAITING_BYTES", 1000)
    host, l1 = world.host, world.l1
    for nonce in range(4):
        l1.block(l1.invoke(host.transfer(1, nonce=nonce)))
    l1.block()
    host.follow()
    held = sum(block.size for block in host.enclave._shard.queue)
    assert held <= 1000
    assert host.execute().height == 6


@pytest.fixture(scope="module")
def door() -> World:
    return World()


def reply_of(world: World, frame: bytes) -> Any:
    return decode(e.Reply, world.host.enclave.handle(frame))


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_get_a_reply(door: World, frame: bytes) -> None:
    assert isinstance(reply_of(door, frame), e.Refused)


_BYTES = st.binary(max_size=40)
_SMALL = st.integers(min_value=-2, max_value=2**64 - 1)
_REQUESTS = st.one_of(
    st.builds(e.Genesis, blob=_BYTES),
    st.builds(e.SnapshotBegin, header=st.none() | _BYTES),
    st.builds(e.SnapshotGet, index=_SMALL),
    st.builds(e.SnapshotChunk, index=_SMALL, data=_BYTES),
    st.builds(e.DiffApply, diff=_BYTES),
    st.builds(e.BornKeys, blob=_BYTES),
    st.builds(e.Ask, envelope=_BYTES),
    st.builds(e.Confirm, after=_SMALL, durable=_SMALL),
    st.builds(e.CloseSession, session=_SMALL),
    st.builds(e.FeedSession, session=_SMALL, data=st.tuples(_BYTES)),
    st.builds(e.ProveSession, session=_SMALL, height=_SMALL, proofs=st.just(())),
    st.builds(e.GetStatus),
    st.builds(e.Execute),
)


@given(_REQUESTS)
@settings(max_examples=150, deadline=None)
def test_any_request_gets_a_reply_of_the_table(door: World, request_: Any) -> None:
    reply = reply_of(door, encode(request_))
    assert isinstance(reply, (e.Refused, *e.ECALLS[type(request_)]))


@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_an_altered_import_is_refused_and_changes_nothing(
    place: float, change: int
) -> None:
    lies = Lies(World())
    frame = bytearray(encode(lies.l1.request(lies.at)))
    frame[int(place * len(frame))] ^= change
    before = lies.host.status()
    assert isinstance(reply_of(lies.world, bytes(frame)), e.Refused)
    assert lies.host.status() == before
    assert lies.host.call(lies.l1.request(lies.at)).mine
