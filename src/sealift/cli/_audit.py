"""``sealift audit``: every former code replays its own range; roots are compared."""

from pathlib import Path

import click

from sealift.base import Generation
from sealift.transport.files import read_or_explain
from sealift.worker import (
    AuditReport,
    Difference,
    Shelf,
    audit_home,
    load_config,
)

from ._errors import EXIT_REFUSED
from ._output import emit_sections, json_option, say
from ._params import PATH, run

#: Blocks between two lines of progress.
_EVERY = 100


@click.command()
@click.argument("home", type=PATH)
@click.option(
    "--from",
    "start",
    type=click.Choice(["genesis"]),
    required=True,
    help="Where the replay begins.",
)
@click.option(
    "--bundle", "files", type=PATH, multiple=True, help="A former bundle; repeatable."
)
@click.option(
    "--bundles",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="A folder with former bundles; repeatable.",
)
@click.option(
    "--gramine",
    "signed",
    type=PATH,
    multiple=True,
    help="gramine-sgx: the signed folder of a former bundle; repeatable.",
)
@click.option(
    "--genesis", type=PATH, help="The shard's genesis blob (default: the home's)."
)
@click.option(
    "--payer", type=PATH, help="Who pays for the challenge (default: the operator)."
)
@json_option
@click.pass_context
def audit(
    ctx: click.Context,
    *,
    home: Path,
    start: str,
    files: tuple[Path, ...],
    folders: tuple[Path, ...],
    signed: tuple[Path, ...],
    genesis: Path | None,
    payer: Path | None,
    as_json: bool,
) -> None:
    r"""Have every former version of a shard's code replay its own range of blocks.

    HOME is that of a worker of the version that runs now, on its machine; the
    worker may be running. Bundles that were staged in it are at hand. Its enclave
    opens the calls again, under a key of this audit alone, for the code that
    executed them; no former code sees a key of the shard. Roots, receipts and
    effects are compared with what L1 confirmed, and the first block that differs is
    named: exit code 1. One token is sent on L1, to show the enclave what is now.

    \b
    Examples:
      sealift audit new --from genesis --genesis genesis.bin --bundle v1.bundle
      sealift audit new --from genesis --genesis genesis.bin --bundles . --json
    """
    del start
    config = load_config(home)
    blob = genesis or config.genesis
    if blob is None:
        raise click.UsageError("Which genesis? Give --genesis.")
    shelf = Shelf(config, files=files, folders=folders, gramine=signed)
    report = run(
        audit_home(
            config,
            shelf,
            genesis=read_or_explain(blob, what="the genesis blob"),
            payer=payer or config.operator_key,
            progress=_told,
        )
    )
    emit_sections(
        _answer(report),
        {
            "generations": [
                {
                    "generation": one.generation,
                    "mrenclave": one.fingerprint,
                    "first": one.first,
                    "last": one.last,
                    "blocks": one.blocks,
                    "calls": one.calls,
                }
                for one in report.generations
            ]
        },
        as_json=as_json,
    )
    if report.difference is not None:
        say(_sentence(report.difference))
        ctx.exit(EXIT_REFUSED)


def _told(report: AuditReport) -> None:
    if report.blocks and report.blocks % _EVERY == 0:
        last = report.generations[-1]
        say(
            f"block {last.last} of {report.confirmed} "
            f"(generation {last.generation}), {report.calls} calls, "
            f"{report.ranges} roots agree"
        )


def _answer(report: AuditReport) -> dict[str, object]:
    found = report.difference
    answer: dict[str, object] = {
        "agrees": found is None,
        "confirmed": report.confirmed,
        "compared": report.compared,
        "roots": report.ranges,
        "blocks": report.blocks,
        "calls": report.calls,
        "present": report.challenge_height,
        "difference": None,
    }
    if found is not None:
        answer["difference"] = {
            "block": found.block,
            "first": found.first,
            "last": found.last,
            "blocks_with_calls": found.blocks,
            "generation": found.generation,
            "mrenclave": _code(report, found.generation),
            "fact": found.fact,
            "expected": found.expected.hex(),
            "got": found.got.hex(),
        }
    return answer


def _code(report: AuditReport, generation: Generation) -> str:
    return next(
        one.fingerprint.hex()
        for one in report.generations
        if one.generation == generation
    )


def _sentence(found: Difference) -> str:
    where = f"block {found.block}"
    if found.first != found.last:
        where += f" (L1 confirmed {found.first} … {found.last} together)"
    return (
        f"The {found.fact} differs at {where}, generation {found.generation}: "
        f"its own code comes to {found.got.hex()}, but L1 has {found.expected.hex()}."
    )
