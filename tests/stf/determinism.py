"""Executes a fixed campaign and prints a digest of everything that came out.

Run in processes of different hash seeds by ``test_laws.py``.
"""

import importlib.util
import sys
from pathlib import Path

from sealift.base import encode
from sealift.crypto import sha256
from sealift.stf import ShieldedFunds


def load_world() -> object:
    """The helpers of this folder's tests."""
    spec = importlib.util.spec_from_file_location(
        "stf_world", Path(__file__).with_name("conftest.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["stf_world"] = module
    spec.loader.exec_module(module)
    return module


def campaign() -> str:
    """SHA-256 over changes, receipts and roots of thirty blocks."""
    module = load_world()
    world = module.World(module.standard_runtime())
    people = [module.Person(f"p{n}") for n in range(12)]
    told = []
    for block in range(30):
        calls = [
            # calls, not envelopes: sealing takes its own entropy
            world.body(
                who,
                "balances.transfer",
                dest=people[(n * 5 + block) % 12].id,
                amount=n + block,
                valid_until=world.height + 1 + (n * 7 + block) % 9,
            )
            for n, who in enumerate(people)
        ]
        deposits = [
            ShieldedFunds(beneficiary=people[(block + n) % 12].id, amount=40 + n)
            for n in range(3)
        ]
        outcome = world.run(
            *deposits,
            *(world.seal(who, call) for who, call in zip(people, calls, strict=True)),
            world.seal(people[0], calls[0]),
            b"junk",
        )
        told.append(
            (
                list(outcome.changes.items()),
                [entry.receipt for entry in outcome.receipts],
                world.store.root(),
            )
        )
    return sha256(encode(told)).hex()


if __name__ == "__main__":
    sys.stdout.write(campaign())
