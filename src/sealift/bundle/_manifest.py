"""The manifest: what a bundle says about itself, in canonical JSON."""

import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from sealift.base import Bytes32, ChainId, Digest, Height, parse_hex

from ._errors import ManifestError

#: Most bytes of a manifest.
MAX_MANIFEST_BYTES = 64 * 1024
#: What boot.py calls unless the manifest names another.
DEFAULT_ENCLAVE_ENTRY = "sealift.enclave.main:main"

_NAME = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
_VERSION = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}\Z")]
_TARGET = Annotated[str, msgspec.Meta(pattern=r"\Acp3[0-9]{1,2}-[a-z0-9_]{1,60}\Z")]
_ENTRY = Annotated[str, msgspec.Meta(max_length=200)]
_ENTRY_RULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_HEX32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_HEX = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,8192}\Z")]
_U16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class _Json(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the manifest's objects: closed, frozen."""


class L1TrustRoot(_Json, frozen=True, kw_only=True):
    """The L1 block from which the relay starts (DESIGN §5)."""

    chain_id: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    height: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    header_hash: _HEX32

    def values(self) -> tuple[ChainId, Height, Digest]:
        """Chain id, height and header hash, typed."""
        return (
            ChainId(self.chain_id),
            Height(self.height),
            Digest(bytes.fromhex(self.header_hash)),
        )


class AttestationRoot(_Json, frozen=True, kw_only=True):
    """A root under which quotes are believed: DER as hexadecimal."""

    kind: Literal["insecure-sim", "intel"]
    der: _HEX

    def certificate(self) -> bytes:
        """The root certificate, DER."""
        return bytes.fromhex(self.der)


class Manifest(_Json, frozen=True, kw_only=True):
    """What a bundle says about itself; all of it is measured.

    ``entry`` names the application's runtime as ``module:attribute`` (a module
    of ``app/``), ``enclave_entry`` what ``boot.py`` calls. ``ecall_versions``
    is the inclusive range that the enclave speaks. ``metadata`` is the SHA-256
    of ``metadata.bin``.
    """

    format: Literal[1] = 1
    name: _NAME
    version: _VERSION
    isv_prod_id: _U16
    isv_svn: _U16
    target: _TARGET
    entry: _ENTRY
    enclave_entry: _ENTRY = DEFAULT_ENCLAVE_ENTRY
    l1: L1TrustRoot
    attestation_roots: Annotated[
        tuple[AttestationRoot, ...], msgspec.Meta(min_length=1, max_length=8)
    ]
    ecall_versions: tuple[_U16, _U16]
    metadata: _HEX32

    def metadata_digest(self) -> Bytes32:
        """SHA-256 of the runtime metadata."""
        return parse_hex(self.metadata)


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical JSON: keys sorted, no blanks, one line feed at the end.

    Raises:
        ManifestError: A field outside its rule.
    """
    data = msgspec.json.encode(manifest, order="sorted") + b"\n"
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Parse the canonical JSON of a manifest; total.

    Raises:
        ManifestError: Not a manifest, or not in canonical JSON.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            "manifest is too large",
            got=f"{len(data)} B",
            expected=f"≤ {MAX_MANIFEST_BYTES} B",
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ManifestError(f"not a manifest ({error})", got=data) from error
    if msgspec.json.encode(manifest, order="sorted") + b"\n" != data:
        raise ManifestError(
            "manifest is not in canonical JSON", expected="sorted keys, no blanks"
        )
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    low, high = manifest.ecall_versions
    if low > high:
        raise ManifestError(
            "range of ECALL versions is empty", got=f"{low}..{high}", expected="lo ≤ hi"
        )
    for entry in (manifest.entry, manifest.enclave_entry):
        if not _ENTRY_RULE.fullmatch(entry):
            raise ManifestError(
                "entry point cannot be read", got=entry, expected="module:attribute"
            )
    if len(set(manifest.attestation_roots)) != len(manifest.attestation_roots):
        raise ManifestError("an attestation root stands twice")
