"""Effects' way to L1: from the disk, until L1 has executed them (DESIGN §10.9).

A block's effects become durable with the block. What L1 has not executed is
said again, with growing pauses, also after any crash: it executes each once.
What others executed and L1 lacks words for, the enclave says from its state.
"""

from functools import partial
from typing import Final

from sealift.base import Height, SealiftError, ShardId
from sealift.ledger import CODES
from sealift.protocol.ecall import EffectsSpoken, SpeakEffects

from ._channel import EnclaveChannel
from ._errors import EnclaveGoneError
from ._feed import L1Source
from ._outbox import Act, Included, Outbox
from ._store import PendingEffects, WorkerStore

POST_EFFECTS: Final = "enclave_bridge.post_effects"
#: Blocks whose effects are looked after at once, the oldest first: L1 executes
#: them in order.
MOST_AT_ONCE: Final = 16
#: Pauses, in blocks: between refusals 1, 2, 4 …, …
LONGEST_PAUSE: Final = 256
#: … and before a word that L1 took is said again: it may have been dropped with
#: a dispute, or count no more because an attestation lapsed.
WORD_BLOCKS: Final = 512

#: After so many blocks of L1 the enclave is asked what others left unsaid.
SPEAK_EVERY: Final = 16

#: L1 has executed them already, or others of a later block.
_DONE: Final = frozenset({"EffectsDoneError"})
#: L1 has this platform's word; others' are missing.
_SAID: Final = frozenset({"EffectsRepeatedError"})
#: What L1 will never take: saying it again is a waste.
_NEVER: Final = frozenset(
    {
        "EffectsMismatchError",
        "EffectsRefutedError",
        "StatementForeignError",
        "StatementSignatureError",
        "VoidedGenerationError",
        "WrongGenerationError",
    }
)
_NAMES: Final = {code: name for name, code in CODES.items()}


class EffectsCarrier:
    """Carries the effects of durable blocks to L1 until it has executed them.

    Args:
        channel: The enclave.
        l1: How far L1 has executed them, as the node says.
        store: Where they wait.
        outbox: The operator's L1 acts.
        shard: Whose effects.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        l1: L1Source,
        store: WorkerStore,
        outbox: Outbox,
        shard: ShardId,
    ) -> None:
        self._channel = channel
        self._l1 = l1
        self._store = store
        self._outbox = outbox
        self._shard = shard
        self.last_refusal = ""
        self._imports = 0
        self._underway: set[Height] = set()
        self._due_at: dict[Height, int] = {}
        self._tries: dict[Height, int] = {}
        self._refused: set[Height] = set()

    def executed(self) -> None:
        """A block is durable: say at once what it does."""
        for pending in self._store.effects(most=MOST_AT_ONCE):
            self._say(pending)

    async def imported(self) -> None:
        """A block of L1 went by: forget what is executed, say again what is due."""
        self._imports += 1
        if self._imports % SPEAK_EVERY == 0:
            await self._ask_enclave()
        waiting = self._store.effects(most=MOST_AT_ONCE)
        if not waiting:
            return
        try:
            done = await self._l1.effects_done(self._shard)
        except SealiftError as error:
            self.last_refusal = str(error)
            return
        for pending in waiting:
            if done is not None and pending.height <= done:
                self._over(pending.height)
            else:
                self._say(pending)

    async def _ask_enclave(self) -> None:
        """Have it say what confirmed blocks do that L1 has not executed."""
        try:
            done = await self._l1.effects_done(self._shard)
            request = SpeakEffects(after=Height(0) if done is None else done)
            spoken = await self._channel.call(request, EffectsSpoken)
        except EnclaveGoneError:
            raise
        except SealiftError as error:  # an older bundle does not know the question
            self.last_refusal = str(error)
            return
        for block in spoken.blocks:
            if block.statement.height not in self._refused:
                self._store.put_effects(block)

    def _say(self, pending: PendingEffects) -> None:
        height = pending.height
        if height in self._underway:
            return
        if pending.said and height not in self._due_at:  # by an earlier run
            self._due_at[height] = self._imports + WORD_BLOCKS
        if self._imports < self._due_at.get(height, 0):
            return
        self._underway.add(height)
        block = pending.effects
        args: dict[str, object] = {
            "statement": block.statement,
            "signature": block.signature,
            "effects": block.effects,
        }
        heard = partial(self._heard, height)
        self._outbox.put(Act(call=POST_EFFECTS, args=args, heard=heard))

    async def _heard(self, height: Height, outcome: Included | SealiftError) -> None:
        self._underway.discard(height)
        if isinstance(outcome, SealiftError):
            self._again(height, str(outcome))
            return
        name = _NAMES.get(outcome.code, "")
        if name in _DONE:
            self._over(height)
        elif not outcome.code or name in _SAID:
            self._tries.pop(height, None)
            self._due_at[height] = self._imports + WORD_BLOCKS
            self._store.effects_said(height)
        elif name in _NEVER:
            self.last_refusal = f"{name}: {outcome.log}"
            self._refused.add(height)
            self._over(height)
        else:  # too early, too many, disputed, not attested just now
            self._again(height, outcome.log)

    def _again(self, height: Height, why: str) -> None:
        self.last_refusal = why
        tries = self._tries.get(height, 0)
        self._tries[height] = min(tries + 1, 32)
        self._due_at[height] = self._imports + min(1 << tries, LONGEST_PAUSE)

    def _over(self, height: Height) -> None:
        self._store.drop_effects(height)
        self._due_at.pop(height, None)
        self._tries.pop(height, None)
