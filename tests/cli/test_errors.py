"""One table of exit codes; one line for each refusal; never a traceback."""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import sealift
from sealift.base import InvariantError, SealiftError
from sealift.cli import EXIT_CODES, exit_code, exit_code_of
from sealift.cli import sealift as program
from sealift.cli._orders import HeightWordError, parse_height
from sealift.client import CardError, ReceiptTimeoutError
from sealift.transport.files import DiskFullError, FileError
from sealift.transport.rpc import NodeTimeoutError

DEAD = "http://127.0.0.1:9"


def _classes(kind: type[SealiftError]) -> Iterator[type[SealiftError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _classes(inner)


@pytest.fixture(scope="session")
def everything() -> list[type[SealiftError]]:
    """Every error class there is, host wing and enclave wing."""
    for module in pkgutil.walk_packages(sealift.__path__, "sealift."):
        if ".testing" not in module.name:
            importlib.import_module(module.name)
    return [k for k in _classes(SealiftError) if k.__module__.startswith("sealift.")]


def test_every_error_has_an_exit_code_and_a_sentence(
    everything: list[type[SealiftError]],
) -> None:
    assert len(everything) > 150
    for kind in everything:
        assert exit_code_of(kind) in {1, 2, 3, 4, 70}, kind
        assert kind.__doc__, kind


def test_the_table_names_only_what_exists(
    everything: list[type[SealiftError]],
) -> None:
    names = {kind.__name__ for kind in everything}
    assert set(EXIT_CODES) <= names


def test_the_nearest_class_counts() -> None:
    assert exit_code(SealiftError("x")) == 1
    assert exit_code(InvariantError("x")) == 70
    assert exit_code(FileError("x")) == exit_code(DiskFullError("x")) == 4
    assert exit_code(NodeTimeoutError("x")) == 3
    assert exit_code(CardError("x")) == 4
    assert exit_code(ReceiptTimeoutError(bytes(32), seconds=1)) == 3


@pytest.mark.parametrize("word", ["", "x", "-1", "+", "1.5", "٣", "9" * 19])
def test_not_a_block(word: str) -> None:
    with pytest.raises(HeightWordError):
        parse_height(word, 5)


def test_blocks_ahead_and_absolute() -> None:
    assert parse_height("+7", 5) == 12
    assert parse_height("7", 5) == 7


def _bad_words(tmp_path: Path) -> list[tuple[int, list[str]]]:
    text = tmp_path / "text"
    text.write_text("not JSON")
    (tmp_path / "folder").mkdir()
    none, folder = str(tmp_path / "none"), str(tmp_path / "folder")
    card, key = ["--card", str(text)], ["--key", str(text)]
    return [
        (2, ["nonsense"]),
        (2, ["chain", "nonsense"]),
        (2, ["chain", "status", "--nonsense"]),
        (2, ["client", "faucet", "zz", "--from", none]),
        (2, ["client", "faucet", "00" * 32, "--from", none, "--amount", "-1"]),
        (2, ["attest", "verify", "--quote", none]),
        (2, ["attest", "verify", "--quote", none, "--collateral", none,
             "--root", none, "--at", "yesterday"]),
        (2, ["chain", "init", none]),
        (2, ["insecure-sim", "revoke", folder]),
        (2, ["build", none, "--trust-root", none, "--root", none]),
        (2, ["sign"]),
        (4, ["sign", none]),
        (4, ["attest", "verify", "--quote", none, "--collateral", none,
             "--root", none]),
        (4, ["attest", "verify", "--quote", folder, "--collateral", none,
             "--root", none]),
        (4, ["chain", "start", none]),
        (4, ["chain", "trust-root", none]),
        (4, ["measure", none]),
        (4, ["inspect", folder]),
        (4, ["shard", "status", "--card", none]),
        (4, ["shard", "status", *card]),
        (4, ["gov", "history", *card]),
        (4, ["client", "balance", *card, *key]),
        (4, ["worker", "run", none]),
        (4, ["worker", "mrenclave", folder]),
        (4, ["worker", "status", folder]),
        (4, ["insecure-sim", "platform", folder]),
        (4, ["client", "new-account", str(text)]),
        (1, ["measure", str(text)]),
        (1, ["inspect", str(text)]),
        (3, ["chain", "status", "--rpc", DEAD]),
        (3, ["chain", "trust-root", "--rpc", DEAD]),
        (3, ["worker", "status", folder, "--url", DEAD]),
    ]  # fmt: skip


def test_users_mistakes_are_one_line_and_a_code(tmp_path: Path, sealift: Any) -> None:
    for code, words in _bad_words(tmp_path):
        said = sealift(*words)
        assert said.code == code, (words, said)
        assert said.out == "" or words[-1] == "init", words
        assert "Traceback" not in said.err, words
        assert "bug" not in said.err, (words, said)
        if code != 2:
            assert said.err.startswith("sealift: "), words
            assert said.err.count("\n") <= 2, words


def test_programs_get_refusals_as_json(sealift: Any, tmp_path: Path) -> None:
    said = sealift("chain", "status", "--rpc", DEAD, "--json")
    assert said.code == 3
    assert said.json["error"]["code"] == "NodeUnreachableError"
    assert "127.0.0.1:9" in said.json["error"]["message"]
    assert said.err.startswith("sealift: ")


def test_a_key_others_may_read_is_refused(sealift: Any, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    assert sealift("client", "new-account", key).code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    card = tmp_path / "card.json"
    said = sealift("client", "faucet", "00" * 32, "--from", key, "--rpc", DEAD)
    assert said.code == 4
    assert "chmod 600" in said.err
    assert not card.exists()


def _fails_with(error: BaseException) -> click.Command:
    @click.command("fail")
    @click.option("--json", "as_json", is_flag=True)
    def fail(*, as_json: bool) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("boom\nsecond line"), 70, "bug in sealift (RuntimeError: boom)"),
        (InvariantError("cannot be"), 70, "bug in sealift"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SealiftError("no", got=1, expected=2), 1, "no: got 1, expected 2"),
        (click.UsageError("wrong"), 2, "wrong"),
    ],
)
def test_whatever_happens_has_a_code(
    monkeypatch: pytest.MonkeyPatch,
    sealift: Any,
    error: BaseException,
    code: int,
    words: str,
) -> None:
    command = _fails_with(error)
    monkeypatch.delenv("SEALIFT_DEBUG", raising=False)
    monkeypatch.setattr(program, "get_command", lambda _ctx, _name: command)
    said = sealift("fail")
    assert said.code == code
    assert words in said.err
    assert "Traceback" not in said.err


def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch, sealift: Any) -> None:
    command = _fails_with(RuntimeError("boom"))
    monkeypatch.setattr(program, "get_command", lambda _ctx, _name: command)
    monkeypatch.setenv("SEALIFT_DEBUG", "1")
    assert "Traceback" in sealift("fail").err


@pytest.mark.process
def test_ctrl_c_ends_a_running_chain_with_130(tmp_path: Path, sealift: Any) -> None:
    sealift("insecure-sim", "init", tmp_path / "sim")
    home = tmp_path / "chain"
    made = sealift(
        "chain", "init", home, "--sim", tmp_path / "sim", "--port", 0, "--block-ms", 50
    )
    assert made.code == 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        with subprocess.Popen(
            [sys.executable, "-c", "from sealift.cli import main; main()",
             "chain", "start", str(home)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.startswith("ready http://127.0.0.1:")
                assert "chain=sealift-local" in line
                process.send_signal(number)
                _, err = process.communicate(timeout=20)
            finally:
                process.kill()
            assert process.returncode == code
            assert "Traceback" not in err
