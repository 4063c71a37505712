"""Crashes, restarts, rolled-back disks and altered files (DESIGN §6, §10, §14)."""

import msgspec
import pytest
from enclave_world import (
    CODE_B,
    SHARD,
    FakePlatform,
    Host,
    World,
)
from snapshot_forge import altered, facts_of, forged

from sealift.base import decode, encode
from sealift.enclave import (
    DiffForgedError,
    DiffOrderError,
    ForeignSnapshotError,
    KeyStoreForeignError,
    KeyStoreUnreadableError,
    NoKeysError,
    OldSnapshotError,
    SnapshotForgedError,
    SnapshotOrderError,
    StateRootMismatchError,
    StateUnconfirmedError,
    WrongEpochError,
    _execute,
)
from sealift.enclave import _keystore as keystore
from sealift.enclave._keystore import SealedKeyStore
from sealift.enclave._state import (
    DiffHeader,
    SealedDiff,
)
from sealift.protocol import ecall as e


def busy(world: World, blocks: int = 3) -> None:
    """Some blocks, each with a transfer by Alice, and one on top."""
    for nonce in range(blocks):
        world.l1.block(world.l1.invoke(world.host.transfer(7, nonce=nonce)))
    world.l1.block()


class TestKeyStore:
    def start(self, world: World, key_store: bytes) -> None:
        host = world.host
        kept = host.key_store
        host.boot()
        host.key_store = key_store
        try:
            host.start()
        finally:
            host.key_store = kept

    def refused(self, world: World, key_store: bytes) -> None:
        with pytest.raises(KeyStoreUnreadableError):
            self.start(world, key_store)
        # kept, and good as ever
        world.host.boot()
        world.host.start()
        assert world.host.status().epochs == (0,)

    def test_altered(self, world: World) -> None:
        outer = decode(SealedKeyStore, world.host.key_store)
        for sealed in (
            outer.sealed[:-1] + bytes([outer.sealed[-1] ^ 1]),
            outer.sealed[:-1],
            b"",
        ):
            self.refused(world, encode(msgspec.structs.replace(outer, sealed=sealed)))

    @pytest.mark.parametrize(
        "change", [{"key_id": bytes(32)}, {"isv_svn": 0}, {"cpu_svn": bytes(16)}]
    )
    def test_header_altered(self, world: World, change: dict[str, object]) -> None:
        outer = decode(SealedKeyStore, world.host.key_store)
        self.refused(world, encode(msgspec.structs.replace(outer, **change)))

    def test_cut_and_junk(self, world: World) -> None:
        self.refused(world, world.host.key_store[:-5])
        self.refused(world, b"junk")
        self.refused(world, b"")

    def test_of_other_code_on_the_same_machine(self, world: World) -> None:
        other = Host(world.l1, FakePlatform(CODE_B), start=False)
        other.key_store = world.host.key_store
        with pytest.raises(KeyStoreUnreadableError):
            other.start()

    def test_of_another_machine(self, world: World) -> None:
        other = Host(world.l1, FakePlatform(machine=b"m2"), start=False)
        other.key_store = world.host.key_store
        with pytest.raises(KeyStoreUnreadableError):
            other.start()

    def test_for_another_shard(self, world: World) -> None:
        host = world.host
        host.boot()
        with pytest.raises(KeyStoreUnreadableError):
            host.call(
                e.Start(
                    shard=b"o" * 32,
                    key_store=host.key_store,
                    checkpoint=None,
                    light_block=world.l1.light(1),
                )
            )

    def test_that_says_another_shard_inside(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = world.host
        keys = host.enclave._shard.keys
        foreign = msgspec.structs.replace(keys, shard=b"o" * 32)
        real = keystore._context
        monkeypatch.setattr(
            keystore, "_context", lambda blob, chain_id, _: real(blob, chain_id, SHARD)
        )
        blob = keystore.seal_key_store(foreign, host.platform, entropy=host.entropy)
        with pytest.raises(KeyStoreForeignError):
            self.start(world, blob)

    def test_older_level_opens_and_newer_never(self, world: World) -> None:
        host = world.host
        old = host.key_store
        host.platform.cpu = 2
        host.boot()
        host.start()
        assert decode(SealedKeyStore, host.key_store).cpu_svn == host.platform.cpu_svn
        host.platform.cpu = 1
        host.boot()
        with pytest.raises(KeyStoreUnreadableError):
            host.start()
        host.key_store = old
        host.start()
        assert host.status().epochs == (0,)

    def test_sealing_never_repeats_a_key(self, world: World) -> None:
        host = world.host
        first = decode(SealedKeyStore, host.key_store)
        host.boot()
        host.start()
        second = decode(SealedKeyStore, host.key_store)
        assert first.key_id != second.key_id


class TestCrash:
    def test_between_any_two_ecalls_leads_to_the_same_roots(
        self, make_world: type[World]
    ) -> None:
        calm = make_world()
        busy(calm)
        calm.host.run()
        # Keys and HPKE ciphertexts differ between worlds: compare the accounts
        # here, and the roots with an undisturbed twin of the same world below.
        world = make_world()
        busy(world)
        twin = world.twin()
        twin.follow()
        twin.offer(world.host.export())
        while twin.execute().__class__ is e.Executed:
            pass
        host = world.host
        last = world.l1.height - 1
        while host.status().state_height < last:
            host.restart()
            if host.status().head <= last:
                followed = host.call(world.l1.request(host.status().head))
                host.checkpoint = followed.checkpoint
            host.restart()
            host.follow()
            host.execute()
        assert host.roots == twin.roots
        assert host.receipts_roots == twin.receipts_roots
        assert host.free() == calm.host.free() == 979

    def test_before_the_diff_was_durable(self, world: World) -> None:
        busy(world)
        host = world.host
        host.follow()
        kept, checkpoint = dict(host.diffs), host.checkpoint
        while host.execute().__class__ is e.Executed:
            pass
        root = host.status().root
        host.diffs, host.checkpoint = kept, checkpoint
        host.restart()
        host.run()
        assert host.status().root == root

    def test_after_the_diff_before_the_confirmation(self, world: World) -> None:
        busy(world)
        host = world.host
        host.run()
        top = host.status().state_height
        before = host.call(e.Confirm(after=5, durable=top)).confirmation
        host.restart()
        host.follow()
        assert host.call(e.Confirm(after=5, durable=top)).confirmation == before

    def test_snapshot_and_later_diffs_give_the_state_and_what_to_confirm(
        self, world: World
    ) -> None:
        busy(world)
        host = world.host
        host.run()
        host.snapshot = host.export()
        host.diffs.clear()
        world.l1.block(world.l1.invoke(host.transfer(1, nonce=3)))
        world.l1.block()
        host.run()
        top = host.status().state_height
        before = host.call(e.Confirm(after=5, durable=top)).confirmation
        root = host.status().root
        host.restart()
        assert host.status().root == root
        host.follow()
        assert host.call(e.Confirm(after=5, durable=top)).confirmation == before

    def test_its_own_unconfirmed_snapshot_is_built_on_at_once(
        self, world: World
    ) -> None:
        busy(world)
        host = world.host
        host.run()
        host.snapshot = host.export()
        host.diffs.clear()
        host.restart()
        world.l1.block()
        assert host.run().reason == "no-block"
        assert host.status().state_height == world.l1.height - 1

    def test_a_foreign_snapshot_does_not_become_ones_own_by_saving_it_again(
        self, world: World
    ) -> None:
        busy(world)
        world.host.run()
        taker = world.twin()
        taker.follow()
        taker.offer(world.host.export())
        taker.snapshot = taker.export()
        taker.restart()
        world.l1.block()
        assert taker.run().reason == "behind"

    def test_two_instances_of_one_code_agree(self, world: World) -> None:
        twin = world.twin()
        twin.follow()
        twin.offer(world.host.export())
        busy(world)
        world.host.run()
        twin.run()
        assert twin.roots == world.host.roots
        assert twin.receipts_roots == world.host.receipts_roots
        assert [r.sealed for r in twin.receipts] == [
            r.sealed for r in world.host.receipts
        ]


class TestSnapshot:
    def offered(self, world: World) -> tuple[Host, bytes, list[bytes]]:
        busy(world)
        world.host.run()
        taker = world.twin()
        taker.follow()
        header, chunks = world.host.export()
        return taker, header, chunks

    def test_header_altered(self, world: World) -> None:
        taker, header, _ = self.offered(world)
        height = facts_of(header).height
        for change in ({"height": height + 1}, {"salt": bytes(32)}, {"last": None}):
            with pytest.raises(SnapshotForgedError):
                taker.call(e.SnapshotBegin(header=altered(header, **change)))

    @pytest.mark.parametrize(
        "change", [{"shard": b"o" * 32}, {"chain_id": "other"}, {"format": 3}]
    )
    def test_foreign(self, world: World, change: dict[str, object]) -> None:
        taker, header, _ = self.offered(world)
        with pytest.raises(ForeignSnapshotError):
            taker.call(e.SnapshotBegin(header=altered(header, **change)))

    def test_of_keys_that_are_not_held(self, world: World) -> None:
        taker, header, _ = self.offered(world)
        for change, error in (
            ({"epoch": 1}, WrongEpochError),
            ({"epoch": 1, "height": 1000}, NoKeysError),
        ):
            with pytest.raises(error):
                taker.call(e.SnapshotBegin(header=altered(header, **change)))

    def test_chunk_altered_cut_swapped_or_repeated(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sealift.enclave._snapshot.CHUNK_BYTES", 200)
        taker, header, chunks = self.offered(world)
        assert len(chunks) > 3
        taker.call(e.SnapshotBegin(header=header))
        other = world.host.export()[1]  # of the very same state
        with pytest.raises(SnapshotOrderError):
            taker.call(e.SnapshotChunk(index=1, data=chunks[1]))  # the head is first
        for index, good in [(0, chunks[0]), *reversed([*enumerate(chunks)][1:])]:
            swapped = chunks[2 if index == 1 else 1]
            for data in (
                good[:-1],
                good[:-1] + bytes([good[-1] ^ 1]),
                bytes(1) + good[1:],
                swapped,
                other[index],
                b"",
            ):
                with pytest.raises(SnapshotForgedError, match="SealedDataError"):
                    taker.call(e.SnapshotChunk(index=index, data=data))
            reply = taker.call(e.SnapshotChunk(index=index, data=good))
            if reply.height is None:
                again = taker.call(e.SnapshotChunk(index=index, data=good))
                assert again == reply  # a repeated one does no harm
                with pytest.raises(SnapshotForgedError):  # nor is a bad one let by
                    taker.call(e.SnapshotChunk(index=index, data=good[:-1]))
        assert reply.root == world.host.status().root
        with pytest.raises(SnapshotOrderError):
            taker.call(e.SnapshotChunk(index=1, data=chunks[1]))

    @pytest.mark.parametrize("starts", [(), (1,), (0, 0), (0, 16), (0, 3, 2)])
    def test_chunks_that_do_not_cover_the_pages(
        self, world: World, starts: tuple[int, ...]
    ) -> None:
        host = world.host
        header = host.call(e.SnapshotBegin()).header
        header = forged(host.enclave._shard.keys, header, starts=starts)
        with pytest.raises(SnapshotForgedError):
            world.twin().call(e.SnapshotBegin(header=header))

    def test_unfinished_import_is_no_state(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sealift.enclave._snapshot.CHUNK_BYTES", 200)
        taker, header, chunks = self.offered(world)
        taker.call(e.SnapshotBegin(header=header))
        reply = taker.call(e.SnapshotChunk(index=0, data=chunks[0]))
        assert reply.height is None
        assert taker.execute().reason == "no-state"

    def test_pages_that_lead_elsewhere(self, world: World) -> None:
        """A holder of the state key that lies is found out by the root."""
        host = world.host
        busy(world)
        host.run()
        state = host.enclave._shard.state
        true = state.root
        state.root = b"x" * 32
        snapshot = host.export()
        state.root = true
        taker = world.twin()
        taker.follow()
        with pytest.raises(StateRootMismatchError):
            taker.offer(snapshot)
        assert taker.status().state_height is None

    def test_older_than_the_state(self, world: World) -> None:
        old = world.host.export()
        busy(world)
        world.host.run()
        before = world.host.status()
        with pytest.raises(OldSnapshotError):
            world.host.offer(old)
        assert world.host.status() == before

    def test_blocks_go_on_while_a_snapshot_is_read(self, world: World) -> None:
        host = world.host
        begun = host.call(e.SnapshotBegin())
        root = host.status().root
        busy(world)
        host.run()
        chunks = [
            host.call(e.SnapshotGet(index=index)).data for index in range(begun.chunks)
        ]
        taker = world.twin()
        taker.follow()
        assert taker.offer((begun.header, chunks)).root == root

    def test_chunks_without_a_beginning(self, world: World) -> None:
        with pytest.raises(SnapshotOrderError):
            world.host.call(e.SnapshotGet(index=0))
        with pytest.raises(SnapshotOrderError):
            world.host.call(e.SnapshotChunk(index=0, data=b""))
        world.host.call(e.SnapshotBegin())
        with pytest.raises(SnapshotOrderError):
            world.host.call(e.SnapshotGet(index=99))

    def test_state_from_elsewhere_waits_for_the_frontier(self, world: World) -> None:
        taker, header, chunks = self.offered(world)
        taker.offer((header, chunks))
        world.l1.block()
        taker.follow()
        assert taker.execute().reason == "behind"
        with pytest.raises(StateUnconfirmedError):
            taker.read()
        world.confirm()
        taker.follow()
        assert taker.execute().__class__ is e.Executed

    def test_nothing_plain_leaves(self, world: World) -> None:
        header, chunks = world.host.export()
        busy(world)
        world.host.run()
        store = world.host.enclave._shard.state.store
        left = header + b"".join(chunks) + b"".join(world.host.diffs.values())
        assert store.root() not in left
        assert all(page not in left for page in store.pages() if len(page) > 1)
        assert all(digest not in left for digest in store.digests())


class TestDiff:
    def follower(self, world: World) -> Host:
        taker = world.twin()
        taker.follow()
        taker.offer(world.host.export())
        busy(world)
        world.host.run()
        return taker

    def test_applied_in_order_gives_the_same_root(self, world: World) -> None:
        taker = self.follower(world)
        for height in sorted(world.host.diffs):
            taker.call(e.DiffApply(diff=world.host.diffs[height]))
        assert taker.status().root == world.host.status().root

    def test_of_another_maker_waits_for_the_frontier(self, world: World) -> None:
        taker = self.follower(world)
        taker.follow()
        taker.execute()  # block 6: its own work on a confirmed state
        taker.call(e.DiffApply(diff=world.host.diffs[7]))
        assert taker.execute().reason == "behind"
        world.confirm()
        taker.follow()
        assert taker.execute().height == 8

    def test_skipped_or_repeated(self, world: World) -> None:
        taker = self.follower(world)
        with pytest.raises(DiffOrderError):
            taker.call(e.DiffApply(diff=world.host.diffs[7]))
        taker.call(e.DiffApply(diff=world.host.diffs[6]))
        with pytest.raises(DiffOrderError):
            taker.call(e.DiffApply(diff=world.host.diffs[6]))

    def test_altered_cut_or_with_another_header(self, world: World) -> None:
        taker = self.follower(world)
        outer = decode(SealedDiff, world.host.diffs[6])
        header = decode(DiffHeader, outer.header)
        later = msgspec.structs.replace(header.entry, root=b"x" * 32)
        for bad in (
            msgspec.structs.replace(outer, sealed=outer.sealed[:-1]),
            msgspec.structs.replace(outer, sealed=b""),
            msgspec.structs.replace(
                outer, header=encode(msgspec.structs.replace(header, salt=bytes(32)))
            ),
            msgspec.structs.replace(
                outer, header=encode(msgspec.structs.replace(header, entry=later))
            ),
            msgspec.structs.replace(
                outer, sealed=decode(SealedDiff, world.host.diffs[7]).sealed
            ),
        ):
            before = taker.status()
            with pytest.raises(DiffForgedError):
                taker.call(e.DiffApply(diff=encode(bad)))
            assert taker.status() == before
        taker.call(e.DiffApply(diff=world.host.diffs[6]))

    @pytest.mark.parametrize(
        "change", [{"shard": b"o" * 32}, {"chain_id": "other"}, {"format": 3}]
    )
    def test_foreign(self, world: World, change: dict[str, object]) -> None:
        taker = self.follower(world)
        outer = decode(SealedDiff, world.host.diffs[6])
        header = msgspec.structs.replace(decode(DiffHeader, outer.header), **change)
        with pytest.raises(ForeignSnapshotError):
            taker.call(
                e.DiffApply(
                    diff=encode(msgspec.structs.replace(outer, header=encode(header)))
                )
            )

    def test_that_leads_elsewhere_leaves_the_state_as_it_was(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A holder of the state key that lies is found out by the root."""
        taker = self.follower(world)
        real = _execute.keyed_root
        monkeypatch.setattr(_execute, "keyed_root", lambda *_: b"x" * 32)
        world.l1.block()
        fresh = world.twin(seed=b"liar")
        fresh.follow()
        fresh.offer(taker.export())
        fresh.execute()
        monkeypatch.setattr(_execute, "keyed_root", real)
        before = taker.status()
        with pytest.raises(StateRootMismatchError):
            taker.call(e.DiffApply(diff=fresh.diffs[6]))
        assert taker.status() == before
        taker.call(e.DiffApply(diff=world.host.diffs[6]))
        assert taker.status().root == world.host.roots[6]
