"""`enclave_bridge` of version 2: no generation accepts arbitrarily old attestations."""

from typing import Protocol

from sealift.frame import Context
from sealift.ledger._bridge import EnclaveBridge
from sealift.ledger._errors import AttestationAgeError
from sealift.protocol import ShardConfig


class Ages(Protocol):
    """What the bridge asks of the registry."""

    def longest(self, ctx: Context) -> int:
        """The oldest attestation that a new generation may accept, in blocks."""


class BoundedBridge(EnclaveBridge):
    """Version 1's bridge, which takes no configuration above ``longest_age``.

    Entries that stand in a schedule already keep what they have.
    """

    name = "enclave_bridge"
    errors = (*EnclaveBridge.errors, AttestationAgeError)

    #: Set by the composition.
    ages: Ages

    def judge_config(self, ctx: Context, config: ShardConfig) -> None:
        """Return if this chain takes a new generation's configuration.

        Raises:
            AttestationAgeError: It accepts attestations that are too old.
        """
        wanted, longest = config.attestation.max_age_blocks, self.ages.longest(ctx)
        if wanted > longest:
            raise AttestationAgeError(
                "configuration accepts attestations that are too old for this chain",
                got=f"max_age_blocks {wanted}",
                expected=f"≤ {longest}",
            )
