"""Answering signed reads (DESIGN §9)."""

from sealift.protocol import GetterReply, seal_reply
from sealift.protocol.ecall import Answer, Ask
from sealift.stf import (
    GetterArgumentsError,
    GetterFailedError,
    UnknownGetterError,
    open_and_verify_getter,
)

from ._epochs import taken_epochs
from ._errors import NoStateError, NotServingError
from ._judge import check_confirmed
from ._shard import Shard


def ask(shard: Shard, request: Ask) -> Answer:
    """Answer a sealed getter to the one who signed it.

    1. This code runs the newest block that was followed, its SVN is not below the
    shard's floor, and it wrote the state: between block XYZ and its execution the
    records are still the old code's. 2. The getter opens under an epoch whose calls are
    taken, is for this shard and is signed. 3. The state is as new as the reader
    wants, the getter not expired. 4. The reply says what it is true of: state
    height, root, confirmed or not, head height and time.

    Raises:
        NotServingError: 1.
        NoStateError: There is no state.
        DivergedStateError: The state is not the confirmed one.
        StateUnconfirmedError: It came from elsewhere, and L1 does not cover it.
        SealiftError: 2 or 3, as the STF's functions.
    """
    shard.check_going()
    # 1.
    view = shard.view
    floor = 0 if view.schedule is None else view.schedule.status.min_isv_svn
    if not shard.is_mine(view.height) or shard.me.isv_svn < floor:
        raise NotServingError(
            "this code does not run the shard now",
            got=shard.me.mrenclave,
            expected=f"the generation of block {view.height}",
        )
    state = shard.sound_state()
    if state is None:
        raise NoStateError("there is no state to read")
    check_confirmed(shard, state)
    if not shard.executor.wrote(state.store, height=state.height, time=state.time):
        raise NotServingError(
            "the state is not migrated to this code yet",
            got=f"the state after block {state.height}",
            expected="that after the first block of this code",
        )
    # 2.
    getter = open_and_verify_getter(
        request.envelope,
        keys=_readers_keys(shard),
        chain_id=shard.chain_id,
        shard=shard.shard,
    )
    # 3.
    try:
        value = shard.executor.answer(
            state.store, getter, height=state.height, head=view.height, time=state.time
        )
    except (UnknownGetterError, GetterArgumentsError, GetterFailedError) as error:
        # The host carried it sealed: it hears neither what was asked nor why not.
        raise type(error)("the getter was refused") from None
    # 4.
    reply = GetterReply(
        value=value,
        state_height=state.height,
        root=state.root,
        confirmed=view.frontier is not None and view.frontier.confirmed >= state.height,
        head_height=view.height,
        head_time=view.time,
    )
    sealed = seal_reply(reply, reply_key=getter.body.reply_key, entropy=shard.entropy)
    return Answer(sealed=sealed)


def _readers_keys(shard: Shard) -> dict[int, bytes]:
    """Secrets of the epochs whose calls are taken now or in the next block.

    Whoever holds older ones only could open a getter that is sealed to them, and
    with the reply key in it the reply.
    """
    view = shard.view
    taken = {
        *taken_epochs(view.schedule, view.height),
        *taken_epochs(view.schedule, view.height + 1),
    }
    secrets = shard.keys.shielding_secrets
    return {epoch: secrets[epoch] for epoch in secrets if epoch in taken}
