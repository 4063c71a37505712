"""Audits by replay, in a whole world: auditor, former code, and hosts that lie."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# Their asserts count, also under -O.
pytest.register_assert_rewrite("audit_world")

from audit_world import AuditWorld  # noqa: E402 - its path is set above


@pytest.fixture
def audited(tmp_path: Path) -> AuditWorld:
    """A shard that ran one version, was upgraded, and runs the next one."""
    world = AuditWorld(tmp_path)
    world.live_through_an_upgrade()
    return world
