"""A shard in memory: people, sealed calls, blocks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealift.base import encode
from sealift.crypto import HpkeSuite, account_of, hpke_generate, sha256
from sealift.frame import (
    ROOT,
    BlockInfo,
    Context,
    Origin,
    Overlay,
    PageStore,
    Pallet,
    Runtime,
)
from sealift.protocol import (
    Getter,
    GetterBody,
    Schedule,
    ShardStatus,
    TrustedCall,
    TrustedCallBody,
    seal_message,
)
from sealift.stf import (
    BlockOutcome,
    Executor,
    Item,
    Limits,
    OpenedCall,
    RefusedCall,
    ShardBlock,
    StandardPallets,
    VerifiedGetter,
    open_and_verify,
    open_and_verify_getter,
)

sys.path.insert(0, str(Path(__file__).parent))

CHAIN = "test-chain"
SHARD = b"s" * 32
FINGERPRINT = b"f" * 32
EPOCH = 3


class Person:
    """Somebody with a key, who counts own nonces."""

    def __init__(self, name: str) -> None:
        self.secret = sha256(name.encode())
        self.id = account_of(self.secret)
        self.nonce = 0


class World:
    """One shard, its executor and its users."""

    def __init__(
        self,
        runtime: Runtime,
        genesis: dict[str, object] | None = None,
        *,
        limits: Limits | None = None,
        start: bool = True,
    ) -> None:
        self.keys = hpke_generate(HpkeSuite.X25519, lambda size: b"k" * size)
        self.alice, self.bob, self.carol = map(Person, ("alice", "bob", "carol"))
        self.sudo = Person("sudo")
        self.runtime = runtime
        options = {} if limits is None else {"limits": limits}
        self.executor = Executor(
            runtime,
            chain_id=CHAIN,
            shard=SHARD,
            fingerprint=FINGERPRINT,
            **options,
        )
        self.height = 10
        self.store = PageStore(bits=6, key=b"p" * 32)
        config = {
            "balances": {
                "endowments": [
                    {"account": p.id, "free": 1000} for p in (self.alice, self.bob)
                ]
            },
            "sudo": {"key": self.sudo.id.hex()},
            **(genesis or {}),
        }
        if start:
            self.executor.apply_genesis(
                self.store, encode(config), height=self.height, time=self.time
            )

    @property
    def time(self) -> int:
        return 1_700_000_000 + 2 * self.height

    def body(
        self, who: Person, call: str, *, nonce: int | None = None, **more: Any
    ) -> TrustedCallBody:
        if nonce is None:
            nonce = who.nonce
            who.nonce += 1
        args = more.pop("args", None)
        fields = {
            k: more.pop(k)
            for k in ("chain_id", "shard", "valid_until", "reply_key", "pin")
            if k in more
        }
        if args is None:
            args = self.runtime.encode_call(call, **more).args
        return TrustedCallBody(
            **{
                "chain_id": CHAIN,
                "shard": SHARD,
                "signer": who.id,
                "nonce": nonce,
                "call": call,
                "args": args,
                "valid_until": self.height + 50,
                "reply_key": b"r" * 32,
                **fields,
            }
        )

    def seal(self, who: Person, body: TrustedCallBody, *, epoch: int = EPOCH) -> bytes:
        call = TrustedCall(body=body, signature=body.sign(who.secret))
        return encode(seal_message(call, shielding_key=self.keys.public, epoch=epoch))

    def sealed(self, who: Person, call: str, **more: Any) -> bytes:
        return self.seal(who, self.body(who, call, **more))

    def open(self, *envelopes: bytes) -> list[OpenedCall | RefusedCall]:
        return open_and_verify(
            envelopes, keys={EPOCH: self.keys.secret}, chain_id=CHAIN, shard=SHARD
        )

    def items(self, *things: bytes | Item) -> tuple[Item, ...]:
        return tuple(self.open(t)[0] if isinstance(t, bytes) else t for t in things)

    def run(
        self,
        *things: bytes | Item,
        mode: str = "normal",
        schedule: Schedule | None = None,
        height: int | None = None,
        apply: bool = True,
        effects_done: int | None = None,
    ) -> BlockOutcome:
        """The next block with these envelopes and deposits."""
        self.height = self.height + 1 if height is None else height
        outcome = self.executor.execute_block(
            self.store,
            ShardBlock(
                height=self.height,
                block_hash=sha256(b"block %d" % self.height),
                time=self.time,
                items=self.items(*things),
                status=ShardStatus(mode=mode),
                schedule=schedule,
                effects_done=effects_done,
            ),
        )
        if apply:
            self.store.apply(outcome.changes)
        return outcome

    def outcomes(self, *things: bytes | Item, **more: Any) -> list[str]:
        return [r.receipt.outcome for r in self.run(*things, **more).receipts]

    def getter(
        self, who: Person, name: str, *args: object, **fields: object
    ) -> VerifiedGetter:
        body = GetterBody(
            **{
                "chain_id": CHAIN,
                "shard": SHARD,
                "signer": who.id,
                "getter": name,
                "args": encode(args),
                "min_height": 0,
                "valid_until": self.height + 5,
                "reply_key": b"g" * 32,
                **fields,
            }
        )
        getter = Getter(body=body, signature=body.sign(who.secret))
        raw = encode(seal_message(getter, shielding_key=self.keys.public, epoch=EPOCH))
        return open_and_verify_getter(
            raw, keys={EPOCH: self.keys.secret}, chain_id=CHAIN, shard=SHARD
        )

    def ask(self, who: Person, name: str, *args: object, **fields: object) -> bytes:
        """The encoded answer to a signed read."""
        return self.executor.answer(
            self.store,
            self.getter(who, name, *args, **fields),
            height=self.height,
            head=self.height,
            time=self.time,
        )

    def free(self, who: Person) -> int:
        return msgspec.msgpack.decode(self.ask(who, "balances.free"))

    def context(self, origin: Origin = ROOT) -> Context:
        """A context over the state, whose writes are dropped."""
        block = BlockInfo(
            chain_id=CHAIN, height=self.height, time=self.time, shard=SHARD
        )
        return self.runtime.context(Overlay.over(self.store), block, origin)

    def pallet(self, name: str) -> Any:
        return next(p for p in self.runtime.pallets if p.name == name)

    def check_issuance(self) -> None:
        self.pallet("balances").check_issuance(self.context())

    def upgrade(self, runtime: Runtime, *, fingerprint: bytes = b"F" * 32) -> None:
        """Other code takes over the same state, in a process of its own."""
        self.runtime = runtime
        self.executor = Executor(
            runtime, chain_id=CHAIN, shard=SHARD, fingerprint=fingerprint
        )

    def restart(self) -> None:
        """Nothing survives but the bytes of the state."""
        store = PageStore(bits=6, key=b"p" * 32)
        store.apply(dict(self.store.items(b"")))
        self.store = store
        self.upgrade(self.runtime)


def standard_runtime(*more: Pallet, version: int = 1) -> Runtime:
    standard = StandardPallets()
    return Runtime(name="test", version=version, pallets=[*standard.pallets, *more])


@pytest.fixture
def world() -> World:
    """A shard with the standard pallets, and two rich people."""
    return World(standard_runtime())


@pytest.fixture
def make_world() -> Callable[..., World]:
    """``make_world(*pallets, genesis=…, limits=…)``."""

    def make(*pallets: Pallet, **more: Any) -> World:
        return World(standard_runtime(*pallets), **more)

    return make
