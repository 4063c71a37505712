"""L1 in memory: real blocks over the real ledger, with every past state."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Height,
    Nonce,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import account_of
from sealift.frame import SimpleTreeStore, prove_ics23, storage_key
from sealift.ledger import (
    RUNTIME_VERSIONS,
    DcapVerifier,
    LedgerGenesis,
    RuntimePlan,
    RuntimeVersion,
    ledger_call,
    render_genesis,
    transaction,
)
from sealift.node import (
    CommittedBlock,
    LedgerApplication,
    SoloChain,
    genesis_tip,
    light_block_of,
    solo_validators,
)
from sealift.protocol.ecall import StateProof
from sealift.relay import Timestamp
from sealift.relay.rpc import ExecTxResult, GenesisDoc

from ._errors import RefusedError, WorldError

T = TypeVar("T")

#: Unix time of the first block.
START_SECONDS = 1_700_000_000
_VALID_FOR = 200


@dataclass(slots=True, kw_only=True)
class Sent:
    """A transaction on its way; ``height`` and ``result`` once it is in a block."""

    tx: bytes = field(repr=False)
    signer: AccountId
    call: str
    height: Height | None = None
    result: ExecTxResult | None = None
    heard: "Callable[[Sent], None] | None" = field(default=None, repr=False)

    @property
    def refusal(self) -> str:
        """The name of the error it failed with; empty if it took effect.

        Raises:
            WorldError: It is in no block yet.
        """
        return self._known.info if self._known.code else ""

    def check(self) -> "Sent":
        """Return it if it took effect.

        Raises:
            RefusedError: L1 refused it.
            WorldError: It is in no block yet.
        """
        if self._known.code:
            raise RefusedError(self._known.info, self._known.log)
        return self

    @property
    def _known(self) -> ExecTxResult:
        if self.result is None:
            raise WorldError(f"{self.call} is in no block yet", hint="Make a block.")
        return self.result


class WorldChain:
    """The embedded chain without its node: no mempool rules, no clock, no disk.

    Args:
        secret: Seed of the one validator.
        genesis: What the ledger begins with.
        block_seconds: From one block to the next.
        versions: The versions of the L1 runtime that its program has.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        genesis: LedgerGenesis,
        block_seconds: int,
        versions: Mapping[int, RuntimeVersion] = RUNTIME_VERSIONS,
    ) -> None:
        self.chain_id: ChainId = genesis.chain_id
        self.pending: list[Sent] = []
        self._secret = secret
        self._seconds = block_seconds
        self._versions = versions
        application = LedgerApplication(DcapVerifier(), versions)
        self._doc = GenesisDoc(
            genesis_time=Timestamp(seconds=START_SECONDS),
            chain_id=genesis.chain_id,
            validators=solo_validators(account_of(secret)),
            app_state=render_genesis(genesis),
        )
        begun = application.init_chain(self._doc)
        self._state = SimpleTreeStore()
        self._state.apply(begun.changes)
        self._solo = SoloChain(
            secret=secret,
            genesis=self._doc,
            application=application,
            tip=genesis_tip(self._doc, begun.app_hash),
        )
        self._blocks: dict[int, CommittedBlock] = {}
        self._states: dict[int, SimpleTreeStore] = {}

    @property
    def height(self) -> Height:
        """The last block."""
        return self._solo.tip.height

    def now(self) -> int:
        """Unix time in the next block's header."""
        return START_SECONDS + self._seconds * self.height

    def send(
        self,
        secret: bytes,
        call: str,
        arguments: dict[str, object],
        *,
        heard: Callable[[Sent], None] | None = None,
    ) -> Sent:
        """Sign a transaction, to stand in the next block.

        Args:
            secret: The paying account's seed.
            call: ``pallet.call``.
            arguments: By name, typed.
            heard: Is told when it is in a block.
        """
        signer = account_of(secret)
        waiting = sum(one.signer == signer for one in self.pending)
        tx = transaction(
            secret,
            chain_id=self.chain_id,
            nonce=Nonce(self._nonce(signer) + waiting),
            valid_until=Height(self.height + _VALID_FOR),
            call=ledger_call(call, **arguments),
        )
        sent = Sent(tx=tx, signer=signer, call=call, heard=heard)
        self.pending.append(sent)
        return sent

    def produce(self) -> CommittedBlock:
        """The next block, with everything that waits, in order.

        Raises:
            UnknownRuntimeVersionError: The program lacks the version of the L1
                runtime that executes it; what waits waits on.
        """
        sent = self.pending
        block = self._solo.produce_block(
            Timestamp(seconds=self.now() + self._seconds), [one.tx for one in sent]
        )
        self.pending = []
        self._state.apply(block.changes)
        self._blocks[block.height] = block
        self._states[block.height] = self._state.copy()
        for one, result in zip(sent, block.results, strict=True):
            one.height, one.result = block.height, result
        for one in sent:
            if one.heard is not None:
                one.heard(one)
        return block

    def block(self, height: int) -> CommittedBlock:
        """A past block.

        Raises:
            WorldError: There is none of that height.
        """
        if height not in self._blocks:
            raise WorldError("no such block", got=height, expected=f"1 … {self.height}")
        return self._blocks[height]

    @property
    def runtime_version(self) -> int:
        """The version of the L1 runtime that the last state belongs to."""
        return self.read(int, storage_key("system", "version")) or 0

    @property
    def plan(self) -> RuntimePlan | None:
        """The next version of the L1 runtime, and its height."""
        return self.read(RuntimePlan, storage_key("system", "plan"))

    def restart(
        self,
        versions: Mapping[int, RuntimeVersion] | None = None,
        *,
        height: int | None = None,
    ) -> None:
        """Start the node again from what is durable; what waits comes again.

        Args:
            versions: Of the L1 runtime, if another program is installed now.
            height: From a copy of its data after this block instead: it lives
                through the blocks since then once more, as they were decided.

        Raises:
            UnknownRuntimeVersionError: The program lacks the state's version.
            WorldError: It comes to another root than the chain's headers have.
        """
        self._versions = self._versions if versions is None else versions
        since = self.height if height is None else height
        application = LedgerApplication(DcapVerifier(), self._versions)
        application.load(self._states[since].items(b""), genesis=self._doc)
        self._live_again(application, since + 1)
        self._solo = SoloChain(
            secret=self._secret,
            genesis=self._doc,
            application=application,
            tip=self._solo.tip,
        )

    def make_again(self) -> None:
        """Make the node's state again, from the genesis and all blocks.

        Raises:
            WorldError: It comes to another root than the chain's headers have.
        """
        application = LedgerApplication(DcapVerifier(), self._versions)
        application.init_chain(self._doc)
        self._live_again(application, 1)
        self._solo = SoloChain(
            secret=self._secret,
            genesis=self._doc,
            application=application,
            tip=self._solo.tip,
        )

    def _live_again(self, application: LedgerApplication, first: int) -> None:
        for height in range(first, self.height + 1):
            known = self.block(height)
            header = known.block.header
            done = application.finalize_block(
                height=header.height,
                block_hash=known.block_id.hash,
                time=header.time,
                proposer=header.proposer_address,
                txs=known.block.txs,
            )
            application.commit()
            if done.app_hash != known.app_hash:
                raise WorldError(
                    f"block {height} comes to another root",
                    got=done.app_hash.hex(),
                    expected=known.app_hash.hex(),
                )

    def hash_of(self, height: int) -> Digest:
        """The hash of a block's header."""
        return Digest(self.block(height).block_id.hash)

    def light_block(self, height: int) -> bytes:
        """The encoded light block of a height, as ECALLs take it."""
        return encode(light_block_of(self.block(height), self._doc.validators))

    def prove(self, height: int, keys: Iterable[bytes]) -> tuple[StateProof, ...]:
        """Proofs against the state after a block."""
        state = self._states[self.block(height).height]
        return tuple(
            StateProof(key=key, value=state.get(key), proof=prove_ics23(state, key))
            for key in keys
        )

    def read(self, kind: type[T], key: bytes, *, height: int | None = None) -> T | None:
        """A value of the state after a block (default: the last)."""
        state = self._state if height is None else self._states[height]
        raw = state.get(key)
        return None if raw is None else canonical_decode(kind, raw)

    def _nonce(self, account: AccountId) -> int:
        raw = self._state.get(b"system/nonces/" + account)
        return 0 if raw is None else decode(int, raw)
