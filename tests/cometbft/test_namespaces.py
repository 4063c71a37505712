"""What the cables between validators are, and that nothing of them stays behind."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from namespaces import Namespaces, why_not

from sealift.crypto import system_entropy
from sealift.node.cometbft import NodePlan, free_ports

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(why_not()), reason=f"no namespaces: {why_not()}"),
]
NAMES = ("a0", "a1", "a2", "a3")
#: A refusal is an answer: whoever refuses has been reached.
ASK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 0.7)
except ConnectionRefusedError:
    sys.exit(0)
except TimeoutError:
    sys.exit(3)
"""
KILLED = """
import asyncio, json, sys
from contextlib import AsyncExitStack
from pathlib import Path
sys.path.insert(0, {here!r})
from test_namespaces import made, namespace_of

async def main():
    async with AsyncExitStack() as stack:
        cables = made(Path({folder!r}))
        await cables.open(stack)
        print(json.dumps([namespace_of(pid) for pid in cables.pids]), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def made(folder: Path) -> Namespaces:
    ports = iter(free_ports(8, entropy=system_entropy))
    plans = [
        NodePlan(name=name, rpc_port=next(ports), p2p_port=next(ports))
        for name in NAMES
    ]
    return Namespaces(plans, ports, folder)


def namespace_of(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def living() -> set[str]:
    """The network namespaces of all processes."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(namespace_of(entry.name))
            except OSError:
                continue  # it has ended
    return found


def links() -> set[str]:
    return {one.name for one in Path("/sys/class/net").iterdir()}


def gone(namespaces: Sequence[str]) -> bool:
    """Whether no process has them any more, within a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if living().isdisjoint(namespaces):
            return True
        time.sleep(0.1)
    return False


def reaches(cables: Namespaces, here: str, there: str) -> bool:
    told = subprocess.run(
        cables.inside(here, [sys.executable, "-S", "-c", ASK, cables.host(there)]),
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode in {0, 3}, told.stderr
    return told.returncode == 0


def meets(cables: Namespaces, here: str, there: str) -> bool:
    """Reaches it at last: the first packets after a mend may be lost."""
    return any(reaches(cables, here, there) for _ in range(9))


def test_a_cut_is_between_the_two_sides_only_and_nothing_stays_behind(
    tmp_path: Path,
) -> None:
    async def main() -> list[str]:
        async with AsyncExitStack() as stack:
            cables = made(tmp_path)
            await cables.open(stack)
            namespaces = [namespace_of(pid) for pid in cables.pids]
            assert len({*namespaces, namespace_of("self")}) == len(NAMES) + 2
            pairs = [(a, b) for a in NAMES for b in NAMES if a != b]
            assert all(meets(cables, a, b) for a, b in pairs)
            cables.cut(NAMES[:2], NAMES[2:])
            for a, b in pairs:
                beside = (a in NAMES[:2]) == (b in NAMES[:2])
                assert meets(cables, a, b) if beside else not reaches(cables, a, b)
            cables.mend()
            assert all(meets(cables, a, b) for a, b in pairs)
            return namespaces

    before = links()
    namespaces = asyncio.run(main())
    assert gone(namespaces)
    assert links() == before


def test_kill_9_of_the_test_leaves_nothing_behind(tmp_path: Path) -> None:
    before = links()
    here = str(Path(__file__).parent)
    program = KILLED.format(here=here, folder=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        namespaces = json.loads(child.stdout.readline())
        assert living() >= set(namespaces)
        child.send_signal(signal.SIGKILL)
    assert gone(namespaces)
    assert links() == before
