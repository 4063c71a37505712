"""What happens around a worker: nodes go and come back, operators err."""

import asyncio
import os
import signal

import pytest
from cast import Cast, alive, play

from sealift.attestation import TrustAnchor
from sealift.cli._chaos_parts import children, free_port
from sealift.cli._demo_stage import DemoOptions, Stage, _make_chain
from sealift.insecure_sim import SimIntel
from sealift.transport.clock import WallClock

pytestmark = pytest.mark.process


def test_the_l1_node_goes_and_the_worker_says_so_and_goes_on(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(8)
        await cast.reach(cast.scan.height + 5)
        pid = cast.parts["old"].pid
        cast.parts["chain"].wanted = False
        cast.kill("chain")
        status = await cast.until_status(
            "old", lambda s: any("of the L1 node" in why for why in s["reasons"])
        )
        reasons = " ".join(status["reasons"])
        assert f"block {status['imported'] + 1} of the L1 node" in reasons
        assert "cannot be reached" in reasons
        url = cast.parts["old"].url
        async with cast.http.get(url + "/healthz") as answer:
            assert answer.status == 503
        async with cast.http.get(url + "/metrics") as answer:
            assert answer.status == 200
        await cast.stop("chain")
        await cast.start_chain()
        here = cast.scan.height
        await cast.until_confirmed(here + 3)
        await cast.until_status("old", lambda s: s["ok"])
        pump.cancel()
        last = cast.scan.height
        await cast.until_confirmed(last)
        assert cast.parts["old"].pid == pid
        assert await cast.stop("old") == 0
        await cast.judge("old", upgrade_at=None, upto=last)

    play(stage, story)


def test_a_worker_that_is_up_before_its_l1_node_waits_for_it(stage: Stage) -> None:
    """Started together, or again after a power cut: neither must be the first."""

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        assert await cast.stop("old") == 0
        await cast.stop("chain")
        part = cast.run_worker("old")
        await asyncio.sleep(3)
        assert not part.ended
        assert not part.up.is_set()
        await cast.start_chain()
        await cast.up("old")
        assert not part.ended
        here = cast.scan.height
        await cast.until_confirmed(here + 3)

    play(stage, story)


def test_two_workers_on_one_home_are_refused(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        home = str(stage.worker("old"))
        ended = await cast.run_once("again", "worker", "run", home)
        assert ended.code == 4
        assert "another process runs on this folder" in ended.output
        url = cast.parts["old"].url
        words = ("worker", "request-keys", home, "--from", url)
        ended = await cast.run_once("keys", *words)
        assert ended.code == 4
        assert "another process runs on this folder" in ended.output
        await cast.until_status("old", lambda s: s["ok"])

    play(stage, story)


def test_sigterm_ends_cleanly_and_leaves_no_child(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        part = cast.parts["old"]
        enclaves = children(part.pid)
        assert enclaves
        part.wanted = False
        async with cast.http.ws_connect(part.url + "/v1/executions"):
            os.kill(part.pid, signal.SIGTERM)
            assert part.child is not None
            assert await part.child.wait() == 0
        assert not any(alive(pid) for pid in enclaves)
        assert "Traceback" not in part.child.output()

    play(stage, story)


def test_kill_9_of_a_worker_leaves_no_enclave_behind(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        enclaves = children(cast.parts["old"].pid)
        assert enclaves
        cast.parts["old"].wanted = False
        cast.kill("old")

        async def gone() -> bool:
            return not any(alive(pid) for pid in enclaves)

        await cast.until(gone, "the enclave to end by itself", within=10)

    play(stage, story)


def test_a_dead_enclave_ends_its_worker_at_once_by_name(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        part = cast.parts["old"]
        part.wanted = False
        assert cast.kill_enclave("old")
        assert part.child is not None
        async with asyncio.timeout(10):
            assert await part.child.wait() == 3
        line = part.child.output().strip().splitlines()[-1]
        assert "the enclave process has ended: got signal 9" in line
        assert "start the worker again" in line

    play(stage, story)


def test_an_l1_node_of_another_chain_is_refused(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        assert await cast.stop("old") == 0
        other = stage.folder / "other-chain"
        anchor = TrustAnchor(root_der=SimIntel(stage.sim).root_der, kind="insecure-sim")
        options = DemoOptions(accounts=60, rate=1, block_ms=150)
        _make_chain(other, anchor, options, WallClock())
        config = other / "solo.toml"
        text = config.read_text().replace("port = 0", f"port = {free_port()}")
        config.write_text(text)
        cast.spawn("other", "chain", "start", str(other))
        url = await cast.up("other")
        home = stage.worker("old")
        toml = home / "worker.toml"
        right = toml.read_text()
        toml.write_text(right.replace(cast.parts["chain"].url, url))
        database = (home / "worker.db").read_bytes()
        ended = await cast.run_once("old", "worker", "run", str(home))
        assert ended.code == 1, ended
        assert "is not the one the bundle trusts" in ended.output
        assert (home / "worker.db").read_bytes() == database
        toml.write_text(right)
        cast.run_worker("old")
        await cast.up("old")
        here = cast.scan.height
        await cast.until_status("old", lambda s: s["imported"] >= here)

    play(stage, story)
