"""The socket in a worker's home: for its operator alone, and for two things."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from sealift.bundle import MAX_BUNDLE_BYTES
from sealift.worker import (
    BundleChainError,
    ControlError,
    Progress,
    snapshot_in_running,
    stage_in_running,
    worker_listens,
)
from sealift.worker import _control as control
from sealift.worker._control import SOCKET_FILE, Made, control_socket


def word(state: str, *, last: bool = False) -> Progress:
    return Progress(
        fingerprint="09" * 32, version="2", role="staged", state=state, last=last
    )


class Desk:
    """What a running worker does with requests, in a test."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Path | None]] = []
        self.refuse: Exception | None = None
        self.hold = asyncio.Event()
        self.ended = 0

    async def stage(
        self, data: bytes, gramine: Path | None
    ) -> AsyncGenerator[Progress]:
        self.asked.append((data, gramine))
        if self.refuse is not None:
            raise self.refuse
        try:
            yield word("starting")
            await self.hold.wait()
            yield word("ready", last=True)
        finally:
            self.ended += 1

    async def snapshot(self) -> Made:
        self.asked.append((b"snapshot", None))
        if self.refuse is not None:
            raise self.refuse
        await self.hold.wait()
        self.ended += 1
        return Made(name="7-0123456789ab", height=7)


def play(home: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def whole() -> None:
        desk = Desk()
        async with asyncio.timeout(20), control_socket(home, desk):
            await story(desk)

    asyncio.run(whole())


def test_a_bundle_is_staged_and_its_progress_told(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.hold.set()
        data = bytes(range(256)) * 4000
        said = [
            one.state
            async for one in stage_in_running(tmp_path, data, gramine=Path("/g"))
        ]
        assert said == ["starting", "ready"]
        assert desk.asked == [(data, Path("/g"))]

    play(tmp_path, story)


def test_only_its_owner_may_connect_and_it_goes_with_the_worker(
    tmp_path: Path,
) -> None:
    async def story(_: Desk) -> None:
        path = tmp_path / SOCKET_FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert worker_listens(tmp_path)

    mask = os.umask(0)
    try:
        play(tmp_path, story)
        assert os.umask(0) == 0  # it was put back
    finally:
        os.umask(mask)
    assert not list(tmp_path.iterdir())
    assert not worker_listens(tmp_path)


def test_a_home_may_have_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6)
    home.mkdir(parents=True)
    assert len(str(home / SOCKET_FILE)) > 108

    async def story(desk: Desk) -> None:
        desk.hold.set()
        assert [one.state async for one in stage_in_running(home, b"x")]

    play(home, story)


def test_what_a_killed_worker_left_is_replaced_and_nothing_else(
    tmp_path: Path,
) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET_FILE))
    left.close()
    assert not worker_listens(tmp_path)

    async def story(_: Desk) -> None:
        assert worker_listens(tmp_path)

    play(tmp_path, story)
    (tmp_path / SOCKET_FILE).write_bytes(b"mine")
    with pytest.raises(ControlError, match="something else"):
        play(tmp_path, story)
    assert (tmp_path / SOCKET_FILE).read_bytes() == b"mine"
    (tmp_path / SOCKET_FILE).unlink()
    (tmp_path / SOCKET_FILE).symlink_to(tmp_path / "nowhere")
    with pytest.raises(ControlError, match="no socket"):
        play(tmp_path, story)


def test_a_refusal_arrives_with_its_name_and_hint(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.refuse = BundleChainError("of another chain", hint="Build it anew.")
        with pytest.raises(ControlError) as caught:
            async for _ in stage_in_running(tmp_path, b"x" * (1 << 20)):
                pass
        assert "BundleChainError" in caught.value.what
        assert "of another chain" in caught.value.what
        assert caught.value.hint == "Build it anew."

    play(tmp_path, story)


def test_whoever_stops_listening_ends_only_the_telling(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        words = stage_in_running(tmp_path, b"x")
        assert (await anext(words)).state == "starting"
        await words.aclose()
        desk.hold.set()
        while not desk.ended:
            await asyncio.sleep(0.01)
        assert desk.asked == [(b"x", None)]

    play(tmp_path, story)


def test_those_who_stopped_listening_keep_no_place(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for _ in range(control._MOST_CLIENTS):
            words = stage_in_running(tmp_path, b"x")
            assert (await anext(words)).state == "starting"
            await words.aclose()
        while desk.ended < control._MOST_CLIENTS:  # though there was no news
            await asyncio.sleep(0.01)
        words = stage_in_running(tmp_path, b"x")
        assert (await anext(words)).state == "starting"
        await words.aclose()

    play(tmp_path, story)


def test_a_worker_that_ends_meanwhile_is_told(tmp_path: Path) -> None:
    async def whole() -> None:
        desk = Desk()
        async with control_socket(tmp_path, desk):
            words = stage_in_running(tmp_path, b"x")
            assert (await anext(words)).state == "starting"
        with pytest.raises(ControlError, match="ended meanwhile"):
            await anext(words)
        with pytest.raises(ControlError, match="cannot be told"):
            await anext(stage_in_running(tmp_path, b"x"))

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_a_snapshot_is_made_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REQUEST_SECONDS", 0.05)

    async def story(desk: Desk) -> None:
        asking = asyncio.create_task(snapshot_in_running(tmp_path))
        await asyncio.sleep(0.3)
        assert not asking.done()
        desk.hold.set()
        assert await asking == Made(name="7-0123456789ab", height=7)
        assert desk.asked == [(b"snapshot", None)]
        desk.refuse = BundleChainError("no room", hint="Make some.")
        with pytest.raises(ControlError, match="no room") as caught:
            await snapshot_in_running(tmp_path)
        assert caught.value.hint == "Make some."

    play(tmp_path, story)


def test_whoever_stops_waiting_leaves_the_snapshot_to_be_made(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        asking = asyncio.create_task(snapshot_in_running(tmp_path))
        while not desk.asked:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.05)
        desk.hold.set()
        while not desk.ended:
            await asyncio.sleep(0.01)

    play(tmp_path, story)


def test_a_worker_that_ends_before_its_snapshot_is_told(tmp_path: Path) -> None:
    async def whole() -> None:
        desk = Desk()
        async with control_socket(tmp_path, desk):
            asking = asyncio.create_task(snapshot_in_running(tmp_path))
            while not desk.asked:
                await asyncio.sleep(0.01)
        with pytest.raises(ControlError, match="ended meanwhile") as caught:
            await asking
        assert "goes when it runs again" in caught.value.hint
        assert desk.ended == 0

    asyncio.run(asyncio.wait_for(whole(), 20))


async def said_to(home: Path, raw: bytes, *, close: bool = True) -> bytes:
    with control._short_path(home) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw)
    if close:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b'{"type":"other"}\n',
        b'{"type":"snapshot"',
        b'{"type":"stage","size":0}\n',
        b'{"type":"stage","size":-1}\n',
        b'{"type":"stage","size":%d}\n' % (MAX_BUNDLE_BYTES + 1),
        b"\xff\xfe\n",
        b"x" * 200_000 + b"\n",
        b'{"type":"stage","size":10}\nshort',
    ],
)
def test_nonsense_stages_nothing_and_the_next_is_heard(
    tmp_path: Path, raw: bytes
) -> None:
    async def story(desk: Desk) -> None:
        answer = await said_to(tmp_path, raw)
        if b"short" not in raw:
            refused = msgspec.json.decode(answer, type=control.Refusal)
            assert refused.code == "ControlError"
        assert desk.asked == []
        desk.hold.set()
        assert [one.state async for one in stage_in_running(tmp_path, b"x")]

    play(tmp_path, story)


def test_who_says_nothing_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REQUEST_SECONDS", 3.0)
    served: list[asyncio.StreamReader] = []
    request = control._request

    async def noted(reader: asyncio.StreamReader) -> object:
        served.append(reader)
        return await request(reader)

    monkeypatch.setattr(control, "_request", noted)

    async def story(desk: Desk) -> None:
        silent = [
            asyncio.create_task(said_to(tmp_path, b"", close=False)) for _ in range(8)
        ]
        while len(served) < len(silent):
            await asyncio.sleep(0.01)
        with pytest.raises(ControlError, match="too many"):
            async for _ in stage_in_running(tmp_path, b"x"):
                pass
        await asyncio.gather(*silent)
        desk.hold.set()
        assert [one.state async for one in stage_in_running(tmp_path, b"x")]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (b'{"type":"progress"}\n', "nonsense"),
        (b'{"type":"made","name":"n","height":7}\n', "another question"),
    ],
)
def test_a_worker_that_talks_nonsense_is_told(
    tmp_path: Path, words: bytes, match: str
) -> None:
    async def whole() -> None:
        async def answer(_: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
            out.write(words)
            out.close()

        server = await asyncio.start_unix_server(answer, tmp_path / SOCKET_FILE)
        async with server:
            with pytest.raises(ControlError, match=match):
                await anext(stage_in_running(tmp_path, b"x"))

    asyncio.run(asyncio.wait_for(whole(), 20))
