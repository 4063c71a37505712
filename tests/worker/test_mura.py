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
from sealift.worker import EnclaveRefusedError, UpstreamError
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
    return FakeEnclave(
        OpenSession=lambda _: first or reply(send=(b"hello",)),
        FeedSession=lambda _: next(answers),
        CloseSession=lambda _: refusal("UnknownSessionError"),
        **more,
    )


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
