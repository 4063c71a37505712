"""The chain relay: follows one chain from its trust root and never two."""

from typing import NoReturn

from sealift.base import Height, Message

from ._errors import (
    CheckpointInvalidError,
    ForkDetectedError,
    HeaderNotKeptError,
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

    __slots__ = ("_evidence", "_head", "_keep", "_kept", "_next", "_root", "_rules")

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

    def checkpoint(self) -> RelayCheckpoint:
        """What :meth:`resume` goes on from."""
        return RelayCheckpoint(
            trust_root=self._root,
            header=self._head.header,
            next_validators=self._next,
            evidence=self._evidence,
        )

    def checkpoint_at(self, height: Height) -> RelayCheckpoint:
        """A checkpoint behind the head; its next validators may be unknown.

        Raises:
            HeaderNotKeptError: Skipped, too old, or not verified yet.
            ForkDetectedError: The relay has stopped.
        """
        found = self.header_at(height)
        return RelayCheckpoint(
            trust_root=self._root,
            header=found.header,
            next_validators=self._next if found is self._head else None,
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

        1. A height verified before: the same header is returned again, another
        signed one is a fork. 2. :func:`verify_adjacent`. 3. Its parent is the
        head, else the validators have decided on two blocks at the head's
        height.

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

    def _again(self, block: LightBlock) -> VerifiedHeader:
        own = self.header_at(block.header.height)
        digest = header_hash(block.header)
        if digest != own.hash:
            # Judged by who signed, not by what the header says of itself.
            check_decided(block, own, digest)
            self._stop(ForkEvidence(trusted=own.header, conflicting=block))
        return own

    def _move(self, verified: VerifiedHeader, following: ValidatorSet | None) -> None:
        self._head = verified
        self._next = following
        self._kept[verified.height] = verified
        while len(self._kept) > self._keep:
            del self._kept[next(iter(self._kept))]

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
    if block.next_validators is None:
        same = header.next_validators_hash == header.validators_hash
        return block.validators if same else None
    digest = validators_hash(block.next_validators)
    if digest != header.next_validators_hash:
        raise ValidatorSetMismatchError(
            f"not the next validators of header {header.height}",
            got=digest,
            expected=header.next_validators_hash,
        )
    return block.next_validators
