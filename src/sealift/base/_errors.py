"""The error root: one tree, one sentence, typed fields."""

from typing import ClassVar


class SealiftError(Exception):
    """The root of every refusal that Sealift makes on purpose.

    Guarantees one readable sentence: what was refused, what was got, what was
    expected and what to do. Domain errors know nothing of logs, exit codes or
    HTTP; each edge maps them in one table.

    Args:
        what: The refusal, without a final stop.
        got: What was seen (``bytes`` are shown as hex, cut at 32 bytes).
        expected: What the rule wanted.
        hint: What the reader can do about it.
    """

    #: Stable name for the wire and for machines; by default the class name.
    code: ClassVar[str] = "SealiftError"

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = cls.__name__

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        hint: str = "",
    ) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        parts = []
        if self.got is not None:
            parts.append(f"got {_shown(self.got)}")
        if self.expected is not None:
            parts.append(f"expected {_shown(self.expected)}")
        if parts:
            text += ": " + ", ".join(parts)
        if self.hint:
            text += f". {self.hint}"
        return text


class InvariantError(SealiftError):
    """A bug in Sealift itself: something that cannot happen has happened."""


class DecodeError(SealiftError):
    """Bytes that are not a value of the wanted type."""


class NonCanonicalError(DecodeError):
    """Bytes of a signed thing that are not its one canonical encoding."""


class TooLargeError(SealiftError):
    """More bytes than the limit of this message allows."""


_SHOWN_BYTES = 32


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        cut = value[:_SHOWN_BYTES].hex()
        return cut + ("…" if len(value) > _SHOWN_BYTES else "")
    return str(value)
