"""What a holder of the state key could make: headers and chunks, true or not.

``export_v1`` is what releases before format 2 made: their code, as it was.
"""

from typing import Any

import msgspec

from sealift.base import decode, encode
from sealift.crypto import hkdf, hmac_sha256, seal, sha256
from sealift.enclave import _snapshot as v2
from sealift.enclave import _snapshot_v1 as v1
from sealift.enclave._keystore import KeyStore
from sealift.enclave._state import (
    SealedSnapshotHeader,
    ShardState,
    SnapshotBody,
    SnapshotFacts,
)


def facts_of(header: bytes) -> SnapshotFacts:
    return decode(SnapshotFacts, decode(SealedSnapshotHeader, header).body)


def altered(header: bytes, **change: Any) -> bytes:
    """Another header beside the old MAC."""
    outer = decode(SealedSnapshotHeader, header)
    body = encode(msgspec.structs.replace(facts_of(header), **change))
    return encode(msgspec.structs.replace(outer, body=body))


def forged(keys: KeyStore, header: bytes, **change: Any) -> bytes:
    """Another header, by a holder of the state key."""
    facts = msgspec.structs.replace(facts_of(header), **change)
    raw = encode(facts)
    mac = v2.header_mac(keys, facts.epoch, raw)
    return encode(SealedSnapshotHeader(body=raw, mac=mac))


def sealed_chunk(keys: KeyStore, header: bytes, index: int, what: object) -> bytes:
    """A chunk of any content, by a holder of the state key."""
    facts, salt = facts_of(header), sha256(b"salt")
    context = v2._context(facts, sha256(header), index, salt)
    key = hkdf(keys.epoch(facts.epoch).state_key, info=context)
    return salt + seal(key, encode(what), context=context, entropy=bytes)


def opened_chunk(keys: KeyStore, header: bytes, index: int, data: bytes) -> Any:
    """What stands in a chunk."""
    facts = facts_of(header)
    context = v2._context(facts, sha256(header), index, data[:32])
    key = hkdf(keys.epoch(facts.epoch).state_key, info=context)
    kind = v2.SnapshotPages if index else v2.SnapshotHead
    plain = v2.open_sealed(key, data[32:], context=context, what="it")
    return decode(kind, plain)


def export_v1(
    keys: KeyStore, state: ShardState, *, chunk: int = 2**20, **change: Any
) -> tuple[bytes, list[bytes]]:
    """A snapshot of format 1, header and chunks."""
    pages = list(state.store.pages())
    starts, size = [0], 0
    for number, page in enumerate(pages):
        if size and size + len(page) > chunk:
            starts.append(number)
            size = 0
        size += len(page)
    plain = SnapshotBody(
        format=1,
        chain_id=keys.chain_id,
        shard=keys.shard,
        epoch=state.epoch,
        maker=keys.signing_key,
        height=state.height,
        root=state.root,
        root_height=state.root_height,
        time=state.time,
        page_bits=state.store.bits,
        starts=tuple(starts),
        trail=tuple(state.trail),
        trusted=state.trusted,
        salt=sha256(b"%d" % state.height),
    )
    plain = msgspec.structs.replace(plain, **change)
    domain = b"sealift/snapshot/v1\x00"
    own = hmac_sha256(keys.derived("snapshot"), domain + encode(plain))
    raw = encode(msgspec.structs.replace(plain, own=own))
    state_key = keys.epoch(plain.epoch).state_key
    mac = hmac_sha256(hkdf(state_key, info=domain + b"header"), domain + raw)
    header = encode(SealedSnapshotHeader(body=raw, mac=mac))
    chunks = []
    for index, first in enumerate(starts):
        end = (*starts, len(pages))[index + 1]
        salt = sha256(b"salt %d" % index)
        context = domain + msgspec.msgpack.encode((header, index, salt))
        key = hkdf(state_key, info=context)
        sealed = seal(key, encode(pages[first:end]), context=context, entropy=bytes)
        chunks.append(salt + sealed)
    return header, chunks


__all__ = [
    "altered",
    "export_v1",
    "facts_of",
    "forged",
    "opened_chunk",
    "sealed_chunk",
    "v1",
    "v2",
]
