"""A light client of L1: what it returns is proven, whatever the node says."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sealift.base import (
    AccountId,
    Digest,
    Height,
    SealiftError,
    ShardId,
    canonical_decode,
)
from sealift.ledger import require_eligible
from sealift.protocol import (
    CollateralRecord,
    EnclaveRecord,
    Frontier,
    KeyEpoch,
    NoEpochError,
    Schedule,
    ScheduleEntry,
    ScheduleRecord,
    collateral_key,
    config_at,
    enclave_key,
    epoch_at,
    frontier_key,
    record_key,
    schedule_key,
)
from sealift.relay import (
    ChainRelay,
    ForkDetectedError,
    Header,
    HeaderNotKeptError,
    LightBlock,
    RelayRules,
    RpcRemoteError,
    TrustRoot,
    TrustRootMismatchError,
    VerifiedHeader,
    header_hash,
    verify_state,
)
from sealift.transport.bisection import bisect_with
from sealift.transport.clock import Clock
from sealift.transport.rpc import L1Client, NodeUnreachableError

from ._errors import EnclaveNotTrustedError, ShardUnbornError, UnknownShardOnChainError

#: Longest jump between two headers, and oldest trust root: as the enclave's.
CLIENT_RULES: Final = RelayRules(trusting_period=180 * 24 * 3600)
_POLL_SECONDS: Final = 0.2
#: So long a witness may take, and so long it is left alone if it took longer.
_WITNESS_SECONDS: Final = 3.0
_WITNESS_PAUSE: Final = 30.0
#: The first header that commits to a state. The head commits to the state before
#: it: what is sent now stands so many blocks above the newest proven state.
_FIRST_PROVING: Final = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedEnclave:
    """An instance that may speak for its shard at ``height``, by L1's registry."""

    record: EnclaveRecord
    entry: ScheduleEntry
    height: Height


class ProvenChain:
    """Follows L1 from a trust root and proves what stands in its state.

    Every reading is of the state after ``head - 1``: only the next header
    commits to a state.

    Args:
        trust_root: From a place the user trusts.
        nodes: Nodes to ask; the first that answers serves, none is believed. The
            others are witnesses: their header at every new head is compared, and
            a second chain that the validators decided on ends every reading
            (:class:`~sealift.relay.ForkDetectedError`). One that lags, lies or is
            down ends nothing.
        clock: The wall clock: a header from the future is refused, and so is a
            trust root that is too old.
    """

    def __init__(
        self, trust_root: TrustRoot, nodes: Sequence[L1Client], *, clock: Clock
    ) -> None:
        self._root = trust_root
        self._nodes = list(nodes)
        self._clock = clock
        self._relay: ChainRelay | None = None
        self._turn = asyncio.Lock()
        self._older: dict[int, Digest] = {}
        self._silent: dict[L1Client, float] = {}

    @property
    def node(self) -> L1Client:
        """The node that serves now."""
        return self._nodes[0]

    async def follow(self, to: Height | None = None) -> VerifiedHeader:
        """Verify headers up to a height, by default up to the node's newest.

        Returns:
            The head; not below ``to``.

        Raises:
            NodeUnreachableError: No node answers.
            SealiftError: As :meth:`sealift.relay.ChainRelay.skip`.
        """
        async with self._turn:
            return await self._follow(to)

    async def wait_for(self, height: int) -> VerifiedHeader:
        """Until the chain is at least so high; the verified head then."""
        while True:
            head = await self.follow()
            if head.height >= height:
                return head
            await asyncio.sleep(_POLL_SECONDS)

    async def block_hash(self, height: Height) -> Digest:
        """The hash of a block at or below the head, by verified headers.

        A height that was skipped is reached by the hashes of parents, from the
        nearest verified header above.

        Raises:
            HeaderNotKeptError: It lies before the trust root.
            TrustRootMismatchError: The node's headers do not hang together.
        """
        async with self._turn:
            relay = await self._started()
            if height > relay.head.height:
                await self._follow(height)
            if height < self._root.height:
                raise HeaderNotKeptError(
                    "block lies before the trust root",
                    got=height,
                    expected=f"≥ {self._root.height}",
                )
            return await self._hash_below(relay, height)

    async def read(self, key: bytes) -> tuple[Height, bytes | None]:
        """What stands under a key, proven, and the height of that state.

        Raises:
            NodeUnreachableError: No node answers.
            ProofInvalidError: The node's proof does not hold.
        """
        async with self._turn:
            head = await self._follow(None)
            while head.height < _FIRST_PROVING:
                await asyncio.sleep(_POLL_SECONDS)
                head = await self._follow(None)
            height = Height(head.height - 1)
            entry = await self._ask(lambda node: node.abci_query(key, height=height))
            proven = verify_state(head, key, entry.value, entry.proof)
            return height, proven.value

    async def schedule(self, shard: ShardId) -> tuple[Height, Schedule]:
        """The shard's schedule, checked against the record of the same state.

        Raises:
            UnknownShardOnChainError: There is no such shard.
        """
        height, schedule = await self._parsed(schedule_key(shard), Schedule)
        if schedule is None:
            raise UnknownShardOnChainError(
                f"the chain has no such shard at block {height}", got=shard
            )
        return height, schedule

    async def record(self, shard: ShardId) -> ScheduleRecord | None:
        """Who runs the newest proven block of a shard."""
        return (await self._parsed(record_key(shard), ScheduleRecord))[1]

    async def frontier(self, shard: ShardId) -> Frontier | None:
        """The last confirmed block and root; ``None`` before the birth."""
        return (await self._parsed(frontier_key(shard), Frontier))[1]

    async def key_epoch(self, shard: ShardId) -> KeyEpoch:
        """The key epoch that acts in the next block of a shard.

        Raises:
            UnknownShardOnChainError: There is no such shard.
            ShardUnbornError: There is no epoch yet.
        """
        height, schedule = await self.schedule(shard)
        try:
            return epoch_at(schedule, height + _FIRST_PROVING)
        except NoEpochError as error:
            raise ShardUnbornError(
                "the shard has no keys yet",
                got=shard,
                hint="A worker of its first generation has to run",
            ) from error

    async def enclave(self, signing_key: AccountId) -> EnclaveRecord | None:
        """The registry's record of an instance."""
        return (await self._parsed(enclave_key(signing_key), EnclaveRecord))[1]

    async def collateral(self, fmspc: bytes) -> CollateralRecord | None:
        """The ledger's own collateral for a family of processors."""
        return (await self._parsed(collateral_key(fmspc), CollateralRecord))[1]

    async def verify_enclave(
        self, shard: ShardId, signing_key: AccountId
    ) -> TrustedEnclave:
        """The record of an instance, if it may speak for the shard now.

        1. The registry has it, for this shard. 2. The generation that runs the
        newest proven block names its code, and accepts its attestation: version,
        operators, TCB, advisories, age, floors.

        Raises:
            EnclaveNotTrustedError: 1.
            WrongFingerprintForShardError, SvnTooLowError, OperatorRefusedError,
            PolicyRefusedError: 2.
        """
        record = await self.enclave(signing_key)
        if record is None or record.statement.shard != shard:  # 1
            raise EnclaveNotTrustedError(
                "the registry has no such instance of this shard", got=signing_key
            )
        height, schedule = await self.schedule(shard)
        entry = config_at(schedule, height)
        require_eligible(record, entry, schedule.status, height=height)  # 2
        return TrustedEnclave(record=record, entry=entry, height=height)

    async def _parsed(self, key: bytes, kind: type[T]) -> tuple[Height, T | None]:
        height, value = await self.read(key)
        return height, None if value is None else canonical_decode(kind, value)

    async def _started(self) -> ChainRelay:
        if self._relay is None:
            block = await self._light_block(self._root.height)
            self._relay = ChainRelay.bootstrap(
                self._root, block, rules=CLIENT_RULES, now=self._clock.now()
            )
        return self._relay

    async def _ask(self, question: Callable[[L1Client], Awaitable[T]]) -> T:
        """The answer of the first node that gives one; it serves from then on."""
        for left in reversed(range(len(self._nodes))):
            try:
                return await question(self.node)
            except NodeUnreachableError:
                if not left:
                    raise
                self._nodes.append(self._nodes.pop(0))
        raise NodeUnreachableError("no L1 node is named")

    async def _light_block(self, height: int) -> LightBlock:
        return await self._ask(lambda node: node.light_block(Height(height)))

    async def _header(self, height: Height) -> Header:
        commit = await self._ask(lambda node: node.commit(height))
        return commit.signed_header.header

    async def _follow(self, to: Height | None) -> VerifiedHeader:
        relay = await self._started()
        target = to
        if target is None:
            target = await self._ask(lambda node: node.height())
        if relay.head.height < target:
            before = relay.head.height
            await bisect_with(
                self._light_block, relay, Height(target), now=self._clock.now()
            )
            await asyncio.gather(
                *(self._compare(relay, node, before) for node in self._nodes[1:])
            )
        return relay.head

    async def _compare(self, relay: ChainRelay, node: L1Client, before: Height) -> None:
        """Ask a witness for the head; judge it where it is another.

        Raises:
            ForkDetectedError: The validators decided on both.
        """
        if self._clock.monotonic() < self._silent.get(node, float("-inf")):
            return
        head = relay.head
        try:
            async with asyncio.timeout(_WITNESS_SECONDS):
                found = (await node.commit(head.height)).signed_header.header
                if header_hash(found) == head.hash:
                    return
                shown = await node.light_block(head.height)
                common = await node.light_block(before)
        except RpcRemoteError:
            return  # it has no such block yet
        except (SealiftError, TimeoutError):
            self._silent[node] = self._clock.monotonic() + _WITNESS_PAUSE
            return
        for path in ((shown,), (common, shown)):
            try:
                relay.judge(path, now=self._clock.now())
            except ForkDetectedError:
                raise
            except SealiftError:
                continue  # not decided: a lie, or seen better from the common one

    async def _hash_below(self, relay: ChainRelay, height: Height) -> Digest:
        try:
            return relay.header_at(height).hash
        except HeaderNotKeptError:
            pass
        if height in self._older:
            return self._older[height]
        above = relay.head.header
        for candidate in range(height + 1, relay.head.height + 1):
            try:
                above = relay.header_at(Height(candidate)).header
            except HeaderNotKeptError:
                continue
            break
        while above.height > height:
            parent = above.last_block_id.hash
            self._older[above.height - 1] = Digest(parent)
            if above.height - 1 == height:
                break
            found = await self._header(Height(above.height - 1))
            if header_hash(found) != parent:
                raise TrustRootMismatchError(
                    "node shows a header that its successor does not name",
                    got=header_hash(found),
                    expected=parent,
                )
            above = found
        return self._older[height]
