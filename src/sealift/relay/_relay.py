"""The chain relay: follows one chain from its trust root and never two."""

from collections.abc import Sequence
from typing import Final, NoReturn

from sealift.base import Height, Message

from ._errors import (
    CheckpointInvalidError,
    ForkDetectedError,
    HeaderNotKeptError,
    HeightError,
    ValidatorSetMismatchError,
)
from ._hashing import header_hash, validators_hash
from ._types import (
    ForkEvidence,
    Header,
    LightBlock,
    Timestamp,
    TrustRoot,
    ValidatorSet,
)
from ._verified import SEAL, VerifiedHeader
from ._verify import (
    RelayRules,
    check_decided,
    check_header,
    verify_adjacent,
    verify_root,
    verify_skipping,
)

#: Validator sets of recent headers that are kept, each once.
SETS_KEPT: Final = 8


class RelayCheckpoint(Message, kw_only=True):
    """Where a relay stood. Public; **the caller authenticates the bytes**.

    ``next_validators`` is there if the relay knew them; a skip needs them.
    A fork that was seen stays seen.
    """

    trust_root: TrustRoot
    header: Header
    next_validators: ValidatorSet | None
    evidence: ForkEvidence | None = None


class ChainRelay:
    """A light client's state: a head, recent verified headers, perhaps a fork.

    Made by :meth:`bootstrap` or :meth:`resume`. Every step either verifies and
    moves the head, or raises and changes nothing; except that a proven fork is
    kept as evidence, after which every step raises
    :class:`~sealift.relay.ForkDetectedError`.
    """

    __slots__ = (
        "_evidence",
        "_head",
        "_keep",
        "_kept",
        "_next",
        "_root",
        "_rules",
        "_sets",
    )

    def __init__(
        self,
        *,
        trust_root: TrustRoot,
        rules: RelayRules,
        keep: int,
        head: VerifiedHeader,
        next_validators: ValidatorSet | None,
        evidence: ForkEvidence | None,
    ) -> None:
        self._root = trust_root
        self._rules = rules
        self._keep = keep
        self._head = head
        self._next = next_validators
        self._evidence = evidence
        self._kept: dict[int, VerifiedHeader] = {head.height: head}
        self._sets: dict[bytes, ValidatorSet] = {}
        self._remember(head, next_validators)

    @classmethod
    def bootstrap(
        cls,
        trust_root: TrustRoot,
        block: LightBlock,
        *,
        rules: RelayRules,
        now: Timestamp | None,
        keep: int = 1024,
    ) -> "ChainRelay":
        """Start at the trust root.

        Args:
            trust_root: From a place the caller trusts.
            block: The light block at its height.
            rules: For all later steps.
            now: The clock, where there is one.
            keep: How many recent verified headers are kept.

        Raises:
            SealiftError: As :func:`verify_root`.
            ValidatorSetMismatchError: ``next_validators`` are not the header's.
        """
        head = verify_root(trust_root, block, rules=rules, now=now)
        return cls(
            trust_root=trust_root,
            rules=rules,
            keep=keep,
            head=head,
            next_validators=_next_validators(block),
            evidence=None,
        )

    @classmethod
    def resume(
        cls,
        trust_root: TrustRoot,
        checkpoint: RelayCheckpoint,
        *,
        rules: RelayRules,
        keep: int = 1024,
    ) -> "ChainRelay":
        """Go on from a checkpoint whose bytes the caller has authenticated.

        1. It was made under the same trust root. 2. Its header is well formed
        and of that chain, at or after the root. 3. Its validators are the
        header's next ones.

        Raises:
            CheckpointInvalidError: One of the three fails.
            HeaderInvalidError: 2.
        """
        header = checkpoint.header
        # 1.
        if checkpoint.trust_root != trust_root:
            raise CheckpointInvalidError(
                "checkpoint of another trust root",
                got=checkpoint.trust_root.header_hash,
                expected=trust_root.header_hash,
            )
        # 2.
        check_header(header)
        digest = header_hash(header)
        if header.chain_id != trust_root.chain_id or header.height < trust_root.height:
            raise CheckpointInvalidError(
                "checkpoint does not lie after the trust root",
                got=f"{header.chain_id} {header.height}",
                expected=f"{trust_root.chain_id} ≥ {trust_root.height}",
            )
        if header.height == trust_root.height and digest != trust_root.header_hash:
            raise CheckpointInvalidError(
                "checkpoint contradicts the trust root",
                got=digest,
                expected=trust_root.header_hash,
            )
        # 3.
        known = checkpoint.next_validators
        if known is not None and validators_hash(known) != header.next_validators_hash:
            raise CheckpointInvalidError(
                "checkpoint has other next validators than its header",
                got=validators_hash(known),
                expected=header.next_validators_hash,
            )
        return cls(
            trust_root=trust_root,
            rules=rules,
            keep=keep,
            head=VerifiedHeader(seal=SEAL, header=header, hash=digest),
            next_validators=known,
            evidence=checkpoint.evidence,
        )

    @property
    def trust_root(self) -> TrustRoot:
        """Where trust started."""
        return self._root

    @property
    def head(self) -> VerifiedHeader:
        """The highest verified header; readable also after a fork."""
        return self._head

    @property
    def evidence(self) -> ForkEvidence | None:
        """The fork that stopped this relay."""
        return self._evidence

    @property
    def knows_next(self) -> bool:
        """Whether the head's next validators are known: a skip needs them."""
        return self._next is not None

    def trial(self) -> "ChainRelay":
        """A copy to try steps with: what it verifies moves only the copy."""
        copy = ChainRelay(
            trust_root=self._root,
            rules=self._rules,
            keep=self._keep,
            head=self._head,
            next_validators=self._next,
            evidence=self._evidence,
        )
        copy._kept = dict(self._kept)
        copy._sets = dict(self._sets)
        return copy

    def checkpoint(self) -> RelayCheckpoint:
        """What :meth:`resume` goes on from."""
        return RelayCheckpoint(
            trust_root=self._root,
            header=self._head.header,
            next_validators=self._next,
            evidence=self._evidence,
        )

    def checkpoint_at(self, height: Height) -> RelayCheckpoint:
        """A checkpoint behind the head, with its next validators if still kept.

        Raises:
            HeaderNotKeptError: Skipped, too old, or not verified yet.
            ForkDetectedError: The relay has stopped.
        """
        found = self.header_at(height)
        return RelayCheckpoint(
            trust_root=self._root,
            header=found.header,
            next_validators=self._sets.get(found.header.next_validators_hash),
        )

    def header_at(self, height: Height) -> VerifiedHeader:
        """A recent verified header.

        Raises:
            HeaderNotKeptError: Skipped, too old, or not verified yet.
            ForkDetectedError: The relay has stopped.
        """
        self._check_going()
        found = self._kept.get(height)
        if found is None:
            raise HeaderNotKeptError(
                f"no verified header at {height}",
                got=height,
                expected=f"{min(self._kept)} … {self._head.height}",
            )
        return found

    def check_on_chain(self, checkpoint: RelayCheckpoint) -> None:
        """Return only if another's checkpoint lies on this relay's chain.

        Raises:
            CheckpointInvalidError: Another header stands at its height.
            HeaderNotKeptError: This relay does not know that height.
            ForkDetectedError: This relay has stopped, or the other one had.
        """
        if checkpoint.evidence is not None:
            raise ForkDetectedError(evidence=checkpoint.evidence)
        own = self.header_at(checkpoint.header.height)
        digest = header_hash(checkpoint.header)
        if digest != own.hash:
            raise CheckpointInvalidError(
                f"checkpoint at {own.height} is not on this chain",
                got=digest,
                expected=own.hash,
            )

    def advance(
        self,
        block: LightBlock,
        *,
        now: Timestamp | None,
        all_signatures: bool = False,
    ) -> VerifiedHeader:
        """Verify the next header and make it the head.

        1. A height verified before: the same header is returned again (the head's
        may bring its next validators later), another signed one is a fork.
        2. :func:`verify_adjacent`. 3. Its parent is the head, else the validators
        have decided on two blocks at the head's height.

        Raises:
            ForkDetectedError: 1 or 3, from then on for ever.
            SealiftError: As :func:`verify_adjacent`; nothing has changed.
        """
        self._check_going()
        # 1.
        if block.header.height <= self._head.height:
            return self._again(block)
        # 2.
        verified = verify_adjacent(
            self._head,
            block,
            rules=self._rules,
            now=now,
            all_signatures=all_signatures,
        )
        following = _next_validators(block)
        # 3.
        if verified.header.last_block_id.hash != self._head.hash:
            self._stop(ForkEvidence(trusted=self._head.header, conflicting=block))
        self._move(verified, following)
        return verified

    def skip(self, block: LightBlock, *, now: Timestamp | None) -> VerifiedHeader:
        """Verify a later header by what the head's next validators say of it.

        One step; whoever bisects calls it with headers between on
        :class:`~sealift.relay.NotEnoughTrustError`.

        Raises:
            ForkDetectedError: Another signed header stands at a verified height.
            ValidatorSetMismatchError: The head's next validators are not known
                (its light block did not bring them).
            SealiftError: As :func:`verify_skipping`; nothing has changed.
        """
        self._check_going()
        if block.header.height <= self._head.height + 1:
            return self.advance(block, now=now)
        if self._next is None:
            raise ValidatorSetMismatchError(
                f"next validators of {self._head.height} are not known",
                expected=self._head.header.next_validators_hash,
                hint="Bring them with the light block, or advance by one.",
            )
        verified = verify_skipping(
            self._head, self._next, block, rules=self._rules, now=now
        )
        self._move(verified, _next_validators(block))
        return verified

    def judge(
        self,
        theirs: Sequence[LightBlock],
        ours: Sequence[LightBlock] = (),
        *,
        now: Timestamp | None,
    ) -> VerifiedHeader:
        """Judge what somebody else shows for a height, from a common header.

        1. ``theirs`` ends at the height in question. One block alone is judged
        as a second one at a verified height: by who signed. 2. A longer path
        begins with a header of this relay, with its next validators, and goes on
        by this relay's rules. 3. If the height was skipped here, ``ours`` is such
        a path to the header on this side. 4. Both are the same, or the chain has
        forked.

        Returns:
            The header of this side; there is no conflict.

        Raises:
            ForkDetectedError: 1, 2, 3 or 4, from then on for ever.
            HeaderNotKeptError: This relay has no header where a path begins, or
                none to compare with.
            CheckpointInvalidError: 2 or 3: a path begins with another header.
            HeightError: The paths end at different heights, or are empty.
            SealiftError: Not decided: a lie, or a mistake, and no fork.
        """
        self._check_going()
        # 1.
        if not theirs:
            raise HeightError("no block to judge", expected="at least one")
        shown = theirs[-1]
        height = shown.header.height
        if height > self._head.height:
            raise HeightError(
                "the block to judge lies above the head",
                got=height,
                expected=f"≤ {self._head.height}",
            )
        if len(theirs) == 1:
            return self._again(shown)
        try:
            # 2.
            other = self._walk(theirs, now)
            # 3.
            own = self._walk(ours, now) if ours else self.header_at(height)
        except ForkDetectedError as error:
            self._stop(error.evidence)
        # 4.
        if own.height != other.height:
            raise HeightError(
                "the paths end at different heights",
                got=other.height,
                expected=own.height,
            )
        if own.hash != other.hash:
            self._stop(
                ForkEvidence(
                    trusted=own.header, conflicting=shown, common=theirs[0].header
                )
            )
        return own

    def _again(self, block: LightBlock) -> VerifiedHeader:
        own = self.header_at(block.header.height)
        digest = header_hash(block.header)
        if digest != own.hash:
            # Judged by who signed, not by what the header says of itself.
            check_decided(block, own, digest)
            self._stop(ForkEvidence(trusted=own.header, conflicting=block))
        if own is self._head and self._next is None:
            self._next = _next_validators(block)
            self._remember(own, self._next)
        return own

    def _walk(
        self, path: Sequence[LightBlock], now: Timestamp | None
    ) -> VerifiedHeader:
        """Verify a path that begins at a header of this relay, on a trial."""
        first = path[0]
        own = self.header_at(first.header.height)
        if header_hash(first.header) != own.hash:
            raise CheckpointInvalidError(
                f"the path does not begin on this chain at {own.height}",
                got=header_hash(first.header),
                expected=own.hash,
            )
        walker = ChainRelay(
            trust_root=self._root,
            rules=self._rules,
            keep=self._keep,
            head=own,
            next_validators=_next_validators(first),
            evidence=None,
        )
        for block in path[1:]:
            walker.skip(block, now=now)
        return walker.head

    def _move(self, verified: VerifiedHeader, following: ValidatorSet | None) -> None:
        self._head = verified
        self._next = following
        self._kept[verified.height] = verified
        self._remember(verified, following)
        while len(self._kept) > self._keep:
            del self._kept[next(iter(self._kept))]

    def _remember(
        self, verified: VerifiedHeader, following: ValidatorSet | None
    ) -> None:
        if following is None:
            return
        digest = verified.header.next_validators_hash
        self._sets[digest] = self._sets.pop(digest, following)
        while len(self._sets) > SETS_KEPT:
            del self._sets[next(iter(self._sets))]

    def _stop(self, evidence: ForkEvidence) -> NoReturn:
        self._evidence = evidence
        raise ForkDetectedError(evidence=evidence)

    def _check_going(self) -> None:
        if self._evidence is not None:
            raise ForkDetectedError(evidence=self._evidence)


def _next_validators(block: LightBlock) -> ValidatorSet | None:
    """The set for the next height, if the block lets it be known.

    Raises:
        ValidatorSetMismatchError: It brings a set that its header does not name.
    """
    header = block.header
    following = block.next_validators
    if following is None:
        if header.next_validators_hash != header.validators_hash:
            return None
        following = block.validators
    digest = validators_hash(following)
    if digest != header.next_validators_hash:
        raise ValidatorSetMismatchError(
            f"not the next validators of header {header.height}",
            got=digest,
            expected=header.next_validators_hash,
        )
    return following
