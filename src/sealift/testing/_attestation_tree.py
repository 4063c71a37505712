"""Gramine's ``/dev/attestation`` over a simulated machine; it protects nobody.

It behaves as Gramine's library OS does (``libos/src/fs/dev/attestation.c``,
``libos_fs_pseudo.c``; facts §3.7): one set of buffers for the whole process, what a
file holds is made when it is opened, each write replaces the whole buffer and is
padded with zeros, and the sealing key is that of the current CPUSVN and ISV_SVN.
"""

import errno
import os
from collections.abc import Callable

from sealift.insecure_sim import SimIdentity, SimMachine

_REPORT_DATA, _TARGET_INFO, _KEY = 64, 512, 16
_BODY = slice(48, 432)
_KEY_ID_AND_MAC = 48
_READ_ONLY = ("attestation_type", "my_target_info", "report", "quote")


class AttestationTree:
    """The files of one enclave process, to give to ``GramineSgx`` as its opener.

    Args:
        machine: The CPU, its quoting enclave, its fuses.
        identity: The enclave, as the CPU has measured it.
        attestation_type: What the manifest says, ``dcap`` or ``none``.

    Attributes:
        root: Where the files are.
        piece: Most bytes that one read or write takes.
        opened: Called with a file's name and mode after each opening: where another
            thread of the process may come in between.
        quote_suffix: Bytes that a broken Gramine hangs onto its quotes.
    """

    root = "/dev/attestation"

    def __init__(
        self,
        machine: SimMachine,
        identity: SimIdentity,
        *,
        attestation_type: str = "dcap",
    ) -> None:
        self._machine = machine
        self._identity = identity
        self._type = attestation_type
        self._user_report_data = bytes(_REPORT_DATA)
        self._target_info = bytes(_TARGET_INFO)
        self.piece = 1 << 20
        self.opened: Callable[[str, str], None] = lambda _name, _mode: None
        self.quote_suffix = b""

    def open(self, path: str, mode: str) -> "TreeFile":
        """Open a file; what it holds is made now.

        Raises:
            FileNotFoundError: There is none of that name.
            PermissionError: It may not be written.
        """
        name = path.removeprefix(f"{self.root}/")
        writable = name in ("user_report_data", "target_info")
        if mode == "w" and not writable:
            code = errno.EACCES if self._has(name) else errno.ENOENT
            raise OSError(code, os.strerror(code), path)
        content = b"" if writable else self._load(name, path)
        file = TreeFile(self, name, content)
        self.opened(name, mode)
        return file

    def save(self, name: str, data: bytes) -> None:
        """What a write does: the buffer is replaced, and padded with zeros."""
        if name == "target_info":
            self._target_info = data[:_TARGET_INFO].ljust(_TARGET_INFO, b"\0")
        else:
            self._user_report_data = data[:_REPORT_DATA].ljust(_REPORT_DATA, b"\0")

    def _has(self, name: str) -> bool:
        if name == "quote" and self._type == "none":
            return False
        return name in (*_READ_ONLY, "keys/_sgx_mrenclave", "keys/_sgx_mrsigner")

    def _load(self, name: str, path: str) -> bytes:
        if not self._has(name):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        match name:
            case "attestation_type":
                return self._type.encode()
            case "my_target_info":
                return self._identity.mrenclave.ljust(_TARGET_INFO, b"\0")
            case "report":
                quote = self._machine.quote(self._identity, self._user_report_data)
                return quote[_BODY] + bytes(_KEY_ID_AND_MAC)
            case "quote":
                quote = self._machine.quote(self._identity, self._user_report_data)
                return quote + self.quote_suffix
            case _:
                policy = name.removeprefix("keys/_sgx_")
                got = self._machine.egetkey(
                    self._identity, policy=policy, key_id=bytes(32)
                )
                return got.key[:_KEY]


class TreeFile:
    """An open file of a tree; made by :meth:`AttestationTree.open`."""

    def __init__(self, tree: AttestationTree, name: str, content: bytes) -> None:
        self._tree = tree
        self._name = name
        self._rest = content

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, or fewer; empty at the end."""
        taken = self._rest[: min(size, self._tree.piece)]
        self._rest = self._rest[len(taken) :]
        return taken

    def write(self, data: bytes, /) -> int:
        """Replace the buffer by as many bytes as one write takes."""
        taken = data[: self._tree.piece]
        self._tree.save(self._name, taken)
        return len(taken)

    def close(self) -> None:
        """Nothing happens: what was written counted at once."""
