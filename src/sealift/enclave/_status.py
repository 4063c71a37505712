"""How the enclave stands; nothing secret."""

from sealift.base import Epoch, Height
from sealift.protocol.ecall import EnclaveStatus

from ._shard import Shard


def status(shard: Shard) -> EnclaveStatus:
    """Head, state, keys, and why it has stopped, if it has.

    ``head`` is the height of the next block to import.
    """
    state = shard.state
    record = shard.view.record
    halted = "" if shard.relay.evidence is None else "fork"
    if state is not None and state.diverged:
        halted = state.diverged
    schedule = shard.view.schedule
    staged = shard.keys.staged
    due = None if schedule is None else schedule.rotation
    if schedule is not None and schedule.staged is not None:
        due = schedule.staged.due
    return EnclaveStatus(
        shard=shard.shard,
        signing_key=shard.keys.signing_key,
        head=Height(shard.view.height + 1),
        state_height=None if state is None else state.height,
        root=None if state is None else state.root,
        epochs=tuple(keys.epoch for keys in shard.keys.epochs),
        shielding_key=shard.shielding_key(),
        generation=None if record is None else record.generation,
        waiting=len(shard.queue),
        accounts_bytes=0 if state is None else state.store.size,
        halted=halted,
        staged=None if staged is None else staged.epoch,
        missing=_missing(shard),
        rotation_due=None if due is None else due.epoch,
        shadow=None if shard.shadow is None else int(100 * shard.shadow.pages.done),
    )


def _missing(shard: Shard) -> tuple[Epoch, ...]:
    schedule = shard.view.schedule
    acting = () if schedule is None else schedule.epochs
    held = {keys.epoch for keys in shard.keys.epochs}
    return tuple(one.epoch for one in acting if one.epoch not in held)
