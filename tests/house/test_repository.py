"""What is committed says nothing of machines and registries, and links resolve."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Written in pieces, so that this file is not its own finding.
HOMES = ["/" + "home/", "/" + "root/", "/" + "Users/", "/" + "work/", "C:" + "\\Users"]
REGISTRIES = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "crates" + ".io",
    "proxy.golang" + ".org",
    "--index" + "-url",
    "--extra-index" + "-url",
    "--find" + "-links",
]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def tracked() -> list[Path]:
    """Committed files; there are none to look at outside of a repository (an sdist)."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("CI"):
            raise
        pytest.skip("not a repository")
    names = done.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8000]:
            found.append((path, data.decode("utf-8", "replace")))
    return found


def lines_with(needles: list[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {needle}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for needle in needles
        if needle in line
    ]


def test_no_folder_of_anybodys_machine() -> None:
    assert lines_with(HOMES) == []


def test_no_address_of_a_registry() -> None:
    assert lines_with(REGISTRIES) == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_a_lock_has_hashes_and_no_hosts(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    pins = [line for line in text.splitlines() if line and line[0] not in "# \t"]
    assert pins
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins)
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._\[\]-]+==[^\s;]+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_no_lock_with_download_addresses() -> None:
    names = {path.name for path in tracked()}
    assert not names & {"uv.lock", "package-lock.json", "poetry.lock", "yarn.lock"}


def pages() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found += (ROOT / "examples").rglob("*.md")
    found += (ROOT / "deploy").rglob("*.md")
    return sorted(found)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    found = set()
    for line in FENCE.sub("", text).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip().lower().replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(FENCE.sub("", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), f"{target} leaves the repository"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), target
