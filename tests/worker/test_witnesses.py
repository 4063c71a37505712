"""Witnesses that agree, lag, lie, are down, or show a second chain."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from doubles import CODE, SHARD, FakeEnclave, LostError, refusal, status
from msgspec.structs import replace

from sealift.base import AccountId, Height, Message, SealiftError, decode, encode
from sealift.protocol.ecall import ChainEvidence, GetEvidence, ShowConflict
from sealift.relay import (
    ChainRelay,
    ForkDetectedError,
    LightBlock,
    RelayCheckpoint,
    RelayRules,
    header_hash,
)
from sealift.relay.rpc import LIGHT_BLOCK
from sealift.testing import HeaderChain
from sealift.worker import EnclaveGoneError, few_witnesses
from sealift.worker import _witnesses as module
from sealift.worker._channel import EnclaveChannel
from sealift.worker._follower import HALTED_BY_FORK, Follower
from sealift.worker._forks import ForkKeeper
from sealift.worker._store import WorkerStore
from sealift.worker._witnesses import Witnesses, WitnessStanding

TRUE = HeaderChain(length=60, validators=4)
OTHER = HeaderChain(length=60, validators=4, branch="other", branch_at=37)
RULES = RelayRules(trusting_period=10**6)


class FakeWitness:
    """A node with a chain, up to a height, that may lie or be down."""

    def __init__(self, chain: HeaderChain, height: int = 60) -> None:
        self.chain = chain
        self.top = height
        self.down: SealiftError | None = None
        self.hangs = False
        self.unsigned = False
        self.asked: list[int] = []

    async def height(self) -> Height:
        if self.hangs:
            await asyncio.Event().wait()
        if self.down is not None:
            raise self.down
        return Height(self.top)

    async def header_hash(self, height: Height) -> Any:
        self.asked.append(height)
        return header_hash(self.chain.header(height))

    async def light_block(self, height: Height) -> LightBlock:
        block = self.chain.light_block(height)
        if not self.unsigned:
            return block
        commit = replace(
            block.commit, signatures=TRUE.light_block(height).commit.signatures
        )
        return replace(block, signed_header=replace(block.signed_header, commit=commit))


class Scene:
    """An enclave's relay that followed TRUE to 50, and a worker beside it."""

    def __init__(self, path: Path, **witnesses: FakeWitness) -> None:
        self.relay = ChainRelay.bootstrap(
            TRUE.trust_root(), TRUE.light_block(1), rules=RULES, now=None
        )
        self.relay.skip(TRUE.light_block(20), now=None)
        for height in range(21, 51):
            self.relay.advance(TRUE.light_block(height), now=None)
        self.enclave = FakeEnclave(
            ShowConflict=self.judge,
            GetEvidence=lambda _: self.evidence(),
            GetStatus=lambda _: status(
                halted=HALTED_BY_FORK if self.relay.evidence else ""
            ),
        )
        channel = EnclaveChannel(self.enclave)
        self.store = WorkerStore(path / "worker.db", shard=SHARD, fingerprint=CODE)
        self.path = path / "fork_evidence.json"
        self.forks = ForkKeeper(
            channel=channel,
            store=self.store,
            path=self.path,
            light_block=self.light_block,
        )
        self.follower = Follower(
            channel=channel,
            l1=None,  # type: ignore[arg-type]
            feed=None,  # type: ignore[arg-type]
            store=self.store,
            outbox=None,  # type: ignore[arg-type]
            shard=SHARD,
            me=AccountId(bytes(32)),
            forked=self.forks.keep,
        )
        self.follower.verified = {
            Height(height): header_hash(TRUE.header(height)) for height in range(21, 51)
        }
        self.standings = tuple(WitnessStanding(url=url) for url in witnesses)
        self.witnesses = Witnesses(
            channel=channel,
            follower=self.follower,
            witnesses=witnesses,
            standings=self.standings,
            forks=self.forks,
        )

    async def light_block(self, height: int) -> LightBlock:
        return TRUE.light_block(height)

    def judge(self, request: ShowConflict) -> Message:
        """As the enclave does; its own function is tested beside it."""
        try:
            self.relay.judge(
                [decode(LightBlock, raw) for raw in request.theirs], now=None
            )
        except ForkDetectedError:
            pass
        except SealiftError as error:
            return refusal(error.code, str(error))
        return self.evidence()

    def evidence(self) -> ChainEvidence:
        found = self.relay.evidence
        return ChainEvidence(
            evidence=None if found is None else encode(found),
            checkpoint=encode(self.relay.checkpoint()),
        )

    def states(self) -> dict[str, str]:
        return {one.url: one.state for one in self.standings}


def play(
    path: Path, story: Callable[[Scene], Awaitable[None]], **witnesses: FakeWitness
) -> None:
    async def whole() -> None:
        scene = Scene(path, **witnesses)
        try:
            async with asyncio.timeout(10):
                await story(scene)
        finally:
            scene.store.close()

    asyncio.run(whole())


def test_witnesses_that_stop_nothing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 2.0)
    good, late, old, down, hung = (FakeWitness(TRUE) for _ in range(5))
    late.top, old.top = 45, 5
    down.down, hung.hangs = LostError("connection refused"), True
    liar = FakeWitness(OTHER)
    liar.unsigned = True

    async def story(scene: Scene) -> None:
        await scene.witnesses.look()
        assert scene.states() == {
            "good": "agrees",
            "late": "behind",
            "old": "behind",
            "down": "unreachable",
            "hung": "unreachable",
            "liar": "conflict",
        }
        told = {one.url: one.describe() for one in scene.standings}
        assert told["late"]["detail"] == "5 blocks behind the enclave"
        assert "connection refused" in str(told["down"]["detail"])
        assert "another header 37" in str(told["liar"]["detail"])
        assert "SignatureInvalidError" in str(told["liar"]["detail"])
        assert scene.relay.evidence is None
        assert not scene.path.exists()
        assert scene.relay.advance(TRUE.light_block(51), now=None).height == 51
        # each may come back
        liar.unsigned, liar.chain, down.down = False, TRUE, None
        await scene.witnesses.look()
        assert scene.states()["liar"] == scene.states()["down"] == "agrees"

    play(
        tmp_path, story, good=good, late=late, old=old, down=down, hung=hung, liar=liar
    )


def test_the_first_other_header_is_found_by_halves(tmp_path: Path) -> None:
    liar = FakeWitness(OTHER)
    liar.unsigned = True

    async def story(scene: Scene) -> None:
        await scene.witnesses.look()
        assert len(liar.asked) <= 7
        shown = [one for one in scene.enclave.asked if isinstance(one, ShowConflict)]
        heights = [
            [decode(LightBlock, raw).header.height for raw in one.theirs]
            for one in shown
        ]
        assert heights == [[37], [36, 37]]

    play(tmp_path, story, liar=liar)


def test_a_second_chain_stops_the_worker_and_is_kept(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(EnclaveGoneError, match="two chains") as caught:
            await scene.witnesses.run()
        assert "ForkDetectedError" in str(caught.value)
        assert str(scene.path) in caught.value.hint
        # durable: a checkpoint that remembers it, and a file for people
        kept = scene.store.meta("checkpoint")
        assert kept is not None
        again = ChainRelay.resume(
            TRUE.trust_root(), decode(RelayCheckpoint, kept), rules=RULES
        )
        with pytest.raises(ForkDetectedError):
            again.advance(TRUE.light_block(51), now=None)
        found = json.loads(scene.path.read_bytes())
        assert found["type"] == "tendermint/LightClientAttackEvidence"
        value = found["value"]
        assert LIGHT_BLOCK.parse(value["conflicting_block"]) == replace(
            OTHER.light_block(37)
        )
        # another app hash: lunatic, blamed by the set of the block before
        assert value["common_height"] == "36"
        assert len(value["byzantine_validators"]) == 4
        assert value["total_voting_power"] == "40"
        assert LIGHT_BLOCK.parse(found["trusted_block"]) == TRUE.light_block(37)

    play(tmp_path, story, good=FakeWitness(TRUE), forked=FakeWitness(OTHER))


def test_evidence_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.path.write_bytes(b"the first one")
        with pytest.raises(EnclaveGoneError):
            await scene.witnesses.run()
        assert scene.path.read_bytes() == b"the first one"

    play(tmp_path, story, forked=FakeWitness(OTHER))


def test_a_fork_that_the_own_node_shows_is_kept_too(tmp_path: Path) -> None:
    """The node itself changes sides: the import is refused, the enclave stopped."""

    async def story(scene: Scene) -> None:
        with pytest.raises(ForkDetectedError):
            scene.relay.advance(OTHER.light_block(51), now=None)
        with pytest.raises(EnclaveGoneError, match="two chains"):
            await scene.follower._see_whether_halted()
        assert scene.path.exists()
        assert scene.enclave.count(GetEvidence) == 1

    play(tmp_path, story)


def test_an_enclave_without_evidence_to_tell_still_ends_by_name(
    tmp_path: Path,
) -> None:
    """A bundle of a release before."""

    async def story(scene: Scene) -> None:
        with pytest.raises(ForkDetectedError):
            scene.relay.advance(OTHER.light_block(51), now=None)
        scene.enclave.answers["GetEvidence"] = lambda _: refusal("DecodeError", "no")
        with pytest.raises(EnclaveGoneError, match="two chains"):
            await scene.follower._see_whether_halted()

    play(tmp_path, story)


def test_nothing_verified_nothing_compared(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.follower.verified = {}
        await scene.witnesses.look()
        assert scene.states() == {"good": "unknown"}

    play(tmp_path, story, good=FakeWitness(TRUE))


def test_it_takes_two_to_see_what_one_hides() -> None:
    assert "no witness" in few_witnesses(0)
    assert "one witness" in few_witnesses(1)
    assert few_witnesses(2) == ""
