"""Any bytes are a file or a refusal; any file is a lineage or a refusal."""

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from ghosts import haunted
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lineages import export, replace, verify

from sealift.base import InvariantError, SealiftError, encode
from sealift.evidence import (
    EvidenceFile,
    EvidenceFormatError,
    VerifiedLineage,
    explain_lineage,
    parse_evidence,
    render_evidence,
)
from sealift.frame import Runtime
from sealift.testing import World

QUIET = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def file(upgraded: World) -> EvidenceFile:
    return export(upgraded)


@QUIET
@given(st.binary(max_size=400))
@example(b"")
@example(b"\xc1")
@example(encode(["EvidenceFile"]))
@example(b"\x91" * 5000)
def test_any_bytes_are_a_file_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(EvidenceFormatError):
        assert isinstance(parse_evidence(data), EvidenceFile)


def test_garbage_is_no_file() -> None:
    with pytest.raises(EvidenceFormatError, match="not a file of evidence"):
        parse_evidence(b"garbage")


def test_a_file_has_one_encoding(file: EvidenceFile) -> None:
    data = render_evidence(file)
    assert encode(parse_evidence(data)) == data
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(data), None])
    with pytest.raises(EvidenceFormatError, match="canonical"):
        parse_evidence(longer)
    with pytest.raises(EvidenceFormatError):
        parse_evidence(data + b"\x00")
    with pytest.raises(EvidenceFormatError):
        parse_evidence(data[:-1])


def test_another_version_is_refused(file: EvidenceFile) -> None:
    with pytest.raises(EvidenceFormatError):
        parse_evidence(encode(replace(file, version=2)))


def outcome(world: World, made: Callable[[], EvidenceFile]) -> Any:
    """The words of a lineage, or nothing where it is refused; never a bug."""
    try:
        return explain_lineage(verify(world, made()))
    except InvariantError:
        raise
    except SealiftError:
        return None


@QUIET
@given(at=st.integers(0, 10**9), flip=st.integers(1, 255))
def test_a_flipped_byte_is_never_another_lineage(
    upgraded: World, file: EvidenceFile, at: int, flip: int
) -> None:
    """Signatures that no rule looks at may vary; what is told may not."""
    data = bytearray(render_evidence(file))
    data[at % len(data)] ^= flip
    told = explain_lineage(verify(upgraded, file))
    assert outcome(upgraded, lambda: parse_evidence(bytes(data))) in (None, told)


@QUIET
@given(data=st.data())
def test_whatever_is_left_out_is_missed_or_changes_nothing(
    upgraded: World, file: EvidenceFile, data: st.DataObject
) -> None:
    told = explain_lineage(verify(upgraded, file))
    name = data.draw(st.sampled_from(["headers", "blocks", "states"]))
    items: tuple[Any, ...] = getattr(file, name)
    at = data.draw(st.integers(0, len(items) - 1))
    cut = replace(file, **{name: items[:at] + items[at + 1 :]})
    assert outcome(upgraded, lambda: cut) in (None, told)


def test_a_lineage_is_made_by_verification_only(
    upgraded: World, file: EvidenceFile
) -> None:
    lineage = verify(upgraded, file)
    fields = {
        name: getattr(lineage, name)
        for name in VerifiedLineage.__dataclass_fields__
        if name != "seal"
    }
    with pytest.raises(InvariantError, match="verification only"):
        VerifiedLineage(**fields, seal=object())


def test_words_of_an_order_cannot_draw_on_a_terminal(
    new_world: Callable[..., World], v1: Runtime
) -> None:
    world = new_world()
    haunted(world, v1, "one")
    order = world.upgrade_order(world.releases[1]).order
    nasty = replace(order, source="a\x1b[2J\u202e\nGeneration 9 runs.")
    world.submit(world.sign_order(nasty))
    world.blocks(2)
    told = explain_lineage(verify(world, export(world)))
    assert all(line.isprintable() for line in told)
    assert any("a\\x1b[2J\\u202e\\nGeneration 9" in line for line in told)
