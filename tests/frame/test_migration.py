"""Upgrades that must not happen do not, and leave the state as it was."""

from types import ModuleType

import msgspec
import pytest

from sealift.base import Amount, Message
from sealift.frame import (
    Context,
    Event,
    ForeignStateError,
    MigrationCheckError,
    MigrationFailedError,
    MigrationGapError,
    MigrationRefusedError,
    Overlay,
    PageStore,
    Pallet,
    PalletError,
    PalletMigration,
    Runtime,
    SimpleTreeStore,
    StateStore,
    StateTooNewError,
    StorageMap,
    StorageValue,
)


class NoteV1(Message, kw_only=True):
    text: str


class NoteV2(Message, kw_only=True):
    text: str
    words: int


class Notes1(Pallet):
    name = "notes"
    notes = StorageMap("notes", key=int, value=NoteV1)
    limit = StorageValue("limit", Amount, default=Amount(9))

    def genesis(self, ctx: Context) -> None:
        for number in range(20):
            self.notes.put(ctx, number, NoteV1(text="w " * number))


class Migrated(Event, kw_only=True):
    count: int


class Notes2(Pallet):
    name = "notes"
    storage_version = 2
    events = (Migrated,)
    notes = StorageMap("notes", key=int, value=NoteV2)
    wrong_before = wrong_after = broken = False

    def pre_upgrade(self, ctx: Context) -> bytes:
        if self.wrong_before:
            raise PalletError("state looks wrong")
        old = StorageMap("notes", key=int, value=NoteV1).of(self.name)
        return bytes([len(old.items(ctx))])

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        assert from_version in (0, 1)
        count = self.notes.translate(ctx, NoteV1, self.migrated)
        ctx.emit(Migrated(count=count))
        if self.broken:
            raise ZeroDivisionError

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        if len(self.notes.items(ctx)) != before[0] or self.wrong_after:
            raise PalletError("notes were lost")

    @staticmethod
    def migrated(old: NoteV1) -> NoteV2:
        return NoteV2(text=old.text, words=len(old.text.split()))


class Notes3(Notes2):
    name = "notes"
    storage_version = 3


class Notes3Patient(Notes3):
    name = "notes"
    migrates_from = 1


class Extra(Pallet):
    name = "extra"
    born = StorageValue("born", int)

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        assert from_version == 0
        self.born.put(ctx, ctx.block.height)


def runtime(version: int, *pallets: Pallet, name: str = "app") -> Runtime:
    return Runtime(name=name, version=version, pallets=pallets)


@pytest.fixture(params=["tree", "pages"])
def store(request: pytest.FixtureRequest, bank: ModuleType) -> StateStore:
    store = (
        SimpleTreeStore()
        if request.param == "tree"
        else PageStore(bits=4, key=b"k" * 16)
    )
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    return store


def test_a_migration_rewrites_every_entry_and_is_recorded(
    store: StateStore, bank: ModuleType
) -> None:
    overlay = Overlay.over(store)
    report = runtime(2, Notes2()).migrate(overlay, bank.block(9))
    assert (report.from_runtime, report.to_runtime) == (1, 2)
    assert report.migrated == (
        PalletMigration(pallet="notes", from_version=1, to_version=2),
    )
    assert [event.name for event in report.events] == ["notes.Migrated"]
    store.apply(overlay.changes)
    ctx = runtime(2, Notes2()).context(Overlay.over(store), bank.block())
    assert Notes2.notes.get(ctx, 19) == NoteV2(text="w " * 19, words=19)
    again = Overlay.over(store)
    assert runtime(2, Notes2()).migrate(again, bank.block(10)).migrated == ()


def refused(
    store: StateStore, bank: ModuleType, error: type[Exception], code: Runtime
) -> None:
    root = store.root()
    overlay = Overlay.over(store)
    with pytest.raises(MigrationRefusedError) as caught:
        code.migrate(overlay, bank.block(9))
    assert type(caught.value) is error
    assert overlay.changes == {}
    assert store.root() == root


def test_a_gap_between_versions_is_refused(store: StateStore, bank: ModuleType) -> None:
    with pytest.raises(MigrationGapError):
        runtime(3, Notes3()).migrate(Overlay.over(store), bank.block())
    refused(store, bank, MigrationGapError, runtime(3, Notes3()))
    report = runtime(3, Notes3Patient()).migrate(Overlay.over(store), bank.block())
    assert report.migrated[0].to_version == 3


def test_state_of_a_newer_layout_is_refused(
    store: StateStore, bank: ModuleType
) -> None:
    overlay = Overlay.over(store)
    runtime(1, Notes2()).migrate(overlay, bank.block())
    store.apply(overlay.changes)
    with pytest.raises(StateTooNewError):
        runtime(1, Notes1()).migrate(Overlay.over(store), bank.block())
    refused(store, bank, StateTooNewError, runtime(1, Notes1()))


def test_state_of_a_newer_runtime_is_refused(
    store: StateStore, bank: ModuleType
) -> None:
    overlay = Overlay.over(store)
    runtime(5, Notes1()).migrate(overlay, bank.block())
    store.apply(overlay.changes)
    refused(store, bank, StateTooNewError, runtime(4, Notes1()))


def test_foreign_or_no_state_is_refused(store: StateStore, bank: ModuleType) -> None:
    refused(store, bank, ForeignStateError, runtime(2, Notes2(), name="other"))
    with pytest.raises(ForeignStateError):
        runtime(2, Notes2()).migrate(Overlay.over(SimpleTreeStore()), bank.block())


@pytest.mark.parametrize("hook", ["wrong_before", "wrong_after"])
def test_a_failing_check_refuses_the_upgrade(
    store: StateStore, bank: ModuleType, hook: str
) -> None:
    notes = Notes2()
    setattr(notes, hook, True)
    with pytest.raises(MigrationCheckError):
        runtime(2, notes).migrate(Overlay.over(store), bank.block())
    refused(store, bank, MigrationCheckError, runtime(2, notes))


def test_a_migration_that_breaks_is_refused(
    store: StateStore, bank: ModuleType
) -> None:
    notes = Notes2()
    notes.broken = True
    with pytest.raises(MigrationFailedError):
        runtime(2, notes).migrate(Overlay.over(store), bank.block())
    refused(store, bank, MigrationFailedError, runtime(2, notes))


def test_a_damaged_entry_refuses_the_upgrade(
    store: StateStore, bank: ModuleType
) -> None:
    store.apply({Notes1.notes.key(7): b"\xc1"})
    refused(store, bank, MigrationCheckError, runtime(2, Notes2()))


def test_a_later_pallets_failure_undoes_the_earlier_ones(
    store: StateStore, bank: ModuleType
) -> None:
    notes = Notes2()
    notes.wrong_after = True
    refused(store, bank, MigrationCheckError, runtime(2, Extra(), notes))


def test_a_new_pallet_starts_from_zero_and_a_retired_one_is_kept(
    store: StateStore, bank: ModuleType
) -> None:
    overlay = Overlay.over(store)
    report = runtime(2, Extra()).migrate(overlay, bank.block(9))
    assert report.migrated == (
        PalletMigration(pallet="extra", from_version=0, to_version=1),
    )
    assert len(overlay.items(b"notes/notes/")) == 20
    store.apply(overlay.changes)
    back = Overlay.over(store)
    report = runtime(3, Extra(), Notes2()).migrate(back, bank.block(10))
    assert [step.from_version for step in report.migrated] == [1]


def test_memory_pressure_during_a_migration_is_no_refusal(
    store: StateStore, bank: ModuleType
) -> None:
    class Hungry(Extra):
        name = "hungry"

        def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        runtime(2, Hungry()).migrate(Overlay.over(store), bank.block())


def test_reports_travel(store: StateStore, bank: ModuleType) -> None:
    report = runtime(2, Notes2()).migrate(Overlay.over(store), bank.block())
    raw = msgspec.msgpack.encode(report)
    assert msgspec.msgpack.decode(raw, type=type(report)) == report
