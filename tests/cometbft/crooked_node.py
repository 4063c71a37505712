"""A node's RPC seen through a proxy that lags, lies or falls silent."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

#: Gets method, parameters and the honest answer; gives the one that is sent.
Mood = Callable[[str, dict[str, Any], dict[str, Any]], dict[str, Any]]


def honest(method: str, params: dict[str, Any], answer: dict[str, Any]) -> Any:
    del method, params
    return answer


def stopped_at(top: int) -> Mood:
    """As a node that has no block above ``top``: behind, or halted there."""

    def mood(
        method: str, params: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        asked = int(params.get("height") or 0)
        if asked > top:
            error = {
                "code": -32603,
                "message": "Internal error",
                "data": f"height {asked} must be less than or equal to the current "
                f"blockchain height {top}",
            }
            return {"jsonrpc": "2.0", "id": answer["id"], "error": error}
        if method == "status" and "result" in answer:
            info = answer["result"]["sync_info"]
            newest = min(top, int(info["latest_block_height"]))
            info["latest_block_height"] = str(newest)
        return answer

    return mood


def forged_app_hash(method: str, _: dict[str, Any], answer: dict[str, Any]) -> Any:
    """Another state than the validators signed."""
    if method == "commit" and "result" in answer:
        header = answer["result"]["signed_header"]["header"]
        header["app_hash"] = "AB" * 32
    return answer


def forged_results(method: str, _: dict[str, Any], answer: dict[str, Any]) -> Any:
    """A transaction that went through is said to have failed."""
    if method == "block_results" and "result" in answer:
        for one in answer["result"]["txs_results"] or ():
            one["code"] = 7
    return answer


def hidden_txs(method: str, _: dict[str, Any], answer: dict[str, Any]) -> Any:
    """A block is said to be empty."""
    if method == "block" and "result" in answer:
        answer["result"]["block"]["data"]["txs"] = []
    return answer


class CrookedNode:
    """Forwards to an honest node; its ``mood`` may be changed at any time.

    ``silent`` answers nothing at all, as a node that hangs.
    """

    def __init__(self, target: str, port: int) -> None:
        self.target = target
        self.port = port
        self.mood: Mood = honest
        self.silent = False
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        app = web.Application()
        app.router.add_post("/", self._answer)  # no /websocket: blocks are asked for
        self._http = aiohttp.ClientSession()
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        while self.silent:
            await asyncio.sleep(0.05)
        call = json.loads(body)
        assert self._http is not None
        try:
            async with self._http.post(self.target, data=body) as reply:
                found = await reply.json()
        except (aiohttp.ClientError, OSError):
            return web.Response(status=502)
        return web.json_response(self.mood(call["method"], call["params"], found))
