"""What bundles, measurements and SIGSTRUCTs can be refused for."""

from sealift.base import SealiftError


class BundleFormatError(SealiftError):
    """Bytes that are not the one canonical form of a bundle."""


class BundlePathError(BundleFormatError):
    """A path that may not stand in a bundle or in its folder."""


class ManifestError(BundleFormatError):
    """A manifest that is not canonical, or contradicts its bundle."""


class WheelError(BundleFormatError):
    """A wheel that cannot be unpacked as pure data."""


class FolderDiffersError(SealiftError):
    """An unpacked folder that is not exactly what its bundle says."""


class SigstructError(SealiftError):
    """A SIGSTRUCT that is malformed, wrongly signed, or for something else."""
