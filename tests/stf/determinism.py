"""Executes a fixed campaign and prints a digest of everything that came out.

Run in processes of different hash seeds by ``test_laws.py``.
"""

import sys
from pathlib import Path

from sealift.base import encode
from sealift.crypto import sha256
from sealift.stf import ShieldedFunds

sys.path.insert(0, str(Path(__file__).parent))

from ballot_box import load_world, pause, schedule


def campaign() -> str:
    """SHA-256 over changes, receipts, effects and roots of thirty blocks."""
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
        orders = [
            world.body(people[1], "democracy.propose", order=encode(pause(expiry=e)))
            for e in (500 + block, 600 + block // 4)
        ]
        leaving = [
            world.body(who, "balances.unshield", beneficiary=b"1" * 32, amount=1 + n)
            for n, who in enumerate(people)
        ]
        votes = [
            world.body(who, "democracy.vote", poll=n % 3, aye=n % 5 > 1)
            for n, who in enumerate(people)
        ]
        more = [
            *zip([people[1]] * 2, orders, strict=True),
            *zip(people, leaving, strict=True),
            *zip(people, votes, strict=True),
        ]
        outcome = world.run(
            *deposits,
            *(world.seal(who, call) for who, call in zip(people, calls, strict=True)),
            world.seal(people[0], calls[0]),
            *(world.seal(who, call) for who, call in more),
            b"junk",
            schedule=schedule(serial=0),
        )
        told.append(
            (
                list(outcome.changes.items()),
                [entry.receipt for entry in outcome.receipts],
                outcome.effects,
                outcome.effects_before,
                world.store.root(),
            )
        )
    return sha256(encode(told)).hex()


if __name__ == "__main__":
    sys.stdout.write(campaign())
