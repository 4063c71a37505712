"""A small bundle, wheels made by hand, and a vendor's key."""

import datetime as dt
import io
import zipfile
from collections.abc import Callable

import msgspec
import pytest

from sealift.bundle import (
    AttestationRoot,
    Bundle,
    L1TrustRoot,
    Manifest,
    attach_sigstruct,
    make_bundle,
    make_tbs,
    measure,
    sign_sigstruct,
)
from sealift.crypto import rsa_generate, sha256

METADATA = b"metadata"


@pytest.fixture(scope="session")
def vendor() -> bytes:
    return rsa_generate()


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Manifest]:
    def make(**changes: object) -> Manifest:
        plain = Manifest(
            name="demo",
            version="1.0",
            isv_prod_id=7,
            isv_svn=3,
            target="cp311-manylinux_x86_64",
            entry="ledgerbook:Runtime",
            l1=L1TrustRoot(chain_id="test-1", height=5, header_hash="ab" * 32),
            attestation_roots=(AttestationRoot(kind="insecure-sim", der="3000"),),
            ecall_versions=(1, 1),
            metadata=sha256(METADATA).hex(),
        )
        return msgspec.structs.replace(plain, **changes)

    return make


@pytest.fixture(scope="session")
def wheel() -> Callable[..., bytes]:
    def make(files: dict[str, bytes], **info: object) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in files.items():
                member = zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0))
                member.compress_type = zipfile.ZIP_DEFLATED
                for name, value in info.items():
                    setattr(member, name, value)
                archive.writestr(member, content)
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def plain(
    manifest: Callable[..., Manifest], wheel: Callable[..., bytes]
) -> Callable[..., Bundle]:
    def make(**parts: object) -> Bundle:
        fixed = {
            "sealift": {"__init__.py": b'"""x"""\n', "base/__init__.py": b"A = 1\n"},
            "app": {"ledgerbook.py": b"Runtime = 1\n", "data/list.txt": b"x" * 9000},
            "wheels": {
                "thing-1-py3-none-any.whl": wheel(
                    {"thing/__init__.py": b"B = 2\n", "thing-1.dist-info/RECORD": b""}
                )
            },
            "metadata": METADATA,
        }
        of = parts.pop("manifest", manifest())
        return make_bundle(of, **{**fixed, **parts})

    return make


@pytest.fixture(scope="session")
def signed(plain: Callable[..., Bundle], vendor: bytes) -> Bundle:
    bundle = plain()
    tbs = make_tbs(
        measure(bundle.files), isv_prod_id=7, isv_svn=3, date=dt.date(2026, 11, 23)
    )
    return attach_sigstruct(bundle, sign_sigstruct(tbs, vendor))
