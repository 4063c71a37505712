"""A real CometBFT node of one validator, and our ledger behind it."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealift.attestation import TrustAnchor
from sealift.base import AccountId, Amount, ChainId, Height, Nonce
from sealift.crypto import account_of, system_entropy
from sealift.frame import storage_key
from sealift.ledger import (
    DcapVerifier,
    EngineReport,
    LedgerGenesis,
    LedgerParams,
    Misbehavior,
    MisbehaviorKind,
    ledger_call,
    render_genesis,
    transaction,
)
from sealift.node import LedgerApplication, ledger_consensus_params
from sealift.node.cometbft import CometHome, NodePlan, free_ports, make_network
from sealift.relay import (
    FLAG_ABSENT,
    Block,
    ChainRelay,
    RelayRules,
    TrustRoot,
    header_hash,
    verify_block,
)
from sealift.transport.clock import WallClock
from sealift.transport.process import ChildProcess, ProcessSpec, child_process
from sealift.transport.rpc import Backoff, L1Client

CHAIN = ChainId("sealift-comet")
PARAMS = LedgerParams(fee_per_byte=1)
RULES = RelayRules(trusting_period=14 * 24 * 3600)
FAUCET = bytes(31) + b"f"
START_BALANCE = 10**12
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Homes:
    """Where the node and the ledger keep what they know."""

    binary: Path
    home: CometHome
    #: Short, because a unix socket's path is.
    socket: Path

    @property
    def node(self) -> Path:
        return self.home.root

    @property
    def ledger(self) -> Path:
        return self.home.ledger

    @property
    def validator_key(self) -> Path:
        return self.home.validator_key

    def app(self, *extra: str) -> ProcessSpec:
        home = str(self.home.root)
        program = ["-m", "sealift", "node", "abci", home, f"--socket={self.socket}"]
        if extra:
            program = [
                str(HERE / "dying_ledger.py"),
                *extra,
                f"--home={self.ledger}",
                f"--socket={self.socket}",
            ]
        return ProcessSpec(
            argv=[sys.executable, *program], log=self.home.root / "ledger.log"
        )

    def comet(self) -> ProcessSpec:
        return ProcessSpec(
            argv=[
                str(self.binary),
                "start",
                f"--home={self.home.root}",
                f"--proxy_app=unix://{self.socket}",
            ],
            log=self.home.log,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home.root)},
        )


def make_homes(folder: Path, binary: Path, *, params: LedgerParams = PARAMS) -> Homes:
    rpc, p2p = free_ports(2, entropy=system_entropy)
    (home,) = make_network(
        folder,
        [NodePlan(name="val", rpc_port=rpc, p2p_port=p2p)],
        chain_id=CHAIN,
        genesis_time=WallClock().now(),
        consensus_params=ledger_consensus_params(params),
        app_state=app_state(params),
        block_ms=150,
        entropy=system_entropy,
        log_level="info",
    )
    return Homes(binary=binary, home=home, socket=folder / "s")


def app_state(params: LedgerParams = PARAMS) -> bytes:
    return render_genesis(
        LedgerGenesis(
            chain_id=CHAIN,
            accounts=((account_of(FAUCET), Amount(START_BALANCE)),),
            sudo=account_of(FAUCET),
            anchors=(TrustAnchor(root_der=b"simulated", kind="insecure-sim"),),
            params=params,
        )
    )


def root_call(nonce: int, name: str, **arguments: object) -> bytes:
    """A call by root, whose key is the faucet's."""
    return transaction(
        FAUCET,
        chain_id=CHAIN,
        nonce=Nonce(nonce),
        valid_until=Height(100_000),
        call=ledger_call("sudo.sudo", call=ledger_call(name, **arguments)),
    )


def transfer(nonce: int, amount: int = 1000, to: AccountId | None = None) -> bytes:
    return transaction(
        FAUCET,
        chain_id=CHAIN,
        nonce=Nonce(nonce),
        valid_until=Height(100_000),
        call=ledger_call(
            "balances.transfer", dest=to or receiver(nonce), amount=Amount(amount)
        ),
    )


def receiver(number: int) -> AccountId:
    return account_of(b"receiver" + number.to_bytes(24, "big"))


def account_key(account: AccountId) -> bytes:
    return storage_key("balances", "accounts", account)


@contextlib.asynccontextmanager
async def ledger_process(homes: Homes, *extra: str) -> AsyncIterator[ChildProcess]:
    async with child_process(homes.app(*extra)) as app:
        await app.wait_for_line(r"^ready unix://", within=30)
        yield app


@contextlib.asynccontextmanager
async def comet_process(homes: Homes) -> AsyncIterator[tuple[ChildProcess, L1Client]]:
    async with child_process(homes.comet()) as node:
        found = await node.wait_for_line(
            r"Starting RPC HTTP server on (127\.0\.0\.1:[1-9]\d*)", within=60
        )
        backoff = Backoff(attempts=5, jitter=lambda: 1.0)
        async with L1Client(f"http://{found[1]}", backoff=backoff) as l1:
            yield node, l1


async def wait_for_height(l1: L1Client, height: int, *, within: float = 60) -> None:
    async with asyncio.timeout(within):
        while await l1.height() < height:
            await asyncio.sleep(0.05)


async def send(l1: L1Client, txs: Sequence[bytes]) -> None:
    for tx in txs:
        await l1.broadcast_tx_sync(tx)


async def follow(l1: L1Client, top: int) -> ChainRelay:
    """A relay that verified every header from 1 on, and every block but the last."""
    first = await l1.light_block(Height(1))
    root = TrustRoot(
        chain_id=CHAIN, height=Height(1), header_hash=header_hash(first.header)
    )
    relay = ChainRelay.bootstrap(root, first, rules=RULES, now=None)
    await follow_on(relay, l1, top)
    return relay


async def follow_on(relay: ChainRelay, l1: L1Client, top: int) -> None:
    """Let a relay verify every header up to ``top``, and every block before."""
    for height in range(relay.head.height + 1, top + 1):
        relay.advance(await l1.light_block(Height(height)), now=None)
        before = Height(height - 1)
        block = await l1.block(before)
        results = await l1.block_results(before)
        verify_block(
            relay.header_at(before),
            relay.head,
            block.block.txs,
            [one.committed() for one in results.txs_results],
        )


async def report_in(l1: L1Client, block: Block) -> EngineReport:
    """What a block says of validators, as the engine tells the ledger."""
    height = block.header.height
    misbehavior = []
    for one in map(json.loads, block.evidence):
        assert one["type"] == "tendermint/DuplicateVoteEvidence"
        vote = one["value"]["vote_a"]
        misbehavior.append(
            Misbehavior(
                kind=MisbehaviorKind.DUPLICATE_VOTE,
                address=bytes.fromhex(vote["validator_address"]),
                height=Height(int(vote["height"])),
                power=int(one["value"]["ValidatorPower"]),
            )
        )
    signatures = block.last_commit.signatures
    absent: list[bytes] = []
    if height > 1 and any(sig.flag == FLAG_ABSENT for sig in signatures):
        names = (await l1.validators(Height(height - 1))).validators
        absent += (
            one.address
            for one, sig in zip(names, signatures, strict=True)
            if sig.flag == FLAG_ABSENT
        )
    return EngineReport(absent=tuple(absent), misbehavior=tuple(misbehavior))


async def require_undisturbed(l1: L1Client, relay: ChainRelay) -> int:
    """Execute the chain's blocks anew, without a crash: every app hash is the same.

    Returns the number of transactions.
    """
    application = LedgerApplication(DcapVerifier())
    root = application.init_chain(await l1.genesis()).app_hash
    count = 0
    for height in range(1, relay.head.height + 1):
        verified = relay.header_at(Height(height))
        assert verified.header.app_hash == root, f"state before block {height}"
        block = (await l1.block(Height(height))).block
        txs = block.txs
        count += len(txs)
        root = application.finalize_block(
            height=Height(height),
            block_hash=verified.hash,
            time=verified.header.time,
            proposer=verified.header.proposer_address,
            txs=txs,
            report=await report_in(l1, block),
        ).app_hash
        application.commit()
    return count
