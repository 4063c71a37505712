"""An upgrade whose records migrate ahead, killed around XYZ and restarted after it."""

import pytest
from story import History, Story

from sealift.base import Message
from sealift.frame import (
    Context,
    Pallet,
    PalletError,
    RecordMigration,
    Runtime,
    StorageMap,
    StorageValue,
)
from sealift.protocol.ecall import Rehearse, Rehearsed
from sealift.testing import CrashError, World

NOTES = 60


class NoteV1(Message, kw_only=True):
    text: str


class NoteV2(Message, kw_only=True):
    text: str
    words: int


class Notebook(Pallet):
    """Notes of which every block changes one."""

    name = "notebook"
    notes = StorageMap("notes", key=int, value=NoteV1)

    def genesis(self, ctx: Context) -> None:
        for number in range(NOTES):
            self.notes.put(ctx, number, NoteV1(text="as it was"))

    def on_initialize(self, ctx: Context) -> None:
        height = ctx.block.height
        self.notes.put(ctx, height % NOTES, NoteV1(text=f"block {height}"))


class Notebook2(Pallet):
    """The same with words counted."""

    name = "notebook"
    storage_version = 2
    notes = StorageMap("notes", key=int, value=NoteV2)
    words: StorageValue[int] = StorageValue("words", int)
    record_migrations = (
        RecordMigration.of_map(
            "notes",
            lambda _, old: NoteV2(text=old.text, words=len(old.text.split())),
            from_version=1,
            key=int,
            old=NoteV1,
            new=NoteV2,
        ),
    )

    def on_initialize(self, ctx: Context) -> None:
        height = ctx.block.height
        self.notes.put(ctx, height % NOTES, NoteV2(text=f"block {height}", words=2))

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        self.words.put(ctx, sum(note.words for _, note in self.notes.items(ctx)))

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        if not 2 * NOTES <= self.words.get(ctx) <= 3 * NOTES:
            raise PalletError("words are not counted")


def with_notes(runtime: Runtime, pallet: Pallet) -> Runtime:
    pallets = [*runtime.pallets, pallet]
    return Runtime(name=runtime.name, version=runtime.version, pallets=pallets)


@pytest.fixture(scope="module")
def noted(
    tmp_path_factory: pytest.TempPathFactory, v1: Runtime, v2: Runtime
) -> History:
    """A handover with notes; tests replay it and must not go on with it."""
    world = World(tmp_path_factory.mktemp("noted") / "world")
    one, two = with_notes(v1, Notebook()), with_notes(v2, Notebook2())
    return History(Story(world, one, two))


def test_the_handover_went_well(noted: History) -> None:
    noted.story.check_calls()
    noted.story.check_chain_of_roots()
    noted.story.check_roots_agree()
    assert noted.new.executions[0] == noted.xyz
    assert len(noted.new.disk.diffs[noted.xyz]) > 0


@pytest.mark.parametrize("act", ["execute", "keep block", "confirm", "keep checkpoint"])
def test_killed_around_xyz_it_comes_to_the_same_root(noted: History, act: str) -> None:
    ghost = noted.world.clone(noted.new, noted.new_before)
    died = 0
    for _ in range(4):
        ghost.crash_before = act
        try:
            ghost.step()
        except CrashError:
            died += 1
            ghost.start()
    ghost.crash_before = None
    ghost.step()
    assert died
    assert noted.xyz in ghost.roots
    for height, root in ghost.roots.items():
        assert root == noted.roots[height], height


def test_a_restart_after_xyz_goes_over_its_diff(noted: History) -> None:
    """From a snapshot before XYZ: the records are migrated again."""
    disk = noted.new.disk.copy()
    assert disk.snapshot is not None
    assert disk.snapshot[0] < noted.xyz < max(disk.diffs)
    ghost = noted.world.clone(noted.new, disk)
    ghost.step()
    assert ghost.status().state_height == noted.last
    assert ghost.status().root == noted.roots[noted.last]


def test_a_disk_that_ends_at_xyz_goes_on(noted: History) -> None:
    ghost = noted.world.clone(noted.new, noted.with_keys)
    ghost.step(upto=noted.xyz)
    ghost.restart()
    ghost.step()
    assert ghost.status().root == noted.roots[noted.last]


def test_the_new_worker_rehearses_before_xyz(noted: History) -> None:
    ghost = noted.world.clone(noted.new, noted.with_keys)
    ghost.step(upto=noted.xyz - 2)
    said = ghost.call(Rehearse(), Rehearsed).statement
    assert (said.good, said.upgrade_at) == (True, noted.xyz)
