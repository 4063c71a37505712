"""Evidence of a shard over whose head L1's own runtime changed."""

from collections.abc import Callable
from typing import Any

import pytest
from histories import HOSTS, hosts_upgrade, key_upgrades
from lineages import export, verify

from sealift.base import Height
from sealift.frame import Runtime
from sealift.ledger import FIRST_RUNTIME, ledger_call
from sealift.protocol import EntryStatus
from sealift.testing import World

SECOND = 2


@pytest.mark.parametrize(
    ("history", "rules", "blocks"),
    [
        pytest.param(key_upgrades, {}, 8, id="a-key-before-xyz"),
        pytest.param(key_upgrades, {}, 20, id="a-key-about-xyz"),
        pytest.param(hosts_upgrade, {"authority": HOSTS}, 12, id="hosts-while-voting"),
        pytest.param(hosts_upgrade, {"authority": HOSTS}, 26, id="hosts-after"),
    ],
)
def test_a_lineage_is_proven_across_it(  # noqa: PLR0917 - fixtures
    new_world: Callable[..., World],
    v1: Runtime,
    v2: Runtime,
    history: Any,
    rules: dict[str, Any],
    blocks: int,
) -> None:
    """While keys decide, or hosts vote by the age of their seats; early or late."""
    world = new_world(rules=rules)
    at = Height(world.height + blocks)
    inner = ledger_call("system.set_code", version=SECOND, height=at)
    world.act("root", "sudo.sudo", call=inner)
    assert world.chain.runtime_version == FIRST_RUNTIME
    history(world, v1, v2)
    assert world.chain.runtime_version == SECOND
    world.chain.make_again()
    lineage = verify(world, export(world))
    assert [one.status for one in lineage.generations] == [
        EntryStatus.RETIRED,
        EntryStatus.ACTIVE,
    ]
    assert lineage.frontier.generation == 1
    assert lineage.frontier.confirmed > at
    assert lineage.schedule == world.schedule_now()
