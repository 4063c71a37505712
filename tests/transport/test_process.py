"""Children that never get ready, do not stop, or leave children of their own."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from sealift.transport.process import (
    ProcessNotReadyError,
    ProcessSpec,
    ProcessStartError,
    child_process,
    start_process,
    wait_for_stop,
)


def spec(tmp_path: Path, program: str, grace: float = 5.0) -> ProcessSpec:
    return ProcessSpec(
        argv=[sys.executable, "-u", "-c", program],
        log=tmp_path / "log",
        grace=grace,
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


def test_child_is_awaited_stopped_and_reaped(tmp_path: Path) -> None:
    async def main() -> int:
        program = "import time; print('noise'); print('port 4711'); time.sleep(60)"
        async with child_process(spec(tmp_path, program)) as child:
            ready = await child.wait_for_line(r"^port (\d+)$", within=20)
            assert ready[1] == "4711"
            assert child.exit_code is None
            pid = child.pid
        assert child.exit_code == -signal.SIGTERM
        assert await child.stop() == -signal.SIGTERM  # harmless again
        assert await child.kill() == -signal.SIGTERM
        return pid

    assert not Path(f"/proc/{asyncio.run(main())}").exists()


def test_child_that_ignores_the_request_is_ended_with_its_children(
    tmp_path: Path,
) -> None:
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c',"
        " 'import time; time.sleep(60)'])\n"
        "print('grandchild', grandchild.pid)\n"
        "time.sleep(60)\n"
    )

    async def main() -> None:
        async with child_process(spec(tmp_path, program, grace=0.1)) as child:
            found = await child.wait_for_line(r"grandchild (\d+)", within=20)
            grandchild = int(found[1])
            assert alive(grandchild)
        assert child.exit_code == -signal.SIGKILL
        for _ in range(100):
            if not alive(grandchild):
                break
            await asyncio.sleep(0.02)
        assert not alive(grandchild)

    asyncio.run(main())


def test_child_that_ends_as_it_is_stopped_keeps_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reap = os.waitpid

    def reap_late(pid: int, options: int) -> tuple[int, int]:
        if not options:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            time.sleep(0.3)
        return reap(pid, options)

    async def main() -> None:
        child = await start_process(spec(tmp_path, "raise SystemExit(7)"))
        flags = os.WEXITED | os.WNOWAIT
        await asyncio.to_thread(os.waitid, os.P_PID, child.pid, flags)
        assert child.exit_code is None  # it has ended, and nobody has noticed
        assert await child.stop() == 7

    monkeypatch.setattr(os, "waitpid", reap_late)
    asyncio.run(main())


def test_waiting_for_a_child_does_not_block_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        program = "import time; time.sleep(0.3); raise SystemExit(7)"
        child = await start_process(spec(tmp_path, program))
        assert await child.wait() == 7
        ticking.cancel()
        assert ticks > 10

    asyncio.run(main())


def test_child_that_ends_or_is_silent_is_not_ready(tmp_path: Path) -> None:
    async def main() -> None:
        program = "print('going down'); raise SystemExit(3)"
        async with child_process(spec(tmp_path, program)) as child:
            with pytest.raises(
                ProcessNotReadyError, match=r"(?s)code 3.*going down"
            ) as e:
                await child.wait_for_line("ready", within=20)
            assert "log" in e.value.hint
        async with child_process(
            spec(tmp_path, "import time; time.sleep(60)")
        ) as child:
            with pytest.raises(ProcessNotReadyError, match="None"):
                await child.wait_for_line("ready|going", within=0.1)

    asyncio.run(main())


def test_half_a_line_is_not_a_ready_line(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "sys.stdout.write('port 47'); sys.stdout.flush(); time.sleep(0.3)\n"
        "print('11'); time.sleep(60)\n"
    )

    async def main() -> None:
        async with child_process(spec(tmp_path, program)) as child:
            assert (await child.wait_for_line(r"port (\d+)", within=20))[1] == "4711"

    asyncio.run(main())


def test_program_that_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ProcessStartError):
            await start_process(
                ProcessSpec(argv=[str(tmp_path / "nothing")], log=tmp_path / "log")
            )
        with pytest.raises(ProcessStartError):
            await start_process(
                ProcessSpec(argv=[sys.executable], log=tmp_path / "no" / "log")
            )

    asyncio.run(main())


def test_child_is_ended_also_if_its_parent_fails(tmp_path: Path) -> None:
    async def main() -> int:
        with pytest.raises(RuntimeError):
            async with child_process(
                spec(tmp_path, "import time; time.sleep(60)")
            ) as child:
                raise RuntimeError
        assert child.exit_code is not None
        return child.pid

    assert not Path(f"/proc/{asyncio.run(main())}").exists()


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_request_to_stop_is_noticed(which: signal.Signals) -> None:
    async def main() -> signal.Signals:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), which)
        return await wait_for_stop()

    assert asyncio.run(main()) is which
