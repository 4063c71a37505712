"""What earlier releases left on disks and wires is opened by this one.

Red here means that somebody's disk, backup or peer is no longer understood. The
specimen is right. How one is made for a release: docs/contributing.md.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from revived import Specimen, head_of

from sealift.base import canonical_decode, decode, encode
from sealift.bundle import SigstructError, verify_bundle
from sealift.ledger import DcapVerifier
from sealift.node import LedgerApplication, SoloHome
from sealift.protocol import MuRaMessage
from sealift.protocol import ecall as e
from sealift.testing import WorldError
from sealift.testing.specimens import (
    diffs_of,
    main,
    session_of,
    snapshot_of,
    whole_bundle,
)
from sealift.worker import StoreMismatchError, WorkerStore

HERE = Path(__file__).parent
MOST = 2 * 1024 * 1024
SUMS = HERE / "SHA256SUMS"


# --- specimens are never changed ---


def test_no_specimen_is_changed_or_gone_and_none_is_new() -> None:
    """A new release appends its own lines; the lines that are there stay."""
    listed = {}
    for line in SUMS.read_text().splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    found = {
        path.relative_to(HERE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in HERE.iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == listed
    assert {"0.1.0"} <= {name.split("/")[0] for name in listed}


def test_a_specimen_is_small(release: str) -> None:
    sizes = [path.stat().st_size for path in (HERE / release).rglob("*")]
    assert sum(sizes) < MOST


# --- the bundle ---


def test_the_bundle_is_whole_again_and_what_its_vendor_signed(
    specimen: Specimen,
) -> None:
    verified = verify_bundle(specimen.bundle)
    assert verified.fingerprint.hex() == specimen.facts["fingerprint"]
    manifest = specimen.bundle.manifest
    assert list(manifest.ecall_versions) == specimen.facts["ecall_versions"]


def test_a_bundle_with_other_wheels_is_not_the_specimens(specimen: Specimen) -> None:
    """Wheels are measured: those of today's lock would not do in their place."""
    lock = specimen.folder / "wheels.txt"
    kept = lock.read_text().split("typing-extensions==")[0]
    lock.write_text(kept)
    with pytest.raises(SigstructError):
        whole_bundle(specimen.folder)


# --- L1's database ---


def test_the_l1_database_is_opened_and_has_the_same_app_hash(
    specimen: Specimen,
) -> None:
    found = head_of(specimen.chain, LedgerApplication(DcapVerifier()))
    facts = specimen.facts
    assert found == (
        facts["chain_id"],
        facts["height"],
        bytes.fromhex(facts["app_hash"]),
    )


def test_the_l1_database_is_replayed_to_the_same_app_hashes(
    specimen: Specimen,
) -> None:
    """Every block is executed again, from the genesis, by today's rules."""
    opened = SoloHome(specimen.chain).open_chain(LedgerApplication(DcapVerifier()))
    try:
        again = LedgerApplication(DcapVerifier())
        state = again.init_chain(opened.genesis).app_hash
        for height in range(1, opened.height + 1):
            stored = opened.store.block(height)
            header = stored.block.header
            assert header.app_hash == state, height
            done = again.finalize_block(
                height=header.height,
                block_hash=stored.block_id.hash,
                time=header.time,
                proposer=header.proposer_address,
                txs=stored.block.txs,
            )
            again.commit()
            assert tuple(done.results) == stored.results, height
            state = done.app_hash
        assert state.hex() == specimen.facts["app_hash"]
    finally:
        opened.close()


# --- the transcript of a provisioning ---


def test_every_frame_of_the_transcript_is_read_and_written_the_same(
    specimen: Specimen,
) -> None:
    """Requests byte for byte; replies may have grown by fields with defaults."""
    kinds = set()
    for end, what, raw in session_of(specimen.folder):
        kind = e.Request if what == "request" else e.Reply
        message = decode(kind, raw, limit=e.MAX_FRAME_BYTES)
        kinds.add((end, type(message).__name__))
        again = encode(message)
        if what == "request":
            assert again == raw
        old, new = msgspec.msgpack.decode(raw), msgspec.msgpack.decode(again)
        assert new[: len(old)] == old
        assert decode(kind, again, limit=e.MAX_FRAME_BYTES) == message
    ends = ("provider", "requester")
    assert {(end, "OpenSession") for end in ends} <= kinds
    assert {(end, "FeedSession") for end in ends} <= kinds
    assert {(end, "ProveSession") for end in ends} <= kinds


def test_the_words_of_the_transcript_are_those_of_mu_ra_and_arrive(
    specimen: Specimen,
) -> None:
    """Plain messages keep their bytes; what one end sent is what the other got."""
    sent: dict[str, list[bytes]] = {"provider": [], "requester": []}
    heard: dict[str, list[bytes]] = {"provider": [], "requester": []}
    done = set()
    for end, what, raw in session_of(specimen.folder):
        if what == "request":
            message = decode(e.Request, raw, limit=e.MAX_FRAME_BYTES)
            if isinstance(message, e.FeedSession):
                heard[end] += message.data
        else:
            message = decode(e.Reply, raw, limit=e.MAX_FRAME_BYTES)
            if isinstance(message, e.SessionReply):
                sent[end] += message.send
                if message.done:
                    done.add(end)
    assert heard == {"provider": sent["requester"], "requester": sent["provider"]}
    assert done == {"provider", "requester"}
    plain = [
        canonical_decode(MuRaMessage, chunk[1:])
        for end in ("provider", "requester")
        for chunk in sent[end]
        if chunk[:1] == b"\0"
    ]
    names = [type(one).__name__ for one in plain]
    assert names == ["MuRaChallenge", "MuRaHello", "MuRaReady"]
    assert all(chunk[:1] in (b"\0", b"\1") for one in sent.values() for chunk in one)


# --- a worker's disk, and the seals ---


@pytest.mark.parametrize("name", ["old", "old-2"])
def test_a_workers_database_is_opened_as_it_is(specimen: Specimen, name: str) -> None:
    fingerprint = bytes.fromhex(specimen.facts["fingerprint"])
    path = specimen.worker(name) / "worker.db"
    store = WorkerStore(path, shard=specimen.shard, fingerprint=fingerprint)
    try:
        snapshot = store.snapshot()
        assert snapshot is not None
        assert snapshot.height >= specimen.facts["snapshot_height"]
        calls = [bytes.fromhex(one) for one in specimen.facts["calls"]]
        # Who came later took the state over, without the receipts before.
        receipts = [store.receipt(one) for one in calls]
        assert all(receipts) if name == "old" else receipts[-1] is not None
    finally:
        store.close()
    with pytest.raises(StoreMismatchError):
        WorkerStore(path, shard=bytes(32), fingerprint=fingerprint)


def started(specimen: Specimen, runtime: object, name: str = "old") -> "object":
    """Today's code, brought up from what the old release sealed."""
    enclave = specimen.enclave(name, runtime)
    enclave.call(
        e.Start(
            shard=specimen.shard,
            key_store=(specimen.worker(name) / "key_store.sealed").read_bytes(),
            checkpoint=(specimen.folder / "checkpoint.bin").read_bytes(),
            light_block=None,
        )
    )
    return enclave


def import_snapshot(enclave: object, specimen: Specimen) -> e.StateReply:
    _, header, chunks = snapshot_of(specimen.folder)
    enclave.call(e.SnapshotBegin(header=header))
    for number, data in enumerate(chunks):
        reply = enclave.call(e.SnapshotChunk(index=number, data=data))
    return reply


def test_todays_code_opens_seals_snapshot_and_diffs(
    specimen: Specimen, v1: object
) -> None:
    """Key store, checkpoint, snapshot and diffs of the old formats, to one root."""
    facts = specimen.facts
    enclave = started(specimen, v1)
    reply = import_snapshot(enclave, specimen)
    assert reply.height == facts["snapshot_height"]
    roots = {}
    for height, diff in diffs_of(specimen.folder):
        reply = enclave.call(e.DiffApply(diff=diff))
        assert reply.height == height
        roots[height] = reply.root.hex()
    assert reply.height == facts["state_height"]
    confirmed = facts["confirmed"]
    assert roots[confirmed["height"]] == confirmed["root"]
    # It goes on from there: the state is exported in today's format, and taken back.
    begun = enclave.call(e.SnapshotBegin())
    assert begun.height == facts["state_height"]


def test_an_old_snapshot_that_was_altered_is_refused_by_todays_code(
    specimen: Specimen, v1: object
) -> None:
    _, header, chunks = snapshot_of(specimen.folder)
    for place in (0, 40, len(chunks[0]) - 1):
        enclave = started(specimen, v1)
        enclave.call(e.SnapshotBegin(header=header))
        bad = bytearray(chunks[0])
        bad[place] ^= 1
        refused = enclave.ask(e.SnapshotChunk(index=0, data=bytes(bad)))
        assert isinstance(refused, e.Refused), place
        assert refused.code == "SnapshotForgedError"
    enclave = started(specimen, v1)
    cut = bytearray(header)
    cut[-1] ^= 1
    refused = enclave.ask(e.SnapshotBegin(header=bytes(cut)))
    assert isinstance(refused, e.Refused)
    assert refused.code == "SnapshotForgedError"


def test_an_old_diff_that_was_altered_or_skipped_is_refused_by_todays_code(
    specimen: Specimen, v1: object
) -> None:
    enclave = started(specimen, v1)
    before = import_snapshot(enclave, specimen)
    diffs = diffs_of(specimen.folder)
    bad = bytearray(diffs[0][1])
    bad[-1] ^= 1
    for diff, code in (
        (bytes(bad), "DiffForgedError"),
        (diffs[1][1], "DiffOrderError"),
    ):
        refused = enclave.ask(e.DiffApply(diff=diff))
        assert isinstance(refused, e.Refused)
        assert refused.code == code
    status = enclave.call(e.GetStatus())
    assert (status.state_height, status.root) == (before.height, before.root)


def test_another_machine_does_not_open_the_old_seals(
    specimen: Specimen, v1: object
) -> None:
    enclave = specimen.enclave("new", v1)
    refused = enclave.ask(
        e.Start(
            shard=specimen.shard,
            key_store=(specimen.worker("old") / "key_store.sealed").read_bytes(),
            checkpoint=(specimen.folder / "checkpoint.bin").read_bytes(),
            light_block=None,
        )
    )
    assert isinstance(refused, e.Refused)


# --- the program that makes them ---


@pytest.mark.process
def test_the_program_makes_a_specimen_once(tmp_path: Path) -> None:
    """By today's code; the committed ones are of the code of their day."""
    out = tmp_path / "0.0.0"
    done = subprocess.run(
        [sys.executable, "-m", "sealift.testing.specimens", out],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = Specimen(out)
    found = head_of(made.chain, LedgerApplication(DcapVerifier()))
    assert found[1] == made.facts["height"]
    assert verify_bundle(made.bundle).fingerprint.hex() == made.facts["fingerprint"]
    assert diffs_of(out)[-1][0] == made.facts["state_height"]
    before = {path: path.read_bytes() for path in out.rglob("*.bin")}
    for words in ([str(out)], [], ["a", "b"]):
        with pytest.raises(WorldError):
            main(words)
    assert {path: path.read_bytes() for path in out.rglob("*.bin")} == before
