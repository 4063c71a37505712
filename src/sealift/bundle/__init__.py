"""Bundles: the measured, signed, self-contained file an enclave starts from.

Sans-I/O: everything here is a function of ``path → content`` and bytes. The
format is described in ``docs/spec/bundle.md``.
"""

from ._boot import BOOT_SOURCE
from ._bundle import (
    Bundle,
    VerifiedBundle,
    attach_sigstruct,
    bundle_of,
    encode_bundle,
    make_bundle,
    parse_bundle,
    verify_bundle,
)
from ._errors import (
    BundleFormatError,
    BundlePathError,
    FolderDiffersError,
    ManifestError,
    SigstructError,
    WheelError,
)
from ._folder import folder_bundle, measure_folder, unpack_plan
from ._manifest import (
    DEFAULT_ENCLAVE_ENTRY,
    AttestationRoot,
    L1TrustRoot,
    Manifest,
    encode_manifest,
    parse_manifest,
)
from ._measure import Difference, Measurement, first_difference, measure
from ._sigstruct import (
    ATTRIBUTE_DEBUG,
    Sigstruct,
    VerifiedSigstruct,
    attach_signature,
    make_tbs,
    parse_sigstruct,
    sign_sigstruct,
    sigstruct_tbs,
    verify_sigstruct,
)
from ._wheels import unpack_wheels
from ._zip import MAX_BUNDLE_BYTES, check_path

__all__ = [
    "ATTRIBUTE_DEBUG",
    "BOOT_SOURCE",
    "DEFAULT_ENCLAVE_ENTRY",
    "MAX_BUNDLE_BYTES",
    "AttestationRoot",
    "Bundle",
    "BundleFormatError",
    "BundlePathError",
    "Difference",
    "FolderDiffersError",
    "L1TrustRoot",
    "Manifest",
    "ManifestError",
    "Measurement",
    "Sigstruct",
    "SigstructError",
    "VerifiedBundle",
    "VerifiedSigstruct",
    "WheelError",
    "attach_signature",
    "attach_sigstruct",
    "bundle_of",
    "check_path",
    "encode_bundle",
    "encode_manifest",
    "first_difference",
    "folder_bundle",
    "make_bundle",
    "make_tbs",
    "measure",
    "measure_folder",
    "parse_bundle",
    "parse_manifest",
    "parse_sigstruct",
    "sign_sigstruct",
    "sigstruct_tbs",
    "unpack_plan",
    "unpack_wheels",
    "verify_bundle",
    "verify_sigstruct",
]
