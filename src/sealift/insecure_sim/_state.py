"""The simulator's folder: small JSON files, replaced atomically under a lock.

Several workers, each a process of its own, share one simulated Intel; every
change is read, made and written under one advisory lock.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from sealift.transport.files import PRIVATE_MODE, write_durably

from ._errors import SimStateError

_PRIVATE_DIR = 0o700


class TcbLevel(msgspec.Struct, frozen=True, kw_only=True):
    """One row of TCB info: what a CPUSVN (16 components) is worth.

    ``status`` is a TCB status as Intel spells it; ``date`` is in Unix seconds.
    """

    cpu_svn: bytes
    pce_svn: int
    date: int
    status: str
    advisories: tuple[str, ...] = ()


class QeLevel(msgspec.Struct, frozen=True, kw_only=True):
    """One row of QE identity: what an ISV_SVN of the QE is worth."""

    isv_svn: int
    date: int
    status: str
    advisories: tuple[str, ...] = ()


class IntelState(msgspec.Struct, frozen=True, kw_only=True):
    """Keys and counters of a simulated Intel. Keys are PKCS#8 PEM, certs DER.

    Levels are sorted, the newest first. ``evaluation`` is
    tcbEvaluationDataNumber; it and ``crl_number`` never fall.
    """

    format: int = 1
    root_key: bytes
    root_cert: bytes
    ca_key: bytes
    ca_cert: bytes
    tcb_key: bytes
    tcb_cert: bytes
    fmspc: bytes
    evaluation: int
    crl_number: int
    levels: tuple[TcbLevel, ...]
    qe_levels: tuple[QeLevel, ...]
    revoked_pcks: tuple[str, ...] = ()
    revoked_cas: tuple[str, ...] = ()


class MachineState(msgspec.Struct, frozen=True, kw_only=True):
    """What is fused into, installed on, and told to one simulated machine."""

    format: int = 1
    fused_secret: bytes
    owner_epoch: bytes
    ppid: bytes
    platform_instance: bytes
    cpu_svn: bytes
    pce_svn: int
    qe_svn: int
    qe_auth_data: bytes
    attestation_key: bytes
    pck_key: bytes
    pck_cert: bytes
    debug: bool = False


T = TypeVar("T")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; makes the folder if it is not there."""
    folder.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load(path: Path, kind: type[T]) -> T | None:
    """Read one state file; ``None`` if there is none.

    Raises:
        SimStateError: It is there and cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeError, OSError) as error:
        raise SimStateError(
            f"the simulator's {path.name} cannot be read ({error})",
            hint="It is kept as it is. Choose another folder to start afresh.",
        ) from error


def store(path: Path, state: msgspec.Struct) -> None:
    """Replace one state file: after a crash the old or the new one is whole.

    Raises:
        FileError: It cannot be written; the old one is untouched.
    """
    path.parent.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
    write_durably(path, msgspec.json.encode(state), mode=PRIVATE_MODE)
