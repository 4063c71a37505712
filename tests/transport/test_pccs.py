"""A PCCS that is honest, and every way in which one can lie."""

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import dcap_qvl
import pytest
from aiohttp import web

from sealift.attestation import (
    CollateralMarks,
    Rule,
    TrustAnchor,
    VerifiedCollateral,
    parse_collateral,
    parse_trust_anchor,
    quote_fmspc,
    quote_pck_ca,
    verify_quote,
)
from sealift.base import UnixSeconds
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.crypto import rsa_generate, system_entropy
from sealift.insecure_sim import SimIntel, SimMachine, pccs_app
from sealift.transport.http import serve
from sealift.transport.pccs import (
    PccsAnswerError,
    PccsClient,
    PccsUnreachableError,
    PccsUrlError,
    pccs_url,
)

NOW = 1_790_000_000
API = "/sgx/certification/v4"
Change = Callable[[web.Request, web.Response], Awaitable[web.StreamResponse]]


@pytest.fixture
def intel(tmp_path: Path) -> SimIntel:
    return SimIntel(tmp_path / "sim")


def root_of(intel: SimIntel) -> TrustAnchor:
    return TrustAnchor(root_der=intel.root_der, kind="insecure-sim")


async def asked(
    app: web.Application, intel: SimIntel, **changes: Any
) -> VerifiedCollateral:
    words: dict[str, Any] = {
        "fmspc": intel.fmspc,
        "ca": "platform",
        "roots": (root_of(intel),),
        "now": UnixSeconds(NOW),
        "known": None,
    } | changes
    async with serve(app) as where, aiohttp.ClientSession() as http:
        return await PccsClient(where.url, http).verified_collateral(
            words.pop("fmspc"), words.pop("ca"), **words
        )


def ask(intel: SimIntel, **changes: Any) -> VerifiedCollateral:
    return asyncio.run(asked(pccs_app(intel, now=lambda: NOW), intel, **changes))


def lying(intel: SimIntel, path: str, change: Change) -> web.Application:
    """The honest PCCS, but for one of its answers."""

    @web.middleware
    async def lie(request: web.Request, handler: Any) -> web.StreamResponse:
        honest = await handler(request)
        if request.path == API + path:
            return await change(request, honest)
        return honest

    app = pccs_app(intel, now=lambda: NOW)
    app.middlewares.append(lie)
    return app


def refused(
    intel: SimIntel, path: str, change: Change, **words: Any
) -> frozenset[Rule]:
    with pytest.raises(PccsAnswerError) as error:
        asyncio.run(asked(lying(intel, path, change), intel, **words))
    assert "the PCCS at http://127.0.0.1" in str(error.value)
    return error.value.rules


def text_changed(old: str, new: str) -> Change:
    async def change(_: web.Request, honest: web.Response) -> web.Response:
        assert old in (honest.text or "")
        return web.Response(
            text=(honest.text or "").replace(old, new),
            headers={n: v for n, v in honest.headers.items() if "Chain" in n},
        )

    return change


def replaced(body: bytes, **headers: str) -> Change:
    async def change(_: web.Request, honest: web.Response) -> web.Response:
        chains = {n: v for n, v in honest.headers.items() if "Chain" in n}
        return web.Response(body=body, headers=chains | headers)

    return change


def dated(intel: SimIntel, now: int, name: str) -> bytes:
    """An answer as it was, or will be, at another time."""
    found = intel.collateral(now=UnixSeconds(now))
    if name == "tcbInfo":
        value, signature = found["tcb_info"], found["tcb_info_signature"]
    elif name == "enclaveIdentity":
        value, signature = found["qe_identity"], found["qe_identity_signature"]
    else:
        return found[name].encode()
    return f'{{"{name}":{value},"signature":"{signature}"}}'.encode()


# --- honest ---


def test_the_simulators_pccs_gives_what_judges_its_quotes(
    intel: SimIntel,
) -> None:
    machine = SimMachine(intel, "one", entropy=system_entropy)
    measured = measure({"app/a.py": b"x"})
    tbs = make_tbs(measured, isv_prod_id=1, isv_svn=1, date=dt.date(2026, 1, 1))
    identity = machine.einit(measured, sign_sigstruct(tbs, rsa_generate()))
    evidence = machine.quote(identity, bytes(64))
    assert quote_pck_ca(evidence) == "platform"
    got = ask(intel, ca=quote_pck_ca(evidence))
    assert got.fmspc == intel.fmspc
    verify_quote(evidence, collateral=got.collateral, root=root_of(intel), now=NOW)


def test_another_pccs_client_gets_the_same_from_it(intel: SimIntel) -> None:
    """dcap-qvl's own, as a second reader of the format."""
    machine = SimMachine(intel, "one", entropy=system_entropy)
    measured = measure({"app/a.py": b"x"})
    tbs = make_tbs(measured, isv_prod_id=1, isv_svn=1, date=dt.date(2026, 1, 1))
    identity = machine.einit(measured, sign_sigstruct(tbs, rsa_generate()))
    evidence = machine.quote(identity, bytes(64))

    async def fetch() -> Any:
        async with serve(pccs_app(intel, now=lambda: NOW)) as where:
            return await dcap_qvl.get_collateral(where.url, evidence)

    theirs = parse_collateral(asyncio.run(fetch()).to_json().encode())
    ours = ask(intel).collateral
    assert theirs.tcb_info == ours.tcb_info
    assert theirs.qe_identity == ours.qe_identity
    assert theirs.pck_crl_issuer_chain == ours.pck_crl_issuer_chain
    root = root_of(intel)
    verify_quote(evidence, collateral=theirs, root=root, now=UnixSeconds(NOW))


@pytest.mark.parametrize(("hexed", "path"), [(True, "/pckcrl"), (False, "/rootcacrl")])
def test_crls_are_read_as_bytes_or_as_hex(
    hexed: bool, path: str, intel: SimIntel
) -> None:
    async def other(_: web.Request, honest: web.Response) -> web.Response:
        body = bytes(honest.body or b"")  # type: ignore[arg-type]
        body = body.hex().encode() + b"\n" if hexed else bytes.fromhex(body.decode())
        chains = {n: v for n, v in honest.headers.items() if "Chain" in n}
        return web.Response(body=body, headers=chains)

    got = asyncio.run(asked(lying(intel, path, other), intel))
    assert got.marks.pck_crl_number == 1


def test_an_address_is_an_address() -> None:
    assert pccs_url("http://127.0.0.1:8081/") == "http://127.0.0.1:8081"
    assert (
        pccs_url("https://pccs.example/sgx/certification/v4/") == "https://pccs.example"
    )
    for wrong in ("", "pccs", "ftp://x", "http://", "http://x?q", "http://u:p@x",
                  "http://x:99999", "http://x/\n", "http://[::1"):  # fmt: skip
        with pytest.raises(PccsUrlError):
            pccs_url(wrong)


# --- lies ---


def test_altered_json_is_refused_by_the_signature(intel: SimIntel) -> None:
    """A level is said to be up to date; also one blank more is another text."""
    intel.set_tcb_status("OutOfDate")
    lie = text_changed('"OutOfDate"', '"UpToDate"')
    assert refused(intel, "/tcb", lie) == {Rule.TCB_INFO_SIGNATURE}
    blank = text_changed('{"tcbInfo":{"id"', '{"tcbInfo":{ "id"')
    assert refused(intel, "/tcb", blank) == {Rule.TCB_INFO_SIGNATURE}
    qe = text_changed('"isvprodid":1', '"isvprodid":2')
    assert refused(intel, "/qe/identity", qe) == {Rule.QE_IDENTITY_SIGNATURE}


def test_blanks_outside_of_what_is_signed_are_no_lie(intel: SimIntel) -> None:
    async def pretty(_: web.Request, honest: web.Response) -> web.Response:
        text = (honest.text or "").replace('{"tcbInfo":', '{ "tcbInfo" : ')
        chains = {n: v for n, v in honest.headers.items() if "Chain" in n}
        return web.Response(text=text, headers=chains)

    assert asyncio.run(asked(lying(intel, "/tcb", pretty), intel)).tee == "sgx"


@pytest.mark.parametrize(
    ("path", "name", "rule"),
    [
        ("/tcb", "tcbInfo", Rule.TCB_INFO_VALIDITY),
        ("/qe/identity", "enclaveIdentity", Rule.QE_IDENTITY_VALIDITY),
        ("/rootcacrl", "root_ca_crl", Rule.CRL_VALIDITY),
        ("/pckcrl", "pck_crl", Rule.CRL_VALIDITY),
    ],
)
@pytest.mark.parametrize("shift", [-31 * 86_400, 86_400])
def test_expired_and_future_collateral_is_refused(
    path: str, name: str, rule: Rule, shift: int, intel: SimIntel
) -> None:
    lie = replaced(dated(intel, NOW + shift, name))
    assert refused(intel, path, lie) == {rule}


def test_genuine_collateral_that_is_older_than_l1s_is_refused(
    intel: SimIntel,
) -> None:
    """A PCCS that hides a TCB recovery: all of it is signed and still valid."""
    hidden = {name: dated(intel, NOW - 120, name) for name in ("tcbInfo", "pck_crl")}
    intel.tcb_recovery(now=UnixSeconds(NOW), advisories=("INTEL-SA-1",))
    known: CollateralMarks = ask(intel).marks
    assert known.tcb_evaluation_data_number == 2
    lie = replaced(hidden["tcbInfo"])
    assert refused(intel, "/tcb", lie, known=known) == {Rule.COLLATERAL_OLDER}
    # whoever knows nothing better cannot tell: L1's own record is what says so
    asyncio.run(asked(lying(intel, "/tcb", lie), intel))
    intel.revoke_pck(SimMachine(intel, "x", entropy=system_entropy).pck_certificate)
    known = ask(intel).marks
    lie = replaced(hidden["pck_crl"])
    assert refused(intel, "/pckcrl", lie, known=known) == {Rule.COLLATERAL_OLDER}


def test_collateral_of_another_family_is_refused(intel: SimIntel) -> None:
    """Genuine TCB info, of processors that were not asked for."""

    async def any_family(request: web.Request) -> web.Response:
        found = dated(intel, NOW - 120, "tcbInfo")
        chain = quote(intel.collateral(now=UnixSeconds(NOW))["tcb_info_issuer_chain"])
        return web.Response(body=found, headers={"TCB-Info-Issuer-Chain": chain})

    @web.middleware
    async def careless(request: web.Request, handler: Any) -> web.StreamResponse:
        return await (any_family if request.path.endswith("/tcb") else handler)(request)

    app = pccs_app(intel, now=lambda: NOW)
    app.middlewares.append(careless)
    with pytest.raises(PccsAnswerError) as error:
        asyncio.run(asked(app, intel, fmspc=b"\x00\x90\x6e\xd5\x00\x00"))
    assert error.value.rules == {Rule.FMSPC}


def test_a_revocation_list_of_another_ca_is_refused(
    intel: SimIntel, tmp_path: Path
) -> None:
    root = replaced(bytes.fromhex(dated(intel, NOW - 120, "root_ca_crl").decode()))
    assert Rule.CRL_ISSUER in refused(intel, "/pckcrl", root)
    other = SimIntel(tmp_path / "other").collateral(now=UnixSeconds(NOW - 120))
    foreign = replaced(bytes.fromhex(other["pck_crl"]))
    assert refused(intel, "/pckcrl", foreign) == {Rule.CRL_SIGNATURE}

    async def careless(request: web.Request, handler: Any) -> web.StreamResponse:
        clone = request.clone(
            rel_url=str(request.rel_url).replace("processor", "platform")
        )
        return await handler(clone if "pckcrl" in request.path else request)

    app = pccs_app(intel, now=lambda: NOW)
    app.middlewares.append(web.middleware(careless))
    with pytest.raises(PccsAnswerError) as error:
        asyncio.run(asked(app, intel, ca="processor"))
    assert error.value.rules == {Rule.CRL_ISSUER}


def test_another_intels_word_is_refused(intel: SimIntel, tmp_path: Path) -> None:
    """A whole PCCS under a root of the liar's own."""
    other = SimIntel(tmp_path / "other")
    with pytest.raises(PccsAnswerError) as error:
        asyncio.run(asked(pccs_app(other, now=lambda: NOW), intel))
    assert Rule.CHAIN_ROOT in error.value.rules


def test_simulated_collateral_is_never_intels(intel: SimIntel) -> None:
    root = TrustAnchor(root_der=intel.root_der, kind="intel")
    with pytest.raises(PccsAnswerError) as error:
        ask(intel, roots=(root,))
    assert error.value.rules == {Rule.TRUST_ANCHOR}
    with pytest.raises(PccsAnswerError) as error:
        ask(intel, roots=())
    assert error.value.rules == {Rule.TRUST_ANCHOR}


@pytest.mark.parametrize("path", ["/tcb", "/qe/identity", "/pckcrl", "/rootcacrl"])
@pytest.mark.parametrize(
    "body", [b"", b"null", b"\xff" * 300, b"[" * 5000, b"{}", b"0", b"abc"]
)
def test_garbage_is_refused(path: str, body: bytes, intel: SimIntel) -> None:
    rules = refused(intel, path, replaced(body))
    assert rules <= {Rule.COLLATERAL_FORMAT, Rule.CRL_FORMAT, Rule.CRL_ISSUER}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/tcb", "TCB-Info-Issuer-Chain"),
        ("/qe/identity", "SGX-Enclave-Identity-Issuer-Chain"),
        ("/pckcrl", "SGX-PCK-CRL-Issuer-Chain"),
    ],
)
@pytest.mark.parametrize("value", [None, "", "%ff%fe", "no%20pem", "A" * 6000])
def test_a_chain_that_is_none_is_refused(
    path: str, name: str, value: str | None, intel: SimIntel
) -> None:
    async def change(_: web.Request, honest: web.Response) -> web.Response:
        headers = {} if value is None else {name: value}
        return web.Response(body=honest.body, headers=headers)

    rules = refused(intel, path, change)
    assert rules & {Rule.COLLATERAL_FORMAT, Rule.CERTIFICATE_FORMAT}


def test_a_body_without_end_is_cut_off(intel: SimIntel) -> None:
    sent = []

    async def endless(request: web.Request, _: web.Response) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            for _n in range(10_000):
                await answer.write(bytes(1 << 16))
                sent.append(1)
        except ConnectionError:
            pass
        return answer

    assert refused(intel, "/tcb", endless) == {Rule.COLLATERAL_FORMAT}
    assert len(sent) < 1000  # 64 MiB of what would have been 640


def test_a_redirect_is_not_followed(intel: SimIntel) -> None:
    """Else a PCCS could make a worker ask any address inside its network."""
    asked_there = threading.Event()

    async def elsewhere(_: web.Request) -> web.Response:
        asked_there.set()
        return web.Response(text="{}")

    async def redirect(_: web.Request, __: web.Response) -> web.Response:
        return web.Response(status=302, headers={"Location": "/secret"})

    app = lying(intel, "/tcb", redirect)
    app.router.add_get("/secret", elsewhere)
    with pytest.raises(PccsUnreachableError, match=r"HTTP 302.*redirects"):
        asyncio.run(asked(app, intel))
    assert not asked_there.is_set()


def test_a_packed_answer_is_not_unpacked(intel: SimIntel) -> None:
    """A few bytes that become gigabytes."""
    packed = replaced(b"\x1f\x8b" + bytes(30), **{"Content-Encoding": "gzip"})
    assert refused(intel, "/tcb", packed) == {Rule.COLLATERAL_FORMAT}


def test_a_slow_pccs_is_given_up(
    intel: SimIntel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.transport.pccs._SECONDS", 0.2)

    async def slow(request: web.Request, honest: web.Response) -> web.StreamResponse:
        await asyncio.sleep(2)
        return honest

    with pytest.raises(PccsUnreachableError, match="does not answer"):
        asyncio.run(asked(lying(intel, "/tcb", slow), intel))


def test_an_unknown_family_and_nobody_at_all(intel: SimIntel) -> None:
    with pytest.raises(PccsUnreachableError, match=r"/tcb: got HTTP 404"):
        ask(intel, fmspc=bytes(6))

    async def nobody() -> None:
        async with aiohttp.ClientSession() as http:
            client = PccsClient("http://127.0.0.1:1", http)
            await client.verified_collateral(
                bytes(6), "platform", roots=(), now=UnixSeconds(NOW), known=None
            )

    with pytest.raises(PccsUnreachableError, match="does not answer"):
        asyncio.run(nobody())


def test_intels_own_collateral_is_accepted_under_the_pinned_root(
    vectors: Path,
) -> None:
    """Real collateral, served as PCCS does, judged at its time."""
    folder = vectors / "dcap"
    cases = json.loads((folder / "cases.json").read_text())
    (found,) = (one for one in cases if one["id"].startswith("001-"))
    raw = json.loads((folder / found["collateral"]).read_text())
    quoted = (folder / found["quote"]).read_bytes()

    def signed(name: str, field: str) -> bytes:
        value, signature = raw[field], raw[f"{field}_signature"]
        return f'{{"{name}":{value},"signature":"{signature}"}}'.encode()

    async def answer(request: web.Request) -> web.Response:
        name = request.path.removeprefix(API)
        match name:
            case "/pckcrl":
                body = bytes.fromhex(raw["pck_crl"])
                chain = ("SGX-PCK-CRL-Issuer-Chain", raw["pck_crl_issuer_chain"])
            case "/tcb":
                body = signed("tcbInfo", "tcb_info")
                chain = ("TCB-Info-Issuer-Chain", raw["tcb_info_issuer_chain"])
            case "/qe/identity":
                body = signed("enclaveIdentity", "qe_identity")
                chain = (
                    "SGX-Enclave-Identity-Issuer-Chain",
                    raw["qe_identity_issuer_chain"],
                )
            case _:
                return web.Response(text=raw["root_ca_crl"])
        return web.Response(body=body, headers={chain[0]: quote(chain[1])})

    app = web.Application()
    app.router.add_get(API + "/{rest:.*}", answer)
    root = parse_trust_anchor((folder / found["root"]).read_bytes())

    async def fetch() -> VerifiedCollateral:
        async with serve(app) as where, aiohttp.ClientSession() as http:
            return await PccsClient(where.url, http).verified_collateral(
                quote_fmspc(quoted),
                quote_pck_ca(quoted),
                roots=(root,),
                now=UnixSeconds(found["now"]),
                known=None,
            )

    got = asyncio.run(fetch())
    assert got.anchor.kind == "intel"
    verify_quote(
        quoted, collateral=got.collateral, root=root, now=UnixSeconds(found["now"])
    )
