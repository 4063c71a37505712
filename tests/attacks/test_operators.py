"""Who may run a generation is for its entry to say, not for a later one's."""

from pathlib import Path

import msgspec
import pytest
from notebook import runtime

from sealift.protocol import ShardConfig
from sealift.testing import RefusedError, Release, World


def only(world: World, release: Release, *names: str) -> ShardConfig:
    operators = tuple(world.account(name) for name in names)
    return msgspec.structs.replace(world.config(release), operators=operators)


def test_a_strangers_instance_gets_no_keys_by_an_entry_whose_notice_has_not_run(
    tmp_path: Path,
) -> None:
    """Both entries name the same code; only the pending one lets him run it.

    L1 registers him for the pending one; the provider must not take that for a
    seat in the running one.
    """
    world = World(tmp_path)
    release = world.release(runtime())
    old = world.begin(release, config=only(world, release, "operator"))
    open_to_all = only(world, release, "operator", "operator-2")
    entry = world.schedule(release, config=open_to_all, release_from=world.height + 20)
    stranger = world.worker("stranger", release, operator="operator-2", upstream=old)
    with pytest.raises(RefusedError) as caught:
        stranger.request_keys(old)
    assert caught.value.name == "NoticeNotRunError"
    assert stranger.status().epochs == ()
    world.run_until(entry.release_from)
    stranger.request_keys(old)
    assert stranger.status().epochs == (0,)


def test_nor_if_no_later_entry_names_him_at_all(tmp_path: Path) -> None:
    world = World(tmp_path)
    release = world.release(runtime())
    old = world.begin(release, config=only(world, release, "operator"))
    stranger = world.worker("stranger", release, operator="operator-2")
    with pytest.raises(RefusedError) as caught:
        stranger.request_keys(old)
    assert caught.value.name == "OperatorRefusedError"
    assert stranger.status().epochs == ()
