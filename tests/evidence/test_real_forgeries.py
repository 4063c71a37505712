"""Files about real enclaves, forged: each refused by the name of what is wrong.

Two kinds of forger. One alters a file; the headers don't commit to what it
writes. The other has L1's validators with it, so that inclusion holds for
whatever it likes: :func:`replayed` gives it that, and the signatures of enclaves,
keys and hosts are still asked.
"""

from collections.abc import Callable
from typing import Any

import pytest
from lineages import call_of, export, heights_of, replace, trust_root, verify, without

from sealift.attestation import parse_trust_anchor
from sealift.base import Height, decode, encode
from sealift.client import CLIENT_RULES
from sealift.evidence import (
    ActUnprovenError,
    EvidenceError,
    EvidenceFile,
    EvidenceFormatError,
    HeadersRefusedError,
    InclusionError,
    InstanceRefusedError,
    RootChainError,
    parse_evidence,
    render_evidence,
)
from sealift.evidence._calls import (
    Call,
    Confirm,
    PostEffects,
    Register,
    StageKeys,
    SubmitOrder,
    Vote,
)
from sealift.evidence._instances import Instances
from sealift.evidence._proven import prove_file
from sealift.evidence._replay import Replay
from sealift.protocol import (
    EpochKeysPublic,
    StakeDecision,
    Tally,
    Transaction,
    certificate_key,
    effects_digest,
    effects_root,
    keys_key,
    schedule_key,
    sign_order,
)
from sealift.testing import World

NAMES = ["key", "holders", "few", "hosts", "vendor", "day"]


@pytest.fixture(params=NAMES)
def history(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(f"{request.param}_history")
    return found


def refused(world: World, file: EvidenceFile) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        verify(world, file)
    return caught.value


def retold(
    file: EvidenceFile, call: str, change: Callable[[Any], Any], *, world: World
) -> EvidenceFile:
    """Transactions of a call with other arguments, and signed anew by who paid."""
    names = ("operator", "operator-2", "carrier", "authority")
    seeds = {world.account(name): world.secret(name) for name in names}

    def forged(tx: bytes) -> bytes:
        body = decode(Transaction, tx).body
        body = replace(body, args=change(body.args))
        return encode(Transaction(body=body, signature=body.sign(seeds[body.signer])))

    blocks = tuple(
        replace(
            block,
            txs=tuple(
                replace(tx, tx=forged(tx.tx)) if call_of(tx.tx) == call else tx
                for tx in block.txs
            ),
        )
        for block in file.blocks
    )
    return replace(file, blocks=blocks)


def replayed(world: World, change: Callable[[Any], Call | None]) -> None:
    """Steps 2 to 6, where L1's validators sign whatever the forger likes."""
    proven = prove_file(
        export(world), trust_root=trust_root(world), rules=CLIENT_RULES, now=None
    )
    calls = {}
    for height, found in proven.calls.items():
        changed = [(one, change(one.call)) for one in found]
        calls[height] = tuple(
            told_as(one, call) for one, call in changed if call is not None
        )
    proven.calls = calls
    roots = (parse_trust_anchor(world.intel.root_der),)
    Replay(proven, 0, Instances(proven, roots)).run()


def told_as(one: Any, call: Call) -> Any:
    kept = {name: getattr(one, name) for name in one.__slots__}
    return type(one)(**(kept | {"call": call}))


# --- any history: headers, cuts, states ---


def test_without_one_of_its_headers(history: World) -> None:
    """Each that something stands on is missed by its height."""
    file = export(history)
    needed = {block.height + n for block in file.blocks for n in (0, 1)}
    needed |= {state.height + 1 for state in file.states}
    for gone in sorted(needed)[1::4]:
        kept = tuple(h for h in file.headers if h.signed.header.height != gone)
        found = refused(history, replace(file, headers=kept))
        assert isinstance(found, HeadersRefusedError)
        assert f"lacks header {gone}" in str(found)
    first = replace(file, headers=file.headers[1:])
    assert isinstance(refused(history, first), HeadersRefusedError)


def test_cut_short(history: World) -> None:
    """As bytes: no file. As a lineage that ends earlier: its end is not proven."""
    file = export(history)
    data = render_evidence(file)
    for size in (0, 1, len(data) // 3, len(data) - 1):
        with pytest.raises(EvidenceFormatError):
            parse_evidence(data[:size])
    end = file.blocks[-1].height
    cut = replace(
        file,
        headers=tuple(h for h in file.headers if h.signed.header.height <= end),
        blocks=file.blocks[:-1],
        states=tuple(state for state in file.states if state.height < end),
    )
    found = refused(history, cut)
    assert isinstance(found, InclusionError)
    assert "lacks a state proof" in str(found)


def test_each_word_of_an_enclave_is_missed(history: World) -> None:
    """Whatever enclaves said that L1 acted on: left out, it is asked for."""
    file = export(history)
    calls = {call_of(tx.tx) for block in file.blocks for tx in block.txs}
    for call in sorted(calls):
        (first, *_) = heights_of(file, call)
        forged = without(file, lambda h, c, at=first, it=call: (h, c) == (at, it))
        found = refused(history, forged)
        assert str(found).startswith("step "), call


def test_a_handover_certificate_left_out(key_history: World) -> None:
    file = export(key_history)
    call = "enclave_bridge.post_certificate"
    found = refused(key_history, without(file, lambda _, c: c == call))
    assert isinstance(found, RootChainError)
    assert "another handover certificate" in str(found)
    key = certificate_key(key_history.shard)
    states = tuple(state for state in file.states if state.key != key)
    found = refused(key_history, replace(file, states=states))
    assert isinstance(found, InclusionError)
    assert "got certificate" in str(found)
    none = tuple(
        replace(state, value=None) if state.key == key else state
        for state in file.states
    )
    found = refused(key_history, replace(file, states=none))
    assert isinstance(found, InclusionError)


# --- whose order ---


def test_an_order_swapped_for_another_ones(
    key_history: World, holders_history: World
) -> None:
    """Signed by the right key, for other code; and one that another shard decided."""
    world = key_history
    call = "enclave_bridge.submit_order"

    def other(args: bytes) -> bytes:
        order = decode(SubmitOrder, args).order.order
        config = replace(order.config, code={"insecure-sim": b"\x07" * 32})
        fresh = sign_order(replace(order, config=config), world.secret("authority"))
        return encode(SubmitOrder(order=fresh))

    found = refused(world, retold(export(world), call, other, world=world))
    assert isinstance(found, InclusionError)
    assert "is not proven" in str(found)
    theirs = {block.height: block for block in export(holders_history).blocks}
    file = export(world)
    (at,) = heights_of(file, call)
    swapped = tuple(
        replace(block, txs=theirs[min(theirs)].txs) if block.height == at else block
        for block in file.blocks
    )
    assert isinstance(refused(world, replace(file, blocks=swapped)), InclusionError)


def test_an_order_swapped_with_the_validators_help(key_history: World) -> None:
    world = key_history

    def by(who: str, **fields: Any) -> Callable[[Call], Call]:
        def change(call: Call) -> Call:
            if not isinstance(call, SubmitOrder):
                return call
            order = replace(call.order.order, **fields)
            return SubmitOrder(order=sign_order(order, world.secret(who)))

        return change

    with pytest.raises(ActUnprovenError, match="undecided"):
        replayed(world, by("alice"))
    with pytest.raises(ActUnprovenError, match="whose order the file lacks"):
        replayed(world, by("authority", expiry=Height(9_999)))

    def unsigned(call: Call) -> Call:
        if not isinstance(call, SubmitOrder):
            return call
        one = replace(call.order.endorsements[0], signature=bytes(64))
        return SubmitOrder(order=replace(call.order, endorsements=(one,)))

    with pytest.raises(ActUnprovenError, match="is not over its order"):
        replayed(world, unsigned)


# --- tallies, effects, votes ---


def _with_tally(given: PostEffects, tally: Tally | None) -> PostEffects:
    """The decision of an effects word with other numbers; its digest is made anew."""
    effects = tuple(
        replace(one, tally=tally) if isinstance(one, StakeDecision) else one
        for one in given.effects
    )
    statement = replace(given.statement, effects=effects_digest(effects))
    return replace(given, statement=statement, effects=effects)


UNANIMOUS = Tally(ayes=3000, nays=0, electorate=3000, voters=3)


def test_a_tally_altered(holders_history: World) -> None:
    world = holders_history

    def alter(args: bytes) -> bytes:
        return encode(_with_tally(decode(PostEffects, args), UNANIMOUS))

    call = "enclave_bridge.post_effects"
    found = refused(world, retold(export(world), call, alter, world=world))
    assert isinstance(found, InclusionError)
    assert "is not proven" in str(found)


@pytest.mark.parametrize("tally", [UNANIMOUS, None])
def test_a_tally_altered_with_the_validators_help(
    holders_history: World, tally: Tally | None
) -> None:
    """The enclaves signed their own numbers."""

    def alter(call: Call) -> Call:
        return _with_tally(call, tally) if isinstance(call, PostEffects) else call

    with pytest.raises(InstanceRefusedError, match="is not signed by its instance"):
        replayed(holders_history, alter)

    def only_shown(call: Call) -> Call:
        if not isinstance(call, PostEffects):
            return call
        return replace(call, effects=_with_tally(call, tally).effects)

    with pytest.raises(ActUnprovenError, match="does not name them"):
        replayed(holders_history, only_shown)


def test_a_word_on_effects_said_twice_by_one_machine(holders_history: World) -> None:
    """The second machine's word replaced by the first one's once more."""
    said: list[PostEffects] = []

    def again(call: Call) -> Call:
        if not isinstance(call, PostEffects):
            return call
        said.append(call)
        return said[0]

    with pytest.raises(ActUnprovenError, match="without enough platforms' word"):
        replayed(holders_history, again)


def test_other_effects_beside_a_root(holders_history: World) -> None:
    """They are those that the confirmation names, which is signed."""

    def beside(call: Call) -> Call:
        return replace(call, effects=()) if isinstance(call, Confirm) else call

    def both(call: Call) -> Call:
        if not isinstance(call, Confirm) or not call.effects:
            return call
        changed = replace(call.confirmation, effects_root=effects_root(()))
        return replace(call, confirmation=changed, effects=())

    with pytest.raises(RootChainError, match="names other effects than it brings"):
        replayed(holders_history, beside)
    with pytest.raises(InstanceRefusedError, match="Confirmation in block"):
        replayed(holders_history, both)


def test_a_hosts_vote_turned_round_or_left_out(hosts_history: World) -> None:
    def against(call: Call) -> Call:
        return replace(call, aye=False) if isinstance(call, Vote) else call

    def silent(call: Call) -> Call | None:
        return None if isinstance(call, Vote) else call

    with pytest.raises(ActUnprovenError, match="got 1 of 2 platforms"):
        replayed(hosts_history, against)
    with pytest.raises(EvidenceError):
        replayed(hosts_history, silent)


# --- keys ---


@pytest.mark.parametrize(
    "name", ["state_key_commitment", "root_key_commitment", "shielding_key"]
)
def test_the_commitment_of_an_epoch_changed(key_history: World, name: str) -> None:
    world = key_history

    def other(keys: EpochKeysPublic) -> EpochKeysPublic:
        return replace(keys, **{name: b"\x09" * 32})

    def staged(args: bytes) -> bytes:
        given = decode(StageKeys, args)
        statement = replace(given.statement, keys=other(given.statement.keys))
        return encode(replace(given, statement=statement))

    call = "enclave_bridge.stage_keys"
    found = refused(world, retold(export(world), call, staged, world=world))
    assert isinstance(found, InclusionError)

    def with_help(one: Call) -> Call:
        if not isinstance(one, StageKeys):
            return one
        return decode(StageKeys, staged(encode(one)))

    with pytest.raises(InstanceRefusedError, match="StageKeysStatement in block"):
        replayed(world, with_help)


def test_the_keys_that_a_state_shows_changed(key_history: World) -> None:
    """Of the birth, and of the epochs in the schedule."""
    file = export(key_history)
    shard = key_history.shard
    for key in (keys_key(shard, 0), schedule_key(shard)):
        states = tuple(
            replace(state, value=bytes([*state.value[:-1], state.value[-1] ^ 1]))
            if state.key == key and state.value
            else state
            for state in file.states
        )
        found = refused(key_history, replace(file, states=states))
        assert isinstance(found, InclusionError)
        assert "is not proven" in str(found)


# --- instances ---


def test_a_quote_of_one_enclave_for_the_statement_of_another(
    day_history: World,
) -> None:
    """Both are genuine, of one shard and one release."""
    quotes: list[bytes] = []

    def swap(call: Call) -> Call:
        if not isinstance(call, Register):
            return call
        quotes.append(call.quote)
        return replace(call, quote=quotes[0])

    with pytest.raises(InstanceRefusedError, match="over something else"):
        replayed(day_history, swap)
