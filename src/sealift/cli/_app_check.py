"""Everything that is looked at before an application is built as a successor."""

from pathlib import Path
from typing import Final

from sealift.base import DecodeError, decode
from sealift.bundle import Bundle
from sealift.frame import RuntimeMetadata
from sealift.transport.build import collect_application

from ._app_ask import Asked, ask_application
from ._app_finding import ApplicationRefusedError, Finding
from ._app_layout import Comparison, Places
from ._app_source import judge_sources
from ._application import APPLICATION_FILE, ApplicationFile, read_application
from ._output import say, shown_safely

METADATA: Final = "metadata.bin"


def check_application(folder: Path, previous: Bundle | None) -> list[Finding]:
    """What must not run, or not take over from ``previous``; empty: nothing found.

    1. The sources are deterministic, as far as reading them tells.
    2. They are a runtime: imported in another process.
    3. Its state, calls, getters, events and errors take over those of ``previous``.

    The bundle's own metadata is read, measured as it is; nothing of it runs.

    Args:
        folder: The application's, with ``sealift.toml``.
        previous: The bundle of the version before.

    Raises:
        ApplicationError: No application, or not one that can be imported.
        BuildError: A file that no bundle may hold.
        ApplicationRefusedError: The bundle has no readable metadata.
    """
    application = read_application(folder)
    found = judge_sources(collect_application(folder / "app"))  # 1.
    if any(one.rule == "syntax" for one in found):
        return found
    asked = ask_application(folder, application.runtime)  # 2.
    if previous is not None:  # 3.
        found += _numbers(application, previous)
        found += _compare(folder, application, asked, previous)
    return sorted(found)


def require_good(folder: Path, previous: Bundle) -> None:
    """Say what is wrong, line by line, and refuse.

    Raises:
        ApplicationRefusedError: Something was found.
        ApplicationError: As :func:`check_application`.
    """
    found = check_application(folder, previous)
    for one in found:
        for line in lines_of(one):
            say(line)
    if found:
        first = found[0]
        raise ApplicationRefusedError(
            f"{folder} may not follow {previous.manifest.name} "
            f"{previous.manifest.version}",
            got=f"{first.place}: {first.rule}" + _more(len(found) - 1),
            expected="nothing that `sealift app check` names",
        )


def lines_of(finding: Finding) -> tuple[str, str]:
    """A finding for people: what is wrong, and the line to write."""
    return (
        shown_safely(f"{finding.place}: {finding.rule}: {finding.what}"),
        shown_safely(f"    write: {finding.write}"),
    )


def metadata_of(bundle: Bundle) -> RuntimeMetadata:
    """The metadata that a bundle carries, measured.

    Raises:
        ApplicationRefusedError: It is none of this release's.
    """
    try:
        return decode(RuntimeMetadata, bundle.files[METADATA])
    except DecodeError as error:
        raise ApplicationRefusedError(
            f"the bundle's metadata cannot be read ({error})",
            got=f"{bundle.manifest.name} {bundle.manifest.version}",
            expected="a bundle that `sealift build` made",
        ) from error


def _more(count: int) -> str:
    return f", and {count} more" if count else ""


def _numbers(application: ApplicationFile, previous: Bundle) -> list[Finding]:
    before = previous.manifest
    if application.isv_svn >= before.isv_svn:
        return []
    return [
        Finding(
            path=APPLICATION_FILE,
            line=1,
            rule="isv-svn",
            what=f"the security version was {before.isv_svn} and is "
            f"{application.isv_svn}: shards with a floor refuse it",
            write=f"isv_svn = {before.isv_svn + 1}",
        )
    ]


def _compare(
    folder: Path, application: ApplicationFile, asked: Asked, previous: Bundle
) -> list[Finding]:
    new = decode(RuntimeMetadata, bytes.fromhex(asked.metadata))
    places = Places(folder, asked.pallets, application.runtime)
    old = metadata_of(previous)
    return Comparison(old, new, asked.pallets, places).findings()
