"""The demo's stage: everything that must exist before the nine steps.

All of it lies in one folder: a simulated Intel with a machine for each worker, a
chain, two signed bundles of the example, and the workers' homes.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sealift.attestation import TrustAnchor
from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    Fingerprint,
    MrSigner,
    ShardId,
    encode,
)
from sealift.bundle import encode_bundle, verify_bundle
from sealift.crypto import (
    account_of,
    rsa_generate,
    sha256,
    system_entropy,
)
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.ledger import (
    DcapVerifier,
    LedgerGenesis,
    LedgerParams,
    render_genesis,
    shard_id_of,
)
from sealift.node import (
    LedgerApplication,
    SoloConfig,
    SoloHome,
    init_solo,
    ledger_consensus_params,
)
from sealift.relay import TrustRoot
from sealift.transport.build import write_bundle
from sealift.transport.clock import Clock
from sealift.transport.files import make_folder, write_durably
from sealift.transport.keys import read_account_key, write_account_key
from sealift.worker import CONFIG_FILE, TEMPLATE

from ._application import (
    Trust,
    application_metadata,
    build_application,
    example,
    read_application,
    sign_bundle,
)
from ._demo_engine import make_comet_chain

CHAIN_ID = ChainId("sealift-demo")
#: So many accounts of the demo have keys and make calls; the rest only exist.
MOST_USERS = 1000
_FUNDS = Amount(10**15)
_TOKENS = 1_000_000
#: Two workers of each generation, each on a machine and an account of its own.
OLD, NEW = ("old", "old-2"), ("new", "new-2")
#: Holders who vote: theirs are three quarters of all tokens.
HOLDERS = 12
_ACCOUNTS = ("authority", "carrier", *OLD, *NEW)
AuthorityName = Literal[
    "sudo", "stake", "workers", "signer", "all-of", "sudo-then-stake"
]
AUTHORITIES: tuple[AuthorityName, ...] = get_args(AuthorityName)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line can change."""

    accounts: int
    rate: float
    block_ms: int
    authority: AuthorityName = "sudo"
    rotate: bool = False
    #: Validators of a CometBFT network; 0 is the embedded engine.
    validators: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBundle:
    """A signed bundle on disk, what it is known by and its runtime's metadata.

    MRENCLAVE and MRSIGNER are those of its verified SIGSTRUCT.
    """

    path: Path
    fingerprint: Fingerprint
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where everything is, and the secrets that the demo plays with."""

    folder: Path
    trust_root: TrustRoot
    old: BuiltBundle
    new: BuiltBundle
    shard: ShardId
    genesis: bytes
    keys: dict[str, bytes]
    vendor: bytes

    @property
    def chain(self) -> Path:
        """The chain's home, or the folder of its validators' homes."""
        return self.folder / "chain"

    @property
    def sim(self) -> Path:
        """The simulated Intel."""
        return self.folder / "insecure-sim"

    def worker(self, name: str) -> Path:
        """A worker's home."""
        return self.folder / f"worker-{name}"


def user_secret(number: int) -> bytes:
    """The seed of a demo user; anybody can compute it."""
    return sha256(b"sealift demo user" + number.to_bytes(8, "big"))


def holder_secret(number: int) -> bytes:
    """The seed of a demo holder of many tokens; anybody can compute it."""
    return sha256(b"sealift demo holder" + number.to_bytes(8, "big"))


def set_stage(folder: Path, options: DemoOptions, clock: Clock) -> Stage:
    """Make everything in an empty folder.

    Raises:
        SealiftError: Why it could not be made, by name.
    """
    make_folder(folder)
    intel = SimIntel(folder / "insecure-sim")
    for name in (*OLD, *NEW):
        SimMachine(intel, name, entropy=system_entropy)
    anchor = TrustAnchor(root_der=intel.root_der, kind="insecure-sim")
    trust_root = _make_chain(folder / "chain", anchor, options, clock)
    keys = {
        name: read_account_key(SoloHome(folder / "chain").account_key(name))
        for name in _ACCOUNTS
    }
    trust = Trust(l1=trust_root, roots=(anchor,))
    today = dt.datetime.fromtimestamp(clock.now().seconds, dt.UTC).date()
    vendor = rsa_generate()
    built = {
        version: _build(folder, version, trust, vendor, today)
        for version in ("v1", "v2")
    }
    authority = account_of(keys["authority"])
    return Stage(
        folder=folder,
        trust_root=trust_root,
        old=built["v1"],
        new=built["v2"],
        shard=shard_id_of(CHAIN_ID, authority, 0),
        genesis=_genesis(options.accounts, authority),
        keys=keys,
        vendor=vendor,
    )


def _make_chain(
    home: Path, anchor: TrustAnchor, options: DemoOptions, clock: Clock
) -> TrustRoot:
    def app_state(accounts: dict[str, AccountId]) -> bytes:
        return render_genesis(
            LedgerGenesis(
                chain_id=CHAIN_ID,
                accounts=tuple((account, _FUNDS) for account in accounts.values()),
                sudo=accounts["authority"],
                anchors=(anchor,),
            )
        )

    if options.validators:
        return make_comet_chain(
            home,
            validators=options.validators,
            chain_id=CHAIN_ID,
            accounts=_ACCOUNTS,
            app_state=lambda accounts: app_state(dict(accounts)),
            block_ms=options.block_ms,
            clock=clock,
        )
    return init_solo(
        home,
        chain_id=CHAIN_ID,
        genesis_time=clock.now(),
        accounts=dict.fromkeys(_ACCOUNTS),
        app_state=lambda accounts: app_state(dict(accounts)),
        application=LedgerApplication(DcapVerifier()),
        entropy=system_entropy,
        config=SoloConfig(block_ms=options.block_ms, port=0, moniker="demo"),
        consensus_params=ledger_consensus_params(LedgerParams()),
    )


def _build(
    folder: Path, version: str, trust: Trust, vendor: bytes, today: dt.date
) -> BuiltBundle:
    source = example("auction") / version
    bundle = sign_bundle(build_application(source, trust), vendor, date=today)
    path = folder / f"auction-{version}.bundle"
    write_bundle(path, encode_bundle(bundle))
    application = read_application(source)
    signed = verify_bundle(bundle).sigstruct
    return BuiltBundle(
        path=path,
        fingerprint=signed.mrenclave,
        mr_signer=signed.mrsigner,
        isv_prod_id=signed.isv_prod_id,
        isv_svn=signed.isv_svn,
        metadata=application_metadata(source, application.runtime),
    )


def _genesis(accounts: int, authority: AccountId) -> bytes:
    """The shard's genesis: users, of whom only the first have keys, and holders."""
    users = [account_of(user_secret(n)) for n in range(min(accounts, MOST_USERS))]
    idle = [
        AccountId(sha256(b"sealift demo account" + n.to_bytes(8, "big")))
        for n in range(MOST_USERS, accounts)
    ]
    endowments = [{"account": account, "free": _TOKENS} for account in (*users, *idle)]
    share = _TOKENS * accounts * 3 // HOLDERS
    endowments += [
        {"account": account_of(holder_secret(n)), "free": share} for n in range(HOLDERS)
    ]
    return encode({"balances": {"endowments": endowments}, "sudo": {"key": authority}})


def write_worker_home(stage: Stage, name: str, *, l1_url: str, upstream: str) -> None:
    """What ``sealift worker init`` writes, for one of the workers."""
    home = stage.worker(name)
    make_folder(home)
    write_durably(home / "genesis.bin", stage.genesis)
    write_account_key(home / "operator.key", stage.keys[name])
    bundle = stage.old if name in OLD else stage.new
    text = TEMPLATE.format(
        rpc=l1_url,
        shard=stage.shard.hex(),
        genesis="genesis.bin",
        bundle=bundle.path,
        sim=stage.sim,
        machine=name,
        port=0,
        upstream=upstream,
    )
    write_durably(home / CONFIG_FILE, text.encode())
