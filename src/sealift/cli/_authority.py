"""Authorities in words and in JSON files."""

from sealift.protocol import (
    AllOf,
    AnyOf,
    Authority,
    SignerAuthority,
    StakeAuthority,
    SudoAuthority,
    WorkersAuthority,
)


def describe_authority(authority: Authority) -> str:
    """Who may decide, in one line."""
    match authority:
        case SudoAuthority():
            return f"key {authority.key.hex()}"
        case WorkersAuthority():
            return (
                f"more than {authority.threshold} of the workers' platforms, "
                f"seated for {authority.seat_age} blocks"
            )
        case StakeAuthority():
            return (
                f"more than {authority.threshold} of the stake that votes, "
                f"with at least {authority.quorum} of all stake"
            )
        case SignerAuthority():
            return (
                f"vendor {authority.mr_signer.hex()}, product {authority.prod_id}, "
                f"version {authority.min_svn} or later"
            )
        case AnyOf():
            return _joined("any of", authority.members)
        case AllOf():
            return _joined("all of", authority.members)


def _joined(word: str, members: tuple[Authority, ...]) -> str:
    return f"{word} ({'; '.join(describe_authority(one) for one in members)})"
