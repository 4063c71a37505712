"""A referendum, and funds that leave, by nothing but commands of real people.

Every command is a process; two enclaves of the old generation answer, and what
leaves the shard takes the word of both.
"""

import asyncio
from typing import Any

import pytest
from cast import Cast, play
from desk import Desk, Said

pytestmark = pytest.mark.process

STAKE_AGE, PERIOD = 4, 45
TERMS = {
    "threshold": "1/2", "quorum": "1/2", "stake_age": STAKE_AGE, "period": PERIOD,
    "min_voters": 3, "deposit": 5,
}  # fmt: skip
PEOPLE = {"alice": 600, "bob": 300, "carol": 100, "eve": 0}
BLOCK_MS = 300
VIA = ("--via", "stake")


def told(said: Said, code: int, *parts: str) -> None:
    """A refusal in a sentence: why, what was seen, what is wanted, what to do."""
    assert said.code == code, said
    assert "Traceback" not in said.err, said
    assert "bug in sealift" not in said.err, said
    missing = [part for part in parts if part not in said.err]
    assert not missing, (missing, said)


async def once(desk: Desk, found: Any, *words: object) -> Any:
    """What a command shows when it shows what is wanted."""
    while True:
        shown = await desk.look(*words)
        if found(shown):
            return shown


def test_holders_decide_an_upgrade_and_it_comes(make_stage: Any) -> None:
    async def story(cast: Cast) -> None:
        desk = Desk(cast, PEOPLE)
        await desk.found_shard({"stake": TERMS}, "--effects-quorum", 2)
        new = ("--bundle", cast.stage.new.path)
        pause = desk.folder / "pause.bin"
        # what can't be is refused before it costs anything
        asked = await asyncio.gather(
            desk.give("gov", "status", "--mode", "maintenance", "--out", pause,
                      "--card", desk.card),
            desk.as_("alice", "gov", "propose", *VIA, *new, "--at", "+60"),
            desk.as_("eve", "gov", "propose", *VIA, *new, "--at", "+200"),
            desk.as_("alice", "gov", "vote", 0, "--aye", *VIA),
            desk.as_("alice", "gov", "propose", "--via", "tokens", *new),
            desk.as_("alice", "gov", "tally", "--via", "workers"),
        )  # fmt: skip
        assert asked[0].code == 0, asked[0]
        told(asked[1], 2, "too little notice", "got block", "expected >", "Say --at +")
        told(asked[2], 1, "deposit", "got 0 free", "expected ≥ 5", "client shield")
        told(asked[3], 1, "no such poll", "got 0", "none runs now", "gov tally")
        told(asked[4], 2, "'tokens' is not one of 'stake', 'workers'")
        told(asked[5], 1, "no such member", "got WorkersAuthority", "StakeAuthority")

        # two polls: one that hardly anybody cares for, and the upgrade
        idle = await desk.ask("bob", "gov", "propose", *VIA, "--order", pause)
        assert (idle["poll"], idle["kind"], idle["deposit"]) == (0, "StatusOrder", 5)
        assert idle["closes_at"] - idle["opens_at"] == PERIOD
        made, again = await asyncio.gather(
            desk.ask("alice", "gov", "propose", *VIA, *new, "--at", "+88"),
            desk.as_("carol", "gov", "propose", *VIA, "--order", pause),
        )
        told(again, 1, "being voted on already", "votes in poll 0", "gov vote 0")
        assert made["poll"] == 1
        assert made["opens_at"] == made["block"] + STAKE_AGE
        await cast.reach(made["opens_at"])

        # everybody votes at once; a worker carries, or whoever pays
        carrier = ("--payer", desk.key("authority"))
        votes = await asyncio.gather(
            desk.ask("alice", "gov", "vote", 1, "--aye", *VIA),
            desk.ask("bob", "gov", "vote", 1, "--nay", *VIA, *carrier),
            desk.ask("carol", "gov", "vote", 0, "--aye", *VIA),
        )
        assert [one["vote"] for one in votes] == ["aye", "nay", "aye"]
        # a deposit is still its owner's stake
        assert [one["stake"] for one in votes] == [600, 300, 100]
        assert [one["replaces"] for one in votes] == [None] * 3

        # a vote is changed, another one repeated: each counts once
        changed, same, running = await asyncio.gather(
            desk.ask("bob", "gov", "vote", 1, "--aye", *VIA),
            desk.ask("alice", "gov", "vote", 1, "--aye", *VIA),
            desk.ask("carol", "gov", "tally", *VIA),
        )
        assert (changed["vote"], changed["replaces"]) == ("aye", "nay")
        assert (same["vote"], same["replaces"]) == ("aye", "aye")
        rows = {row["poll"]: row for row in running["polls"]}
        assert rows[1]["phase"] == "open"
        assert not {"tally", "ayes", "nays", "voters"} & set(rows[1])
        assert rows[1]["my_vote"] == {"stake": 100, "aye": None}
        third = await desk.ask("carol", "gov", "vote", 1, "--nay", *VIA)
        assert third["block"] < made["closes_at"]
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        wrong = await asyncio.gather(
            desk.as_("eve", "gov", "vote", 1, "--nay", *VIA),
            desk.give("gov", "vote", 1, *VIA, "--card", desk.card,
                      "--key", desk.key("eve")),
            desk.as_("bob", "gov", "vote", made["order"], "--aye", *VIA),
        )  # fmt: skip
        told(wrong[0], 1, "no stake in poll 1", "got 0 tokens", "expected tokens",
             "next poll")  # fmt: skip
        told(wrong[1], 2, "--aye or --nay")
        told(wrong[2], 2, "not the number of a poll", "gov tally")

        await cast.up("new")
        await desk.know("old", "second", "new")

        # the outcome, and numbers only where enough voted
        over = await once(desk, lambda s: not s["polls"], "gov", "tally", *VIA)
        small, large = over["results"]
        assert (small["poll"], small["outcome"], small["tally"]) == (
            0,
            "rejected",
            None,
        )
        assert (large["poll"], large["outcome"]) == (1, "passed")
        assert large["closed_at"] == made["closes_at"]
        assert large["tally"] == {
            "ayes": 900, "nays": 100, "electorate": 1_000, "voters": 3,
        }  # fmt: skip
        late, shown, purse = await asyncio.gather(
            desk.as_("alice", "gov", "vote", 1, "--nay", *VIA),
            desk.give("gov", "tally", *VIA, "--card", desk.card),
            desk.ask("bob", "client", "balance"),
        )
        told(late, 1, "no such poll is running", "got 1", "gov tally")
        assert "fewer voted than can hide each other" in shown.err
        assert purse["balance"] == 295  # the quorum was missed

        # two platforms agree: the decision stands on L1
        history = await once(
            desk, lambda s: len(s["generations"]) > 1, "gov", "history"
        )
        ahead = history["generations"][1]
        assert (ahead["generation"], ahead["order"]) == (1, made["order"])
        assert ahead["recorded_at"] > made["closes_at"]
        posted = [
            at
            for at, act in cast.scan.acts
            if act.endswith(".post_effects") and at <= ahead["recorded_at"]
        ]
        assert len(posted) >= 2 * len(over["results"])
        status = await desk.look("gov", "status")
        assert (status["serial"], status["effects_quorum"]) == (1, 2)
        assert not status["polls"]
        xyz = ahead["upgrade_at"]

        # the new generation runs from XYZ on, with the state
        await cast.until_confirmed(xyz + 2)
        await cast.until_status("new", lambda s: s["ok"] and s["executed"] >= xyz)
        history, held, remembered = await asyncio.gather(
            desk.look("gov", "history"),
            desk.ask("alice", "client", "balance"),
            desk.look("gov", "tally", *VIA),
        )
        rows = history["generations"]
        assert [row["status"] for row in rows][1] == "active"
        assert rows[1]["order"] == made["order"]
        assert held["balance"] == 600  # the deposit came back
        assert remembered["results"] == over["results"]
        paid = await desk.ask("alice", "client", "transfer", desk.accounts["bob"], 5)
        assert paid["outcome"] == "ok"
        assert paid["block"] >= xyz

    play(make_stage(block_ms=BLOCK_MS), story)


def test_funds_come_in_and_leave_once_by_commands(make_stage: Any) -> None:
    async def story(cast: Cast) -> None:
        desk = Desk(cast, PEOPLE)
        await desk.found_shard({"stake": TERMS}, "--effects-quorum", 2)
        payer = ("--payer", desk.key("authority"))
        given = await asyncio.gather(
            desk.ask("eve", "client", "shield", 500, *payer),
            desk.as_("carol", "client", "shield", 500),
            desk.as_("carol", "client", "unshield", 101),
            desk.as_("carol", "client", "unshield", 0),
            desk.as_("nobody", "client", "unshield", 5),
        )
        assert given[0]["amount"] == 500
        told(given[1], 1, "L1", "got", "expected")
        told(given[2], 1)
        assert "InsufficientFundsError" in given[2].out
        told(given[3], 2, "0 is not in the range 1<=x")
        told(given[4], 4, "nobody.json")
        await cast.until_confirmed(given[0]["block"] + 1)

        async def purses() -> tuple[int, int]:
            found = await desk.ask("eve", "client", "balance")
            return found["balance"], found["l1_balance"]

        assert await purses() == (500, 0)
        # one platform's word is too few
        await cast.stop("second")
        left = await desk.give_afresh(
            "client", "unshield", 200, "--confirmed", "--json",
            "--card", desk.card, "--key", desk.key("eve"),
        )  # fmt: skip
        assert desk.answer(left)["outcome"] == "ok"
        await cast.until_status("old", lambda s: s["effects_pending"] == 1)
        assert await purses() == (300, 0)
        # whoever said it dies, the other comes back: it is paid once
        cast.kill("old")
        cast.run_worker("second", cast.stage.worker("second"))
        await cast.up("second")
        await cast.up("old")
        await desk.know("old", "second")

        async def paid() -> bool:
            return await purses() != (300, 0)

        await cast.until(paid, "the funds on L1")
        for name in ("second", "old"):
            await cast.until_status(name, lambda s: s["effects_pending"] == 0)
        await cast.until_confirmed(cast.scan.height + 3)
        assert await purses() == (300, 200)
        more = await desk.as_("eve", "client", "unshield", 301)
        assert more.code == 1, more
        assert await purses() == (300, 200)

    play(make_stage(block_ms=BLOCK_MS), story)
