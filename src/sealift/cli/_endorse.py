"""Orders on their way: made once, endorsed by any member, submitted, and awaited."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Final

import click

from sealift.base import (
    AccountId,
    Digest,
    Height,
    SealiftError,
    canonical_decode,
    encode,
    short,
)
from sealift.client import ProvenChain, ShardCard, read_card
from sealift.crypto import account_of, rsa_public_modulus, rsa_sign_pkcs1_sha256
from sealift.ledger import OpenOrder, collect, verify_order
from sealift.protocol import (
    MAX_ENDORSEMENTS,
    CancelOrder,
    Endorsement,
    KeyEndorsement,
    Leaf,
    Order,
    RehearsalsOrder,
    RulesOrder,
    Schedule,
    SignedOrder,
    StatusOrder,
    SudoAuthority,
    UpgradeOrder,
    VendorEndorsement,
)
from sealift.transport.account import L1Account, measured_interval
from sealift.transport.files import (
    UnreadableFileError,
    create_durably,
    read_or_explain,
    read_private_key,
)
from sealift.transport.keys import read_account_key

from ._authority import describe_authority
from ._cards import open_chain, open_user
from ._output import say
from ._params import PATH, open_l1
from ._records import Government, entry_row, members, read_government

#: The calls that carry orders of a kind through the shard; others go by the last.
_CALLS: Final = {
    UpgradeOrder: "enclave_update.update_mrenclave",
    CancelOrder: "enclave_update.cancel_update",
    StatusOrder: "enclave_update.set_status",
}
_CALL_OF_OTHERS: Final = "enclave_update.send_order"
_MODULUS_BYTES: Final = 384
_WAIT_SECONDS = 90.0
_POLL_SECONDS = 0.3
_MAX_ORDER_FILE: Final = 256 * 1024

Make = Callable[[Government], Order]


class OrderNotRecordedError(SealiftError):
    """An order was handed over, but does not stand on L1 in time."""


class NotAuthorityKeyError(SealiftError):
    """A key that may not decide for this shard."""


class WrongOrderError(SealiftError):
    """An order of another kind than the command is for."""


class OrderOvertakenError(SealiftError):
    """Another act was decided first: the order is void."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Who endorses an order, who pays, and where it goes."""

    keys: tuple[Path, ...]
    vendors: tuple[Path, ...]
    payer: Path | None
    workers: tuple[str, ...] | None
    out: Path | None
    order: Path | None

    @property
    def silent(self) -> bool:
        """Whether nobody endorses and nothing is written."""
        return not (self.keys or self.vendors or self.out or self.order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of an order: decided, waiting for the rest, or in a file."""

    signed: SignedOrder
    government: Government
    lacking: tuple[Leaf, ...]
    written: Path | None = None

    @property
    def decided(self) -> bool:
        """Whether L1 has carried it out."""
        return self.written is None and not self.lacking

    def row(self) -> dict[str, object]:
        """The answer of every command that makes an order."""
        order = self.signed.order
        answer: dict[str, object] = {
            "order": order.digest(),
            "kind": type(order).__name__,
            "serial": self.government.schedule.serial,
            "decided": self.decided,
        }
        if self.written is not None:
            answer["file"] = str(self.written)
        if not self.decided:
            answer["expires_at"] = order.expiry
            answer["endorsed_by"] = [endorser(one) for one in self.signed.endorsements]
            answer["lacking"] = [describe_authority(one) for one in self.lacking]
        return answer


def signing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Who endorses and how it gets to L1; the command gets one ``signing``."""

    @wraps(command)
    def collected(
        *,
        authority: tuple[Path, ...],
        vendor: tuple[Path, ...],
        payer: Path | None,
        via_call: bool,
        workers: tuple[str, ...],
        out: Path | None,
        order_file: Path | None,
        **others: object,
    ) -> None:
        signing = Signing(
            keys=authority,
            vendors=vendor,
            payer=payer,
            workers=workers if via_call else None,
            out=out,
            order=order_file,
        )
        command(signing=signing, **others)

    made: Callable[..., None] = collected
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


_OPTIONS: Final = (
    click.option(
        "--authority",
        type=PATH,
        multiple=True,
        help="Key file of a member of the authority; repeatable.",
    ),
    click.option(
        "--vendor",
        type=PATH,
        multiple=True,
        help="Vendor key (RSA, PEM) that endorses; needs --payer.",
    ),
    click.option(
        "--payer",
        type=PATH,
        help="Account key that pays on L1 (default: the authority).",
    ),
    click.option(
        "--via-call",
        is_flag=True,
        help="By a TrustedCall to the shard; it reaches L1.",
    ),
    click.option(
        "--worker", "workers", multiple=True, help="URL of a worker, for --via-call."
    ),
    click.option("--out", type=PATH, help="Write the order to a file; submit nothing."),
    click.option(
        "--order", "order_file", type=PATH, help="Endorse the order in this file."
    ),
)


def endorser(one: Endorsement) -> str:
    """Who endorsed, in a word."""
    if isinstance(one, KeyEndorsement):
        return f"key {one.key.hex()}"
    return f"vendor {one.mr_signer.hex()}"


def read_order(path: Path) -> SignedOrder:
    """The order in a file, with its endorsements; these are not verified here.

    Raises:
        FileError: It cannot be read, or is none.
    """
    raw = read_or_explain(path, what="order", hint="`sealift gov … --out` writes one")
    try:
        return canonical_decode(SignedOrder, raw, limit=_MAX_ORDER_FILE)
    except SealiftError as error:
        raise UnreadableFileError(
            f"order is not what it should be ({error.what})", got=str(path)
        ) from error


def write_order(path: Path, signed: SignedOrder) -> None:
    """Write an order to a file that must not be there yet.

    Raises:
        FileError: It cannot be written.
    """
    create_durably(path, encode(signed))


def endorse(
    signed: SignedOrder, keys: Sequence[bytes], vendors: Sequence[bytes]
) -> SignedOrder:
    """The order with more endorsements; nobody stands on it twice.

    Args:
        signed: The order.
        keys: Ed25519 seeds.
        vendors: RSA keys, PEM.

    Raises:
        RsaKeyError: Not a vendor's key.
        WrongOrderError: More endorsements than travel with an order.
    """
    order = signed.order
    fresh: list[Endorsement] = [
        KeyEndorsement(key=account_of(one), signature=order.sign(one)) for one in keys
    ]
    fresh += [
        VendorEndorsement(
            modulus=rsa_public_modulus(pem).to_bytes(_MODULUS_BYTES, "little"),
            signature=rsa_sign_pkcs1_sha256(pem, order.preimage()),
        )
        for pem in vendors
    ]
    named = {endorser(one): one for one in (*signed.endorsements, *fresh)}
    if len(named) > MAX_ENDORSEMENTS:
        raise WrongOrderError(
            "too many endorsements", got=len(named), expected=f"≤ {MAX_ENDORSEMENTS}"
        )
    return SignedOrder(order=order, endorsements=tuple(named.values()))


async def decide(
    card: Path, signing: Signing, make: Make, *, kind: type[Order] | None
) -> Decision:
    """Make or read an order, endorse it, and bring it to L1 or to a file.

    1. The order is the one in the file, of the command's kind, or a new one.
    2. It is for this shard and not overtaken; every endorsement is a member's.
    3. It is written, or submitted and awaited.

    Raises:
        WrongOrderError: 1.
        OrderForeignError, OrderSerialError, OrderExpiredError, VendorOrderError,
        OrderSignatureError, NotAuthorityKeyError: 2.
        OrderNotRecordedError, OrderOvertakenError: 3.
    """
    known = read_card(card)
    keys = [read_account_key(path) for path in signing.keys]
    vendors = [read_private_key(path, what="vendor key") for path in signing.vendors]
    async with open_chain(known) as chain:
        now = await read_government(chain, known.shard_id)
        if signing.order is not None:  # 1
            signed = _given(signing.order, kind)
        else:
            now = replace(now, interval=await _interval(chain))
            signed = SignedOrder(order=make(now))
        for secret in keys:
            _require_member(now.schedule, account_of(secret))
        signed = endorse(signed, keys, vendors)
        verify_order(now.schedule, signed.order, height=now.height)  # 2
        opened = _collected(now, signed)
        if signing.out is not None:  # 3
            write_order(signing.out, signed)
            return Decision(
                signed=signed,
                government=now,
                lacking=now.lacking(opened),
                written=signing.out,
            )
        if not signed.endorsements:
            raise click.UsageError("Who endorses? Give --authority, --vendor or --out.")
        if signing.workers is None:
            await _by_l1(known, _paying(signing, keys), signed)
        else:
            await _by_call(card, signing, signed)
        return await _settled(chain, known, signed)


async def _interval(chain: ProvenChain) -> float:
    """Seconds that a block takes, as far as the node says."""
    try:
        return await measured_interval(chain.node)
    except SealiftError:  # it only tells how early an order should be
        return 0.0


def _given(path: Path, kind: type[Order] | None) -> SignedOrder:
    signed = read_order(path)
    if kind is not None and not isinstance(signed.order, kind):
        raise WrongOrderError(
            "the file has another kind of order",
            got=type(signed.order).__name__,
            expected=kind.__name__,
        )
    return signed


def _collected(now: Government, signed: SignedOrder) -> OpenOrder:
    order = signed.order
    known = now.opened(order) or OpenOrder(order=order, recorded_at=Height(0))
    return collect(now.schedule, signed, known)


def _paying(signing: Signing, keys: Sequence[bytes]) -> bytes:
    if signing.payer is not None:
        return read_account_key(signing.payer)
    if keys:
        return keys[0]
    raise click.UsageError("Who pays? Give --payer, or --authority.")


async def _by_l1(card: ShardCard, secret: bytes, signed: SignedOrder) -> None:
    async with open_l1(card.l1[0]) as l1:
        account = L1Account(secret, l1, card.chain)
        await account.act("enclave_bridge.submit_order", {"order": signed})


async def _by_call(card: Path, signing: Signing, signed: SignedOrder) -> None:
    if len(signing.keys) != 1:
        raise click.UsageError("--via-call takes one --authority: it makes the call.")
    async with open_user(
        card, signing.keys[0], payer=signing.payer, workers=signing.workers or ()
    ) as user:
        name = _CALLS.get(type(signed.order), _CALL_OF_OTHERS)
        done = await user.call(name, {"order": encode(signed)}, within=_WAIT_SECONDS)
        done.require_ok()
        say(f"The shard accepted the order in block {done.height}.")


async def _settled(
    chain: ProvenChain, card: ShardCard, signed: SignedOrder
) -> Decision:
    """What L1's proven state says of an order that was handed over.

    Raises:
        OrderNotRecordedError: Nothing, in time.
        OrderOvertakenError: Another act came first.
    """
    order = signed.order
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            while True:
                now = await read_government(chain, card.shard_id)
                if now.schedule.serial > order.serial:
                    _require_recorded(now, order)
                    return Decision(signed=signed, government=now, lacking=())
                opened = now.opened(order)
                if opened is not None and _holds(opened, signed):
                    left = now.lacking(opened)
                    if left:
                        return Decision(signed=signed, government=now, lacking=left)
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise OrderNotRecordedError(
            f"the order is not on L1 after {_WAIT_SECONDS:g} s",
            hint="A worker carries what the shard decided: is one running?",
        ) from error


def _holds(opened: OpenOrder, signed: SignedOrder) -> bool:
    return all(
        one.key in opened.keys
        if isinstance(one, KeyEndorsement)
        else one.mr_signer in opened.vendors
        for one in signed.endorsements
    )


def _require_recorded(now: Government, order: Order) -> None:
    """Return unless L1 shows that it was another order."""
    schedule, digest = now.schedule, order.digest()
    recorded: set[Digest] = {entry.order for entry in schedule.entries}
    if schedule.change is not None:
        recorded.add(schedule.change.order)
    if now.gate is not None and now.gate.change is not None:
        recorded.add(now.gate.change.order)
    told = UpgradeOrder | RulesOrder | RehearsalsOrder
    if isinstance(order, told) and digest not in recorded:
        raise OrderOvertakenError(
            "another act was decided first",
            got=f"serial {schedule.serial}",
            expected=f"{order.serial}",
            hint=f"Order {short(digest)} is void; make it again",
        )


def _require_member(schedule: Schedule, key: AccountId) -> None:
    keys = [one.key for one in members(schedule) if isinstance(one, SudoAuthority)]
    if key not in keys:
        raise NotAuthorityKeyError(
            "this key is no member of the shard's upgrade authority",
            got=key,
            expected=describe_authority(schedule.rules.authority),
        )


def entry_of(decision: Decision, generation: int | None) -> dict[str, object]:
    """The row of the entry that an order was about, once it is decided."""
    if not decision.decided:
        return {}
    entries = decision.government.schedule.entries
    digest = decision.signed.order.digest()
    for entry in entries:
        if digest == entry.order or entry.generation == generation:
            return entry_row(entry)
    return {}
