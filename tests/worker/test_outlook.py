"""What L1 says of a home: which code runs, and which keys are the newest."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles import SHARD, entry, epoch, schedule
from small_bundles import code_in, small_bundle
from test_config import RIGHT, home_with

from sealift.base import Fingerprint, Generation, Height, encode
from sealift.protocol import EntryStatus, Schedule, schedule_key
from sealift.worker._config import WorkerConfig, load_config
from sealift.worker._instances import Judged, install_instance
from sealift.worker._outlook import Outlook, running_instance

OLD_DATA, NEW_DATA = small_bundle(app=b"v = 1\n"), small_bundle(app=b"v = 2\n")
OLD, NEW = Fingerprint(code_in(OLD_DATA)), Fingerprint(code_in(NEW_DATA))


class Node:
    """A node whose state is a schedule, or nothing."""

    def __init__(self, said: Schedule | None, *, head: int = 60) -> None:
        self.said = said
        self.head = head

    async def height(self) -> Height:
        return Height(self.head)

    async def abci_query(self, key: bytes, *, prove: bool) -> object:
        assert not prove, "hints"
        here = self.said is not None and key == schedule_key(SHARD)
        return SimpleNamespace(value=encode(self.said) if here else None)


@pytest.fixture
def home(tmp_path: Path) -> WorkerConfig:
    """A home of the old code, in which the new one was staged."""
    (tmp_path / "b.bundle").write_bytes(OLD_DATA)
    text = RIGHT.replace('bundle = "../app.bundle"', 'bundle = "b.bundle"')
    config = load_config(home_with(tmp_path, text))
    install_instance(config, Judged(fingerprint=NEW, version="2", data=NEW_DATA))
    return config


def test_of_several_codes_the_one_is_brought_up_that_runs(home: WorkerConfig) -> None:
    def brought_up(node: Node) -> str:
        return asyncio.run(running_instance(home, node)).instance  # type: ignore[arg-type]

    old = entry(0, code=OLD)
    ahead = entry(1, since=100, status=EntryStatus.PENDING, code=NEW)
    was = entry(0, code=OLD, status=EntryStatus.RETIRED)
    now = entry(1, since=100, code=NEW)
    void = entry(1, since=100, code=NEW, status=EntryStatus.VOID)
    rescue = entry(2, since=100, code=OLD, predecessor=Generation(0))
    unknown = entry(1, since=100, code=Fingerprint(b"\x07" * 32))
    assert brought_up(Node(schedule(entries=(old, ahead)))) == ""
    assert brought_up(Node(schedule(entries=(was, now)), head=102)) == NEW.hex()
    assert brought_up(Node(schedule(entries=(was, void, rescue)), head=102)) == ""
    # Of what is not here its peers say why: they give no keys to the home's own.
    assert brought_up(Node(schedule(entries=(was, unknown)), head=102)) == ""
    assert brought_up(Node(schedule(entries=()))) == ""
    assert brought_up(Node(None)) == ""


def test_only_an_epoch_that_is_new_is_one_that_an_enclave_has_yet_to_hear_of() -> None:
    async def outlook(said: Schedule | None, head: int) -> Outlook:
        found = Outlook(Node(said), SHARD, "insecure-sim")  # type: ignore[arg-type]
        await found.look(Height(head))
        return found

    said = schedule(epochs=(epoch(0), epoch(1, valid_from=60)))
    for head, new in ((57, True), (60, True), (67, True), (68, False)):
        rotated = asyncio.run(outlook(said, head))
        found = [rotated.is_new(number) for number in (0, 1, 2)]
        assert found == [False, new, False], head
    assert not asyncio.run(outlook(schedule(epochs=()), 60)).is_new(0)
    assert not asyncio.run(outlook(None, 60)).is_new(0)
