"""Which engines may drive the ledger."""

import re
from typing import Final

from sealift.relay import BLOCK_PROTOCOL

from ._errors import AbciVersionError
from ._messages import InfoRequest

#: v0.38, v0.39 and v0.40 say so in ``Info``.
ABCI_VERSION: Final = "2.0.0"
#: The line whose rules for time, blocks and evidence relay and ledger follow.
ENGINE_LINE: Final = (0, 38)
#: Before it, a commit's addresses were not compared with its validators'.
FIRST_SAFE_PATCH: Final = 21
_VERSION: Final = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:[-+].*)?", re.ASCII)
_HINT: Final = "Run CometBFT v0.38.25"


def require_engine(request: InfoRequest) -> None:
    """Return if the engine that asks is one whose chain we can follow.

    1. It speaks ABCI 2.0. 2. It is CometBFT v0.38, from the release on that
    compares addresses in commits (v0.40 counts block time otherwise, v1 has other
    messages). 3. Its blocks have the protocol of our headers.

    Raises:
        AbciVersionError: It is not.
    """
    if request.abci_version != ABCI_VERSION:  # 1
        raise AbciVersionError(
            f"CometBFT {request.version} speaks another ABCI",
            got=request.abci_version,
            expected=ABCI_VERSION,
            hint=_HINT,
        )
    found = _VERSION.fullmatch(request.version)  # 2
    number = tuple(map(int, found.groups())) if found else ()
    if number[:2] != ENGINE_LINE or number[2] < FIRST_SAFE_PATCH:
        raise AbciVersionError(
            "another CometBFT than the one this ledger was made for",
            got=request.version[:80],
            expected=f"0.38.{FIRST_SAFE_PATCH} or a later 0.38",
            hint=_HINT,
        )
    if request.block_version != BLOCK_PROTOCOL:  # 3
        raise AbciVersionError(
            "another block protocol",
            got=request.block_version,
            expected=BLOCK_PROTOCOL,
            hint=_HINT,
        )
