"""Long chains of headers with validators that come and go, signed when asked for."""

from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from sealift.base import AccountId, ChainId, Height
from sealift.crypto import account_of, sha256, sign
from sealift.relay import (
    FLAG_COMMIT,
    NO_EVIDENCE_HASH,
    BlockId,
    Commit,
    CommitSig,
    ConsensusVersion,
    Header,
    LightBlock,
    PartSetHeader,
    SignedHeader,
    Timestamp,
    TrustRoot,
    Validator,
    ValidatorSet,
    data_hash,
    header_hash,
    results_hash,
    validators_hash,
    vote_sign_bytes,
)

from ._errors import WorldError

_START: Final = 1_700_000_000
_PARTS: Final = PartSetHeader(total=1, hash=sha256(b"parts"))


class HeaderChain:
    """Headers 1 … ``length``, hash-linked; commits are made when asked for.

    Validator *n* of the chain leaves and a new one comes after every ``every``
    blocks, the oldest first, so that after ``validators · every`` blocks the set
    is another; with 0 it stays.

    Args:
        length: Headers.
        validators: How many there are at each height, of equal power.
        every: Blocks from one change to the next.
        chain_id: The chain.
        seconds: From one block to the next.
        branch: Another name makes another chain from ``branch_at`` on.
        branch_at: The first height that differs.
    """

    def __init__(
        self,
        *,
        length: int,
        validators: int = 100,
        every: int = 0,
        chain_id: str = "long-chain",
        seconds: int = 1,
        branch: str = "",
        branch_at: int = 0,
    ) -> None:
        self.length = length
        self._count = validators
        self._every = every
        self._chain_id = ChainId(chain_id)
        self._seconds = seconds
        self._branch = branch
        self._branch_at = branch_at
        self._secrets: dict[bytes, bytes] = {}
        self._set = lru_cache(maxsize=64)(self._make_set)
        self._headers: list[Header] = []
        self._ids: list[BlockId] = []
        last = BlockId()
        for height in range(1, length + 1):
            header = self._header(height, last)
            last = BlockId(hash=header_hash(header), parts=_PARTS)
            self._headers.append(header)
            self._ids.append(last)

    def header(self, height: int) -> Header:
        """The header of a height."""
        return self._headers[height - 1]

    def validators(self, height: int) -> ValidatorSet:
        """Who signs a height."""
        return self._set(0 if not self._every else (height - 1) // self._every)

    def trust_root(self, height: int = 1) -> TrustRoot:
        """Trust in a height."""
        return TrustRoot(
            chain_id=self._chain_id,
            height=Height(height),
            header_hash=header_hash(self.header(height)),
        )

    def light_block(self, height: int) -> LightBlock:
        """Header, commit and both sets of a height; all have signed.

        Raises:
            WorldError: There is no such height.
        """
        if not 1 <= height <= self.length:
            raise WorldError("no such header", got=height, expected=f"≤ {self.length}")
        header, group = self.header(height), self.validators(height)
        bare = Commit(height=Height(height), round=0, block_id=self._ids[height - 1])
        sigs = []
        for number, one in enumerate(group.validators):
            sig = CommitSig(
                flag=FLAG_COMMIT,
                validator_address=one.address,
                timestamp=header.time.plus(nanos=number),
            )
            data = vote_sign_bytes(self._chain_id, bare, sig)
            sigs.append(
                replace(sig, signature=sign(self._secrets[one.public_key], data))
            )
        return LightBlock(
            signed_header=SignedHeader(
                header=header, commit=replace(bare, signatures=tuple(sigs))
            ),
            validators=group,
            next_validators=self.validators(height + 1),
        )

    def _header(self, height: int, last: BlockId) -> Header:
        group = self.validators(height)
        other = self._branch if height >= self._branch_at else ""
        return Header(
            version=ConsensusVersion(app=1),
            chain_id=self._chain_id,
            height=Height(height),
            time=Timestamp(seconds=_START + self._seconds * height),
            last_block_id=last,
            last_commit_hash=sha256(b"commit"),
            data_hash=data_hash(()),
            validators_hash=validators_hash(group),
            next_validators_hash=validators_hash(self.validators(height + 1)),
            consensus_hash=sha256(b"params"),
            app_hash=sha256(b"state" + other.encode()),
            last_results_hash=results_hash(()),
            evidence_hash=NO_EVIDENCE_HASH,
            proposer_address=group.validators[0].address,
        )

    def _make_set(self, shift: int) -> ValidatorSet:
        keys = [self._key(shift + number) for number in range(self._count)]
        return ValidatorSet.sorted(
            tuple(Validator(public_key=key, power=10) for key in keys)
        )

    @lru_cache(maxsize=100_000)  # noqa: B019 - lives as long as its one chain
    def _key(self, number: int) -> AccountId:
        secret = sha256(b"validator %d" % number)
        public = account_of(secret)
        self._secrets[public] = secret
        return public
