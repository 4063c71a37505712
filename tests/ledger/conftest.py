"""An L1 in memory, with a verifier that believes what a test writes down."""

from typing import Any

import msgspec
import pytest

from sealift.attestation import (
    CollateralMarks,
    CollateralRefusedError,
    Failure,
    QuoteFormatError,
    QuoteRefusedError,
    Rule,
    TrustAnchor,
)
from sealift.base import (
    DecodeError,
    Message,
    SealiftError,
    canonical_decode,
    decode,
    encode,
)
from sealift.crypto import account_of, sha256
from sealift.frame import SimpleTreeStore
from sealift.ledger import (
    CODES,
    FIRST_RUNTIME,
    RUNTIME_VERSIONS,
    CollateralVerdict,
    FinalizedBlock,
    Ledger,
    LedgerGenesis,
    LedgerParams,
    LedgerTxResult,
    ledger_call,
    shard_id_of,
    transaction,
)
from sealift.protocol import (
    AttestationPolicy,
    CancelOrder,
    Confirmation,
    EffectsFact,
    EffectsStatement,
    EnclaveRecord,
    Frontier,
    HandoverCertificate,
    PublishKeyStatement,
    RegistrationStatement,
    Schedule,
    ScheduleRecord,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignedOrder,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    effects_root,
    enclave_key,
    frontier_key,
    record_key,
    schedule_key,
    sign_order,
)

CHAIN = "test-chain"
FMSPC = bytes.fromhex("00a067110000")


class FakeQuote(Message, kw_only=True):
    """A quote whose every property is written on it."""

    report_data: bytes
    mrenclave: bytes
    platform_id: bytes
    anchor: str = "insecure-sim"
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    tcb_evaluation_data_number: int = 17
    mrsigner: bytes = b"v" * 32
    isv_prod_id: int = 1
    isv_svn: int = 3
    fmspc: bytes = FMSPC
    genuine: bool = True
    debug: bool = False


class FakeCollateral(Message, kw_only=True):
    """Collateral whose every property is written on it."""

    fmspc: bytes = FMSPC
    tee: str = "sgx"
    anchor: str = "insecure-sim"
    issued: int = 100
    number: int = 17
    crl: int = 1
    expires: int = 10**9
    genuine: bool = True

    def marks(self) -> CollateralMarks:
        return CollateralMarks(
            tcb_info_issued=self.issued,
            qe_identity_issued=self.issued,
            tcb_evaluation_data_number=self.number,
            qe_evaluation_data_number=self.number,
            pck_crl_number=self.crl,
            root_crl_number=self.crl,
        )


def refused(rule: Rule) -> list[Failure]:
    return [Failure(rule=rule, got="this", expected="that")]


class FakeVerifier:
    """Judges by what is written, and by collateral's expiry."""

    def quote_fmspc(self, quote: bytes) -> bytes:
        return self._parse(quote).fmspc

    def verify_quote(
        self, quote: Any, *, collateral: Any, anchors: Any, now: Any
    ) -> Any:
        parsed = self._parse(quote)
        known = canonical_decode(FakeCollateral, collateral)
        if not parsed.genuine:
            raise QuoteRefusedError("quote refused", refused(Rule.QUOTE_SIGNATURE))
        if parsed.debug:
            raise QuoteRefusedError("quote refused", refused(Rule.DEBUG))
        if now > known.expires:
            raise QuoteRefusedError("quote refused", refused(Rule.TCB_INFO_VALIDITY))
        if parsed.anchor not in {each.kind for each in anchors}:
            raise QuoteRefusedError("quote refused", refused(Rule.CHAIN_ROOT))
        return parsed

    def verify_collateral(self, collateral: Any, *, anchors: Any, now: Any) -> Any:
        given = canonical_decode(FakeCollateral, collateral)
        kinds = {each.kind for each in anchors}
        if not given.genuine or given.anchor not in kinds or now > given.expires:
            raise CollateralRefusedError("refused", refused(Rule.CHAIN_ROOT))
        return CollateralVerdict(
            fmspc=given.fmspc, tee=given.tee, anchor=given.anchor, marks=given.marks()
        )

    @staticmethod
    def _parse(quote: bytes) -> FakeQuote:
        try:
            return decode(FakeQuote, quote)
        except DecodeError as error:
            rule = refused(Rule.QUOTE_FORMAT)
            raise QuoteFormatError("not a quote", rule) from error


class Instance:
    """A simulated enclave: its signing key, its machine, its code."""

    def __init__(self, name: str, code: bytes, *, operator: str = "operator") -> None:
        self.name = name
        self.code = code
        self.operator = operator
        self.secret = sha256(b"instance " + name.encode())
        self.key = account_of(self.secret)
        self.machine = sha256(b"machine " + name.encode())


def all_errors() -> dict[str, type]:
    """Errors by name; of two with one name the ledger's own, never a test's."""

    def walk(root: type) -> list[type]:
        return [root, *(one for child in root.__subclasses__() for one in walk(child))]

    ours = [one for one in walk(SealiftError) if one.__module__.startswith("sealift.")]
    ours.sort(key=lambda one: one.__module__.startswith("sealift.ledger"))
    return {one.__name__: one for one in ours}


def raise_as_named(result: LedgerTxResult) -> None:
    """Raise the refusal that a result names; its number must be the table's."""
    assert result.code == CODES[result.error], result.error
    error = all_errors()[result.error].__new__(all_errors()[result.error])
    error.what, error.got, error.expected, error.hint = result.log, None, None, ""
    raise error


class World:
    """A chain, its authority, people and enclaves."""

    CODE_A, CODE_B, CODE_C = b"A" * 32, b"B" * 32, b"C" * 32
    NAMES = ("root", "alice", "bob", "operator", "other-operator", "authority")

    def __init__(
        self,
        *,
        verifier: Any = None,
        anchors: tuple[TrustAnchor, ...] = (),
        clock: int = 1_000,
        runtime: int = FIRST_RUNTIME,
        versions: Any = RUNTIME_VERSIONS,
        **params: Any,
    ) -> None:
        self.versions = versions
        #: Of every block: hash, time, transactions; and the app hash after it.
        self.history: list[tuple[bytes, int, tuple[bytes, ...], bytes]] = []
        #: Digests of effects by block, for confirmations of words posted later.
        self.facts: dict[int, bytes] = {}
        self.clock = clock
        self.verifier = verifier or FakeVerifier()
        self.secrets = {name: sha256(name.encode()) for name in self.NAMES}
        anchors = anchors or (
            TrustAnchor(root_der=b"simulated root", kind="insecure-sim"),
            TrustAnchor(root_der=b"intel root", kind="intel"),
        )
        self.genesis = LedgerGenesis(
            chain_id=CHAIN,
            accounts=tuple((self.account(n), 10**9) for n in self.NAMES),
            sudo=self.account("root"),
            anchors=anchors,
            params=LedgerParams(**params),
            runtime=runtime,
        )
        self.store = SimpleTreeStore()
        self.ledger = self.made(self.store)
        self.app_hash = self.ledger.init_chain()
        self.database = dict(self.store.items(b""))
        self.last: FinalizedBlock | None = None
        self._ahead: dict[str, int] = {}

    # accounts and blocks

    def account(self, name: str) -> bytes:
        return account_of(sha256(name.encode()))

    @property
    def height(self) -> int:
        return self.ledger.height

    @property
    def next(self) -> int:
        return self.ledger.height + 1

    def hash_of(self, height: int) -> bytes:
        return sha256(b"block %d" % height)

    def time_of(self, height: int) -> int:
        return self.clock + 5 * height

    def nonce(self, name: str) -> int:
        raw = self.store.get(b"system/nonces/" + self.account(name))
        return 0 if raw is None else decode(int, raw)

    def tx(self, call: str, /, *, by: str = "alice", **arguments: Any) -> bytes:
        """A transaction; several by one account may stand in one block."""
        ahead = self._ahead.get(by, 0)
        self._ahead[by] = ahead + 1
        return transaction(
            self.secrets[by],
            chain_id=CHAIN,
            nonce=self.nonce(by) + ahead,
            valid_until=self.height + 100,
            call=ledger_call(call, **arguments),
        )

    def block(self, *txs: bytes) -> tuple[LedgerTxResult, ...]:
        height = self.next
        block = self.ledger.finalize_block(
            height=height,
            block_hash=self.hash_of(height),
            time=self.time_of(height),
            proposer=b"p" * 20,
            txs=txs,
        )
        assert block.hook_failures == ()
        self.last = block
        self.app_hash = block.app_hash
        self.history.append(
            (self.hash_of(height), self.time_of(height), txs, block.app_hash)
        )
        self.ledger.commit()
        for key, value in block.changes.items():
            if value is None:
                self.database.pop(key)
            else:
                self.database[key] = value
        self._ahead = {}
        return block.results

    def blocks_until(self, height: int) -> None:
        """Empty blocks, until ``height`` is the last one."""
        while self.height < height:
            self.block()

    def call(
        self, call: str, /, *, by: str = "alice", **arguments: Any
    ) -> LedgerTxResult:
        """One transaction in a block of its own; raises what it is refused for."""
        (result,) = self.block(self.tx(call, by=by, **arguments))
        self.told(result)
        return result

    @staticmethod
    def told(result: LedgerTxResult) -> None:
        """Raise what a result was refused for."""
        if not result.ok:
            raise_as_named(result)

    def restart(self) -> None:
        """Forget everything but the database."""
        self.store = SimpleTreeStore()
        self.store.apply(self.database)
        self.ledger = self.made(self.store)

    def made(self, store: SimpleTreeStore) -> Ledger:
        return Ledger(
            genesis=self.genesis,
            store=store,
            verifier=self.verifier,
            versions=self.versions,
        )

    def as_root(self, call: str, /, **arguments: Any) -> LedgerTxResult:
        """A call by root, in a block of its own."""
        inner = ledger_call(call, **arguments)
        return self.call("sudo.sudo", by="root", call=inner)

    def read(self, kind: type, key: bytes) -> Any:
        raw, _ = self.ledger.query(key)
        return None if raw is None else decode(kind, raw)

    def events(self) -> list[str]:
        assert self.last is not None
        told = [event.name for event in self.last.events]
        return told + [e.name for r in self.last.results for e in r.events]

    # shards

    def config(self, code: bytes = CODE_A, **fields: Any) -> ShardConfig:
        policy = fields.pop("policy", {})
        return ShardConfig(
            code=fields.pop("codes", {"insecure-sim": code}),
            attestation=AttestationPolicy(**policy),
            **fields,
        )

    def rules(self, **fields: Any) -> ShardRules:
        base = {
            "authority": SudoAuthority(key=self.account("authority")),
            "min_notice": 5,
            "rescue_after": 10,
            "genesis": b"g" * 32,
        }
        return ShardRules(**(base | fields))

    def create_shard(self, config: ShardConfig | None = None, **rules: Any) -> bytes:
        index = len(self.read(tuple[bytes, ...], b"enclave_bridge/shards/") or ())
        self.call(
            "enclave_bridge.create_shard",
            rules=self.rules(**rules),
            config=config or self.config(),
        )
        return shard_id_of(CHAIN, self.account("alice"), index)

    def schedule(self, shard: bytes) -> Schedule:
        return self.read(Schedule, schedule_key(shard))

    def record(self, shard: bytes) -> ScheduleRecord:
        return self.read(ScheduleRecord, record_key(shard))

    def frontier(self, shard: bytes) -> Frontier:
        return self.read(Frontier, frontier_key(shard))

    def enclave(self, instance: Instance) -> EnclaveRecord:
        return self.read(EnclaveRecord, enclave_key(instance.key))

    # instances

    def instance(self, name: str, code: bytes = CODE_A, **fields: Any) -> Instance:
        return Instance(name, code, **fields)

    def collateral(self, **fields: Any) -> None:
        (result,) = self.block(self.collateral_tx(**fields))
        self.told(result)

    def collateral_tx(self, **fields: Any) -> bytes:
        return self.tx(
            "teerex.register_collateral",
            collateral=encode(FakeCollateral(**fields)),
        )

    def statement(
        self, shard: bytes, instance: Instance, **fields: Any
    ) -> RegistrationStatement:
        height = fields.pop("block_height", self.height)
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "signing_key": instance.key,
            "operator": self.account(instance.operator),
            "tls_key": b"t" * 32,
            "hpke_key": b"h" * 1216,
            "block_height": height,
            "block_hash": self.hash_of(height),
        }
        return RegistrationStatement(**(base | fields))

    def quote(
        self, statement: RegistrationStatement, instance: Instance, **fields: Any
    ) -> FakeQuote:
        base = {
            "report_data": statement.report_data(),
            "mrenclave": instance.code,
            "platform_id": instance.machine,
        }
        return FakeQuote(**(base | fields))

    def registration(
        self,
        shard: bytes,
        instance: Instance,
        *,
        statement: RegistrationStatement | None = None,
        url: str = "",
        **quote: Any,
    ) -> dict[str, Any]:
        """Arguments of a registration; keyword arguments forge the quote."""
        statement = statement or self.statement(shard, instance)
        return {
            "statement": statement,
            "signature": statement.sign(instance.secret),
            "quote": encode(self.quote(statement, instance, **quote)),
            "url": url,
        }

    def register(
        self, shard: bytes, instance: Instance, **fields: Any
    ) -> LedgerTxResult:
        by = fields.pop("by", instance.operator)
        return self.call(
            "teerex.register_sgx_enclave",
            by=by,
            **self.registration(shard, instance, **fields),
        )

    def key_statement(
        self, shard: bytes, instance: Instance, **fields: Any
    ) -> PublishKeyStatement:
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "epoch": 0,
            "signing_key": instance.key,
            "shielding_key": b"s" * 32,
            "state_key_commitment": b"c" * 32,
            "root_key_commitment": b"r" * 32,
            "genesis_root": self.root(0),
        }
        return PublishKeyStatement(**(base | fields))

    def publish_key(self, shard: bytes, instance: Instance, **fields: Any) -> None:
        statement = self.key_statement(shard, instance, **fields)
        self.call(
            "enclave_bridge.publish_key",
            statement=statement,
            signature=statement.sign(instance.secret),
        )

    def born_shard(
        self, *instances: Instance, config: ShardConfig | None = None, **rules: Any
    ) -> bytes:
        """A shard with registered instances and its first key published."""
        shard = self.create_shard(config, **rules)
        self.collateral()
        for each in instances:
            self.register(shard, each)
        self.publish_key(shard, instances[0])
        return shard

    # roots

    def root(self, height: int) -> bytes:
        return sha256(b"root %d" % height)

    def confirmation(
        self, shard: bytes, instance: Instance, last: int, **fields: Any
    ) -> Confirmation:
        frontier = self.frontier(shard)
        generation = fields.pop("generation", None)
        if generation is None:
            generation = self.record(shard).generation
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "generation": generation,
            "first": frontier.confirmed + 1,
            "last": last,
            "prev_root": frontier.root,
            "root": self.root(last),
            "receipts_root": b"r" * 32,
            "effects_root": effects_root(fields.pop("effects", ())),
            "signing_key": instance.key,
        }
        return Confirmation(**(base | fields))

    def confirm(
        self, shard: bytes, instance: Instance, last: int, **fields: Any
    ) -> LedgerTxResult:
        first = self.frontier(shard).confirmed + 1
        waiting = self.read(
            tuple[EffectsStatement, ...], b"enclave_bridge/effects_waiting/" + shard
        )
        known = {one.height: one.effects for one in waiting or ()} | self.facts
        facts = tuple(
            EffectsFact(height=height, effects=digest)
            for height, digest in sorted(known.items())
            if first <= height <= last
        )
        effects = fields.pop("effects", facts)
        confirmation = self.confirmation(
            shard, instance, last, effects=effects, **fields
        )
        return self.call(
            "enclave_bridge.confirm",
            confirmation=confirmation,
            signature=confirmation.sign(instance.secret),
            effects=effects,
        )

    def certificate(
        self, shard: bytes, instance: Instance, **fields: Any
    ) -> HandoverCertificate:
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "generation": 0,
            "successor": 1,
            "signing_key": instance.key,
        }
        return HandoverCertificate(**(base | fields))

    def post_certificate(
        self, shard: bytes, instance: Instance, **fields: Any
    ) -> LedgerTxResult:
        certificate = self.certificate(shard, instance, **fields)
        return self.call(
            "enclave_bridge.post_certificate",
            certificate=certificate,
            signature=certificate.sign(instance.secret),
        )

    # orders

    def upgrade_order(
        self, shard: bytes, *, code: bytes = CODE_B, **fields: Any
    ) -> UpgradeOrder:
        schedule = self.schedule(shard)
        standing = [e for e in schedule.entries if e.status in ("pending", "active")]
        release = self.next + schedule.rules.min_notice
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "serial": schedule.serial,
            "predecessor": standing[-1].generation,
            "config": self.config(code),
            "release_from": release,
            "upgrade_at": release + 1,
            "expiry": self.height + 50,
        }
        return UpgradeOrder(**(base | fields))

    def cancel_order(self, shard: bytes, generation: int, **fields: Any) -> CancelOrder:
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "serial": self.schedule(shard).serial,
            "generation": generation,
            "expiry": self.height + 50,
        }
        return CancelOrder(**(base | fields))

    def status_order(self, shard: bytes, **fields: Any) -> StatusOrder:
        base = {
            "chain_id": CHAIN,
            "shard": shard,
            "serial": self.schedule(shard).serial,
            "expiry": self.height + 50,
        }
        kept = {k: fields.pop(k) for k in ("serial", "expiry") if k in fields}
        return StatusOrder(status=ShardStatus(**fields), **(base | kept))

    def signed(self, order: Any, *, by: str = "authority") -> SignedOrder:
        return sign_order(order, self.secrets[by])

    def submit(
        self, order: Any, *, signed_by: str = "authority", by: str = "bob"
    ) -> LedgerTxResult:
        return self.call(
            "enclave_bridge.submit_order",
            by=by,
            order=self.signed(order, by=signed_by),
        )

    def upgrade(self, shard: bytes, **fields: Any) -> int:
        """Schedule an upgrade; its ``upgrade_at``."""
        order = self.upgrade_order(shard, **fields)
        self.submit(order)
        return order.upgrade_at

    @staticmethod
    def replace(value: Any, **fields: Any) -> Any:
        return msgspec.structs.replace(value, **fields)


@pytest.fixture(scope="session")
def new_world() -> type[World]:
    """The class itself, for tests that need parameters or several worlds."""
    return World


@pytest.fixture
def world() -> World:
    """A fresh chain after genesis."""
    return World()
