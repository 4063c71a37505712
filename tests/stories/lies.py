"""What a host can do to a block before it hands it to its enclave."""

from collections.abc import Callable

import msgspec

from sealift.base import decode, encode
from sealift.protocol import record_key, schedule_key
from sealift.protocol.ecall import ImportBlock, StateProof
from sealift.relay import LightBlock, TxResult
from sealift.testing import World, WorldWorker

Lie = Callable[[World, WorldWorker, int, ImportBlock], ImportBlock]
LIES: dict[str, Lie] = {}


def lie(make: Lie) -> Lie:
    LIES[make.__name__] = make
    return make


def _changed(block: ImportBlock, **fields: object) -> ImportBlock:
    return msgspec.structs.replace(block, **fields)


@lie
def drop_the_last_tx(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, txs=block.txs[:-1], results=block.results[:-1])


@lie
def drop_all_txs(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, txs=(), results=())


@lie
def double_a_tx(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(
        block, txs=block.txs + block.txs[:1], results=block.results + block.results[:1]
    )


@lie
def reorder_txs(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, txs=block.txs[::-1], results=block.results[::-1])


@lie
def alter_a_tx(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    if not block.txs:
        return block
    tx = bytearray(block.txs[0])
    tx[len(tx) // 2] ^= 1
    return _changed(block, txs=(bytes(tx), *block.txs[1:]))


@lie
def take_txs_of_another_block(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    other = worker.import_request(height - 1)
    return _changed(block, txs=other.txs, results=other.results)


@lie
def call_a_failed_tx_good_and_a_good_one_failed(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    results = [decode(TxResult, raw) for raw in block.results]
    flipped = tuple(
        encode(msgspec.structs.replace(one, code=0 if one.code else 50))
        for one in results
    )
    return _changed(block, results=flipped)


@lie
def bring_no_record(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    kept = tuple(p for p in block.proofs if p.key != record_key(worker.shard))
    return _changed(block, proofs=kept)


@lie
def bring_no_proofs(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, proofs=())


@lie
def say_that_the_record_is_absent(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _swap(block, record_key(worker.shard), value=None)


@lie
def bring_the_record_of_the_block_before(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    (old,) = world.chain.prove(height - 1, [record_key(worker.shard)])
    return _swap(block, old.key, value=old.value, proof=old.proof)


@lie
def bring_the_schedule_of_the_birth(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    (old,) = world.chain.prove(8, [schedule_key(worker.shard)])
    return _swap(block, old.key, value=old.value, proof=old.proof)


@lie
def alter_a_value(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    proof = block.proofs[0]
    value = bytearray(proof.value or b"\x00")
    value[-1] ^= 1
    return _swap(block, proof.key, value=bytes(value))


@lie
def prove_a_key_twice(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, proofs=block.proofs + block.proofs[:1])


@lie
def bring_the_proofs_of_another_block(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, proofs=worker.import_request(height - 1).proofs)


@lie
def change_the_app_hash(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _header(block, app_hash=bytes(32))


@lie
def change_the_time(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    light = decode(LightBlock, block.light_block)
    time = light.signed_header.header.time.plus(seconds=5)
    return _header(block, time=time)


@lie
def bring_a_commit_of_another_block(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    light = decode(LightBlock, block.light_block)
    other = decode(LightBlock, world.chain.light_block(height))
    signed = msgspec.structs.replace(
        light.signed_header, commit=other.signed_header.commit
    )
    changed = msgspec.structs.replace(light, signed_header=signed)
    return _changed(block, light_block=encode(changed))


@lie
def skip_a_block(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return worker.import_request(height + 1) if height + 2 <= world.height else block


@lie
def repeat_a_block(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return worker.import_request(height - 1)


@lie
def send_noise(
    world: World, worker: WorldWorker, height: int, block: ImportBlock
) -> ImportBlock:
    return _changed(block, light_block=b"noise", txs=(b"noise",))


def _swap(block: ImportBlock, key: bytes, **fields: object) -> ImportBlock:
    def change(proof: StateProof) -> StateProof:
        return msgspec.structs.replace(proof, **fields) if proof.key == key else proof

    return _changed(block, proofs=tuple(change(proof) for proof in block.proofs))


def _header(block: ImportBlock, **fields: object) -> ImportBlock:
    light = decode(LightBlock, block.light_block)
    header = msgspec.structs.replace(light.signed_header.header, **fields)
    signed = msgspec.structs.replace(light.signed_header, header=header)
    changed = msgspec.structs.replace(light, signed_header=signed)
    return _changed(block, light_block=encode(changed))
