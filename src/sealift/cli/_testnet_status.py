"""How a local network stands: asked of its parts, not of what was written down."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from sealift.base import Height, SealiftError
from sealift.client import read_card
from sealift.relay import FLAG_COMMIT
from sealift.relay.rpc import StatusResult
from sealift.transport.files import UnreadableFileError
from sealift.transport.marks import runs
from sealift.transport.rpc import Backoff, L1Client, NodeUnreachableError, system_jitter
from sealift.transport.supervise import ServiceState, SupervisorRecord, read_record

from ._cards import open_chain
from ._testnet_home import (
    Plan,
    PlannedValidator,
    PlannedWorker,
    TestnetHome,
    rpc_of,
    url_of,
)
from ._worker_http import ask_status

_PATIENCE: Final = aiohttp.ClientTimeout(total=5)
_DOWN: Final = "down"
#: Whoever signed none of so many blocks does not vote.
_BLOCKS: Final = 4
#: What a worker says that is of interest beside its neighbours.
_OF_WORKER: Final = (
    "l1_head",
    "imported",
    "executed",
    "generation",
    "instances_with_keys",
    "ok",
    "waiting_for",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All that ``status`` shows."""

    answer: dict[str, object]
    validators: list[dict[str, object]]
    workers: list[dict[str, object]]


class _NetInfo(msgspec.Struct, frozen=True):
    n_peers: str


class _NetInfoReply(msgspec.Struct, frozen=True):
    result: _NetInfo


async def look(home: TestnetHome) -> Standing:
    """Ask every part, all at once; who does not answer is ``down``.

    Raises:
        MissingFileError: No network is here.
        SealiftError: Its files cannot be read.
    """
    plan = home.read_plan()
    record = read_record(home.record)
    states = {} if record is None else {one.name: one for one in record.services}
    voters = await _voters(plan)
    validators, workers, shard = await asyncio.gather(
        asyncio.gather(
            *(_validator(one, states.get(one.name), voters) for one in plan.validators)
        ),
        asyncio.gather(*(_worker(one, states.get(one.name)) for one in plan.workers)),
        _shard(home),
    )
    heights = [row["height"] for row in validators if isinstance(row["height"], int)]
    answer: dict[str, object] = {
        "home": str(home.root),
        "state": _state(record, [*validators, *workers]),
        "chain_id": plan.chain_id,
        "height": max(heights, default=None),
        "shard": home.shard(plan).hex() if plan.workers else None,
        **shard,
        "card": str(home.card) if home.card.is_file() else None,
        "keys": str(home.vendor_key.parent),
        "logs": str(home.logs),
    }
    return Standing(answer=answer, validators=list(validators), workers=list(workers))


def _state(record: SupervisorRecord | None, parts: Sequence[dict[str, object]]) -> str:
    if record is None:
        return "never started: `sealift testnet up` starts it"
    if not runs(record.supervisor):
        if record.ready or any(one.mark for one in record.services):
            return "its supervisor was killed: `sealift testnet up` goes on"
        return "stopped: `sealift testnet up` goes on"
    if not record.ready:
        return "starting"
    down = [str(one["name"]) for one in parts if one["state"] != "ready"]
    return f"runs, but for {', '.join(down)}" if down else "runs"


def _process(name: str, state: ServiceState | None) -> dict[str, object]:
    alive = state is not None and state.mark is not None and runs(state.mark)
    return {
        "name": name,
        "state": state.state if state is not None and alive else _DOWN,
        "pid": state.mark.pid if state is not None and state.mark and alive else None,
        "restarts": state.restarts if state is not None else 0,
    }


async def _voters(plan: Plan) -> frozenset[bytes]:
    """Addresses of who signed one of the last few blocks, by the node that is ahead."""
    found = await asyncio.gather(*(_signers(rpc_of(one)) for one in plan.validators))
    return max(found, key=lambda seen: seen[0])[1]


async def _signers(url: str) -> tuple[int, frozenset[bytes]]:
    """A node's height, and who signed the commits up to it."""
    try:
        async with _client(url) as l1:
            top = await l1.height()
            commits = await asyncio.gather(
                *(l1.commit(Height(h)) for h in range(max(1, top - _BLOCKS), top + 1))
            )
    except SealiftError:
        return 0, frozenset()
    return top, frozenset(
        one.validator_address
        for commit in commits
        for one in commit.signed_header.commit.signatures
        if one.flag == FLAG_COMMIT
    )


async def _validator(
    planned: PlannedValidator, state: ServiceState | None, voters: frozenset[bytes]
) -> dict[str, object]:
    url = rpc_of(planned)
    status: StatusResult | None = None
    peers: int | None = None
    try:
        async with _client(url) as l1:
            status = await l1.status()
        peers = await _peers(url)
    except SealiftError:
        pass  # `down` says it
    mine = status.validator_info.address if status else b""
    return {
        **_process(planned.name, state),
        "height": status.sync_info.latest_block_height if status else None,
        "peers": peers,
        "votes": mine in voters if status else False,
        "catching_up": status.sync_info.catching_up if status else None,
        "rpc": url,
    }


async def _peers(url: str) -> int:
    try:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE) as http,
            http.get(f"{url}/net_info") as answer,
        ):
            found = msgspec.json.decode(await answer.read(), type=_NetInfoReply)
            return int(found.result.n_peers)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise NodeUnreachableError("the node does not answer", got=url) from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableFileError("not a net_info", got=url) from error


async def _worker(
    planned: PlannedWorker, state: ServiceState | None
) -> dict[str, object]:
    found: dict[str, object] = {}
    with contextlib.suppress(SealiftError):  # `down` says it
        found = await ask_status(url_of(planned))
    return {
        **_process(planned.name, state),
        **{name: found.get(name) for name in _OF_WORKER},
        "follows": planned.follows,
        "url": url_of(planned),
    }


async def _shard(home: TestnetHome) -> dict[str, object]:
    """What L1 has of the shard, proven from the trust root on."""
    nothing: dict[str, object] = {"confirmed": None, "generation": None}
    if not home.card.is_file():
        return nothing
    card = read_card(home.card)
    try:
        async with open_chain(card) as chain:
            frontier = await chain.frontier(card.shard_id)
            record = await chain.record(card.shard_id)
    except SealiftError:
        return nothing
    return {
        "confirmed": frontier.confirmed if frontier else None,
        "generation": record.generation if record else None,
    }


def _client(url: str) -> L1Client:
    return L1Client(url, backoff=Backoff(attempts=1, jitter=system_jitter), timeout=5.0)
