"""``sealift gov``: what the upgrade authority decides, and what is on record."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import click
import msgspec

from sealift.base import (
    AccountId,
    Fingerprint,
    Generation,
    Height,
    SealiftError,
    encode,
)
from sealift.client import ProvenChain, ShardCard, read_card
from sealift.crypto import account_of
from sealift.protocol import (
    CancelOrder,
    EntryStatus,
    Schedule,
    ScheduleEntry,
    ShardConfig,
    ShardRules,
    ShardStatus,
    SignedOrder,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    config_at,
    leaves,
    next_upgrade,
    sign_order,
)
from sealift.transport.account import L1Account
from sealift.transport.keys import read_account_key

from ._authority import describe_authority
from ._cards import (
    card_option,
    code_of_bundle,
    open_chain,
    open_user,
    parse_code,
    read_bundle,
    read_policy,
)
from ._output import emit, emit_rows, json_option, say
from ._params import HEIGHT, NUMBER, PATH, open_l1, run

Order: TypeAlias = UpgradeOrder | CancelOrder | StatusOrder
#: The calls that carry orders through the shard.
_CALLS = {
    UpgradeOrder: "enclave_update.update_mrenclave",
    CancelOrder: "enclave_update.cancel_update",
    StatusOrder: "enclave_update.set_status",
}
#: An order that L1 has not seen this many blocks after its making is void.
_EXPIRY = 500
#: Blocks that may pass before an order stands in one.
_MARGIN = 5
_WAIT_SECONDS = 90.0
_POLL_SECONDS = 0.3


class OrderNotRecordedError(SealiftError):
    """An order went through the shard, but does not stand on L1 in time."""


class NotAuthorityKeyError(SealiftError):
    """A key that may not decide for this shard."""


class HeightWordError(SealiftError):
    """Neither a block height nor a number of blocks from now."""


authority_option = click.option(
    "--authority", type=PATH, required=True, help="Key file of the shard's authority."
)
payer_option = click.option(
    "--payer", type=PATH, help="Account key that pays on L1 (default: the authority)."
)
via_option = click.option(
    "--via-call", is_flag=True, help="By a TrustedCall to the shard; it reaches L1."
)
worker_option = click.option(
    "--worker", "workers", multiple=True, help="URL of a worker, for --via-call."
)


@click.group()
def gov() -> None:
    r"""Decide what code runs next, and see what was decided.

    \b
    Example:
      sealift gov schedule --card card.json --authority boss.json \
        --bundle auction-v2.bundle --at +60
    """


@gov.command()
@card_option
@authority_option
@payer_option
@via_option
@worker_option
@click.option("--bundle", type=PATH, help="The next code.")
@click.option("--code", multiple=True, help="More code: KIND=FINGERPRINT.")
@click.option("--at", required=True, help="Block XYZ: a height, or +N from now.")
@click.option("--release-from", help="When notice ends (default: as soon as allowed).")
@click.option("--policy", type=PATH, help="JSON of what TCB is accepted from then on.")
@click.option("--min-isv-svn", type=click.IntRange(0, 65_535))
@json_option
def schedule(
    *,
    card: Path,
    authority: Path,
    payer: Path | None,
    via_call: bool,
    workers: tuple[str, ...],
    bundle: Path | None,
    code: tuple[str, ...],
    at: str,
    release_from: str | None,
    policy: Path | None,
    min_isv_svn: int | None,
    as_json: bool,
) -> None:
    r"""Schedule the next generation: its code runs from block XYZ on.

    \b
    Examples:
      sealift gov schedule --card card.json --authority boss.json \
        --bundle auction-v2.bundle --at +60
      sealift gov schedule --card card.json --authority boss.json \
        --bundle auction-v2.bundle --at 5000 --via-call
    """
    wanted = {
        **({} if bundle is None else code_of_bundle(read_bundle(bundle))),
        **parse_code(code),
    }
    if not wanted:
        raise click.UsageError("Which code? Give --bundle, or --code.")
    attestation = read_policy(policy)

    def make(schedule: Schedule, height: Height) -> UpgradeOrder:
        last = _last_standing(schedule)
        changed = msgspec.structs.replace(last.config, code=wanted)
        if attestation is not None:
            changed = msgspec.structs.replace(changed, attestation=attestation)
        if min_isv_svn is not None:
            changed = msgspec.structs.replace(changed, min_isv_svn=min_isv_svn)
        return _upgrade(
            schedule, height, last, changed, at=at, release_from=release_from
        )

    found = run(
        _decide(card, authority, payer, make, workers=workers if via_call else None)
    )
    entry = found.entries[-1]
    emit({"serial": found.serial, **_row(entry)}, as_json=as_json)


@gov.command()
@card_option
@authority_option
@payer_option
@via_option
@worker_option
@click.argument("generation", type=HEIGHT)
@json_option
def cancel(
    *,
    card: Path,
    authority: Path,
    payer: Path | None,
    via_call: bool,
    workers: tuple[str, ...],
    generation: int,
    as_json: bool,
) -> None:
    r"""Cancel a pending GENERATION; counts up to the block before XYZ.

    \b
    Example:
      sealift gov cancel 1 --card card.json --authority boss.json
    """

    def make(schedule: Schedule, height: Height) -> CancelOrder:
        return CancelOrder(
            chain_id=schedule.chain_id,
            shard=schedule.shard,
            serial=schedule.serial,
            generation=Generation(generation),
            expiry=Height(height + _EXPIRY),
        )

    found = run(
        _decide(card, authority, payer, make, workers=workers if via_call else None)
    )
    emit(
        {"serial": found.serial, **_row(found.entry(generation))},
        as_json=as_json,
    )


@gov.command()
@card_option
@click.option("--authority", type=PATH, help="Key of the authority, for a change.")
@payer_option
@via_option
@worker_option
@click.option("--mode", type=click.Choice(["normal", "maintenance"]))
@click.option("--min-isv-svn", type=click.IntRange(0, 65_535), help="Raise the floor.")
@click.option("--min-tcb-evaluation", type=NUMBER, help="Raise the floor.")
@json_option
def status(
    *,
    card: Path,
    authority: Path | None,
    payer: Path | None,
    via_call: bool,
    workers: tuple[str, ...],
    mode: Literal["normal", "maintenance"] | None,
    min_isv_svn: int | None,
    min_tcb_evaluation: int | None,
    as_json: bool,
) -> None:
    r"""Show what governs the shard now; with an authority, change mode or floors.

    \b
    Examples:
      sealift gov status --card card.json
      sealift gov status --card card.json --authority boss.json --mode maintenance
    """
    changes = (mode, min_isv_svn, min_tcb_evaluation)
    if any(change is not None for change in changes):
        if authority is None:
            raise click.UsageError("A change needs --authority.")

        def make(schedule: Schedule, height: Height) -> StatusOrder:
            old = schedule.status
            return StatusOrder(
                chain_id=schedule.chain_id,
                shard=schedule.shard,
                serial=schedule.serial,
                status=ShardStatus(
                    mode=mode or old.mode,
                    min_isv_svn=_or(min_isv_svn, old.min_isv_svn),
                    min_tcb_evaluation_number=_or(
                        min_tcb_evaluation, old.min_tcb_evaluation_number
                    ),
                ),
                expiry=Height(height + _EXPIRY),
            )

        run(
            _decide(card, authority, payer, make, workers=workers if via_call else None)
        )
        say("Recorded; it acts from the next block on.")
    emit(run(_standing(card)), as_json=as_json)


@gov.command()
@card_option
@json_option
def history(*, card: Path, as_json: bool) -> None:
    r"""Every generation of the shard, past, present and pending.

    \b
    Example:
      sealift gov history --card card.json --json
    """
    _, found = run(_read(card))
    emit_rows("generations", [_row(entry) for entry in found.entries], as_json=as_json)


async def _read(card: Path) -> tuple[Height, Schedule]:
    known = read_card(card)
    async with open_chain(known) as chain:
        return await chain.schedule(known.shard_id)


async def _standing(card: Path) -> dict[str, object]:
    height, found = await _read(card)
    running = config_at(found, height)
    ahead = next_upgrade(found, height)
    return {
        "proven_at": height,
        "mode": found.status.mode,
        "min_isv_svn": found.status.min_isv_svn,
        "min_tcb_evaluation": found.status.min_tcb_evaluation_number,
        "generation": running.generation,
        "next_generation": ahead.generation if ahead else None,
        "upgrade_at": ahead.upgrade_at if ahead else None,
        "release_from": ahead.release_from if ahead else None,
        "serial": found.serial,
        "authority": describe_authority(found.rules.authority),
    }


async def _decide(
    card: Path,
    authority: Path,
    payer: Path | None,
    make: Callable[[Schedule, Height], Order],
    *,
    workers: tuple[str, ...] | None,
) -> Schedule:
    """Sign an order, bring it to L1, and return the schedule that has it."""
    known = read_card(card)
    secret = read_account_key(authority)
    async with open_chain(known) as chain:
        height, found = await chain.schedule(known.shard_id)
        _require_member(found.rules, account_of(secret))
        order = make(found, height)
        signed = sign_order(order, secret)
        if workers is None:
            paying = secret if payer is None else read_account_key(payer)
            await _by_l1(known, paying, signed)
        else:
            await _by_call(card, authority, payer, workers, signed)
        return await _recorded(chain, known, found.serial)


async def _by_l1(card: ShardCard, secret: bytes, signed: SignedOrder) -> None:
    async with open_l1(card.l1[0]) as l1:
        account = L1Account(secret, l1, card.chain)
        await account.act("enclave_bridge.submit_order", {"order": signed})


async def _by_call(
    card: Path,
    authority: Path,
    payer: Path | None,
    workers: tuple[str, ...],
    signed: SignedOrder,
) -> None:
    async with open_user(card, authority, payer=payer, workers=workers) as user:
        name = _CALLS[type(signed.order)]
        done = await user.call(name, {"order": encode(signed)}, within=_WAIT_SECONDS)
        done.require_ok()
        say(f"The shard accepted the order in block {done.height}.")


async def _recorded(chain: ProvenChain, card: ShardCard, serial: int) -> Schedule:
    """The proven schedule once its serial has risen.

    Raises:
        OrderNotRecordedError: It did not, in time.
    """
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            while True:
                _, found = await chain.schedule(card.shard_id)
                if found.serial > serial:
                    return found
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise OrderNotRecordedError(
            f"the order is not on L1 after {_WAIT_SECONDS:g} s",
            hint="A worker carries what the shard decided: is one running?",
        ) from error


def _upgrade(
    schedule: Schedule,
    height: Height,
    last: ScheduleEntry,
    config: ShardConfig,
    *,
    at: str,
    release_from: str | None,
) -> UpgradeOrder:
    upgrade_at = parse_height(at, height)
    if release_from is not None:
        release = parse_height(release_from, height)
    else:
        release = Height(height + schedule.rules.min_notice + _MARGIN)
        if release >= upgrade_at:
            raise HeightWordError(
                "too little notice",
                got=f"block {upgrade_at}, {upgrade_at - height} ahead",
                expected=f"> {release}: the shard's min_notice is "
                f"{schedule.rules.min_notice} blocks, and {_MARGIN} for the way",
            )
    return UpgradeOrder(
        chain_id=schedule.chain_id,
        shard=schedule.shard,
        serial=schedule.serial,
        predecessor=last.generation,
        config=config,
        release_from=release,
        upgrade_at=upgrade_at,
        expiry=Height(height + _EXPIRY),
    )


def parse_height(word: str, head: Height) -> Height:
    """A block: a height, or ``+N`` blocks from the head.

    Raises:
        HeightWordError: Neither of the two.
    """
    found = re.fullmatch(r"(\+?)([0-9]{1,18})", word, re.ASCII)
    if found is None:
        raise HeightWordError(
            "not a block", got=word[:40], expected="a height, or +N blocks from now"
        )
    number = int(found[2])
    return Height(head + number if found[1] else number)


def _last_standing(schedule: Schedule) -> ScheduleEntry:
    standing = (EntryStatus.PENDING, EntryStatus.ACTIVE)
    return max(
        (entry for entry in schedule.entries if entry.status in standing),
        key=lambda entry: entry.generation,
    )


def _row(entry: ScheduleEntry) -> dict[str, object]:
    code: dict[str, Fingerprint] = entry.config.code
    return {
        "generation": entry.generation,
        "status": str(entry.status),
        "code": ", ".join(f"{kind}={digest.hex()}" for kind, digest in code.items()),
        "recorded_at": entry.recorded_at,
        "release_from": entry.release_from,
        "upgrade_at": entry.upgrade_at,
        "predecessor": entry.predecessor,
        "order": entry.order,
    }


def _require_member(rules: ShardRules, key: AccountId) -> None:
    members = (rules.authority, rules.emergency)
    keys = [
        leaf.key
        for member in members
        if member is not None
        for leaf in leaves(member)
        if isinstance(leaf, SudoAuthority)
    ]
    if key not in keys:
        raise NotAuthorityKeyError(
            "this key is no member of the shard's upgrade authority",
            got=key,
            expected=describe_authority(rules.authority),
        )


def _or(value: int | None, other: int) -> int:
    return other if value is None else value
