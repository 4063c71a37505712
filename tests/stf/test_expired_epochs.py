"""Calls and reads sealed to keys whose time is over, or not yet come."""

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealift.base import InvariantError, encode
from sealift.crypto import HpkeSuite, hpke_generate, hpke_seal
from sealift.protocol import (
    Envelope,
    Getter,
    GetterBody,
    TrustedCall,
    call_info,
    seal_message,
)
from sealift.stf import (
    KeyEpochExpiredError,
    OpenedCall,
    RefusedCall,
    UnknownEpochError,
    open_and_verify,
    open_and_verify_getter,
)

PLACE: dict[str, Any] = {"chain_id": "test-chain", "shard": b"s" * 32}
PAIRS = [
    hpke_generate(HpkeSuite.X25519, lambda size, n=n: bytes([n + 1]) * size)
    for n in range(5)
]
SECRETS = {epoch: pair.secret for epoch, pair in enumerate(PAIRS)}


def sealed(world: Any, epoch: int, *, forged: bool = False, **fields: Any) -> bytes:
    body = world.body(
        world.alice, "balances.transfer", dest=world.bob.id, amount=1, **fields
    )
    secret = (world.bob if forged else world.alice).secret
    call = TrustedCall(body=body, signature=body.sign(secret))
    return encode(seal_message(call, shielding_key=PAIRS[epoch].public, epoch=epoch))


def opened(
    raw: bytes, accepted: Collection[int] | None, held: Collection[int] = range(5)
) -> OpenedCall | RefusedCall:
    keys = {epoch: SECRETS[epoch] for epoch in held}
    (item,) = open_and_verify([raw], keys=keys, accepted=accepted, **PLACE)
    return item


def getter(world: Any, epoch: int) -> bytes:
    body = GetterBody(
        signer=world.alice.id,
        getter="balances.free",
        args=b"\x90",
        min_height=0,
        valid_until=20,
        reply_key=b"g" * 32,
        **PLACE,
    )
    message = Getter(body=body, signature=body.sign(world.alice.secret))
    return encode(seal_message(message, shielding_key=PAIRS[epoch].public, epoch=epoch))


def test_a_call_under_an_expired_epoch_is_refused_by_name_and_told(world: Any) -> None:
    raw = sealed(world, 0)
    item = opened(raw, {1})
    assert isinstance(item, RefusedCall)
    assert item.code == KeyEpochExpiredError.code
    assert item.message == "sealed to key epoch 0; the current one is 1"
    assert item.reply_key == b"r" * 32
    outcome = world.run(item)
    assert outcome.receipts[0].receipt.outcome == "KeyEpochExpiredError"
    assert outcome.changes.keys() <= {b"timestamp/last/"}
    assert world.pallet("system").account(world.context(), world.alice.id).nonce == 0


def test_within_the_grace_both_epochs_are_taken(world: Any) -> None:
    for epoch in (2, 3):
        item = opened(sealed(world, epoch), (2, 3))
        assert isinstance(item, OpenedCall)
    item = opened(sealed(world, 1), (2, 3))
    assert isinstance(item, RefusedCall)
    assert item.message == "sealed to key epoch 1; the current one is 3"


def test_a_staged_epoch_is_unknown_although_its_key_is_held(world: Any) -> None:
    item = opened(sealed(world, 4), {3})
    assert isinstance(item, RefusedCall)
    assert (item.code, item.reply_key) == (UnknownEpochError.code, None)


def test_before_the_birth_no_epoch_is_taken(world: Any) -> None:
    item = opened(sealed(world, 0), ())
    assert isinstance(item, RefusedCall)
    assert item.code == UnknownEpochError.code


@pytest.mark.parametrize(
    "change", [{"forged": True}, {"shard": b"x" * 32}, {"chain_id": "other"}]
)
def test_an_expired_epoch_comes_before_every_other_reason(
    world: Any, change: dict[str, Any]
) -> None:
    item = opened(sealed(world, 0, **change), {1})
    assert isinstance(item, RefusedCall)
    assert item.code == KeyEpochExpiredError.code


def test_what_does_not_even_open_under_an_expired_epoch_has_nobody_to_tell(
    world: Any,
) -> None:
    body = world.body(world.alice, "balances.transfer", dest=world.bob.id, amount=1)
    call = TrustedCall(body=body, signature=body.sign(world.alice.secret))
    for epoch, key in ((0, 1), (2, 0)):
        raw = encode(seal_message(call, shielding_key=PAIRS[key].public, epoch=epoch))
        item = opened(raw, {3})
        assert isinstance(item, RefusedCall)
        assert (item.code, item.reply_key) == (KeyEpochExpiredError.code, None)


def test_what_is_no_call_under_an_expired_epoch_has_nobody_to_tell() -> None:
    """It opens, and is unreadable: that its epoch is over comes first all the same."""
    info = call_info("TrustedCall", PLACE["chain_id"], PLACE["shard"], 0)
    sealed = hpke_seal(HpkeSuite.X25519, PAIRS[0].public, b"no call", info=info)
    item = opened(encode(Envelope(epoch=0, ciphertext=sealed)), {1})
    assert isinstance(item, RefusedCall)
    assert (item.code, item.reply_key) == (KeyEpochExpiredError.code, None)
    assert item.call_id == item.envelope


def test_without_the_key_of_an_accepted_epoch_nothing_is_decided(world: Any) -> None:
    """An instance that lacks it would part from the others without knowing."""
    with pytest.raises(InvariantError):
        opened(sealed(world, 0), {0, 1}, held=(0,))
    with pytest.raises(InvariantError):
        open_and_verify_getter(
            getter(world, 0), keys={0: SECRETS[0]}, accepted=(0, 1), **PLACE
        )


def test_by_default_every_held_epoch_is_taken(world: Any) -> None:
    assert isinstance(opened(sealed(world, 1), None, held=(1, 3)), OpenedCall)
    item = opened(sealed(world, 2), None, held=(1, 3))
    assert isinstance(item, RefusedCall)
    assert item.code == UnknownEpochError.code


@given(
    epoch=st.integers(0, 4),
    accepted=st.sets(st.integers(0, 4), max_size=2),
    more=st.sets(st.integers(0, 4)),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_which_other_keys_are_held_decides_nothing(
    world: Any, epoch: int, accepted: set[int], more: set[int]
) -> None:
    raw = sealed(world, epoch, nonce=0)
    items = [opened(raw, accepted, held) for held in (accepted, accepted | more)]
    assert type(items[0]) is type(items[1])
    if isinstance(items[0], RefusedCall) and isinstance(items[1], RefusedCall):
        assert items[0].code == items[1].code
        assert items[0].message == items[1].message
    assert isinstance(items[0], OpenedCall) == (epoch in accepted)


def test_reads_are_refused_by_the_same_names(world: Any) -> None:
    def ask(epoch: int, accepted: Collection[int]) -> Any:
        return open_and_verify_getter(
            getter(world, epoch), keys=SECRETS, accepted=accepted, **PLACE
        )

    with pytest.raises(KeyEpochExpiredError, match="epoch 0; the current one is 2"):
        ask(0, (1, 2))
    with pytest.raises(UnknownEpochError):
        ask(3, (1, 2))
    assert ask(1, (1, 2)).reader == ask(2, (1, 2)).reader == world.alice.id


def test_a_call_relabelled_to_the_current_epoch_still_does_not_open(
    world: Any,
) -> None:
    old = msgspec.msgpack.decode(sealed(world, 0))
    item = opened(encode([old[0], 1, old[2]]), {1})
    assert isinstance(item, RefusedCall)
    assert item.code == "HpkeError"
