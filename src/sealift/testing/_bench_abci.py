"""What our ABCI application costs a transaction, against one that does nothing.

Both stand behind the same server on a unix socket, in the same run, and are asked
the same by the same client: each transaction once by ``CheckTx``, a hundred to a
flush as CometBFT's mempool does, then in one block's ``PrepareProposal``,
``ProcessProposal``, ``FinalizeBlock`` and ``Commit``. What the idle one costs is
socket and protobuf (and the client, which only cuts frames); the rest is ours.
"""

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Final

from sealift.attestation import TrustAnchor
from sealift.base import Amount, Height, InvariantError, Nonce
from sealift.crypto import account_of, sha256
from sealift.frame import SimpleTreeStore
from sealift.ledger import (
    NO_REPORT,
    DcapVerifier,
    EngineReport,
    LedgerGenesis,
    LedgerParams,
    ledger_call,
    render_genesis,
    transaction,
)
from sealift.node import Application, ExecutedBlock, LedgerApplication
from sealift.node.abci import AbciFrameReader, render_choice, run_abci
from sealift.relay import Timestamp, Validator, ValidatorSet, validators_hash
from sealift.relay.rpc import ExecTxResult, GenesisDoc

from ._bench_shard import CHAIN, ROUNDS, Result, timed

#: As many are in one flush.
FLUSH: Final = 100
_PAYERS: Final = 20
_GENESIS_TIME: Final = 1_700_000_000
_FUNDS: Final = Amount(10**12)
_MICRO: Final = 1e6
_CHUNK: Final = 1 << 16
_VALIDATORS: Final = ValidatorSet(
    validators=(Validator(public_key=b"v" * 32, power=10),)
)
_PARAMS: Final = LedgerParams(fee_per_byte=1)


class IdleApplication:
    """Takes everything, and keeps one entry that says how far it is."""

    max_block_gas = -1
    next_validators = None
    fixed_validators = True

    def __init__(self) -> None:
        self._store = SimpleTreeStore()
        self._waiting: dict[bytes, bytes | None] = {}

    def init_chain(self, genesis: GenesisDoc) -> ExecutedBlock:
        """Write the first entry."""
        del genesis
        first = {b"height": b"0"}
        self._store.apply(dict(first))
        return ExecutedBlock(app_hash=self._store.root(), changes=dict(first))

    def load(
        self, entries: Iterable[tuple[bytes, bytes]], *, genesis: GenesisDoc
    ) -> bytes:
        """Take over the entry."""
        del genesis
        self._store.apply(dict(entries))
        return self._store.root()

    def check_tx(self, tx: bytes, *, recheck: bool) -> ExecTxResult:
        """Take it."""
        del tx, recheck
        return ExecTxResult(gas_wanted=1)

    def prepare_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> Sequence[bytes]:
        """All of them."""
        del max_bytes, max_gas
        return txs

    def require_proposal(
        self, txs: Sequence[bytes], *, max_bytes: int, max_gas: int
    ) -> None:
        """Return."""
        del txs, max_bytes, max_gas

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
        """Count."""
        del block_hash, time, proposer, report
        self._waiting = {b"height": b"%d" % height}
        after = self._store.copy()
        after.apply(self._waiting)
        return ExecutedBlock(
            results=tuple(ExecTxResult() for _ in txs),
            app_hash=after.root(),
            changes=self._waiting,
        )

    def commit(self) -> None:
        """Keep the count."""
        self._store.apply(self._waiting)


class _Engine:
    """A node's consensus connection, which never looks into an answer."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = AbciFrameReader()

    async def ask(self, frames: Sequence[bytes]) -> None:
        """Send, and wait until as many answers are there."""
        self._writer.write(b"".join(frames))
        missing = len(frames)
        while missing:
            data = await self._reader.read(_CHUNK)
            if not data:
                raise InvariantError("the ledger closed the connection")
            missing -= sum(1 for _ in self._frames.feed(data))
        await self._writer.drain()


def bench_abci(*, txs: int = 1000, rounds: int = ROUNDS) -> Result:
    """A transaction's whole way through ABCI: µs of ours, and of the idle one.

    ``ratio`` is idle ÷ ours. ``socket`` and ``ledger``, in µs a transaction, split
    ours in two; ``check``, ``propose`` (prepare and process) and ``execute``
    (finalize and commit) split it in three.
    """
    with tempfile.TemporaryDirectory(prefix="slb-") as folder:
        return asyncio.run(_compare(Path(folder), txs, rounds))


async def _compare(folder: Path, txs: int, rounds: int) -> Result:
    spent: list[list[float]] = []
    idle: list[list[float]] = []
    async with (
        _serving(folder / "ours", LedgerApplication(DcapVerifier())) as ours,
        _serving(folder / "idle", IdleApplication()) as floor,
    ):
        for height in range(1, rounds + 1):
            steps = _block(height, _transfers(txs, height - 1))
            for engine, seen in ((ours, spent), (floor, idle)):
                seen.append([await _seconds(engine, frames) for frames in steps])
    mine = statistics.median(map(sum, spent))
    bare = statistics.median(map(sum, idle))
    ratio = statistics.median(
        sum(one) / sum(other) for one, other in zip(idle, spent, strict=True)
    )
    parts = [statistics.median(part) for part in zip(*spent, strict=True)]
    each = _MICRO / txs
    return Result(
        value=mine * each,
        unit="µs/tx",
        floor=bare * each,
        ratio=ratio,
        socket=bare * each,
        ledger=(mine - bare) * each,
        check=parts[0] * each,
        propose=parts[1] * each,
        execute=parts[2] * each,
    )


async def _seconds(engine: _Engine, frames: Sequence[bytes]) -> float:
    loop = asyncio.get_running_loop()
    timed(lambda: None)  # garbage of the round before is not ours
    began = loop.time()
    for start in range(0, len(frames), FLUSH + 1):
        await engine.ask(frames[start : start + FLUSH + 1])
    return loop.time() - began


@contextlib.asynccontextmanager
async def _serving(home: Path, application: Application) -> AsyncIterator[_Engine]:
    socket = home.with_suffix(".s")
    async with run_abci(home, socket=socket, application=application):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            engine = _Engine(reader, writer)
            await engine.ask([render_choice("Request", "init_chain", _genesis())])
            yield engine
        finally:
            writer.close()
            await writer.wait_closed()


def _secret(number: int) -> bytes:
    return sha256(b"payer %d" % number)


def _transfers(count: int, block: int) -> list[bytes]:
    """A block of transfers, by turns from several accounts to new ones."""
    each = count // _PAYERS
    return [
        transaction(
            _secret(payer),
            chain_id=CHAIN,
            nonce=Nonce(block * each + turn),
            valid_until=Height(10**6),
            call=ledger_call(
                "balances.transfer",
                dest=account_of(sha256(b"to %d %d %d" % (block, payer, turn))),
                amount=Amount(1000),
            ),
        )
        for turn in range(each)
        for payer in range(_PAYERS)
    ]


def _genesis() -> dict[str, object]:
    ledger = LedgerGenesis(
        chain_id=CHAIN,
        accounts=tuple((account_of(_secret(one)), _FUNDS) for one in range(_PAYERS)),
        sudo=account_of(_secret(0)),
        anchors=(TrustAnchor(root_der=b"simulated", kind="insecure-sim"),),
        params=_PARAMS,
    )
    return {
        "time": {"seconds": _GENESIS_TIME},
        "chain_id": CHAIN,
        "consensus_params": {
            "block": {
                "max_bytes": _PARAMS.max_block_bytes,
                "max_gas": _PARAMS.max_block_weight,
            },
            "evidence": {
                "max_age_num_blocks": 100_000,
                "max_age_duration": {"seconds": 172_800},
                "max_bytes": 1_048_576,
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": 1},
            "abci": {},
        },
        "validators": [
            {"pub_key": {"ed25519": one.public_key}, "power": one.power}
            for one in _VALIDATORS.validators
        ],
        "app_state_bytes": render_genesis(ledger),
        "initial_height": 1,
    }


def _block(height: int, txs: Sequence[bytes]) -> tuple[list[bytes], ...]:
    """The frames of a block's life: check, propose, execute."""
    flush = render_choice("Request", "flush", {})
    check = []
    for place, tx in enumerate(txs, 1):
        check.append(render_choice("Request", "check_tx", {"tx": tx}))
        if place % FLUSH == 0 or place == len(txs):
            check.append(flush)
    block = {
        "txs": txs,
        "hash": sha256(b"block %d" % height),
        "height": height,
        "time": {"seconds": _GENESIS_TIME + height},
        "proposer_address": _VALIDATORS.validators[0].address,
        "next_validators_hash": validators_hash(_VALIDATORS),
    }
    proposal = {"txs": txs, "height": height, "max_tx_bytes": _PARAMS.max_block_bytes}
    propose = [
        render_choice("Request", "prepare_proposal", proposal),
        render_choice("Request", "process_proposal", block),
    ]
    execute = [
        render_choice("Request", "finalize_block", block),
        render_choice("Request", "commit", {}),
    ]
    return check, propose, execute
