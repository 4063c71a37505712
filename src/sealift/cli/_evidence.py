"""``sealift evidence``: a shard's lineage in one file, verified offline.

Verifying needs this module, :mod:`sealift.evidence` and files; whoever exports,
reads a card or builds a source, loads the rest when it is used.
"""

import importlib
from pathlib import Path

import click

from sealift.attestation import TrustAnchor, parse_trust_anchor
from sealift.base import (
    Fingerprint,
    Generation,
    Height,
    InvariantError,
    SealiftError,
    ShardId,
    UnixSeconds,
)
from sealift.evidence import (
    EvidenceFile,
    LineageForeignError,
    LineagePin,
    VerifiedLineage,
    explain_lineage,
    follow_lineage,
    parse_evidence,
    require_fresh,
    verify_evidence,
)
from sealift.relay import RelayRules, TrustRoot
from sealift.transport.files import read_or_explain

from ._output import emit, json_option
from ._params import HEIGHT, HEX32, NUMBER, PATH, read_trust_root, wall_clock

_DAY = 24 * 3600


class SourceMismatchError(SealiftError):
    """A generation that does not run what a source builds to."""


class _Group(click.Group):
    """Loads the exporter, and what it needs, only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["export", *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "export":
            return super().get_command(ctx, cmd_name)
        found = _load("sealift.cli._evidence_export", "export")
        if not isinstance(found, click.Command):
            raise InvariantError("not a command", got=cmd_name)
        found.help = (found.help or "").replace("\\b\n", "\b\n")
        return found


@click.group(cls=_Group)
def evidence() -> None:
    r"""A shard's lineage in one file, verified offline.

    \b
    Example:
      sealift evidence export --card card.json > shard.evidence
      sealift evidence verify shard.evidence --trust-root trust_root.json \
        --root root.der
    """


@evidence.command()
@click.argument("file", type=PATH)
@click.option("--trust-root", "trust_root", type=PATH, help="L1's trust_root.json.")
@click.option(
    "--root", "roots", type=PATH, multiple=True, help="Attestation root; repeatable."
)
@click.option("--card", type=PATH, help="Take trust root, roots, shard from a card.")
@click.option("--shard", type=HEX32, help="The shard it must be about.")
@click.option("--at-least", type=HEIGHT, help="It must speak of this block.")
@click.option("--max-age", type=NUMBER, help="Most seconds since its last block.")
@click.option(
    "--trusting-days",
    type=click.IntRange(1, 36_500),
    default=180,
    show_default=True,
    help="How long L1's validators are trusted: a header may be so old.",
)
@click.option("--pinned-code", type=HEX32, help="A MRENCLAVE trusted before.")
@click.option("--pinned-key", type=HEX32, help="A shielding key trusted before.")
@click.option("--source", type=PATH, help="Build this application, and compare.")
@click.option(
    "--generation", type=NUMBER, help="With --source: which (default: the running)."
)
@json_option
def verify(
    *,
    file: Path,
    trust_root: Path | None,
    roots: tuple[Path, ...],
    card: Path | None,
    shard: bytes | None,
    at_least: int | None,
    max_age: int | None,
    trusting_days: int,
    pinned_code: bytes | None,
    pinned_key: bytes | None,
    source: Path | None,
    generation: int | None,
    as_json: bool,
) -> None:
    r"""Verify a file of evidence: exit code 0 and its story, or 1 and the step.

    Trust starts from the trust root and the attestation roots given here; nothing
    else is asked, and nobody. A file speaks up to its last block and of none
    after it: --at-least and --max-age refuse an old one.

    \b
    Examples:
      sealift evidence verify shard.evidence --trust-root trust_root.json \
        --root root.der
      sealift evidence verify shard.evidence --card card.json --max-age 3600
      sealift evidence verify shard.evidence --trust-root trust_root.json \
        --root root.der --source examples/auction/v1 --generation 0
    """
    root, anchors, meant = _trust(trust_root, roots, card, shard)
    parsed = parse_evidence(read_or_explain(file, what="file of evidence"))
    if meant is not None:
        _require_shard(parsed, meant)
    now = wall_clock().now()
    lineage = verify_evidence(
        parsed,
        trust_root=root,
        roots=anchors,
        rules=RelayRules(trusting_period=trusting_days * _DAY),
        now=now,
    )
    require_fresh(
        lineage,
        at_least=None if at_least is None else Height(at_least),
        max_age=max_age,
        now=UnixSeconds(max(now.seconds, 0)),
    )
    lines = list(explain_lineage(lineage))
    if pinned_code is not None or pinned_key is not None:
        code = None if pinned_code is None else Fingerprint(pinned_code)
        pin = LineagePin(fingerprint=code, shielding_key=pinned_key)
        current = follow_lineage(lineage, pin)
        lines.append(
            f"What was pinned leads to generation {current.generation}, epoch "
            f"{current.epoch}."
        )
    if source is not None:
        lines.append(_compare_source(lineage, source, root, anchors, generation))
    _show(lineage, lines, as_json=as_json)


def _show(lineage: VerifiedLineage, lines: list[str], *, as_json: bool) -> None:
    if not as_json:
        for line in (*lines, "Every step holds."):
            click.echo(line)
        return
    current = lineage.current
    emit(
        {
            "verdict": "accept",
            "chain_id": lineage.chain_id,
            "shard": lineage.shard,
            "speaks_to": lineage.last,
            "head_time": lineage.head_time,
            "running": None if current is None else current.generation,
            "frontier": lineage.frontier,
            "generations": lineage.generations,
            "epochs": lineage.epochs,
            "acts": lineage.acts,
            "ruled": lineage.ruled,
            "words": lines,
        },
        as_json=True,
    )


def _trust(
    trust_root: Path | None,
    roots: tuple[Path, ...],
    card: Path | None,
    shard: bytes | None,
) -> tuple[TrustRoot, tuple[TrustAnchor, ...], ShardId | None]:
    """What the reader trusts: from files of its own, else from its card."""
    meant = None if shard is None else ShardId(shard)
    anchors = tuple(
        parse_trust_anchor(read_or_explain(path, what="attestation root"))
        for path in roots
    )
    if card is None:
        if trust_root is None or not anchors:
            raise click.UsageError(
                "What is trusted? Give --trust-root and --root, or --card."
            )
        return read_trust_root(trust_root), anchors, meant
    known = _load("sealift.client", "read_card")(card)  # type: ignore[operator]
    root = known.root() if trust_root is None else read_trust_root(trust_root)
    return root, anchors or known.anchors(), meant or known.shard_id


def _require_shard(file: EvidenceFile, meant: ShardId) -> None:
    if file.shard != meant:
        raise LineageForeignError(
            "evidence of another shard", got=file.shard, expected=meant
        )


def _compare_source(
    lineage: VerifiedLineage,
    source: Path,
    root: TrustRoot,
    anchors: tuple[TrustAnchor, ...],
    number: int | None,
) -> str:
    """Step 7: a generation runs what this source builds to.

    Trust root and attestation roots are measured into a bundle: those given here
    must be those it was built with.

    Raises:
        SourceMismatchError: It does not.
    """
    current = lineage.current
    wanted = number if current is None or number is not None else current.generation
    found = [one for one in lineage.generations if one.generation == wanted]
    if not found:
        raise SourceMismatchError("step 7: no such generation", got=wanted)
    build = _load("sealift.cli._application", "fingerprint_of_source")
    built: Fingerprint = build(source, root, anchors)  # type: ignore[operator]
    generation = Generation(found[0].generation)
    if built not in found[0].code.values():
        raise SourceMismatchError(
            f"step 7: generation {generation} does not run what the source builds to",
            got=" ".join(code.hex() for code in found[0].code.values()),
            expected=built,
            hint="Were the same trust root, attestation roots and lock measured?",
        )
    return f"Generation {generation} runs what this source builds to: {built.hex()}."


def _load(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)
