"""Whether a shard can live by rules and configurations. Pure."""

from typing import get_args

from sealift.attestation import TcbStatus
from sealift.base import encode
from sealift.protocol import (
    PLATFORM_KINDS,
    Leaf,
    ShardConfig,
    ShardRules,
    WorkersAuthority,
    leaves,
)

from ._authority import verify_authorities
from ._errors import ShardRulesError

#: A configuration is encoded in at most so many bytes.
MAX_CONFIG_BYTES = 16 * 1024
#: No more platforms can be asked to agree, nor instances to hold keys.
MAX_QUORUM = 64
#: No notice and no rescue takes longer (blocks).
MAX_WAIT = 100_000_000

_KNOWN_STATUSES = frozenset(get_args(TcbStatus))


def verify_rules(rules: ShardRules, config: ShardConfig) -> None:
    """Return if a shard can live by these rules.

    Raises:
        ShardRulesError: It cannot.
    """
    verify_authorities(rules)
    verify_config(config, rules)
    quorums = (rules.root_quorum, rules.effects_quorum, rules.rotation_quorum)
    if max(quorums) > MAX_QUORUM:
        raise ShardRulesError(
            "a quorum is too large", got=max(quorums), expected=f"≤ {MAX_QUORUM}"
        )
    waits = (
        rules.longest_notice,
        rules.rescue_after,
        rules.emergency_notice,
        rules.emergency_floor,
        rules.grace,
    )
    if max(waits) > MAX_WAIT:
        raise ShardRulesError(
            "a notice, grace or rescue is too long",
            got=max(waits),
            expected=f"≤ {MAX_WAIT} blocks",
        )


def verify_config(config: ShardConfig, rules: ShardRules) -> None:
    """Return if a generation of a shard can run under this configuration.

    Raises:
        ShardRulesError: It cannot.
    """
    if not config.code or set(config.code) - set(PLATFORM_KINDS):
        raise ShardRulesError(
            "configuration names no code, or one for an unknown platform",
            got=sorted(config.code),
            expected=f"some of {sorted(PLATFORM_KINDS)}",
        )
    size = len(encode(config))
    if size > MAX_CONFIG_BYTES:
        raise ShardRulesError(
            "configuration is too large", got=size, expected=f"≤ {MAX_CONFIG_BYTES} B"
        )
    accepted = set(config.attestation.accepted_tcb_statuses)
    if not accepted or accepted - _KNOWN_STATUSES:
        raise ShardRulesError(
            "accepted TCB statuses are none or unknown",
            got=sorted(accepted),
            expected=f"some of {sorted(_KNOWN_STATUSES)}",
        )
    seated = any(isinstance(one, WorkersAuthority) for one in _leaves(rules))
    if seated and not config.operators:
        raise ShardRulesError(
            "workers vote here, and the configuration lists no operators",
            expected="the accounts whose platforms have a vote",
        )
    if 0 < config.max_instances < rules.root_quorum:
        raise ShardRulesError(
            "fewer instances than must agree on a root",
            got=config.max_instances,
            expected=f"≥ {rules.root_quorum}",
        )


def _leaves(rules: ShardRules) -> list[Leaf]:
    trees = (rules.authority, rules.emergency)
    return [leaf for tree in trees if tree is not None for leaf in leaves(tree)]
