"""The relay, which knows only CometBFT's rules, follows a solo chain."""

from collections.abc import Callable

import pytest
from node_kv import KvApplication

from sealift.base import Height, InvariantError
from sealift.crypto import sha256
from sealift.node import (
    CommittedBlock,
    DurableChain,
    ExecutedBlock,
    NotNextBlockError,
    SoloChain,
    WrongValidatorError,
    genesis_tip,
    light_block_of,
    trust_root_of,
)
from sealift.relay import (
    NO_EVIDENCE_HASH,
    ChainRelay,
    RelayRules,
    Timestamp,
    Validator,
    verify_block,
    verify_state,
)
from sealift.relay.rpc import GenesisDoc

SECRET = bytes(range(32))
RULES = RelayRules(trusting_period=14 * 24 * 3600)
BLOCKS = 60


def at(start: Timestamp, block: int) -> Timestamp:
    return start.plus(seconds=block)


def txs_of(height: int) -> tuple[bytes, ...]:
    """Empty blocks, failures, deletions and a large block, by turns."""
    if height % 5 == 0:
        return ()
    if height % 7 == 0:
        return (b"fail=me", b"key%d=" % (height - 1))
    if height == 31:
        return (b"large=" + bytes(200_000),)
    return tuple(b"key%d=%d" % (height, i) for i in range(height % 4 + 1))


@pytest.fixture
def sixty(
    make_chain: Callable[..., DurableChain], genesis: GenesisDoc
) -> tuple[DurableChain, list[CommittedBlock]]:
    chain = make_chain()
    blocks = [
        chain.produce(now=at(genesis.genesis_time, h), txs=txs_of(h))
        for h in range(1, BLOCKS + 1)
    ]
    return chain, blocks


def follow(chain: DurableChain, blocks: list[CommittedBlock]) -> ChainRelay:
    relay = ChainRelay.bootstrap(
        trust_root_of(blocks[0]),
        light_block_of(blocks[0], chain.chain.validators),
        rules=RULES,
        now=None,
    )
    for block in blocks[1:]:
        relay.advance(light_block_of(block, chain.chain.validators), now=None)
    return relay


def test_relay_verifies_sixty_blocks_with_data_and_results(
    sixty: tuple[DurableChain, list[CommittedBlock]],
) -> None:
    chain, blocks = sixty
    relay = follow(chain, blocks)
    assert relay.head.height == BLOCKS
    for block in blocks[:-1]:
        verified = verify_block(
            relay.header_at(block.height),
            relay.header_at(Height(block.height + 1)),
            block.block.txs,
            [one.committed() for one in block.results],
        )
        assert [tx for tx, _ in verified.txs] == list(txs_of(block.height))
    assert any(block.block_id.parts.total > 1 for block in blocks)


def test_state_is_proven_at_every_past_height_present_and_absent(
    sixty: tuple[DurableChain, list[CommittedBlock]],
) -> None:
    chain, blocks = sixty
    relay = follow(chain, blocks)
    for height in (1, 2, 3, 29, 30, 31, 32, 7, 58, 59, 12):
        after = relay.header_at(Height(height + 1))
        entry = chain.read_state(b"height", height=Height(height), prove=True)
        assert entry.value == b"%d" % height
        assert entry.proof is not None
        assert verify_state(after, b"height", entry.value, entry.proof).height == height
        absent = chain.read_state(
            b"key%d" % (height + 1), height=Height(height), prove=True
        )
        assert absent.value is None
        assert absent.proof is not None
        verify_state(after, absent.key, None, absent.proof)
    # key6 was written in block 6 and deleted in block 7
    written = chain.read_state(b"key6", height=Height(6), prove=True)
    assert written.value == b"2"
    assert written.proof is not None
    verify_state(relay.header_at(Height(7)), b"key6", b"2", written.proof)
    deleted = chain.read_state(b"key6", height=Height(7), prove=True)
    assert deleted.value is None


def test_relay_skips_from_the_root_to_the_tip(
    sixty: tuple[DurableChain, list[CommittedBlock]],
) -> None:
    chain, blocks = sixty
    relay = ChainRelay.bootstrap(
        trust_root_of(blocks[0]), chain.light_block(Height(1)), rules=RULES, now=None
    )
    relay.skip(chain.light_block(Height(BLOCKS)), now=None)
    assert relay.head.hash == blocks[-1].block_id.hash


def test_first_header_is_genesis(make_chain: Callable[..., DurableChain]) -> None:
    chain = make_chain()
    root = chain.store.first_app_hash
    block = chain.produce(now=chain.genesis.genesis_time.plus(seconds=9), txs=())
    header = block.block.header
    assert header.height == 1
    assert header.time == chain.genesis.genesis_time
    assert header.last_block_id.is_nil
    assert header.app_hash == root
    empty = sha256(b"")
    assert header.last_commit_hash == empty
    assert header.last_results_hash == empty
    assert header.data_hash == empty
    assert header.evidence_hash == NO_EVIDENCE_HASH


def test_block_time_is_the_vote_time_of_the_block_before(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    start = chain.genesis.genesis_time
    chain.produce(now=start.plus(seconds=5), txs=())
    assert chain.produce(now=start.plus(seconds=6), txs=()).block.header.time == (
        start.plus(seconds=5)
    )


def test_clock_that_goes_back_does_not_stop_the_chain(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    start = chain.genesis.genesis_time
    times = [
        chain.produce(now=start.plus(seconds=-1000 * h), txs=()).block.header.time
        for h in range(5)
    ]
    assert times == [start.plus(nanos=1_000_000 * h) for h in range(5)]


def test_same_inputs_make_the_same_chain(
    make_chain: Callable[..., DurableChain],
) -> None:
    one, two = make_chain(), make_chain()
    for h in range(1, 8):
        now = at(one.genesis.genesis_time, h)
        assert one.produce(now=now, txs=txs_of(h)) == two.produce(
            now=now, txs=txs_of(h)
        )


def test_second_block_of_a_height_is_never_adopted(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    now = chain.genesis.genesis_time
    first = chain.propose(now=now, txs=(b"a=1",))
    second = chain.propose(now=now, txs=(b"a=2",))
    with pytest.raises(NotNextBlockError):
        chain.adopt(first)
    chain.persist(second)
    with pytest.raises(NotNextBlockError):
        chain.persist(first)
    chain.adopt(second)
    with pytest.raises(NotNextBlockError):
        chain.adopt(second)
    with pytest.raises(NotNextBlockError):
        chain.persist(second)
    assert chain.height == 1


def test_proposal_changes_nothing_until_it_is_adopted(
    make_chain: Callable[..., DurableChain],
) -> None:
    chain = make_chain()
    before = chain.chain.tip
    chain.propose(now=chain.genesis.genesis_time, txs=(b"alpha=9",))
    assert chain.chain.tip == before
    assert chain.read_state(b"alpha", height=None, prove=False).value == b"1"


def test_another_key_cannot_order_this_chain(genesis: GenesisDoc) -> None:
    with pytest.raises(WrongValidatorError):
        SoloChain(
            secret=bytes(32),
            genesis=genesis,
            application=KvApplication(),
            tip=genesis_tip(genesis, bytes(32)),
        )


def test_an_application_that_changes_fixed_validators_stops_the_chain(
    make_chain: Callable[..., DurableChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    application = KvApplication()
    chain = make_chain(application=application)
    other = Validator(public_key=b"o" * 32, power=1)
    outcome = ExecutedBlock(app_hash=bytes(32), changes={}, validator_updates=(other,))
    monkeypatch.setattr(application, "finalize_block", lambda **_: outcome)
    with pytest.raises(InvariantError, match="fixed validators"):
        chain.produce(now=chain.genesis.genesis_time, txs=())


def test_application_that_forgets_a_result_stops_the_chain(
    make_chain: Callable[..., DurableChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    application = KvApplication()
    chain = make_chain(application=application)
    monkeypatch.setattr(
        application,
        "finalize_block",
        lambda **_: ExecutedBlock(app_hash=bytes(32), changes={}),
    )
    with pytest.raises(InvariantError):
        chain.produce(now=chain.genesis.genesis_time, txs=(b"a=1",))
