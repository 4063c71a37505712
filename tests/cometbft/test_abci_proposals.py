"""Proposals: what can be included, refused by nobody honest; what cannot, by all.

The rule: docs/adr/0023-proposals-by-admission.md.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comet
import pytest
from abci_client import (
    GENESIS,
    block,
    commit,
    finalize,
    init,
    message,
    open_driver,
    parse_request,
    run_block,
)
from comet import FAUCET, START_BALANCE, transfer
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.attestation import TrustAnchor
from sealift.base import AccountId, Amount, ChainId, Height, Nonce, decode, encode
from sealift.crypto import account_of, sha256
from sealift.frame import RuntimeCall
from sealift.ledger import (
    DcapVerifier,
    LedgerGenesis,
    LedgerParams,
    ProposalRefusedError,
    ledger_call,
    render_genesis,
    size_in_block,
    transaction,
)
from sealift.node import LedgerApplication
from sealift.node.abci import AbciApplication
from sealift.node.abci._messages import (
    ACCEPT,
    REJECT,
    CheckTxRequest,
    PrepareProposalRequest,
    ProcessProposalRequest,
)
from sealift.node.abci._proto import _CLASSES
from sealift.node.abci._translate import genesis_of
from sealift.protocol import MAX_TX_BYTES, Transaction
from sealift.relay import Timestamp

PEOPLE = [sha256(b"person %d" % n) for n in range(3)]
GAS = 200


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[AbciApplication]:
    made = open_driver(tmp_path / "state.sqlite")
    yield made
    made.close()


def process(driver: AbciApplication, *txs: bytes) -> int:
    height = driver.height + 1
    return driver.process_proposal(
        ProcessProposalRequest(txs=txs, height=height)
    ).status


def prepare(driver: AbciApplication, *txs: bytes, room: int = 10**7) -> Any:
    request = PrepareProposalRequest(
        max_tx_bytes=room, txs=txs, height=driver.height + 1
    )
    return driver.prepare_proposal(request).txs


def signed(secret: bytes, nonce: int, **changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "chain_id": comet.CHAIN,
        "nonce": Nonce(nonce),
        "valid_until": Height(100_000),
        "call": ledger_call(
            "balances.transfer", dest=account_of(PEOPLE[0]), amount=Amount(5)
        ),
    }
    return transaction(secret, **(fields | changed))


def unsigned(tx: bytes) -> bytes:
    known = decode(Transaction, tx)
    return encode(Transaction(body=known.body, signature=bytes(64)))


#: What no block can include here, by the rule that says so.
NEVER = {
    "empty": b"",
    "undecodable": b"garbage",
    "oversized": bytes(MAX_TX_BYTES + 1),
    "trailing": transfer(0) + b"\x00",
    "foreign chain": signed(FAUCET, 0, chain_id=ChainId("another")),
    "forged": unsigned(transfer(0)),
    "expired": signed(FAUCET, 0, valid_until=Height(0)),
    "early nonce": transfer(1),
    "penniless": signed(PEOPLE[0], 0),
    "unknown call": signed(FAUCET, 0, call=RuntimeCall(name="no.such", args=b"")),
}


@pytest.mark.parametrize("tx", NEVER.values(), ids=NEVER)
def test_what_cannot_be_included_is_refused_and_left_out(
    driver: AbciApplication, tx: bytes
) -> None:
    init(driver)
    assert process(driver, tx) == REJECT
    assert process(driver, transfer(0)) == ACCEPT
    before = () if tx == NEVER["early nonce"] else (transfer(0),)
    assert process(driver, *before, tx) == REJECT
    if tx != NEVER["early nonce"]:
        assert prepare(driver, tx, transfer(0), transfer(1)) == (
            transfer(0),
            transfer(1),
        )
    assert driver.check_tx(CheckTxRequest(tx=tx, type=0)).code != 0


def test_nonces_count_within_a_proposal_and_copies_are_refused(
    driver: AbciApplication,
) -> None:
    init(driver)
    run_block(driver, 1, transfer(0))
    assert process(driver, transfer(0)) == REJECT
    assert process(driver, transfer(1), transfer(2)) == ACCEPT
    assert process(driver, transfer(2), transfer(1)) == REJECT
    assert process(driver, transfer(1), transfer(1)) == REJECT
    copies = (transfer(1), transfer(1), transfer(2), transfer(1), transfer(2))
    assert prepare(driver, *copies) == (transfer(1), transfer(2))


def test_fees_are_promised_together(driver: AbciApplication) -> None:
    poor = PEOPLE[1]
    init(driver)
    size = len(signed(poor, 0))
    three = tuple(signed(poor, n) for n in range(3))
    funds = comet.transfer(0, amount=size * 5 // 2, to=AccountId(account_of(poor)))
    run_block(driver, 1, funds)
    assert process(driver, *three[:2]) == ACCEPT
    assert process(driver, *three) == REJECT
    # also not by what a transaction before it would bring
    more = comet.transfer(1, amount=10 * size, to=AccountId(account_of(poor)))
    assert process(driver, more, *three) == REJECT
    assert prepare(driver, more, *three) == (more, *three[:2])


def test_a_call_that_fails_is_a_failed_result_not_a_refused_block(
    driver: AbciApplication,
) -> None:
    """Only running the block would tell; an honest proposer need not have."""
    init(driver)
    fails = transfer(0, amount=START_BALANCE)
    assert prepare(driver, fails, transfer(1)) == (fails, transfer(1))
    assert process(driver, fails, transfer(1)) == ACCEPT
    codes = [
        one.code == 0 for one in finalize(driver, 1, fails, transfer(1)).tx_results
    ]
    assert codes == [False, True]


def test_one_that_another_takes_the_fee_from_is_a_failed_result(
    driver: AbciApplication,
) -> None:
    """By the committed state it could pay; after the one before it cannot."""
    init(driver)
    taker = transfer(0, amount=START_BALANCE - len(transfer(0)) - 10)
    assert process(driver, taker, transfer(1)) == ACCEPT
    first, second = finalize(driver, 1, taker, transfer(1)).tx_results
    assert (first.code, second.codespace) == (0, "sealift")
    assert second.code != 0
    assert second.info == "FeeError"


def test_bytes_and_gas_of_the_ledger_bound_a_proposal(tmp_path: Path) -> None:
    txs = tuple(transfer(n) for n in range(10))
    five = sum(map(size_in_block, txs[:5]))
    for place, changed in enumerate(
        (
            {"params": LedgerParams(max_block_weight=5 * GAS)},
            {"params": LedgerParams(max_block_bytes=five)},
            {"block": {"max_bytes": 4_194_304, "max_gas": 5 * GAS}},
            {"block": {"max_bytes": five, "max_gas": -1}},
        )
    ):
        driver = open_driver(tmp_path / f"{place}.sqlite")
        try:
            init(driver, **genesis(**changed))
            assert prepare(driver, *txs) == txs[:5]
            assert process(driver, *txs[:5]) == ACCEPT
            assert process(driver, *txs[:6]) == REJECT
        finally:
            driver.close()


def genesis(params: Any = None, block: Any = None) -> dict[str, object]:
    consensus = GENESIS["consensus_params"]
    assert isinstance(consensus, dict)
    return {
        "consensus_params": consensus | ({} if block is None else {"block": block}),
        "app_state_bytes": render_genesis(
            LedgerGenesis(
                chain_id=comet.CHAIN,
                accounts=(
                    (account_of(FAUCET), Amount(START_BALANCE)),
                    *((account_of(one), Amount(2_000)) for one in PEOPLE[1:]),
                ),
                sudo=account_of(FAUCET),
                anchors=(TrustAnchor(root_der=b"simulated", kind="insecure-sim"),),
                params=params or LedgerParams(),
            )
        ),
    }


def test_what_fits_only_later_ends_the_proposal_and_what_never_fits_does_not(
    tmp_path: Path,
) -> None:
    """Else small ones overtake a large one for ever, or one stops all behind it."""
    large = signed(
        FAUCET, 0, call=RuntimeCall(name="balances.transfer", args=bytes(900))
    )
    small = [signed(PEOPLE[1], n) for n in range(3)]
    driver = open_driver(tmp_path / "state.sqlite")
    try:
        init(driver, **genesis())
        room = size_in_block(small[0]) + size_in_block(large) - 1
        assert prepare(driver, small[0], large, small[1], room=room) == (small[0],)
        assert prepare(driver, large, small[0], room=room) == (large,)
        tight = size_in_block(large) - 1
        assert prepare(driver, large, *small[:2], room=tight) == tuple(small[:2])
    finally:
        driver.close()


def test_bytes_are_counted_as_the_protobuf_library_does() -> None:
    sizes = [0, 1, 127, 128, 16_383, 16_384, MAX_TX_BYTES]
    for size in sizes:
        counted = _CLASSES["ResponsePrepareProposal"](txs=[bytes(size)]).ByteSize()
        assert size_in_block(bytes(size)) == counted


def test_the_mempool_and_the_block_that_waits_do_not_sway_the_verdict(
    driver: AbciApplication,
) -> None:
    """What one node's mempool holds, another's does not."""
    init(driver)
    run_block(driver, 1)
    driver.check_tx(CheckTxRequest(tx=transfer(0), type=0))
    assert process(driver, transfer(0)) == ACCEPT
    assert process(driver, transfer(1)) == REJECT
    finalize(driver, 2, transfer(0))  # decided, not committed: asked once more
    assert process(driver, transfer(0)) == ACCEPT
    commit(driver)
    assert process(driver, transfer(0)) == REJECT
    assert process(driver, transfer(1)) == ACCEPT


def application() -> LedgerApplication:
    made = LedgerApplication(DcapVerifier())
    request: Any = parse_request(message("init_chain", **(GENESIS | genesis())))
    made.init_chain(genesis_of(request))
    return made


def execute(made: LedgerApplication, height: int, txs: Any) -> Any:
    given = block(height)
    outcome = made.finalize_block(
        height=Height(height),
        block_hash=given["hash"],
        time=Timestamp(seconds=given["time"]["seconds"]),
        proposer=bytes(20),
        txs=txs,
    )
    made.commit()
    return outcome


def some_tx(chance: random.Random) -> bytes:
    """Valid, or wrong in one of many ways."""
    secret = chance.choice([FAUCET, *PEOPLE])
    nonce = chance.choice([0, 0, 1, 1, 2, 3])
    kind = chance.randrange(10)
    if kind == 0:
        return chance.choice(list(NEVER.values()))
    if kind == 1:
        return unsigned(signed(secret, nonce))
    if kind == 2:
        return signed(secret, nonce, valid_until=Height(chance.randrange(4)))
    amount = Amount(chance.choice([1, 500, 1_500, START_BALANCE]))
    to = account_of(chance.choice(PEOPLE))
    call = ledger_call("balances.transfer", dest=to, amount=amount)
    return signed(secret, nonce, call=call)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 3_000),
    st.integers(-1, 6 * GAS),
    st.booleans(),
)
def test_what_an_honest_node_proposes_every_honest_node_accepts(
    seed: int, room: int, gas: int, restarts: bool
) -> None:
    """Random states, random mempools; the others have other mempools, or none."""
    chance = random.Random(seed)
    proposer, voter = application(), application()
    for height in range(1, 4):
        waiting = [some_tx(chance) for _ in range(chance.randrange(12))]
        for tx in waiting:
            if chance.random() < 0.5:
                proposer.check_tx(tx, recheck=False)
            if chance.random() < 0.3:
                voter.check_tx(tx, recheck=False)
        chosen = proposer.prepare_proposal(waiting, max_bytes=room, max_gas=gas)
        assert sum(map(size_in_block, chosen)) <= room
        for judge in (voter, proposer, reloaded(proposer)):
            judge.require_proposal(chosen, max_bytes=room, max_gas=gas)
        require_reasons(voter, waiting, chosen, room, gas)
        decided = chosen if chance.random() < 0.7 else waiting
        outcomes = [execute(one, height, decided) for one in (proposer, voter)]
        assert outcomes[0].app_hash == outcomes[1].app_hash
        if restarts:
            voter = reloaded(voter)


def require_reasons(
    voter: LedgerApplication, waiting: list[bytes], chosen: Any, room: int, gas: int
) -> None:
    """What was left out is refused at its place, or stands behind what must wait."""
    taken, ended = 0, False
    for tx in waiting:
        if taken < len(chosen) and tx == chosen[taken]:
            assert not ended
            taken += 1
        elif not ended:
            with pytest.raises(ProposalRefusedError) as told:
                voter.require_proposal(
                    [*chosen[:taken], tx], max_bytes=room, max_gas=gas
                )
            alone = size_in_block(tx) <= room and (gas < 0 or gas >= GAS)
            ended = alone and "BlockFullError" in str(told.value)
    assert taken == len(chosen)  # in their order


def reloaded(known: LedgerApplication) -> LedgerApplication:
    """The same state in a new process, which remembers nothing."""
    made = LedgerApplication(DcapVerifier())
    request: Any = parse_request(message("init_chain", **(GENESIS | genesis())))
    entries = dict(known.ledger._store.items(b""))
    made.load(entries.items(), genesis=genesis_of(request))
    return made
