"""``sealift audit``: former code executes its own range again, and roots are compared.

The host only carries. It brings blocks to the auditor, starts the code that the
auditor names, and hands sealed records to and fro; what it could do wrong, the
enclaves refuse by name.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol

from sealift.attestation import quote_fmspc
from sealift.base import (
    AccountId,
    Bytes32,
    Fingerprint,
    Generation,
    Height,
    ShardId,
    canonical_decode,
)
from sealift.protocol import (
    Schedule,
    collateral_key,
    frontier_key,
    keys_key,
    schedule_key,
)
from sealift.protocol.audit import (
    AuditBegin,
    AuditBegun,
    AuditInvited,
    AuditMore,
    AuditNext,
    AuditOpen,
    AuditOpened,
    AuditSealed,
    AuditStands,
    AuditTake,
    AuditTaken,
    AuditWaits,
    AuditWork,
    AuditWorked,
)
from sealift.protocol.ecall import AuditAdmit, AuditPresent, Followed

from ._audit_facts import AuditFacts, Difference
from ._channel import EnclaveChannel
from ._errors import AuditUnfinishedError, EnclaveGoneError
from ._feed import BlockFeed, L1Source
from ._skip import SkipPlanner

#: The version of the ECALL table from which an enclave can take part.
AUDIT_VERSION: Final = 2


class Auditees(Protocol):
    """Where the code of former generations comes from."""

    def start(
        self, fingerprint: Fingerprint, generation: Generation, schedule: Schedule
    ) -> AbstractAsyncContextManager[EnclaveChannel]:
        """The enclave of this code, freshly started; it ends with the block.

        Raises:
            AuditBundleMissingError: Its bundle is not at hand.
            AuditBundleTooOldError: Its release can't be audited.
        """


@dataclass(slots=True, kw_only=True)
class AuditedRange:
    """What was replayed of one generation."""

    generation: Generation
    fingerprint: Fingerprint
    first: Height
    last: Height | None = None
    blocks: int = 0
    calls: int = 0


@dataclass(slots=True, kw_only=True)
class AuditReport:
    """What an audit has come to, so far.

    Attributes:
        confirmed: Up to this block L1 has roots, as proven when it began.
        challenge_height: The block that shows how fresh that is.
        generations: What was replayed, in order.
        ranges: How many confirmed ranges were compared.
        compared: The last block whose root was compared and was the same.
        difference: The first difference; ``None``: there is none.
    """

    confirmed: Height
    challenge_height: Height
    generations: list[AuditedRange] = field(default_factory=list)
    ranges: int = 0
    compared: Height | None = None
    difference: Difference | None = None

    @property
    def blocks(self) -> int:
        """How many blocks were executed again."""
        return sum(one.blocks for one in self.generations)

    @property
    def calls(self) -> int:
        """How many calls were in them."""
        return sum(one.calls for one in self.generations)


class Audit:
    """One audit from genesis, by a started enclave that has followed nothing.

    Args:
        auditor: The enclave, after ``Start`` without a checkpoint.
        head: Where its relay stands: the measured trust root's height.
        signing_key: Its instance's.
        l1: The node.
        shard: Whose replay it is.
        auditees: Where former code comes from.
        announce: Brings 32 bytes to L1 in some transaction; the block it is in.
        progress: Told after every audited block.
    """

    def __init__(
        self,
        *,
        auditor: EnclaveChannel,
        head: Height,
        signing_key: AccountId,
        l1: L1Source,
        shard: ShardId,
        auditees: Auditees,
        announce: Callable[[Bytes32], Awaitable[Height]],
        progress: Callable[[AuditReport], None] = lambda _: None,
    ) -> None:
        self._auditor = auditor
        self._head = head
        self._l1 = l1
        self._shard = shard
        self._auditees = auditees
        self._announce = announce
        self._progress = progress
        self._feed = BlockFeed(l1, shard=shard, signing_key=signing_key)
        self._skips = SkipPlanner(l1=l1, feed=self._feed, shard=shard)
        self._facts = AuditFacts(shard=shard)
        self._auditee: EnclaveChannel | None = None
        self._now = Height(0)

    async def run(self, genesis: bytes) -> AuditReport:
        """Replay everything that L1 has confirmed; ends at the first difference.

        1. The auditor draws a challenge, which is brought to L1. 2. It is shown the
        block that holds it, with what L1 says of the shard then. 3. Blocks are
        imported one by one; the code of each confirmed one is started, let in, and
        executes it. 4. Whatever L1 confirmed is compared. 5. Nothing confirmed is
        left uncompared.

        Args:
            genesis: The shard's blob.

        Raises:
            EnclaveRefusedError: A rule of either enclave, by its name.
            EnclaveGoneError: One of them has ended.
            AuditError: Code is missing, or step 5.
            SealiftError: The node does not answer.
        """
        # 1.
        begun = await self._auditor.call(AuditBegin(genesis=genesis), AuditBegun)
        self._now = await self._announce(begun.challenge)
        # 2.
        stands = await self._show_present()
        report = AuditReport(confirmed=stands.confirmed, challenge_height=self._now)
        # 3.
        async with AsyncExitStack() as stack:
            following = self._head
            while report.difference is None:
                todo = await self._auditor.ask(AuditNext())
                if isinstance(todo, AuditInvited):
                    await self._let_in(stack, todo, report)
                elif isinstance(todo, AuditSealed):
                    await self._work(todo, report)
                elif not isinstance(todo, AuditWaits) or todo.reason == "no-answer":
                    raise EnclaveGoneError(
                        "the auditor answered out of turn", got=type(todo).__name__
                    )
                elif todo.reason == "done":
                    break
                else:
                    await self._import(following)
                    following = Height(following + 1)
                # 4.
                report.difference = self._facts.compare()
                report.compared, report.ranges = (
                    self._facts.compared,
                    self._facts.ranges,
                )
        # 5.
        if report.difference is None and report.compared != report.confirmed:
            raise AuditUnfinishedError(
                "not everything that is confirmed was compared",
                got=f"up to block {report.compared}",
                expected=f"up to block {report.confirmed}",
            )
        return report

    async def _show_present(self) -> AuditStands:
        await self._l1.wait_for_height(self._now + 1)
        keys = (
            schedule_key(self._shard),
            frontier_key(self._shard),
            keys_key(self._shard, 0),
        )
        request = AuditPresent(
            path=await self._skips.path_to(self._head, self._now),
            txs=await self._l1.block_txs(self._now),
            proofs=await self._feed.proofs(keys, self._now),
        )
        return await self._auditor.call(request, AuditStands)

    async def _import(self, height: Height) -> None:
        block = await self._feed.import_block(height)
        await self._auditor.call(block, Followed)
        self._facts.follow(height, block)

    async def _let_in(
        self, stack: AsyncExitStack, invited: AuditInvited, report: AuditReport
    ) -> None:
        """Start the code that is invited; its quote opens the way, or nothing."""
        await stack.aclose()  # of the generation before
        self._auditee = auditee = await stack.enter_async_context(
            self._auditees.start(
                invited.fingerprint, invited.generation, await self._schedule()
            )
        )
        opened = await auditee.call(
            AuditOpen(
                shard=invited.shard,
                generation=invited.generation,
                nonce=invited.nonce,
            ),
            AuditOpened,
        )
        collateral = collateral_key(quote_fmspc(opened.quote))
        admitted = await self._auditor.call(
            AuditAdmit(
                statement=opened.statement,
                quote=opened.quote,
                proofs=await self._feed.proofs((collateral,), self._now),
            ),
            AuditSealed,
        )
        await auditee.call(AuditWork(sealed=admitted.sealed), AuditWorked)
        report.generations.append(
            AuditedRange(
                generation=invited.generation,
                fingerprint=invited.fingerprint,
                first=invited.height,
            )
        )

    async def _work(self, todo: AuditSealed, report: AuditReport) -> None:
        """One record to the auditee; its answer, in parts, to the auditor."""
        if self._auditee is None:
            raise EnclaveGoneError("the auditor has work for nobody")
        worked = await self._auditee.call(AuditWork(sealed=todo.sealed), AuditWorked)
        while worked.sealed is not None:
            taken = await self._auditor.call(
                AuditTake(sealed=worked.sealed), AuditTaken
            )
            if taken.done:
                self._note(taken, report)
            if not worked.more:
                return
            worked = await self._auditee.call(AuditMore(), AuditWorked)

    def _note(self, taken: AuditTaken, report: AuditReport) -> None:
        self._facts.audited(taken)
        here = report.generations[-1]
        if not taken.genesis:
            here.last = taken.height
            here.blocks += 1
            here.calls += taken.calls
        self._progress(report)

    async def _schedule(self) -> Schedule:
        """What the node says of the generations: for people, in refusals."""
        raw, _ = await self._l1.prove(schedule_key(self._shard), self._now)
        return canonical_decode(Schedule, raw or b"")
