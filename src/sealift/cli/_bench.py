"""``sealift bench``: ratios against floors measured in the same run."""

import json
import subprocess
import sys

import click
from rich.console import Console
from rich.table import Table

from sealift.base import SealiftError

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
    "invoke_1",
    "invoke_4",
)
#: DESIGN §15, where it names a budget.
_BUDGETS = {
    "exec": "≥ 0.60",
    "relay": "≥ 0.80",
    "quote": "< 10 ms",
    "tally": "< 2 block times",
}


class BenchError(SealiftError):
    """A benchmark did not run to its end."""


@click.command()
@click.option(
    "--only", type=click.Choice(NAMES), multiple=True, help="Run this one (repeatable)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def bench(only: tuple[str, ...], *, as_json: bool) -> None:
    """Measure speed as a share of the bare work, in one run.

    Ratios near 1 mean that little is added to what the libraries cost. Machines
    are noisy: compare ratios, not times.

    Example: sealift bench --only exec
    """
    # In a process of its own: it needs the enclave wing, which the host never
    # imports.
    command = [sys.executable, "-m", "sealift.testing.bench", *only]
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise BenchError(
            "the benchmark did not run to its end", got=words[-1] if words else ""
        )
    found: dict[str, dict[str, float | str]] = json.loads(done.stdout)
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table(title="Shares of the bare work", title_justify="left")
    for name in ("benchmark", "value", "floor", "ratio", "budget"):
        table.add_column(name, justify="left" if name == "benchmark" else "right")
    for name, result in found.items():
        unit = str(result["unit"])
        table.add_row(
            name,
            f"{float(result['value']):,.1f} {unit}",
            f"{float(result['floor']):,.1f} {unit}",
            f"{float(result['ratio']):.2f}",
            _BUDGETS.get(name, ""),
        )
    Console().print(table)
