"""The world itself: what it promises to those who test with it."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from story import Story

from sealift.frame import Runtime
from sealift.testing import CrashError, RefusedError, World, WorldError

ROOT = Path(__file__).resolve().parents[2]


def listings(page: str) -> str:
    """All Python of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def notes() -> Iterator[ModuleType]:
    """The notes of the examples, as the module that the page imports."""
    module = ModuleType("notes")
    sys.modules["notes"] = module
    exec(compile(listings("examples/README.md"), "README.md", "exec"), module.__dict__)
    yield module
    del sys.modules["notes"]


def test_the_example_of_the_page_runs(notes: ModuleType, tmp_path: Path) -> None:
    page = ModuleType("page")
    exec(compile(listings("docs/testing.md"), "testing.md", "exec"), page.__dict__)
    page.test_a_note_survives_the_upgrade(tmp_path)


def test_what_the_page_names_exists(story: Story) -> None:
    text = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    things = {"world": story.world, "worker": story.old, "user": story.alice}
    named = re.findall(r"`(world|worker|user)\.(\w+)", text)
    named += re.findall(r"[`, ](world|worker|user)\.(\w+)", text)
    assert len(named) > 15
    for owner, attribute in named:
        assert hasattr(things[owner], attribute), (owner, attribute)
    for test in re.findall(r"`(test_\w+)`", text):
        stories = ROOT.glob("tests/stories/test_*.py")
        assert any(f"def {test}(" in path.read_text() for path in stories)


def test_the_same_seed_gives_the_same_keys(tmp_path: Path, v1: Runtime) -> None:
    def keys(name: str, **options: Any) -> tuple[bytes, bytes]:
        world = World(tmp_path / name, **options)
        old = world.begin(world.release(v1))
        status = old.status()
        assert status.shielding_key is not None
        return status.signing_key, status.shielding_key

    first = keys("a")
    assert keys("b") == first
    assert keys("c", seed=b"another") != first


def test_nothing_happens_between_blocks(story: Story) -> None:
    before = story.old.status()
    call = story.carol.call("balances.transfer", dest=story.bob.account, amount=1)
    assert story.old.status() == before
    with pytest.raises(WorldError, match="no receipt"):
        call.receipt()
    with pytest.raises(WorldError, match="in no block"):
        assert call.height
    story.business()
    assert call.height == story.world.height


def test_what_is_not_there_is_said(tmp_path: Path, v1: Runtime) -> None:
    world = World(tmp_path)
    with pytest.raises(WorldError, match="no shard"):
        assert world.shard
    with pytest.raises(WorldError, match="no such block"):
        world.chain.block(99)
    release = world.release(v1)
    world.create_shard(release)
    with pytest.raises(WorldError, match="not born"):
        world.frontier()
    with pytest.raises(WorldError, match="no keys"):
        world.user("alice").call("balances.transfer", dest=bytes(32), amount=1)
    world.blocks(2)
    with pytest.raises(WorldError, match="no worker"):
        world.serving()


def test_a_host_dies_once_before_the_act_it_was_told(story: Story) -> None:
    old = story.old
    old.crash_before = "keep block"
    story.world.block()
    assert not old.running
    with pytest.raises(WorldError, match="does not run"):
        old.status()
    acts = len(old.acts)
    old.restart()
    assert old.acts[acts : acts + 2] == ["start", "keep key store"]
    assert old.running
    story.business(2)
    story.settle()
    story.check_calls()


def test_a_crash_outside_of_a_block_is_the_tests_to_see(story: Story) -> None:
    story.old.paused = True
    story.business(2)
    story.old.paused = False
    story.old.crash_before = "import"
    with pytest.raises(CrashError, match="import"):
        story.old.step()
    assert not story.old.running


def test_a_copy_of_a_disk_is_not_the_disk(story: Story) -> None:
    copy = story.old.disk.copy()
    kept = dict(copy.diffs)
    story.business(3)
    assert copy.diffs == kept
    assert len(story.old.disk.diffs) > len(kept)


def test_the_fingerprint_is_of_the_sources(story: Story) -> None:
    world = story.world
    assert world.release(story.v1).fingerprint == story.a.fingerprint
    again = world.release(story.v1, sources={"x.py": b"1\n"})
    other = world.release(story.v1, sources={"x.py": b"2\n"})
    assert len({r.fingerprint for r in (again, other, story.a, story.b)}) == 4
    assert again.bundle.sigstruct.mrsigner == story.a.bundle.sigstruct.mrsigner


def test_refusals_carry_the_name_of_the_refusing_side(story: Story) -> None:
    with pytest.raises(RefusedError) as by_l1:
        story.world.act(
            "alice", "enclave_bridge.invoke", shard=bytes(32), ciphertext=b""
        )
    assert by_l1.value.name == "UnknownShardError"
    with pytest.raises(RefusedError) as by_enclave:
        story.old.give_birth(story.world.genesis)
    assert by_enclave.value.name == "ShardBornError"


def test_a_worker_killed_at_any_act_of_the_birth_is_born_all_the_same(
    tmp_path: Path, v1: Runtime, new_story: Callable[..., Story]
) -> None:
    """Killed with the keys made and not yet published, or published and unseen."""
    for number, act in enumerate(("keep born keys", "send keys", "execute")):
        world = World(tmp_path / f"birth-{number}")
        release = world.release(v1)
        world.create_shard(release)
        world.block()
        first = world.worker("first", release)
        first.crash_before = act
        with pytest.raises((CrashError, WorldError)):
            first.give_birth(world.genesis)
        first.kill()
        world.blocks(2)
        first.start()
        first.step()
        if not first.status().epochs:
            first.give_birth(world.genesis)
        call = world.user("alice").call(
            "balances.transfer", dest=world.account("bob"), amount=1
        )
        world.blocks(3)
        assert call.receipt().outcome == "ok"
