"""Terms of rehearsals, words of platforms, and a postponement by rule. Pure."""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from sealift.base import Height
from sealift.ledger._entries import active_entry, changed
from sealift.ledger._errors import (
    NoticeError,
    RehearsalClosedError,
    RehearsalForeignError,
    RehearsalFormError,
    RehearsalsFullError,
    RehearsalStaleError,
    RehearsalTermsError,
)
from sealift.protocol import (
    LEAST_POSTPONEMENT,
    MAX_REHEARSALS,
    MOST_POSTPONEMENT,
    EntryStatus,
    Rehearsal,
    RehearsalGate,
    RehearsalsOrder,
    RehearsalStatement,
    RehearsalTerms,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    TermsChange,
    is_rounded,
    newness,
)

#: So many platforms' words on an entry are kept.
MAX_WORDS: Final = 64
#: What a check may be called: names of pallets, hooks and errors, no content.
_CHECK = re.compile(r"[A-Za-z0-9_.:/ -]*")


def verify_terms(terms: RehearsalTerms) -> None:
    """Return if a shard can live by such terms.

    Raises:
        RehearsalTermsError: It can't.
    """
    if terms.required > MAX_REHEARSALS:
        raise RehearsalTermsError(
            "too many rehearsals are asked for",
            got=terms.required,
            expected=f"≤ {MAX_REHEARSALS}",
        )
    least, most = LEAST_POSTPONEMENT, MOST_POSTPONEMENT
    if not terms.required:
        least = most = 0
    if not least <= terms.postpone_by <= most:
        raise RehearsalTermsError(
            "upgrades would be put off by too few blocks, or by too many",
            got=terms.postpone_by,
            expected=f"{least} … {most} blocks where {terms.required} are asked for",
        )


def verify_reachable(gate: RehearsalGate, config: ShardConfig) -> None:
    """Return if a configuration allows the instances that must rehearse.

    Raises:
        RehearsalTermsError: It allows fewer.
    """
    if 0 < config.max_instances < gate.most:
        raise RehearsalTermsError(
            "fewer instances than must rehearse",
            got=f"max_instances {config.max_instances}",
            expected=f"≥ {gate.most}",
        )


def record_terms(
    schedule: Schedule, gate: RehearsalGate, order: RehearsalsOrder, *, height: Height
) -> tuple[Schedule, RehearsalGate]:
    """The schedule with its serial raised, the gate with a change ahead.

    It replaces a change that was ahead.

    Raises:
        RehearsalTermsError: No shard could live by them.
        NoticeError: Sooner than the longest notice.
    """
    terms = RehearsalTerms(required=order.required, postpone_by=order.postpone_by)
    verify_terms(terms)
    earliest = height + schedule.rules.longest_notice
    if order.effective_at < earliest:
        raise NoticeError(
            "too little notice for other terms of rehearsals",
            got=order.effective_at,
            expected=f"≥ {earliest}",
        )
    change = TermsChange(
        terms=terms,
        effective_at=order.effective_at,
        recorded_at=height,
        order=order.digest(),
    )
    after = RehearsalGate(terms=gate.at(height), change=change)
    for entry in schedule.entries:
        if entry.status in (EntryStatus.PENDING, EntryStatus.ACTIVE):
            verify_reachable(after, entry.config)
    return changed(schedule, schedule.entries, serial=schedule.serial + 1), after


def without_change(gate: RehearsalGate, *, height: int) -> RehearsalGate:
    """The gate without a change that is ahead; one that counts already stays."""
    return RehearsalGate(terms=gate.at(height))


def verify_word(
    schedule: Schedule, statement: RehearsalStatement, milliseconds: int, *, height: int
) -> ScheduleEntry:
    """The pending entry that a rehearsal is of.

    1. The entry is pending, released, and its XYZ lies ahead.
    2. It is for the entry's order, at its upgrade block.
    3. It tells no finer than it may, and what failed if and only if it is bad.
    4. The blocks that it executed are final ones.

    Raises:
        NoGenerationError: No such generation.
        RehearsalClosedError: 1.
        RehearsalForeignError: 2.
        RehearsalFormError: 3 or 4.
    """
    entry = schedule.entry(statement.generation)
    open_now = (  # 1
        entry.status is EntryStatus.PENDING
        and entry.release_from <= height < entry.upgrade_at
    )
    if not open_now:
        raise RehearsalClosedError(
            "no rehearsals are taken of this generation now",
            got=f"generation {entry.generation} {entry.status}, block {height}",
            expected="a pending one, in blocks "
            f"{entry.release_from} … {entry.upgrade_at - 1}",
        )
    named = (statement.order, statement.upgrade_at)
    if named != (entry.order, entry.upgrade_at):  # 2
        raise RehearsalForeignError(
            "rehearsal is for another order or upgrade block",
            got=f"{statement.order.hex()} at {statement.upgrade_at}",
            expected=f"{entry.order.hex()} at {entry.upgrade_at}",
        )
    rounded = is_rounded(milliseconds) and (
        statement.size == 0 or is_rounded(statement.size)
    )
    told = statement.good == (not statement.check)
    if not rounded or not told or _CHECK.fullmatch(statement.check) is None:  # 3
        raise RehearsalFormError(
            "rehearsal tells finer than it may, or contradicts itself",
            got=f"{milliseconds} ms, {statement.size} B, "
            f"{'good' if statement.good else 'bad'}, {len(statement.check)} characters",
            expected="powers of two, and the name of a check if it is bad",
        )
    if statement.height + statement.blocks >= height:  # 4
        raise RehearsalFormError(
            "rehearsal executed blocks that are not final",
            got=statement.height + statement.blocks,
            expected=f"< {height}",
        )
    return entry


def with_word(
    kept: tuple[Rehearsal, ...],
    word: Rehearsal,
    *,
    counts: Callable[[Rehearsal], bool],
) -> tuple[Rehearsal, ...]:
    """The words with one more, which replaces the platform's last.

    Where there is no room, those that don't count any more give way, then the oldest
    bad one: bad ones stop nothing.

    Args:
        kept: Oldest first; no two of one platform.
        word: The new one.
        counts: Whether the signer of a kept one is still eligible.

    Raises:
        RehearsalStaleError: The platform's last is as new (:func:`newness`).
        RehearsalsFullError: All that are kept are good, and count.
    """
    last = next((one for one in kept if one.platform_id == word.platform_id), None)
    if last is not None and newness(word.statement) <= newness(last.statement):
        raise RehearsalStaleError(
            "the platform's last rehearsal is as new, or newer",
            got=_told(word.statement),
            expected=f"newer than {_told(last.statement)}",
        )
    others = tuple(one for one in kept if one is not last)
    if len(others) >= MAX_WORDS:
        others = tuple(one for one in others if counts(one))
    if len(others) >= MAX_WORDS:
        bad = next((one for one in others if not one.statement.good), None)
        if bad is None:
            raise RehearsalsFullError(
                "as many good rehearsals are kept as can be",
                got=len(others),
                expected=f"< {MAX_WORDS}",
            )
        others = tuple(one for one in others if one is not bad)
    return (*others, word)


def _told(statement: RehearsalStatement) -> str:
    return f"copy {statement.height}, {statement.blocks} blocks, {statement.good}"


def due_next(schedule: Schedule, *, height: int) -> ScheduleEntry | None:
    """The pending entry that block ``height`` + 1 is to promote, if any is."""
    running = active_entry(schedule).generation
    return next(
        (
            entry
            for entry in schedule.entries
            if entry.status is EntryStatus.PENDING
            and entry.upgrade_at == height + 1
            and entry.predecessor == running
        ),
        None,
    )


def put_off(schedule: Schedule, entry: ScheduleEntry, *, by: int) -> Schedule:
    """The schedule in which an entry, and all pending after it, run later.

    They keep their distance, for each follows the one before. The serial stays:
    nothing that was signed before can make an entry run sooner, and votes go on
    (ADR 0027).
    """
    entries = tuple(
        msgspec.structs.replace(
            one,
            upgrade_at=Height(one.upgrade_at + by),
            since=Height(one.upgrade_at + by),
        )
        if one.status is EntryStatus.PENDING and one.generation >= entry.generation
        else one
        for one in schedule.entries
    )
    return changed(schedule, entries)
