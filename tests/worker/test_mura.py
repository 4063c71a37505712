"""Carrying mu-ra: bytes, proofs, a registration; what breaks is told by name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from doubles import ME, SHARD, FakeEnclave, LostError, refusal

from sealift.base import AccountId, Height
from sealift.protocol import RegistrationStatement, enclave_key
from sealift.protocol.ecall import (
    CloseSession,
    FeedSession,
    OpenSession,
    ProveSession,
    Registration,
    SessionReply,
    StateProof,
)
from sealift.worker import EnclaveRefusedError, SessionSilentError, UpstreamError
from sealift.worker import _mura as mura
from sealift.worker._channel import EnclaveChannel
from sealift.worker._mura import PATIENCE_BLOCKS, request_session, serve_session

OTHER = AccountId(b"\x0c" * 32)


class FakeWire:
    """The other end: says what it is given, and notes what it hears."""

    def __init__(self, *says: bytes, gone: Exception | None = None) -> None:
        self.says = says
        self.heard: list[bytes] = []
        self.gone = gone

    async def send(self, data: bytes) -> None:
        if self.gone is not None:
            raise self.gone
        self.heard.append(data)

    async def receive(self) -> AsyncIterator[bytes]:
        for one in self.says:
            yield one


class FakeChain:
    """A chain on which a record appears after some blocks."""

    def __init__(self, *, appears_after: int = 0) -> None:
        self.height = 10
        self.appears = 10 + appears_after
        self.still = False

    async def prove_at_head(self, keys):
        value = b"record" if self.height >= self.appears else None
        return Height(self.height), tuple(
            StateProof(key=key, value=value, proof=b"proof") for key in keys
        )

    @contextlib.asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        self.still = True
        yield
        self.still = False

    async def next_block(self) -> None:
        assert not self.still, "it would wait for ever"
        self.height += 1


def reply(**fields: object) -> SessionReply:
    return SessionReply(session=1, **fields)


def enclave(*feeds: SessionReply, first: SessionReply | None = None, **more):
    answers = iter(feeds)
    known = {
        "OpenSession": lambda _: first or reply(send=(b"hello",)),
        "FeedSession": lambda _: next(answers),
        "CloseSession": lambda _: refusal("UnknownSessionError"),
    }
    return FakeEnclave(**{**known, **more})


def serve(fake: FakeEnclave, chain: FakeChain, wire: FakeWire):
    return asyncio.run(serve_session(EnclaveChannel(fake), chain, wire))


def test_what_either_end_says_is_carried_and_the_session_is_closed() -> None:
    fake = enclave(reply(send=(b"two", b"three")), reply(done=True))
    wire = FakeWire(b"a", b"b", b"never read")
    assert serve(fake, FakeChain(), wire) == frozenset()
    assert wire.heard == [b"hello", b"two", b"three"]
    fed = [one.data for one in fake.asked if isinstance(one, FeedSession)]
    assert fed == [(b"a",), (b"b",)]
    assert isinstance(fake.asked[-1], CloseSession)


def test_proofs_that_are_wanted_are_brought_while_no_block_is_imported() -> None:
    chain = FakeChain()

    def prove(request: ProveSession) -> SessionReply:
        assert chain.still
        assert request.height == chain.height
        return reply(done=True)

    fake = enclave(
        reply(wanted=(enclave_key(OTHER), b"another key")), ProveSession=prove
    )
    assert serve(fake, chain, FakeWire(b"a")) == {OTHER}


def test_a_record_that_is_not_there_yet_is_waited_for_within_reason() -> None:
    seen: list[bytes | None] = []

    def prove(request: ProveSession) -> SessionReply:
        seen.append(request.proofs[0].value)
        return reply(done=True)

    fake = enclave(reply(wanted=(b"key",)), ProveSession=prove)
    serve(fake, chain := FakeChain(appears_after=7), FakeWire(b"a"))
    assert (seen, chain.height) == ([b"record"], 17)
    fake = enclave(reply(wanted=(b"key",)), ProveSession=prove)
    serve(fake, chain := FakeChain(appears_after=10_000), FakeWire(b"a"))
    assert seen[-1] is None  # the enclave judges what is absent
    assert chain.height == 10 + PATIENCE_BLOCKS


def test_an_enclave_that_ends_the_session_is_quoted_and_the_refusal_is_sent() -> None:
    fake = enclave(reply(send=(b"refused",), error=("NoticeError", "too early")))
    wire = FakeWire(b"a")
    with pytest.raises(EnclaveRefusedError, match=r"NoticeError.*too early"):
        serve(fake, FakeChain(), wire)
    assert wire.heard == [b"hello", b"refused"]


def test_a_wire_that_closes_early_is_no_success() -> None:
    fake = enclave(reply())
    with pytest.raises(UpstreamError, match="closed the connection"):
        serve(fake, FakeChain(), FakeWire(b"a"))
    assert fake.count(CloseSession) == 1


def test_a_wire_that_breaks_closes_the_session() -> None:
    fake = enclave(reply(send=(b"x",)))
    wire = FakeWire(b"a")
    wire.gone = None

    async def breaks(data: bytes) -> None:
        if data == b"x":
            raise UpstreamError("the other worker is gone")
        wire.heard.append(data)

    wire.send = breaks
    with pytest.raises(UpstreamError, match="is gone"):
        serve(fake, FakeChain(), wire)
    assert fake.count(CloseSession) == 1


def registration() -> Registration:
    statement = RegistrationStatement(
        chain_id="test",
        shard=SHARD,
        signing_key=ME,
        tls_key=bytes(32),
        hpke_key=bytes(32),
        operator=ME,
        challenge=None,
        block_height=Height(1),
        block_hash=bytes(32),
    )
    return Registration(statement=statement, signature=bytes(64), quote=b"quote")


def request(fake: FakeEnclave, wire: FakeWire, register, kept: list[bytes]):
    chain = FakeChain()

    async def whole():
        return await request_session(
            EnclaveChannel(fake),
            chain,
            wire,
            operator=ME,
            register=register,
            keep=kept.append,
        )

    return asyncio.run(whole()), chain


def test_a_requester_registers_waits_for_the_block_and_keeps_its_keys_first() -> None:
    kept: list[bytes] = []
    heights: list[int] = []

    async def register(what: Registration) -> Height:
        assert what.quote == b"quote"
        heights.append(14)
        return Height(14)

    fake = enclave(
        reply(registration=registration(), wanted=(enclave_key(OTHER),)),
        reply(key_store=b"sealed", send=(b"thanks",), done=True),
        ProveSession=lambda _: reply(send=(b"proven",)),
    )
    wire = FakeWire(b"a", b"b")
    sent = wire.send

    async def send(data: bytes) -> None:
        assert data != b"thanks" or kept == [b"sealed"], "said before it was durable"
        await sent(data)

    wire.send = send
    provider, chain = request(fake, wire, register, kept)
    assert provider == {OTHER}
    assert heights == [14]
    assert chain.height == 14
    assert isinstance(fake.asked[0], OpenSession)
    assert fake.asked[0].operator == ME


def test_a_registration_that_l1_refuses_ends_the_session() -> None:
    async def register(_: Registration) -> Height:
        raise LostError("L1 refused")

    fake = enclave(reply(registration=registration()))
    with pytest.raises(LostError):
        request(fake, FakeWire(b"a"), register, [])
    assert fake.count(CloseSession) == 1


def test_a_session_whose_first_word_finds_nobody_is_closed_too() -> None:
    """The enclave has room for a few sessions only."""
    fake = enclave()
    with pytest.raises(UpstreamError):
        serve(fake, FakeChain(), FakeWire(gone=UpstreamError("gone")))
    assert isinstance(fake.asked[-1], CloseSession)


class SilentWire(FakeWire):
    """The other end: says what it has to say, then nothing, and stays."""

    def __init__(self, *says: bytes) -> None:
        super().__init__(*says)
        self.closed = False

    async def receive(self) -> AsyncIterator[bytes]:
        for one in self.says:
            yield one
        try:
            await asyncio.Event().wait()
        finally:
            self.closed = True


class SlowChain(FakeChain):
    """A chain that makes a block from time to time."""

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def next_block(self) -> None:
        await asyncio.sleep(self.seconds)
        self.height += 1


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mura, "SILENCE_SECONDS", 0.05)


@pytest.mark.usefixtures("hurried")
def test_a_silent_requester_does_not_keep_a_place_in_the_enclave() -> None:
    fake = enclave()
    wire = SilentWire()
    with pytest.raises(SessionSilentError, match="says nothing") as caught:
        serve(fake, FakeChain(), wire)
    assert "another worker" in caught.value.hint
    assert isinstance(fake.asked[-1], CloseSession)
    assert wire.closed


@pytest.mark.usefixtures("hurried")
def test_a_silent_provider_does_not_hold_a_requester_for_ever() -> None:
    fake = enclave()
    with pytest.raises(UpstreamError):  # so that the next one is asked
        request(fake, SilentWire(), None, [])
    assert fake.count(CloseSession) == 1


@pytest.mark.usefixtures("hurried")
def test_who_waits_for_its_registration_has_blocks_and_not_only_seconds() -> None:
    chain = SlowChain(seconds=0.02)
    with pytest.raises(SessionSilentError):
        serve(enclave(), chain, SilentWire())
    assert chain.height == 10 + mura.SILENCE_BLOCKS


@pytest.mark.usefixtures("hurried")
def test_a_word_that_comes_late_and_within_the_blocks_is_heard() -> None:
    class LateWire(FakeWire):
        async def receive(self) -> AsyncIterator[bytes]:
            await asyncio.sleep(0.1)
            yield b"late"

    serve(enclave(reply(done=True)), SlowChain(seconds=0.05), LateWire())


@pytest.mark.usefixtures("hurried")
def test_bytes_that_lead_nowhere_win_no_time() -> None:
    class Dribble(FakeWire):
        async def receive(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.01)
                yield b"."

    fake = enclave(FeedSession=lambda _: reply())
    with pytest.raises(SessionSilentError):
        serve(fake, FakeChain(), Dribble())
    assert fake.count(FeedSession) < 20


def test_progress_wins_new_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mura, "SILENCE_SECONDS", 1.0)

    class Steady(FakeWire):
        async def receive(self) -> AsyncIterator[bytes]:
            for _ in range(8):
                await asyncio.sleep(0.15)  # together longer than it may be silent
                yield b"x"

    feeds = [reply(send=(b"y",))] * 7
    serve(enclave(*feeds, reply(done=True)), FakeChain(), Steady())


def test_a_chain_that_stands_still_keeps_no_session_for_ever(
    hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mura, "MOST_SILENCE_SECONDS", 0.1)
    with pytest.raises(SessionSilentError):
        serve(enclave(), SlowChain(seconds=1e6), SilentWire())


@pytest.mark.usefixtures("hurried")
def test_a_peer_that_does_not_read_ends_the_session() -> None:
    class Full(FakeWire):
        async def send(self, data: bytes) -> None:
            await asyncio.Event().wait()

    fake = enclave()
    with pytest.raises(SessionSilentError, match="does not read"):
        serve(fake, FakeChain(), Full())
    assert fake.count(CloseSession) == 1
