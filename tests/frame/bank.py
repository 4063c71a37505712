"""Sample pallets for the tests: a bank, a wrapper of calls, and a troublemaker."""

import enum
from typing import ClassVar

from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    Height,
    InvariantError,
    Message,
    UnixSeconds,
    decode,
)
from sealift.frame import (
    GETTER_MARK,
    ROOT,
    BlockInfo,
    Context,
    Event,
    Pallet,
    PalletError,
    Runtime,
    RuntimeCall,
    StorageMap,
    StorageValue,
    call,
    ensure_root,
    ensure_signed,
)

ALICE = AccountId(b"a" * 32)
BOB = AccountId(b"b" * 32)
PAGE_KEY = b"k" * 32


class Account(Message, kw_only=True):
    free: Amount
    moves: int = 0


class Transferred(Event, kw_only=True):
    """Funds changed hands."""

    source: AccountId
    dest: AccountId
    amount: Amount


class Forgotten(Event, kw_only=True):
    why: str


class InsufficientFundsError(PalletError):
    """The sender has less than the amount."""


class Deposit(Message, kw_only=True):
    account: AccountId
    amount: Amount


class BankGenesis(Message, kw_only=True):
    deposits: tuple[Deposit, ...]
    motto: str = "trust"


class Bank(Pallet):
    """Balances of accounts."""

    name = "bank"
    events = (Transferred,)
    errors = (InsufficientFundsError,)

    accounts = StorageMap(
        "accounts", key=AccountId, value=Account, default=Account(free=Amount(0))
    )
    total = StorageValue("total", Amount, default=Amount(0))
    motto = StorageValue("motto", str)
    by_pair = StorageMap("by_pair", key=tuple[str, int], value=int)

    def genesis(self, ctx: Context, config: BankGenesis) -> None:
        total = 0
        for deposit in config.deposits:
            self.accounts.put(ctx, deposit.account, Account(free=deposit.amount))
            total += deposit.amount
        self.total.put(ctx, Amount(total))
        self.motto.put(ctx, config.motto)

    @call(weight=100)
    def transfer(self, ctx: Context, *, dest: AccountId, amount: Amount) -> None:
        """Move funds from the signer to another account."""
        source = ensure_signed(ctx.origin)
        mine = self.accounts.get(ctx, source)
        if mine.free < amount:
            raise InsufficientFundsError("too little", got=mine.free, expected=amount)
        left = Amount(mine.free - amount)
        self.accounts.put(ctx, source, Account(free=left, moves=mine.moves + 1))
        theirs = self.accounts.get(ctx, dest)
        more = Amount(theirs.free + amount)
        self.accounts.put(ctx, dest, Account(free=more, moves=theirs.moves))
        ctx.emit(Transferred(source=source, dest=dest, amount=amount))

    def free(self, ctx: Context, reader: AccountId, *, plus: int = 0) -> Account:
        """The reader's own account."""
        mine = self.accounts.get(ctx, reader)
        return Account(free=Amount(mine.free + plus), moves=mine.moves)

    def whole(self, ctx: Context) -> Amount | None:
        return self.total.find(ctx)

    setattr(free, GETTER_MARK, False)
    setattr(whole, GETTER_MARK, True)

    @call(weight=10)
    def close(self, ctx: Context) -> None:
        """Forget the signer's account."""
        self.accounts.delete(ctx, ensure_signed(ctx.origin))

    @call(weight=10)
    def inscribe(self, ctx: Context, *, motto: str, tries: int = 1) -> None:
        ensure_root(ctx.origin)
        self.motto.put(ctx, motto * tries)


class Sudo(Pallet):
    """Whoever signs becomes root: a wrapper."""

    name = "sudo"

    @call(weight=5)
    def sudo(self, ctx: Context, *, call: RuntimeCall) -> None:
        ensure_signed(ctx.origin)
        ctx.dispatch(call, ROOT)

    @call(weight=5)
    def sudo_as(self, ctx: Context, *, call: RuntimeCall) -> None:
        ctx.dispatch(call, ctx.origin)

    @call(weight=5)
    def try_twice(self, ctx: Context, *, call: RuntimeCall) -> None:
        ctx.try_dispatch(call, ctx.origin)
        ctx.try_dispatch(call, ctx.origin)


class HomemadeError(Exception):
    """An application's exception that knows nothing of PalletError."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(Message, kw_only=True):
    weight: int


class Branch(Message, kw_only=True):
    parts: tuple["Leaf | Branch", ...]


class Trouble(Pallet):
    """Every way in which application code goes wrong."""

    name = "trouble"

    noise = StorageMap("noise", key=int, value=str)
    hook_error: ClassVar[type[BaseException] | None] = None

    def on_initialize(self, ctx: Context) -> None:
        self.noise.put(ctx, ctx.block.height, "begun")
        if self.hook_error is not None:
            raise self.hook_error

    def on_finalize(self, ctx: Context) -> None:
        self.noise.put(ctx, 10_000 + ctx.block.height, "done")

    @call(weight=1)
    def fail(self, ctx: Context, *, how: str) -> None:
        self.noise.put(ctx, 1, how)
        kinds: dict[str, BaseException] = {
            "key": KeyError("secret"),
            "zero": ZeroDivisionError("secret"),
            "homemade": HomemadeError("secret"),
            "stop": StopIteration(),
            "os": OSError(5, "secret"),
            "memory": MemoryError(),
            "recursion": RecursionError(),
            "system": SystemError(),
            "invariant": InvariantError("bug"),
            "interrupt": KeyboardInterrupt(),
        }
        if how == "hidden memory":
            try:
                raise kinds["memory"]
            except MemoryError:
                raise HomemadeError from None
        if how == "memory behind a cause":
            try:
                raise kinds["memory"]
            except MemoryError:
                raise HomemadeError from kinds["key"]
        if how == "its own cause":
            raise kinds["zero"] from kinds["zero"]
        raise kinds[how]

    @call(weight=1)
    def parse(self, ctx: Context, *, raw: bytes) -> None:
        decode(Account, raw)
        self.noise.put(ctx, 2, "parsed")

    @call(weight=1)
    def work(self, ctx: Context, *, steps: int) -> None:
        for _ in range(steps):
            ctx.charge(10)
        self.noise.put(ctx, 3, "worked")

    @call(weight=1)
    def emit_undeclared(self, ctx: Context) -> None:
        ctx.emit(Forgotten(why="not in events"))

    @call(weight=1)
    def poison(self, ctx: Context, *, key: int, value: str) -> None:
        self.noise.put(ctx, key, value)

    @call(weight=1)
    def read_unset(self, ctx: Context) -> None:
        self.noise.get(ctx, 424_242)

    @call(weight=1)
    def paint(
        self,
        ctx: Context,
        *,
        colour: Colour,
        tree: Leaf | Branch,
        note: bytes | None = None,
        table: dict[str, list[int]] | None = None,
    ) -> None:
        del colour, tree, table
        self.noise.put(ctx, 4, (note or b"").hex())


def runtime(version: int = 1) -> Runtime:
    return Runtime(name="bank", version=version, pallets=[Bank(), Sudo(), Trouble()])


def block(height: int = 1) -> BlockInfo:
    return BlockInfo(
        chain_id=ChainId("test"), height=Height(height), time=UnixSeconds(height * 5)
    )


def genesis() -> dict[str, object]:
    return {
        "bank": BankGenesis(deposits=(Deposit(account=ALICE, amount=Amount(1000)),))
    }
