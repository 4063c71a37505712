"""A worker's life: what is in its way is outlasted and told, what is fatal ends it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from doubles import (
    CODE,
    ME,
    SHARD,
    FakeAccount,
    FakeEnclave,
    FakeL1,
    LostError,
    due,
    entry,
    epoch,
    executed,
    receipt,
    record,
    refusal,
    registration_statement,
    schedule,
    status,
)

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Fingerprint,
    Height,
    MrSigner,
    PlatformId,
    encode,
)
from sealift.protocol import (
    MAX_VALIDITY,
    EntryRehearsals,
    EntryStatus,
    KeyEpochRecord,
    PublishKeyStatement,
    Rehearsal,
    RehearsalGate,
    RehearsalStatement,
    RehearsalTerms,
    ShardConfig,
    ShardStatus,
    enclave_key,
    gate_key,
    keys_key,
    rehearsals_key,
    schedule_key,
)
from sealift.protocol.ecall import (
    BornKeys,
    HelloReply,
    KeysPublished,
    Register,
    Registration,
    SnapshotHeader,
    Started,
)
from sealift.worker import (
    EnclaveGoneError,
    EnclaveRefusedError,
    SnapshotNotKeptError,
    StalledError,
    UpstreamError,
    WorkerStore,
)
from sealift.worker import _fetch as fetch_module
from sealift.worker import _life as life_module
from sealift.worker import _patience as patience_module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._follower import Progress
from sealift.worker._life import Life
from sealift.worker._outbox import Included, Outbox
from sealift.worker._snapshots import Draft
from sealift.worker._store import StoredSnapshot
from sealift.worker._surroundings import Surroundings
from sealift.worker._upstream import Offer, OfferedSnapshot, Offers, Weight

OTHER = AccountId(b"\x0c" * 32)
REGISTER = "teerex.register_sgx_enclave"
PUBLISH = "enclave_bridge.publish_key"
ANNOUNCE = "teerex.announce"


def announced(key: AccountId, url: str, *, attested_at: int = 1, at: int = 0) -> bytes:
    platform = PlatformId(bytes([at]) * 32)
    return encode(
        record(key, url=url, attested_at=Height(attested_at), platform_id=platform)
    )


def publication() -> PublishKeyStatement:
    return PublishKeyStatement(
        chain_id="test",
        shard=SHARD,
        epoch=Epoch(0),
        signing_key=OTHER,
        shielding_key=bytes(32),
        state_key_commitment=Digest(bytes(32)),
        root_key_commitment=Digest(bytes(32)),
        genesis_root=bytes(32),
    )


class FakeFollower:
    """Follows nothing; the test moves its head."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.progress.imported = 10
        self.news = asyncio.Event()
        self.applied: list[int] = []
        self.taken: list[bytes] = []
        self.snapshots = 0
        self.refuse: Exception | None = None
        self.speaking: tuple[AccountId, ...] = ()

    def speakers(self) -> tuple[AccountId, ...]:
        return self.speaking

    async def run(self, head: Height) -> None:
        await asyncio.Event().wait()

    async def next_block(self) -> None:
        await asyncio.sleep(0.001)
        self.progress.imported += 1

    async def reach(self, height: int) -> None:
        self.progress.imported = max(self.progress.imported, height)

    @contextlib.asynccontextmanager
    async def standing_still(self):
        yield

    async def execute_ready(self) -> None:
        await asyncio.sleep(0)

    async def apply_diff(self, height: Height, diff: bytes) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.applied.append(height)

    async def begin_import(self, header: bytes) -> SnapshotHeader:
        return SnapshotHeader(header=header, height=Height(30), chunks=1)

    async def take_over(self, draft: Draft, begun: SnapshotHeader, _: bytes) -> Height:
        self.taken.append(begun.header)
        return begun.height

    async def keep_snapshot(self) -> StoredSnapshot:
        self.snapshots += 1
        assert self.progress.executed is not None
        return StoredSnapshot(height=self.progress.executed, name="")


class FakeUpstream:
    """A peer that is away until it is asked at the right address."""

    def __init__(self, url: str, *, lives_at: str | None = None) -> None:
        self.configured = self.url = url
        self.lives_at = lives_at or url
        self.given = [(Height(11), b"diff 11")]
        self.asked: list[str] = []
        self.fresh: list[int] = []
        self.weighed: Offers | None = None
        self.taken: list[str] = []

    def _answer(self) -> None:
        self.asked.append(self.url)
        if self.url != self.lives_at:
            raise UpstreamError("the worker cannot be reached")

    async def signing_key(self) -> AccountId:
        self._answer()
        return OTHER

    async def diffs(self, after: int):
        self._answer()
        await asyncio.sleep(0.001)
        return [(h, d) for h, d in self.given if h > after]

    async def snapshot(self, *, fresh_at: int = 0):
        self._answer()
        self.fresh.append(fresh_at)
        return OfferedSnapshot(height=Height(30), header=b"header", chunks=1)

    async def offers(self, after: int):
        self._answer()
        return self.weighed

    async def offered(self, name: str, *, header: bytes | None):
        self.taken.append(name)
        return OfferedSnapshot(height=Height(30), header=b"header", chunks=1)

    async def chunk(self, offered: OfferedSnapshot, number: int) -> bytes:
        return b"chunk"


class Around:
    """Disk, evidence and standing in one."""

    def __init__(self) -> None:
        self.blob: bytes | None = b"genesis"
        self.kept: list[bytes] = []
        self.refuse_collateral: Exception | None = None
        self.collateral_left: int | None = 10**9

    def key_store(self) -> bytes | None:
        return None

    def keep_key_store(self, sealed: bytes) -> None:
        self.kept.append(sealed)

    def genesis(self) -> bytes | None:
        return self.blob

    def free_bytes(self) -> int | None:
        return 5_000_000_000

    async def ensure_collateral(self, outbox: Outbox, quote: bytes) -> None:
        if self.refuse_collateral is not None:
            raise self.refuse_collateral

    async def collateral_seconds_left(self) -> int | None:
        return self.collateral_left

    async def funds(self, account: AccountId) -> int:
        return 1234


class Scene:
    def __init__(self, path: Path, upstream: FakeUpstream | None) -> None:
        self.epochs: tuple[Epoch, ...] = ()
        self.state_height: int | None = None
        self.enclave = FakeEnclave(
            GetStatus=lambda _: status(
                epochs=self.epochs,
                state_height=None
                if self.state_height is None
                else Height(self.state_height),
            ),
            Register=lambda _: Registration(
                statement=registration_statement(), signature=bytes(64), quote=b"quote"
            ),
            BornKeys=self.born,
        )
        self.l1 = FakeL1(head=11)
        self.account = FakeAccount()
        self.outbox = Outbox(self.account)
        self.around = Around()
        self.follower = FakeFollower()
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.upstream = upstream
        self.life = Life(
            channel=EnclaveChannel(self.enclave),
            follower=self.follower,
            store=self.store,
            outbox=self.outbox,
            around=Surroundings(
                shard=SHARD,
                l1=self.l1,
                disk=self.around,
                evidence=self.around,
                standing=self.around,
                operator=ME,
                upstream=upstream,
                peer=FakeUpstream,
                snapshot_every=100,
            ),
            hello=HelloReply(
                version=1,
                platform="insecure-sim",
                fingerprint=CODE,
                mr_signer=MrSigner(bytes(32)),
                isv_prod_id=1,
                isv_svn=1,
                name="app",
                app_version="1.0.0",
                metadata=b"",
            ),
            started=Started(signing_key=ME, key_store=b"", head=Height(1)),
            monotonic=lambda: 0.0,
        )
        self.life.url = "http://me"

    def born(self, request: BornKeys):
        self.epochs = (Epoch(0),)
        return KeysPublished(
            statement=publication(), signature=bytes(64), key_store=b"sealed"
        )

    def stands_at(self, height: int) -> None:
        """It has keys and a state, and is registered."""
        self.epochs = (Epoch(0),)
        self.state_height = height
        self.standing()

    def standing(self, url: str = "http://me", *, attested_at: int = 1) -> None:
        self.l1.values[enclave_key(ME)] = announced(ME, url, attested_at=attested_at)

    def scheduled(
        self, *, release_from: int = 1, status: EntryStatus = EntryStatus.ACTIVE
    ) -> None:
        turn = entry(
            since=release_from + 1, release_from=Height(release_from), status=status
        )
        self.l1.values[schedule_key(SHARD)] = encode(schedule(entries=(turn,)))

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(patience_module, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(fetch_module, "RETRY_SECONDS", 0.001)

    def run(
        story: Callable[[Scene], Awaitable[None]],
        *,
        upstream: FakeUpstream | None = None,
        live: bool = True,
    ) -> None:
        async def whole() -> None:
            scene = Scene(tmp_path, upstream)
            tasks = [asyncio.create_task(scene.life.run())] if live else []
            try:
                async with asyncio.timeout(5):
                    await story(scene)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                scene.store.close()

        asyncio.run(whole())

    return run


def refused(_: object) -> Included:
    return Included(height=Height(5), code=1, log="L1 says no")


def test_the_first_worker_registers_gives_birth_and_publishes_what_it_kept(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(lambda: scene.account.calls(PUBLISH))
        names = [call for call, _ in scene.account.sent]
        assert names[:2] == [REGISTER, PUBLISH]
        assert scene.around.kept == [b"sealed"]
        assert scene.store.meta("born") is not None
        await scene.until(lambda: scene.store.holders() == 1)
        assert scene.life.health().ok

    play(story)


def test_a_refused_registration_is_told_and_tried_again(play) -> None:
    async def story(scene: Scene) -> None:
        scene.account.outcomes[REGISTER] = refused
        await scene.until(lambda: not scene.life.health().ok)
        (reason,) = scene.life.health().reasons
        assert reason.startswith("keys: L1 refused the registration")
        assert "L1 says no" in reason
        del scene.account.outcomes[REGISTER]
        await scene.until(lambda: scene.account.calls(PUBLISH))
        await scene.until(lambda: scene.life.health().ok)

    play(story)


def test_no_genesis_no_upstream_and_refused_collateral_are_told(play) -> None:
    async def story(scene: Scene) -> None:
        scene.around.blob = None
        await scene.until(lambda: not scene.life.health().ok)
        assert "no genesis blob" in scene.life.health().reasons[0]
        scene.l1.values[keys_key(SHARD, 0)] = b"there are keys"
        await scene.until(lambda: "name a worker" in str(scene.life.health()).lower())
        del scene.l1.values[keys_key(SHARD, 0)]
        scene.around.blob = b"genesis"
        scene.around.refuse_collateral = StalledError("L1 refused the collateral")
        await scene.until(lambda: "the collateral" in str(scene.life.health()))

    play(story)


def test_an_l1_that_is_away_at_every_step_ends_nothing(play) -> None:
    async def story(scene: Scene) -> None:
        scene.l1.lost = LostError("the node is away")
        await scene.until(lambda: not scene.life.health().ok)
        assert scene.life.health().reasons == ("the chain: the node is away",)
        scene.l1.lost = None
        await scene.until(lambda: scene.account.calls(PUBLISH))
        scene.standing("http://before")
        scene.l1.lost = LostError("the node is away")
        described = await scene.life.describe()
        assert described["registered"] is False
        reading = await scene.life.reading()
        assert reading.operator_funds is None
        scene.l1.lost = None
        assert (await scene.life.reading()).operator_funds == 1234

    play(story)


def test_a_new_address_is_announced_until_l1_takes_it(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing("http://old-port")
        scene.account.outcomes[ANNOUNCE] = refused
        await scene.until(lambda: "announcement" in str(scene.life.health()))
        del scene.account.outcomes[ANNOUNCE]
        await scene.until(lambda: scene.life.health().ok)
        assert scene.account.calls(ANNOUNCE)[-1]["url"] == "http://me"

    play(story)


def test_an_old_attestation_is_renewed_and_a_refusal_is_told(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        scene.scheduled()
        scene.follower.progress.imported = 1_000_000
        await scene.until(lambda: scene.enclave.count(Register))
        scene.account.outcomes[REGISTER] = refused
        await scene.until(lambda: "attestation" in str(scene.life.health()))
        scene.standing(attested_at=999_999)
        await scene.until(lambda: scene.life.health().ok)

    play(story)


def test_code_whose_time_is_over_does_not_pay_for_refused_attestations(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.scheduled(status=EntryStatus.RETIRED)
        scene.follower.progress.imported = 1_000_000
        await scene.until(lambda: scene.follower.progress.imported > 1_000_060)
        assert not scene.account.sent
        assert scene.life.health().ok

    play(story)


def test_a_dead_enclave_ends_the_life_by_name(play) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.gone = LostError("the process has ended")
        with pytest.raises(EnclaveGoneError, match="the process has ended"):
            await scene.life.run()

    play(story, live=False)


def test_an_upstream_that_moved_is_found_where_l1_has_it_announced(play) -> None:
    upstream = FakeUpstream("http://old-port", lives_at="http://new-port")

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.l1.values[keys_key(SHARD, 0)] = encode(
            KeyEpochRecord(statement=publication(), valid_from=Height(3))
        )
        scene.l1.values[enclave_key(OTHER)] = announced(OTHER, "http://new-port")
        scene.follower.progress.needs_state = True
        await scene.until(lambda: scene.follower.applied)
        assert upstream.url == "http://new-port"
        assert scene.store.meta("upstream") == OTHER

    play(story, upstream=upstream)


def test_who_lacks_the_wanted_keys_is_left_for_one_who_is_known_to_hold_keys(
    play,
) -> None:
    """The enclave beside a staged one is of a generation that never gets them."""
    upstream = FakeUpstream("http://beside")
    holder, speaker = AccountId(b"H" * 32), AccountId(b"S" * 32)

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.store.add_holders(ME, holder)
        scene.l1.values[enclave_key(holder)] = announced(holder, "http://upgraded")
        scene.l1.values[enclave_key(speaker)] = announced(speaker, "http://speaks")

        async def refused(why: str) -> str:
            async def step(_: object) -> None:
                raise EnclaveRefusedError(
                    "RefusedByPeerError", f"the other end refused: got {why}: sorry"
                )

            with pytest.raises(EnclaveRefusedError):
                await scene.life._fetcher.ask(step)
            return upstream.url

        assert await refused("NotNamedError") == "http://beside"
        assert await refused("NoKeysError") == "http://upgraded"
        assert await refused("NoKeysError") == "http://beside"
        scene.follower.speaking = (ME, speaker, holder)
        assert await refused("NoKeysError") == "http://upgraded"
        assert await refused("NoKeysError") == "http://speaks"
        assert await refused("NoKeysError") == "http://beside"

    play(story, upstream=upstream)


def test_an_upstream_that_nobody_knows_is_asked_at_its_address_again(play) -> None:
    upstream = FakeUpstream("http://there", lives_at="http://nowhere")

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        scene.follower.progress.needs_state = True
        await scene.until(lambda: len(upstream.asked) > 3)
        assert set(upstream.asked) == {"http://there"}
        assert "state: none from upstream" in scene.life.health().reasons[0]
        scene.follower.progress.needs_state = False
        await scene.until(lambda: scene.life.health().ok)

    play(story, upstream=upstream)


def test_before_its_notice_has_run_nobody_is_asked_and_nothing_is_paid(play) -> None:
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.scheduled(release_from=10_000)
        await scene.until(lambda: "runs until block 10000" in str(scene.life.health()))
        assert not upstream.asked
        assert not scene.account.sent
        scene.follower.progress.imported = 10_000
        await scene.until(lambda: upstream.asked)

    play(story, upstream=upstream)


def test_a_code_that_the_schedule_does_not_name_waits_and_says_so(play) -> None:
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.life.hello = msgspec.structs.replace(
            scene.life.hello, fingerprint=Fingerprint(bytes(32))
        )
        scene.scheduled()
        await scene.until(lambda: "does not name this code" in str(scene.life.health()))
        assert not upstream.asked

    play(story, upstream=upstream)


def test_a_gap_in_a_peers_diffs_is_closed_by_a_snapshot(play) -> None:
    upstream = FakeUpstream("http://there")
    upstream.given = [(Height(20), b"diff 20")]

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.follower.progress.needs_state = True
        await scene.until(lambda: scene.follower.taken)
        assert upstream.fresh[0] == 11
        assert not scene.follower.applied

    play(story, upstream=upstream)


def test_nothing_is_fetched_that_a_later_generation_made_of_the_state(play) -> None:
    """It would take the place of the state that a rescue would go on from."""
    upstream = FakeUpstream("http://there")
    upstream.given = [(Height(n), b"diff") for n in range(11, 20)]

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.life.fetch_until(Height(13))
        scene.follower.progress.needs_state = True
        await scene.until(lambda: len(scene.follower.applied) >= 3)
        assert scene.follower.applied[:3] == [11, 12, 13]
        assert max(scene.follower.applied) == 13
        scene.state_height = 13
        await scene.life._fetcher._fetch_some(upstream)
        asked = len(upstream.asked)
        await scene.life._fetcher._fetch_some(upstream)
        assert len(upstream.asked) == asked
        assert max(scene.follower.applied) == 13

    play(story, upstream=upstream)


def test_no_snapshot_is_taken_that_a_later_generation_made(play) -> None:
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        scene.life.fetch_until(Height(29))
        await scene.life._fetcher._fetch_some(upstream)
        assert upstream.fresh
        assert not scene.follower.taken
        scene.life.fetch_until(Height(30))
        await scene.life._fetcher._fetch_some(upstream)
        assert scene.follower.taken

    play(story, upstream=upstream)


def test_without_a_state_a_snapshot_is_taken_over(play) -> None:
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        scene.follower.progress.needs_state = True
        await scene.until(lambda: scene.follower.taken)
        assert scene.follower.taken[0] == b"header"

    play(story, upstream=upstream)


def offers(diffs: Weight, *, snapshot: int, after: int) -> Offers:
    """A snapshot of block 30 of so many bytes, and what its diffs weigh."""
    one = Offer(
        name="30-" + "0" * 12,
        height=30,
        size=snapshot,
        diffs=Weight(count=0 if after == 0 else 70, last=100, size=after),
    )
    return Offers(diffs=diffs, snapshots=(one,))


@pytest.mark.parametrize(
    ("weighed", "snapshot"),
    [
        (offers(Weight(count=90, last=100, size=999), snapshot=500, after=400), True),
        (offers(Weight(count=90, last=100, size=900), snapshot=500, after=400), False),
        (offers(Weight(count=50, last=100, size=10), snapshot=500, after=400), True),
        (Offers(diffs=Weight(count=90, last=100, size=999)), False),
        (None, False),
    ],
    ids=["cheaper", "dearer", "gap", "none there", "older release"],
)
def test_who_is_far_behind_takes_the_cheaper_way(
    play, weighed: Offers | None, snapshot: bool
) -> None:
    upstream = FakeUpstream("http://there")
    upstream.weighed = weighed

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.follower.progress.imported = 100
        scene.follower.progress.needs_state = True
        await scene.until(lambda: scene.follower.taken or scene.follower.applied)
        assert bool(scene.follower.taken) is snapshot
        assert bool(upstream.taken) is snapshot

    play(story, upstream=upstream)


def test_who_is_near_does_not_weigh(play) -> None:
    upstream = FakeUpstream("http://there")
    heavy = Weight(count=90, last=100, size=999)
    upstream.weighed = offers(heavy, snapshot=5, after=4)

    async def story(scene: Scene) -> None:
        scene.state_height = 10
        scene.follower.progress.imported = 10 + fetch_module.FAR_BEHIND
        scene.follower.progress.needs_state = True
        await scene.life._fetcher._fetch_diffs(upstream, 10)
        assert scene.follower.applied == [11]
        assert not upstream.taken

    play(story, upstream=upstream, live=False)


def test_a_worker_without_upstream_that_fell_behind_asks_one_who_has_the_keys(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "_LOOK_SECONDS", 0.001)

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.store.put_meta("born", b"\x01")
        may_skip = scene.life._fetcher.may_skip
        assert not may_skip()  # nobody else is known: what is skipped would be lost
        scene.store.add_holders(ME, OTHER)
        assert may_skip()
        scene.l1.values[enclave_key(OTHER)] = announced(OTHER, "http://there")
        progress = scene.follower.progress
        progress.idle, progress.needs_state = "not-mine: other code", True
        await scene.until(lambda: progress.imported > 10)
        assert not scene.follower.applied  # its time is over: nothing is asked for
        progress.idle = "behind: block 11 does not wait any more"
        await scene.until(lambda: scene.follower.applied)

    play(story)


def test_whoever_lost_its_database_asks_those_that_speak_for_the_shard(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its keys and names no upstream: nothing on disk says whom to ask."""
    monkeypatch.setattr(fetch_module, "_LOOK_SECONDS", 0.001)

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        progress = scene.follower.progress
        progress.idle, progress.needs_state = "no-state: none", True
        await scene.until(lambda: progress.imported > 10)
        assert not scene.follower.applied  # nobody has spoken yet
        scene.l1.values[enclave_key(OTHER)] = announced(OTHER, "http://there")
        scene.follower.speaking = (ME, OTHER)
        await scene.until(lambda: scene.follower.applied)

    play(story)


def test_a_disk_without_room_for_a_snapshot_is_told_and_blocks_go_on(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        tries: list[int] = []
        good, progress = scene.follower.keep_snapshot, scene.follower.progress

        async def full() -> StoredSnapshot:
            tries.append(progress.executed or 0)
            raise SnapshotNotKeptError("no room")

        scene.follower.keep_snapshot = full
        progress.executed = Height(50)
        await scene.until(lambda: scene.life._snapshot_at is not None)
        progress.executed = Height(150)
        await scene.until(lambda: "snapshot: no room" in str(scene.life.health()))
        progress.executed = Height(150 + life_module._PRUNE_EVERY - 1)
        await asyncio.sleep(0.02)
        assert tries == [150]  # a whole export is not tried at every block
        scene.follower.keep_snapshot = good
        progress.executed = Height(150 + life_module._PRUNE_EVERY)
        await scene.until(lambda: scene.life.health().ok)
        assert scene.follower.snapshots == 1

    play(story)


def test_diffs_stay_while_the_oldest_kept_snapshot_needs_them(play) -> None:
    async def story(scene: Scene) -> None:
        for height in range(20, 260, 10):
            scene.store.commit_diff(Height(height), b"diff")
        for height in (40, 240):
            name = f"{height}-{'0' * 12}"
            scene.store.put_snapshot(StoredSnapshot(height=Height(height), name=name))
        scene.follower.progress.executed = Height(240)
        await scene.life._renew_snapshot()
        assert next(h for h, _ in scene.store.diffs_after(0)) == 50

    play(story, live=False)


def test_a_forged_diff_is_told_and_nothing_else_suffers(play) -> None:
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.follower.refuse = EnclaveRefusedError("DiffForgedError", "does not open")
        scene.follower.progress.needs_state = True
        await scene.until(lambda: "DiffForgedError" in str(scene.life.health()))

    play(story, upstream=upstream)


def test_a_peer_whose_diffs_are_forged_is_left_for_another(play) -> None:
    upstream = FakeUpstream("http://liar")

    async def story(scene: Scene) -> None:
        scene.stands_at(10)
        scene.l1.values[enclave_key(OTHER)] = announced(OTHER, "http://honest")
        scene.store.add_holders(ME, OTHER)
        scene.follower.refuse = EnclaveRefusedError("DiffForgedError", "does not open")
        scene.follower.progress.needs_state = True
        await scene.until(lambda: "http://honest" in upstream.asked)

    play(story, upstream=upstream)


def test_over_a_block_that_other_code_began_leads_a_snapshot(play) -> None:
    """Staged for the upgrade after the next, it has not the next one's migrations."""
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.state_height = 10
        scene.follower.refuse = EnclaveRefusedError("DiffOfOtherCodeError", "not ours")
        scene.follower.progress.needs_state = True
        fetch = scene.life._fetcher._fetch_diffs
        past = entry(since=1), entry(1, since=11, code=b"\x01" * 32)
        ahead = entry(2, since=20, status=EntryStatus.PENDING)
        for entries in ((past[1],), past):  # a rescue would go on from what is here
            what = schedule(entries=entries)
            scene.l1.values[schedule_key(SHARD)] = encode(what)
            with pytest.raises(EnclaveRefusedError, match="not ours"):
                await fetch(upstream, 10)
        assert not scene.follower.taken
        what = schedule(entries=(*past, ahead))
        scene.l1.values[schedule_key(SHARD)] = encode(what)
        await fetch(upstream, 10)
        assert upstream.fresh == [11]
        assert scene.follower.taken == [b"header"]

    play(story, upstream=upstream, live=False)


def test_a_diff_that_was_executed_here_meanwhile_is_no_trouble(play) -> None:
    upstream = FakeUpstream("http://there")

    async def story(scene: Scene) -> None:
        scene.state_height = 11
        scene.follower.refuse = EnclaveRefusedError("DiffOrderError", "too late")
        scene.follower.progress.needs_state = True
        await scene.life._fetcher._fetch_diffs(upstream, 10)

    play(story, upstream=upstream, live=False)


def test_tries_that_reach_l1_and_fail_elsewhere_cost_less_and_less(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each brings a registration to L1, and then the provider goes away."""
    upstream = FakeUpstream("http://there")
    pauses: list[float] = []

    async def story(scene: Scene) -> None:
        async def registers_and_fails(_: FakeUpstream) -> None:
            await scene.life.register_now()
            raise UpstreamError("the provider went away")

        scene.scheduled()
        monkeypatch.setattr(scene.life, "request_keys", registers_and_fails)
        monkeypatch.setattr(life_module, "asyncio", Sleeps(pauses))
        await scene.until(lambda: len(pauses) > 12)
        assert pauses[:4] == [0.002, 0.004, 0.008, 0.016]
        assert pauses[9:12] == [0.512] * 3  # 512 times the first, and no more

    play(story, upstream=upstream)


class Sleeps:
    """asyncio, with a sleep that notes its length and takes none."""

    def __init__(self, pauses: list[float]) -> None:
        self.pauses = pauses

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


def test_one_try_for_keys_without_anybody_to_ask_is_refused(play) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(StalledError, match="no worker to ask"):
            await scene.life.request_keys_only()

    play(story, live=False)


def test_snapshots_are_renewed_every_so_many_executed_blocks(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        progress = scene.follower.progress
        progress.executed = Height(50)
        await scene.until(lambda: scene.life._snapshot_at == 50)
        assert scene.follower.snapshots == 0
        for height in (10, 60):
            scene.store.commit_diff(Height(height), b"diff")
        progress.executed = Height(151)
        await scene.until(lambda: scene.follower.snapshots)
        await scene.until(lambda: scene.store.diff(10) is None)
        assert scene.store.diff(60) is not None

    play(story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"halted": "fork"}, "the enclave has stopped executing: fork"),
        (
            {"l1_failure": "refused", "waiting_for": "block 4"},
            "waiting for block 4: refused",
        ),
        ({"l1_head": 100, "waiting_for": "block 11"}, "89 blocks behind"),
    ],
)
def test_health_says_what_it_waits_for(play, change, words: str) -> None:
    async def story(scene: Scene) -> None:
        for name, value in change.items():
            setattr(scene.follower.progress, name, value)
        health = scene.life.health()
        assert not health.ok
        assert words in health.reasons[0]

    play(story, live=False)


def test_a_worker_without_the_epoch_that_acts_says_so_by_name(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        there = schedule(entries=(entry(since=1),), epochs=(epoch(0), epoch(1, 9)))
        scene.l1.values[schedule_key(SHARD)] = encode(there)
        await scene.until(lambda: "epoch 1 acts" in str(scene.life.health()))
        assert "does not hold epoch 1; epoch 1 acts from block 9" in str(
            scene.life.health()
        )
        described = await scene.life.describe()
        assert (described["key_epoch"], described["key_epoch_held"]) == (1, False)
        assert not (await scene.life.reading()).key_epoch_held
        scene.epochs = (Epoch(0), Epoch(1))
        await scene.until(lambda: scene.life.health().ok)
        assert (await scene.life.describe())["key_epoch_held"] is True

    play(story)


def test_a_rotation_that_is_due_is_shown_with_its_reason_and_age(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        scene.enclave.answers["StageKeys"] = lambda _: refusal("NoRotationDueError")
        owed = schedule(rotation=due(why="cancel"))
        scene.l1.values[schedule_key(SHARD)] = encode(owed)
        await scene.until(lambda: scene.life._rotation.standing.due_since)
        described = await scene.life.describe()
        assert described["rotation_why"] == "cancel"
        assert isinstance(described["rotation_due_since"], int)
        assert (await scene.life.reading()).rotation_due_blocks > 0

    play(story)


def test_receipts_go_when_no_copy_of_their_call_is_valid_any_more(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing()
        for height in (100, 101):
            one = receipt(height, envelope=bytes([height]))
            scene.store.commit_block(executed(height, receipts=(one,)))
        progress = scene.follower.progress
        progress.executed = Height(100 + MAX_VALIDITY)
        await scene.until(lambda: progress.imported > 40)
        assert scene.store.receipts_at(100)
        progress.executed = Height(101 + life_module.RECEIPTS_KEPT)
        await scene.until(lambda: not scene.store.receipts_at(100))
        assert scene.store.receipts_at(101)

    play(story)


def test_two_instances_on_one_machine_are_lost_together(play) -> None:
    """As while an upgrade is staged: the keys are still on one machine only."""

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing(attested_at=900_000)
        scene.scheduled()
        scene.l1.values[enclave_key(OTHER)] = announced(OTHER, "", attested_at=900_000)
        scene.store.add_holders(ME, OTHER)
        scene.follower.progress.imported = 910_000
        assert (await scene.life.reading()).instances_with_keys == 1

    play(story, live=False)


def test_an_instance_that_is_gone_holds_nothing_any_more(play) -> None:
    """Two machines had the keys; one is lost, and the count says so."""

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing(attested_at=900_000)
        scene.scheduled()
        scene.l1.values[enclave_key(OTHER)] = announced(
            OTHER, "", attested_at=880_000, at=1
        )
        scene.store.add_holders(ME, OTHER, b"\x0d" * 32)  # the third left L1
        scene.follower.progress.imported = 910_000
        assert (await scene.life.reading()).instances_with_keys == 2
        scene.follower.progress.imported = 990_000
        assert (await scene.life.reading()).instances_with_keys == 1
        assert (await scene.life.describe())["instances_with_keys"] == 1
        scene.l1.lost = LostError("the node is away")
        assert (await scene.life.reading()).instances_with_keys is None

    play(story, live=False)


def test_what_the_next_upgrade_lacks_is_in_status_and_metrics(play) -> None:
    """For every worker of the shard: the old one sees that it will go on."""

    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing(attested_at=10)
        scene.scheduled()
        assert (await scene.life.reading()).rehearsals_missing is None
        ahead = entry(1, since=150, status=EntryStatus.PENDING)
        what = schedule(entries=(entry(), ahead))
        scene.l1.values[schedule_key(SHARD)] = encode(what)
        assert (await scene.life.reading()).rehearsals_missing == 0
        terms = RehearsalTerms(required=2, postpone_by=10)
        scene.l1.values[gate_key(SHARD)] = encode(RehearsalGate(terms=terms))
        reading = await scene.life.reading()
        assert (reading.rehearsals_missing, reading.rehearsal_good) == (2, None)
        scene.l1.values[rehearsals_key(SHARD, 1)] = encode(
            EntryRehearsals(
                order=ahead.order,
                upgrade_at=ahead.upgrade_at,
                rehearsals=(word(b"\x01"), word(b"\x02", check="a.post_upgrade")),
            )
        )
        assert (await scene.life.reading()).rehearsals_missing == 1
        told = await scene.life.describe()
        assert (told["rehearsals_required"], told["rehearsals_good"]) == (2, 1)
        assert told["rehearsal"] == "none"
        good, bad = told["rehearsals"]
        assert good.startswith("platform 0101010101010101: good, copy of block 90")
        assert "bad (a.post_upgrade)" in bad

    play(story, live=False)


def word(platform: bytes, *, check: str = "") -> Rehearsal:
    return Rehearsal(
        statement=RehearsalStatement(
            chain_id="test",
            shard=SHARD,
            generation=1,
            order=bytes(32),
            upgrade_at=Height(150),
            signing_key=platform * 32,
            height=Height(90),
            blocks=8,
            good=not check,
            check=check,
            size=4096,
        ),
        signature=bytes(64),
        milliseconds=64,
        platform_id=platform * 32,
        recorded_at=Height(100),
    )


def test_what_lies_ahead_is_in_status_and_metrics(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing(attested_at=10)
        strict = ShardConfig(code={"insecure-sim": CODE}, min_isv_svn=9)
        ahead = entry(1, since=150, status=EntryStatus.PENDING, config=strict)
        what = schedule(entries=(entry(), ahead))
        scene.l1.values[schedule_key(SHARD)] = encode(what)
        assert (await scene.life.reading()).policy_warnings == 1
        (warning,) = (await scene.life.describe())["warnings"]
        assert "isv-svn, in 140 blocks" in warning
        scene.around.collateral_left = 60
        assert (await scene.life.reading()).policy_warnings == 2
        scene.l1.values[schedule_key(SHARD)] = encode(schedule())
        scene.around.collateral_left = 10**9
        assert (await scene.life.reading()).policy_warnings == 0

    play(story, live=False)


def test_metrics_tell_what_an_operator_must_see_coming(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        empty = await scene.life.reading()
        assert (empty.attestation_age_blocks, empty.attestation_remaining) == (
            None,
            None,
        )
        scene.standing(attested_at=4)
        scene.l1.values[schedule_key(SHARD)] = encode(schedule())
        scene.l1.frontier = 6
        scene.around.collateral_left = 777
        scene.life._troubles["the chain"] = "away"
        now = await scene.life.reading()
        most = entry().config.attestation.max_age_blocks
        assert now.attestation_age_blocks == now.imported_height - 4
        assert now.attestation_remaining == most - now.attestation_age_blocks
        assert now.confirmed_height == 6
        assert now.collateral_seconds_left == 777
        assert now.disk_free == 5_000_000_000
        assert now.waiting == {"chain"}
        assert not now.fork_seen
        scene.follower.progress.halted = "fork"
        scene.follower.progress.l1_failure = "refused"
        now = await scene.life.reading()
        assert now.fork_seen
        assert now.waiting == {"chain", "l1-node"}
        assert now.confirmed_height is None  # nobody to ask

    play(story, live=False)


def test_a_raised_floor_is_answered_by_a_new_attestation(play) -> None:
    async def story(scene: Scene) -> None:
        scene.epochs = (Epoch(0),)
        scene.standing(attested_at=10)
        raised = schedule(status=ShardStatus(not_before=Height(40)))
        scene.l1.values[schedule_key(SHARD)] = encode(raised)
        await scene.until(lambda: scene.follower.progress.imported > 35)
        assert not scene.enclave.count(Register)  # one at 36 would be too early
        await scene.until(lambda: scene.enclave.count(Register))
        assert scene.follower.progress.imported >= 40

    play(story)


def test_the_enclave_that_refuses_a_birth_is_quoted(play) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.answers["BornKeys"] = lambda _: refusal("GenesisMismatchError")
        await scene.until(lambda: "GenesisMismatchError" in str(scene.life.health()))
        assert scene.store.meta("born") is None

    play(story)
