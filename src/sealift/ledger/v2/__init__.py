"""Version 2 of the L1 runtime: the registry forgets what no rule can count again.

Version 1's rules, but (ADR 0022):

1. No new generation may accept an attestation that is older than ``longest_age``
   blocks. Root may lower that, never raise it.
2. An instance whose attestation is older than that, and older than whatever its
   shard's generations accept, is forgotten by rule, a few in each block.
3. What stays of it is to whose account and shard its key belongs (ADR 0012).

So forgetting changes no verdict: such an instance is lapsed for ever, and is refused
whether its record is there or not. Keys and encodings that others prove
(``docs/spec/proven-keys.md``) are version 1's.
"""

from ._aging import FIRST_LONGEST_AGE, FORGOTTEN_PER_BLOCK, LEAST_LONGEST_AGE
from ._runtime import SECOND_RUNTIME, compose

__all__ = [
    "FIRST_LONGEST_AGE",
    "FORGOTTEN_PER_BLOCK",
    "LEAST_LONGEST_AGE",
    "SECOND_RUNTIME",
    "compose",
]
