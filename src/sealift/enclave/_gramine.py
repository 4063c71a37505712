"""The platform port under Gramine: ``/dev/attestation`` (DESIGN §6, facts §3.7).

There is no platform process here: the files are made by Gramine's library OS inside
the same enclave, and its measured manifest says which program reads them. Their
buffers belong to the whole process and a file's content is made when it is opened,
so one lock is held from the write to the read, and what comes back is compared with
what was asked for.
"""

import os
import threading
from collections.abc import Callable
from typing import Final, Protocol

from sealift.attestation import (
    REPORT_BODY_BYTES,
    REPORT_DATA_BYTES,
    QuoteFormatError,
    ReportBody,
    parse_quote,
    parse_report_body,
)
from sealift.crypto import hkdf
from sealift.protocol.platform import IdentityReply, SealKeyReply

from ._errors import PlatformAnswerError, PlatformRefusedError, SealingLevelError

#: The driver's name, as in ``ShardConfig.code``.
GRAMINE_KIND: Final = "gramine-sgx"
#: Where Gramine's library OS has the files; no host can put others there.
ATTESTATION_ROOT: Final = "/dev/attestation"
#: What Gramine has room for.
MAX_QUOTE_BYTES: Final = 8192

_TARGET_INFO_BYTES: Final = 512
_REPORT_BYTES: Final = REPORT_BODY_BYTES + 48  # key id and MAC follow the body
_KEY_BYTES: Final = 16
_DCAP: Final = b"dcap"
# Gramine gives the very same key to encrypted mounts: ours is never it.
_DOMAIN: Final = b"sealift/gramine/seal-key/v1\x00"


class RawFile(Protocol):
    """An open file, unbuffered: each call is one system call."""

    def read(self, size: int, /) -> bytes | None:
        """At most ``size`` bytes; empty at the end."""

    def write(self, data: bytes, /) -> int | None:
        """How many bytes were taken."""

    def close(self) -> None:
        """Let go of it."""


Opener = Callable[[str, str], RawFile]


def open_device(path: str, mode: str) -> RawFile:
    """Open a device file, ``"r"`` or ``"w"``; nothing is ever created.

    Raises:
        OSError: It is not there, or may not be opened so.
    """
    flags = os.O_WRONLY | os.O_TRUNC if mode == "w" else os.O_RDONLY
    return os.fdopen(
        os.open(path, flags | os.O_CLOEXEC), "wb" if mode == "w" else "rb", buffering=0
    )


class GramineSgx:
    """The port by Gramine's files.

    Guarantees that a quote is over exactly the asked bytes and of this very enclave,
    that identity comes from the CPU's report and never from the host, and that no
    key is the one that Gramine mounts files with.

    Args:
        root: The folder of the files.
        opener: Opens one of them.

    Raises:
        PlatformRefusedError: Not under Gramine, not on SGX, without DCAP, or a debug
            enclave, whose memory its host reads.
        PlatformAnswerError: The files say what they cannot.
    """

    def __init__(
        self, root: str = ATTESTATION_ROOT, *, opener: Opener = open_device
    ) -> None:
        self._root = root
        self._opener = opener
        self._lock = threading.Lock()
        kind = self._read("attestation_type", limit=16)
        if kind != _DCAP:
            raise PlatformRefusedError(
                "Gramine attests here by nothing that Sealift verifies",
                got=kind.decode(errors="replace"),
                expected="dcap",
                hint='The manifest must say sgx.remote_attestation = "dcap".',
            )
        report = self._report()
        if report.debug:
            raise PlatformRefusedError(
                "a debug enclave: its host can read its memory",
                got="DEBUG is set",
                hint="Sign it with sgx.debug = false.",
            )

    def identity(self) -> IdentityReply:
        """Who this process is, by a report of the CPU to itself.

        Raises:
            PlatformRefusedError: There is no report.
            PlatformAnswerError: It has another form.
        """
        report = self._report()
        return IdentityReply(
            kind=GRAMINE_KIND,
            mrenclave=report.mr_enclave,
            mrsigner=report.mr_signer,
            isv_prod_id=report.isv_prod_id,
            isv_svn=report.isv_svn,
            cpu_svn=report.cpu_svn,
        )

    def quote(self, report_data: bytes) -> bytes:
        """A DCAP quote over 64 bytes.

        1. Under the lock, the report data is written in one piece and the quote
           opened. 2. It is a quote. 3. It is over these bytes. 4. It is of this
           enclave.

        Raises:
            PlatformRefusedError: There is none: no quoting enclave answers.
            PlatformAnswerError: Steps 2 to 4.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise PlatformRefusedError(
                "report data has another length",
                got=f"{len(report_data)} B",
                expected=f"{REPORT_DATA_BYTES} B",
            )
        with self._lock:
            self._write("user_report_data", report_data)  # 1
            quote = self._read("quote", limit=MAX_QUOTE_BYTES)
        me = self._report()
        try:
            said = parse_quote(quote).report  # 2
        except QuoteFormatError as error:
            raise PlatformAnswerError(f"Gramine gave no quote: {error}") from error
        if said.report_data != report_data:  # 3
            raise PlatformAnswerError(
                "the quote is over other report data",
                got=said.report_data,
                expected=report_data.hex(),
                hint="Somebody else in this process writes to user_report_data.",
            )
        if not isinstance(said, ReportBody) or said.mr_enclave != me.mr_enclave:  # 4
            raise PlatformAnswerError("the quote is of another enclave")
        return quote

    def seal_key(
        self, label: bytes, *, cpu_svn: bytes | None, isv_svn: int | None
    ) -> SealKeyReply:
        """A sealing key for this MRENCLAVE at the current level.

        Gramine asks the CPU for the current CPUSVN and ISV_SVN only (facts §3.8).

        Raises:
            SealingLevelError: Another level was asked for: that key cannot be had.
            PlatformRefusedError: There is no key.
            PlatformAnswerError: It has another form.
        """
        now = self._report()
        asked = (
            now.cpu_svn if cpu_svn is None else cpu_svn,
            now.isv_svn if isv_svn is None else isv_svn,
        )
        if asked != (now.cpu_svn, now.isv_svn):
            raise SealingLevelError(
                "Gramine gives sealing keys of the current level only",
                got=f"CPUSVN {asked[0].hex()}, ISV_SVN {asked[1]}",
                expected=f"CPUSVN {now.cpu_svn.hex()}, ISV_SVN {now.isv_svn}",
            )
        raw = self._read("keys/_sgx_mrenclave", limit=_KEY_BYTES)
        if len(raw) != _KEY_BYTES or not any(raw):
            raise PlatformAnswerError(
                "Gramine gave no sealing key",
                got=f"{len(raw)} B{'' if any(raw) else ', all zero'}",
                expected=f"{_KEY_BYTES} B",
            )
        return SealKeyReply(
            key=hkdf(raw, info=_DOMAIN + label),
            cpu_svn=now.cpu_svn,
            isv_svn=now.isv_svn,
        )

    def _report(self) -> ReportBody:
        """The CPU's report of this enclave, made for this enclave."""
        with self._lock:
            me = self._read("my_target_info", limit=_TARGET_INFO_BYTES)
            self._write("target_info", me)
            self._write("user_report_data", bytes(REPORT_DATA_BYTES))
            report = self._read("report", limit=_REPORT_BYTES)
        if len(me) != _TARGET_INFO_BYTES or len(report) != _REPORT_BYTES:
            raise PlatformAnswerError(
                "Gramine's report has another form",
                got=f"{len(me)} B and {len(report)} B",
                expected=f"{_TARGET_INFO_BYTES} B and {_REPORT_BYTES} B",
            )
        return parse_report_body(report[:REPORT_BODY_BYTES])

    def _read(self, name: str, *, limit: int) -> bytes:
        """A whole file, however it is cut into reads.

        Raises:
            PlatformRefusedError: It is not there or cannot be read.
            PlatformAnswerError: It is larger than it can be.
        """
        data = b""
        try:
            file = self._opener(f"{self._root}/{name}", "r")
            try:
                while piece := file.read(limit + 1 - len(data)):
                    data += piece
                    if len(data) > limit:
                        raise PlatformAnswerError(
                            f"Gramine's {name} is too large", expected=f"≤ {limit} B"
                        )
            finally:
                file.close()
        except OSError as error:
            raise self._missing(name, error) from error
        return data

    def _write(self, name: str, data: bytes) -> None:
        """All bytes in one write: each write replaces the whole buffer.

        Raises:
            PlatformRefusedError: It is not there or cannot be written.
            PlatformAnswerError: Only a part was taken.
        """
        try:
            file = self._opener(f"{self._root}/{name}", "w")
            try:
                taken = file.write(data)
            finally:
                file.close()
        except OSError as error:
            raise self._missing(name, error) from error
        if taken != len(data):
            raise PlatformAnswerError(
                f"Gramine took a part of {name}",
                got=f"{taken} B",
                expected=f"{len(data)} B in one piece",
            )

    def _missing(self, name: str, error: OSError) -> PlatformRefusedError:
        return PlatformRefusedError(
            f"{self._root}/{name} cannot be used ({error.strerror or error})",
            hint="The enclave must run under gramine-sgx, with DCAP.",
        )
