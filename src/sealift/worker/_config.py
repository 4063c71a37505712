"""``worker.toml``: where the L1, the bundle, the platform and the peers are."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from sealift.base import SealiftError, ShardId, parse_hex
from sealift.relay.rpc import EVIDENCE_FILE
from sealift.transport.pccs import pccs_url

from ._carry import CarryTerms
from ._errors import ConfigError

_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
CONFIG_FILE = "worker.toml"
#: In a home: a folder for each code that was staged there, by fingerprint.
INSTANCES: Final = "instances"
Platform: TypeAlias = Literal["insecure-sim", "gramine-sgx"]
#: Per platform, what its section must name.
_NEEDED: Final = {"insecure-sim": ("sim", "machine"), "gramine-sgx": ("gramine",)}


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's sections: unknown names are refused."""


class L1Section(_Section, frozen=True, kw_only=True):
    """The L1 node's RPC address, and those of nodes that it is compared with."""

    rpc: str
    witnesses: tuple[str, ...] = ()


class EnclaveSection(_Section, frozen=True, kw_only=True):
    """Which bundle runs, on which platform; ``memory_limit`` in MiB (0: none).

    ``sim`` and ``machine`` are of ``insecure-sim``, ``gramine`` of ``gramine-sgx``.
    """

    platform: Platform
    bundle: str
    sim: str = ""
    machine: str = ""
    gramine: str = ""
    pccs: str = ""
    memory_limit: Annotated[int, msgspec.Meta(ge=0)] = 0


class ShardSection(_Section, frozen=True, kw_only=True):
    """The shard: its id (hex) and its genesis blob, for a birth or a restart."""

    id: str
    genesis: str = ""


class ApiSection(_Section, frozen=True, kw_only=True):
    """Where the worker listens, the URL that it announces on L1, whom it serves.

    Calls are carried at the operator's expense: so many a minute, in total and
    for each address, and none once the account is down to ``carry_reserve``.
    """

    host: str = "127.0.0.1"
    port: _Port = 0
    url: str = ""
    carry: bool = True
    carry_reserve: Annotated[int, msgspec.Meta(ge=0)] = 1_000_000
    carry_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 1200
    carry_per_address: Annotated[int, msgspec.Meta(ge=1)] = 300

    @property
    def terms(self) -> CarryTerms:
        """Which calls are carried."""
        return CarryTerms(
            carry=self.carry,
            reserve=self.carry_reserve,
            per_minute=self.carry_per_minute,
            per_address=self.carry_per_address,
        )


class UpstreamSection(_Section, frozen=True, kw_only=True):
    """The worker that keys and state are asked of; empty: this one is the first."""

    url: str = ""


class SnapshotSection(_Section, frozen=True, kw_only=True):
    """How many blocks pass between snapshots on disk."""

    every: Annotated[int, msgspec.Meta(ge=1)] = 2000


class StateSection(_Section, frozen=True, kw_only=True):
    """How many snapshots stay on disk, and how fast they go out and come in.

    Rates are bytes a second of all downloads together; 0: no limit.
    """

    keep_snapshots: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    serve_rate: Annotated[int, msgspec.Meta(ge=0)] = 32 * 1024 * 1024
    fetch_rate: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024


class BundlesSection(_Section, frozen=True, kw_only=True):
    """Where bundles are looked for that an upgrade names; whether one is fetched.

    Nothing is fetched for an order that does not name the SHA-256 of the file.
    """

    folder: str = "bundles"
    fetch: bool = True


class _File(_Section, frozen=True, kw_only=True):
    l1: L1Section
    shard: ShardSection
    enclave: EnclaveSection
    api: ApiSection = ApiSection()
    upstream: UpstreamSection = UpstreamSection()
    snapshot: SnapshotSection = SnapshotSection()
    state: StateSection = StateSection()
    bundles: BundlesSection = BundlesSection()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """A worker's home folder and what its ``worker.toml`` says.

    Relative paths in the file are relative to the home.
    """

    home: Path
    l1: L1Section
    shard: ShardId
    genesis: Path | None
    platform: Platform
    bundle: Path
    sim: Path
    machine: str
    gramine: Path
    pccs: str
    memory_limit: int
    api: ApiSection
    upstream: str
    snapshot_every: int
    state: StateSection
    #: Where bundles are put for upgrades; whether they are fetched.
    bundles: Path
    fetch: bool = True
    #: The code of an instance that was staged in this home, hex (:mod:`._instances`);
    #: empty for the one that ``[enclave] bundle`` names.
    instance: str = ""
    #: Which of the instances that lived in this home: see :mod:`._lives`.
    life: int = 0

    @property
    def base(self) -> Path:
        """Where the lives of this code are."""
        if not self.instance:
            return self.home
        return self.home / INSTANCES / self.instance

    @property
    def folder(self) -> Path:
        """Where this instance's key store and database are."""
        return self.base / "lives" / str(self.life) if self.life else self.base

    @property
    def operator_key(self) -> Path:
        """The secret of the account that pays."""
        return self.home / "operator.key"

    @property
    def key_store(self) -> Path:
        """The sealed key store."""
        return self.folder / "key_store.sealed"

    @property
    def database(self) -> Path:
        """Diffs, snapshot, receipts."""
        return self.folder / "worker.db"

    @property
    def fork_evidence(self) -> Path:
        """Where both headers of a fork are, should there be one."""
        return self.home / EVIDENCE_FILE

    @property
    def unpacked(self) -> Path:
        """Where bundles are unpacked, by content."""
        return self.home / "bundles"


def load_config(
    home: Path, *, platform: Platform | None = None, pccs: str = ""
) -> WorkerConfig:
    """Read ``worker.toml`` of a home folder.

    Args:
        home: The folder.
        platform: Instead of the file's; what it needs must be in the file.
        pccs: Instead of the file's.

    Raises:
        ConfigError: Missing, not TOML, or with a wrong or unknown name.
    """
    path = home / CONFIG_FILE
    try:
        raw = path.read_bytes()
        file = msgspec.convert(tomllib.loads(raw.decode()), _File)
        shard = ShardId(parse_hex(file.shard.id))
        where = pccs or file.enclave.pccs
        where = pccs_url(where) if where else ""
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror})",
            hint="Make one with `sealift worker init`.",
        ) from error
    except (ValueError, RecursionError, SealiftError) as error:
        raise ConfigError(f"{path} is wrong ({error})") from error
    runs_on = platform or file.enclave.platform
    for name in _NEEDED[runs_on]:
        if not getattr(file.enclave, name):
            raise ConfigError(
                f"{path} is wrong (no {name} under [enclave])",
                expected=f"{name} for platform {runs_on}",
            )
    genesis = file.shard.genesis
    return WorkerConfig(
        home=home,
        l1=file.l1,
        shard=shard,
        genesis=home / genesis if genesis else None,
        platform=runs_on,
        bundle=home / file.enclave.bundle,
        sim=home / file.enclave.sim,
        machine=file.enclave.machine,
        gramine=home / file.enclave.gramine,
        pccs=where,
        memory_limit=file.enclave.memory_limit * 1024 * 1024,
        api=file.api,
        upstream=file.upstream.url,
        snapshot_every=file.snapshot.every,
        state=file.state,
        bundles=home / file.bundles.folder,
        fetch=file.bundles.fetch,
    )


_HEAD = """\
# sealift worker. Relative paths are relative to this folder.
# The host is trusted for availability only: nothing here can make the enclave
# skip a check.

[l1]
# RPC of an L1 node (solo or CometBFT). It can hide blocks, it cannot forge them.
rpc = "{rpc}"
# Nodes of others: their headers are compared with what the enclave has verified,
# and a second chain stops it. It takes at least two to see a fork that one hides.
witnesses = []

[shard]
id = "{shard}"
# The genesis blob; needed by the worker that gives birth to the shard.
genesis = "{genesis}"

[enclave]
"""
_SIM = """\
# insecure-sim protects nobody: it is for laptops and tests.
platform = "insecure-sim"
bundle = "{bundle}"
# The folder of the simulated Intel (`sealift insecure-sim init`), and the name
# of the simulated machine on which this worker runs.
sim = "{sim}"
machine = "{machine}"
# A PCCS to take collateral from; empty: from that folder.
pccs = ""
"""
_GRAMINE = """\
# Intel SGX, under Gramine: see docs/real-hardware.md.
platform = "gramine-sgx"
bundle = "{bundle}"
# The folder that `sealift gramine manifest` made and gramine-sgx-sign signed.
gramine = "{gramine}"
# A PCCS to take Intel's collateral from. It can lie: what it says is judged here
# and on L1. Empty: another worker of this family of processors brings it to L1.
pccs = "{pccs}"
"""
_TAIL = """\
# Most MiB of memory for the enclave process; 0 is no limit.
memory_limit = 0

[api]
host = "127.0.0.1"
# 0 takes a free port.
port = {port}
# What is announced on L1; empty announces http://host:port.
url = ""
# Anybody who reaches this address can have calls carried at the operator's
# expense: so many a minute, of all together and of one address (behind a proxy
# all are one), and none below this balance. What is left is for the worker's own
# registrations and confirmations.
carry = true
carry_reserve = 1000000
carry_per_minute = 1200
carry_per_address = 300

[upstream]
# A worker that has the shard's keys. Empty: this worker may give birth.
url = "{upstream}"

[snapshot]
# Blocks between two snapshots on disk.
every = 2000

[state]
# So many snapshots stay on disk, with the diffs after the oldest of them.
keep_snapshots = 2
# Most bytes a second of snapshots that other workers download here, and that this
# one downloads: blocks come first. 0 is no limit.
serve_rate = 33554432
fetch_rate = 67108864

[bundles]
# Where this worker looks for the bundle that an upgrade names, and stages it.
folder = "bundles"
# Whether it fetches one from where the order says, if the order has its hash.
fetch = true
"""
#: A worker on the simulator.
TEMPLATE = _HEAD + _SIM + _TAIL
#: A worker under Gramine.
GRAMINE_TEMPLATE = _HEAD + _GRAMINE + _TAIL
