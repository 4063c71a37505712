"""What an order asks for, in fields for people: read before it is signed."""

from sealift.protocol import (
    CancelOrder,
    Order,
    PostponeOrder,
    RehearsalsOrder,
    RulesOrder,
    StatusOrder,
    UpgradeOrder,
    WithdrawOrder,
)

from ._authority import describe_authority


def order_view(order: Order) -> dict[str, object]:
    """Everything that an order says."""
    head: dict[str, object] = {
        "order": order.digest(),
        "kind": type(order).__name__,
        "chain_id": order.chain_id,
        "shard": order.shard,
        "serial": order.serial,
        "expires_at": order.expiry,
    }
    match order:
        case UpgradeOrder():
            config = order.config
            return {
                **head,
                "after_generation": order.predecessor,
                "code": {kind: one.hex() for kind, one in config.code.items()},
                "release_from": order.release_from,
                "upgrade_at": order.upgrade_at,
                "emergency": order.emergency,
                "bundle": order.bundle,
                "source": order.source,
                "min_isv_svn": config.min_isv_svn,
                "mr_signer": config.mr_signer,
                "isv_prod_id": config.isv_prod_id,
                "max_instances": config.max_instances,
                "operators": config.operators,
                "policy": config.attestation,
            }
        case CancelOrder():
            return {**head, "generation": order.generation}
        case PostponeOrder():
            return {
                **head,
                "generation": order.generation,
                "upgrade_at": order.upgrade_at,
            }
        case StatusOrder():
            return {**head, "status": order.status, "rotate": order.rotate}
        case RulesOrder():
            rules = order.rules
            emergency = rules.emergency
            return {
                **head,
                "effective_at": order.effective_at,
                "authority": describe_authority(rules.authority),
                "emergency": describe_authority(emergency) if emergency else None,
                "min_notice": rules.min_notice,
                "rescue_after": rules.rescue_after,
                "rules_notice": rules.rules_notice,
                "emergency_notice": rules.emergency_notice,
                "root_quorum": rules.root_quorum,
                "effects_quorum": rules.effects_quorum,
                "rotation_quorum": rules.rotation_quorum,
                "grace": rules.grace,
                "handover": rules.handover,
            }
        case RehearsalsOrder():
            return {
                **head,
                "effective_at": order.effective_at,
                "rehearsals": order.required,
                "postpone_by": order.postpone_by,
            }
        case WithdrawOrder():
            return head
