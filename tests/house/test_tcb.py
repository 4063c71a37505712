"""The trusted computing base is a list, and the list is in the repository.

It grows only by a reviewed change of ``tcb.lock``, which is written anew by
``SEALIFT_WRITE_TCB_LOCK=1 pytest tests/house/test_tcb.py``.
"""

import functools
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp

ENTRY = "sealift.enclave.main"
LOCK = Path(__file__).with_name("tcb.lock")
#: Nothing of these is ever loaded inside an enclave.
HOST = {"transport", "insecure_sim", "node", "worker", "client", "web", "cli"}
WORKSHOP = {"testing"}
AMBIENT = {"asyncio", "sqlite3", "aiohttp", "click", "rich", "multiprocessing"}
PROBE = f"""
import sys
before = set(sys.modules)  # what the interpreter and site bring themselves
import {ENTRY}
print(*sorted(set(sys.modules) - before))
print(*sorted(
    name for name in set(sys.modules) - before
    if getattr(sys.modules[name], "__file__", None)
))
"""


def static_closure() -> set[str]:
    """Everything the enclave's entry point can reach by an import statement."""
    graph = grimp.build_graph("sealift", include_external_packages=True, cache_dir=None)
    reach = graph.find_upstream_modules(ENTRY) | {ENTRY}
    # Importing a module runs the __init__ of every package above it.
    parents = {
        ".".join(name.split(".")[:depth])
        for name in reach
        for depth in range(1, name.count(".") + 1)
    }
    for parent in sorted(parents - reach):
        if parent in graph.modules:
            reach |= graph.find_upstream_modules(parent) | {parent}
    return reach


@functools.cache
def loaded(*, from_files: bool = False) -> set[str]:
    """What a fresh interpreter has loaded when the entry point is imported.

    ``from_files`` leaves out what another module's binary made in memory.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE], check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[from_files].split())


def test_tcb_is_the_list_we_agreed() -> None:
    names = sorted(static_closure())
    if os.environ.get("SEALIFT_WRITE_TCB_LOCK"):
        LOCK.write_text("\n".join(names) + "\n", encoding="utf-8")
    agreed = LOCK.read_text(encoding="utf-8").split()
    assert sorted(set(names) - set(agreed)) == [], "grown without review"
    assert sorted(set(agreed) - set(names)) == [], "shrunk: write the lock anew"
    assert names == agreed


def test_what_is_really_loaded_is_on_the_list() -> None:
    """Static graphs miss what is imported dynamically."""
    ours = {name for name in loaded() if name.split(".")[0] == "sealift"}
    agreed = set(LOCK.read_text(encoding="utf-8").split())
    assert ENTRY in ours
    assert sorted(ours - agreed) == []


def test_nothing_of_the_host_wing_is_loaded() -> None:
    names = loaded()
    rooms = {name.split(".")[1] for name in names if name.startswith("sealift.")}
    assert rooms & (HOST | WORKSHOP) == set()
    assert names & AMBIENT == set()


def test_third_parties_are_those_of_the_enclaves_lock() -> None:
    """Every top-level package that is loaded is stdlib, ours, or locked."""
    requirements = LOCK.parents[2] / "requirements" / "enclave.txt"
    locked = {
        line.split("==")[0].lower().replace("-", "_").replace(".", "_")
        for line in requirements.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.lstrip().startswith("#")
    }
    owners = packages_distributions()
    for top in {name.split(".")[0] for name in loaded(from_files=True)}:
        if top in sys.stdlib_module_names or top == "sealift":
            continue
        named = {each.lower().replace("-", "_") for each in owners.get(top, [])}
        assert named & locked, f"{top} of {named or 'nowhere'} is not locked"
