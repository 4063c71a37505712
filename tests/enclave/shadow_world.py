"""An application with notes in two layouts, and an upgrade from one to the other."""

from typing import Any

from enclave_world import (
    ALICE,
    CODE_A,
    CODE_B,
    GENESIS,
    FakePlatform,
    Host,
    World,
    entry,
    schedule,
)

from sealift.base import AccountId, Message
from sealift.crypto import account_of
from sealift.frame import (
    BlockInfo,
    Context,
    MigratingMap,
    Overlay,
    Pallet,
    PalletError,
    RecordMigration,
    Runtime,
    StorageMap,
    StorageValue,
    call,
    ensure_signed,
)
from sealift.protocol import EntryStatus
from sealift.protocol import ecall as e
from sealift.stf import StandardPallets


class NoteV1(Message, kw_only=True):
    text: str


class NoteV2(Message, kw_only=True):
    text: str
    words: int


class Notes(Pallet):
    """Version 1."""

    name = "notes"
    notes = StorageMap("notes", key=tuple[AccountId, int], value=NoteV1)

    @call(weight=10)
    def write(self, ctx: Context, *, at: int, text: str) -> None:
        self.notes.put(ctx, (ensure_signed(ctx.origin), at), NoteV1(text=text))

    @call(weight=10)
    def fill(self, ctx: Context, *, first: int, count: int, text: str) -> None:
        who = ensure_signed(ctx.origin)
        for at in range(first, first + count):
            self.notes.put(ctx, (who, at), NoteV1(text=text))

    @call(weight=10)
    def erase(self, ctx: Context, *, at: int) -> None:
        self.notes.delete(ctx, (ensure_signed(ctx.origin), at))


def counted(key: tuple[AccountId, int], old: NoteV1) -> NoteV2 | None:
    if old.text.startswith("bad"):
        raise ValueError(old.text, key)
    if old.text.startswith("starve"):
        raise MemoryError
    return None if old.text == "drop" else NoteV2(text=old.text, words=len(old.text))


class Notes2(Pallet):
    """Version 2: records migrate by themselves, the total by the hook."""

    name = "notes"
    storage_version = 2
    fault = ""
    papers = StorageMap("papers", key=tuple[AccountId, int], value=NoteV2)
    total: StorageValue[int] = StorageValue("total", int)
    record_migrations = (
        RecordMigration.of_map(
            "notes",
            counted,
            from_version=1,
            key=tuple[AccountId, int],
            old=NoteV1,
            new=NoteV2,
            to="papers",
        ),
    )

    @call(weight=10)
    def write(self, ctx: Context, *, at: int, text: str) -> None:
        who = ensure_signed(ctx.origin)
        self.papers.put(ctx, (who, at), NoteV2(text=text, words=len(text)))

    @call(weight=10)
    def fill(self, ctx: Context, *, first: int, count: int, text: str) -> None:
        if self.fault == "interpreter":
            raise SystemError
        for at in range(first, first + count):
            self.write(ctx, at=at, text=text)

    @call(weight=10)
    def erase(self, ctx: Context, *, at: int) -> None:
        self.papers.delete(ctx, (ensure_signed(ctx.origin), at))

    def pre_upgrade(self, ctx: Context) -> bytes:
        self.fails("pre_upgrade")
        notes = Notes.notes.of(self.name).items(ctx)
        return str(sum(note.text != "drop" for _, note in notes)).encode()

    def on_runtime_upgrade(self, ctx: Context, from_version: int) -> None:
        self.fails("on_runtime_upgrade")
        self.total.put(ctx, sum(note.words for _, note in self.papers.items(ctx)))
        while self.fault == "loop":
            self.total.get(ctx)

    def post_upgrade(self, ctx: Context, before: bytes) -> None:
        self.fails("post_upgrade")
        if str(len(self.papers.items(ctx))).encode() != before:
            raise PalletError("notes were lost")

    def fails(self, hook: str) -> None:
        if self.fault == hook:
            raise PalletError("a secret of the state")


class NotesStepped(Pallet):
    """Version 2 that needs many blocks to come to the same."""

    name = "notes"
    storage_version = 2
    fault = ""
    papers = MigratingMap(
        "papers",
        key=tuple[AccountId, int],
        value=NoteV2,
        before="notes",
        old=NoteV1,
        change=lambda _, old: NoteV2(text=old.text, words=len(old.text)),
    )

    @call(weight=10)
    def write(self, ctx: Context, *, at: int, text: str) -> None:
        who = ensure_signed(ctx.origin)
        self.papers.put(ctx, (who, at), NoteV2(text=text, words=len(text)))

    @call(weight=10)
    def check(self, ctx: Context, *, at: int, text: str) -> None:
        who = ensure_signed(ctx.origin)
        if self.papers.get(ctx, (who, at)) != NoteV2(text=text, words=len(text)):
            raise PalletError("not what was written")

    def migrate_step(
        self, ctx: Context, from_version: int, cursor: bytes | None
    ) -> bytes | None:
        if self.fault == "step":
            raise PalletError("a secret of the state")
        return self.papers.step(ctx, cursor, records=20)


def runtime(version: int, pallet: Pallet | None = None) -> Runtime:
    made = pallet or (Notes() if version == 1 else Notes2())
    return Runtime(
        name="test", version=version, pallets=[*StandardPallets().pallets, made]
    )


class Upgrade:
    """Code B is to run from block XYZ; ``new`` has the copy and follows."""

    def __init__(
        self,
        *,
        code: Runtime | None = None,
        notes: int = 60,
        notice: int = 12,
        text: str = "two words",
    ) -> None:
        self.world = World(runtime=runtime(1))
        self.l1, self.old = self.world.l1, self.world.host
        self.nonce = 0
        self.code = code or runtime(2)
        if notes:
            self.block("fill", first=0, count=notes, text=text)
            self.l1.block()
            self.old.run()
        self.world.confirm()
        self.old.run()
        self.xyz = self.l1.height + notice
        self.put(EntryStatus.PENDING)
        self.l1.block()
        self.old.run()
        self.genesis = GENESIS
        self.new = self.instance()
        self.snapshot = self.old.export()
        self.new.offer(self.snapshot)

    def instance(self, seed: bytes = b"new", **options: Any) -> Host:
        options.setdefault("runtime", self.code)
        made = self.world.twin(
            platform=FakePlatform(CODE_B, machine=seed), seed=seed, **options
        )
        made.follow()
        return made

    def put(self, status: EntryStatus, *more: Any, old: str = "active") -> None:
        self.l1.ledger.schedule = schedule(
            entry(0, CODE_A, 3, status=EntryStatus(old)),
            entry(
                1,
                CODE_B,
                self.xyz,
                status=status,
                order=b"o" * 32,
                recorded_at=6,
                release_from=self.xyz - 8,
            ),
            *more,
        )

    def block(self, name: str = "", **args: Any) -> int:
        """One block, with a call of Alice's if one is named."""
        if hasattr(self, "xyz") and self.l1.height + 1 == self.xyz:
            self.put(EntryStatus.ACTIVE, old="retired")
        if not name:
            return self.l1.block()
        sealed = self.old.seal(ALICE, f"notes.{name}", nonce=self.nonce, **args)
        self.nonce += 1
        return self.l1.block(self.l1.invoke(sealed))

    def hand(self, to: Host | None = None, upto: int | None = None) -> None:
        """The old one executes; its diffs go to the new one."""
        self.old.run()
        taker = to or self.new
        taker.follow()
        for height in sorted(self.old.diffs):
            if upto is not None and height > upto:
                return
            if taker.status().state_height == height - 1:
                taker.call(e.DiffApply(diff=self.old.diffs[height]))

    def to_xyz(self) -> None:
        """Up to the header that commits to XYZ; the copy stands at XYZ - 1."""
        while self.l1.height < self.xyz + 1:
            self.block()
            self.hand(upto=self.xyz - 1)
        self.hand(upto=self.xyz - 1)

    @property
    def shadow(self) -> Any:
        return self.new.enclave._shard.shadow

    def rehearse(self, host: Host | None = None) -> Any:
        return (host or self.new).call(e.Rehearse())


def papers(host: Host) -> dict[int, str]:
    """Alice's notes as the state has them in version 2."""
    store = host.enclave._shard.state.store
    ctx = host.runtime.context(*reading(store))
    who = account_of(ALICE)
    return {
        at: note.text
        for (writer, at), note in Notes2.papers.items(ctx)
        if writer == who
    }


def reading(store: Any) -> tuple[Overlay, BlockInfo]:
    """What a context over a state is made of."""
    block = BlockInfo(chain_id="x", height=1, time=1, shard=b"s" * 32)
    return Overlay.over(store), block
