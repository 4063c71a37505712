"""Saying again what confirmed blocks do on L1 and L1 has not executed (§10.9)."""

from typing import Final

from sealift.base import encode
from sealift.protocol import BlockEffects, EffectsStatement, effects_digest
from sealift.protocol.ecall import EffectsSpoken, SpeakEffects

from ._judge import root_at
from ._shard import Shard

#: Most bytes of effects in one reply, about; what is above waits for the next.
MAX_SPOKEN_BYTES: Final = 4 * 1024 * 1024


def speak_effects(shard: Shard, request: SpeakEffects) -> EffectsSpoken:
    """This instance's word for what waits in the state, whoever executed it.

    Who ran those blocks may be evicted, replaced or lost before enough platforms
    have said what they do. The state keeps it until L1 has executed it, so whoever
    has the confirmed state can say it too (ADR 0020).

    1. This code runs the newest block. 2. The state at the frontier is the
    confirmed one: of later blocks nothing is said here. 3. The words, ascending,
    each naming the generation that ran its block. Where 1 or 2 don't hold there
    are none.

    Raises:
        HaltedError: The chain has forked.
        DivergedStateError: The state is not the confirmed one.
    """
    shard.check_going()
    state, frontier = shard.sound_state(), shard.view.frontier
    # 1.
    if state is None or frontier is None or not shard.is_mine(shard.view.height):
        return EffectsSpoken(blocks=())
    # 2.
    if root_at(state, frontier.confirmed) != frontier.root:
        return EffectsSpoken(blocks=())
    # 3.
    spoken: list[BlockEffects] = []
    size = 0
    for block in shard.executor.outstanding(
        state.store, height=state.height, time=state.time
    ):
        entry = shard.view.entry_at(block.height)
        wanted = request.after < block.height <= frontier.confirmed
        if not wanted or entry is None:
            continue
        size += len(encode(block.effects))
        if spoken and size > MAX_SPOKEN_BYTES:
            break
        statement = EffectsStatement(
            chain_id=shard.chain_id,
            shard=shard.shard,
            generation=entry.generation,
            height=block.height,
            previous=block.previous,
            effects=effects_digest(block.effects),
            signing_key=shard.keys.signing_key,
        )
        spoken.append(
            BlockEffects(
                statement=statement,
                signature=statement.sign(shard.keys.seed),
                effects=block.effects,
            )
        )
    return EffectsSpoken(blocks=tuple(spoken))
