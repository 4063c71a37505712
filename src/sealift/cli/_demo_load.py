"""The demo's users: calls that flow throughout, and what became of each."""

import asyncio
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

import aiohttp

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Height,
    Nonce,
    SealiftError,
    ShardId,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import account_of, sha256, system_entropy
from sealift.frame import RuntimeMetadata
from sealift.protocol import (
    INVOKE,
    Confirmation,
    EffectsFact,
    Getter,
    GetterBody,
    InvokeArgs,
    Receipt,
    SealedReceipt,
    Transaction,
    TransactionBody,
    TrustedCall,
    TrustedCallBody,
    open_receipt,
    open_reply,
    seal_message,
)
from sealift.relay import header_hash
from sealift.transport.account import L1Account
from sealift.transport.rpc import L1Client

from ._demo_stage import CHAIN_ID, user_secret

LOTS = 20
_VALID_BLOCKS = 400
_CONFIRM = "enclave_bridge.confirm"
#: What L1 says once as many as the shard's rules want have said the same.
_CONFIRMED = "enclave_bridge.RootConfirmed"
_REGISTER = "teerex.register_sgx_enclave"


class LoadError(SealiftError):
    """A demo user's call or question was not taken."""


class SealingKeys(NamedTuple):
    """What users seal to: a key epoch and its X25519 public key."""

    epoch: Epoch
    shielding_key: bytes


@dataclass(slots=True, kw_only=True)
class SentCall:
    """A call on its way, and all that was heard of it."""

    number: int
    user: int
    nonce: int
    envelope: Digest
    reply_key: bytes
    size: int
    sent_at: float
    included: tuple[int, int] | None = None
    receipts: list[tuple[str, SealedReceipt, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of all calls."""

    sent: int
    executed: int
    failed: int
    lost: int
    doubled: int
    reordered: int


class ChainScan:
    """Reads L1's blocks: where calls stand, when roots were confirmed.

    Args:
        l1: The node.
    """

    def __init__(self, l1: L1Client) -> None:
        self._l1 = l1
        self.height = 0
        self.hashes: dict[int, Digest] = {}
        self.times: dict[int, float] = {}
        self.calls: dict[Digest, tuple[int, int]] = {}
        #: Of those by which a root was confirmed: that so many agree now.
        self.confirmations: list[tuple[int, Confirmation]] = []
        self.acts: list[tuple[int, str]] = []
        #: Who has brought a registration to L1, in order.
        self.registered: list[AccountId] = []
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Follow the chain for ever."""
        while True:
            head = await self._l1.height()
            while self.height < head:
                await self._read(self.height + 1)
                self.height += 1
                self._news.set()
            await asyncio.sleep(0.02)

    async def reach(self, height: int) -> None:
        """Until the block ``height`` was read."""
        while self.height < height:
            self._news.clear()
            await self._news.wait()

    def seen(self, height: int, body: TransactionBody) -> None:
        """A transaction took effect; for whoever wants to know more of it."""

    async def _read(self, height: int) -> None:
        block = (await self._l1.block(Height(height))).block
        results = await self._l1.block_results(Height(height))
        self.hashes[height] = header_hash(block.header)
        stamp = block.header.time
        self.times[height] = stamp.seconds + stamp.nanos / 1e9
        for place, (tx, result) in enumerate(
            zip(block.txs, results.txs_results, strict=True)
        ):
            if result.code:
                continue
            body = canonical_decode(Transaction, tx).body
            self.seen(height, body)
            if body.call != INVOKE:
                self.acts.append((height, body.call))
            if body.call == _REGISTER:
                self.registered.append(body.signer)
            if body.call == INVOKE:
                args = canonical_decode(InvokeArgs, body.args)
                # Of copies the first counts: the others are answered by its receipt.
                self.calls.setdefault(sha256(args.ciphertext), (height, place))
            elif body.call == _CONFIRM and any(
                one.kind == _CONFIRMED for one in result.events
            ):
                confirmation, _, _ = decode(
                    tuple[Confirmation, bytes, tuple[EffectsFact, ...]], body.args
                )
                self.confirmations.append((height, confirmation))

    def count(self, call: str) -> int:
        """How many acts of this name took effect."""
        return sum(name == call for _, name in self.acts)

    def confirmed_at(self, height: int) -> int | None:
        """The block in which enough had confirmed block ``height``."""
        for at, confirmation in self.confirmations:
            if confirmation.first <= height <= confirmation.last:
                return at
        return None

    def confirmation_of(self, height: int) -> Confirmation | None:
        """The confirmation whose range ends with or holds ``height``."""
        for _, confirmation in self.confirmations:
            if confirmation.first <= height <= confirmation.last:
                return confirmation
        return None


class Load:
    """Users that bid and pay, at a steady rate, whoever runs the enclave.

    Args:
        account: The L1 account that carries all calls.
        metadata: The application's runtime.
        shard: Where to.
        shielding_key: The shard's public key of epoch 0; see :meth:`seal_under`.
        users: How many accounts make calls.
        scan: What stands on L1.
    """

    def __init__(
        self,
        *,
        account: L1Account,
        metadata: RuntimeMetadata,
        shard: ShardId,
        shielding_key: bytes,
        users: int,
        scan: ChainScan,
    ) -> None:
        self._account = account
        self._metadata = metadata
        #: Reads are answered in the layout of whoever runs now.
        self.reading = metadata
        self._shard = shard
        self._keys = SealingKeys(Epoch(0), shielding_key)
        self._secrets = [user_secret(number) for number in range(users)]
        self._accounts = [account_of(secret) for secret in self._secrets]
        self._nonces = [0] * users
        self._nonces_of_others: Counter[bytes] = Counter()
        self._bids: dict[int, int] = {}
        self._scan = scan
        self._turn = 0
        self.calls: list[SentCall] = []
        self._by_envelope: dict[Digest, SentCall] = {}
        self.send_failures: list[str] = []

    @property
    def users(self) -> int:
        """How many accounts make calls."""
        return len(self._secrets)

    def last_bid(self, user: int) -> tuple[int, int] | None:
        """The lot a user bids for, and the last amount."""
        amount = self._bids.get(user)
        return None if amount is None else (user % LOTS, amount)

    def nonce(self, user: int) -> int:
        """How many calls a user has made."""
        return self._nonces[user]

    async def open_lots(self, height: int) -> None:
        """The first users offer something to bid for."""
        for lot in range(LOTS):
            args: dict[str, object] = {
                "title": f"Painting {lot}",
                "minimum": 1,
                "closes_at": height + 90_000 + lot,
            }
            await self.send(lot, "auction.open_lot", args)

    async def run(self, rate: float) -> None:
        """Send for ever, ``rate`` calls a second."""
        start, sent = time.monotonic(), 0
        while True:
            await self._one()
            sent += 1
            ahead = start + sent / rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            elif ahead < -1:  # do not make up for a pause with a burst
                start, sent = time.monotonic(), 0

    async def _one(self) -> None:
        user = LOTS + self._turn % (len(self._secrets) - LOTS)
        self._turn += 1
        if self._nonces[user] % 2 == 0:
            amount = self._bids.get(user, 10) + 5
            args: dict[str, object] = {"lot": user % LOTS, "amount": amount}
            if await self.send(user, "auction.bid", args):
                self._bids[user] = amount
        else:
            dest = self._accounts[(user + 1) % len(self._accounts)]
            await self.send(user, "balances.transfer", {"dest": dest, "amount": 1})

    @property
    def keys(self) -> SealingKeys:
        """What calls are sealed to now."""
        return self._keys

    def seal_under(self, keys: SealingKeys) -> None:
        """Seal calls and reads to another key epoch from now on."""
        self._keys = keys

    async def send(self, user: int, call: str, args: dict[str, object]) -> bool:
        """Sign, seal and carry one call of a user; whether L1 took it."""
        sent, envelope = self._seal(
            self._secrets[user], user, self._nonces[user], call, args, keys=self._keys
        )
        if not await self._carry(sent, envelope):
            return False
        self.calls.append(sent)
        self._nonces[user] += 1
        return True

    async def send_as(
        self, secret: bytes, call: str, args: dict[str, object]
    ) -> SentCall:
        """A call of somebody who is no user of the load.

        Raises:
            LoadError: L1 did not take it.
        """
        sent = await self.send_late(secret, call, args, self._keys)
        self.calls.append(sent)
        self._nonces_of_others[secret] += 1
        return sent

    async def send_late(
        self, secret: bytes, call: str, args: dict[str, object], keys: SealingKeys
    ) -> SentCall:
        """A call of somebody else, sealed to these keys; it is not one of the load's.

        Raises:
            LoadError: L1 did not take it.
        """
        nonce = self._nonces_of_others[secret]
        sent, envelope = self._seal(secret, -1, nonce, call, args, keys=keys)
        if not await self._carry(sent, envelope):
            raise LoadError(self.send_failures[-1])
        return sent

    def _seal(
        self,
        secret: bytes,
        user: int,
        nonce: int,
        call: str,
        args: dict[str, object],
        *,
        keys: SealingKeys,
    ) -> tuple[SentCall, bytes]:
        encoded = self._metadata.encode_call(call, args)
        reply_key = system_entropy(32)
        body = TrustedCallBody(
            chain_id=CHAIN_ID,
            shard=self._shard,
            signer=account_of(secret),
            nonce=Nonce(nonce),
            call=encoded.name,
            args=encoded.args,
            valid_until=Height(self._scan.height + _VALID_BLOCKS),
            reply_key=reply_key,
        )
        signed = TrustedCall(body=body, signature=body.sign(secret))
        envelope = encode(
            seal_message(signed, shielding_key=keys.shielding_key, epoch=keys.epoch)
        )
        sent = SentCall(
            number=len(self.calls),
            user=user,
            nonce=nonce,
            envelope=sha256(envelope),
            reply_key=reply_key,
            size=len(envelope),
            sent_at=time.monotonic(),
        )
        return sent, envelope

    async def _carry(self, sent: SentCall, envelope: bytes) -> bool:
        # Known before it is sent: its receipt may be faster than L1's answer.
        self._by_envelope[sent.envelope] = sent
        carry: dict[str, object] = {"shard": self._shard, "ciphertext": envelope}
        try:
            await self._account.send(INVOKE, carry)
        except SealiftError as error:
            del self._by_envelope[sent.envelope]
            self.send_failures.append(str(error))
            return False
        return True

    async def ask(
        self,
        user: int,
        getter: str,
        args: dict[str, object],
        url: str,
        session: aiohttp.ClientSession,
    ) -> object:
        """A user's signed read, sealed to the shard; the decoded answer.

        Raises:
            LoadError: The worker refuses.
        """
        return await self.ask_as(self._secrets[user], getter, args, url, session)

    async def ask_as(
        self,
        secret: bytes,
        getter: str,
        args: dict[str, object],
        url: str,
        session: aiohttp.ClientSession,
    ) -> object:
        """The same, of anybody's.

        Raises:
            LoadError: The worker refuses.
        """
        body = GetterBody(
            chain_id=CHAIN_ID,
            shard=self._shard,
            signer=account_of(secret),
            getter=getter,
            args=self.reading.encode_getter(getter, args),
            min_height=Height(0),
            valid_until=Height(self._scan.height + _VALID_BLOCKS),
            reply_key=system_entropy(32),
        )
        message = Getter(body=body, signature=body.sign(secret))
        envelope = seal_message(
            message, shielding_key=self._keys.shielding_key, epoch=self._keys.epoch
        )
        async with session.post(url + "/v1/ask", data=encode(envelope)) as answer:
            raw = await answer.read()
            if answer.status != HTTPStatus.OK:
                raise LoadError(raw.decode(errors="replace")[:400])
        reply = open_reply(raw, reply_key=body.reply_key)
        return self.reading.decode_answer(getter, reply.value)

    async def state_is_right(
        self, user: int, url: str, session: aiohttp.ClientSession
    ) -> bool:
        """Whether nonce and secret bid in the state are what the user did."""
        nonce = await self.ask(user, "system.nonce", {}, url, session)
        if nonce != self._nonces[user]:
            return False
        bid = self.last_bid(user)
        if bid is None:
            return True
        lot, amount = bid
        found = await self.ask(user, "auction.my_bid", {"lot": lot}, url, session)
        return isinstance(found, dict) and found.get("amount") == amount

    async def listen(
        self, name: str, urls: Mapping[str, str], session: aiohttp.ClientSession
    ) -> None:
        """Hear of receipts from one worker, for ever, also across restarts.

        Args:
            name: The worker.
            urls: Where workers are now.
            session: For requests.
        """
        while True:
            try:
                async with session.ws_connect(
                    urls[name] + "/v1/executions", max_msg_size=0
                ) as socket:
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.BINARY:
                            self._heard(name, message.data)
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.05)

    def _heard(self, name: str, data: bytes) -> None:
        now = time.monotonic()
        _, receipts = decode(tuple[int, tuple[SealedReceipt, ...]], data)
        for receipt in receipts:
            call = self._by_envelope.get(receipt.envelope)
            if call is not None:
                call.receipts.append((name, receipt, now))

    def witnessed(self) -> tuple[int, int]:
        """Calls with receipts of several workers, and of these how many differ."""
        several = [
            {(r.height, r.index, r.sealed) for _, r, _ in call.receipts}
            for call in self.calls
            if len({name for name, _, _ in call.receipts}) > 1
        ]
        return len(several), sum(len(one) > 1 for one in several)

    async def fetch_missing(
        self, urls: list[str], session: aiohttp.ClientSession
    ) -> None:
        """Ask the workers for receipts that were executed while nobody listened."""
        for call in self.calls:
            for url in urls:
                if call.receipts:
                    break
                path = f"{url}/v1/receipts/{call.envelope.hex()}"
                async with session.get(path) as answer:
                    if answer.status == HTTPStatus.OK:
                        found = decode(SealedReceipt, await answer.read())
                        call.receipts.append((url, found, time.monotonic()))

    def waiting(self) -> int:
        """Calls without a receipt yet."""
        return sum(1 for call in self.calls if not call.receipts)

    def opened(self, call: SentCall) -> Receipt | None:
        """The receipt of a call, opened with its reply key."""
        for _, sealed, _ in call.receipts:
            block_hash = self._scan.hashes.get(sealed.height)
            if block_hash is not None:
                return open_receipt(
                    sealed, reply_key=call.reply_key, block_hash=block_hash
                )
        return None

    def outcome(self, call: SentCall) -> str | None:
        """What a call's receipt says; ``None``: there is none yet."""
        receipt = self.opened(call)
        return None if receipt is None else receipt.outcome

    def latencies(self, heights: range | None = None) -> list[float]:
        """Milliseconds from submission to receipt, of calls in these blocks."""
        found = []
        for call in self.calls:
            if not call.receipts:
                continue
            _, sealed, at = call.receipts[0]
            if heights is None or sealed.height in heights:
                found.append((at - call.sent_at) * 1000)
        return found

    def tally(self) -> Tally:
        """Count what became of every call, from L1 and the opened receipts."""
        failed = lost = doubled = 0
        placed: dict[int, list[tuple[int, tuple[int, int]]]] = defaultdict(list)
        reordered = 0
        for call in self.calls:
            places = {(r.height, r.index) for _, r, _ in call.receipts}
            on_l1 = self._scan.calls.get(call.envelope)
            if not places or on_l1 is None:
                lost += 1
                continue
            doubled += len(places) - 1
            receipt = self.opened(call)
            if receipt is None or receipt.outcome != "ok":
                failed += 1
            height, index = min(places)
            reordered += height != on_l1[0]
            placed[height].append((index, on_l1))
        for entries in placed.values():
            order = [on_l1 for _, on_l1 in sorted(entries)]
            reordered += sum(
                1 for a, b in zip(order, sorted(order), strict=True) if a != b
            )
        return Tally(
            sent=len(self.calls),
            executed=len(self.calls) - lost - failed,
            failed=failed,
            lost=lost,
            doubled=doubled,
            reordered=reordered,
        )

    def failures(self) -> dict[str, int]:
        """Outcomes other than ``ok``, counted."""
        found: Counter[str] = Counter()
        for call in self.calls:
            receipt = self.opened(call) if call.receipts else None
            if receipt is not None and receipt.outcome != "ok":
                found[receipt.outcome] += 1
        return dict(found)


def median(values: list[float]) -> float:
    """The median, 0 of nothing."""
    return statistics.median(values) if values else 0.0
