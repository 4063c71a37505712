"""Balances, root and runtime versions."""

from typing import Any

import pytest

from sealift.base import decode
from sealift.frame import BadOriginError, DispatchDepthError, UnknownCallError
from sealift.ledger import ledger_call
from sealift.ledger._errors import (
    ExistentialDepositError,
    InsufficientFundsError,
    NotRootKeyError,
)


def balance(world: Any, account: Any) -> Any:
    raw, _ = world.ledger.query(b"balances/accounts/" + account)
    return 0 if raw is None else decode(int, raw)


def test_nobody_spends_more_than_he_has(world: Any) -> None:
    with pytest.raises(InsufficientFundsError):
        world.call("balances.transfer", dest=world.account("bob"), amount=10**9)


def test_dust_accounts_are_refused(new_world: Any) -> None:
    world = new_world(existential_deposit=100)
    with pytest.raises(ExistentialDepositError):
        world.call("balances.transfer", dest=b"n" * 32, amount=99)
    world.call("balances.transfer", dest=b"n" * 32, amount=100)
    world.call("balances.transfer", dest=b"n" * 32, amount=1)
    assert balance(world, b"n" * 32) == 101


def test_giving_to_oneself_makes_nothing(world: Any) -> None:
    before = balance(world, world.account("alice"))
    world.call("balances.transfer", dest=world.account("alice"), amount=1000)
    after = balance(world, world.account("alice"))
    assert before - 400 < after < before


def test_an_emptied_account_keeps_its_nonce(new_world: Any) -> None:
    """Else its old transactions would replay when it is funded again."""
    world = new_world(fee_per_byte=0)
    alice = world.account("alice")
    world.call("balances.transfer", dest=world.account("bob"), amount=10**9)
    assert world.ledger.query(b"balances/accounts/" + alice)[0] is None
    assert world.nonce("alice") == 1


def test_only_the_root_key_is_root(world: Any) -> None:
    inner = ledger_call("system.set_code", version=2, height=50)
    with pytest.raises(NotRootKeyError):
        world.call("sudo.sudo", by="alice", call=inner)
    with pytest.raises(NotRootKeyError):
        world.call("sudo.set_key", by="alice", key=world.account("alice"))
    with pytest.raises(BadOriginError):
        world.call("system.set_code", by="root", version=2, height=50)


def test_the_root_key_can_be_handed_over(world: Any) -> None:
    world.call("sudo.set_key", by="root", key=world.account("bob"))
    inner = ledger_call("system.set_code", version=2, height=50)
    with pytest.raises(NotRootKeyError):
        world.call("sudo.sudo", by="root", call=inner)
    world.call("sudo.sudo", by="bob", call=inner)


def test_a_wrapper_fails_with_its_inner_call(world: Any) -> None:
    with pytest.raises(UnknownCallError):
        world.call(
            "sudo.sudo",
            by="root",
            call=world.replace(ledger_call("sudo.set_key", key=b"k" * 32), name="no.x"),
        )
    assert world.last.results[0].events == ()


def test_root_cannot_speak_for_an_account_by_wrapping(world: Any) -> None:
    """A wrapped transfer has no account behind it."""
    inner = ledger_call("balances.transfer", dest=world.account("bob"), amount=1)
    with pytest.raises(BadOriginError):
        world.call("sudo.sudo", by="root", call=inner)


def test_wrappers_in_wrappers_end(world: Any) -> None:
    """The inner sudo is dispatched as root, which is no signed account."""
    call = ledger_call("system.set_code", version=2, height=50)
    for _ in range(12):
        call = ledger_call("sudo.sudo", call=call)
    with pytest.raises((BadOriginError, DispatchDepthError)):
        world.call(call.name, by="root", call=call)


def test_only_the_last_256_block_hashes_are_kept(world: Any) -> None:
    world.blocks_until(300)
    hashes = world.store.items(b"system/block_hashes/")
    assert len(hashes) == 256
    assert hashes[0][0].endswith((45).to_bytes(8, "big"))
    assert hashes[-1][1] == b"\xc4\x20" + world.hash_of(300)
