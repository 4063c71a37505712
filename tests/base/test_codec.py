"""The codec: one value, one encoding; any bytes, a value or one of our errors."""

import contextlib
from typing import Any, NewType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import (
    MAX_MESSAGE_BYTES,
    AccountId,
    Amount,
    DecodeError,
    Height,
    Message,
    NonCanonicalError,
    SealiftError,
    TooLargeError,
    canonical_decode,
    decode,
    encode,
    parse_hex,
    short,
)

MODEST = settings(max_examples=150, deadline=None)


class Inner(Message):
    name: str
    flag: bool = False


class Outer(Message):
    account: AccountId
    height: Height
    inner: Inner
    table: dict[str, int] = msgspec.field(default_factory=dict)
    parts: tuple[bytes, ...] = ()
    nothing: bytes | None = None


class Longer(Message, tag="Inner"):
    """A later version of ``Inner`` with an appended field."""

    name: str
    flag: bool = False
    added: int = 7


outers = st.builds(
    Outer,
    account=st.binary(min_size=32, max_size=32),
    height=st.integers(0, 2**63 - 1),
    inner=st.builds(Inner, name=st.text(max_size=8), flag=st.booleans()),
    table=st.dictionaries(st.text(max_size=5), st.integers(-5, 2**63 - 1), max_size=5),
    parts=st.lists(st.binary(max_size=5), max_size=3).map(tuple),
    nothing=st.none() | st.binary(max_size=5),
)


@MODEST
@given(value=outers)
def test_round_trip(value: Outer) -> None:
    data = encode(value)
    assert decode(Outer, data) == value
    assert canonical_decode(Outer, data) == value


@MODEST
@given(value=outers, seed=st.randoms(use_true_random=False))
def test_the_order_in_which_a_map_was_filled_does_not_show(
    value: Outer, seed: Any
) -> None:
    items = list(value.table.items())
    seed.shuffle(items)
    assert encode(msgspec.structs.replace(value, table=dict(items))) == encode(value)


# --- other encodings of the same value ---


def wide_integer(value: int) -> bytes:
    return b"\xd3" + value.to_bytes(8, "big", signed=True)


def wide_bytes(value: bytes) -> bytes:
    return b"\xc6" + len(value).to_bytes(4, "big") + value


def wide_text(value: str) -> bytes:
    raw = value.encode()
    return b"\xdb" + len(raw).to_bytes(4, "big") + raw


def wide_list(*items: bytes) -> bytes:
    return b"\xdd" + len(items).to_bytes(4, "big") + b"".join(items)


def wide_map(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"\xdf" + len(pairs).to_bytes(4, "big") + b"".join(k + v for k, v in pairs)


def variant(value: Any, draw: Any) -> bytes:
    """Some MessagePack encoding of ``value``, not always the shortest."""
    wide = draw(st.booleans())
    if value is None or isinstance(value, bool):
        return encode(value)
    if isinstance(value, int):
        return wide_integer(value) if wide else encode(value)
    if isinstance(value, bytes):
        return wide_bytes(value) if wide else encode(value)
    if isinstance(value, str):
        return wide_text(value) if wide else encode(value)
    if isinstance(value, dict):
        pairs = draw(st.permutations(list(value.items())))
        parts = [(variant(k, draw), variant(v, draw)) for k, v in pairs]
        if wide:
            return wide_map(*parts)
        return bytes([0x80 | len(parts)]) + b"".join(k + v for k, v in parts)
    items = [variant(each, draw) for each in value]
    return wide_list(*items) if wide else bytes([0x90 | len(items)]) + b"".join(items)


@MODEST
@given(value=outers, data=st.data())
def test_every_other_encoding_of_the_same_value_is_refused(
    value: Outer, data: Any
) -> None:
    raw = msgspec.msgpack.decode(encode(value))
    other = variant(raw, data.draw)
    assert decode(Outer, other) == value  # the same value …
    if other == encode(value):
        assert canonical_decode(Outer, other) == value
    else:
        with pytest.raises(NonCanonicalError):  # … under another signature
            canonical_decode(Outer, other)


def test_a_doubled_map_key_is_refused() -> None:
    value = Outer(account=b"a" * 32, height=1, inner=Inner(name=""), table={"k": 2})
    raw = encode(value)
    doubled = raw.replace(b"\x81\xa1k\x02", b"\x82\xa1k\x01\xa1k\x02")
    assert doubled != raw
    with pytest.raises(NonCanonicalError):
        canonical_decode(Outer, doubled)


def test_appended_fields_are_ignored_by_carriers_and_refused_by_signers() -> None:
    later = encode(Longer(name="n", flag=True, added=1))
    assert decode(Inner, later) == Inner(name="n", flag=True)
    with pytest.raises(NonCanonicalError):
        canonical_decode(Inner, later)


def test_a_left_out_default_is_not_canonical() -> None:
    earlier = msgspec.msgpack.encode(["Inner", "n"])
    assert decode(Inner, earlier) == Inner(name="n")
    with pytest.raises(NonCanonicalError):
        canonical_decode(Inner, earlier)


def test_bytes_after_the_value_are_refused() -> None:
    with pytest.raises(DecodeError):
        decode(Inner, encode(Inner(name="n")) + b"\x00")


def test_a_message_says_what_it_is() -> None:
    class Other(Message):
        name: str
        flag: bool = False

    with pytest.raises(DecodeError):
        decode(Inner, encode(Other(name="n")))


@pytest.mark.parametrize(
    "values",
    [
        {"account": b"a" * 31},
        {"account": b"a" * 33},
        {"height": -1},
        {"height": 2**63},
        {"height": 1.0},
        {"height": "1"},
        {"height": True},
        {"inner": None},
    ],
)
def test_fields_outside_their_limits_are_refused(values: dict[str, Any]) -> None:
    fields = {"account": b"a" * 32, "height": 1, "inner": ["Inner", "n", False]}
    with pytest.raises(DecodeError):
        decode(Outer, msgspec.msgpack.encode(["Outer", *(fields | values).values()]))


@MODEST
@given(data=st.binary(max_size=200))
@pytest.mark.parametrize("kind", [Outer, Inner, int, bytes, dict[str, int], Amount])
def test_any_bytes_give_a_value_or_an_error(kind: Any, data: bytes) -> None:
    for parse in (decode, canonical_decode):
        with contextlib.suppress(SealiftError):
            parse(kind, data)


@MODEST
@given(value=outers, at=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_changed_byte_gives_another_value_or_an_error(
    value: Outer, at: int, byte: int
) -> None:
    raw = bytearray(encode(value))
    raw[at % len(raw)] = byte
    changed = bytes(raw)
    try:
        got = canonical_decode(Outer, changed)
    except SealiftError:
        return
    assert (got == value) == (changed == encode(value))


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    with pytest.raises(DecodeError):
        decode(Outer, b"\x91" * 100_000)
    with pytest.raises(DecodeError):
        decode(list, b"\x91" * 100_000 + b"\x00")


def test_a_length_that_lies_is_an_error_and_takes_no_memory() -> None:
    for head in (b"\xdd", b"\xdf", b"\xc6", b"\xdb"):
        with pytest.raises(DecodeError):
            decode(object, head + b"\xff\xff\xff\xff")


def test_text_that_is_no_text() -> None:
    with pytest.raises(DecodeError):
        decode(Inner, b"\x92\xa5Inner\xa2\xff\xfe")


def test_size_limits() -> None:
    data = encode(Inner(name="n" * 50))
    assert decode(Inner, data, limit=len(data))
    with pytest.raises(TooLargeError):
        decode(Inner, data, limit=len(data) - 1)
    with pytest.raises(TooLargeError):
        canonical_decode(Inner, data, limit=len(data) - 1)
    with pytest.raises(TooLargeError):
        decode(bytes, encode(bytes(MAX_MESSAGE_BYTES)))


def test_a_message_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Inner(name="n").name = "m"  # type: ignore[misc]


def test_new_types_do_not_hide_limits() -> None:
    kind = NewType("kind", AccountId)  # type: ignore[valid-newtype]
    with pytest.raises(DecodeError):
        decode(kind, encode(b"short"))


# --- hex ---


@given(data=st.binary(min_size=32, max_size=32))
def test_hex_round_trip(data: bytes) -> None:
    assert parse_hex(data.hex()) == data
    assert parse_hex("0x" + data.hex().upper()) == data


@given(data=st.binary(max_size=40))
def test_hex_of_any_length(data: bytes) -> None:
    assert parse_hex(data.hex(), length=None) == data


@pytest.mark.parametrize(
    "text", ["", "0x", "ab", "g" * 64, "ab" * 33, "0x0x" + "a" * 64]
)
def test_hex_that_is_none(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_hex(text)


@given(text=st.text(max_size=70))
def test_any_text_gives_bytes_or_an_error(text: str) -> None:
    try:
        value = parse_hex(text)
    except SealiftError:
        return
    assert len(value) == 32


def test_a_short_name_for_people() -> None:
    assert short(bytes(range(32))) == "00010203…"
