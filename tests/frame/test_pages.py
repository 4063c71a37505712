"""Pages and their snapshots: foreign, cut and altered chunks are refused."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import (
    DecodeError,
    InvariantError,
    SealiftError,
    TooLargeError,
    decode,
    encode,
)
from sealift.frame import (
    PageStore,
    RuntimeDefinitionError,
    SimpleTreeStore,
    SnapshotHead,
    SnapshotPages,
    SnapshotRefusedError,
    SnapshotVerifier,
    _pages,
    encode_diff,
    parse_diff,
    root_of_pages,
    snapshot_head,
    snapshot_pages,
    snapshot_starts,
)

KEY = b"page key of shard"


def filled(count: int = 500, *, bits: int = 6, key: bytes = KEY) -> PageStore:
    store = PageStore(bits=bits, key=key)
    store.apply({b"a/b/%d" % n: b"v%d" % n * 3 for n in range(count)})
    return store


def test_root_is_a_function_of_the_entries_and_not_of_their_history() -> None:
    entries = {b"k%d" % n: b"v%d" % n for n in range(200)}
    rng = random.Random(1)
    for make in (lambda: PageStore(bits=5, key=KEY), SimpleTreeStore):
        straight = make()
        straight.apply(entries)
        winding = make()
        keys = list(entries)
        rng.shuffle(keys)
        winding.apply(dict.fromkeys(keys, b"old"))
        winding.apply({b"gone%d" % n: b"x" for n in range(50)})
        winding.root()
        for key in keys:
            winding.apply({key: entries[key]})
        winding.apply({b"gone%d" % n: None for n in range(60)})
        assert winding.root() == straight.root()
        winding.apply(dict.fromkeys(keys))
        assert winding.root() == make().root()


@pytest.mark.parametrize("together", [1, 7, 10_000])
def test_changes_may_touch_more_pages_than_are_written_at_a_time(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(_pages, "_PAGES_AT_A_TIME", together)
    entries = {b"k%d" % n: b"v%d" % n for n in range(500)}
    store = PageStore(bits=8, key=KEY)
    store.apply(entries)
    assert dict(store.items(b"")) == entries
    store.apply(dict.fromkeys(list(entries)[::2]))
    left = dict(list(entries.items())[1::2])
    again = PageStore(bits=8, key=KEY)
    again.apply(left)
    assert dict(store.items(b"")) == left
    assert store.root() == again.root()


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 9])
def test_every_entry_counts_in_the_root(bits: int) -> None:
    store = filled(40, bits=bits)
    roots = {store.root()}
    for number in range(40):
        store.apply({b"a/b/%d" % number: b"changed"})
        roots.add(store.root())
    assert len(roots) == 41


def test_pages_cannot_be_aimed_at_without_the_key() -> None:
    one, two = filled(0), filled(0, key=b"another page key")
    keys = [b"k%d" % n for n in range(64)]
    assert [one.page_of(k) for k in keys] != [two.page_of(k) for k in keys]
    assert len({one.page_of(k) for k in keys}) > 20


def test_a_page_is_a_canonical_map_in_key_order() -> None:
    for page in filled(300, bits=3).pages():
        keys = list(msgspec.msgpack.decode(page, type=dict[bytes, bytes]))
        assert keys == sorted(keys)


def test_bad_bits_and_keys_are_refused() -> None:
    for bits in (0, 25, -1):
        with pytest.raises(RuntimeDefinitionError):
            PageStore(bits=bits, key=KEY)
    for key in (b"", b"short", b"x" * 65):
        with pytest.raises(RuntimeDefinitionError):
            PageStore(bits=8, key=key)


def test_a_copy_stays_as_it_was() -> None:
    for store in (filled(), SimpleTreeStore()):
        store.apply({b"x": b"1", b"y": b"1"})
        root = store.root()
        copy = store.copy()
        store.apply({b"x": b"2", b"y": None, b"z": b"3"})
        assert copy.root() == root
        assert (copy.get(b"x"), copy.get(b"y"), copy.get(b"z")) == (b"1", b"1", None)
        copy.apply({b"x": b"4"})
        assert store.get(b"x") == b"2"


def chunks_of(store: PageStore, size: int) -> list[SnapshotPages]:
    edges = [*snapshot_starts(store, size=size), 1 << store.bits]
    return [
        snapshot_pages(store, first, end) for first, end in itertools.pairwise(edges)
    ]


def verifier(store: PageStore, **changes: Any) -> SnapshotVerifier:
    arguments = {"head": snapshot_head(store), "bits": store.bits} | changes
    head = arguments.pop("head")
    return SnapshotVerifier(head, **arguments)


@pytest.mark.parametrize("bits", [1, 4, 7])
@pytest.mark.parametrize("size", [1, 200, 3000, 10**6])
def test_chunks_lead_to_the_same_state_in_any_order(bits: int, size: int) -> None:
    store = filled(bits=bits)
    chunks = chunks_of(store, size)
    assert size > 1 or len(chunks) == 1 << bits
    random.Random(size).shuffle(chunks)
    target = verifier(store)
    assert target.root == store.root() == root_of_pages(store.digests())
    copy = PageStore(bits=bits, key=KEY)
    for chunk in chunks + chunks[:2]:
        got = decode(SnapshotPages, encode(chunk))
        copy.put_pages(got.first, got.pages, target.verify(got))
    assert copy.root() == store.root()
    assert copy.items(b"") == store.items(b"")
    assert store.size == sum(map(len, store.pages())) == copy.size
    copy.apply({b"new": b"entry", b"a/b/1": None})
    assert store.copy().size == store.size != copy.size == sum(map(len, copy.pages()))
    store.apply({b"new": b"entry", b"a/b/1": None})
    assert copy.root() == store.root()


@pytest.mark.parametrize("first", [-1, 63, 64])
def test_pages_that_a_store_has_not_are_not_put(first: int) -> None:
    store = PageStore(bits=6, key=KEY)
    with pytest.raises(InvariantError):
        store.put_pages(first, [b"\x80"] * 2, [bytes(32)] * 2)
    with pytest.raises(InvariantError):
        store.put_pages(0, [b"\x80"] * 2, [bytes(32)])


def test_an_altered_chunk_is_refused() -> None:
    store = filled()
    chunk = snapshot_pages(store, 3, 11)
    assert len(chunk.before) == 3 * 32
    bad_pages = [
        (b"\x80", *chunk.pages[1:]),
        chunk.pages[:-1],
        (*chunk.pages, chunk.pages[-1]),
        chunk.pages[::-1],
        (),
    ]
    bad = [msgspec.structs.replace(chunk, pages=pages) for pages in bad_pages]
    bad += [
        msgspec.structs.replace(chunk, first=first)
        for first in (-1, 0, 2, 4, 11, 63, 64, 2**62)
    ]
    bad += [
        msgspec.structs.replace(chunk, before=chunk.before[:-1]),
        msgspec.structs.replace(chunk, before=chunk.before[:-32]),
        msgspec.structs.replace(chunk, before=bytes(len(chunk.before))),
        msgspec.structs.replace(chunk, after=chunk.after + bytes(32)),
        msgspec.structs.replace(chunk, before=b"", after=chunk.before + chunk.after),
    ]
    last = snapshot_pages(store, 60, 61)
    bad += [
        msgspec.structs.replace(last, after=last.after + bytes(32 * 8)),
        msgspec.structs.replace(last, after=last.after[:-32]),
    ]
    target = verifier(store)
    for one in bad:
        with pytest.raises(SnapshotRefusedError):
            target.verify(one)
    target.verify(chunk)
    for first, end in ((64, 65), (-1, 1), (3, 3), (60, 65)):
        with pytest.raises(SnapshotRefusedError):
            snapshot_pages(store, first, end)


def test_a_head_of_another_state_or_shard_is_refused() -> None:
    store, other = filled(), filled(501)
    head = snapshot_head(store)
    assert verifier(other).root != store.root()
    for changes in (
        {"bits": 7},
        {"head": SnapshotHead(bits=6, groups=head.groups[:-1])},
        {"head": SnapshotHead(bits=6, groups=head.groups[:-32])},
        {"head": SnapshotHead(bits=6, groups=head.groups + bytes(32))},
        {"head": SnapshotHead(bits=7, groups=head.groups)},
        {"bits": 0, "head": SnapshotHead(bits=0, groups=bytes(32))},
    ):
        with pytest.raises(SnapshotRefusedError):
            verifier(store, **changes)
    chunk = chunks_of(other, 10**6)[0]
    with pytest.raises(SnapshotRefusedError):
        verifier(store).verify(chunk)


@given(
    st.dictionaries(
        st.binary(max_size=8), st.none() | st.binary(max_size=8), max_size=8
    )
)
@settings(max_examples=60)
def test_diffs_have_one_encoding(changes: Any) -> None:
    raw = encode_diff(changes)
    assert parse_diff(raw, limit=10**6) == changes
    shuffled = dict(reversed(changes.items()))
    assert encode_diff(shuffled) == raw


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_a_diff_or_an_error(raw: bytes) -> None:
    try:
        changes = parse_diff(raw, limit=1000)
    except SealiftError:
        return
    assert encode_diff(changes) == raw


def test_a_diff_out_of_order_or_too_large_is_refused() -> None:
    for pairs in ([(b"b", b"1"), (b"a", b"1")], [(b"a", b"1"), (b"a", b"2")]):
        with pytest.raises(DecodeError):
            parse_diff(encode(pairs), limit=1000)
    with pytest.raises(TooLargeError):
        parse_diff(encode_diff({b"k": bytes(100)}), limit=99)


PROBE = """
import importlib.util, random, sys
spec = importlib.util.spec_from_file_location("frame_bank", sys.argv[1])
bank = importlib.util.module_from_spec(spec)
sys.modules["frame_bank"] = bank
spec.loader.exec_module(bank)
from sealift.base import encode
from sealift.crypto import sha256
from sealift.frame import *

history = int(sys.argv[2])
rng = random.Random(7)
accounts = [bytes([n]) * 32 for n in range(1, 40)]
runtime = bank.runtime()
lines = []
for store in (SimpleTreeStore(), PageStore(bits=5, key=bank.PAGE_KEY)):
    runtime.apply_genesis(store, bank.block(0), {"bank": {"deposits": [
        {"account": a, "amount": 1000} for a in accounts]}})
    detour = list(range(history * 13))
    random.Random(history).shuffle(detour)
    store.apply({b"zz/detour/%d" % n: b"x" for n in detour})
    store.apply({b"zz/detour/%d" % n: None for n in reversed(detour)})
    for height in range(1, 5):
        overlay = Overlay.over(store)
        meter = WeightMeter(5000)
        outcomes = [runtime.initialize_block(overlay, bank.block(height))]
        for _ in range(60):
            call = rng.choice([
                lambda: runtime.encode_call("bank.transfer",
                    dest=rng.choice(accounts), amount=rng.randrange(400)),
                lambda: runtime.encode_call("bank.close"),
                lambda: runtime.encode_call("trouble.fail", how="key"),
                lambda: runtime.encode_call("trouble.work", steps=rng.randrange(9)),
            ])()
            origin = Signed(account=rng.choice(accounts))
            outcomes.append(runtime.dispatch(
                overlay, bank.block(height), origin, call, meter=meter))
        outcomes.append(runtime.finalize_block(overlay, bank.block(height)))
        store.apply(overlay.changes)
        lines.append(store.root().hex())
        lines.append(sha256(encode(outcomes)).hex())
        lines.append(sha256(encode_diff(overlay.changes)).hex())
lines.append(runtime.metadata().digest().hex())
print("\\n".join(lines))
"""


def test_fresh_processes_with_other_hash_seeds_and_histories_agree() -> None:
    bank = Path(__file__).parent / "bank.py"
    seen = []
    for seed, history in itertools.product(("0", "4242", "random"), (0, 9)):
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(bank), str(history)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(done.stdout)
    assert len(seen[0].split()) == 2 * 4 * 3 + 1
    assert len(set(seen)) == 1
