"""``sealift`` as a release of before version 2 of the L1 runtime was: it has only 1."""

import functools
import sys

from sealift.cli import _chain, run_cli
from sealift.ledger import FIRST_RUNTIME, RUNTIME_VERSIONS, version_table

if __name__ == "__main__":
    first = version_table(RUNTIME_VERSIONS[FIRST_RUNTIME])
    _chain.LedgerApplication = functools.partial(  # type: ignore[misc, assignment]
        _chain.LedgerApplication, versions=first
    )
    sys.exit(run_cli(tuple(sys.argv[1:])))
