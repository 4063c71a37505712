"""A small application with secrets, and what goes wrong in it."""

from sealift.base import AccountId
from sealift.frame import (
    Context,
    Pallet,
    PalletError,
    Runtime,
    StorageValue,
    call,
)
from sealift.stf import StandardPallets, getter

SECRET = "the winning bid is 4711"


class TellTaleError(PalletError):
    """Something is wrong with the notebook."""


class Notebook(Pallet):
    """One line of text."""

    name = "notebook"
    storage_version = 1
    errors = (TellTaleError,)
    line: StorageValue[str] = StorageValue("line", str, default="")

    @call(weight=10)
    def write(self, ctx: Context, *, text: str) -> None:
        self.line.put(ctx, text)

    @getter(public=False)
    def search(self, ctx: Context, reader: AccountId, *, word: str) -> bool:
        if word not in self.line.get(ctx):
            raise TellTaleError("no such word", got=word)
        return True


class Indiscreet(Notebook):
    """Version 2: its check after the migration says what it has seen."""

    storage_version = 2

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        return

    def post_upgrade(self, ctx: Context, before: object) -> None:
        raise TellTaleError("line is wrong", got=self.line.get(ctx))


def runtime(kind: type[Notebook] = Notebook, version: int = 1) -> Runtime:
    pallets = [*StandardPallets().pallets, kind()]
    return Runtime(name="notebook", version=version, pallets=pallets)
