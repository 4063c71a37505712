"""What a block does on L1: signed with it, voted block by block (DESIGN §10.9)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from enclave_world import BOB, SHARD, Host, World

from sealift.base import decode
from sealift.crypto import account_of, sha256
from sealift.enclave._state import DiffHeader, SealedDiff
from sealift.protocol import EffectsFact, Unshield, effects_digest, effects_root
from sealift.protocol import ecall as e
from sealift.stf import BlockOutcome


def unshield(amount: int) -> Unshield:
    return Unshield(beneficiary=account_of(BOB), amount=amount)


Book = dict[int, tuple[tuple[Unshield, ...], int]]


def teach(host: Host, book: Book) -> None:
    """Let the blocks of this process have these effects."""
    executor = host.enclave._shard.executor
    real: Callable[..., BlockOutcome] = executor.execute_block

    def execute_block(store: Any, block: Any, **options: Any) -> BlockOutcome:
        effects, before = book.get(block.height, ((), 0))
        return dataclasses.replace(
            real(store, block, **options), effects=effects, effects_before=before
        )

    executor.execute_block = execute_block  # type: ignore[method-assign]


@pytest.fixture
def book(world: World) -> Book:
    """Two blocks with effects and one without between them."""
    first = world.l1.height
    for _ in range(4):
        world.l1.block()
    return {
        first + 1: ((unshield(5), unshield(6)), 0),
        first + 3: ((unshield(7),), first + 1),
    }


def executed(host: Host) -> dict[int, e.Executed]:
    host.follow()
    found = {}
    while isinstance(done := host.execute(), e.Executed):
        found[done.height] = done
    return found


def test_a_block_with_effects_says_so_and_no_other(world: World, book: Book) -> None:
    host = world.host
    teach(host, book)
    done = executed(host)
    assert {h for h, one in done.items() if one.effects is not None} == set(book)
    for height, (effects, before) in book.items():
        said = done[height].effects
        assert said is not None
        assert said.effects == effects
        statement = said.statement
        statement.verify(host.status().signing_key, said.signature)
        assert (statement.shard, statement.generation) == (SHARD, 0)
        assert (statement.height, statement.previous) == (height, before)
        assert statement.effects == effects_digest(effects)
        assert statement.signing_key == host.status().signing_key


def test_a_confirmation_covers_the_effects_of_its_range(
    world: World, book: Book
) -> None:
    host = world.host
    teach(host, book)
    done = executed(host)
    facts = [
        EffectsFact(height=height, effects=effects_digest(effects))
        for height, (effects, _) in book.items()
    ]
    last, after = max(done), world.frontier.confirmed

    def root(durable: int, after: int) -> bytes:
        reply = host.call(e.Confirm(durable=durable, after=after))
        assert effects_root(reply.effects) == reply.confirmation.effects_root
        return reply.confirmation.effects_root

    assert root(last, after) == effects_root(facts)
    first, second = book
    assert root(first, after) == effects_root(facts[:1])
    assert root(second, first) == effects_root(facts[1:])
    assert root(first + 1, first) == effects_root(())


def test_a_crash_before_the_block_was_durable_signs_the_same_again(
    world: World, book: Book
) -> None:
    """A function of the chain: to have signed it early is no harm (ADR 0016)."""
    host = world.host
    teach(host, book)
    host.follow()
    on_disk = host.checkpoint
    first = executed(host)
    host.diffs.clear()
    host.checkpoint = on_disk
    host.restart()
    teach(host, book)
    again = executed(host)
    assert {h: one.effects for h, one in again.items()} == {
        h: one.effects for h, one in first.items()
    }


def test_effects_outlive_a_restart_in_diffs_and_snapshots(
    world: World, book: Book
) -> None:
    host = world.host
    teach(host, book)
    done = executed(host)
    want = host.call(
        e.Confirm(durable=max(done), after=world.frontier.confirmed)
    ).confirmation
    host.restart()
    host.follow()
    got = host.call(
        e.Confirm(durable=max(done), after=world.frontier.confirmed)
    ).confirmation
    assert got == want
    host.snapshot = host.export()
    host.diffs.clear()
    host.restart()
    got = host.call(
        e.Confirm(durable=max(done), after=world.frontier.confirmed)
    ).confirmation
    assert got == want


def test_the_diff_binds_the_effects(world: World, book: Book) -> None:
    host = world.host
    teach(host, book)
    executed(host)
    for height, diff in host.diffs.items():
        entry = decode(DiffHeader, decode(SealedDiff, diff).header).entry
        effects = book.get(height)
        assert entry.effects == (effects and effects_digest(effects[0]))


def test_other_effects_are_another_statement(world: World, book: Book) -> None:
    assert effects_digest((unshield(5),)) != effects_digest((unshield(6),))
    assert effects_digest(()) != sha256(b"")
