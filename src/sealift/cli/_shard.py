"""``sealift shard``: making shards, and telling users of them."""

import asyncio
from pathlib import Path

import click
import msgspec

from sealift.base import (
    AccountId,
    DecodeError,
    MrSigner,
    ShardId,
    decode,
    encode,
    parse_hex,
)
from sealift.client import read_card, write_card
from sealift.crypto import account_of, sha256
from sealift.frame import EmittedEvent
from sealift.ledger import ledger_metadata, verify_rules
from sealift.protocol import (
    LEAST_POSTPONEMENT,
    MAX_REHEARSALS,
    MOST_POSTPONEMENT,
    AttestationPolicy,
    Authority,
    NoGenerationError,
    RehearsalTerms,
    ShardConfig,
    ShardRules,
    SudoAuthority,
    config_at,
    leaves,
    next_upgrade,
)
from sealift.transport.account import L1Account
from sealift.transport.clock import format_time
from sealift.transport.files import (
    UnreadableFileError,
    create_durably,
    read_or_explain,
)
from sealift.transport.keys import read_account_key

from ._authority import describe_authority
from ._cards import (
    card_of_bundle,
    card_option,
    code_of_bundle,
    open_chain,
    parse_code,
    read_bundle,
    read_policy,
    require_code,
    vendor_identity,
)
from ._output import emit, json_option, say
from ._params import ACCOUNT, HEX32, PATH, open_l1, rpc_option, run
from ._rules import RulesWords, alone_pays, rules_options, vendor_member

_CREATED = "enclave_bridge.ShardCreated"
_POLL_SECONDS = 0.1
_MIN_NOTICE = 20
_RESCUE_AFTER = 100
#: A digest is as good as a public key that nobody can sign for.
_NOBODY = AccountId(sha256(b"sealift/nobody/v1\x00"))


@click.group()
def shard() -> None:
    r"""Shards: confidential state machines on L1.

    \b
    Example:
      sealift shard create --bundle auction-v1.bundle --authority boss.json \
        --min-notice 20 --rescue-after 50 --card card.json --genesis genesis.bin
    """


@shard.command()
@rpc_option
@click.option(
    "--authority",
    type=PATH,
    help="Account key of who may say what code runs next; pays, too.",
)
@click.option("--payer", type=PATH, help="Account key that pays instead.")
@click.option(
    "--bundle",
    type=PATH,
    required=True,
    help="The first code; its runtime stands in the card.",
)
@click.option("--code", multiple=True, help="More code: KIND=FINGERPRINT.")
@rules_options
@click.option(
    "--emergency-floor",
    type=click.IntRange(0, 100_000_000),
    default=0,
    help="The emergency notice is never less; 0: there is never one.",
)
@click.option("--policy", type=PATH, help="JSON of what TCB is accepted.")
@click.option("--min-isv-svn", type=click.IntRange(0, 65_535), default=0)
@click.option("--max-instances", type=click.IntRange(0, 10_000), default=0)
@click.option(
    "--operator",
    "operators",
    type=ACCOUNT,
    multiple=True,
    help="Account whose instances may run; repeatable (default: any).",
)
@click.option("--mr-signer", type=HEX32, help="Whose code it must be.")
@click.option("--prod-id", type=click.IntRange(0, 65_535), help="Which product.")
@click.option(
    "--rehearsals",
    type=click.IntRange(0, MAX_REHEARSALS),
    default=0,
    help="Platforms that must have rehearsed an upgrade well, or it is put off.",
)
@click.option(
    "--postpone-by",
    type=click.IntRange(LEAST_POSTPONEMENT, MOST_POSTPONEMENT),
    help="With --rehearsals: by how many blocks.",
)
@click.option("--page-bits", type=click.IntRange(4, 22), default=16, show_default=True)
@click.option("--state", type=PATH, help="JSON of the genesis state, by pallet.")
@click.option(
    "--genesis",
    type=PATH,
    default=Path("genesis.bin"),
    show_default=True,
    help="Where the genesis blob goes, for the first worker.",
)
@click.option(
    "--card", type=PATH, default=Path("card.json"), show_default=True, help="The card."
)
@json_option
def create(
    *,
    rpc: str,
    authority: Path | None,
    payer: Path | None,
    bundle: Path,
    code: tuple[str, ...],
    words: RulesWords,
    emergency_floor: int,
    policy: Path | None,
    min_isv_svn: int,
    max_instances: int,
    operators: tuple[AccountId, ...],
    mr_signer: bytes | None,
    prod_id: int | None,
    rehearsals: int,
    postpone_by: int | None,
    page_bits: int,
    state: Path | None,
    genesis: Path,
    card: Path,
    as_json: bool,
) -> None:
    r"""Create a shard: rules, first code, genesis; writes its card.

    What is fixed here can be changed later only with the longest notice. Without
    other words: --min-notice 20, --rescue-after 100, --effects-quorum 2.

    \b
    Examples:
      sealift shard create --bundle auction-v1.bundle --authority boss.json \
        --min-notice 20 --rescue-after 50
      sealift shard create --bundle auction-v1.bundle --payer op.json \
        --authority-json authority.json --emergency-json pause.json \
        --effects-quorum 2 --handover shielding=pass
    """
    if bool(rehearsals) != (postpone_by is not None):
        raise click.UsageError("--rehearsals K and --postpone-by N go together.")
    terms = RehearsalTerms(required=rehearsals, postpone_by=postpone_by or 0)
    who, paying = _deciders(authority, payer, words)
    sudo = sole_key(who)
    blob = _genesis_blob(state, sudo)
    first = read_bundle(bundle)
    rules = words.apply(
        ShardRules(
            authority=who,
            genesis=sha256(blob),
            min_notice=_MIN_NOTICE,
            rescue_after=_RESCUE_AFTER,
            page_bits=page_bits,
            emergency_floor=emergency_floor,
        )
    )
    identity = vendor_identity(first) if vendor_member(rules) else (None, None)
    wanted = {**code_of_bundle(first), **parse_code(code)}
    require_code(wanted, of_bundle=True)
    config = ShardConfig(
        code=wanted,
        min_isv_svn=min_isv_svn,
        attestation=read_policy(policy) or AttestationPolicy(),
        max_instances=max_instances,
        operators=operators,
        mr_signer=identity[0] if mr_signer is None else MrSigner(mr_signer),
        isv_prod_id=identity[1] if prod_id is None else prod_id,
    )
    verify_rules(rules, config)
    _keep_genesis(genesis, blob)
    made = run(_create(rpc, paying, rules, config, terms))
    write_card(card, card_of_bundle(first, shard=made, l1=rpc, workers=()))
    say(f"The first worker needs {genesis}; users need {card}.")
    if alone_pays(rules):
        say(alone_pays(rules))
    emit(
        {
            "shard": made,
            "authority": sudo if authority is not None else describe_authority(who),
            "code": {kind: digest.hex() for kind, digest in config.code.items()},
            "effects_quorum": rules.effects_quorum,
            "rehearsals": rehearsals,
            "postpone_by": terms.postpone_by,
            "genesis": str(genesis),
            "genesis_sha256": rules.genesis,
            "card": str(card),
        },
        as_json=as_json,
    )


@shard.command("card")
@click.option("--shard", "shard_id", type=HEX32, help="The shard (default: --from's).")
@click.option("--from", "old", type=PATH, help="A card to change.")
@click.option("--bundle", type=PATH, help="Runtime, trust root and roots from it.")
@click.option("--rpc", help="RPC of an L1 node, for users.")
@click.option("--worker", "workers", multiple=True, help="URL of a worker.")
@click.option("-o", "--out", type=PATH, required=True, help="The card to write.")
@json_option
def card_command(
    *,
    shard_id: bytes | None,
    old: Path | None,
    bundle: Path | None,
    rpc: str | None,
    workers: tuple[str, ...],
    out: Path,
    as_json: bool,
) -> None:
    r"""Write the card that users of a shard need; nothing in it is secret.

    \b
    Example:
      sealift shard card --from card.json --bundle auction-v2.bundle \
        --worker http://127.0.0.1:7000 -o card.json
    """
    known = None if old is None else read_card(old)
    named = shard_id.hex() if shard_id else known.shard if known else ""
    node = rpc or (known.l1[0] if known else "")
    urls = workers or (known.workers if known else ())
    if bundle is not None and named and node:
        made = card_of_bundle(
            read_bundle(bundle),
            shard=ShardId(bytes.fromhex(named)),
            l1=node,
            workers=urls,
        )
    elif known is not None:
        made = msgspec.structs.replace(
            known, shard=named, workers=urls, l1=(rpc,) if rpc else known.l1
        )
    else:
        raise click.UsageError("Give --from CARD, or --shard, --bundle and --rpc.")
    write_card(out, made)
    emit(
        {"card": str(out), "shard": made.shard, "l1": made.l1, "workers": made.workers},
        as_json=as_json,
    )


@shard.command()
@card_option
@json_option
def status(*, card: Path, as_json: bool) -> None:
    r"""How a shard stands, proven from the card's trust root on.

    \b
    Example:
      sealift shard status --card card.json
    """
    emit(run(_status(card)), as_json=as_json)


def _deciders(
    authority: Path | None, payer: Path | None, words: RulesWords
) -> tuple[Authority, bytes]:
    """Who decides, and the secret of who pays."""
    described = words.authority()
    if (authority is None) == (described is None):
        raise click.UsageError("Who decides? Give --authority or --authority-json.")
    key = payer if payer is not None else authority
    if key is None:
        raise click.UsageError("Who pays? An --authority-json needs --payer.")
    if described is not None:
        return described, read_account_key(key)
    secret = read_account_key(authority) if authority is not None else b""
    paying = secret if payer is None else read_account_key(payer)
    return SudoAuthority(key=account_of(secret)), paying


def sole_key(authority: Authority) -> AccountId:
    """The key that has sudo in an empty shard: the authority's only one, or nobody."""
    keys = [one.key for one in leaves(authority) if isinstance(one, SudoAuthority)]
    return keys[0] if len(keys) == 1 else _NOBODY


def _genesis_blob(path: Path | None, sudo: AccountId) -> bytes:
    """The blob from a JSON file; without one, an empty shard with a sudo key.

    Raises:
        UnreadableFileError: Not an object of pallets.
    """
    if path is None:
        return encode({"balances": {"endowments": []}, "sudo": {"key": sudo}})
    raw = read_or_explain(path, what="genesis state")
    try:
        return encode(msgspec.json.decode(raw, type=dict[str, dict[str, object]]))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableFileError(
            f"genesis state is not what it should be ({error})",
            got=str(path),
            expected="a JSON object: pallet to its genesis",
        ) from error


def _keep_genesis(path: Path, blob: bytes) -> None:
    """Write the blob, never over another: a shard may still need that one.

    Raises:
        FileExistsAlreadyError: Something else is there.
        FileError: It cannot be written.
    """
    if path.is_file() and read_or_explain(path, what="genesis blob") == blob:
        return
    create_durably(path, blob)


async def _create(
    rpc: str,
    secret: bytes,
    rules: ShardRules,
    config: ShardConfig,
    terms: RehearsalTerms,
) -> ShardId:
    call = "create_shard"
    args: dict[str, object] = {"rules": rules, "config": config}
    if terms.required:
        call = "create_gated_shard"
        args |= {"rehearsals": terms.required, "postpone_by": terms.postpone_by}
    async with open_l1(rpc) as l1:
        chain_id = (await l1.status()).node_info.network
        account = L1Account(secret, l1, chain_id)
        outcome = await account.act(f"enclave_bridge.{call}", args)
        # Only the next header proves it: whoever asks next shall find it.
        while await l1.height() <= outcome.height:  # noqa: ASYNC110 - an RPC node
            await asyncio.sleep(_POLL_SECONDS)
    for event in decode(tuple[EmittedEvent, ...], outcome.data):
        if event.name == _CREATED:
            fields = ledger_metadata().decode_event(event)
            return ShardId(parse_hex(str(fields["shard"])))
    raise DecodeError("L1 created a shard and did not say which", got=outcome.data)


async def _status(path: Path) -> dict[str, object]:
    card = read_card(path)
    shard_id = card.shard_id
    async with open_chain(card) as chain:
        height, schedule = await chain.schedule(shard_id)
        frontier = await chain.frontier(shard_id)
        head = await chain.follow()
    try:
        running = config_at(schedule, height)
    except NoGenerationError:
        running = None
    ahead = next_upgrade(schedule, height)
    return {
        "shard": shard_id,
        "chain_id": card.chain_id,
        "proven_at": height,
        "time": format_time(head.time),
        "mode": schedule.status.mode,
        "generation": running.generation if running else None,
        "code": _code(running.config if running else None),
        "confirmed": frontier.confirmed if frontier else None,
        "root": frontier.root if frontier else None,
        "born": frontier is not None,
        "next_generation": ahead.generation if ahead else None,
        "next_code": _code(ahead.config if ahead else None),
        "upgrade_at": ahead.upgrade_at if ahead else None,
        "blocks_to_upgrade": ahead.upgrade_at - height if ahead else None,
        "authority": describe_authority(schedule.rules.authority),
        "min_notice": schedule.rules.min_notice,
        "rescue_after": schedule.rules.rescue_after,
        "effects_quorum": schedule.rules.effects_quorum,
        "warning": alone_pays(schedule.rules),
    }


def _code(config: ShardConfig | None) -> dict[str, str]:
    return {} if config is None else {k: v.hex() for k, v in config.code.items()}
