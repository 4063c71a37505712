"""sealift app: a new one works at once, and a bad successor is refused by name."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealift.base import Message, decode, encode
from sealift.cli._app_ask import ApplicationError, ask_application
from sealift.cli._app_check import check_application, require_good
from sealift.cli._app_finding import ApplicationRefusedError
from sealift.cli._app_new import STANDARD, ApplicationNameError, make_application
from sealift.cli._app_reads import Reader
from sealift.cli._cards import read_bundle
from sealift.frame import RuntimeMetadata
from sealift.frame._types import TypeRegistry
from sealift.stf import StandardPallets

sys.path.insert(0, str(Path(__file__).parent))

from app_bundle import bundle_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "auction"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A new application and its bundle."""
    place = tmp_path_factory.mktemp("apps")
    folder = make_application("notes", place).folder
    return folder, bundle_of(folder, place / "notes-1.bundle")


@pytest.fixture
def edit(first: tuple[Path, Path], tmp_path: Path) -> Callable[..., Path]:
    """``edit("old", "new", …)``: a copy of the application, edited."""

    def change(*words: str, file: str = "pallet.py") -> Path:
        copy = tmp_path / "notes"
        if not copy.exists():
            shutil.copytree(first[0], copy)
        path = copy / "app" / "notes" / file
        text = path.read_text()
        for old, new in zip(words[::2], words[1::2], strict=True):
            assert text.count(old) >= 1, old
            text = text.replace(old, new)
        path.write_text(text)
        return copy

    return change


def line_of(folder: Path, words: str, file: str = "pallet.py") -> int:
    lines = (folder / "app" / "notes" / file).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if words in line)


HOOK = """
    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        \"\"\"Take over.\"\"\"

    def genesis"""
MIGRATED = ("storage_version = 1", "storage_version = 2", "\n    def genesis", HOOK)
VALUE = "key=AccountId, value=Note)"
NOTE = "    written_at: Height\n"

#: A change, the rule that refuses it, what its line has, what it says, what to write.
BAD = [
    (("value=Note)", "value=str)", "StorageMap[AccountId, Note]",
      "StorageMap[AccountId, str]"), "storage-layout", 'StorageMap("notes"',
     "notes.notes was Note and is str", "storage_version = 2"),
    (('"count", int, default=0', '"count", str, default="0"'), "storage-layout",
     'StorageValue("count"', "notes.count was int and is str", "storage_version = 2"),
    (("key=AccountId", "key=str"), "storage-layout", 'StorageMap("notes"',
     "the key of notes.notes was AccountId", "storage_version = 2"),
    (('StorageMap("notes"', 'StorageMap("texts"'), "storage-layout",
     'StorageMap("texts"', "is now called `texts`", "storage_version = 2"),
    (('    count: StorageValue[int] = StorageValue("count", int, default=0)\n', ""),
     "storage-layout", "class NotesPallet", "notes.count is gone",
     "storage_version = 2"),
    (('"count", int, default=0', '"count", int, default=1'), "storage-layout",
     'StorageValue("count"', "the default of notes.count has changed", "storage_ver"),
    ((NOTE, NOTE + "    length: int\n"), "storage-layout", "length: int",
     "Note.length was appended without a default", "storage_version = 2"),
    ((NOTE, "", "    text: str\n", NOTE + "    text: str\n"), "storage-layout",
     "text: str", "Note.text has moved from place 1", "storage_version = 2"),
    ((NOTE, ""), "storage-layout", "class Note(", "Note.written_at is gone",
     "storage_version = 2"),
    ((NOTE, "    since: Height\n"), "storage-layout", "class Note(",
     "`since` does", "storage_version = 2"),
    (('StorageValue[int] = StorageValue("longest", int)',
      'StorageMap[int, int] = StorageMap("longest", key=int, value=int)'),
     "storage-layout", 'StorageMap("longest"', "was a single value and is a map",
     "storage_version = 2"),
    (("value=Note)", "value=str)", "storage_version = 1", "storage_version = 2"),
     "migration-missing", 'StorageMap("notes"', "no migration of `notes`",
     "def on_runtime_upgrade"),
    (("value=Note)", "value=str)", *MIGRATED, "storage_version = 2",
      "storage_version = 3"), "migration-gap", "storage_version = 3",
     "migrates from storage version 2 on", "migrates_from = 1"),
    (("storage_version = 1", "storage_version = 0"), "storage-version",
     "storage_version = 0", "newer than this code", "storage_version = 1"),
    (("def keep(", "def put("), "call-removed", "class NotesPallet",
     "fail by UnknownCallError", "def keep(self, ctx: Context, *, text: str)"),
    (("*, text: Text)", "*, text: Text, more: int)"), "call-changed", "def keep(",
     "notes.keep.more was appended without a default", "append arguments"),
    (("*, text: Text)", "*, words: Text)"), "call-changed",
     "def keep(", "notes.keep.text stands no more in place 1", "append arguments"),
    (("max_length=1000", "max_length=10"), "call-changed", "def keep(",
     "is narrower", "append arguments"),
    (("errors = (TooLongError,)", "errors = ()"), "error-removed", "errors = ()",
     "TooLongError", "errors = (…, TooLongError)"),
    (("events = (NoteKept,)", "events = ()"), "event-removed", "events = ()",
     "the event NoteKept of `notes` is gone", "events = (…, NoteKept)"),
    (("class NoteKept", "class WasKept", "NoteKept", "WasKept"), "event-removed",
     "events = (WasKept,)", "the event NoteKept of `notes` is gone",
     "events = (…, NoteKept)"),
    (("def mine(", "def own("), "getter-removed", "class NotesPallet",
     "the getter notes.mine is gone",
     "def mine(self, ctx: Context, reader: AccountId) -> …: raise …"),
    (("def how_many(self, ctx: Context)",
      "def how_many(self, ctx: Context, *, least: int)"), "getter-changed",
     "def how_many(", "notes.how_many.least was appended without a default",
     "def how_many(self, ctx: Context, *, …=…) -> …"),
    (("public=False)\n    def mine(self, ctx: Context, reader: AccountId)",
      "public=True)\n    def mine(self, ctx: Context)",
      "find(ctx, reader)", "find(ctx, AccountId(bytes(32)))"), "getter-changed",
     "def mine(", "told each reader what is his own, and now tells everybody",
     "@getter(public=False)"),
    (("public=True)\n    def how_many(self, ctx: Context)",
      "public=False)\n    def how_many(self, ctx: Context, reader: AccountId)"),
     "getter-changed", "def how_many(",
     "notes.how_many told everybody the same, and now each reader what is his",
     "@getter(public=True)"),
    (('name = "notes"', 'name = "texts"'), "pallet-removed", "@runtime pallets=",
     "is now called `texts`", 'name = "notes"'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "rule", "line", "what", "write"),
    BAD,
    ids=[f"{bad[1]}-{number}" for number, bad in enumerate(BAD)],
)
def test_a_bad_successor_is_refused_with_its_line(  # noqa: PLR0917 - a table
    first: tuple[Path, Path],
    edit: Callable[..., Path],
    sealift: Any,
    words: tuple[str, ...],
    rule: str,
    line: str,
    what: str,
    write: str,
) -> None:
    folder = edit(*words)
    said = sealift("app", "check", folder, "--against", first[1], "--json")
    assert said.code == 1, said
    found = {one["rule"]: one for one in said.json["findings"]}
    assert rule in found
    one = found[rule]
    file = "runtime.py" if line.startswith("@runtime ") else "pallet.py"
    assert one["file"] == f"app/notes/{file}"
    assert one["line"] == line_of(folder, line.removeprefix("@runtime "), file)
    assert what in one["what"]
    assert write in one["write"]


def test_a_pallet_without_state_is_missed_by_clients(
    first: tuple[Path, Path], tmp_path: Path, sealift: Any
) -> None:
    """Its getters alone are something; nothing at all is nothing."""
    for part, rules in (
        ("getters", ["pallet-removed"]),
        ("events", ["pallet-removed"]),
        ("errors", ["pallet-removed"]),
        ("", []),
    ):
        old = decode(RuntimeMetadata, read_bundle(first[1]).files["metadata.bin"])
        notes = old.pallet("notes")
        empty = {"calls": (), "storage": (), "events": (), "errors": (), "getters": ()}
        empty.pop(part, None)
        gone = msgspec.structs.replace(notes, name="gone", **empty)
        more = msgspec.structs.replace(old, pallets=(*old.pallets, gone))
        other = bundle_of(first[0], tmp_path / "more.bundle", encode(more))
        said = sealift("app", "check", first[0], "--against", other, "--json")
        assert [one["rule"] for one in said.json["findings"]] == rules, part
        for one in said.json["findings"]:
            assert "its state" not in one["what"]
            assert "now called" not in one["what"]


def test_a_changed_runtime_name_and_an_older_version(
    first: tuple[Path, Path], edit: Callable[..., Path], sealift: Any
) -> None:
    folder = edit('name="notes"', 'name="other"', "version=1", "version=0",
                  file="runtime.py")  # fmt: skip
    toml = folder / "sealift.toml"
    toml.write_text(toml.read_text().replace("isv_svn = 1", "isv_svn = 0"))
    said = sealift("app", "check", folder, "--against", first[1])
    assert said.code == 1
    for line in (
        "app/notes/runtime.py:10: runtime-name: ",
        '    write: name="notes",',
        "app/notes/runtime.py:11: runtime-version: ",
        "sealift.toml:1: isv-svn: ",
    ):
        assert line in said.out


GOOD = [
    (),
    (NOTE, NOTE + "    length: int = 0\n"),
    ("*, text: Text)", "*, text: Text, more: int = 0)"),
    ("max_length=1000", "max_length=2000"),
    ("weight=50", "weight=60"),
    ("events = (NoteKept,)", "events = (NoteKept, Other)", "class TooLongError(",
     'class Other(Event):\n    """Another."""\n\n\nclass TooLongError('),
    ("def how_many(self, ctx: Context)",
     "def how_many(self, ctx: Context, *, least: int = 0)"),
    # A removal that is meant: the names stay, and say so.
    ("return self.count.get(ctx)", "raise TooLongError('it is no longer told')"),
    ("        ctx.emit(NoteKept(length=len(text)))\n", ""),
    (*MIGRATED, "value=Note)", "value=str)"),
    (*MIGRATED, NOTE, "    since: Height\n", "written_at=", "since="),
    (*MIGRATED, "storage_version = 2", "storage_version = 3\n    migrates_from = 1"),
    (("storage_version = 1", "storage_version = 2")),
    ('"longest", int)', '"longest", int, default=5)'),
]  # fmt: skip


@pytest.mark.parametrize("words", GOOD, ids=range(len(GOOD)))
def test_a_good_successor_passes(
    first: tuple[Path, Path],
    edit: Callable[..., Path],
    sealift: Any,
    words: tuple[str, ...],
) -> None:
    said = sealift("app", "check", edit(*words), "--against", first[1])
    assert (said.code, said.out) == (0, "nothing to refuse\n"), said


def test_the_example_follows_itself_and_not_the_other_way(
    tmp_path: Path, sealift: Any
) -> None:
    v1 = bundle_of(EXAMPLES / "v1", tmp_path / "v1.bundle")
    v2 = bundle_of(EXAMPLES / "v2", tmp_path / "v2.bundle")
    said = sealift("app", "check", EXAMPLES / "v2", "--against", v1, "--json")
    assert (said.code, said.json) == (0, {"findings": []})
    back = sealift("app", "check", EXAMPLES / "v1", "--against", v2, "--json")
    assert back.code == 1
    rules = {one["rule"] for one in back.json["findings"]}
    assert rules == {
        "call-changed", "call-removed", "error-removed", "isv-svn", "runtime-version",
        "storage-version",
    }  # fmt: skip


def test_a_clock_in_the_application_is_refused_without_a_predecessor(
    edit: Callable[..., Path], sealift: Any
) -> None:
    folder = edit("import msgspec\n", "import time as t\nimport msgspec\n",
                  "=ctx.block.height", "=int(t.time())")  # fmt: skip
    said = sealift("app", "check", folder)
    assert said.code == 1
    use = line_of(folder, "t.time()")
    assert (
        f"app/notes/pallet.py:{use}: clock: `t.time`, which is time.time," in said.out
    )
    assert "    write: ctx.block.time" in said.out
    assert "2 refused." in said.err


def test_the_wrong_words_are_usage(sealift: Any, tmp_path: Path) -> None:
    assert sealift("app", "check", "a", "b").code == 2
    assert sealift("app", "new").code == 2
    assert sealift("app", "check", tmp_path).code == 1
    assert (
        "a folder with sealift.toml and app/" in sealift("app", "check", tmp_path).err
    )


def test_an_application_that_cannot_be_imported_is_named_with_its_line(
    edit: Callable[..., Path], sealift: Any
) -> None:
    folder = edit()
    path = folder / "app" / "notes" / "runtime.py"
    good = path.read_text()
    for text, line, words in (
        (good + "\n1 // 0\n", 15, "ZeroDivisionError"),
        (good + "\ndef f(:\n", 15, "syntax"),
        (good + "\nimport nonsense\n", 15, "ModuleNotFoundError: No module named"),
        (good.replace("version=1", "version=one"), 11, "NameError"),
        (good + "\nraise SystemExit\n", 15, "SystemExit"),
        (good + '\nprint("polluted")\n1 // 0\n', 16, "ZeroDivisionError"),
    ):
        path.write_text(text)
        said = sealift("app", "check", folder)
        assert said.code == 1, said
        assert f"app/notes/runtime.py:{line}: " in said.out + said.err
        assert words in said.out + said.err
        assert "Traceback" not in said.err
        assert f"write: {text.splitlines()[-1]}" not in said.out  # what is wrong
    path.write_text(good.replace("runtime = ", "another = "))
    said = sealift("app", "check", folder)
    assert "has no attribute 'runtime'" in said.err
    with pytest.raises(ApplicationError, match="cannot be made"):
        ask_application(folder, "notes.runtime:runtime")


def test_a_layout_that_may_not_be_part_of_consensus_is_refused(
    edit: Callable[..., Path], sealift: Any
) -> None:
    folder = edit('"longest", int)', '"longest", set[int])')
    said = sealift("app", "check", folder)
    assert said.code == 1
    assert "app/notes/runtime.py:9: RuntimeDefinitionError: " in said.err


def test_an_application_that_prints_or_dies_or_hangs_is_heard(
    edit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edit()
    path = folder / "app" / "notes" / "runtime.py"
    good = path.read_text()
    path.write_text(good + '\nprint("{}")\n')
    assert ask_application(folder, "notes.runtime:runtime").pallets[-1].name == "notes"
    path.write_text("import os\nos._exit(7)\n")
    with pytest.raises(ApplicationError, match="exit code 7"):
        ask_application(folder, "notes.runtime:runtime")
    monkeypatch.setattr("sealift.cli._app_ask._PATIENCE", 1.0)
    path.write_text("while True: pass\n")
    with pytest.raises(ApplicationError, match="not made in time"):
        ask_application(folder, "notes.runtime:runtime")


def test_a_bundle_is_read_and_never_run(
    first: tuple[Path, Path], tmp_path: Path, sealift: Any
) -> None:
    folder, bundle = first
    assert check_application(folder, read_bundle(bundle)) == []
    other = bundle_of(folder, tmp_path / "x.bundle", b"\x93no metadata")
    said = sealift("app", "check", folder, "--against", other)
    assert said.code == 1
    assert "metadata cannot be read" in said.err
    with pytest.raises(ApplicationRefusedError):
        check_application(folder, read_bundle(other))
    bundle_bytes = bytearray(bundle.read_bytes())
    bundle_bytes[len(bundle_bytes) // 2] ^= 1
    (tmp_path / "y.bundle").write_bytes(bundle_bytes)
    cut = sealift("app", "check", folder, "--against", tmp_path / "y.bundle")
    assert cut.code == 1
    assert f"{tmp_path / 'y.bundle'}: " in cut.err  # which one of several
    assert "`sealift build`" in cut.err
    none = sealift("app", "check", folder, "--against", tmp_path / "none.bundle")
    assert none.code == 4


def test_metadata_of_a_stranger_cannot_crash_the_comparison(
    first: tuple[Path, Path], tmp_path: Path, sealift: Any
) -> None:
    """Types that are not described, that are within themselves, and very deep ones."""
    plain = msgspec.msgpack.decode(read_bundle(first[1]).files["metadata.bin"])
    plain[4] = []  # no type is described
    other = bundle_of(first[0], tmp_path / "x.bundle", encode(plain))
    said = sealift("app", "check", first[0], "--against", other, "--json")
    assert said.code == 1
    assert any("not described" in one["what"] for one in said.json["findings"])
    deep: Any = ["TypeSpec", "int", "", None, None, [], []]
    for _ in range(60):
        deep = ["TypeSpec", "list", "", None, None, [deep], []]
    assert plain[3][-1][5][0][1] == "notes"
    plain[3][-1][5][0][3] = deep
    other = bundle_of(first[0], tmp_path / "y.bundle", encode(plain))
    said = sealift("app", "check", first[0], "--against", other)
    assert said.code == 1, said


def test_require_good_refuses_in_one_line(
    first: tuple[Path, Path], edit: Callable[..., Path]
) -> None:
    require_good(first[0], read_bundle(first[1]))
    folder = edit("value=Note)", "value=str)")
    with pytest.raises(ApplicationRefusedError, match="storage-layout"):
        require_good(folder, read_bundle(first[1]))


# --- types ---


class One(Message, kw_only=True, tag="it"):
    a: int
    b: "One | None" = None


class Two(Message, kw_only=True, tag="it"):
    a: int
    b: "Two | None" = None
    c: tuple[int, ...] = ()


class Three(Message, kw_only=True, tag="it"):
    a: int
    b: "Three | None" = None
    c: tuple[str, ...] = ()


class Tagged(Message, kw_only=True, tag="x"):
    a: int


class Other(Message, kw_only=True, tag="y"):
    a: int


def difference(old: Any, new: Any) -> str:
    """Between two types, as the comparison of two runtimes sees them."""
    before, after = TypeRegistry(), TypeRegistry()
    specs = before.describe(old, "it"), after.describe(new, "it")
    reader = Reader(
        {one.name: one for one in before.structs()},
        {one.name: one for one in after.structs()},
    )
    return reader.difference(*specs, "it")


def annotated(kind: Any, **bounds: int) -> Any:
    from typing import Annotated  # noqa: PLC0415

    return Annotated[kind, msgspec.Meta(**bounds)]


WIDER = [
    (int, int | None), (int, int | str), (annotated(int, ge=1), int),
    (annotated(int, ge=1, le=5), annotated(int, ge=0, le=5)),
    (annotated(str, max_length=3), annotated(str, max_length=4)),
    (tuple[int, int], tuple[int, ...]), (list[int], tuple[int, ...]),
    (tuple[int, str], tuple[int, str | None]), (One, Two), (One | None, Two | None),
    (dict[str, int], dict[str, int | None]),
]  # fmt: skip
NARROWER = [
    (int, str), (int, bool), (bytes, str), (int | None, int), (int | str, int | None),
    (int, annotated(int, ge=0)), (annotated(int, le=9), annotated(int, le=8)),
    (str, annotated(str, max_length=8)), (tuple[int, ...], tuple[int, int]),
    (tuple[int, int], tuple[int]),
    (tuple[int, int], annotated(tuple[int, ...], max_length=1)),
    (tuple[int, str], tuple[int, ...]), (Two, One), (Two, Three), (Tagged, Other),
    (Tagged | Other, Tagged), (dict[str, int], dict[str, str]), (One, int),
    (tuple[One, ...], tuple[Tagged, ...]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), WIDER, ids=range(len(WIDER)))
def test_a_wider_type_reads_what_was_written(old: Any, new: Any) -> None:
    assert difference(old, new) == ""


@pytest.mark.parametrize(("old", "new"), NARROWER, ids=range(len(NARROWER)))
def test_a_narrower_type_is_a_difference(old: Any, new: Any) -> None:
    assert difference(old, new)


def test_a_message_by_another_name_is_another_message() -> None:
    """Its class's name is part of what is written."""
    assert "its class's name" in difference(Tagged, Other)


def test_choices() -> None:
    from typing import Literal  # noqa: PLC0415

    assert difference(Literal["a"], Literal["a", "b"]) == ""
    assert "'b'" in difference(Literal["a", "b"], Literal["a"])
    assert difference(Literal["a"], str) == ""
    assert difference(Literal["a"], int)
    assert difference(str, Literal["a"])
    assert difference(Literal["abc"], annotated(str, max_length=2))
    assert difference(Literal[1, 2], int) == ""
    assert difference(Literal[1, 2], annotated(int, le=1))


# --- app new ---


def test_names_that_no_application_may_have(sealift: Any, tmp_path: Path) -> None:
    for name in ("my-app", "Notes", "1st", "class", "match", "json", "balances",
                 "sealift", "tests", "..", "a/b", "", "x" * 40, "_x"):  # fmt: skip
        with pytest.raises(ApplicationNameError):
            make_application(name, tmp_path)
        assert sealift("app", "new", "--in", tmp_path, "--", name).code == 1
    assert list(tmp_path.iterdir()) == []
    assert "Say my_app" in sealift("app", "new", "My App", "--in", tmp_path).err


def test_no_new_application_is_called_like_a_standard_pallet() -> None:
    assert {one.name for one in StandardPallets().pallets} | {"frame"} == STANDARD


def test_nothing_is_ever_written_over(sealift: Any, tmp_path: Path) -> None:
    made = sealift("app", "new", "notes", "--in", tmp_path / "deep" / "er", "--json")
    assert made.code == 0
    folder = tmp_path / "deep" / "er" / "notes"
    assert made.json["application"] == str(folder)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        *made.json["files"]
    }
    (folder / "sealift.toml").write_text("mine")
    again = sealift("app", "new", "notes", "--in", tmp_path / "deep" / "er")
    assert again.code == 4
    assert (folder / "sealift.toml").read_text() == "mine"
    (tmp_path / "link").symlink_to("nowhere")
    assert sealift("app", "new", "link", "--in", tmp_path).code == 4
    (tmp_path / "file").write_text("mine")
    assert sealift("app", "new", "file", "--in", tmp_path).code == 4
    assert sealift("app", "new", "notes", "--in", tmp_path / "file").code == 4
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_a_folder_that_cannot_be_finished_is_not_begun(
    sealift: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle."""
    from sealift.cli import _app_new  # noqa: PLC0415
    from sealift.transport.files import DiskFullError  # noqa: PLC0415

    real, count = _app_new.create_durably, iter(range(9))

    def full(path: Path, data: bytes) -> None:
        if next(count) == 4:
            raise DiskFullError("no space left", got=str(path))
        real(path, data)

    monkeypatch.setattr(_app_new, "create_durably", full)
    assert sealift("app", "new", "notes", "--in", tmp_path).code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_an_application_that_hangs_ends_with_whoever_asks_it(
    edit: Callable[..., Path],
) -> None:
    """kill -9 of the check: the author's code must not run on for ever."""
    folder = edit()
    path = folder / "app" / "notes" / "runtime.py"
    path.write_text("while True: pass\n")
    asking = subprocess.Popen(
        [sys.executable, "-m", "sealift", "app", "check", str(folder)]
    )
    children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
    end = time.monotonic() + 60
    while not (found := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.05)
    child = Path("/proc", found[0], "cmdline")
    while b"leash.py" in child.read_bytes():
        assert time.monotonic() < end  # until the leash is tied
        time.sleep(0.05)
    assert str(folder).encode() in child.read_bytes()
    asking.kill()
    asking.wait()
    with contextlib.suppress(OSError):  # gone
        while child.read_bytes():
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.process
@pytest.mark.parametrize("name", ["a", "ballot_box_of_the_whole_village"])
def test_a_new_application_passes_its_own_tests_and_our_linters(
    tmp_path: Path, name: str
) -> None:
    """As its author runs them: in its folder, by its own configuration."""
    folder = make_application(name, tmp_path).folder
    for words in (
        ("pytest", "-q", "-p", "no:cacheprovider"),
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        ("mypy", "--cache-dir", str(tmp_path / "mypy")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        if words[0] == "pytest":
            assert "3 passed" in done.stdout


def test_a_new_application_is_good(first: tuple[Path, Path], sealift: Any) -> None:
    said = sealift("app", "check", first[0], "--against", first[1], "--json")
    assert (said.code, said.json) == (0, {"findings": []})
