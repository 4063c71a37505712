"""What a world's shard begins with: the call that creates it, and its genesis."""

from collections.abc import Callable, Mapping

from sealift.base import AccountId, encode


def creation(rehearsals: tuple[int, int] | None) -> tuple[str, dict[str, object]]:
    """The call that creates a shard, and the arguments of its gate.

    Args:
        rehearsals: How many an upgrade takes, and by how many blocks it is postponed
            without them; ``None``: none.
    """
    if rehearsals is None:
        return "enclave_bridge.create_shard", {}
    required, postpone_by = rehearsals
    gate: dict[str, object] = {"rehearsals": required, "postpone_by": postpone_by}
    return "enclave_bridge.create_gated_shard", gate


def genesis_blob(
    account: Callable[[str], AccountId],
    funds: Mapping[str, int] | None,
    own: Mapping[str, object] | None,
) -> bytes:
    """The genesis of a shard whose sudo key is the authority's.

    Args:
        account: Accounts by name.
        funds: Tokens by name (default: alice, bob and carol, 1,000 each).
        own: Of the application's own pallets.
    """
    given = {"alice": 1000, "bob": 1000, "carol": 1000} if funds is None else funds
    return encode(
        {
            "balances": {
                "endowments": [
                    {"account": account(name), "free": amount}
                    for name, amount in given.items()
                ]
            },
            "sudo": {"key": account("authority").hex()},
            **(own or {}),
        }
    )
