"""Step 5: key epochs: born, staged, held, acting. Re-derived as the schedule is."""

from collections.abc import Callable

import msgspec

from sealift.base import AccountId, Digest, Epoch, Height
from sealift.protocol import (
    EnclaveRecord,
    EpochKeysPublic,
    HoldKeysStatement,
    KeyEpoch,
    PublishKeyStatement,
    RotationDue,
    Schedule,
    ShardStatus,
    StagedEpoch,
    StageKeysStatement,
    rotation_demand,
)

from ._errors import KeysUnexplainedError

#: An epoch acts so many blocks after the one in which enough hold it.
_DELAY = 2


def begin_epochs(
    schedule: Schedule, statement: PublishKeyStatement, *, height: Height
) -> Schedule:
    """The schedule of a shard that was born in block ``height``.

    Raises:
        KeysUnexplainedError: It had keys before, or these are not the first.
    """
    _require(
        not schedule.epochs and statement.epoch == 0,
        f"keys were published in block {height}",
        got=f"epoch {statement.epoch} after {len(schedule.epochs)}",
        expected="epoch 0, once",
    )
    first = KeyEpoch(
        epoch=Epoch(0),
        keys=EpochKeysPublic(
            shielding_key=statement.shielding_key,
            state_key_commitment=statement.state_key_commitment,
            root_key_commitment=statement.root_key_commitment,
        ),
        valid_from=Height(height + 1),
        grace=0,
    )
    return msgspec.structs.replace(schedule, epochs=(first,))


def narrowed(status: ShardStatus, due: RotationDue) -> ShardStatus:
    """The floors that who stages or holds must meet."""
    floor = Height(max(status.not_before, due.not_before))
    return msgspec.structs.replace(status, not_before=floor)


def due_for(
    schedule: Schedule, statement: StageKeysStatement, *, generation: int
) -> RotationDue:
    """The rotation that staged keys answer.

    Args:
        schedule: As it is.
        statement: What was staged.
        generation: Of the last confirmed block.

    Raises:
        KeysUnexplainedError: None is owed to this epoch, or not yet; or they were
            made for another demand.
    """
    due = schedule.rotation
    demanded = statement.demand == rotation_demand(schedule)
    if (
        due is None
        or not demanded
        or (statement.epoch != due.epoch or generation < due.generation)
    ):
        raise KeysUnexplainedError(
            f"keys of epoch {statement.epoch} were staged and not owed",
            got=f"generation {generation} confirmed last",
            expected="no rotation"
            if due is None
            else f"epoch {due.epoch}, by generation {due.generation} or later",
        )
    return due


def require_made_under(
    record: EnclaveRecord, statement: StageKeysStatement, due: RotationDue
) -> None:
    """Return if keys were made under the registration that acted, late enough.

    Raises:
        KeysUnexplainedError: They were made before.
    """
    acting = record.statement
    _require(
        statement.registration == acting.digest(),
        f"keys of epoch {due.epoch} were made under another registration",
        got=statement.registration or "none",
        expected=acting.digest(),
    )
    _require(
        acting.block_height >= due.not_before,
        f"keys of epoch {due.epoch} were made under too early a registration",
        got=f"block {acting.block_height}",
        expected=f"≥ {due.not_before}",
    )


def stage(
    schedule: Schedule,
    statement: StageKeysStatement,
    due: RotationDue,
    *,
    height: Height,
) -> Schedule:
    """The schedule with staged keys that one instance holds.

    1. Nothing is staged, or it was given up. 2. The keys follow the handover
    policy: what is passed is the last epoch's; all else is new.

    Raises:
        KeysUnexplainedError: 1 or 2.
    """
    staged = schedule.staged
    if staged is not None:  # 1
        given_up = staged.staged_at + schedule.rules.rescue_after
        _require(
            height >= given_up,
            f"keys of epoch {due.epoch} were staged twice",
            got=f"block {height}",
            expected=f"≥ {given_up}",
        )
    former = [one.keys for one in schedule.epochs]
    if staged is not None:
        former.append(staged.keys)
    handover = schedule.rules.handover
    for name, policy in (  # 2
        ("shielding_key", handover.shielding),
        ("state_key_commitment", handover.state),
        ("root_key_commitment", handover.root),
    ):
        key: Digest = getattr(statement.keys, name)
        passed: Digest = getattr(schedule.epochs[-1].keys, name)
        passes = due.why == "upgrade" and policy == "pass"
        old = any(getattr(one, name) == key for one in former)
        _require(
            key == passed if passes else not old,
            f"{name} of epoch {due.epoch} is not what the handover policy says",
            got=key,
            expected=passed if passes else "one that was never before",
        )
    fresh = StagedEpoch(
        epoch=due.epoch,
        keys=statement.keys,
        due=due,
        staged_at=height,
        holders=(statement.signing_key,),
    )
    return msgspec.structs.replace(schedule, staged=fresh)


def hold(schedule: Schedule, statement: HoldKeysStatement) -> Schedule:
    """The schedule in which one instance more holds what is staged.

    Raises:
        KeysUnexplainedError: Other keys are staged, or it held them before.
    """
    staged = schedule.staged
    if (
        staged is None
        or (statement.epoch, statement.keys) != (staged.epoch, staged.keys)
        or statement.signing_key in staged.holders
    ):
        raise KeysUnexplainedError(
            "an instance holds keys that are not staged, or held them before",
            got=f"epoch {statement.epoch}",
            expected="nothing" if staged is None else f"epoch {staged.epoch}",
        )
    holders = (*staged.holders, statement.signing_key)
    kept = msgspec.structs.replace(staged, holders=holders)
    return msgspec.structs.replace(schedule, staged=kept)


def activate(
    schedule: Schedule, counts: Callable[[AccountId], bool], *, height: Height
) -> Schedule:
    """The schedule in which the staged epoch will act, if enough hold it."""
    staged = schedule.staged
    if staged is None:
        return schedule
    holders = tuple(one for one in staged.holders if counts(one))
    if len(holders) < schedule.rules.rotation_quorum:
        kept = msgspec.structs.replace(staged, holders=holders)
        return msgspec.structs.replace(schedule, staged=kept)
    epoch = KeyEpoch(
        epoch=staged.epoch,
        keys=staged.keys,
        valid_from=Height(max(height + _DELAY, schedule.epochs[-1].valid_from + 1)),
        grace=staged.due.grace,
        not_before=staged.due.not_before,
    )
    return msgspec.structs.replace(
        schedule, epochs=(*schedule.epochs, epoch), staged=None, rotation=None
    )


def _require(holds: object, what: str, *, got: object, expected: object) -> None:
    if not holds:
        raise KeysUnexplainedError(what, got=got, expected=expected)
