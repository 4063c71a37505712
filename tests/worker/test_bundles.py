"""Bundles of upgrades: which are staged, and what a source may do to a worker."""

import asyncio
import contextlib
import fcntl
import os
import resource
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from doubles import entry, schedule
from small_bundles import code_in, small_bundle
from test_config import RIGHT, home_with

from sealift.base import Digest, Fingerprint, SealiftError
from sealift.bundle import (
    BundleFormatError,
    SigstructError,
    encode_bundle,
    parse_bundle,
)
from sealift.crypto import rsa_generate, sha256
from sealift.protocol import EntryStatus, Schedule, ShardConfig
from sealift.transport.files import DiskFullError
from sealift.worker import (
    BundleChainError,
    BundleFetchError,
    BundleHashError,
    BundleNotScheduledError,
    BundleRefusedError,
    BundleVersionError,
    judge_bundle,
    put_bundle,
)
from sealift.worker import _bundles as bundles_module
from sealift.worker._bundles import BundleFinder, fetch_bundle
from sealift.worker._config import WorkerConfig, load_config
from sealift.worker._instances import (
    install_instance,
    instance_config,
    open_archive,
    staged_instances,
)
from sealift.worker._store import WorkerStore

DATA = small_bundle()
CODE = Fingerprint(code_in(DATA))
HASH = sha256(DATA)


def ahead(**changes: object) -> Schedule:
    """A schedule in which this bundle's code is to run."""
    fields = {"code": CODE, "since": 100, "status": EntryStatus.PENDING, **changes}
    return schedule(entries=(entry(0), entry(1, **fields)))


def judge(data: bytes, seen: Schedule | None) -> bytes:
    return judge_bundle(
        data, platform="insecure-sim", chain_id="test", schedule=seen
    ).fingerprint


def test_a_bundle_that_the_schedule_names_may_be_staged() -> None:
    assert judge(DATA, ahead()) == CODE
    assert judge(DATA, ahead(bundle=HASH)) == CODE
    assert judge(DATA, ahead(status=EntryStatus.ACTIVE)) == CODE
    assert judge(DATA, None) == CODE  # 4 and 5 are owed


@pytest.mark.parametrize("status", [EntryStatus.VOID, EntryStatus.CANCELLED])
def test_code_that_is_not_to_run_is_refused_and_told_which_is(
    status: EntryStatus,
) -> None:
    with pytest.raises(BundleNotScheduledError) as caught:
        judge(DATA, ahead(status=status))
    assert bytes(caught.value.got) == CODE
    assert "generation 0" in str(caught.value.expected)
    assert (b"\x09" * 32).hex() in str(caught.value.expected)


def test_a_schedule_without_code_for_this_platform_says_so() -> None:
    other = ahead(config=ShardConfig(code={"gramine-sgx": CODE}))
    with pytest.raises(BundleNotScheduledError):
        judge(DATA, other)


def test_a_bundle_of_another_chain_is_refused() -> None:
    foreign = small_bundle(chain="elsewhere")
    with pytest.raises(BundleChainError) as caught:
        judge(foreign, ahead(code=Fingerprint(code_in(foreign))))
    assert (caught.value.got, caught.value.expected) == ("elsewhere", "test")


@pytest.mark.parametrize("tables", [(0, 0), (3, 9)])
def test_a_table_that_this_host_does_not_speak_is_refused(
    tables: tuple[int, int],
) -> None:
    strange = small_bundle(tables=tables)
    with pytest.raises(BundleVersionError):
        judge(strange, ahead(code=Fingerprint(code_in(strange))))


def test_the_same_code_with_another_signature_is_not_the_file_of_the_order() -> None:
    twin = small_bundle(vendor=rsa_generate())
    assert code_in(twin) == CODE
    with pytest.raises(BundleHashError) as caught:
        judge(twin, ahead(bundle=HASH))
    assert caught.value.expected == HASH.hex()


def test_what_is_no_bundle_or_not_signed_for_its_content_is_refused() -> None:
    for data in (b"", b"nonsense", DATA[:-9], DATA[: len(DATA) // 2]):
        with pytest.raises(BundleFormatError):
            judge(data, ahead())
    mixed = mixed_signature()
    with pytest.raises(SigstructError):
        judge(mixed, ahead())


def mixed_signature() -> bytes:
    """One bundle's content with another's signature."""
    mine, other = parse_bundle(DATA), parse_bundle(small_bundle(app=b"x = 2\n"))
    return encode_bundle(replace(mine, sigstruct=other.sigstruct))


# --- the folder ---


def config_in(tmp_path: Path, text: str = RIGHT) -> WorkerConfig:
    return load_config(home_with(tmp_path, text))


Find = Callable[[Schedule], Awaitable[object]]


def finding(
    config: WorkerConfig, seen: Schedule, *, tries: int = 1, most: int = 1 << 28
) -> tuple[list[object], dict[Fingerprint, str]]:
    async def whole() -> tuple[list[object], dict[Fingerprint, str]]:
        async with aiohttp.ClientSession() as http:
            finder = BundleFinder(config, http, most=most)
            found = [
                await finder.find(seen.entries[-1], seen, "test") for _ in range(tries)
            ]
            return found, finder.troubles

    return asyncio.run(whole())


def test_a_bundle_in_the_folder_is_found_by_its_code(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.bundles.mkdir()
    (config.bundles / "a.bundle").write_bytes(b"nonsense")
    (config.bundles / "b.bundle").write_bytes(small_bundle(app=b"x = 3\n"))
    (config.bundles / "c.bundle").mkdir()
    os.mkfifo(config.bundles / "d.bundle")
    assert finding(config, ahead()) == ([None], {})
    (config.bundles / "z.bundle").write_bytes(DATA)
    (found,), troubles = finding(config, ahead())
    assert found is not None
    assert found.fingerprint == CODE
    assert not troubles


def test_the_right_code_in_the_wrong_file_is_told(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.bundles.mkdir()
    (config.bundles / "a.bundle").write_bytes(small_bundle(vendor=rsa_generate()))
    (found,), troubles = finding(config, ahead(bundle=HASH))
    assert found is None
    assert "another file of this code" in troubles[CODE]


def test_an_order_for_other_platforms_asks_for_nothing(tmp_path: Path) -> None:
    other = ahead(
        config=ShardConfig(code={"gramine-sgx": CODE}), source="http://nowhere"
    )
    assert finding(config_in(tmp_path), other) == ([None], {})


def test_what_was_put_into_the_folder_is_found_there(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    judged = judge_bundle(DATA, platform="insecure-sim", chain_id="test", schedule=None)
    assert put_bundle(config, judged).read_bytes() == DATA
    (found,), _ = finding(config, ahead())
    assert found is not None


# --- fetching ---


@contextlib.asynccontextmanager
async def source_of(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]):
    app = web.Application()
    app.router.add_get("/next.bundle", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/next.bundle"
    finally:
        await runner.cleanup()


def fetched(
    folder: Path,
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    *,
    digest: bytes = HASH,
    most: int = 1 << 24,
) -> Path:
    async def whole() -> Path:
        async with source_of(answer) as url, aiohttp.ClientSession() as http:
            return await fetch_bundle(
                http, url, digest=Digest(digest), folder=folder, most=most
            )

    return asyncio.run(asyncio.wait_for(whole(), 20))


async def whole_file(_: web.Request) -> web.Response:
    return web.Response(body=DATA)


def nothing_left(folder: Path) -> bool:
    return not list(folder.glob("*")) and not list(folder.glob(".*"))


def test_a_file_is_fetched_by_its_hash(tmp_path: Path) -> None:
    path = fetched(tmp_path / "new", whole_file)
    assert path.read_bytes() == DATA
    assert path.name == f"{HASH.hex()}.bundle"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_a_killed_fetch_left_goes_and_what_another_writes_stays(
    tmp_path: Path,
) -> None:
    left, written = (
        tmp_path / f".{HASH.hex()}.bundle.{name}.new" for name in ("left", "written")
    )
    left.write_bytes(DATA[:100])
    with written.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        path = fetched(tmp_path, whole_file)
    assert sorted(tmp_path.iterdir()) == sorted([path, written])


def test_another_file_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BundleHashError) as caught:
        fetched(tmp_path, whole_file, digest=bytes(32))
    assert caught.value.got == HASH
    assert nothing_left(tmp_path)


def test_a_body_without_end_is_cut_and_not_kept(tmp_path: Path) -> None:
    sent = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))
            sent.append(1 << 16)

    with pytest.raises(BundleFetchError, match="no end"):
        fetched(tmp_path, endless, most=1 << 20)
    assert sum(sent) < 1 << 26
    assert nothing_left(tmp_path)


def test_a_body_that_is_cut_is_not_kept(tmp_path: Path) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
        await response.prepare(request)
        await response.write(DATA[: len(DATA) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(BundleFetchError, match="cannot be read"):
        fetched(tmp_path, cut)
    assert nothing_left(tmp_path)


def test_a_server_that_falls_silent_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles_module, "_SILENT_SECONDS", 0.2)

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.sleep(5)
        return response

    with pytest.raises(BundleFetchError, match="cannot be read"):
        fetched(tmp_path, silent)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("status", [404, 500, 204])
def test_what_is_no_answer_is_told(tmp_path: Path, status: int) -> None:
    async def refusing(_: web.Request) -> web.Response:
        return web.Response(status=status)

    with pytest.raises(BundleFetchError) as caught:
        fetched(tmp_path, refusing)
    assert caught.value.got == f"HTTP {status}"


def test_redirects_end(tmp_path: Path) -> None:
    async def around(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.url)

    with pytest.raises(BundleFetchError, match="cannot be read"):
        fetched(tmp_path, around)


def from_source(folder: Path, source: str) -> Path:
    async def whole() -> Path:
        async with aiohttp.ClientSession() as http:
            return await fetch_bundle(http, source, digest=HASH, folder=folder)

    return asyncio.run(asyncio.wait_for(whole(), 20))


def test_files_of_this_machine_may_be_a_source(tmp_path: Path) -> None:
    there = tmp_path / "a place" / "it.bundle"
    there.parent.mkdir()
    there.write_bytes(DATA)
    path = from_source(tmp_path / "b", there.as_uri())
    assert path.read_bytes() == DATA
    os.mkfifo(tmp_path / "pipe")
    for source in (
        f"file://{tmp_path}/nothing",
        f"file://{tmp_path}",
        f"file://{tmp_path}/pipe",
        "file:///dev/zero",
        "ftp://x/y",
        "file://elsewhere/x",
        "http://[",
        "nonsense",
        "file:///a%00b",
    ):
        with pytest.raises(BundleFetchError):
            from_source(tmp_path / "c", source)
    assert nothing_left(tmp_path / "c")


def test_a_disk_that_fills_while_fetching_leaves_nothing(tmp_path: Path) -> None:
    async def whole() -> None:
        async with source_of(whole_file) as url, aiohttp.ClientSession() as http:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, before[1]))
            try:
                with pytest.raises(DiskFullError):
                    await fetch_bundle(http, url, digest=HASH, folder=tmp_path)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    asyncio.run(whole())
    assert nothing_left(tmp_path)


def test_a_source_is_asked_only_with_a_hash_and_the_operators_leave(
    tmp_path: Path,
) -> None:
    asked = []

    async def counted(request: web.Request) -> web.Response:
        asked.append(request.path)
        return await whole_file(request)

    async def whole() -> None:
        async with source_of(counted) as url, aiohttp.ClientSession() as http:

            async def find(config: WorkerConfig, seen: Schedule):
                finder = BundleFinder(config, http)
                found = await finder.find(seen.entries[-1], seen, "test")
                return found, finder.troubles.get(CODE, "")

            config = config_in(tmp_path)
            found, why = await find(config, ahead(source=url))
            assert (found, asked) == (None, [])
            assert "no hash" in why
            off = replace(config, fetch=False)
            found, why = await find(off, ahead(source=url, bundle=HASH))
            assert (found, asked) == (None, [])
            assert "fetch = false" in why
            found, why = await find(config, ahead(source=url, bundle=HASH))
            assert found is not None
            assert found.data == DATA
            assert (len(asked), why) == (1, "")
            found, _ = await find(off, ahead(source=url, bundle=HASH))
            assert found is not None  # it is here now
            assert len(asked) == 1

    asyncio.run(whole())


def test_what_fails_is_tried_again_after_longer_and_longer_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def fails(*_: object, **__: object) -> Path:
        tried.append(1)
        raise BundleFetchError("not now")

    monkeypatch.setattr(bundles_module, "fetch_bundle", fails)
    seen = ahead(source="http://x/", bundle=HASH)

    async def whole() -> list[float]:
        clock = asyncio.get_running_loop()
        now = [clock.time()]
        monkeypatch.setattr(clock, "time", lambda: now[0])
        finder = BundleFinder(config_in(tmp_path), None)
        at, gaps = now[0], []
        for _ in range(4000):
            before = len(tried)
            await finder.find(seen.entries[-1], seen, "test")
            if len(tried) > before:
                gaps.append(now[0] - at)
                at = now[0]
            now[0] += 0.5
        assert finder.troubles == {CODE: "not now"}
        return gaps

    gaps = asyncio.run(whole())
    assert gaps[:6] == [0, 1, 2, 4, 8, 16]
    assert max(gaps) == 300


# --- the folders of instances ---


def test_an_instance_is_staged_whole_or_not_at_all(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    judged = judge_bundle(DATA, platform="insecure-sim", chain_id="test", schedule=None)
    assert list(staged_instances(config)) == []
    half = config.home / "instances" / CODE.hex()
    half.mkdir(parents=True)  # as a crash before its bundle was there leaves it
    (config.home / "instances" / "notes").mkdir()
    assert list(staged_instances(config)) == []
    one = install_instance(config, judged)
    assert list(staged_instances(config)) == [CODE]
    assert one.bundle.read_bytes() == DATA
    assert one.folder == half
    assert (one.key_store.parent, one.database.parent) == (half, half)
    assert (one.genesis, one.upstream) == (None, "")
    assert config.folder == config.home
    one.bundle.write_bytes(b"kept")
    install_instance(config, judged)  # what is there is not replaced
    assert one.bundle.read_bytes() == b"kept"


def test_under_gramine_an_instance_remembers_its_signed_folder(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    judged = judge_bundle(DATA, platform="insecure-sim", chain_id="test", schedule=None)
    signed = tmp_path / "v2.gramine"
    install_instance(config, replace(judged, gramine=signed))
    assert instance_config(config, CODE).gramine == signed
    (config.home / "instances" / CODE.hex() / "instance.json").write_bytes(b"{")
    with pytest.raises(SealiftError, match="note about instance"):
        instance_config(config, CODE)


def test_receipts_of_all_lives_are_opened_and_others_databases_left_out(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path)
    places = [config.folder, *(config.folder / "lives" / n for n in ("1", "2"))]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        WorkerStore(place / "worker.db", shard=config.shard, fingerprint=CODE).close()
    (places[1] / "worker.db").write_bytes(b"garbage" * 1000)
    opened = open_archive(config, CODE)
    assert [store.path.parent for store in opened] == [places[0], places[2]]
    for store in opened:
        store.close()
    assert open_archive(config, Fingerprint(bytes(32))) == []
    assert (places[1] / "worker.db").read_bytes().startswith(b"garbage")


def test_every_refusal_of_a_bundle_is_one() -> None:
    kinds = (
        BundleChainError,
        BundleFetchError,
        BundleHashError,
        BundleNotScheduledError,
        BundleVersionError,
    )
    assert all(issubclass(kind, BundleRefusedError) for kind in kinds)
