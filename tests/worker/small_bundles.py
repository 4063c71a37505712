"""Signed bundles that are small: nothing ever starts them."""

import datetime as dt
from functools import cache

from sealift.bundle import (
    AttestationRoot,
    L1TrustRoot,
    Manifest,
    attach_sigstruct,
    encode_bundle,
    make_bundle,
    make_tbs,
    measure,
    parse_bundle,
    sign_sigstruct,
    verify_bundle,
)
from sealift.crypto import rsa_generate, sha256

VENDOR = rsa_generate()


@cache
def small_bundle(
    *,
    chain: str = "test",
    app: bytes = b"x = 1\n",
    tables: tuple[int, int] = (1, 2),
    vendor: bytes = VENDOR,
) -> bytes:
    """The file of a bundle, signed for its content."""
    manifest = Manifest(
        name="tiny",
        version="2",
        isv_prod_id=7,
        isv_svn=3,
        target="cp312-manylinux_x86_64",
        entry="tiny:runtime",
        l1=L1TrustRoot(chain_id=chain, height=1, header_hash="00" * 32),
        attestation_roots=(AttestationRoot(kind="insecure-sim", der="00"),),
        ecall_versions=tables,
        metadata=sha256(b"").hex(),
    )
    bundle = make_bundle(
        manifest,
        sealift={"sealift/__init__.py": b"", "sealift/enclave/main.py": b""},
        app={"tiny.py": app},
        wheels={},
        metadata=b"",
    )
    tbs = make_tbs(
        measure(bundle.files), isv_prod_id=7, isv_svn=3, date=dt.date(2026, 1, 1)
    )
    return encode_bundle(attach_sigstruct(bundle, sign_sigstruct(tbs, vendor)))


def code_in(data: bytes) -> bytes:
    """The fingerprint of a bundle."""
    return verify_bundle(parse_bundle(data)).fingerprint
