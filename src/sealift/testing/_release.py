"""Applications as releases: a measured, signed bundle and the runtime in it."""

import datetime as dt
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sealift.base import Fingerprint, encode
from sealift.bundle import (
    AttestationRoot,
    L1TrustRoot,
    Manifest,
    VerifiedBundle,
    attach_sigstruct,
    make_bundle,
    make_tbs,
    measure,
    sign_sigstruct,
    verify_bundle,
)
from sealift.crypto import rsa_generate, sha256
from sealift.frame import Runtime
from sealift.protocol.ecall import ECALL_VERSIONS

_DATE = dt.date(2026, 1, 1)
_TARGET = "cp311-manylinux_x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A version of an application, as a shard's schedule can name it.

    Its fingerprint is a genuine measurement, of a small bundle: manifest,
    runtime metadata and ``sources``. What runs is ``runtime``, in this process.
    """

    runtime: Runtime
    bundle: VerifiedBundle

    @property
    def fingerprint(self) -> Fingerprint:
        """MRENCLAVE."""
        return self.bundle.fingerprint

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.bundle.manifest


@cache
def vendor_key() -> bytes:
    """An RSA key (PEM) that signs releases; one for the whole process."""
    return rsa_generate()


def make_release(
    runtime: Runtime,
    *,
    l1: L1TrustRoot,
    root_der: bytes,
    isv_svn: int,
    sources: Mapping[str, bytes] | None,
) -> Release:
    """Bundle, measure and sign a runtime.

    Args:
        runtime: The application.
        l1: Where its relay starts.
        root_der: The attestation root that it believes.
        isv_svn: Its security version.
        sources: Files under ``app/``; ``None``: the modules of its pallets.
    """
    metadata = encode(runtime.metadata())
    manifest = Manifest(
        name=runtime.name,
        version=str(runtime.version),
        isv_prod_id=1,
        isv_svn=isv_svn,
        target=_TARGET,
        entry="app:runtime",
        l1=l1,
        attestation_roots=(AttestationRoot(kind="insecure-sim", der=root_der.hex()),),
        ecall_versions=ECALL_VERSIONS,
        metadata=sha256(metadata).hex(),
    )
    bundle = make_bundle(
        manifest,
        sealift={},
        app=_sources_of(runtime) if sources is None else sources,
        wheels={},
        metadata=metadata,
    )
    tbs = make_tbs(measure(bundle.files), isv_prod_id=1, isv_svn=isv_svn, date=_DATE)
    signed = attach_sigstruct(bundle, sign_sigstruct(tbs, vendor_key()))
    return Release(runtime=runtime, bundle=verify_bundle(signed))


def _sources_of(runtime: Runtime) -> dict[str, bytes]:
    """The source files of the pallets that are not Sealift's own."""
    files: dict[str, bytes] = {}
    for pallet in runtime.pallets:
        name = type(pallet).__module__
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is not None and not name.startswith("sealift."):
            files[name.replace(".", "/") + ".py"] = Path(path).read_bytes()
    return files
