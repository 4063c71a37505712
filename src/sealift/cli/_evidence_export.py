"""``sealift evidence export``: ask an L1 node for a shard's lineage."""

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import click

from sealift.base import Height, ShardId
from sealift.client import NodeSource, export_evidence, read_card
from sealift.evidence import render_evidence
from sealift.relay import TrustRoot
from sealift.transport.files import write_durably

from ._output import emit, json_option, say
from ._params import DEFAULT_RPC, HEIGHT, HEX32, PATH, open_l1, read_trust_root, run

#: A word on progress after so many blocks.
_EVERY = 1_000


@click.command()
@click.option("--card", type=PATH, help="The shard card: shard, trust root, nodes.")
@click.option("--shard", type=HEX32, help="The shard, without a card.")
@click.option("--trust-root", "trust_root", type=PATH, help="L1's trust_root.json.")
@click.option(
    "--rpc",
    envvar="SEALIFT_RPC",
    help=f"RPC of an L1 node (default: the card's, or {DEFAULT_RPC}).",
)
@click.option("--to", type=HEIGHT, help="The last block to speak of.")
@click.option("-o", "--out", type=PATH, help="Where to write (default: stdout).")
@json_option
def export(
    *,
    card: Path | None,
    shard: bytes | None,
    trust_root: Path | None,
    rpc: str | None,
    to: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    r"""Write a shard's lineage, from its creation to now, into one file.

    The node must have kept the shard's whole history; it is believed in nothing,
    for whoever verifies the file judges it all.

    \b
    Examples:
      sealift evidence export --card card.json > shard.evidence
      sealift evidence export --card card.json -o shard.evidence --json
    """
    url, root, meant = _asked(card, shard, trust_root, rpc)
    if out is None and (sys.stdout.isatty() or as_json):
        raise click.UsageError("A file is binary: give -o FILE, or redirect stdout.")
    data = run(_export(url, meant, root, None if to is None else Height(to)))
    if out is None:
        sys.stdout.buffer.write(data)
        return
    write_durably(out, data)
    emit(
        {"evidence": str(out), "shard": meant, "bytes": len(data)},
        as_json=as_json,
    )


def _asked(
    card: Path | None, shard: bytes | None, trust_root: Path | None, rpc: str | None
) -> tuple[str, TrustRoot, ShardId]:
    if card is not None:
        known = read_card(card)
        root = known.root() if trust_root is None else read_trust_root(trust_root)
        return rpc or known.l1[0], root, ShardId(shard or known.shard_id)
    if shard is None or trust_root is None:
        raise click.UsageError("Give --card, or --shard and --trust-root.")
    return rpc or DEFAULT_RPC, read_trust_root(trust_root), ShardId(shard)


async def _export(
    url: str, shard: ShardId, root: TrustRoot, to: Height | None
) -> bytes:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_l1(url))
        file = await export_evidence(
            NodeSource(node), shard, trust_root=root, to=to, progress=_progress()
        )
    return render_evidence(file)


def _progress() -> Callable[[int, int], None]:
    told = 0

    def tell(height: int, last: int) -> None:
        nonlocal told
        if height // _EVERY > told or height == last:
            told = height // _EVERY
            say(f"scanned to block {height} of {last}")

    return tell
