"""Mutual RA-TLS sessions over memory: both ends check, or nothing is said."""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from sealift.attestation import (
    CertificateFormatError,
    PeerRefusedError,
    RatlsRefusedError,
    RatlsSession,
    Rule,
    SessionFailedError,
    SessionStateError,
    TlsKey,
    generate_tls_key,
    make_session_certificate,
    verify_ratls,
)
from sealift.base import SealiftError

NONCES = {"client": b"c" * 32, "server": b"s" * 32}
BINDINGS = {"client": b"C" * 32, "server": b"S" * 32}


class NotWantedError(SealiftError):
    """What a test's ``verify_peer`` says."""


def refuse(_: bytes) -> None:
    raise NotWantedError("not you")


def end(
    role: Any,
    verify_peer: Callable[[bytes], None] = lambda _: None,
    quote: Callable[[bytes], bytes] = lambda data: b"quote" + data,
) -> RatlsSession:
    key, der = credentials(role, quote)
    return RatlsSession(role=role, certificate=der, key=key, verify_peer=verify_peer)


def credentials(role: str, quote: Callable[[bytes], bytes]) -> tuple[TlsKey, bytes]:
    key = generate_tls_key(lambda size: hashlib.shake_128(role.encode()).digest(size))
    der = make_session_certificate(
        key=key, nonce=NONCES[role], binding=BINDINGS[role], quote=quote
    )
    return key, der


def pump(one: RatlsSession, two: RatlsSession, *, piece: int = 100_000) -> None:
    """Carry bytes until none are left, as an honest host does."""
    while True:
        moved = False
        for source, sink in ((one, two), (two, one)):
            output = source.take_output()
            for start in range(0, len(output), piece):
                sink.feed(output[start : start + piece])
                moved = True
        if not moved:
            return


def pair() -> tuple[RatlsSession, RatlsSession]:
    client, server = end("client"), end("server")
    pump(client, server)
    return client, server


# --- honest ends ---


def test_two_genuine_enclaves_meet(sim: Any) -> None:
    peers: dict[str, Any] = {}

    def verifier(me: str, other: str) -> Callable[[bytes], None]:
        def verify(der: bytes) -> None:
            peers[me] = verify_ratls(
                der, nonce=NONCES[other], binding=BINDINGS[other], **sim.arguments
            )

        return verify

    client = end("client", verifier("client", "server"), sim.quote)
    server = end("server", verifier("server", "client"), sim.quote)
    pump(client, server)
    assert client.handshake_done
    assert server.handshake_done
    assert client.peer_certificate == peers["client"].certificate
    assert server.peer_certificate == peers["server"].certificate
    assert peers["client"].nonce == NONCES["server"]
    server.send(b"secret")
    pump(client, server)
    assert client.receive() == b"secret"


def test_the_peers_certificate_is_judged_once() -> None:
    seen: list[bytes] = []
    client, server = end("client", seen.append), end("server")
    pump(client, server)
    assert seen == [credentials("server", lambda data: b"quote" + data)[1]]


def test_a_client_is_not_accepted_before_the_server_answers() -> None:
    client, server = end("client"), end("server")
    server.feed(client.take_output())
    client.feed(server.take_output())
    assert client.handshake_done  # it has verified the server …
    assert not server.handshake_done
    assert not client.peer_accepted  # … and nobody has verified it
    server.feed(client.take_output())
    assert server.peer_accepted
    assert not client.peer_accepted
    server.send(b"welcome")
    client.feed(server.take_output())
    assert client.peer_accepted


@given(
    text=st.binary(max_size=70_000),
    piece=st.integers(1, 20_000),
)
@settings(max_examples=15, deadline=None)
def test_bytes_arrive_in_order_however_the_host_cuts_them(
    text: bytes, piece: int
) -> None:
    client, server = pair()
    client.send(text)
    server.send(text[::-1])
    pump(client, server, piece=max(piece, len(text) // 50 + 1))
    assert server.receive() == text
    assert client.receive() == text[::-1]
    assert server.receive() == b""


def test_a_handshake_survives_single_bytes() -> None:
    client, server = end("client"), end("server")
    pump(client, server, piece=1)
    assert client.handshake_done
    assert server.handshake_done


def test_megabytes_pass() -> None:
    client, server = pair()
    text = bytes(3_000_000)
    client.send(text)
    pump(client, server)
    assert server.receive() == text


def test_both_ends_and_only_they_export_the_same_secret() -> None:
    client, server = pair()
    one = client.export_keying_material(b"EXPORTER-sealift", 32)
    assert one == server.export_keying_material(b"EXPORTER-sealift", 32)
    assert one != client.export_keying_material(b"EXPORTER-other", 32)
    other, _ = pair()
    assert one != other.export_keying_material(b"EXPORTER-sealift", 32)


def test_the_session_is_tls_1_3_with_a_post_quantum_group() -> None:
    client, server = pair()
    assert client._tls.get_protocol_version_name() == "TLSv1.3"
    assert server._tls.get_group_name() == "X25519MLKEM768"


# --- refusals ---


@pytest.mark.parametrize("refusing", ["client", "server"])
def test_a_refusal_is_one_typed_error_at_each_end(refusing: str) -> None:
    other = "server" if refusing == "client" else "client"
    ends = {refusing: end(refusing, refuse), other: end(other)}
    with pytest.raises(NotWantedError):
        pump(ends["client"], ends["server"])
    assert not ends[refusing].handshake_done
    with pytest.raises(PeerRefusedError, match="alert"):
        ends[other].feed(ends[refusing].take_output())
    for each in ends.values():
        assert not each.peer_accepted
        with pytest.raises(SessionStateError):
            each.send(b"secret")
        with pytest.raises(SessionStateError):
            each.export_keying_material(b"EXPORTER-x", 32)
        with pytest.raises(SessionStateError):
            _ = each.peer_certificate
        with pytest.raises(SessionStateError):
            each.feed(b"more")


def test_nothing_that_a_refused_client_sent_is_received() -> None:
    client, server = end("client"), end("server", refuse)
    server.feed(client.take_output())
    client.feed(server.take_output())
    client.send(b"early words")  # it believes the handshake is done
    with pytest.raises(NotWantedError):
        server.feed(client.take_output())
    assert server.receive() == b""


def test_a_debug_enclave_is_refused_in_the_handshake(sim: Any) -> None:
    def verify(der: bytes) -> None:
        verify_ratls(
            der, nonce=NONCES["client"], binding=BINDINGS["client"], **sim.arguments
        )

    client = end("client", quote=lambda data: sim.quote(data, flags=0x07))
    server = end("server", verify)
    with pytest.raises(RatlsRefusedError) as error:
        pump(client, server)
    assert error.value.rules == {Rule.DEBUG}


def test_a_stolen_certificate_without_its_key_is_no_session() -> None:
    _, stolen = credentials("server", lambda data: b"quote" + data)
    thief = generate_tls_key(lambda size: b"t" * size)
    with pytest.raises(SessionFailedError, match="do not fit"):
        RatlsSession(
            role="server", certificate=stolen, key=thief, verify_peer=lambda _: None
        )


def test_a_client_without_a_certificate_is_refused() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    anonymous = SSL.Connection(context, None)
    anonymous.set_connect_state()
    server = end("server")
    with pytest.raises(SSL.WantReadError):
        anonymous.do_handshake()
    server.feed(anonymous.bio_read(65536))
    anonymous.bio_write(server.take_output())
    anonymous.do_handshake()
    with pytest.raises(SessionFailedError, match="certificate"):
        server.feed(anonymous.bio_read(65536))
    assert not server.handshake_done


def test_tls_1_2_is_refused() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    old = SSL.Connection(context, None)
    old.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        old.do_handshake()
    with pytest.raises(SessionFailedError):
        end("server").feed(old.bio_read(65536))


def test_a_certificate_chain_instead_of_evidence_is_refused(sim: Any) -> None:
    """A peer whose certificate is not self-signed has nothing to show."""
    client, server = pair()
    assert not server._on_certificate(server._tls, None, 20, 0, 0)
    assert not server._on_certificate(server._tls, None, 18, 1, 0)
    assert client.handshake_done


# --- a hostile host ---


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_altered_bytes_end_the_session_by_a_typed_error(data: st.DataObject) -> None:
    client, server = end("client"), end("server")
    flights = data.draw(st.integers(0, 3))
    try:
        for flight in range(4):
            source, sink = (client, server) if flight % 2 == 0 else (server, client)
            if flight == 2:
                client.send(b"hello")
            output = bytearray(source.take_output())
            if flight == flights and output:
                place = data.draw(st.integers(0, 10_000)) % len(output)
                output[place] ^= data.draw(st.integers(1, 255))
            sink.feed(bytes(output))
    except SealiftError:
        pass
    assert server.receive() in {b"", b"hello"}


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_typed_error_or_wanting_more(junk: bytes) -> None:
    for role in ("client", "server"):
        session = end(role)
        with contextlib.suppress(SessionFailedError, PeerRefusedError):
            session.feed(junk)
        assert not session.handshake_done


def test_replayed_records_are_refused() -> None:
    client, server = pair()
    client.send(b"once")
    record = client.take_output()
    server.feed(record)
    with pytest.raises(SessionFailedError):
        server.feed(record)
    assert server.receive() == b""


def test_a_peer_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealift.attestation._session.MAX_PENDING_BYTES", 50_000)
    client, server = pair()
    client.send(bytes(200_000))
    with pytest.raises(SessionFailedError, match="more than fits"):
        server.feed(client.take_output())
    assert server.receive() == b""


# --- states ---


def test_nothing_is_sent_before_the_handshake() -> None:
    for role in ("client", "server"):
        session = end(role)
        with pytest.raises(SessionStateError, match="not done"):
            session.send(b"x")
        with pytest.raises(SessionStateError):
            session.export_keying_material(b"EXPORTER-x", 32)
        with pytest.raises(SessionStateError):
            _ = session.peer_certificate
        assert session.receive() == b""


def test_a_closed_session_is_over_at_both_ends() -> None:
    client, server = pair()
    client.send(b"last words")
    client.close()
    client.close()
    server.feed(client.take_output())
    assert server.closed
    assert server.receive() == b"last words"
    with pytest.raises(SessionStateError, match="over"):
        client.send(b"more")
    with pytest.raises(SessionStateError, match="over"):
        server.feed(b"more")


def test_closing_before_the_handshake_is_possible() -> None:
    session = end("client")
    session.close()
    with pytest.raises(SessionStateError):
        session.feed(b"x")


def test_a_certificate_that_cannot_be_read_opens_no_session() -> None:
    key, _ = credentials("client", lambda data: b"quote" + data)
    with pytest.raises(CertificateFormatError):
        RatlsSession(
            role="client", certificate=b"none", key=key, verify_peer=lambda _: None
        )


def test_a_bug_in_the_callers_verifier_is_not_swallowed() -> None:
    def broken(_: bytes) -> None:
        raise ZeroDivisionError

    client, server = end("client", broken), end("server")
    with pytest.raises(ZeroDivisionError):
        pump(client, server)
    assert not client.handshake_done
