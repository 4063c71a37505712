"""``sealift gov status | history``: what governs a shard, and what governed it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from sealift.base import Height
from sealift.client import ProvenChain, ShardCard, read_card
from sealift.ledger import OpenOrder, good_words, rehearsal_row
from sealift.protocol import (
    EntryStatus,
    Order,
    Schedule,
    StatusOrder,
    accepted_epochs,
    next_upgrade,
)

from ._authority import describe_authority
from ._cards import card_option, open_chain
from ._council import motion_row, vote_rows
from ._endorse import Signing, decide, signing_options
from ._orders import StatusWords, status_order
from ._output import emit_sections, json_option, say
from ._params import HEX32, NUMBER, run
from ._polls import read_polls
from ._records import Government, entry_row, read_government
from ._rules import alone_pays


@click.command()
@card_option
@signing_options
@click.option("--mode", type=click.Choice(["normal", "maintenance"]))
@click.option("--min-isv-svn", type=click.IntRange(0, 65_535), help="Raise the floor.")
@click.option("--min-tcb-evaluation", type=NUMBER, help="Raise the floor.")
@click.option(
    "--not-before", help="Refuse what was attested before this block (a height, +0)."
)
@click.option(
    "--reject-advisory",
    "advisories",
    multiple=True,
    help="Refuse platforms with this advisory; repeatable.",
)
@click.option(
    "--revoke-signer",
    "revoked",
    type=HEX32,
    multiple=True,
    help="MRSIGNER whose word counts no more; repeatable.",
)
@click.option("--rotate", is_flag=True, help="In the same act: new keys.")
@click.option("--grace", type=NUMBER, help="With --rotate: as for rotate-keys.")
@json_option
def status(
    *,
    card: Path,
    signing: Signing,
    mode: Literal["normal", "maintenance"] | None,
    min_isv_svn: int | None,
    min_tcb_evaluation: int | None,
    not_before: str | None,
    advisories: tuple[str, ...],
    revoked: tuple[bytes, ...],
    rotate: bool,
    grace: int | None,
    as_json: bool,
) -> None:
    r"""Show what governs the shard now; with an authority, change mode or floors.

    Floors only rise. On a vulnerability day one act does it all: refuse the
    advisory, raise the floor, and rotate the keys that the refused may hold.

    \b
    Examples:
      sealift gov status --card card.json
      sealift gov status --card card.json --authority boss.json --mode maintenance
      sealift gov status --card card.json --authority boss.json --rotate \
        --reject-advisory INTEL-SA-00615 --not-before +0
    """
    words = StatusWords(
        mode=mode,
        min_isv_svn=min_isv_svn,
        min_tcb_evaluation=min_tcb_evaluation,
        not_before=not_before,
        advisories=advisories,
        revoked=revoked,
        rotate=rotate,
        grace=grace,
    )
    if not words.silent or signing.order is not None:
        if signing.silent:
            raise click.UsageError("A change needs --authority, --vendor or --out.")
        if not words.silent and signing.order is not None:
            raise click.UsageError("Say what changes, or give --order; not both.")

        def make(now: Government) -> Order:
            return status_order(now.schedule, now.height, now.standing, words)

        _tell(run(decide(card, signing, make, kind=StatusOrder)).row())
        if signing.out is not None:
            return
    elif not signing.silent:
        raise click.UsageError("What shall change? --mode, a floor, or --rotate.")
    run(_show(card, as_json=as_json))


@click.command()
@card_option
@json_option
def history(*, card: Path, as_json: bool) -> None:
    r"""Every generation of the shard and every key epoch: past, present, pending.

    \b
    Example:
      sealift gov history --card card.json --json
    """
    found = run(_government(card))
    schedule = found.schedule
    sections = {
        "generations": [entry_row(entry) for entry in schedule.entries],
        "epochs": epoch_rows(schedule, found.height),
    }
    emit_sections({"proven_at": found.height}, sections, as_json=as_json)


def _tell(row: dict[str, object]) -> None:
    if row["decided"]:
        say("Recorded; it acts from the next block on.")
    elif "file" in row:
        say(f"Written to {row['file']}; nothing is submitted.")
    else:
        say(f"Endorsed, not decided; it lacks {row['lacking']}.")


async def _government(card: Path) -> Government:
    known = read_card(card)
    async with open_chain(known) as chain:
        return await read_government(chain, known.shard_id)


async def _show(path: Path, *, as_json: bool) -> None:
    card = read_card(path)
    async with open_chain(card) as chain:
        now = await read_government(chain, card.shard_id)
        polls = await _polls(chain, card, now)
    schedule = now.schedule
    sections = {
        "pending": pending_rows(schedule, now.height),
        "rehearsals": rehearsal_rows(now),
        "open_orders": [open_row(now, one) for one in now.orders],
        "motions": [motion_row(one, now.height) for one in now.motions],
        "votes": [row for one in now.motions for row in vote_rows(one)],
        "polls": polls,
        "epochs": epoch_rows(schedule, now.height),
    }
    emit_sections(government_row(now), sections, as_json=as_json)


async def _polls(
    chain: ProvenChain, card: ShardCard, now: Government
) -> list[dict[str, object]]:
    """Running polls, if stake decides here and a worker answers."""
    found = await read_polls(chain, card, now)
    return [] if found is None else found.running


def government_row(now: Government) -> dict[str, object]:
    """What governs the shard and what it runs: the first line of ``gov status``."""
    height, schedule = now.height, now.schedule
    running = now.running
    ahead = next_upgrade(schedule, height)
    rules, floors = schedule.rules, now.standing
    return {
        "proven_at": height,
        "mode": schedule.status.mode,
        "mode_next": floors.mode,
        "min_isv_svn": floors.min_isv_svn,
        "min_tcb_evaluation": floors.min_tcb_evaluation_number,
        "not_before": floors.not_before,
        "rejected_advisories": floors.rejected_advisories,
        "revoked_signers": floors.revoked_signers,
        "generation": running.generation,
        "next_generation": ahead.generation if ahead else None,
        "upgrade_at": ahead.upgrade_at if ahead else None,
        "release_from": ahead.release_from if ahead else None,
        "serial": schedule.serial,
        "authority": describe_authority(rules.authority),
        "emergency": describe_authority(rules.emergency) if rules.emergency else None,
        "min_notice": rules.min_notice,
        "emergency_notice": rules.emergency_notice,
        "rules_notice": rules.longest_notice,
        "effects_quorum": rules.effects_quorum,
        "warning": alone_pays(rules),
        **rehearsals_standing(now),
        "rules_change": _change(schedule, height),
        "rotation_due": _rotation(schedule),
        "staged": _staged(schedule),
    }


def pending_rows(schedule: Schedule, height: Height) -> list[dict[str, object]]:
    """Entries ahead, each with its countdowns in blocks."""
    rows = []
    for entry in schedule.entries:
        if entry.status is EntryStatus.PENDING:
            row = entry_row(entry)
            row["release_in"] = max(0, entry.release_from - height)
            row["upgrade_in"] = max(0, entry.upgrade_at - height)
            rows.append(row)
    return rows


def rehearsals_standing(now: Government) -> dict[str, object]:
    """What the next upgrade takes, what it has, and what becomes of it.

    Terms are those that count in block XYZ-1 of the next upgrade; with none ahead,
    those that count now.
    """
    height, gate = now.height, now.gate
    if gate is None:
        return {"rehearsals_required": None, "rehearsals_good": None}
    ahead = next_upgrade(now.schedule, height)
    terms = gate.at(height if ahead is None else ahead.upgrade_at - 1)
    change = gate.settled(height).change
    good = good_words(now.rehearsals)
    outcome = ""
    if ahead is not None and terms.required > good:
        outcome = (
            f"postponed by {terms.postpone_by} blocks unless {terms.required} are good"
            f" after block {ahead.upgrade_at - 1}"
        )
    return {
        "rehearsals_required": terms.required,
        "rehearsals_good": good,
        "postpone_by": terms.postpone_by,
        "rehearsals_outlook": outcome,
        "rehearsals_change": None
        if change is None
        else {
            "effective_at": change.effective_at,
            "effective_in": max(0, change.effective_at - height),
            "required": change.terms.required,
            "postpone_by": change.terms.postpone_by,
            "order": change.order,
        },
    }


def rehearsal_rows(now: Government) -> list[dict[str, object]]:
    """Every platform's word on the next generation: its verdict, no content."""
    known = now.rehearsals
    return [] if known is None else [rehearsal_row(one) for one in known.rehearsals]


def open_row(now: Government, opened: OpenOrder) -> dict[str, object]:
    """An order that waits: who stands on it, and who is wanted still."""
    given = [f"key {key.hex()}" for key in opened.keys]
    given += [f"vendor {one.hex()}" for one in opened.vendors]
    given += ["the vote by stake"] if opened.stake else []
    given += ["the vote of workers"] if opened.workers else []
    order = opened.order
    return {
        "order": order.digest(),
        "kind": type(order).__name__,
        "endorsed_by": given,
        "lacking": [describe_authority(one) for one in now.lacking(opened)],
        "expires_in": max(0, order.expiry - now.height),
    }


def epoch_rows(schedule: Schedule, height: Height) -> list[dict[str, object]]:
    """Key epochs, and whether calls under them are taken."""
    accepted: Sequence[int] = accepted_epochs(schedule, height)
    newest = max(accepted, default=-1)
    return [
        {
            "epoch": one.epoch,
            "valid_from": one.valid_from,
            "calls": "current"
            if one.epoch == newest
            else "in grace"
            if one.epoch in accepted
            else "ahead"
            if one.valid_from > height
            else "refused",
            "grace": one.grace,
            "not_before": one.not_before,
            "shielding_key": one.keys.shielding_key,
        }
        for one in schedule.epochs
    ]


def _change(schedule: Schedule, height: Height) -> dict[str, object] | None:
    change = schedule.change
    if change is None:
        return None
    return {
        "effective_at": change.effective_at,
        "effective_in": max(0, change.effective_at - height),
        "authority": describe_authority(change.rules.authority),
        "order": change.order,
    }


def _rotation(schedule: Schedule) -> dict[str, object] | None:
    due = schedule.rotation
    if due is None:
        return None
    return {
        "epoch": due.epoch,
        "why": due.why,
        "generation": due.generation,
        "not_before": due.not_before,
    }


def _staged(schedule: Schedule) -> dict[str, object] | None:
    staged = schedule.staged
    if staged is None:
        return None
    return {
        "epoch": staged.epoch,
        "staged_at": staged.staged_at,
        "holders": len(staged.holders),
        "wanted": schedule.rules.rotation_quorum,
    }
