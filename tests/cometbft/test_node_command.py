"""`sealift node cometbft`: two halves, started as one, ended as one."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from comet import CHAIN, make_homes, wait_for_height

from sealift.node.cometbft import CometHome, EngineStoppedError, rpc_url
from sealift.transport.marks import ProcessMark, runs
from sealift.transport.process import ChildProcess, ProcessSpec, child_process
from sealift.transport.rpc import Backoff, L1Client

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(300)]


@pytest.fixture
def home(tmp_path: Path, comet_binary: Path) -> CometHome:
    return make_homes(tmp_path, comet_binary).home


def command(home: CometHome, **environ: str) -> ProcessSpec:
    return ProcessSpec(
        argv=[sys.executable, "-m", "sealift", "node", "cometbft", str(home.root)],
        log=home.root.parent / "node.log",
        env=os.environ | environ,
        grace=30,
    )


@contextlib.asynccontextmanager
async def node(home: CometHome) -> AsyncIterator[tuple[ChildProcess, L1Client, int]]:
    async with child_process(command(home)) as child:
        line = await child.wait_for_line(
            rf"^ready (http://127\.0\.0\.1:\d+) chain={CHAIN} height=(\d+)$", within=60
        )
        assert line[1] == rpc_url(home)
        async with L1Client(line[1], backoff=Backoff(jitter=lambda: 1.0)) as l1:
            yield child, l1, int(line[2])


def engine_of(home: CometHome) -> ProcessMark:
    return msgspec.json.decode(home.process.read_bytes(), type=ProcessMark)


async def wait_until_gone(mark: ProcessMark) -> None:
    async with asyncio.timeout(30):
        while runs(mark):
            await asyncio.sleep(0.05)


def test_a_node_runs_ends_when_asked_and_goes_on(home: CometHome) -> None:
    async def main() -> None:
        async with node(home) as (child, l1, height):
            assert height == 0
            await wait_for_height(l1, 3)
            mark = engine_of(home)
            assert runs(mark)
            assert await child.stop() == 0
            assert not runs(mark), "CometBFT outlived its node"
            assert "Traceback" not in child.output()
        async with node(home) as (child, l1, height):
            assert height >= 3
            await wait_for_height(l1, height + 2)
            os.kill(child.pid, signal.SIGINT)
            assert await child.wait() == 130

    asyncio.run(main())


def test_the_node_ends_by_name_when_cometbft_dies(home: CometHome) -> None:
    async def main() -> None:
        async with node(home) as (child, l1, _):
            await wait_for_height(l1, 2)
            os.kill(engine_of(home).pid, signal.SIGKILL)
            assert await asyncio.wait_for(child.wait(), 20) == 3
            assert "CometBFT has ended" in child.output()
            assert "Traceback" not in child.output()
        async with node(home) as (_, l1, height):
            await wait_for_height(l1, height + 2)

    asyncio.run(main())
    with pytest.raises(EngineStoppedError):
        raise EngineStoppedError("said above by the process")


def test_kill_9_of_the_node_leaves_no_orphan_and_the_next_goes_on(
    home: CometHome,
) -> None:
    async def main() -> None:
        marks = []
        for _ in range(3):
            async with node(home) as (child, l1, height):
                await wait_for_height(l1, height + 2)
                marks.append(engine_of(home))
                os.kill(child.pid, signal.SIGKILL)
                await child.wait()
            # the next one is started at once, while the old CometBFT still ends
        for mark in marks:
            await wait_until_gone(mark)

    asyncio.run(main())


def test_a_cometbft_that_refuses_is_quoted(home: CometHome) -> None:
    genesis = json.loads(home.genesis.read_bytes())
    genesis["initial_height"] = "7"
    home.genesis.write_text(json.dumps(genesis))

    async def main() -> None:
        async with child_process(command(home)) as child:
            assert await asyncio.wait_for(child.wait(), 60) != 0
            said = child.output()
        assert "initial_height" in said
        assert "got 7, expected 1" in said
        assert "Traceback" not in said

    asyncio.run(main())


def test_what_is_wrong_before_the_start_is_a_sentence(
    home: CometHome, tmp_path: Path
) -> None:
    async def said(home: CometHome, **environ: str) -> tuple[int, str]:
        async with child_process(command(home, **environ)) as child:
            return await asyncio.wait_for(child.wait(), 60), child.output()

    async def main() -> None:
        other = tmp_path / "other-comet"
        other.write_text("#!/bin/sh\necho 0.37.0\n")
        other.chmod(0o755)
        code, text = await said(home, SEALIFT_COMETBFT=str(other))
        assert code == 3
        assert "got 0.37.0, expected 0.38.25" in text
        code, text = await said(CometHome(tmp_path / "nothing"))
        assert code == 4
        assert "configuration is missing" in text
        assert not (tmp_path / "nothing").exists()
        with socket.socket() as taken:
            port = int(rpc_url(home).rpartition(":")[2])
            taken.bind(("127.0.0.1", port))
            taken.listen()
            code, text = await said(home)
            assert code == 3
            assert f"127.0.0.1:{port} is taken" in text
        async with node(home) as (_, _, _):
            code, text = await said(home)
            assert code == 4
            assert "another process runs on this folder" in text

    asyncio.run(main())
