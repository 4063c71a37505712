"""What the author presses: single keys at a terminal, lines from anything else."""

import asyncio
import contextlib
import os
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Final

#: Ends the loop: `q`, the end of the input, Ctrl-D.
QUIT: Final = "q"
_END: Final = {"", "\x04"}


class Keys:
    """A queue of what was pressed; use :func:`pressed_keys`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    async def next(self) -> str:
        """The next key, in lower case; Enter is ``u``."""
        return await self._queue.get()

    def put(self, text: str) -> None:
        """Note a key, from the thread that reads."""
        key = QUIT if text in _END else text.strip().lower()[:1] or "u"
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, key)


@contextlib.contextmanager
def pressed_keys() -> Iterator[Keys]:
    """Keys, as long as the block lasts; the terminal is as before afterwards.

    Reading waits in a thread of its own, which ends with the process.
    """
    keys = Keys(asyncio.get_running_loop())
    descriptor = sys.stdin.fileno()
    single = os.isatty(descriptor)
    before = termios.tcgetattr(descriptor) if single else None
    if single:
        tty.setcbreak(descriptor)
    reader = threading.Thread(
        target=_read, args=(keys, descriptor, single), daemon=True, name="keys"
    )
    reader.start()
    try:
        yield keys
    finally:
        if before is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read(keys: Keys, descriptor: int, single: bool) -> None:  # noqa: FBT001
    kept = b""
    while True:
        try:
            data = os.read(descriptor, 1 if single else 4096)
        except OSError:
            data = b""
        if not data:
            keys.put("")
            return
        if single:
            keys.put(data.decode("latin-1"))
            continue
        *lines, kept = (kept + data).split(b"\n")
        for line in lines:
            keys.put(line.decode("latin-1") + "\n")
