"""What a version of an application may not change, compared by metadata.

The old version's metadata is a measured file of its bundle, so nothing of the
old bundle runs. The new version is asked in a process of its own.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sealift.frame import (
    CallSpec,
    GetterSpec,
    NoteSpec,
    PalletSpec,
    RuntimeMetadata,
    StorageSpec,
    StructSpec,
)

from ._app_ask import AskedPallet
from ._app_finding import Finding
from ._app_reads import Reader, shown

_HOOK = "def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None"


@dataclass(frozen=True, slots=True)
class Place:
    """A file, as it is shown, and a line in it."""

    path: str
    line: int


class Places:
    """Where classes and what is in them stand, in an application's folder.

    Args:
        folder: The application's.
        pallets: What it said of its pallets.
        entry: The module of its runtime.
    """

    def __init__(
        self, folder: Path, pallets: Iterable[AskedPallet], entry: str
    ) -> None:
        self._folder = folder.resolve()
        self._pallets = {pallet.name: pallet for pallet in pallets}
        module = entry.partition(":")[0].replace(".", "/")
        self._runtime = self._folder / "app" / f"{module}.py"
        self._trees: dict[Path, ast.Module] = {}

    def runtime(self, keyword: str = "") -> Place:
        """Where the runtime is made, or a word of it."""
        tree = self._tree(self._runtime)
        line = 1
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _last_name(node.func) == "Runtime":
                line = node.lineno
                for word in node.keywords:
                    if word.arg == keyword:
                        line = word.value.lineno
        return Place(self._shown(self._runtime), line)

    def pallet(self, name: str, item: str = "") -> Place:
        """A pallet's class, or what in it has a name; else the runtime."""
        asked = self._pallets.get(name)
        if asked is None or not asked.file:
            return self.runtime("pallets")
        path = Path(asked.file)
        found = self._class(path, asked.kind.rpartition(".")[2])
        if found is None:
            return Place(self._shown(path), 1)
        return Place(self._shown(path), _line_in(found, item) or found.lineno)

    def raised(self, pallet: str, hook: str, error: str) -> Place:
        """Where a pallet's hook raises an error; else the hook."""
        place = self.pallet(pallet, hook)
        asked = self._pallets.get(pallet)
        tree = self._tree(Path(asked.file)) if asked and asked.file else None
        for node in ast.walk(tree) if tree is not None else ():
            if not (isinstance(node, ast.FunctionDef) and node.name == hook):
                continue
            for inner in ast.walk(node):
                if isinstance(inner, ast.Raise) and inner.exc is not None:
                    made = inner.exc
                    kind = made.func if isinstance(made, ast.Call) else made
                    if _last_name(kind) == error:
                        return Place(place.path, inner.lineno)
        return place

    def field(self, words: str, otherwise: Place) -> Place:
        """Where ``Struct.field`` of a sentence stands, if it is in the application."""
        words = words.removeprefix("the default of ")
        kind, _, name = words.split(" ", 1)[0].partition(".")
        for path in sorted((self._folder / "app").rglob("*.py")):
            found = self._class(path, kind)
            if found is not None and kind:
                line = _line_in(found, name.partition("[")[0]) or found.lineno
                return Place(self._shown(path), line)
        return otherwise

    def _class(self, path: Path, name: str) -> ast.ClassDef | None:
        for node in ast.walk(self._tree(path)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
        return None

    def _tree(self, path: Path) -> ast.Module:
        if path not in self._trees:
            try:
                self._trees[path] = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError):
                self._trees[path] = ast.Module(body=[], type_ignores=[])
        return self._trees[path]

    def _shown(self, path: Path) -> str:
        resolved = path.resolve()
        if resolved.is_relative_to(self._folder):
            return resolved.relative_to(self._folder).as_posix()
        return "/".join(resolved.parts[-3:])


class Comparison:
    """Compares the runtime of a bundle with the one that shall follow it.

    Args:
        old: The predecessor's metadata.
        new: The successor's.
        pallets: What the successor's classes say beyond it.
        places: Where they stand.
    """

    def __init__(
        self,
        old: RuntimeMetadata,
        new: RuntimeMetadata,
        pallets: Iterable[AskedPallet],
        places: Places,
    ) -> None:
        self._old = old
        self._new = new
        self._asked = {pallet.name: pallet for pallet in pallets}
        self._places = places
        self._reader = Reader(_structs(old), _structs(new))
        self._found: list[Finding] = []

    def findings(self) -> list[Finding]:
        """Everything that old state, calls or clients would suffer from."""
        old, new = self._old, self._new
        if old.name != new.name:
            self._add(
                self._places.runtime("name"),
                "runtime-name",
                f"the runtime was `{old.name}`, and refuses its state as foreign",
                f'name="{old.name}",',
            )
        if new.version < old.version:
            self._add(
                self._places.runtime("version"),
                "runtime-version",
                f"the state was written by version {old.version}, a newer one",
                f"version={old.version + 1},",
            )
        there = {pallet.name: pallet for pallet in new.pallets}
        for before in old.pallets:
            after = there.get(before.name)
            if after is None:
                self._pallet_gone(before)
            else:
                self._pallet(before, after)
        return sorted(set(self._found))

    def _pallet_gone(self, before: PalletSpec) -> None:
        told = before.calls or before.getters or before.events or before.errors
        if not (before.storage or told):
            return
        what = f"the pallet `{before.name}` is gone, and with it what clients know"
        if before.storage:
            near = [
                pallet.name
                for pallet in self._new.pallets
                if pallet.storage == before.storage
                and all(pallet.name != known.name for known in self._old.pallets)
            ]
            now = f"now called `{near[0]}`" if near else "gone"
            what = (
                f"the pallet `{before.name}` is {now}: its state stays under "
                f"`{before.name}/`, and nobody reads it"
            )
        line = f'name = "{before.name}"  # or keep it empty, and delete in a migration'
        self._add(self._places.runtime("pallets"), "pallet-removed", what, line)

    def _pallet(self, before: PalletSpec, after: PalletSpec) -> None:
        asked = self._asked[after.name]
        changes = list(self._layout(before, after))
        raised = after.storage_version > before.storage_version
        if after.storage_version < before.storage_version:
            self._add(
                self._places.pallet(after.name, "storage_version"),
                "storage-version",
                f"the state of `{after.name}` has storage version "
                f"{before.storage_version}, newer than this code",
                f"storage_version = {before.storage_version}",
            )
        elif changes and not raised:
            for place, what in changes:
                self._add(
                    place,
                    "storage-layout",
                    f"{what}, and storage_version is still {before.storage_version}",
                    f"storage_version = {before.storage_version + 1}  # and {_HOOK}: …",
                )
        elif changes and not asked.migrates:
            place, what = changes[0]
            self._add(
                place,
                "migration-missing",
                f"{what}, and no migration of `{after.name}` takes that over",
                f"{_HOOK}: …  # from {before.storage_version}",
            )
        if raised:
            self._gap(before, after, asked)
        self._calls(before, after)
        self._getters(before, after)
        self._notes("event-removed", before, before.events, after.events)
        self._notes("error-removed", before, before.errors, after.errors)

    def _gap(self, before: PalletSpec, after: PalletSpec, asked: AskedPallet) -> None:
        oldest = asked.migrates_from
        if oldest is None:
            oldest = after.storage_version - 1
        if before.storage_version < min(oldest, after.storage_version):
            self._add(
                self._places.pallet(after.name, "storage_version"),
                "migration-gap",
                f"`{after.name}` migrates from storage version {oldest} on, "
                f"and the state has {before.storage_version}",
                f"migrates_from = {before.storage_version}",
            )

    def _layout(
        self, before: PalletSpec, after: PalletSpec
    ) -> Iterable[tuple[Place, str]]:
        there = {item.name: item for item in after.storage}
        known = {item.name for item in before.storage}
        for old in before.storage:
            label = f"{before.name}.{old.name}"
            new = there.get(old.name)
            if new is None:
                likely = [
                    item.name
                    for item in after.storage
                    if item.name not in known
                    and (item.key, item.value) == (old.key, old.value)
                ]
                what = f"the storage item {label} is gone"
                if likely:
                    what = f"the storage item {label} is now called `{likely[0]}`"
                place = self._places.pallet(after.name, likely[0] if likely else "")
                yield place, what
                continue
            what = self._item(old, new, label)
            if what:
                place = self._places.pallet(after.name, old.name)
                yield self._places.field(what, place), what

    def _item(self, old: StorageSpec, new: StorageSpec, label: str) -> str:
        if (old.key is None) != (new.key is None):
            kinds = ("a single value", "a map")
            was, now = kinds if old.key is None else reversed(kinds)
            return f"{label} was {was} and is {now}"
        if old.key is not None and new.key is not None:
            found = self._reader.difference(old.key, new.key, f"the key of {label}")
            if found:
                return found
        found = self._reader.difference(old.value, new.value, label)
        if found:
            return found
        if old.default is not None and new.default != old.default:
            return (
                f"the default of {label} has changed, and counts wherever none stands"
            )
        return ""

    def _calls(self, before: PalletSpec, after: PalletSpec) -> None:
        there = {call.name: call for call in after.calls}
        for old in before.calls:
            label = f"{before.name}.{old.name}"
            self._signature(
                after.name,
                old,
                there.get(old.name),
                head=f"def {old.name}(self, ctx: Context",
                answer="None",
                rules=("call-removed", "call-changed"),
                gone=f"the call {label} is gone: those that wait sealed on L1 fail by "
                "UnknownCallError, and their nonces are consumed",
                changed=f"calls of {label} that wait sealed on L1 fail, or mean "
                "something else",
            )

    def _getters(self, before: PalletSpec, after: PalletSpec) -> None:
        there = {getter.name: getter for getter in after.getters}
        for old in before.getters:
            label = f"{before.name}.{old.name}"
            reader = "" if old.public else ", reader: AccountId"
            self._signature(
                after.name,
                old,
                there.get(old.name),
                head=f"def {old.name}(self, ctx: Context{reader}",
                answer="…",
                rules=("getter-removed", "getter-changed"),
                gone=f"the getter {label} is gone: whoever asks it gets "
                "UnknownGetterError",
                changed=f"clients that ask {label} as before are refused, or mean "
                "something else",
            )
            self._readers(after.name, old, there.get(old.name))

    def _readers(self, pallet: str, old: GetterSpec, new: GetterSpec | None) -> None:
        """Whom a getter answers, and of whom."""
        if new is None or new.public == old.public:
            return
        label = f"{pallet}.{old.name}"
        if new.public:
            what = f"{label} told each reader what is his own, and now tells everybody"
        else:
            what = f"{label} told everybody the same, and now each reader what is his"
        self._add(
            self._places.pallet(pallet, old.name),
            "getter-changed",
            f"{what}: clients that ask as before mean something else",
            f"@getter(public={old.public})  # and another name for the other",
        )

    def _signature(
        self,
        pallet: str,
        old: CallSpec | GetterSpec,
        new: CallSpec | GetterSpec | None,
        *,
        head: str,
        answer: str,
        rules: tuple[str, str],
        gone: str,
        changed: str,
    ) -> None:
        """What others ask by its name, with arguments of their version.

        `rules` are the names of what is found if it is gone, and if it has changed.
        """
        if_gone, if_changed = rules
        if new is None:
            kind = if_gone.partition("-")[0]
            self._add(
                self._places.pallet(pallet),
                if_gone,
                gone,
                f"{head}{_arguments(old)}) -> {answer}: raise …  "
                f"# a @{kind} with an error of its own",
            )
            return
        label = f"{pallet}.{old.name}"
        found = self._reader.fields(old.args, new.args, label)
        if found:
            place = self._places.pallet(pallet, old.name)
            if not found.startswith(label):
                place = self._places.field(found, place)
            self._add(
                place,
                if_changed,
                f"{found}: {changed}",
                f"{head}{_arguments(old) or ', *'}, …=…) -> {answer}  "
                "# append arguments, with defaults",
            )

    def _notes(
        self,
        rule: str,
        pallet: PalletSpec,
        before: Iterable[NoteSpec],
        after: Iterable[NoteSpec],
    ) -> None:
        """Names that clients know: of events and of errors."""
        kind = rule.partition("-")[0]
        there = {note.name for note in after}
        for note in before:
            if note.name not in there:
                self._add(
                    self._places.pallet(pallet.name, f"{kind}s"),
                    rule,
                    f"the {kind} {note.name} of `{pallet.name}` is gone, and clients "
                    "know it by its name",
                    f"{kind}s = (…, {note.name})",
                )

    def _add(self, place: Place, rule: str, what: str, write: str) -> None:
        self._found.append(
            Finding(path=place.path, line=place.line, rule=rule, what=what, write=write)
        )


def _structs(metadata: RuntimeMetadata) -> Mapping[str, StructSpec]:
    return {struct.name: struct for struct in metadata.types}


def _arguments(call: CallSpec | GetterSpec) -> str:
    """The arguments as they were written, as far as metadata tells."""
    if not call.args:
        return ""
    kinds = (f"{arg.name}: {shown(arg.spec, bounds=False)}" for arg in call.args)
    return ", *, " + ", ".join(kinds)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _line_in(node: ast.ClassDef, name: str) -> int:
    """Where a class has a name, a method, or a storage item called so; 0: nowhere."""
    for one in node.body:
        match one:
            case ast.FunctionDef(name=found) if found == name:
                return one.lineno
            case ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                return one.lineno
            case ast.Assign(targets=[ast.Name(id=found)]) if found == name:
                return one.lineno
            case (
                ast.AnnAssign(value=ast.Call(args=[first, *_]))
                | ast.Assign(value=ast.Call(args=[first, *_]))
            ) if isinstance(first, ast.Constant) and first.value == name:
                return one.lineno
    return 0
