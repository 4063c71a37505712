"""Attacks on a schedule, each by its name; those that other files don't have."""

from typing import Any

import msgspec
import pytest

from sealift.ledger import ledger_call, transaction
from sealift.ledger._errors import (
    CertificateError,
    NotRegisteredError,
    OrderSignatureError,
)
from sealift.protocol import AttestationPolicy, NoGenerationError, SudoAuthority


def test_a_joining_old_worker_resets_no_pending_upgrade(world: Any) -> None:
    """Neither one that comes anew, nor one that is attested again."""
    one, other = world.instance("one"), world.instance("other")
    shard = world.born_shard(one)
    world.upgrade(shard)
    before = world.schedule(shard)
    world.register(shard, other)
    world.register(shard, one)
    assert world.schedule(shard) == before


def test_an_authority_change_smuggled_into_an_upgrade(world: Any) -> None:
    """An upgrade has no place for rules, and bytes behind it are refused."""
    shard = world.born_shard(world.instance("one"))
    before = world.schedule(shard)
    order = world.upgrade_order(
        shard, release_from=world.next + 9, upgrade_at=world.next + 10
    )
    signed = world.signed(order, by="authority")
    rules = msgspec.structs.replace(
        before.rules, authority=SudoAuthority(key=world.account("bob"))
    )
    honest = ledger_call("enclave_bridge.submit_order", order=signed)
    args = msgspec.msgpack.decode(honest.args)
    (fields,) = args
    encoded = next(one for one in fields if isinstance(one, list))
    encoded.append(msgspec.msgpack.decode(msgspec.msgpack.encode(rules)))
    smuggled = msgspec.structs.replace(honest, args=msgspec.msgpack.encode(args))
    for call, taken in ((smuggled, False), (honest, True)):
        tx = transaction(
            world.secrets["bob"],
            chain_id="test-chain",
            nonce=world.nonce("bob"),
            valid_until=world.height + 100,
            call=call,
        )
        (result,) = world.block(tx)
        assert result.ok is taken, result.log
        assert world.schedule(shard).rules == before.rules


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_policy_loosened_by_a_non_authority(world: Any, who: str) -> None:
    one = world.instance("one", operator="alice")
    shard = world.born_shard(one)
    before = world.schedule(shard)
    loose = AttestationPolicy(accepted_tcb_statuses=("UpToDate", "OutOfDate"))
    config = msgspec.structs.replace(before.entries[0].config, attestation=loose)
    order = world.upgrade_order(shard, config=config)
    with pytest.raises(OrderSignatureError):
        world.submit(order, signed_by=who)
    assert world.schedule(shard) == before


def test_a_withdrawn_enclave_signs_another_successor(world: Any) -> None:
    """What ran until XYZ hands the state to what the schedule says, and once."""
    old, new = world.instance("old"), world.instance("new", world.CODE_B)
    shard = world.born_shard(old)
    xyz = world.upgrade(shard, code=world.CODE_B)
    world.register(shard, new)
    world.blocks_until(xyz)
    world.confirm(shard, old, xyz - 1, generation=0)
    handed = {"height": xyz - 1, "root": world.root(xyz - 1)}
    for successor, refusal in ((2, NoGenerationError), (0, CertificateError)):
        with pytest.raises(refusal):
            world.post_certificate(shard, old, successor=successor, **handed)
    world.post_certificate(shard, old, **handed)
    world.confirm(shard, new, xyz, generation=1)
    with pytest.raises((CertificateError, NotRegisteredError)):
        world.post_certificate(shard, old, **handed)
