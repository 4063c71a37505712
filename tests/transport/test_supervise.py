"""Supervision: what dies comes back, what is stopped stays away."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sealift.base import InvariantError
from sealift.transport.clock import WallClock
from sealift.transport.marks import runs
from sealift.transport.process import ProcessNotReadyError
from sealift.transport.supervise import Service, Supervisor


class Watched:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.changes = 0
        self.supervisor = Supervisor(
            say=self.said.append, changed=self.change, clock=WallClock()
        )

    def change(self) -> None:
        self.changes += 1

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.02)


def service(folder: Path, name: str, words: str, within: float = 15) -> Service:
    return Service(
        name=name,
        argv=[sys.executable, "-c", words],
        log=folder / f"{name}.log",
        ready="^ready",
        within=within,
        grace=2,
    )


STAYS = "import time; print('ready 1', flush=True); time.sleep(60)"


def play(story: Callable[[Watched], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        watched = Watched()
        try:
            await story(watched)
        finally:
            marks = [s.mark for s in watched.supervisor.states() if s.mark]
            await watched.supervisor.stop_all()
            assert not [mark for mark in marks if runs(mark)]

    asyncio.run(main())


def test_what_dies_is_started_again_and_it_is_said(tmp_path: Path) -> None:
    async def story(watched: Watched) -> None:
        supervisor = watched.supervisor
        assert await supervisor.start(service(tmp_path, "a", STAYS)) == "ready 1"
        for count in (1, 2):
            (state,) = supervisor.states()
            assert state.mark is not None
            os.kill(state.mark.pid, signal.SIGKILL)
            await watched.until(
                lambda count=count: (  # type: ignore[misc]
                    supervisor.states()[0].restarts == count
                    and supervisor.states()[0].state == "ready"
                )
            )
        pauses = [line.rpartition("again in ")[2] for line in watched.said]
        assert [one for one in pauses if one.endswith(" s")] == ["0.5 s", "1 s"]
        assert watched.changes >= 8

    play(story)


def test_the_first_start_must_succeed(tmp_path: Path) -> None:
    async def story(watched: Watched) -> None:
        with pytest.raises(ProcessNotReadyError, match="no luck"):
            await watched.supervisor.start(
                service(tmp_path, "a", "print('no luck'); raise SystemExit(3)")
            )
        with pytest.raises(ProcessNotReadyError, match="ready"):
            await watched.supervisor.start(
                service(tmp_path, "b", "import time; time.sleep(60)", within=0.5)
            )
        assert [one.state for one in watched.supervisor.states()] == ["stopped"] * 2
        assert watched.said == []

    play(story)


def test_one_name_is_kept_once_and_a_stopped_one_stays_away(tmp_path: Path) -> None:
    async def story(watched: Watched) -> None:
        supervisor = watched.supervisor
        await supervisor.start(service(tmp_path, "a", STAYS))
        with pytest.raises(InvariantError):
            await supervisor.start(service(tmp_path, "a", STAYS))
        mark = supervisor.states()[0].mark
        assert mark is not None
        await supervisor.stop("a")
        await supervisor.stop("nobody")
        await asyncio.sleep(0.8)
        assert not runs(mark)
        assert supervisor.states()[0].state == "stopped"

    play(story)
