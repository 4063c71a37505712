"""Every recorded answer of a real node is read, and written back as it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealift.relay import RpcFormatError, RpcRemoteError, rpc
from sealift.relay.rpc import parse_reply, parse_request, render_request

SHAPES = {
    "abci_info": rpc.ABCI_INFO,
    "abci_query": rpc.ABCI_QUERY,
    "block_at": rpc.BLOCK_RESULT,
    "block_by_hash": rpc.BLOCK_RESULT,
    "block_results": rpc.BLOCK_RESULTS,
    "block_search": rpc.BLOCK_SEARCH,
    "blockchain": rpc.BLOCKCHAIN,
    "broadcast_tx_commit": rpc.BROADCAST_COMMIT,
    "broadcast_tx_": rpc.BROADCAST,
    "commit": rpc.COMMIT_RESULT,
    "consensus_params": rpc.CONSENSUS_PARAMS_RESULT,
    "genesis": rpc.GENESIS,
    "status": rpc.STATUS,
    "subscribe_txs_broadcast_tx": rpc.BROADCAST,
    "subscribe": rpc.SUBSCRIPTION,
    "tx_search": rpc.TX_SEARCH,
}
#: Methods that nobody here calls: only their envelope is read.
ENVELOPE_ONLY = ("consensus_state", "net_info")
REFUSALS = ("block_at_height_0", "subscribe_malformed")
FOLDERS = (
    "rpc_gaia_fixtures",
    "rpc_kvstore_v0_37",
    "rpc_kvstore_v0_38",
    "rpc_simd_fixtures",
)


def shape_of(name: str) -> rpc.Shape[Any]:
    best = [prefix for prefix in SHAPES if name.startswith(prefix)]
    return SHAPES[max(best, key=len)]


def plain(value: Any) -> Any:
    """Without what may be written in two ways: null, empty and absent are one."""
    if isinstance(value, dict):
        kept = {key: plain(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", [])}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def dropped(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """What the original has and the rendering lacks or changes."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key, item in theirs.items():
            place = f"{where}.{key}"
            if key not in ours:
                found.append(place)
            else:
                found += dropped(item, ours[key], place)
        return found
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return [
            p for a, b in zip(theirs, ours, strict=True) for p in dropped(a, b, where)
        ]
    return [] if theirs == ours else [f"{where}: {theirs!r} != {ours!r}"]


#: Fields that we drop knowingly: nothing authenticates them and nobody reads them.
KNOWN = (
    "begin_block",
    "end_block",
    "validator_updates",
    "consensus_param_updates",
    "time_iota_ms",
    "proposer_priority",
    "last_commit.signatures.validator_address",
)


def answers(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((root / folder / "incoming").glob("*.json"))


def test_every_recorded_answer_is_read_and_written_back(tendermint_rs: Path) -> None:
    seen = 0
    for path in answers(tendermint_rs):
        raw = path.read_bytes()
        if path.stem in REFUSALS:
            with pytest.raises(RpcRemoteError, match="Internal error"):
                parse_reply(raw).open()
            continue
        if path.stem.startswith(ENVELOPE_ONLY):
            parse_reply(raw).open()
            continue
        if raw.strip() == b"{}":
            continue
        result = parse_reply(raw).open()
        shape = shape_of(path.stem)
        if "deliver_tx" in result:  # v0.37 named it so; we speak v0.38
            with pytest.raises(RpcFormatError, match="tx_result"):
                shape.parse(result)
            continue
        value = shape.parse(result)
        rendered = shape.render(value)
        lost = [
            place
            for place in dropped(plain(result), plain(rendered))
            if not any(known in place for known in KNOWN)
        ]
        assert lost == [], path.name
        assert shape.parse(json.loads(json.dumps(rendered))) == value
        seen += 1
    assert seen >= 60


def test_every_recorded_call_is_read_and_written_back(tendermint_rs: Path) -> None:
    seen = 0
    for path in sorted(tendermint_rs.glob("rpc_*/outgoing/*.json")):
        call = json.loads(path.read_bytes())
        request = parse_request(path.read_bytes())
        again = json.loads(render_request(request))
        assert again["method"] == call["method"]
        assert again["params"] == (call["params"] or {})
        assert again["id"] == call["id"]
        seen += 1
    assert seen >= 40


def test_real_validator_pages_are_read(celestia: Path) -> None:
    for path in sorted(celestia.glob("*/*/validators_*.json")):
        result = parse_reply(path.read_bytes()).open()
        page = rpc.VALIDATORS.parse(result)
        rendered = rpc.VALIDATORS.render(page)
        assert not [
            p for p in dropped(result, rendered) if "proposer_priority" not in p
        ]
