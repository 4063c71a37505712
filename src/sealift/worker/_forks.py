"""What is left of a fork: a checkpoint that remembers it, and a file for people."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from sealift.base import Height, SealiftError, decode
from sealift.protocol.ecall import MAX_FRAME_BYTES, ChainEvidence, GetEvidence
from sealift.relay import ForkEvidence, LightBlock
from sealift.relay.rpc import render_attack
from sealift.transport.files import FileExistsAlreadyError, create_durably

from ._channel import EnclaveChannel
from ._errors import EnclaveGoneError, EnclaveRefusedError
from ._store import WorkerStore


class ForkKeeper:
    """Makes the evidence of a fork durable, as soon as the enclave has seen it.

    Args:
        channel: The enclave.
        store: Where its checkpoint is kept.
        path: The file for people; never overwritten.
        light_block: This side's node, for the commit beside the trusted header.
    """

    def __init__(
        self,
        *,
        channel: EnclaveChannel,
        store: WorkerStore,
        path: Path,
        light_block: Callable[[int], Awaitable[LightBlock]],
    ) -> None:
        self._channel = channel
        self._store = store
        self._path = path
        self._light_block = light_block

    async def keep(self, judged: ChainEvidence | None = None) -> None:
        """Keep what the enclave has; it is asked if ``judged`` is not given.

        Raises:
            StoreError: The disk does not take it.
            FileError: Likewise.
        """
        if judged is None:
            try:
                judged = await self._channel.call(GetEvidence(), ChainEvidence)
            except EnclaveRefusedError:
                return  # a bundle of before there was evidence to ask for
        if judged.evidence is None:
            return
        self._store.put_meta("checkpoint", judged.checkpoint)
        evidence = decode(ForkEvidence, judged.evidence, limit=MAX_FRAME_BYTES)
        shown = render_attack(
            evidence,
            trusted=await self._beside(evidence.trusted.height),
            common=await self._beside(
                evidence.trusted.height - 1
                if evidence.common is None
                else evidence.common.height
            ),
        )
        try:
            create_durably(self._path, msgspec.json.format(msgspec.json.encode(shown)))
        except FileExistsAlreadyError:
            return  # the first one stands

    def stopped(self) -> EnclaveGoneError:
        """How the worker ends, by name."""
        return EnclaveGoneError(
            "the enclave has stopped for good: it was shown two chains "
            "(ForkDetectedError)",
            got="two signed headers that contradict each other",
            hint=f"Both are in {self._path}. Its state is intact on disk. Find out "
            "who signed both.",
        )

    async def _beside(self, height: Height | int) -> LightBlock | None:
        try:
            return await self._light_block(height)
        except SealiftError:
            return None  # only the enclave's own words are needed
