"""How a shard's keys follow each other: staged, held, acting. Pure (DESIGN §12).

Whether who stages and holds is eligible is asked of the registry.
"""

from collections.abc import Collection

import msgspec

from sealift.base import AccountId, Digest, Height, encode
from sealift.protocol import (
    EnclaveRecord,
    EpochKeysPublic,
    Frontier,
    Handover,
    KeyEpoch,
    RotationDue,
    Schedule,
    ShardRules,
    ShardStatus,
    StagedEpoch,
    rotation_demand,
)

from ._errors import (
    EpochHeldError,
    EpochOrderError,
    EpochStagedError,
    KeyPolicyError,
    NoRotationError,
    NothingStagedError,
    RotationAttestationError,
    RotationDemandError,
    RotationEarlyError,
    ScheduleFullError,
    StagedKeysError,
)
from ._orders import MAX_SCHEDULE_BYTES

#: An epoch acts so many blocks after the one in which enough hold it: the record
#: that says so is proven in the block between.
EPOCH_DELAY = 2
#: A holder's key in the schedule's encoding.
_HOLDER_BYTES = 34


def require_due(
    schedule: Schedule, epoch: int, *, frontier: Frontier, height: int
) -> RotationDue:
    """The rotation that is owed, if this epoch's keys may be staged now.

    1. One is owed, and to this epoch.
    2. The generation that owes it has confirmed a block.
    3. None are staged; or so long that whoever staged them is given up.

    Raises:
        NoRotationError: 1.
        EpochOrderError: 1.
        RotationEarlyError: 2.
        EpochStagedError: 3.
    """
    due = schedule.rotation
    if due is None:  # 1
        raise NoRotationError("no rotation is owed", got=epoch)
    if epoch != due.epoch:
        raise EpochOrderError(
            "another epoch is to be staged", got=epoch, expected=due.epoch
        )
    if frontier.generation < due.generation:  # 2
        raise RotationEarlyError(
            "the generation that owes the keys has confirmed no block",
            got=f"generation {frontier.generation} at {frontier.confirmed}",
            expected=f"≥ {due.generation}",
        )
    staged = schedule.staged
    if staged is not None:  # 3
        given_up = staged.staged_at + restage_after(schedule.rules)
        if height < given_up:
            raise EpochStagedError(
                "keys of this epoch are staged already",
                got=f"block {height}",
                expected=f"≥ {given_up}, if they don't act by then",
            )
    return due


def verify_demand(schedule: Schedule, demand: Digest | None) -> None:
    """Return if keys were made for the rotation that is owed now.

    Keys that were made before a stricter demand may be held by whom it shuts out.

    Raises:
        RotationDemandError: They were made for another one.
    """
    wanted = rotation_demand(schedule)
    if demand != wanted:
        raise RotationDemandError(
            "keys were made for another demand than the one that stands",
            got=demand or "none",
            expected=wanted,
        )


def verify_attested(
    record: EnclaveRecord, registration: Digest | None, due: RotationDue
) -> None:
    """Return if keys were made under the registration that acts, late enough.

    Who makes keys on a platform that the demand shuts out, and is attested anew
    before it publishes them, would give them to whoever broke the platform.

    Args:
        record: Of the instance that made them.
        registration: Digest of the statement that it says it made them under.
        due: The rotation.

    Raises:
        RotationAttestationError: Another registration acts, or the block that this
            one names is below the demand's ``not_before``.
    """
    acting = record.statement.digest()
    if registration != acting:
        raise RotationAttestationError(
            "keys were made under another registration than the acting one",
            got=registration or "none",
            expected=acting,
            hint="Attest, then make keys anew",
        )
    if record.statement.block_height < due.not_before:
        raise RotationAttestationError(
            "keys were made under a registration from before the demand",
            got=f"made at block {record.statement.block_height}",
            expected=f"≥ {due.not_before}",
            hint="Attest, then make keys anew",
        )


def restage_after(rules: ShardRules) -> int:
    """Blocks after which staged keys that don't act are given up."""
    return rules.rescue_after


def verify_keys(schedule: Schedule, keys: EpochKeysPublic, due: RotationDue) -> None:
    """Return if the keys follow the shard's handover policy.

    At an upgrade, what is passed is the last epoch's. Everything else is unlike
    that of every earlier epoch, and of the keys that were staged and given up:
    who was shut out may have them.

    Raises:
        KeyPolicyError: They don't.
    """
    handover = schedule.rules.handover
    policies: dict[str, Handover] = {
        "shielding_key": handover.shielding,
        "state_key_commitment": handover.state,
        "root_key_commitment": handover.root,
    }
    former = [one.keys for one in schedule.epochs]
    if schedule.staged is not None:
        former.append(schedule.staged.keys)
    for name, policy in policies.items():
        key: Digest = getattr(keys, name)
        if due.why == "upgrade" and policy == "pass":
            passed: Digest = getattr(schedule.epochs[-1].keys, name)
            if key != passed:
                raise KeyPolicyError(
                    f"{name} is passed on in this shard", got=key, expected=passed
                )
        elif any(getattr(one, name) == key for one in former):
            raise KeyPolicyError(f"{name} is an earlier epoch's", got=key)


def stage(
    schedule: Schedule,
    keys: EpochKeysPublic,
    due: RotationDue,
    *,
    signing_key: AccountId,
    height: Height,
) -> Schedule:
    """The schedule with staged keys that one instance holds.

    Raises:
        ScheduleFullError: It has no room for one epoch more.
    """
    staged = StagedEpoch(
        epoch=due.epoch,
        keys=keys,
        due=due,
        staged_at=height,
        holders=(signing_key,),
    )
    after = msgspec.structs.replace(schedule, staged=staged)
    epoch = _epoch(after, staged, height)
    others = schedule.rules.rotation_quorum * _HOLDER_BYTES
    size = len(encode(after)) + len(encode(epoch)) + others
    if size > MAX_SCHEDULE_BYTES:
        raise ScheduleFullError(
            "schedule has no room for one epoch more",
            got=f"{size} B",
            expected=f"≤ {MAX_SCHEDULE_BYTES} B",
        )
    return after


def require_staged(
    schedule: Schedule, epoch: int, keys: EpochKeysPublic, *, signing_key: AccountId
) -> StagedEpoch:
    """What is staged, if it is what an instance says that it holds now.

    Raises:
        NothingStagedError: Nothing is.
        StagedKeysError: Other keys are.
        EpochHeldError: The instance said so before.
    """
    staged = schedule.staged
    if staged is None:
        raise NothingStagedError("no keys are staged", got=epoch)
    if (epoch, keys) != (staged.epoch, staged.keys):
        raise StagedKeysError(
            "other keys are staged",
            got=f"epoch {epoch}, shielding key {keys.shielding_key.hex()}",
            expected=f"epoch {staged.epoch}, "
            f"shielding key {staged.keys.shielding_key.hex()}",
        )
    if signing_key in staged.holders:
        raise EpochHeldError("instance holds these keys already", got=signing_key)
    return staged


def hold(schedule: Schedule, staged: StagedEpoch, signing_key: AccountId) -> Schedule:
    """The schedule in which one instance more holds what is staged."""
    holders = (*staged.holders, signing_key)
    return msgspec.structs.replace(
        schedule, staged=msgspec.structs.replace(staged, holders=holders)
    )


def activate(
    schedule: Schedule, counting: Collection[AccountId], *, height: Height
) -> tuple[Schedule, KeyEpoch | None]:
    """The schedule in which the staged epoch will act, if enough hold it.

    Args:
        schedule: With something staged.
        counting: Holders that are eligible now; the others are dropped.
        height: This block.
    """
    staged = schedule.staged
    if staged is None:
        return schedule, None
    holders = tuple(one for one in staged.holders if one in counting)
    if len(holders) < schedule.rules.rotation_quorum:
        kept = msgspec.structs.replace(staged, holders=holders)
        return msgspec.structs.replace(schedule, staged=kept), None
    epoch = _epoch(schedule, staged, height)
    return msgspec.structs.replace(
        schedule, epochs=(*schedule.epochs, epoch), staged=None, rotation=None
    ), epoch


def narrowed_by(status: ShardStatus, due: RotationDue) -> ShardStatus:
    """The floors that who stages or holds must meet."""
    floor = Height(max(status.not_before, due.not_before))
    return msgspec.structs.replace(status, not_before=floor)


def _epoch(schedule: Schedule, staged: StagedEpoch, height: Height) -> KeyEpoch:
    after_last = schedule.epochs[-1].valid_from + 1
    return KeyEpoch(
        epoch=staged.epoch,
        keys=staged.keys,
        valid_from=Height(max(height + EPOCH_DELAY, after_last)),
        grace=staged.due.grace,
        not_before=staged.due.not_before,
    )
