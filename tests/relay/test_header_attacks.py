"""One story for each way to lie about a header; each is refused by its name."""

from typing import Any

import ed25519_zebra
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec.structs import replace

from sealift.base import InvariantError
from sealift.crypto import SignatureInvalidError, sha256, sign
from sealift.relay import (
    FLAG_COMMIT,
    FLAG_NIL,
    MAX_TOTAL_POWER,
    ChainIdMismatchError,
    CommitInvalidError,
    ConsensusVersion,
    DoubleVoteError,
    HeaderFromFutureError,
    HeaderInvalidError,
    HeightError,
    LightBlock,
    NotEnoughPowerError,
    NotEnoughTrustError,
    PartSetHeader,
    RelayRules,
    TimeNotMonotonicError,
    Timestamp,
    TrustExpiredError,
    TrustRoot,
    TrustRootMismatchError,
    Validator,
    ValidatorSet,
    ValidatorSetInvalidError,
    ValidatorSetMismatchError,
    VerifiedHeader,
    header_hash,
    validators_hash,
    verify_adjacent,
    verify_commit,
    verify_root,
    verify_skipping,
    vote_sign_bytes,
)

DAY = 86_400


def root_of(workshop: Any, block: LightBlock) -> VerifiedHeader:
    return verify_root(workshop.root(block), block, rules=workshop.rules, now=None)


@pytest.fixture
def pair(workshop: Any) -> tuple[VerifiedHeader, LightBlock]:
    """A trusted header and the honest block after it."""
    first, second = workshop.chain(2)
    return root_of(workshop, first), second


def refuse(
    pair: tuple[VerifiedHeader, LightBlock],
    block: LightBlock,
    error: type[Exception],
    *,
    now: Timestamp | None = None,
    match: str | None = None,
    **options: Any,
) -> None:
    rules = RelayRules(trusting_period=DAY)
    with pytest.raises(error, match=match):
        verify_adjacent(pair[0], block, rules=rules, now=now, **options)


def test_honest_block_is_accepted(pair: Any, workshop: Any) -> None:
    trusted, block = pair
    verified = verify_adjacent(trusted, block, rules=workshop.rules, now=None)
    assert verified.header == block.header
    assert verified.hash == header_hash(block.header)
    assert (verified.height, verified.chain_id) == (2, "test-chain")


def test_nobody_else_makes_a_verified_header(workshop: Any) -> None:
    header = workshop.header()
    with pytest.raises(InvariantError, match="VerifiedHeader"):
        VerifiedHeader(seal=object(), header=header, hash=header_hash(header))


class TestForgedSignatures:
    def test_flipped_signature(self, pair: Any, workshop: Any) -> None:
        sig = bytearray(pair[1].commit.signatures[0].signature)
        sig[5] ^= 1
        forged = workshop.with_sig(pair[1], 0, signature=bytes(sig))
        with pytest.raises(SignatureInvalidError):
            verify_adjacent(pair[0], forged, rules=workshop.rules, now=None)

    def test_vote_moved_in_time(self, pair: Any, workshop: Any) -> None:
        later = pair[1].commit.signatures[0].timestamp.plus(nanos=1)
        refuse(
            pair, workshop.with_sig(pair[1], 0, timestamp=later), SignatureInvalidError
        )

    def test_votes_of_another_round(self, pair: Any, workshop: Any) -> None:
        refuse(pair, workshop.with_commit(pair[1], round=1), SignatureInvalidError)

    def test_votes_for_other_parts(self, pair: Any, workshop: Any) -> None:
        other = replace(
            pair[1].commit.block_id, parts=PartSetHeader(total=2, hash=sha256(b"x"))
        )
        refuse(
            pair, workshop.with_commit(pair[1], block_id=other), SignatureInvalidError
        )

    def test_votes_signed_for_another_chain(self, pair: Any, workshop: Any) -> None:
        block = workshop.sign(pair[1].header, chain_id="other-chain")
        refuse(pair, block, SignatureInvalidError)

    def test_nil_votes_passed_off_as_votes(self, pair: Any, workshop: Any) -> None:
        block = workshop.sign(pair[1].header, against=2)
        for index in (2, 3):
            block = workshop.with_sig(block, index, flag=FLAG_COMMIT)
        refuse(pair, block, SignatureInvalidError)

    def test_forged_vote_past_two_thirds_only_in_all_signatures_mode(
        self, pair: Any, workshop: Any
    ) -> None:
        forged = workshop.with_sig(pair[1], 3, signature=bytes(64))
        verify_adjacent(pair[0], forged, rules=workshop.rules, now=None)
        refuse(pair, forged, SignatureInvalidError, all_signatures=True)

    def test_forged_nil_vote_in_all_signatures_mode(
        self, pair: Any, workshop: Any
    ) -> None:
        honest = workshop.sign(pair[1].header, against=1)
        verify_adjacent(
            pair[0], honest, rules=workshop.rules, now=None, all_signatures=True
        )
        forged = workshop.with_sig(honest, 3, signature=bytes(64))
        refuse(pair, forged, SignatureInvalidError, all_signatures=True)


def test_small_order_signature_that_openssl_refuses_is_accepted(workshop: Any) -> None:
    """ZIP-215: else one validator could stall every relay."""
    key = bytes.fromhex(
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
    )
    signature = key + bytes(32)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, b"any")
    odd = Validator(public_key=key, power=1)
    validators = ValidatorSet(validators=(*workshop.validators.validators, odd))
    header = workshop.header(
        validators_hash=validators_hash(validators),
        next_validators_hash=validators_hash(validators),
    )
    block = workshop.sign(header)
    # A small-order key and R: the equation 8sB = 8R + 8kA holds for s = 0.
    sigs = [replace(sig) for sig in block.commit.signatures]
    sigs.append(replace(sigs[0], validator_address=odd.address, signature=signature))
    commit = replace(block.commit, signatures=tuple(sigs))
    assert ed25519_zebra.ed_verify(signature, b"anything", key)
    verify_commit("test-chain", validators, commit, all_signatures=True)


class TestPower:
    def test_exactly_two_thirds_is_not_enough(self, workshop: Any) -> None:
        three = workshop.others("three", 3)
        digest = validators_hash(three)
        header = workshop.header(validators_hash=digest, next_validators_hash=digest)
        verify_commit("test-chain", three, workshop.sign(header, three).commit)
        commit = workshop.sign(header, three, silent=1).commit
        with pytest.raises(NotEnoughPowerError):
            verify_commit("test-chain", three, commit)

    def test_nil_votes_do_not_count(self, pair: Any, workshop: Any) -> None:
        block = workshop.sign(pair[1].header, against=2)
        refuse(pair, block, NotEnoughPowerError)
        refuse(pair, block, NotEnoughPowerError, all_signatures=True)

    def test_half_is_absent(self, pair: Any, workshop: Any) -> None:
        refuse(pair, workshop.sign(pair[1].header, silent=2), NotEnoughPowerError)

    def test_power_overflow(self, workshop: Any) -> None:
        heavy = workshop.others("heavy", 2, power=MAX_TOTAL_POWER // 2 + 1)
        digest = validators_hash(heavy)
        header = workshop.header(validators_hash=digest, next_validators_hash=digest)
        block = workshop.sign(header, heavy)
        with pytest.raises(ValidatorSetInvalidError, match="power"):
            root_of(workshop, block)

    def test_negative_power(self, workshop: Any) -> None:
        one, two = workshop.others("negative", 2).validators
        bad = ValidatorSet(validators=(one, replace(two, power=-1)))
        with pytest.raises(ValidatorSetInvalidError, match="power"):
            verify_commit("test-chain", bad, workshop.chain(1)[0].commit)

    def test_empty_set(self, workshop: Any) -> None:
        empty = ValidatorSet(validators=())
        commit = replace(workshop.chain(1)[0].commit, signatures=())
        with pytest.raises(ValidatorSetInvalidError, match="empty"):
            verify_commit("test-chain", empty, commit)

    def test_one_validator_listed_twice(self, workshop: Any) -> None:
        one = workshop.validators.validators[0]
        doubled = ValidatorSet(validators=(one, one))
        block = workshop.sign(workshop.header(), doubled)
        with pytest.raises(ValidatorSetInvalidError, match="twice"):
            verify_commit("test-chain", doubled, block.commit)


class TestCommitForm:
    def test_commit_of_another_header(self, pair: Any, workshop: Any) -> None:
        swapped = replace(pair[1].header, app_hash=sha256(b"my state"))
        block = replace(
            pair[1], signed_header=replace(pair[1].signed_header, header=swapped)
        )
        refuse(pair, block, CommitInvalidError, match="another header")

    def test_commit_of_another_height(self, pair: Any, workshop: Any) -> None:
        refuse(
            pair,
            workshop.with_commit(pair[1], height=3),
            CommitInvalidError,
            match="another height",
        )

    def test_commit_without_parts(self, pair: Any, workshop: Any) -> None:
        bare = replace(pair[1].commit.block_id, parts=PartSetHeader())
        refuse(
            pair,
            workshop.with_commit(pair[1], block_id=bare),
            CommitInvalidError,
            match="no parts",
        )

    def test_one_signature_too_few_and_too_many(self, pair: Any, workshop: Any) -> None:
        sigs = pair[1].commit.signatures
        for count in (sigs[:-1], (*sigs, sigs[0])):
            refuse(
                pair,
                workshop.with_commit(pair[1], signatures=count),
                CommitInvalidError,
                match="not one signature",
            )

    def test_two_signatures_swapped(self, pair: Any, workshop: Any) -> None:
        one, two, *rest = pair[1].commit.signatures
        block = workshop.with_commit(pair[1], signatures=(two, one, *rest))
        refuse(pair, block, CommitInvalidError, match="index")

    def test_one_validator_votes_at_every_index(self, pair: Any, workshop: Any) -> None:
        one = pair[1].commit.signatures[0]
        block = workshop.with_commit(pair[1], signatures=(one, one, one, one))
        refuse(pair, block, CommitInvalidError, match="index")

    def test_unknown_flag(self, pair: Any, workshop: Any) -> None:
        refuse(
            pair,
            workshop.with_sig(pair[1], 3, flag=4),
            CommitInvalidError,
            match="flag",
        )

    def test_cut_signature(self, pair: Any, workshop: Any) -> None:
        block = workshop.with_sig(pair[1], 3, signature=b"short", flag=FLAG_NIL)
        refuse(pair, block, CommitInvalidError, match="length")

    def test_absent_signature_that_is_not_empty(self, pair: Any, workshop: Any) -> None:
        block = workshop.sign(pair[1].header, silent=1)
        for change in (
            {"signature": bytes(64)},
            {"validator_address": bytes(20)},
            {"timestamp": Timestamp(seconds=0)},
        ):
            refuse(
                pair,
                workshop.with_sig(block, 3, **change),
                CommitInvalidError,
                match="absent",
            )


class TestHeaderRules:
    def test_another_chain(self, pair: Any, workshop: Any) -> None:
        header = replace(pair[1].header, chain_id="other-chain")
        refuse(pair, workshop.sign(header), ChainIdMismatchError)

    @pytest.mark.parametrize("height", [1, 3, 4])
    def test_not_the_next_height(self, pair: Any, workshop: Any, height: int) -> None:
        refuse(pair, workshop.sign(workshop.header(height)), HeightError)

    @pytest.mark.parametrize("earlier", [0, 1])
    def test_time_does_not_grow(self, pair: Any, workshop: Any, earlier: int) -> None:
        header = replace(pair[1].header, time=pair[0].time.plus(nanos=-earlier))
        refuse(pair, workshop.sign(header), TimeNotMonotonicError)

    def test_one_nanosecond_later_is_later(self, pair: Any, workshop: Any) -> None:
        header = replace(pair[1].header, time=pair[0].time.plus(nanos=1))
        verify_adjacent(pair[0], workshop.sign(header), rules=workshop.rules, now=None)

    @pytest.mark.parametrize(
        "change",
        [
            {"version": ConsensusVersion(block=10, app=1)},
            {"chain_id": ""},
            {"chain_id": "x" * 51},
            {"data_hash": b"short"},
            {"evidence_hash": bytes(33)},
            {"proposer_address": b""},
            {"height": 0},
        ],
    )
    def test_header_that_no_chain_makes(self, workshop: Any, change: Any) -> None:
        block = workshop.sign(workshop.header(**change))
        with pytest.raises(HeaderInvalidError):
            root_of(workshop, block)


class TestValidators:
    def test_foreign_set_signs_its_own_header(self, pair: Any, workshop: Any) -> None:
        mine = workshop.others("mine", 4)
        digest = validators_hash(mine)
        header = replace(
            pair[1].header, validators_hash=digest, next_validators_hash=digest
        )
        refuse(
            pair,
            workshop.sign(header, mine),
            ValidatorSetMismatchError,
            match="announced",
        )

    def test_foreign_set_under_an_honest_hash(self, pair: Any, workshop: Any) -> None:
        mine = workshop.others("mine", 4)
        block = workshop.sign(pair[1].header, mine)
        refuse(pair, block, ValidatorSetMismatchError, match="not the validators")

    def test_same_keys_with_other_power(self, pair: Any, workshop: Any) -> None:
        first, *rest = workshop.validators.validators
        block = replace(
            pair[1],
            validators=ValidatorSet(validators=(replace(first, power=1000), *rest)),
        )
        refuse(pair, block, ValidatorSetMismatchError)

    def test_same_set_in_another_order(self, pair: Any, workshop: Any) -> None:
        block = replace(
            pair[1],
            validators=ValidatorSet(validators=workshop.validators.validators[::-1]),
        )
        refuse(pair, block, ValidatorSetMismatchError)


class TestTime:
    def test_jump_longer_than_the_trusting_period(
        self, pair: Any, workshop: Any
    ) -> None:
        last = pair[0].time.plus(seconds=DAY)
        verify_adjacent(
            pair[0],
            workshop.sign(replace(pair[1].header, time=last)),
            rules=workshop.rules,
            now=None,
        )
        late = replace(pair[1].header, time=last.plus(nanos=1))
        refuse(pair, workshop.sign(late), TrustExpiredError, match="jump")

    def test_trust_has_expired(self, pair: Any) -> None:
        now = pair[0].time.plus(seconds=DAY)
        refuse(pair, pair[1], TrustExpiredError, now=now, match="too old")

    def test_just_before_expiry(self, pair: Any, workshop: Any) -> None:
        now = pair[0].time.plus(seconds=DAY, nanos=-1)
        verify_adjacent(pair[0], pair[1], rules=workshop.rules, now=now)

    def test_header_from_the_future(self, pair: Any, workshop: Any) -> None:
        now = pair[1].header.time.plus(seconds=-10)
        refuse(pair, pair[1], HeaderFromFutureError, now=now)
        verify_adjacent(pair[0], pair[1], rules=workshop.rules, now=now.plus(nanos=1))


class TestTrustRoot:
    @pytest.mark.parametrize(
        "change",
        [{"chain_id": "x"}, {"height": 2}, {"header_hash": bytes(32)}],
    )
    def test_block_is_not_the_root(self, workshop: Any, change: Any) -> None:
        block = workshop.chain(1)[0]
        root: TrustRoot = replace(workshop.root(block), **change)
        with pytest.raises(TrustRootMismatchError):
            verify_root(root, block, rules=workshop.rules, now=None)

    def test_root_that_its_validators_did_not_sign(self, workshop: Any) -> None:
        block = workshop.sign(workshop.header(), silent=2)
        with pytest.raises(NotEnoughPowerError):
            root_of(workshop, block)

    def test_root_is_too_old_for_a_clock(self, workshop: Any) -> None:
        block = workshop.chain(1)[0]
        now = block.header.time.plus(seconds=DAY)
        with pytest.raises(TrustExpiredError):
            verify_root(workshop.root(block), block, rules=workshop.rules, now=now)

    def test_root_is_from_the_future(self, workshop: Any) -> None:
        block = workshop.chain(1)[0]
        now = block.header.time.plus(seconds=-11)
        with pytest.raises(HeaderFromFutureError):
            verify_root(workshop.root(block), block, rules=workshop.rules, now=now)


class TestSkipping:
    def skip(self, workshop: Any, block: LightBlock, **options: Any) -> VerifiedHeader:
        first = workshop.chain(1)[0]
        return verify_skipping(
            root_of(workshop, first),
            options.pop("next_validators", workshop.validators),
            block,
            rules=options.pop("rules", workshop.rules),
            now=None,
        )

    def mixed(self, workshop: Any, stay: int, join: int) -> LightBlock:
        """Height 9: so many of the trusted four stay, so many others join."""
        new = ValidatorSet.sorted(
            (
                *workshop.validators.validators[:stay],
                *workshop.others("joined", join).validators,
            )
        )
        digest = validators_hash(new)
        return workshop.sign(
            workshop.header(9, validators_hash=digest, next_validators_hash=digest), new
        )

    def test_two_of_four_vouch(self, workshop: Any) -> None:
        assert self.skip(workshop, self.mixed(workshop, 2, 2)).height == 9

    def test_one_of_four_is_too_little(self, workshop: Any) -> None:
        with pytest.raises(NotEnoughTrustError):
            self.skip(workshop, self.mixed(workshop, 1, 3))

    def test_a_higher_trust_level_is_kept(self, workshop: Any) -> None:
        rules = RelayRules(trusting_period=DAY, trust_numerator=2, trust_denominator=3)
        with pytest.raises(NotEnoughTrustError):
            self.skip(workshop, self.mixed(workshop, 2, 2), rules=rules)
        assert self.skip(workshop, self.mixed(workshop, 3, 1), rules=rules).height == 9

    def test_trusted_votes_but_not_two_thirds_of_the_new_set(
        self, workshop: Any
    ) -> None:
        new = ValidatorSet.sorted(
            (
                *workshop.validators.validators,
                *workshop.others("silent", 1, power=90).validators,
            )
        )
        digest = validators_hash(new)
        header = workshop.header(9, validators_hash=digest, next_validators_hash=digest)
        block = workshop.sign(header, new)
        index = next(n for n, one in enumerate(new.validators) if one.power == 90)
        absent = workshop.sign(header, new, silent=len(new.validators))
        sigs = list(block.commit.signatures)
        sigs[index] = absent.commit.signatures[index]
        with pytest.raises(NotEnoughPowerError):
            self.skip(workshop, workshop.with_commit(block, signatures=tuple(sigs)))

    def test_one_trusted_validator_votes_twice(self, workshop: Any) -> None:
        block = workshop.sign(workshop.header(9))
        one, _, *rest = block.commit.signatures
        with pytest.raises(DoubleVoteError):
            self.skip(
                workshop, workshop.with_commit(block, signatures=(one, one, *rest))
            )

    @pytest.mark.parametrize(
        ("power", "level", "vouching", "enough"),
        [
            # floor(10 · 1/3) = 3: four of ten is more, three is not
            (1, (1, 3), 4, True),
            (1, (1, 3), 3, False),
            # exactly a third of nine is not more than a third
            (3, (1, 3), 3, False),
            (1, (2, 3), 7, True),
            (1, (2, 3), 6, False),
        ],
    )
    def test_the_boundary_is_floor_and_strict(
        self,
        workshop: Any,
        power: int,
        level: tuple[int, int],
        vouching: int,
        enough: bool,
    ) -> None:
        count = 9 if power == 3 else 10
        trusted = workshop.others(f"boundary {power} {count}", count, power)
        digest = validators_hash(trusted)
        fields = {"validators_hash": digest, "next_validators_hash": digest}
        start = root_of(workshop, workshop.sign(workshop.header(1, **fields), trusted))
        new = ValidatorSet.sorted(
            (
                *trusted.validators[:vouching],
                *workshop.others("fresh", 30, power).validators,
            )
        )
        digest = validators_hash(new)
        fields = {"validators_hash": digest, "next_validators_hash": digest}
        block = workshop.sign(workshop.header(9, **fields), new)
        rules = RelayRules(
            trusting_period=DAY, trust_numerator=level[0], trust_denominator=level[1]
        )
        if enough:
            verify_skipping(start, trusted, block, rules=rules, now=None)
            return
        with pytest.raises(NotEnoughTrustError):
            verify_skipping(start, trusted, block, rules=rules, now=None)

    def test_a_trusted_vote_at_the_index_of_another(self, workshop: Any) -> None:
        """Counted for the trusted set, it must not count for a stranger too."""
        block = self.mixed(workshop, 2, 2)
        trusted = {one.public_key for one in workshop.validators.validators}
        new = block.validators.validators
        theirs = next(n for n, v in enumerate(new) if v.public_key in trusted)
        other = next(n for n, v in enumerate(new) if v.public_key not in trusted)
        sigs = list(block.commit.signatures)
        sigs[theirs], sigs[other] = sigs[other], sigs[theirs]
        with pytest.raises(CommitInvalidError, match="index"):
            self.skip(workshop, workshop.with_commit(block, signatures=tuple(sigs)))

    def test_a_small_order_vote_counts_in_a_skip(self, workshop: Any) -> None:
        """ZIP-215 there too: else one validator could make relays bisect for ever."""
        key = bytes.fromhex(
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
        )
        odd = Validator(public_key=key, power=10)
        trusted = ValidatorSet.sorted((*workshop.validators.validators[:1], odd))
        digest = validators_hash(trusted)
        first = workshop.header(next_validators_hash=digest)
        start = root_of(workshop, workshop.sign(first))
        new = ValidatorSet.sorted((*workshop.others("rest", 3).validators, odd))
        digest = validators_hash(new)
        header = workshop.header(9, validators_hash=digest, next_validators_hash=digest)
        workshop.secrets[key] = workshop.secrets[
            workshop.validators.validators[0].public_key
        ]
        block = workshop.sign(header, new)
        index = new.validators.index(odd)
        voted = workshop.with_sig(block, index, signature=key + bytes(32))
        verify_skipping(start, trusted, voted, rules=workshop.rules, now=None)

    def test_a_malformed_commit_is_refused_before_trust_is_missed(
        self, workshop: Any
    ) -> None:
        """Else a host could make a relay ask for headers between, for nothing."""
        far = self.mixed(workshop, 1, 3)
        cut = workshop.with_commit(far, signatures=far.commit.signatures[:-1])
        with pytest.raises(CommitInvalidError, match="not one signature"):
            self.skip(workshop, cut)

    def test_a_trusted_nil_vote_neither_counts_nor_stalls(self, workshop: Any) -> None:
        block = workshop.sign(workshop.header(9))
        first = replace(block.commit.signatures[0], flag=FLAG_NIL)
        data = vote_sign_bytes("test-chain", block.commit, first)
        secret = workshop.secrets[workshop.validators.validators[0].public_key]
        voted = workshop.with_sig(block, 0, flag=FLAG_NIL, signature=sign(secret, data))
        assert self.skip(workshop, voted).height == 9

    def test_forged_vote_of_a_trusted_validator(self, workshop: Any) -> None:
        block = workshop.with_sig(
            workshop.sign(workshop.header(9)), 1, signature=bytes(64)
        )
        with pytest.raises(SignatureInvalidError):
            self.skip(workshop, block)

    def test_next_validators_of_my_own_choice(self, workshop: Any) -> None:
        mine = workshop.others("mine", 4)
        digest = validators_hash(mine)
        header = workshop.header(9, validators_hash=digest, next_validators_hash=digest)
        with pytest.raises(ValidatorSetMismatchError, match="next validators"):
            self.skip(workshop, workshop.sign(header, mine), next_validators=mine)

    def test_skipping_back_or_nowhere(self, workshop: Any) -> None:
        with pytest.raises(HeightError):
            self.skip(workshop, workshop.chain(1)[0])

    def test_skipping_by_one_needs_the_announced_set(self, workshop: Any) -> None:
        mine = ValidatorSet.sorted(
            (*workshop.validators.validators, *workshop.others("new", 1).validators)
        )
        header = workshop.header(2, validators_hash=validators_hash(mine))
        with pytest.raises(ValidatorSetMismatchError, match="announced"):
            self.skip(workshop, workshop.sign(header, mine))

    def test_time_rules_hold_for_skips(self, workshop: Any) -> None:
        early = workshop.sign(workshop.header(9, time=Timestamp(seconds=1)))
        with pytest.raises(TimeNotMonotonicError):
            self.skip(workshop, early)
        late = workshop.sign(workshop.header(9, time=Timestamp(seconds=2_000_000_000)))
        with pytest.raises(TrustExpiredError):
            self.skip(workshop, late)
