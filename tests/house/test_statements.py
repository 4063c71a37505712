"""Every signed or quoted statement stands in the table, and nothing else does."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import sealift
from sealift.protocol import Statement

PAGE = Path(__file__).parents[2] / "docs" / "spec" / "statements.md"
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


def all_statements() -> dict[str, type[Statement]]:
    for info in pkgutil.walk_packages(sealift.__path__, "sealift."):
        if not info.name.endswith("__main__") and "._data" not in info.name:
            importlib.import_module(info.name)
    found: dict[str, type[Statement]] = {}
    pending = list(Statement.__subclasses__())
    while pending:
        kind = pending.pop()
        if kind.__module__.startswith("sealift."):
            found[kind.__name__] = kind
        pending += kind.__subclasses__()
    return found


STATEMENTS = all_statements()
ROWS = {name: rest for name, *rest in ROW.findall(PAGE.read_text(encoding="utf-8"))}


def test_the_table_and_the_code_name_the_same_statements() -> None:
    assert sorted(ROWS) == sorted(STATEMENTS)


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_statement_stands_with_its_domain(name: str) -> None:
    domain, signer, binds, guard = ROWS[name]
    assert domain == STATEMENTS[name].DOMAIN
    assert signer.strip()
    assert binds.strip()
    assert guard.strip()


def test_domains_are_unique_ascii_and_versioned() -> None:
    domains = [kind.DOMAIN for kind in STATEMENTS.values()]
    assert len(set(domains)) == len(domains)
    for domain in domains:
        assert re.fullmatch(r"sealift/[a-z0-9/-]+/v[0-9]+", domain), domain


def test_every_domain_in_the_sources_is_named_on_the_page() -> None:
    """Also those that are only derived from: nothing is hashed under a hidden one."""
    page = PAGE.read_text(encoding="utf-8")
    versioned = re.compile(r'"(sealift/[A-Za-z0-9/-]+/v\d+)')
    sources = Path(next(iter(sealift.__path__))).rglob("*.py")
    used = {
        domain
        for path in sources
        for domain in versioned.findall(path.read_text(encoding="utf-8"))
    }
    assert sorted(domain for domain in used if domain not in page) == []
