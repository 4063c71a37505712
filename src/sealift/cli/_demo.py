"""``sealift demo``: a confidential application changes its MRENCLAVE, live."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sealift.base import decode
from sealift.frame import RuntimeMetadata
from sealift.node.cometbft import find_engine
from sealift.transport.clock import WallClock

from ._demo_engine import ENGINES, EngineName
from ._demo_report import make_report, print_report
from ._demo_stage import AUTHORITIES, AuthorityName, DemoOptions, set_stage
from ._demo_story import Story

_LEAST_ACCOUNTS = 40
_REFRESH_SECONDS = 0.25


@click.command()
@click.option(
    "--accounts", default=1000, show_default=True, help="Accounts in the shard."
)
@click.option("--rate", default=20.0, show_default=True, help="Calls a second.")
@click.option(
    "--block-ms", default=500, show_default=True, help="Milliseconds between blocks."
)
@click.option(
    "--authority",
    type=click.Choice(AUTHORITIES),
    default="sudo",
    show_default=True,
    help="Who decides on the upgrade, by its real process.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="solo",
    show_default=True,
    help="What orders the chain.",
)
@click.option(
    "--validators",
    type=click.IntRange(1, 16),
    help="With --engine cometbft: how many (default: 4).",
)
@click.option(
    "--rotate", is_flag=True, help="Afterwards it has the shard's keys rotated, too."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep everything in this new folder, to look at.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def demo(
    *,
    accounts: int,
    rate: float,
    block_ms: int,
    authority: AuthorityName,
    engine: EngineName,
    validators: int | None,
    rotate: bool,
    keep: Path | None,
    as_json: bool,
) -> None:
    r"""Upgrade an enclave under load, in nine steps, on real processes.

    Everything runs on this machine: the L1 (one embedded node, or a network of
    CometBFT validators), two workers of each generation, and the insecure
    simulator, which protects nobody. Exits with 0 only if every check held.

    Who decides: `sudo`, one key by a call to the enclave; `stake`, a secret vote of
    the shard's holders in the enclave; `workers`, a vote of the hosts on L1;
    `signer`, the vendor's signature; `all-of` these three together;
    `sudo-then-stake`, where sudo hands the shard to its holders first.

    \b
    Examples:
      sealift demo --accounts 1000 --rate 20
      sealift demo --authority stake --rotate
      sealift demo --engine cometbft --validators 4 --block-ms 1500
    """
    _refuse_bad_numbers(accounts, rate, block_ms)
    if engine == "solo" and validators is not None:
        raise click.UsageError("--validators goes with --engine cometbft.")
    if engine == "cometbft":
        find_engine(os.environ)  # before anything is made
    options = DemoOptions(
        accounts=accounts,
        rate=rate,
        block_ms=block_ms,
        authority=authority,
        rotate=rotate,
        validators=(validators or 4) if engine == "cometbft" else 0,
    )
    console = Console(stderr=as_json)
    with _folder(keep) as folder:
        if not as_json:
            console.print("[dim]building two bundles, a chain and a shard …[/]")
        stage = set_stage(folder, options, WallClock())
        story = Story(stage, options, decode(RuntimeMetadata, stage.old.metadata))
        asyncio.run(_play(story, console, quiet=as_json))
        report = make_report(story)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        print_report(report, console)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _refuse_bad_numbers(accounts: int, rate: float, block_ms: int) -> None:
    if accounts < _LEAST_ACCOUNTS:
        raise click.BadParameter(
            f"got {accounts}, expected at least {_LEAST_ACCOUNTS}",
            param_hint="--accounts",
        )
    if not 0 < rate <= 10_000:  # noqa: PLR2004 - far above any machine
        raise click.BadParameter(
            f"got {rate}, expected above 0 and at most 10000", param_hint="--rate"
        )
    if not 50 <= block_ms <= 60_000:  # noqa: PLR2004 - what people can watch
        raise click.BadParameter(
            f"got {block_ms}, expected 50 to 60000", param_hint="--block-ms"
        )


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise click.BadParameter(
                f"{keep} is not empty; nothing was changed", param_hint="--keep"
            )
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="sealift-demo-") as name:
        yield Path(name)


async def _play(story: Story, console: Console, *, quiet: bool) -> None:
    task = asyncio.create_task(story.play())

    def end() -> None:
        # Once: whoever asks again must not drive us from stopping what we started.
        if not task.cancelling():
            task.cancel()

    # Its processes live in sessions of their own: who ends us must not leave them.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await _show(task, story, console, quiet=quiet)
    except asyncio.CancelledError:
        raise click.Abort from None


async def _show(
    task: asyncio.Task[None], story: Story, console: Console, *, quiet: bool
) -> None:
    if quiet:
        await task
        return
    pace = _Pace()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while not task.done():
            live.update(_picture(story, pace))
            await asyncio.wait({task}, timeout=_REFRESH_SECONDS)
    await task


class _Pace:
    """Calls a second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def at(self, calls: int) -> float:
        now = time.monotonic()
        self._seen = [*self._seen[-20:], (now, calls)]
        first, last = self._seen[0], self._seen[-1]
        return (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0


def _picture(story: Story, pace: _Pace) -> Group:
    progress = story.progress
    steps = Table(show_header=False, box=None, padding=(0, 1))
    for step in progress.steps:
        done = step.milliseconds is not None
        mark = "✓" if done else ("▸" if step.number == progress.current else " ")
        took = f"{step.milliseconds:.0f} ms" if step.milliseconds is not None else ""
        style = "green" if done else ("bold" if mark == "▸" else "dim")
        steps.add_row(Text(mark), Text(f"{step.number}. {step.name}", style), took)
    height, sent, waiting = story.glimpse()
    line = f"block {height}"
    if progress.upgrade_at is not None:
        left = progress.upgrade_at - height
        line += f" · XYZ {progress.upgrade_at}" + (f", in {left} blocks" * (left > 0))
    if sent:
        line += f" · {sent} calls, {pace.at(sent):.0f} a second · {waiting} waiting"
    decided = [Text(f"  {one}", "magenta") for one in progress.decision[-6:]]
    note = Text(progress.note, "dim")
    return Group(steps, *decided, Text(line, "cyan"), note)
