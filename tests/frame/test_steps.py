"""Migrations that take many blocks: bounded, resumable, right in between."""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import Message
from sealift.frame import (
    STEPS,
    Context,
    MigratingMap,
    MigrationUnfinishedError,
    Overlay,
    PageStore,
    Pallet,
    Runtime,
    SimpleTreeStore,
    StateStore,
    StorageMap,
    StorageMissingError,
    StorageValueError,
    WeightMeter,
)

KEY = b"k" * 16


class NoteV1(Message, kw_only=True):
    text: str


class NoteV2(Message, kw_only=True):
    text: str
    words: int


def counted(key: int, old: NoteV1) -> NoteV2:
    return NoteV2(text=old.text, words=len(old.text.split()) + key)


class Notes1(Pallet):
    name = "notes"
    notes = StorageMap("notes", key=int, value=NoteV1)

    def genesis(self, ctx: Context) -> None:
        for number in range(200):
            self.notes.put(ctx, number, NoteV1(text="w " * (number % 7)))


class Notes2(Pallet):
    name = "notes"
    storage_version = 2
    fault = ""
    counted = MigratingMap(
        "counted", key=int, value=NoteV2, before="notes", old=NoteV1, change=counted
    )

    def migrate_step(
        self, ctx: Context, from_version: int, cursor: bytes | None
    ) -> bytes | None:
        if self.fault == "raise":
            self.counted.step(ctx, cursor, records=20)
            raise ValueError
        while self.fault == "loop":
            self.counted.find(ctx, 1)
        if self.fault == "cursor":
            return 7  # type: ignore[return-value]
        return self.counted.step(ctx, cursor, records=20)


class Notes3(Pallet):
    name = "notes"
    storage_version = 3
    counted = StorageMap("counted", key=int, value=NoteV2)


class Notes3Stepping(Notes2):
    name = "notes"
    storage_version = 3


class Other(Pallet):
    name = "other"


def runtime(version: int, *pallets: Pallet) -> Runtime:
    return Runtime(name="app", version=version, pallets=pallets)


def begun(bank: ModuleType, store: StateStore, pallet: Notes2 | None = None) -> Runtime:
    """A state in the middle of its passage to version 2."""
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    code = runtime(2, pallet or Notes2())
    overlay = Overlay.over(store)
    code.migrate(overlay, bank.block(5))
    store.apply(overlay.changes)
    return code


def block(code: Runtime, store: StateStore, height: Any, limit: int = 10_000) -> Any:
    overlay = Overlay.over(store)
    outcome = code.run_steps(overlay, height, WeightMeter(limit), access_weight=1)
    store.apply(overlay.changes)
    return outcome, len(overlay.changes)


def pages(bits: int = 6) -> PageStore:
    return PageStore(bits=bits, key=KEY)


def reads(code: Runtime, store: StateStore, bank: ModuleType) -> list[NoteV2]:
    ctx = code.context(Overlay.over(store), bank.block())
    return [Notes2.counted.get(ctx, number) for number in range(200)]


def test_every_block_does_a_part_and_reads_are_right_in_between(
    bank: ModuleType,
) -> None:
    store = pages()
    code = begun(bank, store)
    expected = [counted(n, NoteV1(text="w " * (n % 7))) for n in range(200)]
    blocks = 0
    while STEPS.get(code.context(Overlay.over(store), bank.block())):
        old = len(list(store.items(b"notes/notes/")))
        assert reads(code, store, bank) == expected
        outcome, size = block(code, store, bank.block(6 + blocks))
        assert outcome.failures == ()
        assert 0 < size < 120
        assert len(list(store.items(b"notes/notes/"))) <= old
        blocks += 1
    assert blocks > 5
    assert reads(code, store, bank) == expected
    assert not list(store.items(b"notes/notes/"))
    assert not list(store.items(b"frame/steps/"))
    assert block(code, store, bank.block(99)) == (outcome, 0)


def test_a_store_without_pages_moves_everything_in_one_step(bank: ModuleType) -> None:
    store = SimpleTreeStore()
    code = begun(bank, store)
    block(code, store, bank.block(6))
    assert not list(store.items(b"notes/notes/"))
    assert not list(store.items(b"frame/steps/"))


CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.integers(0, 230)), max_size=8
)


@settings(deadline=None, max_examples=40)
@given(blocks=st.lists(CHANGES, min_size=1, max_size=30))
def test_calls_in_between_see_and_write_what_an_upgrade_at_once_had_given(
    bank: ModuleType, blocks: list[list[tuple[str, int]]]
) -> None:
    store = pages()
    code = begun(bank, store)
    model = {n: counted(n, NoteV1(text="w " * (n % 7))) for n in range(200)}
    for height, changes in enumerate(blocks, 6):
        overlay = Overlay.over(store)
        code.run_steps(overlay, bank.block(height))
        ctx = code.context(overlay, bank.block(height))
        for act, number in changes:
            assert Notes2.counted.find(ctx, number) == model.get(number)
            assert Notes2.counted.contains(ctx, number) == (number in model)
            if act == "put":
                model[number] = NoteV2(text="new", words=height)
                Notes2.counted.put(ctx, number, model[number])
            else:
                model.pop(number, None)
                Notes2.counted.delete(ctx, number)
        store.apply(overlay.changes)
        ctx = code.context(Overlay.over(store), bank.block(height))
        assert Notes2.counted.items(ctx) == sorted(model.items())


def test_the_path_to_the_end_is_the_same_in_every_process(bank: ModuleType) -> None:
    """One that restarts after every block, from pages that came as a snapshot."""
    one, other = pages(), pages()
    code = begun(bank, one)
    begun(bank, other)
    for height in range(6, 25):
        block(code, one, bank.block(height))
        again = pages()
        again.put_pages(0, other.pages(), other.digests())
        other = again
        block(runtime(2, Notes2()), other, bank.block(height))
        assert one.root() == other.root()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("raise", "CallPanickedError"),
        ("loop", "WeightExceededError"),
        ("cursor", "StorageValueError"),
    ],
)
def test_a_step_that_fails_is_rolled_back_alone_and_tried_again(
    bank: ModuleType, fault: str, code: str
) -> None:
    pallet, store = Notes2(), pages()
    made = begun(bank, store, pallet)
    root = store.root()
    pallet.fault = fault
    for height in (6, 7):
        outcome, _ = block(made, store, bank.block(height), limit=1000)
        assert [(name, one.code) for name, one in outcome.failures] == [("notes", code)]
        assert store.root() == root
    pallet.fault = ""
    assert block(made, store, bank.block(8))[1] > 0


def test_memory_pressure_in_a_step_is_no_failure(bank: ModuleType) -> None:
    class Hungry(Notes2):
        name = "notes"

        def migrate_step(
            self, ctx: Context, from_version: int, cursor: bytes | None
        ) -> bytes | None:
            raise MemoryError

    store = pages()
    code = begun(bank, store, Hungry())
    with pytest.raises(MemoryError):
        block(code, store, bank.block(6))


@pytest.mark.parametrize("heir", [Notes3(), Notes3Stepping(), Other()])
def test_no_code_takes_over_in_the_middle_that_would_not_go_on(
    bank: ModuleType, heir: Pallet
) -> None:
    store = pages()
    code = begun(bank, store)
    block(code, store, bank.block(6))
    with pytest.raises(MigrationUnfinishedError) as caught:
        runtime(3, heir).migrate(Overlay.over(store), bank.block(7))
    assert caught.value.check == "notes.migrate_step"
    while STEPS.get(code.context(Overlay.over(store), bank.block())):
        block(code, store, bank.block(8))
    runtime(3, heir).migrate(Overlay.over(store), bank.block(9))


def test_the_next_version_goes_on_with_the_steps(bank: ModuleType) -> None:
    store = pages()
    code = begun(bank, store)
    block(code, store, bank.block(6))
    next_code = runtime(3, Notes2(), Other())
    overlay = Overlay.over(store)
    next_code.migrate(overlay, bank.block(7))
    store.apply(overlay.changes)
    for height in range(7, 30):
        block(next_code, store, bank.block(height))
    assert not list(store.items(b"notes/notes/"))


def test_a_new_pallet_has_nothing_to_step_over(bank: ModuleType) -> None:
    store = pages()
    runtime(1, Other()).apply_genesis(store, bank.block(0), {})
    code = runtime(2, Other(), Notes2())
    overlay = Overlay.over(store)
    code.migrate(overlay, bank.block(5))
    store.apply(overlay.changes)
    assert not list(store.items(b"frame/steps/"))


def test_a_moving_map_is_a_map_of_another_name(bank: ModuleType) -> None:
    with pytest.raises(StorageValueError):
        MigratingMap(
            "notes", key=int, value=NoteV2, before="notes", old=NoteV1, change=counted
        )
    store = pages()
    code = begun(bank, store)
    ctx = code.context(Overlay.over(store), bank.block())
    twin = Notes2.counted.of("notes")
    assert twin.get(ctx, 5) == Notes2.counted.get(ctx, 5)
    with pytest.raises(StorageMissingError):
        twin.get(ctx, 1000)
