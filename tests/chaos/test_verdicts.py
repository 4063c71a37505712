"""The campaign's judges, shown what they are there to find."""

import asyncio
import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealift.base import Fingerprint, decode
from sealift.cli import _chaos, run_cli
from sealift.cli._application import (
    application_metadata,
    example,
    read_application,
)
from sealift.cli._chaos import Campaign, told
from sealift.cli._chaos_ground import in_time
from sealift.cli._chaos_hosts import HotSwap, Seen, TwoWorkers
from sealift.cli._chaos_judge import Replay, judge_calls, judge_roots
from sealift.cli._chaos_load import Books, Tracked, TrackedLoad
from sealift.cli._chaos_parts import ChaosError, Ended, Part, Parts, children
from sealift.cli._chaos_plan import SPAN, SWAP_VICTIMS, VICTIMS, Kill, plan
from sealift.cli._chaos_run import Run, Struck, Verdict
from sealift.cli._chaos_trace import Trace
from sealift.crypto import HpkeSuite, hpke_generate, sha256, system_entropy
from sealift.frame import RuntimeMetadata
from sealift.ledger import code_of
from sealift.transport.account import L1RefusedError
from sealift.transport.files import FileError

ONE, TWO = sha256(b"one"), sha256(b"two")


def root(height: int) -> bytes:
    return sha256(b"root %d" % height)


def said(first: int, last: int, prev: bytes | None = None, **other: Any) -> Any:
    fields = {
        "first": first,
        "last": last,
        "prev_root": root(first - 1) if prev is None else prev,
        "root": root(last),
    }
    return (last + 2, SimpleNamespace(**(fields | other)))


def replayed() -> Replay:
    done = Replay(roots={height: root(height) for height in range(1, 10)})
    for envelope, index in ((ONE, 0), (TWO, 1)):
        done.heard(receipt(envelope, 5, index))
    return done


def receipt(envelope: bytes, height: int, index: int) -> Any:
    return SimpleNamespace(envelope=envelope, height=height, index=index)


def scan(*confirmations: Any) -> Any:
    return SimpleNamespace(
        confirmations=list(confirmations), calls={ONE: (5, 0), TWO: (5, 3)}
    )


def test_good_roots_are_good() -> None:
    assert judge_roots(scan(said(3, 4), said(5, 9)), replayed(), upto=9) == []


@pytest.mark.parametrize(
    ("confirmations", "word"),
    [
        ([said(3, 4), said(6, 9)], "block 6 is confirmed after 4"),
        ([said(3, 4), said(5, 9, prev=bytes(32))], "breaks after block 4"),
        ([said(3, 4), said(5, 9, root=bytes(32))], "block 9 has 0000"),
        ([said(3, 4)], "confirmed up to 4, expected 9"),
        ([], "confirmed up to None"),
    ],
)
def test_roots_that_differ_are_said(confirmations: list[Any], word: str) -> None:
    found = judge_roots(scan(*confirmations), replayed(), upto=9)
    assert any(word in one for one in found), found


def test_good_calls_are_good() -> None:
    had = {ONE: {"old": receipt(ONE, 5, 0)}, TWO: {"old": receipt(TWO, 5, 1)}}
    assert judge_calls(scan(), replayed(), had, upto=9) == []


def bent(**changes: Any) -> tuple[Any, Replay, dict[bytes, Any]]:
    had = {ONE: {"old": receipt(ONE, 5, 0)}, TWO: {"new": receipt(TWO, 5, 1)}}
    done = replayed()
    if "places" in changes:
        done.places |= changes["places"]
        for envelope, place in changes["places"].items():
            done.copies[envelope] = {place}
    return scan(), done, had | changes.get("had", {})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"had": {TWO: {}}}, "is lost"),
        ({"had": {TWO: {"new": receipt(TWO, 6, 0)}}}, "undisturbed at (5, 1)"),
        ({"places": {TWO: (6, 0)}}, "is executed in 6"),
        ({"places": {ONE: (5, 2)}}, "reordered"),
    ],
)
def test_calls_that_went_wrong_are_said(changes: dict[str, Any], word: str) -> None:
    found = judge_calls(*bent(**changes), upto=9)
    assert any(word in one for one in found), found


def test_a_call_that_nobody_should_have_seen_is_said() -> None:
    done = replayed()
    del done.places[TWO]
    found = judge_calls(scan(), done, {}, upto=9)
    assert any("no undisturbed place" in one for one in found)


# --- books ---


def tracked(user: int, **effect: int) -> Tracked:
    sent: Any = SimpleNamespace(envelope=ONE)
    return Tracked(sent, b"", user, 0, **effect)


def test_books_add_up() -> None:
    books = Books()
    for call in (
        tracked(21, bid=11),
        tracked(21, bid=14),
        tracked(22, paid=5, dest=24),
        tracked(24, paid=2, dest=22),
    ):
        books.settle(call)
    assert books.nonces == {21: 2, 22: 1, 24: 1}
    assert books.bids == {21: 14}
    assert books.free == {21: 999_986, 22: 999_997, 24: 1_000_003}


class ForgetfulL1:
    """Takes calls in, and forgets them until it is told to keep them."""

    def __init__(self) -> None:
        self.height, self.calls, self.taken = 100, {}, []
        self.hashes: dict[int, bytes] = {}
        self.down = False

    async def send(self, call: str, args: dict[str, Any]) -> bytes:
        if self.down:
            raise ChaosError("L1 is down")
        self.taken.append(args["ciphertext"])
        return b""

    def keep(self) -> None:
        for place, envelope in enumerate(self.taken):
            self.calls.setdefault(sha256(envelope), (self.height, place))


def tracked_load(l1: Any) -> TrackedLoad:
    source = example("auction") / "v1"
    raw = application_metadata(source, read_application(source).runtime)
    load = TrackedLoad(
        account=l1,
        metadata=decode(RuntimeMetadata, raw),
        shard=bytes(32),
        shielding_key=hpke_generate(HpkeSuite.X25519, system_entropy).public,
        users=24,
        scan=l1,
    )
    load.begin(4)
    return load


def test_a_call_that_l1_forgot_is_carried_again_and_booked_once(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        l1 = ForgetfulL1()
        load = tracked_load(l1)
        await load._call(20)
        (first,) = load.open.values()
        for blocks, times in ((1, 1), (7, 2), (1, 2), (8, 3)):
            l1.height += blocks
            await load.look_after()
            assert l1.taken == [first.envelope] * times
        assert load.books.nonces == {}
        l1.keep()
        await load.look_after()
        await load.look_after()
        assert (load.books.nonces, load.open) == ({20: 1}, {})
        l1.down = True
        with pytest.raises(ChaosError):
            await load._call(20)
        assert load.open[20].sent.nonce == 1  # it may have it: the nonce is spoken for

    asyncio.run(story())


# --- ends of processes ---


@pytest.mark.parametrize(
    ("code", "words", "good"),
    [
        (-9, "", True),
        (3, "sealift: the enclave process has ended: got signal 9", True),
        (3, "sealift: the enclave process has ended: got exit code 1", False),
        (3, "sealift: L1 is unreachable", False),
        (70, "Traceback (most recent call last):", False),
        (4, "sealift: worker.db cannot be used", False),
        (0, "", False),
    ],
)
def test_a_worker_that_ended_by_itself_is_a_violation(
    code: int, words: str, good: bool
) -> None:
    run: Any = SimpleNamespace(verdict=Verdict(seed=1))
    Run._judge_end(run, "old", Ended(code, f"ready http://x\n{words}\n"))
    assert (run.verdict.violations == []) is good


# --- plans ---


def test_a_seed_names_a_plan_and_all_victims_come() -> None:
    plans = [plan(seed) for seed in range(200)]
    assert plans == [plan(seed) for seed in range(200)]
    kills = [kill for one in plans for kill in one]
    assert {kill.victim for kill in kills} == set(VICTIMS)
    assert all(1 <= len(one) <= 3 for one in plans)
    assert all(0 <= kill.after < SPAN for kill in kills)
    assert {kill.after % 1 > 0.5 for kill in kills} == {True, False}
    assert len({tuple(one) for one in plans}) == 200
    for first in range(0, 195, 5):
        assert {
            victim
            for seed in range(first, first + 5)
            for victim in [VICTIMS[seed % 5]]
            if victim in {kill.victim for kill in plans[seed]}
        } == set(VICTIMS)


def test_every_victim_of_a_hot_swap_comes_first_in_four_seeds() -> None:
    plans = [plan(seed, SWAP_VICTIMS) for seed in range(40)]
    for first in range(0, 40, 4):
        for seed in range(first, first + 4):
            victims = {kill.victim for kill in plans[seed]}
            assert SWAP_VICTIMS[seed % 4] in victims <= set(SWAP_VICTIMS)


@pytest.mark.parametrize(
    ("refusals", "tried"),
    [
        ([], 1),
        (["NoticeError", "OrderExpiredError"], 3),
        (["NoticeError"] * 3, 3),
        (["OrderSerialError"], 1),
    ],
)
def test_an_order_that_came_too_late_is_given_anew(
    refusals: list[str], tried: int
) -> None:
    left, times = list(refusals), [0]

    async def order() -> int:
        times[0] += 1
        if left:
            name = left.pop(0)
            raise L1RefusedError("submit_order", refusal=code_of(name), log=name)
        return 7

    if len(refusals) < tried:
        assert asyncio.run(in_time(order)) == 7
    else:
        with pytest.raises(L1RefusedError):
            asyncio.run(in_time(order))
    assert times == [tried]


# --- who hosts what ---


def a_stage(tmp_path: Path) -> Any:
    old, new = (
        SimpleNamespace(fingerprint=Fingerprint(bytes([n]) * 32)) for n in (1, 2)
    )
    return SimpleNamespace(old=old, new=new, worker=lambda name: tmp_path / name)


def a_row(stage: Any, name: str, imported: int | None, state: int) -> dict[str, Any]:
    code = getattr(stage, name).fingerprint.hex()
    return {"mrenclave": code, "imported": imported, "state_height": state}


def test_a_worker_that_swaps_tells_of_both_and_of_no_life_that_is_over(
    tmp_path: Path,
) -> None:
    stage, part = a_stage(tmp_path), SimpleNamespace(ended=[])
    struck = [True, False]
    parts: Any = SimpleNamespace(
        parts={"old": part}, kill_one_enclave=lambda *_: struck.pop(0)
    )
    hosts = HotSwap(stage, parts)
    said = {
        "mrenclave": stage.old.fingerprint.hex(),
        "epochs": [0],
        "instances": [a_row(stage, "old", 9, 8), a_row(stage, "new", 7, 6)],
    }
    life = hosts.life("old")
    assert list(hosts.seen("old", said, life)) == [
        Seen("old", 0, 9, 8, (0,)),
        Seen("new", 0, 7, 6, ()),
    ]
    assert hosts.kill("new enclave")
    assert list(hosts.seen("old", said, life)) == []  # whose words these are: unknown
    assert not hosts.kill("new enclave")  # it is down: no life of it is over by this
    said["instances"] = [a_row(stage, "old", 9, 8), a_row(stage, "new", None, 6)]
    part.ended.append(Ended(-9, ""))
    assert list(hosts.seen("old", said, hosts.life("old"))) == [
        Seen("old", 1, 9, 8, (0,))
    ]
    assert hosts.life("old") == {"old": 1, "new": 2}
    assert [hosts.executor("old", h, upgrade_at=9) for h in (8, 9)] == ["old", "new"]


def test_the_instance_that_was_staged_has_its_own_disk(tmp_path: Path) -> None:
    stage, parts = a_stage(tmp_path), Parts(tmp_path)
    code = stage.new.fingerprint.hex()
    swap, two = HotSwap(stage, parts), TwoWorkers(stage, parts)
    assert [swap.seat(name).folder for name in ("old", "new")] == [
        tmp_path / "old",
        tmp_path / "old" / "instances" / code,
    ]
    assert [swap.seat(name).machine for name in ("old", "new")] == ["old", "old"]
    assert [two.seat(name).machine for name in ("old", "new")] == ["old", "new"]


# --- what is said ---


def a_verdict(**changes: Any) -> Verdict:
    kills = [Struck(Kill("L1 node", 3.5), 43.5, True)]
    kills.append(Struck(Kill("old enclave", 4.5), 44.5, False))
    return Verdict(seed=7, upgrade_at=60, kills=kills, calls=12, **changes)


def test_a_run_is_told_in_one_line_and_a_violation_in_more() -> None:
    line = (
        "seed 7  XYZ 60 (keys from 0)  kill -9: L1 node @ 43.5, old enclave @ 44.5 "
        "(was down)  ok  12 calls, 0 carried again, gap 0 blocks, 0.0 s"
    )
    assert list(told(a_verdict(), block_ms=150)) == [line]
    lost = a_verdict(violations=["calls: one is lost"])
    lines = list(told(lost, block_ms=150))
    assert "VIOLATION" in lines[0]
    assert lines[1:] == [
        "  calls: one is lost",
        "  again: sealift chaos --seed 7 --runs 1",
    ]
    assert list(told(lost, block_ms=400))[-1].endswith("--runs 1 --block-ms 400")
    swapped = a_verdict(violations=["calls: one is lost"], hot_swap=True)
    assert list(told(swapped, block_ms=150))[-1].endswith("--runs 1 --hot-swap")


def test_the_summary_counts_kills_that_hit() -> None:
    campaign = Campaign(seeds=range(7, 9))
    campaign.verdicts = [a_verdict(), a_verdict(violations=["gap"])]
    found = campaign.summary()
    assert found["kills"] == dict.fromkeys(VICTIMS, 0) | {"L1 node": 2}
    assert found["missed"] == 2
    assert found["seeds"] == [7, 8]
    assert found["violations"] == [
        {"seed": 7, "what": ["gap"], "again": "sealift chaos --seed 7 --runs 1"}
    ]


def test_a_status_that_says_nothing_new_is_left_out(tmp_path: Path) -> None:
    trace = Trace()
    for state in (3, 3, 4):
        trace.note("status", who="old", state=state)
        trace.note("block", height=state, acts=[])
    trace.write(tmp_path / "t.json", seed=1, params={})
    events = json.loads((tmp_path / "t.json").read_text())["events"]
    assert [e["state"] for e in events if e["what"] == "status"] == [3, 4]


# --- the command ---


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*words: str) -> str:
        assert run_cli(["chaos", *words]) == 2
        return capsys.readouterr().err

    return call


def test_wrong_words_are_refused_before_anything_is_made(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("kept")
    for taken in (tmp_path, tmp_path / "mine"):
        said = refused("--keep", str(taken))
        assert "is no empty folder; nothing was changed" in said
    assert (tmp_path / "mine").read_text() == "kept"
    assert "--runs" in refused("--runs", "0")
    assert "--jobs" in refused("--jobs", "0")
    assert "--seed" in refused("--seed", "-1")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left"), "no space to write"),
        (shutil.Error([("a", "b", "No space left")]), "No space left"),
    ],
)
def test_a_run_that_finds_no_room_ends_the_campaign_by_name(
    error: OSError, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ground(*_: object, **__: object) -> None:
        """None is needed: no run comes so far."""

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(_chaos, "make_ground", ground)
    monkeypatch.setattr(_chaos, "copy_ground", full)
    campaign = Campaign(seeds=range(7, 9), jobs=2, say=lambda _: None)
    with pytest.raises(FileError, match=said):
        asyncio.run(campaign.play(tmp_path))


def test_what_is_kept_of_a_violation_and_what_could_not_be(tmp_path: Path) -> None:
    heard: list[str] = []
    campaign = Campaign(seeds=range(7, 8), say=heard.append)
    folder, where = tmp_path / "run-7", tmp_path / "kept"
    (folder / "bundles").mkdir(parents=True)
    (folder / "worker.db").write_text("disk")
    verdict = a_verdict(violations=["gap"], words="last words")
    campaign._keep(folder, where, verdict)
    assert sorted(p.name for p in (where / "run-7").iterdir()) == [
        "verdict.txt",
        "worker.db",
    ]
    assert "last words" in (where / "run-7" / "verdict.txt").read_text()
    assert not heard
    campaign._keep(folder, where, verdict)  # there is one already
    assert "not all of it is kept in" in heard[0]


#: Stands for a worker: it ends when what it cannot live without does.
WITH_CHILD = """
import os
seen, held = os.pipe()
child = os.fork()
if not child:
    os.close(held)
    os.read(seen, 1)
    os._exit(0)
print("ready http://127.0.0.1:1", flush=True)
os.waitpid(child, 0)
"""

#: Stands for a worker that stages: it outlives one of its two enclaves.
WITH_TWO = """
import subprocess, sys
wait = "import sys; sys.stdin.read()"
for code in ("00ab", "00cd"):
    words = [sys.executable, "-c", wait, code]
    last = subprocess.Popen(words, stdin=subprocess.PIPE)
    first = last if code == "00ab" else first
print("ready http://127.0.0.1:1", flush=True)
first.wait()
last.wait()
"""


def test_who_was_struck_is_up_again_only_in_the_next_life(tmp_path: Path) -> None:
    """Or the campaign would go on with one that is about to end, and blame it."""

    async def story() -> None:
        parts = Parts(tmp_path)
        try:
            part = parts.spawn("pair", argv=(sys.executable, "-c", WITH_CHILD))
            for lives, kill in enumerate((parts.kill_enclave, parts.kill)):
                await parts.up("pair")
                assert len(part.ended) == lives
                assert kill("pair")
            await parts.up("pair")
            assert [end.code for end in part.ended] == [0, -9]
        finally:
            await parts.close()

    asyncio.run(story())


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_of_two_enclaves_only_the_named_one_is_struck(tmp_path: Path) -> None:
    """The worker lives on: nobody waits for another life of it."""

    async def story() -> None:
        parts = Parts(tmp_path)
        try:
            part = parts.spawn("both", argv=(sys.executable, "-c", WITH_TWO))
            await parts.up("both")
            named = {one: command_line(one) for one in children(part.pid)}
            assert len(named) == 2
            assert parts.kill_one_enclave("both", "00ab")
            assert part.up.is_set()
            async with asyncio.timeout(10):
                while len(left := children(part.pid)) == 2:
                    await asyncio.sleep(0.01)
            assert [named[one].count(b"00cd") for one in left] == [1]
            assert not parts.kill_one_enclave("both", "00ab")
            assert part.ended == []
        finally:
            await parts.close()

    asyncio.run(story())


def test_whoever_does_not_come_up_is_said_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealift.cli._chaos_parts.PATIENCE", 0.2)

    async def story() -> None:
        parts = Parts(tmp_path)
        parts.parts["chain"] = Part(words=(), log=tmp_path / "chain.log")
        with pytest.raises(ChaosError, match="the chain does not come up"):
            await parts.up("chain")
        assert not parts.kill("chain")
        assert not parts.kill_enclave("chain")
        assert not parts.kill_one_enclave("chain", "00ab")

    asyncio.run(story())
    assert children(2**22 + 1) == []
