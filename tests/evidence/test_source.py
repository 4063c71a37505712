"""Step 7 with real builds: the schedule names what a source on this disk builds to."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from lineages import export, trust_root

from sealift.bundle import parse_bundle, verify_bundle
from sealift.cli import run_cli
from sealift.evidence import render_evidence
from sealift.frame import Runtime
from sealift.testing import Release, World
from sealift.testing._release import vendor_key
from sealift.transport import build as build_module

EXAMPLE = Path(__file__).parents[2] / "examples" / "auction"


@dataclass(frozen=True)
class Said:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """Sources, and the evidence of a shard that ran what they build to."""

    folder: Path
    world: World
    trusted: tuple[object, ...]

    def copy(self, name: str, to: Path) -> Path:
        shutil.copytree(self.folder / name, to)
        return to


@pytest.fixture
def sealift(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: object) -> Said:
        capsys.readouterr()
        code = run_cli([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    new_world: Callable[..., World],
    v1: Runtime,
    v2: Runtime,
) -> Place:
    """Both versions built by ``sealift build``, run, and handed over."""
    folder = tmp_path_factory.mktemp("source")
    world = new_world()
    root = trust_root(world)
    shown = {
        "chain_id": root.chain_id,
        "height": root.height,
        "header_hash": root.header_hash.hex(),
    }
    (folder / "trust_root.json").write_text(json.dumps(shown))
    (folder / "root.der").write_bytes(world.intel.root_der)
    (folder / "vendor.pem").write_bytes(vendor_key())
    (folder / "vendor.pem").chmod(0o600)
    trusted = (
        *("--trust-root", folder / "trust_root.json"),
        *("--root", folder / "root.der"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "fetch_wheels", lambda *_: {})
        for name, runtime in (("v1", v1), ("v2", v2)):
            shutil.copytree(EXAMPLE / name, folder / name)
            out = folder / f"{name}.bundle"
            words = ["build", folder / name, *trusted, "-o", out]
            words += ["--key", folder / "vendor.pem", "--date", "2026-11-23"]
            assert run_cli([str(word) for word in words]) == 0
            bundle = verify_bundle(parse_bundle(out.read_bytes()))
            world.releases.append(Release(runtime=runtime, bundle=bundle))
    old = world.begin(world.releases[0])
    world.blocks(3)
    entry = world.schedule(world.releases[1])
    world.run_until(entry.release_from)
    new = world.worker("new", world.releases[1], upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at + 4)
    (folder / "shard.evidence").write_bytes(render_evidence(export(world)))
    verify = ("evidence", "verify", folder / "shard.evidence", *trusted)
    return Place(folder, world, (*verify, "--trusting-days", 36_500))


@pytest.fixture(autouse=True)
def _without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the bundles of this place were built: no network is asked."""
    monkeypatch.setattr(build_module, "fetch_wheels", lambda *_: {})


def test_the_source_of_each_generation_agrees(
    place: Place, sealift: Callable[..., Said]
) -> None:
    """The running one is compared unless another is named; in any folder."""
    for name, number, more in (("v2", 1, ()), ("v1", 0, ("--generation", 0))):
        said = sealift(*place.trusted, "--source", place.folder / name, *more)
        code = place.world.releases[number].fingerprint.hex()
        assert (said.code, said.err) == (0, "")
        line = f"Generation {number} runs what this source builds to: {code}."
        assert said.out.splitlines()[-2:] == [line, "Every step holds."]


def test_it_agrees_wherever_the_source_lies(
    place: Place, sealift: Callable[..., Said], tmp_path: Path
) -> None:
    copy = place.copy("v2", tmp_path / "elsewhere")
    (copy / "app" / "auction" / "__pycache__").mkdir(exist_ok=True)
    (copy / "app" / "auction" / "__pycache__" / "x.pyc").write_bytes(b"stray")
    assert sealift(*place.trusted, "--source", copy).code == 0


def test_one_byte_of_the_source_changed(
    place: Place, sealift: Callable[..., Said], tmp_path: Path
) -> None:
    copy = place.copy("v2", tmp_path / "changed")
    pallet = copy / "app" / "auction" / "pallet.py"
    text = pallet.read_bytes()
    at = text.index(b" ", text.index(b'"""'))  # in a word of a docstring
    pallet.write_bytes(text[:at] + b"_" + text[at + 1 :])
    said = sealift(*place.trusted, "--source", copy)
    ran = place.world.releases[1].fingerprint.hex()
    assert said.code == 1
    assert "Every step holds" not in said.out
    assert "step 7: generation 1 does not run what the source builds to" in said.err
    assert f"got {ran}" in said.err
    built = said.err.partition("expected ")[2][:64]
    assert len(bytes.fromhex(built)) == 32
    assert built not in (ran, place.world.releases[0].fingerprint.hex())


def test_the_source_of_another_generation(
    place: Place, sealift: Callable[..., Said]
) -> None:
    said = sealift(*place.trusted, "--source", place.folder / "v1", "--json")
    first, second = (one.fingerprint.hex() for one in place.world.releases)
    assert said.code == 1
    error = json.loads(said.out)["error"]
    assert error["code"] == "SourceMismatchError"
    assert "generation 1" in said.err
    assert f"got {second}" in said.err
    assert f"expected {first}" in said.err


def test_another_version_in_its_manifest_is_another_code(
    place: Place, sealift: Callable[..., Said], tmp_path: Path
) -> None:
    """What the application says of itself is measured as its sources are."""
    release = place.world.releases[1]
    changed = tmp_path / "toml"
    shutil.copytree(place.folder / "v2", changed)
    toml = changed / "sealift.toml"
    toml.write_text(toml.read_text().replace("isv_svn = ", "isv_svn = 1"))
    said = sealift(*place.trusted, "--source", changed)
    assert said.code == 1
    assert f"got {release.fingerprint.hex()}" in said.err


@pytest.mark.parametrize("what", ["missing", "empty", "file", "no app", "broken"])
def test_a_source_that_is_none(
    place: Place, sealift: Callable[..., Said], tmp_path: Path, what: str
) -> None:
    """Refused in a sentence, with what was verified left unsaid."""
    source = tmp_path / "source"
    if what == "empty":
        source.mkdir()
    elif what == "file":
        source.write_bytes(b"x")
    elif what == "no app":
        source.mkdir()
        shutil.copy(EXAMPLE / "v2" / "sealift.toml", source)
    elif what == "broken":
        place.copy("v2", source)
        (source / "app" / "auction" / "runtime.py").write_text("import nonsense\n")
    said = sealift(*place.trusted, "--source", source)
    assert said.code in {1, 4}
    assert said.err.startswith("sealift: ") or "Error" in said.err
    assert "Traceback" not in said.err
    assert str(source) in said.err
    assert "Every step holds" not in said.out
