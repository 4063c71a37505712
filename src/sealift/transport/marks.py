"""Processes by more than their number: pids are used again, marks are not.

A mark names one process for ever: its pid, when it was started, and in which
boot. Whoever recorded a mark may later ask that process, and no other, to end.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Final

import msgspec

_PROC: Final = Path("/proc")
#: Fields of /proc/PID/stat behind the name: state first, start time twentieth.
_STATE, _STARTED = 0, 19
_ENDED: Final = frozenset("ZX")
_POLL_SECONDS: Final = 0.05


class ProcessMark(msgspec.Struct, frozen=True, kw_only=True):
    """One process: pid, start in clock ticks since boot, and the boot's id."""

    pid: int
    started: int
    boot: str


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a process that runs; ``None`` if none has that pid."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None
    # The name stands in parentheses and may hold anything, parentheses too.
    fields = stat[stat.rindex(b")") + 1 :].split()
    if fields[_STATE].decode() in _ENDED:
        return None
    return ProcessMark(pid=pid, started=int(fields[_STARTED]), boot=boot)


def runs(mark: ProcessMark) -> bool:
    """Whether that very process still runs."""
    return mark_of(mark.pid) == mark


async def end_process(mark: ProcessMark, *, grace: float) -> bool:
    """Ask a process to end; after the grace, end it. No other is touched.

    Args:
        mark: Whom.
        grace: Seconds between asking and ending.

    Returns:
        Whether it ran.
    """
    if not _signal(mark, signal.SIGTERM):
        return False
    try:
        async with asyncio.timeout(grace):
            await _gone(mark)
    except TimeoutError:
        _signal(mark, signal.SIGKILL)
        await _gone(mark)
    return True


async def _gone(mark: ProcessMark) -> None:
    while runs(mark):  # noqa: ASYNC110 - nobody tells us
        await asyncio.sleep(_POLL_SECONDS)


def _signal(mark: ProcessMark, which: signal.Signals) -> bool:
    """Whether it was there to be told."""
    try:
        # Held open, the descriptor means this process: its pid cannot be reused
        # between the look and the signal.
        descriptor = os.pidfd_open(mark.pid)
    except OSError:
        return False
    try:
        if not runs(mark):
            return False
        signal.pidfd_send_signal(descriptor, which)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
