"""Checks of steps 3 and 8: a registration, a key package (DESIGN §8)."""

from collections.abc import Callable

from sealift.base import AccountId, Digest, decode
from sealift.crypto import constant_time_equal
from sealift.protocol import (
    EnclaveRecord,
    KeyPackage,
    MuRaChallenge,
)
from sealift.relay import RelayCheckpoint, validators_hash
from sealift.relay import header_hash as hash_of

from ._entitled import Standing
from ._errors import (
    ChallengeMismatchError,
    CheckpointMismatchError,
    WrongShardError,
)


def check_registration(
    record: EnclaveRecord,
    *,
    chain_id: str,
    shard: bytes,
    challenge: bytes,
    provider: AccountId,
) -> None:
    """Return only if a registration was made for this very session.

    Raises:
        WrongShardError: For another chain or shard.
        ChallengeMismatchError: Without the challenge, with another one, or
            naming another provider.
    """
    statement = record.statement
    if statement.chain_id != chain_id or statement.shard != shard:
        raise WrongShardError(
            "registered for another shard",
            got=f"{statement.chain_id} {statement.shard.hex()}",
            expected=f"{chain_id} {shard.hex()}",
        )
    if statement.challenge is None or not constant_time_equal(
        statement.challenge, challenge
    ):
        raise ChallengeMismatchError(
            "the registration does not name this session's challenge",
            got=statement.challenge if statement.challenge is not None else "none",
            expected=challenge.hex(),
        )
    if statement.provider != provider:
        raise ChallengeMismatchError(
            "the registration names another provider",
            got=statement.provider if statement.provider is not None else "none",
            expected=provider.hex(),
        )


def check_checkpoint(
    package: KeyPackage,
    standing: Standing,
    *,
    challenge: MuRaChallenge,
    header_hash: Callable[[int], Digest | None],
) -> None:
    """Return only if the provider stands on the requester's own chain.

    The checkpoint's header must be the head that the provider challenged from,
    and one that the requester has verified itself; where both speak of the same
    frontier, they must agree. It brings the validators that the header announced or
    none, and has seen no fork. The schedule's digest is not judged: the schedule
    may have changed since, and a requester goes by the one it has proven.

    Raises:
        CheckpointMismatchError: They do not.
        DecodeError: Not a checkpoint.
    """
    checkpoint = decode(RelayCheckpoint, package.checkpoint)
    header = checkpoint.header
    named = (challenge.head_height, challenge.head_hash)
    if named != (header.height, hash_of(header)):
        raise CheckpointMismatchError(
            "the checkpoint is not of the head that the provider named",
            got=f"{header.height} {hash_of(header).hex()}",
            expected=f"{named[0]} {named[1].hex()}",
        )
    following = checkpoint.next_validators
    if following is not None and (
        validators_hash(following) != header.next_validators_hash
    ):
        raise CheckpointMismatchError(
            "the checkpoint has other validators than its header announced",
            got=validators_hash(following),
            expected=header.next_validators_hash.hex(),
        )
    if checkpoint.evidence is not None:
        raise CheckpointMismatchError(
            "the provider has seen two chains",
            got=f"a fork at {checkpoint.evidence.conflicting.header.height}",
            expected="one chain",
        )
    own = header_hash(header.height)
    if own is None or own != hash_of(header):
        raise CheckpointMismatchError(
            f"the provider's header {header.height} is not on my chain",
            got=hash_of(header),
            expected=own.hex() if own is not None else "a header I have verified",
            hint="Let the relay reach that height, then ask again.",
        )
    mine, theirs = standing.frontier, package.frontier
    if mine.confirmed == theirs.confirmed and mine != theirs:
        raise CheckpointMismatchError(
            f"the provider has another root at block {mine.confirmed}",
            got=f"{theirs.root.hex()} by generation {theirs.generation}",
            expected=f"{mine.root.hex()} by generation {mine.generation}",
        )
