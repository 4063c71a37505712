"""``sealift worker run``: the instances of a home beside each other, and one front.

Each instance is an enclave with its own folder, database and life. The first is the
home's own; others are staged when an upgrade names their code (DESIGN §11), take
keys and state from the one beside them, and answer from their first block on. The
one before stays up until L1 has its certificate and a confirmed block of the next.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sealift.base import AccountId, ChainId, Fingerprint, Height, SealiftError
from sealift.protocol import Schedule, ScheduleEntry
from sealift.transport.clock import Clock
from sealift.transport.http import serve
from sealift.transport.tasks import first_of

from ._api import Api, Health
from ._beside import Instance, InstanceState
from ._bundles import BundleFinder
from ._carry import CarryGate
from ._config import Platform, WorkerConfig, load_config
from ._control import Made, Progress, control_socket
from ._errors import ControlError, StalledError, WorkerError
from ._follower import Executions
from ._front import Board, Front, Rank, Seat, archives_of
from ._ground import Ground, open_ground
from ._instances import (
    Judged,
    home_fingerprint,
    install_instance,
    instance_config,
    judge_bundle,
    staged_instances,
)
from ._l1 import L1View
from ._metrics import InstanceMetrics, Metrics
from ._outlook import Outlook
from ._run import OpenWorker, open_instance, started_again, wait_for_chain

_LOG: Final = logging.getLogger(__name__)
#: Seconds before an instance is started again that has ended; they double, …
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
#: … and begin anew after it was up for so long.
_STEADY_SECONDS: Final = 120.0
_LOOK_AGAIN_SECONDS: Final = 0.5
#: Where nobody ever answers: the one beside is not up yet.
NOBODY_YET: Final = "http://127.0.0.1:0"
#: So many blocks after its turn has come, an instance is late.
_LATE_BLOCKS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker that answers: its URL, the enclave that answers."""

    url: str
    fingerprint: Fingerprint
    signing_key: AccountId


class Service:
    """The instances of one home.

    Guarantees that an instance that ends is started again, later each time, as long
    as another one is up or coming up; the last one's end is the service's.

    Args:
        config: The home.
        ground: What its instances share.
        ready: Called once, when the first of them answers.
    """

    def __init__(
        self, config: WorkerConfig, ground: Ground, *, ready: Callable[[Ready], None]
    ) -> None:
        self.config = config
        self.url = ""
        self._ground = ground
        self._ready = ready
        self._view = L1View(ground.l1)
        self._finder = BundleFinder(config, ground.http)
        self._finding: dict[Fingerprint, asyncio.Task[None]] = {}
        self._instances: dict[Fingerprint, Instance] = {}
        self._outlook = Outlook(ground.l1, config.shard, config.platform)
        self._board = Board(self._is_awaited, self._outlook.is_new)
        self._metrics = InstanceMetrics(config.shard.hex())
        self._chain: ChainId | None = None
        self._first = asyncio.Event()
        self._listening = asyncio.Event()
        self._control_trouble = ""
        self._group: asyncio.TaskGroup
        self._news = asyncio.Condition()

    async def run(self) -> None:
        """Run until the last instance ends, or until cancelled.

        Raises:
            SealiftError: Why it ended.
        """
        try:
            self._know()
            if len(self._instances) > 1:
                await wait_for_chain(self._ground.l1)
                await self._outlook.look(await self._ground.l1.height())
            async with asyncio.TaskGroup() as self._group:
                self._begin_wanted()
                self._group.create_task(self._view.watch(), name="L1 news")
                self._group.create_task(self._serve(), name="front")
        except* SealiftError as errors:
            raise first_of(errors) from None
        finally:
            for one in self._instances.values():
                one.close_archive()

    # --- which instances there are ---

    def _know(self) -> None:
        """The instances that have a folder here."""
        staged = list(staged_instances(self.config))
        try:
            mine = home_fingerprint(self.config)
        except SealiftError:
            if not staged:
                raise
            _LOG.warning("the home's own bundle cannot be read", exc_info=True)
        else:
            self._instances[mine] = Instance(mine, self.config)
        for code in staged:
            if code not in self._instances:
                config = instance_config(self.config, code)
                self._instances[code] = Instance(code, config)
        for one in self._instances.values():
            self._rest_now(one)

    def _wanted(self) -> list[Instance]:
        """Those that should be up; never none."""
        found = [
            one
            for one in self._instances.values()
            if self._outlook.wants(one.fingerprint, one.handed_over)
        ]
        return found or [next(iter(self._instances.values()))]

    def _begin_wanted(self) -> None:
        for one in self._wanted():
            if one.state is InstanceState.RETIRED:
                self._begin(one)

    def _begin(self, one: Instance) -> None:
        one.state = InstanceState.STARTING
        one.task = self._group.create_task(self._keep(one), name=one.name)

    async def _rest(self, one: Instance) -> None:
        """End an instance; its folder stays."""
        if one.task is not None:
            one.task.cancel()
            await asyncio.gather(one.task, return_exceptions=True)
            one.task = None
        self._rest_now(one)
        await self._tell()

    def _rest_now(self, one: Instance) -> None:
        one.state = InstanceState.RETIRED
        self._board.keep(one.fingerprint, archives_of(one.open_archive()))

    def _others(self, one: Instance) -> list[Instance]:
        return [other for other in self._instances.values() if other is not one]

    def _is_awaited(self) -> bool:
        """Whether what is refused now may be answered in a moment.

        By another instance, or by the one whose turn has come, once it sees it.
        """
        plan, known = self._outlook.plan, self._instances
        running = None if plan is None else plan.running
        if running in known and known[running].wanted:
            return True
        return sum(one.wanted for one in known.values()) > 1

    # --- one instance ---

    async def _keep(self, one: Instance) -> None:
        """Have an instance up, again and again.

        Raises:
            SealiftError: Why it ended, if no other is up.
        """
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            one.state, began = InstanceState.STARTING, loop.time()
            self._board.keep(one.fingerprint, None)
            one.close_archive()
            try:
                await started_again(
                    self._ground.l1, partial(self._live, one), has_started=one.is_up
                )
            except SealiftError as error:
                one.why, one.state = str(error), InstanceState.DOWN
                if not any(other.hopeful for other in self._others(one)):
                    raise
                _LOG.warning("instance %s has ended: %s", one.name, error)
            self._board.keep(one.fingerprint, archives_of(one.open_archive()))
            await self._tell()
            if loop.time() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _live(self, one: Instance) -> None:
        async with (
            AsyncExitStack() as inner,
            open_instance(
                self._ground, one.config, upstream=self._upstream(one)
            ) as worker,
        ):
            self._require_its_code(one, worker)
            one.up(worker, inner)
            try:
                self._chain = self._chain or worker.chain_id
                await self._learn_holders(one, worker)
                await self._weigh(one)
                self._board.enter(self._seat(one, worker))
                inner.callback(worker.follower.listen(partial(self._executed, one)))
                self._first.set()
                await self._aim()
                await self._tell()
                await self._listening.wait()
                worker.life.url = self.url
                await worker.run()
            finally:
                self._board.leave(one.fingerprint)
                one.worker = None
                async with one.opening:  # no listener is added to what is closed
                    one.inner = None

    def _require_its_code(self, one: Instance, worker: OpenWorker) -> None:
        got = worker.hello.fingerprint
        if got != one.fingerprint:
            raise WorkerError(
                "another enclave has started than was to",
                got=got,
                expected=one.fingerprint.hex(),
                hint="Its bundle was changed meanwhile: start the worker again.",
            )

    def _seat(self, one: Instance, worker: OpenWorker) -> Seat:
        api = Api(
            channel=worker.channel,
            follower=worker.follower,
            store=worker.store,
            submitter=worker.account,
            gate=self._gate(worker),
            source=worker.life,
            metrics=Metrics(self.config.shard.hex(), worker.life.reading),
            serve=self._ground.serve,
        )
        return Seat(
            fingerprint=one.fingerprint,
            api=api,
            handlers=api.handlers(),
            receipts=worker.store,
            news=worker.follower,
            rank=self._rank(one, one.state_height),
        )

    def _gate(self, worker: OpenWorker) -> CarryGate:
        return CarryGate(
            self.config.api.terms,
            funds=worker.account.funds,
            now=asyncio.get_running_loop().time,
        )

    def _upstream(self, one: Instance) -> str | None:
        """Whom an instance asks at first; ``None``: as configured.

        One that was staged here asks the one beside it, once that is up.
        """
        if not one.config.instance:
            return None
        return self.config.upstream or NOBODY_YET

    async def _aim(self) -> None:
        """Have those that were staged here ask the one beside them.

        By a listener of its own on loopback: strangers who crowd the front do not
        keep it out.
        """
        for one in list(self._instances.values()):
            worker = one.worker
            if worker is None or worker.upstream is None or not one.config.instance:
                continue
            beside = [other for other in self._others(one) if other.worker is not None]
            if not beside:
                continue
            url = await self._listener_of(max(beside, key=self._furthest))
            if url and worker.upstream.configured != url:
                worker.upstream.configured = worker.upstream.url = url

    async def _listener_of(self, one: Instance) -> str:
        """Where an instance itself answers, whoever the front passes requests to."""
        async with one.opening:
            seat, inner = self._board.seat(one.fingerprint), one.inner
            if seat is None or inner is None:
                return ""
            if not one.inner_url:
                where = await inner.enter_async_context(serve(seat.api.application()))
                one.inner_url = where.url
            return one.inner_url

    async def _learn_holders(self, one: Instance, worker: OpenWorker) -> None:
        """Whom the others here know to hold the keys.

        So one that comes late, after a rotation, finds whoever has the newest.
        """
        for other in self._others(one):
            if other.worker is not None:
                worker.store.add_holders(*other.worker.store.holder_keys())

    def _furthest(self, one: Instance) -> tuple[int, int]:
        return self._rank(one, one.state_height).key()

    def _rank(self, one: Instance, height: int | None) -> Rank:
        return self._outlook.rank(one.fingerprint, height)

    def _executed(self, one: Instance, event: Executions) -> None:
        one.state_height = event.height
        self._board.advance(one.fingerprint, self._rank(one, event.height))

    async def _weigh(self, one: Instance) -> None:
        """Where an instance's state stands."""
        await one.look()
        plan = self._outlook.plan
        if one.worker is not None and plan is not None:
            last = plan.last_for(one.fingerprint, self.config.platform)
            one.worker.life.fetch_until(last)
        self._board.advance(one.fingerprint, self._rank(one, one.state_height))

    # --- the front, and what L1 says ---

    async def _serve(self) -> None:
        await self._first.wait()
        one = self._answering()
        seat, worker = self._board.current, one.worker
        if seat is None or worker is None:
            raise StalledError("the enclave has ended before it answered")
        front = Front(
            self._board,
            submitter=worker.account,
            gate=self._gate(worker),
            overseer=self,
        )
        where = self.config.api
        app = front.application(seat.handlers)
        async with AsyncExitStack() as stack:
            listening = await stack.enter_async_context(
                serve(app, host=where.host, port=where.port)
            )
            self.url = where.url or listening.url
            self._listening.set()
            self._ready(
                Ready(
                    url=listening.url,
                    fingerprint=one.fingerprint,
                    signing_key=worker.started.signing_key,
                )
            )
            try:
                await stack.enter_async_context(control_socket(self.config.home, self))
            except ControlError as error:
                self._control_trouble = str(error)
                _LOG.warning("%s", error)
            await self._direct()

    async def _direct(self) -> None:
        """For ever: read the schedule, see who is up, begin and end instances."""
        seen = Height(0)
        while True:
            try:
                seen = await self._view.wait_for_height(seen + 1)
                await self._outlook.look(seen)
                for one in list(self._instances.values()):
                    if one.worker is not None:
                        await self._weigh(one)
            except SealiftError:  # the node is away, or an enclave ends: told elsewhere
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                continue
            await self._steer()
            await self._aim()
            self._see_who_is_late()
            await self._tell()

    async def _steer(self) -> None:
        plan, schedule = self._outlook.plan, self._outlook.schedule
        if plan is None or schedule is None:
            return
        self._begin_wanted()
        for entry in plan.entries():
            self._have(entry, schedule)
        answering = self._answering()
        if answering.fingerprint == plan.running:
            for one in self._others(answering):
                if one.fingerprint == plan.previous and plan.handed_over:
                    one.hand_over(plan.generation)
        wanted = self._wanted()
        for one in self._others(answering):
            if one not in wanted and one.state is not InstanceState.RETIRED:
                _LOG.info("instance %s ends: its time is over", one.name)
                await self._rest(one)

    def _see_who_is_late(self) -> None:
        """An instance whose turn it is, and that does not take it: say why, once."""
        plan, answering = self._outlook.plan, self._answering()
        for one in self._instances.values():
            late = (
                plan is not None
                and one is not answering
                and one.fingerprint == plan.running
                and plan.head >= plan.entry.upgrade_at + _LATE_BLOCKS
            )
            if late and not one.overdue:
                why = self._progress(one).waits_for
                _LOG.warning("instance %s does not take over: %s", one.name, why)
            one.overdue = late

    def _have(self, entry: ScheduleEntry, schedule: Schedule) -> None:
        """Find the bundle of an entry, if there is no instance of it yet."""
        code = entry.config.code.get(self.config.platform)
        if code is None or code in self._instances or code in self._finding:
            return
        task = self._group.create_task(self._find(code, entry, schedule))
        self._finding[code] = task
        task.add_done_callback(lambda _: self._finding.pop(code, None))

    async def _find(
        self, code: Fingerprint, entry: ScheduleEntry, schedule: Schedule
    ) -> None:
        if self._chain is None:
            return
        judged = await self._finder.find(entry, schedule, self._chain)
        if judged is not None and judged.fingerprint == code:
            try:
                await self._install(judged)
            except SealiftError as error:  # no room: told, and tried again
                self._finder.failed(code, error)

    async def _install(self, judged: Judged) -> Instance:
        code = judged.fingerprint
        if code not in self._instances:  # the home's own has no folder beside
            config = await asyncio.to_thread(install_instance, self.config, judged)
            if code not in self._instances:
                fresh = Instance(code, config)
                self._rest_now(fresh)
                self._instances[code] = fresh
        one = self._instances[code]
        one.version = judged.version
        self._begin_wanted()
        await self._tell()
        return one

    # --- what an operator asks ---

    async def stage(
        self, data: bytes, gramine: Path | None
    ) -> AsyncGenerator[Progress]:
        """Stage a bundle, and say how it goes until it is ready or runs.

        Args:
            data: The bundle's file.
            gramine: Under Gramine: the folder that was signed.

        Raises:
            SealiftError: Why it is not staged, by name.
        """
        await self._outlook.look(await self._view.wait_for_height(1))
        chain, schedule = self._chain, self._outlook.schedule
        if chain is None or schedule is None:
            raise StalledError("the shard is not known on L1 yet")
        judged = await asyncio.to_thread(
            lambda: judge_bundle(
                data,
                platform=self.config.platform,
                chain_id=chain,
                schedule=schedule,
                gramine=gramine,
            )
        )
        one = await self._install(judged)
        said: Progress | None = None
        while True:
            word = self._progress(one)
            if word != said:
                said = word
                yield word
            if word.last:
                return
            async with self._news:
                await self._news.wait()

    async def snapshot(self) -> Made:
        """Make a snapshot of the state as it is now, of the instance that answers.

        Raises:
            SealiftError: Why there is none, by name.
        """
        return await self._answering().snapshot()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _progress(self, one: Instance) -> Progress:
        return one.progress(
            self._outlook.plan,
            answering=self._answering() is one,
            platform=self.config.platform,
        )

    def _answering(self) -> Instance:
        seat = self._board.current
        if seat is None:
            return self._wanted()[0]
        return self._instances[seat.fingerprint]

    # --- what the front shows ---

    def health(self) -> Health:
        """Of the instance that answers, and of what else should be up."""
        answering = self._answering()
        reasons = list(answering.health())
        if answering.worker is None:
            reasons.append(f"no enclave is up: {answering.why or 'it is starting'}")
        running = None if self._outlook.plan is None else self._outlook.plan.running
        for one in self._others(answering):
            if one.state is InstanceState.DOWN:
                reasons.append(f"instance {one.name}: {one.why}")
            elif one.fingerprint == running and one.overdue:
                word = self._progress(one)  # it should answer, and does not
                reasons.append(f"instance {one.name}: {word.waits_for}")
        reasons += [
            f"bundle {code.hex()[:8]}: {why}"
            for code, why in self._finder.troubles.items()
        ]
        if self._control_trouble:
            reasons.append(f"control: {self._control_trouble}")
        return Health(ok=not reasons, reasons=tuple(reasons))

    def about(self) -> dict[str, object]:
        """The instances, and what is missing."""
        rows = [self._progress(one) for one in self._instances.values()]
        return {
            "instances": [row.shown() for row in rows],
            "bundles_missing": {
                code.hex(): why for code, why in self._finder.troubles.items()
            },
            "switches": self._board.switches,
        }

    def metrics(self) -> bytes:
        """The instances, in Prometheus' text format."""
        rows = [self._progress(one) for one in self._instances.values()]
        return self._metrics.render(rows, switches=self._board.switches)


async def run_worker(
    home: Path,
    *,
    clock: Clock,
    ready: Callable[[Ready], None],
    platform: Platform | None = None,
    pccs: str = "",
    witnesses: Sequence[str] = (),
) -> None:
    """Run the worker of a home folder; ends only by an error or cancellation.

    Args:
        home: With its ``worker.toml``.
        clock: The wall clock.
        ready: Called once it answers.
        platform: Instead of the configured one.
        pccs: Instead of the configured one.
        witnesses: L1 nodes to compare with, beside the configured ones.

    Raises:
        SealiftError: What stopped it, by name.
    """
    config = load_config(home, platform=platform, pccs=pccs)
    async with open_ground(config, clock=clock, witnesses=witnesses) as ground:
        await Service(config, ground, ready=ready).run()
