"""Hosts that lie in an audit: each lie is refused by its own name."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audit_world import AuditWorld, LoudDiary, Steps, ask

from sealift.base import Height, Message, decode, encode
from sealift.bundle import L1TrustRoot
from sealift.crypto import AEAD_KEY_BYTES, hpke_seal
from sealift.enclave import _audit, _auditee
from sealift.enclave._audit_records import (
    AUDIT_SUITE,
    AuditRecordError,
    AuditRecords,
    audit_key_info,
)
from sealift.protocol import ShardStatus
from sealift.protocol import audit as a
from sealift.protocol import ecall as e
from sealift.testing._release import make_release
from sealift.worker._errors import EnclaveRefusedError


@pytest.fixture
def steps(audited: AuditWorld) -> Steps:
    return Steps(audited)


def refused(name: str) -> Any:
    return pytest.raises(EnclaveRefusedError, match=rf"refused \({name}\)")


# --- roles ---


def test_an_auditor_signs_nothing_gives_no_keys_and_answers_no_reads(
    steps: Steps,
) -> None:
    steps.begin()
    for request in (
        e.Confirm(durable=Height(9), after=Height(1)),
        e.Register(operator=bytes(32)),
        e.Execute(),
        e.BornKeys(blob=b""),
        e.StageKeys(),
        e.HoldKeys(),
        e.SpeakEffects(after=Height(0)),
        e.OpenSession(role="provider"),
        e.Ask(envelope=b""),
        e.SnapshotBegin(),
        e.DumpRa(),
        a.AuditBegin(genesis=b""),
        a.AuditOpen(shard=bytes(32), generation=0, nonce=bytes(32)),
    ):
        with refused("AuditRoleError"):
            steps.ask(request, Message)


def test_former_code_in_an_audit_can_be_nothing_else(steps: Steps) -> None:
    """Never started, it holds no key; once it is an auditee it cannot start."""
    steps.begin()
    steps.show_present()
    steps.open(steps.next(a.AuditInvited), steps.audited.releases[0])
    auditee = steps.auditee
    assert auditee is not None
    start = e.Start(
        shard=steps.world.shard,
        key_store=steps.world.workers["old"].disk.key_store,
        checkpoint=None,
        light_block=steps.world.chain.light_block(1),
    )
    for request in (
        start,
        e.Register(operator=bytes(32)),
        e.OpenSession(role="requester"),
        e.Confirm(durable=Height(9), after=Height(1)),
        a.AuditOpen(shard=steps.world.shard, generation=0, nonce=bytes(32)),
        a.AuditBegin(genesis=b""),
    ):
        with refused("AuditRoleError"):
            ask(auditee, request, Message)
    assert auditee._shard is None


def test_a_started_enclave_is_no_auditee(steps: Steps) -> None:
    with refused("AuditRoleError"):
        steps.ask(
            a.AuditOpen(shard=steps.world.shard, generation=0, nonce=bytes(32)),
            a.AuditOpened,
        )


def test_an_auditor_begins_before_any_block_and_with_keys(steps: Steps) -> None:
    steps.follow(1)
    with refused("AuditRoleError"):
        steps.begin()
    fresh = steps.audited.process(steps.audited.releases[1])
    light = steps.world.chain.light_block(1)
    nothing = e.Start(
        shard=steps.world.shard, key_store=None, checkpoint=None, light_block=light
    )
    ask(fresh, nothing, e.Started)
    with refused("NoKeysError"):
        ask(fresh, a.AuditBegin(genesis=b""), a.AuditBegun)


# --- the present ---


def test_a_host_cannot_hide_that_code_was_withdrawn(steps: Steps) -> None:
    """It shows L1 as it was before a floor rose: that block lacks the challenge."""
    before = steps.world.height - 1
    steps.world.set_status(ShardStatus(min_isv_svn=2))
    steps.begin()
    with refused("AuditChallengeError"):
        steps.ask(steps.present(before), a.AuditStands)
    txs = steps.world.chain.block(steps.height).block.txs
    with refused("TxsMismatchError"):
        steps.ask(steps.present(before, txs=txs), a.AuditStands)
    steps.show_present()
    invited = steps.next(a.AuditInvited)
    opened = steps.open(invited, steps.audited.releases[0])
    with refused("IsvSvnTooLowError"):
        steps.ask(steps.admit(opened), a.AuditSealed)


def test_the_present_is_proven_whole_and_only_goes_forward(steps: Steps) -> None:
    steps.begin()
    with refused("AuditOrderError"):
        steps.next(a.AuditInvited)
    whole = steps.present()
    for missing in range(3):
        proofs = whole.proofs[:missing] + whole.proofs[missing + 1 :]
        with refused("SkipIncompleteError"):
            steps.ask(steps.present(proofs=proofs), a.AuditStands)
    old = steps.world.chain.prove(steps.height - 1, [p.key for p in whole.proofs])
    with refused("ProofInvalidError"):
        steps.ask(steps.present(proofs=old), a.AuditStands)
    steps.show_present()
    with refused("RepeatedBlockError"):
        steps.show_present()


def test_another_genesis_is_no_beginning(steps: Steps) -> None:
    steps.world.genesis += b"\x00"
    steps.begin()
    with refused("GenesisMismatchError"):
        steps.show_present()


def test_a_trust_root_above_the_birth_reaches_no_genesis(steps: Steps) -> None:
    world = steps.world
    root = world.height - 3
    late = make_release(
        steps.audited.releases[1].runtime,
        l1=L1TrustRoot(
            chain_id=world.chain.chain_id,
            height=root,
            header_hash=world.chain.hash_of(root).hex(),
        ),
        root_der=world.intel.root_der,
        isv_svn=1,
        sources=None,
    )
    enclave = steps.audited.process(late)
    light = world.chain.light_block(root)
    start = e.Start(
        shard=world.shard, key_store=None, checkpoint=None, light_block=light
    )
    ask(enclave, start, e.Started)
    held = steps.enclave._shard
    assert enclave._shard is not None
    assert held is not None
    enclave._shard.keys = msgspec.structs.replace(
        enclave._shard.keys, epochs=held.keys.epochs, candidate=held.keys.candidate
    )
    begun = ask(enclave, a.AuditBegin(genesis=world.genesis), a.AuditBegun)
    steps.height = asyncio.run(steps.audited.announce(begun.challenge))
    with refused("AuditRootError"):
        ask(enclave, steps.present(), a.AuditStands)


def test_the_chain_that_is_followed_is_the_one_that_was_shown(steps: Steps) -> None:
    steps.begin()
    steps.show_present()
    handler = steps.enclave._handlers[a.AuditNext]
    cells = [cell.cell_contents for cell in handler.__closure__ or ()]  # type: ignore[attr-defined]
    (auditor,) = [c.__self__ for c in cells if hasattr(c, "__self__")]
    other = auditor._present.next_header
    auditor._present = dataclasses.replace(auditor._present, header=other)
    with refused("HaltedError"):
        steps.follow(steps.height)
    with refused("AuditOrderError"):
        steps.next(a.AuditInvited)


def test_a_hidden_call_is_refused_by_the_auditor(steps: Steps) -> None:
    steps.begin()
    steps.show_present()
    chain = steps.world.chain
    while not chain.block(steps.head).block.txs:
        steps.follow(steps.head)
    request = steps.feed.import_request(steps.head)
    with refused("TxsMismatchError"):
        steps.ask(msgspec.structs.replace(request, txs=()), e.Followed)


# --- who is let in ---


@pytest.fixture
def invited(steps: Steps) -> a.AuditInvited:
    steps.begin()
    steps.show_present()
    found = steps.next(a.AuditInvited)
    assert isinstance(found, a.AuditInvited)
    return found


def test_other_code_is_not_let_in(steps: Steps, invited: a.AuditInvited) -> None:
    """Not even the code of a later generation, on genuine hardware."""
    assert invited.fingerprint == steps.audited.releases[0].fingerprint
    opened = steps.open(invited, steps.audited.releases[1])
    with refused("NotScheduledError"):
        steps.ask(steps.admit(opened), a.AuditSealed)
    claimed = msgspec.structs.replace(invited, generation=1)
    opened = steps.open(claimed, steps.audited.releases[1])
    relabelled = msgspec.structs.replace(opened.statement, generation=0)
    with refused("KeyBindingError"):
        steps.ask(steps.admit(opened, statement=relabelled), a.AuditSealed)


def test_what_was_said_for_another_audit_is_not_taken(
    steps: Steps, invited: a.AuditInvited
) -> None:
    other = Steps(steps.audited)
    other.begin()
    other.show_present()
    replayed = other.open(other.next(a.AuditInvited), steps.audited.releases[0])
    with refused("AuditNonceError"):
        steps.ask(steps.admit(replayed), a.AuditSealed)
    wrong = msgspec.structs.replace(invited, generation=1)
    with refused("AuditNonceError"):
        steps.ask(
            steps.admit(steps.open(wrong, steps.audited.releases[0])), a.AuditSealed
        )


def test_a_key_of_the_hosts_own_gets_nothing(
    steps: Steps, invited: a.AuditInvited
) -> None:
    """The quote is over the statement with the key, and over nothing else."""
    opened = steps.open(invited, steps.audited.releases[0])
    mine = msgspec.structs.replace(opened.statement, hpke_key=bytes(1216))
    with refused("KeyBindingError"):
        steps.ask(steps.admit(opened, statement=mine), a.AuditSealed)
    registered = steps.world.workers["new"].call(
        e.Register(operator=bytes(32)), e.Registration
    )
    with refused("KeyBindingError"):
        steps.ask(steps.admit(opened, quote=registered.quote), a.AuditSealed)
    forged = bytearray(opened.quote)
    forged[200] ^= 1
    with refused("QuoteRefusedError"):
        steps.ask(steps.admit(opened, quote=bytes(forged)), a.AuditSealed)
    # The invitation still stands for the code itself.
    steps.ask(steps.admit(opened), a.AuditSealed)


def test_evidence_is_judged_by_l1s_own_collateral(
    steps: Steps, invited: a.AuditInvited
) -> None:
    opened = steps.open(invited, steps.audited.releases[0])
    with refused("NotProvenError"):
        steps.ask(steps.admit(opened, proofs=()), a.AuditSealed)


def test_an_invitation_serves_one_process(
    steps: Steps, invited: a.AuditInvited
) -> None:
    opened = steps.open(invited, steps.audited.releases[0])
    steps.ask(steps.admit(opened), a.AuditSealed)
    with refused("AuditOrderError"):
        steps.ask(steps.admit(opened), a.AuditSealed)


def test_the_key_of_an_audit_opens_in_one_process_only(
    steps: Steps, invited: a.AuditInvited
) -> None:
    opened = steps.open(invited, steps.audited.releases[0])
    sealed = steps.ask(steps.admit(opened), a.AuditSealed).sealed
    steps.open(invited, steps.audited.releases[0])  # the same code, another process
    with refused("HpkeError"):
        steps.work(sealed)


# --- records ---


def test_records_to_former_code_come_as_they_were_sealed(steps: Steps) -> None:
    steps.at_the_first_block()
    sealed = steps.next(a.AuditSealed).sealed
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for lie in (altered, sealed[:-1], b"", sealed + b"\x00"):
        with refused("AuditRecordError"):
            steps.work(lie)
    assert steps.work(sealed).sealed is not None
    with refused("AuditOrderError"):
        ask(steps.auditee, a.AuditMore(), a.AuditWorked)  # type: ignore[arg-type]
    with refused("AuditRecordError"):
        steps.work(sealed)  # once more


def test_a_block_cannot_be_left_out_or_brought_twice(steps: Steps) -> None:
    steps.at_the_first_block()
    first = steps.next(a.AuditSealed).sealed
    assert steps.next(a.AuditWaits).reason == "no-answer"
    worked = steps.work(first)
    assert steps.ask(a.AuditTake(sealed=worked.sealed), a.AuditTaken).done
    steps.next(a.AuditSealed)  # the host drops it
    with refused("AuditRecordError"):
        steps.work(first)
    assert steps.next(a.AuditWaits).reason == "no-answer", "it is not sealed again"


def test_answers_come_as_they_were_sealed(steps: Steps) -> None:
    steps.at_the_first_block()
    with refused("AuditOrderError"):
        steps.ask(a.AuditTake(sealed=b"unasked"), a.AuditTaken)
    asked = steps.next(a.AuditSealed).sealed
    answer = steps.work(asked).sealed
    assert answer is not None
    altered = answer[:-1] + bytes([answer[-1] ^ 1])
    for lie in (altered, answer[:-1], b"", asked):  # the last turns it back
        with refused("AuditRecordError"):
            steps.ask(a.AuditTake(sealed=lie), a.AuditTaken)
    assert steps.ask(a.AuditTake(sealed=answer), a.AuditTaken).done
    steps.next(a.AuditSealed)
    with refused("AuditRecordError"):
        steps.ask(a.AuditTake(sealed=answer), a.AuditTaken)


def test_an_answer_to_another_block_or_to_nothing_is_refused(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.at_the_first_block()
    with monkeypatch.context() as broken:
        broken.setattr(_auditee, "encode", lambda _: b"the secret word")
        answer = steps.work(steps.next(a.AuditSealed).sealed).sealed
    assert answer is not None
    with pytest.raises(EnclaveRefusedError) as caught:
        steps.ask(a.AuditTake(sealed=answer), a.AuditTaken)
    assert caught.value.refused == "AuditRecordError"
    assert "secret" not in str(caught.value)


def test_code_that_answers_for_another_height_is_refused(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(_: Any, done: a.TaskDone) -> list[a.ChangesPart]:
        done = msgspec.structs.replace(done, height=Height(done.height + 1))
        return [a.ChangesPart(changes=(), done=done)]

    steps.at_the_first_block()
    monkeypatch.setattr(_auditee, "_parts", elsewhere)
    answer = steps.work(steps.next(a.AuditSealed).sealed).sealed
    with refused("AuditRecordError"):
        steps.ask(a.AuditTake(sealed=answer or b""), a.AuditTaken)


# --- a host that plays the auditor ---


def own_auditor(steps: Steps) -> AuditRecords:
    """A host's own key, which any auditee takes: it has nothing to lose."""
    invited = a.AuditInvited(
        chain_id="world",
        shard=steps.world.shard,
        generation=0,
        fingerprint=bytes(32),
        height=Height(1),
        nonce=bytes(32),
    )
    opened = steps.open(invited, steps.audited.releases[0])
    key = bytes(AEAD_KEY_BYTES)
    info = audit_key_info(opened.statement)
    steps.work(hpke_seal(AUDIT_SUITE, opened.statement.hpke_key, key, info=info))
    entropy = steps.world.entropy("own auditor")
    return AuditRecords(key, "auditor", entropy=entropy)


def block_task(height: int) -> a.BlockTask:
    return a.BlockTask(
        height=Height(height),
        block_hash=bytes(32),
        time=0,
        items=(),
        schedule=None,
        code=(),
        effects_done=None,
    )


def test_former_code_works_in_order_whoever_asks(steps: Steps) -> None:
    records = own_auditor(steps)

    def give(task: Message) -> a.AuditWorked:
        return steps.work(records.seal(encode(task)))

    with refused("AuditOrderError"):
        give(block_task(7))
    with refused("AuditRecordError"):
        give(a.AuditNext())
    with refused("AuditRecordError"):
        steps.work(records.seal(b"no message"))
    state = a.StateTask(page_bits=4, entries=(), last=False)
    genesis = a.GenesisTask(blob=steps.world.genesis, page_bits=4)
    give(state)
    with refused("AuditOrderError"):
        give(genesis)
    with refused("AuditOrderError"):
        give(block_task(7))
    give(msgspec.structs.replace(state, last=True))
    with refused("AuditOrderError"):
        give(state)


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(AuditRecordError):
        AuditRecords(b"short", "auditor", entropy=bytes)


# --- what leaves ---


def test_no_frame_shows_a_call_or_the_state(
    audited: AuditWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two enclaves of one host; parts small, so that there are many."""
    frames: list[bytes] = []
    parts: list[bool] = []

    def overheard(enclave: Any) -> None:
        handle = enclave.handle

        def handled(frame: bytes) -> bytes:
            answer: bytes = handle(frame)
            frames.extend((frame, answer))
            reply = decode(e.Reply, answer, limit=e.MAX_FRAME_BYTES)  # type: ignore[arg-type]
            if isinstance(reply, a.AuditWorked):
                parts.append(reply.more)
            return answer

        enclave.handle = handled

    process = audited.process

    def listened(*args: Any, **kwargs: Any) -> Any:
        enclave = process(*args, **kwargs)
        overheard(enclave)
        return enclave

    monkeypatch.setattr(audited, "process", listened)
    monkeypatch.setattr(_audit, "AUDIT_PART_BYTES", 64)
    monkeypatch.setattr(_auditee, "AUDIT_PART_BYTES", 64)
    report = audited.audit()
    assert report.difference is None
    assert any(parts), "answers came in parts"
    assert len(frames) > 100
    for secret in (encode("three"), encode("THREE"), encode("FOUR"), b"diary/lines"):
        assert not any(secret in frame for frame in frames)


def test_a_migration_that_fails_in_the_audit_says_its_name_alone(
    audited: AuditWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tells(*_: Any) -> None:
        raise ValueError("the secret word")

    monkeypatch.setattr(LoudDiary, "on_runtime_upgrade", tells)
    with pytest.raises(EnclaveRefusedError) as caught:
        audited.audit()
    assert caught.value.refused == "MigrationFailedError"
    assert "secret" not in str(caught.value)


def test_a_generation_of_another_platform_is_named(
    audited: AuditWorld, tmp_path: Path
) -> None:
    del tmp_path
    steps = Steps(audited)
    assert steps.enclave._shard is not None
    steps.begin()
    steps.show_present()
    steps.enclave._shard.me = msgspec.structs.replace(
        steps.enclave._shard.me, kind="gramine-sgx"
    )
    with refused("AuditOrderError"):
        steps.next(a.AuditInvited)
