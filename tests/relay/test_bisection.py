"""Long gaps by few headers; hosts that lie, repeat and hide on the way."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from sealift.base import Height, SealiftError, decode, encode
from sealift.relay import (
    CLOCKLESS_RULES,
    BisectionLimitError,
    ChainRelay,
    CheckpointInvalidError,
    CommitInvalidError,
    ForkDetectedError,
    HeaderNotKeptError,
    HeightError,
    LightBlock,
    NotEnoughTrustError,
    RelayCheckpoint,
    RelayRules,
    Timestamp,
    TrustExpiredError,
    ValidatorSetInvalidError,
    ValidatorSetMismatchError,
    bisect,
    most_trials,
)
from sealift.testing import HeaderChain

RULES = RelayRules(trusting_period=10**6)


def relay_of(chain: HeaderChain, rules: RelayRules = RULES) -> ChainRelay:
    return ChainRelay.bootstrap(
        chain.trust_root(), chain.light_block(1), rules=rules, now=None
    )


def drive(
    relay: ChainRelay,
    target: int,
    host: Callable[[int], LightBlock],
    *,
    now: Timestamp | None = None,
    most: int | None = None,
) -> list[int]:
    """Which heights a bisection asks a host for."""
    asked: list[int] = []
    steps = bisect(relay, Height(target), now=now, most=most)
    with contextlib.suppress(StopIteration):
        height = next(steps)
        while True:
            asked.append(height)
            height = steps.send(host(height))
    return asked


class Counted(ChainRelay):
    """Counts trials."""

    __slots__ = ("failed", "passed")

    def skip(self, block: LightBlock, *, now: Timestamp | None) -> Any:
        self.passed: int = getattr(self, "passed", 0)
        self.failed: int = getattr(self, "failed", 0)
        try:
            found = super().skip(block, now=now)
        except NotEnoughTrustError:
            self.failed += 1
            raise
        self.passed += 1
        return found


@pytest.fixture(scope="module")
def turning() -> HeaderChain:
    """Ten validators, one changes every 4 blocks: another set after 40."""
    return HeaderChain(length=600, validators=10, every=4)


@pytest.fixture(scope="module")
def still() -> HeaderChain:
    return HeaderChain(length=200, validators=4)


@pytest.fixture(scope="module")
def fork() -> HeaderChain:
    """The validators of ``turning``, and another chain from 300 on."""
    return HeaderChain(
        length=600, validators=10, every=4, branch="other", branch_at=300
    )


class TestHonestHosts:
    def test_one_header_where_nothing_changed(self, still: HeaderChain) -> None:
        relay = relay_of(still)
        assert drive(relay, 200, still.light_block) == [200]
        assert relay.head.height == 200
        assert relay.header_at(Height(200)).header == still.header(200)

    def test_nothing_to_do(self, still: HeaderChain) -> None:
        relay = relay_of(still)
        assert drive(relay, 1, still.light_block) == []

    def test_the_next_one(self, still: HeaderChain) -> None:
        relay = relay_of(still)
        assert drive(relay, 2, still.light_block) == [2]

    @pytest.mark.parametrize("level", [(1, 3), (2, 3), (1, 1)])
    def test_turnover_costs_what_is_said(
        self, turning: HeaderChain, level: tuple[int, int]
    ) -> None:
        over, under = level
        rules = replace(RULES, trust_numerator=over, trust_denominator=under)
        if level == (1, 1):  # nobody trusts more than all: only adjacent steps
            rules = replace(RULES, trust_numerator=9, trust_denominator=10)
        relay = Counted.bootstrap(
            turning.trust_root(), turning.light_block(1), rules=rules, now=None
        )
        assert isinstance(relay, Counted)
        asked = drive(relay, 600, turning.light_block)
        assert relay.head.height == 600
        assert len(asked) == len(set(asked)), "no height is asked for twice"
        # after k changes 10 - k of ten are left: trust reaches while that is more
        # than the level
        share = rules.trust_numerator / rules.trust_denominator
        changes = next(k for k in range(10) if 10 - k - 1 <= share * 10)
        reach = max(changes * 4, 1)
        gap = 599
        steps = -(-2 * gap // reach)
        assert relay.passed <= steps
        assert relay.passed + relay.failed <= steps * (gap.bit_length() + 1)
        assert relay.passed + relay.failed <= most_trials(gap)

    def test_everybody_changes_in_one_block(self) -> None:
        """No trust by any skip over it; who was announced in the block before is."""
        swapped = _swapped(20)
        relay = relay_of(swapped)
        with pytest.raises(NotEnoughTrustError):
            relay.skip(swapped.light_block(21), now=None)
        asked = drive(relay, 40, swapped.light_block)
        assert relay.head.height == 40
        assert 20 in asked
        assert relay.header_at(Height(20)).header == swapped.header(20)

    def test_it_goes_on_where_it_was_interrupted(self, turning: HeaderChain) -> None:
        relay = relay_of(turning)
        served = 0

        def dying(height: int) -> LightBlock:
            nonlocal served
            served += 1
            if served > 12:
                raise ConnectionError
            return turning.light_block(height)

        with pytest.raises(ConnectionError):
            drive(relay, 600, dying)
        reached = relay.head.height
        assert 1 < reached < 600
        # the process is killed; the checkpoint is all there is
        again = ChainRelay.resume(
            turning.trust_root(),
            decode(RelayCheckpoint, encode(relay.checkpoint())),
            rules=RULES,
        )
        asked = drive(again, 600, turning.light_block)
        assert again.head.height == 600
        assert min(asked) > reached

    def test_next_validators_are_asked_for_again(self, turning: HeaderChain) -> None:
        """A tip was verified before its next validators were known."""
        relay = relay_of(turning)
        drive(relay, 3, turning.light_block)
        bare = replace(turning.light_block(4), next_validators=None)
        relay.advance(bare, now=None)
        assert not relay.knows_next
        asked = drive(relay, 12, turning.light_block)
        assert asked[0] == 4
        assert relay.head.height == 12


def _swapped(at: int) -> HeaderChain:
    """A chain whose whole set changes after block ``at``."""

    class Swapped(HeaderChain):
        def validators(self, height: int) -> Any:
            return self._set(0 if height <= at else 1000)

    return Swapped(length=2 * at, validators=4)


class TestLyingHosts:
    def test_another_height_than_asked(self, turning: HeaderChain) -> None:
        relay = relay_of(turning)
        with pytest.raises(HeightError, match="another height"):
            drive(relay, 600, lambda height: turning.light_block(height - 1))
        assert relay.head.height == 1

    def test_the_same_block_for_ever(self, turning: HeaderChain) -> None:
        """A host cannot make it loop: every answer is for the height asked for."""
        relay = relay_of(turning)
        far = turning.light_block(600)
        with pytest.raises(HeightError):
            drive(relay, 600, lambda _: far)

    def test_a_forged_block_between(self, turning: HeaderChain) -> None:
        relay = relay_of(turning)

        def forging(height: int) -> LightBlock:
            block = turning.light_block(height)
            if height == 600:
                return block
            header = replace(block.header, app_hash=b"mine")
            signed = replace(block.signed_header, header=header)
            return replace(block, signed_header=signed)

        with pytest.raises(CommitInvalidError, match="another header"):
            drive(relay, 600, forging)
        assert relay.head.height == 1

    def test_no_next_validators_between(self, turning: HeaderChain) -> None:
        relay = relay_of(turning)

        def hiding(height: int) -> LightBlock:
            return replace(turning.light_block(height), next_validators=None)

        with pytest.raises(ValidatorSetMismatchError, match="were not sent"):
            drive(relay, 600, hiding)
        assert relay.head.height == 1

    def test_wrong_next_validators(self, turning: HeaderChain) -> None:
        relay = relay_of(turning)

        def lying(height: int) -> LightBlock:
            block = turning.light_block(height)
            return replace(block, next_validators=turning.validators(1))

        with pytest.raises(ValidatorSetMismatchError):
            drive(relay, 600, lying)

    def test_an_absurd_set(self, still: HeaderChain) -> None:
        relay = relay_of(still)
        one = still.validators(1).validators[0]

        def huge(height: int) -> LightBlock:
            block = still.light_block(height)
            crowd = replace(block.validators, validators=(one,) * 10_001)
            return replace(block, validators=crowd)

        with pytest.raises(ValidatorSetInvalidError):
            drive(relay, 200, huge)

    def test_a_limit_ends_it_and_keeps_what_was_verified(
        self, turning: HeaderChain
    ) -> None:
        relay = relay_of(turning)
        with pytest.raises(BisectionLimitError):
            drive(relay, 600, turning.light_block, most=20)
        assert 1 < relay.head.height < 600

    def test_back(self, still: HeaderChain) -> None:
        relay = relay_of(still)
        drive(relay, 100, still.light_block)
        with pytest.raises(HeightError, match="below"):
            drive(relay, 50, still.light_block)


class TestLongRange:
    """Keys of former validators: what they can do, and what not."""

    def test_no_jump_beyond_the_trusting_period(self) -> None:
        slow = HeaderChain(length=50, validators=4, seconds=1000)
        relay = relay_of(slow, replace(RULES, trusting_period=10_000))
        with pytest.raises(TrustExpiredError, match="jump"):
            drive(relay, 50, slow.light_block)
        drive(relay, 11, slow.light_block)
        assert relay.head.height == 11

    def test_a_clock_ends_trust_in_old_keys(self, still: HeaderChain) -> None:
        relay = relay_of(still, replace(RULES, trusting_period=100))
        late = still.header(200).time
        with pytest.raises(TrustExpiredError, match="too old"):
            drive(relay, 200, still.light_block, now=late)

    def test_a_third_of_an_old_set_does_not_lead_an_enclave_astray(self) -> None:
        """By its rules a skip needs what following needs: two thirds."""
        chain = HeaderChain(length=30, validators=9, every=1)
        # after 5 changes 4 of the 9 are left: more than a third, less than two
        light = relay_of(chain)
        enclave = relay_of(chain, CLOCKLESS_RULES)
        far = chain.light_block(7)
        assert light.skip(far, now=None).height == 7
        with pytest.raises(NotEnoughTrustError):
            enclave.skip(far, now=None)
        drive(enclave, 30, chain.light_block)
        assert enclave.head.height == 30

    def test_exactly_the_trust_level_is_not_enough(self) -> None:
        chain = HeaderChain(length=12, validators=9, every=1)
        relay = relay_of(chain)  # next validators of 1 are the set of 2
        with pytest.raises(NotEnoughTrustError):  # 3 of 9 are left: not > 1/3
            relay.skip(chain.light_block(8), now=None)
        assert relay.skip(chain.light_block(7), now=None).height == 7


class TestForks:
    """Somebody shows other headers: judged from a header that both have."""

    def stands(self, chain: HeaderChain, *heights: int) -> ChainRelay:
        relay = relay_of(chain)
        for height in heights:
            drive(relay, height, chain.light_block)
        return relay

    def test_at_the_head(self, turning: HeaderChain, fork: HeaderChain) -> None:
        relay = self.stands(turning, 320)
        with pytest.raises(ForkDetectedError):
            relay.judge([fork.light_block(320)], now=None)
        evidence = relay.evidence
        assert evidence is not None
        assert evidence.trusted == turning.header(320)
        assert evidence.conflicting.header == fork.header(320)
        with pytest.raises(ForkDetectedError):
            relay.judge([turning.light_block(320)], now=None)

    def test_before_the_head(self, turning: HeaderChain, fork: HeaderChain) -> None:
        relay = self.stands(turning, 299, 300, 301)
        with pytest.raises(ForkDetectedError):
            relay.judge([fork.light_block(300)], now=None)

    def test_at_a_height_that_was_skipped(
        self, turning: HeaderChain, fork: HeaderChain
    ) -> None:
        relay = self.stands(turning, 299, 310)
        with pytest.raises(HeaderNotKeptError):
            relay.judge([fork.light_block(305)], now=None)
        assert relay.evidence is None
        common = turning.light_block(299)
        with pytest.raises(ForkDetectedError):
            relay.judge(
                [common, fork.light_block(305)],
                [common, turning.light_block(305)],
                now=None,
            )
        assert relay.evidence is not None
        assert relay.evidence.common == turning.header(299)
        assert relay.head.height == 310

    def test_with_other_validators(self, turning: HeaderChain) -> None:
        """A lunatic attack: signed by enough of the common set, under another."""
        relay = self.stands(turning, 299, 303)

        class Lunatic(HeaderChain):
            def validators(self, height: int) -> Any:
                if height < 301:
                    return super().validators(height)
                return self._set((height - 1) // 4 + 3)

        lunatic = Lunatic(length=310, validators=10, every=4)
        with pytest.raises(ValidatorSetMismatchError):
            relay.judge([lunatic.light_block(303)], now=None)
        assert relay.evidence is None
        with pytest.raises(ForkDetectedError):
            relay.judge([turning.light_block(299), lunatic.light_block(303)], now=None)

    def test_the_same_header_is_no_conflict(self, turning: HeaderChain) -> None:
        relay = self.stands(turning, 299, 303)
        common = turning.light_block(299)
        own = relay.judge([common, turning.light_block(303)], now=None)
        assert own.header == turning.header(303)
        assert relay.judge([turning.light_block(303)], now=None) == own

    def test_a_lie_is_no_fork(self, turning: HeaderChain, fork: HeaderChain) -> None:
        relay = self.stands(turning, 299, 303)
        unsigned = fork.light_block(303)
        none = replace(
            unsigned.commit, signatures=turning.light_block(303).commit.signatures
        )
        lie = replace(
            unsigned, signed_header=replace(unsigned.signed_header, commit=none)
        )
        for path in ([lie], [turning.light_block(299), lie]):
            with pytest.raises(SealiftError) as caught:
                relay.judge(path, now=None)
            assert not isinstance(caught.value, ForkDetectedError)
        assert relay.evidence is None

    def test_paths_that_begin_nowhere_or_end_apart(
        self, turning: HeaderChain, fork: HeaderChain
    ) -> None:
        relay = self.stands(turning, 299, 303)
        common = turning.light_block(299)
        with pytest.raises(HeaderNotKeptError):
            relay.judge([turning.light_block(298), fork.light_block(303)], now=None)
        with pytest.raises(HeightError, match="no block"):
            relay.judge([], now=None)
        with pytest.raises(HeightError, match="above"):
            relay.judge([common, fork.light_block(304)], now=None)
        with pytest.raises(HeightError, match="different heights"):
            relay.judge(
                [common, fork.light_block(302)],
                [common, turning.light_block(301)],
                now=None,
            )
        foreign = HeaderChain(length=310, validators=10, every=4, branch="x")
        with pytest.raises(CheckpointInvalidError, match="does not begin"):
            relay.judge([foreign.light_block(299), fork.light_block(303)], now=None)
        assert relay.evidence is None

    def test_the_stop_survives_a_restart(
        self, turning: HeaderChain, fork: HeaderChain
    ) -> None:
        relay = self.stands(turning, 320)
        with pytest.raises(ForkDetectedError):
            relay.judge([fork.light_block(320)], now=None)
        kept = decode(RelayCheckpoint, encode(relay.checkpoint()))
        again = ChainRelay.resume(turning.trust_root(), kept, rules=RULES)
        assert again.evidence == relay.evidence
        for step in (
            lambda: again.advance(turning.light_block(321), now=None),
            lambda: again.skip(turning.light_block(400), now=None),
            lambda: again.judge([turning.light_block(320)], now=None),
            lambda: again.header_at(Height(320)),
        ):
            with pytest.raises(ForkDetectedError):
                step()

    def test_a_trial_moves_nothing(self, turning: HeaderChain) -> None:
        relay = self.stands(turning, 20)
        trial = relay.trial()
        drive(trial, 600, turning.light_block)
        assert (relay.head.height, trial.head.height) == (20, 600)
        with pytest.raises(HeaderNotKeptError):
            relay.header_at(Height(600))


def test_checkpoints_behind_the_head_have_their_validators(
    turning: HeaderChain,
) -> None:
    relay = relay_of(turning)
    drive(relay, 600, turning.light_block)
    behind = max(height for height in range(1, 600) if _kept(relay, height))
    checkpoint = relay.checkpoint_at(Height(behind))
    assert checkpoint.next_validators == turning.validators(behind + 1)
    again = ChainRelay.resume(turning.trust_root(), checkpoint, rules=RULES)
    assert again.skip(turning.light_block(behind + 2), now=None).height == behind + 2


def _kept(relay: ChainRelay, height: int) -> bool:
    try:
        relay.header_at(Height(height))
    except HeaderNotKeptError:
        return False
    return True
