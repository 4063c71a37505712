"""A verified lineage in words, for people. Only what was verified, printable."""

import datetime as dt
from collections.abc import Iterator

from sealift.base import UnixSeconds, short
from sealift.protocol import EntryStatus

from ._lineage import EpochLineage, GenerationLineage, VerifiedLineage

_WIDEST = 256


def explain_lineage(lineage: VerifiedLineage) -> tuple[str, ...]:
    """The lineage as lines of plain printable text, oldest first.

    What came from an order (its source) is shown without control characters.
    """
    return tuple(_printable(line) for line in _lines(lineage))


def _lines(lineage: VerifiedLineage) -> Iterator[str]:
    yield f"Shard {lineage.shard.hex()} on chain {lineage.chain_id}."
    yield (
        f"Verified from header {lineage.trusted_from} to header {lineage.head}: this "
        f"speaks of every block up to {lineage.last} ({_time(lineage.head_time)}), "
        "and of none after it."
    )
    yield (
        f"It was created in block {lineage.created_at} by {lineage.creator.hex()}, "
        f"with the genesis {lineage.schedule.rules.genesis.hex()}."
    )
    for one in lineage.generations:
        yield _generation(one)
    for epoch in lineage.epochs:
        yield _epoch(epoch)
    if not lineage.epochs:
        yield "It is not born: no instance has published keys."
    for act in lineage.acts:
        yield (
            f"Act {act.serial}: {act.kind} {act.order.hex()}, in block {act.height} "
            f"({_time(act.time)}), by {' and '.join(act.by)}."
        )
    for rule in lineage.ruled:
        yield f"By rule, in block {rule.height}: {rule.words}."
    yield _roots(lineage)
    if lineage.rehearsals_required:
        yield (
            f"An upgrade takes good rehearsals on "
            f"{_count(lineage.rehearsals_required, 'machine')}, else it is postponed "
            f"by {lineage.postpone_by} blocks."
        )
    if lineage.terms_ahead is not None:
        terms = lineage.terms_ahead
        yield (
            f"Ahead: from block {terms.effective_at} on an upgrade takes good "
            f"rehearsals on {_count(terms.required, 'machine')}."
        )
    if lineage.schedule.change is not None:
        change = lineage.schedule.change
        yield f"Ahead: other rules from block {change.effective_at} on."
    if lineage.schedule.rotation is not None:
        due = lineage.schedule.rotation
        yield f"Owed: keys of epoch {due.epoch} (by {due.why}), not acting yet."


def _generation(one: GenerationLineage) -> str:
    code = ", ".join(f"{name} {value.hex()}" for name, value in one.code.items())
    text = (
        f"Generation {one.generation} (MRENCLAVE {code}) was decided by "
        f"{' and '.join(one.decided_by)} in block {one.recorded_at}"
    )
    if one.release_from > one.recorded_at:
        text += f"; notice ran from block {one.recorded_at} to {one.release_from}"
    text += f"; {_ran(one)}"
    if one.confirmed_to is not None:
        text += (
            f"; its roots are confirmed for blocks {one.confirmed_from} "
            f"to {one.confirmed_to}"
        )
    if one.instances:
        machines = len({each.platform_id for each in one.instances})
        text += (
            f"; {_count(len(one.instances), 'instance')} on "
            f"{_count(machines, 'machine')} attested by quote"
        )
    if one.rehearsals_required:
        good = sum(each.good for each in one.rehearsals)
        text += (
            f"; rehearsed well on {_count(good, 'machine')}, of "
            f"{one.rehearsals_required} asked for"
        )
    if one.predecessor is not None and one.status in _RAN and one.confirmed_to:
        text += (
            "; the old one's handover certificate fits"
            if one.certificate
            else "; no handover certificate was posted"
        )
    if one.source:
        text += f"; its order says of its source: {one.source}"
    return text + "."


_RAN = (EntryStatus.ACTIVE, EntryStatus.RETIRED)


def _ran(one: GenerationLineage) -> str:
    if one.status is EntryStatus.ACTIVE:
        return f"runs from block {one.since} on"
    if one.status is EntryStatus.RETIRED:
        return f"ran from block {one.since} to {one.ran_to}"
    if one.status is EntryStatus.PENDING:
        return f"is to run from block {one.since} on"
    return f"never ran: {one.status}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _epoch(one: EpochLineage) -> str:
    return (
        f"Epoch {one.epoch} (by {one.why}): shielding key {one.shielding_key.hex()}, "
        f"from block {one.valid_from} on; made by instance {short(one.staged_by)}, "
        f"held by {len(one.holders)} when it was to act."
    )


def _roots(lineage: VerifiedLineage) -> str:
    frontier = lineage.frontier
    if frontier is None or lineage.genesis_root is None:
        return "No root is confirmed."
    return (
        f"Roots: {_count(lineage.roots, 'link')} without a gap from the genesis root "
        f"{lineage.genesis_root.hex()} to {frontier.root.hex()} after block "
        f"{frontier.confirmed}, generation {frontier.generation}."
    )


def _time(seconds: UnixSeconds) -> str:
    try:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (OverflowError, OSError, ValueError):
        return f"second {seconds}"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _printable(text: str) -> str:
    """No control character, no escape: safe for any terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1][:_WIDEST] for c in text)
