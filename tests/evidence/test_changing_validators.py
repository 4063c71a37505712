"""A chain whose validators are other ones by its end: trust goes by halves."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from ghosts import haunted
from lineages import WorldSource, replace, trust_root, verify

from sealift.base import Height
from sealift.client import export_evidence
from sealift.crypto import account_of, sha256, sign
from sealift.evidence import EvidenceFile, HeadersRefusedError
from sealift.frame import Runtime
from sealift.protocol import ShardStatus, StatusOrder
from sealift.relay import (
    FLAG_COMMIT,
    BlockId,
    Commit,
    CommitSig,
    LightBlock,
    PartSetHeader,
    SignedHeader,
    TrustRoot,
    Validator,
    ValidatorSet,
    header_hash,
    validators_hash,
    vote_sign_bytes,
)
from sealift.testing import World

SECRETS = {account_of(s): s for s in (sha256(b"validator %d" % n) for n in range(40))}
KEYS = list(SECRETS)


def validators_at(height: int) -> ValidatorSet:
    """Three of equal power; every fourth block one is exchanged."""
    first = height // 4
    return ValidatorSet.sorted(
        tuple(Validator(public_key=key, power=10) for key in KEYS[first : first + 3])
    )


class Changing(WorldSource):
    """A world's blocks, decided by validators that come and go."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.asked: list[int] = []
        self.blocks: dict[int, LightBlock] = {}
        parent = BlockId()
        for height in range(1, world.height + 1):
            self.blocks[height] = self._decide(height, parent)
            parent = self.blocks[height].commit.block_id

    async def light_block(self, height: Height) -> LightBlock:
        self.asked.append(height)
        return self.blocks[height]

    def root(self) -> TrustRoot:
        found = self.blocks[1].header
        return TrustRoot(
            chain_id=found.chain_id, height=Height(1), header_hash=header_hash(found)
        )

    def _decide(self, height: int, parent: BlockId) -> LightBlock:
        now, following = validators_at(height), validators_at(height + 1)
        header = replace(
            self.chain.block(height).block.header,
            last_block_id=parent,
            validators_hash=validators_hash(now),
            next_validators_hash=validators_hash(following),
        )
        named = BlockId(
            hash=header_hash(header), parts=PartSetHeader(total=1, hash=bytes(32))
        )
        bare = Commit(height=Height(height), block_id=named)
        sigs = []
        for one in now.validators:
            empty = CommitSig(
                flag=FLAG_COMMIT,
                validator_address=one.address,
                timestamp=header.time,
            )
            data = vote_sign_bytes(header.chain_id, bare, empty)
            signature = sign(SECRETS[one.public_key], data)
            sigs.append(replace(empty, signature=signature))
        return LightBlock(
            signed_header=SignedHeader(
                header=header, commit=replace(bare, signatures=tuple(sigs))
            ),
            validators=now,
            next_validators=following,
        )


@pytest.fixture(scope="module")
def world(new_world: Callable[..., World], v1: Runtime) -> World:
    """An act, a root, and a long quiet time after each."""
    world = new_world()
    (one,) = haunted(world, v1, "one")
    world.blocks(20)
    world.submit(world.sign_order(world.order(StatusOrder, status=ShardStatus())))
    world.blocks(30)
    one.confirm()
    world.blocks(20)
    return world


@pytest.fixture(scope="module")
def changing(world: World) -> Changing:
    return Changing(world)


@pytest.fixture(scope="module")
def file(world: World, changing: Changing) -> EvidenceFile:
    return asyncio.run(
        export_evidence(changing, world.shard, trust_root=changing.root())
    )


def heights(file: EvidenceFile) -> list[int]:
    return [one.signed.header.height for one in file.headers]


def test_headers_between_are_supplied_where_trust_is_not_enough(
    world: World, changing: Changing, file: EvidenceFile
) -> None:
    lineage = verify(world, file, trust_root=changing.root())
    assert lineage.last == world.height - 1
    steps = [after - before for before, after in pairwise(heights(file))]
    assert max(steps) > 1
    assert len(file.validators) > 5
    assert len(set(file.validators)) == len(file.validators)


def test_without_those_between_trust_ends(
    world: World, changing: Changing, file: EvidenceFile
) -> None:
    """From a block before to one whose validators are all other ones."""
    first, last = heights(file)[0], heights(file)[-1]
    cut = replace(
        file,
        headers=tuple(
            one for one in file.headers if one.signed.header.height in (first, last)
        ),
        blocks=(),
        states=(),
    )
    with pytest.raises(HeadersRefusedError, match="step 1: header"):
        verify(world, cut, trust_root=changing.root())


def test_former_validators_cannot_tell_another_end(
    world: World, changing: Changing, file: EvidenceFile
) -> None:
    """Signed by the first set alone, long after it was replaced."""
    with pytest.raises(HeadersRefusedError):
        verify(world, file, trust_root=trust_root(world))
    old = changing.blocks[1]
    forged = tuple(
        replace(one, signed=replace(one.signed, commit=old.commit))
        if one == file.headers[-1]
        else one
        for one in file.headers
    )
    with pytest.raises(HeadersRefusedError):
        verify(world, replace(file, headers=forged), trust_root=changing.root())
