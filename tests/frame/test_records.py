"""Declared record migrations: each record by itself, ahead of time or at once."""

import itertools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import Message, encode
from sealift.frame import (
    MAX_RECORD_BYTES,
    Context,
    MigrationCheckError,
    MigrationFailedError,
    Overlay,
    PageMigration,
    PageStore,
    Pallet,
    PalletError,
    RecordMigration,
    RecordMigrationError,
    RecordPlan,
    Runtime,
    RuntimeDefinitionError,
    SimpleTreeStore,
    StateStore,
    StorageMap,
    StorageValue,
    WeightMeter,
)

KEY = b"k" * 16


class NoteV1(Message, kw_only=True):
    text: str


class NoteV2(Message, kw_only=True):
    text: str
    words: int


class NoteV3(Message, kw_only=True):
    number: int
    words: int


class Notes1(Pallet):
    name = "notes"
    notes = StorageMap("notes", key=int, value=NoteV1)
    limit: StorageValue[int] = StorageValue("limit", int, default=9)
    scraps = StorageMap("scraps", key=str, value=bytes)
    tags = StorageMap("tags", key=tuple[int, str], value=int)

    def genesis(self, ctx: Context) -> None:
        for number in range(40):
            self.notes.put(ctx, number, NoteV1(text="w " * (number % 7)))
            self.scraps.put(ctx, f"s{number}", b"x")
            self.tags.put(ctx, (number, "t"), number)
        self.limit.put(ctx, 7)


def counted(key: int, old: NoteV1) -> NoteV2 | None:
    if key % 10 == 3:
        return None
    if old.text.startswith("bad"):
        raise ValueError(old.text)
    if old.text.startswith("empty memory"):
        raise MemoryError
    return NoteV2(text=old.text, words=len(old.text.split()))


TO_2 = (
    RecordMigration.of_map(
        "notes", counted, from_version=1, key=int, old=NoteV1, new=NoteV2
    ),
    RecordMigration.of_value("limit", str, from_version=1, old=int, new=str),
    RecordMigration.dropped("scraps", from_version=1),
    RecordMigration.renamed("tags", from_version=1, to="labels"),
)


class Notes2(Pallet):
    name = "notes"
    storage_version = 2
    notes = StorageMap("notes", key=int, value=NoteV2)
    limit: StorageValue[str] = StorageValue("limit", str)
    labels = StorageMap("labels", key=tuple[int, str], value=int)
    total: StorageValue[int] = StorageValue("total", int)
    record_migrations = TO_2

    def pre_upgrade(self, ctx: Context) -> bytes:
        old = Notes1.notes.of(self.name)
        old.delete(ctx, 0)  # writes of a check are dropped
        return bytes([len(old.items(ctx))])

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        words = [note.words for _, note in self.notes.items(ctx)]
        self.total.put(ctx, sum(words))

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        if before[0] != 39 or not self.labels.contains(ctx, (39, "t")):
            raise PalletError("notes were lost")


class Notes3(Pallet):
    name = "notes"
    storage_version = 3
    migrates_from = 1
    papers = StorageMap("papers", key=int, value=NoteV3)
    limit: StorageValue[str] = StorageValue("limit", str)
    labels = StorageMap("labels", key=tuple[int, str], value=int)
    record_migrations = (
        *TO_2,
        RecordMigration.of_map(
            "notes",
            lambda key, old: NoteV3(number=key, words=old.words),
            from_version=2,
            key=int,
            old=NoteV2,
            new=NoteV3,
            to="papers",
        ),
    )


def runtime(version: int, *pallets: Pallet) -> Runtime:
    return Runtime(name="app", version=version, pallets=pallets)


def pages() -> PageStore:
    return PageStore(bits=4, key=KEY)


@pytest.fixture(params=["tree", "pages"])
def store(request: pytest.FixtureRequest, bank: ModuleType) -> StateStore:
    made = SimpleTreeStore() if request.param == "tree" else pages()
    runtime(1, Notes1()).apply_genesis(made, bank.block(0), {})
    return made


def ahead(code: Runtime, store: Any, block: Any) -> PageStore:
    """The state as upgraded over records that were migrated ahead."""
    plan = code.plan(Overlay.over(store), block).records
    migrated = PageMigration(store, plan).migrated()
    overlay = Overlay.over(migrated)
    code.migrate(overlay, block, before=Overlay.over(store))
    migrated.apply(overlay.changes)
    return migrated


def at_once(code: Runtime, store: StateStore, block: Any) -> StateStore:
    overlay = Overlay.over(store)
    code.migrate(overlay, block)
    store.apply(overlay.changes)
    return store


def test_records_are_migrated_before_the_upgrade_hook_sees_them(
    store: StateStore, bank: ModuleType
) -> None:
    at_once(runtime(2, Notes2()), store, bank.block(9))
    ctx = runtime(2, Notes2()).context(Overlay.over(store), bank.block())
    assert Notes2.notes.get(ctx, 6) == NoteV2(text="w " * 6, words=6)
    assert Notes2.notes.find(ctx, 13) is None
    assert Notes2.notes.contains(ctx, 0)
    assert Notes2.limit.get(ctx) == "7"
    assert Notes2.labels.get(ctx, (5, "t")) == 5
    assert Notes2.total.get(ctx) == sum(n % 7 for n in range(40) if n % 10 != 3)
    assert not list(store.items(b"notes/scraps/"))
    assert not list(store.items(b"notes/tags/"))


def test_records_pass_through_two_versions_at_once(
    store: StateStore, bank: ModuleType
) -> None:
    at_once(runtime(3, Notes3()), store, bank.block(9))
    ctx = runtime(3, Notes3()).context(Overlay.over(store), bank.block())
    assert Notes3.papers.get(ctx, 6) == NoteV3(number=6, words=6)
    assert len(Notes3.papers.items(ctx)) == 36
    assert not list(store.items(b"notes/notes/"))


@pytest.mark.parametrize("pallet", [Notes2, Notes3])
def test_migrated_ahead_or_at_once_the_root_is_the_same(
    bank: ModuleType, pallet: type[Pallet]
) -> None:
    code = runtime(pallet.storage_version, pallet())
    one, other = pages(), pages()
    for made in (one, other):
        runtime(1, Notes1()).apply_genesis(made, bank.block(0), {})
    root = one.root()
    early = ahead(code, one, bank.block(9))
    assert one.root() == root
    assert early.root() == at_once(code, other, bank.block(9)).root() != root


NAMES = ("notes/notes/", "notes/scraps/", "notes/tags/", "notes/labels/", "other/x/")
NOTE = st.sampled_from(["w w", "", "bad", "long " * 9])


@st.composite
def histories(draw: st.DrawFn) -> list[dict[bytes, bytes | None]]:
    """Changes of several blocks, over few keys, so that they meet."""

    def change() -> tuple[bytes, bytes | None]:
        item = draw(st.sampled_from(NAMES))
        number = draw(st.integers(0, 25))
        key = item.encode() + number.to_bytes(8, "big")
        if item == "notes/labels/" and draw(st.booleans()):
            return key, None
        if draw(st.integers(0, 3)) == 0:
            return key, None
        if item == "notes/notes/":
            return key, encode(NoteV1(text=draw(NOTE)))
        return key, encode(draw(st.integers(0, 9)))

    return [
        dict(change() for _ in range(draw(st.integers(0, 12))))
        for _ in range(draw(st.integers(1, 6)))
    ]


PLAN_CODE = runtime(2, Notes2())


@settings(deadline=None, max_examples=150)
@given(history=histories(), steps=st.lists(st.integers(1, 40), max_size=8))
def test_a_shadow_kept_current_is_what_converting_at_once_gives(
    bank: ModuleType, history: list[dict[bytes, bytes | None]], steps: list[int]
) -> None:
    store = pages()
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    plan = PLAN_CODE.plan(Overlay.over(store), bank.block(1)).records
    shadow = PageMigration(store, plan)
    for number, changes in enumerate(history):
        if number < len(steps):
            shadow.advance(steps[number])
        shadow.note(changes)
        store.apply(changes)
    check_same(shadow, store, plan)


def check_same(shadow: PageMigration, store: PageStore, plan: RecordPlan) -> None:
    overlay = Overlay.over(store)
    refused = []
    for way in (lambda: plan.run(overlay), shadow.migrated):
        try:
            way()
        except RecordMigrationError as error:
            refused.append((error.check, error.got))
    if refused:
        assert refused == [refused[0]] * 2
        return
    expected = store.copy()
    expected.apply(overlay.changes)
    assert shadow.migrated().root() == expected.root()
    assert shadow.migrated().items(b"") == expected.items(b"")


def test_pages_without_old_records_are_shared(bank: ModuleType) -> None:
    store = PageStore(bits=8, key=KEY)
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    store.apply({b"other/x/%d" % n: b"v" for n in range(2000)})
    plan = PLAN_CODE.plan(Overlay.over(store), bank.block(1)).records
    made = PageMigration(store, plan).migrated()
    shared = sum(
        a is b for a, b in zip(store.pages(), made.pages(), strict=True) if len(a) > 1
    )
    assert shared > 100


def test_steps_are_bounded_and_resume(bank: ModuleType) -> None:
    store = PageStore(bits=8, key=KEY)
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    plan = PLAN_CODE.plan(Overlay.over(store), bank.block(1)).records
    shadow, seen = PageMigration(store, plan), []
    while not shadow.complete:
        shadow.advance(5)
        seen.append(shadow.done)
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert max(b - a for a, b in itertools.pairwise(seen)) < 0.4
    check_same(shadow, store, plan)


def planned(store: StateStore, bank: ModuleType) -> RecordPlan:
    return PLAN_CODE.plan(Overlay.over(store), bank.block(1)).records


def spoiled(store: StateStore, text: str = "bad secret") -> None:
    store.apply({Notes1.notes.key(7): encode(NoteV1(text=text))})


def test_a_record_that_does_not_migrate_is_refused_by_the_items_name_alone(
    store: StateStore, bank: ModuleType
) -> None:
    spoiled(store)
    root = store.root()
    overlay = Overlay.over(store)
    with pytest.raises(RecordMigrationError) as caught:
        runtime(2, Notes2()).migrate(overlay, bank.block(9))
    assert caught.value.check == "record:notes.notes"
    assert "secret" not in str(caught.value)
    assert "7" not in str(caught.value)
    assert overlay.changes == {}
    assert store.root() == root


def test_a_record_that_was_mended_before_the_upgrade_is_no_reason_to_refuse(
    bank: ModuleType,
) -> None:
    store = pages()
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    spoiled(store)
    shadow = PageMigration(
        store, PLAN_CODE.plan(Overlay.over(store), bank.block()).records
    )
    shadow.advance(None)
    assert shadow.refusal is not None
    mend: dict[bytes, bytes | None] = {Notes1.notes.key(7): None}
    shadow.note(mend)
    store.apply(mend)
    assert shadow.refusal is None
    assert shadow.migrated().root()


def test_too_many_records_that_do_not_migrate_end_the_attempt(
    bank: ModuleType,
) -> None:
    store = PageStore(bits=8, key=KEY)
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    bad = encode(NoteV1(text="bad"))
    store.apply({Notes1.notes.key(n): bad for n in range(3000)})
    shadow = PageMigration(
        store, PLAN_CODE.plan(Overlay.over(store), bank.block()).records
    )
    shadow.advance(None)
    assert shadow.hopeless
    assert not shadow.complete
    with pytest.raises(RecordMigrationError):
        shadow.migrated()


def test_a_damaged_record_is_refused_by_name(
    store: StateStore, bank: ModuleType
) -> None:
    store.apply({Notes1.notes.key(7): b"\xc1"})
    with pytest.raises(RecordMigrationError) as caught:
        runtime(2, Notes2()).plan(Overlay.over(store), bank.block()).records.run(
            Overlay.over(store)
        )
    assert caught.value.got == "StorageValueError"


def test_memory_pressure_in_a_record_is_no_refusal(
    store: StateStore, bank: ModuleType
) -> None:
    spoiled(store, "empty memory")
    with pytest.raises(MemoryError):
        runtime(2, Notes2()).migrate(Overlay.over(store), bank.block())


def test_a_name_that_is_taken_in_the_state_refuses_the_renaming(
    store: StateStore, bank: ModuleType
) -> None:
    store.apply({Notes2.labels.key((1, "t")): b"\x01"})
    with pytest.raises(RecordMigrationError) as caught:
        runtime(2, Notes2()).migrate(Overlay.over(store), bank.block())
    assert caught.value.check == "record:notes.labels"
    assert caught.value.got == "RecordCollisionError"


def test_a_name_that_is_free_again_takes_nothing_from_the_renamed(
    bank: ModuleType,
) -> None:
    store = pages()
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    plan = planned(store, bank)
    shadow = PageMigration(store, plan)
    shadow.advance(None)
    squatter = Notes2.labels.key((1, "t"))
    for value in (b"\x05", None):
        changes = {squatter: value}
        shadow.note(changes)
        store.apply(changes)
        assert (shadow.refusal is None) == (value is None)
    assert shadow.migrated().get(squatter) == b"\x01"
    check_same(shadow, store, plan)


def test_a_record_that_grows_beyond_all_bounds_is_refused_by_name(
    bank: ModuleType,
) -> None:
    class Greedy(Pallet):
        name = "notes"
        storage_version = 2
        limit: StorageValue[bytes] = StorageValue("limit", bytes)
        record_migrations = (
            RecordMigration.of_value(
                "limit",
                lambda _: bytes(MAX_RECORD_BYTES),
                from_version=1,
                old=int,
                new=bytes,
            ),
        )

    store = pages()
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    with pytest.raises(RecordMigrationError) as caught:
        runtime(2, Greedy()).migrate(Overlay.over(store), bank.block())
    assert caught.value.got == "RecordTooLargeError"


class Looping(Notes2):
    name = "notes"
    where = "on_runtime_upgrade"

    def pre_upgrade(self, ctx: Context) -> bytes:
        self.loop(ctx, "pre_upgrade")
        return bytes([39])

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        self.loop(ctx, "on_runtime_upgrade")

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        self.loop(ctx, "post_upgrade")

    def loop(self, ctx: Context, hook: str) -> None:
        while hook == self.where:
            self.limit.find(ctx)


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        ("pre_upgrade", MigrationCheckError),
        ("on_runtime_upgrade", MigrationFailedError),
        ("post_upgrade", MigrationCheckError),
    ],
)
def test_a_migration_that_loops_over_the_state_runs_out_of_weight(
    store: StateStore, bank: ModuleType, hook: str, error: type[Any]
) -> None:
    if hook == "pre_upgrade":
        store.apply({b"notes/limit/": b"\xa17"})  # what it reads is of its own layout
    pallet = Looping()
    pallet.where = hook
    overlay = Overlay.over(store)
    with pytest.raises(error, match="WeightExceededError") as caught:
        runtime(2, pallet).migrate(
            overlay, bank.block(), WeightMeter(5000), access_weight=1
        )
    assert caught.value.check == f"notes.{hook}"
    assert overlay.changes == {}


@pytest.mark.parametrize("way", ["put", "delete", "items", "pages", "inner"])
def test_every_access_is_metered(bank: ModuleType, way: str) -> None:
    store = pages()
    runtime(1, Notes1()).apply_genesis(store, bank.block(0), {})
    meter = WeightMeter(1000)
    layer = Overlay.over(store).metered(meter, 2)
    act: Mapping[str, Any] = {
        "put": lambda: layer.put(b"x", b"y"),
        "delete": lambda: layer.delete(b"x"),
        "items": lambda: layer.items(b"notes/notes/"),
        "pages": lambda: [layer.page_items(n, b"notes/notes/") for n in range(16)],
        "inner": lambda: layer.child().get(b"x"),
    }
    act[way]()
    assert meter.used == {"items": 82, "pages": 112}.get(way, 2)


def test_the_records_of_a_migration_weigh_nothing(
    store: StateStore, bank: ModuleType
) -> None:
    """Or migrating ahead and at once would differ in what they may weigh."""
    runtime(3, Notes3()).migrate(
        Overlay.over(store), bank.block(), WeightMeter(0), access_weight=0
    )


def fails(**members: Any) -> None:
    namespace = {"name": "notes", "storage_version": 3, **members}
    with pytest.raises(RuntimeDefinitionError):
        type("Wrong", (Pallet,), namespace)


def test_declarations_that_cannot_be_meant_are_refused() -> None:
    of_map, of_value = RecordMigration.of_map, RecordMigration.of_value
    notes = StorageMap("notes", key=int, value=NoteV2)

    def one(**changes: Any) -> RecordMigration:
        fields: dict[str, Any] = {
            "item": "notes",
            "change": counted,
            "from_version": 1,
            "key": int,
            "old": NoteV1,
            "new": NoteV2,
        }
        return of_map(**(fields | changes))

    type("Right", (Pallet,), {"name": "a", "storage_version": 3, "notes": notes})
    fails(notes=notes, record_migrations=(one(from_version=0),))
    fails(notes=notes, record_migrations=(one(from_version=3),))
    fails(notes=notes, record_migrations=(one(), one()))
    fails(notes=notes, record_migrations=(one(new=NoteV3),))
    fails(notes=notes, record_migrations=(one(key=str),))
    fails(notes=notes, record_migrations=(one(to="papers"),))
    fails(record_migrations=(one(),))
    fails(notes=notes, record_migrations=(one(), one(from_version=2, old=NoteV3)))
    fails(
        notes=notes,
        record_migrations=(
            one(),
            RecordMigration.renamed("scraps", from_version=1, to="notes"),
        ),
    )
    fails(
        record_migrations=(of_value("x", str, from_version=1, old=int, new=str),),
        x=StorageMap("x", key=int, value=str),
    )
    with pytest.raises(RuntimeDefinitionError):
        RecordMigration.renamed("Bad Name", from_version=1, to="good")
