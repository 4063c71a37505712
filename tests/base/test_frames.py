"""Frames: the same payloads however the stream is cut; no memory for liars."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import FrameReader, TooLargeError, frame

LIMIT = 1000


@settings(deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=100), max_size=8),
    cuts=st.lists(st.integers(0, 900), max_size=12),
)
def test_any_cutting_gives_the_same_payloads(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(frame(each) for each in payloads)
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader(limit=LIMIT)
    got = [
        payload
        for start, end in itertools.pairwise(bounds)
        for payload in reader.feed(stream[start:end])
    ]
    assert got == payloads
    assert reader.pending == 0


def test_byte_by_byte() -> None:
    reader = FrameReader(limit=LIMIT)
    got = [p for byte in frame(b"abc") for p in reader.feed(bytes([byte]))]
    assert got == [b"abc"]


def test_an_unfinished_frame_is_pending() -> None:
    reader = FrameReader(limit=LIMIT)
    assert reader.feed(frame(b"abc")[:-1]) == []
    assert reader.pending == 6
    assert reader.feed(b"c") == [b"abc"]
    assert reader.pending == 0


def test_the_limit_itself_fits() -> None:
    reader = FrameReader(limit=LIMIT)
    assert reader.feed(frame(bytes(LIMIT))) == [bytes(LIMIT)]


def test_one_byte_more_is_refused_before_it_comes() -> None:
    reader = FrameReader(limit=LIMIT)
    with pytest.raises(TooLargeError):
        reader.feed((LIMIT + 1).to_bytes(4, "little"))


def test_a_prefix_that_lies_is_refused_behind_a_good_frame() -> None:
    reader = FrameReader(limit=LIMIT)
    with pytest.raises(TooLargeError):
        reader.feed(frame(b"good") + b"\xff\xff\xff\xff")


def test_the_prefix_is_little_endian() -> None:
    assert frame(b"abc") == b"\x03\x00\x00\x00abc"


@given(data=st.binary(max_size=300))
def test_any_stream_is_taken_or_refused(data: bytes) -> None:
    reader = FrameReader(limit=100)
    try:
        payloads = reader.feed(data)
    except TooLargeError:
        return
    rest = data[sum(len(p) + 4 for p in payloads) :]
    assert b"".join(frame(p) for p in payloads) + rest == data
    assert reader.pending == len(rest)
