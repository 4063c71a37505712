"""The demo's L1: the embedded engine, or a network of CometBFT validators."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from sealift.base import AccountId, ChainId, Height
from sealift.crypto import system_entropy
from sealift.ledger import LedgerParams
from sealift.node import ledger_consensus_params
from sealift.node.cometbft import NodePlan, free_ports, make_network
from sealift.relay import RpcRemoteError, TrustRoot, header_hash
from sealift.transport.clock import Clock
from sealift.transport.files import make_folder
from sealift.transport.keys import write_account_key
from sealift.transport.leash import leashed
from sealift.transport.process import ProcessSpec, child_process
from sealift.transport.rpc import Backoff, L1Client, NodeUnreachableError, system_jitter

EngineName = Literal["solo", "cometbft"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
_SEED: Final = 32
#: Of a block's time, what CometBFT waits; the rest is for proposing and voting.
_WAITING: Final = 0.8
_PATIENCE: Final = 120.0
_POLL_SECONDS: Final = 0.1


class Starts(Protocol):
    """Starts a part of Sealift by its words; the URL of its readiness line."""

    async def start(self, name: str, *words: str) -> str:
        """Start it; it is stopped with all others."""
        ...


def validator_names(count: int) -> tuple[str, ...]:
    """How the validators of a demo are called."""
    return tuple(f"val{number}" for number in range(count))


def make_comet_chain(
    home: Path,
    *,
    validators: int,
    chain_id: ChainId,
    accounts: Sequence[str],
    app_state: Callable[[Mapping[str, AccountId]], bytes],
    block_ms: int,
    clock: Clock,
) -> TrustRoot:
    """Make a network, and run it until it has its first block.

    The bundles measure block 1, and with CometBFT only the network knows it. The
    validators are stopped afterwards; the story starts them again.

    Args:
        home: Gets a folder for each validator, and ``keys/``.
        validators: How many.
        chain_id: Name of the chain.
        accounts: Names of accounts whose keys are made.
        app_state: The ledger's genesis (JSON) from their public keys.
        block_ms: Milliseconds between blocks, about.
        clock: For the genesis.

    Raises:
        SealiftError: Why there is no network.
    """
    make_folder(home / "keys", mode=0o700)
    keys = {
        name: write_account_key(home / "keys" / f"{name}.json", system_entropy(_SEED))
        for name in accounts
    }
    ports = free_ports(2 * validators, entropy=system_entropy)
    names = validator_names(validators)
    make_network(
        home,
        [
            NodePlan(name=name, rpc_port=ports[2 * n], p2p_port=ports[2 * n + 1])
            for n, name in enumerate(names)
        ],
        chain_id=chain_id,
        genesis_time=clock.now(),
        consensus_params=ledger_consensus_params(LedgerParams()),
        app_state=app_state(keys),
        block_ms=max(1, int(block_ms * _WAITING)),
        entropy=system_entropy,
    )
    return asyncio.run(_first_block(home, names))


async def start_chain(processes: Starts, home: Path, validators: int) -> list[str]:
    """Start the demo's L1; the RPC URLs of its nodes.

    Args:
        processes: Starts and stops them.
        home: The chain's folder.
        validators: 0 for the embedded engine.
    """
    if not validators:
        return [await processes.start("chain", "chain", "start", str(home))]
    return list(
        await asyncio.gather(
            *(
                processes.start(name, "node", "cometbft", str(home / name))
                for name in validator_names(validators)
            )
        )
    )


async def _first_block(home: Path, names: Sequence[str]) -> TrustRoot:
    async with contextlib.AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(child_process(_spec(home / name)))
            for name in names
        ]
        lines = await asyncio.gather(
            *(
                child.wait_for_line(r"^ready (http://\S+)", within=_PATIENCE)
                for child in children
            )
        )
        backoff = Backoff(jitter=system_jitter)
        async with (
            asyncio.timeout(_PATIENCE),
            L1Client(lines[0][1], backoff=backoff) as l1,
        ):
            while True:
                with contextlib.suppress(NodeUnreachableError, RpcRemoteError):
                    if await l1.height() > 1:
                        header = (await l1.commit(Height(1))).signed_header.header
                        return TrustRoot(
                            chain_id=header.chain_id,
                            height=header.height,
                            header_hash=header_hash(header),
                        )
                await asyncio.sleep(_POLL_SECONDS)


def _spec(home: Path) -> ProcessSpec:
    return ProcessSpec(
        argv=leashed([sys.executable, "-m", "sealift", "node", "cometbft", str(home)]),
        log=home.parent / f"{home.name}.first.log",
        grace=30,
    )
