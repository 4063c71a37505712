"""kill -9 of the real process at any instant; then the same chain goes on."""

import asyncio
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from node_kv import KvApplication

from sealift.base import ChainId, Height, SealiftError
from sealift.crypto import sha256
from sealift.node import (
    ChainCorruptError,
    ChainStoppedError,
    ChainStoreError,
    DurableChain,
    ForeignChainError,
    SoloConfig,
    SoloHome,
    init_solo,
    run_solo,
)
from sealift.relay import ChainRelay, RelayRules, Timestamp, verify_block, verify_state
from sealift.transport.clock import WallClock
from sealift.transport.files import DiskFullError, FileLockedError
from sealift.transport.process import ProcessSpec, child_process
from sealift.transport.rpc import Backoff, L1Client

START = Timestamp(seconds=1_700_000_000)
RULES = RelayRules(trusting_period=14 * 24 * 3600)
ROUNDS = 6


def make_home(home: Path, *, block_ms: int) -> None:
    init_solo(
        home,
        chain_id=ChainId("kill-test"),
        genesis_time=START,
        accounts={},
        app_state=lambda _: b'{"alpha": "1"}',
        application=KvApplication(),
        entropy=lambda n: sha256(b"kill")[:n],
        config=SoloConfig(block_ms=block_ms, port=0),
    )


async def one_life(
    home: Path, life: int, chance: random.Random, seen: dict[int, bytes]
) -> dict[bytes, int]:
    """Run, hand in transactions, note all that is answered, kill at an instant."""
    answered: dict[bytes, int] = {}
    spec = ProcessSpec(
        argv=[sys.executable, str(Path(__file__).parent / "node_kv.py"), str(home)],
        log=home.parent / "node.log",
    )
    backoff = Backoff(attempts=1, jitter=lambda: 0.0)

    def note(height: int, digest: bytes) -> None:
        assert seen.setdefault(height, digest) == digest, f"two blocks at {height}"

    async def follow(l1: L1Client) -> None:
        async for event in l1.new_blocks():
            note(event.block.header.height, event.block_id.hash)

    async def write(l1: L1Client, lane: int) -> None:
        for i in range(100_000):
            tx = b"life%d-%d-%d=%d" % (life, lane, i, i)
            found = await l1.submit(tx)
            answered[tx] = found.height
            note(found.height, (await l1.block(found.height)).block_id.hash)

    async with child_process(spec) as node:
        ready = await node.wait_for_line(r"ready (http://\S+)", within=20)
        async with L1Client(ready[1], backoff=backoff) as l1:
            tasks = [asyncio.create_task(follow(l1))]
            tasks += [asyncio.create_task(write(l1, lane)) for lane in range(3)]
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            await node.kill()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for one in ended:
                assert isinstance(one, asyncio.CancelledError | SealiftError), one
    return answered


def test_kill_9_at_random_instants_leaves_one_chain(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, block_ms=10)
    chance = random.Random(20_261_123)
    seen: dict[int, bytes] = {}
    answered: dict[bytes, int] = {}
    for life in range(ROUNDS):
        answered |= asyncio.run(one_life(home, life, chance, seen))
    assert len(answered) > ROUNDS

    chain = SoloHome(home).open_chain(KvApplication())
    try:
        assert chain.height >= max(seen)
        for height, digest in seen.items():
            assert chain.store.block(Height(height)).block_id.hash == digest
        for tx, height in answered.items():
            assert tx in chain.store.block(Height(height)).block.txs
            place = chain.store.find_tx(sha256(tx))
            assert place is not None
            assert place.height == height
        follow_all(chain, SoloHome(home))
    finally:
        chain.close()


def follow_all(chain: DurableChain, home: SoloHome) -> None:
    relay = ChainRelay.bootstrap(
        home.read_trust_root(), chain.light_block(Height(1)), rules=RULES, now=None
    )
    for height in range(2, chain.height + 1):
        relay.advance(chain.light_block(Height(height)), now=None)
        before = chain.store.block(Height(height - 1))
        verify_block(
            relay.header_at(Height(height - 1)),
            relay.head,
            before.block.txs,
            [one.committed() for one in before.results],
        )
        entry = chain.read_state(b"height", height=Height(height - 1), prove=True)
        assert entry.proof is not None
        verify_state(relay.head, b"height", entry.value, entry.proof)


@pytest.mark.parametrize("step", ["propose", "persist", "adopt"])
def test_death_after_each_step_of_a_block(
    make_chain: Callable[..., DurableChain],
    open_chain: Callable[[Path], DurableChain],
    tmp_path: Path,
    step: str,
) -> None:
    path = tmp_path / "chain.sqlite"
    chain = make_chain(path)
    now = chain.genesis.genesis_time
    chain.produce(now=now, txs=(b"a=1",))
    block = chain.propose(now=now, txs=(b"a=2",))
    if step != "propose":
        chain.persist(block)
    if step == "adopt":
        chain.adopt(block)
    copy = tmp_path / "after-death"
    copy.mkdir()
    for file in tmp_path.glob("chain.sqlite*"):
        shutil.copy(file, copy / file.name)
    again = open_chain(copy / "chain.sqlite")
    expected = 1 if step == "propose" else 2
    assert again.height == expected
    value = again.read_state(b"a", height=None, prove=False).value
    assert value == b"%d" % expected
    following = again.produce(now=now, txs=(b"a=3",))
    assert following.height == expected + 1
    assert following.block.header.last_block_id == (
        again.store.block(Height(expected)).block_id
    )


def test_database_cut_at_any_byte_of_its_log_is_the_chain_before_or_after(
    make_chain: Callable[..., DurableChain],
    open_chain: Callable[[Path], DurableChain],
    tmp_path: Path,
) -> None:
    path = tmp_path / "chain.sqlite"
    chain = make_chain(path)
    now = chain.genesis.genesis_time
    hashes = [
        chain.produce(now=now, txs=(b"a=%d" % h,)).block_id.hash for h in range(1, 9)
    ]
    wal = (tmp_path / "chain.sqlite-wal").read_bytes()
    chance = random.Random(5)
    heights = set()
    for cut in sorted(chance.sample(range(len(wal)), 25)):
        copy = tmp_path / f"cut-{cut}"
        copy.mkdir()
        shutil.copy(path, copy / path.name)
        (copy / "chain.sqlite-wal").write_bytes(wal[:cut])
        try:
            again = open_chain(copy / path.name)
        except ChainStoreError:
            assert cut < 60_000  # not even the schema is there
            continue
        heights.add(again.height)
        if again.height:
            assert again.chain.tip.block_id.hash == hashes[again.height - 1]
        follow = again.produce(now=now, txs=())
        assert follow.height == again.store.height
    assert len(heights) > 3


def test_second_process_on_one_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, block_ms=0)

    async def main() -> None:
        async with run_solo(home, application=KvApplication(), clock=WallClock()):
            with pytest.raises(FileLockedError):
                async with run_solo(
                    home, application=KvApplication(), clock=WallClock()
                ):
                    pass

    asyncio.run(main())


def test_full_disk_stops_block_making_and_the_next_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    make_home(home, block_ms=0)

    async def first() -> None:
        async with run_solo(
            home, application=KvApplication(), clock=WallClock()
        ) as node:
            await node.produce()
            # SQLite's own SQLITE_FULL, from its own limit.
            writer = node.chain.store._writer
            pages = writer.execute("PRAGMA page_count").fetchone()[0]
            writer.execute(f"PRAGMA max_page_count = {pages}")
            node.submit(b"big=" + bytes(100_000))
            with pytest.raises(DiskFullError):
                await node.produce()
            with pytest.raises(ChainStoppedError):
                await node.produce()
            with pytest.raises(ChainStoppedError):
                node.submit(b"more=1")
            with pytest.raises(DiskFullError):
                await node.failed()
            assert node.chain.height == 2

    async def second() -> None:
        async with run_solo(
            home, application=KvApplication(), clock=WallClock()
        ) as node:
            assert node.chain.height == 2
            assert (await node.produce()).height == 3

    asyncio.run(first())
    asyncio.run(second())


def test_timer_that_fails_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home, block_ms=10)
    application = KvApplication()

    async def main() -> None:
        async with run_solo(home, application=application, clock=WallClock()) as node:

            def broken(**_: object) -> None:
                raise ChainStoreError("broken")

            application.finalize_block = broken  # type: ignore[method-assign,assignment]
            with pytest.raises(ChainStoreError, match="broken"):
                await asyncio.wait_for(node.failed(), 5)

    asyncio.run(main())


def test_chain_stopped_for_a_year_goes_on_in_steps_a_relay_accepts(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    make_home(home, block_ms=0)

    class Later:
        def now(self) -> Timestamp:
            return START.plus(seconds=20 * 86_400)

        def monotonic(self) -> float:
            return 0.0

    async def main() -> None:
        async with run_solo(home, application=KvApplication(), clock=Later()) as node:
            for _ in range(24):
                await node.produce()
            follow_all(node.chain, SoloHome(home))
            last = node.chain.store.block(node.chain.height).block.header
            assert Later().now() < last.time < Later().now().plus(seconds=1)

    asyncio.run(main())


def held_open(path: Path) -> bool:
    """Whether this process still has the file open."""
    found = (os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())
    return str(path) in found


def test_foreign_and_damaged_databases_are_refused_and_kept(
    make_chain: Callable[..., DurableChain],
    open_chain: Callable[[Path], DurableChain],
    tmp_path: Path,
) -> None:
    path = tmp_path / "chain.sqlite"
    chain = make_chain(path)
    for _ in range(3):
        chain.produce(now=chain.genesis.genesis_time, txs=(b"a=1",))
    with pytest.raises(ChainStoreError):
        make_chain(path)  # never over an existing one
    chain.close()
    whole = path.read_bytes()

    def damaged(statement: str) -> Path:
        copy = tmp_path / "damaged.sqlite"
        copy.write_bytes(whole)
        db = sqlite3.connect(copy)
        db.execute(statement)
        db.commit()
        db.close()
        return copy

    for statement, error in (
        ("PRAGMA user_version = 99", ForeignChainError),
        ("UPDATE chain SET genesis_hash = x'00'", ForeignChainError),
        ("UPDATE state SET value = x'00' WHERE key = x'61'", ChainCorruptError),
        ("DELETE FROM state", ChainCorruptError),
        ("DELETE FROM block WHERE height = 3", ChainCorruptError),
        (
            (
                "UPDATE block SET seen_commit = (SELECT seen_commit FROM block b"
                " WHERE b.height = 2) WHERE height = 3"
            ),
            ChainCorruptError,
        ),
        (
            (
                "UPDATE block SET block = (SELECT block FROM block b"
                " WHERE b.height = 2) WHERE height = 3"
            ),
            ChainCorruptError,
        ),
        ("UPDATE block SET block = x'00' WHERE height = 3", ChainCorruptError),
        ("UPDATE block SET outcome = x'c0' WHERE height = 3", ChainCorruptError),
        ("DROP TABLE chain", ChainStoreError),
    ):
        copy = damaged(statement)
        before = copy.read_bytes()
        with pytest.raises(error) as refused:
            open_chain(copy)
        assert copy.read_bytes() == before, statement
        # and nobody holds it: not even what the refusal still refers to
        assert not held_open(copy), (statement, refused)
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"no database at all" * 1000)
    with pytest.raises(ChainCorruptError):
        open_chain(garbage)
    with pytest.raises(ChainStoreError):
        open_chain(tmp_path / "absent.sqlite")
