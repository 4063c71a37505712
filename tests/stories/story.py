"""What the stories share: an auction in business, and what must hold of it."""

from typing import Any

from sealift.base import decode
from sealift.frame import Runtime
from sealift.protocol import INVOKE, InvokeArgs, ScheduleEntry, Transaction
from sealift.testing import Release, UserCall, World, WorldWorker


class Story:
    """An auction that goes on while everything around it changes.

    In every block, whoever makes it, alice raises her bid by one and bob gives
    carol one token: a call that is lost, doubled or reordered breaks the row of
    nonces, and with it every later receipt.
    """

    def __init__(
        self,
        world: World,
        v1: Runtime,
        v2: Runtime,
        *,
        operators: tuple[str, ...] = (),
    ) -> None:
        self.world = world
        self.v1, self.v2 = v1, v2
        self.a: Release = world.release(v1)
        self.b: Release = world.release(v2)
        first = world.config(self.a, operators=operators)
        self.old: WorldWorker = world.begin(self.a, config=first)
        self.alice, self.bob, self.carol = (
            world.user(name) for name in ("alice", "bob", "carol")
        )
        self.calls: list[UserCall] = []
        self.seen_after: dict[int, int] = {}
        self.amount = 10
        self.given = 0
        self.opened = self.carol.call(
            "auction.open_lot", title="A clock", minimum=10, closes_at=5_000
        )
        world.block()
        self.flowing = True
        world.watchers.append(self._after_block)
        self.business(2)

    # --- what users do ---

    def business(self, blocks: int = 1) -> None:
        """So many blocks, with calls in each."""
        for _ in range(blocks):
            self.world.block()

    def business_until(self, height: int) -> None:
        """Business, until ``height`` is the last block."""
        while self.world.height < height:
            self.business()

    def settle(self, blocks: int = 4) -> None:
        """Blocks without calls, so that everything is executed and confirmed."""
        self.world.block()
        self.flowing = False
        for _ in range(blocks):
            self.world.block()
        self.flowing = True

    def _after_block(self, height: int) -> None:
        for number, call in enumerate(self.calls):
            if number not in self.seen_after and call.find_receipt() is not None:
                self.seen_after[number] = height - call.height
        if self.flowing:
            self.amount += 1
            self.given += 1
            self.calls += [
                self.alice.call("auction.bid", lot=0, amount=self.amount),
                self.bob.call("balances.transfer", dest=self.carol.account, amount=1),
            ]

    # --- the upgrade ---

    def schedule(self, release: Release | None = None, **options: Any) -> ScheduleEntry:
        """The authority schedules version 2."""
        return self.world.schedule(release or self.b, **options)

    def join(
        self,
        entry: ScheduleEntry,
        *,
        name: str = "new",
        release: Release | None = None,
        provider: WorldWorker | None = None,
    ) -> WorldWorker:
        """The new worker comes as early as it may, and gets the keys."""
        self.business_until(entry.release_from)
        new = self.world.worker(name, release or self.b, upstream=self.old)
        new.request_keys(provider or self.old)
        return new

    # --- what must hold ---

    def check_calls(self) -> None:
        """0 lost, 0 doubled, 0 reordered; and the state says the same."""
        for call in self.calls:
            receipt = call.receipt()
            assert receipt.outcome == "ok", (call.height, receipt)
            assert receipt.height == call.height
            assert receipt.index == self._place(call), "reordered"
            assert receipt.call_id == call.body.call_id()
        assert self.my_bid() == self.amount
        assert self.alice.ask("balances.free") == 1000 - self.amount
        assert self.bob.ask("balances.free") == 1000 - self.given
        assert self.carol.ask("balances.free") == 1000 + self.given

    def _place(self, call: UserCall) -> int:
        """Where a call stands among the sealed calls of its block."""
        block = self.world.chain.block(call.height).block
        bodies = [decode(Transaction, tx).body for tx in block.txs]
        sealed = [
            decode(InvokeArgs, body.args).ciphertext
            for body in bodies
            if body.call == INVOKE
        ]
        return sealed.index(call.envelope)

    def my_bid(self) -> int:
        """Alice's bid, in the layout of whichever version answers."""
        answer: Any = self.alice.ask("auction.my_bid", 0)
        return answer if isinstance(answer, int) else answer[2]

    def check_chain_of_roots(self) -> None:
        """Confirmations join without gap, overlap or fork, up to the frontier."""
        claims = sorted(
            (
                one.confirmation
                for worker in self.world.workers.values()
                for one in worker.signed
                if one.confirmation is not None
            ),
            key=lambda claim: claim.first,
        )
        roots = {claims[0].first - 1: claims[0].prev_root}
        for claim in claims:
            if claim.first - 1 in roots:
                assert roots[claim.first - 1] == claim.prev_root
            assert roots.setdefault(claim.last, claim.root) == claim.root
            runs = self.world.generation_at(claim.first)
            assert claim.generation == runs == self.world.generation_at(claim.last)
        frontier = self.world.frontier()
        assert roots[frontier.confirmed] == frontier.root

    def check_roots_agree(self) -> None:
        """Whoever executed a block came to the same root."""
        roots: dict[int, bytes] = {}
        for worker in self.world.workers.values():
            for height, root in worker.roots.items():
                assert roots.setdefault(height, root) == root, height


class History:
    """A finished handover: L1 as it was, and disks from before and after XYZ.

    Whoever replays it starts :meth:`World.clone` from one of the disks: the
    chain stands still, so every clone sees the same blocks.
    """

    def __init__(self, story: Story) -> None:
        self.story, self.world = story, story.world
        self.newborn = story.old.disk.copy()
        entry = story.schedule()
        self.xyz: int = entry.upgrade_at
        self.new = story.join(entry)
        self.with_keys = self.new.disk.copy()
        story.business_until(self.xyz - 2)
        self.old_before = story.old.disk.copy()
        self.new_before = self.new.disk.copy()
        story.business_until(self.xyz + 4)
        story.settle()
        self.old = story.old
        #: What an undisturbed worker came to, block by block.
        self.roots = {**story.old.roots, **self.new.roots}
        self.last: int = world_last(story)


def world_last(story: Story) -> int:
    """The last block that could be executed."""
    return story.world.height - 1
