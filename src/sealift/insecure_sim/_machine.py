"""A simulated machine: fused keys, EINIT, quotes and EGETKEY.

Whoever can read its folder has its secrets; only real hardware protects.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sealift.base import Fingerprint, InvariantError, MrSigner
from sealift.bundle import Measurement, SigstructError, verify_sigstruct
from sealift.crypto import Entropy, hkdf

from . import _pki
from ._errors import EgetkeyError, EinitError, SimStateError
from ._intel import FIRST_CPU_SVN, FIRST_QE_SVN, PCE_SVN, SimIntel
from ._quote import QuotingEnclave, ReportFields, flags_of
from ._state import MachineState, load, locked, store

#: EGETKEY policies: MRENCLAVE is the one Sealift uses (DESIGN §6).
POLICIES = ("mrenclave", "mrsigner")

_SVN_BYTES = 16
_REPORT_DATA = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MADE_HERE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimIdentity:
    """An enclave that a simulated CPU has started (EINIT).

    Only :meth:`SimMachine.einit` makes it. ``flags`` and ``xfrm`` are its
    ATTRIBUTES.
    """

    mrenclave: Fingerprint
    mrsigner: MrSigner
    isv_prod_id: int
    isv_svn: int
    flags: int
    xfrm: int
    made_by: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.made_by is not _MADE_HERE:
            raise InvariantError("SimIdentity is made by SimMachine.einit only")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimKey:
    """A key that EGETKEY gave, and the SVNs that give it again."""

    key: bytes
    cpu_svn: bytes
    isv_svn: int


class SimMachine:
    """One machine of a simulated Intel; made, with new fuses, at first use.

    Args:
        intel: Who certifies it; its state lies in that folder.
        name: ``[a-z0-9-]``, at most 32 characters.
        entropy: For the fused secret of a new machine.

    Raises:
        SimStateError: A bad name, or state that cannot be read.
    """

    def __init__(self, intel: SimIntel, name: str, *, entropy: Entropy) -> None:
        if not _NAME.fullmatch(name):
            raise SimStateError(
                "not the name of a machine", got=name, expected="[a-z0-9-], ≤ 32"
            )
        self.intel = intel
        self.name = name
        with locked(intel.folder):
            if load(self._path, MachineState) is None:
                store(self._path, self._manufacture(entropy))

    @property
    def _path(self) -> Path:
        return self.intel.folder / "machines" / f"{self.name}.json"

    def state(self) -> MachineState:
        """What is stored now, also by other processes.

        Raises:
            SimStateError: It is gone or cannot be read.
        """
        state = load(self._path, MachineState)
        if state is None:
            raise SimStateError("the simulated machine is gone", got=self.name)
        return state

    @property
    def cpu_svn(self) -> bytes:
        """The CPUSVN of the installed microcode, 16 bytes."""
        return self.state().cpu_svn

    @property
    def pck_certificate(self) -> bytes:
        """The PCK certificate for the installed TCB, DER."""
        return self.state().pck_cert

    # --- what the CPU does ---

    def einit(self, measurement: Measurement, sigstruct: bytes) -> SimIdentity:
        """Start an enclave, as EINIT does.

        1. The SIGSTRUCT is well-formed and its signature holds.
        2. Its ENCLAVEHASH is what was measured.

        Raises:
            EinitError: One of these does not hold.
        """
        try:
            signed = verify_sigstruct(sigstruct)  # 1
        except SigstructError as error:
            raise EinitError(f"EINIT refuses the SIGSTRUCT: {error}") from error
        if signed.mrenclave != measurement.mrenclave:  # 2
            raise EinitError(
                "EINIT: the SIGSTRUCT is for another measurement",
                got=measurement.mrenclave,
                expected=signed.mrenclave.hex(),
            )
        flags, xfrm = signed.attributes
        return SimIdentity(
            mrenclave=signed.mrenclave,
            mrsigner=signed.mrsigner,
            isv_prod_id=signed.isv_prod_id,
            isv_svn=signed.isv_svn,
            flags=flags_of(flags, debug=self.state().debug),
            xfrm=xfrm,
            made_by=_MADE_HERE,
        )

    def quote(self, identity: SimIdentity, report_data: bytes) -> bytes:
        """A genuine DCAP v3 quote by this machine's quoting enclave.

        Args:
            identity: The asking enclave.
            report_data: 64 bytes.

        Raises:
            EinitError: ``report_data`` has another length.
        """
        if len(report_data) != _REPORT_DATA:
            raise EinitError(
                "EREPORT: report data has another length",
                got=f"{len(report_data)} B",
                expected=f"{_REPORT_DATA} B",
            )
        state = self.state()
        report = ReportFields(
            cpu_svn=state.cpu_svn,
            flags=identity.flags,
            xfrm=identity.xfrm,
            mrenclave=identity.mrenclave,
            mrsigner=identity.mrsigner,
            isv_prod_id=identity.isv_prod_id,
            isv_svn=identity.isv_svn,
            report_data=report_data,
        )
        return self._quoting_enclave(state).quote(report)

    def egetkey(
        self,
        identity: SimIdentity,
        *,
        policy: str,
        key_id: bytes,
        isv_svn: int | None = None,
        cpu_svn: bytes | None = None,
    ) -> SimKey:
        """A sealing key: EGETKEY, SDM Vol. 3D "Key Derivation".

        1. The policy is known.
        2. The wanted ISV_SVN is not newer than the enclave's.
        3. The wanted CPUSVN is in no component newer than the machine's.
        4. The key depends on the fused secret, owner epoch, policy and what it
           names, product, both SVNs, ATTRIBUTES and ``key_id``.

        Args:
            identity: The asking enclave.
            policy: ``mrenclave`` or ``mrsigner``.
            key_id: Separates keys; any bytes.
            isv_svn: ``None``: the enclave's own.
            cpu_svn: 16 bytes. ``None``: the machine's.

        Raises:
            EgetkeyError: Steps 1 to 3.
        """
        state = self.state()
        if policy not in POLICIES:  # 1
            raise EgetkeyError("EGETKEY: unknown policy", got=policy, expected=POLICIES)
        isv = identity.isv_svn if isv_svn is None else isv_svn
        if not 0 <= isv <= identity.isv_svn:  # 2
            raise EgetkeyError(
                "EGETKEY: a newer ISV_SVN was asked for",
                got=isv,
                expected=f"≤ {identity.isv_svn}",
            )
        cpu = state.cpu_svn if cpu_svn is None else cpu_svn
        if not _within(cpu, state.cpu_svn):  # 3
            raise EgetkeyError(
                "EGETKEY: a newer CPUSVN was asked for",
                got=cpu,
                expected=f"≤ {state.cpu_svn.hex()} in each component",
            )
        code = identity.mrenclave if policy == "mrenclave" else identity.mrsigner
        info = msgspec.msgpack.encode((
            "sealift/insecure-sim/egetkey/1", state.owner_epoch, policy, code,
            identity.isv_prod_id, isv, cpu, identity.flags, identity.xfrm, key_id,
        ))  # fmt: skip
        key = hkdf(state.fused_secret, info=info)  # 4
        return SimKey(key=key, cpu_svn=cpu, isv_svn=isv)

    # --- what can be rehearsed ---

    def install_microcode(self, cpu_svn: bytes) -> None:
        """Install microcode: a new CPUSVN, and a PCK certificate for it.

        Raises:
            EgetkeyError: It is older than what is installed.
        """
        with locked(self.intel.folder):
            state = self.state()
            if len(cpu_svn) != _SVN_BYTES or not _within(state.cpu_svn, cpu_svn):
                raise EgetkeyError(
                    "microcode is never rolled back",
                    got=cpu_svn,
                    expected=f"≥ {state.cpu_svn.hex()} in each component",
                )
            self._replace(
                state,
                cpu_svn=cpu_svn,
                pck_cert=self._certify(
                    state.pck_key, state.ppid, state.platform_instance, cpu_svn
                ),
            )

    def install_qe(self, isv_svn: int) -> None:
        """Install another version of the quoting enclave."""
        with locked(self.intel.folder):
            self._replace(self.state(), qe_svn=isv_svn)

    def set_debug(self, *, debug: bool) -> None:
        """Whether enclaves started from now on report the DEBUG attribute.

        A real CPU refuses this for our SIGSTRUCTs; here it makes the quotes
        that every verifier must refuse.
        """
        with locked(self.intel.folder):
            self._replace(self.state(), debug=debug)

    def revoke(self) -> None:
        """Have Intel revoke this machine's PCK certificate."""
        self.intel.revoke_pck(self.pck_certificate)

    def _replace(self, state: MachineState, **changes: object) -> None:
        store(self._path, msgspec.structs.replace(state, **changes))

    def _manufacture(self, entropy: Entropy) -> MachineState:
        attestation_key = _pki.key_pem(_pki.new_key())
        pck_key = _pki.key_pem(_pki.new_key())
        ppid, instance = entropy(16), entropy(16)
        return MachineState(
            fused_secret=entropy(32),
            owner_epoch=entropy(16),
            ppid=ppid,
            platform_instance=instance,
            cpu_svn=FIRST_CPU_SVN,
            pce_svn=PCE_SVN,
            qe_svn=FIRST_QE_SVN,
            qe_auth_data=entropy(32),
            attestation_key=attestation_key,
            pck_key=pck_key,
            pck_cert=self._certify(pck_key, ppid, instance, FIRST_CPU_SVN),
        )

    def _certify(
        self, key: bytes, ppid: bytes, instance: bytes, cpu_svn: bytes
    ) -> bytes:
        return self.intel.issue_pck(
            _pki.load_key(key).public_key(),
            ppid=ppid,
            instance=instance,
            cpu_svn=cpu_svn,
            pce_svn=PCE_SVN,
        )

    def _quoting_enclave(self, state: MachineState) -> QuotingEnclave:
        intel = self.intel.state()
        return QuotingEnclave(
            cpu_svn=state.cpu_svn,
            pce_svn=state.pce_svn,
            qe_svn=state.qe_svn,
            auth_data=state.qe_auth_data,
            attestation_key=_pki.load_key(state.attestation_key),
            pck_key=_pki.load_key(state.pck_key),
            certificates=_pki.pem_chain(state.pck_cert, intel.ca_cert, intel.root_cert),
        )


def _within(wanted: bytes, own: bytes) -> bool:
    return len(wanted) == len(own) and all(
        w <= o for w, o in zip(wanted, own, strict=True)
    )
