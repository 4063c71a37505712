"""Hot swap with real processes: one service, one enclave after the other."""

import asyncio
import json

import pytest
from cast import Cast, children, play

from sealift.cli._demo_stage import Stage

pytestmark = pytest.mark.process


def roles(status: dict[str, object]) -> dict[str, str]:
    rows = status.get("instances")
    assert isinstance(rows, list)
    return {row["mrenclave"]: row["role"] for row in rows}


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


def test_one_service_upgrades_and_nobody_s_connection_ends(stage: Stage) -> None:
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

        listener = asyncio.create_task(listen())
        upgrade_at = await cast.schedule(lead=60)
        said = await staged(cast, "old")
        assert said[-1]["state"] == "ready", said
        assert said[0]["role"] == "staged"
        waited = {one["state"] for one in said} & {"notice", "keys", "state"}
        assert waited, said
        assert all(one["waits_for"] for one in said)
        before = cast.parts["old"].pid
        await cast.until_confirmed(upgrade_at + 3)
        status = await cast.until_status(
            "old", lambda s: "retired" in roles(s).values()
        )
        assert roles(status) == {
            stage.old.fingerprint.hex(): "retired",
            stage.new.fingerprint.hex(): "current",
        }
        assert len(children(cast.parts["old"].pid)) == 1
        assert cast.parts["old"].pid == before
        assert not cast.parts["old"].ended
        assert not listener.done()
        count = len(heard)
        await cast.until_confirmed(cast.scan.height + 2)
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        assert len(heard) > count
        listener.cancel()
        assert await cast.stop("old") == 0
        cast.run_worker("old")  # a restart is part of every upgrade
        await cast.up("old")
        status = await cast.until_status("old", lambda s: (s["imported"] or 0) > last)
        assert roles(status)[stage.old.fingerprint.hex()] == "retired"
        assert len(children(cast.parts["old"].pid)) == 1
        await every_receipt_is_shown(cast, last)
        assert await cast.stop("old") == 0
        await cast.judge("old", cast.swapped("old"), upgrade_at=upgrade_at, upto=last)

    play(stage, story)
