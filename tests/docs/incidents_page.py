"""Makes docs/incidents.md from incidents.toml: python tests/docs/incidents_page.py."""

import ast
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("incidents.toml")
PAGE = ROOT / "docs" / "incidents.md"
HEAD = """\
# Mistakes made elsewhere, and the tests that guard us

Generated from `tests/docs/incidents.toml` by `python tests/docs/incidents_page.py`;
do not edit. A test compares, and looks for every test that is named.

What went wrong elsewhere was read in public code and issue trackers
(November 2026), not run. It is told to learn from, and may be mended by now.
"""


class Incident(NamedTuple):
    """One row of the table."""

    where: str
    what: str
    ours: str
    tests: list[str]
    later: str = ""


def read_table(text: str) -> list[Incident]:
    """The rows of incidents.toml."""
    return [Incident(**row) for row in tomllib.loads(text)["incident"]]


def render(incidents: list[Incident]) -> str:
    """The page."""
    parts = [HEAD]
    for number, row in enumerate(incidents, 1):
        parts.append(
            f"\n## {number}. {row.where}\n\n{row.what}\n\n**Ours:** {row.ours}\n\n"
        )
        parts.extend(f"* `{node}`\n" for node in row.tests)
        if row.later:
            parts.append(f"\n**Not built yet:** {row.later}.\n")
    return "".join(parts)


def missing(incidents: list[Incident], root: Path = ROOT) -> list[str]:
    """Guards that do not exist, by file, class and function; read, not run."""
    known: dict[str, set[str]] = {}
    gone = []
    for row in incidents:
        for node in row.tests:
            file, _, name = node.partition("::")
            if file not in known:
                known[file] = _tests_of(root / file)
            if name not in known[file]:
                gone.append(node)
    return gone


def _tests_of(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    found = set()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, kinds):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = (each for each in node.body if isinstance(each, kinds))
            found |= {f"{node.name}::{each.name}" for each in inner}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


if __name__ == "__main__":
    PAGE.write_text(
        render(read_table(TABLE.read_text(encoding="utf-8"))), encoding="utf-8"
    )
