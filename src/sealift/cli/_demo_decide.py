"""How the demo's shard decides: every form of authority, by its real process.

Nothing here is told to an enclave: what is decided stands on L1, and enclaves
follow L1's proofs (DESIGN §4.5).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec

from sealift.base import (
    AccountId,
    Generation,
    Height,
    canonical_decode,
    encode,
    parse_hex,
    short,
)
from sealift.crypto import account_of, sha256
from sealift.ledger import code_of
from sealift.protocol import (
    AllOf,
    Authority,
    Leaf,
    Order,
    Ratio,
    RotationRequest,
    RulesOrder,
    Schedule,
    ShardConfig,
    ShardRules,
    SignedOrder,
    SignerAuthority,
    StakeAuthority,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    WorkersAuthority,
    config_at,
    leaves,
    schedule_key,
    sign_order,
)
from sealift.transport.account import L1Account, L1RefusedError
from sealift.transport.rpc import L1Client

from ._authority import describe_authority
from ._demo_load import ChainScan, Load, SentCall
from ._demo_parts import PATIENCE, DemoError, Progress
from ._demo_stage import CHAIN_ID, HOLDERS, NEW, OLD, Stage, holder_secret
from ._endorse import endorse

#: Blocks: notice of an upgrade, from its record to the release of the keys.
MIN_NOTICE: Final = 8
#: From the release of the keys to XYZ, on a machine that is not slow.
LEAD: Final = 60
#: Calls under the keys before are taken for so many blocks.
GRACE: Final = 20
RESCUE_AFTER: Final = 200
#: Two of two platforms must agree on every root, effect and new key.
QUORUM: Final = 2
_HALF: Final = Ratio(numerator=1, denominator=2)
_QUARTER: Final = Ratio(numerator=1, denominator=4)
_STAKE: Final = StakeAuthority(
    threshold=_HALF, quorum=_QUARTER, stake_age=6, period=20, min_voters=10
)
_WORKERS: Final = WorkersAuthority(threshold=_HALF, seat_age=4, period=60)
#: Holders who are against everything.
_AGAINST: Final = (3, 7, 11)
#: Blocks for a call, and for what follows from it, to reach L1.
_WAY: Final = 10
_SUDO_CALLS: Final = {
    UpgradeOrder: "enclave_update.update_mrenclave",
    StatusOrder: "enclave_update.set_status",
}


def final_authority(stage: Stage, name: str) -> Authority:
    """Who decides on the upgrade."""
    sudo = SudoAuthority(key=account_of(stage.keys["authority"]))
    signer = SignerAuthority(
        mr_signer=stage.old.mr_signer,
        prod_id=stage.old.isv_prod_id,
        min_svn=stage.old.isv_svn,
    )
    named: dict[str, Authority] = {
        "sudo": sudo,
        "stake": _STAKE,
        "workers": _WORKERS,
        "signer": signer,
        "all-of": AllOf(members=(_STAKE, _WORKERS, signer)),
        "sudo-then-stake": _STAKE,
    }
    return named[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hall:
    """Where everybody who decides is reached."""

    stage: Stage
    l1: L1Client
    http: aiohttp.ClientSession
    scan: ChainScan
    load: Load
    urls: Mapping[str, str]
    progress: Progress
    lead: int = LEAD

    async def schedule(self) -> Schedule:
        """The shard's schedule as it stands on L1.

        Raises:
            DemoError: There is none.
        """
        entry = await self.l1.abci_query(schedule_key(self.stage.shard), prove=False)
        if entry.value is None:
            raise DemoError("the shard has no schedule")
        return canonical_decode(Schedule, entry.value)

    def account(self, name: str) -> L1Account:
        """An account on L1."""
        return L1Account(self.stage.keys[name], self.l1, CHAIN_ID)

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Until something holds.

        Raises:
            DemoError: It does not, for too long.
        """
        deadline = time.monotonic() + PATIENCE
        while not await holds():
            if time.monotonic() > deadline:
                raise DemoError(f"waited in vain for {what}")
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class Government:
    """The demo's shard and those who decide for it.

    Args:
        stage: What was prepared.
        name: The form, as ``--authority`` says.
        ballots: Votes that were cast.
    """

    stage: Stage
    name: str
    ballots: list[SentCall] = field(default_factory=list)

    async def create_shard(self, l1: L1Client) -> None:
        """The shard with its first generation, under its first authority."""
        authority = final_authority(self.stage, self.name)
        if self.name == "sudo-then-stake":
            authority = final_authority(self.stage, "sudo")
        rules = ShardRules(
            authority=authority,
            genesis=sha256(self.stage.genesis),
            min_notice=MIN_NOTICE,
            rescue_after=RESCUE_AFTER,
            root_quorum=QUORUM,
            effects_quorum=QUORUM,
            rotation_quorum=QUORUM,
            grace=GRACE,
        )
        account = L1Account(self.stage.keys["authority"], l1, CHAIN_ID)
        await account.act(
            "enclave_bridge.create_shard", {"rules": rules, "config": self._config(OLD)}
        )

    async def schedule_upgrade(self, hall: Hall) -> tuple[int, int]:
        """Step 2: the authority decides; the blocks XYZ and of the keys' release."""
        if self.name == "sudo-then-stake":
            await self._hand_over(hall)
        schedule = await hall.schedule()
        order = self._upgrade(hall, schedule)
        await self._decide(hall, schedule, order)
        return order.upgrade_at, order.release_from

    async def rotate(self, hall: Hall) -> None:
        """New keys for the shard, decided as an upgrade is."""
        schedule = await hall.schedule()
        floor = Height(hall.scan.height)
        order = StatusOrder(
            chain_id=CHAIN_ID,
            shard=self.stage.shard,
            serial=schedule.serial,
            status=msgspec.structs.replace(schedule.status, not_before=floor),
            expiry=Height(floor + self._blocks(schedule) + _WAY),
            rotate=RotationRequest(not_before=floor, grace=GRACE),
        )
        await self._decide(hall, schedule, order)

    # --- orders ---

    def _config(self, workers: tuple[str, ...]) -> ShardConfig:
        """Version 1 for the old workers, version 2 for the new ones."""
        bundle = self.stage.old if workers == OLD else self.stage.new
        members = tuple(leaves(final_authority(self.stage, self.name)))
        config = ShardConfig(
            code={"insecure-sim": bundle.fingerprint}, min_isv_svn=bundle.isv_svn
        )
        if any(isinstance(one, WorkersAuthority) for one in members):
            operators = tuple(account_of(self.stage.keys[name]) for name in workers)
            config = msgspec.structs.replace(config, operators=operators)
        if any(isinstance(one, SignerAuthority) for one in members):
            config = msgspec.structs.replace(
                config,
                mr_signer=bundle.mr_signer,
                isv_prod_id=bundle.isv_prod_id,
            )
        return config

    def _upgrade(self, hall: Hall, schedule: Schedule) -> UpgradeOrder:
        release = hall.scan.height + self._blocks(schedule) + MIN_NOTICE
        return UpgradeOrder(
            chain_id=CHAIN_ID,
            shard=self.stage.shard,
            serial=schedule.serial,
            predecessor=Generation(0),
            config=self._config(NEW),
            release_from=Height(release),
            upgrade_at=Height(release + hall.lead),
            expiry=Height(release),
        )

    def _blocks(self, schedule: Schedule) -> int:
        """How many blocks a decision takes at most."""
        blocks = _WAY
        for one in leaves(schedule.rules.authority):
            blocks += _WAY
            if isinstance(one, StakeAuthority):
                blocks += one.stake_age + one.period
        return blocks

    async def _hand_over(self, hall: Hall) -> None:
        """Sudo gives the shard to its holders, and has no say from then on."""
        schedule = await hall.schedule()
        order = RulesOrder(
            chain_id=CHAIN_ID,
            shard=self.stage.shard,
            serial=schedule.serial,
            rules=msgspec.structs.replace(
                schedule.rules, authority=final_authority(self.stage, self.name)
            ),
            effective_at=Height(
                hall.scan.height + 2 * _WAY + schedule.rules.longest_notice
            ),
            expiry=Height(hall.scan.height + 2 * _WAY),
        )
        await self._decide(hall, schedule, order)
        hall.progress.decided(f"other rules act from block {order.effective_at} on")
        await hall.scan.reach(order.effective_at + 1)
        refused, log = 0, "it was taken"
        late = self._upgrade(hall, await hall.schedule())
        try:
            await hall.account("carrier").act(
                "enclave_bridge.submit_order",
                {"order": sign_order(late, self.stage.keys["authority"])},
            )
        except L1RefusedError as error:
            refused, log = error.refusal, error.log
        hall.progress.check(
            "sudo's word counts no more once the holders decide",
            ok=refused == code_of("OrderSignatureError"),
            detail=log[:80],
        )

    # --- those who decide ---

    async def _decide(self, hall: Hall, schedule: Schedule, order: Order) -> None:
        """Every member by its own process, until L1 carries the order out.

        Raises:
            DemoError: It does not, or before all members are for it.
        """
        kind = type(order).__name__
        hall.progress.decided(f"{kind} {short(order.digest())} is to be decided")
        members = tuple(leaves(schedule.rules.authority))
        for number, leaf in enumerate(members, 1):
            hall.progress.decided(f"now: {describe_authority(leaf)}")
            await self._by(leaf)(hall, order)
            if number < len(members):
                await self._require_undecided(hall, order)

        async def recorded() -> bool:
            return (await hall.schedule()).serial > order.serial

        await hall.until(recorded, f"{kind} to be carried out")
        hall.progress.decided(f"L1 has carried {kind} {short(order.digest())} out")

    def _by(self, leaf: Leaf) -> Callable[[Hall, Order], Awaitable[None]]:
        match leaf:
            case SudoAuthority():
                return self._by_sudo
            case StakeAuthority():
                return self._by_stake
            case WorkersAuthority():
                return self._by_workers
            case SignerAuthority():
                return self._by_signer

    async def _require_undecided(self, hall: Hall, order: Order) -> None:
        await hall.scan.reach(hall.scan.height + 1)
        if (await hall.schedule()).serial != order.serial:
            raise DemoError("an order was carried out before all members were for it")
        hall.progress.decided("not carried out: others have to be for it, too")

    async def _by_sudo(self, hall: Hall, order: Order) -> None:
        """A TrustedCall by the shard's sudo; a worker carries its order to L1."""
        secret = self.stage.keys["authority"]
        call = _SUDO_CALLS.get(type(order), "enclave_update.send_order")
        args: dict[str, object] = {"order": encode(sign_order(order, secret))}
        sent = await hall.load.send_as(secret, call, args)
        await self._until_executed(hall, [sent])

    async def _by_signer(self, hall: Hall, order: Order) -> None:
        """The vendor's RSA key signs the order; anybody carries it to L1."""
        signed = endorse(SignedOrder(order=order), (), (self.stage.vendor,))
        await hall.account("carrier").act(
            "enclave_bridge.submit_order", {"order": signed}
        )

    async def _by_workers(self, hall: Hall, order: Order) -> None:
        """The operators of the generation that runs vote on L1, one by one."""
        schedule = await hall.schedule()
        running = config_at(schedule, hall.scan.height + 1).generation
        first, second = OLD if running == 0 else NEW
        await hall.account(first).act(
            "council.propose",
            {"order": order, "signing_key": await self._instance(hall, first)},
        )
        hall.progress.decided(f"the operator of {first} moves it: 1 of 2 platforms")
        await self._require_undecided(hall, order)
        await hall.account(second).act(
            "council.vote",
            {
                "shard": self.stage.shard,
                "order": order.digest(),
                "signing_key": await self._instance(hall, second),
                "aye": True,
            },
        )
        hall.progress.decided(f"the operator of {second} is for it: 2 of 2 platforms")

    async def _instance(self, hall: Hall, name: str) -> AccountId:
        async with hall.http.get(hall.urls[name] + "/v1/status") as answer:
            status: dict[str, Any] = await answer.json()
        return AccountId(parse_hex(str(status["signing_key"])))

    async def _by_stake(self, hall: Hall, order: Order) -> None:
        """Holders vote in the enclave; two platforms carry the result to L1."""
        before = hall.scan.count("enclave_bridge.post_effects")
        proposal: dict[str, object] = {"order": encode(order)}
        sent = await hall.load.send_as(holder_secret(0), "democracy.propose", proposal)
        await self._until_executed(hall, [sent])
        poll = await self._poll(hall, order)
        number, opens, closes = poll["poll"], poll["opens_at"], poll["closes_at"]
        hall.progress.decided(
            f"poll {number}: stake of blocks {poll['proposed_at']} … {opens} counts, "
            f"votes until {closes}"
        )
        await hall.scan.reach(opens)
        # The second holder is against it first, and changes its mind.
        said = [
            (1, False),
            *((voter, voter not in _AGAINST) for voter in range(HOLDERS)),
        ]
        ballots = [await self._vote(hall, who, number, aye=aye) for who, aye in said]
        self.ballots += ballots
        await self._until_executed(hall, ballots)
        hall.progress.decided(
            f"{len(ballots)} ballots of {HOLDERS} holders, all carried by one account"
        )
        await hall.scan.reach(closes)

        async def told() -> bool:
            return any(one["poll"] == number for one in await self._results(hall))

        await hall.until(told, f"the result of poll {number}")
        result = next(one for one in await self._results(hall) if one["poll"] == number)
        hall.progress.decided(f"poll {number} {result['outcome']}: {_tally(result)}")

        async def carried() -> bool:
            words = hall.scan.count("enclave_bridge.post_effects") - before
            return words >= QUORUM

        await hall.until(carried, "two platforms' words on the result")
        hall.progress.decided("two platforms have said so on L1")

    async def _poll(self, hall: Hall, order: Order) -> dict[str, Any]:
        for poll in await self._ask(hall, "democracy.polls"):
            if str(poll["order"]).removeprefix("0x") == order.digest().hex():
                return poll
        raise DemoError("the proposal opened no poll", got=order.digest())

    async def _results(self, hall: Hall) -> list[dict[str, Any]]:
        return await self._ask(hall, "democracy.results")

    async def _ask(self, hall: Hall, getter: str) -> list[dict[str, Any]]:
        schedule = await hall.schedule()
        running = config_at(schedule, hall.scan.height + 1).generation
        url = hall.urls[(OLD if running == 0 else NEW)[0]]
        found = await hall.load.ask_as(holder_secret(0), getter, {}, url, hall.http)
        return msgspec.convert(found, list[dict[str, Any]])

    async def _vote(self, hall: Hall, voter: int, poll: int, *, aye: bool) -> SentCall:
        args: dict[str, object] = {"poll": poll, "aye": aye}
        return await hall.load.send_as(holder_secret(voter), "democracy.vote", args)

    async def _until_executed(self, hall: Hall, calls: list[SentCall]) -> None:
        async def executed() -> bool:
            return all(hall.load.outcome(one) is not None for one in calls)

        await hall.until(executed, "the shard to execute what was decided with")
        for one in calls:
            outcome = hall.load.outcome(one)
            if outcome != "ok":
                raise DemoError("the shard refused a call", got=outcome, expected="ok")


def _tally(result: Mapping[str, Any]) -> str:
    tally = result["tally"]
    if tally is None:
        return "too few voted to tell how"
    return (
        f"{tally['ayes']} for, {tally['nays']} against, of {tally['electorate']} in "
        f"all, {tally['voters']} voters"
    )
