"""Workers under ``gramine-sgx``: a stand-in program, everything else as on hardware.

Evidence is under the simulated root, so L1 has it as ``insecure-sim``'s, while the
enclave knows itself as ``gramine-sgx``'s: the schedule names the code under both.
"""

import os
import re
from pathlib import Path
from typing import Any

import gramine_stand_in
import msgspec
import pytest
from cast import MIN_NOTICE, SEALIFT, Cast, config_of, play

from sealift.bundle import parse_bundle
from sealift.cli._demo_stage import Stage
from sealift.crypto import account_of, sha256, system_entropy
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.protocol import ShardRules, SudoAuthority
from sealift.transport.bundle_folder import read_bundle_file
from sealift.worker import load_config

pytestmark = pytest.mark.process


class Gramine:
    """The cast on machines with Gramine."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        stage = cast.stage
        self.folder = stage.folder / "gramine"
        bundle = parse_bundle(read_bundle_file(stage.old.path))
        self.code = gramine_stand_in.sign(bundle, self.folder, stage.vendor)

    def machine(self, name: str) -> SimMachine:
        intel = SimIntel(self.cast.stage.sim)
        return SimMachine(intel, name, entropy=system_entropy)

    async def create_shard(self) -> None:
        stage = self.cast.stage
        rules = ShardRules(
            authority=SudoAuthority(key=account_of(stage.keys["authority"])),
            genesis=sha256(stage.genesis),
            min_notice=MIN_NOTICE,
            rescue_after=400,
            page_bits=8,
        )
        config = msgspec.structs.replace(
            config_of(stage.old),
            code={"insecure-sim": self.code, "gramine-sgx": self.code},
        )
        await self.cast.account("authority").act(
            "enclave_bridge.create_shard", {"rules": rules, "config": config}
        )

    async def pccs(self) -> str:
        self.cast.spawn("pccs", "insecure-sim", "pccs", str(self.cast.stage.sim))
        return await self.cast.up("pccs")

    def home(self, name: str, *, machine: str, pccs: str, **words: Any) -> Path:
        home = self.cast.home(name, machine=machine, **words)
        toml = home / "worker.toml"
        text = toml.read_text()
        for old, new in (
            ('platform = "insecure-sim"', 'platform = "gramine-sgx"'),
            ('pccs = ""', f'pccs = "{pccs}"\ngramine = "{self.folder}"'),
        ):
            assert old in text
            text = text.replace(old, new)
        toml.write_text(text)
        assert load_config(home).platform == "gramine-sgx"
        return home

    async def run(self, name: str, *, machine: str) -> None:
        """``sealift worker run`` where that machine's gramine-sgx is on PATH."""
        here = self.cast.stage.folder / f"bin-{machine}"
        gramine_stand_in.install(here, self.cast.stage.sim, machine)
        path = f"PATH={here}:{os.environ['PATH']}"
        home = str(self.cast.stage.worker(name))
        argv = ("/usr/bin/env", path, *SEALIFT)
        part = self.cast.spawn(name, "worker", "run", home, argv=argv)
        await self.cast.up(name)

        async def ready() -> str:
            assert part.child is not None
            found = re.search(r"^ready (\S+)", part.child.output(), re.MULTILINE)
            return "" if found is None else found.group(1)

        part.url = await self.cast.until(ready, f"{name} to be ready")


def test_a_whole_worker_under_gramine_and_its_microcode_day(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        gramine = Gramine(cast)
        await gramine.create_shard()
        pccs = await gramine.pccs()
        gramine.home("old", machine="old", pccs=pccs)
        await gramine.run("old", machine="old")
        status = await cast.until_status("old", lambda s: s["state_height"] is not None)
        assert status["platform"] == "gramine-sgx"
        assert status["mrenclave"] == gramine.code.hex()
        assert status["tcb_status"] == "UpToDate"  # by what the PCCS gave
        await cast.open_load()
        pump = cast.flow(8)

        # Another worker gets the keys over mu-ra, from Gramine to Gramine.
        upstream = cast.parts["old"].url
        gramine.home("peer", machine="new", pccs=pccs, upstream=upstream)
        await gramine.run("peer", machine="new")
        await cast.until_status("peer", lambda s: s["executed"] is not None)
        await cast.until_status("old", lambda s: s["instances_with_keys"] == 2)

        # New microcode on the first machine: Gramine has no key for what it sealed.
        old = cast.stage.worker("old")
        before = (old / "key_store.sealed").read_bytes()
        first = (await cast.until_status("old", lambda s: s["ok"]))["signing_key"]
        assert await cast.stop("old") == 0
        before_db = (old / "worker.db").read_bytes()
        machine = gramine.machine("old")
        machine.install_microcode(bytes(n + 1 for n in machine.cpu_svn))
        await gramine.run("old", machine="old")
        again = await cast.until_status(
            "old", lambda s: s["executed"] is not None and s["ok"]
        )
        assert again["signing_key"] != first
        said = (cast.stage.folder / "old.log").read_text()
        assert "level has changed" in said
        assert "A new instance begins" in said
        assert (old / "key_store.sealed").read_bytes() == before
        assert (old / "worker.db").read_bytes() == before_db
        pump.cancel()
        here = cast.scan.height
        await cast.until_confirmed(here)
        roots = {
            name: (await cast.until_status(name, lambda s: s["imported"] > here))
            for name in ("old", "peer")
        }
        assert all(one["ok"] for one in roots.values())

        # Restart everything: the new instance goes on, without asking again.
        for name in ("old", "peer"):
            assert await cast.stop(name) == 0
        for name, machine_name in (("old", "old"), ("peer", "new")):
            await gramine.run(name, machine=machine_name)
        last = await cast.until_status("old", lambda s: s["executed"] is not None)
        assert last["signing_key"] == again["signing_key"]
        await cast.until_confirmed(cast.scan.height)

    play(stage, story)


def test_without_gramine_a_sentence_says_what_to_do(stage: Stage) -> None:
    async def story(cast: Cast) -> None:
        gramine = Gramine(cast)
        home = gramine.home("old", machine="old", pccs="http://127.0.0.1:1")
        ended = await cast.run_once("once", "worker", "run", str(home))
        assert ended.code == 1
        assert "Gramine is not installed here" in ended.output
        assert "docs/real-hardware.md" in ended.output
        assert "Traceback" not in ended.output

    play(stage, story)
