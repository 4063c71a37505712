"""kill -9 over a handover, at random instants; then nothing is lost (DESIGN §14.7).

A bounded part of ``sealift chaos``: the same runs, told by their seeds. One run
again: ``sealift chaos --seed SEED --runs 1``.
"""

import asyncio
from pathlib import Path

import pytest
from chaos_paths import Trace, follow

from sealift.cli._chaos import Campaign, told
from sealift.cli._chaos_ground import Ground

pytestmark = [pytest.mark.campaign, pytest.mark.process]


def test_inv7_kill_9_at_any_instant_of_a_handover_loses_nothing(
    seed: int, ground: Ground, tmp_path: Path
) -> None:
    """And what was seen of it is a path of the explorer's model."""
    played(ground, tmp_path, seed, hot_swap=False)


def test_inv7_kill_9_at_any_instant_of_a_hot_swap_loses_nothing(
    swap_seed: int, ground: Ground, tmp_path: Path
) -> None:
    """One worker, that stages the new enclave by itself; judged as the others."""
    played(ground, tmp_path, swap_seed, hot_swap=True)


def played(ground: Ground, folder: Path, seed: int, *, hot_swap: bool) -> None:
    pace = ground.block_ms
    campaign = Campaign(
        seeds=range(seed, seed + 1), trace=folder, block_ms=pace, hot_swap=hot_swap
    )
    verdict = asyncio.run(campaign.play_one(ground, folder / "run", seed))
    print(*told(verdict, block_ms=pace), sep="\n")
    assert not verdict.violations, verdict.words
    follow(Trace.read(folder / f"seed-{seed}.json"))
