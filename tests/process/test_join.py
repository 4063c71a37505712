"""A newcomer joins, whatever is killed meanwhile; and what operators do with
snapshots."""

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from cast import Cast, Ended, copy_stage, make_template, play

from sealift.cli._chaos_parts import children
from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process

REFUSED, FILE_ERROR = 1, 4
CHUNK = re.compile(rb"GET /v1/state/snapshots/([0-9a-f-]+)/([0-9]+) HTTP")
#: A state of several chunks.
ACCOUNTS = 100_000


class Between:
    """Carries bytes between two workers, and counts the chunks asked for."""

    def __init__(self, target: Callable[[], str]) -> None:
        self._target = target
        self.asked: Counter[tuple[str, int]] = Counter()
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, port = self._target().removeprefix("http://").split(":")
        try:
            there, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            self._carry(reader, back, count=True),
            self._carry(there, writer, count=False),
            return_exceptions=True,
        )

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        count: bool,
    ) -> None:
        try:
            while data := await source.read(1 << 16):
                if count:
                    for name, number in CHUNK.findall(data):
                        self.asked[name.decode(), int(number)] += 1
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A stage whose state has several chunks."""
    folder = tmp_path_factory.mktemp("large") / "stage"
    return make_template(folder, accounts=ACCOUNTS)


def set_state(home: Path, **values: int) -> None:
    toml = home / "worker.toml"
    text = toml.read_text()
    for name, value in values.items():
        text, count = re.subn(
            rf"^{name} = \d+$", f"{name} = {value}", text, flags=re.MULTILINE
        )
        assert count == 1, name
    toml.write_text(text)


async def join(cast: Cast, home: Path, url: str) -> None:
    part = cast.add("join", "worker", "join", str(home), "--from", url, "--json")
    await part.start()


async def ended(cast: Cast) -> Ended:
    part = cast.parts.pop("join")
    assert part.child is not None
    async with asyncio.timeout(60):
        code = await part.child.wait()
    return Ended(code, part.child.output())


async def answer(cast: Cast, *words: str) -> dict[str, Any]:
    found = await cast.run_once("once", *words, "--json")
    assert found.code == 0, found
    said: dict[str, Any] = json.loads(found.output.strip().splitlines()[-1])
    return said


async def refusal(cast: Cast, *words: str) -> tuple[int, str]:
    found = await cast.run_once("once", *words)
    return found.code, found.output.strip().splitlines()[-1]


def test_a_newcomer_joins_after_every_kill_and_fetches_only_what_is_missing(
    large: Stage, tmp_path: Path
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        # Until L1 has confirmed more than the birth, a newcomer begins at the genesis.
        await cast.until_confirmed(1)
        await cast.until_confirmed(await cast.confirmed() + 2)
        home = cast.home("twin", machine="new")
        set_state(home, fetch_rate=700_000)
        async with Between(lambda: cast.parts["old"].url) as between:

            async def until_asked(number: int) -> None:
                async def look() -> bool:
                    return any(n >= number for _, n in between.asked)

                await cast.until(look, f"chunk {number}")

            await join(cast, home, between.url)
            await until_asked(2)
            cast.kill("join")  # the newcomer
            await ended(cast)
            await join(cast, home, between.url)
            await until_asked(3)
            pid = cast.parts["join"].pid
            for enclave in children(pid):  # its enclave
                os.kill(enclave, signal.SIGKILL)
            assert (await ended(cast)).code != 0
            await join(cast, home, between.url)
            await until_asked(4)
            cast.kill("old")  # whoever it downloads from; it comes up again
            found = await ended(cast)
            assert found.code == 0, found
        lines = [json.loads(line) for line in found.output.splitlines() if line]
        assert lines[-1]["step"] == "done"
        assert {one["progress"]["step"] for one in lines[:-1]} >= {"state"}
        names = {name for name, _ in between.asked}
        assert len(names) == 1
        # Each chunk once; what was on its way at one of three kills came again.
        assert sum(between.asked.values()) <= len(between.asked) + 3
        assert between.asked[next(iter(names)), 0] == 1
        listed = await answer(cast, "snapshot", "list", str(home))
        (kept,) = listed["snapshots"]
        assert (kept["standing"], kept["path"].rpartition("/")[2]) == (
            "whole",
            next(iter(names)),
        )
        assert kept["chunks"] == len(between.asked)
        set_state(home, fetch_rate=0)
        cast.run_worker("twin", home)
        await cast.up("twin")
        await cast.until_status("twin", lambda s: s["executed"] is not None)

    play(copy_stage(large, tmp_path / "stage", block_ms=300), story)


def test_what_operators_do_with_snapshots(large: Stage, tmp_path: Path) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        old, backup = cast.stage.worker("old"), cast.stage.folder / "backup"
        await cast.until_confirmed(10)

        # Of a running worker; copied elsewhere.
        made = await answer(cast, "snapshot", "create", str(old), "--to", str(backup))
        name = made["path"].rpartition("/")[2]
        assert made["path"] == str(backup / name)
        assert made["chunks"] > 3
        code, line = await refusal(cast, "snapshot", "prune", str(old), "--keep", "1")
        assert (code, "another process runs" in line) == (FILE_ERROR, True)
        (row,) = (await answer(cast, "snapshot", "list", str(old)))["snapshots"]
        assert (row["height"], row["generation"]) == (made["height"], 0)
        assert (row["root"], row["epoch"]) == (made["root"], 0)
        assert row["confirmed"] in {"yes", "passed", "no"}

        # Over the network, at a pace, and on again after a kill.
        copy = cast.stage.folder / "copy"
        words = ("snapshot", "fetch", cast.parts["old"].url, "--to", str(copy))
        slow = cast.add("fetch", *words, "--rate", "700000", "--json")
        await slow.start()

        async def begun() -> bool:
            return (copy / name / "chunks" / "000002").is_file()

        await cast.until(begun, "a chunk")
        cast.kill("fetch")
        assert slow.child is not None
        await slow.child.wait()
        del cast.parts["fetch"]
        (row,) = (await answer(cast, "snapshot", "list", str(copy)))["snapshots"]
        assert row["standing"] == "partial"
        code, line = await refusal(cast, "snapshot", "verify", str(copy / name))
        assert (code, "no whole snapshot" in line) == (REFUSED, True)
        inode = (copy / name / "chunks" / "000001").stat().st_ino
        await answer(cast, *words)
        assert (copy / name / "chunks" / "000001").stat().st_ino == inode
        hashes = await answer(cast, "snapshot", "verify", str(copy / name))
        assert (hashes["hashes"], hashes["enclave"]) == ("good", "not asked")

        # By an enclave; its home's worker must not run.
        code, line = await refusal(
            cast, "snapshot", "verify", str(copy / name), "--home", str(old)
        )
        assert (code, "another process runs" in line) == (FILE_ERROR, True)
        assert await cast.stop("old") == 0
        seen = await answer(
            cast, "snapshot", "verify", str(copy / name), "--home", str(old)
        )
        assert (seen["enclave"], seen["root"]) == ("takes it", made["root"])

        # A lie that all hashes agree with: the enclave says which chunk.
        two, three = (copy / name / "chunks" / f"00000{n}" for n in (2, 3))
        data = two.read_bytes(), three.read_bytes()
        manifest = copy / name / "manifest"
        said = json.loads(manifest.read_bytes())
        alter(two)
        code, line = await refusal(cast, "snapshot", "verify", str(copy / name))
        assert (code, "chunk 2 of the snapshot is altered" in line) == (REFUSED, True)
        two.write_bytes(data[1])
        three.write_bytes(data[0])
        chunks = said["chunks"]
        chunks[2], chunks[3] = chunks[3], chunks[2]
        manifest.write_text(json.dumps(said))
        await answer(cast, "snapshot", "verify", str(copy / name))
        code, line = await refusal(
            cast, "snapshot", "verify", str(copy / name), "--home", str(old)
        )
        assert (code, "SnapshotForgedError" in line) == (REFUSED, True)

        # Of a worker that does not run; then only the newest is left.
        again = await answer(cast, "snapshot", "create", str(old))
        assert again["height"] > made["height"]
        rows = (await answer(cast, "snapshot", "list", str(old)))["snapshots"]
        assert [one["height"] for one in rows] == [again["height"], made["height"]]
        pruned = await answer(cast, "snapshot", "prune", str(old), "--keep", "1")
        assert pruned["left"] == 1
        assert [Path(path).name for path in pruned["dropped"]] == [name]
        cast.run_worker("old")
        await cast.up("old")
        await cast.until_confirmed(cast.scan.height)

    play(copy_stage(large, tmp_path / "stage", block_ms=300), story)


def alter(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def test_killed_while_a_snapshot_is_written_the_next_start_sweeps_and_goes_on(
    large: Stage, tmp_path: Path
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.until_confirmed(6)
        folder = cast.stage.worker("old") / "snapshots"

        async def begun() -> bool:
            return any(folder.glob("*/chunks/*"))

        url = cast.parts["old"].url + "/v1/state/snapshot?fresh_at=1"
        asking = asyncio.create_task(cast.http.get(url))
        while not await begun():
            await asyncio.sleep(0)
        cast.kill("old")
        await asyncio.gather(asking, return_exceptions=True)
        assert [path.name for path in folder.glob("*/manifest")] == []
        cast.parts["old"].up.clear()
        await cast.up("old")
        await cast.until_status("old", lambda s: s["state_height"] is not None)
        assert list(folder.iterdir()) == []  # nothing half stays
        await cast.until_confirmed(cast.scan.height)
        url = cast.parts["old"].url + "/v1/state/snapshot?fresh_at=1"
        async with cast.http.get(url) as found:
            assert found.status == 200
        assert len(list(folder.glob("*/manifest"))) == 1

    play(copy_stage(large, tmp_path / "stage", block_ms=300), story)
