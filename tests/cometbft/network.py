"""Four validators whose cables can be cut, and users who lose nothing by it."""

import asyncio
import contextlib
import sys
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cables import Cables, Proxies
from comet import CHAIN, PARAMS, START_BALANCE, follow, require_undisturbed

from sealift.attestation import TrustAnchor
from sealift.base import AccountId, Amount, Height, Nonce, SealiftError
from sealift.crypto import account_of, sha256, system_entropy
from sealift.ledger import LedgerGenesis, ledger_call, render_genesis, transaction
from sealift.node import ledger_consensus_params
from sealift.node.cometbft import (
    CometHome,
    NodeConfig,
    NodeKeys,
    NodePlan,
    Peer,
    free_ports,
    init_node,
    make_network,
    rpc_url,
)
from sealift.relay import RpcRemoteError, tx_hash
from sealift.transport.clock import WallClock
from sealift.transport.keys import read_node_key, read_validator_key
from sealift.transport.rpc import Backoff, L1Client, NodeUnreachableError
from sealift.transport.supervise import Service, Supervisor

NAMES = ("val0", "val1", "val2", "val3")
BLOCK_MS = 200
PROGRAM = ("-m", "sealift", "node", "cometbft")


@dataclass
class Sent:
    """One user's transfer: its bytes are handed in until a block has them."""

    tx: bytes
    receiver: AccountId
    height: int | None = None


class User:
    """Pays a new account, again and again, by whichever validator answers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.secret = sha256(b"user" + number.to_bytes(4, "big"))
        self.sent: list[Sent] = []

    async def pay(self, clients: list[L1Client]) -> None:
        """One transfer, until it stands in a block."""
        nonce = len(self.sent)
        receiver = account_of(sha256(b"to" + bytes([self.number]) + bytes([nonce])))
        tx = transaction(
            self.secret,
            chain_id=CHAIN,
            nonce=Nonce(nonce),
            valid_until=Height(100_000),
            call=ledger_call(
                "balances.transfer", dest=receiver, amount=Amount(1000 + nonce)
            ),
        )
        await self.hand_in(Sent(tx, receiver), clients)

    async def hand_in(self, sent: Sent, clients: list[L1Client]) -> None:
        """What a user signed with its next nonce, until it stands in a block."""
        self.sent.append(sent)
        tx = sent.tx
        turn = self.number
        while sent.height is None:
            client = clients[turn % len(clients)]
            turn += 1
            with contextlib.suppress(SealiftError, TimeoutError):
                await client.broadcast_tx_sync(tx)
            for _ in range(10):
                with contextlib.suppress(SealiftError, TimeoutError):
                    found = await client.tx(tx_hash(tx))
                    if found is not None:
                        assert found.tx_result.code == 0, found.tx_result.log
                        sent.height = found.height
                        return
                await asyncio.sleep(0.05)

    async def go_on(self, clients: list[L1Client]) -> None:
        while True:
            await self.pay(clients)


@dataclass
class Net:
    """The validators, the cables between them, and their users."""

    homes: dict[str, CometHome]
    cables: Cables
    supervisor: Supervisor
    said: list[str]
    clients: dict[str, L1Client]
    users: list[User] = field(default_factory=lambda: [User(n) for n in range(4)])

    async def start(
        self, name: str, *, program: Sequence[str] = PROGRAM, called: str = ""
    ) -> None:
        """Run a validator, and again whenever it ends; ``called`` in what is said."""
        home = self.homes[name]
        argv = [sys.executable, *program, str(home.root)]
        if name in self.clients:  # a twin is where this process is
            argv = self.cables.inside(name, argv)
        await self.supervisor.start(
            Service(
                name=called or name,
                argv=argv,
                log=self.log(called or name),
                ready=r"^ready http://",
            )
        )

    def log(self, service: str) -> Path:
        return self.homes[NAMES[0]].root.parent / f"{service}.log"

    def pid(self, name: str) -> int:
        state = next(one for one in self.supervisor.states() if one.name == name)
        return state.mark.pid if state.mark is not None else 0

    def cut(self, here: Iterable[str], there: Iterable[str]) -> None:
        """No peer of the one side reaches one of the other, in either direction."""
        self.cables.cut(set(here), set(there))

    def mend(self) -> None:
        self.cables.mend()

    async def height(self, name: str) -> int:
        """A validator's height; 0 if it does not answer."""
        try:
            return await self.clients[name].height()
        except (NodeUnreachableError, RpcRemoteError):
            return 0

    async def reach(self, height: int, *names: str, within: float = 90) -> None:
        async with asyncio.timeout(within):
            for name in names or NAMES:
                while await self.height(name) < height:
                    await asyncio.sleep(0.05)

    async def paid(self, count: int, within: float = 60) -> None:
        """Until so many transfers stand in blocks; how fast is the machine's matter."""
        async with asyncio.timeout(within):
            while count > sum(
                one.height is not None for user in self.users for one in user.sent
            ):
                await asyncio.sleep(0.05)

    async def require_nothing_lost(self) -> int:
        """All validators have one chain, whose execution is the undisturbed one.

        Every transfer that was made stands in it exactly once, and each receiver
        has what it was paid. Returns the number of transfers.
        """
        top = max([await self.height(name) for name in NAMES])
        await self.reach(top + 2)
        counted: int | None = None
        for name in NAMES:
            relay = await follow(self.clients[name], top)  # header by header
            if name == NAMES[0]:
                counted = await require_undisturbed(self.clients[name], relay)
                heads = {name: relay.head.hash}
            heads[name] = relay.head.hash
        assert len(set(heads.values())) == 1, heads
        l1 = self.clients[NAMES[-1]]
        places: dict[bytes, list[int]] = {}
        for height in range(1, top + 1):
            for tx in (await l1.block(Height(height))).block.txs:
                places.setdefault(tx, []).append(height)
        for user in self.users:
            done = [one for one in user.sent if one.height is not None]
            for sent in done:
                assert places[sent.tx] == [sent.height], "doubled, or moved"
                entry = await l1.abci_query(account_key_of(sent.receiver), prove=False)
                assert entry.value is not None, "lost"
        made = sum(len(user.sent) for user in self.users)
        assert counted is not None
        assert counted <= made
        return counted


def account_key_of(account: AccountId) -> bytes:
    from comet import account_key  # noqa: PLC0415 - named alike

    return account_key(account)


def state_of_users() -> bytes:
    users = [User(number) for number in range(4)]
    return render_genesis(
        LedgerGenesis(
            chain_id=CHAIN,
            accounts=tuple(
                (account_of(user.secret), Amount(START_BALANCE)) for user in users
            ),
            sudo=account_of(users[0].secret),
            anchors=(TrustAnchor(root_der=b"simulated", kind="insecure-sim"),),
            params=PARAMS,
        )
    )


@contextlib.asynccontextmanager
async def network(
    folder: Path,
    kind: type[Cables] = Proxies,
    programs: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> AsyncIterator[Net]:
    """Four validators that dial each other over cables, under supervision.

    Args:
        folder: For everything.
        kind: What is between them.
        programs: Of validators that run another than ours.
    """
    ports = iter(free_ports(8 + 12, entropy=system_entropy))
    plans = [
        NodePlan(name=name, rpc_port=next(ports), p2p_port=next(ports))
        for name in NAMES
    ]
    cables = kind(plans, ports, folder)
    made = make_network(
        folder,
        plans,
        chain_id=CHAIN,
        genesis_time=WallClock().now(),
        consensus_params=ledger_consensus_params(PARAMS),
        app_state=state_of_users(),
        block_ms=BLOCK_MS,
        entropy=system_entropy,
        address=cables.address,
    )
    for plan, home in zip(plans, made, strict=True):
        config = home.config.read_text()
        here = f'"tcp://127.0.0.1:{plan.p2p_port}"'
        assert config.count(here) == 1
        there = f'"tcp://{cables.host(plan.name)}:{plan.p2p_port}"'
        home.config.write_text(config.replace(here, there))
    said: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        await cables.open(stack)
        supervisor = Supervisor(
            say=said.append, changed=lambda: None, clock=WallClock()
        )
        stack.push_async_callback(supervisor.stop_all)
        backoff = Backoff(attempts=1, jitter=lambda: 1.0)
        homes = {plan.name: home for plan, home in zip(plans, made, strict=True)}
        net = Net(
            homes=homes,
            cables=cables,
            supervisor=supervisor,
            said=said,
            clients={
                name: await stack.enter_async_context(
                    L1Client(rpc_url(home), backoff=backoff, timeout=5.0)
                )
                for name, home in homes.items()
            },
        )
        await asyncio.gather(
            *(net.start(one, program=programs.get(one, PROGRAM)) for one in NAMES)
        )
        yield net


@contextlib.asynccontextmanager
async def business(net: Net) -> AsyncIterator[None]:
    """Users pay all the time; at the end their last transfers are waited for."""
    clients = list(net.clients.values())
    pumps = [asyncio.create_task(user.go_on(clients)) for user in net.users]
    try:
        yield
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def finish(net: Net) -> None:
    """What was sent and not seen in a block yet is handed in until it is."""
    async with asyncio.timeout(60):
        for user in net.users:
            last = user.sent[-1]
            if last.height is None:
                user.sent.pop()
                await user.pay(list(net.clients.values()))


def make_twin(net: Net, folder: Path, of: str) -> CometHome:
    """Another home with the same validator key: what must never run beside it."""
    assert isinstance(net.cables, Proxies)  # it dials past them
    original = net.homes[of]
    rpc, p2p = free_ports(2, entropy=system_entropy)
    twin = CometHome(folder / "twin")
    peers = []
    wires = net.cables.wires
    for name, home in net.homes.items():
        if name != of:
            target = next(w.target for (_, b), w in wires.items() if b == name)
            known = NodeKeys(validator=b"", node=read_node_key(home.node_key)).node_id
            peers.append(Peer(node_id=known, address=f"127.0.0.1:{target}"))
    init_node(
        twin,
        genesis=original.read_genesis(),
        keys=NodeKeys(
            validator=read_validator_key(original.validator_key),
            node=system_entropy(32),
        ),
        config=NodeConfig(
            moniker="twin",
            rpc_port=rpc,
            p2p_port=p2p,
            peers=tuple(peers),
            block_ms=BLOCK_MS,
        ),
    )
    return twin


def story(
    folder: Path,
    tell: Callable[[Net], Coroutine[Any, Any, None]],
    kind: type[Cables] = Proxies,
    programs: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    async def main() -> None:
        async with network(folder, kind, programs) as net:
            await tell(net)

    asyncio.run(main())
