"""What a shard lives by, as words on the command line."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Final, get_args

import click
import msgspec

from sealift.protocol import (
    AnyOf,
    Authority,
    HandoverPolicy,
    ShardRules,
    SignerAuthority,
    leaves,
)
from sealift.protocol.schedule import Handover

from ._authority_json import read_authority
from ._params import PATH

_SECRETS: Final = ("shielding", "state", "root")
_FATES: Final = get_args(Handover)
_BLOCKS: Final = click.IntRange(0, 100_000_000)
_SOME_BLOCKS: Final = click.IntRange(1, 100_000_000)
_PLATFORMS: Final = click.IntRange(1, 64)


class HandoverParam(click.ParamType[HandoverPolicy]):
    """``shielding=…,state=…,root=…``; what is not named is rotated."""

    name = "handover"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> HandoverPolicy:
        """The policy."""
        if isinstance(value, HandoverPolicy):
            return value
        fates: dict[str, str] = {}
        for word in str(value).split(","):
            name, _, fate = word.strip().partition("=")
            if name not in _SECRETS or fate not in _FATES or name in fates:
                self.fail(
                    f"{word.strip()[:40]!r} is not one of {', '.join(_SECRETS)}, once, "
                    f"with =, and one of {', '.join(_FATES)}",
                    param,
                    ctx,
                )
            fates[name] = fate
        return msgspec.convert(
            ["HandoverPolicy", *(fates.get(one, "rotate") for one in _SECRETS)],
            HandoverPolicy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesWords:
    """Rules that were named; ``None`` where nothing was said."""

    authority_json: Path | None
    emergency_json: Path | None
    min_notice: int | None
    rescue_after: int | None
    rules_notice: int | None
    emergency_notice: int | None
    root_quorum: int | None
    effects_quorum: int | None
    rotation_quorum: int | None
    grace: int | None
    handover: HandoverPolicy | None

    def authority(self) -> Authority | None:
        """The authority that is named.

        Raises:
            AuthorityDocumentError, FileError: It cannot be read.
        """
        path = self.authority_json
        return None if path is None else read_authority(path)

    def apply(self, rules: ShardRules) -> ShardRules:
        """The rules, with what was said instead.

        Raises:
            AuthorityDocumentError, FileError: An authority cannot be read.
        """
        changes: dict[str, object] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if not field.name.endswith("_json")
            and getattr(self, field.name) is not None
        }
        authority = self.authority()
        if authority is not None:
            changes["authority"] = authority
        if self.emergency_json is not None:
            changes["emergency"] = read_authority(self.emergency_json)
        return msgspec.structs.replace(rules, **changes)

    @property
    def silent(self) -> bool:
        """Whether nothing was said at all."""
        return all(getattr(self, field.name) is None for field in fields(self))


_OPTIONS: Final = (
    click.option(
        "--authority-json",
        type=PATH,
        help="JSON document of who may say what code runs next.",
    ),
    click.option(
        "--emergency-json",
        type=PATH,
        help="JSON document of who may pause, cancel, raise floors and rotate.",
    ),
    click.option(
        "--min-notice",
        type=_SOME_BLOCKS,
        help="Blocks from a decision to the release of keys.",
    ),
    click.option(
        "--rescue-after",
        type=_SOME_BLOCKS,
        help="Blocks after which a generation that never came is void.",
    ),
    click.option("--rules-notice", type=_BLOCKS, help="Blocks before other rules act."),
    click.option(
        "--emergency-notice",
        type=_BLOCKS,
        help="Blocks before emergency code gets keys (0: no such way).",
    ),
    click.option(
        "--root-quorum", type=_PLATFORMS, help="Platforms that agree on a root."
    ),
    click.option(
        "--effects-quorum",
        type=_PLATFORMS,
        help="Platforms that agree on what leaves the shard.",
    ),
    click.option(
        "--rotation-quorum",
        type=_PLATFORMS,
        help="Instances that hold new keys before they act.",
    ),
    click.option(
        "--grace", type=_BLOCKS, help="Blocks in which old keys' calls are taken."
    ),
    click.option(
        "--handover",
        type=HandoverParam(),
        help="What becomes of secrets: shielding=…,state=…,root=… "
        "(pass, re-derive, rotate, forbid).",
    ),
)


def rules_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of rules; the command gets one ``words``."""
    names = [field.name for field in fields(RulesWords)]

    @wraps(command)
    def collected(**given: object) -> None:
        said = {name: given.pop(name) for name in names}
        command(words=RulesWords(**said), **given)  # type: ignore[arg-type] # click's

    made: Callable[..., None] = collected
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


def vendor_member(rules: ShardRules) -> SignerAuthority | None:
    """The vendor among the authority's members, if exactly one is."""
    found = [one for one in leaves(rules.authority) if isinstance(one, SignerAuthority)]
    return found[0] if len(found) == 1 else None


def alone_pays(rules: ShardRules) -> str:
    """What must be said in the open of a shard's rules; empty if nothing."""
    if rules.effects_quorum == 1:
        return "EFFECTS QUORUM 1: one platform alone pays out"
    return ""


def unanimity(authority: Authority) -> bool:
    """Whether a change of rules takes more members than a decision does."""
    if isinstance(authority, AnyOf):
        return len(authority.members) > 1
    members = getattr(authority, "members", ())
    return any(unanimity(one) for one in members)
