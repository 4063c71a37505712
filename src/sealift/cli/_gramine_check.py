"""What a review can say of a fingerprint under Gramine: recompute it, or that it can't.

Gramine measures itself, the interpreter and the libraries beside the bundle. Only
where the same ones are installed does the same bundle give the same fingerprint.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealift.base import Fingerprint, SealiftError
from sealift.bundle import Bundle
from sealift.crypto import rsa_generate
from sealift.transport.files import write_private_key
from sealift.transport.gramine import (
    ENCLAVE_NAME,
    gramine_fingerprint,
    write_gramine_folder,
)

_TOOLS: Final = ("gramine-manifest", "gramine-sgx-sign")
_SECONDS: Final = 900
# Part of the SIGSTRUCT, not of what is measured.
_DATE: Final = "2026-01-01"
_LAST_WORDS: Final = 300


class GramineToolError(SealiftError):
    """One of Gramine's tools did not do what it is for."""


def gramine_tools() -> bool:
    """Whether Gramine's tools are on PATH."""
    return all(shutil.which(one) for one in _TOOLS)


def recompute_fingerprint(bundle: Bundle) -> Fingerprint:
    """What Gramine, as it is installed here, measures of a bundle.

    Signed by a key made for it and thrown away: the signer is not measured.

    Raises:
        GramineToolError: A tool failed, by its last words.
        SigstructError, GramineTargetError: The bundle is not one for Gramine.
    """
    with tempfile.TemporaryDirectory(prefix="sealift-review-") as scratch:
        folder = Path(scratch, "gramine")
        template = write_gramine_folder(bundle, folder)
        key = Path(scratch, "throwaway.pem")
        write_private_key(key, rsa_generate())
        manifest = f"{ENCLAVE_NAME}.manifest"
        _run(["gramine-manifest", template.name, manifest], folder)
        _run(
            [
                "gramine-sgx-sign", "--manifest", manifest,
                "--output", f"{manifest}.sgx", "--key", str(key), "--date", _DATE,
            ],
            folder,
        )  # fmt: skip
        return gramine_fingerprint(folder)


def gramine_row(
    bundle: Bundle, wanted: Fingerprint, *, trusted: bool
) -> tuple[bool, str]:
    """Whether an order's fingerprint under Gramine is this bundle's, and in words.

    What was not recomputed does not pass unless the reviewer says that it is
    believed.

    Args:
        bundle: Under review.
        wanted: What the order says.
        trusted: Whether somebody else's word for it is enough.
    """
    if not gramine_tools():
        words = (
            f"NOT recomputed: {' and '.join(_TOOLS)} are not on this machine, so that "
            f"nothing here says whether {wanted.hex()} is this bundle. Review it where "
            "Gramine is as in deploy/gramine"
        )
        if trusted:
            return True, f"{words}; believed, as --unchecked says"
        return False, f"{words}, or take it on trust: --unchecked gramine-sgx"
    try:
        found = recompute_fingerprint(bundle)
    except SealiftError as error:
        return False, f"cannot be recomputed: {error}"
    if found == wanted:
        return True, f"recomputed: {found.hex()}"
    return False, (
        f"is {found.hex()} by the Gramine, interpreter and libraries of this machine, "
        f"the order's {wanted.hex()}: another bundle, or other versions of those"
    )


def _run(words: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GramineToolError(f"{words[0]} cannot be run ({error})") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-_LAST_WORDS:]
        raise GramineToolError(
            f"{words[0]} failed", got=f"exit code {done.returncode}: {said}"
        )
