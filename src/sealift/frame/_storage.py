"""Typed storage items over byte state, and the public layout of their keys.

An entry of item ``i`` of pallet ``p`` lies under ``b"p/i/" + key bytes``; a
``StorageValue`` has empty key bytes. Values are canonical MessagePack. The
layout is public: proofs of L1 state name these keys.
"""

import re
import typing
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, overload

import msgspec

from sealift.base import encode

from ._errors import RuntimeDefinitionError, StorageMissingError, StorageValueError
from ._state import Overlay

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
Old = TypeVar("Old")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_INT_BYTES = 8
_LENGTH_BYTES = 2
_MAX_PART = 2**16 - 1


class _Unset:
    """No default was declared."""


_UNSET = _Unset()


class HasStorage(Protocol):
    """Anything that carries state: a ``Context``, or a test's own."""

    @property
    def storage(self) -> Overlay:
        """The overlay to read and write."""
        ...


def check_name(name: str, what: str) -> str:
    """The name, if it fits the layout (``a-z``, digits, ``_``; no ``/``).

    Raises:
        RuntimeDefinitionError: It does not.
    """
    if not _NAME.match(name):
        raise RuntimeDefinitionError(
            f"bad name of a {what}", got=repr(name), expected="[a-z][a-z0-9_]*"
        )
    return name


def storage_key(pallet: str, item: str, key: bytes = b"") -> bytes:
    """Where an entry lies in the state: ``b"pallet/item/" + key``.

    Args:
        pallet: Name of the pallet.
        item: Name of the storage item.
        key: Bytes of :func:`encode_key` for a map, empty for a value.

    Raises:
        RuntimeDefinitionError: A name that does not fit the layout.
    """
    check_name(pallet, "pallet")
    check_name(item, "storage item")
    return f"{pallet}/{item}/".encode() + key


def encode_key(key: object) -> bytes:
    """Bytes of a map's key; injective within one key type.

    ``bytes`` as they are, ``int`` as 8 bytes big-endian (so that byte order is
    number order), ``str`` in UTF-8, a tuple as its parts, each behind its
    length in 2 bytes big-endian.

    Raises:
        StorageValueError: Not such a key, or out of range.
    """
    if type(key) is bytes:
        return key
    if type(key) is tuple:
        parts = [encode_key(part) for part in key]
        if any(len(part) > _MAX_PART for part in parts):
            raise StorageValueError("part of a storage key is too long")
        return b"".join(
            len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts
        )
    if type(key) is int:
        try:
            return key.to_bytes(_INT_BYTES, "big")
        except OverflowError:
            raise StorageValueError(
                "number is no storage key", got=key, expected="0 ≤ n < 2^64"
            ) from None
    if type(key) is str:
        try:
            return key.encode()
        except UnicodeEncodeError:
            raise StorageValueError("text is no storage key") from None
    raise StorageValueError(
        "not a storage key",
        got=type(key).__name__,
        expected="bytes, int, str or a tuple of them",
    )


def _plain(kind: object) -> object:
    """A key type without NewTypes and constraints."""
    while True:
        if isinstance(kind, typing.NewType):
            kind = kind.__supertype__
        elif typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        else:
            return kind


def key_reader(kind: object) -> Callable[[bytes], object]:
    """The inverse of :func:`encode_key` for one key type."""
    plain = _plain(kind)
    if plain is bytes:
        return bytes
    if plain is int:
        return _read_int
    if plain is str:
        return bytes.decode
    args = typing.get_args(plain)
    if typing.get_origin(plain) is tuple and args and Ellipsis not in args:
        readers = tuple(key_reader(arg) for arg in args)
        return lambda raw: _read_tuple(raw, readers)
    raise RuntimeDefinitionError(
        "type cannot be a storage key",
        got=kind,
        expected="bytes, int, str or a tuple of them",
    )


def _key_shape(kind: object) -> object:
    """The Python type of one key type, or a tuple of those of its parts."""
    plain = _plain(kind)
    if typing.get_origin(plain) is tuple:
        return tuple(_key_shape(arg) for arg in typing.get_args(plain))
    return plain


def _has_shape(key: object, shape: object) -> bool:
    if isinstance(shape, tuple):
        return (
            type(key) is tuple
            and len(key) == len(shape)
            and all(map(_has_shape, key, shape))
        )
    return type(key) is shape


def _read_int(raw: bytes) -> int:
    if len(raw) != _INT_BYTES:
        raise StorageValueError("stored key is not a number", got=raw)
    return int.from_bytes(raw, "big")


def _read_tuple(
    raw: bytes, readers: tuple[Callable[[bytes], object], ...]
) -> tuple[object, ...]:
    parts = []
    at = 0
    for reader in readers:
        size = int.from_bytes(raw[at : at + _LENGTH_BYTES], "big")
        end = at + _LENGTH_BYTES + size
        if end > len(raw):
            raise StorageValueError("stored key is cut", got=raw)
        parts.append(reader(raw[at + _LENGTH_BYTES : end]))
        at = end
    if at != len(raw):
        raise StorageValueError("stored key has bytes left over", got=raw)
    return tuple(parts)


class Codec(Generic[T]):
    """Encodes and decodes one type, refusing what could not be read again."""

    __slots__ = ("_decode", "kind", "label")

    def __init__(self, kind: object, label: str) -> None:
        self.kind = kind
        self.label = label
        decoder: msgspec.msgpack.Decoder[T]
        try:
            decoder = msgspec.msgpack.Decoder(typing.cast("type[T]", kind))
        except TypeError as error:
            raise RuntimeDefinitionError(
                f"type of {label} cannot be stored ({error})", got=kind
            ) from error
        self._decode = decoder.decode

    def decode(self, raw: bytes) -> T:
        try:
            return self._decode(raw)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise StorageValueError(
                f"stored {self.label} cannot be read ({error})", got=raw
            ) from error

    def encode(self, value: T) -> bytes:
        try:
            raw = encode(value)
            self._decode(raw)
        except (msgspec.MsgspecError, TypeError, OverflowError, UnicodeError) as error:
            raise StorageValueError(
                f"value does not fit {self.label} ({error})"
            ) from error
        return raw


class StorageItem:
    """What values and maps have in common: a name within a pallet."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name, "storage item")
        self.pallet = ""
        self.prefix = b""

    def bind(self, pallet: str) -> None:
        """Give the item its place in the state (done by ``Pallet``)."""
        self.pallet = pallet
        self.prefix = storage_key(pallet, self.name)


class StorageValue(StorageItem, Generic[T]):
    """One typed value of a pallet.

    Guarantees that whatever ``put`` accepted can be read again by the same
    type: a value outside its declared constraints fails the call instead of
    poisoning the state.

    Args:
        name: Name within the pallet; part of the public layout.
        kind: Type of the value (what msgspec can decode; no floats).
        default: What ``get`` gives while nothing is stored.
    """

    @overload
    def __init__(self, name: str, kind: type[T], *, default: T = ...) -> None: ...
    @overload
    def __init__(self, name: str, kind: object, *, default: T = ...) -> None: ...
    def __init__(
        self, name: str, kind: object, *, default: T | _Unset = _UNSET
    ) -> None:
        super().__init__(name)
        self._codec: Codec[T] = Codec(kind, name)
        self._default = (
            None if isinstance(default, _Unset) else self._codec.encode(default)
        )

    @property
    def kind(self) -> object:
        """The declared type."""
        return self._codec.kind

    @property
    def default(self) -> bytes | None:
        """The encoded default, if one was declared."""
        return self._default

    def of(self, pallet: str) -> "StorageValue[T]":
        """The same item in a named pallet: for old layouts and for readers."""
        twin: StorageValue[T] = StorageValue(self.name, self._codec.kind)
        twin._default = self._default
        twin.bind(pallet)
        return twin

    def key(self) -> bytes:
        """The state key, for proofs."""
        return self.prefix

    def get(self, ctx: HasStorage) -> T:
        """The stored value, or the default.

        Raises:
            StorageMissingError: Nothing stored and no default declared.
        """
        raw = ctx.storage.get(self.prefix)
        if raw is None:
            raw = self._default
            if raw is None:
                raise StorageMissingError(f"{self.pallet}.{self.name} is not set")
        return self._codec.decode(raw)

    def find(self, ctx: HasStorage) -> T | None:
        """The stored value, or ``None``; never the default."""
        raw = ctx.storage.get(self.prefix)
        return None if raw is None else self._codec.decode(raw)

    def put(self, ctx: HasStorage, value: T) -> None:
        """Store a value.

        Raises:
            StorageValueError: It does not fit the declared type.
        """
        ctx.storage.put(self.prefix, self._codec.encode(value))

    def delete(self, ctx: HasStorage) -> None:
        """Forget the value."""
        ctx.storage.delete(self.prefix)

    def exists(self, ctx: HasStorage) -> bool:
        """Whether a value is stored."""
        return ctx.storage.get(self.prefix) is not None


class StorageMap(StorageItem, Generic[K, V]):
    """Typed entries of a pallet, one state entry per key.

    Args:
        name: Name within the pallet; part of the public layout.
        key: Key type: bytes, int, str, their NewTypes, or a tuple of them.
        value: Value type (what msgspec can decode; no floats).
        default: What ``get`` gives for an absent key.
    """

    @overload
    def __init__(
        self, name: str, *, key: type[K], value: type[V], default: V = ...
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, *, key: object, value: object, default: V = ...
    ) -> None: ...
    def __init__(
        self, name: str, *, key: object, value: object, default: V | _Unset = _UNSET
    ) -> None:
        super().__init__(name)
        self.key_kind = key
        self._read_key = key_reader(key)
        self._key_shape = _key_shape(key)
        self._codec: Codec[V] = Codec(value, name)
        self._default = (
            None if isinstance(default, _Unset) else self._codec.encode(default)
        )

    @property
    def kind(self) -> object:
        """The declared type of the values."""
        return self._codec.kind

    @property
    def default(self) -> bytes | None:
        """The encoded default, if one was declared."""
        return self._default

    def of(self, pallet: str) -> "StorageMap[K, V]":
        """The same item in a named pallet: for old layouts and for readers."""
        twin: StorageMap[K, V] = StorageMap(
            self.name, key=self.key_kind, value=self._codec.kind
        )
        twin._default = self._default
        twin.bind(pallet)
        return twin

    def key(self, key: K) -> bytes:
        """The state key of an entry, for proofs.

        Raises:
            StorageValueError: Not a key of this map.
        """
        shape = self._key_shape
        if type(key) is not shape and not _has_shape(key, shape):
            raise StorageValueError(
                f"key of {self.name} is of another type", got=type(key).__name__
            )
        return self.prefix + encode_key(key)

    def get(self, ctx: HasStorage, key: K) -> V:
        """The stored value, or the default.

        Raises:
            StorageMissingError: Nothing stored and no default declared.
        """
        raw = ctx.storage.get(self.key(key))
        if raw is None:
            raw = self._default
            if raw is None:
                raise StorageMissingError(
                    f"{self.pallet}.{self.name} has no such entry", got=key
                )
        return self._codec.decode(raw)

    def find(self, ctx: HasStorage, key: K) -> V | None:
        """The stored value, or ``None``; never the default."""
        raw = ctx.storage.get(self.key(key))
        return None if raw is None else self._codec.decode(raw)

    def put(self, ctx: HasStorage, key: K, value: V) -> None:
        """Store a value.

        Raises:
            StorageValueError: Key or value does not fit its declared type.
        """
        ctx.storage.put(self.key(key), self._codec.encode(value))

    def delete(self, ctx: HasStorage, key: K) -> None:
        """Forget an entry."""
        ctx.storage.delete(self.key(key))

    def contains(self, ctx: HasStorage, key: K) -> bool:
        """Whether a value is stored under the key."""
        return ctx.storage.get(self.key(key)) is not None

    def items(self, ctx: HasStorage) -> list[tuple[K, V]]:
        """All entries, in the byte order of their keys.

        Expensive on pages: every page of the state is decoded. For migrations
        and tests; a call keeps an index instead.
        """
        start = len(self.prefix)
        return [
            (typing.cast("K", self._read_key(key[start:])), self._codec.decode(raw))
            for key, raw in ctx.storage.items(self.prefix)
        ]

    def translate(
        self, ctx: HasStorage, old: type[Old], change: Callable[[Old], V | None]
    ) -> int:
        """Rewrite every entry from an old value type, in key order.

        Args:
            ctx: The upgrade's context.
            old: Type the entries were written with.
            change: New value of an old one; ``None`` deletes the entry.

        Returns:
            How many entries there were.

        Raises:
            StorageValueError: An entry is no ``old`` value, or the new value
                does not fit.
        """
        codec: Codec[Old] = Codec(old, self.name)
        entries = ctx.storage.items(self.prefix)
        for key, raw in entries:
            value = change(codec.decode(raw))
            if value is None:
                ctx.storage.delete(key)
            else:
                ctx.storage.put(key, self._codec.encode(value))
        return len(entries)
