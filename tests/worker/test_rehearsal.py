"""The worker has its enclave rehearse, and pays for few words on L1."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

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
    entry,
    refusal,
    schedule,
    status,
)

from sealift.base import (
    AccountId,
    Digest,
    Epoch,
    Fingerprint,
    Generation,
    Height,
    PlatformId,
    encode,
)
from sealift.protocol import (
    EntryRehearsals,
    EntryStatus,
    Rehearsal,
    RehearsalGate,
    RehearsalStatement,
    RehearsalTerms,
    ShardConfig,
    gate_key,
    rehearsals_key,
    schedule_key,
)
from sealift.protocol.ecall import Idle, Rehearse, Rehearsed
from sealift.worker._channel import EnclaveChannel
from sealift.worker._errors import EnclaveGoneError, EnclaveRefusedError, StalledError
from sealift.worker._follower import Progress
from sealift.worker._outbox import Included, Outbox
from sealift.worker._rehearsal import (
    ASK_EVERY,
    LAST_BLOCKS,
    MAX_POSTS,
    REHEARSAL,
    Rehearsing,
)
from sealift.worker._rotation import Instance
from sealift.worker._surroundings import Surroundings

POST = "enclave_bridge.post_rehearsal"
RELEASE, XYZ = 20, 100
ORDER = Digest(b"o" * 32)


def whole(test: Callable[..., Any]) -> Callable[..., None]:
    """A test of one event loop."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(test(**given))

    return run


class FakeFollower:
    """Follows nothing; the test moves its head."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.progress.imported = RELEASE

    async def next_block(self) -> None:
        await asyncio.sleep(0.001)
        self.progress.imported += 1


class Scene:
    """An enclave that rehearses as the test says, and an L1 that keeps its words."""

    def __init__(self) -> None:
        self.good, self.check, self.blocks = True, "", 0
        self.copy = RELEASE - 1
        self.reply: Callable[[], Any] = self.rehearsed
        self.seconds = 0.0
        self.takes = 0.003
        self.enclave = FakeEnclave(
            GetStatus=lambda _: status(
                epochs=(Epoch(0),), state_height=Height(RELEASE - 1)
            ),
            Rehearse=lambda _: self.answer(),
        )
        self.l1, self.account = FakeL1(), FakeAccount()
        self.account.outcomes = {POST: self.taken}
        self.outbox = Outbox(self.account)
        self.follower = FakeFollower()
        self.troubles: dict[str, str] = {}
        self.upgrade_at = XYZ
        self.code = CODE
        self.says()
        self.asks_for(2)
        self.channel = EnclaveChannel(self.enclave)
        self.channel.version = 2
        self.rehearsing = Rehearsing(
            channel=self.channel,
            follower=self.follower,  # type: ignore[arg-type] # of it, no more is used
            outbox=self.outbox,
            around=Surroundings(
                shard=SHARD,
                l1=self.l1,
                disk=None,
                evidence=None,
                standing=None,
                operator=ME,
                upstream=None,
                peer=None,
                snapshot_every=100,
            ),
            me=Instance(code=CODE, signing_key=ME),
            monotonic=lambda: self.seconds,
            troubles=self.troubles,
        )

    # --- what the test says ---

    def says(self, **changes: Any) -> None:
        """The next entry on L1."""
        base = {
            "generation": 1,
            "config": ShardConfig(code={"insecure-sim": self.code}),
            "order": ORDER,
            "release_from": Height(RELEASE),
            "upgrade_at": Height(self.upgrade_at),
            "since": Height(self.upgrade_at),
            "status": EntryStatus.PENDING,
        }
        ahead = entry(**(base | changes))
        self.l1.values[schedule_key(SHARD)] = encode(
            schedule(entries=(entry(status=EntryStatus.ACTIVE), ahead))
        )

    def asks_for(self, required: int) -> None:
        gate = RehearsalGate(terms=RehearsalTerms(required=required, postpone_by=10))
        self.l1.values[gate_key(SHARD)] = encode(gate)

    def rehearsed(self) -> Rehearsed:
        return Rehearsed(
            statement=RehearsalStatement(
                chain_id="test",
                shard=SHARD,
                generation=Generation(1),
                order=ORDER,
                upgrade_at=Height(self.upgrade_at),
                signing_key=ME,
                height=Height(self.copy),
                blocks=self.blocks,
                good=self.good,
                check=self.check,
                size=4096,
            ),
            signature=SIGNATURE,
        )

    def answer(self) -> Any:
        self.seconds += self.takes
        return self.reply()

    def taken(self, args: dict[str, Any]) -> Included:
        """L1 keeps it."""
        self.keeps(args["statement"], args["milliseconds"])
        return Included(height=Height(self.imported + 1), code=0, log="")

    def keeps(self, statement: RehearsalStatement, milliseconds: int = 4) -> None:
        word = Rehearsal(
            statement=statement,
            signature=SIGNATURE,
            milliseconds=milliseconds,
            platform_id=PlatformId(b"p" * 32),
            recorded_at=Height(self.imported + 1),
        )
        self.l1.values[rehearsals_key(SHARD, Generation(1))] = encode(
            EntryRehearsals(
                order=ORDER, upgrade_at=Height(self.upgrade_at), rehearsals=(word,)
            )
        )

    @property
    def imported(self) -> int:
        return self.follower.progress.imported

    @property
    def posted(self) -> list[dict[str, Any]]:
        return self.account.calls(POST)

    async def look(self, *, at: int | None = None) -> None:
        if at is not None:
            self.follower.progress.imported = at
        sending = asyncio.create_task(self.outbox.run())
        try:
            await self.rehearsing.look()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def until(self, height: int) -> None:
        """Look after every block."""
        for at in range(self.imported + 1, height + 1):
            await self.look(at=at)


@pytest.fixture
def scene() -> Scene:
    return Scene()


# what is posted


@whole
async def test_the_first_verdict_is_posted_with_its_rounded_time(scene: Scene) -> None:
    scene.takes = 0.9
    await scene.look()
    (sent,) = scene.posted
    assert sent["statement"] == scene.rehearsed().statement
    assert sent["signature"] == SIGNATURE
    assert sent["milliseconds"] == 1024
    assert scene.rehearsing.standing.posted


@whole
async def test_time_while_there_was_no_verdict_counts(scene: Scene) -> None:
    """A migration of many steps takes them all."""
    scene.takes = 0.3
    scene.reply = lambda: Idle(reason="behind", detail="50 % of the records tried.")
    await scene.look()
    assert scene.rehearsing.standing.good is None
    assert "50 %" in scene.rehearsing.standing.detail
    await scene.look(at=RELEASE + 1)
    scene.reply = scene.rehearsed
    await scene.look(at=RELEASE + 2)
    assert scene.posted[0]["milliseconds"] == 1024


@whole
async def test_the_same_verdict_costs_no_second_fee(scene: Scene) -> None:
    for at in range(RELEASE, XYZ - LAST_BLOCKS):
        scene.blocks = min(at - RELEASE, 8)
        await scene.look(at=at)
    assert len(scene.posted) == 1
    assert scene.enclave.count(Rehearse) <= 1 + (XYZ - RELEASE) // ASK_EVERY


@whole
async def test_another_verdict_is_posted(scene: Scene) -> None:
    await scene.look()
    scene.good, scene.check, scene.blocks = False, "shadow-block", 3
    await scene.look(at=RELEASE + ASK_EVERY)
    assert [one["statement"].good for one in scene.posted] == [True, False]
    assert scene.troubles[REHEARSAL] == (
        f"generation 1 would fail at block {XYZ}: shadow-block"
    )
    scene.copy, scene.good, scene.check = RELEASE + 5, True, ""
    await scene.look(at=RELEASE + 2 * ASK_EVERY)
    assert len(scene.posted) == 3
    assert REHEARSAL not in scene.troubles


@whole
async def test_near_the_upgrade_the_last_word_is_posted_once(scene: Scene) -> None:
    await scene.look()
    scene.blocks = 8
    await scene.until(XYZ - 1)
    assert [one["statement"].blocks for one in scene.posted] == [0, 8]


@whole
async def test_a_verdict_that_flips_for_ever_costs_a_bounded_number_of_fees(
    scene: Scene,
) -> None:
    for at in range(RELEASE, XYZ, ASK_EVERY):
        scene.copy = at - 1
        scene.good = not scene.good
        scene.check = "" if scene.good else "accounts.post_upgrade"
        await scene.look(at=at)
    assert len(scene.posted) == MAX_POSTS


@whole
async def test_after_a_postponement_it_is_posted_anew(scene: Scene) -> None:
    await scene.look()
    scene.upgrade_at = XYZ + 10
    scene.says()
    await scene.look(at=RELEASE + 1)
    assert [one["statement"].upgrade_at for one in scene.posted] == [XYZ, XYZ + 10]


@whole
async def test_a_restart_pays_nothing_again(scene: Scene) -> None:
    scene.keeps(scene.rehearsed().statement)
    await scene.look()
    assert scene.posted == []
    assert scene.rehearsing.standing.posted


@whole
async def test_what_l1_would_refuse_as_old_is_not_posted(scene: Scene) -> None:
    scene.blocks = 5
    newer = scene.rehearsed().statement
    scene.keeps(newer)
    scene.blocks, scene.good, scene.check = 0, False, "accounts.pre_upgrade"
    await scene.look()
    assert scene.posted == []
    assert scene.rehearsing.standing.good is False
    assert not scene.rehearsing.standing.posted


@whole
async def test_the_word_of_another_instance_is_not_ours(scene: Scene) -> None:
    other = scene.rehearsed().statement
    scene.keeps(
        RehearsalStatement(
            **{
                name: getattr(other, name)
                for name in other.__struct_fields__
                if name != "signing_key"
            },
            signing_key=AccountId(b"\x55" * 32),
        )
    )
    await scene.look()
    assert len(scene.posted) == 1


@whole
async def test_an_l1_of_before_version_3_is_not_told(scene: Scene) -> None:
    """It would refuse the call; the verdict is for the operator's eyes."""
    del scene.l1.values[gate_key(SHARD)]
    await scene.look()
    assert scene.posted == []
    assert scene.rehearsing.standing.good is True
    assert "takes no rehearsals" in scene.rehearsing.standing.detail


@whole
async def test_a_shard_that_asks_for_none_is_told_all_the_same(scene: Scene) -> None:
    scene.asks_for(0)
    await scene.look()
    assert len(scene.posted) == 1


@pytest.mark.parametrize(("before", "posts"), [(3, 1), (2, 0), (1, 0)])
@whole
async def test_what_would_come_too_late_is_not_paid_for(
    scene: Scene, before: int, posts: int
) -> None:
    await scene.look(at=XYZ - before)
    assert len(scene.posted) == posts


# when the enclave is asked


@pytest.mark.parametrize("at", [RELEASE - 1, XYZ, XYZ + 1])
@whole
async def test_outside_of_its_time_nothing_is_asked(scene: Scene, at: int) -> None:
    await scene.look(at=at)
    assert scene.enclave.asked == []


@whole
async def test_another_code_is_not_rehearsed(scene: Scene) -> None:
    scene.code = Fingerprint(b"\x66" * 32)
    scene.says()
    await scene.look()
    assert scene.enclave.asked == []


@whole
async def test_a_cancelled_entry_is_forgotten(scene: Scene) -> None:
    scene.good, scene.check = False, "accounts.pre_upgrade"
    await scene.look()
    assert REHEARSAL in scene.troubles
    scene.says(status=EntryStatus.CANCELLED)
    await scene.look(at=RELEASE + 1)
    assert REHEARSAL not in scene.troubles
    assert scene.rehearsing.standing.good is None


@whole
async def test_without_keys_or_state_nothing_is_asked(scene: Scene) -> None:
    for answer in (
        status(epochs=()),
        status(epochs=(Epoch(0),), state_height=None),
    ):
        scene.enclave.answers["GetStatus"] = lambda _, answer=answer: answer
        await scene.look()
    assert scene.enclave.count(Rehearse) == 0


@whole
async def test_a_verdict_for_something_else_is_not_posted(scene: Scene) -> None:
    """What the node says is a hint: the enclave goes by what it has proven."""
    said = scene.rehearsed()
    scene.upgrade_at = XYZ + 10
    scene.says()
    scene.reply = lambda: said
    await scene.look()
    assert scene.posted == []


@whole
async def test_an_enclave_of_an_older_release_is_never_asked(scene: Scene) -> None:
    scene.channel.version = 1
    await asyncio.wait_for(scene.rehearsing.run(), timeout=9)
    assert scene.enclave.asked == []


# what is in the way


@whole
async def test_a_refusal_of_l1_is_said(scene: Scene) -> None:
    scene.account.outcomes = {
        POST: lambda _: Included(height=Height(9), code=254, log="stale")
    }
    with pytest.raises(StalledError, match="stale"):
        await scene.look()


@whole
async def test_a_refusal_of_the_enclave_is_said_and_waited_out(scene: Scene) -> None:
    scene.reply = lambda: refusal("DivergedStateError")
    with pytest.raises(EnclaveRefusedError):
        await scene.look()
    running = asyncio.create_task(scene.rehearsing.run())
    while REHEARSAL not in scene.troubles:
        await asyncio.sleep(0.001)
    assert "DivergedStateError" in scene.troubles[REHEARSAL]
    running.cancel()


@pytest.mark.parametrize("good", [False, True])
@whole
async def test_what_was_in_the_way_goes_and_a_bad_verdict_stays(
    scene: Scene, good: bool
) -> None:
    def said(words: str) -> Callable[[], bool]:
        return lambda: words in scene.troubles.get(REHEARSAL, "")

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.001)

    scene.upgrade_at = 100_000
    scene.says()
    scene.good, scene.check = good, "" if good else "accounts.pre_upgrade"
    tasks = [
        asyncio.create_task(one()) for one in (scene.outbox.run, scene.rehearsing.run)
    ]
    await until(lambda: scene.rehearsing.standing.good is good)
    scene.l1.lost = LostError("the node is away")
    await until(said("the node is away"))
    scene.l1.lost = None
    scene.reply = lambda: Idle(reason="no-block", detail="")  # nothing new is said
    await until(lambda: not said("the node is away")())
    assert said("accounts.pre_upgrade")() is not good
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@whole
async def test_an_enclave_that_is_gone_ends_the_worker(scene: Scene) -> None:
    scene.enclave.gone = LostError("gone")
    with pytest.raises(EnclaveGoneError):
        await asyncio.wait_for(scene.rehearsing.run(), timeout=5)


@whole
async def test_another_answer_ends_it_too(scene: Scene) -> None:
    scene.reply = status
    with pytest.raises(EnclaveGoneError, match="out of turn"):
        await scene.look()


@whole
async def test_the_standing_is_told_in_fields(scene: Scene) -> None:
    assert scene.rehearsing.standing.describe()["rehearsal"] == "none"
    scene.good, scene.check = False, "accounts.post_upgrade"
    await scene.look()
    told = scene.rehearsing.standing.describe()
    assert told["rehearsal"] == "bad"
    assert told["rehearsal_check"] == "accounts.post_upgrade"
    assert (told["rehearsal_ms"], told["rehearsal_size"]) == (4, 4096)
    assert told["rehearsal_on_l1"] is True
