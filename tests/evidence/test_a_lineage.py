"""A shard's life, exported and verified by somebody who was not there."""

from lineages import export, verify

from sealift.evidence import explain_lineage
from sealift.testing import World


def test_an_upgrade_is_explained_from_the_genesis_to_now(upgraded: World) -> None:
    file = export(upgraded)
    lineage = verify(upgraded, file)
    for line in explain_lineage(lineage):
        print(line)
    assert [one.generation for one in lineage.generations] == [0, 1]
