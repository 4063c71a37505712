"""``sealift dev``: an application runs while its author edits it."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from sealift.base import SealiftError
from sealift.crypto import system_entropy
from sealift.transport.files import make_folder

from ._dev_home import DevHome, Workshop
from ._dev_keys import QUIT, Keys, pressed_keys
from ._dev_run import Loop
from ._output import shown_safely
from ._params import PATH, run, wall_clock
from ._service import until_stopped

_KEYS: Final = (
    "u or Enter: build what you have edited, and upgrade · s: status · q: quit"
)

_AGAIN: Final = "u or Enter: try again what you have edited · q: quit"


@click.command()
@click.argument("application", type=PATH, default=Path(), metavar="[APP]")
@click.option(
    "--keep", type=PATH, help="Work in this new folder and keep it, to look at."
)
@click.option(
    "--block-ms",
    type=click.IntRange(100, 60_000),
    default=500,
    show_default=True,
    help="Milliseconds between blocks.",
)
@click.pass_context
def dev(
    ctx: click.Context, *, application: Path, keep: Path | None, block_ms: int
) -> None:
    r"""Run an application while you edit it, and upgrade it live.

    APP is its folder (default: here). A chain of one node, the insecure simulator
    and a worker run in the foreground, in a scratch folder that is removed at the
    end. Edit, and press `u`: what `sealift app check` refuses is shown; else the
    next version is built, scheduled, and takes over the state of the one that
    runs, in another enclave. Without a terminal, keys are lines; the end of the
    input is `q`.

    \b
    Examples:
      sealift dev
      sealift dev examples/auction/v1 --keep scratch --block-ms 300
    """
    with _folder(keep) as folder:
        ctx.exit(run(until_stopped(_play(application.absolute(), folder, block_ms))))


class Screen:
    """Lines; at a terminal, a countdown is one line that changes."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._open = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        click.echo(text)

    def count(self, text: str) -> None:
        """A line that the next one overwrites; nothing where none can be."""
        if self._live:
            self._clear()
            click.echo(click.style(text, fg="cyan"), nl=False)
            self._open = True

    def _clear(self) -> None:
        if self._open:
            click.echo("\r\x1b[2K", nl=False)
            self._open = False


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise click.BadParameter(
                f"{keep} is there and not empty; nothing was changed",
                param_hint="--keep",
            )
        make_folder(keep)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="sealift-dev-") as name:
        yield Path(name)


async def _play(application: Path, folder: Path, block_ms: int) -> None:
    screen = Screen()
    say = screen.say
    clock = wall_clock()
    workshop = await asyncio.to_thread(
        Workshop,
        DevHome(folder),
        application,
        clock=clock,
        entropy=system_entropy,
    )
    loop = Loop(
        workshop, clock=clock, entropy=system_entropy, say=say, count=screen.count
    )
    try:
        await loop.prepare(block_ms=block_ms)
        with pressed_keys() as keys:
            await _start(loop, keys, say)
            say(f"ready {loop.running.url} card={workshop.home.card}")
            for line in loop.examples():
                say(f"  {line}")
            say(click.style(_KEYS, bold=True))
            await _obey(loop, keys, say)
    finally:
        await asyncio.shield(loop.stop())


async def _start(loop: Loop, keys: Keys, say: Callable[[str], None]) -> None:
    """Start it; an author's mistake is a line, and `u` tries again.

    Raises:
        SealiftError: It cannot be started; or it was refused, and `q` was pressed.
    """
    while True:
        try:
            await loop.start()
        except SealiftError as error:
            if loop.has_begun:
                raise
            _tell(error, say)
            key = ""
            while key != "u":
                say(click.style(_AGAIN, bold=True))
                key = await keys.next()
                if key == QUIT:
                    raise
        else:
            return


async def _obey(loop: Loop, keys: Keys, say: Callable[[str], None]) -> None:
    """Do what is pressed, one thing after the other; `q` ends it at once."""
    pressed = asyncio.create_task(keys.next())
    work: asyncio.Task[None] | None = None
    try:
        while True:
            waiting = {pressed} if work is None else {pressed, work}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if work is not None and work.done():
                _report(work, say)
                work = None
            if not pressed.done():
                continue
            key = pressed.result()
            if key == QUIT:
                return
            pressed = asyncio.create_task(keys.next())
            if work is not None:
                say("one thing after the other; q ends it")
            else:
                work = _begin(loop, key, say)
    finally:
        tasks = [task for task in (pressed, work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _begin(
    loop: Loop, key: str, say: Callable[[str], None]
) -> "asyncio.Task[None] | None":
    async def show() -> None:
        say(await loop.status())

    if key == "u":
        return asyncio.create_task(loop.upgrade())
    if key == "s":
        return asyncio.create_task(show())
    say(_KEYS)
    return None


def _report(work: "asyncio.Task[None]", say: Callable[[str], None]) -> None:
    """What came of it; an author's mistake is a line, and the loop goes on."""
    try:
        work.result()
    except SealiftError as error:
        _tell(error, say)
    say(click.style(_KEYS, bold=True))


def _tell(error: SealiftError, say: Callable[[str], None]) -> None:
    line = shown_safely(" ".join(str(error).split()))
    say(click.style(f"{error.code}: {line}", fg="red"))
