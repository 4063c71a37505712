"""The shard card: everything a client must be told, and nothing secret.

Whoever gives you the card is trusted for the trust root and the attestation
roots; all else follows from the chain.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from sealift.attestation import TrustAnchor
from sealift.base import (
    ChainId,
    Digest,
    Height,
    SealiftError,
    ShardId,
    decode,
    encode,
)
from sealift.frame import RuntimeMetadata
from sealift.relay import TrustRoot
from sealift.transport.files import read_or_explain, write_durably

from ._errors import CardError

_Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Hex = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2})*\Z")]
_Url = Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://[^\s]+\Z", max_length=256)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the card's objects: closed, frozen."""


class CardRoot(_Part, frozen=True, kw_only=True):
    """A root of attestation: DER as hexadecimal, and what kind of root it is."""

    kind: Literal["insecure-sim", "intel"]
    der: _Hex


class CardTrustRoot(_Part, frozen=True, kw_only=True):
    """The L1 block from which the client follows the chain."""

    height: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    header_hash: _Hex32


class ShardCard(_Part, frozen=True, kw_only=True):
    """What identifies a shard to its users; bytes are hexadecimal.

    ``l1`` and ``workers`` are addresses: they can hide, not forge.
    ``metadata`` is the runtime's, by which calls are encoded.
    """

    format: Literal[1] = 1
    chain_id: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    shard: _Hex32
    trust_root: CardTrustRoot
    l1: Annotated[tuple[_Url, ...], msgspec.Meta(min_length=1, max_length=16)]
    workers: Annotated[tuple[_Url, ...], msgspec.Meta(max_length=64)] = ()
    attestation_roots: Annotated[tuple[CardRoot, ...], msgspec.Meta(max_length=8)] = ()
    metadata: _Hex = ""

    @property
    def chain(self) -> ChainId:
        """The L1 chain."""
        return ChainId(self.chain_id)

    @property
    def shard_id(self) -> ShardId:
        """The shard."""
        return ShardId(bytes.fromhex(self.shard))

    def root(self) -> TrustRoot:
        """The trust root of the client's relay."""
        return TrustRoot(
            chain_id=self.chain,
            height=Height(self.trust_root.height),
            header_hash=Digest(bytes.fromhex(self.trust_root.header_hash)),
        )

    def anchors(self) -> tuple[TrustAnchor, ...]:
        """The roots under which a worker's own quote is believed."""
        return tuple(
            TrustAnchor(kind=root.kind, root_der=bytes.fromhex(root.der))
            for root in self.attestation_roots
        )

    def runtime(self) -> RuntimeMetadata:
        """The metadata of the runtime.

        Raises:
            CardError: The card has none, or something else.
        """
        if not self.metadata:
            raise CardError(
                "the card has no runtime metadata",
                hint="Make one with `sealift shard card --bundle …`",
            )
        try:
            return decode(RuntimeMetadata, bytes.fromhex(self.metadata))
        except SealiftError as error:
            raise CardError(f"the card's metadata cannot be read ({error})") from error


def make_card(
    *,
    shard: ShardId,
    trust_root: TrustRoot,
    l1: tuple[str, ...],
    workers: tuple[str, ...],
    anchors: tuple[TrustAnchor, ...],
    metadata: RuntimeMetadata,
) -> ShardCard:
    """A card from its parts.

    Raises:
        CardError: An address that is none.
    """
    card = ShardCard(
        chain_id=trust_root.chain_id,
        shard=shard.hex(),
        trust_root=CardTrustRoot(
            height=trust_root.height, header_hash=trust_root.header_hash.hex()
        ),
        l1=l1,
        workers=workers,
        attestation_roots=tuple(
            CardRoot(kind=anchor.kind, der=anchor.root_der.hex()) for anchor in anchors
        ),
        metadata=encode(metadata).hex(),
    )
    return parse_card(render_card(card))


def render_card(card: ShardCard) -> bytes:
    """The card as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def parse_card(data: bytes) -> ShardCard:
    """Parse a card; total.

    Raises:
        CardError: Not a card.
    """
    try:
        return msgspec.json.decode(data, type=ShardCard)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise CardError(f"not a shard card ({error})") from error


def read_card(path: Path) -> ShardCard:
    """The card in a file.

    Raises:
        MissingFileError: It is not there.
        UnreadableFileError: It cannot be read.
        CardError: Not a card.
    """
    raw = read_or_explain(
        path, what="shard card", hint="`sealift shard create` and `shard card` make one"
    )
    try:
        return parse_card(raw)
    except CardError as error:
        raise CardError(error.what, got=str(path)) from error


def write_card(path: Path, card: ShardCard) -> None:
    """Replace the card in a file, whole or not at all.

    Raises:
        CardError: It could not be read again; what was there is untouched.
        FileError: It cannot be written.
    """
    data = render_card(card)
    parse_card(data)
    write_durably(path, data)
