"""Which keys a block has, and what L1 makes of keys that are held (DESIGN §12)."""

import msgspec

from sealift.base import Epoch
from sealift.protocol import (
    EpochKeys,
    KeyEpoch,
    KeyPackage,
    NoEpochError,
    Schedule,
    StagedEpoch,
    accepted_epochs,
    epoch_at,
    rotation_demand,
)
from sealift.provisioning import epoch_public

from ._errors import KeysContradictedError, WrongEpochError
from ._keystore import KeyStore
from ._view import BIRTH_EPOCH, ChainView


def epoch_of(schedule: Schedule | None, height: int) -> Epoch:
    """The epoch whose keys make root, diff and snapshot of a block.

    The genesis state, which is below every epoch, has the first one's.
    """
    if schedule is None:
        return BIRTH_EPOCH
    try:
        return epoch_at(schedule, height).epoch
    except NoEpochError:
        return BIRTH_EPOCH


def taken_epochs(schedule: Schedule | None, height: int) -> tuple[Epoch, ...]:
    """The epochs whose calls are taken in a block."""
    return () if schedule is None else accepted_epochs(schedule, height)


def missing_epochs(
    keys: KeyStore, schedule: Schedule | None, height: int
) -> tuple[Epoch, ...]:
    """What is not held of the epochs without which a block can't be executed.

    They are the block's own and those whose calls it takes: whoever lacks one
    would come to another root than the others.
    """
    needed = {epoch_of(schedule, height), *taken_epochs(schedule, height)}
    return tuple(sorted(needed - {held.epoch for held in keys.epochs}))


def check_epoch(view: ChainView, epoch: int, height: int, *, what: str) -> None:
    """Return only if something made under ``epoch`` may be of this height.

    Epochs only rise. For a height above the last followed block the newest
    epoch is not known yet: a later one than now may be, an earlier one never;
    what was let in so is judged when the block is followed.

    Raises:
        WrongEpochError: It may not.
    """
    wanted = epoch_of(view.schedule, height)
    if epoch == wanted or (epoch > wanted and height > view.height):
        return
    raise WrongEpochError(
        f"{what} of block {height} is made under another epoch's keys",
        got=epoch,
        expected=wanted,
    )


def secrets_of(keys: KeyStore, acting: KeyEpoch) -> EpochKeys:
    """The secrets of an epoch that acts, also where they are held as staged still.

    A session's proof may show a block earlier than the record does that it acts.

    Raises:
        NoKeysError: They are not held.
    """
    held = keys.staged
    if (
        held is not None
        and held.epoch == acting.epoch
        and epoch_public(held) == acting.keys
    ):
        return held
    return keys.epoch(acting.epoch)


def staged_here(keys: KeyStore, staged: StagedEpoch | None) -> bool:
    """Whether these very staged keys are held for later."""
    held = keys.staged
    return (
        staged is not None
        and held is not None
        and held.epoch == staged.epoch
        and epoch_public(held) == staged.keys
    )


def settle_epochs(keys: KeyStore, schedule: Schedule | None) -> KeyStore:
    """What the proven schedule makes of the staged keys that are held.

    Once their epoch acts they become the shard's, or, if others act under its
    number, never were. Until then they are kept, whatever else is staged.
    """
    held = keys.staged
    acting = None if schedule is None or held is None else _acting(schedule, held)
    if held is None or acting is None:
        return keys
    settled = msgspec.structs.replace(keys, staged=None, demand=None, registration=None)
    if epoch_public(held) != acting.keys or held.epoch in _numbers(keys):
        return settled
    return msgspec.structs.replace(settled, epochs=_sorted((*keys.epochs, held)))


def with_package(
    keys: KeyStore, package: KeyPackage, schedule: Schedule, now: Schedule | None
) -> KeyStore:
    """The key store with what provisioning brought; it loses no secret.

    1. An epoch that is held is the same in the package. 2. Acting epochs are
    added. 3. The staged one takes the place of one that L1 did not take; but not
    of one that was made here for a rotation demanded since.

    Args:
        keys: What is held.
        package: Checked against ``schedule``.
        schedule: Proven in the session.
        now: The schedule as followed meanwhile.

    Raises:
        KeysContradictedError: 1.
    """
    merged = {held.epoch: held for held in keys.epochs}
    store = msgspec.structs.replace(keys, candidate=None)
    for got in package.epochs:
        # 1.
        if merged.get(got.epoch, got) != got:
            raise KeysContradictedError(
                "other keys of this epoch are held already", got=got.epoch
            )
        # 2.
        if _acting(schedule, got) is not None:
            merged[got.epoch] = got
        # 3.
        elif not _made_since(keys, schedule, now) and keys.staged != got:
            store = msgspec.structs.replace(
                store, staged=got, demand=None, registration=None
            )
    store = msgspec.structs.replace(store, epochs=_sorted(tuple(merged.values())))
    return settle_epochs(settle_epochs(store, schedule), now)


def _made_since(keys: KeyStore, schedule: Schedule, now: Schedule | None) -> bool:
    """Whether the staged keys were made here for what was demanded since."""
    return (
        keys.demand is not None
        and now is not None
        and now.serial >= schedule.serial
        and keys.demand == rotation_demand(now) != rotation_demand(schedule)
    )


def _acting(schedule: Schedule, keys: EpochKeys) -> KeyEpoch | None:
    return next((one for one in schedule.epochs if one.epoch == keys.epoch), None)


def _numbers(keys: KeyStore) -> set[Epoch]:
    return {held.epoch for held in keys.epochs}


def _sorted(epochs: tuple[EpochKeys, ...]) -> tuple[EpochKeys, ...]:
    return tuple(sorted(epochs, key=lambda held: held.epoch))
