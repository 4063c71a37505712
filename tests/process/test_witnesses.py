"""Witnesses of L1 as processes: one agrees, one is down, one has another chain."""

import json
import shutil

import pytest
from cast import Cast, play

from sealift.cli._chaos_parts import free_port
from sealift.cli._demo_stage import Stage
from sealift.relay.rpc import LIGHT_BLOCK

pytestmark = pytest.mark.process


def test_a_second_chain_of_the_same_validators_stops_the_worker_for_good(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        home = stage.worker("old")
        own = cast.parts["chain"].url
        assert (await cast.status("old") or {})["witnesses"] == []
        assert "no witness" in (await cast.status("old") or {})["witnesses_wanted"]
        assert await cast.stop("old") == 0

        # the same node as a witness, and one that is down: nothing stops
        nowhere = f"http://127.0.0.1:{free_port()}"
        words = ("worker", "run", str(home), "--witness", own, "--witness", nowhere)
        cast.spawn("old", *words)
        await cast.up("old")
        status = await cast.until_status(
            "old",
            lambda s: (
                {one["state"] for one in s["witnesses"]} == {"agrees", "unreachable"}
            ),
        )
        assert status["witnesses_wanted"] == ""
        here = cast.scan.height
        await cast.until_status("old", lambda s: s["imported"] >= here + 2)
        async with cast.http.get(cast.parts["old"].url + "/metrics") as answer:
            text = await answer.text()
        assert "sealift_witness_state{" in text
        assert await cast.stop("old") == 0

        # whoever has the validators' key makes a second chain from here on
        await cast.stop("chain")
        fork = stage.folder / "fork"
        shutil.copytree(stage.chain, fork)
        config = fork / "solo.toml"
        lines = [
            f"port = {free_port()}" if line.startswith("port") else line
            for line in config.read_text().splitlines()
        ]
        config.write_text("\n".join(lines) + "\n")
        cast.spawn("fork", "chain", "start", str(fork))
        other = await cast.up("fork")
        own = await cast.start_chain()

        words = ("worker", "run", str(home), "--witness", own, "--witness", other)
        ended = await cast.run_once("old", *words)
        assert ended.code == 3, ended
        assert "was shown two chains (ForkDetectedError)" in ended.output
        assert "Traceback" not in ended.output
        raw = (home / "fork_evidence.json").read_bytes()
        evidence = json.loads(raw)
        assert evidence["type"] == "tendermint/LightClientAttackEvidence"
        shown = LIGHT_BLOCK.parse(evidence["value"]["conflicting_block"])
        trusted = LIGHT_BLOCK.parse(evidence["trusted_block"])
        assert shown.header.height == trusted.header.height
        assert shown.header != trusted.header
        assert len(evidence["value"]["byzantine_validators"]) == 1

        # it has stopped for good: also without a witness, also after a restart
        await cast.stop("fork")
        for _ in range(2):
            ended = await cast.run_once("old", "worker", "run", str(home))
            assert ended.code == 3, ended
            assert "two chains" in ended.output
        assert (home / "fork_evidence.json").read_bytes() == raw
        told = await cast.run_once("evidence", "relay", "evidence", str(home))
        assert told.code == 0
        assert f"{shown.header.height} " in told.output

    play(stage, story)
