"""The pure engine of the embedded chain: one key proposes, votes and decides.

Blocks, commits and hashes are CometBFT's, byte for byte (facts/cometbft.md
§2), so that one relay verifies both engines. No clock, no socket, no file: the
shell passes the time in and makes blocks durable before anybody sees them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sealift.base import Height, InvariantError, Message
from sealift.crypto import account_of, sign
from sealift.frame import Changes
from sealift.ledger import NO_REPORT
from sealift.relay import (
    FLAG_COMMIT,
    NO_EVIDENCE_HASH,
    Block,
    BlockId,
    Commit,
    CommitSig,
    ConsensusVersion,
    Header,
    LightBlock,
    SignedHeader,
    Timestamp,
    TrustRoot,
    Validator,
    ValidatorSet,
    block_id_of,
    commit_hash,
    consensus_hash,
    data_hash,
    merkle_root,
    results_hash,
    validators_hash,
    vote_sign_bytes,
)
from sealift.relay.rpc import Event, ExecTxResult, GenesisDoc

from ._application import Application, require_all_answered
from ._errors import NotNextBlockError, ValidatorsNotFixedError, WrongValidatorError

#: A vote is at least this much later than the block it is for: 1 ms.
_VOTE_STEP_NANOS: Final = 1_000_000
#: Root over no results, and the hash of an empty commit: SHA-256 of nothing.
_EMPTY_ROOT: Final = merkle_root(())


class ChainTip(Message, kw_only=True):
    """All that the next block depends on, besides the application's state.

    At genesis ``height`` is one below the initial height and block id, commit
    and vote are empty.
    """

    height: Height
    block_id: BlockId = BlockId()
    commit: Commit = Commit()
    app_hash: bytes
    results_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedBlock:
    """A decided and executed block: all of it is stored at once, or none.

    Attributes:
        block: The block.
        block_id: Its name: header hash and parts.
        commit: The vote that decided it; the next block carries it.
        results: One for each transaction.
        events: What the block emitted outside of its transactions.
        changes: What it wrote into the state.
        app_hash: Root of the state after it.
    """

    block: Block
    block_id: BlockId
    commit: Commit
    results: tuple[ExecTxResult, ...]
    events: tuple[Event, ...]
    changes: Changes = field(repr=False)
    app_hash: bytes

    @property
    def height(self) -> Height:
        """The block's height."""
        return self.block.header.height

    @property
    def tip(self) -> ChainTip:
        """What the next block builds on."""
        return ChainTip(
            height=self.height,
            block_id=self.block_id,
            commit=self.commit,
            app_hash=self.app_hash,
            results_hash=results_hash([one.committed() for one in self.results]),
        )


def genesis_tip(genesis: GenesisDoc, app_hash: bytes) -> ChainTip:
    """The tip below the first block.

    Args:
        genesis: The genesis.
        app_hash: Root of the application's first state.
    """
    return ChainTip(
        height=Height(genesis.initial_height - 1),
        app_hash=app_hash,
        results_hash=_EMPTY_ROOT,
    )


class SoloChain:
    """Makes the blocks of a chain whose only validator holds ``secret``.

    Guarantees real CometBFT headers and commits, and at most one block for
    each height: :meth:`propose` changes nothing, :meth:`adopt` takes only the
    block that follows the tip. Whoever holds the secret alone orders this
    chain.

    Args:
        secret: Ed25519 seed (32 bytes) of the validator.
        genesis: The genesis; names exactly this validator.
        application: The state machine, holding the state of ``tip``.
        tip: Where the chain stands; :func:`genesis_tip` for a new one.

    Raises:
        WrongValidatorError: The genesis names other validators.
        ValidatorsNotFixedError: It allows others to come.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        genesis: GenesisDoc,
        application: Application,
        tip: ChainTip,
    ) -> None:
        public = account_of(secret)
        named = [one.public_key for one in genesis.validators.validators]
        if named != [public]:
            raise WrongValidatorError(
                "not the one validator of this chain",
                got=public.hex(),
                expected=", ".join(key.hex() for key in named) or "one validator",
            )
        if not application.fixed_validators:
            raise ValidatorsNotFixedError(
                "one key orders this chain, and no other can join it",
                got="a genesis that lets its validators change",
                expected="max_validators 0 in its parameters",
                hint="Run a chain of several validators on CometBFT",
            )
        self._secret = secret
        self._genesis = genesis
        self._application = application
        self._tip = tip
        self._proposed: CommittedBlock | None = None

    @property
    def genesis(self) -> GenesisDoc:
        """How the chain started."""
        return self._genesis

    @property
    def application(self) -> Application:
        """The state machine."""
        return self._application

    @property
    def validators(self) -> ValidatorSet:
        """The one validator, at every height."""
        return self._genesis.validators

    @property
    def tip(self) -> ChainTip:
        """What the next block builds on."""
        return self._tip

    def propose(self, *, now: Timestamp, txs: Sequence[bytes]) -> CommittedBlock:
        """Build, execute and sign the next block without adopting it.

        Nothing of it may leave the process before it is durable.

        Args:
            now: The time of the vote; a clock that stands still or goes back
                does no harm.
            txs: The transactions, in order.
        """
        tip = self._tip
        height = Height(tip.height + 1)
        block = self._build(height, txs)
        block_id = block_id_of(block)
        outcome = self._application.finalize_block(
            height=height,
            block_hash=block_id.hash,
            time=block.header.time,
            proposer=block.header.proposer_address,
            txs=txs,
            report=NO_REPORT,
        )
        if outcome.validator_updates:
            raise InvariantError(
                "fixed validators changed", got=len(outcome.validator_updates)
            )
        require_all_answered(outcome.results, txs)
        self._proposed = CommittedBlock(
            block=block,
            block_id=block_id,
            commit=self._decide(block, block_id, now),
            results=tuple(outcome.results),
            events=tuple(outcome.events),
            changes=outcome.changes,
            app_hash=outcome.app_hash,
        )
        return self._proposed

    def adopt(self, block: CommittedBlock) -> None:
        """Make the proposed block, now durable, the tip.

        Raises:
            NotNextBlockError: It is not the block that was proposed last.
        """
        if block is not self._proposed:
            raise NotNextBlockError(
                "not the proposed block",
                got=block.height,
                expected=f"the block proposed for {self._tip.height + 1}",
            )
        self._application.commit()
        self._tip = block.tip
        self._proposed = None

    def produce_block(self, now: Timestamp, txs: Sequence[bytes]) -> CommittedBlock:
        """Propose and adopt: for worlds in which nothing can be lost."""
        block = self.propose(now=now, txs=txs)
        self.adopt(block)
        return block

    def _build(self, height: Height, txs: Sequence[bytes]) -> Block:
        tip, genesis = self._tip, self._genesis
        validators = validators_hash(genesis.validators)
        # v0.38 state/state.go MakeBlock: the first block has genesis time,
        # every other the median of the votes in its last commit.
        time = (
            genesis.genesis_time
            if height == genesis.initial_height
            else tip.commit.signatures[0].timestamp
        )
        header = Header(
            version=ConsensusVersion(app=genesis.consensus_params.app_version),
            chain_id=genesis.chain_id,
            height=height,
            time=time,
            last_block_id=tip.block_id,
            last_commit_hash=commit_hash(tip.commit),
            data_hash=data_hash(txs),
            validators_hash=validators,
            next_validators_hash=validators,
            consensus_hash=consensus_hash(genesis.consensus_params),
            app_hash=tip.app_hash,
            last_results_hash=tip.results_hash,
            evidence_hash=NO_EVIDENCE_HASH,
            proposer_address=genesis.validators.validators[0].address,
        )
        return Block(header=header, txs=tuple(txs), last_commit=tip.commit)

    def _decide(self, block: Block, block_id: BlockId, now: Timestamp) -> Commit:
        # v0.38 consensus/state.go voteTime.
        earliest = block.header.time.plus(nanos=_VOTE_STEP_NANOS)
        vote = CommitSig(
            flag=FLAG_COMMIT,
            validator_address=block.header.proposer_address,
            timestamp=max(now, earliest),
        )
        unsigned = Commit(
            height=block.header.height, block_id=block_id, signatures=(vote,)
        )
        signature = sign(
            self._secret, vote_sign_bytes(block.header.chain_id, unsigned, vote)
        )
        signed = CommitSig(
            flag=vote.flag,
            validator_address=vote.validator_address,
            timestamp=vote.timestamp,
            signature=signature,
        )
        return Commit(height=unsigned.height, block_id=block_id, signatures=(signed,))


def solo_validators(public_key: bytes, *, power: int = 10) -> ValidatorSet:
    """The validator set of a chain that one key orders."""
    return ValidatorSet(validators=(Validator(public_key=public_key, power=power),))


def light_block_of(block: CommittedBlock, validators: ValidatorSet) -> LightBlock:
    """What a relay needs of a block."""
    return LightBlock(
        signed_header=SignedHeader(header=block.block.header, commit=block.commit),
        validators=validators,
        next_validators=validators,
    )


def trust_root_of(block: CommittedBlock) -> TrustRoot:
    """The trust root that a block of one's own chain is."""
    return TrustRoot(
        chain_id=block.block.header.chain_id,
        height=block.height,
        header_hash=block.block_id.hash,
    )
