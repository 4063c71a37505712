"""What a worker says on L1 of the blocks that its enclave executed.

Confirmations are pipelined: the next is signed before the last one is in a
block. Where L1 refuses one, those behind it are refused too; a new round then
begins at L1's frontier, and what becomes of the old round is not heard any more.
"""

from functools import partial
from typing import Final

from sealift.base import Height, SealiftError, ShardId
from sealift.protocol.ecall import Confirm, Confirmed, Executed

from ._channel import EnclaveChannel
from ._errors import EnclaveRefusedError
from ._feed import L1Source
from ._outbox import Act, Heard, Included, Outbox
from ._store import WorkerStore

#: Blocks without calls are confirmed at the latest with this many.
CONFIRM_EVERY: Final = 16
#: After so many blocks an unanswered confirmation counts as lost.
PATIENCE_BLOCKS: Final = 16
#: A certificate that L1 refuses so often is somebody else's by now.
CERTIFICATE_TRIES: Final = 5
_LONGEST_PAUSE: Final = 16


class Confirmer:
    """Has durable blocks confirmed on L1, and carries the orders they hold.

    Args:
        channel: The enclave, which signs.
        l1: Where the frontier stands, as the node says.
        store: Where orders wait for L1's answer.
        outbox: The operator's L1 acts.
        shard: Whose worker this is.
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
        #: The last block of the newest confirmation of this round.
        self.signed: Height | None = None
        self._durable: Height | None = None
        self._first: Height | None = None
        self._round = 0
        self._unheard = 0
        self._since_sent = 0
        self._refusals = 0
        self._pause = 0
        self._owes_certificate = False
        self._tries = 0
        self._carried: set[int] = set()
        self._imports = 0

    def restored(self, height: Height) -> None:
        """The state came back from disk; what of it is unconfirmed is owed."""
        self._durable = height
        self._owes_certificate = True
        self._carry_orders()

    async def executed(self, block: Executed) -> None:
        """A block is durable: confirm it at once if it matters, else later.

        Raises:
            EnclaveGoneError: The process has ended.
        """
        self._durable = block.height
        if self._first is None:  # what was signed or seen before is another's
            self._first = block.height
            self.signed, self._pause, self._refusals = None, 0, 0
        self._owes_certificate = block.last_of_generation
        self._tries = 0
        self._carry_orders()
        due = (
            block.calls > 0
            or block.last_of_generation
            or self.signed is None
            or block.height - self.signed >= CONFIRM_EVERY
        )
        if due and not self._pause:
            await self._confirm(block.height)

    async def imported(self) -> None:
        """A block of L1 went by: say again what L1 did not take.

        Raises:
            EnclaveGoneError: The process has ended.
        """
        self._imports += 1
        if self._imports % CONFIRM_EVERY == 0:
            self._carry_orders()
        self._since_sent += 1
        if self._unheard and self._since_sent > PATIENCE_BLOCKS:
            self._begin_round()
        if self._pause:
            self._pause -= 1
            return
        owed = self.signed is None or self._owes_certificate
        if self._durable is not None and owed:
            await self._confirm(self._durable)

    async def _confirm(self, durable: Height) -> None:
        if self.signed is not None and await self._sign(durable, self.signed):
            return
        for after in await self._begins():
            if await self._sign(durable, after):
                return
        self._wait()

    async def _sign(self, durable: Height, after: Height) -> bool:
        """Whether nothing more is to be said now."""
        if after >= durable:
            self.signed = after
            if after > durable:  # somebody has gone on from here
                self._owes_certificate = False
            if not self._owes_certificate:
                return True
        request = Confirm(durable=durable, after=min(after, durable))
        number = self._round
        try:
            reply = await self._channel.call(request, Confirmed)
        except EnclaveRefusedError as error:
            self.last_refusal = str(error)
            self.signed = None
            return False
        if number == self._round:  # else it begins where L1 has refused to
            self._send(reply)
        return True

    async def _begins(self) -> list[Height]:
        """Where a round may begin.

        At L1's frontier, or (a new generation before the old one's last
        confirmation is on L1) before the first block that was executed here.
        """
        try:
            frontier = await self._l1.confirmed(self._shard)
        except SealiftError as error:
            self.last_refusal = str(error)
            return []
        found = [] if frontier is None else [frontier]
        if self._first is not None and (frontier is None or self._first - 1 > frontier):
            found.append(Height(self._first - 1))
        return found

    def _send(self, reply: Confirmed) -> None:
        if reply.confirmation is not None:
            self.signed = reply.confirmation.last
            self._unheard += 1
            self._since_sent = 0
            args: dict[str, object] = {
                "confirmation": reply.confirmation,
                "signature": reply.signature,
                "effects": reply.effects,
            }
            heard = partial(self._heard_confirmation, self._round)
            self._put("enclave_bridge.confirm", args, heard)
        self._owes_certificate = False  # until L1 refuses it
        if reply.certificate is not None:
            self._tries += 1
            args = {
                "certificate": reply.certificate,
                "signature": reply.certificate_signature,
            }
            self._put("enclave_bridge.post_certificate", args, self._heard_certificate)

    def _put(self, call: str, args: dict[str, object], heard: Heard) -> None:
        self._outbox.put(Act(call=call, args=args, heard=heard))

    async def _heard_confirmation(
        self, number: int, outcome: Included | SealiftError
    ) -> None:
        if number != self._round:
            return
        self._unheard -= 1
        if isinstance(outcome, Included) and not outcome.code:
            self._refusals = 0
            return
        # Somebody else may have confirmed the same; begin at the frontier again.
        self._begin_round()
        self._wait()

    def _begin_round(self) -> None:
        self._round += 1
        self._unheard = 0
        self.signed = None

    def _wait(self) -> None:
        """Once at the next block, then after 2, 4, … blocks."""
        self._pause = min(1 << min(self._refusals, 8), _LONGEST_PAUSE) - 1
        self._refusals += 1

    async def _heard_certificate(self, outcome: Included | SealiftError) -> None:
        # Refused until the confirmation before it counts; asked again then.
        refused = isinstance(outcome, SealiftError) or bool(outcome.code)
        self._owes_certificate = refused and self._tries < CERTIFICATE_TRIES

    def _carry_orders(self) -> None:
        for number, order in self._store.orders():
            if number not in self._carried:
                self._carried.add(number)
                heard = partial(self._heard_order, number)
                self._put("enclave_bridge.submit_order", {"order": order}, heard)

    async def _heard_order(self, number: int, outcome: Included | SealiftError) -> None:
        # Included, L1 has decided; else it is carried again.
        self._carried.discard(number)
        if isinstance(outcome, Included):
            self._store.drop_order(number)
