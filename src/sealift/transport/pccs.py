"""A PCCS as a client: Intel's collateral from a caching server that nobody trusts.

What it says proves itself under the measured root, or is refused by the name of the
rule; the ledger judges it again. The format is Intel's PCS API v4 as PCCS serves it
(facts/attestation §1.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec

from sealift.attestation import (
    AttestationError,
    Collateral,
    CollateralMarks,
    Failure,
    Rule,
    TrustAnchor,
    VerifiedCollateral,
    failure,
    verify_collateral,
    verify_not_older,
)
from sealift.base import DecodeError, SealiftError, UnixSeconds, decode, encode

#: Which of Intel's two CAs has issued a PCK certificate.
PckCa: TypeAlias = Literal["platform", "processor"]

_API: Final = "/sgx/certification/v4"
_SECONDS: Final = 20.0
_MAX_BYTES: Final = 512 * 1024
_PART_BYTES: Final = 1 << 16
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_CRL_CHAIN: Final = "SGX-PCK-CRL-Issuer-Chain"
_TCB_CHAIN: Final = "TCB-Info-Issuer-Chain"
_QE_CHAIN: Final = "SGX-Enclave-Identity-Issuer-Chain"

_Signature = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Fa-f]{128}\Z")]


class PccsUrlError(SealiftError):
    """Not the address of a PCCS."""


class PccsUnreachableError(SealiftError):
    """The PCCS does not answer, not in time, or not with what was asked for."""


class PccsAnswerError(AttestationError):
    """The PCCS lies or is behind; ``failures`` names each broken rule."""


class _TcbAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    tcb_info: msgspec.Raw
    signature: _Signature


class _QeAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    enclave_identity: msgspec.Raw
    signature: _Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    body: bytes
    headers: Mapping[str, str]


class PccsClient:
    """One PCCS.

    Its own TLS certificate is not judged, as most have one that nobody issued: whoever
    stands in between can do no more than the PCCS itself.

    Args:
        url: ``http(s)://host[:port]``, before ``/sgx/certification/v4``.
        session: The HTTP client.

    Raises:
        PccsUrlError: Not such a URL.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = pccs_url(url)
        self._session = session

    async def verified_collateral(
        self,
        fmspc: bytes,
        ca: PckCa,
        *,
        roots: Sequence[TrustAnchor],
        now: UnixSeconds,
        known: CollateralMarks | None,
    ) -> VerifiedCollateral:
        """Fetch the collateral of a family of processors, and judge it.

        1. Four answers: direct, bounded, in time, in their form.
        2. Genuine at ``now`` under one of the roots.
        3. For SGX, and for the family that was asked for.
        4. The revocation list of the CA that was asked for.
        5. Nothing in it is older than what is known.

        Args:
            fmspc: 6 bytes, from the own quote.
            ca: Which CA issued the own PCK certificate.
            roots: The measured roots.
            now: The wall clock.
            known: What L1 has already.

        Raises:
            PccsUnreachableError: Step 1: no answers.
            PccsAnswerError: Steps 1 to 5, by the rules' names.
        """
        collateral = await self._fetch(fmspc, ca)  # 1
        verified = self._judge(collateral, roots, now)  # 2
        found: list[Failure] = []
        if verified.tee != "sgx":  # 3
            found.append(failure(Rule.TEE_TYPE, verified.tee, "sgx"))
        if verified.fmspc != fmspc:
            found.append(failure(Rule.FMSPC, verified.fmspc, fmspc.hex()))
        if ca not in verified.pck_ca.lower():  # 4
            found.append(failure(Rule.CRL_ISSUER, verified.pck_ca, f"the {ca} CA"))
        if known is not None:  # 5
            try:
                verify_not_older(verified.marks, than=known)
            except AttestationError as error:
                found += error.failures
        if found:
            raise self._lies(found)
        return verified

    def _judge(
        self, collateral: Collateral, roots: Sequence[TrustAnchor], now: UnixSeconds
    ) -> VerifiedCollateral:
        found: list[Failure] = []
        for root in roots:
            try:
                return verify_collateral(collateral, root=root, now=now)
            except AttestationError as error:
                found += error.failures
        raise self._lies(found or [failure(Rule.TRUST_ANCHOR, "no root", "a root")])

    async def _fetch(self, fmspc: bytes, ca: PckCa) -> Collateral:
        crl = await self._get(f"/pckcrl?ca={ca}&encoding=der")
        root_crl = await self._get("/rootcacrl")
        tcb = await self._get(f"/tcb?fmspc={fmspc.hex().upper()}&update=standard")
        qe = await self._get("/qe/identity?update=standard")
        try:
            info = msgspec.json.decode(tcb.body, type=_TcbAnswer)
            identity = msgspec.json.decode(qe.body, type=_QeAnswer)
            collateral = Collateral(
                pck_crl_issuer_chain=self._chain(crl, _CRL_CHAIN),
                root_ca_crl=_der(root_crl.body),
                pck_crl=_der(crl.body),
                tcb_info_issuer_chain=self._chain(tcb, _TCB_CHAIN),
                tcb_info=bytes(info.tcb_info).decode(),  # exactly what was signed
                tcb_info_signature=bytes.fromhex(info.signature),
                qe_identity_issuer_chain=self._chain(qe, _QE_CHAIN),
                qe_identity=bytes(identity.enclave_identity).decode(),
                qe_identity_signature=bytes.fromhex(identity.signature),
            )
            return decode(Collateral, encode(collateral))  # checks every limit
        except (msgspec.MsgspecError, DecodeError, ValueError, RecursionError) as error:
            got = ascii(str(error)[:120])[1:-1]
            raise self._malformed(got, "PCCS v4 answers") from error

    def _chain(self, answer: _Answer, name: str) -> str:
        value = answer.headers.get(name)
        if not value:
            raise self._malformed(f"no {name}", "an issuer chain in that header")
        return unquote(value, errors="strict")

    async def _get(self, path: str) -> _Answer:
        url = self.url + _API + path
        try:
            async with self._session.get(
                url,
                allow_redirects=False,
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=_SECONDS),
                ssl=False,
            ) as answer:
                if answer.status != HTTPStatus.OK:
                    what = path.partition("?")[0]
                    raise PccsUnreachableError(
                        f"the PCCS at {self.url} does not give {what}",
                        got=f"HTTP {answer.status}",
                        expected="HTTP 200 (redirects are not followed)",
                        hint="Does it know this family of processors?",
                    )
                return _Answer(body=await self._body(answer), headers=answer.headers)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise PccsUnreachableError(
                f"the PCCS at {self.url} does not answer",
                got=ascii(str(error) or type(error).__name__)[1:-1],
                expected=f"an answer within {_SECONDS:.0f} s",
                hint="Is it running, and is --pccs right?",
            ) from error

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = b""
        async for part in answer.content.iter_chunked(_PART_BYTES):
            body += part
            if len(body) > _MAX_BYTES:
                raise self._malformed("a body without end", f"≤ {_MAX_BYTES} B")
        return body

    def _malformed(self, got: str, expected: str) -> PccsAnswerError:
        return self._lies([failure(Rule.COLLATERAL_FORMAT, got, expected)])

    def _lies(self, found: Sequence[Failure]) -> PccsAnswerError:
        return PccsAnswerError(
            f"the PCCS at {self.url} gives collateral that is refused",
            tuple(dict.fromkeys(found)),
        )


def pccs_url(text: str) -> str:
    """The address of a PCCS, without a slash at its end.

    Raises:
        PccsUrlError: Not such a URL.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        good = good and not (parts.query or parts.fragment or parts.username)
        _ = parts.port
    except ValueError:
        good = False
    if not good or not text.isprintable() or not text.isascii():
        raise PccsUrlError(
            "not the address of a PCCS",
            got=ascii(text[:100])[1:-1],
            expected="http(s)://host[:port]",
        )
    return text.rstrip("/").removesuffix(_API)


def _der(body: bytes) -> bytes:
    """A CRL, as DER or as its hexadecimal text: PCCS has given both."""
    text = body.strip()
    if text and _HEX.issuperset(text):
        return bytes.fromhex(text.decode())
    return body
