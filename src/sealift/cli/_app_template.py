"""The files of a new application; ``{name}`` and ``{kind}`` stand for its names."""

from collections.abc import Mapping
from typing import Final

_TOML: Final = """\
# What `sealift build` measures is app/ and nothing else of this folder.
name = "{name}"
version = "1.0.0"
# Yours among your products, and its security version: raise it with every release.
isv_prod_id = 1
isv_svn = 1
runtime = "{name}.runtime:runtime"
"""

_GENESIS: Final = """\
{{"{name}": {{"longest": 80}}}}
"""

_PYPROJECT: Final = """\
# For `pytest`, `ruff check`, `ruff format` and `mypy` in this folder.
[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["app"]

[tool.ruff]
line-length = 88
src = ["app", "tests"]
target-version = "py311"

[tool.ruff.lint]
select = ["ALL"]
ignore = ["COM812", "CPY001", "D203", "D213", "EM", "ISC001", "TC", "TRY003"]

[tool.ruff.lint.per-file-ignores]
"tests/**" = ["S101", "INP001", "PLR2004"]

[tool.mypy]
strict = true
mypy_path = "app"
packages = ["{name}"]
"""

_INIT: Final = '''\
"""{kind}, a confidential application."""
'''

_PALLET: Final = '''\
"""Everybody keeps one text, which nobody else can read.

Replace it by what your application does. Calls keep one rhythm: origin, checks,
effects, event. There is no clock but ``ctx.block.time``, no float, no randomness,
no order of sets, and no memory but the storage items.
"""

from typing import Annotated

import msgspec
from sealift.base import AccountId, Height, Message
from sealift.frame import (
    Context,
    Event,
    Pallet,
    PalletError,
    StorageMap,
    StorageValue,
    call,
    ensure_signed,
)
from sealift.stf import getter

#: What is longer is refused before a call is decoded.
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Note(Message, kw_only=True):
    """A text, and the block in which it was written."""

    text: str
    written_at: Height


class NoteKept(Event, kw_only=True):
    """The caller's text is kept; only the caller's receipt tells."""

    length: int


class TooLongError(PalletError):
    """The text is longer than this shard allows."""


class FirstState(Message, kw_only=True):
    """Genesis: the longest text that this shard allows."""

    longest: int


class {kind}Pallet(Pallet):
    """One text of everybody, readable by its writer."""

    name = "{name}"
    #: Raise it when a storage item changes, and write ``on_runtime_upgrade``.
    storage_version = 1
    events = (NoteKept,)
    errors = (TooLongError,)

    notes: StorageMap[AccountId, Note] = StorageMap("notes", key=AccountId, value=Note)
    count: StorageValue[int] = StorageValue("count", int, default=0)
    longest: StorageValue[int] = StorageValue("longest", int)

    def genesis(self, ctx: Context, config: FirstState) -> None:
        """Write what `genesis.json` says into the first state."""
        self.longest.put(ctx, config.longest)

    @call(weight=50)
    def keep(self, ctx: Context, *, text: Text) -> None:
        """Keep a text instead of the last one."""
        writer = ensure_signed(ctx.origin)

        longest = self.longest.get(ctx)
        if len(text) > longest:
            raise TooLongError("text is too long", got=len(text), expected=longest)

        if not self.notes.contains(ctx, writer):
            self.count.put(ctx, self.count.get(ctx) + 1)
        self.notes.put(ctx, writer, Note(text=text, written_at=ctx.block.height))

        ctx.emit(NoteKept(length=len(text)))

    @getter(public=False)
    def mine(self, ctx: Context, reader: AccountId) -> str | None:
        """Tell the reader's own text."""
        note = self.notes.find(ctx, reader)
        return None if note is None else note.text

    @getter(public=True)
    def how_many(self, ctx: Context) -> int:
        """Tell how many accounts keep a text."""
        return self.count.get(ctx)
'''

_RUNTIME: Final = '''\
"""The runtime that the bundle names: standard pallets and our own."""

from sealift.frame import Runtime
from sealift.stf import StandardPallets

from .pallet import {kind}Pallet

standard = StandardPallets()
runtime = Runtime(
    name="{name}",
    version=1,
    pallets=[*standard.pallets, {kind}Pallet()],
)
'''

_TEST: Final = '''\
"""The application in a world of its own: L1, enclaves, users, and an upgrade."""

import json
from pathlib import Path

from sealift.testing import World

from {name}.runtime import runtime

GENESIS = json.loads((Path(__file__).parents[1] / "genesis.json").read_text())


def test_a_text_is_its_writers_own(tmp_path: Path) -> None:
    """Nobody but alice reads what alice wrote."""
    world = World(tmp_path)
    world.begin(world.release(runtime), genesis=GENESIS)
    alice, bob = world.user("alice"), world.user("bob")
    kept = alice.call("{name}.keep", text="buy milk")
    world.blocks(2)
    assert kept.receipt().outcome == "ok"
    assert alice.ask("{name}.mine") == "buy milk"
    assert bob.ask("{name}.mine") is None
    assert bob.ask("{name}.how_many") == 1


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """The call fails by name, and changes nothing."""
    world = World(tmp_path)
    world.begin(world.release(runtime), genesis=GENESIS)
    alice = world.user("alice")
    kept = alice.call("{name}.keep", text="x" * 81)
    world.blocks(2)
    assert kept.receipt().outcome == "TooLongError"
    assert alice.ask("{name}.how_many") == 0


def test_the_state_survives_an_upgrade_and_a_restart(tmp_path: Path) -> None:
    """Give `release` the runtime of your next version, with its migration."""
    world = World(tmp_path)
    old = world.begin(world.release(runtime), genesis=GENESIS)
    alice = world.user("alice")
    alice.call("{name}.keep", text="buy milk")
    world.blocks(2)
    v2 = world.release(runtime, sources={{"pallet.py": b"# another MRENCLAVE"}})
    entry = world.schedule(v2)
    world.run_until(entry.release_from)
    new = world.worker("new", v2, upstream=old)
    new.request_keys(old)
    world.run_until(entry.upgrade_at + 2)
    new.restart()
    assert new.executions[0] == entry.upgrade_at
    assert alice.ask("{name}.mine") == "buy milk"
'''

_README: Final = """\
# {kind}

A confidential application for Sealift.

| | |
|---|---|
| `app/{name}/pallet.py` | what it does: storage, calls, getters, genesis |
| `app/{name}/runtime.py` | what it is composed of |
| `sealift.toml` | name, version, product id, security version |
| `genesis.json` | the first state of its own pallets |
| `tests/` | its tests, in a world in one process |

What stands in `app/` is measured: one changed byte is another MRENCLAVE.

## The loop

```console
$ pytest                 # the application, and its upgrade, without any process
$ sealift app check      # refuses clocks, floats, randomness, the order of sets …
$ sealift dev            # a chain, the simulator and a worker, in the foreground
```

While `sealift dev` runs, edit what you like and press `u`: the next version is
checked against the one that runs, built, scheduled, and takes over its state live.

If you change a storage item, raise `storage_version` of its pallet and write
`on_runtime_upgrade`; `sealift app check --against OLD.bundle` names what is missing
and the line to write. Keep calls as they are and append arguments with defaults:
calls wait sealed on L1 while the code changes.

## A release

```console
$ sealift build . --trust-root chain/trust_root.json --root root.der \\
    --previous {name}-1.0.0.bundle --key vendor.pem -o {name}-1.1.0.bundle
```
"""

#: Path in the new folder, and what stands there.
FILES: Final[Mapping[str, str]] = {
    "README.md": _README,
    "sealift.toml": _TOML,
    "genesis.json": _GENESIS,
    "pyproject.toml": _PYPROJECT,
    "app/{name}/__init__.py": _INIT,
    "app/{name}/pallet.py": _PALLET,
    "app/{name}/runtime.py": _RUNTIME,
    "tests/test_{name}.py": _TEST,
}
