"""DCAP quotes: a strict, total parser, and the SGX report body.

Source: Intel SGX ECDSA QuoteLib reference (v3), Intel TDX DCAP Quoting Library
(v4, v5), SDM vol. 3D (REPORTBODY). All integers are little-endian.
"""

import struct
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sealift.base import Fingerprint, InvariantError, MrSigner

from ._rules import Failure, QuoteFormatError, Rule, failure

#: Size of an SGX REPORTBODY.
REPORT_BODY_BYTES = 384
#: Size of the field that an enclave may fill.
REPORT_DATA_BYTES = 64
#: No quote is larger; real ones have about 5 kB.
MAX_QUOTE_BYTES = 64 * 1024
#: SGX attributes, low flag word: the enclave can be read by a debugger.
ATTRIBUTE_DEBUG = 0x02

Tee: TypeAlias = Literal["sgx", "tdx"]

_BODY = struct.Struct("<16s4sB11s16s16s32s32s32s32s64sHHH42s16s64s")
_HEADER = struct.Struct("<HHIHH16s20s")
_HEADER_BYTES = 48
_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_TEES: dict[int, Tee] = {0x00: "sgx", 0x81: "tdx"}
_ECDSA_P256 = 2
_KEY_OR_SIGNATURE = 64
_PEM_CHAIN = 5
_QE_CERTIFICATION = 6
_V3, _V4, _V5 = 3, 4, 5
_TD10, _TD15, _TD15EX = 584, 648, 885
_V5_BODIES: dict[int, int] = {1: REPORT_BODY_BYTES, 2: _TD10, 3: _TD15, 4: _TD15EX}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBody:
    """An SGX REPORTBODY (384 bytes); reserved fields are kept as they are."""

    cpu_svn: bytes
    misc_select: int
    attributes: bytes
    mr_enclave: Fingerprint
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    cet_attributes: int = 0
    isv_ext_prod_id: bytes = bytes(16)
    config_id: bytes = bytes(64)
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    reserved: tuple[bytes, bytes, bytes, bytes] = (
        bytes(11),
        bytes(32),
        bytes(32),
        bytes(42),
    )

    @property
    def debug(self) -> bool:
        """Whether the enclave's memory can be read by a debugger."""
        return bool(self.attributes[0] & ATTRIBUTE_DEBUG)

    def encode(self) -> bytes:
        """The 384 bytes; the inverse of :func:`parse_report_body`.

        Raises:
            InvariantError: A field has another size than the format's.
        """
        data = _BODY.pack(
            self.cpu_svn,
            self.misc_select.to_bytes(4, "little"),
            self.cet_attributes,
            self.reserved[0],
            self.isv_ext_prod_id,
            self.attributes,
            self.mr_enclave,
            self.reserved[1],
            self.mr_signer,
            self.reserved[2],
            self.config_id,
            self.isv_prod_id,
            self.isv_svn,
            self.config_svn,
            self.reserved[3],
            self.isv_family_id,
            self.report_data,
        )
        if parse_report_body(data) != self:  # pack pads and cuts silently
            raise InvariantError("a field of the report body has a wrong size")
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """A TDX TD report of version 1.0, 1.5 or 1.5ex: what evidence shows."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    td_attributes: bytes
    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether any bit of the TUD group (off-TD debug) is set."""
        return self.td_attributes[0] != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A parsed quote: nothing in it has been verified.

    ``signed`` is header and body, over which ``signature`` (r‖s) was made by
    ``attestation_key`` (x‖y). ``pck_chain`` is PEM text: leaf, CA, root.
    """

    version: int
    tee: Tee
    qe_svn: int
    pce_svn: int
    user_data: bytes
    report: ReportBody | TdReport
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: ReportBody
    qe_report_bytes: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes


class _Reader:
    """Cuts a byte string from the front; total."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self._data):
            raise _refusal(
                Rule.QUOTE_LENGTH, f"{len(self._data)} B", f"at least {end} B"
            )
        piece = self._data[self.offset : end]
        self.offset = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def end(self) -> None:
        if self.offset != len(self._data):
            raise _refusal(
                Rule.QUOTE_LENGTH, f"{len(self._data)} B", f"{self.offset} B"
            )


def parse_report_body(data: bytes) -> ReportBody:
    """Parse a REPORTBODY of exactly 384 bytes.

    Raises:
        QuoteFormatError: Another length.
    """
    if len(data) != REPORT_BODY_BYTES:
        raise _refusal(
            Rule.QUOTE_LENGTH, f"report body of {len(data)} B", f"{REPORT_BODY_BYTES} B"
        )
    fields = _BODY.unpack(data)
    return ReportBody(
        cpu_svn=fields[0],
        misc_select=int.from_bytes(fields[1], "little"),
        cet_attributes=fields[2],
        isv_ext_prod_id=fields[4],
        attributes=fields[5],
        mr_enclave=Fingerprint(fields[6]),
        mr_signer=MrSigner(fields[8]),
        config_id=fields[10],
        isv_prod_id=fields[11],
        isv_svn=fields[12],
        config_svn=fields[13],
        isv_family_id=fields[15],
        report_data=fields[16],
        reserved=(fields[3], fields[7], fields[9], fields[14]),
    )


def parse_quote(data: bytes) -> Quote:
    """Parse a DCAP quote: SGX version 3, TDX versions 4 and 5.

    Strict: exact total length, ECDSA-P256, Intel's QE, certification data with
    the PCK chain inside. Total: any bytes give a quote or the error.

    Raises:
        QuoteFormatError: With the one rule at which parsing stopped.
    """
    if len(data) > MAX_QUOTE_BYTES:
        raise _refusal(Rule.QUOTE_LENGTH, f"{len(data)} B", f"≤ {MAX_QUOTE_BYTES} B")
    reader = _Reader(data)
    version, key_type, tee_type, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(
        reader.take(_HEADER_BYTES)
    )
    tee = _check_header(version, key_type, tee_type, vendor)
    body = reader.take(_body_size(version, tee, reader))
    signed = data[: reader.offset]
    section = _Reader(reader.take(reader.number(4)))
    reader.end()
    signature = section.take(_KEY_OR_SIGNATURE)
    attestation_key = section.take(_KEY_OR_SIGNATURE)
    if version != _V3:
        _expect_type(section, _QE_CERTIFICATION)
        inner = _Reader(section.take(section.number(4)))
        section.end()
        section = inner
    qe_report = section.take(REPORT_BODY_BYTES)
    qe_signature = section.take(_KEY_OR_SIGNATURE)
    auth_data = section.take(section.number(2))
    _expect_type(section, _PEM_CHAIN)
    chain = section.take(section.number(4))
    section.end()
    return Quote(
        version=version,
        tee=tee,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        user_data=user_data,
        report=parse_report_body(body) if tee == "sgx" else _parse_td_report(body),
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=parse_report_body(qe_report),
        qe_report_bytes=qe_report,
        qe_report_signature=qe_signature,
        qe_auth_data=auth_data,
        pck_chain=chain.rstrip(b"\x00"),
    )


def _check_header(version: int, key_type: int, tee_type: int, vendor: bytes) -> Tee:
    wrong: list[Failure] = []
    if version not in {_V3, _V4, _V5}:
        wrong.append(failure(Rule.QUOTE_VERSION, version, "3, 4 or 5"))
    if key_type != _ECDSA_P256:
        wrong.append(
            failure(Rule.ATTESTATION_KEY_TYPE, key_type, f"{_ECDSA_P256} (ECDSA P-256)")
        )
    if vendor != _QE_VENDOR:
        wrong.append(failure(Rule.QE_VENDOR, vendor, _QE_VENDOR))
    tee = _TEES.get(tee_type)
    # Version 3 is SGX. Version 4 with an SGX body is refused by dcap-qvl as well.
    if tee is None or (version == _V3) != (tee == "sgx"):
        wrong.append(
            failure(
                Rule.TEE_TYPE, f"type {tee_type} in version {version}", "3 SGX, 4/5 TDX"
            )
        )
    if wrong or tee is None:
        raise QuoteFormatError("not a readable quote", wrong)
    return tee


def _body_size(version: int, tee: Tee, reader: _Reader) -> int:
    if version == _V3:
        return REPORT_BODY_BYTES
    if version == _V4:
        return _TD10
    kind, size = reader.number(2), reader.number(4)
    if _V5_BODIES.get(kind) != size or (kind == 1) != (tee == "sgx"):
        raise _refusal(
            Rule.QUOTE_FORMAT, f"body type {kind} of {size} B", "type and size that fit"
        )
    return size


def _expect_type(section: _Reader, wanted: int) -> None:
    kind = section.number(2)
    if kind != wanted:
        raise _refusal(Rule.QUOTE_FORMAT, f"certification data {kind}", wanted)


def _parse_td_report(body: bytes) -> TdReport:
    return TdReport(
        tee_tcb_svn=body[0:16],
        mr_seam=body[16:64],
        td_attributes=body[120:128],
        mr_td=body[136:184],
        rtmrs=(body[328:376], body[376:424], body[424:472], body[472:520]),
        report_data=body[520:584],
    )


def _refusal(rule: Rule, got: object, expected: object) -> QuoteFormatError:
    return QuoteFormatError("not a readable quote", [failure(rule, got, expected)])
