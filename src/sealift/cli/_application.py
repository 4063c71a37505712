"""From an application's folder to a bundle: what ``sealift build`` does.

An application's folder holds ``sealift.toml`` (name, version, isv_prod_id,
isv_svn, runtime) and ``app/``, whose modules are measured.
"""

import datetime as dt
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import Fingerprint
from sealift.bundle import (
    AttestationRoot,
    Bundle,
    L1TrustRoot,
    Manifest,
    attach_sigstruct,
    make_tbs,
    measure,
    sign_sigstruct,
)
from sealift.crypto import sha256
from sealift.protocol.ecall import ECALL_VERSIONS
from sealift.relay import TrustRoot
from sealift.transport.build import (
    BuildInputs,
    build_bundle,
    enclave_lock,
    running_target,
    user_wheel_cache,
)

from ._app_ask import ApplicationError, ask_application

APPLICATION_FILE = "sealift.toml"


class ApplicationFile(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """``sealift.toml`` of an application."""

    name: str
    version: str
    isv_prod_id: int
    isv_svn: int
    runtime: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a bundle is told to believe: measured into it."""

    l1: TrustRoot
    roots: tuple[TrustAnchor, ...]


def read_application(folder: Path) -> ApplicationFile:
    """What an application says about itself.

    Raises:
        ApplicationError: No such file, or a wrong or unknown name in it.
    """
    path = folder / APPLICATION_FILE
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), ApplicationFile)
    except OSError as error:
        raise ApplicationError(
            f"{path} cannot be read ({error.strerror})",
            expected="a folder with sealift.toml and app/",
        ) from error
    except (ValueError, msgspec.ValidationError) as error:
        raise ApplicationError(f"{path} is wrong ({error})") from error


def application_metadata(folder: Path, runtime: str) -> bytes:
    """The metadata of an application's runtime, asked in a process of its own.

    Raises:
        ApplicationError: It cannot be imported; with the file and the line.
    """
    return bytes.fromhex(ask_application(folder, runtime).metadata)


def build_application(folder: Path, trust: Trust) -> Bundle:
    """An unsigned bundle of an application, for this interpreter.

    Raises:
        ApplicationError, BuildError, WheelFetchError: Why there is none.
    """
    application = read_application(folder)
    metadata = application_metadata(folder, application.runtime)
    manifest = Manifest(
        name=application.name,
        version=application.version,
        isv_prod_id=application.isv_prod_id,
        isv_svn=application.isv_svn,
        target=running_target(),
        entry=application.runtime,
        l1=L1TrustRoot(
            chain_id=trust.l1.chain_id,
            height=trust.l1.height,
            header_hash=trust.l1.header_hash.hex(),
        ),
        attestation_roots=tuple(
            AttestationRoot(kind=root.kind, der=root.root_der.hex())
            for root in trust.roots
        ),
        ecall_versions=ECALL_VERSIONS,
        metadata=sha256(metadata).hex(),
    )
    return build_bundle(
        manifest,
        BuildInputs(
            application=folder / "app",
            lock=enclave_lock(),
            wheel_cache=user_wheel_cache(),
            metadata=metadata,
        ),
    )


def tbs_of(bundle: Bundle, *, date: dt.date) -> bytes:
    """What a vendor signs for a bundle (256 bytes)."""
    manifest = bundle.manifest
    return make_tbs(
        measure(bundle.files),
        isv_prod_id=manifest.isv_prod_id,
        isv_svn=manifest.isv_svn,
        date=date,
    )


def sign_bundle(bundle: Bundle, pem: bytes, *, date: dt.date) -> Bundle:
    """The bundle with a SIGSTRUCT by the vendor's RSA-3072 key."""
    return attach_sigstruct(bundle, sign_sigstruct(tbs_of(bundle, date=date), pem))


def example(name: str) -> Path:
    """The folder of an example application, from the wheel or the checkout.

    Raises:
        ApplicationError: Neither has it.
    """
    packaged = Path(str(resources.files("sealift"))) / "_data" / "examples" / name
    checkout = Path(__file__).resolve().parents[3] / "examples" / name
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise ApplicationError(
        "the example is missing", got=name, hint="Reinstall sealift."
    )


def fingerprint_of_source(
    folder: Path, l1: TrustRoot, roots: tuple[TrustAnchor, ...]
) -> Fingerprint:
    """The MRENCLAVE that an application's source builds to, under this trust.

    Raises:
        SealiftError: As :func:`build_application`.
    """
    bundle = build_application(folder, Trust(l1=l1, roots=roots))
    return measure(bundle.files).mrenclave
