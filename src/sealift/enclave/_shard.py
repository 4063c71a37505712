"""Everything one running enclave holds for its shard."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from sealift.base import (
    ChainId,
    Digest,
    Epoch,
    Fingerprint,
    Height,
    ShardId,
    StateRoot,
    UnixSeconds,
)
from sealift.crypto import Entropy, hpke_public
from sealift.crypto import HpkeSuite as Suite
from sealift.frame import PageStore
from sealift.protocol import (
    EntryStatus,
    PublishKeyStatement,
    Schedule,
    ScheduleEntry,
    ShardStatus,
)
from sealift.protocol.audit import BlockTask
from sealift.protocol.platform import IdentityReply
from sealift.relay import ChainRelay
from sealift.stf import Executor, Item, ShardBlock, ShieldedFunds, open_and_verify

from ._checkpoint import ResumePoint
from ._epochs import epoch_of, missing_epochs, taken_epochs
from ._errors import DivergedStateError, HaltedError, NoKeysError
from ._intake import Intake
from ._keystore import KeyStore
from ._platform import PlatformPort
from ._shadow import Shadow
from ._snapshot import Export
from ._state import ShardState
from ._view import ChainView, names

#: What a block holds for the shard: sealed envelopes, and deposits.
RawItem: TypeAlias = bytes | ShieldedFunds
#: So many confirmed roots are remembered, for checking older snapshots.
_MAX_PROVEN = 4096


@dataclass(slots=True, kw_only=True)
class WaitingBlock:
    """A verified block that may still have to be executed here.

    ``schedule`` is the one that its record names; its status holds in it.
    ``effects_done`` is what the record says of effects on L1.
    ``resume`` is where a restarted relay gets this block again. ``opened`` are
    its items once its calls were opened.
    """

    height: Height
    block_hash: Digest
    time: UnixSeconds
    raw: tuple[RawItem, ...]
    schedule: Schedule | None
    resume: ResumePoint
    opened: tuple[Item, ...] | None = None
    effects_done: Height | None = None

    @property
    def size(self) -> int:
        """Bytes of sealed calls, about."""
        return sum(len(item) for item in self.raw if isinstance(item, bytes))


def given_block(
    block: WaitingBlock | BlockTask,
    *,
    items: tuple[Item, ...],
    schedule: Schedule | None,
    code: Iterable[Fingerprint],
) -> ShardBlock:
    """A block as the executor is given it, in rehearsals and audits as for real."""
    return ShardBlock(
        height=block.height,
        block_hash=block.block_hash,
        time=block.time,
        items=items,
        status=ShardStatus() if schedule is None else schedule.status,
        schedule=schedule,
        code=frozenset(code),
        effects_done=block.effects_done,
    )


@dataclass(slots=True, kw_only=True)
class Birth:
    """Keys and genesis that this instance made and L1 has not yet shown."""

    statement: PublishKeyStatement
    state: ShardState


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """A migration that was tried on the copy, and the blocks after it (DESIGN §11.7).

    ``height`` is the copy's as it was; ``store`` what has become of it, until the
    verdict stands. ``waiting`` are the next blocks to execute in its shadow, of which
    ``blocks`` were. ``check`` names what failed; empty: nothing.
    """

    order: Digest
    upgrade_at: Height
    height: Height
    size: int
    store: PageStore | None
    check: str
    waiting: list[WaitingBlock] = field(default_factory=list)
    blocks: int = 0


@dataclass(slots=True, kw_only=True)
class Shard:
    """One shard in one enclave process; only the ECALLs' functions change it.

    Attributes:
        relay: Its head is the header after the last followed block, or one
            above that a refused import had already verified.
        point: Where the relay gets the block after the last followed one.
        queue: Verified blocks without gaps, ascending.
        genesis: A genesis blob that waits for schedule and keys to be followed.
        lost: Where blocks stopped being queued because there were too many.
        registration: Digest of the statement that this process had quoted last.
        confirmed: Roots that were proven confirmed above the state's height.
        proven: The newest roots that were proven confirmed, at any height.
        exporting: A snapshot that leaves.
        importing: A snapshot on its way in.
        checking: A snapshot that is only looked at.
        audited: Followed blocks that wait to be audited, ascending; ``None``: this
            is no auditor.
        shadow: The state's records as this code will have them from its block on.
        rehearsal: How that went on the copy, while that block is ahead.
    """

    chain_id: ChainId
    shard: ShardId
    me: IdentityReply
    platform: PlatformPort
    entropy: Entropy
    executor: Executor
    keys: KeyStore
    relay: ChainRelay
    point: ResumePoint
    view: ChainView
    state: ShardState | None = None
    birth: Birth | None = None
    genesis: bytes | None = None
    queue: list[WaitingBlock] = field(default_factory=list)
    lost: ResumePoint | None = None
    registration: Digest | None = None
    confirmed: dict[Height, bytes] = field(default_factory=dict)
    proven: dict[Height, StateRoot] = field(default_factory=dict)
    audited: list[WaitingBlock] | None = None
    exporting: Export | None = None
    importing: Intake | None = None
    checking: Intake | None = None
    shadow: Shadow | None = None
    rehearsal: Rehearsal | None = None

    def check_going(self) -> None:
        """Return unless the chain has forked.

        Raises:
            HaltedError: It has; nothing is done any more.
        """
        evidence = self.relay.evidence
        if evidence is not None:
            raise HaltedError(
                "this enclave has stopped: the chain has forked",
                got=f"a second signed block {evidence.conflicting.header.height}",
                hint="Both headers are kept as evidence.",
            )

    def remember(self, height: Height, root: StateRoot) -> None:
        """Note a root that is proven confirmed; the oldest are forgotten."""
        self.proven.pop(height, None)
        self.proven[height] = root
        if len(self.proven) > _MAX_PROVEN:
            del self.proven[next(iter(self.proven))]

    def is_mine(self, height: int) -> bool:
        """Whether the schedule, as proven now, has this code run ``height``."""
        return names(self.view.entry_at(height), self.me)

    def ahead(self) -> ScheduleEntry | None:
        """The entry by which this code is to run blocks above the state's, if any.

        It runs none of them yet that the state has.
        """
        schedule, state = self.view.schedule, self.state
        if schedule is None or state is None:
            return None
        live = (EntryStatus.PENDING, EntryStatus.ACTIVE)
        for entry in schedule.entries:
            if (
                entry.status in live
                and entry.since > state.height
                and names(entry, self.me)
            ):
                return entry
        return None

    def shielding_key(self) -> bytes | None:
        """The public key to seal to from the next block on, if its keys are held."""
        try:
            keys = self.keys.epoch(epoch_of(self.view.schedule, self.view.height + 1))
        except NoKeysError:
            return None
        return hpke_public(Suite.X25519, keys.shielding_secret)

    def missing(self, block: WaitingBlock) -> tuple[Epoch, ...]:
        """The key epochs without which a block can't be executed here."""
        return missing_epochs(self.keys, block.schedule, block.height)

    def sound_state(self) -> ShardState | None:
        """The state, if there is one.

        Raises:
            DivergedStateError: It is not what was confirmed.
        """
        if self.state is not None and self.state.diverged:
            raise DivergedStateError(
                self.state.diverged,
                hint="Import a snapshot of the confirmed state.",
            )
        return self.state

    def open_items(self, block: WaitingBlock) -> tuple[Item, ...]:
        """The items of a block: envelopes opened, in order; never raises for one.

        Taken are the calls of the epochs that the schedule proven for this block
        accepts; the caller has seen that none of them is :meth:`missing`.
        """
        opened = iter(
            open_and_verify(
                [item for item in block.raw if isinstance(item, bytes)],
                keys=self.keys.shielding_secrets,
                chain_id=self.chain_id,
                shard=self.shard,
                accepted=taken_epochs(block.schedule, block.height),
            )
        )
        return tuple(
            next(opened) if isinstance(item, bytes) else item for item in block.raw
        )

    def resume_point(self) -> ResumePoint:
        """Where a restarted relay misses nothing that this enclave still needs.

        A fork that was seen stays seen.
        """
        if self.queue:
            point = self.queue[0].resume
        else:
            point = self.point if self.lost is None else self.lost
        evidence = self.relay.evidence
        if evidence is None:
            return point
        relay = msgspec.structs.replace(point.relay, evidence=evidence)
        return msgspec.structs.replace(point, relay=relay)

    def needed_from(self) -> Height | None:
        """The lowest block that may still have to be executed here."""
        if self.state is not None:
            return Height(self.state.height + 1)
        if self.view.frontier is not None:
            return Height(self.view.frontier.confirmed + 1)
        return None
