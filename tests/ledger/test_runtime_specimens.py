"""What was released under a number is never changed: old blocks, old roots."""

import json
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runtime_specimen import execute, path_of, results_of

from sealift.frame import SimpleTreeStore
from sealift.ledger import RUNTIME_VERSIONS, Ledger, parse_genesis


@pytest.mark.parametrize("number", sorted(RUNTIME_VERSIONS))
def test_every_version_comes_to_the_roots_it_came_to(number: int, world: Any) -> None:
    known = json.loads(path_of(number).read_text())
    store = SimpleTreeStore()
    ledger = Ledger(
        genesis=parse_genesis(json.dumps(known["genesis"]).encode()),
        store=store,
        verifier=world.verifier,
    )
    assert ledger.init_chain().hex() == known["app_hash"]
    for height, block in enumerate(known["blocks"], 1):
        txs = [b64decode(tx) for tx in block["txs"]]
        done = execute(ledger, bytes.fromhex(block["hash"]), block["time"], txs)
        assert done.app_hash.hex() == block["app_hash"], height
        assert results_of(done) == block["results"], height
    assert ledger.runtime_version == known["runtime"] == number
