"""A shard of many accounts for benchmarks: made at genesis, from a seed and a count."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from sealift.base import AccountId, Amount, Message, Nonce
from sealift.crypto import sha256
from sealift.frame import Context, Pallet, RecordMigration, Runtime, StorageMap
from sealift.stf import StandardPallets

from ._release import Release
from ._worker import WorldWorker
from ._world import World

#: What each account that has a key may spend.
FUNDS = 10**6
#: Pages of a shard of a million accounts hold sixteen each.
PAGE_BITS = 16


class CrowdGenesis(Message, kw_only=True, tag=False):
    """How many accounts, and what they are made of."""

    seed: bytes
    count: Annotated[int, msgspec.Meta(ge=0, le=10**7)]


class Member(Message, kw_only=True, tag=False):
    """What the crowd keeps of an account: as much as ``system`` does of its own."""

    nonce: Nonce
    free: Amount
    reserved: Amount


class Crowd(Pallet):
    """Accounts that a genesis blob of some bytes stands for.

    They are the pallet's own, so that the issuance of tokens is what it was.
    """

    name = "crowd"
    storage_version = 1

    members: StorageMap[AccountId, Member] = StorageMap(
        "members", key=AccountId, value=Member
    )

    def genesis(self, ctx: Context, config: CrowdGenesis) -> None:
        """Make the accounts."""
        for number in range(config.count):
            self.members.put(ctx, *crowd_member(config.seed, number))


def crowd_member(seed: bytes, number: int) -> tuple[AccountId, Member]:
    """One account of the crowd."""
    digest = sha256(seed + number.to_bytes(8, "big"))
    nonce, free = Nonce(digest[0]), Amount(int.from_bytes(digest[:4], "big") | 1 << 30)
    return AccountId(digest), Member(nonce=nonce, free=free, reserved=Amount(0))


def crowd_runtime(version: int = 1) -> Runtime:
    """The standard pallets and the crowd, whose layout has the version's number.

    Each version rewrites the record of every account that the one before had.
    """
    crowd = type(
        "Crowd",
        (Crowd,),
        {
            "storage_version": version,
            "migrates_from": 1,
            "record_migrations": tuple(
                RecordMigration.of_map(
                    "members",
                    _renewed,
                    from_version=number,
                    key=AccountId,
                    old=Member,
                    new=Member,
                )
                for number in range(1, version)
            ),
        },
    )
    pallets = [*StandardPallets().pallets, crowd()]
    return Runtime(name="crowd", version=version, pallets=pallets)


def _renewed(_: AccountId, old: Member) -> Member:
    """A record of the next layout."""
    return Member(nonce=Nonce(old.nonce ^ 1), free=old.free, reserved=old.reserved)


def crowd_world(
    folder: Path, accounts: int, *, keyed: int, page_bits: int = PAGE_BITS
) -> tuple[World, Release, WorldWorker]:
    """A world whose first worker runs a shard of so many accounts.

    Args:
        folder: An empty one.
        accounts: All of them.
        keyed: Those of ``user-0`` … that can sign.
        page_bits: Of the shard.
    """
    world = World(folder, page_bits=page_bits)
    release = world.release(crowd_runtime())
    old = world.begin(
        release,
        funds={f"user-{number}": FUNDS for number in range(keyed)},
        genesis={"crowd": {"seed": b"crowd", "count": max(accounts - keyed, 0)}},
    )
    world.blocks(2)
    return world, release, old


class Meter:
    """Seconds spent inside an enclave, by wrapping its one door.

    Args:
        clock: Of the wall, or of the processor: others on the machine don't count.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = 0.0
        self._clock = clock

    def watch(self, worker: WorldWorker) -> None:
        """Count what this worker's enclave does from now on."""
        inner = worker.ask_enclave

        def ask(request: Message) -> Message:
            with self.running():
                return inner(request)

        setattr(worker, "ask_enclave", ask)  # noqa: B010 - a method, replaced

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a piece of work."""
        began = self._clock()
        try:
            yield
        finally:
            self.seconds += self._clock() - began

    def take(self) -> float:
        """What has passed since the last time."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds
