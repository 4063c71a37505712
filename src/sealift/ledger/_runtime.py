"""The composition root of L1: pallets made, and given what they need."""

from dataclasses import dataclass

from sealift.attestation import AnchorKind, TrustAnchor
from sealift.base import UnixSeconds
from sealift.frame import Runtime
from sealift.relay import ValidatorSet

from ._balances import Balances, BalancesGenesis
from ._bridge import EnclaveBridge
from ._bridge_storage import BridgeGenesis
from ._council import Council
from ._errors import LedgerGenesisError, UnknownFmspcError
from ._genesis import FIRST_RUNTIME, LedgerGenesis
from ._ports import CollateralVerdict, Evidence, QuoteVerifier
from ._sudo import Sudo, SudoGenesis
from ._system import System, SystemGenesis
from ._teerex import Teerex
from ._teerex_storage import TeerexGenesis
from ._validators import Validators, ValidatorsGenesis

#: The runtime's name; its state is refused by any other.
RUNTIME_NAME = "sealift-ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPallets:
    """The pallets of L1, and the runtime that they make.

    Hooks run in this order: schedules are the first act of a block.
    """

    bridge: EnclaveBridge
    system: System
    balances: Balances
    sudo: Sudo
    teerex: Teerex
    council: Council
    validators: Validators
    runtime: Runtime


def compose(verifier: QuoteVerifier) -> LedgerPallets:
    """Make version 1 of the L1 runtime.

    Args:
        verifier: Judges quotes and collateral.
    """
    system, balances = System(version=FIRST_RUNTIME), Balances()
    bridge = EnclaveBridge(vault=balances)
    teerex = Teerex(verifier=verifier, hashes=system, shards=bridge)
    return assemble(
        FIRST_RUNTIME, bridge=bridge, system=system, balances=balances, teerex=teerex
    )


def assemble(
    number: int,
    *,
    bridge: EnclaveBridge,
    system: System,
    balances: Balances,
    teerex: Teerex,
) -> LedgerPallets:
    """A version's pallets, each given what it needs of the others."""
    sudo = Sudo()
    bridge.instances = teerex
    council = Council(orders=bridge, instances=teerex)
    validators = Validators()
    runtime = Runtime(
        name=RUNTIME_NAME,
        version=number,
        pallets=[bridge, system, balances, sudo, teerex, council, validators],
    )
    return LedgerPallets(
        bridge=bridge,
        system=system,
        balances=balances,
        sudo=sudo,
        teerex=teerex,
        council=council,
        validators=validators,
        runtime=runtime,
    )


def genesis_config(
    genesis: LedgerGenesis, validators: ValidatorSet
) -> dict[str, object]:
    """What each pallet begins with.

    Raises:
        LedgerGenesisError: Roots that are none or doubled; too much money.
    """
    kinds: list[AnchorKind] = [anchor.kind for anchor in genesis.anchors]
    if not kinds or len(set(kinds)) != len(kinds):
        raise LedgerGenesisError(
            "attestation roots are none or two of a kind", got=kinds
        )
    owners = [account for account, _ in genesis.accounts]
    if len(set(owners)) != len(owners):
        raise LedgerGenesisError("an account stands twice in the genesis")
    issued = sum(amount for _, amount in genesis.accounts)
    if issued >= 2**63:
        raise LedgerGenesisError("too much money", got=issued, expected="< 2^63")
    params = genesis.params
    return {
        "enclave_bridge": BridgeGenesis(
            shard_price=params.shard_price, max_shards=params.max_shards
        ),
        "system": SystemGenesis(genesis=genesis.digest()),
        "balances": BalancesGenesis(
            accounts=genesis.accounts,
            fee_per_byte=params.fee_per_byte,
            existential_deposit=params.existential_deposit,
        ),
        "sudo": SudoGenesis(key=genesis.sudo),
        "teerex": TeerexGenesis(
            anchors=genesis.anchors, quote_window=params.quote_window
        ),
        "validators": ValidatorsGenesis(
            validators=validators,
            max_validators=params.max_validators,
            expel_equivocators=params.expel_equivocators,
        ),
    }


class RefusingVerifier:
    """Accepts nothing; for whoever only encodes calls."""

    def quote_fmspc(self, quote: bytes) -> bytes:
        """Refuse."""
        raise self._refusal(quote)

    def verify_quote(
        self,
        quote: bytes,
        *,
        collateral: bytes,
        anchors: tuple[TrustAnchor, ...],
        now: UnixSeconds,
    ) -> Evidence:
        """Refuse."""
        del collateral, anchors, now
        raise self._refusal(quote)

    def verify_collateral(
        self, collateral: bytes, *, anchors: tuple[TrustAnchor, ...], now: UnixSeconds
    ) -> CollateralVerdict:
        """Refuse."""
        del anchors, now
        raise self._refusal(collateral)

    @staticmethod
    def _refusal(seen: bytes) -> UnknownFmspcError:
        return UnknownFmspcError("this runtime judges no evidence", got=seen)
