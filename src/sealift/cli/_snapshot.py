"""``sealift snapshot``: a shard's state in chunks, sealed; made, kept, moved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from sealift.base import Height, SealiftError, canonical_decode
from sealift.protocol import (
    Frontier,
    NoGenerationError,
    Schedule,
    config_at,
    frontier_key,
    schedule_key,
)
from sealift.worker import (
    CONFIG_FILE,
    FetchProgress,
    ListedSnapshot,
    NoSnapshotError,
    check_snapshot,
    copy_snapshot,
    create_snapshot,
    fetch_snapshot,
    list_snapshots,
    load_config,
    prune_snapshots,
    snapshot_in_running,
    verify_snapshot,
    worker_listens,
)

from ._output import emit, emit_rows, json_option
from ._params import PATH, open_l1, run, wall_clock
from ._progress import ProgressLine

home_argument = click.argument("home", type=PATH)
_NOT_KNOWN: Final = "unknown"


@click.group()
def snapshot() -> None:
    r"""Snapshots of a shard's state: sealed chunks, each verified alone.

    A worker keeps some by itself. They open only in enclaves of the shard.

    \b
    Example:
      sealift snapshot list w1
    """


@snapshot.command()
@home_argument
@click.option("--to", type=PATH, help="Also copy it into this folder.")
@json_option
def create(*, home: Path, to: Path | None, as_json: bool) -> None:
    r"""Make a snapshot of the state as it is now, in HOME.

    A running worker makes it while its blocks go on, however long it takes; Ctrl-C
    leaves it to that. If none runs, the enclave is started for it. One that is
    still starting, or is of release 0.1.0, cannot be told: stop it first.

    \b
    Example:
      sealift snapshot create w1 --to backup
    """
    config = load_config(home)
    if worker_listens(home):
        made = _made(home, run(snapshot_in_running(home)).name)
    else:
        made = run(create_snapshot(config, clock=wall_clock()))
    answer = _row(made, None)
    if to is not None:
        answer["path"] = str(copy_snapshot(made.path, to))
    emit(answer, as_json=as_json)


@snapshot.command("list")
@click.argument("where", type=PATH)
@json_option
def list_command(*, where: Path, as_json: bool) -> None:
    r"""The snapshots of a worker's home, or in a folder, the newest first.

    Of a home, L1 is asked which root it has confirmed: "yes" this one, "passed" a
    later one, "no" none so late, "ANOTHER" another one for that block.

    \b
    Examples:
      sealift snapshot list w1
      sealift snapshot list backup --json
    """
    found = list_snapshots(where)
    l1 = run(_seen_on_l1(where)) if (where / CONFIG_FILE).is_file() else None
    rows = [_row(one, l1) for one in found]
    emit_rows("snapshots", rows, as_json=as_json)


@snapshot.command()
@click.argument("folder", type=PATH)
@click.option("--home", type=PATH, help="A home whose enclave opens every chunk.")
@json_option
def verify(*, folder: Path, home: Path | None, as_json: bool) -> None:
    r"""Verify a snapshot: every piece by its hash, and by an enclave of the shard.

    Without --home it says that nothing is damaged, and no more. With it, that an
    enclave with the keys takes it, whole; the worker of that home must not run.

    \b
    Examples:
      sealift snapshot verify backup/1200-0123456789ab
      sealift snapshot verify backup/1200-0123456789ab --home w1
    """
    path = folder.resolve()
    manifest = verify_snapshot(path)
    answer: dict[str, object] = {
        "path": str(path),
        "height": manifest.height,
        "root": manifest.root,
        "epoch": manifest.epoch,
        "chunks": len(manifest.chunks),
        "bytes": manifest.size,
        "hashes": "good",
        "enclave": "not asked",
    }
    if home is not None:
        config = load_config(home)
        checked = run(check_snapshot(path, config, clock=wall_clock()))
        l1 = run(_seen_on_l1(home))
        answer |= {
            "height": checked.height,
            "root": checked.root,
            "epoch": checked.epoch,
            "enclave": "takes it",
            "confirmed": "yes, proven"
            if checked.confirmed
            else _confirmed(checked.height, checked.root.hex(), l1),
        }
    emit(answer, as_json=as_json)


@snapshot.command()
@click.argument("url")
@click.option("--to", type=PATH, required=True, help="A folder of snapshots.")
@click.option(
    "--rate",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Most bytes a second; 0: no limit.",
)
@json_option
def fetch(*, url: str, to: Path, rate: int, as_json: bool) -> None:
    r"""Download the newest snapshot of a worker; goes on where it was cut off.

    Its pieces are what that worker's list says; whether they are true, an enclave
    says (`sealift snapshot verify --home`).

    \b
    Example:
      sealift snapshot fetch http://127.0.0.1:7000 --to backup --rate 1000000
    """
    line = ProgressLine(as_json=as_json)

    def told(progress: FetchProgress) -> None:
        line.show(
            f"{progress.name}: {progress.chunks} of {progress.of} chunks",
            name=progress.name,
            chunks=progress.chunks,
            of=progress.of,
            bytes_fetched=progress.bytes_fetched,
        )

    with line:
        found = run(fetch_snapshot(url.rstrip("/"), to, rate=rate, told=told))
    emit(_row(found, None), as_json=as_json)


@snapshot.command()
@home_argument
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    required=True,
    help="So many stay, the newest.",
)
@json_option
def prune(*, home: Path, keep: int, as_json: bool) -> None:
    r"""Drop the older snapshots of HOME, whose worker does not run.

    A running worker keeps as many as [state] keep_snapshots says. What did not
    open and was set aside stays.

    \b
    Example:
      sealift snapshot prune w1 --keep 1
    """
    dropped = prune_snapshots(load_config(home), keep)
    left = len([one for one in list_snapshots(home) if one.standing == "whole"])
    emit(
        {"dropped": [str(path) for path in dropped], "left": left},
        as_json=as_json,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeenOnL1:
    frontier: Frontier | None
    schedule: Schedule | None


async def _seen_on_l1(home: Path) -> _SeenOnL1 | None:
    """What L1 says of the shard; ``None``: it does not answer."""
    config = load_config(home)
    try:
        async with open_l1(config.l1.rpc) as l1:
            frontier = await l1.abci_query(frontier_key(config.shard), prove=False)
            schedule = await l1.abci_query(schedule_key(config.shard), prove=False)
        return _SeenOnL1(
            frontier=None
            if frontier.value is None
            else canonical_decode(Frontier, frontier.value),
            schedule=None
            if schedule.value is None
            else canonical_decode(Schedule, schedule.value),
        )
    except SealiftError:
        return None


def _row(one: ListedSnapshot, l1: _SeenOnL1 | None) -> dict[str, object]:
    manifest = one.manifest
    return {
        "height": one.height,
        "standing": one.standing,
        "generation": _generation(one.height, l1),
        "epoch": None if manifest is None else manifest.epoch,
        "root": "" if manifest is None else manifest.root,
        "confirmed": _NOT_KNOWN
        if manifest is None
        else _confirmed(one.height, manifest.root, l1),
        "chunks": None if manifest is None else len(manifest.chunks),
        "bytes": one.bytes_here,
        "path": str(one.path),
    }


def _generation(height: Height, l1: _SeenOnL1 | None) -> int | None:
    """Whose code the state at a height is of, by L1's schedule."""
    if l1 is None or l1.schedule is None:
        return None
    try:
        return config_at(l1.schedule, height).generation
    except NoGenerationError:
        return None


def _confirmed(height: int, root: str, l1: _SeenOnL1 | None) -> str:
    if l1 is None:
        return _NOT_KNOWN
    if l1.frontier is None or l1.frontier.confirmed < height:
        return "no"
    if l1.frontier.confirmed > height:
        return "passed"
    if not root:
        return _NOT_KNOWN
    return "yes" if l1.frontier.root.hex() == root else "ANOTHER"


def _made(home: Path, name: str) -> ListedSnapshot:
    """The snapshot that the running worker has made just now."""
    for one in list_snapshots(home):
        if one.path.name == name and one.standing == "whole":
            return one
    raise NoSnapshotError(
        "the worker's snapshot is not in this home",
        got=name,
        expected="a whole one",
        hint="It keeps as many as [state] keep_snapshots says.",
    )
