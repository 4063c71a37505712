"""An L1 account: order, nonces, and what L1 refuses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from shard_world import CHAIN, World

from sealift.base import Nonce, SealiftError
from sealift.crypto import account_of, sha256
from sealift.frame import CallArgumentsError, UnknownCallError
from sealift.ledger import code_of
from sealift.transport import account as account_module
from sealift.transport.account import L1Account, L1RefusedError, committed_nonce
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import TxNotIncludedError

SINK = account_of(sha256(b"sink"))


def account(world: World, name: str = "faucet") -> L1Account:
    return L1Account(read_account_key(world.key(name)), world.l1, CHAIN)


def pay(amount: int) -> tuple[str, dict[str, object]]:
    return "balances.transfer", {"dest": SINK, "amount": amount}


def test_many_transactions_at_once_all_take_effect(world: World, play: Any) -> None:
    async def story() -> Any:
        me = account(world)
        before = await L1Account(sha256(b"sink"), world.l1, CHAIN).balance()
        hashes = await asyncio.gather(*(me.send(*pay(1)) for _ in range(20)))
        outcomes = [await me.wait(digest) for digest in hashes]
        after = await L1Account(sha256(b"sink"), world.l1, CHAIN).balance()
        return outcomes, after - before

    outcomes, arrived = play(story())
    assert [one.code for one in outcomes] == [0] * 20
    assert arrived == 20


def test_two_processes_share_an_account(world: World, play: Any) -> None:
    """Each keeps its own count; whoever is refused starts at L1's again."""

    async def story() -> Any:
        one, other = account(world), account(world)
        done = []
        for turn in range(3):
            done += [await me.act(*pay(turn + 1)) for me in (one, other)]
        return done

    assert [one.code for one in play(story())] == [0] * 6


def test_an_account_that_another_process_keeps_busy_can_act(
    world: World, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator votes while its worker's transactions always wait in the mempool."""

    async def story() -> Any:
        me = account(world)
        committed = await committed_nonce(world.l1, me.account)

        async def always_behind(*_: Any) -> Nonce:
            return committed

        worker = account(world)
        for _ in range(3):
            await worker.send(*pay(1))
        monkeypatch.setattr(account_module, "committed_nonce", always_behind)
        return await me.act(*pay(7))

    assert play(story()).code == 0


def test_a_count_that_ran_ahead_comes_back(world: World, play: Any) -> None:
    """A node that forgot its mempool leaves a gap; the account closes it."""

    async def story() -> Any:
        me = account(world)
        me._next = Nonce(await committed_nonce(world.l1, me.account) + 5)
        return await me.act(*pay(1))

    assert play(story()).code == 0


def test_a_refusal_in_the_mempool_has_number_and_sentence(
    world: World, play: Any
) -> None:
    async def story() -> None:
        await L1Account(sha256(b"no funds"), world.l1, CHAIN).act(*pay(1))

    with pytest.raises(L1RefusedError) as refused:
        play(story())
    assert refused.value.refusal == code_of("FeeError")
    assert "fee" in refused.value.log
    assert refused.value.call == "balances.transfer"


def test_a_failure_in_a_block_is_an_outcome_and_act_raises_it(
    world: World, play: Any
) -> None:
    async def story() -> Any:
        me = account(world)
        outcome = await me.wait(await me.send(*pay(10**15)))
        with pytest.raises(L1RefusedError) as refused:
            await me.act(*pay(10**15))
        return outcome, refused.value

    outcome, error = play(story())
    assert outcome.code == error.refusal == code_of("InsufficientFundsError")
    assert outcome.height > 0


def test_wrong_words_never_leave(world: World, play: Any) -> None:
    async def story(call: str, args: dict[str, object]) -> None:
        await account(world).send(call, args)

    with pytest.raises(UnknownCallError):
        play(story("balances.print_money", {}))
    with pytest.raises(CallArgumentsError):
        play(story("balances.transfer", {"dest": SINK, "amount": -1}))


def test_a_transaction_nobody_has_is_not_waited_for_for_ever(
    world: World, play: Any
) -> None:
    async def story() -> None:
        await account(world).wait(bytes(32), within=0.3)

    with pytest.raises(TxNotIncludedError):
        play(story())


def test_the_same_transaction_twice_is_no_refusal(world: World, play: Any) -> None:
    """A retry of the connection brings a copy; the first one counts."""

    async def story() -> Any:
        me = account(world)
        sent: list[bytes] = []
        honest = me._broadcast

        async def twice(tx: bytes) -> tuple[int, str]:
            sent.append(tx)
            await honest(tx)
            return await honest(tx)

        me._broadcast = twice  # type: ignore[method-assign]
        outcome = await me.act(*pay(1))
        return outcome, sent

    outcome, sent = play(story())
    assert outcome.code == 0
    assert len(sent) == 1


class SlowChain:
    """A node of a chain whose blocks take so many seconds; it includes nothing."""

    def __init__(self, seconds: float, *, head: int = 9) -> None:
        self.seconds = seconds
        self.head = head
        self.lost = False
        self.refusals = 10**9
        self.waited: list[float] = []
        self.asked = 0

    async def height(self) -> int:
        return self.head

    async def commit(self, height: int) -> Any:
        self.asked += 1
        if self.lost:
            raise SealiftError("pruned")
        at = height * self.seconds
        time = SimpleNamespace(seconds=int(at), nanos=int(at % 1 * 1e9))
        header = SimpleNamespace(time=time)
        return SimpleNamespace(signed_header=SimpleNamespace(header=header))

    async def abci_query(self, key: bytes, *, prove: bool) -> Any:
        return SimpleNamespace(value=None)

    async def call(self, method: str, kind: Any, *, tx: str) -> Any:
        self.refusals -= 1
        code = code_of("NonceError") if self.refusals >= 0 else 0
        return SimpleNamespace(code=code, log="another nonce")

    async def wait_for_tx(self, digest: bytes, *, within: float) -> Any:
        self.waited.append(within)
        raise TxNotIncludedError("in no block")


def waits_for(chain: SlowChain) -> float:
    async def story() -> None:
        await L1Account(sha256(b"me"), chain, CHAIN).wait(bytes(32))

    with pytest.raises(TxNotIncludedError):
        asyncio.run(story())
    return chain.waited[0]


@pytest.mark.parametrize(
    ("seconds", "waited"),
    [(0.04, 60), (1, 60), (60, 300), (3600, 18_000), (10**6, 18_000), (-5, 60)],
)
def test_a_transaction_has_a_few_blocks_time_however_slow_the_chain(
    seconds: float, waited: float
) -> None:
    assert waits_for(SlowChain(seconds)) == pytest.approx(waited)


def test_a_chain_of_one_block_and_a_node_that_pruned_are_waited_for_a_minute() -> None:
    assert waits_for(SlowChain(3600, head=1)) == 60
    pruned = SlowChain(3600)
    pruned.lost = True
    assert waits_for(pruned) == 60


@pytest.mark.parametrize(("seconds", "total"), [(1, 7), (60, 210), (3600, 12_600)])
def test_a_nonce_that_is_taken_is_tried_until_another_process_had_its_blocks(
    monkeypatch: pytest.MonkeyPatch, seconds: float, total: float
) -> None:
    paused: list[float] = []

    class Sleeps:
        def __getattr__(self, name: str) -> object:
            return getattr(asyncio, name)

        async def sleep(self, pause: float) -> None:
            paused.append(pause)

    monkeypatch.setattr(account_module, "asyncio", Sleeps())

    async def story() -> None:
        await L1Account(sha256(b"me"), SlowChain(seconds), CHAIN).send(*pay(1))

    with pytest.raises(L1RefusedError, match="another nonce"):
        asyncio.run(story())
    assert sum(paused) == pytest.approx(total)
    assert sum(paused) > 3 * seconds


def test_the_pace_of_the_chain_is_not_asked_for_with_every_transaction() -> None:
    chain = SlowChain(60)

    async def story() -> set[float]:
        me = L1Account(sha256(b"me"), chain, CHAIN)
        return {await me.block_interval() for _ in range(50)}

    assert asyncio.run(story()) == {60.0}
    assert chain.asked == 2
