"""L1's runtime changes on four validators, of which one lacks the new version."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from comet import CHAIN, account_key, follow, follow_on
from network import NAMES, Net, Sent, business, finish, story

from sealift.base import Height, Nonce, canonical_decode
from sealift.crypto import account_of
from sealift.frame import storage_key
from sealift.ledger import (
    FIRST_RUNTIME,
    RUNTIME_VERSIONS,
    DcapVerifier,
    ledger_call,
    transaction,
    version_table,
)
from sealift.node import LedgerApplication
from sealift.node.abci import AbciApplication
from sealift.relay import Validator
from sealift.transport.keys import read_validator_key

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(300)]
SECOND = 2
*OTHERS, LATE = NAMES
OLD_PROGRAM = (str(Path(__file__).parent / "old_node.py"), "node", "cometbft")
OLD_TABLE = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])
#: Blocks between the plan and the new version.
NOTICE = 12


async def schedule(net: Net) -> Height:
    """Root, who is user 0, plans version 2; the height of its first block."""
    root = net.users[0]
    at = Height(await net.height(NAMES[0]) + NOTICE)
    inner = ledger_call("system.set_code", version=SECOND, height=at)
    plan = transaction(
        root.secret,
        chain_id=CHAIN,
        nonce=Nonce(len(root.sent)),
        valid_until=Height(100_000),
        call=ledger_call("sudo.sudo", call=inner),
    )
    await root.hand_in(Sent(plan, account_of(root.secret)), list(net.clients.values()))
    return at


async def halted(net: Net, at: Height) -> None:
    """Until the late one has ended by itself, and again when it was restarted."""
    async with asyncio.timeout(60):
        while not any(f"{LATE} did not become ready" in line for line in net.said):
            await asyncio.sleep(0.1)
    assert f"{LATE} ended with code 1" in "\n".join(net.said)
    log = net.log(LATE).read_text()
    assert f"block {at} is executed by a version" in log
    assert f"expected version {SECOND}" in log
    assert "install a release that has it" in log
    assert "Traceback" not in log


def kept(net: Net) -> tuple[Height, bytes]:
    """What the old program finds in the late one's home, and nobody runs on."""
    path = net.homes[LATE].ledger / "state.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    driver = AbciApplication.open(
        path, application=LedgerApplication(DcapVerifier(), OLD_TABLE)
    )
    with contextlib.closing(driver):
        return driver.height, driver.app_hash


async def version(net: Net, name: str, height: int) -> int:
    key = storage_key("system", "version")
    entry = await net.clients[name].abci_query(key, height=Height(height))
    assert entry.value is not None
    return canonical_decode(int, entry.value)


async def signs(net: Net, height: int) -> None:
    """Until a block after that height has the late one's signature."""
    key = read_validator_key(net.homes[LATE].validator_key)
    address = Validator(public_key=account_of(key), power=1).address
    async with asyncio.timeout(30):
        while True:
            height += 1
            await net.reach(height, OTHERS[0])
            block = (await net.clients[OTHERS[0]].block(Height(height))).block
            signers = {one.validator_address for one in block.last_commit.signatures}
            if address in signers:
                return


async def paid_after(net: Net, height: int) -> Sent:
    """A transfer in a block after that height, by the user who asks the late one."""
    async with asyncio.timeout(30):
        while True:
            for sent in net.users[NAMES.index(LATE)].sent:
                if sent.height is not None and sent.height > height:
                    return sent
            await asyncio.sleep(0.05)


def test_three_go_on_and_the_fourth_halts_is_updated_and_agrees(
    tmp_path: Path,
) -> None:
    async def tell(net: Net) -> None:
        await net.reach(2)
        at = await schedule(net)
        relay = await follow(net.clients[LATE], 2)
        async with business(net):
            # three switch at the height; a relay crosses it by one of them
            await net.reach(at + 3, *OTHERS)
            await follow_on(relay, net.clients[OTHERS[0]], at + 2)
            # the fourth halts by name, at the block before, and keeps what it has
            await halted(net, at)
            await net.supervisor.stop(LATE)  # whoever runs it takes the new release
            assert kept(net) == (at - 1, relay.header_at(at).header.app_hash)
            away = await net.height(OTHERS[0])
            await net.reach(away + 3, *OTHERS)
            # its program is updated: it resumes, replays, and signs again
            await net.start(LATE, called=f"{LATE}-updated")
            await net.reach(away + 6)
            await follow_on(relay, net.clients[LATE], away + 5)  # from now on by it
            await signs(net, away + 5)
            last = await paid_after(net, away + 5)
            entry = await net.clients[LATE].abci_query(account_key(last.receiver))
            assert entry.value is not None
            await net.paid(21)
        await finish(net)
        for name in NAMES:
            assert await version(net, name, at - 1) == FIRST_RUNTIME
            assert await version(net, name, at) == SECOND
        others = [one for one in net.supervisor.states() if one.name != LATE]
        assert [(one.state, one.restarts) for one in others] == [("ready", 0)] * 4
        assert await net.require_nothing_lost() > 20

    story(tmp_path, tell, programs={LATE: OLD_PROGRAM})
