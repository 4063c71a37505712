"""The client's own light client: nodes may lie, and are found out."""

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp import web
from shard_world import CHAIN, RICH, World

from sealift.base import AccountId, Digest, Epoch, Height, ShardId
from sealift.client import (
    ClientError,
    EnclaveNotTrustedError,
    ProvenChain,
    ShardUnbornError,
    UnknownShardOnChainError,
    _discovery,
    find_instances,
)
from sealift.crypto import account_of, sha256
from sealift.frame import ProofInvalidError
from sealift.ledger import shard_id_of
from sealift.protocol import (
    EntryStatus,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    config_at,
    frontier_key,
)
from sealift.relay import (
    HeaderFromFutureError,
    HeaderNotKeptError,
    RpcFormatError,
    Timestamp,
    TrustExpiredError,
    TrustRoot,
    TrustRootMismatchError,
    header_hash,
)
from sealift.transport.account import L1Account
from sealift.transport.clock import WallClock
from sealift.transport.http import make_app, serve
from sealift.transport.keys import read_account_key
from sealift.transport.rpc import (
    Backoff,
    L1Client,
    NodeUnreachableError,
    StateEntry,
    system_jitter,
)


class Frozen(WallClock):
    """A clock that stands still."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def now(self) -> Timestamp:
        return Timestamp(seconds=self._seconds, nanos=0)


def proven(world: World, **changes: Any) -> ProvenChain:
    options = {"root": world.trust_root, "nodes": [world.l1], "clock": WallClock()}
    options.update(changes)
    return ProvenChain(options["root"], options["nodes"], clock=options["clock"])


def test_the_schedule_is_proven_and_fits_the_record(world: World, play: Any) -> None:
    async def story() -> Any:
        chain = proven(world)
        height, schedule = await chain.schedule(world.shard)
        return height, schedule, await chain.record(world.shard)

    height, schedule, record = play(story())
    assert config_at(schedule, height).status is EntryStatus.ACTIVE
    assert record.schedule == schedule.digest()
    assert record.height >= height


def test_a_shard_that_is_not_there_is_proven_absent(world: World, play: Any) -> None:
    async def story() -> None:
        await proven(world).schedule(ShardId(bytes(32)))

    with pytest.raises(UnknownShardOnChainError):
        play(story())
    with pytest.raises(ClientError):
        play(story())


def test_a_shard_without_keys_is_unborn(world: World, play: Any) -> None:
    async def story() -> None:
        payer = read_account_key(world.key("payer"))
        rules = ShardRules(
            authority=SudoAuthority(key=account_of(payer)),
            genesis=Digest(bytes(32)),
            min_notice=1,
            rescue_after=1,
        )
        config = ShardConfig(code={"insecure-sim": bytes(32)})
        account = L1Account(payer, world.l1, CHAIN)
        made = await account.act(
            "enclave_bridge.create_shard", {"rules": rules, "config": config}
        )
        chain = proven(world)
        await chain.wait_for(made.height + 1)  # its state is proven by the next
        await chain.key_epoch(shard_id_of(CHAIN, account.account, 1))

    with pytest.raises(ShardUnbornError):
        play(story())


@pytest.mark.parametrize(
    ("valid_from", "expected"), [(7, 1), (12, 1), (13, 0), (10**6, 0)]
)
def test_after_a_rotation_calls_are_sealed_to_the_epoch_of_the_next_block(
    world: World, play: Any, valid_from: int, expected: int
) -> None:
    """Not to that of the birth, and to none that nobody accepts yet."""

    async def story() -> Any:
        chain = proven(world)
        _, born = await chain.schedule(world.shard)
        first = born.epochs[0]
        second = msgspec.structs.replace(
            first, epoch=Epoch(1), valid_from=Height(valid_from)
        )
        first = msgspec.structs.replace(first, valid_from=Height(2))
        rotated = msgspec.structs.replace(born, epochs=(first, second))

        async def at_ten(_: ShardId) -> Any:
            return Height(10), rotated

        chain.schedule = at_ten
        return await chain.key_epoch(world.shard)

    assert play(story()).epoch == expected


class ForgingNode(L1Client):
    """Shows another value under every key, with the honest proof."""

    async def abci_query(self, *args: Any, **options: Any) -> StateEntry:
        honest = await super().abci_query(*args, **options)
        value = b"forged" if honest.value is None else honest.value[:-1] + b"\xff"
        return StateEntry(
            key=honest.key, value=value, proof=honest.proof, height=honest.height
        )


class SilentNode(L1Client):
    """Says that nothing stands under any key."""

    async def abci_query(self, *args: Any, **options: Any) -> StateEntry:
        honest = await super().abci_query(*args, **options)
        return StateEntry(
            key=honest.key, value=None, proof=honest.proof, height=honest.height
        )


@pytest.mark.parametrize("kind", [ForgingNode, SilentNode])
def test_a_forged_or_hidden_value_does_not_pass(
    world: World, play: Any, kind: type[L1Client]
) -> None:
    async def story() -> None:
        async with kind(world.url, backoff=Backoff(jitter=system_jitter)) as node:
            await proven(world, nodes=[node]).read(frontier_key(world.shard))

    with pytest.raises(ProofInvalidError):
        play(story())


def test_another_chain_than_the_trust_root_names(world: World, play: Any) -> None:
    async def story() -> None:
        root = TrustRoot(chain_id=CHAIN, height=Height(1), header_hash=bytes(32))
        await proven(world, root=root).follow()

    with pytest.raises(TrustRootMismatchError):
        play(story())


def test_a_trust_root_that_is_too_old(world: World, play: Any) -> None:
    now = WallClock().now().seconds

    async def story(seconds: int) -> None:
        await proven(world, clock=Frozen(seconds)).follow()

    with pytest.raises(TrustExpiredError):
        play(story(now + 400 * 24 * 3600))
    with pytest.raises(HeaderFromFutureError):
        play(story(now - 3600))


def test_skipped_blocks_are_reached_by_their_parents(world: World, play: Any) -> None:
    async def story() -> Any:
        chain = proven(world)
        head = await chain.wait_for(12)
        hashes = [await chain.block_hash(Height(at)) for at in (3, 9, head.height)]
        honest = [
            (await world.l1.block(Height(at))).block_id.hash
            for at in (3, 9, head.height)
        ]
        return hashes, honest, await chain.block_hash(Height(3))

    hashes, honest, again = play(story())
    assert hashes == honest
    assert again == hashes[0]


def test_blocks_before_the_trust_root_are_not_known(world: World, play: Any) -> None:
    async def story() -> None:
        commit = await world.l1.commit(Height(5))
        root = TrustRoot(
            chain_id=CHAIN,
            height=Height(5),
            header_hash=header_hash(commit.signed_header.header),
        )
        chain = proven(world, root=root)
        assert (await chain.follow()).height >= 5
        await chain.block_hash(Height(2))

    with pytest.raises(HeaderNotKeptError):
        play(story())


class SwappingNode(L1Client):
    """Shows the header of another height."""

    async def commit(self, height: Height | None = None) -> Any:
        swapped = None if height is None else Height(max(2, height - 1))
        return await super().commit(swapped)


def test_headers_that_do_not_hang_together(world: World, play: Any) -> None:
    async def story() -> None:
        chain = proven(world)
        await chain.wait_for(12)
        async with SwappingNode(
            world.url, backoff=Backoff(jitter=system_jitter)
        ) as node:
            chain._nodes = [node]
            await chain.block_hash(Height(3))

    with pytest.raises(TrustRootMismatchError):
        play(story())


def test_a_dead_node_is_passed_over(world: World, play: Any) -> None:
    async def story(last: bool) -> Any:
        backoff = Backoff(jitter=system_jitter, attempts=1)
        async with L1Client("http://127.0.0.1:9", backoff=backoff) as dead:
            nodes = [dead] if last else [dead, world.l1]
            chain = proven(world, nodes=nodes)
            return (await chain.follow()).height, chain.node

    height, node = play(story(last=False))
    assert height > 1
    assert node is world.l1
    with pytest.raises(NodeUnreachableError):
        play(story(last=True))


def test_a_registered_enclave_is_trusted_and_others_are_not(
    world: World, play: Any
) -> None:
    async def story(key: bytes, shard: bytes) -> Any:
        return await proven(world).verify_enclave(ShardId(shard), AccountId(key))

    mine = account_of(world.enclave.secret)
    found = play(story(mine, world.shard))
    assert found.record.fingerprint == world.enclave.identity.mrenclave
    assert found.entry.generation == 0
    with pytest.raises(EnclaveNotTrustedError):
        play(story(account_of(sha256(b"nobody")), world.shard))
    with pytest.raises(EnclaveNotTrustedError):
        play(story(mine, bytes(32)))


def test_instances_are_found_in_blocks_and_proven(world: World, play: Any) -> None:
    async def story(blocks: int) -> Any:
        return await find_instances(proven(world), world.shard, blocks=blocks)

    found = play(story(10_000))
    assert [one.record.url for one in found.instances] == [world.enclave.url]
    assert found.instances[0].refusal == ""
    assert found.complete


def test_whoever_registered_long_ago_is_found_by_what_it_confirms(
    world: World, play: Any
) -> None:
    """A registration counts for 100,000 blocks; nobody looks back so far."""

    async def story() -> Any:
        record = await proven(world).enclave(account_of(world.enclave.secret))
        assert record is not None
        async with asyncio.timeout(60):
            while world.enclave.head <= record.attested_at:
                await asyncio.sleep(0.1)
            async with world.user(RICH) as user:
                call = {"dest": account_of(sha256(b"bob")), "amount": 1}
                await user.call("balances.transfer", call, confirmed=True)
        # Blocks come while it looks: it may look back so far, and no further.
        blocks = await world.l1.height() - record.attested_at
        spoke = await find_instances(proven(world), world.shard, blocks=blocks)
        assert spoke.since > record.attested_at
        return spoke

    spoke = play(story())
    assert [one.record.url for one in spoke.instances] == [world.enclave.url]
    assert not spoke.complete


def test_whatever_an_instance_signs_for_l1_names_it() -> None:
    """An upgrade's successor may have registered, and have rehearsed, and no more."""
    assert dict(_discovery._statements()) == {
        "enclave_bridge.confirm": "confirmation",
        "enclave_bridge.hold_keys": "statement",
        "enclave_bridge.post_certificate": "certificate",
        "enclave_bridge.post_effects": "statement",
        "enclave_bridge.post_rehearsal": "statement",
        "enclave_bridge.publish_key": "statement",
        "enclave_bridge.stage_keys": "statement",
        "teerex.register_sgx_enclave": "statement",
    }


def test_a_node_that_answers_garbage_is_refused_by_name(
    world: World, play: Any
) -> None:
    async def garbage(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode({"jsonrpc": "2.0", "id": 1}))

    async def story() -> None:
        app = make_app([web.post("/", garbage)])
        async with (
            serve(app) as where,
            L1Client(where.url, backoff=Backoff(jitter=system_jitter)) as node,
        ):
            await asyncio.wait_for(proven(world, nodes=[node]).follow(), 5)

    with pytest.raises(RpcFormatError):
        play(story())
