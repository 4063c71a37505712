"""``system``: accounts, nonces, and receipts remembered against copies."""

from collections.abc import Iterable

from sealift.base import AccountId, CallId, Height, Message, Nonce
from sealift.frame import Context, Pallet, StorageMap, StorageValue

from ._accounts import Account
from ._getters import getter

#: Most receipts that are forgotten in one block; more than a block adds.
MAX_FORGOTTEN = 20_000


class RememberedReceipt(Message, kw_only=True, tag=False):
    """What a copy of an executed call is told: the first one's receipt."""

    signer: AccountId
    height: Height
    index: int
    outcome: str


class ExecutedCall(Message, kw_only=True, tag=False):
    """A call that consumed its nonce in this block."""

    call_id: CallId
    valid_until: Height
    receipt: RememberedReceipt


class _Bucket(Message, kw_only=True, tag=False):
    """How many chunks of receipts may be forgotten after a height."""

    valid_until: Height
    chunks: int


class System(Pallet):
    """Accounts and the guard against replay.

    A receipt is remembered until the last block in which its call is valid
    has passed. Receipts lie in chunks, one for every block and ``valid_until``;
    ``pending`` says how many chunks of which ``valid_until`` there are, so that
    forgetting never searches the state.
    """

    name = "system"
    storage_version = 1

    accounts: StorageMap[AccountId, Account] = StorageMap(
        "accounts", key=AccountId, value=Account, default=Account()
    )
    receipts: StorageMap[CallId, RememberedReceipt] = StorageMap(
        "receipts", key=CallId, value=RememberedReceipt
    )
    chunks: StorageMap[tuple[Height, int], tuple[CallId, ...]] = StorageMap(
        "chunks", key=tuple[Height, int], value=tuple[CallId, ...], default=()
    )
    pending: StorageValue[tuple[_Bucket, ...]] = StorageValue(
        "pending", tuple[_Bucket, ...], default=()
    )

    def account(self, ctx: Context, who: AccountId) -> Account:
        """The record of an account; all zero if there is none."""
        return self.accounts.get(ctx, who)

    def put_account(self, ctx: Context, who: AccountId, account: Account) -> None:
        """Write the record of an account."""
        self.accounts.put(ctx, who, account)

    def all_accounts(self, ctx: Context) -> list[tuple[AccountId, Account]]:
        """Every account, in order; reads the whole state."""
        return self.accounts.items(ctx)

    def remembered(self, ctx: Context, call_id: CallId) -> RememberedReceipt | None:
        """The receipt of a call that was executed and may still be copied."""
        return self.receipts.find(ctx, call_id)

    def remember(self, ctx: Context, executed: Iterable[ExecutedCall]) -> None:
        """Keep the receipts of one block; called once, at its end."""
        by_expiry: dict[Height, list[CallId]] = {}
        for call in executed:
            self.receipts.put(ctx, call.call_id, call.receipt)
            by_expiry.setdefault(call.valid_until, []).append(call.call_id)
        if not by_expiry:
            return
        pending = self._get_pending(ctx)
        for valid_until, call_ids in by_expiry.items():
            number = pending.get(valid_until, 0)
            self.chunks.put(ctx, (valid_until, number), tuple(call_ids))
            pending[valid_until] = number + 1
        self._put_pending(ctx, pending)

    def on_finalize(self, ctx: Context) -> None:
        """Forget receipts whose calls are no longer valid in the next block."""
        budget = MAX_FORGOTTEN
        pending = self._get_pending(ctx)
        passed = sorted(height for height in pending if height <= ctx.block.height)
        for valid_until in passed:
            while pending[valid_until] and budget > 0:
                pending[valid_until] -= 1
                place = (valid_until, pending[valid_until])
                call_ids = self.chunks.get(ctx, place)
                for call_id in call_ids:
                    self.receipts.delete(ctx, call_id)
                self.chunks.delete(ctx, place)
                budget -= len(call_ids)
            if not pending[valid_until]:
                del pending[valid_until]
        if passed:
            self._put_pending(ctx, pending)

    def _get_pending(self, ctx: Context) -> dict[Height, int]:
        return {bucket.valid_until: bucket.chunks for bucket in self.pending.get(ctx)}

    def _put_pending(self, ctx: Context, pending: dict[Height, int]) -> None:
        self.pending.put(
            ctx,
            tuple(
                _Bucket(valid_until=valid_until, chunks=chunks)
                for valid_until, chunks in sorted(pending.items())
            ),
        )

    @getter(public=False)
    def nonce(self, ctx: Context, reader: AccountId) -> Nonce:
        """The nonce that the reader's next call must have."""
        return self.accounts.get(ctx, reader).nonce

    @getter(public=False)
    def receipt(
        self, ctx: Context, reader: AccountId, *, call_id: CallId
    ) -> RememberedReceipt | None:
        """What became of one of the reader's own calls, while it is remembered."""
        found = self.receipts.find(ctx, call_id)
        return found if found is not None and found.signer == reader else None
