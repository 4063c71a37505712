"""Files of evidence that were written once: every later verifier reads them.

Red here means that a file which somebody keeps is no longer accepted, or is told
otherwise. The file is right; see ``docs/protocols/evidence.md``, "Specimens".
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import specimen
from lineages import call_of
from specimen import OPTIONS, ROOT, SPECIMENS, SpecimenError, command, main, make, told

from sealift.cli import run_cli
from sealift.evidence import EVIDENCE_CALLS, parse_evidence, render_evidence
from sealift.frame import Runtime

NAMES = sorted(path.name for path in SPECIMENS.iterdir())
PAGE = ROOT / "docs" / "protocols" / "evidence.md"
CONSOLE = re.compile(r"```console\n\$ (sealift evidence verify .*?)```", re.DOTALL)
MOST = 500 * 1024


@pytest.fixture
def sealift(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(words: list[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_cli(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_there_is_one_of_each_kind_of_history() -> None:
    """A version keeps its specimens: one that is gone is missed."""
    assert {"v1-enclaves", "v1-holders"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_specimen_is_verified_and_told_in_its_words(
    name: str, sealift: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = sealift(command(SPECIMENS / name))
    assert (code, err) == (0, "")
    assert out == (SPECIMENS / name / "words.txt").read_text(encoding="utf-8")
    assert out.endswith("Every step holds.\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_specimen_is_its_one_encoding_and_small(name: str) -> None:
    data = (SPECIMENS / name / "shard.evidence").read_bytes()
    assert len(data) < MOST
    file = parse_evidence(data)
    assert render_evidence(file) == data
    assert f"v{file.version}" == name.partition("-")[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_specimen_under_another_trust_is_refused(
    name: str, sealift: Callable[..., tuple[int, str, str]]
) -> None:
    """Each comes with its own; another one's root is none of its quotes'."""
    other = next(one for one in NAMES if one != name)
    words = command(SPECIMENS / name)
    foreign = [word.replace(f"{name}/root.", f"{other}/root.") for word in words]
    code, out, err = sealift(foreign)
    assert (code, out, "step 4" in err) == (1, "", True)
    foreign = [word.replace(f"{name}/trust_", f"{other}/trust_") for word in words]
    code, out, err = sealift(foreign)
    assert (code, out, "step 1" in err) == (1, "", True)


def test_together_they_have_every_kind_of_transaction_but_roots_own() -> None:
    """What no specimen has, no specimen keeps readable."""
    had = set()
    for name in NAMES:
        file = parse_evidence((SPECIMENS / name / "shard.evidence").read_bytes())
        had |= {call_of(tx.tx) for block in file.blocks for tx in block.txs}
    assert EVIDENCE_CALLS - had == {"teerex.unregister_enclave", "sudo.sudo"}


def test_the_page_shows_the_command_and_what_it_says(
    sealift: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reader has it: from the checkout's folder."""
    monkeypatch.chdir(ROOT)
    (block,) = CONSOLE.findall(PAGE.read_text(encoding="utf-8"))
    said, _, shown = block.replace("\\\n", " ").partition("\n")
    words = shlex.split(said)[1:]
    code, out, err = sealift(words)
    assert (code, err) == (0, "")
    assert out == shown
    assert words == command(Path("tests/evidence/specimens/v1-enclaves"))


@pytest.mark.parametrize("name", sorted(specimen.HISTORIES))
def test_the_generator_makes_the_same_bytes_each_time(
    name: str, v1: Runtime, tmp_path: Path
) -> None:
    """Those of today's code; the committed ones are of the code of their day."""
    first = make(name, v1)
    assert make(name, v1) == first
    for file, data in first.items():
        (tmp_path / file).write_bytes(data)
    assert told(tmp_path).endswith("Every step holds.\n")


def test_the_generator_is_a_program_and_writes_nothing_twice(tmp_path: Path) -> None:
    script = Path(specimen.__file__)
    done = subprocess.run(
        [sys.executable, script, "v1-holders", tmp_path],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "v1-holders"
    assert sorted(path.name for path in made.iterdir()) == [
        "root.der",
        "shard.evidence",
        "trust_root.json",
        "words.txt",
    ]
    before = {path: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(SpecimenError, match="it stays as it is"):
        main(["v1-holders", str(tmp_path)])
    with pytest.raises(SpecimenError):
        main(["v9-unknown", str(tmp_path)])
    (made / "words.txt").write_text("older words")
    main(["v1-holders", str(tmp_path), "--words"])
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    assert OPTIONS[0] in command(made)
