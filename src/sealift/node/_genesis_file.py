"""CometBFT's ``genesis.json``, as every engine's home has it."""

from pathlib import Path

import msgspec

from sealift.base import SealiftError
from sealift.relay.rpc import GENESIS_DOC, GenesisDoc
from sealift.transport.files import read_or_explain

from ._errors import ConfigInvalidError


def read_genesis_file(path: Path, *, hint: str) -> GenesisDoc:
    """Read a chain's genesis.

    Args:
        path: The file.
        hint: What to do where it is missing.

    Raises:
        MissingFileError: It is not there.
        ConfigInvalidError: Not a genesis; it is kept.
    """
    raw = read_or_explain(path, what="genesis", hint=hint)
    try:
        plain: object = msgspec.json.decode(raw)
        return GENESIS_DOC.parse(plain)
    except (
        msgspec.MsgspecError,
        ValueError,
        RecursionError,
        SealiftError,
    ) as error:
        raise ConfigInvalidError(
            f"genesis cannot be read ({error})",
            got=str(path),
            hint="It is kept as it is",
        ) from error
