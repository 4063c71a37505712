"""Validators in network namespaces: between them are cables, and a cut is a cut.

Nothing of it is in this machine's own namespace but a listening socket per door on
127.0.0.1. The namespaces have no names. Each is held by a process on a leash and by
what runs in it: when those end, however they end, the kernel takes the namespace
and the cables in it away.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from cables import Cables

from sealift.node.cometbft import NodePlan
from sealift.transport.leash import leashed
from sealift.transport.process import ProcessSpec, child_process

HERE = Path(__file__).parent
TOOLS = ("ip", "nsenter", "unshare")
#: Addresses that exist only in there.
SUBNET = "10.77.0"
TRIAL = (
    "ip link add near type bridge && "
    "ip link add left type veth peer name right && "
    "ip link set left master near"
)


def why_not() -> str:
    """Why this machine lets us make no namespaces; empty if it does.

    In CI nobody is asked: where they cannot be made, the test that was asked for
    fails.
    """
    if os.environ.get("CI"):
        return ""
    if os.geteuid() != 0:
        return "not root"
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        return f"no program {' '.join(missing)}"
    try:
        tried = subprocess.run(
            ["unshare", "--net", "sh", "-c", TRIAL],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode == 0:
        return ""
    return " ".join(tried.stderr.split()) or f"exit code {tried.returncode}"


class Namespaces(Cables):
    """One namespace for each validator; two switches in one more.

    Each validator has one cable, to the switch ``near``. A cut plugs one side's
    cables into the switch ``far``: every interface stays up, no connection is
    closed, and nothing arrives.
    """

    silent = True

    def __init__(
        self, plans: Sequence[NodePlan], ports: Iterator[int], folder: Path
    ) -> None:
        del ports
        self._plans = {plan.name: plan for plan in plans}
        self._hosts = {
            plan.name: f"{SUBNET}.{place}" for place, plan in enumerate(plans, 1)
        }
        self._folder = folder
        self._switch = 0
        #: The process that holds each validator's namespace.
        self.rooms: dict[str, int] = {}

    @property
    def pids(self) -> list[int]:
        """The processes that hold a namespace."""
        return [self._switch, *self.rooms.values()]

    def address(self, dialler: NodePlan, target: NodePlan) -> str:
        del dialler
        return f"{self._hosts[target.name]}:{target.p2p_port}"

    def host(self, name: str) -> str:
        return self._hosts[name]

    def inside(self, name: str, argv: Sequence[str]) -> list[str]:
        return [*_enter(self.rooms[name]), *argv]

    async def open(self, stack: AsyncExitStack) -> None:
        self._switch = await self._room(stack)
        for name, plan in self._plans.items():
            self.rooms[name] = await self._room(stack, str(plan.rpc_port))
        _ip(
            self._switch,
            *(f"link add {switch} type bridge" for switch in ("near", "far")),
            *(f"link set {switch} up" for switch in ("near", "far")),
        )
        for name, pid in self.rooms.items():
            _ip(
                self._switch,
                f"link add {name} type veth peer name cable netns {pid}",
                f"link set {name} master near up",
            )
            _ip(
                pid,
                "link set lo up",
                f"addr add {self._hosts[name]}/24 dev cable",
                "link set cable up",
            )

    def cut(self, here: Collection[str], there: Collection[str]) -> None:
        assert {*here, *there} == self.rooms.keys(), "a cut has two sides"
        _ip(self._switch, *(f"link set {name} master far" for name in there))

    def mend(self) -> None:
        _ip(self._switch, *(f"link set {name} master near" for name in self.rooms))

    async def _room(self, stack: AsyncExitStack, *ports: str) -> int:
        argv = leashed([sys.executable, str(HERE / "room.py"), *ports])
        log = self._folder / "rooms.log"
        room = await stack.enter_async_context(
            child_process(ProcessSpec(argv=argv, log=log, grace=5))
        )
        await room.wait_for_line(r"^ready$", within=30)
        return room.pid


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def _ip(pid: int, *lines: str) -> None:
    """Say so to ``ip`` in the namespace of a process."""
    told = subprocess.run(
        [*_enter(pid), "ip", "-batch", "-"],
        check=False,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.returncode == 0, f"{lines}: {told.stderr}"
