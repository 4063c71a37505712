"""What the verifier of a lineage refuses: one name for each step."""

from typing import ClassVar

from sealift.base import DecodeError, SealiftError


class EvidenceFormatError(DecodeError):
    """Bytes that are not a file of evidence."""


class EvidenceError(SealiftError):
    """A step of :func:`sealift.evidence.verify_evidence` that does not hold.

    Args:
        what: The refusal, without a final stop; the step is put before it.
        got: What the file shows.
        expected: What the rule wants.
        hint: What the reader can do about it.
    """

    #: The number of the step.
    step: ClassVar[int] = 0

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        hint: str = "",
    ) -> None:
        super().__init__(
            f"step {self.step}: {what}", got=got, expected=expected, hint=hint
        )


class HeadersRefusedError(EvidenceError):
    """Headers that do not lead from the trust root, or one that is missing."""

    step = 1


class InclusionError(EvidenceError):
    """A transaction or a state that the headers do not commit to."""

    step = 1


class BirthRefusedError(EvidenceError):
    """A shard that did not begin as the file says."""

    step = 2


class ActUnprovenError(EvidenceError):
    """An act that the shard's authority did not decide, or not so."""

    step = 3


class ScheduleUnexplainedError(EvidenceError):
    """A schedule that the acts and rules shown do not lead to."""

    step = 3


class InstanceRefusedError(EvidenceError):
    """An instance whose evidence does not hold, or that may not speak."""

    step = 4


class KeysUnexplainedError(EvidenceError):
    """Keys that no entitled instance staged or held, or not by the rules."""

    step = 5


class RootChainError(EvidenceError):
    """Roots that do not follow each other from the genesis on."""

    step = 6


class EvidenceStaleError(SealiftError):
    """Evidence that is good and ends too early for what was asked."""


class LineageForeignError(SealiftError):
    """What was trusted before is no part of this lineage."""
