"""A user: seals calls to the shard, opens receipts, asks."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Fingerprint,
    Height,
    Nonce,
    ShardId,
    encode,
)
from sealift.crypto import Entropy, account_of, sha256
from sealift.frame import Runtime
from sealift.protocol import (
    Getter,
    GetterBody,
    GetterReply,
    Receipt,
    Schedule,
    SealedReceipt,
    TrustedCall,
    TrustedCallBody,
    epoch_at,
    open_receipt,
    open_reply,
    seal_message,
)
from sealift.protocol.ecall import Answer, Ask

from ._chain import Sent, WorldChain
from ._errors import WorldError
from ._worker import WorldWorker


class Counter(Protocol):
    """What a user needs of the world."""

    chain: WorldChain

    def schedule_now(self) -> Schedule:
        """The schedule after the last block."""
        ...

    @property
    def shard(self) -> ShardId:
        """The shard."""
        ...

    def sealed_receipt(self, envelope: Digest) -> SealedReceipt | None:
        """The receipt that any worker has for an envelope."""
        ...

    def serving(self) -> WorldWorker:
        """The worker that answers reads now."""
        ...

    def running_runtime(self) -> Runtime:
        """The runtime of the generation that runs the next block."""
        ...

    def carry(self, shard: ShardId, envelope: bytes) -> Sent:
        """Have an envelope carried to L1 with the next block."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCall:
    """A call on its way, and later its receipt."""

    world: Counter
    body: TrustedCallBody
    envelope: bytes
    sent: Sent

    @property
    def height(self) -> Height:
        """The block that it stands in.

        Raises:
            WorldError: It is in no block yet.
            RefusedError: L1 refused it.
        """
        height = self.sent.check().height
        if height is None:
            raise WorldError("the call is in no block yet")
        return height

    def find_receipt(self) -> Receipt | None:
        """Its receipt, if some worker has it."""
        sealed = self.world.sealed_receipt(sha256(self.envelope))
        if sealed is None:
            return None
        return open_receipt(
            sealed,
            reply_key=self.body.reply_key,
            block_hash=self.world.chain.hash_of(sealed.height),
        )

    def receipt(self) -> Receipt:
        """Its receipt.

        Raises:
            WorldError: There is none yet.
        """
        receipt = self.find_receipt()
        if receipt is None:
            raise WorldError(
                f"no receipt for {self.body.call}", hint="Make blocks, then ask again."
            )
        return receipt


class WorldUser:
    """One account inside the shard.

    Args:
        world: Where it lives.
        secret: Its 32-byte seed.
        entropy: For reply keys.
    """

    def __init__(self, world: Counter, *, secret: bytes, entropy: Entropy) -> None:
        self.secret = secret
        self.account = AccountId(account_of(secret))
        self._world = world
        self._entropy = entropy
        self._nonce = 0

    def call(
        self,
        name: str,
        /,
        *,
        pin: Fingerprint | None = None,
        valid_for: int = 50,
        nonce: int | None = None,
        **arguments: object,
    ) -> UserCall:
        """Seal a call and have it carried; it stands in the next block.

        Args:
            name: ``pallet.call`` of the running application.
            pin: Refuse any other MRENCLAVE.
            valid_for: Blocks from now.
            nonce: Instead of the next one.
            arguments: Typed, by name.
        """
        if nonce is None:
            nonce, self._nonce = self._nonce, self._nonce + 1
        runtime = self._world.running_runtime()
        body = TrustedCallBody(
            chain_id=self._world.chain.chain_id,
            shard=self._world.shard,
            signer=self.account,
            nonce=Nonce(nonce),
            call=name,
            args=runtime.encode_call(name, **arguments).args,
            valid_until=Height(self._world.chain.height + valid_for),
            reply_key=self._entropy(32),
            pin=pin,
        )
        epoch, shielding_key = self._sealed_to()
        call = TrustedCall(body=body, signature=body.sign(self.secret))
        envelope = encode(seal_message(call, shielding_key=shielding_key, epoch=epoch))
        sent = self._world.carry(self._world.shard, envelope)
        return UserCall(world=self._world, body=body, envelope=envelope, sent=sent)

    def again(self, call: UserCall) -> UserCall:
        """Have the very same envelope carried once more."""
        sent = self._world.carry(self._world.shard, call.envelope)
        return UserCall(
            world=self._world, body=call.body, envelope=call.envelope, sent=sent
        )

    def read(
        self,
        getter: str,
        *arguments: object,
        worker: WorldWorker | None = None,
        min_height: int = 0,
    ) -> GetterReply:
        """A signed read: the answer and what it is true of.

        Raises:
            RefusedError: The enclave does not answer.
        """
        body = GetterBody(
            chain_id=self._world.chain.chain_id,
            shard=self._world.shard,
            signer=self.account,
            getter=getter,
            args=encode(list(arguments)),
            min_height=Height(min_height),
            valid_until=Height(self._world.chain.height + 5),
            reply_key=self._entropy(32),
        )
        epoch, shielding_key = self._sealed_to()
        getter_ = Getter(body=body, signature=body.sign(self.secret))
        envelope = encode(
            seal_message(getter_, shielding_key=shielding_key, epoch=epoch)
        )
        asked = worker or self._world.serving()
        answer = asked.call(Ask(envelope=envelope), Answer)
        return open_reply(answer.sealed, reply_key=body.reply_key)

    def ask(
        self, getter: str, *arguments: object, worker: WorldWorker | None = None
    ) -> object:
        """A signed read: the decoded answer.

        Raises:
            RefusedError: The enclave does not answer.
        """
        return msgspec.msgpack.decode(
            self.read(getter, *arguments, worker=worker).value
        )

    def _sealed_to(self) -> tuple[Epoch, bytes]:
        """The epoch that acts in the next block, and its shielding key."""
        schedule = self._world.schedule_now()
        if not schedule.epochs:
            raise WorldError("the shard has no keys yet")
        current = epoch_at(schedule, self._world.chain.height + 1)
        return current.epoch, current.keys.shielding_key
