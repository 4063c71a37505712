"""Length-prefixed frames: a little-endian u32, then so many bytes."""

from ._errors import TooLargeError

_PREFIX = 4


def frame(payload: bytes) -> bytes:
    """One frame: four bytes of length (little-endian), then the payload."""
    return len(payload).to_bytes(_PREFIX, "little") + payload


class FrameReader:
    """Cuts a byte stream into frames; holds no more than one frame's limit.

    Args:
        limit: Most bytes a payload may have.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they come; return the payloads that are now whole.

        Raises:
            TooLargeError: A prefix announces more than the limit.
        """
        self._buffer += data
        whole: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _PREFIX:
            size = int.from_bytes(self._buffer[start : start + _PREFIX], "little")
            if size > self._limit:
                raise TooLargeError(
                    "frame is too large", got=f"{size} B", expected=f"≤ {self._limit} B"
                )
            end = start + _PREFIX + size
            if len(self._buffer) < end:
                break
            whole.append(bytes(self._buffer[start + _PREFIX : end]))
            start = end
        del self._buffer[:start]
        return whole

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)
