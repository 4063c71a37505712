"""The relay follows one chain: what moves its head, what stops it, what it keeps."""

from typing import Any

import pytest
from msgspec.structs import replace

from sealift.base import DecodeError, decode, encode
from sealift.crypto import SignatureInvalidError, sha256
from sealift.relay import (
    ChainIdMismatchError,
    ChainRelay,
    CheckpointInvalidError,
    CommitInvalidError,
    ForkDetectedError,
    ForkEvidence,
    HeaderInvalidError,
    HeaderNotKeptError,
    HeightError,
    LightBlock,
    NotEnoughTrustError,
    RelayCheckpoint,
    TrustRootMismatchError,
    ValidatorSet,
    ValidatorSetMismatchError,
    header_hash,
    validators_hash,
)


def follow(relay: ChainRelay, blocks: list[LightBlock]) -> None:
    for block in blocks:
        relay.advance(block, now=None)


def test_relay_follows_a_chain_that_travels_as_messages(workshop: Any) -> None:
    blocks = [decode(LightBlock, encode(block)) for block in workshop.chain(5)]
    relay = workshop.relay(blocks[0])
    follow(relay, blocks[1:])
    assert relay.head.height == 5
    assert [relay.header_at(h).hash for h in range(1, 6)] == [
        block.commit.block_id.hash for block in blocks
    ]


def test_bootstrap_at_another_block(workshop: Any) -> None:
    one, two = workshop.chain(2)
    with pytest.raises(TrustRootMismatchError):
        ChainRelay.bootstrap(workshop.root(one), two, rules=workshop.rules, now=None)


def test_a_refused_block_changes_nothing(workshop: Any) -> None:
    blocks = workshop.chain(4)
    relay = workshop.relay(blocks[0])
    follow(relay, blocks[1:2])
    before = relay.checkpoint()
    with pytest.raises(HeightError):
        relay.advance(blocks[3], now=None)
    with pytest.raises(SignatureInvalidError):
        relay.advance(workshop.with_sig(blocks[2], 0, signature=bytes(64)), now=None)
    with pytest.raises(CommitInvalidError):
        relay.advance(workshop.with_commit(blocks[2], signatures=()), now=None)
    other = workshop.sign(replace(blocks[2].header, chain_id="other"))
    with pytest.raises(ChainIdMismatchError):
        relay.advance(other, now=None)
    assert relay.checkpoint() == before
    follow(relay, blocks[2:])


def test_the_same_block_again_is_no_fork(workshop: Any) -> None:
    blocks = workshop.chain(3)
    relay = workshop.relay(blocks[0])
    follow(relay, blocks[1:])
    again = workshop.sign(blocks[1].header, silent=1)
    assert relay.advance(again, now=None).hash == header_hash(blocks[1].header)
    assert relay.head.height == 3


class TestForks:
    def forked(self, workshop: Any) -> tuple[ChainRelay, LightBlock]:
        blocks = workshop.chain(3)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:])
        other = replace(blocks[1].header, app_hash=sha256(b"another state"))
        return relay, workshop.sign(other)

    def test_a_conflicting_commit_stops_the_relay_for_ever(self, workshop: Any) -> None:
        relay, conflicting = self.forked(workshop)
        with pytest.raises(ForkDetectedError) as caught:
            relay.advance(conflicting, now=None)
        evidence = caught.value.evidence
        assert evidence.conflicting == conflicting
        assert evidence.trusted.height == 2
        assert relay.evidence == evidence
        honest = workshop.chain(4)[3]
        for step in (
            lambda: relay.advance(honest, now=None),
            lambda: relay.skip(honest, now=None),
            lambda: relay.header_at(1),
        ):
            with pytest.raises(ForkDetectedError):
                step()
        assert relay.head.height == 3

    def test_the_stop_survives_a_restart(self, workshop: Any) -> None:
        relay, conflicting = self.forked(workshop)
        with pytest.raises(ForkDetectedError):
            relay.skip(conflicting, now=None)
        checkpoint = decode(RelayCheckpoint, encode(relay.checkpoint()))
        again = ChainRelay.resume(relay.trust_root, checkpoint, rules=workshop.rules)
        with pytest.raises(ForkDetectedError):
            again.advance(workshop.chain(4)[3], now=None)

    def test_lies_of_a_host_are_no_fork(self, workshop: Any) -> None:
        relay, conflicting = self.forked(workshop)
        unsigned = workshop.with_sig(conflicting, 0, signature=bytes(64))
        with pytest.raises(SignatureInvalidError):
            relay.advance(unsigned, now=None)
        mine = workshop.others("mine", 4)
        header = replace(conflicting.header, validators_hash=validators_hash(mine))
        with pytest.raises(ValidatorSetMismatchError):
            relay.advance(workshop.sign(header, mine), now=None)
        foreign = workshop.sign(replace(conflicting.header, chain_id="other"))
        with pytest.raises(ChainIdMismatchError):
            relay.advance(foreign, now=None)
        with pytest.raises(CommitInvalidError):
            relay.advance(workshop.with_commit(conflicting, height=3), now=None)
        malformed = workshop.sign(replace(conflicting.header, proposer_address=b""))
        with pytest.raises(HeaderInvalidError):
            relay.advance(malformed, now=None)
        assert relay.evidence is None
        follow(relay, workshop.chain(4)[3:])

    def test_a_conflict_that_claims_other_validators_is_judged_by_the_real_ones(
        self, workshop: Any
    ) -> None:
        relay, conflicting = self.forked(workshop)
        header = replace(conflicting.header, validators_hash=sha256(b"lunatic"))
        with pytest.raises(ForkDetectedError):
            relay.advance(workshop.sign(header), now=None)

    def test_a_signed_child_of_another_parent_is_a_fork(self, workshop: Any) -> None:
        blocks = workshop.chain(2)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:])
        stranger = replace(
            blocks[1],
            signed_header=workshop.sign(
                replace(blocks[1].header, app_hash=sha256(b"x"))
            ).signed_header,
        )
        child = workshop.sign(workshop.after(stranger))
        with pytest.raises(ForkDetectedError, match="height 3"):
            relay.advance(child, now=None)
        assert relay.head.height == 2

    def test_evidence_travels(self, workshop: Any) -> None:
        relay, conflicting = self.forked(workshop)
        with pytest.raises(ForkDetectedError) as caught:
            relay.advance(conflicting, now=None)
        evidence = caught.value.evidence
        assert decode(ForkEvidence, encode(evidence)) == evidence


class TestKept:
    def test_only_so_many_headers_are_kept(self, workshop: Any) -> None:
        blocks = workshop.chain(6)
        relay = workshop.relay(blocks[0], keep=3)
        follow(relay, blocks[1:])
        for height in (1, 2, 3, 7):
            with pytest.raises(HeaderNotKeptError):
                relay.header_at(height)
        assert [relay.header_at(h).height for h in (4, 5, 6)] == [4, 5, 6]

    def test_a_conflict_below_the_kept_ones_is_not_judged(self, workshop: Any) -> None:
        blocks = workshop.chain(4)
        relay = workshop.relay(blocks[0], keep=2)
        follow(relay, blocks[1:])
        old = workshop.sign(replace(blocks[1].header, app_hash=b"x"))
        with pytest.raises(HeaderNotKeptError):
            relay.advance(old, now=None)
        assert relay.evidence is None


class TestChangingValidators:
    def changing(self, workshop: Any, *, bring: bool) -> list[LightBlock]:
        """Height 2 announces a new set, height 3 runs on it."""
        new = ValidatorSet.sorted(
            (
                *workshop.validators.validators[:3],
                *workshop.others("new", 2).validators,
            )
        )
        digest = validators_hash(new)
        one = workshop.sign(workshop.header(1))
        two = workshop.sign(workshop.after(one, next_validators_hash=digest))
        if bring:
            two = replace(two, next_validators=new)
        fields = {"validators_hash": digest, "next_validators_hash": digest}
        three = workshop.sign(workshop.after(two, **fields), new)
        four = workshop.sign(workshop.after(three, **fields), new)
        return [one, two, three, four]

    def test_sequentially(self, workshop: Any) -> None:
        blocks = self.changing(workshop, bring=False)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:])
        assert relay.head.height == 4

    def test_a_skip_needs_the_next_validators(self, workshop: Any) -> None:
        blocks = self.changing(workshop, bring=False)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:2])
        with pytest.raises(ValidatorSetMismatchError, match="not known"):
            relay.skip(blocks[3], now=None)
        blocks = self.changing(workshop, bring=True)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:2])
        assert relay.skip(blocks[3], now=None).height == 4
        with pytest.raises(HeaderNotKeptError):
            relay.header_at(3)

    def test_wrong_next_validators_are_refused(self, workshop: Any) -> None:
        blocks = self.changing(workshop, bring=True)
        relay = workshop.relay(blocks[0])
        lying = replace(blocks[1], next_validators=workshop.validators)
        with pytest.raises(ValidatorSetMismatchError, match="next validators"):
            relay.advance(lying, now=None)
        assert relay.head.height == 1

    def test_a_skip_over_too_much_change_asks_for_a_header_between(
        self, workshop: Any
    ) -> None:
        one = workshop.chain(1)[0]
        relay = workshop.relay(one)
        new = workshop.others("all new", 4)
        digest = validators_hash(new)
        fields = {"validators_hash": digest, "next_validators_hash": digest}
        far = workshop.sign(workshop.header(9, **fields), new)
        with pytest.raises(NotEnoughTrustError, match="header between"):
            relay.skip(far, now=None)
        assert relay.head.height == 1


class TestCheckpoints:
    def test_resumed_relay_goes_on(self, workshop: Any) -> None:
        blocks = workshop.chain(5)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:3])
        checkpoint = decode(RelayCheckpoint, encode(relay.checkpoint()))
        again = ChainRelay.resume(
            workshop.root(blocks[0]), checkpoint, rules=workshop.rules
        )
        assert again.head == relay.head
        follow(again, blocks[3:])
        skipping = ChainRelay.resume(
            workshop.root(blocks[0]), checkpoint, rules=workshop.rules
        )
        assert skipping.skip(blocks[4], now=None).height == 5

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"next_validators": ValidatorSet(validators=())}, "next validators"),
            ({"header": {"chain_id": "other"}}, "after the trust root"),
            ({"header": {"height": 1}}, "contradicts"),
            ({"trust_root": {"header_hash": bytes(32)}}, "another trust root"),
            ({"trust_root": {"height": 4}}, "another trust root"),
        ],
    )
    def test_checkpoint_that_contradicts_itself(
        self, workshop: Any, change: Any, match: str
    ) -> None:
        blocks = workshop.chain(3)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:])
        good = relay.checkpoint()
        fields = {
            key: replace(getattr(good, key), **value)
            if isinstance(value, dict)
            else value
            for key, value in change.items()
        }
        with pytest.raises(CheckpointInvalidError, match=match):
            ChainRelay.resume(
                workshop.root(blocks[0]), replace(good, **fields), rules=workshop.rules
            )

    def test_checkpoint_before_the_trust_root(self, workshop: Any) -> None:
        blocks = workshop.chain(3)
        relay = workshop.relay(blocks[2])
        early = replace(relay.checkpoint(), header=blocks[0].header)
        with pytest.raises(CheckpointInvalidError, match="after the trust root"):
            ChainRelay.resume(relay.trust_root, early, rules=workshop.rules)

    def test_malformed_header_in_a_checkpoint(self, workshop: Any) -> None:
        relay = workshop.relay(workshop.chain(1)[0])
        good = relay.checkpoint()
        bad = replace(good, header=replace(good.header, proposer_address=b""))
        with pytest.raises(HeaderInvalidError):
            ChainRelay.resume(relay.trust_root, bad, rules=workshop.rules)

    def test_cut_checkpoint(self, workshop: Any) -> None:
        data = encode(workshop.relay(workshop.chain(1)[0]).checkpoint())
        with pytest.raises(DecodeError):
            decode(RelayCheckpoint, data[:-1])

    def test_a_providers_checkpoint_must_lie_on_my_chain(self, workshop: Any) -> None:
        blocks = workshop.chain(4)
        mine, provider = workshop.relay(blocks[0]), workshop.relay(blocks[0])
        follow(mine, blocks[1:])
        follow(provider, blocks[1:3])
        mine.check_on_chain(provider.checkpoint())
        good = provider.checkpoint()
        foreign = replace(good, header=replace(good.header, app_hash=b"x"))
        with pytest.raises(CheckpointInvalidError, match="not on this chain"):
            mine.check_on_chain(foreign)
        with pytest.raises(HeaderNotKeptError):
            provider.check_on_chain(mine.checkpoint())

    def test_a_checkpoint_behind_the_head(self, workshop: Any) -> None:
        blocks = workshop.chain(4)
        relay = workshop.relay(blocks[0])
        follow(relay, blocks[1:])
        assert relay.checkpoint_at(4) == relay.checkpoint()
        behind = relay.checkpoint_at(2)
        relay.check_on_chain(behind)
        again = ChainRelay.resume(relay.trust_root, behind, rules=workshop.rules)
        follow(again, blocks[2:])
        assert again.head == relay.head
        with pytest.raises(HeaderNotKeptError):
            relay.checkpoint_at(5)

    def test_a_provider_that_saw_a_fork_stops_me(self, workshop: Any) -> None:
        blocks = workshop.chain(2)
        mine, provider = workshop.relay(blocks[0]), workshop.relay(blocks[0])
        other = workshop.sign(replace(blocks[0].header, app_hash=b"x"))
        with pytest.raises(ForkDetectedError):
            provider.advance(other, now=None)
        with pytest.raises(ForkDetectedError):
            mine.check_on_chain(provider.checkpoint())
