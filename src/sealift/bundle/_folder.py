"""A bundle unpacked: what runs must be what was measured.

The folder holds the whole bundle as it is (wheels and SIGSTRUCT too) and, in
``site/``, the wheels unpacked. Reading it back measures the former and
compares the latter file by file with the wheels, so nothing may be added,
changed or missing: no ``.pyc``, ``.pth`` or ``sitecustomize`` of a stranger.
"""

from collections.abc import Mapping

from ._bundle import SIGSTRUCT, Bundle, VerifiedBundle, bundle_of, verify_bundle
from ._errors import FolderDiffersError
from ._measure import canonical_order
from ._wheels import unpack_wheels

SITE = "site/"
_AGAIN = "Remove the folder; it is unpacked again from the bundle."


def unpack_plan(bundle: Bundle) -> dict[str, bytes]:
    """The files of a bundle's folder, in canonical order.

    Raises:
        WheelError: A wheel cannot be unpacked as pure data.
    """
    files = dict(bundle.files)
    if bundle.sigstruct is not None:
        files[SIGSTRUCT] = bundle.sigstruct
    for path, content in unpack_wheels(bundle.wheels()).items():
        files[SITE + path] = content
    return {path: files[path] for path in canonical_order(files)}


def folder_bundle(files: Mapping[str, bytes]) -> Bundle:
    """The bundle that a folder's files are, if they are exactly one.

    Raises:
        FolderDiffersError: A file of ``site/`` is added, changed or missing.
        BundleFormatError: The rest is no bundle (an added ``.pyc`` elsewhere,
            an unknown member, a changed manifest).
    """
    rest = {
        path: data
        for path, data in files.items()
        if path != SIGSTRUCT and not path.startswith(SITE)
    }
    bundle = bundle_of(rest, sigstruct=files.get(SIGSTRUCT))
    plan = unpack_plan(bundle)
    for stray in sorted(files.keys() - plan.keys()):
        raise FolderDiffersError(
            "file does not belong to the bundle", got=ascii(stray), hint=_AGAIN
        )
    for path, content in plan.items():
        if files.get(path) != content:
            state = "altered" if path in files else "missing"
            raise FolderDiffersError(
                "file is not as in its wheel", got=f"{path} is {state}", hint=_AGAIN
            )
    return bundle


def measure_folder(files: Mapping[str, bytes]) -> VerifiedBundle:
    """Verify a folder's files as they are about to run.

    1. ``site/`` is exactly what the wheels hold, and nothing else is there.
    2. The SIGSTRUCT is valid and names the measurement of the rest.

    Raises:
        FolderDiffersError: Step 1 fails.
        BundleFormatError: What is there is no bundle.
        SigstructError: Step 2 fails: also if one measured byte was changed.
    """
    return verify_bundle(folder_bundle(files))  # 1, 2
