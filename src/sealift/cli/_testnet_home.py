"""The folder of a local network: what was planned, and everything it is made of."""

import datetime as dt
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import AccountId, ChainId, SealiftError, ShardId, encode
from sealift.bundle import encode_bundle
from sealift.client import write_card
from sealift.crypto import Entropy, account_of, rsa_generate
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.ledger import shard_id_of
from sealift.node import HomeNotEmptyError, ledger_consensus_params
from sealift.node.cometbft import CometHome, NodePlan, free_ports, make_network
from sealift.relay import TrustRoot
from sealift.transport.build import write_bundle
from sealift.transport.clock import Clock
from sealift.transport.files import (
    create_durably,
    make_folder,
    read_json,
    read_private_key,
    refuse_write,
    sync_folder,
    write_durably,
    write_private_key,
)
from sealift.transport.keys import read_account_key, write_account_key
from sealift.worker import CONFIG_FILE, TEMPLATE

from ._application import Trust, build_application, example, sign_bundle
from ._cards import card_of_bundle, read_bundle
from ._genesis import FIRST_ACCOUNTS, NETWORK_PARAMS, first_state
from ._params import read_trust_root

#: ``boss`` is the shard's authority; the others are users with tokens in it.
BOSS: Final = "boss"
USERS: Final = ("alice", "bob")
_TOKENS: Final = 1_000_000
_SEED: Final = 32
_VERSION: Final = 1
_HINT: Final = "`sealift testnet up` makes one; --home names it"
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class TestnetError(SealiftError):
    """A local network that cannot be made, started or asked for this."""

    #: pytest shall not take it for a test.
    __test__ = False


class PlannedValidator(msgspec.Struct, frozen=True, kw_only=True):
    """A validator: its name and its two ports."""

    name: str
    rpc: _Port
    p2p: _Port


class PlannedWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker: its name, its port, and the validator whose RPC it follows."""

    name: str
    port: _Port
    follows: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``testnet.json``: what is there and where it listens, for ever."""

    version: int = _VERSION
    chain_id: str
    block_ms: int
    validators: tuple[PlannedValidator, ...]
    workers: tuple[PlannedWorker, ...]

    def validator(self, name: str) -> PlannedValidator:
        """The one of that name."""
        return next(one for one in self.validators if one.name == name)


def rpc_of(validator: PlannedValidator) -> str:
    """Where its RPC answers."""
    return f"http://127.0.0.1:{validator.rpc}"


def url_of(worker: PlannedWorker) -> str:
    """Where it answers."""
    return f"http://127.0.0.1:{worker.port}"


def make_plan(
    *, chain_id: str, block_ms: int, validators: int, workers: int, entropy: Entropy
) -> Plan:
    """So many of each, on ports that are free now; workers are spread.

    Raises:
        NodePortError: There are not so many free ports.
    """
    ports = iter(free_ports(2 * validators + workers, entropy=entropy))
    names = [f"val{number}" for number in range(validators)]
    return Plan(
        chain_id=chain_id,
        block_ms=block_ms,
        validators=tuple(
            PlannedValidator(name=name, rpc=next(ports), p2p=next(ports))
            for name in names
        ),
        workers=tuple(
            PlannedWorker(
                name=f"worker{number}",
                port=next(ports),
                follows=names[number % validators],
            )
            for number in range(workers)
        ),
    )


@dataclass(frozen=True, slots=True)
class TestnetHome:
    """Where everything of one local network lies; the folder may be moved."""

    #: pytest shall not take it for a test.
    __test__ = False
    root: Path

    @property
    def plan(self) -> Path:
        """What was planned; whoever has it has a network."""
        return self.root / "testnet.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor."""
        return self.root / "lock"

    @property
    def record(self) -> Path:
        """What the supervisor runs, by its own word."""
        return self.root / "supervisor.json"

    @property
    def logs(self) -> Path:
        """A file for each process."""
        return self.root / "logs"

    @property
    def sim(self) -> Path:
        """The simulated Intel."""
        return self.root / "insecure-sim"

    @property
    def trust_root(self) -> Path:
        """Block 1, as all validators gave it."""
        return self.root / "trust_root.json"

    @property
    def vendor_key(self) -> Path:
        """Signs bundles."""
        return self.root / "keys" / "vendor.pem"

    @property
    def bundle(self) -> Path:
        """What all workers run."""
        return self.root / "auction-v1.bundle"

    @property
    def genesis(self) -> Path:
        """The shard's genesis blob."""
        return self.root / "genesis.bin"

    @property
    def card(self) -> Path:
        """What users of the shard need."""
        return self.root / "card.json"

    def log(self, name: str) -> Path:
        """What a process writes."""
        return self.logs / f"{name}.log"

    def key(self, name: str) -> Path:
        """An account's key."""
        return self.root / "keys" / f"{name}.json"

    def validator(self, name: str) -> CometHome:
        """A validator's home."""
        return CometHome(self.root / name)

    def worker(self, name: str) -> Path:
        """A worker's home."""
        return self.root / name

    def read_plan(self) -> Plan:
        """What was planned.

        Raises:
            MissingFileError: No network is here.
            UnreadableFileError: Not a plan of this version; it is kept.
        """
        plan = read_json(self.plan, Plan, what="local network", hint=_HINT)
        if plan.version != _VERSION or not plan.validators:
            raise TestnetError(
                "this network was made by another version of sealift",
                got=plan.version,
                expected=_VERSION,
                hint="It is kept as it is; make another with --home",
            )
        return plan

    def shard(self, plan: Plan) -> ShardId:
        """The shard's id, known before it is there: the boss's first one."""
        boss = account_of(read_account_key(self.key(BOSS)))
        return shard_id_of(plan.chain_id, boss, 0)


def make_testnet(
    home: TestnetHome, plan: Plan, *, clock: Clock, entropy: Entropy
) -> None:
    """Make a network's keys, genesis, configurations and simulated machines.

    All of it is there afterwards, or nothing: it is made beside and renamed.

    Raises:
        HomeNotEmptyError: Something else is there.
        FileError: It cannot be written.
    """
    root = home.root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise HomeNotEmptyError(
            "folder is not empty, and no local network",
            got=str(root),
            hint="Choose another one with --home; nothing was changed",
        )
    make_folder(root.parent)
    try:
        fresh = Path(
            tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".new", dir=root.parent)
        )
    except OSError as error:
        refuse_write(error, root)
    try:
        _fill(TestnetHome(fresh), plan, clock=clock, entropy=entropy)
        try:
            fresh.rename(root)
        except OSError as error:
            refuse_write(error, root)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(root.parent)


def _fill(home: TestnetHome, plan: Plan, *, clock: Clock, entropy: Entropy) -> None:
    intel = SimIntel(home.sim)
    write_durably(home.sim / "root.der", intel.root_der)
    for worker in plan.workers:
        SimMachine(intel, worker.name, entropy=entropy)
    make_folder(home.logs)
    make_folder(home.vendor_key.parent, mode=0o700)
    names = (*FIRST_ACCOUNTS, BOSS, *USERS, *(one.name for one in plan.workers))
    keys = {name: write_account_key(home.key(name), entropy(_SEED)) for name in names}
    write_private_key(home.vendor_key, rsa_generate())
    anchor = TrustAnchor(root_der=intel.root_der, kind="insecure-sim")
    make_network(
        home.root,
        [
            NodePlan(name=one.name, rpc_port=one.rpc, p2p_port=one.p2p)
            for one in plan.validators
        ],
        chain_id=ChainId(plan.chain_id),
        genesis_time=clock.now(),
        consensus_params=ledger_consensus_params(NETWORK_PARAMS),
        app_state=first_state(
            ChainId(plan.chain_id), keys, anchors=(anchor,), params=NETWORK_PARAMS
        ),
        block_ms=plan.block_ms,
        entropy=entropy,
    )
    create_durably(home.genesis, _shard_genesis(keys))
    # The last file: whoever has it has all.
    create_durably(home.plan, msgspec.json.format(msgspec.json.encode(plan)) + b"\n")


def _shard_genesis(keys: dict[str, AccountId]) -> bytes:
    """The example application's first state: users with tokens, the boss's sudo."""
    endowments = [{"account": keys[name], "free": _TOKENS} for name in USERS]
    return encode({"balances": {"endowments": endowments}, "sudo": {"key": keys[BOSS]}})


def keep_trust_root(home: TestnetHome, root: TrustRoot) -> None:
    """Write block 1 down, for bundles and clients.

    Raises:
        FileError: It cannot be written.
    """
    body = {
        "chain_id": root.chain_id,
        "height": root.height,
        "header_hash": root.header_hash.hex(),
    }
    write_durably(home.trust_root, msgspec.json.format(msgspec.json.encode(body)))


def build_once(home: TestnetHome, *, clock: Clock) -> None:
    """The example's first version as a bundle that trusts this chain; once.

    Raises:
        SealiftError: Why it cannot be built.
    """
    if home.bundle.is_file():
        return
    anchor = TrustAnchor(root_der=SimIntel(home.sim).root_der, kind="insecure-sim")
    trust = Trust(l1=read_trust_root(home.trust_root), roots=(anchor,))
    today = dt.datetime.fromtimestamp(clock.now().seconds, dt.UTC).date()
    vendor = read_private_key(home.vendor_key, what="vendor key")
    bundle = sign_bundle(
        build_application(example("auction") / "v1", trust), vendor, date=today
    )
    write_bundle(home.bundle, encode_bundle(bundle))


def write_workers(home: TestnetHome, plan: Plan) -> None:
    """What ``sealift worker init`` writes, for each worker; once.

    The first gives birth to the shard, the others get its keys from it.

    Raises:
        FileError: It cannot be written.
    """
    shard = home.shard(plan).hex()
    for worker in plan.workers:
        folder = home.worker(worker.name)
        if (folder / CONFIG_FILE).is_file():
            continue
        make_folder(folder, mode=0o700)
        key = folder / "operator.key"
        if not key.is_file():
            write_account_key(key, read_account_key(home.key(worker.name)))
        first = worker is plan.workers[0]
        text = TEMPLATE.format(
            rpc=rpc_of(plan.validator(worker.follows)),
            shard=shard,
            genesis=f"../{home.genesis.name}",
            bundle=f"../{home.bundle.name}",
            sim=f"../{home.sim.name}",
            machine=worker.name,
            port=worker.port,
            upstream="" if first else url_of(plan.workers[0]),
        )
        write_durably(folder / CONFIG_FILE, text.encode())


def write_users_card(home: TestnetHome, plan: Plan) -> None:
    """The card: all validators' RPCs, all workers' addresses.

    Raises:
        FileError: It cannot be written.
    """
    made = card_of_bundle(
        read_bundle(home.bundle),
        shard=home.shard(plan),
        l1=rpc_of(plan.validators[0]),
        workers=tuple(url_of(one) for one in plan.workers),
    )
    write_card(
        home.card,
        msgspec.structs.replace(made, l1=tuple(rpc_of(v) for v in plan.validators)),
    )
