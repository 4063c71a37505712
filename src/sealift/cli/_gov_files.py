"""``sealift gov sign | submit``: orders in files, endorsed where the keys are."""

from pathlib import Path

import click

from sealift.base import InvariantError
from sealift.protocol import Order
from sealift.transport.files import read_private_key
from sealift.transport.keys import read_account_key

from ._cards import card_option
from ._endorse import Signing, decide, endorse, endorser, read_order, write_order
from ._gov_orders import show
from ._orderview import order_view
from ._output import emit, json_option, say
from ._params import PATH, run
from ._records import Government


@click.command()
@click.argument("order", type=PATH)
@click.option(
    "--authority", type=PATH, multiple=True, help="Key file that endorses; repeatable."
)
@click.option(
    "--vendor", type=PATH, multiple=True, help="Vendor key (RSA, PEM) that endorses."
)
@click.option("-o", "--out", type=PATH, help="Where the endorsed order goes.")
@json_option
def sign(
    *,
    order: Path,
    authority: tuple[Path, ...],
    vendor: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    r"""Show what the order in a file asks for; with a key, endorse it.

    Needs no network: for keys on a machine that has none. Whether the key may
    decide for the shard is said when the order is submitted.

    \b
    Examples:
      sealift gov sign order.bin
      sealift gov sign order.bin --vendor vendor.pem -o signed.bin
    """
    given = read_order(order)
    keys = [read_account_key(path) for path in authority]
    vendors = [read_private_key(path, what="vendor key") for path in vendor]
    if bool(keys or vendors) != (out is not None):
        raise click.UsageError("To endorse, give --authority or --vendor, and -o OUT.")
    given.verify_endorsements()
    signed = endorse(given, keys, vendors)
    if out is not None:
        write_order(out, signed)
        say("Nothing is submitted: `sealift gov submit` brings it to L1.")
    answer = order_view(signed.order)
    answer["endorsed_by"] = [endorser(one) for one in signed.endorsements]
    if out is not None:
        answer["file"] = str(out)
    emit(answer, as_json=as_json)


@click.command()
@click.argument("order", type=PATH)
@card_option
@click.option(
    "--authority", type=PATH, multiple=True, help="Key file that endorses it, too."
)
@click.option(
    "--vendor", type=PATH, multiple=True, help="Vendor key that endorses it, too."
)
@click.option("--payer", type=PATH, help="Account key that pays on L1.")
@json_option
def submit(
    *,
    order: Path,
    card: Path,
    authority: tuple[Path, ...],
    vendor: tuple[Path, ...],
    payer: Path | None,
    as_json: bool,
) -> None:
    r"""Bring an order and its endorsements to L1; anybody's account may.

    \b
    Examples:
      sealift gov submit signed.bin --card card.json --payer op.json
      sealift gov submit order.bin --card card.json --authority boss.json
    """
    signing = Signing(
        keys=authority,
        vendors=vendor,
        payer=payer,
        workers=None,
        out=None,
        order=order,
    )
    found = run(decide(card, signing, _never, kind=None))
    about = getattr(found.signed.order, "generation", None)
    show(found, about, as_json=as_json)


def _never(now: Government) -> Order:
    raise InvariantError("an order that is given is not made", got=now.height)
