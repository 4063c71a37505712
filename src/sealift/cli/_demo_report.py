"""What the demo found: gap, calls, roots, steps; as a table or as JSON."""

import itertools
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ._demo_load import Tally, median
from ._demo_parts import Check, Step
from ._demo_story import Story


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is said at the end; times in milliseconds."""

    ok: bool
    mrenclave_old: str
    mrenclave_new: str
    upgrade_at: int
    gap_blocks: int
    gap_ms: float
    block_ms: float
    calls: Tally
    root_before: str
    root_after: str
    steps: tuple[Step, ...]
    checks: tuple[Check, ...]
    ports: dict[str, str]
    latency_ms: float
    authority: str
    decision: tuple[str, ...]
    validators: int

    def as_json(self) -> dict[str, object]:
        """One object, for ``--json``."""
        return {
            "ok": self.ok,
            "mrenclave_old": self.mrenclave_old,
            "mrenclave_new": self.mrenclave_new,
            "engine": "cometbft" if self.validators else "solo",
            "validators": self.validators or 1,
            "authority": self.authority,
            "decision": list(self.decision),
            "upgrade_at": self.upgrade_at,
            "gap_blocks": self.gap_blocks,
            "gap_ms": round(self.gap_ms, 1),
            "block_ms": round(self.block_ms, 1),
            "latency_ms": round(self.latency_ms, 1),
            "calls": {
                "sent": self.calls.sent,
                "executed": self.calls.executed,
                "failed": self.calls.failed,
                "lost": self.calls.lost,
                "doubled": self.calls.doubled,
                "reordered": self.calls.reordered,
            },
            "root_before": self.root_before,
            "root_after": self.root_after,
            "steps": [
                {
                    "n": s.number,
                    "name": s.name,
                    "ms": None if s.milliseconds is None else round(s.milliseconds, 1),
                }
                for s in self.steps
            ],
            "checks": [
                {"name": c.name, "ok": c.ok, "detail": c.detail} for c in self.checks
            ],
            "ports": self.ports,
        }


def make_report(story: Story) -> Report:
    """Judge a story that has been played to its end.

    ``gap_blocks``: by how many blocks the confirmation of block XYZ came later
    after that block than the median of ordinary blocks. ``gap_ms``: the worst
    time from submitted call to receipt around XYZ, minus the median.
    """
    progress, load, scan = story.progress, story.load, story.scan
    upgrade_at = progress.upgrade_at or 0
    gap_blocks = _gap_blocks(story, upgrade_at)
    ordinary = median(load.latencies(range(upgrade_at - 40, upgrade_at - 2)))
    around = load.latencies(range(upgrade_at - 1, upgrade_at + 4))
    gap_ms = max(around, default=0.0) - ordinary
    tally = load.tally()
    after = scan.confirmation_of(upgrade_at)
    interval = _block_interval(story)
    progress.check("gap is at most one block", gap_blocks <= 1, f"{gap_blocks} blocks")
    progress.check("no call was lost", tally.lost == 0, f"{tally.lost} lost")
    progress.check("no call was executed twice", tally.doubled == 0, f"{tally.doubled}")
    progress.check(
        "calls were executed in L1's order", tally.reordered == 0, f"{tally.reordered}"
    )
    progress.check(
        "every call was executed without error",
        tally.failed == 0,
        f"{load.failures() or 'none failed'}",
    )
    witnessed, differ = load.witnessed()
    progress.check(
        "two workers gave each call the same receipt",
        witnessed > 0 and not differ,
        f"{witnessed} calls compared, {differ} differ",
    )
    if story.government.ballots:
        sizes = {call.size for call in story.government.ballots}
        others = {call.size for call in load.calls if call.user >= 0}
        progress.check(
            "ballots are as long as the calls around them",
            sizes <= others,
            f"{sorted(sizes)} B among {sorted(others)} B",
        )
    progress.check(
        "calls flowed around XYZ", len(around) > 0, f"{len(around)} in five blocks"
    )
    progress.check(
        "the first root of the new generation builds on the certified one",
        after is not None and after.prev_root == story.certificate.root,
        "handover certificate and confirmation agree",
    )
    return Report(
        ok=all(check.ok for check in progress.checks),
        mrenclave_old=story.stage.old.fingerprint.hex(),
        mrenclave_new=story.stage.new.fingerprint.hex(),
        upgrade_at=upgrade_at,
        gap_blocks=gap_blocks,
        gap_ms=gap_ms,
        block_ms=interval,
        calls=tally,
        root_before=story.certificate.root.hex(),
        root_after=after.root.hex() if after is not None else "",
        steps=tuple(progress.steps),
        checks=tuple(progress.checks),
        ports=dict(progress.ports),
        latency_ms=ordinary,
        authority=story.options.authority,
        decision=tuple(progress.decision),
        validators=story.options.validators,
    )


def _gap_blocks(story: Story, upgrade_at: int) -> int:
    def delay(height: int) -> int | None:
        at = story.scan.confirmed_at(height)
        return None if at is None else at - height

    before = [d for h in range(upgrade_at - 40, upgrade_at - 1) if (d := delay(h))]
    at_upgrade = delay(upgrade_at)
    if at_upgrade is None:
        return 10**6
    return max(0, round(at_upgrade - median([float(d) for d in before])))


def _block_interval(story: Story) -> float:
    times = [t for _, t in sorted(story.scan.times.items())]
    pairs = itertools.pairwise(times)
    return median([(after - before) * 1000 for before, after in pairs])


def print_report(report: Report, console: Console) -> None:
    """The table at the end of ``sealift demo``."""
    facts = Table(show_header=False, title="The handover", title_justify="left")
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    calls = report.calls
    for name, value in (
        ("old MRENCLAVE", report.mrenclave_old),
        ("new MRENCLAVE", report.mrenclave_new),
        ("XYZ (upgrade_at)", f"block {report.upgrade_at}"),
        ("root before XYZ", report.root_before),
        ("root from XYZ on", report.root_after),
        ("gap", f"{report.gap_blocks} blocks, {report.gap_ms:.0f} ms"),
        ("block interval", f"{report.block_ms:.0f} ms"),
        ("submit to receipt", f"{report.latency_ms:.0f} ms (median)"),
        ("calls sent / executed", f"{calls.sent} / {calls.executed}"),
        (
            "lost / doubled / reordered",
            f"{calls.lost} / {calls.doubled} / {calls.reordered}",
        ),
        *((f"{name} at", url) for name, url in report.ports.items()),
    ):
        facts.add_row(name, str(value))
    console.print(facts)
    console.print(f"[bold]The decision[/] (--authority {report.authority})")
    for line in report.decision:
        console.print(f"  {line}", highlight=False)
    steps = Table(title="The nine steps", title_justify="left")
    steps.add_column("step", justify="right")
    steps.add_column("what")
    steps.add_column("ms", justify="right")
    for step in report.steps:
        steps.add_row(str(step.number), step.name, f"{step.milliseconds or 0:.0f}")
    console.print(steps)
    checks = Table(title="What must hold", title_justify="left")
    checks.add_column("")
    checks.add_column("check")
    checks.add_column("seen", overflow="fold")
    for check in report.checks:
        mark = "[green]holds[/]" if check.ok else "[red]BROKEN[/]"
        checks.add_row(mark, check.name, check.detail)
    console.print(checks)
