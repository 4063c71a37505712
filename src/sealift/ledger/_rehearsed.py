"""Rehearsals on L1, in words for people."""

from sealift.protocol import EntryRehearsals, Rehearsal


def good_words(known: EntryRehearsals | None) -> int:
    """How many platforms' last word is good; L1 counts anew at XYZ-1.

    Then only those count whose instance is still eligible.
    """
    return 0 if known is None else sum(w.statement.good for w in known.rehearsals)


def rehearsal_row(word: Rehearsal) -> dict[str, object]:
    """One platform's word, field by field."""
    said = word.statement
    return {
        "platform": word.platform_id,
        "verdict": "good" if said.good else "bad",
        "check": said.check,
        "copy_height": said.height,
        "blocks": said.blocks,
        "milliseconds": word.milliseconds,
        "size": said.size,
        "recorded_at": word.recorded_at,
        "signing_key": said.signing_key,
    }


def rehearsal_words(word: Rehearsal) -> str:
    """One platform's word in a line; what failed is named, never what it saw."""
    said = word.statement
    verdict = "good" if said.good else f"bad ({said.check})"
    return (
        f"platform {word.platform_id.hex()[:16]}: {verdict}, copy of block "
        f"{said.height} and {said.blocks} more, at most {word.milliseconds} ms, "
        f"{said.size} B"
    )
