"""The socket: answers in order, refusals that stop, one process on one home."""

import asyncio
import contextlib
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from abci_client import GENESIS, INFO, Connection, block, frame, init, run_block
from comet import account_key, receiver, transfer
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import Height, InvariantError
from sealift.ledger import DcapVerifier
from sealift.node import ExecutedBlock, LedgerApplication
from sealift.node._history import NEAR
from sealift.node._state_log import ChangeLog
from sealift.node.abci import (
    AbciServer,
    AbciSocketError,
    run_abci,
)
from sealift.protocol import MAX_TX_BYTES
from sealift.relay import Validator, ValidatorSet
from sealift.relay.rpc import ExecTxResult
from sealift.transport.files import FileLockedError
from sealift.transport.process import ProcessSpec, child_process

OTHERS = ValidatorSet(validators=(Validator(public_key=b"o" * 32, power=10),))
OTHER_KEY = {"pub_key": {"secp256k1": bytes(33)}, "power": 10}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, as a unix socket needs it."""
    with tempfile.TemporaryDirectory(prefix="sla-") as made:
        yield Path(made)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    application: LedgerApplication | None = None,
    patience: float = 20,
) -> AsyncIterator[tuple[AbciServer, Connection, Connection]]:
    async with run_abci(
        folder / "home",
        socket=folder / "s",
        application=application or LedgerApplication(DcapVerifier()),
        patience=patience,
    ) as server:
        one, other = [await Connection.open(folder / "s") for _ in range(2)]
        try:
            yield server, one, other
        finally:
            await one.close()
            await other.close()


def test_answers_come_in_order_and_no_later_than_flush(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder) as (_, one, other):
            for i in range(50):
                one.send("echo", message=f"number {i}")
            one.send("flush")
            one.send("info", **INFO)
            one.send("flush")
            for i in range(50):
                assert await one.answer() == ("echo", {"message": f"number {i}"})
            assert await one.answer() == ("flush", {})
            assert (await one.answer())[0] == "info"
            assert await one.answer() == ("flush", {})
            assert (await other.ask("echo", message="x"))[1] == {"message": "x"}

    asyncio.run(main())


def test_bytes_of_a_request_may_come_one_by_one(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder) as (_, one, _other):
            for byte in frame("echo", message="slow") + frame("flush"):
                one.writer.write(bytes([byte]))
                await one.writer.drain()
                await asyncio.sleep(0)
            assert await one.answer() == ("echo", {"message": "slow"})

    asyncio.run(main())


def test_every_message_of_a_chain_over_the_socket(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder) as (_, one, other):
            kind, body = await one.ask("init_chain", **GENESIS)
            assert (kind, body["validators"]) == ("init_chain", [])
            assert (await other.ask("check_tx", tx=transfer(0)))[1]["code"] == 0
            kind, body = await one.ask(
                "prepare_proposal",
                max_tx_bytes=1000,
                txs=[b"x", transfer(0)],
                height=1,
            )
            assert (kind, body) == ("prepare_proposal", {"txs": [transfer(0)]})
            kind, body = await one.ask("process_proposal", **block(1, (transfer(0),)))
            assert (kind, body) == ("process_proposal", {"status": 1})
            kind, body = await one.ask("finalize_block", **block(1, (transfer(0),)))
            assert kind == "finalize_block"
            assert [result["code"] for result in body["tx_results"]] == [0]
            assert body["tx_results"][0]["events"]
            assert await one.ask("commit") == ("commit", {"retain_height": 0})
            kind, found = await other.ask(
                "query", data=account_key(receiver(0)), path="/store", prove=True
            )
            assert (kind, found["log"], found["height"]) == ("query", "exists", 1)
            _, there = await other.ask("info", **INFO)
            assert there["last_block_app_hash"] == body["app_hash"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("list_snapshots", {"snapshots": []}),
        ("offer_snapshot", {"result": 2}),
        ("load_snapshot_chunk", {"chunk": b""}),
        (
            "apply_snapshot_chunk",
            {"result": 2, "refetch_chunks": [], "reject_senders": []},
        ),
        ("extend_vote", {"vote_extension": b""}),
        ("verify_vote_extension", {"status": 1}),
    ],
)
def test_what_is_not_offered_is_answered_empty(
    folder: Path, kind: str, answer: dict[str, object]
) -> None:
    async def main() -> None:
        async with serving(folder) as (_, one, _other):
            assert await one.ask(kind) == (kind, answer)

    asyncio.run(main())


class SlowLedger(LedgerApplication):
    def __init__(self) -> None:
        super().__init__(DcapVerifier())
        self.go_on = threading.Event()
        self.checked: list[bytes] = []

    def check_tx(self, tx: bytes, *, recheck: bool) -> ExecTxResult:
        self.checked.append(tx)
        return super().check_tx(tx, recheck=recheck)

    def finalize_block(self, **given: object) -> ExecutedBlock:
        done = super().finalize_block(**given)
        if given["height"] == 2:
            assert self.go_on.wait(20)
        return done


def test_reading_goes_on_while_a_block_is_executed(folder: Path) -> None:
    async def main() -> None:
        application = SlowLedger()
        async with serving(folder, application) as (_, one, other):
            third = await Connection.open(folder / "s")
            await one.ask("init_chain", **GENESIS)
            await one.ask("finalize_block", **block(1))
            await one.ask("commit")
            slow = asyncio.create_task(one.ask("finalize_block", **block(2)))
            await asyncio.sleep(0.05)
            key = account_key(receiver(0))
            _, found = await other.ask("query", data=key, prove=True)
            assert (found["height"], found["log"]) == (1, "does not exist")
            assert (await other.ask("info", **INFO))[1]["last_block_height"] == 1
            waiting = asyncio.create_task(third.ask("check_tx", tx=transfer(0)))
            await asyncio.sleep(0.05)
            assert not slow.done()
            assert application.checked == []  # the working state is taken
            application.go_on.set()
            assert (await slow)[0] == "finalize_block"
            assert (await waiting)[1]["code"] == 0
            await third.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "garbage",
    [b"\x01\xff", b"\x00", b"\xff" * 10, frame("info", abci_version="1.0.0")],
    ids=["no-protobuf", "empty", "endless-length", "other-version"],
)
def test_refused_bytes_end_their_connection_only(folder: Path, garbage: bytes) -> None:
    async def main() -> None:
        async with serving(folder) as (server, one, other):
            one.send("echo", message="before")
            one.writer.write(garbage)
            assert await one.answer() == ("echo", {"message": "before"})
            kind, body = await one.answer()
            assert kind == "exception"
            assert str(body["error"]).startswith(("Abci", "TooLarge"))
            with pytest.raises(EOFError):
                await one.answer()
            assert (await other.ask("echo", message="x"))[0] == "echo"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.failed(), 0.05)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "body", "rule"),
    [
        ("commit", {}, "AbciOrderError: Commit without FinalizeBlock"),
        ("finalize_block", block(2), "AbciOrderError: FinalizeBlock out of turn"),
        ("process_proposal", block(5), "AbciOrderError: proposal out of turn"),
        (
            "prepare_proposal",
            {"txs": [b"x"], "height": 9, "max_tx_bytes": 9},
            "AbciOrderError: proposal out of turn",
        ),
        (
            "finalize_block",
            block(1, validators=OTHERS),
            "AbciValidatorsError: block 1 names other next validators",
        ),
        ("init_chain", GENESIS | {"chain_id": "another"}, "ForeignChainError"),
        ("init_chain", GENESIS | {"app_state_bytes": b"{}"}, "LedgerGenesisError"),
        ("init_chain", GENESIS | {"initial_height": 2}, "AbciGenesisError"),
        ("init_chain", GENESIS | {"validators": [OTHER_KEY]}, "UnsupportedKeyError"),
        ("info", INFO | {"version": "1.0.0"}, "AbciVersionError"),
        ("finalize_block", block(1) | {"hash": b""}, "AbciFormatError"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_is_named_and_the_next_node_is_served(
    folder: Path, kind: str, body: dict[str, object], rule: str
) -> None:
    async def main() -> None:
        async with serving(folder) as (server, one, other):
            before = (await other.ask("init_chain", **GENESIS))[1]["app_hash"]
            answered, told = await one.ask(kind, **body)
            assert answered == "exception"
            assert str(told["error"]).startswith(rule)
            with pytest.raises(EOFError):
                await one.answer()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.failed(), 0.05)
            third = await Connection.open(folder / "s")
            again = await third.ask("init_chain", **GENESIS)
            assert again[1]["app_hash"] == before
            assert (await third.ask("finalize_block", **block(1)))[0] != "exception"
            assert (await third.ask("commit"))[0] == "commit"
            await third.close()

    asyncio.run(main())


def test_transactions_of_any_size_are_answered(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder) as (_, one, _other):
            await one.ask("init_chain", **GENESIS)
            for tx in (b"", bytes(MAX_TX_BYTES), bytes(MAX_TX_BYTES + 1)):
                _, told = await one.ask("check_tx", tx=tx)
                assert told["code"] != 0
                refused = await one.ask("process_proposal", **block(1, (tx,)))
                assert refused == ("process_proposal", {"status": 2})
                none = await one.ask(
                    "prepare_proposal", txs=[tx], max_tx_bytes=10**8, height=1
                )
                assert none == ("prepare_proposal", {"txs": []})
            # decided all the same: failed results, never a halt
            txs = (b"", bytes(MAX_TX_BYTES + 1), transfer(0))
            _, done = await one.ask("finalize_block", **block(1, txs))
            codes = [result["code"] for result in done["tx_results"]]
            assert [code == 0 for code in codes] == [False, False, True]

    asyncio.run(main())


def test_a_fifth_connection_waits_for_a_place_and_is_refused(folder: Path) -> None:
    """Two nodes on one ledger would commit each other's blocks."""

    async def main() -> None:
        async with serving(folder, patience=0.3) as (server, one, _other):
            others = [await Connection.open(folder / "s") for _ in range(2)]
            for each in others:
                assert (await each.ask("echo", message="x"))[0] == "echo"
            fifth = await Connection.open(folder / "s")
            kind, told = await fifth.ask("info", **INFO)
            assert kind == "exception"
            assert str(told["error"]).startswith("AbciConnectionsError")
            await fifth.close()
            assert (await one.ask("echo", message="x"))[0] == "echo"
            # of a node that died just now
            sixth = asyncio.create_task(ask_anew(folder))
            await asyncio.sleep(0.1)
            for each in others:
                await each.close()
            assert (await sixth)[0] == "info"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.failed(), 0.05)

    asyncio.run(main())


async def ask_anew(folder: Path) -> tuple[str, dict[str, object]]:
    connection = await Connection.open(folder / "s")
    try:
        return await connection.ask("info", **INFO)
    finally:
        await connection.close()


def test_a_message_that_breaks_off_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(folder) as (server, one, _other):
            one.writer.write(frame("echo", message="whole")[:-1])
            await one.close()
            async with asyncio.timeout(5):
                while "ended within a message" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert (await ask_anew(folder))[0] == "info"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.failed(), 0.05)

    asyncio.run(main())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [
                    frame("echo", message="x"),
                    frame("info", **INFO),
                    frame("init_chain", **GENESIS),
                    frame("finalize_block", **block(1)),
                    frame("check_tx", tx=b"tx"),
                    frame("query", path="/store"),
                    frame("flush"),
                ]
            ),
        ),
        max_size=6,
    ),
    st.integers(0, 40),
)
def test_whatever_comes_the_next_connection_is_served(
    parts: list[bytes], cut: int
) -> None:
    stream = b"".join(parts)
    stream = stream[: max(len(stream) - cut, 0)]

    async def main(folder: Path) -> None:
        async with serving(folder) as (server, one, _other):
            one.writer.write(stream)
            one.writer.write_eof()
            with contextlib.suppress(EOFError, AssertionError, ConnectionError):
                while True:
                    await one.answer()
            assert (await ask_anew(folder))[0] == "info"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.failed(), 0.01)

    with tempfile.TemporaryDirectory(prefix="slz-") as made:
        asyncio.run(main(Path(made)))


class Forgetful(LedgerApplication):
    def finalize_block(self, **_: object) -> ExecutedBlock:
        return ExecutedBlock(app_hash=bytes(32), changes={})


def test_a_decision_that_fails_half_done_ends_the_server(folder: Path) -> None:
    async def main() -> None:
        application = Forgetful(DcapVerifier())
        async with serving(folder, application) as (server, one, _):
            await one.ask("init_chain", **GENESIS)
            kind, body = await one.ask("finalize_block", **block(1, (b"x",)))
            assert kind == "exception"
            assert "did not answer every transaction" in str(body["error"])
            with pytest.raises(InvariantError):
                await asyncio.wait_for(server.failed(), 5)

    asyncio.run(main())


class BrokenLedger(LedgerApplication):
    def check_tx(self, tx: bytes, *, recheck: bool) -> ExecTxResult:
        raise RuntimeError("a bug")


def test_bug_ends_the_server(folder: Path) -> None:
    async def main() -> None:
        application = BrokenLedger(DcapVerifier())
        async with serving(folder, application) as (server, one, _):
            await one.ask("init_chain", **GENESIS)
            one.send("check_tx", tx=b"x")
            with pytest.raises(EOFError):
                await one.answer()
            with pytest.raises(RuntimeError, match="a bug"):
                await asyncio.wait_for(server.failed(), 5)

    asyncio.run(main())


def test_closing_while_a_block_is_executed_waits_for_the_thread(folder: Path) -> None:
    async def main() -> None:
        application = SlowLedger()
        async with serving(folder, application) as (_, one, _other):
            await one.ask("init_chain", **GENESIS)
            await one.ask("finalize_block", **block(1))
            await one.ask("commit")
            one.send("finalize_block", **block(2))
            await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_later(0.2, application.go_on.set)
        assert application.go_on.is_set()

    asyncio.run(main())


def test_socket_is_the_owners_and_a_dead_one_is_replaced(folder: Path) -> None:
    async def main() -> None:
        for _ in range(2):
            async with serving(folder):
                mode = stat.S_IMODE((folder / "s").stat().st_mode)
                assert mode & 0o077 == 0
        assert not (folder / "s").exists()

    asyncio.run(main())


def test_a_live_socket_of_another_ledger_is_not_taken_away(folder: Path) -> None:
    """Its CometBFT would reconnect to the wrong ledger, and none would say so."""

    async def main() -> None:
        async with serving(folder) as (_, one, __):
            with pytest.raises(AbciSocketError, match="another process answers"):
                async with run_abci(
                    folder / "other home",
                    socket=folder / "s",
                    application=LedgerApplication(DcapVerifier()),
                ):
                    pass
            assert (folder / "s").is_socket()
            assert (await one.ask("echo", message="x"))[1] == {"message": "x"}
            again = await Connection.open(folder / "s")
            assert (await again.ask("echo", message="y"))[1] == {"message": "y"}
            await again.close()

    asyncio.run(main())


def test_a_socket_whose_backlog_is_full_is_live_too(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(folder / "s"))
        busy.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(folder / "s"))

        async def main() -> None:
            with pytest.raises(AbciSocketError, match="another process answers"):
                async with serving(folder):
                    pass

        asyncio.run(main())
        assert (folder / "s").is_socket()


def test_a_socket_that_a_killed_process_left_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "s"))
        left.listen()

    async def main() -> None:
        async with serving(folder) as (_, one, __):
            assert (await one.ask("echo", message="x"))[1] == {"message": "x"}

    asyncio.run(main())


@pytest.mark.parametrize("name", ["s", "x" * 120, "no/such/folder"])
def test_place_that_is_no_socket_is_refused_and_kept(folder: Path, name: str) -> None:
    (folder / "s").write_text("precious")

    async def main() -> None:
        with pytest.raises(AbciSocketError):
            async with run_abci(
                folder / "home",
                socket=folder / name,
                application=LedgerApplication(DcapVerifier()),
            ):
                pass

    asyncio.run(main())
    assert (folder / "s").read_text() == "precious"


def test_second_process_on_one_home_is_refused(folder: Path) -> None:
    async def main() -> None:
        async with serving(folder):
            with pytest.raises(FileLockedError):
                async with run_abci(
                    folder / "home",
                    socket=folder / "other",
                    application=LedgerApplication(DcapVerifier()),
                ):
                    pass
            assert not (folder / "other").exists()

    asyncio.run(main())


@pytest.mark.process
def test_process_says_ready_and_ends_by_signal_or_failure(folder: Path) -> None:
    spec = ProcessSpec(
        argv=[
            sys.executable,
            *("-m", "sealift", "node", "abci"),
            str(folder / "home"),
            f"--socket={folder / 's'}",
        ],
        log=folder / "log",
    )

    async def main() -> None:
        async with child_process(spec) as child:
            await child.wait_for_line(r"^ready unix:///", within=20)
            one = await Connection.open(folder / "s")
            assert (await one.ask("info", **INFO))[0] == "info"
            assert await child.stop() == 0
            await one.close()
        async with child_process(spec) as child:
            await child.wait_for_line(r"^ready unix:///", within=20)
            one = await Connection.open(folder / "s")
            assert (await one.ask("commit"))[0] == "exception"
            await one.close()
            assert (await ask_anew(folder))[0] == "info"
            assert "no InitChain yet" in child.output()
            assert await child.stop() == 0
        (folder / "home" / "ledger" / "state.sqlite").write_bytes(b"no database" * 100)
        async with child_process(spec) as child:
            assert await asyncio.wait_for(child.wait(), 20) == 4
            assert "It is kept as it is" in child.output()
            assert "Traceback" not in child.output()

    asyncio.run(main())


def test_a_state_of_long_ago_holds_up_no_answer_behind_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers keep their order: what is not at hand is refused, and made."""
    go, let_go = threading.Event(), []
    real = ChangeLog.reversal_between

    def slowly(self: ChangeLog, low: Height, high: Height) -> object:
        if high - low > NEAR:
            let_go.append(go.wait(5))
        return real(self, low, high)

    monkeypatch.setattr(ChangeLog, "reversal_between", slowly)

    async def main() -> None:
        async with serving(folder) as (server, one, other):
            init(server.application)
            for height in range(1, 21):
                run_block(server.application, height)
            key = account_key(receiver(1))

            async def state(height: int) -> tuple[int, str]:
                kind, found = await one.ask(
                    "query", path="/store", data=key, height=height, prove=True
                )
                assert kind == "query"
                return int(str(found.get("code", 0))), str(found.get("codespace", ""))

            refused = (1, "sealift/StateBusyError")
            assert await state(2) == refused
            assert await state(2) == refused
            assert await state(19) == (0, "")
            assert await state(20) == (0, "")
            assert (await other.ask("echo", message="x"))[1] == {"message": "x"}
            go.set()
            async with asyncio.timeout(10):
                while await state(2) != (0, ""):
                    await asyncio.sleep(0.01)
            assert let_go == [True]

    asyncio.run(main())
