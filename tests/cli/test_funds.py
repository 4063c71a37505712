"""Funds leave a shard by a sealed call; whoever looks at L1 sees where they arrive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealift.cli import _client_funds
from sealift.client import CallResult
from sealift.crypto import account_of
from sealift.transport.keys import read_account_key


@pytest.mark.parametrize("outcome", ["ok", "InsufficientFundsError"])
def test_unshield_is_a_call_to_whom_it_says(
    outcome: str, boss: Path, monkeypatch: pytest.MonkeyPatch, sealift: Any
) -> None:
    me = account_of(read_account_key(boss))
    made: list[tuple[str, dict[str, object]]] = []

    async def call(name: str, args: dict[str, object], **_: Any) -> CallResult:
        made.append((name, args))
        return CallResult(
            call_id=bytes(32), nonce=0, height=7, index=0, outcome=outcome,
            message="", events=(), confirmed=False,
        )  # fmt: skip

    @asynccontextmanager
    async def open_fake(*_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(call=call, account=me)

    monkeypatch.setattr(_client_funds, "open_user", open_fake)
    key = ("--card", boss, "--key", boss)
    code = 0 if outcome == "ok" else 1
    assert sealift("client", "unshield", 5, *key).code == code
    assert made.pop() == ("balances.unshield", {"beneficiary": me, "amount": 5})
    assert sealift("client", "unshield", 5, "--to", "ab" * 32, *key).code == code
    assert made.pop()[1]["beneficiary"] == b"\xab" * 32
    for amount in (0, -1, 2**63, "all"):
        assert sealift("client", "unshield", "--", amount).code == 2
