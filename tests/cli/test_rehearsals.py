"""Terms of rehearsals at the command line, and what was rehearsed, for people."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from shard_world import CHAIN, Enclave, Thread, World

from sealift.base import Generation, Height, ShardId, canonical_decode
from sealift.cli._orders import NoRehearsalsError, rehearsals_order
from sealift.client import read_card
from sealift.crypto import account_of, system_entropy
from sealift.insecure_sim import SimMachine
from sealift.ledger import rehearsal_words
from sealift.protocol import (
    EntryRehearsals,
    RehearsalStatement,
    RehearsalTerms,
    Schedule,
    rehearsals_key,
    schedule_key,
)
from sealift.transport.account import L1Account
from sealift.transport.keys import read_account_key

GATED = ("--rehearsals", 2, "--postpone-by", 600)


@pytest.fixture
def card(govern: Any, boss: Path) -> Path:
    made: Path = govern({"sudo": account_of(read_account_key(boss)).hex()}, *GATED)
    return made


def status(card: Path, sealift: Any) -> dict[str, Any]:
    said = sealift("gov", "status", "--card", card, "--json")
    assert said.code == 0, said
    found: dict[str, Any] = said.json
    return found


class Rehearser:
    """Brings words of instances of the next generation to L1."""

    def __init__(self, world: World, thread: Thread, card: Path) -> None:
        self.world, self.thread = world, thread
        self.shard = ShardId(bytes.fromhex(read_card(card).shard))

    def play(self, name: str, **said: Any) -> None:
        self.thread.play(self._post(name, **said))

    async def _post(self, name: str, **said: Any) -> None:
        world, l1 = self.world, self.world.l1
        machine = SimMachine(world.sim, name, entropy=system_entropy)
        enclave = Enclave(machine, world.enclave.runtime)
        account = L1Account(read_account_key(world.key("operator")), l1, CHAIN)
        await enclave.register(account, l1, self.shard)
        raw = (await l1.abci_query(schedule_key(self.shard))).value
        assert raw is not None
        entry = canonical_decode(Schedule, raw).entry(1)
        await _reached(l1.height, entry.release_from)
        head = await l1.height()
        base: dict[str, Any] = {
            "chain_id": CHAIN,
            "shard": self.shard,
            "generation": entry.generation,
            "order": entry.order,
            "upgrade_at": entry.upgrade_at,
            "signing_key": account_of(enclave.secret),
            "height": Height(head - 2),
            "blocks": 1,
            "good": True,
            "check": "",
            "size": 65_536,
        }
        statement = RehearsalStatement(**(base | said))
        outcome = await account.act(
            "enclave_bridge.post_rehearsal",
            {
                "statement": statement,
                "signature": statement.sign(enclave.secret),
                "milliseconds": 32,
            },
        )
        await _reached(l1.height, outcome.height + 1)  # a block later it is proven


async def _reached(height: Callable[[], Awaitable[int]], wanted: int) -> None:
    while await height() < wanted:
        await asyncio.sleep(0.05)


def test_a_shard_is_created_with_terms_and_shows_them(
    card: Path, govern: Any, boss: Path, sealift: Any
) -> None:
    found = status(card, sealift)
    assert (found["rehearsals_required"], found["postpone_by"]) == (2, 600)
    assert (found["rehearsals_good"], found["rehearsals_change"]) == (0, None)
    assert found["rehearsals"] == []
    plain = govern({"sudo": account_of(read_account_key(boss)).hex()})
    assert status(plain, sealift)["rehearsals_required"] == 0


@pytest.mark.parametrize(
    "words", [("--rehearsals", 2), ("--postpone-by", 20), ("--rehearsals", 99)]
)
def test_terms_that_say_half_are_refused(
    world: World, tiny_bundle: Path, tmp_path: Path, sealift: Any, words: Any
) -> None:
    paper = tmp_path / "a.json"
    paper.write_text(json.dumps({"sudo": "ab" * 32}))
    said = sealift(
        "shard", "create", "--rpc", world.url, "--payer", world.key("payer"),
        "--authority-json", paper, "--bundle", tiny_bundle, *words,
        "--genesis", tmp_path / "g.bin", "--card", tmp_path / "c.json",
    )  # fmt: skip
    assert said.code == 2
    assert "Traceback" not in said.err


def test_what_was_rehearsed_is_shown_platform_by_platform(
    world: World, thread: Thread, card: Path, boss: Path, sealift: Any
) -> None:
    pay = ("--authority", boss, "--payer", world.key("payer"), "--card", card)
    code = f"insecure-sim={world.enclave.identity.mrenclave.hex()}"
    soon = ("--release-from", "+60", "--at", "+90000", "--json")  # a loaded machine
    made = sealift("gov", "schedule", *pay, "--code", code, *soon)
    assert made.code == 0, made
    ahead = status(card, sealift)
    assert "postponed by 600 blocks unless 2 are good" in ahead["rehearsals_outlook"]
    who = Rehearser(world, thread, card)
    who.play("one")
    who.play("two", good=False, check="accounts.post_upgrade")
    found = status(card, sealift)
    assert (found["rehearsals_good"], found["rehearsals_required"]) == (1, 2)
    rows = found["rehearsals"]
    assert [row["verdict"] for row in rows] == ["good", "bad"]
    assert [row["check"] for row in rows] == ["", "accounts.post_upgrade"]
    assert {(row["milliseconds"], row["size"]) for row in rows} == {(32, 65_536)}
    assert len({row["platform"] for row in rows}) == 2
    text = sealift("gov", "status", "--card", card).out
    assert "accounts.post_upgrade" in text
    assert "rehearsals:" in text
    who.play("three")
    assert status(card, sealift)["rehearsals_outlook"] == ""
    raw = thread.play(_raw(world, who.shard))
    words = [rehearsal_words(one) for one in raw.rehearsals]
    assert [": good" in one for one in words] == [True, False, True]
    assert "bad (accounts.post_upgrade)" in words[1]
    assert "at most 32 ms, 65536 B" in words[0]


async def _raw(world: World, shard: ShardId) -> EntryRehearsals:
    entry = await world.l1.abci_query(rehearsals_key(shard, Generation(1)))
    assert entry.value is not None
    return canonical_decode(EntryRehearsals, entry.value)


def test_terms_are_changed_at_the_longest_notice_and_withdrawn(
    world: World, card: Path, boss: Path, sealift: Any
) -> None:
    pay = ("--authority", boss, "--payer", world.key("payer"), "--card", card, "--json")
    few = ("gov", "rehearsals", *pay, "--required", 0)
    soon = sealift(*few, "--at", "+2")
    assert soon.json["error"]["code"] == "HeightWordError"
    assert "longest notice" in soon.json["error"]["message"]
    done = sealift(*few, "--at", "+90000")
    assert done.json["decided"] is True, done
    change = status(card, sealift)["rehearsals_change"]
    assert (change["required"], change["postpone_by"]) == (0, 0)
    assert 80_000 < change["effective_in"] <= 90_000
    assert status(card, sealift)["rehearsals_required"] == 2
    gone = sealift("gov", "withdraw", *pay)
    assert gone.json["decided"] is True, gone
    assert status(card, sealift)["rehearsals_change"] is None
    same = sealift(
        "gov", "rehearsals", *pay, "--required", 2, "--postpone-by", 600,
        "--at", "+90000",
    )  # fmt: skip
    assert same.json["error"]["code"] == "NothingToDoError"
    for words in (
        ("--required", 0, "--postpone-by", 20, "--at", "+90000"),
        ("--required", 1, "--at", "+90000"),
        ("--required", 1, "--postpone-by", 20),
        ("--at", "+90000"),
        (),
    ):
        assert sealift("gov", "rehearsals", *pay, *words).code == 2, words


def test_an_order_for_terms_is_read_before_it_is_signed(
    card: Path, tmp_path: Path, sealift: Any
) -> None:
    order = tmp_path / "terms.bin"
    made = sealift(
        "gov", "rehearsals", "--card", card, "--required", 3, "--postpone-by", 50,
        "--at", "+90000", "--out", order, "--json",
    )  # fmt: skip
    assert made.code == 0, made
    shown = sealift("gov", "sign", order, "--json").json
    assert shown["kind"] == "RehearsalsOrder"
    assert (shown["rehearsals"], shown["postpone_by"]) == (3, 50)


def test_an_l1_of_before_version_3_has_no_terms(
    world: World, thread: Thread, card: Path
) -> None:
    async def schedule() -> Schedule:
        shard = ShardId(bytes.fromhex(read_card(card).shard))
        entry = await world.l1.abci_query(schedule_key(shard))
        assert entry.value is not None
        return canonical_decode(Schedule, entry.value)

    found = thread.play(schedule())
    with pytest.raises(NoRehearsalsError, match="takes no rehearsals"):
        rehearsals_order(found, Height(5), None, RehearsalTerms(), "+90000")
