"""Following the chain: a block is verified, and waits if it may be mine."""

from typing import Final

from sealift.base import (
    DecodeError,
    Height,
    ShardId,
    UnixSeconds,
    canonical_decode,
    decode,
)
from sealift.protocol import (
    INVOKE,
    SHIELD_FUNDS,
    InvokeArgs,
    ShieldFundsArgs,
    Transaction,
)
from sealift.protocol.ecall import MAX_FRAME_BYTES, Followed, ImportBlock
from sealift.relay import LightBlock, TxResult, VerifiedBlock, verify_block
from sealift.stf import ShieldedFunds

from ._birth import settle_birth
from ._checkpoint import ResumePoint, seal_checkpoint
from ._epochs import settle_epochs
from ._errors import RepeatedBlockError, SkippedBlockError
from ._judge import judge_state, prune
from ._rehearse import keep_shadow, note_block
from ._shard import RawItem, Shard, WaitingBlock
from ._view import follow_view, verify_proofs

#: More blocks than this do not wait; the host restarts from the checkpoint.
MAX_WAITING_BLOCKS: Final = 4096
#: Nor more bytes of sealed calls.
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024


def import_block(shard: Shard, request: ImportBlock) -> Followed:
    """Verify block *h* by header *h*+1 (DESIGN §10.1-§10.4).

    1. Headers *h* and *h*+1 are verified, and *h* is the block that comes next.
    2. All transactions of *h* against its data hash, their results against
       ``last_results_hash`` of *h*+1.
    3. The schedule record for *h* against the state after *h*.
    4. If ``config_at(h)`` is not my generation, I only follow: the block waits
       at most for a rescue.

    Raises:
        HaltedError: The chain has forked.
        SkippedBlockError: 1: a later block.
        RepeatedBlockError: 1: an earlier block.
        ForkDetectedError: 1: two signed blocks; the enclave stops for good.
        SealiftError: As the steps' functions; nothing has changed.
    """
    shard.check_going()
    light = decode(LightBlock, request.light_block, limit=MAX_FRAME_BYTES)
    results = [decode(TxResult, raw) for raw in request.results]
    # 1.
    height = Height(shard.view.height + 1)
    if light.header.height > height + 1:
        raise SkippedBlockError(
            "a block is left out", got=light.header.height - 1, expected=height
        )
    if light.header.height < height + 1:
        shard.relay.advance(light, now=None)
        raise RepeatedBlockError(
            "this block was followed already",
            got=light.header.height - 1,
            expected=height,
        )
    next_header = shard.relay.advance(light, now=None)
    header = shard.relay.header_at(height)
    # 2.
    block = verify_block(header, next_header, request.txs, results)
    # 3.
    values = verify_proofs(next_header, request.proofs)
    time = UnixSeconds(header.time.seconds)
    view = follow_view(
        shard.view, height, time, values, chain_id=shard.chain_id, shard=shard.shard
    )
    raw = shard_items(block, shard.shard)
    # all is verified; from here on nothing refuses
    waiting = WaitingBlock(
        height=height,
        block_hash=header.hash,
        time=time,
        raw=raw,
        schedule=view.schedule,
        resume=shard.point,
        effects_done=None if view.record is None else view.record.effects_done,
    )
    shard.view = view
    shard.point = ResumePoint(relay=shard.relay.checkpoint(), view=view)
    settle_birth(shard)
    shard.keys = settle_epochs(shard.keys, view.schedule)
    judge_state(shard)
    # 4.
    enqueue(shard, waiting)
    note_block(shard, waiting)
    keep_shadow(shard)
    mine = shard.is_mine(height)
    waits = bool(shard.queue) and shard.queue[-1] is waiting
    if mine and waits and not shard.missing(waiting):
        waiting.opened = shard.open_items(waiting)
    return Followed(
        height=height,
        runs=None if view.record is None else view.record.generation,
        mine=mine,
        waiting=len(shard.queue),
        checkpoint=seal_checkpoint(shard.keys, shard.resume_point()),
    )


def shard_items(block: VerifiedBlock, shard: ShardId) -> tuple[RawItem, ...]:
    """What a verified block holds for a shard, in order.

    Only transactions that succeeded on L1 count, and of these only top-level
    calls of this shard in their one canonical encoding.
    """
    items: list[RawItem] = []
    for tx, result in block.txs:
        if result.code != 0:
            continue
        item = _item(tx, shard)
        if item is not None:
            items.append(item)
    return tuple(items)


def _item(tx: bytes, shard: ShardId) -> RawItem | None:
    try:
        body = canonical_decode(Transaction, tx).body
        if body.call == INVOKE:
            invoke = canonical_decode(InvokeArgs, body.args)
            return invoke.ciphertext if invoke.shard == shard else None
        if body.call == SHIELD_FUNDS:
            funds = canonical_decode(ShieldFundsArgs, body.args)
            if funds.shard != shard:
                return None
            return ShieldedFunds(beneficiary=funds.beneficiary, amount=funds.amount)
    except DecodeError:
        return None
    return None


def enqueue(shard: Shard, waiting: WaitingBlock) -> None:
    """Keep a block that may still have to be executed here; forget others.

    Kept are blocks above the state, or above the frontier while there is no
    state: also those of other generations, since a rescue may give them to me. An
    auditor keeps all and executes none.
    """
    if shard.audited is not None:
        shard.audited.append(waiting)
        return
    needed = shard.needed_from()
    if needed is not None and waiting.height >= needed:
        if shard.lost is not None and not shard.queue and waiting.height == needed:
            shard.lost = None
        size = sum(block.size for block in shard.queue) + waiting.size
        full = len(shard.queue) >= MAX_WAITING_BLOCKS or size > MAX_WAITING_BYTES
        if shard.lost is None and full:
            shard.lost = waiting.resume
        if shard.lost is None:
            shard.queue.append(waiting)
    prune(shard)
