"""A bundle: measured content, and beside it the SIGSTRUCT (DESIGN §6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from sealift.base import Fingerprint, InvariantError
from sealift.crypto import sha256

from ._boot import BOOT_SOURCE
from ._errors import BundleFormatError, BundlePathError, ManifestError, SigstructError
from ._manifest import Manifest, encode_manifest, parse_manifest
from ._measure import Measurement, canonical_order, measure
from ._sigstruct import (
    ATTRIBUTE_DEBUG,
    SIGSTRUCT_BYTES,
    VerifiedSigstruct,
    verify_sigstruct,
)
from ._zip import check_path, check_size, read_zip, write_zip

MANIFEST = "manifest.json"
METADATA = "metadata.bin"
BOOT = "boot.py"
#: The one member that is not measured.
SIGSTRUCT = "sigstruct.bin"
_SINGLE = frozenset({MANIFEST, METADATA, BOOT})
_FOLDERS = frozenset({"sealift", "app", "wheels"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A well-formed bundle; who signed it is not yet known.

    ``files`` is the whole measured content, in canonical order. It holds
    ``manifest.json`` (parsed as ``manifest``), ``metadata.bin``, ``boot.py``,
    ``sealift/…``, ``app/…`` and ``wheels/*.whl``. ``sigstruct`` is the 1,808
    bytes beside it, or ``None`` as long as nobody signed.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    sigstruct: bytes | None = None

    def wheels(self) -> dict[str, bytes]:
        """The wheels by file name."""
        return {
            path.removeprefix("wheels/"): content
            for path, content in self.files.items()
            if path.startswith("wheels/")
        }


_MADE_HERE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBundle:
    """A bundle whose SIGSTRUCT is valid and names this very content.

    Guarantees identity, not permission: whether this MRENCLAVE or MRSIGNER may
    do anything is for the shard's schedule to say.
    """

    bundle: Bundle
    measurement: Measurement
    sigstruct: VerifiedSigstruct
    made_by: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.made_by is not _MADE_HERE:
            raise InvariantError("VerifiedBundle is made by verify_bundle only")

    @property
    def fingerprint(self) -> Fingerprint:
        """MRENCLAVE."""
        return self.measurement.mrenclave


def make_bundle(
    manifest: Manifest,
    *,
    sealift: Mapping[str, bytes],
    app: Mapping[str, bytes],
    wheels: Mapping[str, bytes],
    metadata: bytes,
) -> Bundle:
    """Put an unsigned bundle together.

    Args:
        manifest: Its ``metadata`` must be the SHA-256 of ``metadata``.
        sealift: Sources of the enclave wing, by path within ``sealift/``.
        app: Sources of the application, by path within ``app/``.
        wheels: Third-party wheels by file name.
        metadata: Runtime metadata.

    Raises:
        BundleFormatError: A path or file that may not stand in a bundle, or a
            manifest that contradicts them.
    """
    files = {
        MANIFEST: encode_manifest(manifest),
        METADATA: metadata,
        BOOT: BOOT_SOURCE,
    }
    for folder, members in (("sealift", sealift), ("app", app), ("wheels", wheels)):
        files.update({f"{folder}/{path}": data for path, data in members.items()})
    return bundle_of(files, sigstruct=None)


def bundle_of(files: Mapping[str, bytes], *, sigstruct: bytes | None) -> Bundle:
    """A bundle from its measured content.

    Raises:
        BundleFormatError: As :func:`parse_bundle`.
    """
    check_size(files)
    for path in files:
        check_path(path)
        _check_place(path)
    missing = _SINGLE - set(files)
    if missing:
        raise BundleFormatError("bundle lacks a member", got=sorted(missing))
    manifest = parse_manifest(files[MANIFEST])
    if sha256(files[METADATA]) != manifest.metadata_digest():
        raise ManifestError(
            "metadata is not what the manifest names",
            got=sha256(files[METADATA]),
            expected=manifest.metadata,
        )
    if sigstruct is not None and len(sigstruct) != SIGSTRUCT_BYTES:
        raise BundleFormatError(
            "SIGSTRUCT has another size",
            got=f"{len(sigstruct)} B",
            expected=f"{SIGSTRUCT_BYTES} B",
        )
    ordered = {path: bytes(files[path]) for path in canonical_order(files)}
    return Bundle(
        manifest=manifest, files=MappingProxyType(ordered), sigstruct=sigstruct
    )


def encode_bundle(bundle: Bundle) -> bytes:
    """The one file: a canonical STORED zip."""
    files = dict(bundle.files)
    if bundle.sigstruct is not None:
        files[SIGSTRUCT] = bundle.sigstruct
    return write_zip(files)


def parse_bundle(data: bytes) -> Bundle:
    """Parse the bytes of a bundle file; total.

    Raises:
        BundleFormatError: Not canonical, an unknown member, a manifest that
            contradicts the content (and its subclasses, which say what).
    """
    files = read_zip(data)
    sigstruct = files.pop(SIGSTRUCT, None)
    return bundle_of(files, sigstruct=sigstruct)


def attach_sigstruct(bundle: Bundle, sigstruct: bytes) -> Bundle:
    """The bundle with a SIGSTRUCT that was made for it.

    Raises:
        SigstructError: Malformed, wrongly signed, or for other content.
    """
    signed = replace(bundle, sigstruct=bytes(sigstruct))
    verify_bundle(signed)
    return signed


def verify_bundle(bundle: Bundle) -> VerifiedBundle:
    """Verify that the SIGSTRUCT is valid and names exactly this content.

    1. The SIGSTRUCT is well-formed and its RSA signature holds.
    2. Its MRENCLAVE is the measurement of the content.
    3. Its ISV_PROD_ID and ISV_SVN are the manifest's.
    4. No CPU may start it in debug mode: DEBUG is masked in, and zero.

    The caller still owes: whether this code may run (schedule), or this
    vendor may sign (authority).

    Raises:
        SigstructError: One of these does not hold, or there is none.
    """
    if bundle.sigstruct is None:
        raise SigstructError(
            "bundle is not signed", hint="Sign it with `sealift sign`."
        )
    signed = verify_sigstruct(bundle.sigstruct)  # 1
    measurement = measure(bundle.files)
    if signed.mrenclave != measurement.mrenclave:  # 2
        raise SigstructError(
            "SIGSTRUCT is for other content",
            got=signed.mrenclave,
            expected=measurement.mrenclave.hex(),
        )
    manifest = bundle.manifest
    wanted = (manifest.isv_prod_id, manifest.isv_svn)
    if (signed.isv_prod_id, signed.isv_svn) != wanted:  # 3
        raise SigstructError(
            "SIGSTRUCT names another product or version",
            got=(signed.isv_prod_id, signed.isv_svn),
            expected=wanted,
        )
    debug = (signed.attributes[0], signed.attribute_mask[0])
    if tuple(flags & ATTRIBUTE_DEBUG for flags in debug) != (0, ATTRIBUTE_DEBUG):  # 4
        raise SigstructError(
            "SIGSTRUCT lets a CPU start this in debug mode",
            got=f"attributes {debug[0]:#x} under mask {debug[1]:#x}",
            expected=f"{ATTRIBUTE_DEBUG:#x} zero, and masked in",
            hint="Whoever runs it in debug mode reads its memory. Sign it anew.",
        )
    return VerifiedBundle(
        bundle=bundle, measurement=measurement, sigstruct=signed, made_by=_MADE_HERE
    )


def _check_place(path: str) -> None:
    folder, slash, rest = path.partition("/")
    if not slash:
        known = path in _SINGLE
    elif folder == "wheels":
        known = "/" not in rest and rest.endswith(".whl")
    else:
        known = folder in _FOLDERS
    if not known:
        raise BundlePathError(
            "unknown member",
            got=path,
            expected=f"{sorted(_SINGLE)}, sealift/…, app/… or wheels/*.whl",
        )
