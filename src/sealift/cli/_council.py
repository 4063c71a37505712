"""Motions of workers for people: who said what, and what is missing."""

from sealift.base import Height, InvariantError
from sealift.ledger import Motion

#: No motion has more seats; the search for the missing ones ends here.
_MOST = 1 << 20


def wanted_ayes(motion: Motion) -> int:
    """How many platforms must be for a motion to pass."""
    seats = len(motion.seats)
    for count in range(min(seats, _MOST) + 2):
        if motion.terms.threshold.exceeded_by(count, seats):
            return count
    raise InvariantError("a threshold that nobody exceeds", got=motion.terms.threshold)


def motion_row(motion: Motion, height: Height) -> dict[str, object]:
    """A motion in a line."""
    ayes = sum(1 for vote in motion.votes if vote.aye)
    wanted = wanted_ayes(motion)
    return {
        "order": motion.order.digest(),
        "kind": type(motion.order).__name__,
        "seats": len(motion.seats),
        "ayes": ayes,
        "nays": len(motion.votes) - ayes,
        "missing": max(0, wanted - ayes),
        "closes_at": motion.closes_at,
        "closes_in": max(0, motion.closes_at - height),
    }


def vote_rows(motion: Motion) -> list[dict[str, object]]:
    """Every seat of a motion, and what its platform said; all of it is public."""
    said = {vote.platform: vote for vote in motion.votes}
    rows: list[dict[str, object]] = []
    for seat in motion.seats:
        vote = said.get(seat)
        rows.append(
            {
                "order": motion.order.digest(),
                "platform": seat,
                "vote": "-" if vote is None else "aye" if vote.aye else "nay",
                "instance": None if vote is None else vote.signing_key,
            }
        )
    return rows
