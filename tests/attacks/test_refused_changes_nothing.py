"""A refused request leaves the enclave as if it had not been asked."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from notebook import SECRET, runtime

from sealift.base import Message, encode
from sealift.protocol.ecall import (
    Ask,
    BornKeys,
    CloseSession,
    Confirm,
    DiffApply,
    FeedSession,
    Genesis,
    ImportBlock,
    OpenSession,
    ProveSession,
    Refused,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotGet,
    Start,
)
from sealift.testing import World, WorldWorker

Lie = Callable[[World, WorldWorker, WorldWorker], Message]


def digest(worker: WorldWorker) -> Any:
    """Everything that the enclave holds, in depth; values, not objects."""
    enclave: Any = worker._enclave
    shard = enclave._shard
    state, importing = shard.state, shard.importing
    return (
        encode((shard.keys, shard.view, shard.point, shard.relay.checkpoint())),
        encode(sorted(shard.confirmed.items())),
        [(b.height, b.block_hash, b.time, b.raw, b.opened) for b in shard.queue],
        encode([(b.schedule, b.resume) for b in shard.queue]),
        shard.lost,
        shard.genesis,
        shard.birth is None,
        None
        if state is None
        else (
            [bytes(page) for page in state.store.pages()],
            encode((state.height, state.root, state.root_height, state.time)),
            encode((state.trail, state.trusted, state.diverged)),
        ),
        None
        if importing is None
        else (
            importing.header,
            bytes(importing._missing),
            [bytes(page) for page in importing.store.pages()],
        ),
        None if shard.exporting is None else shard.exporting.header,
        sorted(enclave._handlers, key=lambda kind: kind.__name__),
    )


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


LIES: dict[str, Lie] = {}


def lie(make: Lie) -> Lie:
    LIES[make.__name__] = make
    return make


@lie
def a_diff_that_does_not_open(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    height = (me.status().state_height or 0) + 1
    return DiffApply(diff=flipped(old.disk.diffs[height]))


@lie
def a_diff_of_a_later_block(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    height = (me.status().state_height or 0) + 2
    return DiffApply(diff=old.disk.diffs[height])


@lie
def a_diff_under_another_header(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    """The bytes of the next block's changes, said to lead to another root."""
    height = (me.status().state_height or 0) + 1
    outer = msgspec.msgpack.decode(old.disk.diffs[height])
    later = msgspec.msgpack.decode(old.disk.diffs[height + 1])
    return DiffApply(diff=encode([outer[0], outer[1], later[2]]))


@lie
def a_snapshot_whose_header_was_altered(
    w: World, me: WorldWorker, old: WorldWorker
) -> Message:
    return SnapshotBegin(header=flipped(old.export_snapshot()[1]))


@lie
def a_snapshot_that_leads_back(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return SnapshotBegin(header=me.export_snapshot()[1])


@lie
def a_chunk_out_of_turn(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return SnapshotChunk(index=3, data=bytes(100))


@lie
def a_chunk_that_does_not_open(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return SnapshotChunk(index=0, data=flipped(old.export_snapshot()[2][0]))


@lie
def a_chunk_that_is_not_there(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return SnapshotGet(index=2**40)


@lie
def a_confirmation_of_what_was_not_executed(
    w: World, me: WorldWorker, old: WorldWorker
) -> Message:
    return Confirm(durable=2**62, after=1)


@lie
def a_confirmation_backwards(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return Confirm(durable=1, after=2)


@lie
def a_genesis_again(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return Genesis(blob=w.genesis)


@lie
def a_birth_again(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return BornKeys(blob=w.genesis)


@lie
def a_start_again(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return Start(shard=w.shard, key_store=None, checkpoint=None, light_block=None)


@lie
def a_read_that_is_none(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return Ask(envelope=b"noise")


@lie
def a_block_with_a_tx_more(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    honest = me.import_request(me.status().head)
    changed: ImportBlock = msgspec.structs.replace(honest, txs=(*honest.txs, b"tx"))
    return changed


@lie
def a_session_that_is_not_open(w: World, me: WorldWorker, old: WorldWorker) -> Message:
    return FeedSession(session=77, data=(b"noise",))


@lie
def proofs_for_a_session_that_is_not_open(
    w: World, me: WorldWorker, old: WorldWorker
) -> Message:
    return ProveSession(session=77, height=1, proofs=())


@lie
def the_end_of_a_session_that_is_not_open(
    w: World, me: WorldWorker, old: WorldWorker
) -> Message:
    return CloseSession(session=77)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A worker in business, and one that holds an older state and the keys.

    The second has an import under way and blocks that wait.
    """
    world = World(tmp_path_factory.mktemp("two"))
    release = world.release(runtime())
    old = world.begin(release)
    me = world.worker("me", release)
    me.request_keys(old)
    me.import_snapshot(old.export_snapshot())
    me.paused = True
    for number in range(4):
        world.user("alice").call("notebook.write", text=f"{SECRET} {number}")
        world.block()
    me.call(SnapshotBegin(header=old.export_snapshot()[1]), Message)
    return world, me, old


@pytest.mark.parametrize("name", sorted(LIES))
def test_a_refused_request_changes_nothing(two: Any, name: str) -> None:
    world, me, old = two
    request = LIES[name](world, me, old)
    before = digest(me)
    reply = me.ask_enclave(request)
    assert isinstance(reply, Refused), reply
    after = digest(me)
    if name == "a_block_with_a_tx_more":
        # The header itself was good: the relay may know it, the view may not.
        assert before[0] != after[0]
        assert before[1:] == after[1:]
        me.ask_enclave(me.import_request(me.status().head))
        return
    assert before == after


def test_an_opened_session_is_no_state(two: Any) -> None:
    _, me, _ = two
    before = digest(me)
    me.ask_enclave(OpenSession(role="provider"))
    assert digest(me) == before
