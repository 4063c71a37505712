"""Where the consensus engine is, and that it is the pinned version."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ._errors import EngineMissingError, EngineVersionError

#: The one version that this ledger is run and tested with (facts/cometbft.md §1).
ENGINE_VERSION: Final = "0.38.25"
ENGINE_MODULE: Final = "github.com/cometbft/cometbft/cmd/cometbft"
#: Names the program itself; nothing else is looked at then.
ENGINE_VARIABLE: Final = "SEALIFT_COMETBFT"
_PROGRAM: Final = "cometbft"
_PATIENCE: Final = 60
_TOOLS: Final = Path(".tools") / "bin"
#: Of a checkout, this file is SRC/sealift/node/cometbft/_engine.py.
_CHECKOUT: Final = Path(__file__).resolve().parents[4]
_HINT: Final = (
    "In a checkout, `make cometbft` fetches and builds it (needs Go). Elsewhere: "
    f"CGO_ENABLED=0 go install {ENGINE_MODULE}@v{ENGINE_VERSION}, or unpack the "
    f"CometBFT project's release v{ENGINE_VERSION}; then put it on PATH or name it "
    f"in {ENGINE_VARIABLE}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A CometBFT program of the pinned version; made by :func:`find_engine`."""

    path: Path
    version: str


def find_engine(environ: Mapping[str, str], *, checkout: Path = _CHECKOUT) -> Engine:
    """The CometBFT to run.

    1. What ``SEALIFT_COMETBFT`` names, and nothing else then. 2. The first
    ``cometbft`` of the pinned version on ``PATH``. 3. The one that
    ``make cometbft`` put into the checkout's ``.tools/bin``.

    Args:
        environ: The environment to look in.
        checkout: The folder whose ``.tools/bin`` is looked into.

    Raises:
        EngineMissingError: There is none.
        EngineVersionError: Only others, or the named one is another.
    """
    named = environ.get(ENGINE_VARIABLE)
    if named:  # 1.
        return require_version(Path(named))
    wrong: EngineVersionError | None = None
    for path in _candidates(environ, checkout):  # 2. 3.
        try:
            return require_version(path)
        except EngineVersionError as error:
            wrong = wrong or error
    if wrong is not None:
        raise wrong
    raise EngineMissingError(
        "CometBFT is not installed",
        got=f"no {_PROGRAM} on PATH or in {_TOOLS}",
        expected=f"CometBFT {ENGINE_VERSION}",
        hint=_HINT,
    )


def require_version(path: Path) -> Engine:
    """The program, if it says that it is the pinned version.

    A build may name its commit behind a plus sign.

    Raises:
        EngineMissingError: There is no such program.
        EngineVersionError: It says something else, or nothing.
    """
    if not path.is_file():
        raise EngineMissingError(
            "CometBFT is not where it should be",
            got=f"no file {path}",
            expected=f"CometBFT {ENGINE_VERSION}",
            hint=_HINT,
        )
    said = _ask_version(path)
    if said.partition("+")[0] != ENGINE_VERSION:
        raise EngineVersionError(
            f"{path} is another CometBFT",
            got=said[:80] or "no version",
            expected=ENGINE_VERSION,
            hint=_HINT,
        )
    return Engine(path=path, version=said)


def _candidates(environ: Mapping[str, str], checkout: Path) -> Iterator[Path]:
    for folder in environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(_PROGRAM, path=folder) if folder else None
        if found is not None:
            yield Path(found).absolute()
    kept = checkout / _TOOLS / _PROGRAM
    if kept.is_file():
        yield kept


def _ask_version(path: Path) -> str:
    try:
        asked = subprocess.run(  # noqa: S603 - the program that will be run
            [path, "version"],
            check=False,
            capture_output=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineVersionError(
            f"{path} cannot be asked for its version",
            got=str(error)[:200],
            expected=ENGINE_VERSION,
            hint=_HINT,
        ) from error
    # The answer is a line of its own; warnings may stand around it.
    text = (asked.stdout or asked.stderr).decode(errors="replace").strip()
    return text.splitlines()[-1].strip() if text else ""
