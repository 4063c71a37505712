"""``worker stage`` and ``snapshot create``: by a worker that runs, or without."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from aiohttp import web
from shard_world import World

from sealift.base import Digest, Fingerprint, Generation, Height, ShardId
from sealift.bundle import parse_bundle, verify_bundle
from sealift.cli import _check
from sealift.client import write_card
from sealift.protocol import EntryStatus, ScheduleEntry, ShardConfig
from sealift.transport.files import hold_lock
from sealift.worker import BundleNotScheduledError, Progress
from sealift.worker._control import Made, control_socket
from sealift.worker._errors import SnapshotNotKeptError
from sealift.worker._snapshots import About, SnapshotFolder

REFUSED, FILE_ERROR = 1, 4


@pytest.fixture
def home(world: World, tmp_path: Path, tiny_bundle: Path, sealift: Any) -> Path:
    path, card = tmp_path / "w1", tmp_path / "card.json"
    write_card(card, world.card)
    made = sealift(
        "worker", "init", path, "--card", card, "--bundle", tiny_bundle,
        "--sim", world.sim.folder, "--machine", "one", "--json",
    )  # fmt: skip
    assert made.code == 0, made
    return path


WORDS = (
    Progress(
        fingerprint="ab" * 32,
        version="2.0",
        role="staged",
        state="notice",
        waits_for="its notice runs until block 70",
        head=60,
        imported=58,
    ),
    Progress(
        fingerprint="ab" * 32,
        version="2.0\x1b[2J",
        role="staged",
        state="ready",
        waits_for="block 100, in 30",
        head=70,
        imported=69,
        state_height=68,
        last=True,
    ),
)


class Running:
    """A worker's socket in a thread, as if it ran on a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: list[bytes] = []
        self.refuses = False
        self.made = Made(name="7-0123456789ab", height=7)
        self._up, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def stage(self, data: bytes, _: Path | None) -> AsyncGenerator[Progress]:
        self.asked.append(data)
        if self.refuses:
            raise BundleNotScheduledError("not named", expected="generation 0 ab")
        for word in WORDS:
            yield word

    async def snapshot(self) -> Made:
        if self.refuses:
            raise SnapshotNotKeptError("a snapshot was not kept", hint="Make room.")
        self.asked.append(b"snapshot")
        return self.made

    async def _run(self) -> None:
        async with control_socket(self.home, self):
            self._up.set()
            await asyncio.to_thread(self._end.wait)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(10)


@pytest.fixture
def running(home: Path) -> Iterator[Running]:
    with Running(home) as worker:
        yield worker


def test_the_running_worker_is_told_and_its_progress_shown(
    running: Running, home: Path, tiny_bundle: Path, sealift: Any
) -> None:
    said = sealift("worker", "stage", tiny_bundle, "--home", home)
    assert said.code == 0
    assert running.asked == [tiny_bundle.read_bytes()]
    first, last = said.out.splitlines()
    assert "notice" in first
    assert "waits for its notice runs until block 70" in first
    assert "ready" in last
    assert "state 68" in last
    assert "\x1b" not in said.out
    as_json = sealift("worker", "stage", tiny_bundle, "--home", home, "--json")
    rows = [json.loads(line) for line in as_json.out.splitlines()]
    assert [row["state"] for row in rows] == ["notice", "ready"]
    assert rows[0] == msgspec.structs.asdict(WORDS[0])


def test_it_need_not_be_waited_for(
    running: Running, home: Path, tiny_bundle: Path, sealift: Any
) -> None:
    said = sealift("worker", "stage", tiny_bundle, "--home", home, "--no-wait")
    assert said.code == 0
    assert len(said.out.splitlines()) == 1
    assert running.asked


def test_its_refusal_is_one_sentence(
    running: Running, home: Path, tiny_bundle: Path, sealift: Any
) -> None:
    running.refuses = True
    said = sealift("worker", "stage", tiny_bundle, "--home", home)
    assert said.code == 1
    assert "BundleNotScheduledError" in said.err
    assert "expected generation 0 ab" in said.err
    assert "Traceback" not in said.err


def test_without_a_worker_code_that_nobody_named_is_refused(
    home: Path, tiny_bundle: Path, sealift: Any
) -> None:
    said = sealift("worker", "stage", tiny_bundle, "--home", home)
    assert said.code == 1
    assert "the schedule does not name this code" in said.err
    assert not list(home.glob("bundles/*"))


def test_without_a_worker_and_l1_it_waits_in_the_bundle_directory(
    world: World, home: Path, tiny_bundle: Path, sealift: Any
) -> None:
    toml = home / "worker.toml"
    toml.write_text(toml.read_text().replace(world.url, "http://127.0.0.1:9"))
    said = sealift("worker", "stage", tiny_bundle, "--home", home, "--json")
    assert said.code == 0, said
    assert "L1 does not answer" in said.err
    (path,) = home.glob("bundles/*.bundle")
    assert said.json["bundle"] == str(path)
    assert path.read_bytes() == tiny_bundle.read_bytes()
    code = verify_bundle(parse_bundle(path.read_bytes())).fingerprint
    assert said.json["mrenclave"] == code.hex()


def test_what_is_no_bundle_or_no_home_is_refused_in_one_line(
    home: Path, tmp_path: Path, tiny_bundle: Path, sealift: Any
) -> None:
    bad = tmp_path / "bad.bundle"
    bad.write_bytes(tiny_bundle.read_bytes()[:-7])
    for words in (
        (bad, "--home", home),
        (tmp_path / "nothing", "--home", home),
        (tiny_bundle, "--home", tmp_path),
    ):
        said = sealift("worker", "stage", *words)
        assert said.code not in (0, 2)
        assert len(said.err.splitlines()) == 1
    wrong = sealift("worker", "stage", tiny_bundle, "--home", home, "--gramine", home)
    assert wrong.code == 2


def test_status_shows_the_instances_in_a_table_whatever_a_worker_says(
    world: World, home: Path, sealift: Any
) -> None:
    shown = [dict(WORDS[0].shown()), {"mrenclave": "cd", "more": 1}]
    url = ("--url", world.enclave.url)
    for said in (shown, "nonsense", [1], None, []):

        async def status(_: web.Request, said: object = said) -> web.Response:
            return web.json_response({"mrenclave": "ab", "instances": said})

        world.enclave.lies["status"] = status
        found = sealift("worker", "status", home, *url)
        assert found.code == 0
        assert ("staged" in found.out) is (said is shown)
        rows = sealift("worker", "status", home, *url, "--json").json["instances"]
        assert len(rows) == (2 if said is shown else 0)


def here(state: str, *, code: str = "ab" * 32) -> _check._Here:
    row = {"mrenclave": code, "state": state, "waits_for": "the keys"}
    return _check._Here(
        answering=b"\x09" * 32,
        codes=frozenset((b"\x09" * 32, bytes.fromhex(code))),
        rows=_check._instances({"instances": [row]}),
    )


@pytest.mark.parametrize(
    ("state", "strict", "ok"),
    [
        ("keys", False, True),
        ("keys", True, False),
        ("down", True, False),
        ("ready", True, True),
    ],
)
def test_check_is_content_for_an_upgrade_once_the_staged_one_is_ready(
    state: str, strict: bool, ok: bool
) -> None:
    ahead = entry_of_code(bytes.fromhex("ab" * 32))
    found = _check._upgrade(ahead, here(state), 60, for_upgrade=strict)
    assert found.ok is ok
    assert f"it is {state}" in found.detail
    assert _check._generation(ahead, None, here(state), 60).ok
    other = entry_of_code(b"\x0e" * 32)
    assert not _check._generation(other, other, here(state), 60).ok
    stops = _check._upgrade(other, here(state), 60, for_upgrade=strict)
    assert stops.ok is not strict
    assert "worker stage" in stops.detail


def entry_of_code(code: bytes) -> Any:
    return ScheduleEntry(
        generation=Generation(1),
        predecessor=Generation(0),
        config=ShardConfig(code={"insecure-sim": Fingerprint(code)}),
        order=Digest(bytes(32)),
        recorded_at=Height(1),
        release_from=Height(70),
        upgrade_at=Height(100),
        since=Height(100),
        status=EntryStatus.PENDING,
    )


def test_a_running_worker_makes_the_snapshot(
    running: Running, home: Path, world: World, tmp_path: Path, sealift: Any
) -> None:
    lost = sealift("snapshot", "create", home)  # pruned at once, by others
    assert (lost.code, "is not in this home" in lost.err) == (REFUSED, True)
    (home / "worker.db").touch()
    about = About(shard=ShardId(bytes(32)), fingerprint=Fingerprint(bytes(32)))
    draft = SnapshotFolder(home / "snapshots").draft(7, b"header")
    draft.put(0, b"chunk")
    draft.finish(1, about)
    running.made = Made(name=draft.name, height=7)
    made = sealift("snapshot", "create", home, "--to", tmp_path / "backup", "--json")
    assert made.code == 0, made
    assert json.loads(made.out)["path"] == str(tmp_path / "backup" / draft.name)
    assert running.asked == [b"snapshot"] * 2
    running.refuses = True
    refused = sealift("snapshot", "create", home)
    assert refused.code == REFUSED
    assert "refused (SnapshotNotKeptError): a snapshot was not kept" in refused.err
    assert "Make room." in refused.err


def test_a_worker_that_cannot_be_told_yet_makes_no_snapshot(
    home: Path, sealift: Any
) -> None:
    """It is still starting, or of a release without the socket."""
    with hold_lock(home / "worker.lock"):
        refused = sealift("snapshot", "create", home)
    assert (refused.code, "another process runs" in refused.err) == (FILE_ERROR, True)
