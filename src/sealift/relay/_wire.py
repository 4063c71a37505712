"""The few protobuf encodings that CometBFT hashes and signs.

Only writing, and only what is needed byte for byte: proto3 with gogoproto's
rule that non-nullable messages are always emitted. Source: protobuf encoding
specification; ``proto/tendermint`` of CometBFT v0.38.
"""

_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_U64 = 2**64 - 1
_LOW7 = 0x7F
_MORE = 0x80


def varint(value: int) -> bytes:
    """Base-128 varint; a negative int64 takes ten bytes, as in protobuf."""
    if 0 <= value <= _LOW7:
        return _ONE_BYTE[value]
    rest = value & _U64
    out = bytearray()
    while rest > _LOW7:
        out.append(rest & _LOW7 | _MORE)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """A varint field; zero is omitted."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def sfixed64(number: int, value: int) -> bytes:
    """A little-endian 64-bit field; zero is omitted."""
    if not value:
        return b""
    return varint(number << 3 | _FIXED64) + value.to_bytes(8, "little", signed=True)


def optional(number: int, data: bytes) -> bytes:
    """A bytes or string field; empty is omitted."""
    return embedded(number, data) if data else b""


def embedded(number: int, data: bytes) -> bytes:
    """A message or a repeated element: emitted even when empty."""
    return varint(number << 3 | _BYTES) + delimited(data)


def delimited(data: bytes) -> bytes:
    """Length as varint, then the bytes."""
    return varint(len(data)) + data


_ONE_BYTE = [bytes([value]) for value in range(_LOW7 + 1)]
