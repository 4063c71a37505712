"""A runtime described for those who only know its metadata."""

from collections.abc import Mapping

import msgspec

from sealift.base import DecodeError, Digest, Message, encode
from sealift.crypto import sha256

from ._calls import MAX_ARGUMENT_DEPTH, EmittedEvent, RuntimeCall, depth_exceeds
from ._context import MAX_DISPATCH_DEPTH
from ._errors import (
    CallArgumentsError,
    MetadataLookupError,
    StorageValueError,
    UnknownCallError,
    ValueMismatchError,
)
from ._storage import encode_key, storage_key
from ._types import FieldSpec, StructSpec, TypeSpec
from ._values import Values

#: Name of the struct that carries a call within a call.
_CALL_STRUCT = RuntimeCall.__name__


class CallSpec(Message, kw_only=True):
    """A call: arguments in order of declaration, weight before it runs."""

    name: str
    doc: str
    weight: int
    args: tuple[FieldSpec, ...]


class GetterSpec(Message, kw_only=True):
    """A signed read: arguments, answer, and whether everybody may read it.

    ``answer`` is ``None`` if it has no type that can be described.
    """

    name: str
    doc: str
    public: bool
    args: tuple[FieldSpec, ...]
    answer: TypeSpec | None


class StorageSpec(Message, kw_only=True):
    """A storage item; ``key`` is ``None`` for a single value."""

    name: str
    key: TypeSpec | None
    value: TypeSpec
    default: bytes | None


class NoteSpec(Message, kw_only=True):
    """An event or error by name; an event's fields are among the types."""

    name: str
    doc: str


class PalletSpec(Message, kw_only=True):
    """A pallet of a runtime."""

    name: str
    doc: str
    storage_version: int
    calls: tuple[CallSpec, ...]
    storage: tuple[StorageSpec, ...]
    events: tuple[NoteSpec, ...]
    errors: tuple[NoteSpec, ...]
    getters: tuple[GetterSpec, ...] = ()


class DecodedCall(Message, kw_only=True):
    """A call for people: bytes as ``0x…``, structs as maps, calls within too."""

    name: str
    args: dict[str, object]


class RuntimeMetadata(Message, kw_only=True):
    """Everything a client needs to speak to a runtime.

    Guarantees that ``encode_call`` makes the bytes that the runtime's own
    ``encode_call`` makes, and refuses what the runtime would refuse to decode.
    """

    name: str
    version: int
    pallets: tuple[PalletSpec, ...]
    types: tuple[StructSpec, ...]

    def digest(self) -> Digest:
        """SHA-256 of the canonical encoding."""
        return sha256(encode(self))

    def pallet(self, name: str) -> PalletSpec:
        """A pallet by name.

        Raises:
            MetadataLookupError: No such pallet.
        """
        for pallet in self.pallets:
            if pallet.name == name:
                return pallet
        raise MetadataLookupError(
            "no such pallet",
            got=name,
            expected=", ".join(pallet.name for pallet in self.pallets),
        )

    def call(self, name: str) -> CallSpec:
        """A call by ``pallet.call``.

        Raises:
            UnknownCallError: No such call.
        """
        pallet_name, _, call_name = name.partition(".")
        for pallet in self.pallets:
            for call in pallet.calls:
                if (pallet.name, call.name) == (pallet_name, call_name):
                    return call
        raise UnknownCallError(
            "no such call",
            got=name[:80],
            expected=", ".join(
                f"{pallet.name}.{call.name}"
                for pallet in self.pallets
                for call in pallet.calls
            ),
        )

    def getter(self, name: str) -> GetterSpec:
        """A getter by ``pallet.getter``.

        Raises:
            MetadataLookupError: No such getter.
        """
        known = {
            f"{pallet.name}.{getter.name}": getter
            for pallet in self.pallets
            for getter in pallet.getters
        }
        if name not in known:
            raise MetadataLookupError(
                "no such getter", got=name[:80], expected=", ".join(known)
            )
        return known[name]

    def storage(self, pallet: str, item: str) -> StorageSpec:
        """A storage item.

        Raises:
            MetadataLookupError: No such item.
        """
        items = self.pallet(pallet).storage
        for spec in items:
            if spec.name == item:
                return spec
        raise MetadataLookupError(
            f"no such storage item in {pallet}",
            got=item,
            expected=", ".join(spec.name for spec in items),
        )

    def encode_call(self, name: str, args: Mapping[str, object]) -> RuntimeCall:
        """A call from friendly arguments.

        Bytes may be given as hexadecimal text, numbers as decimal text, structs
        as maps, members of a union as maps with a ``type``, a call within a
        call as ``{"name": …, "args": {…}}``; typed values are taken as they are.

        Raises:
            UnknownCallError: No such call.
            CallArgumentsError: Arguments missing, unknown, or of the wrong type.
        """
        spec = self.call(name)
        try:
            wire = self._values().fields_to_wire(spec.args, args, name)
        except ValueMismatchError as error:
            raise CallArgumentsError(str(error)) from error
        return RuntimeCall(name=name, args=encode(wire))

    def encode_getter(self, name: str, args: Mapping[str, object]) -> bytes:
        """The arguments of a getter from friendly ones, as ``encode_call``'s.

        Raises:
            MetadataLookupError: No such getter.
            CallArgumentsError: Arguments missing, unknown, or of the wrong type.
        """
        spec = self.getter(name)
        try:
            return encode(self._values().fields_to_wire(spec.args, args, name))
        except ValueMismatchError as error:
            raise CallArgumentsError(str(error)) from error

    def decode_answer(self, name: str, raw: bytes) -> object:
        """A getter's answer for display; total over all bytes.

        Raises:
            MetadataLookupError: No such getter.
            DecodeError: Not an answer of it.
        """
        spec = self.getter(name)
        try:
            plain = _plain(raw)
            if spec.answer is None:
                return plain
            return self._values().from_wire(spec.answer, plain, name)
        except ValueMismatchError as error:
            raise DecodeError(str(error), got=raw) from error

    def decode_call(self, call: RuntimeCall) -> DecodedCall:
        """A call for display; total over all calls.

        Calls wrapped deeper than a runtime dispatches are shown as bytes.

        Raises:
            UnknownCallError: No such call.
            CallArgumentsError: Not arguments of this call.
        """
        return _RuntimeValues(self).call_from_wire(call)

    def decode_event(self, event: EmittedEvent) -> dict[str, object]:
        """Fields of an event for display.

        Raises:
            DecodeError: Not an event of this runtime.
        """
        pallet_name, _, event_name = event.name.partition(".")
        known = {
            (pallet.name, note.name)
            for pallet in self.pallets
            for note in pallet.events
        }
        if (pallet_name, event_name) not in known:
            raise DecodeError("no such event in this runtime", got=event.name[:80])
        try:
            return self._values().struct_from_wire(
                event_name, _plain(event.data), event.name
            )
        except ValueMismatchError as error:
            raise DecodeError(str(error), got=event.data) from error

    def storage_key(self, pallet: str, item: str, key: object = None) -> bytes:
        """The state key of an entry, from a friendly key.

        Raises:
            MetadataLookupError: No such item.
            StorageValueError: Not a key of it.
        """
        spec = self.storage(pallet, item)
        if spec.key is None:
            return storage_key(pallet, item)
        try:
            wire = self._values().to_wire(spec.key, key, f"{pallet}.{item}")
        except ValueMismatchError as error:
            raise StorageValueError(str(error)) from error
        return storage_key(pallet, item, encode_key(_tuples(wire)))

    def decode_storage(self, pallet: str, item: str, raw: bytes) -> object:
        """A stored value for display.

        Raises:
            MetadataLookupError: No such item.
            StorageValueError: Not a value of it.
        """
        spec = self.storage(pallet, item)
        label = f"{pallet}.{item}"
        try:
            return self._values().from_wire(spec.value, _plain(raw), label)
        except ValueMismatchError as error:
            raise StorageValueError(str(error), got=raw) from error

    def _values(self) -> Values:
        return _RuntimeValues(self)


class _RuntimeValues(Values):
    """Values of a runtime's types, calls within calls included."""

    def __init__(self, metadata: RuntimeMetadata) -> None:
        super().__init__({spec.name: spec for spec in metadata.types})
        self._metadata = metadata
        self._depth = 0

    def call_from_wire(self, call: RuntimeCall) -> DecodedCall:
        """As :meth:`RuntimeMetadata.decode_call`; knows how deep it is."""
        spec = self._metadata.call(call.name)
        self._depth += 1
        try:
            args = self.fields_from_wire(spec.args, _plain(call.args), call.name)
        except ValueMismatchError as error:
            raise CallArgumentsError(str(error), got=call.args) from error
        finally:
            self._depth -= 1
        return DecodedCall(name=call.name, args=args)

    def struct_to_wire(self, name: str, value: object, path: str) -> list[object]:
        if name == _CALL_STRUCT and isinstance(value, dict):
            inner, args = value.get("name"), value.get("args")
            if isinstance(inner, str) and isinstance(args, dict):
                call = self._metadata.encode_call(inner, args)
                return [_CALL_STRUCT, call.name, call.args]
        return super().struct_to_wire(name, value, path)

    def struct_from_wire(self, name: str, wire: object, path: str) -> dict[str, object]:
        shown = super().struct_from_wire(name, wire, path)
        if (
            name == _CALL_STRUCT
            and isinstance(wire, list)
            and self._depth <= MAX_DISPATCH_DEPTH
        ):
            try:
                call = msgspec.convert(wire, RuntimeCall)
                shown["args"] = self.call_from_wire(call).args
            except (UnknownCallError, CallArgumentsError, msgspec.ValidationError):
                return shown
        return shown


def _plain(raw: bytes) -> object:
    """MessagePack without types, bounded in depth.

    Raises:
        ValueMismatchError: Not MessagePack, or too deep.
    """
    if depth_exceeds(raw, MAX_ARGUMENT_DEPTH):
        raise ValueMismatchError("nested too deep")
    try:
        return msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, ValueError, TypeError) as error:
        raise ValueMismatchError(f"not MessagePack ({error})") from error


def _tuples(wire: object) -> object:
    if isinstance(wire, list):
        return tuple(_tuples(part) for part in wire)
    return wire
