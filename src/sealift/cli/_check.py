"""``sealift worker check``: what would stop a worker, before it does."""

import shutil
from dataclasses import dataclass
from typing import Final

from sealift.attestation import TrustAnchor
from sealift.base import (
    AccountId,
    Height,
    SealiftError,
    UnixSeconds,
    canonical_decode,
)
from sealift.bundle import verify_bundle
from sealift.crypto import account_of
from sealift.insecure_sim import SimStateError
from sealift.ledger import require_eligible
from sealift.protocol import (
    CollateralRecord,
    EnclaveRecord,
    NoGenerationError,
    Schedule,
    ScheduleEntry,
    collateral_key,
    config_at,
    enclave_key,
    next_upgrade,
    schedule_key,
)
from sealift.transport.account import free_balance
from sealift.transport.clock import unix_seconds
from sealift.transport.gramine import gramine_fingerprint
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import L1Client
from sealift.worker import (
    Risk,
    WorkerConfig,
    collateral_risk,
    few_witnesses,
    forecast,
    seconds_left,
    staged_instances,
)

from ._cards import read_bundle
from ._params import open_l1, wall_clock
from ._sim import existing_intel
from ._worker_http import ask_status

#: Less free disk than this is a problem, in bytes.
_LEAST_DISK: Final = 1 << 30
#: So many blocks behind is a problem.
_MOST_LAG: Final = 20
#: Of the policy's maximum age, this part may have passed before it is a problem.
_ATTESTATION_PART: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


async def examine(
    config: WorkerConfig, url: str, *, for_upgrade: bool, min_funds: int
) -> list[Check]:
    """Look at everything that can stop a worker; never raises for what it finds.

    Args:
        config: The worker's home.
        url: Where it answers; empty if unknown.
        for_upgrade: Whether the next generation's code must be this worker's.
        min_funds: What the operator's account must have.
    """
    found = [_disk(config), *_chain_seen(config)]
    mine, checks = _bundle(config)
    found += checks
    status, checks = await _running(url)
    found += checks
    try:
        async with open_l1(config.l1.rpc) as l1:
            found += await _funds(config, l1, min_funds)
            found += await _standing(config, l1, mine, status, for_upgrade=for_upgrade)
    except SealiftError as error:
        found.append(Check(name="l1", ok=False, detail=str(error)))
    return found


def _chain_seen(config: WorkerConfig) -> list[Check]:
    """Whether a fork would be seen, and whether one was."""
    checks = []
    if config.fork_evidence.exists():
        checks.append(
            Check(
                name="fork",
                ok=False,
                detail=f"this enclave has seen two chains: {config.fork_evidence}",
            )
        )
    # Advice and no failure: a laptop's chain has one node.
    wanted = few_witnesses(len(config.l1.witnesses))
    detail = wanted or f"{len(config.l1.witnesses)} in worker.toml"
    checks.append(Check(name="witnesses", ok=True, detail=detail))
    return checks


def _disk(config: WorkerConfig) -> Check:
    try:
        free = shutil.disk_usage(config.home).free
    except OSError as error:
        return Check(name="disk", ok=False, detail=str(error))
    return Check(
        name="disk", ok=free >= _LEAST_DISK, detail=f"{free // (1 << 20)} MiB free"
    )


def _bundle(config: WorkerConfig) -> tuple[bytes, list[Check]]:
    try:
        verified = verify_bundle(read_bundle(config.bundle))
    except SealiftError as error:
        return b"", [Check(name="bundle", ok=False, detail=str(error))]
    mine = verified.fingerprint
    if config.platform == "gramine-sgx":
        try:
            mine = gramine_fingerprint(config.gramine)
        except SealiftError as error:
            return b"", [Check(name="gramine", ok=False, detail=str(error))]
    detail = f"MRENCLAVE {mine.hex()}"
    return mine, [Check(name="bundle", ok=True, detail=detail)]


async def _running(url: str) -> tuple[dict[str, object], list[Check]]:
    if not url:
        return {}, [Check(name="worker", ok=False, detail="it is not running")]
    try:
        status = await ask_status(url)
    except SealiftError as error:
        return {}, [Check(name="worker", ok=False, detail=str(error))]
    head, imported = status.get("l1_head"), status.get("imported")
    checks = []
    reasons = status.get("reasons")
    words = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
    checks.append(
        Check(
            name="worker",
            ok=bool(status.get("ok")) and not status.get("halted"),
            detail=words or f"answers at {url}",
        )
    )
    if isinstance(head, int) and isinstance(imported, int):
        lag = max(head - imported, 0)
        checks.append(
            Check(name="lag", ok=lag <= _MOST_LAG, detail=f"{lag} blocks behind L1")
        )
    return status, checks


async def _funds(config: WorkerConfig, l1: L1Client, least: int) -> list[Check]:
    try:
        account = account_of(read_account_key(config.operator_key))
    except SealiftError as error:
        return [Check(name="operator key", ok=False, detail=str(error))]
    free = await free_balance(l1, account)
    detail = f"{free} on {account.hex()}, wanted ≥ {least}"
    return [Check(name="funds", ok=free >= least, detail=detail)]


async def _standing(
    config: WorkerConfig,
    l1: L1Client,
    mine: bytes,
    status: dict[str, object],
    *,
    for_upgrade: bool,
) -> list[Check]:
    head = await l1.height()
    entry = await l1.abci_query(schedule_key(config.shard), prove=False)
    if entry.value is None:
        return [Check(name="schedule", ok=False, detail="L1 has no such shard")]
    schedule = canonical_decode(Schedule, entry.value)
    try:
        running = config_at(schedule, head)
    except NoGenerationError as error:
        return [Check(name="schedule", ok=False, detail=str(error))]
    record = await _record(l1, status)
    ahead = next_upgrade(schedule, head)
    here = _Here(
        answering=_answering(status) or mine,
        codes=frozenset((mine, *staged_instances(config))),
        rows=_instances(status),
    )
    checks = [_generation(running, ahead, here, head)]
    if ahead is not None:
        checks.append(_upgrade(ahead, here, head, for_upgrade=for_upgrade))
    target = running
    if ahead is not None and _runs(ahead, here.answering):
        target = ahead
    checks.append(_attestation(schedule, target, record, head))
    risks = () if record is None else forecast(record, schedule, head)
    checks += _told("ahead", risks, "nothing on L1 will drop this instance out")
    if config.platform != "insecure-sim":
        # Only the enclave's own quote says what it runs on.
        return [
            *checks,
            *_told(
                "collateral", _own_warnings(status), "the running worker warns of none"
            ),
        ]
    try:
        risks = collateral_risk(await _collateral_left(config, l1))
    except SimStateError as error:
        return [*checks, Check(name="collateral", ok=False, detail=str(error))]
    return [*checks, *_told("collateral", risks, "L1's lasts for more than a week")]


def _own_warnings(status: dict[str, object]) -> tuple[str, ...]:
    """What the running worker says of its collateral itself."""
    if not status:
        return ("the worker does not run, so its platform is not known",)
    said = status.get("warnings")
    words = [str(one) for one in said] if isinstance(said, list) else []
    return tuple(one for one in words if "collateral" in one)


def _told(
    name: str, risks: tuple[Risk, ...] | tuple[str, ...], well: str
) -> list[Check]:
    """A row for each risk, or one that says that there is none."""
    if not risks:
        return [Check(name=name, ok=True, detail=well)]
    return [Check(name=name, ok=False, detail=str(risk)) for risk in risks]


async def _collateral_left(config: WorkerConfig, l1: L1Client) -> int | None:
    """Seconds until L1's collateral of this platform expires."""
    intel = existing_intel(config.sim)
    entry = await l1.abci_query(collateral_key(intel.fmspc), prove=False)
    if entry.value is None:
        return None
    known = canonical_decode(CollateralRecord, entry.value)
    now = unix_seconds(wall_clock())
    root = TrustAnchor(root_der=intel.root_der, kind="insecure-sim")
    return seconds_left(known, roots=(root,), now=UnixSeconds(now))


async def _record(l1: L1Client, status: dict[str, object]) -> EnclaveRecord | None:
    key = status.get("signing_key")
    if not isinstance(key, str) or not key:
        return None
    entry = await l1.abci_query(enclave_key(AccountId(bytes.fromhex(key))), prove=False)
    return None if entry.value is None else canonical_decode(EnclaveRecord, entry.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Here:
    """Which codes a home has instances of, and what the worker says of them."""

    answering: bytes
    codes: frozenset[bytes]
    rows: dict[bytes, dict[str, object]]


def _answering(status: dict[str, object]) -> bytes:
    code = status.get("mrenclave")
    return bytes.fromhex(code) if isinstance(code, str) else b""


def _instances(status: dict[str, object]) -> dict[bytes, dict[str, object]]:
    rows = status.get("instances")
    return {
        bytes.fromhex(str(row["mrenclave"])): row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and "mrenclave" in row
    }


def _runs(entry: ScheduleEntry, *codes: bytes) -> bool:
    return any(code in entry.config.code.values() for code in codes)


def _generation(
    running: ScheduleEntry, ahead: ScheduleEntry | None, here: _Here, head: Height
) -> Check:
    """Whether the schedule names any code of this home, now or next."""
    name = "schedule"
    if _runs(running, *here.codes):
        detail = f"generation {running.generation} runs this code at block {head}"
        return Check(name=name, ok=True, detail=detail)
    if ahead is not None and _runs(ahead, *here.codes):
        detail = f"generation {ahead.generation} runs this code from {ahead.upgrade_at}"
        return Check(name=name, ok=True, detail=detail)
    detail = f"no generation, running or next, names this code (block {head})"
    return Check(name=name, ok=False, detail=detail)


def _upgrade(
    ahead: ScheduleEntry, here: _Here, head: Height, *, for_upgrade: bool
) -> Check:
    """Whether this worker goes on at the next upgrade."""
    left = ahead.upgrade_at - head
    staged = next((code for code in here.codes if _runs(ahead, code)), None)
    if staged is not None:
        row = here.rows.get(staged, {})
        state = str(row.get("state", "not running"))
        ready = staged == here.answering or state in ("ready", "running") or not row
        detail = f"this code takes over in {left} blocks"
        if row and staged != here.answering:
            waits = row.get("waits_for")
            detail += f"; it is {state}{f', waits for {waits}' if waits else ''}"
        return Check(name="upgrade", ok=ready or not for_upgrade, detail=detail)
    named = (f"{code.hex()} on {kind}" for kind, code in ahead.config.code.items())
    digest = ", ".join(sorted(named))
    return Check(
        name="upgrade",
        ok=not for_upgrade,
        detail=f"this worker stops in {left} blocks, at {ahead.upgrade_at}; "
        f"then {digest} runs: `sealift worker stage` its bundle",
    )


def _attestation(
    schedule: Schedule,
    entry: ScheduleEntry,
    record: EnclaveRecord | None,
    head: Height,
) -> Check:
    """Whether the registry's record of this instance is accepted, and for long."""
    name = "attestation"
    if record is None:
        return Check(name=name, ok=False, detail="L1's registry does not know it")
    try:
        require_eligible(record, entry, schedule.status, height=head)
    except SealiftError as error:
        return Check(name=name, ok=False, detail=str(error))
    age = head - record.attested_at
    limit = entry.config.attestation.max_age_blocks
    return Check(
        name=name,
        ok=age <= limit * _ATTESTATION_PART,
        detail=f"{record.tcb_status}, {age} of {limit} blocks old, "
        f"for generation {entry.generation}",
    )
