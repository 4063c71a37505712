"""``sealift chaos``: kill -9 over a handover, at random instants, by a seed."""

import asyncio
import json
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from sealift.base import SealiftError
from sealift.transport.clock import WallClock
from sealift.transport.files import (
    FileError,
    make_folder,
    refuse_write,
    write_durably,
)
from sealift.transport.tasks import first_of

from ._chaos_ground import Ground, copy_ground, make_ground
from ._chaos_plan import SWAP_VICTIMS, VICTIMS
from ._chaos_run import Run, Verdict
from ._params import PATH

_MOST_JOBS = 64
_BLOCK_MS = 150


@click.command()
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many; run n has the seed SEED + n.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, _MOST_JOBS),
    default=1,
    show_default=True,
    help="How many at once.",
)
@click.option(
    "--block-ms",
    type=click.IntRange(50, 10_000),
    default=_BLOCK_MS,
    show_default=True,
    help="Milliseconds between blocks; more where the machine is busy.",
)
@click.option(
    "--hot-swap",
    is_flag=True,
    help="One worker, that stages the new enclave beside the old one.",
)
@click.option(
    "--keep",
    type=PATH,
    help="Keep logs and disks of runs with a violation in this new folder.",
)
@click.option(
    "--trace",
    type=PATH,
    help="Write what was seen of each run into this folder, as JSON.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.pass_context
def chaos(
    ctx: click.Context,
    *,
    seed: int,
    runs: int,
    jobs: int,
    block_ms: int,
    hot_swap: bool,
    keep: Path | None,
    trace: Path | None,
    as_json: bool,
) -> None:
    r"""Kill hosts, enclaves and L1 during handovers, and see that nothing is lost.

    Each run is a whole handover by real processes on this machine (the simulator,
    which protects nobody), under load. One to three times, at instants that the
    seed gives, one of them is ended by kill -9. Then: the confirmed roots are those
    of an undisturbed execution, each call took effect once, the certificate stands
    at XYZ-1 and the new generation goes on from XYZ.

    Exits with 0 only if all of it held in every run. A run again: --runs 1 with its
    seed.

    \b
    Examples:
      sealift chaos --seed 7 --runs 10
      sealift chaos --seed 1 --runs 300 --jobs 2 --keep failed --trace traces
      sealift chaos --seed 1 --runs 20 --hot-swap
    """
    _refuse_folder(keep)
    campaign = Campaign(
        seeds=range(seed, seed + runs),
        jobs=jobs,
        block_ms=block_ms,
        hot_swap=hot_swap,
        keep=keep,
        trace=trace,
        say=(lambda _: None) if as_json else click.echo,
    )
    with tempfile.TemporaryDirectory(prefix="sealift-chaos-") as name:
        asyncio.run(_until_asked_to_end(campaign, Path(name)))
    summary = campaign.summary()
    if as_json:
        click.echo(json.dumps(summary))
    else:
        _say_summary(summary)
    if summary["violations"]:
        ctx.exit(1)


def _refuse_folder(keep: Path | None) -> None:
    if keep is None or not keep.exists():
        return
    if not keep.is_dir() or any(keep.iterdir()):
        raise click.BadParameter(
            f"{keep} is no empty folder; nothing was changed", param_hint="--keep"
        )


async def _until_asked_to_end(campaign: "Campaign", folder: Path) -> None:
    task = asyncio.create_task(campaign.play(folder))

    def end() -> None:
        if not task.cancelling():
            task.cancel()

    # What was started lives in sessions of its own: who ends us must not leave it.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await task
    except asyncio.CancelledError:
        raise click.Abort from None


@dataclass(slots=True, kw_only=True)
class Campaign:
    """Runs by their seeds, some at once, on copies of one ground.

    Args:
        seeds: One for each run.
        jobs: How many run at once.
        block_ms: Between blocks.
        hot_swap: One worker swaps its enclave, instead of two workers.
        keep: Gets the folders of runs with a violation.
        trace: Gets a file for each run.
        say: Gets a line whenever there is something to say.
    """

    seeds: range
    jobs: int = 1
    block_ms: int = _BLOCK_MS
    hot_swap: bool = False
    keep: Path | None = None
    trace: Path | None = None
    say: Callable[[str], object] = click.echo
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    async def play(self, folder: Path) -> None:
        """Play them all in a folder that is the campaign's own.

        Raises:
            SealiftError: There is no ground to play on, or no room.
        """
        began = time.monotonic()
        for wanted in (self.keep, self.trace):
            if wanted is not None:
                make_folder(wanted)
        self.say("building two bundles, a chain and a shard …")
        ground = await make_ground(
            folder / "ground", WallClock(), block_ms=self.block_ms
        )
        seeds = iter(self.seeds)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.jobs, len(self.seeds))):
                    group.create_task(self._some(ground, folder, seeds))
        except* SealiftError as errors:
            raise first_of(errors) from None
        self.seconds = time.monotonic() - began

    async def _some(self, ground: Ground, folder: Path, seeds: Iterator[int]) -> None:
        for seed in seeds:
            verdict = await self.play_one(ground, folder / f"run-{seed}", seed)
            self.verdicts.append(verdict)
            for line in told(verdict, block_ms=self.block_ms):
                self.say(line)

    async def play_one(self, ground: Ground, folder: Path, seed: int) -> Verdict:
        """One run in a folder of its own, which goes afterwards."""
        try:
            stage = await asyncio.to_thread(copy_ground, ground, folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            refuse_write(error, folder)
        run = Run(ground, stage, seed, hot_swap=self.hot_swap)
        try:
            verdict = await run.play()
            if verdict.violations and self.keep is not None:
                await asyncio.to_thread(self._keep, folder, self.keep, verdict)
            if self.trace is not None:
                path = self.trace / f"seed-{seed}.json"
                run.trace.write(path, seed=seed, params=run.params)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return verdict

    def _keep(self, folder: Path, where: Path, verdict: Verdict) -> None:
        place = where / folder.name
        text = "\n".join([*told(verdict, block_ms=self.block_ms), verdict.words])
        try:
            shutil.copytree(
                folder, place, symlinks=True, ignore=shutil.ignore_patterns("bundles")
            )
            write_durably(place / "verdict.txt", text.encode())
        except (OSError, FileError) as error:  # the verdict itself is told anyway
            self.say(f"  not all of it is kept in {place}: {error}")

    def summary(self) -> dict[str, object]:
        """What was done and found, as JSON has it."""
        victims = SWAP_VICTIMS if self.hot_swap else VICTIMS
        kills: Counter[str] = Counter(dict.fromkeys(victims, 0))
        missed = 0
        for verdict in self.verdicts:
            kills.update(one.kill.victim for one in verdict.kills if one.hit)
            missed += sum(not one.hit for one in verdict.kills)
        return {
            "seeds": [self.seeds.start, self.seeds.stop - 1],
            "runs": len(self.verdicts),
            "kills": dict(kills),
            "missed": missed,
            "calls": sum(one.calls for one in self.verdicts),
            "carried_again": sum(one.carried_again for one in self.verdicts),
            "worst_gap_blocks": max((v.gap_blocks for v in self.verdicts), default=0),
            "violations": [
                {
                    "seed": one.seed,
                    "what": one.violations,
                    "again": _again(one, self.block_ms),
                }
                for one in self.verdicts
                if one.violations
            ],
            "seconds": round(self.seconds, 1),
        }


def _again(verdict: Verdict, block_ms: int) -> str:
    pace = "" if block_ms == _BLOCK_MS else f" --block-ms {block_ms}"
    kind = " --hot-swap" if verdict.hot_swap else ""
    return f"sealift chaos --seed {verdict.seed} --runs 1{kind}{pace}"


def told(verdict: Verdict, *, block_ms: int) -> Iterator[str]:
    """A run in one line; a violation in some more, with how to see it again."""
    kills = ", ".join(
        f"{one.kill.victim} @ {one.block}{'' if one.hit else ' (was down)'}"
        for one in verdict.kills
    )
    word = "VIOLATION" if verdict.violations else "ok"
    yield (
        f"seed {verdict.seed}  XYZ {verdict.upgrade_at} "
        f"(keys from {verdict.release_from})  kill -9: {kills or 'nobody'}  {word}  "
        f"{verdict.calls} calls, {verdict.carried_again} carried again, "
        f"gap {verdict.gap_blocks} blocks, {verdict.seconds:.1f} s"
    )
    for one in verdict.violations:
        yield f"  {one}"
    if verdict.violations:
        yield f"  again: {_again(verdict, block_ms)}"


def _say_summary(summary: dict[str, object]) -> None:
    kills = summary["kills"]
    parts = (
        ", ".join(f"{v} {k}" for k, v in kills.items())
        if isinstance(kills, dict)
        else ""
    )
    found = summary["violations"]
    bad = len(found) if isinstance(found, list) else 0
    click.echo(
        f"{summary['runs']} runs, seeds {summary['seeds']}: {bad} with a violation; "
        f"killed: {parts}; {summary['calls']} calls, none lost, none doubled"
        f"; {summary['seconds']} s"
        if not bad
        else f"{summary['runs']} runs, seeds {summary['seeds']}: {bad} with a "
        f"VIOLATION; killed: {parts}; {summary['seconds']} s"
    )
