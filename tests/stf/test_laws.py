"""Laws that hold whatever hosts and users send."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealift.base import encode
from sealift.stf import ShieldedFunds

CALL = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            [
                "good",
                "good",
                "good",
                "copy",
                "gap",
                "expired",
                "overlong",
                "pinned",
                "forged",
                "junk",
                "unknown",
                "too much",
                "deposit",
                "reseal",
            ]
        ),
        "who": st.integers(0, 2),
        "to": st.integers(0, 2),
        "amount": st.integers(0, 1200),
        "lifetime": st.integers(0, 4),
        "pick": st.integers(0, 1000),
    }
)
BLOCKS = st.lists(
    st.tuples(st.booleans(), st.lists(CALL, max_size=8)), min_size=1, max_size=6
)


def make_item(world: Any, people: list[Any], seen: list[Any], spec: Any) -> Any:
    """An envelope or deposit as the spec wants it; may remember calls in seen."""
    who, to = people[spec["who"]], people[spec["to"]]
    kind, height = spec["kind"], world.height + 1
    if kind == "deposit":
        return ShieldedFunds(beneficiary=who.id, amount=spec["amount"])
    if kind == "junk":
        return bytes(spec["amount"] % 50)
    if kind in ("copy", "reseal") and seen:
        signer, body, raw = seen[spec["pick"] % len(seen)]
        return raw if kind == "copy" else world.seal(signer, body)
    fields: dict[str, Any] = {"valid_until": height + spec["lifetime"]}
    fields |= {
        "expired": {"valid_until": height - 1},
        "overlong": {"valid_until": height + 5000},
        "pinned": {"pin": b"x" * 32},
        "gap": {"nonce": spec["pick"] % 7},
    }.get(kind, {})
    name = "casino.play" if kind == "unknown" else "balances.transfer"
    amount = 10**9 if kind == "too much" else spec["amount"]
    args = encode([to.id, amount])
    # the nonce that the account will have if all before it in this block run
    fields.setdefault("nonce", who.nonce)
    body = world.body(who, name, args=args, **fields)
    raw = world.seal(people[(spec["who"] + 1) % 3] if kind == "forged" else who, body)
    if kind in ("good", "unknown", "too much"):
        who.nonce += 1
    seen.append((who, body, raw))
    return raw


@given(blocks=BLOCKS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_sent_a_block_ends_and_its_laws_hold(
    make_world: Callable[..., Any], blocks: list[tuple[bool, list[Any]]]
) -> None:
    world = make_world()
    people = [world.alice, world.bob, world.carol]
    seen: list[Any] = []
    consumed: Counter[bytes] = Counter()
    firsts: dict[bytes, Any] = {}
    signer_of: dict[bytes, bytes] = {}
    issued = 2000
    for maintenance, specs in blocks:
        items = [make_item(world, people, seen, spec) for spec in specs]
        signer_of |= {body.call_id(): who.id for who, body, _ in seen}
        outcome = world.run(*items, mode="maintenance" if maintenance else "normal")
        # the block ended, every item has its answer, in order
        calls = [i for i, item in enumerate(items) if isinstance(item, bytes)]
        assert len(outcome.receipts) == len(calls) == outcome.counts.calls
        counts = outcome.counts
        assert counts.calls == (
            counts.succeeded + counts.failed + counts.refused + counts.copies
        )
        issued += sum(i.amount for i in items if isinstance(i, ShieldedFunds))
        for position, entry in zip(calls, outcome.receipts, strict=True):
            receipt = entry.receipt
            own = (receipt.height, receipt.index) == (world.height, position)
            if receipt.call_id in firsts:
                if not own:  # a copy tells what the first one was told
                    first = firsts[receipt.call_id]
                    assert (receipt.outcome, receipt.height, receipt.index) == first
                else:  # forgotten, or the same words without the signature
                    assert receipt.outcome in (
                        "NonceConsumedError",
                        "SignatureInvalidError",
                    )
            elif not is_refusal(receipt.outcome):
                assert own
                firsts[receipt.call_id] = (
                    receipt.outcome,
                    receipt.height,
                    receipt.index,
                )
                consumed[signer_of[receipt.call_id]] += 1
        # issuance is conserved, nonces count consumed calls
        ctx = world.context()
        world.check_issuance()
        assert world.pallet("balances").total.get(ctx) == issued
        for person in people:
            account = world.pallet("system").account(ctx, person.id)
            assert account.nonce == consumed[person.id]
            person.nonce = account.nonce


REFUSALS = {
    "EnvelopeError",
    "UnknownEpochError",
    "HpkeError",
    "UnreadableCallError",
    "WrongShardError",
    "SignatureInvalidError",
    "NonceConsumedError",
    "NonceAheadError",
    "MaintenanceError",
    "CallExpiredError",
    "ValidityTooLongError",
    "FingerprintPinError",
    "BlockFullError",
}


def is_refusal(outcome: str) -> bool:
    return outcome in REFUSALS


@given(copies=st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_copies_change_no_balance_and_no_nonce(
    make_world: Callable[..., Any], copies: list[int]
) -> None:
    world = make_world()
    raws = [
        world.sealed(
            world.alice, "balances.transfer", dest=world.bob.id, amount=100 * n
        )
        for n in range(6)
    ]
    world.run(*raws)
    before = world.store.items(b"system/")
    outcome = world.run(*(raws[n] for n in copies))
    assert world.store.items(b"system/") == before
    assert outcome.counts.copies == len(copies)
    assert set(outcome.changes) <= {b"timestamp/last/"}


def test_processes_of_different_hash_seeds_agree_on_every_byte() -> None:
    script = Path(__file__).with_name("determinism.py")
    told = set()
    for seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-B", str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        told.add(done.stdout)
    assert len(told) == 1
    assert len(told.pop()) == 64
