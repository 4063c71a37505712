"""What a worker does next about key epochs: read from L1's schedule, pure (§12).

The schedule is a hint here: the enclave judges by the one that was proven to it,
and refuses by name what it does not find there.
"""

import enum
from dataclasses import dataclass

from sealift.base import AccountId, Epoch, Fingerprint, Height, SealiftError
from sealift.crypto import sha256
from sealift.ledger import require_eligible
from sealift.protocol import (
    EnclaveRecord,
    EntryStatus,
    Frontier,
    NoGenerationError,
    RotationDue,
    Schedule,
    ScheduleEntry,
    config_at,
)
from sealift.protocol.ecall import EnclaveStatus

_STANDING = frozenset({EntryStatus.PENDING, EntryStatus.ACTIVE, EntryStatus.RETIRED})


class Step(enum.Enum):
    """What is to be done about keys."""

    WAIT = "nothing"
    FETCH = "get the keys of an epoch from an instance that holds them"
    HOLD = "say on L1 that the staged epoch is held"
    STAGE = "make the keys of the next epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """L1's state after block ``imported``, and what this instance holds."""

    schedule: Schedule
    frontier: Frontier | None
    imported: Height
    code: Fingerprint
    me: AccountId
    held: frozenset[int]
    missing: frozenset[int] = frozenset()

    @property
    def acting(self) -> Epoch | None:
        """The newest epoch that acts or is about to; ``None`` before the birth."""
        epochs = self.schedule.epochs
        return epochs[-1].epoch if epochs else None

    @property
    def lacking(self) -> tuple[int, ...]:
        """Epochs that act, or whose calls are taken, and that are not held.

        None where this code has no turn: it need not have them.
        """
        needed = self.missing if self.acting is None else {*self.missing, self.acting}
        lacking = sorted(needed - self.held)
        return tuple(lacking) if lacking and self.may_have_keys(0) else ()

    @property
    def given_up(self) -> bool:
        """Whether what is staged did not act for so long that L1 takes other keys."""
        staged = self.schedule.staged
        if staged is None:
            return False
        return self.imported >= staged.staged_at + self.schedule.rules.rescue_after

    @property
    def due(self) -> RotationDue | None:
        """The rotation that is owed, staged or not."""
        staged = self.schedule.staged
        return self.schedule.rotation if staged is None else staged.due

    def may_have_keys(self, generation: int) -> bool:
        """Whether this code, as that generation or a later one, may have keys.

        It runs now, or is to run and its notice is over: others would only pay
        fees to be refused.
        """
        running = self._running(self.imported)
        for entry in self.schedule.entries:
            if (
                entry.generation < generation
                or self.code not in entry.config.code.values()
            ):
                continue
            if entry == running:
                return True
            pending = entry.status is EntryStatus.PENDING
            if pending and entry.release_from <= self.imported:
                return True
        return False

    def runs(self, generation: int) -> bool:
        """Whether this code runs the shard now, as that generation or a later one."""
        running = self._running(self.imported)
        return (
            running is not None
            and running.generation >= generation
            and self.code in running.config.code.values()
        )

    def may_stage(self, due: RotationDue) -> bool:
        """Whether this code runs the newest block and the frontier, both confirmed.

        As a generation that the rotation is for and that has confirmed a block.
        """
        if self.frontier is None or not self.runs(due.generation):
            return False
        first = self._running(self.frontier.confirmed + 1)
        return self.frontier.generation >= due.generation and first == self._running(
            self.imported
        )

    def _running(self, height: int) -> ScheduleEntry | None:
        try:
            return config_at(self.schedule, height)
        except NoGenerationError:
            return None


def next_step(view: KeyView, *, give_up: bool = True) -> Step:
    """What is to be done now.

    1. The acting epochs are got first: without them nothing can be executed. 2.
    Then the staged one; 3. who holds it and runs the shard says so once. 4. Where
    a rotation is due and nothing is staged, the code that runs the shard makes the
    keys. 5. So it does where what others staged is given up.

    Args:
        view: What is known.
        give_up: Whether 5 is thought of; the enclave may know better.
    """
    if view.lacking:  # 1
        return Step.FETCH
    staged = view.schedule.staged
    if staged is not None:
        owed = staged.due
        others = view.me not in staged.holders
        if give_up and view.given_up and others and view.may_stage(owed):  # 5
            return Step.STAGE
        if staged.epoch not in view.held:  # 2
            return Step.FETCH if view.may_have_keys(owed.generation) else Step.WAIT
        return Step.HOLD if others and view.runs(owed.generation) else Step.WAIT  # 3
    due = view.schedule.rotation
    if due is not None and view.acting is not None and view.may_stage(due):  # 4
        return Step.STAGE
    return Step.WAIT


def is_live(record: EnclaveRecord, schedule: Schedule, height: Height) -> bool:
    """Whether an instance could still serve as some generation of the shard.

    One that runs, ran or is to run; its last attestation must count still.
    """
    return any(
        entry.status in _STANDING and could_run(record, entry, schedule, height)
        for entry in schedule.entries
    )


def could_run(
    record: EnclaveRecord, entry: ScheduleEntry, schedule: Schedule, height: Height
) -> bool:
    """Whether L1 would take an instance's word for a generation."""
    try:
        require_eligible(record, entry, schedule.status, height=height)
    except SealiftError:
        return False
    return True


def held_epochs(status: EnclaveStatus) -> frozenset[int]:
    """The epochs whose keys an enclave has, the staged one among them."""
    more = () if status.staged is None else (status.staged,)
    return frozenset((*status.epochs, *more))


def rank_of(me: AccountId, others: frozenset[AccountId], *, epoch: int) -> int:
    """How many of ``others`` have their turn before ``me``.

    The order is another in each epoch, so that not always the same one pays.
    """

    def place(key: AccountId) -> bytes:
        return sha256(epoch.to_bytes(8, "big") + key)

    return sum(place(key) < place(me) for key in others - {me})
