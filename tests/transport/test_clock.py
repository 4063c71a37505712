"""Times as people write them: RFC 3339 or Unix."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.relay import Timestamp
from sealift.transport.clock import (
    TimeFormatError,
    WallClock,
    format_time,
    parse_time,
    unix_seconds,
)


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("0", 0, 0),
        ("1700000000", 1_700_000_000, 0),
        (" 1700000000.5 ", 1_700_000_000, 500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000, 0),
        ("2023-11-14t22:13:20.000000001z", 1_700_000_000, 1),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000, 0),
    ],
)
def test_both_forms_of_a_time(text: str, seconds: int, nanos: int) -> None:
    assert parse_time(text) == Timestamp(seconds=seconds, nanos=nanos)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "-1",
        "1e9",
        "1_700",
        "٣",
        "0x10",
        "999999999999",
        "2023-11-14",
        "2023-11-14 22:13:20Z",
        "2023-11-14T22:13:20",
        "2023-02-30T00:00:00Z",
        "1700000000.1234567890",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TimeFormatError, match="RFC 3339"):
        parse_time(text)


@settings(max_examples=100)
@given(st.text(max_size=40))
def test_any_text_is_a_time_or_our_error(text: str) -> None:
    try:
        found = parse_time(text)
    except TimeFormatError:
        return
    assert parse_time(format_time(found)) == found


@settings(max_examples=100)
@given(
    st.builds(
        Timestamp,
        seconds=st.integers(0, 253_402_300_799),
        nanos=st.integers(0, 999_999_999),
    )
)
def test_every_time_is_read_back(time: Timestamp) -> None:
    assert parse_time(format_time(time)) == time


def test_wall_clock_goes_forward() -> None:
    clock = WallClock()
    assert clock.now() <= clock.now()
    assert clock.monotonic() <= clock.monotonic()
    assert unix_seconds(clock) > 1_700_000_000
