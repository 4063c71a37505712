"""What a new chain of either engine begins with: accounts, roots, rules."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import click

from sealift.attestation import TrustAnchor, parse_trust_anchor
from sealift.base import AccountId, Amount, ChainId
from sealift.ledger import (
    NEWEST_RUNTIME,
    LedgerGenesis,
    LedgerParams,
    render_genesis,
)
from sealift.transport.files import read_or_explain

from ._params import PATH
from ._sim import existing_intel

F = TypeVar("F", bound=Callable[..., object])
#: Accounts that every new chain has; the first one is root.
FIRST_ACCOUNTS: Final = ("sudo", "faucet")
#: Rules of a chain that several may order: root may change who does.
NETWORK_PARAMS: Final = LedgerParams(max_validators=100)
#: What each account of a new chain has.
_FUNDS = Amount(10**15)


def genesis_options(command: F) -> F:
    """What a chain begins with: its id, whose evidence counts, funded accounts."""
    chain_id = click.option("--chain-id", default="sealift-local", show_default=True)
    sim = click.option(
        "--sim", type=PATH, help="Accept this simulated Intel's evidence."
    )
    root = click.option(
        "--root", "roots", type=PATH, multiple=True, help="Attestation root to accept."
    )
    account = click.option(
        "--account", "names", multiple=True, help="Make one more funded account key."
    )
    return chain_id(sim(root(account(command))))


def chosen_anchors(sim: Path | None, roots: Sequence[Path]) -> list[TrustAnchor]:
    """The attestation roots that were named.

    Raises:
        click.UsageError: None was.
        FileError, SealiftError: One cannot be read.
    """
    anchors = [
        parse_trust_anchor(read_or_explain(path, what="attestation root"))
        for path in roots
    ]
    if sim is not None:
        anchors.append(
            TrustAnchor(root_der=existing_intel(sim).root_der, kind="insecure-sim")
        )
    if not anchors:
        raise click.UsageError("Whose evidence counts? Give --sim, or --root.")
    return anchors


def first_state(
    chain_id: ChainId,
    keys: Mapping[str, AccountId],
    *,
    anchors: Sequence[TrustAnchor],
    params: LedgerParams,
    runtime: int = NEWEST_RUNTIME,
) -> bytes:
    """The ledger's genesis (JSON): all accounts funded, ``sudo`` is root."""
    return render_genesis(
        LedgerGenesis(
            chain_id=chain_id,
            accounts=tuple((key, _FUNDS) for key in keys.values()),
            sudo=keys["sudo"],
            anchors=tuple(anchors),
            params=params,
            runtime=runtime,
        )
    )
