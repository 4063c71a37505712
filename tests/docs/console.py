"""Runs a page's ``console`` blocks as a reader would, in one folder."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click

BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
NODE_PORT = 26_657
READY_SECONDS = 60.0


def commands_of(text: str) -> list[str]:
    """The commands of all console blocks, in order, continued lines joined."""
    found = []
    for block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line[2:].strip() for line in lines if line.startswith("$ ")]
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Sandbox:
    """A folder, and the addresses that stand for those of the page.

    Commands run as they are written, except that ports which may be taken on
    this machine are exchanged for free ones.
    """

    def __init__(self, folder: Path, programs: Path, tree: click.Command) -> None:
        self.folder = folder
        self._tree = tree
        self._ports = {port: free_port() for port in (NODE_PORT, 7001, 7002)}
        self._env = {
            name: value for name, value in os.environ.items() if name != "PYTHONPATH"
        }
        self._env["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> str:
        """Run to the end, or until it is ready if it ends with ``&``; its output.

        Raises:
            AssertionError: It failed.
        """
        command = self._with_addresses(command)
        if command.endswith("&"):
            return self._start(command.removesuffix("&").strip())
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _with_addresses(self, command: str) -> str:
        for port, other in self._ports.items():
            command = command.replace(str(port), str(other))
        words = command.split()
        port = self._ports[NODE_PORT]
        if words[:3] == ["sealift", "chain", "init"]:
            return f"{command} --port {port}"
        if words[0] == "sealift" and self._takes(words[1:], "--rpc"):
            return f"{command} --rpc http://127.0.0.1:{port}"
        return command

    def _takes(self, words: list[str], option: str) -> bool:
        """Whether the page's command asks the default node."""
        if option in words or "--card" in words:
            return False
        node: click.Command | None = self._tree
        for word in words:
            if not isinstance(node, click.Group):
                break
            node = node.get_command(click.Context(node), word)
        if node is None or isinstance(node, click.Group):
            return False
        return any(
            option in param.opts and param.default is not None for param in node.params
        )

    def _start(self, command: str) -> str:
        log = self.folder / f"{len(self._running)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=self._env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            said = log.read_text(encoding="utf-8", errors="replace")
            if re.search(r"^ready ", said, re.MULTILINE):
                return said
            assert process.poll() is None, f"$ {command} &\n{said}"
            time.sleep(0.1)
        raise AssertionError(f"$ {command} & was not ready\n{log.read_text()}")

    def stop(self) -> None:
        """End what still runs, the last first."""
        for process in reversed(self._running):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def sandbox(folder: Path, programs: Path, tree: click.Command) -> Iterator[Sandbox]:
    """A sandbox whose processes end with it."""
    made = Sandbox(folder, programs, tree)
    try:
        yield made
    finally:
        made.stop()
