"""One run of the campaign: a handover, kills at its instants, and a verdict."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, TypeVar

import aiohttp

from sealift.base import (
    Generation,
    Height,
    SealiftError,
    canonical_decode,
    decode,
)
from sealift.frame import RuntimeMetadata
from sealift.protocol import (
    HandoverCertificate,
    Schedule,
    UpgradeOrder,
    certificate_key,
    epoch_at,
    open_receipt,
    schedule_key,
    sign_order,
)
from sealift.transport.account import L1Account
from sealift.transport.rpc import Backoff, L1Client, system_jitter

from ._chaos_ground import (
    CALLERS,
    MIN_NOTICE,
    RESCUE_AFTER,
    USERS,
    Ground,
    config_of,
    in_time,
)
from ._chaos_hosts import Hosts, HotSwap, TwoWorkers
from ._chaos_judge import (
    Replay,
    judge_calls,
    judge_roots,
    receipts_of,
    replay,
)
from ._chaos_load import TrackedLoad
from ._chaos_parts import PATIENCE, ChaosError, Ended, Part, Parts
from ._chaos_plan import AFTER, LEAD, NOTICE, Kill, Victim, plan
from ._chaos_trace import ActScan, Trace
from ._demo_load import SealingKeys
from ._demo_stage import CHAIN_ID, Stage

T = TypeVar("T")
_RATE: Final = 8.0
_LOOK_SECONDS: Final = 0.8
#: For so long somebody who is down is waited for, and looked for so often.
_DOWN_SECONDS: Final = 10.0
_LURK_SECONDS: Final = 0.01
#: Where no upgrade is ordered yet.
_NEVER: Final = 2**62
_KILLED: Final = -9
#: A worker whose enclave was killed ends by this code, and says so.
_UNREACHABLE: Final = 3


@dataclass(frozen=True, slots=True)
class Struck:
    """A kill as it came: in which block it was, and whether anything ran."""

    kill: Kill
    block: float
    hit: bool


@dataclass(slots=True)
class Verdict:
    """What became of a run; without violations it is good."""

    seed: int
    hot_swap: bool = False
    upgrade_at: int = 0
    release_from: int = 0
    last: int = 0
    kills: list[Struck] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    calls: int = 0
    carried_again: int = 0
    gap_blocks: int = 0
    seconds: float = 0.0
    words: str = ""


class Run:
    """One handover on a fresh stage, with kills.

    Args:
        ground: What runs have in common.
        stage: A fresh copy of it.
        seed: Names the run, and says whom to kill and when.
        hot_swap: One worker has both enclaves, instead of two with one each.
    """

    def __init__(
        self, ground: Ground, stage: Stage, seed: int, *, hot_swap: bool = False
    ) -> None:
        self._ground = ground
        self._block_seconds = ground.block_ms / 1000
        self._stage = stage
        self.verdict = Verdict(seed=seed, hot_swap=hot_swap)
        self.trace = Trace()
        self.parts = Parts(stage.folder)
        self._hosts: Hosts = (HotSwap if hot_swap else TwoWorkers)(stage, self.parts)
        self._tasks: list[asyncio.Task[None]] = []
        self._l1: L1Client
        self._http: aiohttp.ClientSession
        self.scan: ActScan
        self.load: TrackedLoad

    async def play(self) -> Verdict:
        """Play it; whatever happens, nothing of it runs afterwards."""
        began = time.monotonic()
        try:
            await self._whole()
        except (SealiftError, TimeoutError, aiohttp.ClientError) as error:
            name = type(error).__name__
            self.verdict.violations.append(f"stuck: {name}: {error}"[:2000])
        finally:
            if self.verdict.violations:
                self.verdict.words = self.parts.words()
            self.verdict.seconds = time.monotonic() - began
        return self.verdict

    @property
    def params(self) -> dict[str, int]:
        """What the model has to know of the run."""
        return {
            "min_notice": MIN_NOTICE,
            "rescue_after": RESCUE_AFTER,
            "release_from": self.verdict.release_from,
            "upgrade_at": self.verdict.upgrade_at,
            "last": self.verdict.last,
        }

    async def _whole(self) -> None:
        try:
            self.parts.spawn("chain", "chain", "start", str(self._stage.chain))
            url = await self.parts.up("chain")
            async with (
                L1Client(url, backoff=Backoff(jitter=system_jitter)) as l1,
                aiohttp.ClientSession() as http,
            ):
                self._l1, self._http = l1, http
                try:
                    await self._story(url)
                finally:
                    await self._end_tasks()
        finally:
            await self.parts.close()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    # --- the story ---

    async def _story(self, url: str) -> None:
        self._begin_looking()
        homes = self._hosts.place(self._ground, url)
        for name in self._hosts.workers:
            self.parts.spawn(name, "worker", "run", str(homes[name]))
            self._beside(self._listen(name))
            self._beside(self._look(name))
        self._open_load()
        flow = asyncio.create_task(self.load.flow(_RATE))
        self._tasks.append(flow)
        for name in self._hosts.workers:
            await self.parts.up(name)
        ordered = await in_time(self._order)
        for kill in plan(self.verdict.seed, self._hosts.victims):
            await self._strike(kill, ordered + kill.after)
        await self._reach(self.verdict.upgrade_at + AFTER)
        for name in ("chain", *self._hosts.workers):
            await self.parts.up(name)
        await self._follow_epoch()
        await self._reach(self.scan.height + AFTER)
        flow.cancel()
        await self._settle()
        await self._judge()

    def _begin_looking(self) -> None:
        stage = self._stage
        codes = {stage.old.fingerprint: "old", stage.new.fingerprint: "new"}
        self.scan = ActScan(self._l1)
        self.scan.begin(self.trace, codes)
        self._beside(self._follow_chain())

    def _open_load(self) -> None:
        stage = self._stage
        self.load = TrackedLoad(
            account=L1Account(stage.keys["carrier"], self._l1, CHAIN_ID),
            metadata=decode(RuntimeMetadata, stage.old.metadata),
            shard=stage.shard,
            shielding_key=self._ground.shielding_key,
            users=USERS,
            scan=self.scan,
        )
        self.load.begin(CALLERS)

    async def _follow_chain(self) -> None:
        while True:
            with contextlib.suppress(SealiftError):
                await self.scan.run()
            await asyncio.sleep(0.1)

    async def _order(self) -> int:
        """The authority orders the new bundle; the block it was ordered at."""
        before = await self._read(Schedule, schedule_key(self._stage.shard))
        release = await self._l1.height() + NOTICE
        self.verdict.release_from, self.verdict.upgrade_at = release, release + LEAD
        order = UpgradeOrder(
            chain_id=CHAIN_ID,
            shard=self._stage.shard,
            serial=before.serial,
            predecessor=Generation(0),
            config=config_of(self._stage.new),
            release_from=Height(release),
            upgrade_at=Height(release + LEAD),
            expiry=Height(release),
        )
        signed = sign_order(order, self._stage.keys["authority"])
        account = L1Account(self._stage.keys["authority"], self._l1, CHAIN_ID)
        await account.act("enclave_bridge.submit_order", {"order": signed})
        return release - NOTICE

    async def _strike(self, kill: Kill, when: float) -> None:
        """At a fraction of a block after that block was seen.

        Who is down at that instant, of the kill before, is killed as it comes up.
        """
        await self._reach(int(when))
        await asyncio.sleep(when % 1 * self._block_seconds)
        end = time.monotonic() + _DOWN_SECONDS
        while True:
            hit = self._kill(kill.victim)
            if hit or time.monotonic() > end:
                break
            await asyncio.sleep(_LURK_SECONDS)
        at = self.scan.height
        self.verdict.kills.append(Struck(kill, round(at + when % 1, 2), hit))
        self.trace.note("killed", who=kill.victim, block=at, hit=hit)

    def _kill(self, victim: Victim) -> bool:
        if victim == "L1 node":
            return self.parts.kill("chain")
        return self._hosts.kill(victim)

    async def _follow_epoch(self) -> None:
        """Until the keys that the upgrade owes act; users seal to them from then on."""
        key = schedule_key(self._stage.shard)

        async def rotated() -> bool:
            schedule = await self._read(Schedule, key)
            acting = epoch_at(schedule, self.scan.height)
            self.load.seal_under(SealingKeys(acting.epoch, acting.keys.shielding_key))
            return acting.epoch > 0

        await self._until(rotated, "the next epoch's keys")

    async def _settle(self) -> None:
        """Until every call stands in a block, and all of it is confirmed."""

        async def all_on_l1() -> bool:
            with contextlib.suppress(SealiftError):
                await self.load.look_after()
            return not self.load.open

        await self._until(all_on_l1, "every call to stand in a block")
        self.verdict.last = last = self.scan.height

        async def confirmed() -> bool:
            return self.scan.confirmed_at(last) is not None

        await self._until(confirmed, f"block {last} to be confirmed")
        await self._reach(last + 1)

    # --- looking on ---

    async def _look(self, name: str) -> None:
        """Note what a worker says of its enclaves, for ever."""
        lives = 0
        while True:
            part = self.parts.parts.get(name)
            if part is not None and len(part.ended) != lives:
                lives = len(part.ended)
                self.trace.note("ended", who=name, code=part.ended[-1].code)
            if part is not None and part.up.is_set():
                await self._look_once(name, part)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look_once(self, name: str, part: Part) -> None:
        timeout = aiohttp.ClientTimeout(total=5)
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
            url, life = part.url + "/v1/status", self._hosts.life(name)
            async with self._http.get(url, timeout=timeout) as answer:
                said = await answer.json()
            if "imported" in said:
                for seen in self._hosts.seen(name, said, life):
                    self.trace.note("status", **seen._asdict())

    async def _listen(self, name: str) -> None:
        """Hear of the blocks that a worker's enclave executed, for ever."""
        while True:
            part = self.parts.parts.get(name)
            if part is not None and part.up.is_set():
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    await self._hear(name, part)
            await asyncio.sleep(0.05)

    async def _hear(self, name: str, part: Part) -> None:
        url = part.url + "/v1/executions"
        async with self._http.ws_connect(url, max_msg_size=0) as socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    height, _ = decode(tuple[int, tuple[Any, ...]], message.data)
                    at = self.verdict.upgrade_at or _NEVER
                    who = self._hosts.executor(name, height, upgrade_at=at)
                    self.trace.note("executed", who=who, height=height)

    async def _reach(self, height: int) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.scan.reach(height)

    async def _read(self, kind: type[T], key: bytes) -> T:
        entry = await self._l1.abci_query(key, prove=False)
        if entry.value is None:
            raise ChaosError("L1 has nothing there", got=key.hex())
        return canonical_decode(kind, entry.value)

    async def _until(
        self,
        holds: Callable[[], Awaitable[bool]],
        what: str,
        *,
        within: float = PATIENCE,
    ) -> None:
        end = time.monotonic() + within
        while True:
            with contextlib.suppress(SealiftError, aiohttp.ClientError, OSError):
                if await holds():
                    return
            if time.monotonic() > end:
                raise ChaosError(f"waited in vain for {what}")
            await asyncio.sleep(0.05)

    # --- the verdict ---

    async def _judge(self) -> None:
        """Everything that must hold, in order; see docs/testing.md.

        1. One generation after the other: the certificate at XYZ-1 once, the new
           one confirmed from XYZ on.
        2. Each call that was made, under the old epoch's keys or the new one's, took
           effect once: nonces, balances and bids.
        3. The workers end when they are asked to; before, only by the kills.
        4. Confirmed roots are those of an undisturbed execution.
        5. Each call stands on L1 and has its one receipt, in its place.
        """
        verdict, wrong = self.verdict, self.verdict.violations
        verdict.calls = len(self.load.made)
        verdict.carried_again = sum(c.carried - 1 for c in self.load.made.values())
        wrong += await self._judge_generations()  # 1
        wrong += await self._judge_effects()  # 2
        await self._end_workers()  # 3
        done = await replay(
            self._stage,
            self._l1,
            homes=(self._hosts.seat("old"), self._hosts.seat("new")),
            upgrade_at=verdict.upgrade_at,
            upto=verdict.last,
        )
        wrong += judge_roots(self.scan, done, upto=verdict.last)  # 4
        wrong += self._judge_calls(done)  # 5
        verdict.gap_blocks = self._gap()

    async def _judge_generations(self) -> list[str]:
        wrong = []
        shard, upgrade_at = self._stage.shard, self.verdict.upgrade_at

        async def posted() -> bool:
            return self.scan.count("enclave_bridge.post_certificate") > 0

        await self._until(posted, "the handover certificate")
        certificate = await self._read(HandoverCertificate, certificate_key(shard))
        if certificate.height != upgrade_at - 1:
            wrong.append(f"certificate: of block {certificate.height}")
        count = self.scan.count("enclave_bridge.post_certificate")
        if count != 1:
            wrong.append(f"certificate: posted {count} times")
        wrong += [
            f"generations: block {height} by generation {said.generation}"
            for _, said in self.scan.confirmations
            for height in (said.first, said.last)
            if said.generation != int(height >= upgrade_at)
        ]
        return wrong

    async def _judge_effects(self) -> list[str]:
        self.load.reading = decode(RuntimeMetadata, self._stage.new.metadata)
        found: list[str] = ["not asked"]

        async def right() -> bool:
            url = await self.parts.up(self._hosts.workers[-1])
            found[:] = await self.load.wrong(url, self._http)
            return not found

        with contextlib.suppress(ChaosError):  # said by what differs
            await self._until(right, "the state to be right", within=10)
        return [f"effects: {one}" for one in found]

    async def _end_workers(self) -> None:
        for name in reversed(self._hosts.workers):
            part = self.parts.parts[name]
            for end in part.ended:
                self._judge_end(name, end)
            code = await self.parts.stop(name)
            if code:
                self.verdict.violations.append(f"ends: {name} ended by code {code}")
            self.trace.note("stopped", who=name, code=code)

    def _judge_end(self, name: str, end: Ended) -> None:
        told = (
            end.code == _UNREACHABLE
            and "the enclave process has ended" in end.last_line
            and "signal 9" in end.last_line
        )
        if end.code != _KILLED and not told:
            self.verdict.violations.append(
                f"ends: {name} ended by code {end.code}: {end.last_line[:500]}"
            )

    def _judge_calls(self, done: Replay) -> list[str]:
        stage = self._stage
        disks = {
            name: (self._hosts.seat(name).folder, bundle)
            for name, bundle in (("old", stage.old), ("new", stage.new))
        }
        receipts = receipts_of(stage.shard, disks, self.scan.calls)
        wrong = judge_calls(self.scan, done, receipts, upto=self.verdict.last)
        for envelope, call in self.load.made.items():
            if envelope not in self.scan.calls:
                wrong.append(f"calls: {envelope.hex()[:16]} never came to L1")
            for sealed in receipts.get(envelope, {}).values():
                receipt = open_receipt(
                    sealed,
                    reply_key=call.sent.reply_key,
                    block_hash=self.scan.hashes[sealed.height],
                )
                if receipt.outcome != "ok":
                    wrong.append(
                        f"calls: {envelope.hex()[:16]} of user {call.user} ended "
                        f"with {receipt.outcome}: {receipt.message[:200]}"
                    )
        return wrong

    def _gap(self) -> int:
        """By how many blocks XYZ was confirmed later than ordinary blocks are."""
        upgrade_at = self.verdict.upgrade_at
        delays = {
            height: at - height
            for at, said in self.scan.confirmations
            for height in range(said.first, said.last + 1)
        }
        before = [d for h, d in delays.items() if h < upgrade_at - 1]
        if upgrade_at not in delays or not before:
            return -1
        return max(0, round(delays[upgrade_at] - median(before)))
