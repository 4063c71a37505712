"""Snapshots: what bad chunks and heads get, and checks that replace nothing (§13)."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from enclave_world import CHAIN, CODE_A, CODE_B, SHARD, Host, World, entry, schedule
from hypothesis import given, settings
from hypothesis import strategies as st
from rotation_world import Rotation
from snapshot_forge import (
    altered,
    export_v1,
    facts_of,
    forged,
    opened_chunk,
    sealed_chunk,
)

from sealift.crypto import sha256
from sealift.enclave import (
    NoKeysError,
    OldSnapshotError,
    SnapshotContradictedError,
    SnapshotForgedError,
    SnapshotOrderError,
    StateRootMismatchError,
    WrongEpochError,
)
from sealift.enclave._intake import begin_intake
from sealift.enclave._keystore import KeyStore, new_epoch_keys
from sealift.enclave._snapshot import begin_export
from sealift.enclave._state import LastBlock, ShardState, keyed_root, page_key
from sealift.enclave._view import ChainView
from sealift.frame import PageStore, SnapshotHead, snapshot_pages
from sealift.protocol import ecall as e


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealift.enclave._snapshot.CHUNK_BYTES", 200)


def busy(world: World, blocks: int = 3) -> None:
    nonce = world.host.status().state_height - 4
    for number in range(blocks):
        world.l1.block(world.l1.invoke(world.host.transfer(7, nonce=nonce + number)))
    world.l1.block()
    world.host.run()


def keys_of(host: Host) -> KeyStore:
    return host.enclave._shard.keys


def check(host: Host, header: bytes, chunks: list[bytes]) -> e.SnapshotChecked:
    reply = host.call(e.SnapshotCheck(header=header))
    for index, data in enumerate(chunks):
        reply = host.call(e.SnapshotCheckChunk(index=index, data=data))
    return reply


@pytest.fixture
def offered(world: World) -> tuple[World, Host, bytes, list[bytes]]:
    """Someone with keys and without state, and a snapshot that he has begun."""
    busy(world)
    header, chunks = world.host.export()
    assert len(chunks) > 4
    taker = world.twin()
    taker.follow()
    taker.call(e.SnapshotBegin(header=header))
    return world, taker, header, chunks


Offered = tuple[World, Host, bytes, list[bytes]]


def put(host: Host, index: int, data: bytes) -> e.StateReply:
    return host.call(e.SnapshotChunk(index=index, data=data))


class TestChunks:
    def test_the_header_says_what_it_is(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        status = world.host.status()
        begun = taker.call(e.SnapshotBegin(header=header))
        assert begun == e.SnapshotHeader(
            header=header,
            height=status.state_height,
            chunks=len(chunks),
            format=2,
            root=status.root,
            epoch=0,
        )

    def test_in_any_order_and_repeated(self, offered: Offered) -> None:
        world, taker, _, chunks = offered
        order = [*range(1, len(chunks))] * 2
        random.Random(5).shuffle(order)
        assert put(taker, 0, chunks[0]).missing == len(chunks) - 1
        seen = {0}
        for index in order:
            reply = put(taker, index, chunks[index])
            seen.add(index)
            if len(seen) == len(chunks):
                break
            assert reply == e.StateReply(
                height=None, root=None, missing=len(chunks) - len(seen)
            )
        assert (reply.root, reply.missing) == (world.host.status().root, None)

    def test_begun_again_goes_on_where_it_was(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        for index in (0, 2):
            put(taker, index, chunks[index])
        taker.call(e.SnapshotBegin(header=header))
        for index in (1, *range(3, len(chunks))):
            reply = put(taker, index, chunks[index])
        assert reply.root == world.host.status().root

    def test_another_header_begins_another(self, offered: Offered) -> None:
        world, taker, _, chunks = offered
        put(taker, 0, chunks[0])
        header, others = world.host.export()
        taker.call(e.SnapshotBegin(header=header))
        with pytest.raises(SnapshotOrderError):
            put(taker, 1, others[1])
        with pytest.raises(SnapshotForgedError):
            put(taker, 0, chunks[0])

    def test_of_an_earlier_snapshot(self, world: World) -> None:
        """Rolled back: good then, of the same place, by the same maker."""
        _, old = world.host.export()
        busy(world)
        header, new = world.host.export()
        taker = world.twin()
        taker.follow()
        taker.call(e.SnapshotBegin(header=header))
        with pytest.raises(SnapshotForgedError):
            put(taker, 0, old[0])
        put(taker, 0, new[0])
        for index in range(1, min(len(old), len(new))):
            with pytest.raises(SnapshotForgedError):
                put(taker, index, old[index])

    @pytest.mark.parametrize("index", [-1, 99, 2**40])
    def test_that_is_not_there(self, offered: Offered, index: int) -> None:
        world, taker, _, chunks = offered
        put(taker, 0, chunks[0])
        with pytest.raises(SnapshotOrderError):
            put(taker, index, chunks[1])
        with pytest.raises(SnapshotOrderError):
            world.host.call(e.SnapshotGet(index=index))

    def test_every_chunk_has_a_key_of_its_own_that_all_names_make(
        self, offered: Offered
    ) -> None:
        """DESIGN §10.6, one name after the other; also for the holder of the key."""
        world, taker, header, chunks = offered
        keys, facts = keys_of(world.host), facts_of(header)
        assert facts.last is not None
        put(taker, 0, chunks[0])
        other = LastBlock(
            generation=facts.last.generation,
            block_hash=sha256(b"another block"),
            prev_root=facts.last.prev_root,
        )
        for change in (
            {"epoch": facts.epoch, "salt": bytes(32)},
            {"height": facts.height + 1},
            {"last": other},
            {"last": msgspec.structs.replace(other, prev_root=bytes(32))},
            {"last": msgspec.structs.replace(facts.last, generation=7)},
            {"root": bytes(32)},
            {"shard": b"o" * 32},
            {"chain_id": "other"},
        ):
            pages = opened_chunk(keys, header, 1, chunks[1])
            foreign = sealed_chunk(keys, forged(keys, header, **change), 1, pages)
            with pytest.raises(SnapshotForgedError):
                put(taker, 1, foreign)
        again = world.host.call(e.SnapshotGet(index=1)).data
        assert again[:32] != chunks[1][:32]
        assert again[32:] != chunks[1][32:]
        put(taker, 1, again)

    def test_nothing_of_the_block_is_left_out_when_the_trail_is(
        self, world: World
    ) -> None:
        """What is confirmed leaves the trail; keys still name its block."""
        busy(world)
        before = facts_of(world.host.export()[0])
        world.confirm()
        world.host.follow()
        after = facts_of(world.host.export()[0])
        assert before.trail
        assert not after.trail
        assert after.last == before.last
        assert after.last.block_hash == world.l1.hash(after.height)
        taker = world.twin()
        taker.follow()
        taker.offer(world.host.export())
        assert facts_of(taker.export()[0]).last == before.last


class TestLiars:
    """Holders of the state key, whose headers and chunks open."""

    def test_a_head_that_leads_to_another_root(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        keys = keys_of(world.host)
        head = opened_chunk(keys, header, 0, chunks[0])
        groups = bytes([head.groups[0] ^ 1]) + head.groups[1:]
        lie = sealed_chunk(keys, header, 0, SnapshotHead(bits=4, groups=groups))
        with pytest.raises(StateRootMismatchError):
            put(taker, 0, lie)
        with pytest.raises(SnapshotOrderError):
            put(taker, 1, chunks[1])  # it was not taken
        for index, data in enumerate(chunks):
            reply = put(taker, index, data)
            if reply.height is None:
                with pytest.raises(StateRootMismatchError):
                    put(taker, 0, lie)  # nor later
        assert reply.root == world.host.status().root

    def test_a_head_of_another_size(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        keys = keys_of(world.host)
        head = opened_chunk(keys, header, 0, chunks[0])
        for lie in (
            SnapshotHead(bits=5, groups=head.groups),
            SnapshotHead(bits=4, groups=head.groups[:-1]),
            SnapshotHead(bits=4, groups=head.groups[:-32]),
            SnapshotHead(bits=2**62, groups=b""),
            b"no head",
        ):
            with pytest.raises(SnapshotForgedError):
                put(taker, 0, sealed_chunk(keys, header, 0, lie))

    def test_a_header_of_another_root(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        keys = keys_of(world.host)
        lie = forged(keys, header, root=bytes(32))
        taker.call(e.SnapshotBegin(header=lie))
        head = opened_chunk(keys, header, 0, chunks[0])
        with pytest.raises(StateRootMismatchError):
            put(taker, 0, sealed_chunk(keys, lie, 0, head))
        assert taker.status().state_height is None

    def test_a_header_of_another_height_or_number_of_pages(
        self, offered: Offered
    ) -> None:
        world, taker, header, _ = offered
        keys, facts = keys_of(world.host), facts_of(header)
        for change in (
            {"height": facts.height + 1},
            {"root_height": facts.height - 1},
            {"page_bits": 5},
            {"page_bits": 60},
        ):
            with pytest.raises(SnapshotForgedError):
                taker.call(e.SnapshotBegin(header=forged(keys, header, **change)))

    def test_pages_altered_left_out_or_of_another_place(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        keys = keys_of(world.host)
        store = world.host.enclave._shard.state.store
        put(taker, 0, chunks[0])
        starts = (*facts_of(header).starts, 16)
        for index in range(1, len(chunks)):
            good = opened_chunk(keys, header, index, chunks[index])
            first, end = starts[index - 1], starts[index]
            lies = [
                msgspec.structs.replace(good, pages=(b"\x80x", *good.pages[1:])),
                msgspec.structs.replace(good, pages=()),
                msgspec.structs.replace(good, after=good.after + bytes(32)),
                msgspec.structs.replace(good, before=good.before + bytes(1)),
                msgspec.structs.replace(good, first=good.first + 1),
                snapshot_pages(store, first, end + 1 if end < 16 else end - 1)
                if end < 16 or end - first > 1
                else good.pages,
            ]
            if index > 1:
                lies.append(opened_chunk(keys, header, 1, chunks[1]))
            for lie in lies:
                with pytest.raises(SnapshotForgedError):
                    put(taker, index, sealed_chunk(keys, header, index, lie))
        for index, data in enumerate(chunks[1:], 1):
            reply = put(taker, index, data)
        assert reply.root == world.host.status().root

    def test_the_genesis_state_as_that_of_a_later_block(self, world: World) -> None:
        """It opens, and is worth nothing: L1 has confirmed another root there."""
        host = world.host
        genesis, _ = host.export()
        busy(world)
        world.confirm()
        taker = world.twin()
        taker.follow()
        lie = forged(keys_of(host), genesis, height=world.frontier.confirmed)
        with pytest.raises(SnapshotContradictedError):
            taker.call(e.SnapshotBegin(header=lie))


class TestDecided:
    """What L1 has decided is known before a single page is taken."""

    def test_another_root_than_the_confirmed_one(self, world: World) -> None:
        busy(world)
        header, chunks = world.host.export()
        lie = forged(keys_of(world.host), header, root=b"x" * 32)
        world.confirm()
        taker = world.twin()
        taker.follow()
        for request in (e.SnapshotBegin(header=lie), e.SnapshotCheck(header=lie)):
            with pytest.raises(SnapshotContradictedError):
                taker.call(request)
        assert taker.enclave._shard.importing is None
        assert taker.enclave._shard.checking is None
        assert taker.offer((header, chunks)).root == world.frontier.root

    def test_it_is_confirmed_while_chunks_come(self, world: World) -> None:
        busy(world)
        header, chunks = world.host.export()
        keys, facts = keys_of(world.host), facts_of(header)
        # another state, whose maker holds the keys: all of it is in itself good
        store = world.host.enclave._shard.state.store.copy()
        store.apply({b"more": b"money"})
        root = keyed_root(keys.epoch(0), SHARD, facts.height, store.root())
        state = ShardState(
            store=store,
            height=facts.height,
            root=root,
            root_height=facts.height,
            epoch=0,
            time=facts.time,
            trail=[],
            trusted=True,
            last=facts.last,
        )
        lie = begin_export(keys, state, entropy=world.host.entropy)
        taker = world.twin()
        taker.follow()
        taker.call(e.SnapshotBegin(header=lie.header))
        taker.call(e.SnapshotCheck(header=lie.header))
        for index in range(lie.chunks - 1):
            data = lie.chunk(keys, index, entropy=world.host.entropy)
            put(taker, index, data)
            reply = taker.call(e.SnapshotCheckChunk(index=index, data=data))
            assert (reply.confirmed, reply.next_missing) == (False, index + 1)
        world.confirm()
        taker.follow()
        index = lie.chunks - 1
        data = lie.chunk(keys, index, entropy=world.host.entropy)
        with pytest.raises(SnapshotContradictedError):
            put(taker, index, data)
        with pytest.raises(SnapshotContradictedError):
            taker.call(e.SnapshotCheckChunk(index=index, data=data))
        assert taker.status().state_height is None
        assert taker.offer((header, chunks)).root == world.frontier.root

    def test_a_block_of_a_generation_that_has_not_to_execute_it(
        self, world: World
    ) -> None:
        busy(world)
        world.l1.ledger.schedule = schedule(
            entry(0, CODE_A, 3), entry(1, CODE_B, world.l1.height + 9)
        )
        world.l1.block()
        world.l1.block()
        header, chunks = world.host.export()
        keys, facts = keys_of(world.host), facts_of(header)
        other = msgspec.structs.replace(facts.last, generation=1)
        trail = tuple(msgspec.structs.replace(t, generation=1) for t in facts.trail)
        taker = world.twin()
        taker.follow()
        for lie in (
            forged(keys, header, last=other),
            forged(keys, header, trail=trail),
            export_v1(keys, world.host.enclave._shard.state, trail=trail)[0],
        ):
            with pytest.raises(SnapshotContradictedError):
                taker.call(e.SnapshotBegin(header=lie))
            with pytest.raises(SnapshotContradictedError):
                taker.call(e.SnapshotCheck(header=lie))
        taker.offer((header, chunks))

    def test_roots_are_remembered_in_measure(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sealift.enclave._shard._MAX_PROVEN", 2)
        old = world.host.export()
        assert check(world.host, *old).confirmed
        for _ in range(2):
            busy(world)
            world.confirm()
            world.host.run()
        assert len(world.host.enclave._shard.proven) == 2
        assert not check(world.host, *old).confirmed


class TestCheck:
    """A check replaces nothing, whatever it sees."""

    def test_of_a_whole_one_beside_all_other_work(self, world: World) -> None:
        host = world.host
        busy(world)
        header, chunks = host.export()
        status, stored = host.status(), host.enclave._shard.state
        host.call(e.SnapshotBegin())
        for index in (0, *reversed(range(1, len(chunks)))):
            if index == 0:
                reply = host.call(e.SnapshotCheck(header=header))
                assert (reply.missing, reply.next_missing) == (len(chunks), 0)
            host.call(e.SnapshotGet(index=index))
            reply = host.call(e.SnapshotCheckChunk(index=index, data=chunks[index]))
        assert reply == e.SnapshotChecked(
            format=2,
            height=status.state_height,
            root=status.root,
            epoch=0,
            chunks=len(chunks),
            missing=0,
            next_missing=None,
            confirmed=False,
        )
        assert host.status() == status
        assert host.enclave._shard.state is stored
        # blocks go on, and L1 confirms it: the same snapshot, looked at again
        world.confirm()
        host.run()
        assert check(host, header, chunks).confirmed
        assert host.status().state_height > status.state_height
        busy(world)
        world.confirm()
        host.run()
        assert check(host, header, chunks).confirmed  # also when it is an old one

    def test_beside_an_import_of_the_same(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        taker.call(e.SnapshotCheck(header=header))
        for index, data in enumerate(chunks):
            taker.call(e.SnapshotCheckChunk(index=index, data=data))
            if index < len(chunks) - 1:
                put(taker, index, data)
        assert taker.status().state_height is None
        assert put(taker, len(chunks) - 1, chunks[-1]).root == world.host.status().root

    def test_bad_chunks_are_named_and_it_goes_on(self, offered: Offered) -> None:
        _, taker, header, chunks = offered
        taker.call(e.SnapshotCheck(header=header))
        with pytest.raises(SnapshotOrderError):
            taker.call(e.SnapshotCheckChunk(index=2, data=chunks[2]))
        for index, data in enumerate(chunks):
            for bad in (data[:-1], chunks[index - 1], b""):
                with pytest.raises(SnapshotForgedError):
                    taker.call(e.SnapshotCheckChunk(index=index, data=bad))
            reply = taker.call(e.SnapshotCheckChunk(index=index, data=data))
            assert reply.missing == len(chunks) - 1 - index
        with pytest.raises(SnapshotOrderError):
            taker.call(e.SnapshotCheckChunk(index=0, data=chunks[0]))

    def test_of_a_foreign_header_leaves_the_check_that_runs(
        self, offered: Offered
    ) -> None:
        _, taker, header, chunks = offered
        taker.call(e.SnapshotCheck(header=header))
        with pytest.raises(WrongEpochError):
            taker.call(e.SnapshotCheck(header=altered(header, epoch=1)))
        taker.call(e.SnapshotCheckChunk(index=0, data=chunks[0]))

    def test_holds_no_pages(self, offered: Offered) -> None:
        _, taker, header, _ = offered
        taker.call(e.SnapshotCheck(header=header))
        assert taker.enclave._shard.checking.store is None

    def test_without_a_beginning(self, world: World) -> None:
        with pytest.raises(SnapshotOrderError):
            world.host.call(e.SnapshotCheckChunk(index=0, data=b""))

    def test_dropped(self, offered: Offered) -> None:
        world, taker, header, chunks = offered
        put(taker, 0, chunks[0])
        taker.call(e.SnapshotCheck(header=header))
        world.host.call(e.SnapshotBegin())
        world.host.call(e.SnapshotDrop(what="export"))
        with pytest.raises(SnapshotOrderError):
            world.host.call(e.SnapshotGet(index=0))
        taker.call(e.SnapshotDrop(what="check"))
        with pytest.raises(SnapshotOrderError):
            taker.call(e.SnapshotCheckChunk(index=0, data=chunks[0]))
        assert put(taker, 1, chunks[1]).missing == len(chunks) - 2
        reply = taker.call(e.SnapshotDrop(what="import"))
        assert reply == e.StateReply(height=None, root=None)
        with pytest.raises(SnapshotOrderError):
            put(taker, 1, chunks[1])


class TestFormat1:
    """Enclaves of the first releases hand over to this one."""

    def both(self, world: World) -> tuple[Host, bytes, list[bytes]]:
        busy(world)
        taker = world.twin()
        taker.follow()
        shard = world.host.enclave._shard
        return taker, *export_v1(shard.keys, shard.state, chunk=200)

    def test_is_taken_in_order(self, world: World) -> None:
        taker, header, chunks = self.both(world)
        assert len(chunks) > 2
        begun = taker.call(e.SnapshotBegin(header=header))
        assert (begun.format, begun.chunks) == (1, len(chunks))
        with pytest.raises(SnapshotOrderError):
            put(taker, 1, chunks[1])
        with pytest.raises(SnapshotForgedError):
            put(taker, 0, chunks[1])
        for index, data in enumerate(chunks):
            reply = put(taker, index, data)
            if index < len(chunks) - 1:
                with pytest.raises(SnapshotOrderError):
                    put(taker, index, data)
        assert reply.root == world.host.status().root
        world.confirm()
        taker.follow()
        assert facts_of(taker.export()[0]).last == facts_of(world.host.export()[0]).last

    def test_begun_again_begins_anew(self, world: World) -> None:
        taker, header, chunks = self.both(world)
        taker.call(e.SnapshotBegin(header=header))
        put(taker, 0, chunks[0])
        assert taker.offer((header, chunks)).root == world.host.status().root

    def test_is_checked(self, world: World) -> None:
        taker, header, chunks = self.both(world)
        reply = check(taker, header, chunks)
        assert (reply.format, reply.missing, reply.confirmed) == (1, 0, False)
        assert taker.status().state_height is None

    def test_pages_that_lead_elsewhere(self, world: World) -> None:
        taker, _, _ = self.both(world)
        shard = world.host.enclave._shard
        lie = export_v1(shard.keys, shard.state, root=b"x" * 32)
        with pytest.raises(StateRootMismatchError):
            taker.offer(lie)
        with pytest.raises(StateRootMismatchError):
            check(taker, *lie)
        assert taker.status().state_height is None
        with pytest.raises(SnapshotOrderError):
            put(taker, 0, lie[1][0])

    def test_pages_left_out_by_a_holder_of_the_state_key(self, world: World) -> None:
        taker, _, _ = self.both(world)
        shard = world.host.enclave._shard
        bad = export_v1(shard.keys, shard.state, starts=(0, 1))
        with pytest.raises(SnapshotForgedError):
            taker.offer(bad)

    def test_older_than_the_state(self, world: World) -> None:
        _, header, _ = self.both(world)
        with pytest.raises(OldSnapshotError):
            world.host.call(e.SnapshotBegin(header=header))


class TestEpochs:
    def test_a_snapshot_from_before_a_rotation_opens_after_it(
        self, world: World
    ) -> None:
        rotation = Rotation(world)
        a = rotation.a
        rotation.l1.block(rotation.l1.invoke(a.transfer(1, nonce=0)))
        a.run()
        old = a.export()
        v1 = export_v1(keys_of(a), a.enclave._shard.state)
        second = rotation.rotate()
        rotation.to(second.valid_from + 2)
        a.run()
        new = a.export()
        assert (facts_of(old[0]).epoch, facts_of(new[0]).epoch) == (0, 1)
        for snapshot in (old, v1):
            reply = check(a, *snapshot)
            assert (reply.missing, reply.epoch) == (0, 0)
        assert check(a, *new).missing == 0
        # a newcomer with the keys of both takes the old one, and goes on from it
        for snapshot in (old, v1, new):
            taker = world.twin()
            taker.follow()
            reply = taker.offer(snapshot)
            assert reply.missing is None
            for height in sorted(a.diffs):
                if height > reply.height:
                    taker.call(e.DiffApply(diff=a.diffs[height]))
            assert taker.status().root == a.status().root

    def test_of_an_epoch_that_is_not_held(self, world: World) -> None:
        rotation = Rotation(world)
        a = rotation.a
        second = rotation.rotate()
        rotation.to(second.valid_from + 2)
        a.run()
        header, _ = a.export()
        taker = world.twin()
        shard = taker.enclave._shard
        shard.keys = msgspec.structs.replace(shard.keys, epochs=shard.keys.epochs[:1])
        taker.follow()
        for request in (e.SnapshotBegin(header=header), e.SnapshotCheck(header=header)):
            with pytest.raises(NoKeysError):
                taker.call(request)


def _counted() -> Callable[[int], bytes]:
    count = iter(range(2**40))
    return lambda size: sha256(b"%d" % next(count)) * (size // 32) + bytes(size % 32)


ENTRIES = st.dictionaries(
    st.binary(min_size=1, max_size=12), st.binary(max_size=90), max_size=60
)


@given(data=st.data(), entries=ENTRIES, bits=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_an_import_of_an_export_is_the_same_state(
    data: Any, entries: dict[bytes, bytes], bits: int
) -> None:
    """Any state, any order of chunks, some of them again."""
    entropy = _counted()
    keys = KeyStore(
        chain_id=CHAIN,
        shard=SHARD,
        seed=bytes(32),
        hpke_seed=bytes(32),
        tls_public=b"",
        tls_secret=b"",
        epochs=(new_epoch_keys(0, entropy),),
    )
    store = PageStore(bits=bits, key=page_key(keys.epoch(0)))
    store.apply(entries)
    state = ShardState(
        store=store,
        height=9,
        root=keyed_root(keys.epoch(0), SHARD, 9, store.root()),
        root_height=9,
        epoch=0,
        time=1,
        trail=[],
        trusted=False,
    )
    export = begin_export(keys, state, entropy=entropy)
    store.apply({b"later": b"entry"})  # does not show
    view = ChainView(height=9, time=1)
    order = data.draw(st.permutations(range(1, export.chunks)))
    repeats = data.draw(st.lists(st.sampled_from([0, *order]), max_size=4))
    into = begin_intake(keys, export.header, view=view, keep=True)
    looked = begin_intake(keys, export.header, view=view, keep=False)
    for index in (0, *order, *repeats):
        chunk = export.chunk(keys, index, entropy=entropy)
        into.take(keys, index, chunk)
        looked.take(keys, index, chunk)
    assert into.missing == looked.missing == 0
    assert into.next_missing is None
    got = into.state()
    assert (got.root, got.height) == (state.root, 9)
    accumulator = got.store.root()
    assert keyed_root(keys.epoch(0), SHARD, 9, accumulator) == state.root
    assert dict(got.store.items(b"")) == entries
