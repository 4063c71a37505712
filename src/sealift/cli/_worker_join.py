"""``sealift worker join``: keys, a state and L1's head, for a worker that is new."""

from pathlib import Path
from typing import Final

import click

from sealift.worker import JoinProgress, join

from ._output import emit, json_option
from ._params import PATH, run, wall_clock
from ._progress import ProgressLine

_WORDS: Final = {
    "chain": "following L1",
    "keys": "waiting for the keys",
    "state": "fetching the state",
    "blocks": "applying the blocks since",
    "done": "joined",
}


@click.command("join")
@click.argument("home", type=PATH)
@click.option(
    "--from", "upstream", required=True, help="URL of a worker with keys and state."
)
@json_option
def join_command(*, home: Path, upstream: str, as_json: bool) -> None:
    r"""Get the shard's keys and state, and follow L1 to its head; then end.

    How long that takes depends on the state's size and not on the shard's age: what
    L1 has confirmed is skipped. Killed at any point, it goes on where it was. With
    --json every step is a line. `sealift worker run` goes on from there.

    \b
    Example:
      sealift worker join w2 --from http://127.0.0.1:7000
    """
    line = ProgressLine(as_json=as_json)

    def told(progress: JoinProgress) -> None:
        line.show(_sentence(progress), **_fields(progress))

    with line:
        found = run(join(home, upstream, clock=wall_clock(), told=told))
    emit({"home": str(home), **_fields(found)}, as_json=as_json)


def _sentence(progress: JoinProgress) -> str:
    parts = [
        _WORDS[progress.step],
        f"block {progress.imported} of {progress.l1_head}",
    ]
    if progress.of is not None:
        parts.append(f"chunk {progress.chunks} of {progress.of}")
    if progress.state_height is not None:
        parts.append(f"state after {progress.state_height}")
    if progress.waits_for:
        parts.append(progress.waits_for)
    return ", ".join(parts)


def _fields(progress: JoinProgress) -> dict[str, object]:
    return {
        "step": progress.step,
        "l1_head": progress.l1_head,
        "imported": progress.imported,
        "skipped_to": progress.skipped_to,
        "frontier": progress.frontier,
        "state_height": progress.state_height,
        "chunks": progress.chunks,
        "of": progress.of,
        "waits_for": progress.waits_for,
    }
