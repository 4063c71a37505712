"""``sealift gov schedule | cancel | postpone | …``: acts, one order each."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Final

import click
import msgspec

from sealift.base import AccountId, Digest, MrSigner
from sealift.bundle import parse_bundle
from sealift.crypto import sha256
from sealift.ledger import verify_rules
from sealift.protocol import (
    LEAST_POSTPONEMENT,
    MAX_REHEARSALS,
    MOST_POSTPONEMENT,
    CancelOrder,
    Order,
    PostponeOrder,
    RehearsalsOrder,
    RehearsalTerms,
    RulesOrder,
    StatusOrder,
    UpgradeOrder,
    WithdrawOrder,
)
from sealift.transport.bundle_folder import read_bundle_file

from ._authority import describe_authority
from ._cards import (
    card_option,
    code_of_bundle,
    parse_code,
    read_policy,
    require_code,
    vendor_identity,
)
from ._endorse import (
    Decision,
    Signing,
    WrongOrderError,
    decide,
    entry_of,
    read_order,
    signing_options,
)
from ._orders import (
    UpgradeWords,
    cancel_order,
    last_standing,
    postpone_order,
    rehearsals_order,
    rotation_order,
    rules_order,
    upgrade_order,
    withdraw_order,
)
from ._output import emit, json_option, say
from ._params import ACCOUNT, HEIGHT, HEX32, NUMBER, PATH, run
from ._records import Government
from ._rules import RulesWords, alone_pays, rules_options, unanimity

_MAX_SOURCE: Final = 256
_UPGRADE_OPTIONS: Final = (
    click.option("--bundle", type=PATH, help="The next code."),
    click.option("--bundle-url", default="", help="Where everybody gets that bundle."),
    click.option("--code", multiple=True, help="More code: KIND=FINGERPRINT."),
    click.option("--at", help="Block XYZ: a height, or +N from now."),
    click.option(
        "--release-from", help="When notice ends (default: as soon as allowed)."
    ),
    click.option(
        "--emergency", is_flag=True, help="At the shard's emergency notice instead."
    ),
    click.option(
        "--policy", type=PATH, help="JSON of what TCB is accepted from then on."
    ),
    click.option("--min-isv-svn", type=click.IntRange(0, 65_535)),
    click.option("--max-instances", type=click.IntRange(0, 10_000)),
    click.option(
        "--operator",
        "operators",
        type=ACCOUNT,
        multiple=True,
        help="Account whose instances may run; repeatable (default: as before).",
    ),
    click.option("--mr-signer", type=HEX32, help="Whose code it must be."),
    click.option("--prod-id", type=click.IntRange(0, 65_535), help="Which product."),
)


def upgrade_options(command: Callable[..., None]) -> Callable[..., None]:
    """What runs next; the command gets one ``words``, ``None`` if nothing is said."""

    @wraps(command)
    def collected(
        *,
        bundle: Path | None,
        bundle_url: str,
        code: tuple[str, ...],
        at: str | None,
        release_from: str | None,
        emergency: bool,
        policy: Path | None,
        min_isv_svn: int | None,
        max_instances: int | None,
        operators: tuple[AccountId, ...],
        mr_signer: bytes | None,
        prod_id: int | None,
        **others: object,
    ) -> None:
        said = (bundle, bundle_url, code, at, release_from, emergency, policy,
                min_isv_svn, max_instances, operators, mr_signer, prod_id)  # fmt: skip
        if all(one is None or one is False or one in ("", ()) for one in said):
            command(words=None, **others)
            return
        command(
            words=_words(
                bundle, bundle_url, code, at, release_from, policy=policy,
                emergency=emergency, min_isv_svn=min_isv_svn,
                max_instances=max_instances, operators=operators,
                mr_signer=mr_signer, prod_id=prod_id,
            ),
            **others,
        )  # fmt: skip

    made: Callable[..., None] = collected
    for option in reversed(_UPGRADE_OPTIONS):
        made = option(made)
    return made


def _words(
    bundle: Path | None,
    source: str,
    code: tuple[str, ...],
    at: str | None,
    release_from: str | None,
    *,
    policy: Path | None,
    emergency: bool,
    min_isv_svn: int | None,
    max_instances: int | None,
    operators: tuple[AccountId, ...],
    mr_signer: bytes | None,
    prod_id: int | None,
) -> UpgradeWords:
    """What was said, with what stands in the files that were named."""
    wanted, digest = parse_code(code), None
    identity: tuple[MrSigner | None, int | None] = (None, None)
    if bundle is not None:
        raw = read_bundle_file(bundle)
        parsed = parse_bundle(raw)
        wanted = {**code_of_bundle(parsed), **wanted}
        digest, identity = Digest(sha256(raw)), vendor_identity(parsed)
    require_code(wanted, of_bundle=bundle is not None)
    if at is None:
        raise click.UsageError("From which block on? Give --at.")
    if len(source) > _MAX_SOURCE:
        raise click.UsageError(f"--bundle-url is longer than {_MAX_SOURCE}.")
    return UpgradeWords(
        code=wanted,
        at=at,
        release_from=release_from,
        bundle=digest,
        source=source,
        emergency=emergency,
        attestation=read_policy(policy),
        min_isv_svn=min_isv_svn,
        max_instances=max_instances,
        operators=operators,
        mr_signer=None if mr_signer is None else MrSigner(mr_signer),
        prod_id=prod_id,
        identity=identity,
    )


@click.command()
@card_option
@signing_options
@upgrade_options
@json_option
def schedule(
    *, card: Path, signing: Signing, words: UpgradeWords | None, as_json: bool
) -> None:
    r"""Schedule the next generation: its code runs from block XYZ on.

    The order is made once and endorsed by one member after the other. What is not
    said stays as in the generation before.

    \b
    Examples:
      sealift gov schedule --card card.json --authority boss.json \
        --bundle auction-v2.bundle --at +60
      sealift gov schedule --card card.json --authority boss.json \
        --bundle auction-v2.bundle --at 5000 --via-call
      sealift gov schedule --card card.json --bundle auction-v2.bundle --at +90 \
        --bundle-url http://127.0.0.1:8000/v2.bundle --out order.bin
      sealift gov schedule --card card.json --order order.bin --vendor vendor.pem \
        --payer op.json
    """
    if (words is None) == (signing.order is None):
        raise click.UsageError("Say what runs next, or give --order; not both.")

    def make(now: Government) -> Order:
        if words is None:
            raise click.UsageError("Say what runs next.")
        later = signing.out is not None
        return upgrade_order(
            now.schedule, now.height, words, later=later, interval=now.interval
        )

    show(run(decide(card, signing, make, kind=UpgradeOrder)), None, as_json=as_json)


@click.command()
@card_option
@signing_options
@click.argument("generation", type=HEIGHT)
@json_option
def cancel(*, card: Path, signing: Signing, generation: int, as_json: bool) -> None:
    r"""Cancel a pending GENERATION; counts up to the block before XYZ.

    \b
    Example:
      sealift gov cancel 1 --card card.json --authority boss.json
    """
    require_generation(signing, generation)

    def make(now: Government) -> Order:
        return cancel_order(now.schedule, now.height, generation)

    found = run(decide(card, signing, make, kind=CancelOrder))
    show(found, generation, as_json=as_json)


@click.command()
@card_option
@signing_options
@click.argument("generation", type=HEIGHT)
@click.option("--at", help="The new block XYZ: a height, or +N from now.")
@json_option
def postpone(
    *, card: Path, signing: Signing, generation: int, at: str | None, as_json: bool
) -> None:
    r"""Put a pending GENERATION off to a later block.

    \b
    Example:
      sealift gov postpone 1 --at +200 --card card.json --authority boss.json
    """
    require_generation(signing, generation)
    if (at is None) == (signing.order is None):
        raise click.UsageError("To which block? Give --at, or --order; not both.")

    def make(now: Government) -> Order:
        return postpone_order(now.schedule, now.height, generation, at or "")

    found = run(decide(card, signing, make, kind=PostponeOrder))
    show(found, generation, as_json=as_json)


@click.command()
@card_option
@signing_options
@rules_options
@click.option("--no-emergency", is_flag=True, help="Nobody has emergency powers.")
@click.option("--at", help="From which block on: a height, or +N from now.")
@json_option
def rules(
    *,
    card: Path,
    signing: Signing,
    words: RulesWords,
    no_emergency: bool,
    at: str | None,
    as_json: bool,
) -> None:
    r"""Change authority, notice, quorums or handover, at the longest notice.

    All members of an any-of must endorse it, so that none removes the others.

    \b
    Example:
      sealift gov rules --card card.json --authority boss.json \
        --authority-json authority.json --at +500
    """
    silent = words.silent and not no_emergency and at is None
    if silent == (signing.order is None):
        raise click.UsageError("Say which rules and --at, or give --order; not both.")
    if not silent and at is None:
        raise click.UsageError("From which block on? Give --at.")

    def make(now: Government) -> Order:
        before = now.schedule.rules
        if no_emergency:
            before = msgspec.structs.replace(before, emergency=None, emergency_notice=0)
        wanted = words.apply(before)
        verify_rules(wanted, last_standing(now.schedule).config)
        if alone_pays(wanted):
            say(alone_pays(wanted))
        return rules_order(now.schedule, now.height, wanted, at or "")

    found = run(decide(card, signing, make, kind=RulesOrder))
    old = found.government.schedule.rules.authority
    if not found.decided and unanimity(old):
        say("All members must endorse a change of rules: " + describe_authority(old))
    show(found, None, as_json=as_json)


@click.command()
@card_option
@signing_options
@click.option(
    "--required",
    type=click.IntRange(0, MAX_REHEARSALS),
    help="Platforms that must have rehearsed an upgrade well; 0: none.",
)
@click.option(
    "--postpone-by",
    type=click.IntRange(LEAST_POSTPONEMENT, MOST_POSTPONEMENT),
    help="Blocks that an upgrade is put off by without them.",
)
@click.option("--at", help="From which block on: a height, or +N from now.")
@json_option
def rehearsals(
    *,
    card: Path,
    signing: Signing,
    required: int | None,
    postpone_by: int | None,
    at: str | None,
    as_json: bool,
) -> None:
    r"""Change how many good rehearsals an upgrade takes, at the longest notice.

    More and fewer alike: more may keep an upgrade from running, fewer take a
    protection away. All members of an any-of must endorse it. What is pending
    is judged by the terms of block XYZ-1.

    \b
    Examples:
      sealift gov rehearsals --required 2 --postpone-by 600 --at +500 \
        --card card.json --authority boss.json
      sealift gov rehearsals --required 0 --at +500 --card card.json \
        --authority boss.json
    """
    silent = required is None and postpone_by is None and at is None
    if silent == (signing.order is None):
        raise click.UsageError("Say --required and --at, or give --order; not both.")
    if not silent and (required is None or at is None):
        raise click.UsageError("How many, from which block on? --required and --at.")
    if required and postpone_by is None:
        raise click.UsageError("Put off by how many blocks? Give --postpone-by.")
    if required == 0 and postpone_by is not None:
        raise click.UsageError("--required 0 puts nothing off: no --postpone-by.")

    def make(now: Government) -> Order:
        terms = RehearsalTerms(required=required or 0, postpone_by=postpone_by or 0)
        return rehearsals_order(now.schedule, now.height, now.gate, terms, at or "")

    found = run(decide(card, signing, make, kind=RehearsalsOrder))
    old = found.government.schedule.rules.authority
    if not found.decided and unanimity(old):
        say("All members must endorse a change of terms: " + describe_authority(old))
    show(found, None, as_json=as_json)


@click.command()
@card_option
@signing_options
@json_option
def withdraw(*, card: Path, signing: Signing, as_json: bool) -> None:
    r"""Withdraw a change of rules, or of rehearsals, that is pending.

    \b
    Example:
      sealift gov withdraw --card card.json --authority boss.json
    """

    def make(now: Government) -> Order:
        return withdraw_order(now.schedule, now.height)

    show(
        run(decide(card, signing, make, kind=WithdrawOrder)),
        None,
        as_json=as_json,
    )


@click.command("rotate-keys")
@card_option
@signing_options
@click.option(
    "--not-before",
    help="Only what was attested at or after this block gets the new keys.",
)
@click.option(
    "--grace",
    type=NUMBER,
    default=0,
    help="Blocks in which calls under the old keys are still taken.",
)
@json_option
def rotate_keys(
    *, card: Path, signing: Signing, not_before: str | None, grace: int, as_json: bool
) -> None:
    r"""Order new keys for the shard, without an upgrade.

    \b
    Example:
      sealift gov rotate-keys --not-before +0 --card card.json --authority boss.json
    """

    def make(now: Government) -> Order:
        return rotation_order(
            now.schedule, now.height, now.standing, not_before=not_before, grace=grace
        )

    found = run(decide(card, signing, make, kind=StatusOrder))
    show(found, None, as_json=as_json)


def show(found: Decision, generation: int | None, *, as_json: bool) -> None:
    """The answer of a command that made or endorsed an order."""
    if found.written is not None:
        say("Nothing is submitted: members endorse it by `sealift gov submit`.")
    elif found.lacking:
        names = "; ".join(describe_authority(one) for one in found.lacking)
        say(f"Endorsed, not decided: it lacks {names}.")
    emit({**found.row(), **entry_of(found, generation)}, as_json=as_json)


def require_generation(signing: Signing, generation: int) -> None:
    """Return if an order that is given is about the generation that is named.

    Raises:
        WrongOrderError: It is about another.
    """
    if signing.order is None:
        return
    order = read_order(signing.order).order
    about = getattr(order, "generation", None)
    if about != generation:
        raise WrongOrderError(
            "the file's order is about another generation",
            got=about,
            expected=generation,
        )
