"""An unsigned bundle of an application, without wheels: for what it says alone."""

from pathlib import Path

from sealift.bundle import (
    AttestationRoot,
    L1TrustRoot,
    Manifest,
    encode_bundle,
    make_bundle,
)
from sealift.cli._application import application_metadata, read_application
from sealift.crypto import sha256
from sealift.transport.build import running_target


def bundle_of(folder: Path, out: Path, metadata: bytes | None = None) -> Path:
    """Write it; with other metadata than its own, if given."""
    said = read_application(folder)
    if metadata is None:
        metadata = application_metadata(folder, said.runtime)
    manifest = Manifest(
        name=said.name,
        version=said.version,
        isv_prod_id=said.isv_prod_id,
        isv_svn=said.isv_svn,
        target=running_target(),
        entry=said.runtime,
        l1=L1TrustRoot(chain_id="nowhere", height=1, header_hash="00" * 32),
        attestation_roots=(AttestationRoot(kind="insecure-sim", der="00"),),
        ecall_versions=(1, 1),
        metadata=sha256(metadata).hex(),
    )
    # What stands in app/ would end whoever runs it: nothing of a bundle is run.
    app = {f"{said.name}/runtime.py": b"raise SystemExit('it was run')\n"}
    made = make_bundle(manifest, sealift={}, app=app, wheels={}, metadata=metadata)
    out.write_bytes(encode_bundle(made))
    return out
