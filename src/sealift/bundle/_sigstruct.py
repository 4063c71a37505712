"""SIGSTRUCT: the vendor's signature over a measurement (facts/attestation §3.3).

The 256 signed bytes (*tbs*) can be signed elsewhere with stock tools::

    openssl dgst -sha256 -sign vendor.pem -out tbs.sig tbs.bin
"""

import datetime as dt
import struct
from dataclasses import dataclass, field

from sealift.base import Fingerprint, InvariantError, MrSigner
from sealift.crypto import (
    SignatureInvalidError,
    rsa_public_modulus,
    rsa_sign_pkcs1_sha256,
    rsa_verify,
    sha256,
)

from ._errors import SigstructError
from ._measure import Measurement

SIGSTRUCT_BYTES = 1808
TBS_BYTES = 256
_RSA = 384
_EXPONENT = 3

_HEADER = bytes.fromhex("06000000e10000000000010000000000")
_HEADER2 = bytes.fromhex("01010000600000006000000001000000")
#: header, vendor, date, header2, swdefined, reserved: bytes 0..127.
_FRONT = struct.Struct("<16sII16sI84s")
#: miscselect, miscmask, CET, reserved, family, attributes, mask, MRENCLAVE,
#: reserved, ext prod id, prod id, svn: bytes 900..1027.
_BODY = struct.Struct("<II4s16sQQQQ32s16s16sHH")
#: reserved, q1, q2: bytes 1028..1807.
_TAIL_AT = _FRONT.size + _RSA + 4 + _RSA + _BODY.size

ATTRIBUTE_DEBUG = 0x2
ATTRIBUTE_MODE64 = 0x4
_XFRM = 0x3
_FLAGS_MASK = 0xFFFF_FFFF_FFFF_FFFF
_XFRM_MASK = 0xFFFF_FFFF_FFFF_FF1B


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """The fields of a SIGSTRUCT; nothing about it is verified.

    ``attributes`` and ``attribute_mask`` are (flags, XFRM); numbers are as SGX
    defines them, the RSA values as integers.
    """

    vendor: int
    date: int
    mrenclave: Fingerprint
    isv_prod_id: int
    isv_svn: int
    attributes: tuple[int, int]
    attribute_mask: tuple[int, int]
    misc_select: int
    misc_mask: int
    modulus: int
    signature: int
    q1: int
    q2: int

    @property
    def mrsigner(self) -> MrSigner:
        """SHA-256 of the modulus as 384 little-endian bytes."""
        return MrSigner(sha256(self.modulus.to_bytes(_RSA, "little")))


_MADE_HERE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSigstruct:
    """A SIGSTRUCT whose form and signature hold: what EINIT believes.

    It proves who signed this measurement, never that it may run. ``date`` is
    what the vendor wrote.
    """

    mrenclave: Fingerprint
    mrsigner: MrSigner
    isv_prod_id: int
    isv_svn: int
    date: dt.date
    attributes: tuple[int, int]
    attribute_mask: tuple[int, int]
    misc_select: int
    misc_mask: int
    made_by: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.made_by is not _MADE_HERE:
            raise InvariantError("VerifiedSigstruct is made by verify_sigstruct only")


def make_tbs(
    measurement: Measurement,
    *,
    isv_prod_id: int,
    isv_svn: int,
    date: dt.date,
    vendor: int = 0,
) -> bytes:
    """The 256 bytes that a vendor signs.

    DEBUG is masked in and zero: no CPU starts such an enclave in debug mode.

    Args:
        measurement: Of the bundle's content.
        isv_prod_id: Product, 0..65535.
        isv_svn: Version, 0..65535.
        date: Build date, years 1..9999. Part of the signed bytes, so choose
            it, and do not take the clock.
        vendor: 0, or 0x8086 for Intel.
    """
    front = _FRONT.pack(_HEADER, vendor, _bcd(date), _HEADER2, 0, b"")
    body = _BODY.pack(
        0, 0xFFFF_FFFF, b"", b"", ATTRIBUTE_MODE64, _XFRM, _FLAGS_MASK, _XFRM_MASK,
        measurement.mrenclave, b"", b"", isv_prod_id, isv_svn,
    )  # fmt: skip
    return front + body


def sign_sigstruct(tbs: bytes, pem: bytes) -> bytes:
    """A SIGSTRUCT: ``tbs`` signed by a vendor key (PEM). Deterministic.

    Raises:
        SigstructError: ``tbs`` is malformed.
        RsaKeyError: Not an RSA-3072 key with exponent 3.
    """
    signature = rsa_sign_pkcs1_sha256(pem, tbs)
    return attach_signature(tbs, rsa_public_modulus(pem), signature)


def attach_signature(tbs: bytes, modulus: int, signature: bytes) -> bytes:
    """A SIGSTRUCT from a signature that was made elsewhere.

    Args:
        tbs: What :func:`make_tbs` gave.
        modulus: The vendor's public modulus, 3,072 bits.
        signature: RSA PKCS#1 v1.5 SHA-256 over ``tbs``: 384 bytes, big-endian.

    Raises:
        SigstructError: Malformed, or the signature does not hold.
    """
    if len(tbs) != TBS_BYTES or len(signature) != _RSA or modulus.bit_length() < 1:
        raise SigstructError(
            "these are not the parts of a SIGSTRUCT",
            got=f"{len(tbs)} B and {len(signature)} B",
            expected=f"{TBS_BYTES} B and {_RSA} B",
        )
    if modulus >= 1 << (_RSA * 8):
        raise SigstructError("modulus has more than 3,072 bits")
    number = int.from_bytes(signature, "big")
    q1, q2 = _quotients(number, modulus)
    data = b"".join(
        (
            tbs[: _FRONT.size],
            modulus.to_bytes(_RSA, "little"),
            _EXPONENT.to_bytes(4, "little"),
            number.to_bytes(_RSA, "little"),
            tbs[_FRONT.size :],
            bytes(12),
            (q1 % (1 << (_RSA * 8))).to_bytes(_RSA, "little"),
            (q2 % (1 << (_RSA * 8))).to_bytes(_RSA, "little"),
        )
    )
    verify_sigstruct(data)
    return data


def sigstruct_tbs(data: bytes) -> bytes:
    """The 256 signed bytes of a SIGSTRUCT.

    Raises:
        SigstructError: Not 1,808 bytes.
    """
    _check_size(data)
    start = _TAIL_AT - _BODY.size
    return data[: _FRONT.size] + data[start:_TAIL_AT]


def parse_sigstruct(data: bytes) -> Sigstruct:
    """Parse 1,808 bytes; total.

    Raises:
        SigstructError: Another size, or a constant or reserved field differs.
    """
    _check_size(data)
    header, vendor, date, header2, _sw, reserved = _FRONT.unpack_from(data)
    modulus_at = _FRONT.size
    exponent_at = modulus_at + _RSA
    signature_at = exponent_at + 4
    body = _BODY.unpack_from(data, signature_at + _RSA)
    misc, misc_mask, cet, family, flags, xfrm, flags_mask, xfrm_mask = body[:8]
    mrenclave, reserved2, ext_prod, prod_id, svn = body[8:]
    exponent = _little(data[exponent_at:signature_at])
    constants = (header, header2, exponent)
    if constants != (_HEADER, _HEADER2, _EXPONENT):
        raise SigstructError("not a SIGSTRUCT: a constant differs", got=header)
    unused = (reserved, cet, family, reserved2, ext_prod, data[_TAIL_AT:][:12])
    if any(any(part) for part in unused):
        raise SigstructError("a reserved field of the SIGSTRUCT is not zero")
    return Sigstruct(
        vendor=vendor,
        date=date,
        mrenclave=Fingerprint(mrenclave),
        isv_prod_id=prod_id,
        isv_svn=svn,
        attributes=(flags, xfrm),
        attribute_mask=(flags_mask, xfrm_mask),
        misc_select=misc,
        misc_mask=misc_mask,
        modulus=_little(data[modulus_at:exponent_at]),
        signature=_little(data[signature_at : signature_at + _RSA]),
        q1=_little(data[_TAIL_AT + 12 :][:_RSA]),
        q2=_little(data[_TAIL_AT + 12 + _RSA :]),
    )


def verify_sigstruct(data: bytes) -> VerifiedSigstruct:
    """Verify a SIGSTRUCT as EINIT does.

    1. Size, constants and reserved fields.
    2. Q1 and Q2 are the quotients that SGX wants.
    3. The RSA signature (3,072 bits, e = 3, PKCS#1 v1.5, SHA-256) holds.
    4. The date is one.

    The caller still owes: that MRENCLAVE is the measured one.

    Raises:
        SigstructError: One of these does not hold.
    """
    fields = parse_sigstruct(data)  # 1
    if fields.modulus == 0 or (fields.q1, fields.q2) != _quotients(
        fields.signature, fields.modulus
    ):  # 2
        raise SigstructError("Q1 or Q2 of the SIGSTRUCT does not fit its signature")
    signature = fields.signature.to_bytes(_RSA, "big")
    try:
        rsa_verify(fields.modulus, sigstruct_tbs(data), signature, what="SIGSTRUCT")
    except SignatureInvalidError as error:  # 3
        raise SigstructError("signature of the SIGSTRUCT is invalid") from error
    return VerifiedSigstruct(
        mrenclave=fields.mrenclave,
        mrsigner=fields.mrsigner,
        isv_prod_id=fields.isv_prod_id,
        isv_svn=fields.isv_svn,
        date=_date(fields.date),  # 4
        attributes=fields.attributes,
        attribute_mask=fields.attribute_mask,
        misc_select=fields.misc_select,
        misc_mask=fields.misc_mask,
        made_by=_MADE_HERE,
    )


def _check_size(data: bytes) -> None:
    if len(data) != SIGSTRUCT_BYTES:
        raise SigstructError(
            "SIGSTRUCT has another size",
            got=f"{len(data)} B",
            expected=f"{SIGSTRUCT_BYTES} B",
        )


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _quotients(signature: int, modulus: int) -> tuple[int, int]:
    """Q1 = ⌊s²/n⌋, Q2 = ⌊(s² mod n)·s / n⌋ (SDM Vol. 3D, SIGSTRUCT)."""
    q1, rest = divmod(signature * signature, modulus)
    return q1, rest * signature // modulus


def _bcd(date: dt.date) -> int:
    return int(f"{date.year:04d}{date.month:02d}{date.day:02d}", 16)


def _date(number: int) -> dt.date:
    digits = f"{number:08x}"
    try:
        year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
        return dt.date(year, month, day)
    except ValueError as error:
        raise SigstructError(
            "date of the SIGSTRUCT is none", got=digits, expected="yyyymmdd"
        ) from error
