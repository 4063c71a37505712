"""What benchmarks measure with, and the shard whose blocks they execute."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sealift.base import (
    AccountId,
    ChainId,
    Epoch,
    Fingerprint,
    Height,
    Nonce,
    ShardId,
    UnixSeconds,
    encode,
)
from sealift.crypto import (
    HpkeSuite,
    account_of,
    hpke_generate,
    hpke_open,
    sha256,
    system_entropy,
    verify_signature,
)
from sealift.frame import BlockInfo, PageStore, Runtime
from sealift.protocol import (
    Schedule,
    TrustedCall,
    TrustedCallBody,
    call_info,
    seal_message,
    seal_receipts,
)
from sealift.stf import (
    BlockOutcome,
    Executor,
    ShardBlock,
    StandardPallets,
    open_and_verify,
)

#: Interleaved rounds of which the median is taken.
ROUNDS = 7
CHAIN = ChainId("bench")
SHARD = ShardId(b"s" * 32)
#: What every account has.
FUNDS = 10**6
_VALID_UNTIL = Height(900)


class Result(dict[str, object]):
    """``value``, ``unit``, ``floor``, ``ratio`` of one benchmark."""


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes, after a collection of garbage."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compared(
    ours: Callable[[], object], bare: Callable[[], object], rounds: int = ROUNDS
) -> tuple[float, float, float]:
    """Median seconds of ours and of the floor, and the median ratio by round."""
    pairs = [(timed(ours), timed(bare)) for _ in range(rounds)]
    return (
        statistics.median(mine for mine, _ in pairs),
        statistics.median(floor for _, floor in pairs),
        statistics.median(floor / mine for mine, floor in pairs),
    )


def bench_runtime(version: int = 1) -> Runtime:
    """The standard pallets and nothing else."""
    return Runtime(name="bench", version=version, pallets=StandardPallets().pallets)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedCall:
    """An envelope, and what the bare cryptography of its call needs."""

    envelope: bytes
    ciphertext: bytes
    signer: AccountId
    preimage: bytes
    signature: bytes


class BenchShard:
    """A shard of many accounts: sealed calls for a block, and what executes them.

    Args:
        keyed: Accounts whose calls can be sealed; ``users`` begins with them.
        silent: More accounts, endowed alike, that never sign anything.
    """

    def __init__(self, *, keyed: int, silent: int = 0) -> None:
        self.keys = hpke_generate(HpkeSuite.X25519, system_entropy)
        self.runtime = bench_runtime()
        self.executor = Executor(
            self.runtime,
            chain_id=CHAIN,
            shard=SHARD,
            fingerprint=Fingerprint(b"f" * 32),
        )
        self.secrets = [sha256(b"user %d" % number) for number in range(keyed)]
        self.users = [account_of(secret) for secret in self.secrets]
        self.users += [AccountId(sha256(b"silent %d" % n)) for n in range(silent)]
        self.store = PageStore(bits=16, key=b"p" * 32)
        self.height = 1
        endowments = [{"account": user, "free": FUNDS} for user in self.users]
        blob = encode(
            {"balances": {"endowments": endowments}, "sudo": {"key": self.users[0]}}
        )
        self.executor.apply_genesis(
            self.store, blob, height=Height(1), time=UnixSeconds(1)
        )

    def info(self) -> BlockInfo:
        """The last block."""
        return BlockInfo(
            chain_id=CHAIN,
            height=Height(self.height),
            time=UnixSeconds(self.height),
            shard=SHARD,
        )

    def seal(self, number: int, nonce: int, call: str, **args: object) -> SealedCall:
        """A call of one of the users that have keys."""
        encoded = self.runtime.encode_call(call, **args)
        body = TrustedCallBody(
            chain_id=CHAIN,
            shard=SHARD,
            signer=self.users[number],
            nonce=Nonce(nonce),
            call=encoded.name,
            args=encoded.args,
            valid_until=_VALID_UNTIL,
            reply_key=b"r" * 32,
        )
        signed = body.sign(self.secrets[number])
        envelope = seal_message(
            TrustedCall(body=body, signature=signed),
            shielding_key=self.keys.public,
            epoch=Epoch(0),
        )
        return SealedCall(
            envelope=encode(envelope),
            ciphertext=envelope.ciphertext,
            signer=body.signer,
            preimage=body.preimage(),
            signature=signed,
        )

    def transfers(self, calls: int, nonce: int) -> list[SealedCall]:
        """A block of them, one of each of the first users."""
        keyed = len(self.secrets)
        return [
            self.seal(
                number,
                nonce,
                "balances.transfer",
                dest=self.users[(number * 7 + 1) % keyed],
                amount=3,
            )
            for number in range(calls)
        ]

    def execute(
        self,
        calls: Iterable[SealedCall],
        *,
        store: PageStore | None = None,
        schedule: Schedule | None = None,
    ) -> BlockOutcome:
        """Everything between the sealed calls of a block and the new root.

        Args:
            calls: What is in the block.
            store: Instead of the own one; then the own height stays.
            schedule: The one proven with the block.
        """
        height = self.height + 1
        if store is None:
            store, self.height = self.store, height
        block_hash = sha256(b"block")
        envelopes = [call.envelope for call in calls]
        items = open_and_verify(
            envelopes,
            keys={Epoch(0): self.keys.secret},
            chain_id=CHAIN,
            shard=SHARD,
        )
        outcome = self.executor.execute_block(
            store,
            ShardBlock(
                height=Height(height),
                block_hash=block_hash,
                time=UnixSeconds(height),
                items=tuple(items),
                schedule=schedule,
            ),
        )
        seal_receipts(
            (
                (one.receipt, one.reply_key, one.envelope)
                for one in outcome.receipts
                if one.reply_key is not None
            ),
            block_hash=block_hash,
            height=outcome.height,
        )
        store.apply(outcome.changes)
        store.root()
        if outcome.counts.succeeded != len(envelopes) or outcome.hook_failures:
            raise SystemExit("bench: calls failed, the figure would lie")
        return outcome

    def bare(self, calls: Iterable[SealedCall]) -> None:
        """One HPKE open and one ZIP-215 verification a call."""
        info = call_info("TrustedCall", CHAIN, SHARD, 0)
        secret = self.keys.secret
        for call in calls:
            hpke_open(
                HpkeSuite.X25519, secret, call.ciphertext, info=info, what="the call"
            )
            verify_signature(
                call.signer, call.preimage, call.signature, what="the call"
            )
