"""The next key epoch: making its secrets, and vouching for holding them."""

from typing import Final

import msgspec

from sealift.base import Digest, Epoch, encode
from sealift.crypto import hkdf
from sealift.protocol import (
    EpochKeys,
    HoldKeysStatement,
    RotationDue,
    Schedule,
    StageKeysStatement,
    rotation_demand,
)
from sealift.protocol.ecall import KeysHeld, KeysStaged
from sealift.provisioning import epoch_public

from ._epochs import staged_here
from ._errors import (
    NoKeysError,
    NoRotationDueError,
    NothingStagedError,
    NotNamedError,
    NotQuotedError,
    RotationTooEarlyError,
    StagedElsewhereError,
)
from ._keystore import new_epoch_keys, seal_key_store
from ._shard import Shard

_DERIVED: Final = "sealift/re-derived-key/v1"


def stage_keys(shard: Shard) -> KeysStaged:
    """Make the secrets of the epoch that is due; L1 takes one such set (§12).

    1. A rotation is due in the proven schedule, and no other instance's keys
    stand for it, or L1 has given them up. 2. This code runs the frontier and the
    newest block, as a generation that the rotation is for and that has confirmed
    a block: an older one never makes what a younger one shall have. 3. All acting
    epochs are held.
    4. Keys are made under the registration that this process had quoted last: what
    was made before, on a platform that may have been another's, is not used.
    5. At an upgrade each secret goes by the handover policy; for any other
    reason all are fresh. Asked again for the same demand and under the same
    registration, or before this process has made one, it is the same keys.

    The key store is made durable before L1 hears of them.

    Raises:
        HaltedError: The chain has forked.
        NoRotationDueError: 1: none is.
        StagedElsewhereError: 1: request them.
        NotNamedError: 2: other code runs the shard.
        RotationTooEarlyError: 2: nothing was confirmed yet.
        NoKeysError: 3.
        NotQuotedError: 4: register.
    """
    shard.check_going()
    # 1.
    schedule = shard.view.schedule
    staged = None if schedule is None else schedule.staged
    due = None if schedule is None else schedule.rotation
    given_up = schedule is not None and _given_up(schedule, shard.view.height)
    if staged is not None and not given_up:
        due = staged.due
    if schedule is None or due is None:
        raise NoRotationDueError("no rotation is due", got="none in the schedule")
    published = staged_here(shard.keys, staged)
    if staged is not None and not given_up and not (published and shard.keys.demand):
        raise StagedElsewhereError(
            "another instance's keys are staged",
            got=staged.epoch,
            hint="Request them, and say that they are held.",
        )
    # 2.
    _check_entitled(shard, due)
    # 3.
    for epoch in schedule.epochs:
        shard.keys.epoch(epoch.epoch)
    again = published and not given_up
    demand = shard.keys.demand if again else rotation_demand(schedule)
    keys, made_under = shard.keys.staged, shard.keys.registration
    spent = published and given_up  # L1 takes no keys twice
    stale = not again and shard.registration not in {None, made_under}
    if keys is None or demand is None or demand != shard.keys.demand or spent or stale:
        # 4.
        made_under = shard.registration
        if made_under is None:
            raise NotQuotedError("this process has made no registration yet")
        # 5.
        keys = _next_keys(shard, schedule, due)
    store = msgspec.structs.replace(
        shard.keys, staged=keys, demand=demand, registration=made_under
    )
    sealed = seal_key_store(store, shard.platform, entropy=shard.entropy)
    statement = StageKeysStatement(
        chain_id=shard.chain_id,
        shard=shard.shard,
        epoch=keys.epoch,
        keys=epoch_public(keys),
        signing_key=store.signing_key,
        demand=demand,
        registration=made_under,
    )
    shard.keys = store
    return KeysStaged(
        statement=statement, signature=statement.sign(store.seed), key_store=sealed
    )


def _given_up(schedule: Schedule, height: int) -> bool:
    """Whether L1 takes other keys than the staged ones in the next block.

    Whoever staged them may be dead, and nobody else got them: as long as a rescue
    takes, they may still come to act.
    """
    staged = schedule.staged
    return (
        staged is not None
        and height + 1 >= staged.staged_at + schedule.rules.rescue_after
    )


def hold_keys(shard: Shard) -> KeysHeld:
    """Vouch on L1 for holding the staged epoch's keys, sealed.

    1. An epoch is staged in the proven schedule. 2. These very keys are held.

    Raises:
        HaltedError: The chain has forked.
        NothingStagedError: 1.
        NoKeysError: 2: request them.
    """
    shard.check_going()
    # 1.
    staged = None if shard.view.schedule is None else shard.view.schedule.staged
    if staged is None:
        raise NothingStagedError("no epoch is staged")
    # 2.
    if not staged_here(shard.keys, staged):
        held = shard.keys.staged
        raise NoKeysError(
            "the staged epoch's keys are not held",
            got="none" if held is None else f"other keys of epoch {held.epoch}",
            expected=f"those of epoch {staged.epoch} on L1",
            hint="Request them.",
        )
    statement = HoldKeysStatement(
        chain_id=shard.chain_id,
        shard=shard.shard,
        epoch=staged.epoch,
        keys=staged.keys,
        signing_key=shard.keys.signing_key,
    )
    return KeysHeld(statement=statement, signature=statement.sign(shard.keys.seed))


def _check_entitled(shard: Shard, due: RotationDue) -> None:
    """Return only if this code may make the keys that are due."""
    view, frontier = shard.view, shard.view.frontier
    running = view.entry_at(view.height)
    first = None if frontier is None else view.entry_at(frontier.confirmed + 1)
    if (
        running is None
        or running != first
        or running.generation < due.generation
        or not shard.is_mine(view.height)
    ):
        raise NotNamedError(
            "this code may not make the next keys",
            got=shard.me.mrenclave,
            expected="the code of the frontier and of the newest block, as "
            f"generation {due.generation} or later",
        )
    if frontier is None or frontier.generation < due.generation:
        raise RotationTooEarlyError(
            "the generation that the keys are for has confirmed nothing yet",
            got="no frontier"
            if frontier is None
            else f"block {frontier.confirmed} by generation {frontier.generation}",
            expected=f"a block confirmed by generation {due.generation}",
        )


def _next_keys(shard: Shard, schedule: Schedule, due: RotationDue) -> EpochKeys:
    """The secrets of the next epoch, each by what shall become of it."""
    fresh = new_epoch_keys(due.epoch, shard.entropy)
    if due.why != "upgrade":
        return fresh
    before = shard.keys.epoch(Epoch(due.epoch - 1))
    order = schedule.entry(due.generation).order
    policy = schedule.rules.handover

    def next_of(how: str, name: str, old: bytes, new: bytes) -> bytes:
        match how:
            case "pass":
                return old
            case "re-derive":
                return hkdf(old, info=_derivation(shard, due, order, name))
            case _:
                return new

    return EpochKeys(
        epoch=due.epoch,
        shielding_secret=next_of(
            policy.shielding,
            "shielding",
            before.shielding_secret,
            fresh.shielding_secret,
        ),
        state_key=next_of(policy.state, "state", before.state_key, fresh.state_key),
        root_key=next_of(policy.root, "root", before.root_key, fresh.root_key),
    )


def _derivation(shard: Shard, due: RotationDue, order: Digest, name: str) -> bytes:
    named = (shard.chain_id, shard.shard, due.epoch, name, due.generation, order)
    return _DERIVED.encode() + b"\x00" + encode(named)
