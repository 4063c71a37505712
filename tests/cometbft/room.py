"""A process in a network namespace of its own, and a door into it.

Usage: room.py [PORT]
Whoever connects to 127.0.0.1:PORT out here reaches 127.0.0.1:PORT in there: the
listening socket is made first and stays where it was made. The namespace has no
name; it goes with its last process.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from functools import partial

CLONE_NEWNET = 0x40000000


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def pass_on(
    port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        back, far = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, far), pump(back, writer))
    far.close()
    writer.close()


async def main(doors: dict[int, socket.socket]) -> None:
    for port, door in doors.items():
        await asyncio.start_server(partial(pass_on, port), sock=door)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    doors = {}
    for word in sys.argv[1:]:
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", int(word)))
        doors[int(word)] = door
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    asyncio.run(main(doors))
