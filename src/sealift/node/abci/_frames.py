"""Frames of the ABCI socket: an unsigned varint of length, then the message.

Source: CometBFT v0.38 ``libs/protoio``.
"""

from collections.abc import Iterator
from typing import Final

from sealift.base import TooLargeError

from ._errors import AbciFormatError

#: Most bytes of a message: CometBFT's largest block (100 MiB) and its frame.
MAX_FRAME_BYTES: Final = 104 * 1024 * 1024
_LOW7: Final = 0x7F
_MORE: Final = 0x80
#: No length of a frame that is allowed needs more.
_MAX_PREFIX: Final = 5


class AbciFrameReader:
    """Cuts a byte stream into messages; holds no more than one frame's limit.

    Args:
        limit: Most bytes of a message.
    """

    def __init__(self, *, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes as they come; give each message once it is whole.

        What was whole before something wrong is given before the refusal.

        Raises:
            AbciFormatError: A length that is no varint.
            TooLargeError: A length above the limit.
        """
        self._buffer += data
        return iter(self._cut, None)

    def _cut(self) -> bytes | None:
        prefix = self._prefix()
        if prefix is None:
            return None
        begin, size = prefix
        if len(self._buffer) < begin + size:
            return None
        message = bytes(self._buffer[begin : begin + size])
        del self._buffer[: begin + size]
        return message

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)

    def _prefix(self) -> tuple[int, int] | None:
        """Where the message begins and its length, once all of that is there."""
        size = 0
        for index, byte in enumerate(self._buffer[:_MAX_PREFIX]):
            size |= (byte & _LOW7) << (7 * index)
            if size > self._limit:
                raise TooLargeError(
                    "ABCI message is too large",
                    got=f"≥ {size} B",
                    expected=f"≤ {self._limit} B",
                )
            if not byte & _MORE:
                return index + 1, size
            if index + 1 == _MAX_PREFIX:
                raise AbciFormatError("length of an ABCI message is no varint")
        return None
