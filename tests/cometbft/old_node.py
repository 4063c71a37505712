"""`sealift node cometbft` as a release of before version 2 of the L1 runtime had it."""

import functools

from sealift.cli import _node as program
from sealift.cli import main
from sealift.ledger import FIRST_RUNTIME, RUNTIME_VERSIONS, version_table

if __name__ == "__main__":
    first = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])
    program.LedgerApplication = functools.partial(  # type: ignore[misc, assignment]
        program.LedgerApplication, versions=first
    )
    main()
