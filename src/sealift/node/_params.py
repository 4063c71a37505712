"""Parameters of RPC methods, as JSON-RPC and as URI text, as CometBFT reads them.

JSON: integers as numbers or strings, ``[]byte`` in base64, ``HexBytes`` in
hexadecimal. URI: integers bare or quoted, bytes as ``0x…`` or as a quoted text.
Source: CometBFT v0.38 ``rpc/jsonrpc/server``.
"""

import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sealift.base import Height, SealiftError

_INTEGER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_MAX_INT64: Final = 2**63 - 1
_FLAGS: Final = {"true": True, "false": False, "1": True, "0": False}


class InvalidParamsError(SealiftError):
    """Parameters that the method does not take."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of parameter is read from JSON and from a URI."""

    read_json: Callable[[str, object], object]
    read_uri: Callable[[str, str], object]


class Params:
    """The parameters of one call, read by what the method expects."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def number(self, name: str) -> int | None:
        """An integer that is not negative, if given."""
        value = self._values.get(name)
        return value if type(value) is int else None

    def height(self) -> Height | None:
        """``height``; zero means the newest, as in CometBFT."""
        value = self.number("height")
        return Height(value) if value else None

    def data(self, name: str) -> bytes:
        """Bytes; empty if not given."""
        value = self._values.get(name)
        return value if isinstance(value, bytes) else b""

    def text(self, name: str) -> str:
        """Text; empty if not given."""
        value = self._values.get(name)
        return value if isinstance(value, str) else ""

    def flag(self, name: str) -> bool:
        """True or false; false if not given."""
        return self._values.get(name) is True


def read_json_params(kinds: Mapping[str, Kind], given: Mapping[str, object]) -> Params:
    """Parameters of a JSON-RPC call; unknown ones are ignored.

    Raises:
        InvalidParamsError: One has another type.
    """
    return Params(
        {
            name: kind.read_json(name, given[name])
            for name, kind in kinds.items()
            if given.get(name) is not None
        }
    )


def read_uri_params(kinds: Mapping[str, Kind], given: Mapping[str, str]) -> Params:
    """Parameters of a URI call; unknown ones are ignored.

    Raises:
        InvalidParamsError: One has another type.
    """
    return Params(
        {
            name: kind.read_uri(name, given[name])
            for name, kind in kinds.items()
            if given.get(name, "")
        }
    )


def _refuse(name: str, got: object, expected: str) -> InvalidParamsError:
    return InvalidParamsError(
        f"parameter {name} is wrong", got=repr(got)[:80], expected=expected
    )


def _number_json(name: str, value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is int and 0 <= value <= _MAX_INT64:
        return value
    raise _refuse(name, value, "an integer")


def _number_uri(name: str, text: str) -> int:
    return _number_json(name, text.strip('"'))


def _text_json(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise _refuse(name, value, "a string")


def _text_uri(name: str, text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return _text_json(name, json.loads(text))
    except ValueError as error:
        raise _refuse(name, text, "a quoted string") from error


def _flag_json(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _refuse(name, value, "true or false")


def _flag_uri(name: str, text: str) -> bool:
    if text in _FLAGS:
        return _FLAGS[text]
    raise _refuse(name, text, "true or false")


def _base64_json(name: str, value: object) -> bytes:
    try:
        if isinstance(value, str):
            return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        pass
    raise _refuse(name, value, "base64")


def _hex_json(name: str, value: object) -> bytes:
    try:
        if isinstance(value, str):
            return binascii.unhexlify(value.removeprefix("0x"))
    except ValueError:
        pass
    raise _refuse(name, value, "hexadecimal")


def _bytes_uri(name: str, text: str) -> bytes:
    if text.startswith('"'):
        return _text_uri(name, text).encode(errors="surrogatepass")
    if text.startswith("0x"):
        return _hex_json(name, text)
    raise _refuse(name, text, "0x… or a quoted string")


NUMBER: Final = Kind(_number_json, _number_uri)
TEXT: Final = Kind(_text_json, _text_uri)
FLAG: Final = Kind(_flag_json, _flag_uri)
#: ``[]byte``
BYTES: Final = Kind(_base64_json, _bytes_uri)
#: ``HexBytes``
HEX_BYTES: Final = Kind(_hex_json, _bytes_uri)
