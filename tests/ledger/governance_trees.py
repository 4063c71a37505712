"""Who may decide: all sets of members that are enough, one by one."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from sealift.protocol import AnyOf, SignerAuthority, SudoAuthority, WorkersAuthority


def coalitions(tree: Any, *, everyone: bool = False) -> list[frozenset[Any]]:
    """All sets of members that are enough, by members' names."""
    members = getattr(tree, "members", None)
    if members is None:
        return [frozenset({name_of(tree)})]
    each = [coalitions(one, everyone=everyone) for one in members]
    if isinstance(tree, AnyOf) and not everyone:
        return [found for sets in each for found in sets]
    return [frozenset().union(*choice) for choice in product(*each)]


def name_of(leaf: Any) -> Any:
    """A member: its kind and key."""
    match leaf:
        case SudoAuthority():
            return ("key", leaf.key)
        case SignerAuthority():
            return ("vendor", leaf.mr_signer)
        case WorkersAuthority():
            return "workers"
        case _:
            return "stake"


def all_leaves(rules: Any) -> Iterator[Any]:
    """Members of the authority, then of the emergency authority."""
    waiting = [t for t in (rules.authority, rules.emergency) if t is not None]
    while waiting:
        tree = waiting.pop(0)
        members = getattr(tree, "members", None)
        if members is None:
            yield tree
        else:
            waiting = [*members, *waiting]
