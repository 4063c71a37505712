"""A chain, a shard and one worker in this process, on a thread of its own.

The chain is the embedded node, the registration is judged for real, the shard
executes with the real executor; only the enclave's walls are missing.
"""

import asyncio
import datetime as dt
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from sealift.attestation import (
    TrustAnchor,
    generate_tls_key,
    make_session_certificate,
    parse_collateral,
)
from sealift.base import ChainId, Height, ShardId, canonical_decode, encode
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.client import ShardCard, make_card, open_client
from sealift.crypto import (
    HpkeSuite,
    account_of,
    hpke_generate,
    rsa_generate,
    sha256,
    system_entropy,
)
from sealift.frame import PageStore, Runtime, RuntimeCall
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.ledger import (
    NEWEST_RUNTIME,
    DcapVerifier,
    LedgerGenesis,
    LedgerParams,
    ledger_metadata,
    render_genesis,
    shard_id_of,
)
from sealift.node import LedgerApplication, SoloConfig, SoloHome, init_solo, run_solo
from sealift.protocol import (
    INVOKE,
    Confirmation,
    EnclaveRecord,
    GetterReply,
    PublishKeyStatement,
    RegistrationStatement,
    SealedReceipt,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    Transaction,
    effects_root,
    enclave_key,
    key_commitment,
    seal_receipt,
    seal_reply,
)
from sealift.relay import TrustRoot, header_hash
from sealift.stf import (
    Executor,
    ShardBlock,
    ShieldedFunds,
    StandardPallets,
    open_and_verify,
    open_and_verify_getter,
)
from sealift.transport.account import L1Account
from sealift.transport.clock import WallClock, unix_seconds
from sealift.transport.http import make_app, serve
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import Backoff, L1Client, system_jitter

CHAIN = ChainId("client-world")
FUNDS = 10**12
USER = sha256(b"a user of the client's tests")
RICH = sha256(b"a user with tokens from the genesis")
BLOCK_MS = 40
VENDOR = rsa_generate()


@dataclass
class World:
    """Everything that a story needs; made by :func:`build`."""

    home: Path
    url: str
    trust_root: TrustRoot
    shard: ShardId
    card: ShardCard
    authority: bytes
    enclave: "Enclave"
    l1: L1Client
    sim: SimIntel
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def key(self, name: str) -> Path:
        return SoloHome(self.home / "chain").account_key(name)

    def user(self, secret: bytes = USER, *, paid: bool = True, **more: Any) -> Any:
        """A client; with ``paid`` it carries its calls itself."""
        options = {
            "clock": WallClock(),
            "entropy": system_entropy,
            "jitter": system_jitter,
            "attempts": 2,
            "payer_secret": read_account_key(self.key("payer")) if paid else None,
            **more,
        }
        return open_client(options.pop("card", self.card), secret, **options)


class Enclave:
    """A worker and its enclave without walls: keys, state, HTTP."""

    def __init__(self, machine: SimMachine, runtime: Runtime) -> None:
        self.machine = machine
        self.measurement = measure({"app/shard.py": b"the shard of the client tests"})
        tbs = make_tbs(
            self.measurement, isv_prod_id=1, isv_svn=2, date=dt.date(2026, 11, 23)
        )
        self.identity = machine.einit(self.measurement, sign_sigstruct(tbs, VENDOR))
        self.runtime = runtime
        self.secret = system_entropy(32)
        self.shielding = hpke_generate(HpkeSuite.X25519, system_entropy)
        self.receipts: dict[bytes, SealedReceipt] = {}
        self.executed = Height(0)
        self.head, self.time = Height(0), 0
        self.root = sha256(b"genesis root")
        self.confirm = True
        #: What the HTTP side does instead of its duty.
        self.lies: dict[str, Callable[..., Awaitable[web.Response]]] = {}
        self.url = ""

    async def register(self, account: L1Account, l1: L1Client, shard: ShardId) -> None:
        head = (await l1.commit()).signed_header.header
        statement = RegistrationStatement(
            chain_id=CHAIN,
            shard=shard,
            operator=account.account,
            signing_key=account_of(self.secret),
            tls_key=sha256(b"tls"),
            hpke_key=b"hpke",
            block_height=head.height,
            block_hash=header_hash(head),
        )
        quote = self.machine.quote(self.identity, statement.report_data())
        arguments = {
            "statement": statement,
            "signature": statement.sign(self.secret),
            "quote": quote,
            "url": self.url,
        }
        await account.act("teerex.register_sgx_enclave", arguments)

    async def give_birth(self, account: L1Account, shard: ShardId) -> Height:
        statement = PublishKeyStatement(
            chain_id=CHAIN,
            shard=shard,
            epoch=0,
            signing_key=account_of(self.secret),
            shielding_key=self.shielding.public,
            state_key_commitment=key_commitment("state", bytes(32)),
            root_key_commitment=key_commitment("root", bytes(32)),
            genesis_root=self.root,
        )
        arguments = {"statement": statement, "signature": statement.sign(self.secret)}
        done = await account.act("enclave_bridge.publish_key", arguments)
        return done.height

    async def run(
        self, account: L1Account, l1: L1Client, shard: ShardId, blob: bytes
    ) -> None:
        """Execute block after block, for ever."""
        self.shard, self.account = shard, account
        self.executor = Executor(
            self.runtime,
            chain_id=CHAIN,
            shard=shard,
            fingerprint=self.identity.mrenclave,
        )
        self.store = PageStore(bits=4, key=bytes(32))
        self.executor.apply_genesis(self.store, blob, height=Height(0), time=0)
        while True:
            await self.follow(l1)
            await asyncio.sleep(BLOCK_MS / 2000)

    async def follow(self, l1: L1Client) -> None:
        head = await l1.height()
        while self.executed + 1 < head:
            height = Height(self.executed + 1)
            await self.execute(await l1.block(height), await l1.block_results(height))
        self.head = head

    async def execute(self, found: Any, results: Any) -> None:
        header = found.block.header
        items: list[Any] = []
        for tx, result in zip(found.block.txs, results.txs_results, strict=True):
            body = canonical_decode(Transaction, tx).body
            if result.code or not body.call.startswith("enclave_bridge."):
                continue
            args = (
                ledger_metadata()
                .decode_call(RuntimeCall(name=body.call, args=body.args))
                .args
            )
            if body.call == INVOKE:
                items += open_and_verify(
                    [bytes.fromhex(args["ciphertext"][2:])],
                    keys={0: self.shielding.secret},
                    chain_id=CHAIN,
                    shard=self.shard,
                )
            if body.call == "enclave_bridge.shield_funds":
                who = bytes.fromhex(args["beneficiary"][2:])
                items.append(ShieldedFunds(beneficiary=who, amount=args["amount"]))
        block_hash = header_hash(header)
        out = self.executor.execute_block(
            self.store,
            ShardBlock(
                height=header.height,
                block_hash=block_hash,
                time=header.time.seconds,
                items=tuple(items),
            ),
        )
        self.store.apply(out.changes)
        for one in out.receipts:
            if one.reply_key is not None:
                self.receipts[one.envelope] = seal_receipt(
                    one.receipt,
                    reply_key=one.reply_key,
                    envelope=one.envelope,
                    block_hash=block_hash,
                )
        self.executed = header.height
        self.time = header.time.seconds
        if out.receipts and self.confirm:
            await self.say(header.height)

    async def say(self, last: Height) -> None:
        statement = Confirmation(
            chain_id=CHAIN,
            shard=self.shard,
            generation=0,
            first=Height(self.confirmed + 1),
            last=last,
            prev_root=self.root,
            root=sha256(self.root),
            receipts_root=bytes(32),
            effects_root=effects_root(()),
            signing_key=account_of(self.secret),
        )
        arguments = {
            "confirmation": statement,
            "signature": statement.sign(self.secret),
        }
        self.root, self.confirmed = statement.root, last
        await self.account.send("enclave_bridge.confirm", arguments)

    # --- HTTP ---

    def application(self) -> web.Application:
        table = {
            "submit": ("POST", "/v1/submit", self.submit),
            "ask": ("POST", "/v1/ask", self.ask),
            "receipt": ("GET", "/v1/receipts/{envelope}", self.receipt),
            "status": ("GET", "/v1/status", self.status),
            "healthz": ("GET", "/healthz", self.healthz),
            "dump": ("GET", "/v1/dump-ra", self.dump),
        }

        def route(name: str, method: str, path: str, honest: Any) -> web.RouteDef:
            async def handle(request: web.Request) -> web.Response:
                return await self.lies.get(name, honest)(request)

            return web.route(method, path, handle)

        return make_app([route(name, *rest) for name, rest in table.items()])

    async def submit(self, request: web.Request) -> web.Response:
        envelope = await request.read()
        tx = await self.account.send(
            INVOKE, {"shard": self.shard, "ciphertext": envelope}
        )
        return web.json_response({"tx": tx.hex().upper()})

    async def ask(self, request: web.Request) -> web.Response:
        getter = open_and_verify_getter(
            await request.read(),
            keys={0: self.shielding.secret},
            chain_id=CHAIN,
            shard=self.shard,
        )
        value = self.executor.answer(
            self.store, getter, height=self.executed, head=self.head, time=self.time
        )
        return self.reply(getter, value=value)

    def reply(self, getter: Any, **changes: Any) -> web.Response:
        honest = {
            "value": b"",
            "state_height": self.executed,
            "root": self.root,
            "confirmed": False,
            "head_height": self.head,
            "head_time": self.time,
        }
        reply = GetterReply(**{**honest, **changes})
        key = getter.body.reply_key
        raw = seal_reply(reply, reply_key=key, entropy=system_entropy)
        return web.Response(body=raw)

    async def receipt(self, request: web.Request) -> web.Response:
        name = bytes.fromhex(request.match_info["envelope"])
        for _ in range(20):
            if name in self.receipts:
                return web.Response(body=encode(self.receipts[name]))
            await asyncio.sleep(0.02)
        raise web.HTTPNotFound(reason="no receipt yet")

    async def status(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "mrenclave": self.identity.mrenclave.hex(),
                "signing_key": account_of(self.secret).hex(),
                "shielding_key": self.shielding.public.hex(),
                "l1_head": self.head,
                "imported": self.executed,
                "instances_with_keys": 1,
                "halted": "",
                "ok": True,
                "reasons": [],
            }
        )

    async def healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"ok": True, "reasons": []})

    async def dump(self, _: web.Request) -> web.Response:
        der = make_session_certificate(
            key=generate_tls_key(system_entropy),
            nonce=b"",
            binding=b"",
            quote=lambda data: self.machine.quote(self.identity, data),
        )
        return web.Response(body=der)


async def build(home: Path, ready: Callable[[World], None]) -> None:
    """Make a world, tell of it, and keep it going until it is stopped."""
    sim = SimIntel(home / "sim")
    anchor = TrustAnchor(root_der=sim.root_der, kind="insecure-sim")
    application = LedgerApplication(DcapVerifier())
    names = ("sudo", "payer", "operator", "faucet")
    root = init_solo(
        home / "chain",
        chain_id=CHAIN,
        genesis_time=WallClock().now(),
        accounts=dict.fromkeys(names),
        app_state=lambda keys: render_genesis(
            LedgerGenesis(
                chain_id=CHAIN,
                accounts=tuple((key, FUNDS) for key in keys.values()),
                sudo=keys["sudo"],
                anchors=(anchor,),
                params=LedgerParams(),
                runtime=NEWEST_RUNTIME,
            )
        ),
        application=application,
        entropy=system_entropy,
        config=SoloConfig(block_ms=BLOCK_MS, port=0),
    )
    secrets = {
        name: read_account_key(SoloHome(home / "chain").account_key(name))
        for name in names
    }
    runtime = Runtime(name="client", version=1, pallets=[*StandardPallets().pallets])
    machine = SimMachine(sim, "one", entropy=system_entropy)
    enclave = Enclave(machine, runtime)
    async with (
        run_solo(
            home / "chain",
            application=LedgerApplication(DcapVerifier()),
            clock=WallClock(),
        ) as node,
        serve(enclave.application()) as where,
        L1Client(node.url, backoff=Backoff(jitter=system_jitter)) as l1,
    ):
        enclave.url = where.url
        operator = L1Account(secrets["operator"], l1, CHAIN)
        shard = await _create(operator, l1, enclave, secrets["sudo"], sim)
        card = make_card(
            shard=shard,
            trust_root=root,
            l1=(node.url,),
            workers=(where.url,),
            anchors=(anchor,),
            metadata=runtime.metadata(),
        )
        world = World(
            home=home,
            url=node.url,
            trust_root=root,
            shard=shard,
            card=card,
            authority=secrets["sudo"],
            enclave=enclave,
            l1=l1,
            sim=sim,
        )
        running = asyncio.create_task(
            enclave.run(operator, l1, shard, genesis_blob(account_of(secrets["sudo"])))
        )
        born = enclave.executed
        while enclave.executed <= born:  # so that every state from now on proves it
            if running.done():
                running.result()
            await asyncio.sleep(0.01)
        ready(world)
        await world.stop.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def genesis_blob(sudo: bytes) -> bytes:
    endowments = [{"account": account_of(RICH), "free": 1_000_000}]
    return encode({"balances": {"endowments": endowments}, "sudo": {"key": sudo}})


async def _create(
    operator: L1Account,
    l1: L1Client,
    enclave: Enclave,
    authority: bytes,
    sim: SimIntel,
) -> ShardId:
    now = unix_seconds(WallClock()) - 60
    collateral = encode(parse_collateral(sim.collateral_json(now=now)))
    await operator.act("teerex.register_collateral", {"collateral": collateral})
    rules = ShardRules(
        authority=SudoAuthority(key=account_of(authority)),
        genesis=sha256(genesis_blob(account_of(authority))),
        min_notice=3,
        rescue_after=100_000,
        page_bits=4,
    )
    config = ShardConfig(code={"insecure-sim": enclave.identity.mrenclave})
    arguments = {"rules": rules, "config": config}
    await operator.act("enclave_bridge.create_shard", arguments)
    shard = shard_id_of(CHAIN, operator.account, 0)
    await enclave.register(operator, l1, shard)
    enclave.executed = enclave.confirmed = await enclave.give_birth(operator, shard)
    return shard


async def record_of(world: World) -> EnclaveRecord:
    key = account_of(world.enclave.secret)
    entry = await world.l1.abci_query(enclave_key(key), prove=False)
    return canonical_decode(EnclaveRecord, entry.value or b"")


class Thread:
    """Runs a world beside the tests; coroutines are played on its loop."""

    def __init__(self, home: Path) -> None:
        self._ready: Future[World] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(home,), daemon=True)
        self._thread.start()
        self.world = self._ready.result(timeout=60)

    def _run(self, home: Path) -> None:
        try:
            self._loop.run_until_complete(build(home, self._ready.set_result))
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                raise
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def play(self, story: Awaitable[Any], *, within: float = 30.0) -> Any:
        """The result of a coroutine that runs in the world."""
        return asyncio.run_coroutine_threadsafe(story, self._loop).result(within)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self.world.stop.set)
        self._thread.join(20)
