"""Rooms stay small, doors have lists, and danger is spelled in names."""

import ast
import importlib
from pathlib import Path

import pytest

import sealift

SRC = Path(next(iter(sealift.__path__)))
MODULES = [p for p in sorted(SRC.rglob("*.py")) if "_data" not in p.parts]
PACKAGES = [p for p in MODULES if p.name == "__init__.py" and p.parent != SRC]
TREES = {p: ast.parse(p.read_text(encoding="utf-8")) for p in MODULES}


def short(path: Path) -> str:
    return str(path.relative_to(SRC))


@pytest.mark.parametrize("module", MODULES, ids=short)
def test_module_is_short_and_says_what_it_is(module: Path) -> None:
    assert module.read_text(encoding="utf-8").count("\n") <= 600
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", MODULES, ids=short)
def test_no_assert_print_or_blind_except(module: Path) -> None:
    """``python -O`` removes asserts; prints are the CLI's; blind means Exception."""
    for node in ast.walk(TREES[module]):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"print in line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            names = (
                {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                if (node.type)
                else {"everything"}
            )
            blind = names & {"everything", "Exception", "BaseException"}
            goes_on = not isinstance(node.body[-1], ast.Raise)
            line = module.read_text(encoding="utf-8").splitlines()[node.lineno - 1]
            excused = "noqa: BLE001 - " in line  # with a reason, after the dash
            assert not (blind and goes_on and not excused), (
                f"blind except in line {node.lineno}"
            )


@pytest.mark.parametrize("package", PACKAGES, ids=short)
def test_a_packages_list_is_sorted_and_true(package: Path) -> None:
    name = ".".join(package.parent.relative_to(SRC.parent).parts)
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    if public is None:
        return  # nothing is exported
    assert len(public) == len(set(public))
    for each in public:
        assert hasattr(module, each), f"{name}.{each} does not exist"
    upper = [n for n in public if n.isupper()]
    camel = [n for n in public if not n.isupper() and n[0].isupper()]
    lower = [n for n in public if n[0].islower() or n[0] == "_"]
    assert list(public) == sorted(upper) + sorted(camel) + sorted(lower)


@pytest.mark.parametrize("module", MODULES, ids=short)
def test_no_room_reads_another_rooms_private_module(module: Path) -> None:
    """``from sealift.x._y import z`` only inside ``sealift.x``."""
    own = module.relative_to(SRC).parts
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        parts = node.module.split(".")
        if parts[0] != "sealift" or len(parts) < 3:
            continue
        private = [p for p in parts[2:] if p.startswith("_") and p != "_data"]
        assert not private or parts[1] == own[0], f"line {node.lineno}: {node.module}"


def test_danger_is_in_the_name() -> None:
    """Everything simulated says insecure where it is chosen."""
    assert not (SRC / "sim").exists()
    assert (SRC / "insecure_sim").is_dir()
