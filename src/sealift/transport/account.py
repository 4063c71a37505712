"""An L1 account that signs and sends transactions in order."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    Height,
    Nonce,
    SealiftError,
    canonical_decode,
)
from sealift.crypto import account_of
from sealift.frame import RuntimeMetadata, storage_key
from sealift.ledger import code_of, ledger_metadata, transaction
from sealift.relay import RpcRemoteError, tx_hash
from sealift.relay.rpc import BROADCAST

from .rpc import L1Client, TxNotIncludedError

#: So many blocks after its sending a transaction can still get into a block.
VALIDITY_BLOCKS: Final = 1000
_NONCE_CODE: Final = code_of("NonceError")
#: Seconds between attempts with a nonce that L1 does not take: together long
#: enough for transactions of another process to leave the mempool …
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.5, 2.0, 2.0)
#: … of a chain that makes a block within so many seconds; slower ones stretch them.
_PAUSES_SUIT: Final = 2.0
#: So many transactions of another process that wait are reckoned with.
_MOST_WAITING: Final = 16
_WAIT_SECONDS: Final = 60.0
#: A transaction may wait for so many blocks, also where each takes an hour.
_WAIT_BLOCKS: Final = 5
#: Blocks whose times tell how fast the chain is, and for how long that is good.
_PACE_BLOCKS: Final = 4
_PACE_SECONDS: Final = 300.0
_SLOWEST_SECONDS: Final = 3600.0
_KNOWN_ALREADY: Final = "already exists in cache"
_HEAD_SECONDS: Final = 1.0


class L1RefusedError(SealiftError):
    """L1 refused a transaction: in the mempool, or in a block as failed.

    Args:
        call: The call that was refused.
        refusal: Its number in the results of L1
            (:data:`sealift.ledger.CODES`).
        log: L1's sentence, for people.
    """

    def __init__(self, call: str, *, refusal: int, log: str) -> None:
        super().__init__(f"L1 refused {call}", got=f"{log} (code {refusal})")
        self.call = call
        self.refusal = refusal
        self.log = log


@dataclass(frozen=True, slots=True, kw_only=True)
class TxOutcome:
    """A transaction in a block; ``code`` 0 means that it took effect.

    ``data`` is the encoding of its events.
    """

    height: Height
    code: int
    log: str
    data: bytes = b""


async def measured_interval(l1: L1Client) -> float:
    """Seconds that a chain's last blocks took each; 0 where it has no two.

    By the times in their headers, as the node says; at most an hour.

    Raises:
        NodeUnreachableError: The node does not answer.
        RpcRemoteError: It has pruned those blocks.
    """
    head = await l1.height()
    base = Height(max(1, head - _PACE_BLOCKS))
    if base >= head:
        return 0.0
    late = (await l1.commit(head)).signed_header.header.time
    early = (await l1.commit(base)).signed_header.header.time
    took = late.seconds - early.seconds + (late.nanos - early.nanos) / 1e9
    return min(max(took / (head - base), 0.0), _SLOWEST_SECONDS)


class L1Account:
    """One account on one chain; keeps its own count of nonces.

    Guarantees that transactions reach the mempool in the order of :meth:`send`.
    The count starts at what L1 has committed; when L1 refuses a nonce (another
    process uses the account, or a node forgot its mempool) it starts there again,
    and goes behind what waits.

    Args:
        secret: Ed25519 seed, 32 bytes.
        l1: The node.
        chain_id: The chain that transactions are signed for.
    """

    def __init__(self, secret: bytes, l1: L1Client, chain_id: ChainId) -> None:
        self._secret = secret
        self._l1 = l1
        self._chain_id = chain_id
        self._next: Nonce | None = None
        self._turn = asyncio.Lock()
        self._head = Height(0)
        self._head_until = 0.0
        self._interval = 0.0
        self._interval_until = 0.0

    @property
    def account(self) -> AccountId:
        """The public key."""
        return account_of(self._secret)

    async def balance(self) -> Amount:
        """What the account holds on L1, as the node says (not proven)."""
        return await free_balance(self._l1, self.account)

    async def send(self, call: str, args: dict[str, object]) -> bytes:
        """Sign a call and hand it in; return the transaction's hash.

        Args:
            call: ``pallet.call``.
            args: As :meth:`sealift.frame.RuntimeMetadata.encode_call` takes them.

        Raises:
            L1RefusedError: CheckTx refused it.
            UnknownCallError, CallArgumentsError: No such call.
            NodeUnreachableError: No answer.
        """
        encoded = _metadata().encode_call(call, args)
        async with self._turn:
            refusal, log = _NONCE_CODE, ""
            async for nonce in self._nonces():
                tx = transaction(
                    self._secret,
                    chain_id=self._chain_id,
                    nonce=nonce,
                    valid_until=Height(await self._height() + VALIDITY_BLOCKS),
                    call=encoded,
                )
                refusal, log = await self._broadcast(tx)
                if refusal == 0:
                    self._next = Nonce(nonce + 1)
                    return tx_hash(tx)
                if refusal != _NONCE_CODE:
                    break
            self._next = None
            raise L1RefusedError(call, refusal=refusal, log=log)

    async def wait(self, digest: bytes, *, within: float | None = None) -> TxOutcome:
        """Return when a transaction stands in a block, whatever became of it.

        Args:
            digest: What :meth:`send` returned.
            within: Most seconds to wait; by default as long as a few blocks take
                on this chain, at least a minute.

        Raises:
            TxNotIncludedError: Not within that time.
        """
        if within is None:
            within = max(_WAIT_SECONDS, _WAIT_BLOCKS * await self.block_interval())
        try:
            found = await self._l1.wait_for_tx(digest, within=within)
        except TxNotIncludedError:
            self._next = None
            raise
        result = found.tx_result
        return TxOutcome(
            height=found.height, code=result.code, log=result.log, data=result.data
        )

    async def act(
        self, call: str, args: dict[str, object], *, within: float | None = None
    ) -> TxOutcome:
        """Send, wait, and insist that it took effect.

        Raises:
            L1RefusedError: It did not.
            TxNotIncludedError: It is in no block within that time.
        """
        outcome = await self.wait(await self.send(call, args), within=within)
        if outcome.code:
            raise L1RefusedError(call, refusal=outcome.code, log=outcome.log)
        return outcome

    async def block_interval(self) -> float:
        """:func:`measured_interval` of this account's chain, from time to time."""
        now = asyncio.get_running_loop().time()
        if now >= self._interval_until:
            try:
                self._interval = await measured_interval(self._l1)
            except SealiftError:  # a node that pruned, or is away: as before
                return self._interval
            self._interval_until = now + _PACE_SECONDS
        return self._interval

    async def _nonce_pauses(self) -> Iterator[float]:
        stretch = max(1.0, await self.block_interval() / _PAUSES_SUIT)
        return iter([pause * stretch for pause in _PAUSES])

    async def _nonces(self) -> AsyncIterator[Nonce]:
        """Nonces to try: our own count, then from what L1 has committed on.

        Another process may use the account (a worker that runs, while its operator
        votes): its transactions wait in the mempool, and ours goes behind them.
        """
        if self._next is not None:
            yield self._next
        pauses: Iterator[float] | None = None
        while True:
            committed = await committed_nonce(self._l1, self.account)
            for waiting in range(_MOST_WAITING):
                yield Nonce(committed + waiting)
            pauses = pauses or await self._nonce_pauses()
            pause = next(pauses, None)
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def _height(self) -> Height:
        now = asyncio.get_running_loop().time()
        if now >= self._head_until:
            self._head = await self._l1.height()
            self._head_until = now + _HEAD_SECONDS
        return self._head

    async def _broadcast(self, tx: bytes) -> tuple[int, str]:
        text = b64encode(tx).decode("ascii")
        try:
            result = await self._l1.call("broadcast_tx_sync", BROADCAST, tx=text)
        except RpcRemoteError as error:
            if _KNOWN_ALREADY in str(error):  # our own copy, sent again
                return 0, ""
            raise
        return result.code, result.log


async def free_balance(l1: L1Client, account: AccountId) -> Amount:
    """What an account holds, as the node says (not proven)."""
    entry = await l1.abci_query(
        storage_key("balances", "accounts", account), prove=False
    )
    return Amount(0) if entry.value is None else canonical_decode(Amount, entry.value)


async def committed_nonce(l1: L1Client, account: AccountId) -> Nonce:
    """The nonce of the account's next transaction, without those that wait."""
    entry = await l1.abci_query(storage_key("system", "nonces", account), prove=False)
    return Nonce(0) if entry.value is None else canonical_decode(Nonce, entry.value)


@cache
def _metadata() -> RuntimeMetadata:
    return ledger_metadata()
