"""``sealift attest``: judging evidence that lies in files."""

from pathlib import Path

import click
import msgspec

from sealift.attestation import AttestVerdict, attest_verdict
from sealift.base import UnixSeconds
from sealift.protocol import AttestationPolicy
from sealift.relay import Timestamp
from sealift.transport.clock import format_time
from sealift.transport.files import read_json, read_or_explain

from ._errors import EXIT_REFUSED
from ._output import emit, json_option
from ._params import PATH, TIME, wall_clock


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An attestation policy in a JSON file."""

    accepted_tcb_statuses: tuple[str, ...] = ("UpToDate",)
    rejected_advisories: tuple[str, ...] = ()
    min_tcb_evaluation_number: int = 0

    def policy(self) -> AttestationPolicy:
        """The policy; the two values that need a chain stay open."""
        return AttestationPolicy(
            accepted_tcb_statuses=self.accepted_tcb_statuses,
            rejected_advisories=self.rejected_advisories,
            min_tcb_evaluation_number=self.min_tcb_evaluation_number,
        )


@click.group()
def attest() -> None:
    r"""Judge attestation evidence.

    \b
    Example:
      sealift attest verify --quote q.bin --collateral c.json --root root.der
    """


@attest.command()
@click.option("--quote", type=PATH, required=True, help="The raw quote.")
@click.option(
    "--collateral", type=PATH, required=True, help="dcap-qvl's collateral JSON."
)
@click.option("--root", type=PATH, required=True, help="Trust anchor, DER or PEM.")
@click.option(
    "--at",
    type=TIME,
    help="When to judge: RFC 3339 or Unix seconds (default: now).",
)
@click.option("--policy", type=PATH, help="JSON of what TCB is accepted.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    quote: Path,
    collateral: Path,
    root: Path,
    at: Timestamp | None,
    policy: Path | None,
    as_json: bool,
) -> None:
    r"""Verify a DCAP quote: exit code 0 and its claims, or 1 and the reason.

    Without a policy the verdict says only whether the quote is genuine; its TCB
    status is told, not judged.

    \b
    Example:
      sealift attest verify --quote q.bin --collateral c.json \
        --root intel_root.der --at 2026-11-23T05:00:00Z --policy policy.json
    """
    accepted = None
    if policy is not None:
        accepted = read_json(policy, PolicyFile, what="policy").policy()
    moment = at if at is not None else wall_clock().now()
    verdict = attest_verdict(
        quote=read_or_explain(quote, what="quote"),
        collateral=read_or_explain(collateral, what="collateral"),
        root=read_or_explain(root, what="trust anchor"),
        now=UnixSeconds(moment.seconds),
        policy=accepted,
    )
    emit(_shown(verdict, moment), as_json=as_json)
    if verdict.verdict == "reject":
        ctx.exit(EXIT_REFUSED)


def _shown(verdict: AttestVerdict, moment: Timestamp) -> dict[str, object]:
    shown = msgspec.structs.asdict(verdict)
    for name in ("tcb_date", "earliest_expiration"):
        if shown[name] is not None:
            shown[name] = format_time(Timestamp(seconds=shown[name], nanos=0))
    return {**shown, "judged_at": format_time(moment)}
