"""Engine, store and history together: a chain that survives its process."""

from collections.abc import Sequence
from pathlib import Path

from sealift.base import Height, SealiftError
from sealift.relay import LightBlock, SignedHeader, Timestamp
from sealift.relay.rpc import GenesisDoc

from ._application import Application, require_root
from ._chain import CommittedBlock, SoloChain, genesis_tip
from ._history import ProvenEntry, StateHistory
from ._store import SoloStore


class DurableChain:
    """The embedded chain as its shell and an in-process world use it.

    Guarantees that a block is adopted, and so visible, only after it is
    durable, and that a chain which was opened again goes on after its last
    durable block.

    Three steps make a block, so that the slow one may run in a thread:
    :meth:`propose`, :meth:`persist`, :meth:`adopt`; :meth:`produce` is all.
    """

    def __init__(
        self, *, chain: SoloChain, store: SoloStore, history: StateHistory
    ) -> None:
        self._chain = chain
        self._store = store
        self._history = history

    @classmethod
    def create(
        cls,
        path: Path | None,
        *,
        genesis: GenesisDoc,
        secret: bytes,
        application: Application,
    ) -> "DurableChain":
        """A new chain, before its first block.

        Args:
            path: The database, not there yet; ``None`` keeps it in memory.
            genesis: The genesis.
            secret: The validator's Ed25519 seed.
            application: The state machine, without state.

        Raises:
            WrongValidatorError: Genesis and key do not fit.
            ChainStoreError: It cannot be stored.
            SealiftError: The application refuses the genesis.
        """
        first = application.init_chain(genesis)
        tip = genesis_tip(genesis, first.app_hash)
        chain = SoloChain(
            secret=secret, genesis=genesis, application=application, tip=tip
        )
        store = SoloStore.create(
            path, genesis, app_hash=first.app_hash, entries=first.changes
        )
        return cls(chain=chain, store=store, history=_history(store, genesis))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        genesis: GenesisDoc,
        secret: bytes,
        application: Application,
    ) -> "DurableChain":
        """A chain as its last process left it, whenever that ended.

        1. The store's last block is whole. 2. The stored state has the root
        that the block's execution had. 3. The application agrees.

        Raises:
            ChainStoreError: It cannot be read.
            ForeignChainError: It is another chain's.
            ChainCorruptError: One of the three fails.
            WrongValidatorError: Genesis and key do not fit.
        """
        # 1.
        store = SoloStore.open(path, genesis)
        tip = store.tip
        try:
            # 2.
            history = _history(store, genesis)
            # 3.
            root = application.load(store.entries().items(), genesis=genesis)
            require_root(history.root, root, expected=tip.app_hash, height=tip.height)
            chain = SoloChain(
                secret=secret, genesis=genesis, application=application, tip=tip
            )
        except SealiftError:
            store.close()  # else the file is written once more when it is collected
            raise
        return cls(chain=chain, store=store, history=history)

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    @property
    def chain(self) -> SoloChain:
        """The engine."""
        return self._chain

    @property
    def store(self) -> SoloStore:
        """Everything durable."""
        return self._store

    @property
    def history(self) -> StateHistory:
        """Every past state."""
        return self._history

    @property
    def genesis(self) -> GenesisDoc:
        """How the chain started."""
        return self._chain.genesis

    @property
    def height(self) -> Height:
        """The newest visible block."""
        return self._chain.tip.height

    def propose(self, *, now: Timestamp, txs: Sequence[bytes]) -> CommittedBlock:
        """Build and execute the next block; nobody may see it yet."""
        return self._chain.propose(now=now, txs=txs)

    def persist(self, block: CommittedBlock) -> None:
        """Make it durable; the only step that waits for a disk.

        Raises:
            ChainStoreError, DiskFullError: The process must end: only opening
                the store again tells whether the block is there.
        """
        self._store.append(block)

    def adopt(self, block: CommittedBlock) -> None:
        """Make it visible.

        Raises:
            NotNextBlockError: It is not the one proposed last.
        """
        self._chain.adopt(block)
        self._history.advance(block.changes, block.height)

    def produce(self, *, now: Timestamp, txs: Sequence[bytes]) -> CommittedBlock:
        """Propose, persist and adopt."""
        block = self.propose(now=now, txs=txs)
        self.persist(block)
        self.adopt(block)
        return block

    def light_block(self, height: Height) -> LightBlock:
        """What a relay needs of a height.

        Raises:
            HeightUnknownError: There is no such block.
        """
        found = self._store.block(height)
        validators = self._chain.validators
        return LightBlock(
            signed_header=SignedHeader(
                header=found.block.header, commit=found.seen_commit
            ),
            validators=validators,
            next_validators=validators,
        )

    def read_state(
        self, key: bytes, *, height: Height | None, prove: bool
    ) -> ProvenEntry:
        """What stands under a key after a block (``None``: the newest).

        May take long: where others wait, ask :class:`PastStates`.

        Raises:
            HeightUnknownError: No state of that height.
            ProofUnavailableError: The state or the key is empty.
        """
        return self._history.read(key, height=height, prove=prove)


def _history(store: SoloStore, genesis: GenesisDoc) -> StateHistory:
    return StateHistory(
        record=store,
        past=store.past,
        entries=store.entries(),
        height=store.height,
        first=Height(genesis.initial_height - 1),
    )
