"""What changes from one bundle to another: sources, layout, calls, wheels. Pure."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from sealift.base import decode
from sealift.bundle import Bundle
from sealift.crypto import sha256
from sealift.frame import RuntimeMetadata

from ._output import shown_safely

_METADATA: Final = "metadata.bin"
_SOURCES: Final = ("app/", "sealift/")
#: Larger files are said to differ; the search for how would take too long.
_MOST_LINES: Final = 10_000
_MOST_BYTES: Final = 512 * 1024

Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A source that differs; ``lines`` are a unified diff, safe to show."""

    path: str
    change: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Everything that differs between two bundles."""

    sources: tuple[FileChange, ...]
    manifest: list[Row]
    pallets: list[Row]
    calls: list[Row]
    storage: list[Row]
    types: list[Row]
    wheels: list[Row]


def compare(old: Bundle, new: Bundle) -> Changes:
    """What differs.

    Raises:
        DecodeError: A bundle's metadata is none.
    """
    before = decode(RuntimeMetadata, old.files[_METADATA])
    after = decode(RuntimeMetadata, new.files[_METADATA])
    return Changes(
        sources=tuple(_sources(old.files, new.files)),
        manifest=_rows(
            msgspec.to_builtins(old.manifest), msgspec.to_builtins(new.manifest)
        ),
        pallets=_rows(_versions(before), _versions(after)),
        calls=_rows(_calls(before), _calls(after)),
        storage=_rows(_storage(before), _storage(after)),
        types=_rows(_types(before), _types(after)),
        wheels=_rows(_wheels(old), _wheels(new)),
    )


def _sources(
    old: Mapping[str, bytes], new: Mapping[str, bytes]
) -> Iterator[FileChange]:
    for path in sorted({*old, *new}):
        measured = path.startswith(_SOURCES) or "/" not in path
        if not measured or path == _METADATA or old.get(path) == new.get(path):
            continue
        change = (
            "added" if path not in old else "removed" if path not in new else "changed"
        )
        lines = tuple(_diff(path, old.get(path), new.get(path)))
        yield FileChange(path=shown_safely(path), change=change, lines=lines)


def _diff(path: str, old: bytes | None, new: bytes | None) -> Iterator[str]:
    before, after = _lines(old), _lines(new)
    if before is None or after is None:
        sizes = f"{len(old or b'')} and {len(new or b'')} bytes"
        yield f"{shown_safely(path)}: not shown, no text or too large ({sizes})"
        return
    name_before = "/dev/null" if old is None else f"active/{path}"
    name_after = "/dev/null" if new is None else f"proposed/{path}"
    for line in difflib.unified_diff(
        before, after, name_before, name_after, lineterm=""
    ):
        yield _safe(line)


def _lines(data: bytes | None) -> list[str] | None:
    """Lines by line feeds alone: no other character may hide one."""
    if data is None:
        return []
    if len(data) > _MOST_BYTES:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += " \\ no line feed at the end"
    else:
        lines.pop()
    return lines if len(lines) <= _MOST_LINES else None


def _safe(line: str) -> str:
    """A line for a terminal; tabs are harmless."""
    return "\t".join(shown_safely(part) for part in line.split("\t"))


def _versions(metadata: RuntimeMetadata) -> dict[str, object]:
    found: dict[str, object] = {
        f"{one.name} storage_version": one.storage_version for one in metadata.pallets
    }
    return {**found, f"runtime {metadata.name} version": metadata.version}


def _calls(metadata: RuntimeMetadata) -> dict[str, object]:
    return {
        f"{pallet.name}.{call.name}": (
            f"weight {call.weight}, "
            + ", ".join(f"{arg.name}: {_shape(arg.spec)}" for arg in call.args)
        )
        for pallet in metadata.pallets
        for call in pallet.calls
    }


def _storage(metadata: RuntimeMetadata) -> dict[str, object]:
    return {
        f"{pallet.name}.{item.name}": (
            f"{_shape(item.key) if item.key else 'value'} → {_shape(item.value)}"
            + (f", default {item.default.hex()}" if item.default else "")
        )
        for pallet in metadata.pallets
        for item in pallet.storage
    }


def _types(metadata: RuntimeMetadata) -> dict[str, object]:
    return {
        one.name: ", ".join(
            f"{field.name}: {_shape(field.spec)}" for field in one.fields
        )
        for one in metadata.types
    }


def _wheels(bundle: Bundle) -> dict[str, object]:
    return {name: sha256(data).hex() for name, data in bundle.wheels().items()}


def _shape(spec: msgspec.Struct) -> str:
    """A type on one line: what is not said in it is as by default."""
    plain: Row = {
        name: value
        for name, value in msgspec.structs.asdict(spec).items()
        if value not in (None, "", ())
    }
    kind, name = str(plain.pop("kind", "")), str(plain.pop("name", ""))
    parts = plain.pop("parts", ())
    inner = (
        f"[{', '.join(_shape(part) for part in parts)}]"
        if isinstance(parts, tuple) and parts
        else ""
    )
    rest = "".join(f" {key}={value}" for key, value in plain.items())
    return f"{name or kind}{inner}{rest}"


def _rows(old: Mapping[str, object], new: Mapping[str, object]) -> list[Row]:
    return [
        {
            "what": shown_safely(name),
            "was": _text(old.get(name)),
            "becomes": _text(new.get(name)),
        }
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _text(value: object) -> str:
    return "absent" if value is None else shown_safely(str(value))
