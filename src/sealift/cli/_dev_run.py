"""The author's loop: what runs, and how the next version takes over from it."""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from sealift.base import (
    Fingerprint,
    Generation,
    Height,
    SealiftError,
    canonical_decode,
)
from sealift.bundle import Bundle
from sealift.client import WorkerUnreachableError
from sealift.crypto import Entropy, account_of, sha256
from sealift.node.cometbft import free_ports
from sealift.protocol import (
    Frontier,
    Schedule,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    UpgradeOrder,
    config_at,
    frontier_key,
    schedule_key,
    sign_order,
)
from sealift.transport.account import L1Account
from sealift.transport.clock import Clock
from sealift.transport.rpc import Backoff, L1Client, system_jitter
from sealift.transport.supervise import Service, Supervisor

from ._app_ask import ask_application
from ._app_check import check_application, lines_of, metadata_of
from ._app_layout import Places
from ._application import read_application
from ._cards import SIM_KIND
from ._dev_home import (
    BOSS,
    CHAIN_ID,
    SEATS,
    DevHome,
    Workshop,
    code_of,
    example_commands,
)
from ._output import shown_safely
from ._worker_http import ask_status

T = TypeVar("T")
_SEALIFT: Final = (sys.executable, "-m", "sealift")
_READY: Final = r"^ready http://\S+"
_POLL_SECONDS: Final = 0.1
_PATIENCE: Final = 120.0
#: Blocks from the record of an order to the release of the keys.
_MIN_NOTICE: Final = 2
#: From the release to XYZ, and from XYZ until the predecessor gets the blocks back:
#: at least so many blocks, and at least so many milliseconds.
_LEAD: Final = (12, 6_000)
_RESCUE: Final = (40, 20_000)
_HOOK: Final = re.compile(
    r"(pre_upgrade|on_runtime_upgrade|post_upgrade) of pallet (\w+) failed"
)


class DevError(SealiftError):
    """The author's loop could not do what was asked; what ran goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What runs: its number, bundle, worker, and where that sits."""

    number: int
    bundle: Bundle
    service: str
    url: str
    seat: str

    @property
    def code(self) -> Fingerprint:
        """Its MRENCLAVE."""
        return code_of(self.bundle)

    @property
    def title(self) -> str:
        """Name and version, as its bundle says."""
        return f"{self.bundle.manifest.name} {self.bundle.manifest.version}"


class Loop:
    """A chain, a worker and what the author does with them.

    Args:
        workshop: Makes bundles and folders.
        clock: The wall clock.
        entropy: For ports.
        say: Gets a line for people.
        count: Gets a line that the next one may overwrite.
    """

    def __init__(
        self,
        workshop: Workshop,
        *,
        clock: Clock,
        entropy: Entropy,
        say: Callable[[str], None],
        count: Callable[[str], None],
    ) -> None:
        self._workshop = workshop
        self._home: DevHome = workshop.home
        self._entropy = entropy
        self._say = say
        self._count = count
        self._supervisor = Supervisor(say=self._note, changed=lambda: None, clock=clock)
        self._tries = 0
        self._block_ms = 1
        self._running: Version | None = None
        self._l1_url = ""
        self._port = 0
        self._has_begun = False

    @property
    def running(self) -> Version:
        """What runs now.

        Raises:
            DevError: Nothing does.
        """
        if self._running is None:
            raise DevError("nothing runs yet")
        return self._running

    @property
    def has_begun(self) -> bool:
        """Whether chain or worker were started, well or not."""
        return self._has_begun

    async def prepare(self, *, block_ms: int) -> None:
        """Make the chain, the simulator and the keys, for an application that is there.

        Raises:
            ApplicationError: There is none.
            FileError: It cannot be written.
        """
        await asyncio.to_thread(read_application, self._workshop.application)
        self._block_ms = block_ms
        (self._port,) = free_ports(1, entropy=self._entropy)
        await asyncio.to_thread(self._workshop.make, block_ms=block_ms, port=self._port)

    async def start(self) -> None:
        """Check and build the application, start chain and worker, make the shard.

        What is refused before it `has_begun` is the author's to mend, and may be
        started again.

        Raises:
            SealiftError: Why it cannot be started, by name.
        """
        await self._check(None)
        self._tries += 1
        bundle = await self._build()
        blob = await asyncio.to_thread(self._workshop.write_genesis, bundle)
        self._has_begun = True
        self._l1_url = await self._serve(
            "chain", "chain", "start", self._home.chain, self._port
        )
        self._done("chain", f"{self._l1_url}, a block every {self._block_ms} ms")
        async with self._l1() as l1:
            await self._create_shard(l1, bundle, blob)
            version = await self._start_worker(bundle, SEATS[0], upstream="")
            await self._until_state(version)
        self._now(version)
        self._done("shard", f"{self._home.shard().hex()[:16]}… is born")

    async def upgrade(self) -> None:
        """Check, build, schedule and hand over to what stands in the folder now.

        1. What `sealift app check` refuses against the running bundle is shown, and
        nothing is built. 2. The bundle is built; the same as before is no upgrade.
        3. A worker of the new code starts and follows, without keys. 4. The boss
        schedules the code. 5. At XYZ it takes over the state; the old worker ends
        when the new root is confirmed. A migration that is refused is named with
        its line, and the old version gets its blocks back.

        Raises:
            SealiftError: Why not, by name; the running version goes on.
        """
        old = self.running
        await self._check(old.bundle)  # 1.
        self._tries += 1
        bundle = await self._build()  # 2.
        if code_of(bundle) == old.code:
            self._say("nothing has changed: the same MRENCLAVE runs already")
            return
        seat = next(one for one in SEATS if one != old.seat)
        version = await self._start_worker(bundle, seat, upstream=old.url)  # 3.
        try:
            async with self._l1() as l1:
                await self._until_following(version)
                entry = await self._schedule(l1, version)  # 4.
                await self._hand_over(l1, version, entry)  # 5.
        except BaseException:
            await self._supervisor.stop(version.service)
            raise
        self._now(version)
        await self._supervisor.stop(old.service)
        self._done("upgraded", f"{old.title} → {version.title}, the state is kept")

    async def status(self) -> str:
        """A line on how it stands."""
        found = await ask_status(self.running.url)
        return (
            f"block {found['l1_head']}, state after {found['state_height']}, "
            f"generation {found['generation']}, {found['calls']} calls, "
            f"{self.running.title} at {self.running.url}"
        )

    def examples(self) -> list[str]:
        """Commands that can be pasted."""
        return example_commands(self._home, metadata_of(self.running.bundle))

    async def stop(self) -> None:
        """End everything that it started."""
        await self._supervisor.stop_all()

    # --- the author's folder ---

    async def _check(self, previous: Bundle | None) -> None:
        folder = self._workshop.application
        found = await asyncio.to_thread(check_application, folder, previous)
        for one in found:
            for line in lines_of(one):
                self._say(click.style(line, fg="red"))
        if found:
            raise DevError(
                "the application is refused",
                got=f"{len(found)} finding{'s' * (len(found) > 1)}, above",
                hint="Write the lines, and press u again",
            )

    async def _build(self) -> Bundle:
        began = time.monotonic()
        self._step("building")
        bundle = await asyncio.to_thread(self._workshop.build, self._tries)
        manifest = bundle.manifest
        self._done(
            "built",
            f"{manifest.name} {manifest.version}, MRENCLAVE "
            f"{code_of(bundle).hex()[:16]}…, in {time.monotonic() - began:.1f} s",
        )
        return bundle

    # --- processes ---

    async def _start_worker(
        self, bundle: Bundle, seat: str, *, upstream: str
    ) -> Version:
        number = self._tries
        (port,) = free_ports(1, entropy=self._entropy)
        home = self._workshop.write_worker(
            number, seat=seat, port=port, l1=self._l1_url, upstream=upstream
        )
        self._step("starting a worker")
        name = f"worker-{number}"
        url = await self._serve(name, "worker", "run", home, port)
        self._done("worker", url)
        return Version(number=number, bundle=bundle, service=name, url=url, seat=seat)

    async def _serve(
        self, name: str, noun: str, verb: str, home: Path, port: int
    ) -> str:
        service = Service(
            name=name,
            argv=(*_SEALIFT, noun, verb, str(home)),
            log=self._home.log(name),
            ready=_READY,
            within=_PATIENCE,
            grace=10.0,
        )
        try:
            await self._supervisor.start(service)
        except SealiftError as error:
            raise DevError(
                f"the {noun} does not start",
                got=_last_line(self._home.log(name)) or str(error),
                hint=f"Its log is {self._home.log(name)}",
            ) from error
        return f"http://127.0.0.1:{port}"

    def _l1(self) -> L1Client:
        return L1Client(self._l1_url, backoff=Backoff(jitter=system_jitter))

    # --- L1 ---

    def _blocks(self, least: tuple[int, int]) -> int:
        """So many blocks, and so many that the time has passed, too."""
        blocks, milliseconds = least
        return max(blocks, -(-milliseconds // self._block_ms))

    async def _create_shard(self, l1: L1Client, bundle: Bundle, blob: bytes) -> None:
        secret = self._home.secret(BOSS)
        rules = ShardRules(
            authority=SudoAuthority(key=account_of(secret)),
            genesis=sha256(blob),
            min_notice=_MIN_NOTICE,
            rescue_after=self._blocks(_RESCUE),
            effects_quorum=1,
        )
        config = ShardConfig(code={SIM_KIND: code_of(bundle)})
        account = L1Account(secret, l1, CHAIN_ID)
        done = await account.act(
            "enclave_bridge.create_shard", {"rules": rules, "config": config}
        )
        await self._until_height(l1, done.height + 1)

    async def _schedule(self, l1: L1Client, version: Version) -> tuple[Generation, int]:
        """The boss's order; the new generation, and its first block."""
        schedule = await self._read_schedule(l1)
        head = await l1.height()
        release = head + 2 + _MIN_NOTICE
        order = UpgradeOrder(
            chain_id=CHAIN_ID,
            shard=self._home.shard(),
            serial=schedule.serial,
            predecessor=config_at(schedule, head).generation,
            config=ShardConfig(code={SIM_KIND: version.code}),
            release_from=Height(release),
            upgrade_at=Height(release + self._blocks(_LEAD)),
            expiry=Height(head + 50),
        )
        secret = self._home.secret(BOSS)
        await L1Account(secret, l1, CHAIN_ID).act(
            "enclave_bridge.submit_order", {"order": sign_order(order, secret)}
        )
        entry = (await self._read_schedule(l1)).entries[-1]
        self._done("scheduled", f"{version.title} from block {entry.upgrade_at} on")
        return entry.generation, entry.upgrade_at

    async def _hand_over(
        self, l1: L1Client, version: Version, entry: tuple[Generation, int]
    ) -> None:
        """Until the new version's root is confirmed.

        Raises:
            DevError: Its migration is refused, or it is not ready in time.
        """
        generation, upgrade_at = entry
        told = ""
        while True:
            head = await l1.height()
            schedule = await self._read_schedule(l1)
            status = await self._ask(version.url)
            frontier = await self._read(l1, Frontier, frontier_key(self._home.shard()))
            if frontier is not None and frontier.confirmed >= upgrade_at:
                return
            if head < upgrade_at:
                self._count(f"  block {head}, {upgrade_at - head} to go")
            refusal = str(status.get("last_refusal") or "")
            if _HOOK.search(refusal) and refusal != told:
                told = refusal
                back = upgrade_at + self._blocks(_RESCUE)
                self._say(click.style(await self._refused(refusal), fg="red"))
                self._step(f"{self.running.title} gets its blocks back at {back}")
            if head > upgrade_at and config_at(schedule, head).generation != generation:
                raise DevError(
                    f"{version.title} has not taken over, and "
                    f"{self.running.title} goes on with the state as it was",
                    got=told or str(status.get("idle") or "the worker does not answer"),
                    hint="Mend it and press u again",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _refused(self, refusal: str) -> str:
        """A refused migration, with the line of the author's that refused it."""
        folder = self._workshop.application
        match = _HOOK.search(refusal)
        if match is None:
            return shown_safely(refusal)
        entry = read_application(folder).runtime
        asked = await asyncio.to_thread(ask_application, folder, entry)
        places = Places(folder, asked.pallets, entry)
        name = refusal.rpartition("got ")[2].split(".")[0].strip()
        place = places.raised(match[2], match[1], name)
        return shown_safely(f"{place.path}:{place.line}: {refusal}")

    # --- waiting ---

    async def _until_state(self, version: Version) -> None:
        async def has_state() -> bool:
            return (await self._ask(version.url)).get("state_height") is not None

        self._step("the enclave gives birth to the shard")
        await self._until(has_state, "the worker to have a state", version)

    async def _until_following(self, version: Version) -> None:
        async def follows() -> bool:
            status = await self._ask(version.url)
            head, here = status.get("l1_head"), status.get("imported")
            return isinstance(head, int) and isinstance(here, int) and head - here < 3  # noqa: PLR2004 - the last block waits for its successor

        self._step("the new enclave follows the chain")
        await self._until(follows, "the new worker to follow", version)

    async def _until(
        self, holds: Callable[[], Awaitable[bool]], what: str, version: Version
    ) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not await holds():
            if time.monotonic() > deadline:
                status = await self._ask(version.url)
                raise DevError(
                    f"waited in vain for {what}",
                    got=str(status.get("idle") or status.get("waiting_for") or status),
                    hint=f"Its log is {self._home.log(version.service)}",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _until_height(self, l1: L1Client, height: int) -> None:
        while await l1.height() < height:  # noqa: ASYNC110 - an RPC node
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self, url: str) -> dict[str, Any]:
        try:
            return await ask_status(url)
        except WorkerUnreachableError:
            return {}

    async def _read_schedule(self, l1: L1Client) -> Schedule:
        found = await self._read(l1, Schedule, schedule_key(self._home.shard()))
        if found is None:
            raise DevError("the shard has no schedule")
        return found

    async def _read(self, l1: L1Client, kind: type[T], key: bytes) -> T | None:
        entry = await l1.abci_query(key, prove=False)
        return None if entry.value is None else canonical_decode(kind, entry.value)

    # --- words ---

    def _now(self, version: Version) -> None:
        self._running = version
        self._workshop.write_card(version.bundle, l1=self._l1_url, worker=version.url)

    def _note(self, line: str) -> None:
        """The supervisor's word: only deaths are worth a line."""
        if ": ready " not in line:
            self._say(click.style(line, fg="yellow"))

    def _step(self, text: str) -> None:
        self._say(click.style(f"  {text} …", dim=True))

    def _done(self, word: str, text: str) -> None:
        self._say(click.style(f"{word.ljust(9)} ", fg="green") + text)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return shown_safely(lines[-1]) if lines else ""
