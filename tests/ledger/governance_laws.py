"""DESIGN §14's invariants 1, 3, 8 and 11, notices and frozen entries, as laws.

They look at what L1 shows, block by block, and at nothing that a model foresaw.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sealift.ledger import LedgerTxResult
from sealift.protocol import (
    RulesOrder,
    Schedule,
    UpgradeOrder,
    config_at,
    enclave_key,
)
from sealift.protocol.chain import EnclaveRecord

DEAD = ("cancelled", "lapsed", "void")
KIND = "insecure-sim"
#: From each status, those that may follow it from one block to the next.
FOLLOWS = {
    "pending": {"pending", "active", "cancelled", "lapsed"},
    # in one block an entry may begin and be rescued, or end and be succeeded
    "active": {"active", "retired", "void"},
    "retired": {"retired", "void"},
    **{dead: {dead} for dead in DEAD},
}


class LawBrokenError(AssertionError):
    """An invariant does not hold."""


def law(holds: object, sentence: str, *seen: object) -> None:
    """Hold a law, also under ``python -O``."""
    if not holds:
        raise LawBrokenError(f"{sentence}: {seen}" if seen else sentence)


def code_of(entry: Any) -> bytes:
    """The fingerprint that an entry names."""
    return entry.config.code[KIND]


class Laws:
    """What was seen of a shard, and what must hold of it.

    Args:
        world: The chain.
        shard: The shard that is governed.
        bystander: Another one, under the same authority, that nobody decides for.
        codes: By signing key, what each instance runs.
    """

    def __init__(
        self, world: Any, shard: bytes, bystander: bytes, codes: Mapping[bytes, bytes]
    ) -> None:
        self.world, self.shard, self.bystander = world, shard, bystander
        self.codes = codes
        self.seen: dict[int, Schedule] = {world.height: world.schedule(shard)}
        self.confirmed: dict[int, int] = {world.height: self._confirmed()}
        self.ran: dict[int, int] = {}
        self.recorded: dict[bytes, int] = {}
        #: What each instance was ever given: public keys, and when.
        self.holds: dict[bytes, dict[Any, int]] = {}
        other = world.schedule(bystander)
        self.untouched = (other.serial, other.entries, other.rules, other.status)

    def _confirmed(self) -> int:
        return self.world.frontier(self.shard).confirmed

    def check(
        self, results: Iterable[LedgerTxResult], orders: Mapping[bytes, Any]
    ) -> None:
        """After a block: all of them.

        Args:
            results: Of its transactions.
            orders: All that were ever made, by digest.
        """
        height = self.world.height
        before, now = self.seen[height - 1], self.world.schedule(self.shard)
        self.seen[height], self.confirmed[height] = now, self._confirmed()
        events = [e for r in results for e in r.events]
        self._decisions_dont_replay(before, now, events, orders)
        self._notices(before, now, height, orders)
        self._frozen(before, now, height)
        self._one_generation(now, height)
        self._who_acknowledged(before, now, events, height)
        other = self.world.schedule(self.bystander)
        law(
            self.untouched == (other.serial, other.entries, other.rules, other.status),
            "11: a decision counted on another shard",
        )

    # --- 11 ---

    def _decisions_dont_replay(
        self, before: Any, now: Any, events: Any, orders: Any
    ) -> None:
        told = [e for e in events if e.name == "enclave_bridge.OrderRecorded"]
        for event in told:
            digest = self._digest(event, orders)
            law(digest not in self.recorded, "11: one order counted twice", digest)
            order = orders[digest]
            law(order.shard == self.shard, "11: another shard's order counted")
            law(order.chain_id == now.chain_id, "11: another chain's order counted")
            law(
                before.serial <= order.serial < now.serial,
                "11: an order of another serial counted",
                before.serial,
                order.serial,
                now.serial,
            )
            self.recorded[digest] = self.world.height
        law(now.serial >= before.serial, "11: the serial fell")

    @staticmethod
    def _digest(event: Any, orders: Any) -> bytes:
        """The one of all orders whose digest stands in an event."""
        found = [digest for digest in orders if digest in event.data]
        law(len(found) == 1, "11: an order was carried out that nobody made")
        return found[0]

    # --- notices ---

    def _notices(self, before: Any, now: Any, height: int, orders: Any) -> None:
        for entry in now.entries[len(before.entries) :]:
            if entry.since != entry.upgrade_at:
                continue  # a rescuer: no new code
            order = orders[entry.order]
            law(isinstance(order, UpgradeOrder), "an entry without an order for it")
            law(entry.recorded_at == height, "an entry from before its order")
            rules = now.rules
            notice = rules.emergency_notice if order.emergency else rules.min_notice
            law(
                notice >= 1 and entry.recorded_at + notice <= entry.release_from,
                "a notice is shorter than the rule in force",
                entry.recorded_at,
                notice,
                entry.release_from,
            )
            if order.emergency:
                law(notice >= rules.emergency_floor >= 1, "below the emergency floor")
            law(entry.release_from < entry.upgrade_at, "released at XYZ or after")
        if now.change is not None and now.change != before.change:
            order = orders[now.change.order]
            law(isinstance(order, RulesOrder), "rules without an order for them")
            notice = max(now.rules.min_notice, now.rules.rules_notice)
            law(
                now.change.effective_at >= height + notice
                and now.change.recorded_at == height,
                "other rules at less than the longest notice",
            )
        if now.rules != before.rules:
            due = before.change
            law(
                due is not None
                and due.rules == now.rules
                and due.effective_at <= height,
                "rules changed without a change that was due",
            )

    # --- frozen entries ---

    @staticmethod
    def _frozen(before: Any, now: Any, height: int) -> None:
        """From XYZ on nothing of an entry changes; before, it is only put off."""
        for old, new in zip(before.entries, now.entries, strict=False):
            law(
                new.status in FOLLOWS[old.status]
                or (old.status, new.status) == ("pending", "retired"),
                "a status came back",
                old.status,
                new.status,
            )
            same = ("generation", "predecessor", "config", "order", "recorded_at")
            for name in (*same, "release_from", "bundle", "source"):
                law(getattr(old, name) == getattr(new, name), "an entry changed", name)
            ahead = old.status == new.status == "pending" and height < old.upgrade_at
            if (old.upgrade_at, old.since) != (new.upgrade_at, new.since):
                law(ahead, "an entry changed at XYZ or after")
                law(new.upgrade_at == new.since, "since is not XYZ")
                law(new.upgrade_at > old.upgrade_at, "an entry was brought forward")
            if new.status == "cancelled" != old.status:
                law(height < old.upgrade_at, "cancelled at XYZ or after")

    # --- 1 ---

    def _one_generation(self, now: Any, height: int) -> None:
        entries = now.entries
        law(
            [e.generation for e in entries] == list(range(len(entries))),
            "1: generations are not 0, 1, 2 …",
        )
        active = [e for e in entries if e.status == "active"]
        law(len(active) == 1, "1: not one generation is active", len(active))
        ahead = [e.upgrade_at for e in entries if e.status == "pending"]
        law(
            ahead == sorted(set(ahead)) and all(at > height for at in ahead),
            "1: entries overlap",
            ahead,
        )
        record = self.world.record(self.shard)
        law(
            (record.height, record.generation, record.schedule)
            == (height, active[0].generation, now.digest()),
            "1: the record says another thing",
        )
        self.ran[height] = active[0].generation
        frontier = self.confirmed[height - 1]
        for past, generation in self.ran.items():
            runs = config_at(now, past)
            if runs.generation == generation:
                continue
            rescued = (
                entries[generation].status == "void"
                and runs.recorded_at == height
                and runs.since <= past
                and past > frontier
            )
            law(
                rescued,
                "1: who ran a past block changed",
                past,
                generation,
                runs.generation,
            )
            self.ran[past] = runs.generation
        confirmed = self.confirmed[height]
        law(confirmed >= frontier, "1: the frontier went back")

    # --- 3 and 8 ---

    def live(self, code: bytes, height: int, held_at: int) -> bool:
        """Whether an entry that stands names a code and its notice has run."""
        schedule = self.seen[height]
        confirmed = self.confirmed[height]
        frontier = config_at(schedule, confirmed + 1).generation
        return any(
            code_of(e) == code
            and e.status not in DEAD
            and e.generation >= frontier
            and (e.release_from <= held_at or e.generation == frontier)
            for e in schedule.entries
        )

    def given(self, key: bytes, public: Any, held_at: int) -> None:
        """An instance got, made or holds the keys of an epoch after this block."""
        height = self.world.height
        law(
            self.live(self.codes[key], height, held_at),
            "3, 8: keys for a code that no standing entry names, or too early",
            height,
        )
        self.holds.setdefault(key, {}).setdefault(public, height)

    def _who_acknowledged(
        self, before: Any, now: Any, events: Any, height: int
    ) -> None:
        began = now.epochs[len(before.epochs) :]
        for epoch in began:
            said = set(before.staged.holders) if before.staged is not None else set()
            for event in events:
                if event.name in (
                    "enclave_bridge.KeysStaged",
                    "enclave_bridge.KeysHeld",
                ):
                    said |= {k for k in self.codes if k in event.data}
            counting = {key for key in said if self._good(key, now, epoch, height)}
            law(
                len(counting) >= now.rules.rotation_quorum,
                "8: an epoch began that too few eligible instances hold",
                len(counting),
            )
            for key, held in self.holds.items():
                names = [e for e in now.entries if code_of(e) == self.codes[key]]
                withdrawn = all(e.status in DEAD for e in names)
                law(
                    not (withdrawn and epoch.keys in held),
                    "8: a withdrawn code holds an epoch that begins",
                    epoch.epoch,
                )

    def _good(self, key: bytes, now: Any, epoch: Any, height: int) -> bool:
        """Registered, of the running code, above every floor, not lapsed."""
        record = self.world.read(EnclaveRecord, enclave_key(key))
        active = next(e for e in now.entries if e.status == "active")
        config, policy = active.config, active.config.attestation
        if record is None:
            return False
        oldest = max(
            height - policy.max_age_blocks,
            policy.not_before,
            now.status.not_before,
            epoch.not_before,
        )
        return (
            record.fingerprint == code_of(active)
            and record.isv_svn >= max(config.min_isv_svn, now.status.min_isv_svn)
            and record.attested_at >= oldest
            and not set(record.advisories) & set(now.status.rejected_advisories)
            and (not config.operators or record.operator in config.operators)
        )
