"""``config.toml`` and the small files that CometBFT wants beside it."""

from dataclasses import dataclass
from typing import Final

import msgspec

from sealift.crypto import account_of, sha256

_ADDRESS: Final = 20
_LOOPBACK: Final = "127.0.0.1"
#: A block's parts may be gossiped as soon as they are there: the defaults are
#: for links of a hundred milliseconds.
_SLEEP_MS: Final = 25
_FLUSH_MS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another node: its id and where it is reached, ``host:port``."""

    node_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What differs from CometBFT's defaults at one node.

    Attributes:
        moniker: The node's name, for people.
        rpc_port: Where its RPC answers.
        p2p_port: Where its peers reach it.
        peers: Those that it always keeps a connection to; it looks for no others.
        block_ms: Milliseconds between a commit and the next proposal.
        host: The address that both ports are opened at.
        log_level: CometBFT's; ``info`` is ten lines a block.
    """

    moniker: str
    rpc_port: int
    p2p_port: int
    peers: tuple[Peer, ...] = ()
    block_ms: int = 1000
    host: str = _LOOPBACK
    log_level: str = "error"


def render_config(config: NodeConfig) -> bytes:
    """``config.toml``; what it does not name has CometBFT's default.

    Several nodes may share an address (facts/cometbft.md §6.9), results of blocks
    are kept (§6.10), and peers come only from this file.
    """
    peers = ",".join(f"{one.node_id}@{one.address}" for one in config.peers)
    local = config.host == _LOOPBACK
    sections: tuple[tuple[str, dict[str, object]], ...] = (
        (
            "",
            {
                "moniker": config.moniker,
                "abci": "socket",
                "db_backend": "goleveldb",
                "log_level": config.log_level,
                "log_format": "plain",
            },
        ),
        ("rpc", {"laddr": f"tcp://{config.host}:{config.rpc_port}"}),
        (
            "p2p",
            {
                "laddr": f"tcp://{config.host}:{config.p2p_port}",
                "persistent_peers": peers,
                "pex": False,
                "addr_book_strict": not local,
                "allow_duplicate_ip": local,
                "flush_throttle_timeout": f"{_FLUSH_MS}ms",
                "persistent_peers_max_dial_period": "5s",
            },
        ),
        (
            "consensus",
            {
                "timeout_commit": f"{config.block_ms}ms",
                "peer_gossip_sleep_duration": f"{_SLEEP_MS}ms",
            },
        ),
        ("storage", {"discard_abci_responses": False}),
        ("tx_index", {"indexer": "kv"}),
    )
    lines = ["# Written by sealift; CometBFT's own defaults hold for the rest."]
    for name, values in sections:
        if name:
            lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""]).encode()


def node_id(secret: bytes) -> str:
    """How peers name the node that has this Ed25519 seed."""
    return sha256(account_of(secret))[:_ADDRESS].hex()


def render_first_state() -> bytes:
    """``priv_validator_state.json`` of a validator that has signed nothing.

    It must never be written again: it is what keeps a validator from signing
    twice.
    """
    return _json({"height": "0", "round": 0, "step": 0})


def _toml(value: object) -> str:
    """A boolean, number or string; JSON's are TOML's."""
    return msgspec.json.encode(value).decode()


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"
