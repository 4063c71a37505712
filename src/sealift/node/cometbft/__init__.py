"""Nodes of the real engine: CometBFT with the ledger behind it, one or many.

CometBFT orders and gossips; :mod:`sealift.node.abci` executes. This package finds
the engine, makes keys, genesis and configuration of nodes, and runs both halves
of a node as one. Facts and their sources: facts/cometbft.md.
"""

from ._config import NodeConfig, Peer, node_id, render_config
from ._engine import (
    ENGINE_MODULE,
    ENGINE_VARIABLE,
    ENGINE_VERSION,
    Engine,
    find_engine,
    require_version,
)
from ._errors import (
    EngineMissingError,
    EngineStoppedError,
    EngineVersionError,
    NodePortError,
)
from ._home import CometHome, NodeKeys, init_node, write_config
from ._network import NodePlan, free_ports, loopback, make_network, require_free
from ._run import CometNode, rpc_url, run_comet

__all__ = [
    "ENGINE_MODULE",
    "ENGINE_VARIABLE",
    "ENGINE_VERSION",
    "CometHome",
    "CometNode",
    "Engine",
    "EngineMissingError",
    "EngineStoppedError",
    "EngineVersionError",
    "NodeConfig",
    "NodeKeys",
    "NodePlan",
    "NodePortError",
    "Peer",
    "find_engine",
    "free_ports",
    "init_node",
    "loopback",
    "make_network",
    "node_id",
    "render_config",
    "require_free",
    "require_version",
    "rpc_url",
    "run_comet",
    "write_config",
]
