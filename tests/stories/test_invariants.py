"""The invariants of DESIGN §14, each by its number.

Invariant 7 is ``test_crash.py``; 3 and 11 have more attacks in
``test_attacks.py``, 1 in ``test_late_and_never.py`` and ``test_rollback.py``.
8 and 12 concern key rotation and secret votes.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lies import LIES
from story import History, Story

from sealift.base import decode, encode
from sealift.frame import Runtime
from sealift.protocol import EntryStatus, ScheduleRecord, config_at, record_key
from sealift.protocol.ecall import (
    DiffApply,
    Execute,
    Executed,
    Followed,
    GetStatus,
    Refused,
    Reply,
    SnapshotBegin,
    SnapshotChunk,
    SnapshotHeader,
    Start,
    StateReply,
)
from sealift.testing import RefusedError, World, WorldDisk, WorldWorker

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# --- 1: one generation per block ---


def _who_took_effect(story: Story) -> dict[int, int]:
    """By which generation each block was confirmed on L1."""
    effect: dict[int, int] = {}
    confirmed = story.world.frontier().confirmed
    for worker in story.world.workers.values():
        for said in worker.signed:
            claim = said.confirmation
            if claim is None or claim.last > confirmed:
                continue
            void = story.world.schedule_now().entry(claim.generation).status
            if void is EntryStatus.VOID:
                continue
            for height in range(claim.first, claim.last + 1):
                effect.setdefault(height, claim.generation)
                assert effect[height] == claim.generation, height
    return effect


def test_invariant_01_every_block_takes_effect_from_one_generation(
    story: Story,
) -> None:
    """Two upgrades, one of them never comes and is rescued."""
    first = story.schedule()
    story.join(first)
    story.business_until(first.upgrade_at + 2)
    story.old = story.world.workers["new"]
    never = story.schedule(story.world.release(story.v2, isv_svn=2))
    rescued = never.upgrade_at + story.world.schedule_now().rules.rescue_after
    story.business_until(rescued + 2)
    story.settle()
    story.check_calls()
    effect = _who_took_effect(story)
    schedule = story.world.schedule_now()
    for height, generation in effect.items():
        assert generation == config_at(schedule, height).generation
    assert set(effect.values()) == {0, 1, 3}
    assert min(h for h in effect if effect[h] == 3) == never.upgrade_at
    assert sorted(effect) == list(range(min(effect), max(effect) + 1))


def test_invariant_01_the_record_says_who_runs_each_block(history: History) -> None:
    world = history.world
    schedule = world.schedule_now()
    for height in range(6, world.height + 1):
        record = world.chain.read(
            ScheduleRecord, record_key(world.shard), height=height
        )
        assert record is not None
        assert record.height == height
        assert record.generation == config_at(schedule, height).generation


# --- 2 and 4: the host lies about blocks ---


def _ops() -> st.SearchStrategy[list[str]]:
    lies = st.sampled_from(sorted(LIES))
    honest = st.sampled_from(["import", "import", "import", "execute"])
    return st.lists(st.one_of(honest, lies), max_size=50)


def _live_through(
    history: History, worker: WorldWorker, disk: WorldDisk, ops: list[str]
) -> WorldWorker:
    """A host that lies as it is told; the enclave never comes to a wrong root."""
    world = history.world
    ghost = world.clone(worker, disk)
    for op in ops:
        head = ghost.status().head
        if op == "execute":
            ghost.step(upto=0)  # executes and fetches what is there, imports nothing
            continue
        if head >= world.height:
            break
        honest = ghost.import_request(head)
        told = honest if op == "import" else LIES[op](world, ghost, head, honest)
        before = ghost.status()
        reply = ghost.ask_enclave(told)
        if told == honest:
            assert isinstance(reply, Followed), reply
            ghost.disk.checkpoint = reply.checkpoint
        else:
            assert isinstance(reply, Refused), (op, reply)
            assert ghost.status() == before, "a refused block changed something"
    return ghost


def _ends_well(history: History, ghost: WorldWorker) -> None:
    for height, root in ghost.roots.items():
        assert root == history.roots[height]
    ghost.step()
    assert ghost.executions == sorted(set(ghost.executions)), "doubled or reordered"
    for height, root in ghost.roots.items():
        assert root == history.roots[height]


@BOUNDED
@given(ops=_ops())
def test_invariant_02_no_call_is_skipped_doubled_or_reordered_by_a_lying_host(
    history: History, ops: list[str]
) -> None:
    ghost = _live_through(history, history.new, history.new_before, ops)
    _ends_well(history, ghost)
    assert ghost.executions == list(range(history.xyz, history.last + 1))
    assert ghost.status().root == history.roots[history.last]
    for envelope, receipt in ghost.disk.receipts.items():
        assert history.new.disk.receipts[envelope] == receipt


@BOUNDED
@given(ops=_ops())
def test_invariant_04_no_host_input_makes_the_old_enclave_skip_a_check(
    history: History, ops: list[str]
) -> None:
    ghost = _live_through(history, history.old, history.old_before, ops)
    _ends_well(history, ghost)
    assert all(height < history.xyz for height in ghost.executions)
    assert ghost.status().state_height == history.xyz - 1


@pytest.mark.parametrize("name", sorted(LIES))
@pytest.mark.parametrize("before_xyz", [2, 1, 0, -1])
def test_invariant_04_each_lie_about_each_block_around_xyz_is_refused(
    history: History, name: str, before_xyz: int
) -> None:
    height = history.xyz - before_xyz
    ghost = history.world.clone(history.new, history.new_before)
    ghost.step(upto=height)
    assert ghost.status().head == height
    honest = ghost.import_request(height)
    told = LIES[name](history.world, ghost, height, honest)
    assert told != honest
    reply = ghost.ask_enclave(told)
    assert isinstance(reply, Refused), reply
    assert reply.code not in {"InvariantError", "SealiftError"}
    assert isinstance(ghost.ask_enclave(honest), Followed), "it goes on"


# --- 3: keys ---


def test_invariant_03_whoever_holds_keys_was_named_attested_and_waited_for(
    history: History,
) -> None:
    """The attacks are in ``test_attacks.py``; this is their converse."""
    world = history.world
    schedule = world.schedule_now()
    for worker in world.workers.values():
        if not worker.status().epochs:
            continue
        named = [
            entry
            for entry in schedule.entries
            if entry.config.code == {"insecure-sim": worker.release.fingerprint}
        ]
        assert named, worker.name
        assert worker.executions[0] >= named[0].release_from


def test_invariant_03_no_secret_stands_in_what_the_hosts_see(history: History) -> None:
    world = history.world
    keys = history.old._enclave._shard.keys.epochs[0]  # type: ignore[union-attr]
    secrets = [keys.shielding_secret, keys.state_key, keys.root_key]
    seen = [encode(history.old.import_request(h).txs) for h in range(2, world.height)]
    for worker in world.workers.values():
        disk = worker.disk
        seen += [disk.key_store or b"", disk.checkpoint or b"", *disk.diffs.values()]
        if disk.snapshot is not None:
            seen += [disk.snapshot[1], *disk.snapshot[2]]
    amounts = [encode(history.story.alice.account)]
    for data in seen:
        assert not any(secret in data for secret in secrets)
    for diff in history.old.disk.diffs.values():
        assert not any(one in diff for one in amounts)


# --- 5: state at rest and in transit ---


def _flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place % len(changed)] ^= 1
    return bytes(changed)


def _newcomer(history: History) -> WorldWorker:
    """An enclave with the keys, without state, that has followed the chain."""
    disk = history.with_keys.copy()
    ghost = history.world.clone(history.new, disk)
    ghost.upstream = None
    ghost.step()
    return ghost


def _import_name(ghost: WorldWorker, snapshot: Any) -> str:
    with pytest.raises(RefusedError) as refused:
        ghost.import_snapshot(snapshot)
    return refused.value.name


@pytest.mark.parametrize("place", [0, 5, 40, -1, -20])
def test_invariant_05_an_altered_snapshot_is_refused(
    history: History, place: int
) -> None:
    height, header, chunks = history.old.export_snapshot()
    ghost = _newcomer(history)
    names = {
        _import_name(ghost, (height, _flipped(header, place), chunks)),
        _import_name(
            ghost, (height, header, (_flipped(chunks[0], place), *chunks[1:]))
        ),
    }
    assert names <= {
        "SnapshotForgedError",
        "ForeignSnapshotError",
        "DecodeError",
        "NonCanonicalError",
    }
    assert ghost.status().state_height is None
    ghost.import_snapshot((height, header, chunks))  # the honest one is taken
    assert ghost.status().state_height == height


def test_invariant_05_a_cut_snapshot_is_no_state(history: History) -> None:
    height, header, chunks = history.old.export_snapshot()
    ghost = _newcomer(history)
    assert (
        _import_name(ghost, (height, header, (chunks[0][:-1], *chunks[1:])))
        == "SnapshotForgedError"
    )
    ghost.call(SnapshotBegin(header=header), SnapshotHeader)
    assert ghost.status().state_height is None


def test_invariant_05_an_older_snapshot_does_not_lead_back(history: History) -> None:
    assert history.new_before.snapshot is not None
    ghost = history.world.clone(history.new, history.new.disk)
    assert _import_name(ghost, history.new_before.snapshot) == "OldSnapshotError"
    assert ghost.status().root == history.roots[history.last]


def test_invariant_05_a_snapshot_of_another_shard(
    history: History, new_story: Callable[..., Story]
) -> None:
    """Another world: another chain of the same name, another shard, other keys."""
    foreign = new_story(seed=b"elsewhere").old.export_snapshot()
    ghost = _newcomer(history)
    assert _import_name(ghost, foreign) in {
        "ForeignSnapshotError",
        "SnapshotForgedError",
    }


def test_invariant_05_a_state_that_nobody_confirmed_is_not_built_on(
    story: Story,
) -> None:
    """Of the right keys and shard, but above the frontier: it has to wait."""
    story.business(2)
    story.old.mute = True
    story.business(2)
    second = story.world.worker("second", story.a, upstream=story.old)
    second.request_keys(story.old)
    story.business(3)
    assert second.status().state_height is not None
    assert second.status().state_height > story.world.frontier().confirmed
    assert second.executions == []
    assert second.idle == "behind"
    story.old.mute = False
    story.old.restart()
    story.business(3)
    story.settle()
    assert second.executions
    story.check_roots_agree()
    story.check_calls()


def test_a_state_from_before_the_frontier_is_brought_forward_from_the_trust_root(
    history: History,
) -> None:
    """Its blocks wait no more; without a checkpoint the enclave meets them again."""
    ghost = _newcomer(history)
    old = history.world.clone(history.old, history.old_before)
    old.step()
    ghost.import_snapshot(old.export_snapshot())
    ghost.step()
    assert ghost.idle == "behind"
    ghost.disk.checkpoint = None
    ghost.restart()
    assert ghost.executions == list(range(history.xyz, history.last + 1))
    assert ghost.status().root == history.roots[history.last]


def test_invariant_05_diffs_out_of_order_or_altered(history: History) -> None:
    diffs = history.new.disk.diffs
    ghost = history.world.clone(history.new, history.new_before)
    at = ghost.status().state_height
    assert at is not None

    def offer(diff: bytes) -> str:
        with pytest.raises(RefusedError) as refused:
            ghost.call(DiffApply(diff=diff), StateReply)
        assert ghost.status().state_height == at
        return refused.value.name

    assert offer(diffs[at + 2]) == "DiffOrderError"
    assert offer(history.old.disk.diffs[at]) == "DiffOrderError"
    good = diffs[at + 1]
    for place in (3, 20, 60, len(good) // 2, -1, -10):
        assert offer(_flipped(good, place)) in {
            "DiffForgedError",
            "DiffOrderError",
            "DecodeError",
            "NonCanonicalError",
            "ForeignSnapshotError",
            "NoKeysError",
        }
    assert offer(good[:-1]) in {"DiffForgedError", "DecodeError"}
    ghost.call(DiffApply(diff=good), StateReply)
    assert ghost.status().root == history.roots[at + 1]


# --- 6: what cannot be read is kept ---


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("key_store", {"KeyStoreUnreadableError"}),
        ("checkpoint", {"CheckpointForgedError", "DecodeError", "NonCanonicalError"}),
        ("snapshot", {"SnapshotForgedError", "DecodeError", "NonCanonicalError"}),
        ("diffs", {"DiffForgedError", "DecodeError", "NonCanonicalError"}),
    ],
)
@pytest.mark.parametrize("place", [0, 30, -1])
def test_invariant_06_what_cannot_be_read_is_refused_and_kept(
    history: History, part: str, names: set[str], place: int
) -> None:
    good = history.new.disk
    bad = good.copy()
    if part == "snapshot":
        assert bad.snapshot is not None
        height, header, chunks = bad.snapshot
        bad.snapshot = (height, header, (_flipped(chunks[0], place), *chunks[1:]))
    elif part == "diffs":
        first = min(bad.diffs)
        bad.diffs[first] = _flipped(bad.diffs[first], place)
    else:
        setattr(bad, part, _flipped(getattr(bad, part), place))
    kept = copy.deepcopy(bad)
    worker = WorldWorker(
        history.world,
        "reader",
        history.story.b,
        shard=history.world.shard,
        machine=history.new.machine,
        operator="operator",
    )
    worker.disk = bad
    with pytest.raises(RefusedError) as refused:
        worker.start()
    assert refused.value.name in names | {"DiffOrderError", "ForeignSnapshotError"}
    bad.key_store = kept.key_store  # sealed anew at each start: the only thing written
    assert bad == kept, "nothing was overwritten, purged or initialised empty"
    worker.disk = good.copy()
    worker.start()
    worker.step()
    assert worker.status().root == history.roots[history.last]


def test_invariant_06_a_key_store_of_another_machine_code_or_shard(
    history: History, new_story: Callable[..., Story]
) -> None:
    world, story = history.world, history.story
    sealed = history.new.disk.key_store
    cases = [
        (story.a, history.new.machine, world.shard),
        (story.b, history.old.machine, world.shard),
        (story.b, history.new.machine, bytes(32)),
    ]
    for release, machine, shard in cases:
        thief = WorldWorker(
            world, "thief", release, shard=shard, machine=machine, operator="operator"
        )
        thief.disk.key_store = sealed
        with pytest.raises(RefusedError) as refused:
            thief.start()
        assert refused.value.name == "KeyStoreUnreadableError"
        assert thief.disk.key_store == sealed


# --- 9: builds ---


def test_invariant_09_two_builds_of_the_same_source_have_the_same_mrenclave(
    history: History, v2: Runtime
) -> None:
    """Whole bundles with wheels: ``tests/bundle/test_build.py``."""
    world = history.world
    again = world.release(v2)
    assert again.fingerprint == history.story.b.fingerprint
    assert again.bundle.bundle.files == history.story.b.bundle.bundle.files
    world.releases.remove(again)


# --- 10: the door is total ---


@BOUNDED
@given(data=st.binary(max_size=300))
def test_invariant_10_any_bytes_at_the_door_get_a_reply(
    history: History, data: bytes
) -> None:
    enclave = history.old._enclave
    assert enclave is not None
    reply = decode(Reply, enclave.handle(data))  # type: ignore[arg-type]
    assert isinstance(reply, Refused)


@BOUNDED
@given(
    number=st.integers(0, 6),
    place=st.integers(0, 100_000),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_invariant_10_any_altered_request_gets_a_reply(
    history: History, number: int, place: int, byte: int, cut: bool
) -> None:
    ghost = history.world.clone(history.new, history.new_before)
    height = ghost.status().head
    assert history.new_before.snapshot is not None
    requests = [
        ghost.import_request(height),
        DiffApply(diff=history.new.disk.diffs[height]),
        SnapshotBegin(header=history.new_before.snapshot[1]),
        SnapshotChunk(index=0, data=history.new_before.snapshot[2][0]),
        GetStatus(),
        Execute(),
        Start(
            shard=history.world.shard,
            key_store=history.new.disk.key_store,
            checkpoint=history.new.disk.checkpoint,
            light_block=None,
        ),
    ]
    raw = bytearray(encode(requests[number]))
    raw[place % len(raw)] = byte
    if cut:
        raw = raw[: place % len(raw)]
    enclave = ghost._enclave
    assert enclave is not None
    reply = decode(Reply, enclave.handle(bytes(raw)))  # type: ignore[arg-type]
    assert not isinstance(reply, Executed) or reply.height in history.roots
    assert isinstance(ghost.ask_enclave(GetStatus()), type(ghost.status()))


# --- 11: decisions don't replay ---


def test_invariant_11_every_order_ever_accepted_is_refused_again(story: Story) -> None:
    """After each act, all orders so far are tried again; more in test_attacks."""
    world: World = story.world
    accepted = []

    def decide(order: Any) -> None:
        world.submit(order)
        accepted.append(order)
        before = world.schedule_now().serial
        for old in accepted:
            with pytest.raises(RefusedError) as refused:
                world.submit(old)
            assert refused.value.name == "OrderSerialError"
        assert world.schedule_now().serial == before

    decide(world.upgrade_order(story.b, delay=4))
    decide(world.sign_order(world.cancel_order(1)))
    decide(world.upgrade_order(world.release(story.v2, isv_svn=2), delay=4))
    decide(world.sign_order(world.cancel_order(2)))
    assert [entry.status for entry in world.schedule_now().entries[1:]] == [
        EntryStatus.CANCELLED,
        EntryStatus.CANCELLED,
    ]
