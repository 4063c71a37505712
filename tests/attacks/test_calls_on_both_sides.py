"""What L1 takes as a call of a shard, its enclaves take as one, and nothing else."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import encode
from sealift.enclave._follow import _item
from sealift.frame import CallArgumentsError
from sealift.ledger._transactions import _runtime
from sealift.protocol import (
    INVOKE,
    SHIELD_FUNDS,
    Transaction,
    TransactionBody,
)

SHARD = b"S" * 32
HONEST = {
    INVOKE: [SHARD, b"ciphertext"],
    SHIELD_FUNDS: [SHARD, b"b" * 32, 7],
}

odd = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.just(SHARD),
    st.lists(st.integers(-9, 9), max_size=2),
)


def taken_by_l1(name: str, args: bytes) -> bool:
    bound = _runtime()._calls[name]
    try:
        given = bound.arguments(args)
    except CallArgumentsError:
        return False
    return given["shard"] == SHARD


def taken_by_enclaves(name: str, args: bytes) -> bool:
    body = TransactionBody(
        chain_id="c",
        signer=b"s" * 32,
        nonce=0,
        call=name,
        args=args,
        valid_until=9,
    )
    tx = encode(Transaction(body=body, signature=bytes(64)))
    return _item(tx, SHARD) is not None


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(HONEST)),
    change=st.lists(st.tuples(st.integers(0, 3), odd), max_size=2),
    cut=st.integers(0, 4),
    header=st.sampled_from([None, b"\xdc\x00\x02", b"\xdc\x00\x03"]),
    noise=st.binary(max_size=3),
)
def test_funds_that_l1_moved_never_miss_the_shard(
    name: str,
    change: list[tuple[int, object]],
    cut: int,
    header: bytes | None,
    noise: bytes,
) -> None:
    """A second encoding that one side takes and the other leaves would be a call
    that the host, or its author, can have skipped.
    """
    values: list[object] = list(HONEST[name])
    for at, value in change:
        values[at : at + 1] = [value]
    args = msgspec.msgpack.encode(values[: cut or None])
    if header is not None:
        args = header + args[1:]
    args += noise
    assert taken_by_l1(name, args) == taken_by_enclaves(name, args)


def test_honest_calls_are_taken_by_both() -> None:
    for name, values in HONEST.items():
        args = encode(values)
        assert taken_by_l1(name, args)
        assert taken_by_enclaves(name, args)
