"""What may stand on the command line, as types: refused as usage, in words."""

import asyncio
import re
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, TypeVar

import click
import msgspec

from sealift.base import (
    AccountId,
    ChainId,
    Digest,
    Height,
    SealiftError,
    canonical_decode,
    decode,
    encode,
    parse_hex,
)
from sealift.frame import storage_key
from sealift.relay import Timestamp, TrustRoot
from sealift.transport.clock import Clock, WallClock, parse_time
from sealift.transport.files import UnreadableFileError, read_json
from sealift.transport.rpc import Backoff, L1Client, system_jitter

T = TypeVar("T")

#: A path; whether it can be read is said by whoever reads it.
PATH: Final = click.Path(path_type=Path)
#: Where a local chain answers unless told otherwise.
DEFAULT_RPC: Final = "http://127.0.0.1:26657"
rpc_option = click.option(
    "--rpc",
    default=DEFAULT_RPC,
    show_default=True,
    envvar="SEALIFT_RPC",
    help="RPC of an L1 node.",
)
_MOST: Final = 2**63 - 1
_ATTEMPTS: Final = 3


class Hex32(click.ParamType[bytes]):
    """32 bytes in hexadecimal."""

    name = "hex32"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        """The bytes."""
        if isinstance(value, bytes):
            return value
        try:
            return parse_hex(str(value))
        except SealiftError as error:
            self.fail(str(error), param, ctx)


class _PublicPart(msgspec.Struct, frozen=True, kw_only=True):
    account: str


class AccountParam(click.ParamType[AccountId]):
    """An account: 64 hexadecimal digits, or the key file that has it."""

    name = "account"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> AccountId:
        """The account."""
        if isinstance(value, bytes):
            return AccountId(value)
        text = str(value)
        if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text):
            try:
                raw = Path(text).read_bytes()
                text = msgspec.json.decode(raw, type=_PublicPart).account
            except (OSError, ValueError, msgspec.MsgspecError):
                self.fail(
                    f"{text[:80]!r} is neither an account (64 hexadecimal digits) "
                    "nor a key file",
                    param,
                    ctx,
                )
        try:
            return AccountId(parse_hex(text))
        except SealiftError as error:
            self.fail(str(error), param, ctx)


class TimeParam(click.ParamType[Timestamp]):
    """A time: RFC 3339 or Unix seconds."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Timestamp:
        """The time."""
        if isinstance(value, Timestamp):
            return value
        try:
            return parse_time(str(value))
        except SealiftError as error:
            self.fail(str(error), param, ctx)


HEX32: Final = Hex32()
ACCOUNT: Final = AccountParam()
TIME: Final = TimeParam()
AMOUNT: Final = click.IntRange(min=0, max=_MOST)
NUMBER: Final = click.IntRange(min=0, max=_MOST)
HEIGHT: Final = click.IntRange(min=1, max=_MOST)


class _TrustRootFile(msgspec.Struct, frozen=True, kw_only=True):
    chain_id: str
    height: int
    header_hash: str


def read_trust_root(path: Path) -> TrustRoot:
    """An L1 trust root, as ``sealift chain init`` and ``trust-root`` write it.

    Raises:
        MissingFileError: It is not there.
        UnreadableFileError: Not a trust root.
    """
    what = "trust root"
    file = read_json(
        path, _TrustRootFile, what=what, hint="`sealift chain trust-root` writes one"
    )
    try:
        root = TrustRoot(
            chain_id=ChainId(file.chain_id),
            height=Height(file.height),
            header_hash=Digest(parse_hex(file.header_hash)),
        )
        return decode(TrustRoot, encode(root))
    except (SealiftError, OverflowError) as error:
        raise UnreadableFileError(
            f"{what} is not what it should be ({error})", got=str(path)
        ) from error


def wall_clock() -> Clock:
    """The clock of the command line: the one place where it is chosen."""
    return WallClock()


def run(work: Awaitable[T]) -> T:
    """Run asynchronous work to its end."""

    async def whole() -> T:
        return await work

    return asyncio.run(whole())


def open_l1(url: str) -> AbstractAsyncContextManager[L1Client]:
    """A client of an L1 node that gives up soon: a person waits."""
    return L1Client(url, backoff=Backoff(jitter=system_jitter, attempts=_ATTEMPTS))


async def entry_of(
    l1: L1Client, kind: type[T], pallet: str, item: str, key: bytes = b""
) -> T | None:
    """What stands in L1's state, as the node says it, not proven; ``None``: nothing.

    Raises:
        DecodeError: Something else.
        SealiftError: The node does not answer.
    """
    entry = await l1.abci_query(storage_key(pallet, item, key), prove=False)
    return None if entry.value is None else canonical_decode(kind, entry.value)
