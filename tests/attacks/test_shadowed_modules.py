"""An application whose modules have the names of the enclave wing's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sealift.bundle._boot import BOOT_SOURCE


@pytest.mark.parametrize("name", ["sealift", "msgspec"])
def test_an_application_does_not_stand_in_for_what_guards_it(
    tmp_path: Path, name: str
) -> None:
    """Whoever reviews ``sealift/`` and the wheels must have reviewed what runs."""
    honest = "." if name == "sealift" else "site"
    for place, says in ((honest, "honest"), ("app", "shadow")):
        package = tmp_path / place / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(
            f"def main(*_):\n    print({says!r})\n", encoding="utf-8"
        )
    (tmp_path / "boot.py").write_bytes(BOOT_SOURCE)
    manifest = {"enclave_entry": f"{name}:main"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-B", str(tmp_path / "boot.py")]
    done = subprocess.run(
        [*command, "0", "1", "0"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "honest"
