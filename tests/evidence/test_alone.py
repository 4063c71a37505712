"""The verifier stands alone: without the code whose lineage it judges."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from lineages import export, trust_root

import sealift
from sealift.evidence import _calls, render_evidence
from sealift.ledger import ledger_metadata
from sealift.ledger._runtime import RefusingVerifier, compose
from sealift.testing import World

NEVER = {
    "enclave",
    "stf",
    "node",
    "ledger",
    "worker",
    "provisioning",
    "bundle",
    "insecure_sim",
    "transport",
    "client",
    "cli",
    "testing",
}
BELOW = {
    "attestation",
    "base",
    "crypto",
    "evidence",
    "frame",
    "protocol",
    "relay",
}
PROBE = """
import sys
import sealift.evidence
print(*sorted(name for name in sys.modules if name.startswith("sealift.")))
"""


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("sealift.")}


def test_its_import_closure_has_none_of_the_enclave_or_the_ledger() -> None:
    graph = grimp.build_graph("sealift", cache_dir=None)
    mine = {name for name in graph.modules if name.startswith("sealift.evidence")}
    reach = set(mine)
    for name in mine:
        reach |= graph.find_upstream_modules(name)
    assert rooms(reach) & NEVER == set()
    assert rooms(reach) == BELOW


def test_what_is_really_loaded_has_none_either() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "sealift.evidence._verify" in loaded
    assert rooms(loaded) & NEVER == set()


@pytest.mark.parametrize("name", sorted(_calls.CALLS))
def test_a_call_is_read_as_the_ledger_reads_it(name: str) -> None:
    """Same arguments, in the same order."""
    pallet, _, call = name.partition(".")
    specs = {one.name: one for one in ledger_metadata().pallet(pallet).calls}
    theirs = [one.name for one in specs[call].args]
    assert list(_calls.CALLS[name].__struct_fields__) == theirs


@pytest.mark.parametrize("name", sorted(_calls.EVENTS))
def test_an_event_is_read_as_the_ledger_writes_it(name: str) -> None:
    pallet, _, event = name.partition(".")
    pallets = {one.name: one for one in compose(RefusingVerifier()).runtime.pallets}
    theirs = next(one for one in pallets[pallet].events if one.__name__ == event)
    mine = _calls.EVENTS[name]
    assert mine.__name__ == event
    assert mine.__struct_fields__ == theirs.__struct_fields__


def test_a_file_is_verified_where_nothing_else_is_installed(
    upgraded: World, tmp_path: Path
) -> None:
    """Only the floors below evidence, files, and the command line's own frame."""
    source = Path(next(iter(sealift.__path__)))
    installed = tmp_path / "lib" / "sealift"
    installed.mkdir(parents=True)
    shutil.copy(source / "__init__.py", installed)
    for room in (*sorted(BELOW), "transport", "cli"):
        shutil.copytree(source / room, installed / room)
    file, root, anchor = (
        tmp_path / name for name in ("s.evidence", "root.json", "root.der")
    )
    file.write_bytes(render_evidence(export(upgraded)))
    anchor.write_bytes(upgraded.intel.root_der)
    trusted = trust_root(upgraded)
    shown = {
        "chain_id": trusted.chain_id,
        "height": trusted.height,
        "header_hash": trusted.header_hash.hex(),
    }
    root.write_text(json.dumps(shown))
    code = (
        "import sys; from sealift.cli import run_cli; sys.exit(run_cli(sys.argv[1:]))"
    )
    words = ["evidence", "verify", file, "--trust-root", root, "--root", anchor]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--trusting-days", "36500"],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(installed.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Every step holds.\n")
