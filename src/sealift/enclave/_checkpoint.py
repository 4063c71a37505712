"""Checkpoints: where relay and view go on after a restart; public, with a MAC.

Rolling one back costs time, never trust: what may be executed is asked of the
chain, block by block.
"""

from sealift.base import Bytes32, Digest, Height, Message, canonical_decode, encode
from sealift.crypto import constant_time_equal, hmac_sha256
from sealift.relay import RelayCheckpoint

from ._errors import CheckpointForgedError
from ._keystore import KeyStore
from ._view import ChainView

_DOMAIN = b"sealift/checkpoint/v1\x00"


class ResumePoint(Message, kw_only=True):
    """The relay's head and the view of the block before it."""

    relay: RelayCheckpoint
    view: ChainView


class SealedCheckpoint(Message, kw_only=True):
    """A resume point, and a MAC that only this instance can make.

    The MAC covers chain, shard, height and body.
    """

    height: Height
    body: bytes
    mac: Bytes32


def seal_checkpoint(keys: KeyStore, point: ResumePoint) -> bytes:
    """Authenticate a resume point for this instance."""
    body = encode(point)
    height = point.relay.header.height
    return encode(
        SealedCheckpoint(height=height, body=body, mac=_mac(keys, height, body))
    )


def open_checkpoint(keys: KeyStore, data: bytes) -> ResumePoint:
    """A resume point that this instance made for this shard.

    Raises:
        DecodeError: Not a checkpoint.
        CheckpointForgedError: Altered, or another's.
    """
    outer = canonical_decode(SealedCheckpoint, data)
    if not constant_time_equal(_mac(keys, outer.height, outer.body), outer.mac):
        raise CheckpointForgedError(
            "checkpoint is not of this instance",
            got=outer.mac,
            hint="Start without one, from the trust root.",
        )
    return canonical_decode(ResumePoint, outer.body)


def _mac(keys: KeyStore, height: Height, body: bytes) -> Digest:
    preimage = _DOMAIN + encode((keys.chain_id, keys.shard, height, body))
    return hmac_sha256(keys.derived("checkpoint"), preimage)
