"""Refusals leave as JSON, by one table; bugs do not leave their text."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sealift.base import DecodeError, SealiftError, TooLargeError
from sealift.transport.files import DiskFullError
from sealift.transport.http import (
    BASE_ERRORS,
    AddressInUseError,
    Listening,
    make_app,
    read_json_body,
    serve,
    status_of,
)


async def refuse(request: web.Request) -> web.Response:
    raise {
        "decode": DecodeError("not that", got=b"\x00", hint="Try another"),
        "large": TooLargeError("too large"),
        "disk": DiskFullError("no space"),
    }[request.match_info["kind"]]


async def echo(request: web.Request) -> web.Response:
    return web.json_response(await read_json_body(request))


async def bug(_: web.Request) -> web.Response:
    raise ZeroDivisionError("secret of the house")


ROUTES = [
    web.get("/refuse/{kind}", refuse),
    web.post("/echo", echo),
    web.get("/bug", bug),
]
Story = Callable[[aiohttp.ClientSession, Listening], Coroutine[Any, Any, None]]


def tell(story: Story) -> None:
    async def main() -> None:
        app = make_app(
            ROUTES, errors={**BASE_ERRORS, DiskFullError: 507}, body_limit=99
        )
        async with serve(app) as where, aiohttp.ClientSession(where.url) as session:
            await story(session, where)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("decode", 400, "DecodeError"),
        ("large", 413, "TooLargeError"),
        ("disk", 507, "DiskFullError"),
    ],
)
def test_refusals_have_status_name_and_sentence(
    kind: str, status: int, code: str
) -> None:
    async def story(session: aiohttp.ClientSession, _: Listening) -> None:
        async with session.get(f"/refuse/{kind}") as response:
            body = (await response.json())["error"]
            assert (response.status, body["code"]) == (status, code)
            assert body["message"]

    tell(story)


def test_unknown_paths_wrong_methods_and_large_bodies_are_json_too() -> None:
    async def story(session: aiohttp.ClientSession, _: Listening) -> None:
        for call, status in (
            (session.get("/nothing"), 404),
            (session.get("/echo"), 405),
            (session.post("/echo", data=b"x" * 200), 413),
            (session.post("/echo", data=b"{"), 400),
            (session.post("/echo", data=b"\xff"), 400),
            (session.post("/echo", data=b"[1]"), 200),
        ):
            async with call as response:
                assert response.status == status
                json.loads(await response.read())

    tell(story)


def test_bug_does_not_tell_its_secrets() -> None:
    async def story(session: aiohttp.ClientSession, _: Listening) -> None:
        async with session.get("/bug") as response:
            assert response.status == 500
            assert "secret" not in await response.text()

    tell(story)


def test_address_that_is_taken_is_explained() -> None:
    async def story(_: aiohttp.ClientSession, where: Listening) -> None:
        with pytest.raises(AddressInUseError, match=str(where.port)):
            async with serve(make_app([]), port=where.port):
                pass

    tell(story)


def test_nearest_class_of_the_table_counts() -> None:
    class NearError(DecodeError):
        """Under DecodeError."""

    assert status_of(NearError("x"), BASE_ERRORS) == 400
    assert status_of(SealiftError("x"), BASE_ERRORS) == 500
    assert status_of(SealiftError("x"), {}) == 500


def test_ipv6_urls_have_brackets() -> None:
    assert Listening(host="::1", port=80).url == "http://[::1]:80"


@pytest.mark.parametrize("steps", range(12))
def test_cut_off_while_it_starts_nothing_goes_on_listening(steps: int) -> None:
    """Asyncio forgets sockets whose server was cut off as it came up."""

    def sockets() -> set[str]:
        found = set()
        for one in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # that of the listing itself
                found.add(str(one.readlink()))
        return {name for name in found if name.startswith("socket:")}

    async def story() -> None:
        async def serving() -> None:
            async with serve(make_app([])):
                await asyncio.Event().wait()

        before = sockets()
        task = asyncio.create_task(serving())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sockets() == before

    asyncio.run(story())
