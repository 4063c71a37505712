"""What benchmarks found, beside budgets and beside an earlier release's figures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from rich.table import Table

from sealift.base import SealiftError

#: By benchmark: ``value``, ``unit``, ``floor``, ``ratio``, and what else it says.
Results: TypeAlias = dict[str, dict[str, float | str]]

_MAX_BYTES: Final = 1024 * 1024


class BenchFileError(SealiftError):
    """A file that is not what ``sealift bench --json`` prints."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A bound of DESIGN §15 on one figure of a benchmark."""

    figure: Literal["value", "ratio"]
    bound: Literal["≥", "≤", "<"]
    limit: float
    text: str

    def holds(self, result: Mapping[str, float | str]) -> bool:
        """Whether a result keeps it; a figure that is no number does not."""
        got = _number(result, self.figure)
        if self.bound == "≥":
            return got >= self.limit
        return got <= self.limit if self.bound == "≤" else got < self.limit


BUDGETS: Final[Mapping[str, Budget]] = {
    "exec": Budget(figure="ratio", bound="≥", limit=0.6, text="≥ 0.60"),
    "relay": Budget(figure="ratio", bound="≥", limit=0.8, text="≥ 0.80"),
    "quote": Budget(figure="value", bound="<", limit=10, text="< 10 ms"),
    # of a chain whose blocks come every two seconds
    "tally": Budget(figure="value", bound="<", limit=4000, text="< 2 block times"),
    "gap_1k": Budget(figure="value", bound="≤", limit=1, text="≤ 1 block"),
    "gap_100k": Budget(figure="value", bound="≤", limit=1, text="≤ 1 block"),
    "gap_1m": Budget(figure="value", bound="≤", limit=1, text="≤ 1 block"),
    "gap_ratio": Budget(figure="ratio", bound="≤", limit=1.2, text="≤ 1.20"),
    "snapshot": Budget(figure="ratio", bound="≥", limit=0.4, text="≥ 0.40"),
    "memory": Budget(figure="value", bound="≤", limit=400, text="≤ 400 B"),
    "join_ratio": Budget(figure="ratio", bound="≤", limit=1.2, text="≤ 1.20"),
}


def holds(name: str, result: Mapping[str, float | str]) -> bool | None:
    """Whether a benchmark's budget is kept; ``None``: it has none."""
    budget = BUDGETS.get(name)
    return None if budget is None else budget.holds(result)


def read_results(path: Path) -> Results:
    """The figures in a file.

    Raises:
        BenchFileError: There is no such file, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES)
    except OSError as error:
        raise BenchFileError(
            f"{path} cannot be read ({error.strerror})",
            hint="sealift bench --all --json > benches/VERSION.json writes one.",
        ) from error
    return parse_results(raw, str(path))


def parse_results(raw: bytes, what: str) -> Results:
    """The figures that ``--json`` prints; total over all bytes.

    Raises:
        BenchFileError: They are none.
    """
    try:
        found = msgspec.json.decode(raw, type=dict[str, dict[str, float | str]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BenchFileError(
            f"{what}: no figures of benchmarks ({error})",
            expected='{"NAME": {"value": …, "unit": …, "floor": …, "ratio": …}, …}',
        ) from error
    if not found:
        raise BenchFileError(
            f"{what}: no figures of benchmarks", got="{}", expected="one, or more"
        )
    for name, result in found.items():
        for figure in ("value", "floor", "ratio"):
            if math.isnan(_number(result, figure)):
                raise BenchFileError(
                    f"{what}: {name} lacks a figure",
                    got=str(result.get(figure)),
                    expected=f"a number as {figure}",
                )
    return found


def results_table(found: Results) -> Table:
    """What a run found."""
    table = Table(title="Shares of the bare work", title_justify="left")
    for name in ("benchmark", "value", "floor", "ratio", "budget", "holds"):
        table.add_column(name, justify="left" if name == "benchmark" else "right")
    for name, result in found.items():
        unit = str(result.get("unit", ""))
        table.add_row(
            name,
            f"{_number(result, 'value'):,.1f} {unit}",
            f"{_number(result, 'floor'):,.1f} {unit}",
            f"{_number(result, 'ratio'):.2f}",
            *_judged(name, result),
        )
    return table


def comparison_table(before: Results, now: Results, *, than: str) -> Table:
    """What a run found, beside an earlier one: by ratios, which travel."""
    table = Table(title=f"Against {than}", title_justify="left")
    for name in ("benchmark", "before", "now", "change", "budget", "holds"):
        table.add_column(name, justify="left" if name == "benchmark" else "right")
    for name, result in now.items():
        figure = BUDGETS[name].figure if name in BUDGETS else "ratio"
        unit = f" {result.get('unit', '')}" if figure == "value" else ""
        new, old = _number(result, figure), _number(before.get(name, {}), figure)
        table.add_row(
            name,
            "—" if math.isnan(old) else f"{old:,.2f}{unit}",
            f"{new:,.2f}{unit}",
            "—" if math.isnan(old) or not old else f"{(new - old) / old:+.0%}",
            *_judged(name, result),
        )
    for name in before:
        if name not in now:
            table.add_row(name, "", "not run", "", "", "")
    return table


def _judged(name: str, result: Mapping[str, float | str]) -> tuple[str, str]:
    kept = holds(name, result)
    if kept is None:
        return "", ""
    return BUDGETS[name].text, "[green]yes[/]" if kept else "[red]NO[/]"


def _number(result: Mapping[str, float | str], figure: str) -> float:
    got = result.get(figure)
    return float(got) if isinstance(got, int | float) else math.nan
