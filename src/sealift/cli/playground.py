"""What the demo is played on, for the workshop: a stage, users, a look at L1.

Everything here is for this machine and protects nobody.
"""

from ._demo_load import ChainScan, Load
from ._demo_stage import CHAIN_ID, DemoOptions, Stage, set_stage, write_worker_home

__all__ = [
    "CHAIN_ID",
    "ChainScan",
    "DemoOptions",
    "Load",
    "Stage",
    "set_stage",
    "write_worker_home",
]
