"""Every error has one root, a name, a sentence, and a test that provokes it."""

import builtins
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import sealift
from sealift.base import SealiftError

TESTS = Path(__file__).parents[1]
#: Modules that run when they are imported.
RUNNING = ("__main__",)


def all_errors() -> list[type[Exception]]:
    found = set()
    for info in pkgutil.walk_packages(sealift.__path__, "sealift."):
        if info.name.split(".")[-1] in RUNNING or "._data" in info.name:
            continue
        module = importlib.import_module(info.name)
        for _, thing in inspect.getmembers(module, inspect.isclass):
            if issubclass(thing, BaseException) and thing.__module__ == info.name:
                found.add(thing)
    return sorted(found, key=lambda e: (e.__module__, e.__qualname__))


ERRORS = all_errors()
TEXT = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py"))
)


def name_of(error: type[Exception]) -> str:
    return f"{error.__module__.removeprefix('sealift.')}.{error.__name__}"


@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_error_is_ours_named_and_described(error: type[Exception]) -> None:
    assert issubclass(error, SealiftError)
    assert error.__name__.endswith("Error")
    own = error.__dict__.get("__doc__")
    assert own, "an error says in its own docstring what it means"
    assert error.code == error.__name__


SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted(Path(next(iter(sealift.__path__))).rglob("*.py"))
)


MADE = frozenset(re.findall(r"(?<!class )\b(\w+)\(", SOURCE))
#: ``raises(TheError``, or its name as text where it crosses a wire by name.
PROVOKED = frozenset(re.findall(r"raises\((\w+)", TEXT)) | frozenset(
    re.findall(r'"(\w+)(?=")', TEXT)
)


def is_root(error: type[Exception]) -> bool:
    """A family's name: it has subclasses and nobody makes one of its own."""
    return bool(error.__subclasses__()) and error.__name__ not in MADE


@pytest.mark.parametrize("error", [e for e in ERRORS if not is_root(e)], ids=name_of)
def test_error_is_provoked_somewhere(error: type[Exception]) -> None:
    assert error.__name__ in PROVOKED


def test_an_error_that_is_named_in_words_is_there() -> None:
    """Hosts know an enclave's refusals by their names alone."""
    known = {*re.findall(r"class (\w+Error)\b", SOURCE), *dir(builtins)}
    named = set(re.findall(r'"([A-Z]\w+Error)"', SOURCE))
    assert "NotServingError" in named
    assert named <= known, named - known
