"""What a shard's life costs on L1: bytes of its transactions, by kind.

A shard lives in a world: ledger, enclaves, quotes and transactions are the real
ones. L1's fee is by the byte, so bytes are what operators and users pay for.
"""

import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealift.base import canonical_decode, encode
from sealift.protocol import (
    INVOKE,
    AttestationPolicy,
    InvokeArgs,
    Transaction,
    TrustedCall,
)

from ._bench_shard import Result, bench_runtime
from ._errors import WorldError
from ._user import UserCall
from ._world import World

CONFIRM: Final = "enclave_bridge.confirm"
REGISTER: Final = "teerex.register_sgx_enclave"
COLLATERAL: Final = "teerex.register_collateral"
ANNOUNCE: Final = "teerex.announce"
PUBLISH: Final = "enclave_bridge.publish_key"
#: Blocks without calls that a worker confirms together.
IDLE_BLOCKS: Final = 16
_HOUR: Final = 3600
_SIGNATURE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Bytes on L1: of one transaction of each kind (the median), and of a call.

    ``envelopes`` are the sealed calls within their transactions; ``plain`` is what
    a call has before it is padded and sealed.
    """

    each: dict[str, int]
    counted: dict[str, int]
    envelopes: int
    plain: int

    def worker_hour(self, *, block_seconds: float, busy: bool) -> int:
        """Bytes that one worker brings to L1 in an hour.

        Args:
            block_seconds: From one block to the next.
            busy: There is a call in every block; else there is none in any.
        """
        blocks = _HOUR / block_seconds
        confirmations = blocks if busy else blocks / IDLE_BLOCKS
        again = blocks / (AttestationPolicy().max_age_blocks / 2)
        attested = again * (self.each[REGISTER] + self.each[COLLATERAL])
        return round(confirmations * self.each[CONFIRM] + attested)


def measure_costs(*, calls: int = 24, idle: int = 4 * IDLE_BLOCKS) -> Costs:
    """Let a shard live, and weigh every transaction that took effect.

    Born, used by ``calls`` transfers in blocks of their own, left alone for ``idle``
    blocks; its worker attests again, with newer collateral, and announces itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), confirm_every=IDLE_BLOCKS)
        worker = world.begin(world.release(bench_runtime()), funds={"alice": 10**6})
        alice, bob = world.user("alice"), world.account("bob")
        made: list[UserCall] = []
        for _ in range(calls):
            made.append(alice.call("balances.transfer", dest=bob, amount=1))
            world.block()
        world.blocks(idle)
        world.register_collateral()
        worker.register()
        key = worker.signing_key
        world.act("operator", ANNOUNCE, signing_key=key, url="http://192.0.2.1:7000")
        world.blocks(2)
        for call in made:
            if call.receipt().outcome != "ok":
                raise WorldError("a call failed that was to be weighed")
        return _weigh(world, made)


def _weigh(world: World, made: list[UserCall]) -> Costs:
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    envelopes = []
    for height in range(1, world.height + 1):
        block = world.chain.block(height)
        for tx, result in zip(block.block.txs, block.results, strict=True):
            if result.code:
                continue
            body = canonical_decode(Transaction, tx).body
            sizes[body.call].append(len(tx))
            if body.call == INVOKE:
                sealed = canonical_decode(InvokeArgs, body.args).ciphertext
                envelopes.append(len(sealed))
    signed = TrustedCall(body=made[0].body, signature=bytes(_SIGNATURE))
    return Costs(
        each={call: round(statistics.median(found)) for call, found in sizes.items()},
        counted={call: len(found) for call, found in sizes.items()},
        envelopes=round(statistics.median(envelopes)),
        plain=len(encode(signed)),
    )


def bench_cost() -> Result:
    """A call alone in its block, against the signed call itself: bytes on L1."""
    found = measure_costs()
    mine = found.each[INVOKE] + found.each[CONFIRM]
    return Result(
        value=float(mine),
        unit="B",
        floor=float(found.plain),
        ratio=found.plain / mine,
    )
