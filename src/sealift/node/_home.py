"""The folder of an embedded chain: genesis, keys, configuration, database."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Annotated, Final

import msgspec

from sealift.base import (
    AccountId,
    ChainId,
    DecodeError,
    Height,
    decode,
    encode,
)
from sealift.crypto import Entropy, account_of
from sealift.relay import ConsensusParams, Timestamp, TrustRoot
from sealift.relay.rpc import GENESIS_DOC, GenesisDoc
from sealift.transport.files import (
    create_durably,
    make_folder,
    read_json,
    read_or_explain,
    refuse_write,
    sync_folder,
)
from sealift.transport.keys import (
    read_validator_key,
    write_account_key,
    write_validator_key,
)

from ._application import Application
from ._chain import solo_validators, trust_root_of
from ._durable import DurableChain
from ._errors import ConfigInvalidError, HomeNotEmptyError
from ._genesis_file import read_genesis_file

_SEED: Final = 32
_INIT_HINT: Final = "`sealift chain init` makes one"


class SoloConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may change between two starts: ``solo.toml``.

    ``block_ms`` is the time between blocks; 0 makes a block only when asked.
    ``port`` 0 takes any free one.
    """

    block_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 1_000
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 26_657
    moniker: Annotated[str, msgspec.Meta(max_length=64)] = "solo"


class _TrustRootFile(msgspec.Struct, frozen=True, kw_only=True):
    chain_id: str
    height: int
    header_hash: str


@dataclass(frozen=True, slots=True)
class SoloHome:
    """Where everything of one chain lies."""

    root: Path

    @property
    def genesis(self) -> Path:
        """The genesis, in CometBFT's form."""
        return self.root / "genesis.json"

    @property
    def validator_key(self) -> Path:
        """The one key that orders the chain."""
        return self.root / "priv_validator_key.json"

    @property
    def config(self) -> Path:
        """What the operator may change."""
        return self.root / "solo.toml"

    @property
    def trust_root(self) -> Path:
        """Chain id, height and hash of block 1, for bundles and clients."""
        return self.root / "trust_root.json"

    @property
    def database(self) -> Path:
        """Blocks and state."""
        return self.root / "data" / "chain.sqlite"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the chain."""
        return self.root / "lock"

    def account_key(self, name: str) -> Path:
        """The key of an account that was made with the chain."""
        return self.root / "keys" / f"{name}.json"

    def read_genesis(self) -> GenesisDoc:
        """The genesis.

        Raises:
            MissingFileError: It is not there.
            ConfigInvalidError: Not a genesis.
        """
        return read_genesis_file(self.genesis, hint=_INIT_HINT)

    def read_config(self) -> SoloConfig:
        """The configuration.

        Raises:
            MissingFileError: It is not there.
            ConfigInvalidError: Not TOML, or a key or value that is not known.
        """
        raw = read_or_explain(self.config, what="configuration", hint=_INIT_HINT)
        try:
            return msgspec.convert(tomllib.loads(raw.decode()), SoloConfig)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigInvalidError(
                f"configuration cannot be read ({error})", got=str(self.config)
            ) from error

    def read_trust_root(self) -> TrustRoot:
        """The trust root that was made with the chain.

        Raises:
            MissingFileError: It is not there.
            ConfigInvalidError: Not a trust root.
        """
        file = read_json(
            self.trust_root, _TrustRootFile, what="trust root", hint=_INIT_HINT
        )
        try:
            root = TrustRoot(
                chain_id=ChainId(file.chain_id),
                height=Height(file.height),
                header_hash=bytes.fromhex(file.header_hash),
            )
            return decode(TrustRoot, encode(root))
        except (DecodeError, ValueError, OverflowError) as error:
            raise ConfigInvalidError(
                f"trust root cannot be read ({error})", got=str(self.trust_root)
            ) from error

    def open_chain(self, application: Application) -> DurableChain:
        """The chain of this home; the caller holds :attr:`lock`.

        Raises:
            SealiftError: As :meth:`read_genesis`, :meth:`DurableChain.open` and
                :func:`sealift.transport.keys.read_validator_key`.
        """
        return DurableChain.open(
            self.database,
            genesis=self.read_genesis(),
            secret=read_validator_key(self.validator_key),
            application=application,
        )


def init_solo(
    home: Path,
    *,
    chain_id: ChainId,
    genesis_time: Timestamp,
    accounts: Mapping[str, bytes | None],
    app_state: Callable[[Mapping[str, AccountId]], bytes],
    application: Application,
    entropy: Entropy,
    config: SoloConfig | None = None,
    consensus_params: ConsensusParams | None = None,
) -> TrustRoot:
    """Make a chain: keys, genesis, configuration and block 1.

    All of it is there afterwards, or nothing: it is made beside and renamed.

    Args:
        home: A folder that is absent or empty.
        chain_id: Name of the chain; part of every signature.
        genesis_time: Time of block 1.
        accounts: Names of accounts whose key files are to be made, with the
            seed to use or ``None`` for a new one.
        app_state: Gives the application's genesis (JSON) from their public keys.
        application: The state machine, without state.
        entropy: For the keys.
        config: What the operator may change later.
        consensus_params: Block limits; CometBFT's defaults if not given.

    Returns:
        Chain id, height 1 and the hash of its header.

    Raises:
        HomeNotEmptyError: Something is there already.
        FileError: It cannot be written.
        SealiftError: The application refuses its genesis.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise HomeNotEmptyError(
            "folder is not empty",
            got=str(home),
            hint="Choose another one; nothing was changed",
        )
    make_folder(home.parent)
    try:
        fresh = Path(mkdtemp(prefix=f".{home.name}.", suffix=".new", dir=home.parent))
    except OSError as error:
        refuse_write(error, home)
    try:
        root = _fill(
            SoloHome(fresh),
            seeds={name: seed or entropy(_SEED) for name, seed in accounts.items()},
            genesis=lambda secret, keys: GenesisDoc(
                genesis_time=genesis_time,
                chain_id=chain_id,
                consensus_params=consensus_params or ConsensusParams(app_version=1),
                validators=solo_validators(account_of(secret)),
                app_state=app_state(keys),
            ),
            validator=entropy(_SEED),
            application=application,
            config=config or SoloConfig(),
        )
        fresh.chmod(0o755)
        try:
            fresh.rename(home)
        except OSError as error:
            refuse_write(error, home)
    except BaseException:
        rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(home.parent)
    return root


def _fill(
    home: SoloHome,
    *,
    seeds: Mapping[str, bytes],
    genesis: Callable[[bytes, Mapping[str, AccountId]], GenesisDoc],
    validator: bytes,
    application: Application,
    config: SoloConfig,
) -> TrustRoot:
    make_folder(home.account_key("x").parent, mode=0o700)
    make_folder(home.database.parent)
    keys = {
        name: write_account_key(home.account_key(name), seed)
        for name, seed in seeds.items()
    }
    write_validator_key(home.validator_key, validator)
    doc = genesis(validator, keys)
    _write_json(home.genesis, GENESIS_DOC.render(doc))
    create_durably(home.config, _render_config(config))
    chain = DurableChain.create(
        home.database, genesis=doc, secret=validator, application=application
    )
    try:
        root = trust_root_of(chain.produce(now=doc.genesis_time, txs=()))
    finally:
        chain.close()
    _write_json(
        home.trust_root,
        {
            "chain_id": root.chain_id,
            "height": root.height,
            "header_hash": root.header_hash.hex(),
        },
    )
    return root


def _write_json(path: Path, value: object) -> None:
    create_durably(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def _render_config(config: SoloConfig) -> bytes:
    """TOML of plain numbers and strings; JSON's strings are TOML's."""
    lines = [
        "# One key orders this chain: whoever holds priv_validator_key.json",
        "# decides alone. For a network, run CometBFT.",
        "",
        "# Milliseconds between blocks; 0 makes a block only when asked.",
    ]
    for name, value in msgspec.structs.asdict(config).items():
        lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
    return "\n".join([*lines, ""]).encode()
