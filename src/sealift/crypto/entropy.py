"""The only place where randomness enters; everybody else takes it as argument."""

import os
from collections.abc import Callable
from typing import TypeAlias

#: ``entropy(n)`` gives ``n`` unpredictable bytes.
Entropy: TypeAlias = Callable[[int], bytes]


def system_entropy(size: int) -> bytes:
    """``size`` bytes from the operating system (inside SGX: from RDRAND)."""
    return os.urandom(size)  # noqa: TID251 - the one door
