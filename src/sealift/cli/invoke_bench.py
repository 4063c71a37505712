"""Benchmarks ``invoke_1`` and ``invoke_4``: sealed calls through a real network.

``sealift bench`` runs them in the process of the other benchmarks; they are here
because they need the demo's stage.
"""

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from sealift.base import Epoch, Height, Nonce, canonical_decode, decode
from sealift.crypto import account_of, sha256
from sealift.frame import RuntimeMetadata
from sealift.ledger import DcapVerifier, ledger_metadata, transaction
from sealift.node import LedgerApplication
from sealift.node.cometbft import find_engine
from sealift.protocol import (
    INVOKE,
    KeyEpochRecord,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    keys_key,
)
from sealift.relay import header_hash
from sealift.transport.account import L1Account
from sealift.transport.clock import WallClock
from sealift.transport.rpc import Backoff, L1Client, system_jitter

from ._demo_engine import start_chain
from ._demo_load import ChainScan, Load
from ._demo_parts import Processes
from ._demo_stage import (
    CHAIN_ID,
    DemoOptions,
    Stage,
    set_stage,
    write_worker_home,
)

_ACCOUNTS: Final = 60
_BLOCK_MS: Final = 500
#: Accounts that carry calls at once; each calls one validator, in order.
_CARRIERS: Final = ("carrier", "old-2", "new", "new-2")
_CALLS: Final = 300
_SINGLE: Final = 12
_VALIDITY: Final = 600
_PATIENCE: Final = 240.0
_POLL: Final = 0.02
#: Clock ticks a second of /proc/PID/stat.
_TICKS: Final = os.sysconf("SC_CLK_TCK")
#: Processor time that a process has used: fields 14 and 15 (proc(5)).
_USER, _SYSTEM = 11, 12


def bench_invoke(validators: int, *, calls: int = _CALLS) -> dict[str, object]:
    """Sealed calls a second from the first hand-in to the last block that has one.

    ``floor`` is the ledger alone executing the same blocks, ``ratio`` ours as a
    share of it. ``latency_ms`` is the median from hand-in to block of single calls
    before the load. The shares are of the processor time of all processes, from
    the first call until the worker has executed the last: CometBFT, our process
    behind it, the worker, its enclave.

    Args:
        validators: Of the network.
        calls: Of each of the four accounts that carry.
    """
    find_engine(os.environ)
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        options = DemoOptions(
            accounts=_ACCOUNTS, rate=1, block_ms=_BLOCK_MS, validators=validators
        )
        stage = set_stage(Path(name), options, WallClock())
        return asyncio.run(_Bench(stage, validators, calls).run())


class _Bench:
    def __init__(self, stage: Stage, validators: int, calls: int) -> None:
        self._stage = stage
        self._validators = validators
        self._calls = calls
        self._processes = Processes(stage)

    async def run(self) -> dict[str, object]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._processes.stop_all)
            urls = await start_chain(
                self._processes, self._stage.chain, self._validators
            )
            backoff = Backoff(jitter=system_jitter)
            nodes = [
                await stack.enter_async_context(L1Client(url, backoff=backoff))
                for url in urls
            ]
            http = await stack.enter_async_context(aiohttp.ClientSession())
            scan = ChainScan(nodes[0])
            reading = asyncio.create_task(scan.run())
            stack.callback(reading.cancel)
            async with asyncio.timeout(_PATIENCE):
                return await self._measure(nodes, http, scan)

    async def _measure(
        self, nodes: Sequence[L1Client], http: aiohttp.ClientSession, scan: ChainScan
    ) -> dict[str, object]:
        await scan.reach(2)
        worker = await self._give_birth(nodes[0], http)
        load = await self._users(nodes[0], scan)
        txs = {
            name: self._transactions(load, scan, number, name)
            for number, name in enumerate(_CARRIERS)
        }
        latencies = []
        for tx in txs[_CARRIERS[0]][:_SINGLE]:
            began = time.monotonic()
            before = len(scan.calls)
            await nodes[0].broadcast_tx_sync(tx)
            await _until(lambda before=before: len(scan.calls) > before)  # type: ignore[misc]
            latencies.append((time.monotonic() - began) * 1000)
        used = self._processor_times()
        before, first = len(scan.calls), scan.height
        began = time.monotonic()
        await asyncio.gather(
            *(
                _hand_in(
                    nodes[number % len(nodes)],
                    txs[name][_SINGLE:] if not number else txs[name],
                )
                for number, name in enumerate(_CARRIERS)
            )
        )
        count = sum(map(len, txs.values())) - _SINGLE
        await _until(lambda: len(scan.calls) >= before + count)
        seconds = time.monotonic() - began
        last = max(height for height, _ in scan.calls.values())
        await self._until_executed(worker, http, last)
        spent = {
            kind: now - used[kind] for kind, now in self._processor_times().items()
        }
        total = sum(spent.values()) or 1.0
        floor = await _ledger_alone(nodes[0], first + 1, last)
        return {
            "value": count / seconds,
            "unit": "calls/s",
            "floor": floor,
            "ratio": count / seconds / floor,
            "latency_ms": statistics.median(latencies),
            **{f"share_{kind}": one / total for kind, one in spent.items()},
        }

    async def _give_birth(self, l1: L1Client, http: aiohttp.ClientSession) -> str:
        stage = self._stage
        key = stage.keys["authority"]
        await L1Account(key, l1, CHAIN_ID).act(
            "enclave_bridge.create_shard",
            {
                "rules": ShardRules(
                    authority=SudoAuthority(key=account_of(key)),
                    genesis=sha256(stage.genesis),
                    min_notice=20,
                    rescue_after=100,
                ),
                "config": ShardConfig(code={"insecure-sim": stage.old.fingerprint}),
            },
        )
        write_worker_home(stage, "old", l1_url=l1.url, upstream="")
        home = str(stage.worker("old"))
        url = await self._processes.start("worker-old", "worker", "run", home)
        await self._until_executed(url, http, 0)
        return url

    async def _until_executed(
        self, url: str, http: aiohttp.ClientSession, height: int
    ) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with http.get(url + "/v1/status") as answer:
                    status = await answer.json()
                if (status["state_height"] or -1) >= height:
                    return
            await asyncio.sleep(_POLL)

    async def _users(self, l1: L1Client, scan: ChainScan) -> Load:
        entry = await l1.abci_query(keys_key(self._stage.shard, Epoch(0)), prove=False)
        record = canonical_decode(KeyEpochRecord, entry.value or b"")
        return Load(
            account=L1Account(self._stage.keys["carrier"], l1, CHAIN_ID),
            metadata=decode(RuntimeMetadata, self._stage.old.metadata),
            shard=self._stage.shard,
            shielding_key=record.statement.shielding_key,
            users=_ACCOUNTS,
            scan=scan,
        )

    def _transactions(
        self, load: Load, scan: ChainScan, number: int, name: str
    ) -> list[bytes]:
        """Signed and sealed beforehand: what is measured is the network."""
        mine = range(number, _ACCOUNTS, len(_CARRIERS))
        made = []
        for turn in range(self._calls):
            user = mine[turn % len(mine)]
            _, envelope = load._seal(  # noqa: SLF001 - as the demo's users do
                load._secrets[user],  # noqa: SLF001
                user,
                turn // len(mine),
                "balances.transfer",
                {"dest": bytes([number]) * 32, "amount": 1},
                keys=load.keys,
            )
            made.append(
                transaction(
                    self._stage.keys[name],
                    chain_id=CHAIN_ID,
                    nonce=Nonce(turn),
                    valid_until=Height(scan.height + _VALIDITY),
                    call=ledger_metadata().encode_call(
                        INVOKE, {"shard": self._stage.shard, "ciphertext": envelope}
                    ),
                )
            )
        return made

    def _processor_times(self) -> dict[str, float]:
        """Seconds by kind: engine, abci, worker, enclave."""
        found = dict.fromkeys(("engine", "abci", "worker", "enclave"), 0.0)
        for name, child in self._processes._running.items():  # noqa: SLF001
            kinds = ("worker", "enclave")
            if not name.startswith("worker"):
                kinds = ("abci", "engine")
            found[kinds[0]] += _seconds(child.pid)
            found[kinds[1]] += sum(map(_seconds, _children(child.pid)))
        return found


async def _hand_in(node: L1Client, txs: Sequence[bytes]) -> None:
    for tx in txs:
        await node.broadcast_tx_sync(tx)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a chain
        await asyncio.sleep(_POLL)


async def _ledger_alone(l1: L1Client, first: int, last: int) -> float:
    """Calls a second of the bare ledger on the blocks from ``first`` to ``last``."""
    application = LedgerApplication(DcapVerifier())
    application.init_chain(await l1.genesis())
    spent, count = 0.0, 0
    for height in range(1, last + 1):
        block = (await l1.block(Height(height))).block
        began = time.perf_counter()
        application.finalize_block(
            height=Height(height),
            block_hash=header_hash(block.header),
            time=block.header.time,
            proposer=block.header.proposer_address,
            txs=block.txs,
        )
        application.commit()
        if height >= first and block.txs:
            spent += time.perf_counter() - began
            count += len(block.txs)
    return count / spent


def _seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0.0
    fields = stat[stat.rindex(b")") + 1 :].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in (task / "children").read_text().split()]
    return found
