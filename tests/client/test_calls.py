"""Calls and reads by the SDK, against a chain and lying workers."""

from typing import Any

import msgspec
import pytest
from aiohttp import web
from shard_world import CHAIN, RICH, USER, World

from sealift.base import Height, encode
from sealift.client import (
    OK,
    CallFailedError,
    CardTrustRoot,
    NotConfirmedError,
    ReceiptMismatchError,
    ReceiptTimeoutError,
    ReplyContradictedError,
    StaleReplyError,
    WorkerAnswerError,
    WorkerRefusedError,
    WorkerUnreachableError,
)
from sealift.crypto import account_of, sha256
from sealift.frame import CallArgumentsError, UnknownCallError
from sealift.protocol import Receipt, SealedReceipt, seal_receipt
from sealift.relay import header_hash
from sealift.stf import open_and_verify, open_and_verify_getter
from sealift.transport.account import L1RefusedError
from sealift.transport.http import make_app, serve

BOB = account_of(sha256(b"bob"))


def test_a_transfer_is_executed_and_confirmed(world: World, play: Any) -> None:
    async def story() -> Any:
        async with world.user(RICH) as user:
            before = await user.balance()
            done = await user.call(
                "balances.transfer", {"dest": BOB, "amount": 5}, confirmed=True
            )
            return before, done, await user.balance()

    before, done, after = play(story())
    assert done.outcome == OK
    assert done.confirmed
    assert after == before - 5
    assert done.events[0][0] == "balances.Transferred"
    assert done.events[0][1]["amount"] == 5


def test_a_worker_carries_for_a_user_without_l1_account(
    world: World, play: Any
) -> None:
    async def story() -> Any:
        async with world.user(RICH, paid=False) as user:
            return await user.transfer(BOB, 1)

    assert play(story()).outcome == OK


def test_calls_of_one_client_get_nonces_in_order(world: World, play: Any) -> None:
    async def story() -> Any:
        async with world.user(RICH) as user:
            call = user.encode_call("balances.transfer", {"dest": BOB, "amount": 1})
            sent = [await user.send(call) for _ in range(4)]
            return [await user.result(one) for one in sent]

    results = play(story())
    assert [one.outcome for one in results] == [OK] * 4
    nonces = [one.nonce for one in results]
    assert nonces == list(range(nonces[0], nonces[0] + 4))


def test_a_failed_call_is_told_and_uses_its_nonce(world: World, play: Any) -> None:
    async def story() -> Any:
        async with world.user(sha256(b"poor")) as user:
            with pytest.raises(CallFailedError) as refused:
                await user.transfer(BOB, 10)
            return refused.value, await user.nonce()

    error, nonce = play(story())
    assert error.outcome == "InsufficientFundsError"
    assert nonce == 1


def test_a_used_nonce_is_refused_and_the_next_call_recovers(
    world: World, play: Any
) -> None:
    async def story() -> Any:
        async with world.user(RICH) as one, world.user(RICH) as other:
            await one.transfer(BOB, 1)
            await other.transfer(BOB, 1)
            call = one.encode_call("balances.transfer", {"dest": BOB, "amount": 1})
            stale = await one.result(await one.send(call))
            return stale, await one.transfer(BOB, 1)

    stale, recovered = play(story())
    assert stale.outcome == "NonceConsumedError"
    assert recovered.outcome == OK


def test_shielded_funds_arrive_inside(world: World, play: Any) -> None:
    async def story() -> Any:
        async with world.user() as user:
            done = await user.shield(777, user.account)
            while (await user.ask("balances.free", {})).reply.state_height < (
                done.height
            ):
                pass
            return await user.balance()

    assert play(story()) == 777


def test_who_has_no_l1_account_cannot_shield(world: World, play: Any) -> None:
    async def story() -> None:
        async with world.user(paid=False) as user:
            await user.shield(1, user.account)

    with pytest.raises(WorkerAnswerError):
        play(story())


def test_what_l1_refuses_names_why(world: World, play: Any) -> None:
    async def story() -> None:
        async with world.user() as user:
            await user.shield(0, user.account)

    with pytest.raises(L1RefusedError) as refused:
        play(story())
    assert "nothing to shield" in refused.value.log


def test_unknown_calls_and_arguments_are_refused_before_anything_is_sent(
    world: World, play: Any
) -> None:
    async def story(name: str, args: dict[str, object]) -> None:
        async with world.user() as user:
            await user.call(name, args)

    with pytest.raises(UnknownCallError):
        play(story("balances.steal", {}))
    with pytest.raises(CallArgumentsError):
        play(story("balances.transfer", {"dest": BOB}))


def test_a_receipt_that_was_made_up_is_not_believed(world: World, play: Any) -> None:
    async def forged(request: web.Request) -> web.Response:
        name = bytes.fromhex(request.match_info["envelope"])
        receipt = Receipt(call_id=bytes(32), height=3, index=0, outcome="ok")
        sealed = seal_receipt(
            receipt, reply_key=bytes(32), envelope=name, block_hash=bytes(32)
        )
        return web.Response(body=encode(sealed))

    async def story() -> None:
        world.enclave.lies["receipt"] = forged
        async with world.user(RICH) as user:
            await user.call("balances.transfer", {"dest": BOB, "amount": 1}, within=1)

    with pytest.raises(ReceiptTimeoutError):
        play(story())


@pytest.mark.parametrize("height", [1, 2**40])
def test_a_receipt_of_a_block_that_is_not_there_harms_nobody(
    world: World, play: Any, height: int
) -> None:
    """The genuine one, of another worker or of the same a moment later, counts."""
    asked = 0

    async def forged(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            return await world.enclave.receipt(request)
        name = bytes.fromhex(request.match_info["envelope"])
        made_up = SealedReceipt(envelope=name, height=height, index=0, sealed=b"junk")
        return web.Response(body=encode(made_up))

    async def story() -> Any:
        world.enclave.lies["receipt"] = forged
        second = (await world.l1.commit(Height(2))).signed_header.header
        root = CardTrustRoot(height=2, header_hash=header_hash(second).hex())
        card = msgspec.structs.replace(world.card, trust_root=root)
        async with world.user(RICH, card=card) as user:
            return await user.transfer(BOB, 1)

    assert play(story()).outcome == OK
    assert asked > 1


def test_a_receipt_of_a_block_before_the_call_costs_no_walk_down_the_chain(
    world: World, play: Any
) -> None:
    """A worker that names an old block would have us fetch all headers since."""
    asked: list[int] = []
    walked: list[int] = []

    async def forged(request: web.Request) -> web.Response:
        asked.append(1)
        if len(asked) > 3:
            return await world.enclave.receipt(request)
        name = bytes.fromhex(request.match_info["envelope"])
        old = SealedReceipt(envelope=name, height=2, index=0, sealed=b"junk")
        return web.Response(body=encode(old))

    async def story() -> Any:
        world.enclave.lies["receipt"] = forged
        async with world.user(RICH) as user:
            hash_of = user.chain.block_hash

            async def noted(height: Height) -> Any:
                walked.append(height)
                return await hash_of(height)

            user.chain.block_hash = noted
            return await user.transfer(BOB, 1)

    assert play(story()).outcome == OK
    assert len(asked) > 3
    assert 2 not in walked
    assert walked


def test_a_receipt_of_another_call_is_refused(world: World, play: Any) -> None:
    """A broken enclave that swaps calls is not believed either."""

    async def swapped(request: web.Request) -> web.Response:
        name = bytes.fromhex(request.match_info["envelope"])
        honest = world.enclave.receipts.get(name)
        if honest is None:
            raise web.HTTPNotFound
        return web.Response(body=encode(swap(honest)))

    opened: dict[bytes, bytes] = {}

    def swap(honest: SealedReceipt) -> SealedReceipt:
        return seal_receipt(
            Receipt(
                call_id=sha256(b"another"),
                height=honest.height,
                index=honest.index,
                outcome="ok",
            ),
            reply_key=opened["key"],
            envelope=honest.envelope,
            block_hash=opened["hash"],
        )

    async def story() -> None:
        world.enclave.lies["receipt"] = swapped
        async with world.user(RICH) as user:
            call = user.encode_call("balances.transfer", {"dest": BOB, "amount": 1})
            sent = await user.send(call)
            opened["key"] = sent.body.reply_key
            while sent.name not in world.enclave.receipts:
                await user.chain.wait_for((await user.chain.follow()).height + 1)
            height = world.enclave.receipts[sent.name].height
            opened["hash"] = await user.chain.block_hash(height)
            await user.result(sent, within=5)

    with pytest.raises(ReceiptMismatchError):
        play(story())


def test_an_executed_call_that_is_not_confirmed_in_time(
    world: World, play: Any
) -> None:
    async def story() -> None:
        world.enclave.confirm = False
        async with world.user(RICH) as user:
            await user.call(
                "balances.transfer",
                {"dest": BOB, "amount": 1},
                confirmed=True,
                within=1,
            )

    with pytest.raises(NotConfirmedError):
        play(story())


def test_a_reply_from_the_past_is_refused(world: World, play: Any) -> None:
    async def story() -> None:
        async with world.user() as user:
            await user.ask("system.nonce", {}, min_height=Height(10**6))

    async def old(request: web.Request) -> web.Response:
        getter = open_and_verify_getter(
            await request.read(),
            keys={0: world.enclave.shielding.secret},
            chain_id=CHAIN,
            shard=world.shard,
        )
        return world.enclave.reply(getter, value=encode(0), state_height=5)

    world.enclave.lies["ask"] = old
    with pytest.raises(StaleReplyError):
        play(story())
    world.enclave.lies.clear()
    with pytest.raises(WorkerRefusedError) as refused:
        play(story())  # an honest worker refuses by itself
    assert refused.value.refused == "GetterBoundsError"


@pytest.mark.parametrize("height", [0, 10**9])
def test_a_reply_that_l1_contradicts_is_refused(
    world: World, play: Any, height: int
) -> None:
    async def story() -> None:
        async with world.user(RICH) as user:
            await user.call(
                "balances.transfer", {"dest": BOB, "amount": 1}, confirmed=True
            )
            await user.ask("system.nonce", {})

    async def boast(request: web.Request) -> web.Response:
        getter = open_and_verify_getter(
            await request.read(),
            keys={0: world.enclave.shielding.secret},
            chain_id=CHAIN,
            shard=world.shard,
        )
        changes: dict[str, Any] = {"state_height": height or world.enclave.confirmed}
        wrong = {"value": encode(0), "root": bytes(32), "confirmed": True}
        return world.enclave.reply(getter, **wrong, **changes)

    async def ask_only() -> None:
        async with world.user(RICH) as user:
            await user.ask("system.nonce", {})

    play(story())
    world.enclave.lies["ask"] = boast
    with pytest.raises(ReplyContradictedError):
        play(ask_only())


def test_an_answer_under_another_key_is_refused(world: World, play: Any) -> None:
    async def noise(_: web.Request) -> web.Response:
        return web.Response(body=b"noise" * 40)

    async def story() -> None:
        async with world.user() as user:
            await user.balance()

    world.enclave.lies["ask"] = noise
    with pytest.raises(WorkerAnswerError):
        play(story())


def test_the_next_worker_is_asked_when_one_is_gone(world: World, play: Any) -> None:
    async def story() -> Any:
        gone = ("http://127.0.0.1:9", "http://127.0.0.1:10")
        async with world.user(RICH, paid=False, workers=gone) as user:
            return await user.transfer(BOB, 1)

    assert play(story()).outcome == OK


def test_the_next_worker_is_asked_when_one_answers_without_end(
    world: World, play: Any
) -> None:
    async def endless(_: web.Request) -> web.Response:
        return web.Response(body=bytes(5 * 1024 * 1024))

    async def story() -> Any:
        app = make_app([web.post("/v1/submit", endless), web.post("/v1/ask", endless)])
        async with (
            serve(app) as liar,
            world.user(RICH, paid=False, workers=(liar.url,)) as user,
        ):
            return await user.transfer(BOB, 1)

    assert play(story()).outcome == OK


def test_nobody_answers(world: World, play: Any) -> None:
    async def story() -> None:
        card = msgspec.structs.replace(world.card, workers=("http://127.0.0.1:9",))
        async with world.user(card=card) as user:
            await user.balance()

    with pytest.raises(WorkerUnreachableError):
        play(story())


def test_a_pinned_call_is_refused_by_another_enclave(world: World, play: Any) -> None:
    async def story() -> Any:
        async with world.user(RICH) as user:
            arguments = {"dest": BOB, "amount": 1}
            return await user.call("balances.transfer", arguments, pin=bytes(32))

    assert play(story()).outcome == "FingerprintPinError"


def test_what_stands_on_l1_hides_everything(world: World, play: Any) -> None:
    """Two calls that differ in everything look alike from outside."""

    async def story() -> Any:
        async with world.user(RICH) as user, world.user(USER) as other:
            one = await user.seal_call(
                user.encode_call("balances.transfer", {"dest": BOB, "amount": 1}),
                nonce=0,
            )
            two = await other.seal_call(
                other.encode_call("sudo.set_key", {"key": BOB}), nonce=77
            )
            return one, two

    one, two = play(story())
    assert len(one.envelope) == len(two.envelope)
    assert account_of(RICH) not in one.envelope
    found = open_and_verify(
        [one.envelope],
        keys={0: world.enclave.shielding.secret},
        chain_id=CHAIN,
        shard=world.shard,
    )
    assert found[0].body.signer == account_of(RICH)
