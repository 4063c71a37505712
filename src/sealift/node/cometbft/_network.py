"""Keys, genesis and configuration of several nodes of one chain."""

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealift.base import ChainId
from sealift.crypto import Entropy, account_of
from sealift.relay import ConsensusParams, Timestamp, Validator, ValidatorSet
from sealift.relay.rpc import GenesisDoc

from ._config import NodeConfig, Peer
from ._errors import NodePortError
from ._home import CometHome, NodeKeys, init_node

_POWER: Final = 10
_LOOPBACK: Final = "127.0.0.1"
#: Below what operating systems give to outgoing connections: a port that a node
#: has written down must still be free when it starts again.
_FIRST_PORT: Final = 20_000
_LAST_PORT: Final = 31_999
_TRIES: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One validator of a network that is to be made."""

    name: str
    rpc_port: int
    p2p_port: int
    power: int = _POWER


#: ``address(dialler, target)``: where the one reaches the other.
Address = Callable[[NodePlan, NodePlan], str]


def loopback(dialler: NodePlan, target: NodePlan) -> str:
    """Every node reaches the other at its own port on this machine."""
    del dialler
    return f"{_LOOPBACK}:{target.p2p_port}"


def make_network(
    folder: Path,
    plans: Sequence[NodePlan],
    *,
    chain_id: ChainId,
    genesis_time: Timestamp,
    consensus_params: ConsensusParams,
    app_state: bytes,
    block_ms: int,
    entropy: Entropy,
    address: Address = loopback,
    log_level: str = "error",
) -> tuple[CometHome, ...]:
    """Make the homes of all validators of a new chain; each dials all others.

    Args:
        folder: Gets a folder for each plan, named after it.
        plans: The validators.
        chain_id: Name of the chain; part of every signature.
        genesis_time: Time of block 1.
        consensus_params: Block limits.
        app_state: The application's genesis (JSON).
        block_ms: Milliseconds between a commit and the next proposal.
        entropy: For the keys.
        address: Where one reaches another.
        log_level: CometBFT's.

    Raises:
        HomeNotEmptyError: One of them is there already.
        FileError: They cannot be written.
    """
    keys = {plan.name: NodeKeys.fresh(entropy) for plan in plans}
    genesis = GenesisDoc(
        genesis_time=genesis_time,
        chain_id=chain_id,
        consensus_params=consensus_params,
        validators=ValidatorSet.sorted(
            tuple(
                Validator(
                    public_key=account_of(keys[plan.name].validator), power=plan.power
                )
                for plan in plans
            )
        ),
        app_state=app_state,
    )
    homes = []
    for plan in plans:
        home = CometHome(folder / plan.name)
        config = NodeConfig(
            moniker=plan.name,
            rpc_port=plan.rpc_port,
            p2p_port=plan.p2p_port,
            peers=tuple(
                Peer(node_id=keys[other.name].node_id, address=address(plan, other))
                for other in plans
                if other is not plan
            ),
            block_ms=block_ms,
            log_level=log_level,
        )
        init_node(home, genesis=genesis, keys=keys[plan.name], config=config)
        homes.append(home)
    return tuple(homes)


def free_ports(count: int, *, entropy: Entropy, host: str = _LOOPBACK) -> list[int]:
    """Different ports that nobody listens at now.

    Raises:
        NodePortError: There are not so many.
    """
    found: list[int] = []
    with ExitStack() as held:
        for _ in range(_TRIES):
            if len(found) == count:
                return found
            wish = int.from_bytes(entropy(4), "big") % (_LAST_PORT + 1 - _FIRST_PORT)
            port = _FIRST_PORT + wish
            probe = held.enter_context(socket.socket())
            if port not in found and _can_bind(probe, host, port):
                found.append(port)
    raise NodePortError(
        "no free ports are left",
        got=len(found),
        expected=f"{count} between {_FIRST_PORT} and {_LAST_PORT}",
    )


def require_free(port: int, *, what: str, host: str = _LOOPBACK) -> None:
    """Return unless somebody listens at a port.

    Raises:
        NodePortError: It is taken.
    """
    with socket.socket() as probe:
        if _can_bind(probe, host, port):
            return
    raise NodePortError(
        f"{what} cannot listen",
        got=f"{host}:{port} is taken by another process",
        expected="the port that was written down when it was made",
        hint="End that process; it may be another network's, or a leftover of this one",
    )


def _can_bind(probe: socket.socket, host: str, port: int) -> bool:
    # As servers do: what a closed connection left behind is in nobody's way.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
    except OSError:
        return False
    return True
