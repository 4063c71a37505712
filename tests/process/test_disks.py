"""What lies on a worker's disk is refused by name when altered, and kept."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cast import SEALIFT, Cast, play

from sealift.cli._chaos_parts import children
from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process

FILE_ERROR = 4


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def flipped_within_the_seal(data: bytes) -> bytes:
    """In the last bytes; before them stands the header, which can be read."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def cut(data: bytes) -> bytes:
    return data[:-7]


def in_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def alter(home: Path) -> None:
        (home / name).write_bytes(change((home / name).read_bytes()))

    return alter


def in_table(
    table: str, column: str, change: Callable[[bytes], bytes], where: str = ""
):
    def alter(home: Path) -> None:
        with contextlib.closing(sqlite3.connect(home / "worker.db")) as db:
            query = (
                f"SELECT rowid, {column} FROM {table} {where} ORDER BY height LIMIT 1"
            )
            row, data = db.execute(query).fetchone()
            db.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (change(data), row)
            )
            db.commit()

    return alter


def in_checkpoint(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def alter(home: Path) -> None:
        with contextlib.closing(sqlite3.connect(home / "worker.db")) as db:
            query = "SELECT value FROM meta WHERE name = 'checkpoint'"
            (data,) = db.execute(query).fetchone()
            query = "UPDATE meta SET value = ? WHERE name = 'checkpoint'"
            db.execute(query, (change(data),))
            db.commit()

    return alter


def newest_snapshot(home: Path) -> Path:
    return max(home.glob("snapshots/*"), key=lambda path: int(path.name.split("-")[0]))


def in_snapshot(home: Path) -> None:
    chunk = newest_snapshot(home) / "chunks" / "000001"
    chunk.write_bytes(flipped(chunk.read_bytes()))


def without_chunk(home: Path) -> None:
    (newest_snapshot(home) / "chunks" / "000000").unlink()


def without_manifest(home: Path) -> None:
    (newest_snapshot(home) / "manifest").unlink()


def with_another_header(home: Path) -> None:
    header = newest_snapshot(home) / "header"
    header.write_bytes(flipped(header.read_bytes()))


def two_diffs_swapped(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "worker.db")) as db:
        after = db.execute("SELECT max(height) FROM snapshots").fetchone()[0]
        query = (
            "SELECT height, data FROM diffs WHERE height > ? ORDER BY height LIMIT 2"
        )
        (h1, d1), (h2, d2) = db.execute(query, (after,)).fetchall()
        db.execute("UPDATE diffs SET data = ? WHERE height = ?", (d2, h1))
        db.execute("UPDATE diffs SET data = ? WHERE height = ?", (d1, h2))
        db.commit()


AFTER_SNAPSHOT = "WHERE height > (SELECT max(height) FROM snapshots)"

#: What is altered, and the name under which it is refused.
ALTERATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "key store altered": (
        in_file("key_store.sealed", flipped),
        "KeyStoreUnreadableError",
    ),
    "key store cut": (in_file("key_store.sealed", cut), "KeyStoreUnreadableError"),
    "checkpoint altered": (in_checkpoint(flipped), "CheckpointForgedError"),
    "checkpoint cut": (in_checkpoint(cut), "DecodeError"),
    "diff altered": (
        in_table("diffs", "data", flipped_within_the_seal, AFTER_SNAPSHOT),
        "DiffForgedError",
    ),
    "diff cut": (in_table("diffs", "data", cut, AFTER_SNAPSHOT), "DecodeError"),
    "diffs swapped": (two_diffs_swapped, "DiffOrderError"),
    "no database at all": (
        in_file("worker.db", lambda _: b"x" * 4096),
        "not a database",
    ),
}


#: What is altered of a snapshot; where the birth and its diffs lead on, or an older
#: snapshot does, it is set aside by name and kept.
SNAPSHOTS: dict[str, Callable[[Path], None]] = {
    "altered": in_snapshot,
    "without a chunk": without_chunk,
    "without a manifest": without_manifest,
    "with another header": with_another_header,
}
#: Without them nothing leads on: the damage is an error, and all stays as it is.
WITHOUT_BIRTH = "DELETE FROM meta WHERE name = 'born'"


def test_inv6_an_altered_disk_is_refused_by_name_kept_and_taken_when_put_back(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        await cast.reach(cast.scan.height + 2)
        async with cast.http.get(
            cast.parts["old"].url + "/v1/state/snapshot?fresh_at=1"
        ) as answer:
            assert answer.status == 200
        await cast.until_status("old", lambda s: s["idle"].startswith("no-block"))
        await cast.reach(cast.scan.height + 5)
        assert await cast.stop("old") == 0
        home = stage.worker("old")
        cast.home("new")
        cast.run_worker("new")
        await cast.up("new")
        assert await cast.stop("new") == 0
        others = (stage.worker("new") / "key_store.sealed").read_bytes()
        swapped = in_file("key_store.sealed", lambda _: others)
        alterations = {
            **ALTERATIONS,
            "key store swapped": (swapped, "KeyStoreUnreadableError"),
        }
        for what, (alter, name) in alterations.items():
            altered = stage.folder / "altered"
            shutil.copytree(home, altered)
            alter(altered)
            before = everything(altered)
            ended = await cast.run_once("altered", "worker", "run", str(altered))
            assert ended.code == FILE_ERROR, f"{what}: {ended}"
            line = ended.output.strip().splitlines()[-1]
            assert name in line, f"{what}: {line}"
            assert "left as" in line, f"{what}: {line}"
            after = everything(altered)
            if not what.startswith("key store"):  # a good one is sealed anew
                del before["key_store.sealed"], after["key_store.sealed"]
            assert after == before, f"{what}: something was written"
            shutil.rmtree(altered)
        for what, damage in SNAPSHOTS.items():
            altered = stage.folder / "altered"
            shutil.copytree(home, altered)
            damage(altered)
            with contextlib.closing(sqlite3.connect(altered / "worker.db")) as db:
                db.execute(WITHOUT_BIRTH)
                db.commit()
            before = everything(altered)
            ended = await cast.run_once("altered", "worker", "run", str(altered))
            assert ended.code == FILE_ERROR, f"{what}: {ended}"
            line = ended.output.strip().splitlines()[-1]
            assert "does not give the state back" in line, f"{what}: {line}"
            after = everything(altered)
            del before["key_store.sealed"], after["key_store.sealed"]
            assert after == before, f"{what}: something was written"
            shutil.rmtree(altered)
        damaged = newest_snapshot(home)
        in_snapshot(home)
        here = cast.scan.height
        cast.run_worker("old")
        await cast.up("old")
        await cast.until_confirmed(here)
        assert not damaged.exists()  # the birth led on; what did not open is kept
        assert damaged.with_name(damaged.name + ".damaged").is_dir()

    play(stage, story)


def everything(home: Path) -> dict[str, bytes]:
    """Every file that holds something of the worker's."""
    passing = {"enclave.log", "worker.lock", "worker.db-shm", "worker.db-wal", "url"}
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.name not in passing and "bundles" not in path.parts
    }


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from sealift.cli import main; main()
"""


def test_inv7_a_full_disk_is_named_and_nothing_is_lost(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(20)
        assert await cast.stop("old") == 0
        home = stage.worker("old")
        size = (home / "worker.db").stat().st_size + 200_000
        argv = (SEALIFT[0], "-c", LIMITED, str(size))
        full = cast.add("old", "worker", "run", str(home), argv=argv)
        await full.start()
        assert full.child is not None
        assert await full.child.wait() == FILE_ERROR
        line = full.child.output().strip().splitlines()[-1]
        assert "was not written" in line, line
        assert "make room, then start again" in line, line
        del cast.parts["old"]
        cast.run_worker("old")
        await cast.up("old")
        here = cast.scan.height
        await cast.until_confirmed(here)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        assert await cast.stop("old") == 0
        await cast.judge("old", upgrade_at=None, upto=last)

    play(stage, story)


def test_an_enclave_with_too_little_memory_ends_the_worker_by_name(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.create_shard()
        home = cast.home("old", memory_limit=40)
        ended = await cast.run_once("old", "worker", "run", str(home))
        assert ended.code == 3, ended
        line = ended.output.strip().splitlines()[-1]
        assert "the enclave process has ended" in line, line
        assert "memory_limit is 40 MiB: raise it under [enclave]" in line, line
        toml = home / "worker.toml"
        toml.write_text(
            toml.read_text().replace("memory_limit = 40", "memory_limit = 0")
        )
        cast.run_worker("old")
        await cast.up("old")
        status = await cast.until_status("old", lambda s: s["state_height"])
        assert status["ok"]
        assert children(cast.parts["old"].pid)

    play(stage, story)
