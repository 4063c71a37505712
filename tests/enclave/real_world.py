"""Enclaves over the real ledger, with genuine quotes of a simulated Intel."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
from enclave_world import ALICE, BOB, CHAIN, GENESIS, SUDO, FakePlatform, Host

from sealift.attestation import parse_collateral, parse_trust_anchor
from sealift.base import decode, encode
from sealift.bundle import AttestationRoot, Manifest
from sealift.crypto import account_of, hkdf, sha256
from sealift.enclave import Enclave, PlatformClient
from sealift.frame import SimpleTreeStore, prove_ics23
from sealift.insecure_sim import SimIdentity, SimIntel, SimMachine, SimPlatform
from sealift.insecure_sim import _machine as machine_module
from sealift.ledger import (
    DcapVerifier,
    LedgerGenesis,
    LedgerParams,
    ledger_call,
    render_genesis,
    shard_id_of,
    transaction,
)
from sealift.node import (
    CommittedBlock,
    SoloChain,
    genesis_tip,
    light_block_of,
    solo_validators,
)
from sealift.node._ledger import LedgerApplication
from sealift.protocol import (
    Frontier,
    Schedule,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    UpgradeOrder,
    certificate_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
    sign_order,
)
from sealift.protocol import ecall as e
from sealift.relay import Timestamp
from sealift.relay.rpc import GenesisDoc

SECRET = bytes(range(32))
START = 1_800_000_000


class LedgerRefusalError(Exception):
    """The ledger refused a transaction that the test wanted."""


class RealL1:
    """Solo chain, real ledger, and a proof of anything after any block."""

    def __init__(self, intel: SimIntel) -> None:
        self.intel = intel
        genesis = LedgerGenesis(
            chain_id=CHAIN,
            accounts=tuple((account_of(who), 10**9) for who in (ALICE, BOB, SUDO)),
            sudo=account_of(SUDO),
            anchors=(parse_trust_anchor(intel.root_der),),
            params=LedgerParams(),
        )
        self.doc = GenesisDoc(
            genesis_time=Timestamp(seconds=START),
            chain_id=CHAIN,
            validators=solo_validators(account_of(SECRET)),
            app_state=render_genesis(genesis),
        )
        application = LedgerApplication(DcapVerifier())
        begun = application.init_chain(self.doc)
        self.tree = SimpleTreeStore()
        self.tree.apply(begun.changes)
        self.chain = SoloChain(
            secret=SECRET,
            genesis=self.doc,
            application=application,
            tip=genesis_tip(self.doc, begun.app_hash),
        )
        self.blocks: dict[int, CommittedBlock] = {}
        self.states: dict[int, SimpleTreeStore] = {}
        self.nonces: dict[bytes, Any] = {
            who: itertools.count() for who in (ALICE, BOB, SUDO)
        }
        self.shard = shard_id_of(CHAIN, account_of(SUDO), 0)

    @property
    def height(self) -> int:
        return self.chain.tip.height

    def tx(self, call: str, by: bytes = BOB, **args: Any) -> bytes:
        return transaction(
            by,
            chain_id=CHAIN,
            nonce=next(self.nonces[by]),
            valid_until=10_000,
            call=ledger_call(call, **args),
        )

    def block(self, *txs: bytes) -> int:
        now = Timestamp(seconds=START + 2 * (self.height + 1))
        block = self.chain.produce_block(now, txs)
        for result in block.results:
            if result.code:
                raise LedgerRefusalError(f"{result.info}: {result.log}")
        self.tree.apply(block.changes)
        self.blocks[block.height] = block
        self.states[block.height] = self.tree.copy()
        return block.height

    def do(self, call: str, by: bytes = BOB, **args: Any) -> int:
        return self.block(self.tx(call, by, **args))

    def light(self, height: int) -> bytes:
        return encode(light_block_of(self.blocks[height], self.doc.validators))

    def hash(self, height: int) -> bytes:
        return self.blocks[height].block_id.hash

    def proof(self, height: int, key: bytes) -> e.StateProof:
        state = self.states[height]
        return e.StateProof(
            key=key, value=state.get(key), proof=prove_ics23(state, key)
        )

    def request(self, height: int) -> e.ImportBlock:
        block = self.blocks[height]
        keys = (
            record_key(self.shard),
            schedule_key(self.shard),
            frontier_key(self.shard),
            keys_key(self.shard, 0),
            certificate_key(self.shard),
        )
        return e.ImportBlock(
            light_block=self.light(height + 1),
            txs=block.block.txs,
            results=tuple(encode(r.committed()) for r in block.results),
            proofs=tuple(self.proof(height, key) for key in keys),
        )

    def collateral(self) -> None:
        now = START + 2 * self.height
        made = parse_collateral(self.intel.collateral_json(now=now))
        self.do("teerex.register_collateral", collateral=encode(made))

    def create_shard(self, code: bytes) -> None:
        rules = ShardRules(
            authority=SudoAuthority(key=account_of(SUDO)),
            genesis=sha256(GENESIS),
            min_notice=1,
            rescue_after=5,
            page_bits=4,
        )
        config = ShardConfig(code={"insecure-sim": code})
        self.do("enclave_bridge.create_shard", SUDO, rules=rules, config=config)

    def schedule(self) -> Schedule:
        return decode(Schedule, self.tree.get(schedule_key(self.shard)))

    def frontier(self) -> Frontier:
        return decode(Frontier, self.tree.get(frontier_key(self.shard)))

    def upgrade(self, code: bytes, *, at: int, release_from: int = 0) -> None:
        order = UpgradeOrder(
            chain_id=CHAIN,
            shard=self.shard,
            serial=self.schedule().serial,
            predecessor=0,
            config=ShardConfig(code={"insecure-sim": code}),
            release_from=release_from or self.height + 2,
            upgrade_at=at,
            expiry=10_000,
        )
        signed = sign_order(order, SUDO)
        self.do("enclave_bridge.submit_order", order=signed)


class RealHost(Host):
    """A host whose platform is a simulated machine."""

    shard = property(lambda self: self.l1.shard)

    def __init__(self, l1: RealL1, code: bytes, name: str, **options: Any) -> None:
        def entropy(size: int) -> bytes:
            return hkdf(name.encode(), info=b"machine %d" % size, size=size)

        self.machine = SimMachine(l1.intel, name, entropy=entropy)
        self.identity = SimIdentity(
            mrenclave=code,
            mrsigner=b"v" * 32,
            isv_prod_id=1,
            isv_svn=1,
            flags=0x05,
            xfrm=3,
            made_by=machine_module._MADE_HERE,
        )
        answering = SimPlatform(self.machine)
        self.port = PlatformClient(
            lambda payload: encode(answering.answer(self.identity, payload))
        )
        super().__init__(l1, FakePlatform(code), seed=name.encode(), **options)

    def manifest(self) -> Manifest:
        root = AttestationRoot(kind="insecure-sim", der=self.l1.intel.root_der.hex())
        return msgspec.structs.replace(super().manifest(), attestation_roots=(root,))

    def boot(self) -> None:
        self.enclave = Enclave(
            manifest=self.manifest(),
            platform=self.port,
            entropy=self.entropy,
            runtime=self.runtime,
        )

    def register(self) -> None:
        done = self.call(e.Register(operator=account_of(BOB)))
        self.bring(done)

    def bring(self, done: e.Registration) -> None:
        self.l1.do(
            "teerex.register_sgx_enclave",
            statement=done.statement,
            signature=done.signature,
            quote=done.quote,
        )

    def publish(self) -> None:
        born = self.call(e.BornKeys(blob=GENESIS))
        self.key_store = born.key_store
        self.l1.do(
            "enclave_bridge.publish_key",
            statement=born.statement,
            signature=born.signature,
        )

    def confirm(self) -> None:
        reply = self.call(
            e.Confirm(
                after=self.l1.frontier().confirmed, durable=self.status().state_height
            )
        )
        if reply.confirmation is not None:
            self.l1.do(
                "enclave_bridge.confirm",
                confirmation=reply.confirmation,
                signature=reply.signature,
            )
        if reply.certificate is not None and reply.confirmation is None:
            self.l1.do(
                "enclave_bridge.post_certificate",
                certificate=reply.certificate,
                signature=reply.certificate_signature,
            )

    def invoke(self, envelope: bytes) -> bytes:
        return self.l1.tx(
            "enclave_bridge.invoke", shard=self.l1.shard, ciphertext=envelope
        )


class MuRa:
    """Hosts that carry a session between their enclaves."""

    def __init__(self, provider: RealHost, requester: RealHost) -> None:
        self.ends = {"provider": provider, "requester": requester}
        self.l1 = provider.l1
        self.done: set[str] = set()
        self.errors: dict[str, tuple[str, str]] = {}
        self.numbers: dict[str, int] = {}
        self.wire: list[bytes] = []

    def run(self) -> None:
        self.open("provider", None)
        self.open("requester", account_of(BOB))

    def open(self, role: str, operator: bytes | None) -> None:
        host = self.ends[role]
        reply = host.call(e.OpenSession(role=role, operator=operator))
        self.numbers[role] = reply.session
        self.take(role, reply)

    def take(self, role: str, reply: e.SessionReply) -> None:
        host = self.ends[role]
        other = "requester" if role == "provider" else "provider"
        if reply.key_store is not None:
            host.key_store = reply.key_store
        if reply.done:
            self.done.add(role)
        if reply.error is not None:
            self.errors[role] = reply.error
        if reply.registration is not None:
            host.bring(reply.registration)
            self.l1.block()
            for one in self.ends.values():
                one.follow()
        if reply.send:
            self.wire += reply.send
            number = self.numbers.get(other)
            if number is not None and other not in (self.done | self.errors.keys()):
                self.take(
                    other,
                    self.ends[other].call(
                        e.FeedSession(session=number, data=reply.send)
                    ),
                )
        if reply.wanted and role not in (self.done | self.errors.keys()):
            self.take(role, self.prove(role, reply.wanted))

    def prove(self, role: str, wanted: tuple[bytes, ...]) -> e.SessionReply:
        host = self.ends[role]
        height = host.status().head - 1
        proofs = tuple(self.l1.proof(height, key) for key in wanted)
        return host.call(
            e.ProveSession(session=self.numbers[role], height=height, proofs=proofs)
        )


def real_l1(folder: Path) -> RealL1:
    l1 = RealL1(SimIntel(folder / "intel"))
    l1.block()
    l1.collateral()
    return l1
