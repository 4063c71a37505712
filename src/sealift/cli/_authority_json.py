"""Authorities as JSON documents: parsed totally, and written as they are read.

A document is a tree of objects with one name each: ``sudo``, ``stake``,
``workers``, ``signer``, ``any-of`` or ``all-of`` (docs/governance.md).
"""

import json
import re
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from sealift.base import AccountId, Amount, DecodeError, MrSigner, SealiftError
from sealift.base import parse_hex as hex_bytes
from sealift.protocol import (
    MAX_DEPTH,
    MAX_MEMBERS,
    AllOf,
    AnyOf,
    Authority,
    Ratio,
    SignerAuthority,
    StakeAuthority,
    SudoAuthority,
    WorkersAuthority,
    leaves,
)
from sealift.transport.files import read_or_explain

MAX_DOCUMENT: Final = 64 * 1024
_FORMS: Final = "sudo, stake, workers, signer, any-of, all-of"
_RATIO: Final = re.compile(r"([0-9]{1,7})/([0-9]{1,7})", re.ASCII)
_SHOWN: Final = 60


class AuthorityDocumentError(SealiftError):
    """A document that describes no authority.

    Args:
        place: Where in the document, e.g. ``$.any-of[1].stake.quorum``.
        what: What is wrong there.
        got: What stands there.
        expected: What should.
    """

    def __init__(
        self, place: str, what: str, *, got: object = None, expected: object = None
    ) -> None:
        shown = None if got is None else _shown(got)
        super().__init__(f"authority: {place}: {what}", got=shown, expected=expected)
        self.place = place


def read_authority(path: Path) -> Authority:
    """The authority in a JSON file.

    Raises:
        FileError: It cannot be read.
        AuthorityDocumentError: It describes none; with the place in it.
    """
    return parse_authority(read_or_explain(path, what="authority document"))


def parse_authority(data: bytes) -> Authority:
    """An authority from a JSON document; total over all bytes.

    Guarantees a tree of the size that L1 allows. Whether a shard can live by it
    is L1's to say.

    Raises:
        AuthorityDocumentError: It describes none; with the place in it.
    """
    if len(data) > MAX_DOCUMENT:
        raise AuthorityDocumentError(
            "$", "too large", got=f"{len(data)} B", expected=f"≤ {MAX_DOCUMENT} B"
        )
    try:
        tree: object = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise AuthorityDocumentError("$", f"not JSON ({error})") from error
    made = _authority(tree, "$", 1)
    found = len(list(leaves(made)))
    if found > MAX_MEMBERS:
        raise AuthorityDocumentError(
            "$", "too many members", got=found, expected=f"≤ {MAX_MEMBERS}"
        )
    return made


def authority_tree(authority: Authority) -> dict[str, object]:
    """An authority as the tree that :func:`parse_authority` reads."""
    match authority:
        case SudoAuthority():
            return {"sudo": authority.key.hex()}
        case SignerAuthority():
            return {
                "signer": {
                    "mr_signer": authority.mr_signer.hex(),
                    "prod_id": authority.prod_id,
                    "min_svn": authority.min_svn,
                }
            }
        case StakeAuthority():
            return {"stake": _fields(authority)}
        case WorkersAuthority():
            return {"workers": _fields(authority)}
        case AnyOf():
            return {"any-of": [authority_tree(one) for one in authority.members]}
        case AllOf():
            return {"all-of": [authority_tree(one) for one in authority.members]}


def render_authority(authority: Authority) -> bytes:
    """The document of an authority."""
    raw = msgspec.json.encode(authority_tree(authority))
    return msgspec.json.format(raw, indent=2) + b"\n"


def _fields(leaf: StakeAuthority | WorkersAuthority) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, Ratio) else value
        for name, value in msgspec.structs.asdict(leaf).items()
    }


def _authority(value: object, place: str, level: int) -> Authority:
    if not isinstance(value, dict) or len(value) != 1:
        got = sorted(value) if isinstance(value, dict) else value
        raise AuthorityDocumentError(
            place, "not an object of one form", got=got, expected=f"one of {_FORMS}"
        )
    ((form, inner),) = value.items()
    below = f"{place}.{form}" if form in _FORMS.split(", ") else place
    match form:
        case "sudo":
            return SudoAuthority(key=AccountId(_hex32(inner, below)))
        case "stake":
            return _stake(_Fields(inner, below, StakeAuthority))
        case "workers":
            return _workers(_Fields(inner, below, WorkersAuthority))
        case "signer":
            return _signer(_Fields(inner, below, SignerAuthority))
        case "any-of":
            return AnyOf(members=_members(inner, below, level))
        case "all-of":
            return AllOf(members=_members(inner, below, level))
        case _:
            raise AuthorityDocumentError(
                place,
                "no such form of authority",
                got=form,
                expected=f"one of {_FORMS}",
            )


def _members(value: object, place: str, level: int) -> tuple[Authority, ...]:
    if level > MAX_DEPTH:
        raise AuthorityDocumentError(
            place, "combinations within too many", expected=f"≤ {MAX_DEPTH} deep"
        )
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MEMBERS:
        got = f"{len(value)} members" if isinstance(value, list) else value
        raise AuthorityDocumentError(
            place, "not a list of members", got=got, expected=f"1 … {MAX_MEMBERS}"
        )
    return tuple(
        _authority(one, f"{place}[{at}]", level + 1) for at, one in enumerate(value)
    )


class _Fields:
    """The named fields of one form, each read once."""

    def __init__(self, value: object, place: str, kind: type[msgspec.Struct]) -> None:
        if not isinstance(value, dict):
            raise AuthorityDocumentError(
                place, "not an object", got=value, expected=", ".join(_names(kind))
            )
        for name in value:
            if name not in _names(kind):
                raise AuthorityDocumentError(
                    place,
                    "no such field",
                    got=name,
                    expected=f"some of {', '.join(_names(kind))}",
                )
        self._given: dict[str, object] = value
        self._place = place
        self._types = {one.name: one for one in msgspec.structs.fields(kind)}

    def number(self, name: str) -> int:
        """A whole number within the field's bounds; its default if absent."""
        field = self._types[name]
        if name not in self._given and not field.required:
            return int(field.default)
        value = self._need(name)
        if type(value) is not int:
            self._refuse(name, "not a whole number", value)
        try:
            return int(msgspec.convert(value, type=field.type))
        except (msgspec.ValidationError, OverflowError) as error:
            self._refuse(name, str(error).partition(" - at ")[0], value)

    def ratio(self, name: str) -> Ratio:
        """A share, ``n/d``, of at most all."""
        value = self._need(name)
        found = _RATIO.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            self._refuse(name, "not a share such as 1/2", value)
        top, bottom = int(found[1]), int(found[2])
        if not 0 <= top <= bottom <= 1_000_000 or not bottom:  # noqa: PLR2004 - Ratio's
            self._refuse(name, "not a share of at most all, over ≤ 1000000", value)
        return Ratio(numerator=top, denominator=bottom)

    def hex32(self, name: str) -> bytes:
        """32 bytes in hexadecimal."""
        return _hex32(self._need(name), f"{self._place}.{name}")

    def _need(self, name: str) -> object:
        if name not in self._given:
            raise AuthorityDocumentError(
                self._place, "a field is missing", expected=name
            )
        return self._given[name]

    def _refuse(self, name: str, what: str, value: object) -> NoReturn:
        raise AuthorityDocumentError(f"{self._place}.{name}", what, got=value)


def _stake(fields: _Fields) -> StakeAuthority:
    return StakeAuthority(
        threshold=fields.ratio("threshold"),
        quorum=fields.ratio("quorum"),
        stake_age=fields.number("stake_age"),
        period=fields.number("period"),
        min_voters=fields.number("min_voters"),
        deposit=Amount(fields.number("deposit")),
    )


def _workers(fields: _Fields) -> WorkersAuthority:
    return WorkersAuthority(
        threshold=fields.ratio("threshold"),
        seat_age=fields.number("seat_age"),
        period=fields.number("period"),
    )


def _signer(fields: _Fields) -> SignerAuthority:
    return SignerAuthority(
        mr_signer=MrSigner(fields.hex32("mr_signer")),
        prod_id=fields.number("prod_id"),
        min_svn=fields.number("min_svn"),
    )


def _hex32(value: object, place: str) -> bytes:
    wanted = "64 hexadecimal digits"
    if not isinstance(value, str):
        raise AuthorityDocumentError(
            place, "not hexadecimal", got=value, expected=wanted
        )
    try:
        return hex_bytes(value)
    except DecodeError as error:
        raise AuthorityDocumentError(
            place, error.what, got=value, expected=wanted
        ) from error


def _names(kind: type[msgspec.Struct]) -> list[str]:
    return [one.name for one in msgspec.structs.fields(kind)]


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object whose names are distinct: no reader may see another one."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise AuthorityDocumentError("$", "a name stands twice in one object")
    return made


def _shown(value: object) -> str:
    """A piece of a document in a sentence: short, on one line."""
    line = ascii(value if isinstance(value, str) else repr(value))[1:-1]
    return line[:_SHOWN] + ("…" if len(line) > _SHOWN else "")
