"""What is wrong with an application: by name, with the place and the line to write."""

from dataclasses import dataclass

from sealift.base import SealiftError


class ApplicationRefusedError(SealiftError):
    """An application that must not take over from its predecessor as it is."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing that is refused.

    Attributes:
        path: The file, relative to the application's folder where it is in it.
        line: The line in it; 1 is the first.
        rule: Its name, as in ``docs/applications.md``.
        what: What is wrong, and what would follow from it.
        write: The line to write instead, or to add.
    """

    path: str
    line: int
    rule: str
    what: str
    write: str

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.path}:{self.line}"
