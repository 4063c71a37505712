"""The one table from refusals to exit codes, and how they are shown."""

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Final

import click
import msgspec

from sealift.base import SealiftError

EXIT_OK: Final = 0
#: Refused, or the verdict is no. Also whatever the table does not name.
EXIT_REFUSED: Final = 1
#: Wrong words on the command line.
EXIT_USAGE: Final = 2
#: Somebody does not answer, or not in time.
EXIT_UNREACHABLE: Final = 3
#: A file or the disk.
EXIT_FILE: Final = 4
#: A bug of ours.
EXIT_BUG: Final = 70
#: Ctrl-C.
EXIT_INTERRUPTED: Final = 130

#: Exit codes by error class; the nearest class counts, and
#: :data:`EXIT_REFUSED` where none is named. By name, so that showing an error
#: imports nothing.
EXIT_CODES: Final[Mapping[str, int]] = {
    "SealiftError": EXIT_REFUSED,
    "InvariantError": EXIT_BUG,
    # words
    "TimeFormatError": EXIT_USAGE,
    "UnknownCallError": EXIT_USAGE,
    "CallArgumentsError": EXIT_USAGE,
    "MetadataLookupError": EXIT_USAGE,
    "HeightWordError": EXIT_USAGE,
    # others
    "NodeUnreachableError": EXIT_UNREACHABLE,
    "TxNotIncludedError": EXIT_UNREACHABLE,
    "WorkerUnreachableError": EXIT_UNREACHABLE,
    "ReceiptTimeoutError": EXIT_UNREACHABLE,
    "NotConfirmedError": EXIT_UNREACHABLE,
    "OrderNotRecordedError": EXIT_UNREACHABLE,
    "UpstreamError": EXIT_UNREACHABLE,
    "EnclaveGoneError": EXIT_UNREACHABLE,
    "AddressInUseError": EXIT_UNREACHABLE,
    "ProcessNotReadyError": EXIT_UNREACHABLE,
    "ProcessStartError": EXIT_UNREACHABLE,
    "EngineMissingError": EXIT_UNREACHABLE,
    "EngineVersionError": EXIT_UNREACHABLE,
    "EngineStoppedError": EXIT_UNREACHABLE,
    "NodePortError": EXIT_UNREACHABLE,
    "WheelFetchError": EXIT_UNREACHABLE,
    "BundleUnreachableError": EXIT_UNREACHABLE,
    # files
    "AuthorityDocumentError": EXIT_FILE,
    "FileError": EXIT_FILE,
    "BundleFolderError": EXIT_FILE,
    "NoActiveBundleError": EXIT_FILE,
    "CardError": EXIT_FILE,
    "ChainStoreError": EXIT_FILE,
    "ConfigError": EXIT_FILE,
    "ConfigInvalidError": EXIT_FILE,
    "HomeNotEmptyError": EXIT_FILE,
    "SimStateError": EXIT_FILE,
    "StoreError": EXIT_FILE,
}


def exit_code(error: SealiftError) -> int:
    """The exit code of an error: of its nearest class in the table."""
    return exit_code_of(type(error))


def exit_code_of(kind: type[SealiftError]) -> int:
    """The exit code of an error class."""
    for ancestor in kind.__mro__:
        if ancestor.__name__ in EXIT_CODES:
            return EXIT_CODES[ancestor.__name__]
    return EXIT_REFUSED


def show_refusal(error: SealiftError, *, as_json: bool) -> None:
    """One readable line on stderr; with ``--json`` also an object on stdout."""
    line = _printable(" ".join(str(error).split()))
    click.echo(f"sealift: {line}", err=True)
    if as_json:
        body = {"code": error.code, "message": str(error), "hint": error.hint}
        click.echo(msgspec.json.encode({"error": body}))
    if os.environ.get("SEALIFT_DEBUG"):
        traceback.print_exception(error)


def _printable(text: str) -> str:
    """What others wrote may be in it: no control character reaches a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def show_bug(error: BaseException) -> None:
    """What is said of an exception that nobody foresaw."""
    name = type(error).__name__
    first = (str(error).splitlines() or [""])[0]
    click.echo(
        f"sealift: this is a bug in sealift ({name}: {first}). Please report it; "
        "SEALIFT_DEBUG=1 shows where it happened.",
        err=True,
    )
    if os.environ.get("SEALIFT_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
