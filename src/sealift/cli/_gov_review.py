"""``sealift gov forecast | review``: what an act would do, before it is decided."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import Digest, SealiftError
from sealift.bundle import (
    Bundle,
    first_difference,
    measure,
    parse_bundle,
    verify_bundle,
)
from sealift.client import ProvenChain, read_card
from sealift.protocol import (
    ShardConfig,
    ShardStatus,
    UpgradeOrder,
)
from sealift.relay import TrustRoot

from ._application import Trust, build_application
from ._bundle_source import active_bundle, fetch_bundle, read_bounded, require_hash
from ._cards import SIM_KIND, card_option, code_of_bundle, open_chain, read_policy
from ._endorse import read_order
from ._errors import EXIT_REFUSED
from ._forecast import NextCode, forecast_rows, forecast_summary, registered
from ._gov_status import rehearsal_rows, rehearsals_standing
from ._gramine_check import gramine_row
from ._orders import StatusWords, last_standing, status_order
from ._output import emit_sections, json_option
from ._params import HEX32, NUMBER, PATH, run
from ._polls import read_poll_order
from ._records import Government, read_government
from ._review import Changes, compare

blocks_option = click.option(
    "--blocks",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="How many blocks to look through for instances.",
)
GRAMINE: Final = "gramine-sgx"
_GENERATION: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


class NothingToReviewError(SealiftError):
    """No upgrade of that name waits or is pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What is under review; ``None`` where no order says it."""

    name: str
    config: ShardConfig | None = None
    bundle: Digest | None = None
    source: str = ""


@click.command("forecast")
@card_option
@click.option("--bundle", type=PATH, help="As if this code ran next.")
@click.option(
    "--order", "order_file", type=PATH, help="As the order in this file says."
)
@click.option("--policy", type=PATH, help="As if this policy judged.")
@click.option("--min-isv-svn", type=click.IntRange(0, 65_535), help="A raised floor.")
@click.option("--min-tcb-evaluation", type=NUMBER, help="A raised floor.")
@click.option("--not-before", help="A raised floor: a height, or +0.")
@click.option("--reject-advisory", "advisories", multiple=True, help="Repeatable.")
@click.option("--revoke-signer", "revoked", type=HEX32, multiple=True)
@blocks_option
@json_option
def forecast_command(
    *,
    card: Path,
    bundle: Path | None,
    order_file: Path | None,
    policy: Path | None,
    min_isv_svn: int | None,
    min_tcb_evaluation: int | None,
    not_before: str | None,
    advisories: tuple[str, ...],
    revoked: tuple[bytes, ...],
    blocks: int,
    as_json: bool,
) -> None:
    r"""Who would stay and who would fall out, and why, before anybody votes.

    \b
    Examples:
      sealift gov forecast --card card.json --bundle auction-v2.bundle
      sealift gov forecast --card card.json --reject-advisory INTEL-SA-00615
    """
    words = StatusWords(
        mode=None,
        min_isv_svn=min_isv_svn,
        min_tcb_evaluation=min_tcb_evaluation,
        not_before=not_before,
        advisories=advisories,
        revoked=revoked,
        rotate=False,
        grace=None,
    )

    async def look() -> tuple[Government, list[dict[str, object]]]:
        known = read_card(card)
        async with open_chain(known) as chain:
            now = await read_government(chain, known.shard_id)
            config = now.running.config
            status = status_order(now.schedule, now.height, now.standing, words).status
            if order_file is not None:
                order = read_order(order_file).order
                config = getattr(order, "config", config)
                status = getattr(order, "status", status)
            code = NextCode()
            if bundle is not None:
                parsed = parse_bundle(read_bounded(bundle))
                config = msgspec.structs.replace(
                    config, code={**config.code, **code_of_bundle(parsed)}
                )
                code = next_code(parsed)
            config = msgspec.structs.replace(
                config, attestation=read_policy(policy) or config.attestation
            )
            records = await registered(chain, now, blocks=blocks)
            return now, forecast_rows(records, now, config, status, code=code)

    now, rows = run(look())
    summary = {
        "proven_at": now.height,
        **forecast_summary(rows, now.schedule.rules),
    }
    emit_sections(summary, {"forecast": rows}, as_json=as_json)


@click.command()
@click.argument("what", required=False)
@card_option
@click.option("--bundle", type=PATH, help="The proposed bundle, from this file.")
@click.option("--order", "order_file", type=PATH, help="The order in this file.")
@click.option("--poll", type=NUMBER, help="The order of this running poll.")
@click.option(
    "--against",
    type=PATH,
    help="The bundle that runs: its file, or a folder of bundles.",
)
@click.option(
    "--source",
    type=PATH,
    help="Build the application in this folder and compare. Runs its code.",
)
@click.option(
    "--unchecked",
    type=click.Choice(["gramine-sgx"]),
    multiple=True,
    help="Take that platform's fingerprint on trust, if it can't be recomputed here.",
)
@blocks_option
@json_option
@click.pass_context
def review(
    ctx: click.Context,
    *,
    what: str | None,
    card: Path,
    bundle: Path | None,
    order_file: Path | None,
    poll: int | None,
    against: Path | None,
    source: Path | None,
    unchecked: tuple[str, ...],
    blocks: int,
    as_json: bool,
) -> None:
    r"""What a proposed upgrade changes: sources, storage, calls, wheels, workers.

    WHAT is a pending generation, or the digest of an open order or a motion. The
    bundle comes from --bundle or from where the order says; its hash is compared
    before anything of it is read. A fingerprint under Gramine is recomputed where
    Gramine is installed. Exit code 1 if a check fails.

    \b
    Examples:
      sealift gov review 1 --card card.json --against bundles
      sealift gov review --poll 0 --card card.json --bundle auction-v2.bundle
      sealift gov review --order order.bin --bundle auction-v2.bundle \
        --against auction-v1.bundle --source examples/auction/v2 --card card.json
    """
    named = [one for one in (what, order_file, poll) if one is not None]
    if len(named) > 1:
        raise click.UsageError("Review which? Give WHAT, --order or --poll; one.")
    if not named and bundle is None:
        raise click.UsageError("Review what? Give WHAT, --order, --poll or --bundle.")

    async def look() -> Report:
        known = read_card(card)
        async with open_chain(known) as chain:
            now = await read_government(chain, known.shard_id)
            if poll is not None:
                order = await read_poll_order(chain, known, poll)
                proposed = _of_order(order, f"the order of poll {poll}")
            else:
                proposed = _proposed(now, what, order_file)
            return await _review(
                chain,
                now,
                proposed,
                bundle,
                against,
                source=source,
                blocks=blocks,
                unchecked=frozenset(unchecked),
            )

    found = run(look())
    emit_sections(found.head, found.sections(as_json=as_json), as_json=as_json)
    if not as_json and found.changes is not None:
        for file in found.changes.sources:
            click.echo("")
            for line in file.lines:
                click.echo(line)
    if not all(row["ok"] for row in found.checks):
        ctx.exit(EXIT_REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a review."""

    head: dict[str, object]
    checks: list[dict[str, object]]
    changes: Changes | None
    rows: list[dict[str, object]]
    rehearsals: list[dict[str, object]]

    def sections(self, *, as_json: bool) -> dict[str, list[dict[str, object]]]:
        """The tables; for programs with the diffs in them."""
        tables = {"checks": self.checks}
        if self.changes is not None:
            tables["sources"] = [
                {
                    "path": file.path,
                    "change": file.change,
                    **({"diff": list(file.lines)} if as_json else {}),
                }
                for file in self.changes.sources
            ]
            for name in ("manifest", "pallets", "calls", "storage", "types", "wheels"):
                tables[name] = getattr(self.changes, name)
        return {**tables, "forecast": self.rows, "rehearsals": self.rehearsals}


async def _review(
    chain: ProvenChain,
    now: Government,
    proposed: Proposed,
    file: Path | None,
    against: Path | None,
    *,
    source: Path | None,
    blocks: int,
    unchecked: frozenset[str],
) -> Report:
    """Find, verify, rebuild, compare, forecast.

    1. The bundle by its hash; nothing is parsed before that.
    2. Measurement and signature. 3. The rebuild. 4. The changes. 5. Who stays.
    """
    data = (  # 1
        read_bounded(file) if file is not None else await fetch_bundle(proposed.source)
    )
    digest = require_hash(data, proposed.bundle)
    bundle = parse_bundle(data)
    checks = _identity_checks(bundle, proposed)  # 2
    gramine = None if proposed.config is None else proposed.config.code.get(GRAMINE)
    if gramine is not None:
        ok, detail = await asyncio.to_thread(
            gramine_row, bundle, gramine, trusted=GRAMINE in unchecked
        )
        checks.append(_check(f"fingerprint on {GRAMINE}", ok=ok, detail=detail))
    if source is not None:
        checks.append(_rebuilt(bundle, source))  # 3
    changes = None
    running = now.running.config
    if against is not None:
        active = running.code.get(SIM_KIND)
        if active is None:
            raise NothingToReviewError(
                "the code that runs has no fingerprint that can be found in a bundle",
                got=", ".join(running.code),
                expected=SIM_KIND,
                hint="Leave --against out; the order that brought it names its bundle",
            )
        changes = compare(active_bundle(against, active), bundle)  # 4
    rows = await _forecast(chain, now, bundle, proposed, blocks)  # 5
    head = {
        "under_review": proposed.name,
        "bundle_sha256": digest,
        "mrenclave": measure(bundle.files).mrenclave,
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "isv_svn": bundle.manifest.isv_svn,
        "compared_with": str(against) if against is not None else "nothing: --against",
        **forecast_summary(rows, now.schedule.rules),
        **rehearsals_standing(now),
    }
    return Report(
        head=head,
        checks=checks,
        changes=changes,
        rows=rows,
        rehearsals=rehearsal_rows(now),
    )


def next_code(bundle: Bundle) -> NextCode:
    """Vendor and version of a bundle, as far as it says and can be believed."""
    manifest = bundle.manifest
    signer = None
    if bundle.sigstruct is not None:
        try:
            signer = verify_bundle(bundle).sigstruct.mrsigner
        except SealiftError:
            signer = None
    return NextCode(
        mr_signer=signer, prod_id=manifest.isv_prod_id, isv_svn=manifest.isv_svn
    )


def _proposed(now: Government, what: str | None, order_file: Path | None) -> Proposed:
    """The order under review.

    Raises:
        NothingToReviewError: There is no such upgrade.
    """
    if order_file is not None:
        return _of_order(read_order(order_file).order, "the file's order")
    if what is None:
        return Proposed(name="the bundle alone; no order names it")
    if _GENERATION.fullmatch(what):
        entry = now.schedule.entry(int(what))
        return Proposed(
            name=f"generation {entry.generation}, {entry.status}",
            config=entry.config,
            bundle=entry.bundle,
            source=entry.source,
        )
    waiting = [one.order for one in now.orders] + [one.order for one in now.motions]
    for order in waiting:
        if order.digest().hex() == what.removeprefix("0x").lower():
            return _of_order(order, f"order {what}")
    raise NothingToReviewError(
        "no such order is open or before the council",
        got=ascii(what[:80])[1:-1],
        expected=", ".join(order.digest().hex() for order in waiting)
        or "a pending generation, or --order FILE",
    )


def _of_order(order: object, name: str) -> Proposed:
    if not isinstance(order, UpgradeOrder):
        raise NothingToReviewError(
            "the order brings no code",
            got=type(order).__name__,
            expected="UpgradeOrder",
        )
    return Proposed(
        name=name, config=order.config, bundle=order.bundle, source=order.source
    )


def _identity_checks(bundle: Bundle, proposed: Proposed) -> list[dict[str, object]]:
    measured = measure(bundle.files).mrenclave
    checks = []
    if proposed.config is not None:
        wanted = proposed.config.code.get(SIM_KIND)
        checks.append(
            _check(
                "hash",
                ok=True,
                detail="the order's SHA-256"
                if proposed.bundle
                else "the order names none: the fingerprint alone binds",
            )
        )
        if wanted is not None or GRAMINE not in proposed.config.code:
            detail = f"is {measured.hex()}, the order's {(wanted or b'').hex()}"
            checks.append(_check("fingerprint", ok=measured == wanted, detail=detail))
    try:
        signed = verify_bundle(bundle).sigstruct
    except SealiftError as error:
        return [*checks, _check("signature", ok=False, detail=str(error))]
    checks.append(
        _check("signature", ok=True, detail=f"MRSIGNER {signed.mrsigner.hex()}")
    )
    config = proposed.config
    if config is not None:
        right = config.mr_signer in {None, signed.mrsigner}
        right = right and config.isv_prod_id in {None, signed.isv_prod_id}
        right = right and signed.isv_svn >= config.min_isv_svn
        detail = f"product {signed.isv_prod_id}, version {signed.isv_svn}"
        checks.append(_check("vendor", ok=right, detail=detail))
    return checks


def _rebuilt(bundle: Bundle, source: Path) -> dict[str, object]:
    """Whether the sources in a folder give the same bytes.

    Raises:
        ApplicationError, BuildError, WheelFetchError: They can't be built.
    """
    chain_id, height, digest = bundle.manifest.l1.values()
    trust = Trust(
        l1=TrustRoot(chain_id=chain_id, height=height, header_hash=digest),
        roots=tuple(
            TrustAnchor(kind=root.kind, root_der=root.certificate())
            for root in bundle.manifest.attestation_roots
        ),
    )
    built = build_application(source, trust)
    found = first_difference(built.files, bundle.files)
    if found is None:
        return _check("rebuild", ok=True, detail="byte-identical")
    where = f"page {found.page}, {found.path}: {found.reason}"
    return _check("rebuild", ok=False, detail=where)


async def _forecast(
    chain: ProvenChain,
    now: Government,
    bundle: Bundle,
    proposed: Proposed,
    blocks: int,
) -> list[dict[str, object]]:
    config = proposed.config
    if config is None:
        config = last_standing(now.schedule).config
        config = msgspec.structs.replace(
            config, code={**config.code, **code_of_bundle(bundle)}
        )
    records = await registered(chain, now, blocks=blocks)
    status: ShardStatus = now.standing
    return forecast_rows(records, now, config, status, code=next_code(bundle))


def _check(name: str, *, ok: bool, detail: str) -> dict[str, object]:
    return {"check": name, "ok": ok, "detail": detail}
