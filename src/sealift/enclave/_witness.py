"""What others show of the chain: judged, and kept if it is a second chain."""

import contextlib
from typing import Final

from sealift.base import decode, encode
from sealift.protocol.ecall import MAX_FRAME_BYTES, ChainEvidence, ShowConflict
from sealift.relay import ForkDetectedError, LightBlock

from ._checkpoint import seal_checkpoint
from ._errors import SkipIncompleteError
from ._shard import Shard

#: Longer paths are not looked at: a witness's first other header is near.
MAX_PATH: Final = 4096


def show_conflict(shard: Shard, request: ShowConflict) -> ChainEvidence:
    """Judge a witness's header; a fork stops this enclave for good.

    Raises:
        HaltedError: The chain has forked already.
        SkipIncompleteError: No block, or too many.
        SealiftError: Nothing was decided on a second chain: the witness lies, or
            is mistaken. Nothing has changed.
    """
    shard.check_going()
    theirs = light_blocks(request.theirs)
    ours = light_blocks(request.ours, some=False)
    with contextlib.suppress(ForkDetectedError):  # it is in the answer
        shard.relay.judge(theirs, ours, now=None)
    return evidence(shard)


def evidence(shard: Shard) -> ChainEvidence:
    """The fork that was seen, if one was, and a checkpoint that remembers it."""
    found = shard.relay.evidence
    return ChainEvidence(
        evidence=None if found is None else encode(found),
        checkpoint=seal_checkpoint(shard.keys, shard.resume_point()),
    )


def light_blocks(raw: tuple[bytes, ...], *, some: bool = True) -> list[LightBlock]:
    """Light blocks of a request.

    Raises:
        SkipIncompleteError: None where there must be some, or too many.
        DecodeError: Not light blocks.
    """
    if len(raw) > MAX_PATH or (some and not raw):
        raise SkipIncompleteError(
            "a path of no blocks, or of too many",
            got=len(raw),
            expected=f"1 … {MAX_PATH}",
        )
    return [decode(LightBlock, one, limit=MAX_FRAME_BYTES) for one in raw]
