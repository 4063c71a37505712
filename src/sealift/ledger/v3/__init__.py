"""Version 3 of the L1 runtime: rehearsals are a gate before other code runs.

Version 2's rules, but (ADR 0027):

1. An instance of a pending generation may say, between ``release_from`` and XYZ, how
   its rehearsal went. The newest word of each platform is kept, for this entry at this
   ``upgrade_at`` alone.
2. A shard may ask for *k* good ones. The state after XYZ-1 has the verdict: if they are
   not there, the entry is postponed by rule, and with it those that follow it.
3. How many are asked for is a record of its own, set when the shard is created and
   changed by an order of its own kind.

Schedules, rules and all that others prove are version 1's.
"""

from ._runtime import THIRD_RUNTIME, compose

__all__ = ["THIRD_RUNTIME", "compose"]
