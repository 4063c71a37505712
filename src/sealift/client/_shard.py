"""A user of one shard: sealed calls, receipts, signed reads."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import msgspec

from sealift.base import (
    AccountId,
    Amount,
    CallId,
    DecodeError,
    Digest,
    Fingerprint,
    Height,
    InvariantError,
    Nonce,
    SealiftError,
    decode,
    encode,
)
from sealift.crypto import Entropy, SealedDataError, account_of, sha256
from sealift.frame import EmittedEvent, RuntimeCall, RuntimeMetadata
from sealift.protocol import (
    INVOKE,
    MAX_VALIDITY,
    SHIELD_FUNDS,
    Getter,
    GetterBody,
    GetterReply,
    KeyEpoch,
    Receipt,
    SealedReceipt,
    TrustedCall,
    TrustedCallBody,
    open_receipt,
    open_reply,
    seal_message,
)
from sealift.relay import HeaderNotKeptError, RpcRemoteError
from sealift.transport.account import L1Account, L1RefusedError, TxOutcome

from ._card import ShardCard
from ._chain import ProvenChain, TrustedEnclave
from ._errors import (
    CallFailedError,
    NotConfirmedError,
    ReceiptMismatchError,
    ReceiptTimeoutError,
    ReplyContradictedError,
    StaleReplyError,
    WorkerAnswerError,
)
from ._workers import Workers

#: The outcome of a call that did what it should.
OK: Final = "ok"
#: Refusals in a receipt that mean: this client's count of nonces is wrong.
_NONCE_OUTCOMES: Final = frozenset({"NonceConsumedError", "NonceAheadError"})
_VALIDITY: Final = 512
_KEY: Final = 32
_CALL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2
_ANY_HEIGHT: Final = Height(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What became of a call; ``confirmed`` says that its block is, on L1.

    ``events`` are names and fields for people, where the card's metadata knows
    them.
    """

    call_id: CallId
    nonce: Nonce
    height: Height
    index: int
    outcome: str
    message: str
    events: tuple[tuple[str, dict[str, object]], ...]
    confirmed: bool

    def require_ok(self) -> None:
        """Return only if the call took effect.

        Raises:
            CallFailedError: It did not.
        """
        if self.outcome != OK:
            raise CallFailedError(
                self.outcome, message=self.message, call_id=self.call_id
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A getter's answer, decoded, and what it is true of."""

    value: object
    reply: GetterReply


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedCall:
    """A call on its way: what opens and checks its receipt.

    ``tx`` is the hash of the L1 transaction that carries it, once there is one.
    ``after`` was the verified head when it was sealed: it stands in no block up to
    there, whoever carried it.
    """

    body: TrustedCallBody
    envelope: bytes
    tx: bytes = b""
    after: Height = _ANY_HEIGHT

    @property
    def name(self) -> Digest:
        """How L1 and workers name it: the SHA-256 of the envelope."""
        return sha256(self.envelope)


class ShardClient:
    """One user account of one shard.

    Guarantees: calls are sealed to the key that L1's proven state shows; a
    receipt is believed if it opens with this call's own key and names the call;
    an answer, if it opens with its own key.

    Args:
        card: Which shard.
        secret: The user's Ed25519 seed; inside the shard the account is its
            public key.
        chain: L1, proven.
        workers: Who carries and answers.
        payer: An L1 account that carries calls; ``None`` leaves that to workers.
        entropy: For reply keys.
    """

    def __init__(
        self,
        card: ShardCard,
        secret: bytes,
        *,
        chain: ProvenChain,
        workers: Workers,
        payer: L1Account | None,
        entropy: Entropy,
    ) -> None:
        self.card = card
        self.chain = chain
        self.workers = workers
        self.payer = payer
        self._secret = secret
        self._entropy = entropy
        self._next: Nonce | None = None
        self._turn = asyncio.Lock()

    @property
    def account(self) -> AccountId:
        """The user's account, inside the shard."""
        return account_of(self._secret)

    @cached_property
    def metadata(self) -> RuntimeMetadata:
        """The card's runtime metadata.

        Raises:
            CardError: The card has none.
        """
        return self.card.runtime()

    # --- the shard, as L1 proves it ---

    async def shielding_key(self) -> KeyEpoch:
        """The key epoch that calls are sealed to.

        Raises:
            ShardUnbornError: There is none.
        """
        return await self.chain.key_epoch(self.card.shard_id)

    async def verify_enclave(self, signing_key: AccountId) -> TrustedEnclave:
        """The registry's record of an instance that may speak for the shard.

        Raises:
            SealiftError: As :meth:`ProvenChain.verify_enclave`.
        """
        return await self.chain.verify_enclave(self.card.shard_id, signing_key)

    # --- calls ---

    def encode_call(self, name: str, args: Mapping[str, object]) -> RuntimeCall:
        """A call of the application, by its metadata.

        Raises:
            UnknownCallError, CallArgumentsError: No such call.
        """
        return self.metadata.encode_call(name, args)

    async def seal_call(
        self,
        call: RuntimeCall,
        *,
        nonce: Nonce,
        validity: int = _VALIDITY,
        pin: Fingerprint | None = None,
    ) -> SealedCall:
        """Sign a call and seal it to the shard's proven shielding key.

        Args:
            call: As :meth:`encode_call` gives it.
            nonce: The account's next one.
            validity: Blocks for which the call may wait; at most 1,024.
            pin: Refuses execution by any other MRENCLAVE.

        Raises:
            ShardUnbornError: The shard has no keys yet.
            CallTooLargeError: It fits no size class.
        """
        epoch = await self.shielding_key()
        head = await self.chain.follow()
        body = TrustedCallBody(
            chain_id=self.card.chain,
            shard=self.card.shard_id,
            signer=self.account,
            nonce=nonce,
            call=call.name,
            args=call.args,
            valid_until=Height(head.height + min(validity, MAX_VALIDITY)),
            reply_key=self._entropy(_KEY),
            pin=pin,
        )
        envelope = seal_message(
            TrustedCall(body=body, signature=body.sign(self._secret)),
            shielding_key=epoch.keys.shielding_key,
            epoch=epoch.epoch,
        )
        return SealedCall(body=body, envelope=encode(envelope), after=head.height)

    async def call(
        self,
        name: str,
        args: Mapping[str, object],
        *,
        within: float = _CALL_SECONDS,
        confirmed: bool = False,
        pin: Fingerprint | None = None,
    ) -> CallResult:
        """Make a call and wait for its receipt.

        Args:
            name: ``pallet.call``.
            args: Friendly arguments.
            within: Most seconds to wait.
            confirmed: Whether to wait until its block is confirmed on L1.
            pin: Refuses execution by any other MRENCLAVE.

        Returns:
            What became of it; look at ``outcome``, or use ``require_ok``.

        Raises:
            L1RefusedError: The own account could not carry it.
            WorkerUnreachableError, WorkerRefusedError: No worker carried it.
            ReceiptTimeoutError: No receipt in time; it may still be executed.
            NotConfirmedError: Executed, but not confirmed in time.
        """
        sent = await self.send(self.encode_call(name, args), pin=pin)
        return await self.result(sent, within=within, confirmed=confirmed)

    async def send(
        self, call: RuntimeCall, *, pin: Fingerprint | None = None
    ) -> SealedCall:
        """Seal a call under the next nonce and have it carried, in order.

        Raises:
            SealiftError: It was not carried; the nonce is not used.
        """
        async with self._turn:
            nonce = self._next if self._next is not None else await self.nonce()
            sealed = await self.seal_call(call, nonce=nonce, pin=pin)
            if self.payer is None:
                tx = await self.workers.submit(sealed.envelope)
            else:
                args: dict[str, object] = {
                    "shard": self.card.shard_id,
                    "ciphertext": sealed.envelope,
                }
                tx = await self.payer.send(INVOKE, args)
            self._next = Nonce(nonce + 1)
            return replace(sealed, tx=tx)

    async def result(
        self,
        sent: SealedCall,
        *,
        within: float = _CALL_SECONDS,
        confirmed: bool = False,
    ) -> CallResult:
        """Wait for the receipt of a call that was sent.

        Raises:
            L1RefusedError: It stands in a block, but failed there: the shard
                never sees it.
            ReceiptTimeoutError: None in time; the call may still be executed.
            NotConfirmedError: Executed, but not confirmed in time.
        """
        started = asyncio.get_running_loop().time()
        receipt = await self._receipt(sent, within)
        if receipt.outcome in _NONCE_OUTCOMES:
            self._next = None
        if confirmed:
            left = started + within - asyncio.get_running_loop().time()
            await self._until_confirmed(receipt.height, left)
        return CallResult(
            call_id=receipt.call_id,
            nonce=sent.body.nonce,
            height=receipt.height,
            index=receipt.index,
            outcome=receipt.outcome,
            message=receipt.message,
            events=tuple(self._event(raw) for raw in receipt.events),
            confirmed=confirmed,
        )

    async def transfer(
        self, dest: AccountId, amount: Amount, *, within: float = _CALL_SECONDS
    ) -> CallResult:
        """Move tokens inside the shard; raises if it did not happen.

        Raises:
            CallFailedError: The shard refused.
            SealiftError: As :meth:`call`.
        """
        done = await self.call(
            "balances.transfer", {"dest": dest, "amount": amount}, within=within
        )
        done.require_ok()
        return done

    async def shield(self, amount: Amount, beneficiary: AccountId) -> TxOutcome:
        """Move L1 funds of the payer into the shard, for a beneficiary there.

        They are there when the shard has executed the block.

        Raises:
            L1RefusedError: L1 refused.
            WorkerAnswerError: This client has no L1 account.
        """
        if self.payer is None:
            raise WorkerAnswerError(
                "funds can be shielded only from an L1 account",
                hint="Name the account that pays",
            )
        return await self.payer.act(
            SHIELD_FUNDS,
            {
                "shard": self.card.shard_id,
                "beneficiary": beneficiary,
                "amount": amount,
            },
        )

    # --- reads ---

    async def ask(
        self,
        getter: str,
        args: Mapping[str, object],
        *,
        min_height: Height = _ANY_HEIGHT,
    ) -> Reading:
        """A signed read.

        1. Sealed to the proven shielding key, signed, with a fresh reply key.
        2. The reply opens with it. 3. It is of a state not below ``min_height``.
        4. If it says that its state is confirmed, L1's proven frontier is not
        below and has no other root there.

        Args:
            getter: ``pallet.getter``.
            args: Friendly arguments.
            min_height: The state must have executed this block.

        Raises:
            WorkerUnreachableError, WorkerRefusedError: Nobody answers.
            WorkerAnswerError: 2.
            StaleReplyError: 3.
            ReplyContradictedError: 4.
        """
        encoded = self.metadata.encode_getter(getter, args)
        reply = await self.ask_raw(getter, encoded, min_height=min_height)
        try:
            value = self.metadata.decode_answer(getter, reply.value)
        except DecodeError as error:
            raise WorkerAnswerError(
                f"answer of {getter} is not of the type the card says ({error})"
            ) from error
        return Reading(value=value, reply=reply)

    async def ask_raw(
        self, getter: str, args: bytes, *, min_height: Height = _ANY_HEIGHT
    ) -> GetterReply:
        """As :meth:`ask`, with encoded arguments and an encoded answer."""
        epoch = await self.shielding_key()
        head = await self.chain.follow()
        body = GetterBody(  # 1
            chain_id=self.card.chain,
            shard=self.card.shard_id,
            signer=self.account,
            getter=getter,
            args=args,
            min_height=min_height,
            valid_until=Height(head.height + _VALIDITY),
            reply_key=self._entropy(_KEY),
        )
        envelope = seal_message(
            Getter(body=body, signature=body.sign(self._secret)),
            shielding_key=epoch.keys.shielding_key,
            epoch=epoch.epoch,
        )
        raw = await self.workers.ask(encode(envelope))
        try:
            reply = open_reply(raw, reply_key=body.reply_key)  # 2
        except SealiftError as error:
            raise WorkerAnswerError(
                "the answer does not open with the key of the question",
                hint="The worker is broken or lies; ask another",
            ) from error
        if reply.state_height < min_height:  # 3
            raise StaleReplyError(
                "answer is about an older state",
                got=f"block {reply.state_height}",
                expected=f"≥ {min_height}",
            )
        await self._check_confirmed(reply)  # 4
        return reply

    async def nonce(self) -> Nonce:
        """The nonce of the account's next call, as the shard says."""
        reply = await self.ask_raw("system.nonce", encode([]))
        return decode(Nonce, reply.value)

    async def balance(self) -> Amount:
        """What the account has free inside the shard."""
        reply = await self.ask_raw("balances.free", encode([]))
        return decode(Amount, reply.value)

    # --- inner ---

    async def _receipt(self, sent: SealedCall, within: float) -> Receipt:
        receipt = asyncio.create_task(self._genuine_receipt(sent))
        carried = asyncio.create_task(self._require_carried(sent))
        try:
            async with asyncio.timeout(within):
                await asyncio.wait(
                    (receipt, carried), return_when=asyncio.FIRST_COMPLETED
                )
                if not receipt.done():
                    await carried
                return await receipt
        except TimeoutError as error:
            raise ReceiptTimeoutError(sent.body.call_id(), seconds=within) from error
        except L1RefusedError:
            self._next = None
            raise
        finally:
            for task in (receipt, carried):
                task.cancel()
            await asyncio.gather(receipt, carried, return_exceptions=True)

    async def _genuine_receipt(self, sent: SealedCall) -> Receipt:
        async with aclosing(self.workers.receipts(sent.name)) as offered:
            async for sealed in offered:
                receipt = await self._opened(sent, sealed)
                if receipt is not None:
                    return receipt
        raise InvariantError("receipts never end")

    async def _require_carried(self, sent: SealedCall) -> None:
        """Return when the transaction took effect on L1, as a node says."""
        while True:
            found = await self.chain.node.tx(sent.tx) if sent.tx else None
            if found is not None:
                break
            await asyncio.sleep(_POLL_SECONDS)
        result = found.tx_result
        if result.code:
            raise L1RefusedError(INVOKE, refusal=result.code, log=result.log)

    async def _opened(self, sent: SealedCall, sealed: SealedReceipt) -> Receipt | None:
        """The receipt, or ``None`` for one that a worker made up.

        One of a block before the call was made costs no look at the chain: else a
        worker could have us walk it down to its beginning.
        """
        if sealed.height <= sent.after:
            return None
        try:
            block_hash = await self.chain.block_hash(sealed.height)
        except (HeaderNotKeptError, RpcRemoteError):
            return None  # before the trust root, or not there (yet)
        try:
            receipt = open_receipt(
                sealed, reply_key=sent.body.reply_key, block_hash=block_hash
            )
        except (SealedDataError, DecodeError):
            return None
        # A copy is answered in a later block, by the first one's receipt.
        fits = receipt.height <= sealed.height and receipt.index == sealed.index
        if receipt.call_id != sent.body.call_id() or not fits:
            raise ReceiptMismatchError(
                "receipt is of another call", got=receipt.call_id
            )
        return receipt

    async def _until_confirmed(self, height: Height, within: float) -> None:
        try:
            async with asyncio.timeout(max(within, 0)):
                while True:
                    frontier = await self.chain.frontier(self.card.shard_id)
                    if frontier is not None and frontier.confirmed >= height:
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise NotConfirmedError(
                f"block {height} is executed, but not confirmed on L1 yet",
                hint="It was executed; do not send the call again",
            ) from error

    async def _check_confirmed(self, reply: GetterReply) -> None:
        if not reply.confirmed:
            return
        frontier = await self.chain.frontier(self.card.shard_id)
        if frontier is None or frontier.confirmed < reply.state_height:
            raise ReplyContradictedError(
                "answer claims a confirmed state that L1 has not confirmed",
                got=f"block {reply.state_height}",
                expected=f"≤ {frontier.confirmed if frontier else 'none'}",
            )
        if frontier.confirmed == reply.state_height and frontier.root != reply.root:
            raise ReplyContradictedError(
                "answer is of another state than L1 has confirmed",
                got=reply.root,
                expected=frontier.root.hex(),
            )

    def _event(self, raw: bytes) -> tuple[str, dict[str, object]]:
        try:
            event = decode(EmittedEvent, raw)
        except DecodeError:
            return "unknown", {"data": raw.hex()}
        try:
            return event.name, self.metadata.decode_event(event)
        except (DecodeError, msgspec.MsgspecError):
            return event.name, {"data": event.data.hex()}
