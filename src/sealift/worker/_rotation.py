"""The rotation of keys, as far as a host has a part in it (DESIGN §12).

After each imported block it looks at L1's schedule: what is due is staged, what
is staged is fetched and acknowledged, and the state on disk is renewed under an
epoch once it acts. Nothing here can give keys to anybody: the enclaves judge.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from sealift.base import (
    AccountId,
    DecodeError,
    Epoch,
    Fingerprint,
    Height,
    SealiftError,
    canonical_decode,
    decode,
    encode,
)
from sealift.protocol import (
    Frontier,
    RegistrationStatement,
    RotationDue,
    Schedule,
    config_at,
    frontier_key,
    schedule_key,
)
from sealift.protocol.ecall import (
    EnclaveStatus,
    GetStatus,
    HoldKeys,
    KeysHeld,
    KeysStaged,
    StageKeys,
)

from ._channel import EnclaveChannel
from ._epochs import (
    KeyView,
    Step,
    could_run,
    held_epochs,
    next_step,
    rank_of,
)
from ._errors import FATAL, EnclaveRefusedError, StalledError, UpstreamError
from ._fetch import record_of
from ._follower import Follower
from ._outbox import Included, Outbox
from ._patience import Pauses
from ._store import WorkerStore
from ._surroundings import Surroundings
from ._upstream import Upstream

#: The name of this topic in the worker's health.
ROTATION: Final = "rotation"
#: Blocks that the next in turn waits longer before it stages keys.
STAGGER_BLOCKS: Final = 3
#: So many may have their turn before this one; whoever comes later comes then.
_LAST_TURN: Final = 8
#: What the enclave answers while the proven schedule is not where the hint was.
_NOT_NOW: Final = frozenset(
    {
        "NoRotationDueError",
        "NothingStagedError",
        "RotationTooEarlyError",
        "StagedElsewhereError",
    }
)
#: What it answers if it has quoted nothing since it was started.
_NOT_QUOTED: Final = "NotQuotedError"
_REFUSED: Final = {
    Step.STAGE: "L1 has not taken the keys of the next epoch",
    Step.HOLD: "L1 has not taken this instance as a holder",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStanding:
    """Where the shard's keys stand, for people and metrics."""

    epoch: Epoch | None = None
    lacking: tuple[int, ...] = ()
    valid_from: Height | None = None
    staged: Epoch | None = None
    holders: int = 0
    quorum: int = 0
    why: str = ""
    due_since: Height | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acts:
    """What a rotation has done elsewhere in the worker.

    ``attest`` registers anew; ``request`` gets keys from a worker; ``renew``
    writes the state to disk as a snapshot.
    """

    attest: Callable[[], Awaitable[Height]]
    request: Callable[[Upstream], Awaitable[None]]
    renew: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Which code an enclave runs, and its signing key."""

    code: Fingerprint
    signing_key: AccountId


@dataclass(slots=True, kw_only=True)
class Rotation:
    """Drives one instance through rotations; every step survives a crash.

    Args:
        channel: The enclave.
        follower: Whose blocks it looks after.
        store: What it remembers.
        outbox: The operator's L1 acts.
        around: L1, disk, peers.
        me: Code and signing key of the enclave.
        acts: What others do for it.
        troubles: Where it says what is in the way.
    """

    channel: EnclaveChannel
    follower: Follower
    store: WorkerStore
    outbox: Outbox
    around: Surroundings
    me: Instance
    acts: Acts
    troubles: dict[str, str]
    standing: KeyStanding = field(default_factory=KeyStanding, init=False)
    _asked: int = field(default=0, init=False)

    async def run(self) -> None:
        """After each imported block, do what is to be done about keys.

        Raises:
            SealiftError: What ends a worker; all else is waited out, and said.
        """
        pauses = Pauses()
        while True:
            await self.follower.next_block()
            paid_before = self.outbox.paid
            try:
                await self.look()
            except FATAL:
                raise
            except SealiftError as error:
                self.troubles[ROTATION] = str(error)
                pause = pauses.after(
                    paid=self.outbox.paid > paid_before,
                    reached_nobody=isinstance(error, UpstreamError),
                )
                await asyncio.sleep(pause)
            else:
                self.troubles.pop(ROTATION, None)
                pauses = Pauses()

    async def look(self) -> None:
        """Look at the schedule once, and take the step that it asks for.

        Raises:
            SealiftError: What is in the way.
        """
        view = await self._view()
        if view is None:
            return
        self.standing = self._stand(view)
        step = next_step(view)
        try:
            await self._take(step, view)
        except EnclaveRefusedError as error:
            if error.refused not in _NOT_NOW:
                raise
            self.follower.progress.last_refusal = str(error)
            other = next_step(view, give_up=False)
            if step is not other:  # what was to be given up is not, for the enclave
                await self._take(other, view)

    async def _take(self, step: Step, view: KeyView) -> None:
        match step:
            case Step.STAGE:
                await self._stage(view)
            case Step.HOLD:
                await self._hold(view)
            case Step.FETCH:
                await self._fetch(view)
            case Step.WAIT:
                await self._renew(view)

    # --- steps ---

    async def _stage(self, view: KeyView) -> None:
        due, since = view.due, self.standing.due_since
        if due is None or since is None:
            return
        if view.given_up and view.schedule.staged is not None:
            rescue = view.schedule.rules.rescue_after
            since = Height(view.schedule.staged.staged_at + rescue)
        turn = min(await self._rank(view), _LAST_TURN)
        if view.imported < since + turn * STAGGER_BLOCKS:
            return
        await self._attest_since(view, due)
        staged = await self._made_keys(due)
        # durable before anybody hears of them: lost keys would be owed for ever
        self.around.disk.keep_key_store(staged.key_store)
        args: dict[str, object] = {
            "statement": staged.statement,
            "signature": staged.signature,
        }
        outcome = await self.outbox.act("enclave_bridge.stage_keys", args)
        await self._settled(outcome, Step.STAGE)

    async def _made_keys(self, due: RotationDue) -> KeysStaged:
        """The next keys, made under the registration that acts on L1.

        L1 refuses others: they may have been made when the platform was not what
        it is now.
        """
        if await self._acting() is not None:
            try:
                staged = await self.channel.call(StageKeys(), KeysStaged)
            except EnclaveRefusedError as error:
                if error.refused != _NOT_QUOTED:
                    raise
            else:
                acting = await self._acting()
                made_under = staged.statement.registration
                if (
                    acting is not None
                    and acting.digest() == made_under
                    and acting.block_height >= due.not_before
                ):
                    return staged
        await self.follower.reach(await self.acts.attest())
        return await self.channel.call(StageKeys(), KeysStaged)

    async def _acting(self) -> RegistrationStatement | None:
        record = await record_of(
            self.around.l1, self.me.signing_key, self.follower.progress.imported
        )
        return None if record is None else record.statement

    async def _hold(self, view: KeyView) -> None:
        staged = view.schedule.staged
        if staged is None:
            return
        await self._attest_since(view, staged.due)
        try:
            held = await self.channel.call(HoldKeys(), KeysHeld)
        except EnclaveRefusedError as error:
            if error.refused != "NoKeysError":
                raise
            await self._fetch(view)  # it holds others of that number
            return
        args: dict[str, object] = {
            "statement": held.statement,
            "signature": held.signature,
        }
        outcome = await self.outbox.act("enclave_bridge.hold_keys", args)
        await self._settled(outcome, Step.HOLD)

    async def _settled(self, outcome: Included, step: Step) -> None:
        """Return if L1 shows that an act, or another's like it, took effect."""
        await self.follower.reach(outcome.height)
        view = await self._view()
        what = _REFUSED[step]
        if view is None or next_step(view) is not step:
            if outcome.code:
                self.follower.progress.last_refusal = f"{what}: {outcome.log}"
            return
        raise StalledError(
            what,
            got=f"code {outcome.code}: {outcome.log}",
            expected="code 0, and the keys in the schedule",
        )

    async def _fetch(self, view: KeyView) -> None:
        """Ask the next of those that should hold the keys."""
        urls = await self._urls(view)
        if not urls:
            raise StalledError(
                "keys of a newer epoch exist and no instance that holds them is known",
                got="no URL on L1",
                expected="a holder that has announced itself",
                hint="Name a worker that has them under [upstream] and restart.",
            )
        url = urls[self._asked % len(urls)]
        self._asked += 1  # the next try asks the next one
        await self.acts.request(self.around.peer(url))
        self._asked -= 1

    async def _renew(self, view: KeyView) -> None:
        """Have the state on disk under the epoch that acts."""
        if not view.schedule.epochs:
            return
        acting = view.schedule.epochs[-1]
        executed = self.follower.progress.executed
        if executed is None or executed < acting.valid_from:
            return
        under = encode(acting.epoch)
        if self.store.meta("snapshot_epoch") == under:
            return
        if acting.epoch or self.store.meta("snapshot_epoch") is not None:
            await self.acts.renew()
        self.store.put_meta("snapshot_epoch", under)

    async def _attest_since(self, view: KeyView, due: RotationDue) -> None:
        """Have an attestation that the rotation accepts."""
        floor = max(due.not_before, view.schedule.status.not_before)
        record = await record_of(
            self.around.l1, self.me.signing_key, self.follower.progress.imported
        )
        if record is None or record.attested_at < floor:
            await self.follower.reach(await self.acts.attest())

    # --- what it knows ---

    async def _view(self) -> KeyView | None:
        height = Height(self.follower.progress.imported)
        l1, shard = self.around.l1, self.around.shard
        raw, _ = await l1.prove(schedule_key(shard), height)
        if raw is None:
            return None
        frontier, _ = await l1.prove(frontier_key(shard), height)
        status = await self.channel.call(GetStatus(), EnclaveStatus)
        return KeyView(
            schedule=canonical_decode(Schedule, raw),
            frontier=None if frontier is None else canonical_decode(Frontier, frontier),
            imported=height,
            code=self.me.code,
            me=self.me.signing_key,
            held=held_epochs(status),
            missing=frozenset(status.missing),
        )

    def _stand(self, view: KeyView) -> KeyStanding:
        schedule, due = view.schedule, view.due
        staged = schedule.staged
        if staged is not None:
            self.store.add_holders(*staged.holders)
        acting = schedule.epochs[-1] if schedule.epochs else None
        return KeyStanding(
            epoch=view.acting,
            lacking=view.lacking,
            valid_from=None if acting is None else acting.valid_from,
            staged=None if staged is None else staged.epoch,
            holders=0 if staged is None else len(staged.holders),
            quorum=schedule.rules.rotation_quorum,
            why="" if due is None else due.why,
            due_since=None if due is None else self._since(due, view.imported),
        )

    def _since(self, due: RotationDue, imported: Height) -> Height:
        """The block after which this rotation was first seen to be owed."""
        raw = self.store.meta("rotation_due")
        name = encode(due)
        if raw is not None:
            try:
                known, since = decode(tuple[bytes, Height], raw)
            except DecodeError:
                known, since = b"", imported  # a hint of ours: begun anew
            if known == name:
                return since
        self.store.put_meta("rotation_due", encode((name, imported)))
        return imported

    async def _rank(self, view: KeyView) -> int:
        """This instance's place among the known ones that may stage keys too."""
        if view.acting is None:
            return 0
        running = config_at(view.schedule, view.imported)
        others = set()
        for key in self.store.holder_keys():
            record = await record_of(self.around.l1, key, view.imported)
            if record is not None and could_run(
                record, running, view.schedule, view.imported
            ):
                others.add(key)
        return rank_of(self.me.signing_key, frozenset(others), epoch=view.acting + 1)

    async def _urls(self, view: KeyView) -> list[str]:
        """Where those answer that should hold the keys, likeliest first."""
        staged = view.schedule.staged
        keys = [] if staged is None else list(staged.holders)
        keys += self.store.holder_keys()
        urls = []
        for key in dict.fromkeys(keys):
            record = None
            if key != self.me.signing_key:
                record = await record_of(self.around.l1, key, view.imported)
            if record is not None and record.url:
                urls.append(record.url.rstrip("/"))
        upstream = self.around.upstream
        if upstream is not None:
            urls += [upstream.url, upstream.configured]
        return list(dict.fromkeys(urls))
