"""Hosts that carry badly: nothing they do lets a key out or an end go wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mura_world import NEW, OLD, Node, Talk, World, epoch_keys

from sealift.base import encode, frame
from sealift.crypto import sha256
from sealift.protocol import (
    MuRaAcknowledged,
    MuRaChallenge,
    MuRaHello,
    MuRaReady,
    MuRaRefusal,
    SealedKeyPackage,
    collateral_key,
    enclave_key,
    frontier_key,
    schedule_key,
)
from sealift.provisioning import MuRaSession, Output, ProvenState
from sealift.provisioning._session import MAX_CHUNK_BYTES, MAX_SESSION_BYTES

MODEST = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
Carry = Callable[[str, bytes], list[bytes]]


def over(talk: Talk) -> None:
    """Nobody has keys that should not, and no end is in an unnamed state."""
    talk.no_secret_seen()
    if talk.done != {"provider", "requester"}:
        assert "provider" not in talk.done
    for _, output in talk.outputs:
        assert output.error is None or output.error[0].endswith("Error")


# --- drops, repeats, reorders, alters ---


@pytest.mark.parametrize("at", range(8))
def test_a_dropped_chunk_leads_nowhere(talk: Talk, at: int) -> None:
    count = iter(range(1000))
    talk.carry = lambda _, chunk: [] if next(count) == at else [chunk]
    talk.run()
    assert talk.done != {"provider", "requester"} or at >= len(talk.wire)
    over(talk)


@pytest.mark.parametrize("at", range(8))
def test_a_repeated_chunk_ends_the_session_or_comes_too_late(
    talk: Talk, at: int
) -> None:
    count = iter(range(1000))
    talk.carry = lambda _, chunk: [chunk, chunk] if next(count) == at else [chunk]
    talk.run()
    over(talk)
    if talk.errors:
        assert talk.done <= {"requester"}


def test_a_repeated_hello_is_refused(talk: Talk) -> None:
    talk.carry = lambda _, chunk: [chunk] * (2 if b"MuRaHello" in chunk else 1)
    talk.run().refused("provider", "SessionOrderError")


def test_a_repeated_ready_is_refused(talk: Talk) -> None:
    """It would wait behind the proofs, and be taken for a message inside TLS."""
    world = talk.world
    requester, provider = talk.ends["requester"], talk.ends["provider"]
    provider.start()
    out = requester.feed(provider.feed(requester.start().send).send)
    world.register(talk.requester_node, out.registration.statement)  # type: ignore[union-attr]
    ready, _ = requester.prove(world.state(out.wanted)).send
    refused = provider.feed([ready, ready])
    assert refused.error is not None
    assert refused.error[0] == "SessionOrderError"
    assert refused.wanted == ()


def test_chunks_in_another_order(talk: Talk) -> None:
    held: list[bytes] = []

    def carry(role: str, chunk: bytes) -> list[bytes]:
        if role == "requester" and b"MuRaReady" in chunk:
            held.append(chunk)
            return []
        if held and role == "requester":
            return [chunk, held.pop()]
        return [chunk]

    talk.carry = carry
    talk.run()
    over(talk)


#: Where a TLS chunk has bytes that must be ignored (RFC 8446 §5.1).
LEGACY_RECORD_VERSION = (2, 3)


@MODEST
@given(at=st.integers(0, 12), bit=st.integers(0, 7), where=st.floats(0, 0.999))
def test_a_flipped_bit_never_leads_to_keys(
    tmp_path_factory: Any, vendor: bytes, at: int, bit: int, where: float
) -> None:
    world, provider, requester = shared(tmp_path_factory, vendor)
    count = iter(range(1000))
    touched: list[int] = []

    def carry(_: str, chunk: bytes) -> list[bytes]:
        if next(count) != at:
            return [chunk]
        index = int(where * len(chunk))
        if not (chunk[:1] == b"\x01" and index in LEGACY_RECORD_VERSION):
            touched.append(at)
        return [chunk[:index] + bytes([chunk[index] ^ (1 << bit)]) + chunk[index + 1 :]]

    requester.installed = None
    talk = Talk(world, provider, requester, carry=carry).run()
    over(talk)
    if talk.done == {"provider", "requester"}:
        assert not touched or at >= 5  # session tickets are ignored by design


_SHARED: list[tuple[World, Node, Node]] = []


def shared(tmp_path_factory: Any, vendor: bytes) -> tuple[World, Node, Node]:
    """One world for the many examples of a property."""
    if not _SHARED:
        folder: Path = tmp_path_factory.mktemp("world")
        world = World(folder / "intel", vendor)
        provider = Node(world, "provider", OLD, epochs=(epoch_keys(0),))
        world.register(provider, provider.register().statement)
        _SHARED.append((world, provider, Node(world, "requester", NEW)))
    return _SHARED[0]


# --- garbage ---

messages = st.one_of(
    st.builds(
        MuRaHello,
        version_low=st.integers(-3, 3),
        version_high=st.integers(-3, 2**60),
        shard=st.just(b"S" * 32),
        fingerprint=st.binary(min_size=32, max_size=32),
    ),
    st.builds(
        MuRaChallenge,
        version=st.integers(0, 2),
        challenge=st.binary(min_size=32, max_size=32),
        provider=st.binary(min_size=32, max_size=32),
        head_height=st.integers(0, 2**62),
        head_hash=st.binary(min_size=32, max_size=32),
    ),
    st.builds(MuRaReady, signing_key=st.binary(min_size=32, max_size=32)),
    st.builds(SealedKeyPackage, sealed=st.binary(max_size=2000)),
    st.builds(MuRaAcknowledged, package=st.binary(min_size=32, max_size=32)),
    st.builds(MuRaRefusal, code=st.text(max_size=20), message=st.text(max_size=50)),
)
chunks = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=300).map(lambda data: b"\x01" + data),
    st.binary(max_size=300).map(lambda data: b"\x01\x16\x03\x01" + data),
    messages.map(lambda message: b"\x00" + encode(message)),
    messages.map(lambda message: b"\x01" + frame(encode(message))),
)


@MODEST
@given(
    role=st.sampled_from(["provider", "requester"]),
    fed=st.lists(chunks, max_size=6),
    honest_until=st.integers(0, 4),
)
def test_any_chunks_give_an_output_and_no_key(
    tmp_path_factory: Any,
    vendor: bytes,
    role: Any,
    fed: list[bytes],
    honest_until: int,
) -> None:
    """Totality: garbage after any number of honest chunks."""
    world, provider, requester = shared(tmp_path_factory, vendor)
    provider.asked_for_keys, requester.installed = 0, None
    count = iter(range(1000))

    def carry(source: str, chunk: bytes) -> list[bytes]:
        if source != role and next(count) >= honest_until:
            return []
        return [chunk]

    talk = Talk(world, provider, requester, carry=carry).run()
    end = talk.ends[role]
    for chunk in fed:
        output = end.feed([chunk])
        assert isinstance(output, Output)
        if output.wanted:
            output = end.prove(world.state(output.wanted))
        talk.outputs.append((role, output))
        talk.wire += [(role, each) for each in output.send]
    talk.no_secret_seen()
    if role == "requester":
        assert requester.installed is None or honest_until > 2
    elif honest_until < 2:
        assert provider.asked_for_keys == 0


def test_an_empty_chunk(talk: Talk) -> None:
    end = talk.ends["provider"]
    end.start()
    error = end.feed([b""]).error
    assert error is not None
    assert error[0] == "SessionOrderError"


def test_no_chunks_at_all(talk: Talk) -> None:
    end = talk.ends["provider"]
    end.start()
    assert end.feed([]).error is None


def test_a_plain_message_after_tls_was_opened(talk: Talk) -> None:
    def carry(role: str, chunk: bytes) -> list[bytes]:
        if role == "provider" and chunk[:1] == b"\x01":
            return [b"\x00" + encode(SealedKeyPackage(sealed=b"x" * 2000))]
        return [chunk]

    talk.carry = carry
    talk.run().refused("requester", "SessionOrderError")


def test_a_plain_acknowledgement_before_tls(talk: Talk) -> None:
    """It must not lie in wait and be heard as if it had come through TLS."""
    ack = b"\x00" + encode(MuRaAcknowledged(package=sha256(b"guess")))

    def carry(role: str, chunk: bytes) -> list[bytes]:
        return [chunk, ack] if b"MuRaReady" in chunk else [chunk]

    talk.carry = carry
    talk.run().refused("provider", "SessionOrderError")


def test_a_plain_key_package_before_tls(talk: Talk) -> None:
    package = b"\x00" + encode(SealedKeyPackage(sealed=b"x" * 2000))
    end = talk.ends["requester"]
    end.start()
    challenge = MuRaChallenge(
        version=1,
        challenge=b"c" * 32,
        provider=talk.provider_node.signing_key,
        head_height=100,
        head_hash=bytes(32),
    )
    output = end.feed([b"\x00" + encode(challenge), package])
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"


# --- size ---


def test_a_chunk_that_is_too_large(talk: Talk) -> None:
    end = talk.ends["provider"]
    end.start()
    output = end.feed([b"\x01" + bytes(MAX_CHUNK_BYTES)])
    assert output.error is not None
    assert output.error[0] == "TooLargeError"


def test_a_session_that_never_ends(talk: Talk) -> None:
    """TLS bytes before TLS is open are kept: but not without end."""
    end = talk.ends["provider"]
    end.start()
    fed, output = 0, end.feed([])
    while output.error is None:
        output = end.feed([b"\x01" + bytes(100_000)])
        fed += 100_001
        assert fed <= MAX_SESSION_BYTES + 100_001
    assert output.error[0] == "TooLargeError"


def test_a_frame_inside_tls_that_announces_too_much(talk: Talk) -> None:
    end = talk.ends["requester"]
    honest = end._send

    def send(message: Any) -> None:
        if isinstance(message, MuRaAcknowledged):
            end._tls.send(b"\xff\xff\xff\xff")  # type: ignore[union-attr]
            end._flush()
            return
        honest(message)

    end._send = send  # type: ignore[method-assign]
    talk.run()
    assert talk.errors["provider"][0] == "TooLargeError"


# --- proofs ---


def test_proofs_that_nobody_wanted(talk: Talk) -> None:
    for role, end in talk.ends.items():
        fresh = MuRaSession(role, talk.provider_node)  # type: ignore[arg-type]
        fresh.start()
        output = fresh.prove(talk.world.state(()))
        assert output.error is not None
        assert output.error[0] == "SessionOrderError"
        assert end.state.name in {"P_HELLO", "R_CHALLENGE"}


@pytest.mark.parametrize("role", ["provider", "requester"])
@pytest.mark.parametrize("what", ["record", "schedule", "frontier", "collateral"])
@pytest.mark.parametrize("how", ["missing", "absent", "garbage"])
def test_proofs_that_do_not_hold_what_was_wanted(
    talk: Talk, role: str, what: str, how: str
) -> None:
    other = talk.provider_node if role == "requester" else talk.requester_node
    shard = talk.provider_node.shard
    key = {
        "record": enclave_key(other.signing_key),
        "schedule": schedule_key(shard),
        "frontier": frontier_key(shard),
        "collateral": collateral_key(talk.world.intel.fmspc),
    }[what]

    def prove(who: str, state: ProvenState) -> ProvenState:
        if who != role or key not in state.values:
            return state
        values = dict(state.values)
        if how == "missing":
            del values[key]
        else:
            values[key] = None if how == "absent" else b"\xc1garbage"
        return ProvenState(height=state.height, time=state.time, values=values)

    talk.prove = prove
    name = "DecodeError" if how == "garbage" else "NotProvenError"
    talk.run().refused(role, name)


# --- refusals ---


def test_a_forged_refusal_ends_the_session_and_is_cut(talk: Talk) -> None:
    """A host can always end a session; it cannot fill our logs by that."""
    refusal = MuRaRefusal(code="Any", message="x" * 100_000)

    def carry(role: str, chunk: bytes) -> list[bytes]:
        return [b"\x00" + encode(refusal)] if role == "provider" else [chunk]

    talk.carry = carry
    talk.run()
    name, sentence = talk.errors["requester"]
    assert name == "RefusedByPeerError"
    assert len(sentence) < 3000


def test_a_forged_refusal_writes_no_line_of_its_own_into_logs_and_terminals(
    talk: Talk,
) -> None:
    refusal = MuRaRefusal(code="Any\n", message="\x1b[2J\rkeys received\u202e")
    output = talk.ends["requester"].feed([b"\x00" + encode(refusal)])
    assert output.error is not None
    name, sentence = output.error
    assert name == "RefusedByPeerError"
    assert "keys received" in sentence
    assert sentence.isprintable()


def test_a_refusal_is_not_answered_by_a_refusal(talk: Talk) -> None:
    end = talk.ends["provider"]
    end.start()
    output = end.feed([b"\x00" + encode(MuRaRefusal(code="Any", message=""))])
    assert output.send == []


@pytest.mark.parametrize("again", ["start", "feed", "prove"])
def test_a_failed_session_stays_dead(talk: Talk, again: str) -> None:
    end = talk.ends["provider"]
    end.start()
    assert end.feed([b"\x07"]).error is not None
    acts: dict[str, Callable[[], Output]] = {
        "start": end.start,
        "feed": lambda: end.feed([b"\x00"]),
        "prove": lambda: end.prove(talk.world.state(())),
    }
    for _ in range(2):
        output = acts[again]()
        assert output.error == (
            "SessionOrderError",
            "the session is over: got failed",
        )
        assert output.send == []
        assert output.wanted == ()


@pytest.mark.parametrize("role", ["provider", "requester"])
def test_a_finished_session_takes_nothing_more(talk: Talk, role: str) -> None:
    talk.run()
    end = talk.ends[role]
    output = end.feed([b"\x00" + encode(MuRaReady(signing_key=b"k" * 32))])
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"
    assert end.state.name == "DONE"


def test_a_session_is_started_once(talk: Talk) -> None:
    end = talk.ends["requester"]
    end.start()
    output = end.start()
    assert output.error is not None
    assert output.error[0] == "SessionOrderError"


def test_one_feed_with_everything_is_the_same(talk: Talk) -> None:
    """An end gets several chunks at once, and after an error none of the rest."""
    end = talk.ends["provider"]
    end.start()
    hello = talk.ends["requester"].start().send
    output = end.feed([*hello, b"\x07", *hello])
    assert output.error is not None
    assert len(output.send) == 2  # challenge, refusal
