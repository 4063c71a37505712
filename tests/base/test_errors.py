"""The error root: one sentence with what was got and what was expected."""

import pytest

from sealift.base import DecodeError, InvariantError, NonCanonicalError, SealiftError


def test_a_sentence() -> None:
    error = DecodeError("not a block", got=3, expected="4", hint="Ask again.")
    assert str(error) == "not a block: got 3, expected 4. Ask again."


def test_only_what_is_known_is_said() -> None:
    assert str(DecodeError("not a block")) == "not a block"
    assert str(DecodeError("not a block", expected=0)) == "not a block: expected 0"
    assert str(DecodeError("not a block", got=0)) == "not a block: got 0"


def test_bytes_are_hex_and_cut() -> None:
    assert str(DecodeError("x", got=b"\xab")) == "x: got ab"
    assert str(DecodeError("x", got=bytes(33))) == "x: got " + "00" * 32 + "…"


def test_the_code_is_the_class_name() -> None:
    class MadeUpError(SealiftError):
        """For this test."""

    assert MadeUpError.code == "MadeUpError"
    assert SealiftError.code == "SealiftError"
    assert NonCanonicalError.code == "NonCanonicalError"


def test_bugs_are_caught_like_every_refusal() -> None:
    with pytest.raises(SealiftError) as caught:
        raise InvariantError("cannot be")
    assert isinstance(caught.value, InvariantError)
    assert caught.value.got is None
