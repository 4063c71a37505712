"""The host's part in effects: an instance's word is carried until L1 has it."""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from sealift.base import Height

from ._chain import Sent
from ._disk import WorldDisk

#: Refusals that another try may not meet.
_AGAIN: Final = frozenset({"EffectsFullError", "EffectsRangeError"})


class _Host(Protocol):
    disk: WorldDisk
    mute: bool

    def act(self, name: str) -> None:
        """Do something that can be interrupted."""
        ...

    def send(
        self, call: str, *, heard: Callable[[Sent], None] | None = None, **args: object
    ) -> Sent:
        """A transaction of the operator."""
        ...


class EffectsOutbox:
    """What one worker has to say of effects; on its disk until L1 has heard it."""

    def __init__(self, host: _Host) -> None:
        self._host = host
        self._sent: set[Height] = set()

    def carry(self) -> None:
        """Send what was not sent, unless the host withholds it."""
        host = self._host
        if host.mute:
            return
        for height, block in host.disk.effects.items():
            if height in self._sent:
                continue
            host.act(f"send effects {height}")
            self._sent.add(height)
            host.send(
                "enclave_bridge.post_effects",
                heard=partial(self._heard, height),
                statement=block.statement,
                signature=block.signature,
                effects=block.effects,
            )

    def _heard(self, height: Height, sent: Sent) -> None:
        if sent.refusal in _AGAIN:
            self._sent.discard(height)
        else:
            self._host.disk.effects.pop(height, None)
