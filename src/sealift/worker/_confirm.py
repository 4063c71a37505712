"""What a worker says on L1 of the blocks that its enclave executed.

Confirmations are pipelined: the next is signed before the last one is in a
block. Where L1 refuses one, those behind it are refused too; a new round then
begins at L1's frontier, and what becomes of the old round is not heard any more.

Where several platforms must agree on a root (``root_quorum``), they must say the
same range. Each would end its own at its newest block, and no two ever the same
one. So a round begins with a range that others have said on L1 already.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Final

import msgspec

from sealift.base import AccountId, Height, PlatformId, SealiftError, ShardId
from sealift.ledger import SignedConfirmation
from sealift.protocol import Confirmation
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
        l1: Where the frontier stands and who has said what, as the node says.
        store: Where orders wait for L1's answer.
        outbox: The operator's L1 acts.
        shard: Whose worker this is.
        me: The enclave's signing key.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        l1: L1Source,
        store: WorkerStore,
        outbox: Outbox,
        shard: ShardId,
        me: AccountId,
    ) -> None:
        self._channel = channel
        self._me = me
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
            await self._see_whether_it_counts()
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
            if await self._say_from(after, durable):
                return
        self._wait()

    async def _say_from(self, after: Height, durable: Height) -> bool:
        """Begin a round with what others say, then say the rest behind it.

        What this instance has said of all of it waits for others on L1: it is not
        said again. Whether nothing more is to be said now.
        """
        number = self._round
        votes = await self._votes_from(after)
        for last in _said_by_others(votes, me=self._me, durable=durable):
            if await self._sign(last, after):
                if number != self._round:
                    return True
                return await self._sign(durable, last)
        if any(_is_mine(one, self._me, durable) for one in votes):
            return await self._sign(durable, durable)
        return await self._sign(durable, after)

    async def _votes_from(self, after: Height) -> tuple[SignedConfirmation, ...]:
        """What L1 holds of ranges that begin after a block (a hint)."""
        try:
            votes = await self._l1.votes(self._shard)
        except SealiftError as error:
            self.last_refusal = str(error)
            return ()
        return tuple(one for one in votes if one.confirmation.first == after + 1)

    async def _see_whether_it_counts(self) -> None:
        """What L1 took, and others did not say since, is looked after again."""
        if self.signed is None or self._unheard:
            return
        try:
            frontier = await self._l1.confirmed(self._shard)
        except SealiftError as error:
            self.last_refusal = str(error)
            return
        if frontier is not None and frontier < self.signed:
            self._begin_round()

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
            if durable == self._durable and self._owes_certificate:
                self._owes_certificate = False  # until L1 refuses it
                self._send_certificate(reply)
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

    def _send_certificate(self, reply: Confirmed) -> None:
        if reply.certificate is not None:
            self._tries += 1
            args: dict[str, object] = {
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


def _said_by_others(
    votes: Iterable[SignedConfirmation], *, me: AccountId, durable: Height
) -> list[Height]:
    """Where ranges end that others have said and this instance has not.

    The one that most platforms said comes first; of equals the longest. Ranges that
    go beyond what is durable here are left out.
    """
    mine: set[Height] = set()
    others: defaultdict[Confirmation, set[PlatformId]] = defaultdict(set)
    for one in votes:
        claim = one.confirmation
        if claim.signing_key == me:
            mine.add(claim.last)
        elif claim.last <= durable:
            whoever = msgspec.structs.replace(claim, signing_key=me)
            others[whoever].add(one.platform_id)
    most: dict[Height, int] = {}
    for claim, platforms in others.items():
        most[claim.last] = max(most.get(claim.last, 0), len(platforms))
    lasts = [last for last in most if last not in mine]
    return sorted(lasts, key=lambda last: (most[last], last), reverse=True)


def _is_mine(vote: SignedConfirmation, me: AccountId, last: Height) -> bool:
    claim = vote.confirmation
    return claim.signing_key == me and claim.last == last
