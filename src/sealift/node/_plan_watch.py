"""Tells a node's operator of a version of the L1 runtime that it will need."""

import logging
from typing import Final

from sealift.ledger import Ledger, RuntimePlan

#: A missing version is told every so many blocks, …
_OFTEN: Final = 100
#: … and in each of the last ones.
_LAST: Final = 10


class PlanWatch:
    """Looks at the plan after each block.

    Args:
        log: Where it is told.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._seen: RuntimePlan | None = None

    def look(self, ledger: Ledger) -> None:
        """Tell of a new plan, and again and again of one that would halt the node."""
        plan, new = ledger.plan, False
        if plan != self._seen:
            self._seen, new = plan, True
        if plan is None:
            return
        left = plan.height - ledger.height
        if ledger.has_version(plan.version):
            if new:
                self._log.warning(
                    "L1 runtime version %d takes over at block %d, in %d blocks",
                    plan.version,
                    plan.height,
                    left,
                )
        elif new or left <= _LAST or left % _OFTEN == 0:
            self._log.error(
                "L1 runtime version %d takes over at block %d, in %d blocks, and this"
                " program does not have it: THE NODE WILL HALT THERE until a release"
                " that has it is installed",
                plan.version,
                plan.height,
                left,
            )
