"""A PCCS of the simulated Intel: its collateral in Intel's format, over HTTP.

As PCCS v4 answers (facts/attestation §1.1); it knows one family of processors.
"""

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from aiohttp import web

from sealift.base import UnixSeconds
from sealift.transport.http import make_app

from ._intel import SimIntel

_API: Final = "/sgx/certification/v4"
#: The block time lags the wall clock: what is issued must not seem to come early.
_BACKDATE_SECONDS: Final = 120


def pccs_app(intel: SimIntel, *, now: Callable[[], int]) -> web.Application:
    """The application that answers as a PCCS; collateral is issued as it is asked for.

    The four answers to one client may be issued in different seconds: each holds by
    itself.

    Args:
        intel: Whose collateral.
        now: Unix seconds.
    """

    def issued() -> dict[str, str]:
        return intel.collateral(now=UnixSeconds(now() - _BACKDATE_SECONDS))

    async def pck_crl(request: web.Request) -> web.Response:
        if request.query.get("ca") != "platform":
            raise web.HTTPNotFound
        found = issued()
        body = bytes.fromhex(found["pck_crl"])
        der = request.query.get("encoding") == "der"
        return web.Response(
            body=body if der else body.hex().encode(),
            headers={"SGX-PCK-CRL-Issuer-Chain": quote(found["pck_crl_issuer_chain"])},
        )

    async def root_crl(_: web.Request) -> web.Response:
        return web.Response(text=issued()["root_ca_crl"])

    async def tcb(request: web.Request) -> web.Response:
        if request.query.get("fmspc", "").lower() != intel.fmspc.hex():
            raise web.HTTPNotFound
        found = issued()
        text = _signed("tcbInfo", found["tcb_info"], found["tcb_info_signature"])
        return web.Response(
            body=text,
            content_type="application/json",
            headers={"TCB-Info-Issuer-Chain": quote(found["tcb_info_issuer_chain"])},
        )

    async def qe_identity(_: web.Request) -> web.Response:
        found = issued()
        text = _signed(
            "enclaveIdentity", found["qe_identity"], found["qe_identity_signature"]
        )
        chain = quote(found["qe_identity_issuer_chain"])
        return web.Response(
            body=text,
            content_type="application/json",
            headers={"SGX-Enclave-Identity-Issuer-Chain": chain},
        )

    return make_app(
        [
            web.get(f"{_API}/pckcrl", pck_crl),
            web.get(f"{_API}/rootcacrl", root_crl),
            web.get(f"{_API}/tcb", tcb),
            web.get(f"{_API}/qe/identity", qe_identity),
        ]
    )


def _signed(name: str, value: str, signature: str) -> bytes:
    """The text that was signed, byte for byte, beside its signature."""
    return f'{{"{name}":{value},"signature":"{signature}"}}'.encode()
