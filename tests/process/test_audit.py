"""``sealift audit`` with real processes: former bundles replay their own ranges."""

import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cast import Cast, play

from sealift.attestation import TrustAnchor
from sealift.bundle import encode_bundle, verify_bundle
from sealift.cli._application import Trust, build_application, sign_bundle
from sealift.cli._demo_stage import BuiltBundle, Stage
from sealift.insecure_sim import SimIntel
from sealift.transport.build import write_bundle

pytestmark = pytest.mark.process

AUCTION = Path(__file__).resolve().parents[2] / "examples" / "auction" / "v1"


async def audit(cast: Cast, name: str, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the answer in JSON, and all that was said."""
    home = str(cast.stage.worker(name))
    command = ("audit", home, "--from", "genesis", "--json", *words)
    ended = await cast.run_once("audit", *command)
    said = [line for line in ended.output.splitlines() if line.startswith("{")]
    return ended.code, json.loads(said[-1]) if said else {}, ended.output


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    """Blocks for people: an audit reads each of them again."""
    return make_stage(block_ms=500)


def test_both_versions_replay_their_ranges_beside_a_running_worker(
    stage: Stage,
) -> None:
    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()
        pump = cast.flow(3)
        upgrade_at = await cast.schedule(lead=20)
        cast.home("new", upstream=cast.parts["old"].url)
        cast.run_worker("new")
        await cast.up("new")
        await cast.until_status("new", lambda s: s["key_epoch"] == 1 and s["ok"])
        await cast.until_confirmed(max(cast.scan.height, upgrade_at) + 2)
        pump.cancel()
        code, answer, output = await audit(cast, "new")
        assert code == 1, output
        assert "AuditBundleMissingError" in output
        assert stage.old.fingerprint.hex() in output, "it says which one to bring"
        code, answer, output = await audit(cast, "new", "--bundle", str(stage.old.path))
        assert code == 0, output
        assert answer["agrees"]
        assert answer["compared"] == answer["confirmed"] >= upgrade_at
        assert [
            (one["generation"], one["mrenclave"]) for one in answer["generations"]
        ] == [
            (0, stage.old.fingerprint.hex()),
            (1, stage.new.fingerprint.hex()),
        ]
        assert answer["generations"][1]["first"] == upgrade_at
        calls = {at for at, _ in cast.scan.calls.values()}
        assert answer["calls"] >= len(calls) > 3
        # The worker was not disturbed: it goes on, and L1 takes what it says.
        here = cast.scan.height
        await cast.until_confirmed(here)
        await cast.until_status("new", lambda s: s["ok"])
        assert await cast.stop("new") == 0
        # A home of withdrawn code audits nothing.
        code, answer, output = await audit(cast, "old", "--bundle", str(stage.new.path))
        assert (code, "NotNamedError" in output) == (1, True), output

    play(stage, story)


def odd_bundle(stage: Stage) -> BuiltBundle:
    """An application that throws dice: no two executions come to the same root."""
    source = stage.folder / "odd"
    shutil.copytree(AUCTION, source)
    pallet = source / "app" / "auction" / "pallet.py"
    text = pallet.read_text()
    text = text.replace("from typing import", "import os\nfrom typing import", 1)
    text = text.replace(
        "        seller = ensure_signed(ctx.origin)\n",
        "        seller = ensure_signed(ctx.origin)\n"
        "        minimum = Amount(minimum + int.from_bytes(os.urandom(4), 'big'))\n",
        1,
    )
    assert "urandom" in text
    pallet.write_text(text)
    anchor = TrustAnchor(root_der=SimIntel(stage.sim).root_der, kind="insecure-sim")
    trust = Trust(l1=stage.trust_root, roots=(anchor,))
    bundle = sign_bundle(
        build_application(source, trust), stage.vendor, date=dt.date(2026, 1, 1)
    )
    path = stage.folder / "odd.bundle"
    write_bundle(path, encode_bundle(bundle))
    signed = verify_bundle(bundle).sigstruct
    return replace(
        stage.old,
        path=path,
        fingerprint=signed.mrenclave,
        mr_signer=signed.mrsigner,
    )


def test_a_root_that_its_own_code_does_not_come_to_again_is_named(
    stage: Stage,
) -> None:
    """Code that throws dice: L1 confirmed what the bundle cannot be shown to make."""
    odd = replace(stage, old=odd_bundle(stage))

    async def story(cast: Cast) -> None:
        await cast.give_birth()
        await cast.open_load()

        async def called() -> bool:
            return bool(cast.scan.calls)

        await cast.until(called, "the first call on L1")
        first = min(at for at, _ in cast.scan.calls.values())
        await cast.until_confirmed(cast.scan.height + 2)
        code, answer, output = await audit(cast, "old")
        assert code == 1, output
        found = answer["difference"]
        assert not answer["agrees"]
        assert (found["block"], found["fact"]) == (first, "root")
        assert found["expected"] != found["got"]
        assert found["mrenclave"] == odd.old.fingerprint.hex()
        assert answer["compared"] < first
        assert f"The root differs at block {first}" in output
        await cast.until_confirmed(cast.scan.height)

    play(odd, story)
