"""Hot swap with real processes: one service, one enclave after the other."""

import asyncio
import json
import shutil
from collections.abc import Callable

import pytest
from aiohttp import web
from cast import Cast, play, with_changed_code

from sealift.base import SealiftError
from sealift.cli._chaos_parts import children
from sealift.cli._demo_stage import Stage
from sealift.crypto import sha256
from sealift.transport.http import serve

pytestmark = pytest.mark.process

#: An instance is staged within a few dozen blocks, also on a busy machine.
BLOCK_MS = 400


def roles(status: dict[str, object]) -> dict[str, str]:
    rows = status.get("instances")
    assert isinstance(rows, list)
    return {row["mrenclave"]: row["role"] for row in rows}


def rows_of(status: dict[str, object]) -> dict[str, dict[str, object]]:
    rows = status.get("instances")
    assert isinstance(rows, list)
    return {row["mrenclave"]: row for row in rows}


async def gone(cast: Cast, name: str) -> None:
    """Until a killed process is seen to have ended."""
    part = cast.parts[name]
    assert part.child is not None
    await part.child.wait()
    while part.up.is_set():
        await asyncio.sleep(0.01)


async def staged(cast: Cast, name: str, *words: str) -> list[dict[str, object]]:
    """``sealift worker stage`` to its end; what it said."""
    home = str(cast.stage.worker(name))
    bundle = str(cast.stage.new.path)
    ended = await cast.run_once(
        f"stage-{name}", "worker", "stage", bundle, "--home", home, "--json", *words
    )
    assert ended.code == 0, ended.output
    return [json.loads(line) for line in ended.output.splitlines()]


async def every_receipt_is_shown(cast: Cast, upto: int) -> None:
    """Also those of calls that the enclave before has executed."""
    url = cast.parts["old"].url
    calls = [name for name, (at, _) in cast.scan.calls.items() if at <= upto]
    assert calls
    for name in calls:
        async with cast.http.get(f"{url}/v1/receipts/{bytes(name).hex()}") as answer:
            assert answer.status == 200


async def answer(cast: Cast, *words: str) -> dict[str, object]:
    ended = await cast.run_once("command", *words, "--json")
    assert ended.code == 0, ended.output
    said: dict[str, object] = json.loads(ended.output.splitlines()[-1])
    return said


async def audited(cast: Cast, stage: Stage) -> None:
    """By the code that runs now; all bundles are at hand in the home."""
    home = str(stage.worker("old"))
    said = await answer(cast, "audit", home, "--from", "genesis")
    assert said["agrees"] is True
    generations = said["generations"]
    assert isinstance(generations, list)
    assert [one["mrenclave"] for one in generations] == [
        stage.old.fingerprint.hex(),
        stage.new.fingerprint.hex(),
    ]


async def snapshotted(cast: Cast, stage: Stage, last: int) -> None:
    """Of the state as it is now, not as the home's own code left it."""
    home = str(stage.worker("old"))
    made = await answer(cast, "snapshot", "create", home)
    assert isinstance(made["height"], int)
    assert made["height"] >= last
    path = str(made["path"])
    assert stage.new.fingerprint.hex() in path
    seen = await answer(cast, "snapshot", "verify", path, "--home", home)
    assert (seen["enclave"], seen["root"]) == ("takes it", made["root"])


class Reads:
    """Somebody who reads all the time, of whom no read fails."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self.failed: list[str] = []

    async def run(self, cast: Cast, url: str) -> None:
        while True:
            at = cast.scan.height
            try:
                await cast.load.ask(0, "system.nonce", {}, url, cast.http)
                self.answered.append(at)
            except SealiftError as error:
                self.failed.append(f"{at}: {error}")
            await asyncio.sleep(0.05)


def test_one_service_upgrades_and_nobody_s_connection_ends(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(block_ms=BLOCK_MS)

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(8)
        url = cast.parts["old"].url
        heard: list[int] = []

        async def listen() -> None:
            async with cast.http.ws_connect(url + "/v1/executions") as socket:
                async for message in socket:  # one by one: it is looked at meanwhile
                    heard.append(len(message.data))  # noqa: PERF401

        reads = Reads()
        listener = asyncio.create_task(listen())
        reader = asyncio.create_task(reads.run(cast, url))
        upgrade_at = await cast.schedule(lead=100)
        said = await staged(cast, "old")
        assert said[-1]["state"] == "ready", said
        assert said[0]["role"] == "staged"
        waited = {one["state"] for one in said} & {"notice", "keys", "state"}
        assert waited, said
        assert all(one["waits_for"] for one in said)
        pid = cast.parts["old"].pid
        await cast.until_confirmed(upgrade_at + 3)
        status = await cast.until_status(
            "old", lambda s: "retired" in roles(s).values()
        )
        assert roles(status) == {
            stage.old.fingerprint.hex(): "retired",
            stage.new.fingerprint.hex(): "current",
        }
        assert len(children(cast.parts["old"].pid)) == 1
        assert cast.parts["old"].pid == pid
        assert not cast.parts["old"].ended
        assert not listener.done()
        count = len(heard)
        await cast.until_confirmed(cast.scan.height + 2)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        assert len(heard) > count
        listener.cancel()
        reader.cancel()
        assert reads.failed == []
        before, after = (
            [at for at in reads.answered if at < upgrade_at],
            [at for at in reads.answered if at >= upgrade_at],
        )
        assert before, "nobody read before the switch"
        assert after, "nobody read after it"
        assert await cast.stop("old") == 0
        cast.run_worker("old")  # a restart is part of every upgrade
        await cast.up("old")
        status = await cast.until_status("old", lambda s: (s["imported"] or 0) > last)
        assert roles(status)[stage.old.fingerprint.hex()] == "retired"
        assert len(children(cast.parts["old"].pid)) == 1
        await every_receipt_is_shown(cast, last)
        await audited(cast, stage)
        assert await cast.stop("old") == 0
        await snapshotted(cast, stage, last)
        await cast.judge("old", cast.swapped("old"), upgrade_at=upgrade_at, upto=last)

    play(stage, story)


def test_a_bundle_comes_from_where_the_order_says_by_its_hash(
    make_stage: Callable[..., Stage],
) -> None:
    """First from a server that lies; it is asked again, and tells the truth."""
    stage = make_stage(block_ms=BLOCK_MS)
    data = stage.new.path.read_bytes()
    answers = [data[:-1] + b"x", data[: len(data) // 2]]

    async def served(_: web.Request) -> web.Response:
        return web.Response(body=answers.pop(0) if answers else data)

    async def story(cast: Cast) -> None:
        app = web.Application()
        app.router.add_get("/v2.bundle", served)
        async with serve(app) as where:
            await cast.give_birth()
            await cast.schedule(
                lead=500, source=f"{where.url}/v2.bundle", bundle=sha256(data)
            )
            status = await cast.until_status("old", lambda s: s["bundles_missing"])
            assert "another file" in str(status["bundles_missing"])
            assert not status["ok"]
            code = stage.new.fingerprint.hex()
            await cast.until_status(
                "old", lambda s: roles(s).get(code) == "staged" and s["ok"]
            )
        kept = stage.worker("old") / "bundles" / f"{sha256(data).hex()}.bundle"
        assert kept.read_bytes() == data
        assert await cast.stop("old") == 0

    play(stage, story)


def test_a_migration_that_fails_is_told_and_the_shard_goes_on_by_rescue(
    make_stage: Callable[..., Stage],
) -> None:
    stage = with_changed_code(
        make_stage(block_ms=BLOCK_MS),
        "        if from_version != 1:\n            return\n",
        "        if from_version == 1:\n"
        '            raise BidsLostError("a migration that does not work")\n',
    )

    async def story(cast: Cast) -> None:
        await cast.give_birth(rescue_after=20)
        await cast.open_load()
        pump = cast.flow(8)
        upgrade_at = await cast.schedule(lead=30)
        await staged(cast, "old")
        await cast.reach(upgrade_at + 5)
        name = stage.new.fingerprint.hex()[:8]  # not what else a slow machine says
        status = await cast.until_status(
            "old", lambda s: any(name in why for why in s["reasons"])
        )
        assert not status["ok"]
        why = " ".join(status["reasons"])
        assert "Migration" in why, why
        by_code = rows_of(status)
        assert by_code[stage.old.fingerprint.hex()]["role"] == "current"
        assert by_code[stage.old.fingerprint.hex()]["state_height"] == upgrade_at - 1
        assert by_code[stage.new.fingerprint.hex()]["state"] == "migrating"
        await cast.until_confirmed(upgrade_at + 22)
        status = await cast.until_status("old", lambda s: s["ok"])
        assert roles(status) == {
            stage.old.fingerprint.hex(): "current",
            stage.new.fingerprint.hex(): "retired",
        }
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        assert not cast.parts["old"].ended
        assert await cast.stop("old") == 0
        await cast.judge("old", upgrade_at=None, upto=last)

    play(stage, story)


def test_kill_9_while_staging_and_at_xyz_and_it_goes_on_by_itself(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(block_ms=BLOCK_MS)

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(8)
        upgrade_at = await cast.schedule(lead=50)
        code = stage.new.fingerprint.hex()
        into = stage.worker("old") / "bundles" / "next.bundle"
        shutil.copy(stage.new.path, into)  # nobody says anything: it is found
        await cast.until_status("old", lambda s: code in roles(s))
        cast.kill("old")
        await gone(cast, "old")
        await cast.up("old")
        await cast.until_status("old", lambda s: rows_of(s)[code]["imported"])
        cast.kill("old")
        await gone(cast, "old")
        into.unlink()  # its own copy is all that it needs
        await cast.up("old")
        await cast.until_status("old", lambda s: rows_of(s)[code]["state_height"])
        await cast.reach(upgrade_at)
        cast.kill("old")
        await gone(cast, "old")
        await cast.up("old")
        status = await cast.until_status(
            "old", lambda s: roles(s).get(code) == "current"
        )
        assert cast.kill_enclave("old")
        await cast.until_confirmed(upgrade_at + 5)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        assert status["mrenclave"] == code
        assert await cast.stop("old") == 0
        await cast.judge("old", cast.swapped("old"), upgrade_at=upgrade_at, upto=last)

    play(stage, story)
