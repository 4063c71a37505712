"""A handover as a graph of states, between a chain, two enclaves and a lying host.

The rules are the real ones: the ledger's of schedules and key epochs, mu-ra's of
who may have and give keys, the enclave's of what it may execute. Cryptography and
transport are left out: a key is its epoch's number, a proof is what an enclave has
been shown. Whatever a host can do is a move; all moves are tried.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from sealift.base import SealiftError, decode, encode
from sealift.crypto import sha256
from sealift.enclave._view import names
from sealift.ledger import require_eligible
from sealift.ledger._bridge_schedule import _rescued, _rotated_by_upgrade
from sealift.ledger._entries import active_entry, first_schedule
from sealift.ledger._orders import owe_rotation, record_cancel, record_upgrade
from sealift.ledger._orders import verify_order as ledger_verify_order
from sealift.ledger._rotation import activate, require_due, stage, verify_keys
from sealift.ledger._succession import promote, rescue
from sealift.ledger.v3._gate import due_next, put_off
from sealift.protocol import (
    CancelOrder,
    EnclaveRecord,
    EntryStatus,
    EpochKeysPublic,
    Frontier,
    KeyEpoch,
    RegistrationStatement,
    Schedule,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    UpgradeOrder,
    config_at,
    epoch_at,
)
from sealift.protocol.platform import IdentityReply
from sealift.provisioning import (
    Standing,
    entitled_epochs,
    requester_entry,
)
from sealift.provisioning._entitled import provider_entries

CHAIN, SHARD, KIND = "explored", b"s" * 32, "insecure-sim"
CODE = {"a": b"A" * 32, "b": b"B" * 32}
NOTICE, RESCUE_AFTER = 1, 2
_LIVE = (EntryStatus.PENDING, EntryStatus.ACTIVE)
DEAD = (EntryStatus.CANCELLED, EntryStatus.LAPSED, EntryStatus.VOID)


def public(epoch: int, salt: bytes = b"") -> EpochKeysPublic:
    made = [sha256(bytes([epoch, n]) + salt) for n in range(3)]
    return EpochKeysPublic(
        shielding_key=made[0],
        state_key_commitment=made[1],
        root_key_commitment=made[2],
    )


@dataclass(frozen=True)
class Block:
    """L1 after a block: its schedule, and how far the shard is confirmed."""

    schedule: bytes
    confirmed: int
    generation: int


@dataclass(frozen=True)
class Enclave:
    """One instance: what it was shown, what it holds, where its state stands."""

    shown: int = 0
    epochs: frozenset[int] = frozenset()
    state: int = 0
    attested: int = 0


@dataclass(frozen=True)
class World:
    """One state of everything; ``asked`` is a mu-ra session on its way.

    ``executed`` holds (height, generation) that some enclave ever executed,
    ``disks`` an older copy of each, ``ordered`` the serial of the order for b,
    ``given`` who got which epoch by a challenge in which block, ``rehearsed`` the
    upgrade blocks for which b has rehearsed well.
    """

    chain: tuple[Block, ...]
    enclaves: tuple[tuple[str, Enclave], ...]
    disks: tuple[tuple[str, Enclave], ...]
    executed: frozenset[tuple[int, int]] = frozenset()
    asked: tuple[str, str] | None = None
    ordered: bytes = b""
    given: frozenset[tuple[str, int, int]] = frozenset()
    rehearsed: frozenset[int] = frozenset()

    @property
    def height(self) -> int:
        return len(self.chain) - 1

    def enclave(self, name: str) -> Enclave:
        return dict(self.enclaves)[name]

    def having(self, name: str, enclave: Enclave) -> "World":
        changed = dict(self.enclaves) | {name: enclave}
        return replace(self, enclaves=tuple(sorted(changed.items())))


@dataclass(frozen=True)
class Terms:
    """What a shard's rules and its order say; by default as short as can be.

    ``release_from`` and ``upgrade_at`` of the order for b: blocks, else the
    earliest that the notice allows. ``postpone_by``: an upgrade takes b's rehearsal,
    and is put off by so many blocks without it; 0: nothing is asked for.
    """

    notice: int = NOTICE
    rescue_after: int = RESCUE_AFTER
    release_from: int | None = None
    upgrade_at: int | None = None
    postpone_by: int = 0


@dataclass
class Rules:
    """What may be planted a bug in: one function for each question."""

    requester: Callable[..., Any] = requester_entry
    entitled: Callable[..., Any] = entitled_epochs
    verify_order: Callable[..., None] = ledger_verify_order
    mine: Callable[..., bool] = field(default=lambda entry, me, _: names(entry, me))
    providers: Callable[..., Any] = provider_entries
    eligible: Callable[..., None] = require_eligible
    rehearsals: Callable[..., bool] = field(
        default=lambda world, due: due.upgrade_at in world.rehearsed
    )


class Explored:
    """The moves, over schedules that are kept once each.

    Args:
        rules: The real ones, or with a bug in them.
        last: No block is higher.
        terms: Of the shard and its order.
    """

    def __init__(self, rules: Rules, *, last: int, terms: Terms | None = None) -> None:
        self.rules, self.last, self.terms = rules, last, terms or Terms()
        self._known: dict[bytes, Schedule] = {}

    # --- states ---

    def begin(self) -> World:
        born = first_schedule(
            chain_id=CHAIN,
            shard=SHARD,
            rules=ShardRules(
                authority=SudoAuthority(key=b"k" * 32),
                genesis=bytes(32),
                min_notice=self.terms.notice,
                rescue_after=self.terms.rescue_after,
                grace=0,
            ),
            config=ShardConfig(code={KIND: CODE["a"]}),
            order=bytes(32),
            height=0,
        )
        epoch = KeyEpoch(epoch=0, keys=public(0), valid_from=1, grace=0)
        born = msgspec.structs.replace(born, epochs=(epoch,))
        first = Block(self._keep(born), 0, 0)
        fresh = {"a": Enclave(epochs=frozenset({0})), "b": Enclave()}
        states = tuple(sorted(fresh.items()))
        return World(chain=(first,), enclaves=states, disks=states)

    def schedule(self, block: Block) -> Schedule:
        return self._known[block.schedule]

    def _keep(self, schedule: Schedule) -> bytes:
        digest = sha256(encode(schedule))[:8]
        self._known[digest] = schedule
        return digest

    def record(self, world: World, name: str) -> EnclaveRecord:
        enclave = world.enclave(name)
        return EnclaveRecord(
            statement=RegistrationStatement(
                chain_id=CHAIN,
                shard=SHARD,
                operator=b"o" * 32,
                signing_key=CODE[name],
                tls_key=bytes(32),
                hpke_key=b"",
                block_height=0,
                block_hash=bytes(32),
            ),
            operator=b"o" * 32,
            platform=KIND,
            fingerprint=CODE[name],
            mr_signer=bytes(32),
            isv_prod_id=0,
            isv_svn=1,
            platform_id=CODE[name],
            tcb_status="UpToDate",
            advisories=(),
            tcb_evaluation_number=0,
            registered_at=enclave.attested,
            attested_at=enclave.attested,
        )

    # --- moves ---

    def moves(self, world: World) -> Iterator[tuple[str, World]]:
        """Every state that is one move away, and what the move is called."""
        yield from self._of_l1(world)
        yield from self._of_hosts(world)

    def moved(self, world: World, move: str) -> World | None:
        """The state that one of the moves leads to; nothing if it is none of them."""
        of_l1 = move.startswith("block ")
        offered = self._of_l1(world, move) if of_l1 else self._of_hosts(world)
        return next((after for what, after in offered if what == move), None)

    def _of_l1(self, world: World, only: str = "") -> Iterator[tuple[str, World]]:
        if world.height < self.last:
            for what, act in self._acts(world):
                move = f"block {world.height + 1}: {what}"
                if only and move != only:
                    continue
                after = self._block(world, act)
                if after is not None:
                    yield move, after

    def _of_hosts(self, world: World) -> Iterator[tuple[str, World]]:
        for name, enclave in world.enclaves:
            if enclave.shown < world.height:
                shown = replace(enclave, shown=enclave.shown + 1)
                yield f"show {shown.shown} to {name}", world.having(name, shown)
            after = self._execute(world, name)
            if after is not None:
                yield f"{name} executes {enclave.state + 1}", after
            if enclave != dict(world.disks)[name]:
                disks = dict(world.disks) | {name: enclave}
                kept = replace(world, disks=tuple(sorted(disks.items())))
                yield f"copy the disk of {name}", kept
                older = dict(world.disks)[name]
                older = replace(older, attested=enclave.attested)
                yield f"roll {name} back", world.having(name, older)
        if world.asked is not None:
            yield "drop the session", replace(world, asked=None)
            after = self._give(world, *world.asked)
            if after is not None:
                yield f"{world.asked[1]} gives keys to {world.asked[0]}", after

    def _acts(self, world: World) -> Iterator[tuple[str, Callable[[Schedule], Any]]]:
        now = self.schedule(world.chain[-1])
        next_height = world.height + 1
        yield "nothing", lambda s: s
        release = self.terms.release_from or next_height + self.terms.notice
        order = UpgradeOrder(
            chain_id=CHAIN,
            shard=SHARD,
            serial=now.serial,
            predecessor=active_entry(now).generation,
            config=ShardConfig(code={KIND: CODE["b"]}),
            release_from=release,
            upgrade_at=self.terms.upgrade_at or release + 2,
            expiry=self.last,
        )
        if not world.ordered:
            yield "schedule b", lambda s: self._order(s, order, next_height)
        else:
            late = msgspec.structs.replace(order, serial=decode(int, world.ordered))
            yield "replay the order", lambda s: self._order(s, late, next_height)
        for entry in now.entries:
            if entry.status is EntryStatus.PENDING:
                cancel = CancelOrder(
                    chain_id=CHAIN,
                    shard=SHARD,
                    serial=now.serial,
                    generation=entry.generation,
                    expiry=self.last,
                )
                yield "cancel", lambda s, c=cancel: self._order(s, c, next_height)
            if entry.status is EntryStatus.PENDING and self.terms.postpone_by:
                yield "rehearse by b", lambda s, e=entry: (s, "rehearse", e)
        for name in CODE:
            yield f"confirm by {name}", lambda s, n=name: (s, "confirm", n)
            yield f"stage by {name}", lambda s, n=name: (s, "stage", n)
            for other in CODE:
                if name != other and world.asked is None:
                    asks = (name, other)
                    yield f"register {name}", lambda s, a=asks: (s, "ask", a)

    def _order(self, schedule: Schedule, order: Any, height: int) -> Schedule:
        self.rules.verify_order(schedule, order, height=height)
        if isinstance(order, UpgradeOrder):
            return record_upgrade(schedule, order, height=height)
        after, lapsed = record_cancel(schedule, order)
        gone = (order.generation, *lapsed)
        if any(schedule.entry(g).release_from <= height for g in gone):
            after = owe_rotation(
                after,
                "cancel",
                generation=active_entry(after).generation,
                not_before=0,
                grace=0,
            )
        return after

    def _block(self, world: World, act: Callable[[Schedule], Any]) -> World | None:
        """One block more, or nothing if L1 refuses the act."""
        height = world.height + 1
        last = world.chain[-1]
        schedule = self.schedule(last)
        schedule, voided = rescue(schedule, height=height, confirmed=last.confirmed)
        if voided is not None:
            schedule = _rescued(schedule, voided)
        schedule, promoted = promote(schedule, height=height)
        if promoted is not None:
            schedule = _rotated_by_upgrade(schedule, promoted)
        confirmed, generation = last.confirmed, last.generation
        ordered, asked, after = world.ordered, world.asked, world
        rehearsed = world.rehearsed
        try:
            result = act(schedule)
            if isinstance(result, Schedule):
                if len(result.entries) > len(schedule.entries) and not ordered:
                    ordered = encode(schedule.serial)
                schedule = result
            elif result[1] == "confirm":
                confirmed, generation = self._confirmed(
                    world, schedule, result[2], height
                )
            elif result[1] == "rehearse":
                rehearsed |= {self._rehearsed(world, schedule, result[2], height)}
            elif result[1] == "stage":
                schedule, after = self._staged(world, schedule, result[2], height)
            else:
                name = result[2][0]
                asked = result[2]
                enclave = replace(world.enclave(name), attested=height)
                after = world.having(name, enclave)
        except SealiftError:
            return None
        due = due_next(schedule, height=height) if self.terms.postpone_by else None
        after = replace(after, rehearsed=rehearsed)
        if due is not None and not self.rules.rehearsals(after, due):
            schedule = put_off(schedule, due, by=self.terms.postpone_by)
        block = Block(self._keep(schedule), confirmed, generation)
        return replace(after, chain=(*world.chain, block), ordered=ordered, asked=asked)

    def _rehearsed(
        self, world: World, schedule: Schedule, entry: Any, height: int
    ) -> int:
        """The upgrade block for which b rehearses: with keys and a copy, in time."""
        known = schedule.entry(entry.generation)
        enclave = world.enclave("b")
        self.rules.eligible(
            self.record(world, "b"), known, schedule.status, height=height
        )
        in_time = known.release_from <= height < known.upgrade_at
        pending = known.status is EntryStatus.PENDING
        ready = enclave.epochs and enclave.state and enclave.attested
        if not (in_time and pending and ready) or known.upgrade_at in world.rehearsed:
            raise SealiftError("it cannot rehearse that now")
        return int(known.upgrade_at)

    def _confirmed(
        self, world: World, schedule: Schedule, name: str, height: int
    ) -> tuple[int, int]:
        wanted = world.chain[-1].confirmed + 1
        entry = config_at(schedule, wanted)
        record = self.record(world, name)
        require_eligible(record, entry, schedule.status, height=height)
        if world.enclave(name).state < wanted or (
            (wanted, entry.generation) not in world.executed
        ):
            raise SealiftError("it has not executed that")
        return wanted, entry.generation

    def _staged(
        self, world: World, schedule: Schedule, name: str, height: int
    ) -> tuple[Schedule, World]:
        last = world.chain[-1]
        frontier = Frontier(
            confirmed=last.confirmed, root=bytes(32), generation=last.generation
        )
        epoch = schedule.epochs[-1].epoch + 1
        due = require_due(schedule, epoch, frontier=frontier, height=height)
        record = self.record(world, name)
        running = active_entry(schedule)
        self.rules.eligible(record, running, schedule.status, height=height)
        keys = public(epoch, encode(schedule.serial))
        verify_keys(schedule, keys, due)
        after = stage(schedule, keys, due, signing_key=CODE[name], height=height)
        after, _ = activate(after, {CODE[name]}, height=height)
        enclave = world.enclave(name)
        holding = replace(enclave, epochs=enclave.epochs | {epoch})
        return after, world.having(name, holding)

    def _execute(self, world: World, name: str) -> World | None:
        """The next block, if the enclave's own view of the chain says it is its."""
        enclave = world.enclave(name)
        wanted = enclave.state + 1
        if enclave.shown < wanted or not enclave.epochs:
            return None
        view = self.schedule(world.chain[enclave.shown])
        entry = config_at(view, wanted)
        me = IdentityReply(
            kind=KIND,
            mrenclave=CODE[name],
            mrsigner=bytes(32),
            isv_prod_id=0,
            isv_svn=1,
            cpu_svn=bytes(16),
        )
        if epoch_at(view, wanted).epoch not in enclave.epochs:
            return None
        if not self.rules.mine(entry, me, enclave):
            follows = any(h == wanted for h, _ in world.executed)
            if not follows:
                return None
            return world.having(name, replace(enclave, state=wanted))  # a diff
        generation = entry.generation
        if entry.config.code[KIND] != CODE[name]:
            generation = 0  # what a bug has it execute, it executes as its own
        done = world.having(name, replace(enclave, state=wanted))
        return replace(done, executed=world.executed | {(wanted, generation)})

    def _give(self, world: World, requester: str, provider: str) -> World | None:
        """Steps 5 to 8 of mu-ra, by what the provider was shown."""
        giver, taker = world.enclave(provider), world.enclave(requester)
        if giver.shown < taker.attested or not giver.epochs or not taker.attested:
            return None
        block = world.chain[giver.shown]
        standing = Standing(
            schedule=self.schedule(block),
            frontier=Frontier(
                confirmed=block.confirmed, root=bytes(32), generation=block.generation
            ),
            height=giver.shown,
        )
        record = self.record(world, requester)
        try:
            entry = self.rules.requester(standing, record, held_at=taker.attested)
            entitled = self.rules.entitled(standing, record, entry)
            own = self.rules.providers(standing)
            if CODE[provider] not in [e.config.code[KIND] for e in own]:
                return None
        except SealiftError:
            return None
        epochs = {e.epoch for e in entitled.acting}
        got = frozenset(epochs & giver.epochs)
        having = world.having(requester, replace(taker, epochs=taker.epochs | got))
        given = {(requester, epoch, taker.attested) for epoch in got}
        return replace(having, asked=None, given=world.given | given)

    # --- what must hold in every state ---

    def violation(self, world: World) -> str:
        """Which invariant a state breaks; empty while none."""
        newest = self.schedule(world.chain[-1])
        return (
            self._one_generation_a_block(world, newest)
            or self._keys_after_notice(world)
            or self._nothing_new_for_the_withdrawn(world, newest)
            or self._no_order_twice(newest)
            or self._no_code_unrehearsed(world, newest)
        )

    def _no_code_unrehearsed(self, world: World, newest: Schedule) -> str:
        """The gate: what took over was rehearsed, for the very block it took over."""
        for entry in newest.entries if self.terms.postpone_by else ():
            new_code = entry.config.code[KIND] == CODE["b"]
            ran = entry.status not in (EntryStatus.PENDING, EntryStatus.CANCELLED)
            ran = ran and entry.status is not EntryStatus.LAPSED
            if new_code and ran and entry.since not in world.rehearsed:
                return f"gate: b took over block {entry.since} without a rehearsal"
        return ""

    @staticmethod
    def _one_generation_a_block(world: World, newest: Schedule) -> str:
        """Invariants 1 and 2: what is confirmed was executed, by one generation."""
        alive: dict[int, int] = {}
        for height, generation in sorted(world.executed):
            if newest.entry(generation).status in DEAD:
                continue
            ran = config_at(newest, height).generation
            if generation != ran and newest.entry(ran).since != (
                newest.entry(ran).upgrade_at
            ):
                continue  # a rescuer's: the same code as the one before
            if generation != ran:
                return f"1: block {height} was executed by generation {generation}"
            if alive.setdefault(height, generation) != generation:
                return f"1: block {height} by two generations"
        return ""

    def _keys_after_notice(self, world: World) -> str:
        """Invariant 3: only what was scheduled, and after its notice."""
        for name, epoch, held_at in world.given:
            schedule = self.schedule(world.chain[held_at])
            fits = any(
                entry.config.code[KIND] == CODE[name]
                and entry.status not in DEAD
                and entry.release_from <= held_at
                for entry in schedule.entries
            )
            if not fits:
                return f"3: {name} got epoch {epoch} by a challenge in block {held_at}"
        return ""

    def _nothing_new_for_the_withdrawn(self, world: World, newest: Schedule) -> str:
        """Invariant 8: no epoch that began after a code was withdrawn."""
        for name, code in CODE.items():
            entries = [e for e in newest.entries if e.config.code[KIND] == code]
            if not entries or any(e.status in _LIVE for e in entries):
                continue
            last = self._last_named(world, code)
            for epoch in newest.epochs:
                held = epoch.epoch in world.enclave(name).epochs
                if held and epoch.epoch and epoch.valid_from > last + 2:
                    return f"8: {name} holds epoch {epoch.epoch} after its time"
        return ""

    def _last_named(self, world: World, code: bytes) -> int:
        """The last block in which a code could run or was to run."""
        last = 0
        for height, block in enumerate(world.chain):
            for entry in self.schedule(block).entries:
                if entry.status in _LIVE and entry.config.code[KIND] == code:
                    last = height
        return last

    @staticmethod
    def _no_order_twice(newest: Schedule) -> str:
        """Invariant 11: one order, one entry."""
        tried = [e for e in newest.entries if e.config.code[KIND] == CODE["b"]]
        return "11: an order counted twice" if len(tried) > 1 else ""
