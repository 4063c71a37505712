"""One instance of a home, as the service keeps it beside others."""

import asyncio
import enum
from contextlib import AsyncExitStack
from typing import Final

from sealift.base import Fingerprint, Generation, decode, encode
from sealift.protocol import ScheduleEntry
from sealift.protocol.ecall import EnclaveStatus, GetStatus

from ._config import Platform, WorkerConfig
from ._control import Made, Progress
from ._errors import EnclaveRefusedError, NoSnapshotError, StalledError
from ._instances import HANDED_OVER, code_of, open_archive
from ._plan import Plan
from ._run import OpenWorker
from ._store import WorkerStore

#: So many blocks behind, a staged instance counts as following still.
_READY_LAG: Final = 3
_OWED: Final = "its certificate, and a confirmed block of the next generation, on L1"


class InstanceState(enum.Enum):
    """Whether an instance runs."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    RETIRED = "retired"


class Instance:
    """An enclave of this home, with its own folder.

    Args:
        fingerprint: Its code.
        config: How it runs.
    """

    def __init__(self, fingerprint: Fingerprint, config: WorkerConfig) -> None:
        self.fingerprint = fingerprint
        self.config = config
        self.state = InstanceState.RETIRED
        self.why = ""
        self.version = ""
        self.worker: OpenWorker | None = None
        self.task: asyncio.Task[None] | None = None
        #: What ends with the enclave, and its own listener for those beside it.
        self.inner: AsyncExitStack | None = None
        self.opening = asyncio.Lock()
        self.inner_url = ""
        self.state_height: int | None = None
        self.has_keys = False
        #: Whether it should answer by now, and does not.
        self.overdue = False
        #: For which generation it has handed the shard over.
        self.handed_over: int | None = None
        self._archive: list[WorkerStore] = []

    @property
    def name(self) -> str:
        """Short, for people."""
        return self.fingerprint.hex()[:8]

    @property
    def hopeful(self) -> bool:
        """Whether it is up or coming up."""
        return self.state in (InstanceState.STARTING, InstanceState.UP)

    def is_up(self) -> bool:
        """Whether its enclave runs."""
        return self.state is InstanceState.UP

    @property
    def wanted(self) -> bool:
        """Whether it is up, or is started again and again."""
        return self.state is not InstanceState.RETIRED

    def up(self, worker: OpenWorker, inner: AsyncExitStack) -> None:
        """Its enclave runs."""
        self.state, self.why = InstanceState.UP, ""
        self.worker, self.inner, self.inner_url = worker, inner, ""
        self.state_height, self.has_keys = None, False  # of this life nothing yet
        self.version = worker.hello.app_version

    async def look(self) -> None:
        """Where its state stands, and whether it has keys.

        Raises:
            EnclaveGoneError: It has ended.
        """
        if self.worker is not None:
            status = await self.worker.channel.call(GetStatus(), EnclaveStatus)
            self.state_height, self.has_keys = status.state_height, bool(status.epochs)

    def health(self) -> tuple[str, ...]:
        """What keeps it from its duty."""
        return () if self.worker is None else self.worker.life.health().reasons

    async def snapshot(self) -> Made:
        """Make a snapshot of its state as it is now.

        Raises:
            StalledError: Its enclave is not up.
            NoSnapshotError: It has no state.
            SealiftError: The disk does not take it, or the enclave has ended.
        """
        if self.worker is None:
            raise StalledError(
                "no enclave is up that could make a snapshot",
                got=self.why or "it is starting",
            )
        try:
            made = await self.worker.follower.keep_snapshot()
        except EnclaveRefusedError as error:
            raise NoSnapshotError(
                f"the enclave makes no snapshot ({error})",
                hint="See `sealift worker status`.",
            ) from error
        return Made(name=made.name, height=int(made.height))

    # --- what it leaves behind ---

    def open_archive(self) -> list[WorkerStore]:
        """Its receipts, while it does not run."""
        self.close_archive()
        self._archive = open_archive(self.config, self.fingerprint)
        for store in self._archive:
            raw = store.meta(HANDED_OVER)
            if raw is not None:
                self.handed_over = int(decode(Generation, raw))
        return self._archive

    def close_archive(self) -> None:
        """Before its enclave is started again, and at the end."""
        for store in self._archive:
            store.close()
        self._archive = []

    def hand_over(self, generation: Generation) -> None:
        """Nothing is owed any more: it may end, also after a restart.

        Not yet, while L1 has not executed all that its blocks hold.
        """
        if self.worker is None or self.handed_over == generation:
            return
        store = self.worker.store
        if store.effects_pending() or store.orders():
            return
        store.put_meta(HANDED_OVER, encode(generation))
        self.handed_over = int(generation)

    # --- what it is doing ---

    def progress(
        self, plan: Plan | None, *, answering: bool, platform: Platform
    ) -> Progress:
        """How far it is, and what it waits for."""
        entry = self._entry(plan, platform)
        state, waits_for = self._state(plan, entry, answering=answering)
        follower = None if self.worker is None else self.worker.follower.progress
        role = "current" if answering else self._role(plan)
        return Progress(
            fingerprint=self.fingerprint.hex(),
            version=self.version,
            role=role,
            state=state,
            waits_for=waits_for,
            generation=None if entry is None else int(entry.generation),
            upgrade_at=None if entry is None else int(entry.upgrade_at),
            head=0 if follower is None else follower.l1_head,
            imported=None if follower is None else follower.imported,
            state_height=self.state_height,
            last=state in ("ready", "running", "retired"),
        )

    def _entry(self, plan: Plan | None, platform: Platform) -> ScheduleEntry | None:
        """The generation that it runs, or is to run."""
        for entry in () if plan is None else plan.entries():
            if code_of(entry, platform) == self.fingerprint:
                return entry
        return None

    def _role(self, plan: Plan | None) -> str:
        if self.state is InstanceState.RETIRED:
            return "retired"
        if plan is not None and self.fingerprint == plan.previous:
            return "previous"
        return "staged"

    def _state(
        self, plan: Plan | None, entry: ScheduleEntry | None, *, answering: bool
    ) -> tuple[str, str]:
        """One word, and what it waits for."""
        worker = self.worker
        if self.state is InstanceState.RETIRED:
            return "retired", ""
        if self.state is InstanceState.DOWN:
            return "down", f"another start: {self.why}"
        if worker is None or plan is None:
            return "starting", "its enclave"
        runs = entry is not None and entry.generation == plan.generation
        if answering and (runs or entry is None):
            return "running", ""
        if entry is None:
            return "previous", _OWED
        return self._on_its_way(worker, entry, plan, runs=runs)

    def _on_its_way(
        self, worker: OpenWorker, entry: ScheduleEntry, plan: Plan, *, runs: bool
    ) -> tuple[str, str]:
        progress = worker.follower.progress
        troubles = "; ".join(self.health())
        if not self.has_keys:
            if entry.release_from > plan.head:
                return "notice", f"its notice runs until block {entry.release_from}"
            return "keys", troubles or "the keys, from the enclave beside it"
        if self.state_height is None:
            return "state", troubles or "the state, from the enclave beside it"
        if runs:
            return "migrating", progress.idle or troubles or "its first block"
        lag = progress.l1_head - 1 - progress.imported
        behind = progress.imported - 1 - self.state_height
        if lag > _READY_LAG or behind > _READY_LAG:
            return "following", troubles or f"{max(lag, 0) + max(behind, 0)} blocks"
        return "ready", f"block {entry.upgrade_at}, in {entry.upgrade_at - plan.head}"
