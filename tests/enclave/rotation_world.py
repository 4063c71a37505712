"""A shard whose keys are made anew, and an L1 that keeps the rules of it."""

from typing import Any

import msgspec
from enclave_world import Host, World

from sealift.enclave._errors import NotQuotedError
from sealift.enclave._sessions import SessionInstance
from sealift.protocol import (
    EpochKeys,
    HoldKeysStatement,
    KeyEpoch,
    KeyPackage,
    RotationDue,
    Schedule,
    StagedEpoch,
    StageKeysStatement,
    rotation_demand,
)
from sealift.protocol import ecall as e
from sealift.provisioning import EntitledEpochs

GRACE = 3


class Rotation:
    """What ledger, hosts and providers do while an epoch follows another."""

    def __init__(self, world: World) -> None:
        self.world, self.l1, self.ledger = world, world.l1, world.l1.ledger
        self.a = world.host
        self.b = world.twin()
        #: A snapshot of before the rotation, where a story needs one.
        self.before: tuple[bytes, list[bytes]] = (b"", [])

    # --- L1 ---

    def demand(
        self,
        why: str = "order",
        *,
        generation: int = 0,
        not_before: int = 0,
        grace: int = GRACE,
    ) -> None:
        """A rotation is owed: whatever was staged is dropped."""
        self.ledger.rotation = RotationDue(
            epoch=len(self.ledger.epochs),
            why=why,  # type: ignore[arg-type]
            generation=generation,
            not_before=not_before,
            grace=grace,
        )
        self.ledger.staged = None
        self.act()

    def act(self) -> None:
        """Any act of the authority: it raises the serial; and a header more."""
        now = self.ledger.schedule
        assert now is not None
        self.ledger.schedule = msgspec.structs.replace(now, serial=now.serial + 1)
        self.l1.block()
        self.l1.block()

    def take_staged(self, said: StageKeysStatement) -> bool:
        """Whether L1 takes these staged keys."""
        shown = self.ledger.shown()
        assert shown is not None
        if shown.staged is not None or said.demand != rotation_demand(shown):
            return False
        self.ledger.staged = StagedEpoch(
            epoch=said.epoch,
            keys=said.keys,
            due=self.ledger.rotation,
            staged_at=self.l1.height + 1,
            holders=(said.signing_key,),
        )
        self.l1.block()
        self.l1.block()
        return True

    def activate(self) -> KeyEpoch:
        """Enough hold it: it acts two blocks later."""
        staged = self.ledger.staged
        assert staged is not None
        epoch = KeyEpoch(
            epoch=staged.epoch,
            keys=staged.keys,
            valid_from=self.l1.height + 3,
            grace=staged.due.grace,
            not_before=staged.due.not_before,
        )
        self.ledger.epochs = (*self.ledger.epochs, epoch)
        self.ledger.staged = self.ledger.rotation = None
        self.l1.block()
        return epoch

    # --- hosts ---

    def stage(self, host: Host) -> StageKeysStatement:
        """Have keys made; durable before L1 hears of them."""
        host.follow()
        try:
            reply = host.call(e.StageKeys())
        except NotQuotedError:
            host.call(e.Register(operator=bytes(32)))
            reply = host.call(e.StageKeys())
        host.key_store = reply.key_store
        reply.statement.verify(reply.statement.signing_key, reply.signature)
        return reply.statement

    def hold(self, host: Host) -> HoldKeysStatement:
        host.follow()
        reply = host.call(e.HoldKeys())
        reply.statement.verify(reply.statement.signing_key, reply.signature)
        return reply.statement

    def provision(self, giver: Host, taker: Host, **package: Any) -> None:
        """What a mu-ra session does from step 7 on, for the schedule of now."""
        giver.follow()
        taker.follow()
        self.install(taker, msgspec.structs.replace(self.package(giver), **package))

    def package(self, giver: Host) -> KeyPackage:
        shard = giver.enclave._shard
        shown = shard.view.schedule
        return instance(giver).key_package(
            checkpoint_at=shard.relay.head.height,
            entitled=EntitledEpochs(acting=shown.epochs, staged=shown.staged),
        )

    def install(
        self, taker: Host, package: KeyPackage, *, schedule: Schedule | None = None
    ) -> None:
        shown = schedule or taker.enclave._shard.view.schedule
        taker.key_store = instance(taker).install(package, schedule=shown)

    def rotate(
        self, *holders: Host, why: str = "order", generation: int = 0
    ) -> KeyEpoch:
        """The whole of it: ``a`` stages, it and the others hold."""
        self.demand(why, generation=generation)
        first = holders[0] if holders else self.a
        taken = self.take_staged(self.stage(first))
        assert taken
        for other in holders[1:]:
            self.provision(first, other)
        for host in holders or (self.a,):
            self.hold(host)
        return self.activate()

    def to(self, height: int, *txs: bytes) -> None:
        """Blocks up to ``height`` with the calls in the first, and a header more."""
        while self.l1.height <= height:
            self.l1.block(*txs)
            txs = ()


def instance(host: Host) -> SessionInstance:
    return SessionInstance(host.enclave._shard, (), b"o" * 32)


def held_keys(host: Host) -> tuple[EpochKeys, ...]:
    return host.enclave._shard.keys.epochs


def secrets(keys: EpochKeys) -> tuple[bytes, bytes, bytes]:
    return keys.shielding_secret, keys.state_key, keys.root_key
