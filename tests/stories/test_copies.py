"""Copies of a call: no second effect, and an answer from whoever executes them.

Found by ``sealift chaos`` (seed 17): a call of the old generation whose copy stood
behind XYZ. The new worker, which never had the first receipt, gave one for the copy
that named the first one's block, and opened by the hash of no block that it named.
"""

from story import Story


def test_a_copy_behind_xyz_is_answered_by_who_has_nothing_but_the_copy(
    story: Story,
) -> None:
    entry = story.schedule()
    new = story.join(entry)
    call = story.alice.call("auction.bid", lot=0, amount=story.amount + 1)
    story.flowing = False
    story.world.run_until(entry.upgrade_at + 1)
    first = call.receipt()
    assert first.outcome == "ok"
    assert first.height < entry.upgrade_at
    copy = story.alice.again(call)
    story.world.blocks(3)
    assert copy.height > entry.upgrade_at
    story.old.disk.receipts.clear()  # its host is gone
    told = copy.receipt()
    assert told.call_id == first.call_id
    assert (told.height, told.index, told.outcome) == (
        first.height,
        first.index,
        "ok",
    )
    assert new.disk.receipts
