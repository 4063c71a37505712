"""CometBFT's data, as it is hashed and signed (v0.38 ``types``).

All values are public and travel from host to enclave as they are; nothing
here is verified. Constraints are checked when a message is decoded; the
verifier checks what matters again, because values may also be constructed.
"""

from typing import Annotated, Final, TypeAlias

import msgspec

from sealift.base import Bytes32, ChainId, Height, Message
from sealift.crypto import sha256

ADDRESS_BYTES: Final = 20
#: The block protocol that v0.34 … v0.40 speak.
BLOCK_PROTOCOL: Final = 11
#: MaxInt64 / 8: more total power is refused.
MAX_TOTAL_POWER: Final = (2**63 - 1) // 8
#: Go's zero time, 0001-01-01T00:00:00Z: the timestamp of absent signatures.
ZERO_TIME_SECONDS: Final = -62_135_596_800
_LAST_SECOND = 253_402_300_799
_NANOS = 1_000_000_000

Hash: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=32)]
Address: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=ADDRESS_BYTES)]
_UInt32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_UInt64: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Int64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NotNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Timestamp(Message, order=True, kw_only=True):
    """A point in time: seconds since 1970 (from year 1 on) and nanoseconds."""

    seconds: Annotated[int, msgspec.Meta(ge=ZERO_TIME_SECONDS, le=_LAST_SECOND)]
    nanos: Annotated[int, msgspec.Meta(ge=0, lt=_NANOS)] = 0

    def since(self, earlier: "Timestamp") -> int:
        """Nanoseconds from ``earlier`` to here."""
        return (self.seconds - earlier.seconds) * _NANOS + self.nanos - earlier.nanos

    def plus(self, *, seconds: int = 0, nanos: int = 0) -> "Timestamp":
        """So much later."""
        total = self.seconds * _NANOS + self.nanos + seconds * _NANOS + nanos
        return Timestamp(seconds=total // _NANOS, nanos=total % _NANOS)


#: Go's zero time.
ZERO_TIME: Final = Timestamp(seconds=ZERO_TIME_SECONDS, nanos=0)


class PartSetHeader(Message, kw_only=True):
    """How many 64 KiB parts a block has, and the Merkle root over them."""

    total: _UInt32 = 0
    hash: Hash = b""


class BlockId(Message, kw_only=True):
    """A block by header hash and parts; all empty means none (nil)."""

    hash: Hash = b""
    parts: PartSetHeader = PartSetHeader()

    @property
    def is_nil(self) -> bool:
        """Whether it names no block."""
        return not self.hash and not self.parts.total and not self.parts.hash


class ConsensusVersion(Message, kw_only=True):
    """Versions of the block protocol and of the application."""

    block: _UInt64 = BLOCK_PROTOCOL
    app: _UInt64 = 0


class Header(Message, kw_only=True):
    """A block header; its hash is the block's name."""

    version: ConsensusVersion = ConsensusVersion()
    chain_id: ChainId
    height: Height
    time: Timestamp
    last_block_id: BlockId = BlockId()
    last_commit_hash: Hash
    data_hash: Hash
    validators_hash: Hash
    next_validators_hash: Hash
    consensus_hash: Hash
    app_hash: bytes
    last_results_hash: Hash
    evidence_hash: Hash
    proposer_address: Address


#: ``CommitSig.flag``: the validator did not sign.
FLAG_ABSENT: Final = 1
#: The validator signed this block.
FLAG_COMMIT: Final = 2
#: The validator signed nil.
FLAG_NIL: Final = 3


class CommitSig(Message, kw_only=True):
    """One validator's part of a commit; it stands at the validator's index."""

    flag: Annotated[int, msgspec.Meta(ge=FLAG_ABSENT, le=FLAG_NIL)]
    validator_address: Address = b""
    timestamp: Timestamp = ZERO_TIME
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Commit(Message, kw_only=True):
    """The precommits by which validators decided on a block."""

    height: Height = Height(0)
    round: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    block_id: BlockId = BlockId()
    signatures: tuple[CommitSig, ...] = ()


class Validator(Message, kw_only=True):
    """An Ed25519 key and its voting power.

    Neither address nor proposer priority is kept: the address is always
    derived from the key (it is not hashed, so a host could lie about it), and
    the priority is authenticated by nothing.
    """

    public_key: Bytes32
    power: _NotNegative

    @property
    def address(self) -> bytes:
        """The first 20 bytes of SHA-256 of the public key."""
        return sha256(self.public_key)[:ADDRESS_BYTES]


class ValidatorSet(Message, kw_only=True):
    """Validators in the order that is hashed: by falling power, then address."""

    validators: tuple[Validator, ...]

    @classmethod
    def sorted(cls, validators: tuple[Validator, ...]) -> "ValidatorSet":
        """The set in CometBFT's order."""
        return cls(
            validators=tuple(sorted(validators, key=lambda v: (-v.power, v.address)))
        )

    @property
    def total_power(self) -> int:
        """The sum of all voting power."""
        return sum(validator.power for validator in self.validators)


class SignedHeader(Message, kw_only=True):
    """A header and the commit that claims to decide on it."""

    header: Header
    commit: Commit


class LightBlock(Message, kw_only=True):
    """What a relay needs of one height.

    ``next_validators`` may be left out where it equals ``validators``, or
    where the next block verified is the adjacent one.
    """

    signed_header: SignedHeader
    validators: ValidatorSet
    next_validators: ValidatorSet | None = None

    @property
    def header(self) -> Header:
        """The header inside."""
        return self.signed_header.header

    @property
    def commit(self) -> Commit:
        """The commit inside."""
        return self.signed_header.commit


class TrustRoot(Message, kw_only=True):
    """The one block that trust starts from."""

    chain_id: ChainId
    height: Height
    header_hash: Bytes32


class ForkEvidence(Message, kw_only=True):
    """A trusted header, and a light block that contradicts it.

    The commit inside carries more than two thirds of the power of the
    validators of that height, so either a third of them signed both, or a
    quorum signed a block whose parent is not the trusted one; or it was reached
    from ``common``, a header before both, by the rules that the relay goes by.
    """

    trusted: Header
    conflicting: LightBlock
    common: Header | None = None


class TxResult(Message, kw_only=True):
    """The part of a transaction's result that ``last_results_hash`` covers."""

    code: _UInt32 = 0
    data: bytes = b""
    gas_wanted: _Int64 = 0
    gas_used: _Int64 = 0


class Block(Message, kw_only=True):
    """A whole block.

    ``evidence`` is kept as the JSON of each piece: it is shown, never judged.
    """

    header: Header
    txs: tuple[bytes, ...] = ()
    evidence: tuple[bytes, ...] = ()
    last_commit: Commit = Commit()


class BlockParams(Message, kw_only=True):
    """Limits of a block; ``max_gas`` -1 means none."""

    max_bytes: _Int64 = 22_020_096
    max_gas: _Int64 = -1


class EvidenceParams(Message, kw_only=True):
    """How old (blocks, nanoseconds) and how large evidence may be."""

    max_age_num_blocks: _Int64 = 100_000
    max_age_duration: _Int64 = 172_800_000_000_000
    max_bytes: _Int64 = 1_048_576


class ConsensusParams(Message, kw_only=True):
    """CometBFT's consensus parameters; only ``block`` is hashed."""

    block: BlockParams = BlockParams()
    evidence: EvidenceParams = EvidenceParams()
    pub_key_types: tuple[str, ...] = ("ed25519",)
    app_version: _UInt64 = 0
    vote_extensions_enable_height: _Int64 = 0
