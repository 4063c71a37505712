"""``sealift chain status | set-code`` at a real node, and ``chain init --runtime``."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealift.attestation import TrustAnchor
from sealift.base import Amount, ChainId
from sealift.insecure_sim import SimIntel
from sealift.ledger import (
    FIRST_RUNTIME,
    NEWEST_RUNTIME,
    RUNTIME_VERSIONS,
    DcapVerifier,
    LedgerGenesis,
    parse_genesis,
    render_genesis,
    version_table,
)
from sealift.node import LedgerApplication, SoloConfig, SoloHome, init_solo, run_solo
from sealift.transport.clock import WallClock

LATER = NEWEST_RUNTIME + 1


class Node:
    """A chain of version 1 that runs in a thread.

    Args:
        home: Made here.
        versions: What its program has.
    """

    def __init__(self, home: Path, versions: Any) -> None:
        self.home = SoloHome(home)
        init_solo(
            home,
            chain_id=ChainId("cli-runtime"),
            genesis_time=WallClock().now(),
            accounts={"sudo": None, "other": None},
            app_state=lambda keys: render_genesis(
                LedgerGenesis(
                    chain_id=ChainId("cli-runtime"),
                    accounts=tuple((key, Amount(10**12)) for key in keys.values()),
                    sudo=keys["sudo"],
                    anchors=(TrustAnchor(root_der=b"root", kind="insecure-sim"),),
                )
            ),
            application=LedgerApplication(DcapVerifier()),
            entropy=os.urandom,
            config=SoloConfig(block_ms=50, port=0),
        )
        self._versions = versions
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def key(self, name: str) -> Path:
        return self.home.account_key(name)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = LedgerApplication(DcapVerifier(), self._versions)
        async with run_solo(
            self.home.root, application=application, clock=WallClock()
        ) as node:
            self.url = node.url
            self._ready.set()
            await self._stop.wait()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "home", RUNTIME_VERSIONS)
    yield made
    made.close()


def test_a_plan_is_made_shown_replaced_and_withdrawn(node: Node, sealift: Any) -> None:
    at = ("--rpc", node.url, "--json")
    root = ("--key", node.key("sudo"))
    said = sealift("chain", "status", *at).json
    assert said["runtime_version"] == FIRST_RUNTIME
    assert said["runtime_plan"] is None
    assert "versions 1, 2" in said["this_program"]

    said = sealift("chain", "set-code", 2, "--at", 90_000, *root, *at).json
    assert said["replaced"] is None
    plan = said["runtime_plan"]
    assert (plan["version"], plan["at"], plan["in_this_program"]) == (2, 90_000, True)
    assert 0 < plan["in_blocks"] < 90_000

    said = sealift("chain", "set-code", LATER, "--at", 80_000, *root, *at)
    assert f"This program has no version {LATER}" in said.err
    assert said.json["replaced"] == "version 2 at block 90000"
    assert said.json["runtime_plan"]["in_this_program"] is False
    shown = sealift("chain", "status", "--rpc", node.url)
    assert "A NODE OF IT WILL HALT AT BLOCK 80000" in shown.out

    said = sealift("chain", "set-code", "--cancel", *root, *at).json
    assert said["runtime_plan"] is None
    assert said["replaced"] == f"version {LATER} at block 80000"
    said = sealift("chain", "set-code", "--cancel", *root, *at)
    assert said.code == 1
    assert said.json["error"]["code"] == "NoRuntimePlanError"


def test_what_l1_refuses_is_said_in_its_words(node: Node, sealift: Any) -> None:
    where = ("--rpc", node.url)
    words = ("chain", "set-code")
    root, other = ("--key", node.key("sudo")), ("--key", node.key("other"))
    for more, told in (
        ((2, "--at", 90_000, *other), "not the root key"),
        ((1, "--at", 90_000, *root), "not newer"),
        ((2, "--at", 1, *root), "not ahead"),
    ):
        said = sealift(*words, *more, *where)
        assert said.code == 1, said
        assert told in said.err
        assert "Traceback" not in said.err
    said = sealift("chain", "status", *where, "--json").json
    assert said["runtime_plan"] is None


@pytest.mark.parametrize(
    "words", [(), ("2",), ("--at", "9"), ("2", "--at", "9", "--cancel"), ("0",)]
)
def test_half_a_plan_is_wrong_usage(
    sealift: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    said = sealift("chain", "set-code", *words, "--key", tmp_path / "no.json")
    assert said.code == 2


def test_status_of_a_chain_that_this_program_cannot_run(
    sealift: Any, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = version_table(RUNTIME_VERSIONS[NEWEST_RUNTIME])
    monkeypatch.setattr("sealift.cli._chain_runtime.RUNTIME_VERSIONS", only)
    said = sealift("chain", "status", "--rpc", node.url, "--json").json
    assert "NOT THE ONE THAT ACTS" in said["this_program"]


@pytest.mark.parametrize("number", [None, FIRST_RUNTIME, NEWEST_RUNTIME])
def test_a_new_chain_begins_with_the_version_that_is_wanted(
    sealift: Any, tmp_path: Path, number: int | None
) -> None:
    SimIntel(tmp_path / "sim")
    more = () if number is None else ("--runtime", number)
    home = tmp_path / "chain"
    said = sealift("chain", "init", home, "--sim", tmp_path / "sim", "--json", *more)
    assert said.code == 0, said
    wanted = NEWEST_RUNTIME if number is None else number
    assert said.json["runtime_version"] == wanted
    chain = SoloHome(home).open_chain(LedgerApplication(DcapVerifier()))
    assert parse_genesis(chain.genesis.app_state).runtime == wanted
    application = chain.chain.application
    assert isinstance(application, LedgerApplication)
    assert application.ledger.runtime_version == wanted
    chain.close()
    said = sealift("chain", "init", home, "--sim", tmp_path / "sim", "--runtime", LATER)
    assert said.code == 2
