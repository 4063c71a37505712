"""For a replay: an enclave's channel and the blocks that it is fed with."""

from ._channel import EnclaveChannel
from ._feed import BlockFeed
from ._l1 import L1View

__all__ = ["BlockFeed", "EnclaveChannel", "L1View"]
