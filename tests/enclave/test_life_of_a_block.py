"""Birth, execution, confirmation: what an honest host gets."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from enclave_world import (
    ALICE,
    BOB,
    CODE_A,
    CODE_B,
    GENESIS,
    L1,
    SHARD,
    FakePlatform,
    Host,
    Starving,
    World,
    entry,
    runtime_v1,
    schedule,
)

from sealift.base import InvariantError, encode
from sealift.crypto import account_of
from sealift.enclave import (
    AlreadyStartedError,
    ConfirmRangeError,
    EnclaveError,
    GenesisMismatchError,
    NoKeysError,
    NoStateError,
    NotDurableError,
    NotNamedError,
    NotServingError,
    NotStartedError,
    ShardBornError,
    StateExistsError,
    StateRootMismatchError,
    VersionMismatchError,
    _birth,
    _execute,
)
from sealift.enclave._state import keyed_root
from sealift.protocol import Receipt, ShardStatus, effects_root, open_receipt
from sealift.protocol import ecall as e
from sealift.relay import merkle_root
from sealift.stf import CallReceipt, GetterBoundsError

EMPTY = merkle_root(())


def test_a_shard_is_born_executes_and_confirms(world: World) -> None:
    host, l1 = world.host, world.l1
    assert host.status().state_height == 5
    assert host.status().root == world.frontier.root
    at = l1.block(l1.invoke(host.transfer(7, nonce=0)))
    l1.block()
    assert host.run().reason == "no-block"
    receipt = host.opened(host.receipts[0])
    assert (receipt.outcome, receipt.height) == ("ok", at)
    assert host.free() == 993
    assert not host.read().confirmed
    world.confirm()
    host.run()
    reply = host.read()
    assert reply.head_height == l1.height - 1
    assert reply.root == host.status().root


def test_a_confirmation_covers_a_range_with_all_its_receipts(world: World) -> None:
    host, l1 = world.host, world.l1
    for nonce in range(2):
        l1.block(l1.invoke(host.transfer(1, nonce=nonce)))
        l1.block()
    host.run()
    top = host.status().state_height
    reply = host.call(e.Confirm(after=5, durable=top))
    said = reply.confirmation
    said.verify(said.signing_key, reply.signature)
    assert (said.first, said.last, said.generation) == (6, top, 0)
    assert said.prev_root == world.frontier.root
    assert said.root == host.roots[top]
    assert said.receipts_root == merkle_root([r.leaf() for r in host.receipts])
    assert said.effects_root == effects_root(())
    assert reply.certificate is None


def test_confirmations_need_not_wait_for_each_other_on_l1(world: World) -> None:
    host, l1 = world.host, world.l1
    for _ in range(4):
        l1.block()
    host.run()
    first = host.call(e.Confirm(after=5, durable=7)).confirmation
    second = host.call(e.Confirm(after=7, durable=8)).confirmation
    assert (second.first, second.prev_root) == (8, first.root)
    assert host.call(e.Confirm(after=8, durable=8)).confirmation is None


def test_no_confirmation_of_what_was_not_executed_or_is_confirmed(
    world: World,
) -> None:
    host, l1 = world.host, world.l1
    for _ in range(3):
        l1.block()
    host.run()
    top = host.status().state_height
    with pytest.raises(NotDurableError):
        host.call(e.Confirm(after=5, durable=top + 1))
    for after, durable in ((4, top), (top, 6)):
        with pytest.raises(ConfirmRangeError):
            host.call(e.Confirm(after=after, durable=durable))
    world.confirm()
    host.run()
    with pytest.raises(ConfirmRangeError):
        host.call(e.Confirm(after=5, durable=top))


def test_an_instance_confirms_only_what_it_executed_itself(world: World) -> None:
    l1, host = world.l1, world.host
    other = world.twin()
    other.follow()
    other.offer(host.export())
    l1.block(l1.invoke(host.transfer(7, nonce=0)))
    l1.block()
    host.run()
    other.follow()
    other.call(e.DiffApply(diff=host.diffs[6]))
    other.call(e.DiffApply(diff=host.diffs[7]))
    with pytest.raises(ConfirmRangeError):
        other.call(e.Confirm(after=5, durable=7))


def test_deposits_and_calls_take_effect_in_the_order_of_the_block(
    world: World,
) -> None:
    host, l1 = world.host, world.l1
    poor = b"p" * 32
    l1.block(
        l1.shield(poor, 5),
        l1.invoke(
            host.seal(
                poor, "balances.transfer", nonce=0, dest=account_of(BOB), amount=5
            )
        ),
        l1.invoke(
            host.seal(
                poor, "balances.transfer", nonce=1, dest=account_of(BOB), amount=1
            )
        ),
        l1.shield(poor, 2),
    )
    l1.block()
    host.run()
    outcomes = [host.opened(r, poor).outcome for r in host.receipts]
    assert outcomes == ["ok", "InsufficientFundsError"]
    assert (host.free(poor), host.free(BOB)) == (2, 1005)


def test_only_successful_top_level_calls_of_this_shard_count(world: World) -> None:
    host, l1 = world.host, world.l1
    envelope = host.transfer(7, nonce=0)
    l1.block(
        l1.invoke(envelope),
        l1.invoke(envelope, shard=b"o" * 32),
        b"not a transaction",
        l1.invoke(envelope)[:-1],
        codes=[5, 0, 0, 0],
    )
    l1.block()
    host.run()
    assert host.receipts == []
    assert host.free() == 1000


def test_a_bad_call_never_stops_a_block(make_world: type[World]) -> None:
    world = make_world(runtime=runtime_v1(Starving()))
    host, l1 = world.host, world.l1
    good = host.transfer(7, nonce=0)
    altered = good[:-1] + bytes([good[-1] ^ 1])
    crash = host.seal(BOB, "starving.crash", nonce=0)
    l1.block(
        l1.invoke(b""),
        l1.invoke(b"\xc1junk"),
        l1.invoke(altered),
        l1.invoke(crash),
        l1.invoke(good),
        l1.invoke(good),
    )
    l1.block()
    host.run()
    # what did not open gets no receipt: nobody can be told
    shown = [
        host.opened(r, who).outcome
        for r, who in zip(host.receipts, (BOB, ALICE, ALICE), strict=True)
    ]
    assert shown == ["CallPanickedError", "ok", "ok"]
    assert host.free() == 993


def test_memory_starvation_ends_the_process_before_anything_leaves(
    make_world: type[World],
) -> None:
    world = make_world(runtime=runtime_v1(Starving()))
    host, l1 = world.host, world.l1
    l1.block(
        l1.invoke(host.transfer(7, nonce=0)),
        l1.invoke(host.seal(BOB, "starving.eat", nonce=0)),
    )
    l1.block()
    host.follow()
    host.execute()
    before = host.status()
    with pytest.raises(MemoryError):
        host.enclave.handle(encode(e.Execute()))
    assert host.status() == before
    assert host.receipts == []


def test_an_oversized_receipt_loses_its_events_not_the_block(world: World) -> None:
    receipt = Receipt(
        call_id=bytes(32), height=6, index=0, outcome="ok", events=(bytes(70_000),)
    )
    one = CallReceipt(envelope=bytes(32), reply_key=bytes(32), receipt=receipt)
    world.l1.block()
    world.l1.block()
    world.host.follow()
    block = world.host.enclave._shard.queue[0]
    outcome: Any = SimpleNamespace(receipts=(one,), height=block.height)
    (sealed,) = _execute.sealed_receipts(block.block_hash, outcome)
    told = open_receipt(sealed, reply_key=bytes(32), block_hash=block.block_hash)
    assert told == msgspec.structs.replace(receipt, events=())


def test_maintenance_fails_calls_by_name_and_loses_nothing(world: World) -> None:
    host, l1 = world.host, world.l1
    l1.ledger.schedule = msgspec.structs.replace(
        l1.ledger.schedule, status=ShardStatus(mode="maintenance")
    )
    envelope = host.transfer(7, nonce=0)
    l1.block(l1.invoke(envelope))
    l1.ledger.schedule = msgspec.structs.replace(
        l1.ledger.schedule, status=ShardStatus()
    )
    l1.block(l1.invoke(envelope))
    l1.block()
    host.run()
    assert [host.opened(r).outcome for r in host.receipts] == ["MaintenanceError", "ok"]


def test_empty_blocks_advance_height_and_root(world: World) -> None:
    host, l1 = world.host, world.l1
    for _ in range(3):
        l1.block()
    host.run()
    assert host.status().state_height == l1.height - 1
    assert len(set(host.roots.values())) == len(host.roots), "roots are of heights"


def test_readers_are_told_what_an_answer_is_true_of(world: World) -> None:
    host, l1 = world.host, world.l1
    reply = host.read()
    assert (reply.state_height, reply.confirmed) == (5, True)
    assert reply.head_time == l1.blocks[5].block.header.time.seconds
    with pytest.raises(GetterBoundsError):
        host.read(min_height=6)
    with pytest.raises(GetterBoundsError):
        host.read(valid_until=4)


def test_code_that_does_not_run_the_shard_answers_no_reads(world: World) -> None:
    host, l1 = world.host, world.l1
    l1.ledger.schedule = schedule(entry(0, CODE_A, 3), entry(1, CODE_B, l1.height + 1))
    l1.block()
    l1.block()
    host.follow()
    with pytest.raises(NotServingError):
        host.read()


def test_a_raised_svn_floor_silences_old_code(world: World) -> None:
    host, l1 = world.host, world.l1
    l1.ledger.schedule = msgspec.structs.replace(
        l1.ledger.schedule, status=ShardStatus(min_isv_svn=2)
    )
    l1.block()
    l1.block()
    host.follow()
    with pytest.raises(NotServingError):
        host.read()


def test_without_keys_or_state_nothing_happens(world: World) -> None:
    other = Host(world.l1, FakePlatform(machine=b"m2"), seed=b"other")
    other.follow()
    assert other.execute().reason == "no-keys"
    for request in (
        e.Ask(envelope=world.host.getter()),
        e.Confirm(after=5, durable=5),
        e.SnapshotBegin(),
        e.DiffApply(diff=b""),
    ):
        with pytest.raises(NoStateError):
            other.call(request)
    for request in (
        e.Genesis(blob=GENESIS),
        e.SnapshotBegin(header=world.host.export()[0]),
    ):
        with pytest.raises(NoKeysError):
            other.call(request)


def test_all_own_refusals_are_of_one_family(world: World) -> None:
    with pytest.raises(EnclaveError):
        world.host.start()


def test_a_registration_is_quoted_signed_and_names_its_operator(world: World) -> None:
    host = world.host
    done = host.call(e.Register(operator=account_of(BOB)))
    said = done.statement
    said.verify(said.signing_key, done.signature)
    assert done.quote.endswith(said.report_data())
    assert said.operator == account_of(BOB)
    assert said.block_hash == world.l1.hash(said.block_height)
    assert said.shard == SHARD


def test_dump_ra_carries_a_fresh_quote(world: World) -> None:
    first = world.host.call(e.DumpRa()).certificate
    assert b"quote" + CODE_A in first
    assert first != world.host.call(e.DumpRa()).certificate


class TestBirth:
    def unborn(self) -> tuple[World, Host]:
        world = World.__new__(World)
        world.l1 = L1()
        world.l1.block()
        world.host = Host(world.l1)
        world.l1.ledger.schedule = schedule(entry(0, CODE_A, 3))
        for _ in range(3):
            world.l1.block()
        world.host.follow()
        return world, world.host

    def test_asked_twice_the_same_keys_are_published(self) -> None:
        _, host = self.unborn()
        first = host.call(e.BornKeys(blob=GENESIS))
        again = host.call(e.BornKeys(blob=GENESIS))
        assert first.statement == again.statement
        first.statement.verify(first.statement.signing_key, first.signature)

    def test_a_crash_before_publication_keeps_the_keys(self) -> None:
        world, host = self.unborn()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store = born.key_store
        host.boot()
        host.start()
        assert host.call(e.BornKeys(blob=GENESIS)).statement == born.statement
        host.boot()
        host.start()
        assert host.call(e.Genesis(blob=GENESIS)).height is None
        world.publish(born.statement)
        host.follow()
        assert host.status().state_height == 5

    def test_a_crash_after_publication_finds_the_state_again(self) -> None:
        world, host = self.unborn()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store = born.key_store
        world.publish(born.statement)
        host.boot()
        host.start()
        host.follow()
        assert host.status().epochs == (0,)
        assert host.status().state_height is None
        reply = host.call(e.Genesis(blob=GENESIS))
        assert (reply.height, reply.root) == (5, born.statement.genesis_root)
        world.l1.block()
        assert host.run().reason == "no-block"
        assert host.status().state_height == 6

    def test_genesis_before_the_chain_is_followed_again_waits_for_it(self) -> None:
        world, host = self.unborn()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store, host.checkpoint = born.key_store, None
        world.publish(born.statement)
        host.boot()
        host.start()
        assert host.call(e.Genesis(blob=GENESIS)).height is None
        host.follow()
        assert host.status().state_height == 5
        assert host.status().root == born.statement.genesis_root

    def test_a_bad_genesis_that_waited_does_not_stop_the_relay(self) -> None:
        world, host = self.unborn()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store, host.checkpoint = born.key_store, None
        world.publish(born.statement)
        host.boot()
        host.start()
        host.call(e.Genesis(blob=b"\x80"))
        host.follow()
        assert host.execute().reason == "no-state"
        with pytest.raises(GenesisMismatchError):
            host.call(e.Genesis(blob=b"\x80"))
        assert host.call(e.Genesis(blob=GENESIS)).height == 5

    def test_a_bug_in_a_genesis_that_waited_ends_the_process(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world, host = self.unborn()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store, host.checkpoint = born.key_store, None
        world.publish(born.statement)
        host.boot()
        host.start()
        host.call(e.Genesis(blob=GENESIS))

        def broken(*_: object) -> None:
            raise InvariantError("broken")

        monkeypatch.setattr(_birth, "_rebuilt", broken)
        with pytest.raises(InvariantError):
            host.follow()

    def test_another_instance_was_first_so_mine_are_no_keys(self) -> None:
        world, host = self.unborn()
        host.call(e.BornKeys(blob=GENESIS))
        rival = Host(world.l1, FakePlatform(machine=b"m2"), seed=b"rival")
        rival.follow()
        theirs = rival.call(e.BornKeys(blob=GENESIS)).statement
        world.publish(theirs)
        host.follow()
        rival.follow()
        assert host.status().epochs == ()
        assert host.execute().reason == "no-keys"
        assert rival.status().state_height == 5
        with pytest.raises(ShardBornError):
            host.call(e.BornKeys(blob=GENESIS))

    def test_no_birth_without_proof_of_absence_at_the_head(self) -> None:
        world, host = self.unborn()
        world.l1.block()
        request = world.l1.request(4)
        only = tuple(p for p in request.proofs if b"/keys/" not in p.key)
        host.call(msgspec.structs.replace(request, proofs=only))
        with pytest.raises(ShardBornError):
            host.call(e.BornKeys(blob=GENESIS))

    def test_no_birth_by_code_the_schedule_does_not_name(self) -> None:
        world, _ = self.unborn()
        other = Host(world.l1, FakePlatform(CODE_B), seed=b"b")
        other.follow()
        with pytest.raises(NotNamedError):
            other.call(e.BornKeys(blob=GENESIS))

    def test_no_birth_by_an_svn_below_the_config(self) -> None:
        world, _ = self.unborn()
        other = Host(world.l1, FakePlatform(isv_svn=0), seed=b"b")
        old = world.l1.ledger.schedule.entries[0]
        config = msgspec.structs.replace(old.config, min_isv_svn=1)
        world.l1.ledger.schedule = schedule(msgspec.structs.replace(old, config=config))
        world.l1.block()
        world.l1.block()
        other.follow()
        with pytest.raises(NotNamedError):
            other.call(e.BornKeys(blob=GENESIS))

    def test_no_birth_from_another_genesis(self) -> None:
        _, host = self.unborn()
        with pytest.raises(GenesisMismatchError):
            host.call(e.BornKeys(blob=GENESIS + b"\x00"))

    def test_no_genesis_over_a_state(self, world: World) -> None:
        with pytest.raises(StateExistsError):
            world.host.call(e.Genesis(blob=GENESIS))

    def test_a_published_root_of_another_runtime_is_refused(self) -> None:
        world, host = self.unborn()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store = born.key_store
        world.publish(born.statement)
        host.runtime = runtime_v1(Starving())
        host.boot()
        host.start()
        host.follow()
        with pytest.raises(StateRootMismatchError):
            host.call(e.Genesis(blob=GENESIS))


class TestDoor:
    def test_nothing_comes_before_start(self, world: World) -> None:
        host = Host(world.l1, start=False)
        with pytest.raises(NotStartedError):
            host.call(e.GetStatus())
        assert host.call(e.Hello(version_low=1, version_high=9)).version == 1

    def test_start_happens_once(self, world: World) -> None:
        with pytest.raises(AlreadyStartedError):
            world.host.start()

    def test_no_common_version(self, world: World) -> None:
        with pytest.raises(VersionMismatchError):
            world.host.call(e.Hello(version_low=2, version_high=3))

    def test_hello_tells_who_this_is(self, world: World) -> None:
        hello = world.host.call(e.Hello(version_low=1, version_high=1))
        assert (hello.fingerprint, hello.platform) == (CODE_A, "insecure-sim")
        assert hello.metadata == encode(world.host.runtime.metadata())


def test_roots_are_keyed_by_shard_epoch_height_and_secret(world: World) -> None:
    keys = world.host.enclave._shard.keys.epochs[0]
    other = msgspec.structs.replace(keys, root_key=b"k" * 32)
    later = msgspec.structs.replace(keys, epoch=1)
    roots = {
        keyed_root(keys, SHARD, 5, b"a"),
        keyed_root(keys, SHARD, 5, b"b"),
        keyed_root(keys, SHARD, 6, b"a"),
        keyed_root(keys, b"o" * 32, 5, b"a"),
        keyed_root(later, SHARD, 5, b"a"),
        keyed_root(other, SHARD, 5, b"a"),
    }
    assert len(roots) == 6


def test_a_key_store_shows_no_secret_when_it_is_printed(world: World) -> None:
    keys = world.host.enclave._shard.keys
    shown = repr(keys) + str(keys)
    for secret in (keys.seed, keys.hpke_seed, keys.epochs[0].state_key):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
