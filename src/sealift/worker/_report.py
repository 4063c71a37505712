"""What a worker says of itself: health, metrics, status, and what lies ahead."""

from collections.abc import Callable
from dataclasses import dataclass

from sealift.base import AccountId, Height, SealiftError, canonical_decode
from sealift.ledger import good_words, rehearsal_words
from sealift.protocol import (
    EnclaveRecord,
    EntryRehearsals,
    NoGenerationError,
    RehearsalGate,
    Schedule,
    config_at,
    gate_key,
    next_upgrade,
    rehearsals_key,
    schedule_key,
)
from sealift.protocol.ecall import EnclaveStatus, GetStatus, HelloReply

from ._api import Health
from ._channel import EnclaveChannel
from ._epochs import is_live
from ._fetch import record_of
from ._follower import HALTED_BY_FORK, Follower
from ._forecast import Risk, collateral_risk, forecast
from ._metrics import Reading
from ._outbox import Outbox
from ._rehearsal import RehearsalStanding
from ._rotation import KeyStanding
from ._store import WorkerStore
from ._surroundings import Surroundings
from ._witnesses import few_witnesses

#: So many blocks behind the L1 node is not healthy any more.
CONFIRM_LAG = 20
#: The name of this topic in the worker's health.
KEYS = "keys"
#: Topics of health whose name in metrics is another one.
_NAMES = {"the chain": "chain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeenOnL1:
    schedule: Schedule | None = None
    record: EnclaveRecord | None = None
    funds: int | None = None
    holders: int | None = None
    risks: tuple[Risk, ...] | None = None
    confirmed: Height | None = None
    collateral_left: int | None = None
    gate: RehearsalGate | None = None
    rehearsals: EntryRehearsals | None = None


class Report:
    """Reads a worker's standing; changes nothing.

    Args:
        channel: The enclave.
        follower: Where it is.
        store: What it remembers.
        outbox: What L1 refused.
        around: L1 and the evidence.
        hello: Who the enclave is.
        me: The enclave's signing key.
        standing: Where the shard's keys stand.
        rehearsal: How this enclave's rehearsal stands.
        troubles: What keeps the worker from its duty, by topic.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        follower: Follower,
        store: WorkerStore,
        outbox: Outbox,
        around: Surroundings,
        hello: HelloReply,
        me: AccountId,
        standing: Callable[[], KeyStanding],
        rehearsal: Callable[[], RehearsalStanding],
        troubles: dict[str, str],
    ) -> None:
        self._channel = channel
        self._follower = follower
        self._store = store
        self._outbox = outbox
        self._around = around
        self._hello = hello
        self._me = me
        self._standing = standing
        self._rehearsal = rehearsal
        self._troubles = troubles

    def health(self) -> Health:
        """Whether anything keeps this worker from its duty, by name."""
        progress = self._follower.progress
        reasons = []
        if progress.halted:
            reasons.append(f"the enclave has stopped executing: {progress.halted}")
        if progress.l1_failure:
            reasons.append(f"waiting for {progress.waiting_for}: {progress.l1_failure}")
        lag = progress.l1_head - 1 - progress.imported
        if lag > CONFIRM_LAG:
            reasons.append(f"{lag} blocks behind: waiting for {progress.waiting_for}")
        keys = self._standing()
        if keys.lacking:
            lacking = ", ".join(map(str, keys.lacking))
            reasons.append(
                f"{KEYS}: this enclave does not hold epoch {lacking}; epoch "
                f"{keys.epoch} acts from block {keys.valid_from}"
            )
        reasons += [f"{topic}: {why}" for topic, why in self._troubles.items()]
        return Health(ok=not reasons, reasons=tuple(reasons))

    async def _seen_on_l1(self) -> "_SeenOnL1":
        """What L1 says of us; nothing where it does not answer."""
        around = self._around
        if self._follower.progress.l1_failure:  # known: do not make people wait
            return _SeenOnL1()
        try:
            left = await around.evidence.collateral_seconds_left()
            return _SeenOnL1(
                schedule=(schedule := await self._schedule()),
                record=(record := await self._record(self._me)),
                funds=await around.standing.funds(around.operator),
                holders=await self._live_holders(schedule),
                risks=self._risks(schedule, record, left),
                confirmed=await around.l1.confirmed(around.shard),
                collateral_left=left,
                gate=await self._gate(),
                rehearsals=await self._rehearsals(schedule),
            )
        except SealiftError as error:
            self._follower.progress.last_refusal = str(error)
            return _SeenOnL1()

    async def _schedule(self) -> Schedule | None:
        around, height = self._around, self._follower.progress.imported
        value, _ = await around.l1.prove(schedule_key(around.shard), height)
        return None if value is None else canonical_decode(Schedule, value)

    async def _gate(self) -> RehearsalGate | None:
        """What the shard asks for; ``None``: this L1 takes no rehearsals."""
        around, height = self._around, self._follower.progress.imported
        value, _ = await around.l1.prove(gate_key(around.shard), height)
        return None if value is None else canonical_decode(RehearsalGate, value)

    async def _rehearsals(self, schedule: Schedule | None) -> EntryRehearsals | None:
        """What L1 has been told of the next entry, by all its platforms."""
        around, height = self._around, self._follower.progress.imported
        ahead = None if schedule is None else next_upgrade(schedule, height)
        if ahead is None:
            return None
        key = rehearsals_key(around.shard, ahead.generation)
        value, _ = await around.l1.prove(key, height)
        return None if value is None else canonical_decode(EntryRehearsals, value)

    async def _record(self, key: AccountId) -> EnclaveRecord | None:
        return await record_of(self._around.l1, key, self._follower.progress.imported)

    async def _live_holders(self, schedule: Schedule | None) -> int | None:
        """Known holders of keys that L1 has as live: the others may be gone.

        Two on one machine, as while an upgrade is staged, are lost together: they
        count as one.
        """
        if schedule is None:
            return None
        height = Height(self._follower.progress.imported)
        records = [await self._record(key) for key in self._store.holder_keys()]
        live = [one for one in records if one and is_live(one, schedule, height)]
        return len({one.platform_id for one in live})

    def _risks(
        self,
        schedule: Schedule | None,
        record: EnclaveRecord | None,
        collateral_left: int | None,
    ) -> tuple[Risk, ...] | None:
        """What will drop this worker out; ``None``: not known."""
        if schedule is None or record is None:
            return None
        height = Height(self._follower.progress.imported)
        risks = forecast(record, schedule, height)
        return (*risks, *collateral_risk(collateral_left))

    def _blocks_to(self, schedule: Schedule | None) -> tuple[int | None, int | None]:
        """XYZ of the next upgrade, and how many blocks there are until then."""
        imported = self._follower.progress.imported
        ahead = None if schedule is None else next_upgrade(schedule, imported)
        if ahead is None:
            return None, None
        return ahead.upgrade_at, ahead.upgrade_at - imported

    def _missing(self, seen: _SeenOnL1) -> int | None:
        """Good rehearsals that the next upgrade lacks; ``None``: none is ahead."""
        ahead, _ = self._blocks_to(seen.schedule)
        if ahead is None:
            return None
        required = 0 if seen.gate is None else seen.gate.at(ahead - 1).required
        return max(required - good_words(seen.rehearsals), 0)

    def _describe_rehearsals(self, seen: _SeenOnL1) -> dict[str, object]:
        ahead, _ = self._blocks_to(seen.schedule)
        at = self._follower.progress.imported if ahead is None else ahead - 1
        words = () if seen.rehearsals is None else seen.rehearsals.rehearsals
        required = 0 if seen.gate is None else seen.gate.at(at).required
        return {
            **self._rehearsal().describe(),
            "rehearsals_required": required,
            "rehearsals_good": good_words(seen.rehearsals),
            "rehearsals": [rehearsal_words(one) for one in words],
        }

    def _due_blocks(self) -> int:
        since = self._standing().due_since
        return 0 if since is None else self._follower.progress.imported - since + 1

    def _attested_for(self, seen: _SeenOnL1) -> tuple[int | None, int | None]:
        """How old the attestation is, and for how long it counts, in blocks."""
        if seen.record is None:
            return None, None
        imported = Height(self._follower.progress.imported)
        age = imported - seen.record.attested_at
        if seen.schedule is None:
            return age, None
        try:
            policy = config_at(seen.schedule, imported).config.attestation
        except NoGenerationError:
            return age, None
        return age, policy.max_age_blocks - age

    def _waits(self) -> frozenset[str]:
        """What keeps the worker from its duty, by the names of the metrics."""
        found = {_NAMES.get(topic, topic) for topic in self._troubles}
        if self._follower.progress.l1_failure:
            found.add("l1-node")
        if self._standing().lacking:
            found.add(KEYS)
        return frozenset(found)

    async def reading(self) -> Reading:
        """One scrape of the metrics."""
        status = await self._channel.call(GetStatus(), EnclaveStatus)
        progress = self._follower.progress
        seen = await self._seen_on_l1()
        _, left = self._blocks_to(seen.schedule)
        keys, mine = self._standing(), self._rehearsal().good
        age, remaining = self._attested_for(seen)
        return Reading(
            l1_height=progress.l1_head,
            imported_height=progress.imported,
            state_height=status.state_height,
            blocks_to_upgrade=left,
            instances_with_keys=seen.holders if status.epochs else 0,
            attestation_age_blocks=age,
            attestation_remaining=remaining,
            collateral_seconds_left=seen.collateral_left,
            confirmed_height=seen.confirmed,
            disk_free=self._around.disk.free_bytes(),
            fork_seen=HALTED_BY_FORK in {status.halted, progress.halted},
            waiting=self._waits(),
            operator_funds=seen.funds,
            calls_executed=progress.calls,
            state_bytes=status.accounts_bytes,
            halted=bool(status.halted),
            fingerprint=self._hello.fingerprint.hex(),
            version=self._hello.app_version,
            effects_pending=self._store.effects_pending(),
            key_epoch=keys.epoch,
            key_epoch_held=not keys.lacking,
            staged_epoch=keys.staged,
            staged_holders=keys.holders,
            rotation_due_blocks=self._due_blocks(),
            policy_warnings=None if seen.risks is None else len(seen.risks),
            rehearsal_good=None if mine is None else int(mine),
            rehearsals_missing=self._missing(seen),
            witnesses={one.url: one.state for one in self._around.witnesses},
        )

    def _describe_keys(self) -> dict[str, object]:
        keys = self._standing()
        return {
            "key_epoch": keys.epoch,
            "key_epoch_held": not keys.lacking,
            "staged_epoch": keys.staged,
            "staged_holders": keys.holders,
            "rotation_quorum": keys.quorum,
            "rotation_why": keys.why,
            "rotation_due_since": keys.due_since,
        }

    async def describe(self, url: str) -> dict[str, object]:
        """Everything that ``worker status`` shows."""
        status = await self._channel.call(GetStatus(), EnclaveStatus)
        progress = self._follower.progress
        seen = await self._seen_on_l1()
        upgrade_at, left = self._blocks_to(seen.schedule)
        record = seen.record
        health = self.health()
        return {
            "platform": self._hello.platform,
            "application": f"{self._hello.name} {self._hello.app_version}",
            "mrenclave": self._hello.fingerprint.hex(),
            "mrsigner": self._hello.mr_signer.hex(),
            "isv_svn": self._hello.isv_svn,
            "shard": status.shard.hex(),
            "signing_key": status.signing_key.hex(),
            "shielding_key": status.shielding_key.hex() if status.shielding_key else "",
            "operator": self._around.operator.hex(),
            "url": url,
            "registered": record is not None,
            "announced": record.url if record else "",
            "tcb_status": record.tcb_status if record else "",
            "l1_head": progress.l1_head,
            "imported": progress.imported,
            "skipped_to": progress.skipped_to,
            "state_height": status.state_height,
            "root": status.root.hex() if status.root else "",
            "executed": progress.executed,
            "generation": status.generation,
            "idle": progress.idle,
            "waiting_for": progress.waiting_for,
            "upgrade_at": upgrade_at,
            "blocks_to_upgrade": left,
            "instances_with_keys": seen.holders if status.epochs else 0,
            "calls": progress.calls,
            "effects_pending": self._store.effects_pending(),
            "epochs": list(status.epochs),
            **self._describe_keys(),
            **self._describe_rehearsals(seen),
            "warnings": [str(risk) for risk in seen.risks or ()],
            "witnesses": [one.describe() for one in self._around.witnesses],
            "witnesses_wanted": few_witnesses(len(self._around.witnesses)),
            "halted": status.halted,
            "last_refusal": progress.last_refusal,
            "failed_acts": self._outbox.failures,
            "ok": health.ok,
            "reasons": list(health.reasons),
        }
