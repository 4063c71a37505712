"""sealift dev: an author edits, presses a key, and the state is there."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealift.base import decode
from sealift.cli import _dev, _dev_keys
from sealift.cli._app_new import make_application
from sealift.cli._application import application_metadata
from sealift.cli._dev_home import DevHome, example_commands
from sealift.cli._dev_keys import pressed_keys
from sealift.cli._dev_run import DevError, Loop
from sealift.frame import RuntimeMetadata

PATIENCE = 120.0
_SEALIFT = (sys.executable, "-m", "sealift", "dev")


def edit_pallet(folder: Path, *words: str) -> None:
    path = folder / "app" / folder.name / "pallet.py"
    text = path.read_text()
    for old, new in zip(words[::2], words[1::2], strict=True):
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


class Author:
    """Somebody at a keyboard, without a terminal unless it is given one."""

    def __init__(
        self, folder: Path, scratch: Path, *, stdin: int | None = None
    ) -> None:
        self.folder = folder
        self.scratch = scratch
        self._log = scratch.with_suffix(".out")
        self._seen = 0
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [*_SEALIFT, str(folder), "--keep", str(scratch), "--block-ms", "300"],
                stdin=subprocess.PIPE if stdin is None else stdin,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def press(self, key: str) -> None:
        assert self.process.stdin is not None
        self._seen = len(self.said)
        self.process.stdin.write(key.encode() + b"\n")
        self.process.stdin.flush()

    def hears(self, pattern: str, *, within: float = PATIENCE) -> str:
        """What is said since the last key, up to a line that matches."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            new = self.said[self._seen :]
            if re.search(pattern, new, re.MULTILINE):
                return new
            assert self.process.poll() is None, self.said
            time.sleep(0.1)
        raise AssertionError(f"{pattern} was not said:\n{self.said}")

    def client(self, *words: str) -> Any:
        files = ("--card", "card.json", "--key", "keys/alice.json", "--json")
        done = subprocess.run(
            [sys.executable, "-m", "sealift", "client", *words, *files],
            cwd=self.scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr, self.said)
        return json.loads(done.stdout)

    def edit(self, *words: str) -> None:
        edit_pallet(self.folder, *words)

    def family(self) -> dict[int, str]:
        """Whatever runs below it, and when it was started."""
        parents: dict[int, list[int]] = {}
        starts = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
                    starts[int(entry.name)] = fields[19]
        found, ahead = {}, [self.process.pid]
        while ahead:
            for child in parents.get(ahead.pop(), []):
                found[child] = starts[child]
                ahead.append(child)
        return found

    def is_gone(self, family: dict[int, str]) -> bool:
        for pid, start in family.items():
            with contextlib.suppress(OSError):
                fields = (
                    Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                )
                if fields[19] == start and fields[0] != "Z":
                    return False
        return True

    def until_gone(self, family: dict[int, str]) -> None:
        end = time.monotonic() + 60
        while not self.is_gone(family):
            assert time.monotonic() < end, family
            time.sleep(0.1)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_application("notes", tmp_path).folder


@contextlib.contextmanager
def author(folder: Path, scratch: Path, **more: Any) -> Iterator[Author]:
    made = Author(folder, scratch, **more)
    try:
        yield made
    finally:
        made.end()


MIGRATION = """
    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        \"\"\"Take over what version 1 wrote, with the length of each.\"\"\"
        for writer, old in self.notes.items(ctx):
            length = len(old.text)
            self.dated.put(ctx, writer, Dated(text=old.text, length=length))
            self.notes.delete(ctx, writer)

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        \"\"\"Refuse an upgrade that lost something.\"\"\"
        if len(self.dated.items(ctx)) != self.count.get(ctx) + EXTRA:
            raise TooLongError("not as many as before")

    def genesis("""
DATED = '''class Dated(Message, kw_only=True):
    """A text and its length."""

    text: str
    length: int


EXTRA = 1


class FirstState('''


@pytest.mark.process
@pytest.mark.timeout(600)
def test_an_author_edits_and_the_state_is_kept(folder: Path, tmp_path: Path) -> None:
    """A call, four mistakes, an upgrade with a migration; then everything is gone."""
    with author(folder, tmp_path / "scratch") as me:
        ready = me.hears(r"^u or Enter")
        assert "sealift client call notes.keep text=hello --card" in ready
        assert me.client("call", "notes.keep", "text=hello")["outcome"] == "ok"
        assert me.client("ask", "notes.mine")["answer"] == "hello"

        me.press("u")
        assert "the same MRENCLAVE runs already" in me.hears(r"^u or Enter")

        me.edit("value=Note)", "value=str)")
        me.press("u")
        said = me.hears(r"^u or Enter")
        assert re.search(r"app/notes/pallet.py:\d+: storage-layout: notes.notes", said)
        assert "    write: storage_version = 2" in said
        me.edit("value=str)", "value=Note)")

        me.edit("return self.count", "return (self.count")
        me.press("u")
        assert re.search(r"app/notes/pallet.py:\d+: syntax: ", me.hears(r"^u or Enter"))
        me.edit("return (self.count", "return self.count")

        me.edit(
            "storage_version = 1", "storage_version = 2",
            "\n    def genesis(", MIGRATION,
            "class FirstState(", DATED,
            "    count: Sto",
            '    dated: StorageMap[AccountId, Dated] = StorageMap(\n        "dated", '
            "key=AccountId, value=Dated\n    )\n    count: Sto",
            "note = self.notes.find", "note = self.dated.find",
        )  # fmt: skip
        me.press("")
        said = me.hears(r"^u or Enter")
        pallet = (folder / "app" / "notes" / "pallet.py").read_text().splitlines()
        line = (
            pallet.index('            raise TooLongError("not as many as before")') + 1
        )
        refused = (
            f"app/notes/pallet.py:{line}: the enclave refused (MigrationCheckError)"
        )
        assert f"{refused}: post_upgrade of pallet notes failed: got TooLong" in said
        assert "DevError: notes 1.0.0 has not taken over" in said
        assert "Traceback" not in said
        assert me.client("ask", "notes.mine")["answer"] == "hello"

        me.edit("EXTRA = 1", "EXTRA = 0")
        me.press("u")
        assert "the state is kept" in me.hears(r"^u or Enter")
        assert me.client("ask", "notes.mine")["answer"] == "hello"
        me.press("s")
        assert "notes 1.0.0 at http://" in me.hears(r"^block ")

        family = me.family()
        assert len(family) >= 3  # chain, worker, enclave
        me.press("q")
        assert me.process.wait(timeout=60) == 0
        me.until_gone(family)
        assert "Traceback" not in me.said


@pytest.mark.process
@pytest.mark.timeout(600)
def test_a_killed_loop_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """kill -9, at a terminal, where a key needs no Enter."""
    mine, theirs = pty.openpty()
    try:
        with author(folder, tmp_path / "scratch", stdin=theirs) as me:
            me.hears(r"^u or Enter")
            os.write(mine, b"s")
            me.hears(r"^block ")
            family = me.family()
            assert len(family) >= 3
            me.process.kill()
            me.process.wait()
            me.until_gone(family)
    finally:
        os.close(mine)
        os.close(theirs)


CLOCK = ("=ctx.block.height", "=time.time()", "import msgspec\n",
         "import time\nimport msgspec\n")  # fmt: skip


@pytest.mark.process
@pytest.mark.timeout(600)
def test_an_application_that_is_refused_at_the_start_waits_for_the_edit(
    folder: Path, tmp_path: Path
) -> None:
    edit_pallet(folder, *CLOCK)
    genesis = folder / "genesis.json"
    good = genesis.read_text()
    with author(folder, tmp_path / "scratch") as me:
        said = me.hears(r"^u or Enter: try again")
        assert "clock: `time.time` reads a clock" in said
        assert "the application is refused: got 2 findings" in said
        me.press("s")  # nothing runs that could be asked
        me.hears(r"^u or Enter: try again")
        me.press("u")
        assert "the application is refused" in me.hears(r"^u or Enter: try again")
        me.edit(*(word for pair in zip(CLOCK[1::2], CLOCK[::2], strict=True)
                  for word in pair))  # fmt: skip
        genesis.write_text("[]")
        me.press("u")
        assert "genesis.json is wrong" in me.hears(r"^u or Enter: try again")
        assert me.family() == {}
        genesis.write_text(good)
        me.press("u")
        assert "ready http://" in me.hears(r"^u or Enter: build")
        assert me.client("call", "notes.keep", "text=hello")["outcome"] == "ok"
        me.press("q")
        assert me.process.wait(timeout=60) == 0
        assert "Traceback" not in me.said


@pytest.mark.process
def test_an_application_that_is_refused_and_left_ends_by_its_refusal(
    folder: Path,
) -> None:
    edit_pallet(folder, *CLOCK)
    done = subprocess.run(
        [*_SEALIFT, str(folder)],
        stdin=subprocess.DEVNULL,  # the end of the input is q
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "clock: `time.time` reads a clock" in done.stdout
    assert "the application is refused: got 2 findings" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_empty_is_left_alone(
    folder: Path, tmp_path: Path, sealift: Any
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    said = sealift("dev", folder, "--keep", tmp_path / "mine")
    assert said.code == 2
    assert "not empty" in said.err
    assert sealift("dev", folder, "--keep", tmp_path / "mine" / "file").code == 2
    assert (tmp_path / "mine" / "file").read_text() == "mine"
    assert sealift("dev", tmp_path / "mine").code == 1  # no application


def test_nothing_runs_before_it_is_started(tmp_path: Path) -> None:
    class Workshop:
        home = DevHome(tmp_path)

    async def ask() -> None:
        loop = Loop(
            Workshop(),  # type: ignore[arg-type]
            clock=None,  # type: ignore[arg-type]
            entropy=os.urandom,
            say=print,
            count=print,
        )
        with pytest.raises(DevError, match="nothing runs yet"):
            await loop.status()

    asyncio.run(ask())


def test_what_fails_halfway_ends_and_does_not_wait_for_a_key() -> None:
    """A chain that runs, or half a shard, is not for the author to mend."""

    class Half:
        has_begun = True

        async def start(self) -> None:
            raise DevError("the chain does not start")

    async def begin() -> None:
        keys = _dev_keys.Keys(asyncio.get_running_loop())
        half: Any = Half()
        with pytest.raises(DevError, match="does not start"):
            await asyncio.wait_for(_dev._start(half, keys, print), timeout=5)

    asyncio.run(begin())


def test_examples_can_be_pasted(folder: Path, tmp_path: Path) -> None:
    raw = application_metadata(folder, "notes.runtime:runtime")
    metadata = decode(RuntimeMetadata, raw)
    call, ask = example_commands(DevHome(tmp_path), metadata)
    assert call.startswith("sealift client call notes.keep text=hello --card ")
    assert ask.startswith("sealift client ask notes.mine --card ")


class Terminal:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


async def _pressed(
    monkeypatch: pytest.MonkeyPatch,
    descriptor: int,
    write: int,
    data: bytes,
    count: int,
) -> list[str]:
    monkeypatch.setattr(_dev_keys.sys, "stdin", Terminal(descriptor))
    with pressed_keys() as keys:
        os.write(write, data)
        return [await keys.next() for _ in range(count)]


def test_single_keys_at_a_terminal_which_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    pressed = asyncio.run(_pressed(monkeypatch, theirs, mine, b"sU\nx\x04", 5))
    assert pressed == ["s", "u", "u", "x", "q"]
    assert termios.tcgetattr(theirs) == before
    os.write(mine, b"z")  # whoever still reads gets it and ends
    os.close(mine)
    os.close(theirs)


def test_lines_from_anything_else_and_the_end_is_q(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def through_a_pipe() -> list[str]:
        read, write = os.pipe()
        monkeypatch.setattr(_dev_keys.sys, "stdin", Terminal(read))
        with pressed_keys() as keys:
            os.write(write, b"status\n\nQ")
            os.write(write, b"uit\nup")
            os.close(write)
            return [await keys.next() for _ in range(4)]

    assert asyncio.run(through_a_pipe()) == ["s", "u", "q", "q"]
