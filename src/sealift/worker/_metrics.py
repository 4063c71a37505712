"""Metrics for Prometheus, with the names that operators know."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

#: What a worker may wait for: values of the label ``what``.
WAITS: Final = (
    "announcement",
    "attestation",
    "chain",
    "keys",
    "l1-node",
    "rehearsal",
    "rotation",
    "snapshot",
    "state",
)
#: States of a witness that shows the same chain, as far as it has it.
_AGREEING: Final = frozenset({"agrees", "behind"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The numbers of one scrape; ``None`` where there is none (yet)."""

    l1_height: int
    imported_height: int
    state_height: int | None
    blocks_to_upgrade: int | None
    instances_with_keys: int | None
    attestation_age_blocks: int | None
    operator_funds: int | None
    calls_executed: int
    state_bytes: int
    halted: bool
    fingerprint: str
    version: str
    effects_pending: int = 0
    key_epoch: int | None = None
    key_epoch_held: bool = True
    staged_epoch: int | None = None
    staged_holders: int = 0
    rotation_due_blocks: int = 0
    policy_warnings: int | None = None
    rehearsal_good: int | None = None
    rehearsals_missing: int | None = None
    confirmed_height: int | None = None
    attestation_remaining: int | None = None
    collateral_seconds_left: int | None = None
    disk_free: int | None = None
    fork_seen: bool = False
    waiting: frozenset[str] = frozenset()
    witnesses: Mapping[str, str] = field(default_factory=dict)


class Metrics:
    """Renders a reading in Prometheus' text format.

    Args:
        shard: Label of every metric, hex.
        read: Takes a reading.
    """

    def __init__(self, shard: str, read: Callable[[], Awaitable[Reading]]) -> None:
        self._read = read
        self._shard = shard
        self._registry = CollectorRegistry()
        self._calls_seen = 0
        self._gauges = {
            name: Gauge(f"sealift_{name}", text, ["shard"], registry=self._registry)
            for name, text in (
                ("l1_block_height", "Height of the L1 node's head"),
                ("imported_block_height", "Last L1 block that the enclave verified"),
                ("block_lag", "Blocks between the L1 head and the enclave"),
                ("state_block_height", "Last block of the shard's state"),
                ("blocks_to_upgrade", "Blocks until the next scheduled upgrade"),
                ("instances_holding_keys", "Registered instances that hold the keys"),
                ("attestation_age_blocks", "Blocks since this enclave was attested"),
                ("operator_funds", "Free balance of the operator's account"),
                ("stf_state_size_bytes", "Bytes of the shard's state"),
                ("effects_pending", "Blocks whose effects L1 has not executed yet"),
                ("key_epoch", "The newest key epoch that acts"),
                ("key_epoch_held", "1 if this enclave holds it, or need not"),
                ("staged_epoch", "The epoch whose keys are staged"),
                ("staged_epoch_holders", "Instances that hold the staged epoch"),
                ("rotation_due_blocks", "Blocks since a rotation is due"),
                ("policy_warnings", "Rules that will drop this worker out, or do"),
                ("rehearsal_good", "1 if this enclave's rehearsal is good, 0 if bad"),
                ("rehearsals_missing", "Good ones that the next upgrade lacks on L1"),
                ("witnesses", "Nodes that L1's headers are compared with"),
                ("witnesses_agreeing", "Of them, those that show the same chain"),
                ("enclave_halted", "1 if the enclave has stopped for good"),
                ("fork_seen", "1 if the enclave was shown two chains"),
                ("confirmed_block_height", "Last block with a confirmed root on L1"),
                ("confirmation_lag", "Verified blocks without a confirmed root"),
                ("attestation_remaining_blocks", "Blocks until it is too old"),
                ("collateral_seconds_left", "Until L1's collateral expires"),
                ("disk_free_bytes", "Free bytes where the worker's home is"),
            )
        }
        self._waits = Gauge(
            "sealift_waiting",
            "1 if this keeps the worker from its duty; /healthz says why",
            ["shard", "what"],
            registry=self._registry,
        )
        self._witness = Gauge(
            "sealift_witness_state",
            "1 for the state that a witness is in",
            ["shard", "witness", "state"],
            registry=self._registry,
        )
        self._calls = Counter(
            "sealift_calls_executed",
            "Calls executed",
            ["shard"],
            registry=self._registry,
        )
        self._labels = Gauge(
            "sealift_enclave_labels",
            "What runs",
            ["shard", "version", "fingerprint"],
            registry=self._registry,
        )

    async def render(self) -> bytes:
        """Prometheus' text format."""
        now = await self._read()
        self._set("l1_block_height", now.l1_height)
        self._set("imported_block_height", now.imported_height)
        self._set("block_lag", max(now.l1_height - 1 - now.imported_height, 0))
        self._set("state_block_height", now.state_height)
        self._set("blocks_to_upgrade", now.blocks_to_upgrade)
        self._set("instances_holding_keys", now.instances_with_keys)
        self._set("attestation_age_blocks", now.attestation_age_blocks)
        self._set("operator_funds", now.operator_funds)
        self._set("stf_state_size_bytes", now.state_bytes)
        self._set("effects_pending", now.effects_pending)
        self._set("key_epoch", now.key_epoch)
        self._set("key_epoch_held", int(now.key_epoch_held))
        self._set("staged_epoch", now.staged_epoch)
        self._set("staged_epoch_holders", now.staged_holders)
        self._set("rotation_due_blocks", now.rotation_due_blocks)
        self._set("policy_warnings", now.policy_warnings)
        self._set("rehearsal_good", now.rehearsal_good)
        self._set("rehearsals_missing", now.rehearsals_missing)
        agreeing = sum(state in _AGREEING for state in now.witnesses.values())
        self._set("witnesses", len(now.witnesses))
        self._set("witnesses_agreeing", agreeing)
        self._witness.clear()
        for url, state in now.witnesses.items():
            self._witness.labels(self._shard, url, state).set(1)
        self._set("enclave_halted", int(now.halted))
        self._set("fork_seen", int(now.fork_seen))
        self._set("confirmed_block_height", now.confirmed_height)
        self._set("confirmation_lag", _lag(now))
        self._set("attestation_remaining_blocks", now.attestation_remaining)
        self._set("collateral_seconds_left", now.collateral_seconds_left)
        self._set("disk_free_bytes", now.disk_free)
        for what in WAITS:
            self._waits.labels(self._shard, what).set(what in now.waiting)
        self._calls.labels(self._shard).inc(now.calls_executed - self._calls_seen)
        self._calls_seen = now.calls_executed
        self._labels.labels(self._shard, now.version, now.fingerprint).set(1)
        return generate_latest(self._registry)

    def _set(self, name: str, value: int | None) -> None:
        # A gauge without a reading is NaN, not a lie.
        self._gauges[name].labels(self._shard).set(_number(value))


class InstanceRow(Protocol):
    """What is shown of an instance."""

    @property
    def fingerprint(self) -> str:
        """Its code, hex."""

    @property
    def role(self) -> str:
        """Current, staged, previous or retired."""

    @property
    def state_height(self) -> int | None:
        """After which block its state stands."""

    @property
    def lag(self) -> int | None:
        """Blocks of L1 that it has not verified."""


class InstanceMetrics:
    """Renders the instances of a worker, each by its code and role.

    Args:
        shard: Label of every metric, hex.
    """

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._registry = CollectorRegistry()
        labels = ["shard", "fingerprint", "role"]
        self._state = Gauge(
            "sealift_instance_state_height",
            "Last block of an instance's state",
            labels,
            registry=self._registry,
        )
        self._lag = Gauge(
            "sealift_instance_lag",
            "Blocks between the L1 head and an instance's enclave",
            labels,
            registry=self._registry,
        )
        self._switches = Gauge(
            "sealift_instance_switches",
            "How often another instance began to answer, since the start",
            ["shard"],
            registry=self._registry,
        )

    def render(self, rows: Iterable[InstanceRow], *, switches: int) -> bytes:
        """Prometheus' text format."""
        self._state.clear()
        self._lag.clear()
        self._switches.labels(self._shard).set(switches)
        for row in rows:
            labels = (self._shard, row.fingerprint, row.role)
            self._state.labels(*labels).set(_number(row.state_height))
            self._lag.labels(*labels).set(_number(row.lag))
        return generate_latest(self._registry)


def _number(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _lag(now: Reading) -> int | None:
    if now.confirmed_height is None:
        return None
    return max(now.imported_height - now.confirmed_height, 0)
