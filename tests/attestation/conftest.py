"""The DCAP vectors, parsed once, and a policy that accepts anything genuine."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from sealift.attestation import (
    Collateral,
    TrustAnchor,
    parse_collateral,
    parse_trust_anchor,
)
from sealift.insecure_sim import SimIntel
from sealift.insecure_sim._intel import FIRST_CPU_SVN, FIRST_QE_SVN, sign_p256
from sealift.insecure_sim._quote import QuotingEnclave, ReportFields


@dataclass(frozen=True)
class Case:
    """One case of the DCAP vectors, with its files."""

    id: str
    now: int
    strict: str
    advisories: tuple[str, ...]
    quote: bytes
    collateral_json: bytes
    root: bytes

    @property
    def collateral(self) -> Collateral:
        return parse_collateral(self.collateral_json)

    @property
    def anchor(self) -> TrustAnchor:
        return parse_trust_anchor(self.root)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"collateral": self.collateral, "root": self.anchor, "now": self.now}


@pytest.fixture(scope="session")
def case(vectors: Path) -> Callable[[str], Case]:
    """``case(id)``: a DCAP case by its id or the beginning of it."""
    folder = vectors / "dcap"
    raw = json.loads((folder / "cases.json").read_text())
    cases = {
        each["id"]: Case(
            id=each["id"],
            now=each["now"],
            strict=each["strict"],
            advisories=tuple(sorted(each["dcap_qvl_0.7.0"].get("advisories", ()))),
            quote=(folder / each["quote"]).read_bytes(),
            collateral_json=(folder / each["collateral"]).read_bytes(),
            root=(folder / each["root"]).read_bytes(),
        )
        for each in raw
    }

    def find(start: str) -> Case:
        (found,) = (name for name in cases if name.startswith(start))
        return cases[found]

    return find


@dataclass(frozen=True)
class Lenient:
    """A policy that accepts every status; tests narrow it."""

    accepted_tcb_statuses: tuple[str, ...] = (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    )
    rejected_advisories: tuple[str, ...] = ()
    min_tcb_evaluation_number: int = 0
    max_age_blocks: int = 100
    not_before: int = 0


@pytest.fixture
def lenient() -> type[Lenient]:
    """The class of the lenient policy."""
    return Lenient


class Sim:
    """A simulated Intel and one machine's quoting enclave, with forging tools.

    Everything it signs is signed with the right keys unless a test takes others,
    so that a refusal is due to the one thing that the test changed.
    """

    now = 1_800_000_000

    def __init__(self, folder: Path) -> None:
        self.intel = SimIntel(folder)
        self.state = self.intel.state()
        self.root = parse_trust_anchor(self.intel.root_der)
        self.pck_key = ec.generate_private_key(ec.SECP256R1())
        self.attestation_key = ec.generate_private_key(ec.SECP256R1())
        self.ppid = bytes(range(16))
        self.pck = self.issue_pck(FIRST_CPU_SVN)

    def issue_pck(self, cpu_svn: bytes, instance: bytes = bytes(16)) -> bytes:
        return self.intel.issue_pck(
            self.pck_key.public_key(),
            ppid=self.ppid,
            instance=instance,
            cpu_svn=cpu_svn,
            pce_svn=13,
        )

    def pem(self, *ders: bytes) -> str:
        return "".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
            for der in ders
        )

    def quote(
        self,
        report_data: bytes = bytes(64),
        *,
        flags: int = 0x05,
        chain: str | None = None,
        pck: bytes | None = None,
        auth_data: bytes = bytes(32),
        **fields: Any,
    ) -> bytes:
        enclave = QuotingEnclave(
            cpu_svn=FIRST_CPU_SVN,
            pce_svn=13,
            qe_svn=FIRST_QE_SVN,
            auth_data=auth_data,
            attestation_key=self.attestation_key,
            pck_key=self.pck_key,
            certificates=chain
            or self.pem(pck or self.pck, self.state.ca_cert, self.state.root_cert),
        )
        values: dict[str, Any] = {
            "cpu_svn": FIRST_CPU_SVN,
            "flags": flags,
            "xfrm": 3,
            "mrenclave": bytes([0xAA]) * 32,
            "mrsigner": bytes([0xBB]) * 32,
            "isv_prod_id": 7,
            "isv_svn": 3,
            "report_data": report_data,
        }
        return enclave.quote(ReportFields(**(values | fields)))

    def collateral(self, *, now: int | None = None, **changes: Any) -> Collateral:
        """Collateral of this moment, with fields replaced."""
        made = parse_collateral(self.intel.collateral_json(now=now or self.now))
        return msgspec.structs.replace(made, **changes)

    def resigned_info(self, key: Any = None, **changes: Any) -> dict[str, Any]:
        """TCB info with fields changed, validly signed (by ``key``)."""
        info = json.loads(self.collateral().tcb_info) | changes
        return self._signed("tcb_info", info, key)

    def resigned_identity(self, key: Any = None, **changes: Any) -> dict[str, Any]:
        """A QE identity with fields changed, validly signed (by ``key``)."""
        identity = json.loads(self.collateral().qe_identity) | changes
        return self._signed("qe_identity", identity, key)

    def _signed(self, name: str, value: dict[str, Any], key: Any) -> dict[str, Any]:
        text = json.dumps(value, separators=(",", ":"))
        signer = key or load_pem_private_key(self.state.tcb_key, password=None)
        return {name: text, f"{name}_signature": sign_p256(signer, text.encode())}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"collateral": self.collateral(), "root": self.root, "now": self.now}


@pytest.fixture
def sim(tmp_path: Path) -> Sim:
    """A fresh simulated Intel with one machine."""
    return Sim(tmp_path / "intel")
