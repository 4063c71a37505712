"""``sealift evidence verify``: its words, its exit code, and step 7."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lineages import export, replace, trust_root, without

from sealift.cli import _application, run_cli
from sealift.client import make_card, write_card
from sealift.evidence import render_evidence
from sealift.testing import World

Said = tuple[int, str, str]
Sealift = Callable[..., Said]


@pytest.fixture
def sealift(capsys: pytest.CaptureFixture[str]) -> Sealift:
    def call(*words: object) -> Said:
        capsys.readouterr()
        code = run_cli([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, upgraded: World) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "s.evidence").write_bytes(render_evidence(export(upgraded)))
    (folder / "root.der").write_bytes(upgraded.intel.root_der)
    root = trust_root(upgraded)
    shown = {
        "chain_id": root.chain_id,
        "height": root.height,
        "header_hash": root.header_hash.hex(),
    }
    (folder / "trust_root.json").write_text(json.dumps(shown))
    return folder


def words(folder: Path, *more: object, file: str = "s.evidence") -> list[object]:
    """The world's clock stands in 2023: its validators are trusted for long."""
    trusted = ("--trust-root", folder / "trust_root.json", "--root")
    return [
        *("evidence", "verify", folder / file, *trusted, folder / "root.der"),
        *("--trusting-days", 36_500, *more),
    ]


def test_it_is_told_in_words_and_ends_with_a_verdict(
    folder: Path, sealift: Sealift
) -> None:
    code, out, err = sealift(*words(folder))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "Every step holds."
    assert any(
        line.startswith("Generation 1 (MRENCLAVE insecure-sim") for line in lines
    )


def test_programs_get_json(folder: Path, sealift: Sealift, upgraded: World) -> None:
    code, out, _ = sealift(*words(folder, "--json"))
    answer: Any = json.loads(out)
    assert code == 0
    assert answer["verdict"] == "accept"
    assert answer["running"] == 1
    assert answer["shard"] == upgraded.shard.hex()
    assert answer["speaks_to"] == upgraded.height - 1
    assert [one["generation"] for one in answer["generations"]] == [0, 1]


def test_a_refusal_names_the_step_and_what_was_got(
    folder: Path, sealift: Sealift, upgraded: World
) -> None:
    gap = without(export(upgraded), lambda _, call: call == "enclave_bridge.confirm")
    (folder / "gap.evidence").write_bytes(render_evidence(gap))
    code, out, err = sealift(*words(folder, "--json", file="gap.evidence"))
    assert code == 1
    assert "step 6" in err
    assert json.loads(out)["error"]["code"] == "RootChainError"
    (folder / "no.evidence").write_bytes(b"garbage")
    code, _, err = sealift(*words(folder, file="no.evidence"))
    assert (code, "not a file of evidence" in err) == (1, True)


def test_an_old_file_is_refused_when_asked(
    folder: Path, sealift: Sealift, upgraded: World
) -> None:
    assert sealift(*words(folder, "--at-least", upgraded.height - 1))[0] == 0
    code, _, err = sealift(*words(folder, "--at-least", upgraded.height))
    assert (code, "ends before" in err) == (1, True)
    code, _, err = sealift(*words(folder, "--max-age", 3600))
    assert (code, "too old" in err) == (1, True)


def test_trust_ends_by_itself(folder: Path, sealift: Sealift) -> None:
    code, _, err = sealift(*words(folder, "--trusting-days", 180))
    assert (code, "what is trusted is too old" in err) == (1, True)


def test_another_shard_than_was_meant(folder: Path, sealift: Sealift) -> None:
    code, out, err = sealift(*words(folder, "--shard", "00" * 32, "--json"))
    assert (code, "evidence of another shard" in err) == (1, True)
    assert json.loads(out)["error"]["code"] == "LineageForeignError"


def test_what_was_trusted_once_is_followed(
    folder: Path, sealift: Sealift, upgraded: World
) -> None:
    pinned = ("--pinned-code", upgraded.releases[0].fingerprint.hex())
    code, out, _ = sealift(*words(folder, *pinned))
    assert (code, "leads to generation 1, epoch 0" in out) == (0, True)
    assert sealift(*words(folder, "--pinned-key", "00" * 32))[0] == 1


def test_a_card_says_what_is_trusted(
    folder: Path, sealift: Sealift, upgraded: World
) -> None:
    release = upgraded.releases[0]
    card = make_card(
        shard=upgraded.shard,
        trust_root=trust_root(upgraded),
        l1=("http://127.0.0.1:1",),
        workers=(),
        anchors=(),
        metadata=release.runtime.metadata(),
    )
    write_card(folder / "card.json", card)
    given = ("--card", folder / "card.json", "--root", folder / "root.der")
    line = ["evidence", "verify", folder / "s.evidence", *given]
    assert sealift(*line, "--trusting-days", 36_500)[0] == 0
    assert sealift("evidence", "verify", folder / "s.evidence")[0] == 2


def test_a_generation_is_what_its_source_builds_to(
    folder: Path,
    sealift: Sealift,
    upgraded: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Step 7; what building means is tested where bundles are built."""
    built = upgraded.releases[1].fingerprint
    monkeypatch.setattr(_application, "fingerprint_of_source", lambda *_: built)
    code, out, _ = sealift(*words(folder, "--source", folder))
    assert (code, "Generation 1 runs what this source builds to" in out) == (0, True)
    code, _, err = sealift(*words(folder, "--source", folder, "--generation", 0))
    assert (code, "step 7" in err) == (1, True)
    code, _, err = sealift(*words(folder, "--source", folder, "--generation", 9))
    assert (code, "no such generation" in err) == (1, True)
    code, out, _ = sealift(
        *words(folder, "--source", folder, "--generation", 0, "--json")
    )
    assert json.loads(out)["error"]["code"] == "SourceMismatchError"


def test_a_refusal_of_a_hostile_file_cannot_draw_on_a_terminal(
    folder: Path, sealift: Sealift, upgraded: World
) -> None:
    hostile = replace(export(upgraded), chain_id="x\x1b[2J")
    (folder / "hostile.evidence").write_bytes(render_evidence(hostile))
    code, out, err = sealift(*words(folder, file="hostile.evidence"))
    assert (code, out) == (1, "")
    assert "another chain" in err
    assert err.strip().isprintable()
