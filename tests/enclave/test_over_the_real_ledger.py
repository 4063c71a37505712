"""Birth, work, provisioning and handover over the real ledger, in one process."""

from pathlib import Path

import msgspec
import pytest
from enclave_world import (
    ALICE,
    CODE_A,
    CODE_B,
    MigratingExtra,
    runtime_v1,
)
from real_world import LedgerRefusalError, MuRa, RealHost, RealL1, real_l1

from sealift.enclave import (
    NoKeysError,
    NoRotationDueError,
    NothingStagedError,
    SessionLimitError,
    StaleProofError,
    UnknownSessionError,
)
from sealift.frame import ProofInvalidError
from sealift.protocol import ecall as e


class Story:
    """A born shard with one instance of code A."""

    def __init__(self, folder: Path) -> None:
        self.l1: RealL1 = real_l1(folder)
        self.l1.create_shard(CODE_A)
        self.l1.block()
        self.old = RealHost(self.l1, CODE_A, "old")
        self.l1.block()
        self.old.follow()
        self.old.register()
        self.l1.block()
        self.old.follow()
        self.old.publish()
        self.l1.block()
        self.old.follow()

    def newcomer(self, name: str, code: bytes = CODE_B) -> RealHost:
        runtime = runtime_v1(MigratingExtra(), version=2)
        if code == CODE_A:
            runtime = runtime_v1()
        host = RealHost(self.l1, code, name, runtime=runtime)
        host.follow()
        return host


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_birth_execution_confirmation(story: Story) -> None:
    l1, old = story.l1, story.old
    assert old.status().root == l1.frontier().root
    assert old.status().state_height == l1.frontier().confirmed
    at = l1.block(old.invoke(old.transfer(7, nonce=0)))
    l1.block()
    old.run()
    assert [old.opened(r).outcome for r in old.receipts] == ["ok"]
    old.confirm()
    assert l1.frontier().confirmed == at
    assert l1.frontier().root == old.roots[at]
    l1.block()
    old.run()
    old.confirm()
    old.restart()
    l1.block()
    old.run()
    assert old.free() == 993


def test_keys_pass_and_the_new_code_takes_over(story: Story) -> None:
    l1, old = story.l1, story.old
    xyz = l1.height + 14
    l1.upgrade(CODE_B, at=xyz)
    l1.block()
    l1.block()
    l1.block(old.invoke(old.transfer(7, nonce=0)))
    l1.block()
    old.run()
    old.confirm()
    l1.block()
    old.run()
    new = story.newcomer("new")
    session = MuRa(old, new)
    session.run()
    assert session.errors == {}
    assert session.done == {"provider", "requester"}
    assert new.status().epochs == (0,)
    assert new.status().shielding_key == old.status().shielding_key
    secrets = old.enclave._shard.keys.epochs[0]
    wire = b"".join(session.wire)
    assert secrets.state_key not in wire
    assert secrets.shielding_secret not in wire
    new.boot()
    new.start()
    assert new.status().epochs == (0,)
    new.follow()
    new.snapshot = old.export()
    new.offer(new.snapshot)
    while l1.height < xyz - 1:
        l1.block()
    l1.block(old.invoke(old.transfer(9, nonce=1)))
    assert l1.height == xyz
    l1.block()
    assert old.run().reason == "not-mine"
    for height in sorted(old.diffs):
        if new.status().state_height == height - 1:
            new.call(e.DiffApply(diff=old.diffs[height]))
            new.diffs[height] = old.diffs[height]
    new.run()
    assert new.status().state_height == xyz
    assert new.free() == 984
    assert [new.opened(r).height for r in new.receipts] == [xyz]
    old.confirm()
    assert l1.frontier().confirmed == xyz - 1
    new.confirm()
    assert (l1.frontier().confirmed, l1.frontier().generation) == (xyz, 1)
    reply = old.call(e.Confirm(after=xyz - 1, durable=xyz - 1))
    l1.do(
        "enclave_bridge.post_certificate",
        certificate=reply.certificate,
        signature=reply.certificate_signature,
    )
    l1.block()
    new.run()
    new.restart()
    new.run()
    assert new.free(ALICE) == 984


def test_a_second_instance_of_the_running_code_gets_keys(story: Story) -> None:
    twin = story.newcomer("twin", code=CODE_A)
    session = MuRa(story.old, twin)
    session.run()
    assert session.done == {"provider", "requester"}
    assert twin.status().epochs == (0,)


def test_a_running_instance_that_asks_again_loses_nothing(story: Story) -> None:
    """It keeps what it holds, executes on, and its store opens after a restart."""
    l1, old = story.l1, story.old
    twin = story.newcomer("twin", code=CODE_A)
    for _ in range(2):
        session = MuRa(old, twin)
        session.run()
        assert session.done == {"provider", "requester"}
        assert twin.enclave._shard.keys.epochs == old.enclave._shard.keys.epochs
        assert twin.status().missing == ()
    back = MuRa(twin, old)
    l1.block()
    for host in (old, twin):
        host.follow()
    back.run()
    assert back.done == {"provider", "requester"}
    old.restart()
    l1.block(old.invoke(old.transfer(7, nonce=0)))
    l1.block()
    old.run()
    assert old.free() == 993


def test_nothing_is_staged_where_nothing_is_due(story: Story) -> None:
    with pytest.raises(NoRotationDueError):
        story.old.call(e.StageKeys())
    with pytest.raises(NothingStagedError):
        story.old.call(e.HoldKeys())


def test_code_that_is_not_scheduled_is_not_even_registered(story: Story) -> None:
    stranger = RealHost(story.l1, b"X" * 32, "stranger", runtime=runtime_v1())
    stranger.follow()
    session = MuRa(story.old, stranger)
    with pytest.raises(LedgerRefusalError):
        session.run()
    assert stranger.status().epochs == ()


def test_code_whose_notice_runs_still_gets_no_keys(story: Story) -> None:
    l1, old = story.l1, story.old
    l1.upgrade(CODE_B, at=l1.height + 20, release_from=l1.height + 15)
    l1.block()
    old.follow()
    new = story.newcomer("new")
    session = MuRa(old, new)
    session.run()
    assert session.errors["provider"][0] == "NoticeNotRunError"
    assert session.errors["requester"][0] == "RefusedByPeerError"
    assert new.status().epochs == ()


class TestSessions:
    def test_a_provider_needs_keys(self, story: Story) -> None:
        with pytest.raises(NoKeysError):
            story.newcomer("new").call(e.OpenSession(role="provider"))

    def test_unknown_and_closed_sessions(self, story: Story) -> None:
        old = story.old
        number = old.call(e.OpenSession(role="provider")).session
        old.call(e.CloseSession(session=number))
        for request in (
            e.CloseSession(session=number),
            e.FeedSession(session=number, data=()),
            e.ProveSession(session=99, height=1, proofs=()),
        ):
            with pytest.raises(UnknownSessionError):
                old.call(request)

    def test_not_more_than_the_limit(self, story: Story) -> None:
        for _ in range(16):
            story.old.call(e.OpenSession(role="provider"))
        with pytest.raises(SessionLimitError):
            story.old.call(e.OpenSession(role="provider"))

    def test_proofs_of_an_older_state_are_stale(self, story: Story) -> None:
        old = story.old
        number = old.call(e.OpenSession(role="provider")).session
        with pytest.raises(StaleProofError):
            old.call(
                e.ProveSession(session=number, height=old.status().head - 2, proofs=())
            )

    def test_forged_proofs_are_refused_and_the_session_goes_on(
        self, story: Story
    ) -> None:
        class Forging(MuRa):
            tried = 0

            def prove(self, role: str, wanted: tuple[bytes, ...]) -> e.SessionReply:
                host, height = self.ends[role], self.ends[role].status().head - 1
                true = self.l1.proof(height, wanted[0])
                self.tried += 1
                for value in (None, (true.value or b"") + b"x"):
                    forged = msgspec.structs.replace(true, value=value)
                    with pytest.raises(ProofInvalidError):
                        host.call(
                            e.ProveSession(
                                session=self.numbers[role],
                                height=height,
                                proofs=(forged,),
                            )
                        )
                return super().prove(role, wanted)

        session = Forging(story.old, story.newcomer("twin", code=CODE_A))
        session.run()
        assert session.tried == 4
        assert session.done == {"provider", "requester"}

    def test_junk_ends_only_its_own_session(self, story: Story) -> None:
        old = story.old
        first = old.call(e.OpenSession(role="provider")).session
        second = old.call(e.OpenSession(role="provider")).session
        reply = old.call(e.FeedSession(session=first, data=(b"\x00junk",)))
        assert reply.error is not None
        with pytest.raises(UnknownSessionError):
            old.call(e.FeedSession(session=first, data=()))
        assert old.call(e.FeedSession(session=second, data=())).error is None
