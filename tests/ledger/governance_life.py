"""A shard to which anything may happen, on the real ledger and in the model at once.

Every deed is tried on both. They must agree on whether it takes effect, and on all
that the shard is afterwards; what is refused leaves every entry of L1's state as a
block without it does, but for who paid.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from governance_cast import (
    ADVISORY,
    AGE,
    CAST,
    HANDOVERS,
    MR_SIGNER,
    PAYER,
    authorities,
    emergencies,
)
from governance_laws import Laws, law
from governance_model import Model
from governance_schedule import Entry, KeysActing, NoError, Seen, State

from sealift.base import SealiftError, decode
from sealift.crypto import sha256
from sealift.ledger import ledger_call, transaction
from sealift.protocol import (
    EnclaveRecord,
    EpochKeysPublic,
    config_at,
    enclave_key,
    rotation_demand,
)
from sealift.provisioning import (
    Standing,
    entitled_epochs,
    judge_instance,
    provider_entry,
    requester_entry,
)


class Deed(NamedTuple):
    """A transaction, and what the model makes of it."""

    payer: str
    call: str
    arguments: dict[str, Any]
    rule: Callable[[Model], None]


class Chain:
    """Two shards under one authority: one is governed, the other looks on.

    Args:
        new_world: Makes an L1.
        authority: A form of :func:`authorities`.
        emergency: A form of :func:`emergencies`.
        quorums: Of roots and of rotations.
        handover: Which of :data:`HANDOVERS`.
    """

    def __init__(
        self,
        new_world: Callable[[], Any],
        *,
        authority: str = "any",
        emergency: str = "guard",
        quorums: tuple[int, int] = (1, 2),
        handover: int = 0,
    ) -> None:
        self.world = world = new_world()
        self.counts: Counter[tuple[str, bool]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.label = "birth"
        way = 0 if emergency == "none" else 2
        rules = {
            "authority": authorities(world)[authority],
            "emergency": emergencies(world)[emergency],
            "emergency_notice": way,
            "emergency_floor": min(way, 1),
            "min_notice": 4,
            "rescue_after": 6,
            "root_quorum": quorums[0],
            "rotation_quorum": quorums[1],
            "effects_quorum": 1,
            "grace": 3,
            "handover": HANDOVERS[handover],
        }
        self.secrets = {world.account(n): s for n, s in world.secrets.items()}
        self.cast = {}
        for name, code, machine, operator in CAST:
            one = world.instance(name, code.encode() * 32, operator=operator)
            one.machine = sha256(machine.encode())
            self.cast[name] = one
        self.by_key = {one.key: one for one in self.cast.values()}
        config = self.config("A")
        self.bystander = world.born_shard(
            world.instance("bystander"), config=self.config("A", vendor=None), **rules
        )
        self.shard = world.create_shard(config, **rules)
        self.model = Model(self._first(rules, config))
        self.orders: dict[bytes, Any] = {}
        #: What holders decided in a block, told or not.
        self.decided: dict[int, tuple[Any, ...]] = {}
        self.demands: list[tuple[bytes | None, Any]] = []
        self.keys_made: list[EpochKeysPublic] = []
        self._number = 0
        for name in ("a1", "a2", "a3"):
            self.register(name)
        self._birth()
        codes = {one.key: one.code for one in self.cast.values()}
        self.laws = Laws(world, self.shard, self.bystander, codes)
        self.laws.given(self.cast["a1"].key, self.keys_made[0], world.height)

    def _first(self, rules: dict[str, Any], config: Any) -> State:
        world = self.world
        schedule = world.schedule(self.shard)
        first = Entry(
            generation=0,
            predecessor=None,
            config=config,
            order=schedule.entries[0].order,
            recorded=world.height,
            release=world.height,
            upgrade=world.height + 1,
            since=world.height + 1,
            status="active",
        )
        return State(
            chain="test-chain",
            shard=self.shard,
            rules=world.rules(**rules),
            entries=(first,),
            height=world.height,
        )

    def _birth(self) -> None:
        world, one = self.world, self.cast["a1"]
        statement = world.key_statement(self.shard, one)
        world.publish_key(self.shard, one)
        state = self.model.s
        self.model.begin()
        public = EpochKeysPublic(
            shielding_key=statement.shielding_key,
            state_key_commitment=statement.state_key_commitment,
            root_key_commitment=statement.root_key_commitment,
        )
        self.keys_made.append(public)
        state.epochs = (KeysActing(0, public, world.height + 1, 0, 0),)
        state.confirmed, state.root = world.height, statement.genesis_root
        self.mirror()

    # --- blocks ---

    def run(self, *deeds: Deed) -> list[bool]:
        """A block of deeds, on both; which of them took effect."""
        self.model.begin()
        refused = [self.model.attempt(deed.rule) for deed in deeds]
        expected = [not why for why in refused]
        results = self._commit(self._agree(deeds, refused))
        for why, result in zip(refused, results, strict=True):
            self.counts[(self.label, not why)] += 1
            if why:
                self.refusals[result.error] += 1
        self.mirror()
        if hasattr(self, "laws"):
            self.laws.check(results, self.orders)
            self._remember()
        return expected

    def _txs(self, deeds: Sequence[Deed]) -> list[bytes]:
        """By the nonces of the committed state, whatever was executed beyond it."""
        world, used, txs = self.world, Counter[str](), []
        for deed in deeds:
            raw = world.database.get(b"system/nonces/" + world.account(deed.payer))
            nonce = 0 if raw is None else decode(int, raw)
            txs.append(
                transaction(
                    world.secrets[deed.payer],
                    chain_id="test-chain",
                    nonce=nonce + used[deed.payer],
                    valid_until=world.height + 100,
                    call=ledger_call(deed.call, **deed.arguments),
                )
            )
            used[deed.payer] += 1
        return txs

    def _agree(self, deeds: Sequence[Deed], refused: Sequence[str]) -> Any:
        """Both say the same of each; without what is refused, L1 is the same.

        The block, executed and not committed.
        """
        first = self._executed(deeds)
        for deed, why, result in zip(deeds, refused, first.results, strict=True):
            law(
                result.ok == (not why),
                f"{deed.call} in block {first.height}: the ledger says "
                f"{result.error or 'yes'}, the documents say {why or 'yes'}",
            )
        law(first.hook_failures == (), "a hook failed", first.hook_failures)
        if any(refused):
            kept = [d for d, why in zip(deeds, refused, strict=True) if not why]
            second = self._executed(kept)
            changes = [
                {k: v for k, v in block.changes.items() if not k.startswith(PAYER)}
                for block in (first, second)
            ]
            law(changes[0] == changes[1], "a refused deed changed the state")
            return self._executed(deeds)
        return first

    def _commit(self, block: Any) -> Any:
        """What :meth:`World.block` does when a block was executed."""
        world = self.world
        world.last, world.app_hash = block, block.app_hash
        world.ledger.commit()
        for key, value in block.changes.items():
            if value is None:
                world.database.pop(key)
            else:
                world.database[key] = value
        self.told.update(world.events())
        return block.results

    def _executed(self, deeds: Sequence[Deed]) -> Any:
        """The next block, executed and not committed."""
        world, height = self.world, self.world.next
        return world.ledger.finalize_block(
            height=height,
            block_hash=world.hash_of(height),
            time=world.time_of(height),
            proposer=b"p" * 20,
            txs=self._txs(deeds),
        )

    def wait(self, blocks: int) -> None:
        """Blocks in which nobody does anything."""
        for _ in range(blocks):
            self.run()

    def restart(self) -> None:
        """The ledger forgets all but its database."""
        self.world.restart()
        law(self.world.ledger.app_hash == self.world.app_hash, "another app hash")

    def _remember(self) -> None:
        """The demand for keys that stands now; orders that can't count any more."""
        schedule = self.world.schedule(self.shard)
        demand = (_demand_of(schedule), self.model.demand())
        if schedule.rotation is not None and demand not in self.demands:
            self.demands.append(demand)

    # --- whether both are the same ---

    def mirror(self) -> None:
        """All that L1 says of the shard is what the model says."""
        world, s = self.world, self.model.s
        law(world.height == s.height, "heights differ")
        real = world.schedule(self.shard)
        law(real.serial == s.serial, "serials differ", real.serial, s.serial)
        self._same("entries", [_entry(e) for e in real.entries], list(s.entries))
        self._same("status", real.status, s.status)
        self._same("rules", real.rules, s.rules)
        epochs = [
            (e.epoch, e.keys, e.valid_from, e.grace, e.not_before) for e in real.epochs
        ]
        mine = [
            (e.epoch, e.keys, e.valid_from, e.grace, e.not_before) for e in s.epochs
        ]
        self._same("epochs", epochs, mine)
        due, staged, change = real.rotation, real.staged, real.change
        self._same("rotation", due and _due(due), s.due and _due(s.due))
        self._same(
            "staged",
            staged and (staged.epoch, staged.keys, staged.staged_at, staged.holders),
            s.staged
            and (s.staged.due.epoch, s.staged.keys, s.staged.at, s.staged.holders),
        )
        self._same(
            "change",
            change
            and (change.rules, change.effective_at, change.recorded_at, change.order),
            s.change,
        )
        if s.epochs:
            frontier = world.frontier(self.shard)
            self._same(
                "frontier",
                (frontier.confirmed, frontier.root, frontier.generation),
                (s.confirmed, s.root, s.frontier_generation),
            )
        self._who_waits()

    def _who_waits(self) -> None:
        """Orders, motions, and instances with their time without a break."""
        world, model = self.world, self.model
        read = tuple[bytes, ...]
        opened = world.read(read, b"enclave_bridge/opened_digests/" + self.shard) or ()
        live = {d for d in opened if d in model.waiting()}
        self._same("open orders", live, set(model.waiting()))
        motions = world.read(read, b"council/open/" + self.shard) or ()
        self._same("motions", set(motions), set(model.s.motions))
        for key, one in self.by_key.items():
            record = world.read(EnclaveRecord, enclave_key(key))
            known = key in model.s.seen
            law((record is not None) == known, "an instance is known to one", one.name)
            if record is not None:
                self._same("unbroken", record.unbroken_since, model.unbroken(key))

    def who_runs(self) -> None:
        """Invariant 1: of every block, past and foreseeable, one and the same."""
        real = self.world.schedule(self.shard)
        first = self.model.s.entries[0].since
        for height in range(first, self.world.height + 4):
            runs = config_at(real, height).generation
            law(runs == self.model.at(height).generation, "1: who runs", height, runs)

    @staticmethod
    def _same(what: str, real: Any, mine: Any) -> None:
        law(real == mine, f"{what} differ", real, mine)

    # --- instances ---

    def config(self, code: str, **fields: Any) -> Any:
        world = self.world
        vendor = fields.pop("vendor", MR_SIGNER)
        operators = ("operator", "other-operator")
        base = {
            "min_isv_svn": 1,
            "operators": tuple(world.account(name) for name in operators),
            "policy": {"max_age_blocks": AGE},
            "mr_signer": vendor,
            "isv_prod_id": None if vendor is None else 1,
        }
        return world.config(code.encode() * 32, **(base | fields))

    def register(
        self, name: str, *, svn: int = 3, ill: bool = False, machine: str = ""
    ) -> bool:
        """Join, or be attested again; ``ill`` has an advisory."""
        world, one = self.world, self.cast[name]
        if machine:
            one.machine = sha256(machine.encode())
        advisories = (ADVISORY,) if ill else ()
        statement = world.statement(self.shard, one)
        seen = Seen(
            height=world.next,
            said=statement.block_height,
            code=one.code,
            machine=one.machine,
            svn=svn,
            advisories=advisories,
            operator=world.account(one.operator),
            age=0,
        )
        arguments = world.registration(
            self.shard,
            one,
            statement=statement,
            mrsigner=MR_SIGNER,
            isv_svn=svn,
            advisories=advisories,
        )
        call = "teerex.register_sgx_enclave"
        deed = Deed(one.operator, call, arguments, lambda m: m.register(one.key, seen))
        return self.run(deed)[0]

    def leave(self, name: str, *, by: str = "") -> bool:
        """Taken off the registry, by its operator or somebody else."""
        one = self.cast[name]
        by = by or one.operator
        account = self.world.account(by)
        arguments = {"signing_key": one.key}
        call = "teerex.unregister_enclave"
        return self.run(Deed(by, call, arguments, lambda m: m.leave(one.key, account)))[
            0
        ]

    def ask_keys(self, taker: str, giver: str) -> bool:
        """Provisioning's own rules over L1's state, and what the model lets have."""
        one, other = self.cast[taker], self.cast[giver]
        try:
            wanted = self.model.may_have(one.key)
            gives = self.model.may_give(other.key)
        except NoError:
            wanted, gives = frozenset(), False
        got = self._entitled(one, other)
        self._same("entitled epochs", got, wanted if gives else frozenset())
        record = self.world.read(EnclaveRecord, enclave_key(one.key))
        theirs = self.laws.holds.get(other.key, {})
        schedule = self.world.schedule(self.shard)
        found = [e.keys for e in schedule.epochs if e.epoch in got]
        staged = schedule.staged
        found += [staged.keys] if staged is not None and staged.epoch in got else []
        for public in found:
            if public in theirs:
                self.laws.given(one.key, public, record.attested_at)
        self.counts[(self.label, bool(got))] += 1
        return bool(got)

    def _entitled(self, one: Any, other: Any) -> frozenset[int]:
        world = self.world
        record, giver = (
            world.read(EnclaveRecord, enclave_key(i.key)) for i in (one, other)
        )
        if record is None or giver is None:
            return frozenset()
        standing = Standing(
            schedule=world.schedule(self.shard),
            frontier=world.frontier(self.shard),
            height=world.height,
        )
        quote: Any = world.quote(
            record.statement,
            one,
            mrsigner=record.mr_signer,
            isv_svn=record.isv_svn,
            advisories=record.advisories,
        )
        try:
            provider_entry(standing, giver)
            entry = requester_entry(standing, record, held_at=record.attested_at)
            judge_instance(quote, record, entry, standing)
            entitled = entitled_epochs(standing, record, entry)
        except SealiftError as refusal:
            self.refusals[type(refusal).__name__] += 1
            return frozenset()
        found = {e.epoch for e in entitled.acting}
        if entitled.staged is not None:
            found.add(entitled.staged.epoch)
        return frozenset(found)


def _entry(e: Any) -> Entry:
    return Entry(
        generation=e.generation,
        predecessor=e.predecessor,
        config=e.config,
        order=e.order,
        recorded=e.recorded_at,
        release=e.release_from,
        upgrade=e.upgrade_at,
        since=e.since,
        status=str(e.status),
    )


def _due(due: Any) -> tuple[Any, ...]:
    return (due.epoch, due.why, due.generation, due.not_before, due.grace)


def _demand_of(schedule: Any) -> bytes | None:
    return rotation_demand(schedule)
