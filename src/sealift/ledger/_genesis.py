"""What a chain begins with, and its readable form in CometBFT's genesis file."""

from typing import Annotated, Literal

import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import (
    AccountId,
    Amount,
    ChainId,
    DecodeError,
    Digest,
    Message,
    canonical_decode,
    decode,
    encode,
    parse_hex,
)
from sealift.crypto import sha256

from ._errors import LedgerGenesisError

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

#: The number of the first version of the L1 runtime.
FIRST_RUNTIME = 1
#: Hashes of so many blocks are kept; no quote window is wider.
KEPT_BLOCK_HASHES = 256
#: CometBFT's vote sets and our relay are measured with no more.
MOST_VALIDATORS = 200


class LedgerParams(Message, kw_only=True):
    """Numbers a chain is born with.

    ``quote_window`` and the rest in blocks, bytes or smallest units;
    ``max_block_weight`` in weight (about a microsecond of work each);
    ``shard_price`` is burned when a shard is created. ``max_validators`` 0: the
    validators never change, as the embedded engine wants it; ``expel_equivocators``
    1: one that votes twice loses its power.
    """

    quote_window: Annotated[int, msgspec.Meta(ge=1, le=KEPT_BLOCK_HASHES)] = 100
    fee_per_byte: _Count = 1
    existential_deposit: _Count = 1
    shard_price: _Count = 0
    max_shards: _Positive = 256
    max_block_bytes: _Positive = 4 * 1024 * 1024
    max_block_weight: _Positive = 5_000_000
    max_validators: Annotated[int, msgspec.Meta(ge=0, le=MOST_VALIDATORS)] = 0
    expel_equivocators: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1


class LedgerGenesis(Message, kw_only=True):
    """Everything the first state is made from.

    ``anchors`` are the attestation roots this chain accepts, one of a kind;
    ``runtime`` is the version of the L1 runtime that executes block 1.
    """

    chain_id: ChainId
    accounts: tuple[tuple[AccountId, Amount], ...]
    sudo: AccountId
    anchors: tuple[TrustAnchor, ...]
    params: LedgerParams = LedgerParams()
    runtime: _Positive = FIRST_RUNTIME

    def digest(self) -> Digest:
        """SHA-256 of the canonical encoding; the state remembers it.

        Of a chain that begins with version 1 it is what it was before there were
        versions: its fields without ``runtime``.
        """
        raw = encode(self)
        if self.runtime == FIRST_RUNTIME:
            fields = canonical_decode(list[object], raw)
            return sha256(b"sealift/ledger-genesis/v1\x00" + encode(fields[:-1]))
        return sha256(b"sealift/ledger-genesis/v2\x00" + raw)


class _AnchorJson(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["intel", "insecure-sim"]
    root_der: bytes


class _GenesisJson(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    chain_id: str
    accounts: dict[str, int]
    sudo: str
    anchors: list[_AnchorJson]
    params: dict[str, int]
    runtime: int = FIRST_RUNTIME


def render_genesis(genesis: LedgerGenesis) -> bytes:
    """JSON for ``app_state`` of a CometBFT genesis file; accounts in hex."""
    return msgspec.json.encode(
        _GenesisJson(
            chain_id=genesis.chain_id,
            accounts={key.hex(): amount for key, amount in genesis.accounts},
            sudo=genesis.sudo.hex(),
            anchors=[
                _AnchorJson(kind=each.kind, root_der=each.root_der)
                for each in genesis.anchors
            ],
            params=msgspec.structs.asdict(genesis.params),
            runtime=genesis.runtime,
        )
    )


def parse_genesis(data: bytes) -> LedgerGenesis:
    """The inverse of :func:`render_genesis`; total.

    Raises:
        LedgerGenesisError: Not such a document, or a value out of range.
    """
    try:
        raw = msgspec.json.decode(data, type=_GenesisJson)
        unknown = set(raw.params) - set(LedgerParams.__struct_fields__)
        if unknown:
            raise LedgerGenesisError("unknown parameters", got=sorted(unknown))
        genesis = LedgerGenesis(
            chain_id=ChainId(raw.chain_id),
            accounts=tuple(
                (AccountId(parse_hex(key)), Amount(amount))
                for key, amount in raw.accounts.items()
            ),
            sudo=AccountId(parse_hex(raw.sudo)),
            anchors=tuple(
                TrustAnchor(kind=each.kind, root_der=each.root_der)
                for each in raw.anchors
            ),
            params=LedgerParams(**raw.params),
            runtime=raw.runtime,
        )
        return decode(LedgerGenesis, encode(genesis))
    except (
        msgspec.MsgspecError,
        DecodeError,
        OverflowError,
        UnicodeError,
        RecursionError,
    ) as error:
        raise LedgerGenesisError(f"not the genesis of a ledger ({error})") from error
