"""A toy application: ``key=value`` puts, ``key=`` deletes; and its node process."""

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sealift.base import Height
from sealift.frame import SimpleTreeStore
from sealift.ledger import NO_REPORT, EngineReport
from sealift.node import ExecutedBlock, run_solo
from sealift.relay import Timestamp, ValidatorSet
from sealift.relay.rpc import Event, EventAttribute, ExecTxResult, GenesisDoc
from sealift.transport.clock import WallClock


class KvApplication:
    """Fails ``fail=…`` in the block, refuses what has no ``=`` in CheckTx."""

    def __init__(self) -> None:
        self.store = SimpleTreeStore()
        self.pending: dict[bytes, bytes | None] = {}
        self.max_block_gas = -1
        self.next_validators: ValidatorSet | None = None
        self.fixed_validators = True
        self.checked: list[tuple[bytes, bool]] = []

    def init_chain(self, genesis: GenesisDoc) -> ExecutedBlock:
        state = json.loads(genesis.app_state) or {}
        changes = {key.encode(): value.encode() for key, value in state.items()}
        self.store.apply(changes)
        return ExecutedBlock(app_hash=self.store.root(), changes=changes)

    def load(
        self, entries: Iterable[tuple[bytes, bytes]], *, genesis: GenesisDoc
    ) -> bytes:
        self.store = SimpleTreeStore()
        self.store.apply(dict(entries))
        return self.store.root()

    def check_tx(self, tx: bytes, *, recheck: bool) -> ExecTxResult:
        self.checked.append((tx, recheck))
        key, found, _ = tx.partition(b"=")
        if not found or not key:
            return ExecTxResult(code=1, log="NotAnAssignmentError", codespace="kv")
        if self.store.get(b"once/" + key) is not None:
            return ExecTxResult(code=2, log="AlreadySetError", codespace="kv")
        return ExecTxResult(gas_wanted=1)

    def prepare_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> Sequence[bytes]:
        return txs

    def require_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> None:
        return None

    def finalize_block(
        self,
        *,
        height: Height,
        block_hash: bytes,
        time: Timestamp,
        proposer: bytes,
        txs: Sequence[bytes],
        report: EngineReport = NO_REPORT,
    ) -> ExecutedBlock:
        assert len(block_hash) == 32
        assert len(proposer) == 20
        changes: dict[bytes, bytes | None] = {b"height": str(height).encode()}
        results = []
        for tx in txs:
            key, _, value = tx.partition(b"=")
            if key == b"fail":
                results.append(ExecTxResult(code=7, log="told to fail"))
                continue
            changes[key] = value or None
            results.append(
                ExecTxResult(
                    data=value[:8],
                    gas_used=len(tx),
                    events=(
                        Event(
                            kind="kv",
                            attributes=(
                                EventAttribute(key="key", value=key.hex(), index=True),
                            ),
                        ),
                    ),
                )
            )
        tree = SimpleTreeStore()
        tree.apply(dict(self.store.items(b"")))
        tree.apply(changes)
        self.pending = changes
        return ExecutedBlock(
            results=tuple(results),
            app_hash=tree.root(),
            changes=changes,
            events=(Event(kind="block", attributes=()),),
        )

    def commit(self) -> None:
        self.store.apply(self.pending)
        self.pending = {}


async def main(home: Path) -> None:
    async with run_solo(home, application=KvApplication(), clock=WallClock()) as node:
        sys.stdout.write(f"ready {node.url}\n")
        sys.stdout.flush()
        await node.failed()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
