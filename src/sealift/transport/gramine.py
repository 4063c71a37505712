"""Folders that Gramine starts: a bundle unpacked, and a manifest that trusts it.

``gramine-manifest`` and ``gramine-sgx-sign`` do the rest, where Gramine is installed;
``docs/real-hardware.md`` has the steps.
"""

import importlib.resources
import json
import re
from pathlib import Path
from typing import Final

from sealift.base import Fingerprint, SealiftError
from sealift.bundle import (
    Bundle,
    VerifiedSigstruct,
    unpack_plan,
    verify_bundle,
    verify_sigstruct,
)
from sealift.crypto import sha256

from .bundle_folder import install_bundle_at
from .files import make_folder, read_or_explain, write_durably

#: Name of manifest and signature, without their ends.
ENCLAVE_NAME: Final = "sealift"
#: The unpacked bundle inside a Gramine folder; the manifest mounts it.
BUNDLE_FOLDER: Final = "bundle"

_TEMPLATE: Final = "sealift.manifest.template"
_DRIVER: Final = "sealift/enclave/_gramine.py"
_TARGET: Final = re.compile(r"cp3([0-9]{1,2})-manylinux_x86_64")


class GramineTargetError(SealiftError):
    """A bundle for a target that the manifest has no interpreter for."""


class GramineFolderError(SealiftError):
    """A folder that Gramine cannot start a worker's bundle from."""


def gramine_template() -> str:
    """The manifest template that this release ships.

    Raises:
        GramineFolderError: Neither an installed wheel nor a checkout has it.
    """
    root = importlib.resources.files("sealift")
    packaged = root / "_data" / "gramine" / _TEMPLATE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    checkout = Path(str(root)).parent.parent / "deploy" / "gramine" / _TEMPLATE
    if checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    raise GramineFolderError("the manifest template is missing", got=str(checkout))


def render_manifest(bundle: Bundle) -> str:
    """The template for ``gramine-manifest``, with this bundle's files and versions.

    Every file of the unpacked bundle is trusted by its SHA-256, and no other file is
    added. The same bundle gives the same text.

    Raises:
        GramineTargetError: Gramine runs on x86-64 with glibc only, and only bundles
            that have its driver.
        WheelError: A wheel cannot be unpacked.
    """
    manifest = bundle.manifest
    found = _TARGET.fullmatch(manifest.target)
    if found is None:
        raise GramineTargetError(
            "the bundle is for a target that Gramine does not run",
            got=manifest.target,
            expected="cp3…-manylinux_x86_64",
        )
    if _DRIVER not in bundle.files:
        raise GramineTargetError(
            "the bundle is of a release that cannot run under Gramine",
            got=f"no {_DRIVER} in it",
            hint="Build it anew with this release.",
        )
    files = "\n".join(
        f'  {{ uri = {_quoted(path)}, sha256 = "{sha256(content).hex()}" }},'
        for path, content in unpack_plan(bundle).items()
    )
    words = {
        "PYTHON": f"3.{found.group(1)}",
        "ISVPRODID": str(manifest.isv_prod_id),
        "ISVSVN": str(manifest.isv_svn),
        "NAME": f"{manifest.name} {manifest.version}",
        "TRUSTED_FILES": files,
    }
    return re.sub(r"@([A-Z_]+)@", lambda word: words[word.group(1)], gramine_template())


def _quoted(path: str) -> str:
    """A bundled file's URI as a TOML string; names are the application's choice.

    Neither TOML nor Gramine's Jinja reads anything in it.
    """
    escaped = json.dumps(f"file:{BUNDLE_FOLDER}/{path}", ensure_ascii=False)
    for char in "{}%#\x7f":
        escaped = escaped.replace(char, f"\\u{ord(char):04x}")
    return escaped


def write_gramine_folder(bundle: Bundle, folder: Path) -> Path:
    """Unpack a signed bundle into a folder, beside its manifest template.

    A folder that has the bundle already is verified and keeps what Gramine wrote.

    Returns:
        The template, for ``gramine-manifest``.

    Raises:
        SigstructError: The bundle is not signed for its content.
        FolderDiffersError, BundleFolderError: What is there is another bundle.
        GramineTargetError, WheelError: As :func:`render_manifest`.
        FileError: It cannot be written.
    """
    verify_bundle(bundle)
    text = render_manifest(bundle)
    make_folder(folder)
    install_bundle_at(bundle, folder / BUNDLE_FOLDER)
    template = folder / _TEMPLATE
    write_durably(template, text.encode())
    return template


def read_gramine_sigstruct(folder: Path) -> VerifiedSigstruct:
    """What ``gramine-sgx-sign`` signed: the fingerprint under Gramine.

    Raises:
        GramineFolderError: There is no signature, or it does not hold.
    """
    path = folder / f"{ENCLAVE_NAME}.sig"
    try:
        return verify_sigstruct(read_or_explain(path, what="Gramine's signature"))
    except SealiftError as error:
        raise GramineFolderError(
            f"{path} is no signature of an enclave ({error})",
            hint="Run gramine-sgx-sign there; docs/real-hardware.md has the steps.",
        ) from error


def gramine_fingerprint(folder: Path) -> Fingerprint:
    """MRENCLAVE under Gramine, of a signed folder.

    Raises:
        GramineFolderError: It is not signed.
    """
    return read_gramine_sigstruct(folder).mrenclave
