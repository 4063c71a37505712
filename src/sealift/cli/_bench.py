"""``sealift bench``: ratios against floors measured in the same run."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from sealift.base import SealiftError

from ._bench_report import (
    Results,
    comparison_table,
    holds,
    parse_results,
    read_results,
    results_table,
)

NAMES = (
    "exec",
    "relay",
    "bisection",
    "quote",
    "provisioning",
    "handover",
    "rotation",
    "votes",
    "tally",
    "cost",
    "abci",
    "catchup",
    "gap_1k",
    "gap_100k",
    "gap_1m",
    "gap_ratio",
    "snapshot",
    "memory",
    "join_ratio",
    "invoke_1",
    "invoke_4",
)


class BenchError(SealiftError):
    """A benchmark did not run to its end."""


@click.command()
@click.option(
    "--only", type=click.Choice(NAMES), multiple=True, help="Run this one (repeatable)."
)
@click.option("--all", "everything", is_flag=True, help="Also those that take long.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Compare with what an earlier run printed with --json.",
)
@click.option(
    "--from",
    "from_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run nothing; take what an earlier run printed with --json.",
)
def bench(
    only: tuple[str, ...],
    against: Path | None,
    from_file: Path | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Measure speed as a share of the bare work, in one run.

    Ratios near 1 mean that little is added to what the libraries cost. Machines
    are noisy: compare ratios, not times.

    Example: sealift bench --only exec --against benches/0.1.0.json
    """
    if ((only or everything) and from_file is not None) or (only and everything):
        raise BenchError(
            "--only, --all and --from exclude each other", expected="one of them"
        )
    if as_json and against is not None:
        raise BenchError(
            "--json prints figures and compares none",
            got=f"--against {against}",
            expected="one of them",
            hint="Keep the figures, then compare: --from FILE --against FILE",
        )
    before = None if against is None else read_results(against)
    if from_file is None:
        found = _measured(["--all"] if everything else only)
    else:
        found = read_results(from_file)
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console()
    if before is None:
        console.print(results_table(found))
        return
    console.print(comparison_table(before, found, than=str(against)))
    broken = [name for name in found if holds(name, found[name]) is False]
    console.print(
        f"[red]out of budget:[/] {', '.join(broken)}" if broken else "budgets hold"
    )


def _measured(words: Sequence[str]) -> Results:
    # In a process of its own: it needs the enclave wing, which the host never
    # imports.
    command = [sys.executable, "-m", "sealift.testing.bench", *words]
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BenchError(
            "the benchmark did not run to its end", got=said[-1] if said else ""
        )
    return parse_results(done.stdout, "the benchmarks")
