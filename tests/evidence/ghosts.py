"""Instances without an enclave: genuine quotes, and whatever words a test wants.

A shard run by ghosts executes nothing; its roots are made up. That is how a file
is made whose every signature is right and whose story is not.
"""

from typing import Any

from sealift.base import AccountId, Digest, Epoch, Height, StateRoot
from sealift.crypto import account_of, sha256
from sealift.frame import Runtime
from sealift.protocol import (
    Confirmation,
    Effect,
    EffectsFact,
    EffectsStatement,
    EnclaveRecord,
    EpochKeysPublic,
    HandoverCertificate,
    HoldKeysStatement,
    PublishKeyStatement,
    RegistrationStatement,
    RehearsalStatement,
    ShardConfig,
    StageKeysStatement,
    config_at,
    effects_digest,
    effects_root,
    enclave_key,
    rotation_demand,
)
from sealift.testing import Release, Sent, World

NOTHING = Digest(sha256(b"nothing"))


def root_of(height: int) -> StateRoot:
    return StateRoot(sha256(b"root %d" % height))


def keys_of(number: int) -> EpochKeysPublic:
    return EpochKeysPublic(
        shielding_key=sha256(b"shielding %d" % number),
        state_key_commitment=Digest(sha256(b"state %d" % number)),
        root_key_commitment=Digest(sha256(b"root key %d" % number)),
    )


class Ghost:
    """An instance on a machine, for an account; it has a key and says things."""

    def __init__(
        self, world: World, name: str, release: Release, *, operator: str = "operator"
    ) -> None:
        self.world, self.release, self.operator = world, release, operator
        self.machine = world.machine(f"machine-{name}")
        self.seed = sha256(b"ghost " + name.encode())
        self.key = AccountId(account_of(self.seed))

    @property
    def here(self) -> dict[str, Any]:
        return {
            "chain_id": self.world.chain.chain_id,
            "shard": self.world.shard,
            "signing_key": self.key,
        }

    def register(self) -> Sent:
        world, bundle = self.world, self.release.bundle
        statement = RegistrationStatement(
            **self.here,
            operator=world.account(self.operator),
            tls_key=NOTHING,
            hpke_key=b"",
            block_height=world.height,
            block_hash=world.chain.hash_of(world.height),
        )
        identity = self.machine.einit(bundle.measurement, bundle.bundle.sigstruct)
        return world.act(
            self.operator,
            "teerex.register_sgx_enclave",
            statement=statement,
            signature=statement.sign(self.seed),
            quote=self.machine.quote(identity, statement.report_data()),
            url="",
        )

    def publish(self) -> Sent:
        keys = keys_of(0)
        return self.say(
            "publish_key",
            "statement",
            PublishKeyStatement(
                **self.here,
                epoch=Epoch(0),
                shielding_key=keys.shielding_key,
                state_key_commitment=keys.state_key_commitment,
                root_key_commitment=keys.root_key_commitment,
                genesis_root=root_of(0),
            ),
        )

    def confirm(
        self,
        last: int | None = None,
        *,
        root: StateRoot | None = None,
        effects: dict[int, Effect] | None = None,
        hushed: bool = False,
    ) -> Sent:
        """Up to a block (default: the last), from the frontier on.

        With the effects given, or those that words on L1 name; ``hushed``: the
        statement says that there are none.
        """
        frontier = self.world.frontier()
        waiting = self.world.chain.read(
            tuple[EffectsStatement, ...],
            b"enclave_bridge/effects_waiting/" + self.world.shard,
        )
        digests = {one.height: one.effects for one in waiting or ()}
        for height, effect in (effects or {}).items():
            digests[height] = effects_digest((effect,))
        told = tuple(
            EffectsFact(height=Height(height), effects=digest)
            for height, digest in sorted(digests.items())
        )
        last = last or self.world.height
        first = frontier.confirmed + 1
        return self.say(
            "confirm",
            "confirmation",
            Confirmation(
                **self.here,
                generation=config_at(self.world.schedule_now(), first).generation,
                first=Height(first),
                last=Height(last),
                prev_root=frontier.root,
                root=root or root_of(last),
                receipts_root=NOTHING,
                effects_root=effects_root(() if hushed else told),
            ),
            effects=told,
        )

    def certify(self, successor: int) -> Sent:
        entry = self.world.schedule_now().entry(successor)
        height = entry.upgrade_at - 1
        return self.say(
            "post_certificate",
            "certificate",
            HandoverCertificate(
                **self.here,
                generation=entry.predecessor,
                successor=entry.generation,
                height=Height(height),
                root=root_of(height),
            ),
        )

    def effects(self, height: int, *effects: Effect, previous: int = 0) -> Sent:
        return self.say(
            "post_effects",
            "statement",
            EffectsStatement(
                **self.here,
                generation=config_at(self.world.schedule_now(), height).generation,
                height=Height(height),
                previous=Height(previous),
                effects=effects_digest(effects),
            ),
            effects=effects,
        )

    def staged(self, epoch: int, keys: Any) -> StageKeysStatement:
        record = self.world.chain.read(EnclaveRecord, enclave_key(self.key))
        return StageKeysStatement(
            **self.here,
            epoch=Epoch(epoch),
            keys=keys,
            demand=rotation_demand(self.world.schedule_now()),
            registration=None if record is None else record.statement.digest(),
        )

    def stage(self, epoch: int) -> Sent:
        return self.say(
            "stage_keys",
            "statement",
            self.staged(epoch, keys_of(epoch)),
        )

    def hold(self, epoch: int) -> Sent:
        return self.say(
            "hold_keys",
            "statement",
            HoldKeysStatement(**self.here, epoch=Epoch(epoch), keys=keys_of(epoch)),
        )

    def rehearse(
        self,
        generation: int,
        *,
        good: bool = True,
        by: str | None = None,
        **fields: Any,
    ) -> Sent:
        entry = self.world.schedule_now().entry(generation)
        base: dict[str, Any] = {
            **self.here,
            "generation": entry.generation,
            "order": entry.order,
            "upgrade_at": entry.upgrade_at,
            "height": Height(self.world.height - 1),
            "blocks": 1,
            "good": good,
            "check": "" if good else "accounts.post_upgrade",
            "size": 4096,
        }
        statement = RehearsalStatement(**(base | fields))
        return self.world.act(
            by or self.operator,
            "enclave_bridge.post_rehearsal",
            statement=statement,
            signature=statement.sign(self.seed),
            milliseconds=16,
        )

    def propose(self, order: Any) -> Sent:
        return self.world.act(
            self.operator, "council.propose", order=order, signing_key=self.key
        )

    def vote(self, order: Any, *, aye: bool = True) -> Sent:
        return self.world.act(
            self.operator,
            "council.vote",
            shard=self.world.shard,
            order=order.digest(),
            signing_key=self.key,
            aye=aye,
        )

    def say(self, call: str, what: str, statement: Any, **more: Any) -> Sent:
        return self.world.act(
            "carrier",
            f"enclave_bridge.{call}",
            **{what: statement, "signature": statement.sign(self.seed), **more},
        )


def haunted(
    world: World, runtime: Runtime, *names: str, config: ShardConfig | None = None
) -> list[Ghost]:
    """A born shard of ghosts; the releases are ``world.releases[0]`` and ``[1]``."""
    first = world.release(runtime, sources={"app.py": b"first"})
    world.release(runtime, sources={"app.py": b"second"})
    world.create_shard(first, config=config)
    world.block()
    ghosts = [Ghost(world, name, first) for name in names]
    for ghost in ghosts:
        ghost.register()
    ghosts[0].publish()
    world.block()
    return ghosts
