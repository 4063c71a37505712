"""Marks and leashes: only the very process that was recorded is ever ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from sealift.transport.leash import leashed
from sealift.transport.marks import ProcessMark, end_process, mark_of, runs

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def test_a_mark_is_of_one_process_for_ever() -> None:
    child = subprocess.Popen(SLEEP)
    try:
        mark = mark_of(child.pid)
        assert mark is not None
        assert runs(mark)
    finally:
        end(child)
    assert not runs(mark)
    assert mark_of(child.pid) is None


def test_a_pid_that_was_used_again_is_left_alone() -> None:
    child = subprocess.Popen(SLEEP)
    try:
        mark = mark_of(child.pid)
        assert mark is not None
        for other in (
            msgspec.structs.replace(mark, started=mark.started - 1),
            msgspec.structs.replace(mark, boot="another boot"),
        ):
            assert not asyncio.run(end_process(other, grace=1))
        assert child.poll() is None
        assert not asyncio.run(
            end_process(ProcessMark(pid=2**22 + 1, started=1, boot=""), grace=1)
        )
    finally:
        end(child)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_marked_process_is_ended_even_if_it_does_not_listen(deaf: bool) -> None:
    words = "import signal, time; print(1, flush=True); time.sleep(60)"
    if deaf:
        words = "import signal; signal.signal(15, signal.SIG_IGN); " + words
    child = subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        mark = mark_of(child.pid)
        assert mark is not None
        assert asyncio.run(end_process(mark, grace=0.3))
        expected = signal.SIGKILL if deaf else signal.SIGTERM
        assert child.wait(5) == -expected
    finally:
        end(child)


def test_a_leashed_program_ends_with_its_parent_even_by_kill_9(tmp_path: Path) -> None:
    """The parent dies by SIGKILL and can tell nobody; the kernel does."""
    told = tmp_path / "pid"
    inner = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); "
    parent = (
        "import subprocess, sys, time\n"
        "from sealift.transport.leash import leashed\n"
        "subprocess.Popen(leashed([sys.executable, '-c', sys.argv[1]]))\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", parent, inner + "time.sleep(60)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        deadline = time.monotonic() + 20
        while not (told.exists() and told.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        mark = mark_of(int(told.read_text()))
        assert mark is not None
    finally:
        end(child)
    deadline = time.monotonic() + 10
    while runs(mark):
        assert time.monotonic() < deadline, "an orphan"
        time.sleep(0.05)


def test_a_leashed_program_that_is_not_there_is_named() -> None:
    done = subprocess.run(
        leashed(["/nowhere/at-all"]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "at-all cannot be started" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_leash_whose_holder_is_gone_starts_nothing(tmp_path: Path) -> None:
    line = leashed(["/bin/touch", str(tmp_path / "started")])
    line[line.index(str(os.getpid()))] = "1"  # not the parent
    assert subprocess.run(line, check=False).returncode == 0
    assert not (tmp_path / "started").exists()
