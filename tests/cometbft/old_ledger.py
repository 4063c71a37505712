"""The ledger's process as a release of before version 2 of the L1 runtime was."""

import functools

from sealift.ledger import FIRST_RUNTIME, RUNTIME_VERSIONS, version_table
from sealift.node.abci import __main__ as program

if __name__ == "__main__":
    first = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])
    program.LedgerApplication = functools.partial(  # type: ignore[misc, assignment]
        program.LedgerApplication, versions=first
    )
    program.main()
