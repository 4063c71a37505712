"""What the embedded node answers to CometBFT's RPC methods."""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from sealift import __version__
from sealift.base import Height
from sealift.frame import ProofUnavailableError
from sealift.relay import SignedHeader, TxProof, ValidatorSet, prove_leaf, tx_hash
from sealift.relay.rpc import (
    ABCI_INFO,
    ABCI_QUERY,
    BLOCK_RESULT,
    BLOCK_RESULTS,
    BLOCKCHAIN,
    BROADCAST,
    BROADCAST_COMMIT,
    COMMIT_RESULT,
    CONSENSUS_PARAMS_RESULT,
    GENESIS,
    HEADER,
    STATUS,
    TX,
    VALIDATORS,
    AbciInfoResult,
    AbciQueryResult,
    BlockchainResult,
    BlockMeta,
    BlockResult,
    BlockResults,
    BroadcastCommitResult,
    BroadcastResult,
    CommitResult,
    ConsensusParamsResult,
    ExecTxResult,
    NodeInfo,
    ProofOp,
    ProtocolVersions,
    StatusResult,
    SyncInfo,
    TxFound,
    ValidatorInfo,
    ValidatorsResult,
)

from ._durable import DurableChain
from ._errors import HeightUnknownError, StateBusyError, TxNotFoundError
from ._mempool import Mempool
from ._params import BYTES, FLAG, HEX_BYTES, NUMBER, TEXT, Kind, Params
from ._past import PastStates
from ._store import StoredBlock

#: Type of the one proof operation of ``abci_query``.
ICS23_SIMPLE: Final = "ics23:simple"
#: Paths of ``abci_query`` that mean a state key, in both engines.
STORE_PATHS: Final = frozenset({"", "/store"})
#: What the answer to any other says.
NO_PATH: Final = ("no such path, only /store", "sealift/LedgerQueryError")
_DEFAULT_PAGE: Final = 30
_MAX_PAGE: Final = 100
_MAX_METAS: Final = 20
_PART_BYTES: Final = 65_536

Handler: TypeAlias = Callable[[Params], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC method: its parameters and what answers."""

    params: Mapping[str, Kind]
    answer: Handler


class TxWaiter(Protocol):
    """Lets a caller wait until a transaction stands in a block."""

    def submit(self, tx: bytes) -> ExecTxResult:
        """CheckTx, and room in the mempool if it passes."""
        ...

    async def included(self, digest: bytes) -> None:
        """Return when it is in a durable block.

        Raises:
            TxNotFoundError: It was not within the time limit.
        """
        ...


class SoloMethods:
    """The methods of one node; each answers plain JSON data.

    Args:
        chain: What is durable.
        mempool: What waits.
        waiter: How transactions come in.
        moniker: Name of the node, for people.
    """

    def __init__(
        self, *, chain: DurableChain, mempool: Mempool, waiter: TxWaiter, moniker: str
    ) -> None:
        self._chain = chain
        self._past = PastStates(chain.history)
        self._mempool = mempool
        self._waiter = waiter
        self._moniker = moniker
        #: Where the node listens, once it does.
        self.listen_address = ""

    async def close(self) -> None:
        """Return when nothing reads the database in a thread any more."""
        await self._past.close()

    def table(self) -> dict[str, Method]:
        """All methods by name."""
        at = {"height": NUMBER}
        tx = {"tx": BYTES}
        by_hash = {"hash": BYTES, "prove": FLAG}
        pages = at | {"page": NUMBER, "per_page": NUMBER}
        query = at | {"path": TEXT, "data": HEX_BYTES, "prove": FLAG}
        span = {"minHeight": NUMBER, "maxHeight": NUMBER}
        return {
            "health": Method({}, _plain(lambda _: {})),
            "status": Method({}, _plain(self._status)),
            "genesis": Method({}, _plain(self._genesis)),
            "block": Method(at, _plain(self._block)),
            "block_by_hash": Method(by_hash, _plain(self._block_by_hash)),
            "block_results": Method(at, _plain(self._block_results)),
            "blockchain": Method(span, _plain(self._blockchain)),
            "commit": Method(at, _plain(self._commit)),
            "header": Method(at, _plain(self._header)),
            "header_by_hash": Method(by_hash, _plain(self._header_by_hash)),
            "validators": Method(pages, _plain(self._validators)),
            "consensus_params": Method(at, _plain(self._consensus_params)),
            "tx": Method(by_hash, _plain(self._tx)),
            "abci_info": Method({}, _plain(self._abci_info)),
            "abci_query": Method(query, self._abci_query),
            "broadcast_tx_sync": Method(tx, _plain(self._broadcast_sync)),
            "broadcast_tx_async": Method(tx, _plain(self._broadcast_sync)),
            "broadcast_tx_commit": Method(tx, self._broadcast_commit),
            "unconfirmed_txs": Method({"limit": NUMBER}, _plain(self._unconfirmed)),
            "num_unconfirmed_txs": Method({}, _plain(self._unconfirmed_count)),
            "net_info": Method({}, _plain(self._net_info)),
        }

    def _find(self, height: Height | None) -> StoredBlock:
        top = self._chain.height
        if height is not None and height > top:
            raise HeightUnknownError(
                "height must be less than or equal to the current blockchain height",
                got=height,
                expected=f"≤ {top}",
            )
        return self._chain.store.block(top if height is None else height)

    def _find_by_hash(self, params: Params) -> StoredBlock:
        height = self._chain.store.height_of(params.data("hash"))
        if height is None:
            raise HeightUnknownError("no block of that hash", got=params.data("hash"))
        return self._find(height)

    def _status(self, _: Params) -> object:
        chain, genesis = self._chain, self._chain.genesis
        last = self._find(None)
        first = self._find(genesis.initial_height)
        validator = genesis.validators.validators[0]
        app = genesis.consensus_params.app_version
        return STATUS.render(
            StatusResult(
                node_info=NodeInfo(
                    protocol_version=ProtocolVersions(app=app),
                    id=validator.address.hex(),
                    network=genesis.chain_id,
                    version=f"sealift-{__version__}",
                    moniker=self._moniker,
                    other=(("rpc_address", self.listen_address), ("tx_index", "on")),
                ),
                sync_info=SyncInfo(
                    latest_block_hash=last.block_id.hash,
                    latest_app_hash=last.block.header.app_hash,
                    latest_block_height=chain.height,
                    latest_block_time=last.block.header.time,
                    earliest_block_hash=first.block_id.hash,
                    earliest_app_hash=first.block.header.app_hash,
                    earliest_block_height=genesis.initial_height,
                    earliest_block_time=first.block.header.time,
                    catching_up=False,
                ),
                validator_info=ValidatorInfo(
                    address=validator.address,
                    public_key=validator.public_key,
                    voting_power=validator.power,
                ),
            )
        )

    def _genesis(self, _: Params) -> object:
        return GENESIS.render(self._chain.genesis)

    def _block(self, params: Params) -> object:
        return _render_block(self._find(params.height()))

    def _block_by_hash(self, params: Params) -> object:
        return _render_block(self._find_by_hash(params))

    def _header(self, params: Params) -> object:
        return {"header": HEADER.render(self._find(params.height()).block.header)}

    def _header_by_hash(self, params: Params) -> object:
        return {"header": HEADER.render(self._find_by_hash(params).block.header)}

    def _block_results(self, params: Params) -> object:
        found = self._find(params.height())
        body = BLOCK_RESULTS.render(
            BlockResults(
                height=found.block.header.height,
                txs_results=found.results,
                finalize_block_events=found.events,
                app_hash=found.app_hash,
            )
        )
        return _with_nulls(body, "txs_results", "finalize_block_events") | {
            "validator_updates": None,
            "consensus_param_updates": None,
        }

    def _blockchain(self, params: Params) -> object:
        top = self._chain.height
        first = self._chain.genesis.initial_height
        high = min(params.number("maxHeight") or top, top)
        low = max(params.number("minHeight") or first, first, high - _MAX_METAS + 1)
        if low > high:
            raise HeightUnknownError("no such heights", got=f"{low} … {high}")
        metas = []
        for height in range(high, low - 1, -1):
            found = self._find(Height(height))
            metas.append(
                BlockMeta(
                    block_id=found.block_id,
                    block_size=found.block_id.parts.total * _PART_BYTES,
                    header=found.block.header,
                    num_txs=len(found.block.txs),
                )
            )
        return BLOCKCHAIN.render(
            BlockchainResult(last_height=top, block_metas=tuple(metas))
        )

    def _commit(self, params: Params) -> object:
        found = self._find(params.height())
        header = found.block.header
        return COMMIT_RESULT.render(
            CommitResult(
                signed_header=SignedHeader(header=header, commit=found.seen_commit),
                canonical=header.height < self._chain.height,
            )
        )

    def _validators(self, params: Params) -> object:
        height = self._find(params.height()).block.header.height
        everyone = self._chain.chain.validators.validators
        size = min(params.number("per_page") or _DEFAULT_PAGE, _MAX_PAGE)
        start = ((params.number("page") or 1) - 1) * size
        if start >= len(everyone):
            raise HeightUnknownError(
                "page should be within range", got=start // size + 1
            )
        page = everyone[start : start + size]
        return VALIDATORS.render(
            ValidatorsResult(
                block_height=height,
                validators=ValidatorSet(validators=page),
                count=len(page),
                total=len(everyone),
            )
        )

    def _consensus_params(self, params: Params) -> object:
        return CONSENSUS_PARAMS_RESULT.render(
            ConsensusParamsResult(
                block_height=self._find(params.height()).block.header.height,
                consensus_params=self._chain.genesis.consensus_params,
            )
        )

    def _tx(self, params: Params) -> object:
        return TX.render(self.find_tx(params.data("hash"), prove=params.flag("prove")))

    def find_tx(self, digest: bytes, *, prove: bool) -> TxFound:
        """A transaction in a durable block.

        Raises:
            TxNotFoundError: There is none of that hash.
        """
        place = self._chain.store.find_tx(digest)
        if place is None or place.height > self._chain.height:
            raise TxNotFoundError(f"tx ({digest.hex().upper()}) not found")
        found = self._find(place.height)
        tx = found.block.txs[place.position]
        proof = None
        if prove:
            leaves = [tx_hash(one) for one in found.block.txs]
            proof = TxProof(
                root_hash=found.block.header.data_hash,
                data=tx,
                proof=prove_leaf(leaves, place.position),
            )
        return TxFound(
            hash=digest,
            height=place.height,
            index=place.position,
            tx_result=found.results[place.position],
            tx=tx,
            proof=proof,
        )

    def _abci_info(self, _: Params) -> object:
        tip = self._chain.chain.tip
        return ABCI_INFO.render(
            AbciInfoResult(
                data="sealift",
                version=__version__,
                app_version=self._chain.genesis.consensus_params.app_version,
                last_block_height=tip.height,
                last_block_app_hash=tip.app_hash,
            )
        )

    async def _abci_query(self, params: Params) -> object:
        key = params.data("data")
        if params.text("path") not in STORE_PATHS:
            log, codespace = NO_PATH
            return ABCI_QUERY.render(
                AbciQueryResult(code=1, log=log, key=key, codespace=codespace)
            )
        try:
            entry = await self._past.read(
                key, height=params.height(), prove=params.flag("prove"), wait=True
            )
        except (HeightUnknownError, ProofUnavailableError, StateBusyError) as error:
            return ABCI_QUERY.render(
                AbciQueryResult(
                    code=1, log=str(error), key=key, codespace=f"sealift/{error.code}"
                )
            )
        operations = (
            None
            if entry.proof is None
            else (ProofOp(kind=ICS23_SIMPLE, key=key, data=entry.proof),)
        )
        return ABCI_QUERY.render(
            AbciQueryResult(
                key=key,
                value=entry.value or b"",
                log="exists" if entry.value is not None else "does not exist",
                proof_ops=operations,
                height=entry.height,
            )
        )

    def _broadcast_sync(self, params: Params) -> object:
        tx = params.data("tx")
        verdict = self._waiter.submit(tx)
        return BROADCAST.render(
            BroadcastResult(
                code=verdict.code,
                data=verdict.data,
                log=verdict.log,
                codespace=verdict.codespace,
                hash=tx_hash(tx),
            )
        )

    async def _broadcast_commit(self, params: Params) -> object:
        tx = params.data("tx")
        digest = tx_hash(tx)
        verdict = self._waiter.submit(tx)
        if verdict.code != 0:
            result, height = ExecTxResult(), Height(0)
        else:
            await self._waiter.included(digest)
            found = self.find_tx(digest, prove=False)
            result, height = found.tx_result, found.height
        return BROADCAST_COMMIT.render(
            BroadcastCommitResult(
                check_tx=verdict, tx_result=result, hash=digest, height=height
            )
        )

    def _unconfirmed(self, params: Params) -> object:
        limit = min(params.number("limit") or _DEFAULT_PAGE, _MAX_PAGE)
        waiting = self._mempool.first(limit)
        return self._counts(len(waiting)) | {
            "txs": [b64encode(tx).decode("ascii") for tx in waiting]
        }

    def _unconfirmed_count(self, _: Params) -> object:
        return self._counts(len(self._mempool)) | {"txs": None}

    def _counts(self, shown: int) -> dict[str, object]:
        return {
            "n_txs": str(shown),
            "total": str(len(self._mempool)),
            "total_bytes": str(self._mempool.total_bytes),
        }

    def _net_info(self, _: Params) -> object:
        return {
            "listening": False,
            "listeners": [],
            "n_peers": "0",
            "peers": [],
        }


def _plain(answer: Callable[[Params], object]) -> Handler:
    async def handler(params: Params) -> object:
        return answer(params)

    return handler


def _render_block(found: StoredBlock) -> object:
    return BLOCK_RESULT.render(BlockResult(block_id=found.block_id, block=found.block))


def _with_nulls(body: object, *names: str) -> dict[str, object]:
    """Empty arrays as Go writes a nil slice."""
    plain = dict(body) if isinstance(body, dict) else {}
    return plain | {name: plain.get(name) or None for name in names}
