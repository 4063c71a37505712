"""A shard whose holders decide, its people, and what they decide on."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sealift.base import encode
from sealift.protocol import (
    EntryStatus,
    Ratio,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    StakeAuthority,
    StakeDecision,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
)
from sealift.stf import BlockOutcome

PLACE = {"chain_id": "test-chain", "shard": b"s" * 32}
CONFIG = ShardConfig(code={"insecure-sim": b"B" * 32})
TERMS = StakeAuthority(
    threshold=Ratio(numerator=1, denominator=2),
    quorum=Ratio(numerator=1, denominator=5),
    stake_age=4,
    period=3,
    min_voters=0,
    deposit=10,
)


def load_world() -> Any:
    """The helpers of this folder's tests, for those of others."""
    if "stf_world" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "stf_world", Path(__file__).with_name("conftest.py")
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["stf_world"] = module
        spec.loader.exec_module(module)
    return sys.modules["stf_world"]


def entry(generation: int = 0, **changes: Any) -> ScheduleEntry:
    return ScheduleEntry(
        **{
            "generation": generation,
            "predecessor": None if generation == 0 else generation - 1,
            "config": CONFIG,
            "order": b"o" * 32,
            "recorded_at": 1,
            "release_from": 1,
            "upgrade_at": 2,
            "since": 2,
            "status": EntryStatus.ACTIVE,
            **changes,
        }
    )


def schedule(
    authority: Any = TERMS, *, serial: int = 0, entries: Any = None, **rules: Any
) -> Schedule:
    return Schedule(
        rules=ShardRules(
            **{
                "authority": authority,
                "genesis": b"g" * 32,
                "min_notice": 5,
                "rescue_after": 10,
                **rules,
            }
        ),
        serial=serial,
        entries=entries or (entry(),),
        status=ShardStatus(),
        **PLACE,
    )


def pause(serial: int = 0, **changes: Any) -> StatusOrder:
    """An order whose heights are no matter."""
    return StatusOrder(
        **{
            **PLACE,
            "serial": serial,
            "status": ShardStatus(mode="maintenance"),
            "expiry": 10_000,
            **changes,
        }
    )


def upgrade(**changes: Any) -> UpgradeOrder:
    return UpgradeOrder(
        **{
            **PLACE,
            "serial": 0,
            "predecessor": 0,
            "config": CONFIG,
            "release_from": 500,
            "upgrade_at": 600,
            "expiry": 10_000,
            **changes,
        }
    )


class Assembly:
    """The people of one shard, each with some tokens."""

    def __init__(
        self, holdings: Iterable[int], terms: Any = TERMS, **more: Any
    ) -> None:
        module = load_world()
        self.people = [module.Person(f"p{n}") for n, _ in enumerate(holdings)]
        endowed = [
            {"account": who.id, "free": free}
            for who, free in zip(self.people, holdings, strict=True)
            if free
        ]
        pallets = more.pop("pallets", ())
        self.schedule = schedule(terms, **more)
        self.world = module.World(
            module.standard_runtime(*pallets), {"balances": {"endowments": endowed}}
        )
        self.decisions: list[StakeDecision] = []

    @property
    def height(self) -> int:
        return self.world.height

    def block(self, *calls: Any, mode: str = "normal") -> BlockOutcome:
        outcome = self.world.run(*calls, mode=mode, schedule=self.schedule)
        self.decisions += [e for e in outcome.effects if isinstance(e, StakeDecision)]
        return outcome

    def outcomes(self, *calls: Any, **more: Any) -> list[str]:
        return [one.receipt.outcome for one in self.block(*calls, **more).receipts]

    def to(self, height: int) -> None:
        """Empty blocks up to and with this one."""
        while self.height < height:
            self.block()

    def proposing(self, who: Any, order: Any = None) -> bytes:
        raw = encode(pause() if order is None else order)
        return self.world.sealed(who, "democracy.propose", order=raw)

    def propose(self, who: Any, order: Any = None) -> Any:
        """A poll, as everybody sees it; raises if there is none."""
        # apart: under ``python -O`` what stands in an assert of a helper is not done
        outcomes = self.outcomes(self.proposing(who, order))
        assert outcomes == ["ok"]
        return self.polls()[-1]

    def vote(self, who: Any, poll: Any, aye: bool = True) -> bytes:
        number = poll if isinstance(poll, int) else poll["poll"]
        return self.world.sealed(who, "democracy.vote", poll=number, aye=aye)

    def transfer(self, who: Any, dest: Any, amount: int) -> bytes:
        return self.world.sealed(who, "balances.transfer", dest=dest.id, amount=amount)

    def unshield(self, who: Any, amount: int) -> bytes:
        return self.world.sealed(
            who, "balances.unshield", beneficiary=b"1" * 32, amount=amount
        )

    def ask(self, who: Any, name: str, *args: Any) -> Any:
        return msgspec.msgpack.decode(self.world.ask(who, f"democracy.{name}", *args))

    def polls(self) -> list[dict[str, Any]]:
        names = (
            "poll",
            "order",
            "kind",
            "proposed_at",
            "opens_at",
            "closes_at",
            "deposit",
        )
        return [
            dict(zip(names, one, strict=True))
            for one in self.ask(self.people[0], "polls")
        ]

    def results(self) -> list[tuple[int, str]]:
        return [(one[0], one[3]) for one in self.ask(self.people[0], "results")]

    def my_vote(self, who: Any, poll: Any) -> Any:
        number = poll if isinstance(poll, int) else poll["poll"]
        return self.ask(who, "my_vote", number)

    def total(self, who: Any) -> int:
        pallet = self.world.pallet("balances")
        funds = pallet.funds(self.world.context(), who.id)
        return funds.free + funds.reserved

    def leftovers(self) -> list[bytes]:
        """Entries of polls in the state, beside numbers and results."""
        kept = (b"democracy/proposed/", b"democracy/results/")
        return [
            key for key, _ in self.world.store.items(b"democracy/") if key not in kept
        ]


SUDO = SudoAuthority(key=b"k" * 32)
