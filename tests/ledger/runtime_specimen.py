"""Makes specimens of L1's history: ``python tests/ledger/runtime_specimen.py NUMBER``.

A specimen is the genesis and the blocks of a small chain whose last blocks are
executed by one version of the L1 runtime, with the app hash after each and the hash
of its results. Programs of all later releases come to the same: what was released
under a number is never changed. So it is made once, before the release that brings
the version; a file that exists is written again only with ``--again``, while its
version is unreleased.

It needs the world of ``conftest.py``; everything in it is derived from names.
"""

import importlib.util
import json
import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sealift.base import encode
from sealift.crypto import sha256
from sealift.frame import SimpleTreeStore
from sealift.ledger import (
    FIRST_RUNTIME,
    FinalizedBlock,
    Ledger,
    ledger_call,
    render_genesis,
    shard_id_of,
)
from sealift.protocol import RehearsalsOrder, RehearsalStatement

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "specimens"
#: The version that brought rehearsals.
FIRST_GATED = 3


def path_of(number: int) -> Path:
    return FOLDER / f"runtime-{number}.json"


def lived(world: Any, number: int) -> None:
    """Births, upgrades, confirmations, rotation; for a later version: across it."""
    one, two = world.instance("one"), world.instance("two")
    shard = world.born_shard(one, two, config=world.config(max_instances=3))
    world.blocks_until(world.height + 2)
    for version in range(FIRST_RUNTIME + 1, number + 1):
        at = world.height + 4
        world.as_root("system.set_code", version=version, height=at)
        if version > FIRST_RUNTIME + 1:
            world.blocks_until(at + 2)
            continue
        world.upgrade(shard)
        while world.height < at + 2:
            world.confirm(shard, one, world.height)
    world.register(shard, one)
    world.call("teerex.unregister_enclave", by="operator", signing_key=two.key)
    world.submit(world.status_order(shard, min_isv_svn=1))
    world.call("enclave_bridge.invoke", shard=shard, ciphertext=b"c" * 64)
    funds = {"shard": shard, "beneficiary": world.account("bob"), "amount": 5}
    world.call("enclave_bridge.shield_funds", **funds)
    bad = ledger_call("system.set_code", version=1, height=1)
    world.block(
        world.tx("sudo.sudo", by="root", call=bad),
        world.tx("balances.transfer", dest=world.account("bob"), amount=7),
        b"no transaction",
    )
    world.blocks_until(world.height + 5)
    if number >= FIRST_GATED:
        gated(world)


def gated(world: Any) -> None:
    """A shard whose upgrade is put off by rule, rehearsed, and runs."""
    old, new = world.instance("gated"), world.instance("next", world.CODE_B)
    world.call(
        "enclave_bridge.create_gated_shard",
        rules=world.rules(),
        config=world.config(),
        rehearsals=1,
        postpone_by=10,
    )
    shard = shard_id_of(world.genesis.chain_id, world.account("alice"), 1)
    world.register(shard, old)
    world.publish_key(shard, old)
    world.blocks_until(world.upgrade(shard))
    world.register(shard, new)
    for good in (False, True):
        entry = world.schedule(shard).entry(1)
        statement = RehearsalStatement(
            chain_id=world.genesis.chain_id,
            shard=shard,
            generation=entry.generation,
            order=entry.order,
            upgrade_at=entry.upgrade_at,
            signing_key=new.key,
            height=world.height - 1,
            blocks=1,
            good=good,
            check="" if good else "accounts.post_upgrade",
            size=4096,
        )
        world.call(
            "enclave_bridge.post_rehearsal",
            by="operator",
            statement=statement,
            signature=statement.sign(new.secret),
            milliseconds=8,
        )
    order = RehearsalsOrder(
        chain_id=world.genesis.chain_id,
        shard=shard,
        serial=world.schedule(shard).serial,
        required=0,
        postpone_by=0,
        effective_at=world.height + 20,
        expiry=world.height + 9,
    )
    world.submit(order)
    world.blocks_until(entry.upgrade_at + 2)


def execute(
    ledger: Ledger, block_hash: bytes, time: int, txs: Sequence[bytes]
) -> FinalizedBlock:
    done = ledger.finalize_block(
        height=ledger.height + 1,
        block_hash=block_hash,
        time=time,
        proposer=b"p" * 20,
        txs=txs,
    )
    ledger.commit()
    return done


def results_of(block: FinalizedBlock) -> str:
    """What headers say of results, and the events outside of transactions."""
    said = [(r.code, r.data, r.gas_wanted, r.gas_used) for r in block.results]
    return sha256(encode((said, block.events))).hex()


def made(number: int) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("ledger_world", HERE / "conftest.py")
    if spec is None or spec.loader is None:
        raise ImportError(HERE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    world = module.World()
    first = world.app_hash
    lived(world, number)
    replay = world.made(SimpleTreeStore())
    replay.init_chain()
    return {
        "runtime": number,
        "genesis": json.loads(render_genesis(world.genesis)),
        "app_hash": first.hex(),
        "blocks": [
            {
                "hash": block_hash.hex(),
                "time": time,
                "txs": [b64encode(tx).decode() for tx in txs],
                "app_hash": root.hex(),
                "results": results_of(execute(replay, block_hash, time, txs)),
            }
            for block_hash, time, txs, root in world.history
        ],
    }


def main(number: int, *more: str) -> None:
    path = path_of(number)
    if path.exists() and "--again" not in more:
        raise SystemExit(f"{path} exists: what was released is never changed")
    FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps(made(number), indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
