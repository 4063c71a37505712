"""Going on after a gap: what it saves, and what it must never leave out."""

from typing import Any

import msgspec
import pytest
from enclave_world import (
    CODE_A,
    CODE_B,
    GENESIS,
    L1,
    SHARD,
    FakePlatform,
    Host,
    World,
    entry,
    give_keys,
    schedule,
)

from sealift.base import SealiftError, decode, encode
from sealift.crypto import SignatureInvalidError
from sealift.enclave import (
    HaltedError,
    RecordMissingError,
    RepeatedBlockError,
    SkipIncompleteError,
    SkipNotAllowedError,
    WrongRecordError,
)
from sealift.protocol import EntryStatus, frontier_key, record_key
from sealift.protocol import ecall as e
from sealift.relay import (
    CLOCKLESS_RULES,
    ForkDetectedError,
    HeightError,
    LightBlock,
    TrustExpiredError,
)


def request(
    l1: L1, height: int, *, beyond: int | None = None, **changes: Any
) -> e.SkipTo:
    """A skip to a height, as an honest host brings it."""
    fields: dict[str, Any] = {
        "path": (l1.light(height), l1.light(height + 1)),
        "proofs": l1.proofs(height),
    }
    if beyond is not None:
        fields["beyond"] = (l1.light(beyond + 1),)
        fields["beyond_proofs"] = (l1.proof(beyond, frontier_key(SHARD)),)
    return e.SkipTo(**(fields | changes))


def newcomer(world: World, **options: Any) -> Host:
    """A process with nothing but its trust root."""
    options.setdefault("platform", FakePlatform(machine=b"m2"))
    return Host(world.l1, seed=b"newcomer", **options)


@pytest.fixture
def grown(world: World) -> World:
    """Blocks 4 … 30 with calls, executed and confirmed by the first."""
    l1, host = world.l1, world.host
    for nonce in range(6):
        l1.block(l1.invoke(host.transfer(1, nonce=nonce)))
        l1.block()
        l1.block()
    host.run()
    world.confirm()
    for _ in range(4):
        l1.block()
    host.run()
    assert world.frontier.confirmed >= 20
    return world


def view(host: Host) -> Any:
    """What the enclave knows of the shard; where it was unborn is forgotten."""
    found = host.enclave._shard.view
    return msgspec.structs.replace(found, unborn_at=0)


class TestWhatItSaves:
    def test_a_newcomer_knows_what_a_follower_knows(self, grown: World) -> None:
        to = grown.frontier.confirmed
        new, follower = newcomer(grown), newcomer(grown)
        done = new.call(request(grown.l1, to, beyond=grown.l1.height - 1))
        follower.follow(to)
        assert isinstance(done, e.Followed)
        assert (done.height, done.runs, done.waiting) == (to, 0, 0)
        assert view(new) == view(follower)
        assert new.status().head == follower.status().head == to + 1
        new.follow()
        follower.follow()
        assert view(new) == view(follower)

    def test_it_executes_from_there_like_the_others(self, grown: World) -> None:
        l1 = grown.l1
        new = newcomer(grown)
        new.call(request(l1, grown.frontier.confirmed, beyond=l1.height - 1))
        give_keys(grown.host, new)
        new.follow()
        new.offer(grown.host.export())
        l1.block(l1.invoke(grown.host.transfer(9, nonce=6)))
        l1.block()
        grown.host.run()
        grown.confirm()
        grown.host.run()
        new.run()
        assert new.status().root == grown.host.status().root
        assert new.roots

    def test_it_goes_on_from_there_after_a_restart(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        new = newcomer(grown)
        new.checkpoint = new.call(request(l1, to, beyond=l1.height - 1)).checkpoint
        new.boot()
        new.start()
        assert new.status().head == to + 1
        new.follow()
        assert new.status().head == l1.height

    def test_before_the_shard_has_keys_nothing_is_left_out(self) -> None:
        l1 = L1()
        for _ in range(9):
            l1.block()
        l1.ledger.schedule = schedule(entry(0, CODE_A, 11))
        for _ in range(4):
            l1.block()
        first = Host(l1)
        first.call(request(l1, 12))
        born = first.call(e.BornKeys(blob=GENESIS))
        assert born.statement.epoch == 0

    def test_a_state_that_has_the_blocks(self, grown: World) -> None:
        """Its disk has a snapshot, and no checkpoint."""
        host = grown.host
        give_keys(host, host)  # the newest key store, sealed
        host.snapshot, host.diffs = host.export(), {}
        host.checkpoint = None
        host.boot()
        host.start()
        height = grown.frontier.confirmed
        host.offer(host.snapshot)
        assert host.status().state_height >= height
        host.call(request(grown.l1, height, beyond=grown.l1.height - 1))
        host.run()
        assert host.status().head == grown.l1.height

    def test_code_that_is_not_in_turn(self, grown: World) -> None:
        """A later generation holds keys and an old state: the gap is of others."""
        new = newcomer(grown, platform=FakePlatform(CODE_B, machine=b"m2"))
        give_keys(grown.host, new)
        to = grown.frontier.confirmed
        new.call(request(grown.l1, to, beyond=grown.l1.height - 1))
        assert new.status().head == to + 1


class TestWhatMustNotBeLeftOut:
    def refused(
        self,
        host: Host,
        skip: e.SkipTo,
        error: type[Exception],
        match: str | None = None,
    ) -> None:
        """Refused by name, and nothing has changed."""
        before = encode(host.status()), view(host), host.enclave._shard.relay.head
        with pytest.raises(error, match=match):
            host.call(skip)
        after = encode(host.status()), view(host), host.enclave._shard.relay.head
        assert after == before

    def test_unconfirmed_blocks(self, grown: World) -> None:
        """The frontier in the state after h never reaches h: more is needed."""
        l1, to = grown.l1, grown.frontier.confirmed
        self.refused(
            newcomer(grown), request(l1, to), SkipNotAllowedError, "not confirmed"
        )
        above = to + 1
        self.refused(
            newcomer(grown),
            request(l1, above, beyond=l1.height - 1),
            SkipNotAllowedError,
            "not confirmed",
        )

    def test_an_old_frontier_shown_as_a_later_one(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        early = request(l1, to, beyond=to + 1)
        self.refused(newcomer(grown), early, SkipNotAllowedError)
        swapped = msgspec.structs.replace(
            request(l1, to, beyond=to + 1),
            beyond_proofs=(l1.proof(l1.height - 1, frontier_key(SHARD)),),
        )
        self.refused(newcomer(grown), swapped, SealiftError)

    def test_blocks_that_are_mine(self, grown: World) -> None:
        """Keys are held and the state is older: they are mine to execute."""
        l1, to = grown.l1, grown.frontier.confirmed
        holder = newcomer(grown)
        give_keys(grown.host, holder)
        skip = request(l1, to, beyond=l1.height - 1)
        self.refused(holder, skip, SkipNotAllowedError, "mine to execute")
        holder.follow(6)
        with pytest.raises(SkipNotAllowedError, match="mine to execute"):
            holder.call(skip)
        assert holder.status().head == 7

    def test_a_part_of_the_gap_is_mine(self, grown: World) -> None:
        """Another generation ran before and after; one block was mine."""
        l1 = grown.l1
        turn = l1.height + 2
        old = entry(0, CODE_A, 3, status=EntryStatus.RETIRED)
        mine = entry(1, CODE_B, turn)
        l1.ledger.schedule = schedule(old, mine)
        for _ in range(3):
            l1.block()
        again = entry(2, CODE_A, l1.height + 1)
        l1.ledger.schedule = schedule(
            old, msgspec.structs.replace(mine, status=EntryStatus.RETIRED), again
        )
        for _ in range(3):
            l1.block()
        to = l1.height - 1
        grown.frontier = msgspec.structs.replace(grown.frontier, confirmed=to)
        l1.block(frontier=grown.frontier)
        l1.block()
        holder = newcomer(grown, platform=FakePlatform(CODE_B, machine=b"m2"))
        give_keys(grown.host, holder)
        skip = request(l1, to, beyond=l1.height - 1)
        self.refused(holder, skip, SkipNotAllowedError, f"block {turn}")
        holder.call(request(l1, turn - 1, beyond=l1.height - 1))

    def test_my_own_birth(self) -> None:
        world = World.__new__(World)
        world.l1 = L1()
        world.l1.block()
        world.host = Host(world.l1)
        l1, host = world.l1, world.host
        l1.ledger.schedule = schedule(entry(0, CODE_A, 3))
        for _ in range(3):
            l1.block()
        host.follow()
        born = host.call(e.BornKeys(blob=GENESIS))
        host.key_store = born.key_store
        world.publish(born.statement)
        for _ in range(4):
            l1.block()
        to = world.frontier.confirmed
        l1.block(frontier=world.frontier)
        l1.block()
        self.refused(
            host,
            request(l1, to, beyond=l1.height - 1),
            SkipNotAllowedError,
            "mine to execute",
        )

    @pytest.mark.parametrize("left_out", range(5))
    def test_every_proof_is_needed(self, grown: World, left_out: int) -> None:
        """A host cannot keep an enclave's view of anything old."""
        l1, to = grown.l1, grown.frontier.confirmed
        proofs = list(l1.proofs(to))
        del proofs[left_out]
        skip = request(l1, to, beyond=l1.height - 1, proofs=tuple(proofs))
        self.refused(newcomer(grown), skip, SkipIncompleteError)

    def test_proofs_of_another_height(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        old = request(l1, to, beyond=l1.height - 1, proofs=l1.proofs(to - 3))
        self.refused(newcomer(grown), old, SealiftError)

    def test_an_absent_record_of_a_shard_that_had_one(self, grown: World) -> None:
        l1 = grown.l1
        new = newcomer(grown)
        new.follow(8)
        l1.ledger.schedule = None
        l1.block(record=None)
        l1.block()
        to = l1.height - 1
        self.refused(new, request(l1, to), RecordMissingError)

    def test_the_record_of_another_block(self, grown: World) -> None:
        l1 = grown.l1
        raw = l1.states[10].get(record_key(SHARD))
        l1.ledger.puts[record_key(SHARD)] = raw
        l1.block()
        l1.block()
        self.refused(newcomer(grown), request(l1, l1.height - 1), WrongRecordError)

    def test_back_and_nowhere(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        new = newcomer(grown)
        new.call(request(l1, to, beyond=l1.height - 1))
        for height in (to - 5, to):
            self.refused(
                new, request(l1, height, beyond=l1.height - 1), RepeatedBlockError
            )

    def test_a_path_without_its_end(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        new = newcomer(grown)
        apart = request(
            l1, to, beyond=l1.height - 1, path=(l1.light(to - 1), l1.light(to + 1))
        )
        self.refused(new, apart, SkipIncompleteError, "in a row")
        self.refused(new, request(l1, to, path=()), SkipIncompleteError)
        only = request(l1, to, beyond=l1.height - 1, path=(l1.light(to + 1),))
        self.refused(new, only, SealiftError)
        behind = request(l1, to, beyond=l1.height - 1)
        behind = msgspec.structs.replace(behind, beyond=(l1.light(to),))
        self.refused(new, behind, SealiftError)

    def test_a_forged_header(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        block = decode(LightBlock, l1.light(to))
        sig = block.commit.signatures[0]
        bad = msgspec.structs.replace(sig, signature=bytes(64))
        commit = msgspec.structs.replace(block.commit, signatures=(bad,))
        forged = msgspec.structs.replace(
            block,
            signed_header=msgspec.structs.replace(block.signed_header, commit=commit),
        )
        skip = request(
            l1, to, beyond=l1.height - 1, path=(encode(forged), l1.light(to + 1))
        )
        self.refused(newcomer(grown), skip, SignatureInvalidError)

    def test_a_jump_longer_than_the_trusting_period(self, grown: World) -> None:
        l1, to = grown.l1, grown.frontier.confirmed
        new = newcomer(grown)
        relay = new.enclave._shard.relay
        relay._rules = msgspec.structs.replace(CLOCKLESS_RULES, trusting_period=10)
        self.refused(
            new, request(l1, to, beyond=l1.height - 1), TrustExpiredError, "jump"
        )

    def test_waiting_blocks_below_the_gap_are_confirmed_ones(
        self, grown: World
    ) -> None:
        """What waited is confirmed by rule 4: nothing of it is lost."""
        l1, to = grown.l1, grown.frontier.confirmed
        new = newcomer(grown)
        new.follow(8)
        new.call(request(l1, to, beyond=l1.height - 1))
        assert new.status().waiting == 0
        give_keys(grown.host, new)
        new.follow()
        new.offer(grown.host.export())
        new.run()
        assert new.status().root == grown.host.status().root


class TestForks:
    def branch(self, world: World, *, at: int) -> L1:
        """The same validators, another chain from ``at`` on."""
        other = L1()
        for _ in range(at - 1):
            other.block()
        other.ledger.store.apply({b"other": b"chain"})
        while other.height < world.l1.height:
            other.block()
        return other

    def test_a_skip_into_another_chain_stops(self, grown: World) -> None:
        """Header h of one chain, h+1 of the other: both are signed."""
        l1, to = grown.l1, grown.frontier.confirmed
        other = self.branch(grown, at=2)
        new = newcomer(grown)
        mixed = request(l1, to, path=(l1.light(to), other.light(to + 1)))
        with pytest.raises(ForkDetectedError):
            new.call(mixed)
        self.stopped(new, l1)

    def test_a_witness_shows_a_second_chain(self, grown: World) -> None:
        l1 = grown.l1
        other = self.branch(grown, at=2)
        host = grown.host
        shown = host.call(e.ShowConflict(theirs=(other.light(l1.height - 3),)))
        assert shown.evidence is not None
        host.checkpoint = shown.checkpoint
        self.stopped(host, l1)

    def test_a_witness_shows_the_same(self, grown: World) -> None:
        l1, host = grown.l1, grown.host
        shown = host.call(e.ShowConflict(theirs=(l1.light(l1.height - 3),)))
        assert shown.evidence is None
        assert host.status().halted == ""

    def test_a_witness_that_lies_stops_nothing(self, grown: World) -> None:
        l1, host = grown.l1, grown.host
        block = decode(LightBlock, l1.light(l1.height - 3))
        lie = msgspec.structs.replace(
            block,
            signed_header=msgspec.structs.replace(
                block.signed_header,
                header=msgspec.structs.replace(block.header, app_hash=b"mine"),
            ),
        )
        with pytest.raises(SealiftError):
            host.call(e.ShowConflict(theirs=(encode(lie),)))
        with pytest.raises(SkipIncompleteError):
            host.call(e.ShowConflict(theirs=()))
        above = self.branch(grown, at=2)
        above.block()
        with pytest.raises(HeightError):
            host.call(e.ShowConflict(theirs=(above.light(above.height),)))
        assert host.status().halted == ""
        assert host.call(e.GetEvidence()).evidence is None
        host.run()

    def stopped(self, host: Host, l1: L1) -> None:
        """Stopped by name, also after a restart; the evidence can be read."""
        for _ in range(2):
            assert host.status().halted == "fork"
            for asked in (
                e.Execute(),
                l1.request(l1.height - 1),
                e.Register(operator=bytes(32)),
                e.SkipTo(path=(l1.light(3),), proofs=()),
                e.ShowConflict(theirs=(l1.light(3),)),
            ):
                with pytest.raises(HaltedError):
                    host.call(asked)
            shown = host.call(e.GetEvidence())
            assert shown.evidence is not None
            host.checkpoint = shown.checkpoint
            host.boot()
            host.start()
