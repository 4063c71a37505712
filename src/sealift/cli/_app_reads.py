"""Whether a type reads every value that another one wrote, by their descriptions.

Values are MessagePack: structs as arrays, by position (ADR 0001). So a name may
change and an order may not, and what was appended needs a default.
"""

from collections.abc import Mapping
from typing import Final

from sealift.frame import FieldSpec, StructSpec, TypeSpec

#: Types within types, and no more: a bundle of others is bounded.
_DEEPEST: Final = 40
_WIDER: Final = {"str": str, "int": int}


class Reader:
    """Compares types of two versions of a runtime.

    Args:
        old: Structs of the version that wrote.
        new: Structs of the version that reads.
    """

    def __init__(
        self, old: Mapping[str, StructSpec], new: Mapping[str, StructSpec]
    ) -> None:
        self._old = old
        self._new = new
        self._proven: set[tuple[str, str]] = set()

    def difference(
        self, old: TypeSpec, new: TypeSpec, where: str, depth: int = 0
    ) -> str:
        """Why ``new`` doesn't read what ``old`` wrote; empty if it does."""
        if depth > _DEEPEST:
            return f"{where} is nested too deep to be compared"
        kinds = {old.kind, new.kind}
        if "union" in kinds:
            return self._unions(old, new, where, depth + 1)
        if "choice" in kinds:
            return self._choices(old, new, where)
        if (old.kind, new.kind) == ("tuple", "list"):
            return self._tuple_as_list(old, new, where, depth + 1)
        if kinds == {"struct"}:
            return self._structs(old.name, new.name, where, depth + 1)
        return self._plain(old, new, where, depth + 1)

    def _plain(self, old: TypeSpec, new: TypeSpec, where: str, depth: int) -> str:
        if old.kind != new.kind:
            return f"{where} was {shown(old)} and is {shown(new)}"
        if _narrower(old, new):
            return f"{where} was {shown(old)} and is narrower: {shown(new)}"
        if len(old.parts) != len(new.parts):
            return f"{where} had {len(old.parts)} parts and has {len(new.parts)}"
        for number, (before, after) in enumerate(
            zip(old.parts, new.parts, strict=True)
        ):
            found = self.difference(before, after, f"{where}[{number}]", depth)
            if found:
                return found
        return ""

    def fields(
        self,
        old: tuple[FieldSpec, ...],
        new: tuple[FieldSpec, ...],
        where: str,
        depth: int = 0,
    ) -> str:
        """The same for arguments of a call, or fields of a struct."""
        names = [field.name for field in new]
        for number, before in enumerate(old):
            label = f"{where}.{before.name}"
            if number >= len(new):
                return f"{label} is gone"
            after = new[number]
            if after.name != before.name:
                moved = before.name in names
                return (
                    f"{label} has moved from place {number + 1}"
                    if moved
                    else f"{label} stands no more in place {number + 1}; "
                    f"`{after.name}` does"
                )
            found = self.difference(before.spec, after.spec, label, depth + 1)
            if found:
                return found
            if before.default is not None and after.default != before.default:
                return f"the default of {label} has changed, which older ones rely on"
        for after in new[len(old) :]:
            if after.default is None:
                return f"{where}.{after.name} was appended without a default"
        return ""

    def _structs(self, old: str, new: str, where: str, depth: int) -> str:
        if (old, new) in self._proven:
            return ""
        before, after = self._old.get(old), self._new.get(new)
        if before is None or after is None:
            return f"{where} is of a type that is not described"
        if before.tag != after.tag:
            return (
                f"{where} was written with the tag `{before.tag}` (a Message's is its "
                f"class's name), and is read with `{after.tag}`"
            )
        self._proven.add((old, new))  # so that a type within itself ends
        found = self.fields(before.fields, after.fields, new, depth)
        if found:
            self._proven.discard((old, new))
        return found

    def _unions(self, old: TypeSpec, new: TypeSpec, where: str, depth: int) -> str:
        before = old.parts if old.kind == "union" else (old,)
        after = new.parts if new.kind == "union" else (new,)
        for member in before:
            tries = [self.difference(member, one, where, depth) for one in after]
            if all(tries):
                return f"{where} may be {shown(member)}, which {shown(new)} is not"
        return ""

    def _choices(self, old: TypeSpec, new: TypeSpec, where: str) -> str:
        words = {value for _, value in old.choices}
        if old.kind == new.kind:
            lost = words - {value for _, value in new.choices}
        else:
            kind = _WIDER.get(new.kind)
            fits = old.kind == "choice" and kind is not None
            lost = {
                word
                for word in words
                if not fits or type(word) is not kind or not _within(word, new)
            }
            if not old.choices:
                return f"{where} was {shown(old)} and is {shown(new)}"
        if lost:
            text = ", ".join(sorted(repr(word) for word in lost))
            return f"{where} may be {text}, which {shown(new)} is not"
        return ""

    def _tuple_as_list(
        self, old: TypeSpec, new: TypeSpec, where: str, depth: int
    ) -> str:
        if not _bounds_hold(len(old.parts), new):
            return f"{where} has {len(old.parts)} parts, more or less than {shown(new)}"
        for part in old.parts:
            found = self.difference(part, new.parts[0], f"{where}[]", depth)
            if found:
                return found
        return ""


def shown(spec: TypeSpec, *, bounds: bool = True) -> str:
    """A type as people write it."""
    if spec.kind == "union":
        return " | ".join(shown(part) for part in spec.parts)
    if spec.kind == "choice":
        return "one of " + ", ".join(repr(value) for _, value in spec.choices)
    name = spec.name or spec.kind
    if spec.parts:
        name = f"{spec.kind}[{', '.join(shown(part) for part in spec.parts)}]"
    if bounds and (spec.low is not None or spec.high is not None):
        low = "" if spec.low is None else spec.low
        high = "" if spec.high is None else spec.high
        name += f" ({low}…{high})"
    return name


def _narrower(old: TypeSpec, new: TypeSpec) -> bool:
    low = new.low is not None and (old.low is None or old.low < new.low)
    high = new.high is not None and (old.high is None or old.high > new.high)
    return low or high


def _within(word: object, spec: TypeSpec) -> bool:
    if isinstance(word, str):
        return _bounds_hold(len(word), spec)
    return isinstance(word, int) and _bounds_hold(word, spec)


def _bounds_hold(number: int, spec: TypeSpec) -> bool:
    low = spec.low is None or number >= spec.low
    return low and (spec.high is None or number <= spec.high)
