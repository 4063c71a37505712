"""Printing: people get lines, programs get JSON."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import click
import msgspec

#: Longer texts do not share a line.
_LONG = 60
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
F = TypeVar("F", bound=Callable[..., object])


def json_option(command: F) -> F:
    """``--json`` for every command that answers something."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Answer in JSON, for programs."
    )(command)


def emit(answer: Mapping[str, object], *, as_json: bool) -> None:
    """Print an answer: a JSON object, or one line for each field."""
    plain = {name: _plain(value) for name, value in answer.items()}
    if as_json:
        click.echo(msgspec.json.encode(plain))
        return
    width = max((len(name) for name in plain), default=0)
    for name, value in plain.items():
        lines = _lines(value)
        click.echo(f"{name.ljust(width)}  {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{' ' * width}  {line}")


def emit_rows(
    name: str, rows: Sequence[Mapping[str, object]], *, as_json: bool
) -> None:
    """Print a list of like things: JSON, or a table."""
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    if as_json:
        click.echo(msgspec.json.encode({name: plain}))
        return
    if not plain:
        click.echo(f"no {name}")
        return
    heads = list(plain[0])
    cells = [heads, *([_text(row[head]) for head in heads] for row in plain)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(heads))]
    for line in cells:
        padded = (cell.ljust(size) for cell, size in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def emit_sections(
    answer: Mapping[str, object],
    sections: Mapping[str, Sequence[Mapping[str, object]]],
    *,
    as_json: bool,
) -> None:
    """Print an answer and, below it, tables; those with nothing in them are not."""
    if as_json:
        emit({**answer, **sections}, as_json=True)
        return
    emit(answer, as_json=False)
    for name, rows in sections.items():
        if rows:
            click.echo(f"\n{name.replace('_', ' ')}:")
            emit_rows(name, rows, as_json=False)


def shown_safely(text: str) -> str:
    """Text of others for a terminal: what would command or deceive it is escaped.

    Controls (C0, C1, DEL), line separators, and characters that are invisible or
    turn the direction of writing (Unicode Cc, Cf, Cs, Co, Zl, Zp).
    """
    return "".join(
        char if unicodedata.category(char) not in _UNSAFE else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def say(text: str) -> None:
    """A remark for people, on stderr: it never mixes with an answer."""
    click.echo(text, err=True)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.asdict(value))
    return value


def _lines(value: object) -> list[str]:
    """A value as lines: long members of a list get one each, equals together."""
    if isinstance(value, list) and any(
        isinstance(one, str) and len(one) > _LONG for one in value
    ):
        counts = Counter(shown_safely(str(one)) for one in value)
        return [
            text if count == 1 else f"{text} (×{count})"  # noqa: RUF001 - times
            for text, count in counts.items()
        ]
    return [_text(value)]


def _text(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        return shown_safely(", ".join(str(one) for one in value))
    if isinstance(value, list | dict):
        return shown_safely(msgspec.json.encode(value).decode())
    return shown_safely(str(value))
