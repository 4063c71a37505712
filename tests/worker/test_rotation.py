"""Driving a rotation: durable first, paid for once, whoever fails in between."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from doubles import (
    CODE,
    ME,
    SHARD,
    SIGNATURE,
    FakeAccount,
    FakeEnclave,
    FakeL1,
    LostError,
    due,
    entry,
    epoch,
    frontier,
    public,
    record,
    refusal,
    schedule,
    staged,
    status,
)

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Fingerprint,
    Height,
    canonical_decode,
    encode,
)
from sealift.protocol import (
    EnclaveRecord,
    HoldKeysStatement,
    RegistrationStatement,
    Schedule,
    StageKeysStatement,
    enclave_key,
    frontier_key,
    schedule_key,
)
from sealift.protocol.ecall import HoldKeys, KeysHeld, KeysStaged, StageKeys
from sealift.worker import (
    EnclaveGoneError,
    StalledError,
    StoreError,
    UpstreamError,
    WorkerStore,
)
from sealift.worker import _patience as patience_module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._epochs import rank_of
from sealift.worker._follower import Progress
from sealift.worker._outbox import Included, Outbox
from sealift.worker._rotation import (
    ROTATION,
    STAGGER_BLOCKS,
    Acts,
    Instance,
    Rotation,
)
from sealift.worker._surroundings import Surroundings

OTHER = AccountId(b"\x0c" * 32)
THIRD = AccountId(b"\x0d" * 32)
ELSE = Fingerprint(b"\x0e" * 32)
STAGE, HOLD = "enclave_bridge.stage_keys", "enclave_bridge.hold_keys"


class FakeFollower:
    """Follows nothing; the test moves its head."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.progress.imported = 10

    async def next_block(self) -> None:
        await asyncio.sleep(0.001)
        self.progress.imported += 1

    async def reach(self, height: int) -> None:
        self.progress.imported = max(self.progress.imported, height)


class FakeUpstream:
    def __init__(self, url: str) -> None:
        self.url = self.configured = url


class Scene:
    """One instance, an L1 that the test writes, and peers that give keys."""

    def __init__(self, path: Path, upstream: FakeUpstream | None) -> None:
        self.held: set[int] = {0}
        self.enclave = FakeEnclave(
            GetStatus=lambda _: status(epochs=tuple(Epoch(n) for n in self.held)),
            StageKeys=self.make,
            HoldKeys=lambda _: KeysHeld(
                statement=HoldKeysStatement(
                    chain_id="test",
                    shard=SHARD,
                    epoch=Epoch(1),
                    keys=public(1),
                    signing_key=ME,
                ),
                signature=SIGNATURE,
            ),
        )
        self.l1 = FakeL1()
        self.account = FakeAccount()
        self.outbox = Outbox(self.account)
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.follower = FakeFollower()
        self.kept: list[bytes] = []
        self.asked: list[str] = []
        self.attested = 0
        #: What keys were made under, where it is not the acting registration.
        self.made_under: Digest | None = None
        self.renewed = 0
        self.gone: set[str] = set()
        self.disk_full = False
        self.troubles: dict[str, str] = {}
        self.account.outcomes = {STAGE: self.took_keys, HOLD: self.took_holder}
        self.upstream = upstream
        self.begin()
        self.stands(ME)
        self.says(schedule())

    def begin(self) -> None:
        """A run of the worker begins; another may have ended."""
        self.rotation = Rotation(
            channel=EnclaveChannel(self.enclave),
            follower=self.follower,
            store=self.store,
            outbox=self.outbox,
            around=Surroundings(
                shard=SHARD,
                l1=self.l1,
                disk=self,
                evidence=None,
                standing=None,
                operator=ME,
                upstream=self.upstream,
                peer=FakeUpstream,
                snapshot_every=100,
            ),
            me=Instance(code=CODE, signing_key=ME),
            acts=Acts(attest=self.attest, request=self.request, renew=self.renew),
            troubles=self.troubles,
        )

    # --- what the test says ---

    def says(self, what: Schedule) -> None:
        self.l1.values[schedule_key(SHARD)] = encode(what)
        self.l1.values[frontier_key(SHARD)] = encode(frontier())

    def stands(self, key: AccountId, **changes: object) -> None:
        self.l1.values[enclave_key(key)] = encode(record(key, **changes))

    def took_keys(self, _: object) -> Included:
        self.says(schedule(staged=staged(1, ME)))
        return self.taken()

    def took_holder(self, _: object) -> Included:
        self.says(schedule(staged=staged(1, OTHER, ME)))
        return self.taken()

    def taken(self) -> Included:
        height = Height(self.follower.progress.imported + 1)
        return Included(height=height, code=0, log="")

    # --- what the worker around does ---

    def make(self, _: StageKeys) -> KeysStaged:
        self.held.add(1)
        return KeysStaged(
            statement=StageKeysStatement(
                chain_id="test",
                shard=SHARD,
                epoch=Epoch(1),
                keys=public(1),
                signing_key=ME,
                registration=self.made_under or self.acting().digest(),
            ),
            signature=SIGNATURE,
            key_store=b"with the staged epoch",
        )

    def keep_key_store(self, sealed: bytes) -> None:
        if self.disk_full:
            raise StoreError("no room on the disk")
        assert not self.account.calls(STAGE), "L1 heard of keys that may be lost"
        self.kept.append(sealed)

    def acting(self) -> RegistrationStatement:
        raw = self.l1.values[enclave_key(ME)]
        return canonical_decode(EnclaveRecord, raw).statement

    async def attest(self) -> Height:
        self.attested += 1
        height = Height(self.follower.progress.imported)
        statement = msgspec.structs.replace(self.acting(), block_height=height)
        self.stands(ME, attested_at=height, statement=statement)
        self.made_under = None
        return Height(self.follower.progress.imported)

    async def request(self, upstream: FakeUpstream) -> None:
        self.asked.append(upstream.url)
        if upstream.url in self.gone:
            raise UpstreamError("it cannot be reached")
        self.held.add(1)

    async def renew(self) -> None:
        self.renewed += 1

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.follower.next_block()
            await self.rotation.look()

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(patience_module, "FIRST_SECONDS", 0.001)

    def run(
        story: Callable[[Scene], Awaitable[None]],
        *,
        upstream: FakeUpstream | None = None,
        live: bool = False,
    ) -> None:
        async def whole() -> None:
            scene = Scene(tmp_path, upstream)
            tasks = [asyncio.create_task(scene.outbox.run())]
            if live:
                tasks.append(asyncio.create_task(scene.rotation.run()))
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


# --- staging ---


def test_keys_are_durable_before_l1_hears_of_them(play) -> None:
    async def story(scene: Scene) -> None:
        scene.says(schedule(rotation=due()))
        await scene.look()
        assert scene.kept == [b"with the staged epoch"]
        (args,) = scene.account.calls(STAGE)
        assert args["statement"].epoch == 1
        assert args["signature"] == SIGNATURE

    play(story)


def test_a_disk_that_is_full_stages_nothing_and_ends_the_worker(play) -> None:
    async def story(scene: Scene) -> None:
        scene.disk_full = True
        scene.says(schedule(rotation=due()))
        with pytest.raises(StoreError):
            await scene.rotation.run()
        assert not scene.account.sent

    play(story)


def test_whoever_is_not_the_first_in_turn_waits_and_pays_nothing(play) -> None:
    async def story(scene: Scene) -> None:
        before_me = [
            key
            for key in (AccountId(bytes([n]) * 32) for n in range(20, 60))
            if rank_of(ME, frozenset({key}), epoch=1)
        ][:2]
        for key in before_me:
            scene.stands(key)
            scene.store.add_holders(key)
        scene.says(schedule(rotation=due()))
        await scene.look(2 * STAGGER_BLOCKS)
        assert not scene.account.sent
        scene.says(schedule(staged=staged(1, before_me[0])))
        scene.held.add(1)
        await scene.look()
        assert not scene.account.calls(STAGE)
        assert not scene.enclave.count(StageKeys)

    play(story)


def test_where_those_before_it_do_nothing_the_next_one_does_it(play) -> None:
    async def story(scene: Scene) -> None:
        for number in range(20, 60):
            key = AccountId(bytes([number]) * 32)
            scene.stands(key)
            scene.store.add_holders(key)
        scene.says(schedule(rotation=due()))
        await scene.look(30)
        assert len(scene.account.calls(STAGE)) == 1

    play(story)


def test_those_that_are_gone_are_not_waited_for(play) -> None:
    async def story(scene: Scene) -> None:
        for number in range(20, 60):
            scene.store.add_holders(bytes([number]) * 32)  # L1 lists none of them
        scene.says(schedule(rotation=due()))
        await scene.look()
        assert len(scene.account.calls(STAGE)) == 1

    play(story)


def test_refused_because_another_was_faster_is_fine(play) -> None:
    async def story(scene: Scene) -> None:
        def faster(_: object) -> Included:
            scene.says(schedule(staged=staged(1, OTHER, ME)))
            return refused(_)

        scene.account.outcomes[STAGE] = faster
        scene.says(schedule(rotation=due()))
        await scene.look(3)
        assert len(scene.account.calls(STAGE)) == 1
        assert "L1 says no" in scene.follower.progress.last_refusal

    play(story)


def test_refused_for_another_reason_is_told_and_does_not_drain_the_account(
    play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience_module, "FIRST_SECONDS", 0.02)

    async def story(scene: Scene) -> None:
        scene.account.outcomes[STAGE] = refused
        scene.says(schedule(rotation=due()))
        await scene.until(lambda: ROTATION in scene.troubles)
        assert "L1 has not taken the keys of the next epoch" in scene.troubles[ROTATION]
        await asyncio.sleep(0.3)
        assert len(scene.account.calls(STAGE)) < 6
        scene.account.outcomes[STAGE] = scene.took_keys
        await scene.until(lambda: ROTATION not in scene.troubles)

    monkeypatch.setattr(Scene, "keep_key_store", lambda *_: None)
    play(story, live=True)


def test_an_act_without_effect_is_not_repeated_block_by_block(play) -> None:
    """A node that says yes and shows nothing costs fees no faster."""

    async def story(scene: Scene) -> None:
        scene.account.outcomes[STAGE] = lambda _: scene.taken()
        scene.says(schedule(rotation=due()))
        with pytest.raises(StalledError, match="and the keys in the schedule"):
            await scene.look()

    play(story)


@pytest.mark.parametrize(
    "name", ["NoRotationDueError", "StagedElsewhereError", "RotationTooEarlyError"]
)
def test_an_enclave_that_has_not_seen_it_yet_is_asked_again(play, name: str) -> None:
    async def story(scene: Scene) -> None:
        make = scene.enclave.answers["StageKeys"]
        scene.enclave.answers["StageKeys"] = lambda _: refusal(name)
        scene.says(schedule(rotation=due()))
        await scene.look(2)
        assert not scene.account.sent
        scene.enclave.answers["StageKeys"] = make
        await scene.look()
        assert len(scene.account.calls(STAGE)) == 1

    play(story)


def test_an_attestation_that_the_rotation_does_not_accept_is_renewed_first(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        scene.says(schedule(rotation=due(not_before=Height(8))))
        await scene.look()
        assert scene.attested == 1
        assert len(scene.account.calls(STAGE)) == 1

    play(story)


def test_keys_made_under_another_registration_are_made_anew_first(play) -> None:
    """L1 would refuse them; by the time they may have been anybody's."""

    async def story(scene: Scene) -> None:
        scene.made_under = Digest(b"x" * 32)
        scene.says(schedule(rotation=due()))
        await scene.look()
        assert scene.attested == 1
        (args,) = scene.account.calls(STAGE)
        assert args["statement"].registration == scene.acting().digest()

    play(story)


def test_an_enclave_that_has_quoted_nothing_is_attested_first(play) -> None:
    async def story(scene: Scene) -> None:
        refusals = [refusal("NotQuotedError")]
        scene.enclave.answers["StageKeys"] = lambda request: (
            refusals.pop() if refusals else scene.make(request)
        )
        scene.says(schedule(rotation=due()))
        await scene.look()
        assert scene.attested == 1
        assert len(scene.account.calls(STAGE)) == 1

    play(story)


def test_an_attestation_that_is_accepted_is_not_paid_for_again(play) -> None:
    async def story(scene: Scene) -> None:
        scene.stands(ME, attested_at=Height(8))
        scene.says(schedule(staged=staged(1, OTHER, not_before=Height(8))))
        scene.held.add(1)
        await scene.look()
        assert scene.attested == 0
        assert len(scene.account.calls(HOLD)) == 1

    play(story)


# --- fetching and holding ---


def test_what_is_staged_elsewhere_is_fetched_from_a_holder_and_acknowledged(
    play,
) -> None:
    async def story(scene: Scene) -> None:
        scene.stands(OTHER, url="http://other/")
        scene.says(schedule(staged=staged(1, OTHER)))
        await scene.look(2)
        assert scene.asked == ["http://other"]
        (args,) = scene.account.calls(HOLD)
        assert args["statement"].signing_key == ME
        scene.says(schedule(staged=staged(1, OTHER, ME)))
        await scene.look(3)
        assert len(scene.account.sent) == 1

    play(story)


def test_a_holder_that_is_away_is_passed_over(play) -> None:
    async def story(scene: Scene) -> None:
        scene.stands(OTHER, url="http://other")
        scene.stands(THIRD, url="http://third")
        scene.gone = {"http://other"}
        scene.says(schedule(staged=staged(1, OTHER, THIRD)))
        await scene.until(lambda: 1 in scene.held)
        assert scene.asked[:2] == ["http://other", "http://third"]
        await scene.until(lambda: not scene.troubles)

    play(story, live=True)


def test_without_a_holders_address_the_configured_worker_is_asked(play) -> None:
    async def story(scene: Scene) -> None:
        scene.says(schedule(staged=staged(1, OTHER)))
        await scene.look()
        assert scene.asked == ["http://configured"]

    play(story, upstream=FakeUpstream("http://configured"))


def test_with_nobody_to_ask_it_says_so(play) -> None:
    async def story(scene: Scene) -> None:
        scene.stands(ME, url="http://me")
        scene.says(schedule(staged=staged(1, OTHER, ME)))
        with pytest.raises(StalledError, match="no instance that holds them is known"):
            await scene.look()
        assert not scene.asked  # least of all itself

    play(story)


def test_what_the_enclave_does_not_give_up_is_fetched_still(play) -> None:
    async def story(scene: Scene) -> None:
        scene.stands(OTHER, url="http://other")
        scene.enclave.answers["StageKeys"] = lambda _: refusal("StagedElsewhereError")
        scene.says(schedule(staged=staged(1, OTHER), rotation=due()))
        scene.follower.progress.imported = 70  # staged at 5, given up at 55
        await scene.look()
        assert scene.enclave.count(StageKeys) == 1
        assert scene.asked == ["http://other"]

    play(story)


def test_keys_that_are_given_up_are_made_anew(play) -> None:
    async def story(scene: Scene) -> None:
        scene.says(schedule(staged=staged(1, OTHER), rotation=due()))
        scene.follower.progress.imported = 70
        await scene.look()
        assert len(scene.account.calls(STAGE)) == 1
        assert not scene.asked

    play(story)


def test_other_keys_of_the_same_number_are_fetched_anew(play) -> None:
    """It had staged its own, and L1 took another instance's."""

    async def story(scene: Scene) -> None:
        scene.held.add(1)
        scene.stands(OTHER, url="http://other")
        scene.enclave.answers["HoldKeys"] = lambda _: refusal("NoKeysError")
        scene.says(schedule(staged=staged(1, OTHER)))
        await scene.look()
        assert scene.asked == ["http://other"]
        assert not scene.account.sent

    play(story)


def test_a_refused_acknowledgement_that_is_moot_is_fine(play) -> None:
    async def story(scene: Scene) -> None:
        def acted(_: object) -> Included:
            scene.says(schedule(epochs=(epoch(0), epoch(1, 11))))
            return refused(_)

        scene.held.add(1)
        scene.account.outcomes[HOLD] = acted
        scene.says(schedule(staged=staged(1, OTHER)))
        await scene.look(2)
        assert len(scene.account.calls(HOLD)) == 1

    play(story)


def test_an_acting_epoch_that_it_lacks_is_named_and_fetched(play) -> None:
    async def story(scene: Scene) -> None:
        scene.store.add_holders(OTHER)
        scene.stands(OTHER, url="http://other")
        scene.gone = {"http://other"}
        scene.says(schedule(epochs=(epoch(0), epoch(1, 9))))
        with pytest.raises(UpstreamError):
            await scene.look()
        assert scene.rotation.standing.lacking == (1,)
        assert scene.rotation.standing.epoch == 1
        scene.gone = set()
        await scene.look(2)
        assert not scene.rotation.standing.lacking

    play(story)


def test_retired_code_does_nothing_at_all(play) -> None:
    async def story(scene: Scene) -> None:
        new = entry(1, since=5, code=ELSE)
        for what in (
            schedule(entries=(entry(), new), rotation=due(generation=1)),
            schedule(entries=(entry(), new), staged=staged(1, OTHER, generation=1)),
            schedule(entries=(entry(), new), epochs=(epoch(0), epoch(1, 9))),
        ):
            scene.says(what)
            await scene.look(3)
        assert not scene.account.sent
        assert not scene.asked
        assert not scene.rotation.standing.lacking

    play(story)


# --- after it ---


def test_the_state_on_disk_is_renewed_once_under_an_epoch_that_acts(play) -> None:
    async def story(scene: Scene) -> None:
        scene.follower.progress.executed = Height(9)
        await scene.look(2)
        assert scene.renewed == 0  # the first epoch: there is nothing older
        scene.held.add(1)
        scene.says(schedule(epochs=(epoch(0), epoch(1, 12))))
        await scene.look()
        assert scene.renewed == 0  # it acts, and nothing was executed under it
        scene.follower.progress.executed = Height(12)
        await scene.look(3)
        assert scene.renewed == 1

    play(story)


def test_a_renewal_that_fails_is_tried_again(play) -> None:
    async def story(scene: Scene) -> None:
        async def fails() -> None:
            scene.renewed += 1
            if scene.renewed < 3:
                raise LostError("no room for it")

        scene.rotation.acts = Acts(
            attest=scene.attest, request=scene.request, renew=fails
        )
        scene.held.add(1)
        scene.follower.progress.executed = Height(12)
        scene.says(schedule(epochs=(epoch(0), epoch(1, 12))))
        await scene.until(lambda: scene.store.meta("snapshot_epoch") is not None)
        assert scene.renewed == 3

    play(story, live=True)


def test_since_when_a_rotation_is_due_survives_a_restart(play, tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.answers["StageKeys"] = lambda _: refusal("NoRotationDueError")
        scene.says(schedule(rotation=due()))
        await scene.look()
        first = scene.rotation.standing.due_since
        await scene.look(5)
        assert scene.rotation.standing.due_since == first
        scene.begin()
        await scene.look(5)
        assert scene.rotation.standing.due_since == first
        scene.says(schedule(rotation=due(why="cancel")))
        await scene.look()
        assert scene.rotation.standing.due_since > first  # another one

    play(story)


def test_the_standing_says_who_holds_and_why(play) -> None:
    async def story(scene: Scene) -> None:
        scene.held.add(1)
        scene.says(schedule(staged=staged(1, OTHER, ME, why="cancel")))
        await scene.look()
        standing = scene.rotation.standing
        assert (standing.epoch, standing.staged) == (0, 1)
        assert (standing.holders, standing.quorum) == (2, 1)
        assert standing.why == "cancel"
        assert set(scene.store.holder_keys()) == {OTHER, ME}

    play(story)


# --- what is in the way ---


def test_an_l1_that_is_away_is_outlasted(play) -> None:
    async def story(scene: Scene) -> None:
        scene.l1.lost = LostError("the node is away")
        await scene.until(lambda: ROTATION in scene.troubles)
        scene.l1.lost = None
        scene.says(schedule(rotation=due()))
        await scene.until(lambda: scene.account.calls(STAGE))

    play(story, live=True)


def test_a_dead_enclave_ends_it(play) -> None:
    async def story(scene: Scene) -> None:
        scene.enclave.gone = LostError("the process has ended")
        with pytest.raises(EnclaveGoneError):
            await scene.rotation.run()

    play(story)


def test_a_shard_that_l1_does_not_know_is_waited_for(play) -> None:
    async def story(scene: Scene) -> None:
        del scene.l1.values[schedule_key(SHARD)]
        await scene.look(3)
        assert not scene.account.sent
        assert not scene.enclave.count(HoldKeys)

    play(story)
