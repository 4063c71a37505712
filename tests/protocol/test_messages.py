"""Every message of the protocol: round trips, totality, domains, the ECALL table."""

import contextlib
import importlib
import inspect
import pkgutil
import typing
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sealift.protocol
from sealift.base import DecodeError, Message, SealiftError, TooLargeError, encode
from sealift.base import canonical_decode as canonical
from sealift.base import decode as carried
from sealift.crypto import SignatureInvalidError, account_of, sha256, verify_statement
from sealift.protocol import (
    MuRaMessage,
    Statement,
    collateral_key,
    enclave_key,
    frontier_key,
    key_commitment,
    keys_key,
    parse_statement,
    schedule_key,
)
from sealift.protocol.ecall import ECALLS, MAX_FRAME_BYTES, Refused, Reply, Request
from sealift.protocol.platform import (
    MAX_PLATFORM_FRAME_BYTES,
    IdentityReply,
    PlatformReply,
    PlatformRequest,
    QuoteRequest,
    parse_platform_reply,
    parse_platform_request,
)

MODEST = settings(max_examples=12, deadline=None)


def all_messages() -> list[type[Message]]:
    found: list[type[Message]] = []
    for info in pkgutil.walk_packages(sealift.protocol.__path__, "sealift.protocol."):
        module = importlib.import_module(info.name)
        found += [
            thing
            for _, thing in inspect.getmembers(module, inspect.isclass)
            if issubclass(thing, Message)
            and thing.__module__ == info.name
            and thing is not Statement
        ]
    return sorted(set(found), key=lambda kind: (kind.__module__, kind.__name__))


MESSAGES = all_messages()
STATEMENTS = [kind for kind in MESSAGES if issubclass(kind, Statement)]
SECRET = sha256(b"secret")
PUBLIC = account_of(SECRET)


def name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


# --- values of every type, from its annotations ---


def value_of(kind: Any, data: Any) -> Any:
    """A value of a field's type, within its limits, as msgspec sees them."""
    return _value(msgspec.inspect.type_info(kind), data)


def _value(info: Any, data: Any) -> Any:  # noqa: PLR0911 - one line for each type
    kinds = msgspec.inspect
    match info:
        case kinds.IntType():
            low = -(2**63) if info.ge is None else info.ge
            high = 2**63 - 1 if info.le is None else info.le
            return data.draw(st.integers(low, high))
        case kinds.BytesType():
            low, high = info.min_length or 0, info.max_length
            return data.draw(
                st.binary(min_size=low, max_size=min(high or low + 8, low + 8))
                if high != low
                else st.binary(min_size=low, max_size=low)
            )
        case kinds.StrType():
            low = info.min_length or 0
            return data.draw(st.text("abc-", min_size=low, max_size=low + 4))
        case kinds.BoolType():
            return data.draw(st.booleans())
        case kinds.NoneType():
            return None
        case kinds.LiteralType():
            return data.draw(st.sampled_from(info.values))
        case kinds.EnumType():
            return data.draw(st.sampled_from(list(info.cls)))
        case kinds.VarTupleType():
            count = data.draw(st.integers(0, 2))
            return tuple(_value(info.item_type, data) for _ in range(count))
        case kinds.TupleType():
            return tuple(_value(each, data) for each in info.item_types)
        case kinds.DictType():
            return {
                _value(info.key_type, data): _value(info.value_type, data)
                for _ in range(data.draw(st.integers(0, 2)))
            }
        case kinds.UnionType():
            return _value(data.draw(st.sampled_from(info.types)), data)
        case kinds.StructType():
            return info.cls(
                **{field.name: _value(field.type, data) for field in info.fields}
            )
    raise AssertionError(info)


@pytest.mark.parametrize("kind", MESSAGES, ids=name)
@MODEST
@given(data=st.data())
def test_every_message_has_one_encoding(kind: type[Message], data: Any) -> None:
    value = value_of(kind, data)
    raw = encode(value)
    assert canonical(kind, raw) == value
    assert encode(carried(kind, raw)) == raw


@pytest.mark.parametrize("kind", MESSAGES, ids=name)
@MODEST
@given(data=st.binary(max_size=120))
def test_any_bytes_are_a_message_or_refused(kind: type[Message], data: bytes) -> None:
    for parse in (carried, canonical):
        with contextlib.suppress(SealiftError):
            assert isinstance(parse(kind, data), kind)


@pytest.mark.parametrize("kind", MESSAGES, ids=name)
@MODEST
@given(data=st.data())
def test_a_cut_or_altered_message_is_another_or_refused(
    kind: type[Message], data: Any
) -> None:
    value = value_of(kind, data)
    raw = encode(value)
    at = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(DecodeError):
        carried(kind, raw[:at])
    altered = bytearray(raw)
    altered[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(SealiftError):
        assert canonical(kind, bytes(altered)) != value


@pytest.mark.parametrize("kind", MESSAGES, ids=name)
def test_every_message_is_frozen_and_a_list(kind: type[Message]) -> None:
    config = kind.__struct_config__
    assert config.frozen
    assert config.array_like
    assert not config.forbid_unknown_fields  # old enclaves ignore what is additive


def test_tags_are_unique() -> None:
    """Frames carry no other name of what they hold."""
    tags = [kind.__struct_config__.tag for kind in MESSAGES]
    named = [tag for tag in tags if tag is not None]
    assert len(named) == len(set(named))


# --- statements ---


@pytest.mark.parametrize("kind", STATEMENTS, ids=name)
@MODEST
@given(data=st.data())
def test_a_statement_signs_and_is_parsed(kind: type[Statement], data: Any) -> None:
    value = value_of(kind, data)
    assert parse_statement(kind, encode(value)) == value
    value.verify(PUBLIC, value.sign(SECRET))
    assert value.preimage() == kind.DOMAIN.encode() + b"\x00" + encode(value)
    assert value.digest() == sha256(value.preimage())
    assert value.report_data() == value.digest() + bytes(32)


@pytest.mark.parametrize("kind", STATEMENTS, ids=name)
@MODEST
@given(data=st.data())
def test_a_statements_signature_is_of_no_other_statement(
    kind: type[Statement], data: Any
) -> None:
    value = value_of(kind, data)
    signature = value.sign(SECRET)
    body = encode(value)
    for other in STATEMENTS:
        if other is not kind:
            from_other = other.DOMAIN.encode() + b"\x00" + body
            assert from_other != value.preimage()
            with pytest.raises(SignatureInvalidError):
                verify_statement(PUBLIC, other.DOMAIN, body, signature)


def test_domains_are_unique_and_say_what_they_are() -> None:
    domains = [kind.DOMAIN for kind in STATEMENTS]
    assert len(set(domains)) == len(domains) > 0
    assert all(
        domain.startswith("sealift/") and "\x00" not in domain for domain in domains
    )


@pytest.mark.parametrize("kind", STATEMENTS, ids=name)
def test_a_statement_names_its_chain(kind: type[Statement]) -> None:
    """No decision replays on another chain, or in another shard."""
    assert "chain_id" in kind.__struct_fields__
    if kind.__name__ != "TransactionBody":
        assert "shard" in kind.__struct_fields__


# --- the ECALL table ---


def test_every_request_has_a_row_and_every_row_a_request() -> None:
    assert set(ECALLS) == set(get_args(Request))


def test_every_reply_of_a_row_is_a_reply() -> None:
    replies = {kind for row in ECALLS.values() for kind in row}
    assert replies | {Refused} == set(get_args(Reply))
    assert all(row for row in ECALLS.values())
    assert all(Refused not in row for row in ECALLS.values())


def test_requests_and_replies_can_be_told_apart_as_unions() -> None:
    for union in (Request, Reply, MuRaMessage, PlatformRequest, PlatformReply):
        msgspec.msgpack.Decoder(union)


@MODEST
@given(data=st.binary(max_size=200))
@pytest.mark.parametrize("union", [Request, Reply, MuRaMessage])
def test_any_frame_is_parsed_or_refused(union: Any, data: bytes) -> None:
    with contextlib.suppress(SealiftError):
        carried(union, data, limit=MAX_FRAME_BYTES)


def test_no_request_has_a_switch_that_skips_a_check() -> None:
    """Invariant 4, as far as names go."""
    suspicious = ("skip", "insecure", "debug", "force", "unsafe", "trust_me", "verify")
    for kind in ECALLS:
        for field in msgspec.structs.fields(kind):
            assert not any(word in field.name for word in suspicious), field.name
            assert field.type is not bool, f"{kind.__name__}.{field.name}"


# --- platform frames ---


@MODEST
@given(data=st.binary(max_size=200))
def test_any_platform_frame_is_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_platform_request, parse_platform_reply):
        with contextlib.suppress(SealiftError):
            parse(data)


@pytest.mark.parametrize(
    ("union", "parse"),
    [
        (PlatformRequest, parse_platform_request),
        (PlatformReply, parse_platform_reply),
    ],
)
@MODEST
@given(data=st.data())
def test_platform_messages_round_trip(union: Any, parse: Any, data: Any) -> None:
    kind = data.draw(st.sampled_from(typing.get_args(union)))
    value = value_of(kind, data)
    assert parse(encode(value)) == value


def test_a_reply_is_no_request() -> None:
    reply = IdentityReply(
        kind="insecure-sim",
        mrenclave=bytes(32),
        mrsigner=bytes(32),
        isv_prod_id=0,
        isv_svn=0,
        cpu_svn=bytes(16),
    )
    with pytest.raises(DecodeError):
        parse_platform_request(encode(reply))
    with pytest.raises(DecodeError):
        parse_platform_reply(encode(QuoteRequest(report_data=bytes(64))))


def test_a_platform_frame_that_is_too_large() -> None:
    for parse in (parse_platform_request, parse_platform_reply):
        with pytest.raises(TooLargeError):
            parse(bytes(MAX_PLATFORM_FRAME_BYTES + 1))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length(size: int) -> None:
    with pytest.raises(DecodeError):
        parse_platform_request(msgspec.msgpack.encode(["QuoteRequest", bytes(size)]))


# --- keys of L1's state, and commitments ---


def test_places_of_l1_cannot_be_confused() -> None:
    one, two = b"\x01" * 32, b"\x02" * 32
    keys = [
        make(who)
        for make in (schedule_key, frontier_key, enclave_key)
        for who in (one, two)
    ]
    keys += [keys_key(who, epoch) for who in (one, two) for epoch in (0, 1, 2**40)]
    keys += [collateral_key(b"SIM\x00\x00\x01"), collateral_key(b"SIM\x00\x00\x02")]
    assert len(set(keys)) == len(keys)
    for a in keys:
        assert not any(b != a and b.startswith(a) for b in keys)


def test_a_commitment_binds_the_name_and_hides_the_key() -> None:
    key = b"k" * 32
    assert key_commitment("state", key) != key_commitment("root", key)
    assert key_commitment("state", key) != key_commitment("state", b"K" * 32)
    assert key_commitment("state", key) != sha256(key)
    assert len(key_commitment("state", key)) == 32
