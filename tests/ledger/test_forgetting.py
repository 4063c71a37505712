"""Version 2 forgets instances that can never count again, and no verdict changes."""

import random
from typing import Any

import msgspec
import pytest

from sealift.base import AccountId, decode, encode
from sealift.frame import BadOriginError, storage_key
from sealift.ledger import (
    FIRST_RUNTIME,
    RUNTIME_VERSIONS,
    is_eligible,
    shard_id_of,
)
from sealift.ledger._errors import (
    AttestationAgeError,
    LongestAgeError,
    NotRegisteredError,
    OperatorRefusedError,
    RegistrationBlockError,
    UnknownProviderError,
)
from sealift.ledger._genesis import KEPT_BLOCK_HASHES
from sealift.ledger._runtime import RefusingVerifier
from sealift.ledger._teerex import CHALLENGE_WINDOWS
from sealift.ledger.v2 import (
    FIRST_LONGEST_AGE,
    FORGOTTEN_PER_BLOCK,
    LEAST_LONGEST_AGE,
    SECOND_RUNTIME,
)
from sealift.ledger.v2._aging import Binding, Waiting
from sealift.protocol import (
    AttestationPolicy,
    Ratio,
    Schedule,
    WorkersAuthority,
    certificate_key,
    collateral_key,
    enclave_key,
    frontier_key,
    keys_key,
    record_key,
    schedule_key,
)

#: Shorter than any chain may have it, so that tests need not wait for so long.
LONGEST = KEPT_BLOCK_HASHES
#: What enclaves, clients and evidence prove of L1's state, by released code.
PROVEN = {
    record_key(b"s" * 32): ("enclave_bridge", "record", b"s" * 32),
    schedule_key(b"s" * 32): ("enclave_bridge", "schedule", b"s" * 32),
    frontier_key(b"s" * 32): ("enclave_bridge", "frontier", b"s" * 32),
    keys_key(b"s" * 32, 3): ("enclave_bridge", "keys", (b"s" * 32, 3)),
    certificate_key(b"s" * 32): ("enclave_bridge", "certificate", b"s" * 32),
    enclave_key(b"k" * 32): ("teerex", "enclaves", b"k" * 32),
    collateral_key(b"fmspc!"): ("teerex", "collateral", b"fmspc!"),
}


@pytest.fixture
def world(new_world: Any) -> Any:
    """A chain of version 2 whose memory is short, and a shard whose policy is."""
    made = new_world(runtime=SECOND_RUNTIME)
    shorten(made)
    return made


def shorten(world: Any) -> None:
    """Write a longest age into the state."""
    change = {storage_key("teerex", "longest_age"): encode(LONGEST)}
    world.store.apply(change)
    world.database |= change


def short(world: Any, age: int = 40, **fields: Any) -> Any:
    return world.config(policy={"max_age_blocks": age}, **fields)


def binding(world: Any, instance: Any) -> Binding | None:
    return world.read(Binding, storage_key("teerex", "bindings", instance.key))


def queue(world: Any) -> list[Waiting]:
    found = world.store.items(storage_key("teerex", "queue"))
    return [decode(Waiting, value) for _, value in found]


# the rule


def test_an_instance_that_can_never_count_again_is_forgotten(world: Any) -> None:
    one, two = world.instance("one"), world.instance("two")
    shard = world.born_shard(one, two, config=short(world))
    last = world.enclave(two).attested_at
    world.blocks_until(last + LONGEST)
    assert world.enclave(two) is not None
    first = storage_key("teerex", "queue_first")
    assert world.read(int, first) == 1, "it is not its turn yet"
    world.block()
    assert world.enclave(two) is None
    assert "teerex.EnclaveForgotten" in world.events()
    assert binding(world, two) == Binding(
        shard=shard, operator=world.account("operator")
    )
    assert queue(world) == []
    assert not world.store.items(storage_key("teerex", "places"))
    assert not world.store.items(storage_key("teerex", "members"))


def test_an_instance_that_is_attested_anew_is_not_forgotten(world: Any) -> None:
    one, two = world.instance("one"), world.instance("two")
    shard = world.born_shard(one, two, config=short(world))
    while world.height < 3 * LONGEST:
        world.blocks_until(world.height + 30)
        world.register(shard, one)
    assert world.enclave(one) is not None
    assert world.enclave(two) is None
    assert [place.signing_key for place in queue(world)] == [one.key]


def test_it_is_forgotten_by_its_last_attestation_to_the_block(world: Any) -> None:
    one = world.instance("one")
    shard = world.born_shard(world.instance("zero"), config=short(world))
    world.register(shard, one)
    first = world.height
    world.register(shard, one)
    last = world.enclave(one).attested_at
    assert last == first + 1
    world.blocks_until(first + LONGEST + 1)  # its turn
    for height in range(first + LONGEST + 1, last + LONGEST + 1):
        world.blocks_until(height)
        assert world.enclave(one) is not None
    world.block()
    assert world.enclave(one) is None


def test_what_any_generation_accepts_is_kept(new_world: Any) -> None:
    """Also one that retired, and one that stood before the rule was narrowed."""
    world = new_world(runtime=SECOND_RUNTIME)
    one = world.instance("one")
    shard = world.born_shard(one, config=short(world, 3 * LONGEST), rescue_after=90_000)
    shorten(world)
    at = world.upgrade(shard, config=short(world, code=world.CODE_B))
    attested = world.enclave(one).attested_at
    world.blocks_until(attested + 3 * LONGEST)
    assert world.height > at
    entries = world.schedule(shard).entries
    assert [one.config.attestation.max_age_blocks for one in entries] == [768, 40]
    assert world.enclave(one) is not None
    world.blocks_until(attested + 4 * LONGEST + 1)
    assert world.enclave(one) is None


def test_nobody_leaves_the_queue_but_by_its_turn(world: Any) -> None:
    """Leaving and coming again does not make it grow."""
    one = world.instance("one")
    shard = world.born_shard(world.instance("zero"), one, config=short(world))
    for _ in range(5):
        world.call("teerex.unregister_enclave", by="operator", signing_key=one.key)
        world.register(shard, one)
    assert len(queue(world)) == 2


def test_a_block_looks_at_a_few_places_only(world: Any) -> None:
    shard = world.create_shard(short(world))
    world.collateral()
    count = 2 * FORGOTTEN_PER_BLOCK + 3
    many = [world.instance(f"i{n}") for n in range(count)]
    calls = [world.registration(shard, one) for one in many]
    results = world.block(
        *(
            world.tx("teerex.register_sgx_enclave", by="operator", **call)
            for call in calls
        )
    )
    assert all(result.ok for result in results)
    world.blocks_until(world.height + LONGEST)
    left = []
    while queue(world):
        world.block()
        left.append(sum(world.enclave(one) is not None for one in many))
    assert left == [count - FORGOTTEN_PER_BLOCK, count - 2 * FORGOTTEN_PER_BLOCK, 0]


def test_only_root_lowers_the_longest_age_and_nobody_raises_it(new_world: Any) -> None:
    world = new_world(runtime=SECOND_RUNTIME)
    with pytest.raises(BadOriginError):
        world.call("teerex.set_longest_age", by="alice", blocks=LEAST_LONGEST_AGE)
    for blocks in (FIRST_LONGEST_AGE, LEAST_LONGEST_AGE - 1, 2**40):
        with pytest.raises(LongestAgeError):
            world.as_root("teerex.set_longest_age", blocks=blocks)
    world.as_root("teerex.set_longest_age", blocks=LEAST_LONGEST_AGE)
    assert "teerex.LongestAgeLowered" in world.events()
    with pytest.raises(LongestAgeError):
        world.as_root("teerex.set_longest_age", blocks=LEAST_LONGEST_AGE + 1)


def test_root_cannot_keep_shards_from_upgrading(new_world: Any) -> None:
    """Nor can a statement be shown again that a forgotten one once made."""
    assert AttestationPolicy().max_age_blocks <= LEAST_LONGEST_AGE
    assert LEAST_LONGEST_AGE > CHALLENGE_WINDOWS * KEPT_BLOCK_HASHES
    world = new_world(runtime=SECOND_RUNTIME)
    world.as_root("teerex.set_longest_age", blocks=LEAST_LONGEST_AGE)
    shard = world.born_shard(world.instance("one"))
    world.upgrade(shard)


def test_no_new_generation_accepts_what_would_be_forgotten(world: Any) -> None:
    """Or an instance would count again that is not there any more."""
    with pytest.raises(AttestationAgeError):
        world.create_shard(short(world, LONGEST + 1))
    shard = world.born_shard(world.instance("one"), config=short(world, LONGEST))
    with pytest.raises(AttestationAgeError):
        world.upgrade(shard, config=short(world, LONGEST + 1, code=world.CODE_B))
    world.upgrade(shard, config=short(world, LONGEST, code=world.CODE_B))


# what is left of it


@pytest.fixture
def forgotten(world: Any) -> Any:
    """``one`` is forgotten, ``two`` is live."""
    world.one, world.two = world.instance("one"), world.instance("two")
    world.shard = world.born_shard(world.two, world.one, config=short(world))
    world.statement_of_one = world.enclave(world.one).statement
    while world.enclave(world.one) is not None:
        world.blocks_until(world.height + 30)
        world.register(world.shard, world.two)
    return world


def test_it_may_be_registered_again_by_its_account(forgotten: Any) -> None:
    forgotten.register(forgotten.shard, forgotten.one)
    record = forgotten.enclave(forgotten.one)
    assert record.unbroken_since == record.attested_at == forgotten.height
    assert binding(forgotten, forgotten.one) is None


def test_a_thief_cannot_register_it_by_another_account(forgotten: Any) -> None:
    """ADR 0012: an instance keeps its operator, also when it is forgotten."""
    stolen = forgotten.instance("one", operator="other-operator")
    assert stolen.key == forgotten.one.key
    with pytest.raises(OperatorRefusedError):
        forgotten.register(forgotten.shard, stolen)


def test_it_cannot_turn_up_in_another_shard(forgotten: Any) -> None:
    other = forgotten.create_shard(short(forgotten))
    with pytest.raises(NotRegisteredError):
        forgotten.register(other, forgotten.one)


def test_its_last_statement_cannot_be_shown_again(forgotten: Any) -> None:
    with pytest.raises(RegistrationBlockError):
        forgotten.register(
            forgotten.shard, forgotten.one, statement=forgotten.statement_of_one
        )


def test_it_is_known_as_a_provider_still(forgotten: Any) -> None:
    """L1 never asked whether a provider is live: enclaves do."""
    three = forgotten.instance("three")

    def register(provider: AccountId, challenge: bytes) -> None:
        statement = forgotten.statement(
            forgotten.shard, three, provider=provider, challenge=challenge
        )
        forgotten.register(forgotten.shard, three, statement=statement)

    register(forgotten.one.key, b"c" * 32)
    with pytest.raises(UnknownProviderError):
        register(b"nobody".ljust(32), b"d" * 32)


def test_its_operator_and_root_may_wipe_it_and_nobody_else(forgotten: Any) -> None:
    key = forgotten.one.key
    with pytest.raises(OperatorRefusedError):
        forgotten.call("teerex.unregister_enclave", by="alice", signing_key=key)
    forgotten.call("teerex.unregister_enclave", by="operator", signing_key=key)
    assert binding(forgotten, forgotten.one) is None
    with pytest.raises(NotRegisteredError):
        forgotten.call("teerex.unregister_enclave", by="operator", signing_key=key)


def test_root_may_wipe_what_is_left(forgotten: Any) -> None:
    forgotten.as_root("teerex.unregister_enclave", signing_key=forgotten.one.key)
    assert binding(forgotten, forgotten.one) is None


# no verdict changes


class Twins:
    """The same blocks on a chain of version 1 and one of version 2."""

    def __init__(self, new_world: Any, *, seed: int) -> None:
        self.random = random.Random(seed)
        self.old, self.new = new_world(), new_world(runtime=SECOND_RUNTIME)
        self.forgotten = 0
        self.accepted = 0
        old = self.old
        self.people = [
            old.instance(f"i{n}", operator=("operator", "other-operator")[n % 2])
            for n in range(6)
        ]
        self.awake = self.people
        operators = (old.account("operator"), old.account("other-operator"))
        terms = WorkersAuthority(
            threshold=Ratio(numerator=1, denominator=2), seat_age=20, period=30
        )
        self.shards = [
            self.made(0, short(old, 60, operators=operators), authority=terms),
            self.made(1, short(old, 700, max_instances=3)),
        ]
        shorten(self.new)

    def made(self, index: int, config: Any, **rules: Any) -> bytes:
        rules = self.old.rules(root_quorum=1, **rules)
        self.block(
            self.old.tx("enclave_bridge.create_shard", rules=rules, config=config)
        )
        return shard_id_of(self.old.genesis.chain_id, self.old.account("alice"), index)

    def block(self, *txs: bytes) -> None:
        old, new = self.old.block(*txs), self.new.block(*txs)
        self.forgotten += self.new.events().count("teerex.EnclaveForgotten")
        for ours, theirs in zip(old, new, strict=True):
            self.accepted += ours.ok
            assert ours.ok == theirs.ok, (ours.error, theirs.error)
            if ours.error != theirs.error:
                assert theirs.error == "NotRegisteredError", ours.error
            assert [e.name for e in ours.events] == [e.name for e in theirs.events]

    def act(self) -> bytes:
        """Whatever anybody may try."""
        old, pick = self.old, self.random.choice
        who = pick(self.awake)
        shard = self.shards[self.people.index(who) % 2]
        if self.random.random() < 0.1:
            shard = pick(self.shards)
        by = who.operator if self.random.random() < 0.9 else "alice"
        deed = self.random.randrange(7)
        if deed < 2:
            fields = {"operator": old.account(by)}
            if self.random.random() < 0.4:
                fields["provider"] = pick(self.people).key
                fields["challenge"] = self.random.randbytes(32)
            statement = old.statement(shard, who, **fields)
            call = old.registration(shard, who, statement=statement)
            return old.tx("teerex.register_sgx_enclave", by=by, **call)
        if deed == 2:
            return old.tx(
                "enclave_bridge.touch_shard", by=by, shard=shard, signing_key=who.key
            )
        if deed == 3 and self.random.random() < 0.2:
            return old.tx("teerex.unregister_enclave", by=by, signing_key=who.key)
        if deed == 4:
            order = old.status_order(self.shards[0], min_isv_svn=1)
            return old.tx("council.propose", by=by, order=order, signing_key=who.key)
        if deed == 5 and (open_ := self.motions()):
            return old.tx(
                "council.vote",
                by=by,
                shard=self.shards[0],
                order=pick(open_),
                signing_key=who.key,
                aye=True,
            )
        statement = old.key_statement(shard, who)
        return old.tx(
            "enclave_bridge.publish_key",
            by="bob",
            statement=statement,
            signature=statement.sign(who.secret),
        )

    def motions(self) -> Any:
        key = storage_key("council", "open_motions", self.shards[0])
        return self.old.read(tuple[bytes, ...], key)

    def compare_states(self) -> None:
        """Whatever is proven of them is the same, but for the forgotten.

        Those count under no entry of their shard, now or ever.
        """
        for shard in self.shards:
            for key in (schedule_key(shard), record_key(shard), frontier_key(shard)):
                assert self.old.store.get(key) == self.new.store.get(key)
            schedule: Schedule = self.old.schedule(shard)
            for who in self.people:
                ours, theirs = self.old.enclave(who), self.new.enclave(who)
                if ours is None or ours.statement.shard != shard:
                    continue
                if theirs is not None:
                    since = max(ours.registered_at, theirs.registered_at)
                    ours = self.old.replace(ours, registered_at=since)
                    theirs = self.old.replace(theirs, registered_at=since)
                    assert ours == theirs
                    continue
                for entry in schedule.entries:
                    assert not is_eligible(
                        ours, entry, schedule.status, height=self.old.height
                    )


@pytest.mark.parametrize("seed", range(2))
def test_no_verdict_changes_by_forgetting(new_world: Any, seed: int) -> None:
    """Whoever was accepted is accepted; who was refused is refused."""
    twins = Twins(new_world, seed=seed)
    twins.block(twins.old.collateral_tx())
    for _ in range(9):
        twins.awake = twins.random.sample(twins.people, 3)
        for _ in range(30):
            twins.block(*(twins.act() for _ in range(twins.random.randrange(3))))
        for _ in range(twins.random.choice((30, 300, 600))):
            twins.block()
        twins.compare_states()
    assert twins.forgotten >= 5
    assert twins.accepted >= 50


# proven keys


def metadata(number: int) -> Any:
    return RUNTIME_VERSIONS[number].compose(RefusingVerifier()).runtime.metadata()


@pytest.mark.parametrize("number", sorted(RUNTIME_VERSIONS))
def test_proven_keys_are_the_same_in_every_version(number: int) -> None:
    first, later = metadata(FIRST_RUNTIME), metadata(number)
    structs = {one.name: one for one in later.types}
    for key, (pallet, item, part) in PROVEN.items():
        assert later.storage_key(pallet, item, part) == key
    for one in first.types:  # every type, so every value's encoding
        assert structs[one.name] == one
    for pallet in first.pallets:
        there = later.pallet(pallet.name)
        assert {one.name: one for one in pallet.storage}.items() <= {
            one.name: one for one in there.storage
        }.items()
        for kind in ("calls", "events"):
            ours = {one.name: one for one in getattr(pallet, kind)}
            theirs = {one.name: one for one in getattr(there, kind)}
            for name, spec in ours.items():
                assert told(theirs[name]) == told(spec), (pallet.name, name)


def told(spec: Any) -> Any:
    """What encoders and readers go by: all but the words for people."""
    return getattr(spec, "args", None) or msgspec.structs.replace(spec, doc="")
