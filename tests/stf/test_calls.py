"""What becomes of calls: executed, refused, copied, forgotten."""

from typing import Any


def test_a_transfer_moves_tokens_and_its_receipt_says_ok(world: Any) -> None:
    outcome = world.run(
        world.sealed(world.alice, "balances.transfer", dest=world.bob.id, amount=7)
    )
    receipt = outcome.receipts[0].receipt
    assert (receipt.outcome, receipt.height, receipt.index) == ("ok", 11, 0)
    assert world.free(world.alice) == 993
    assert world.free(world.bob) == 1007
    assert outcome.counts.succeeded == 1
