"""What L1 confirmed of a shard, beside what an audit finds; no I/O.

Everything here comes from blocks that the auditor has accepted: their transactions
against the data hash, results and state against the header that follows.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from sealift.base import (
    DecodeError,
    Digest,
    Generation,
    Height,
    ShardId,
    StateRoot,
    canonical_decode,
    decode,
)
from sealift.protocol import (
    INVOKE,
    SHIELD_FUNDS,
    Confirmation,
    EffectsFact,
    Frontier,
    InvokeArgs,
    KeyEpochRecord,
    ShieldFundsArgs,
    Transaction,
    effects_root,
    frontier_key,
    keys_key,
)
from sealift.protocol.audit import AuditTaken
from sealift.protocol.ecall import ImportBlock
from sealift.relay import TxResult, merkle_root

from ._errors import AuditRangeError
from ._speakers import confirmation_of

#: More blocks with calls in one range are not listed.
_LISTED: Final = 20

Fact: TypeAlias = Literal["genesis root", "root", "receipts root", "effects root"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedRange:
    """Blocks whose root counts on L1."""

    generation: Generation
    first: Height
    last: Height
    root: StateRoot
    receipts_root: Digest
    effects_root: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first range in which the code's own replay parts from L1.

    ``blocks`` are those of the range that hold anything for the shard: the block
    that differs is one of them, or, where there are none, ``first``.
    """

    generation: Generation
    first: Height
    last: Height
    fact: Fact
    expected: bytes
    got: bytes
    blocks: tuple[Height, ...]

    @property
    def block(self) -> Height:
        """The first block that can differ."""
        return self.blocks[0] if self.blocks else self.first


@dataclass(slots=True, kw_only=True)
class AuditFacts:
    """Ranges as they become known, audited blocks as they are executed.

    Attributes:
        shard: Whose.
        compared: The last block whose root was compared and was the same.
        ranges: How many ranges were compared.
    """

    shard: ShardId
    compared: Height | None = None
    ranges: int = 0
    _born: KeyEpochRecord | None = None
    _genesis: AuditTaken | None = None
    _known: Frontier | None = None
    _claims: list[Confirmation] = field(default_factory=list)
    _ranges: list[ConfirmedRange] = field(default_factory=list)
    _done: list[AuditTaken] = field(default_factory=list)
    _busy: list[Height] = field(default_factory=list)

    def follow(self, height: Height, block: ImportBlock) -> None:
        """Take a block that the auditor has accepted.

        Raises:
            AuditRangeError: No confirmations in it lead to its frontier.
        """
        results = [decode(TxResult, raw) for raw in block.results]
        for tx, result in zip(block.txs, results, strict=True):
            if result.code == 0:
                self._note(height, tx)
        proven = {proof.key: proof.value for proof in block.proofs}
        born = proven.get(keys_key(self.shard, 0))
        if born is not None and self._born is None:
            self._born = decode(KeyEpochRecord, born)
        raw = proven.get(frontier_key(self.shard))
        if raw is None:
            return
        frontier = decode(Frontier, raw)
        if self._known is None and self._born is not None:
            self._known = Frontier(
                confirmed=Height(max(self._born.valid_from - 1, 0)),
                root=self._born.statement.genesis_root,
                generation=frontier.generation,
            )
        if self._known is not None and frontier.confirmed > self._known.confirmed:
            self._extend(height, self._known, frontier)
            self._known = frontier

    def audited(self, taken: AuditTaken) -> None:
        """Take the audited genesis, or the next audited block."""
        if taken.genesis:
            self._genesis = taken
        else:
            self._done.append(taken)

    def compare(self) -> Difference | None:
        """The first difference in what both sides have now; ``None``: none yet."""
        if self._genesis is not None and self._born is not None:
            found = self._compare_genesis(self._genesis, self._born)
            self._genesis = None
            if found is not None:
                return found
        while self._ranges and self._done:
            one = self._ranges[0]
            if self._done[-1].height is None or self._done[-1].height < one.last:
                return None
            found = self._compare_range(one)
            if found is not None:
                return found
            self.compared, self.ranges = one.last, self.ranges + 1
            del self._ranges[0]
        return None

    def _compare_genesis(
        self, taken: AuditTaken, born: KeyEpochRecord
    ) -> Difference | None:
        self.compared = taken.height
        if taken.root == born.statement.genesis_root:
            return None
        height = taken.height or Height(0)
        return Difference(
            generation=taken.generation or Generation(0),
            first=height,
            last=height,
            fact="genesis root",
            expected=born.statement.genesis_root,
            got=taken.root or b"",
            blocks=(),
        )

    def _compare_range(self, one: ConfirmedRange) -> Difference | None:
        mine = [d for d in self._done if d.height is not None and d.height <= one.last]
        self._done = self._done[len(mine) :]
        busy = [h for h in self._busy if one.first <= h <= one.last]
        self._busy = [h for h in self._busy if h > one.last]
        facts = tuple(
            EffectsFact(height=taken.height, effects=taken.effects)
            for taken in mine
            if taken.effects is not None and taken.height is not None
        )
        leaves = [leaf for taken in mine for leaf in taken.leaves]
        pairs: tuple[tuple[Fact, bytes, bytes], ...] = (
            ("root", one.root, mine[-1].root or b""),
            ("receipts root", one.receipts_root, merkle_root(leaves)),
            ("effects root", one.effects_root, effects_root(facts)),
        )
        for fact, expected, got in pairs:
            if expected != got:
                return Difference(
                    generation=one.generation,
                    first=one.first,
                    last=one.last,
                    fact=fact,
                    expected=expected,
                    got=got,
                    blocks=tuple(busy[:_LISTED]),
                )
        return None

    def _note(self, height: Height, tx: bytes) -> None:
        try:
            body = canonical_decode(Transaction, tx).body
            claim = confirmation_of(body)
            if claim is not None:
                if claim.shard == self.shard:
                    self._claims.append(claim)
            elif body.call == INVOKE:
                if canonical_decode(InvokeArgs, body.args).shard == self.shard:
                    self._mark(height)
            elif (
                body.call == SHIELD_FUNDS
                and canonical_decode(ShieldFundsArgs, body.args).shard == self.shard
            ):
                self._mark(height)
        except DecodeError:
            return

    def _mark(self, height: Height) -> None:
        """A block, in their order, holds something for the shard."""
        if self._busy[-1:] != [height]:
            self._busy.append(height)

    def _extend(self, height: Height, known: Frontier, new: Frontier) -> None:
        """The ranges that led from one proven frontier to the next."""
        path = self._path(known, new)
        if path is None:
            raise AuditRangeError(
                f"the frontier after block {height} follows from no confirmations",
                got=f"{new.root.hex()} after block {new.confirmed}",
                expected=f"ranges on from block {known.confirmed}",
            )
        self._ranges += [
            ConfirmedRange(
                generation=claim.generation,
                first=claim.first,
                last=claim.last,
                root=claim.root,
                receipts_root=claim.receipts_root,
                effects_root=claim.effects_root,
            )
            for claim in path
        ]
        self._claims = [one for one in self._claims if one.last > new.confirmed]

    def _path(self, known: Frontier, new: Frontier) -> tuple[Confirmation, ...] | None:
        """The first chain of claims from one root to the other, in L1's order."""
        stack: list[tuple[Height, bytes, tuple[Confirmation, ...]]]
        stack = [(known.confirmed, known.root, ())]
        seen = {(known.confirmed, bytes(known.root))}
        while stack:
            after, root, path = stack.pop()
            if (after, root) == (new.confirmed, new.root):
                return path
            further: list[tuple[Height, bytes, tuple[Confirmation, ...]]] = []
            for claim in self._claims:
                end = (claim.last, bytes(claim.root))
                begins = claim.first == after + 1 and claim.prev_root == root
                if begins and claim.last <= new.confirmed and end not in seen:
                    seen.add(end)
                    further.append((*end, (*path, claim)))
            stack += reversed(further)
        return None
