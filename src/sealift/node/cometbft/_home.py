"""The folder of a CometBFT node: CometBFT's own files, and the ledger's."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from sealift.crypto import Entropy
from sealift.node import HomeNotEmptyError
from sealift.node._genesis_file import read_genesis_file
from sealift.relay.rpc import GENESIS_DOC, GenesisDoc
from sealift.transport.files import (
    create_durably,
    make_folder,
    write_durably,
)
from sealift.transport.keys import write_node_key, write_validator_key

from ._config import NodeConfig, node_id, render_config, render_first_state

_SEED: Final = 32
#: A unix socket's path has at most 107 bytes.
_LONGEST_SOCKET: Final = 100
_HINT: Final = "`sealift node init` or `sealift testnet up` makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeys:
    """The two Ed25519 seeds of a node: what it signs as, and what it is known as."""

    validator: bytes
    node: bytes

    @classmethod
    def fresh(cls, entropy: Entropy) -> "NodeKeys":
        """New ones."""
        return cls(validator=entropy(_SEED), node=entropy(_SEED))

    @property
    def node_id(self) -> str:
        """How peers name it."""
        return node_id(self.node)


@dataclass(frozen=True, slots=True)
class CometHome:
    """Where everything of one node lies.

    ``config/`` and ``data/`` are CometBFT's, ``ledger/`` is ours.
    """

    root: Path

    @property
    def config(self) -> Path:
        """CometBFT's configuration."""
        return self.root / "config" / "config.toml"

    @property
    def genesis(self) -> Path:
        """How the chain started."""
        return self.root / "config" / "genesis.json"

    @property
    def validator_key(self) -> Path:
        """What the node signs blocks with."""
        return self.root / "config" / "priv_validator_key.json"

    @property
    def node_key(self) -> Path:
        """What peers know the node by."""
        return self.root / "config" / "node_key.json"

    @property
    def signed(self) -> Path:
        """What the validator signed last: CometBFT's guard against signing twice."""
        return self.root / "data" / "priv_validator_state.json"

    @property
    def ledger(self) -> Path:
        """The ledger's state, behind ABCI."""
        return self.root / "ledger"

    @property
    def log(self) -> Path:
        """What CometBFT writes."""
        return self.root / "cometbft.log"

    @property
    def process(self) -> Path:
        """Which CometBFT process was started last."""
        return self.root / "cometbft.process.json"

    def read_genesis(self) -> GenesisDoc:
        """The genesis.

        Raises:
            MissingFileError: It is not there.
            ConfigInvalidError: Not a genesis.
        """
        return read_genesis_file(self.genesis, hint=_HINT)

    @contextmanager
    def socket(self) -> Iterator[Path]:
        """Where CometBFT and the ledger meet: in the home, if the path is short.

        Otherwise in a private folder that is there while in the block.
        """
        here = self.root.absolute() / "abci.sock"
        if len(os.fsencode(here)) <= _LONGEST_SOCKET:
            yield here
            return
        with tempfile.TemporaryDirectory(prefix="sealift-abci-") as folder:
            yield Path(folder) / "abci.sock"


def init_node(
    home: CometHome, *, genesis: GenesisDoc, keys: NodeKeys, config: NodeConfig
) -> None:
    """Write all files that a node starts from.

    Args:
        home: A folder that is absent or empty; see :func:`write_config` to change
            the configuration later.
        genesis: The same bytes at every node of the chain.
        keys: Of this node alone: two processes with one validator key sign twice.
        config: Ports, peers, pace.

    Raises:
        HomeNotEmptyError: Something is there already.
        FileError: It cannot be written.
    """
    require_empty(home.root)
    make_folder(home.config.parent, mode=0o700)
    make_folder(home.signed.parent, mode=0o700)
    write_validator_key(home.validator_key, keys.validator)
    write_node_key(home.node_key, keys.node)
    create_durably(home.signed, render_first_state(), mode=0o600)
    plain = GENESIS_DOC.render(genesis)
    create_durably(
        home.genesis, msgspec.json.format(msgspec.json.encode(plain)) + b"\n"
    )
    write_config(home, config)


def write_config(home: CometHome, config: NodeConfig) -> None:
    """Replace the configuration; a running node keeps the one it started with.

    Raises:
        FileError: It cannot be written.
    """
    write_durably(home.config, render_config(config))


def require_empty(folder: Path) -> None:
    """Return if a folder is absent or empty.

    Raises:
        HomeNotEmptyError: Something is there.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HomeNotEmptyError(
            "folder is not empty",
            got=str(folder),
            hint="Choose another one; nothing was changed",
        )
