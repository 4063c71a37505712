"""A simulated Intel: root, PCK CA, TCB signing, and what they publish.

Everything it signs has Intel's real form under a root of its own, so the same
verifier judges simulated and real evidence (DESIGN §6). It protects nobody:
its keys lie unencrypted in a folder.
"""

import datetime as dt
import json
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from sealift.base import UnixSeconds
from sealift.crypto import sha256

from . import _pki
from ._errors import SimStateError
from ._state import IntelState, QeLevel, TcbLevel, load, locked, store

#: "SIM" and a number: no processor of Intel's has it.
FMSPC = b"SIM\x00\x00\x01"
PCE_SVN = 13
#: What a new machine has, and what TCB info calls up to date at the start.
FIRST_CPU_SVN = bytes([2, 2, 2, 2, 3, 1, 0, 3]) + bytes(8)
FIRST_QE_SVN = 8
FIRST_EVALUATION = 1
#: MRSIGNER and product of the simulated quoting enclave.
QE_MRSIGNER = sha256(b"sealift/insecure-sim/qe-mrsigner")
QE_PROD_ID = 1
#: How long collateral is good, unless told otherwise: 30 days.
COLLATERAL_SECONDS = 30 * 86400

_BIRTH = int(_pki.NOT_BEFORE.timestamp())
_FILE = "intel.json"

SimTcbStatus: TypeAlias = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]


class SimIntel:
    """One simulated Intel, shared by all machines of a folder.

    Args:
        folder: Where it lives; made, with new keys, if it is not there.

    Raises:
        SimStateError: The folder holds something that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with locked(folder):
            if load(folder / _FILE, IntelState) is None:
                store(folder / _FILE, _found())

    @property
    def root_der(self) -> bytes:
        """The root certificate: the trust anchor of everything simulated."""
        return self.state().root_cert

    @property
    def fmspc(self) -> bytes:
        """The family of processors that all simulated machines have."""
        return self.state().fmspc

    def state(self) -> IntelState:
        """What is stored now, also by other processes.

        Raises:
            SimStateError: It is gone or cannot be read.
        """
        state = load(self.folder / _FILE, IntelState)
        if state is None:
            raise SimStateError("the simulated Intel is gone", got=_FILE)
        return state

    def machines(self) -> list[str]:
        """The names of the machines that exist, sorted."""
        return sorted(path.stem for path in self.folder.glob("machines/*.json"))

    def issue_pck(
        self,
        public: ec.EllipticCurvePublicKey,
        *,
        ppid: bytes,
        instance: bytes,
        cpu_svn: bytes,
        pce_svn: int,
    ) -> bytes:
        """A PCK certificate for one machine at one TCB, DER."""
        state = self.state()
        extension = _pki.sgx_extension(
            ppid=ppid,
            cpu_svn=cpu_svn,
            pce_svn=pce_svn,
            fmspc=state.fmspc,
            instance=instance,
        )
        return _pki.pck_certificate(public, state.ca_cert, state.ca_key, extension)

    # --- what it publishes ---

    def collateral(
        self, *, now: UnixSeconds, lifetime: int = COLLATERAL_SECONDS
    ) -> dict[str, str]:
        """Collateral issued at ``now``: the JSON fields of QuoteCollateralV3.

        Args:
            now: Issue date, Unix seconds.
            lifetime: Seconds until next update.
        """
        state = self.state()
        issued = dt.datetime.fromtimestamp(now, dt.UTC)
        until = issued + dt.timedelta(seconds=lifetime)
        root_crl = _pki.revocation_list(
            state.root_cert,
            state.root_key,
            revoked=state.revoked_cas,
            number=state.crl_number,
            issued=issued,
            until=until,
        )
        pck_crl = _pki.revocation_list(
            state.ca_cert,
            state.ca_key,
            revoked=state.revoked_pcks,
            number=state.crl_number,
            issued=issued,
            until=until,
        )
        dates = {"issueDate": _iso(issued), "nextUpdate": _iso(until)}
        tcb_info = _tcb_info(state, dates)
        qe_identity = _qe_identity(state, dates)
        key = _pki.load_key(state.tcb_key)
        signers = _pki.pem_chain(state.tcb_cert, state.root_cert)
        return {
            "pck_crl_issuer_chain": _pki.pem_chain(state.ca_cert, state.root_cert),
            "root_ca_crl": root_crl.hex(),
            "pck_crl": pck_crl.hex(),
            "tcb_info_issuer_chain": signers,
            "tcb_info": tcb_info,
            "tcb_info_signature": sign_p256(key, tcb_info.encode()).hex(),
            "qe_identity_issuer_chain": signers,
            "qe_identity": qe_identity,
            "qe_identity_signature": sign_p256(key, qe_identity.encode()).hex(),
        }

    def collateral_json(
        self, *, now: UnixSeconds, lifetime: int = COLLATERAL_SECONDS
    ) -> bytes:
        """:meth:`collateral` as JSON text."""
        return json.dumps(self.collateral(now=now, lifetime=lifetime)).encode()

    # --- what can be rehearsed ---

    def tcb_recovery(self, *, now: UnixSeconds, advisories: tuple[str, ...]) -> bytes:
        """A vulnerability is published and a microcode update is out.

        Every earlier level that was not revoked is OutOfDate from now on, with
        these advisories; the evaluation number rises by one.

        Returns:
            The CPUSVN (16 bytes) that is up to date now.
        """
        with locked(self.folder):
            state = self.state()
            newest = state.levels[0].cpu_svn
            cpu_svn = bytes((newest[0] + 1, newest[1] + 1)) + newest[2:]
            fresh = TcbLevel(
                cpu_svn=cpu_svn, pce_svn=PCE_SVN, date=now, status="UpToDate"
            )
            old = tuple(_outdated(level, advisories) for level in state.levels)
            self._change(state, levels=(fresh, *old), evaluation=state.evaluation + 1)
        return cpu_svn

    def qe_recovery(self, *, now: UnixSeconds, advisories: tuple[str, ...]) -> int:
        """A new quoting enclave is out; the earlier ones are OutOfDate.

        Returns:
            The QE's ISV_SVN that is up to date now.
        """
        with locked(self.folder):
            state = self.state()
            isv_svn = state.qe_levels[0].isv_svn + 1
            fresh = QeLevel(isv_svn=isv_svn, date=now, status="UpToDate")
            old = tuple(
                msgspec.structs.replace(
                    level,
                    status="OutOfDate",
                    advisories=_union(level.advisories, advisories),
                )
                for level in state.qe_levels
            )
            self._change(
                state, qe_levels=(fresh, *old), evaluation=state.evaluation + 1
            )
        return isv_svn

    def set_tcb_status(
        self,
        status: SimTcbStatus,
        *,
        advisories: tuple[str, ...] = (),
        cpu_svn: bytes | None = None,
    ) -> None:
        """Say what a TCB level is worth; by default the newest.

        The evaluation number rises by one.

        Raises:
            SimStateError: TCB info has no level with this CPUSVN.
        """
        with locked(self.folder):
            state = self.state()
            wanted = cpu_svn or state.levels[0].cpu_svn
            if wanted not in {level.cpu_svn for level in state.levels}:
                raise SimStateError(
                    "no TCB level has this CPUSVN",
                    got=wanted,
                    expected=[level.cpu_svn.hex() for level in state.levels],
                )
            levels = tuple(
                msgspec.structs.replace(level, status=status, advisories=advisories)
                if level.cpu_svn == wanted
                else level
                for level in state.levels
            )
            self._change(state, levels=levels, evaluation=state.evaluation + 1)

    def revoke_pck(self, certificate: bytes) -> None:
        """Put a machine's PCK certificate (DER) on the Platform CA's CRL."""
        with locked(self.folder):
            state = self.state()
            revoked = _union(state.revoked_pcks, (_pki.serial_of(certificate),))
            self._change(state, revoked_pcks=revoked, crl_number=state.crl_number + 1)

    def revoke_platform_ca(self) -> None:
        """Put the PCK Platform CA itself on the root's CRL."""
        with locked(self.folder):
            state = self.state()
            revoked = _union(state.revoked_cas, (_pki.serial_of(state.ca_cert),))
            self._change(state, revoked_cas=revoked, crl_number=state.crl_number + 1)

    def _change(self, state: IntelState, **changes: object) -> None:
        store(self.folder / _FILE, msgspec.structs.replace(state, **changes))


def sign_p256(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 with SHA-256, as r || s (64 bytes)."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _found() -> IntelState:
    root, ca, tcb = _pki.new_key(), _pki.new_key(), _pki.new_key()
    root_pem = _pki.key_pem(root)
    root_cert = _pki.root_certificate(root)
    return IntelState(
        root_key=root_pem,
        root_cert=root_cert,
        ca_key=_pki.key_pem(ca),
        ca_cert=_pki.ca_certificate(ca.public_key(), root_cert, root_pem),
        tcb_key=_pki.key_pem(tcb),
        tcb_cert=_pki.tcb_certificate(tcb.public_key(), root_cert, root_pem),
        fmspc=FMSPC,
        evaluation=FIRST_EVALUATION,
        crl_number=1,
        levels=(
            TcbLevel(
                cpu_svn=FIRST_CPU_SVN, pce_svn=PCE_SVN, date=_BIRTH, status="UpToDate"
            ),
        ),
        qe_levels=(QeLevel(isv_svn=FIRST_QE_SVN, date=_BIRTH, status="UpToDate"),),
    )


def _outdated(level: TcbLevel, advisories: tuple[str, ...]) -> TcbLevel:
    if level.status == "Revoked":
        return level
    return msgspec.structs.replace(
        level, status="OutOfDate", advisories=_union(level.advisories, advisories)
    )


def _union(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*left, *right)))


def _tcb_info(state: IntelState, dates: dict[str, str]) -> str:
    levels = [
        {
            "tcb": {
                "sgxtcbcomponents": [{"svn": svn} for svn in level.cpu_svn],
                "pcesvn": level.pce_svn,
            },
            **_worth(level),
        }
        for level in state.levels
    ]
    return _json(
        {
            "id": "SGX",
            "version": 3,
            **dates,
            "fmspc": state.fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": state.evaluation,
            "tcbLevels": levels,
        }
    )


def _qe_identity(state: IntelState, dates: dict[str, str]) -> str:
    return _json(
        {
            "id": "QE",
            "version": 2,
            **dates,
            "tcbEvaluationDataNumber": state.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_MRSIGNER.hex().upper(),
            "isvprodid": QE_PROD_ID,
            "tcbLevels": [
                {"tcb": {"isvsvn": level.isv_svn}, **_worth(level)}
                for level in state.qe_levels
            ],
        }
    )


def _worth(level: TcbLevel | QeLevel) -> dict[str, object]:
    worth: dict[str, object] = {
        "tcbDate": _iso(dt.datetime.fromtimestamp(level.date, dt.UTC)),
        "tcbStatus": level.status,
    }
    if level.advisories:
        worth["advisoryIDs"] = list(level.advisories)
    return worth


def _iso(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
