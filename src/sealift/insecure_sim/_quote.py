"""DCAP quote v3, written as Intel's quoting enclave does (facts/attestation §3)."""

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from sealift.bundle import ATTRIBUTE_DEBUG
from sealift.crypto import sha256

from ._intel import QE_MRSIGNER, QE_PROD_ID, sign_p256
from ._pki import raw_public

ATTRIBUTE_INIT = 0x1
_QE_FLAGS = 0x11  # INIT, PROVISION_KEY
_XFRM = 0x3
_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_QE_MRENCLAVE = sha256(b"sealift/insecure-sim/qe-mrenclave")
_ECDSA_P256 = 2
_PEM_CHAIN = 5

#: cpu svn, misc select, reserved + ext prod id, attributes, MRENCLAVE, -,
#: MRSIGNER, - and config id, prod id, svn, config svn and family, report data.
_BODY = struct.Struct("<16sI28sQQ32s32s32s96sHH60s64s")
_HEADER = struct.Struct("<HHIHH16s20s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFields:
    """What a report says of an enclave; ``flags`` and ``xfrm`` are ATTRIBUTES."""

    cpu_svn: bytes
    flags: int
    xfrm: int
    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes

    def encode(self) -> bytes:
        """The 384 bytes of the report body."""
        return _BODY.pack(
            self.cpu_svn, 0, b"", self.flags, self.xfrm, self.mrenclave, b"",
            self.mrsigner, b"", self.isv_prod_id, self.isv_svn, b"", self.report_data,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotingEnclave:
    """The QE of one machine: its keys, versions and certificates.

    ``certificates`` is the PEM text of PCK, CA and root; ``auth_data`` 32 bytes.
    """

    cpu_svn: bytes
    pce_svn: int
    qe_svn: int
    auth_data: bytes
    attestation_key: ec.EllipticCurvePrivateKey
    pck_key: ec.EllipticCurvePrivateKey
    certificates: str

    def quote(self, report: ReportFields) -> bytes:
        """A signed quote over a report of this machine."""
        signed = self._header() + report.encode()
        public = raw_public(self.attestation_key)
        qe_report = ReportFields(
            cpu_svn=self.cpu_svn,
            flags=_QE_FLAGS,
            xfrm=_XFRM,
            mrenclave=_QE_MRENCLAVE,
            mrsigner=QE_MRSIGNER,
            isv_prod_id=QE_PROD_ID,
            isv_svn=self.qe_svn,
            report_data=sha256(public + self.auth_data),
        ).encode()
        chain = self.certificates.encode() + b"\0"
        signature = b"".join(
            (
                sign_p256(self.attestation_key, signed),
                public,
                qe_report,
                sign_p256(self.pck_key, qe_report),
                struct.pack("<H", len(self.auth_data)),
                self.auth_data,
                struct.pack("<HI", _PEM_CHAIN, len(chain)),
                chain,
            )
        )
        return signed + struct.pack("<I", len(signature)) + signature

    def _header(self) -> bytes:
        user_data = sha256(b"qe-id" + self.auth_data)[:16]
        return _HEADER.pack(
            3, _ECDSA_P256, 0, self.qe_svn, self.pce_svn, _VENDOR, user_data
        )


def flags_of(wanted: int, *, debug: bool) -> int:
    """ATTRIBUTES.FLAGS of a running enclave."""
    return wanted | ATTRIBUTE_INIT | (ATTRIBUTE_DEBUG if debug else 0)
