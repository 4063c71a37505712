"""Private key files: JSON, mode 0600, never written over another."""

from base64 import b64encode
from pathlib import Path
from typing import Final

import msgspec

from sealift.base import AccountId
from sealift.crypto import account_of, sha256

from .files import (
    UnreadableFileError,
    decode_json,
    read_private_key,
    write_private_key,
)

_SEED: Final = 32
_ADDRESS: Final = 20
_PUBLIC_TYPE: Final = "tendermint/PubKeyEd25519"
_SECRET_TYPE: Final = "tendermint/PrivKeyEd25519"  # noqa: S105 - a type's name


class _AccountFile(msgspec.Struct, frozen=True, kw_only=True):
    account: str
    secret: str


class _Tagged(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    value: bytes


class _NodeFile(msgspec.Struct, frozen=True, kw_only=True):
    priv_key: _Tagged


class _ValidatorFile(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    pub_key: _Tagged
    priv_key: _Tagged


def write_account_key(path: Path, secret: bytes) -> AccountId:
    """Write an account's key file; return the account.

    Args:
        path: Where; must not be there.
        secret: Ed25519 seed, 32 bytes.

    Raises:
        FileExistsAlreadyError: Something is there.
        FileError: It cannot be written.
    """
    account = account_of(secret)
    write_private_key(
        path,
        msgspec.json.format(
            msgspec.json.encode(
                _AccountFile(account=account.hex(), secret=secret.hex())
            )
        )
        + b"\n",
    )
    return account


def read_account_key(path: Path) -> bytes:
    """The Ed25519 seed of an account's key file.

    Raises:
        MissingFileError: It is not there.
        ExposedKeyError: Others may read it.
        UnreadableFileError: Not such a file, or key and account differ.
    """
    what = "account key"
    file = decode_json(
        read_private_key(path, what=what), _AccountFile, path=path, what=what
    )
    try:
        secret = bytes.fromhex(file.secret)
    except ValueError:
        secret = b""
    if len(secret) != _SEED or account_of(secret).hex() != file.account:
        raise _foreign(path, what)
    return secret


def write_validator_key(path: Path, secret: bytes) -> None:
    """Write a validator's key in the form of CometBFT's ``priv_validator_key.json``.

    Raises:
        FileExistsAlreadyError: Something is there.
        FileError: It cannot be written.
    """
    public = account_of(secret)
    body = {
        "address": sha256(public)[:_ADDRESS].hex().upper(),
        "pub_key": {"type": _PUBLIC_TYPE, "value": _base64(public)},
        "priv_key": {"type": _SECRET_TYPE, "value": _base64(secret + public)},
    }
    write_private_key(path, msgspec.json.format(msgspec.json.encode(body)) + b"\n")


def read_validator_key(path: Path) -> bytes:
    """The Ed25519 seed in a ``priv_validator_key.json``.

    Raises:
        MissingFileError: It is not there.
        ExposedKeyError: Others may read it.
        UnreadableFileError: Not such a file, or its parts do not fit.
    """
    what = "validator key"
    file = decode_json(
        read_private_key(path, what=what), _ValidatorFile, path=path, what=what
    )
    secret = _seed_of(file.priv_key, path, what)
    if file.pub_key.value != account_of(secret):
        raise _foreign(path, what)
    return secret


def write_node_key(path: Path, secret: bytes) -> None:
    """Write what peers know a node by, in the form of CometBFT's ``node_key.json``.

    Raises:
        FileExistsAlreadyError: Something is there.
        FileError: It cannot be written.
    """
    value = _base64(secret + account_of(secret))
    body = {"priv_key": {"type": _SECRET_TYPE, "value": value}}
    write_private_key(path, msgspec.json.format(msgspec.json.encode(body)) + b"\n")


def read_node_key(path: Path) -> bytes:
    """The Ed25519 seed in a ``node_key.json``.

    Raises:
        MissingFileError: It is not there.
        ExposedKeyError: Others may read it.
        UnreadableFileError: Not such a file, or its parts do not fit.
    """
    what = "node key"
    file = decode_json(
        read_private_key(path, what=what), _NodeFile, path=path, what=what
    )
    return _seed_of(file.priv_key, path, what)


def _seed_of(key: _Tagged, path: Path, what: str) -> bytes:
    """The seed; behind it stands its public key."""
    secret = key.value[:_SEED]
    if key.type != _SECRET_TYPE or len(key.value) != _SEED * 2:
        raise _foreign(path, what)
    if key.value[_SEED:] != account_of(secret):
        raise _foreign(path, what)
    return secret


def _foreign(path: Path, what: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"{what} does not fit together", got=str(path), hint="It is kept as it is"
    )


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
