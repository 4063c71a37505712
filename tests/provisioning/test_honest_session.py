"""The honest session, and who may take part in one."""

from collections.abc import Callable
from typing import Any

from mura_world import HEAD, NEW, OLD, OTHER, Node, Talk, World, entry

from sealift.protocol import EntryStatus, collateral_key, enclave_key


def test_the_requester_gets_the_keys(talk: Talk) -> None:
    talk.run()
    assert talk.errors == {}
    assert talk.done == {"provider", "requester"}
    installed = talk.requester_node.installed
    assert installed is not None
    assert installed.epochs == talk.provider_node.epochs
    (store,) = (out.key_store for _, out in talk.outputs if out.key_store)
    assert store == b"sealed store of requester"
    talk.no_secret_seen()


def test_hosts_see_no_key_and_all_after_the_challenge_is_tls(talk: Talk) -> None:
    talk.run()
    plain = [chunk[1:40] for _, chunk in talk.wire if chunk[:1] == b"\x00"]
    assert len(plain) == 3  # hello, challenge, ready
    assert b"MuRaHello" in plain[0]
    assert b"MuRaChallenge" in plain[1]
    assert b"MuRaReady" in plain[2]
    assert not any(b"SealedKeyPackage" in chunk for _, chunk in talk.wire)


def test_both_ends_want_exactly_what_they_judge(talk: Talk) -> None:
    talk.run()
    wanted = {"provider": [], "requester": []}
    for role, output in talk.outputs:
        if output.wanted:
            wanted[role].append(output.wanted)
    fmspc = collateral_key(talk.world.intel.fmspc)
    requester = enclave_key(talk.requester_node.signing_key)
    assert len(wanted["provider"]) == len(wanted["requester"]) == 2
    assert requester in wanted["provider"][0]
    assert fmspc in wanted["provider"][1]
    assert requester in wanted["provider"][1]
    assert wanted["requester"][0] == (requester,)
    assert enclave_key(talk.provider_node.signing_key) in wanted["requester"][1]


def test_the_registration_binds_this_session(talk: Talk) -> None:
    talk.run()
    (registration,) = (o.registration for _, o in talk.outputs if o.registration)
    statement = registration.statement
    assert statement.provider == talk.provider_node.signing_key
    assert statement.challenge is not None
    assert statement.hpke_key == talk.requester_node.hpke_key
    statement.verify(statement.signing_key, registration.signature)
    assert statement.report_data() in registration.quote


def test_a_second_instance_of_the_running_generation_gets_them(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    twin = node("twin", OLD)
    talk = Talk(world, provider, twin).run()
    assert talk.done == {"provider", "requester"}


def test_the_predecessor_still_gives_after_the_upgrade(talk: Talk) -> None:
    """The new one was late: frontier is its first block, P is frontier-1's."""
    talk.world.change(0, status=EntryStatus.RETIRED)
    talk.world.change(1, status=EntryStatus.ACTIVE, since=HEAD, upgrade_at=HEAD)
    talk.run()
    assert talk.done == {"provider", "requester"}


def test_a_generation_that_is_active_before_the_frontier_reached_it(
    talk: Talk,
) -> None:
    talk.world.change(0, status=EntryStatus.RETIRED)
    talk.world.change(1, status=EntryStatus.ACTIVE, since=HEAD + 5, upgrade_at=HEAD + 5)
    talk.world.height = HEAD + 50
    talk.run()
    assert talk.done == {"provider", "requester"}


def test_old_code_that_is_scheduled_anew_gets_them(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    """Generation decides, not a fingerprint that was seen before."""
    back = entry(2, OTHER, release_from=90, upgrade_at=300, since=300)
    world.entries(
        entry(0, OTHER, status=EntryStatus.RETIRED),
        entry(1, OLD, status=EntryStatus.ACTIVE, since=50, upgrade_at=50),
        back,
    )
    talk = Talk(world, provider, node("back", OTHER)).run()
    assert talk.done == {"provider", "requester"}


def test_a_rescuing_generation_gets_them_from_its_predecessor(
    world: World, provider: Node, node: Callable[..., Node]
) -> None:
    world.entries(
        entry(0, OLD, status=EntryStatus.RETIRED),
        entry(1, NEW, status=EntryStatus.VOID, since=60, upgrade_at=60),
        entry(
            2,
            OLD,
            predecessor=0,
            status=EntryStatus.ACTIVE,
            recorded_at=99,
            release_from=99,
            since=60,
            upgrade_at=99,
        ),
    )
    talk = Talk(world, provider, node("twin", OLD)).run()
    assert talk.done == {"provider", "requester"}


def test_a_host_may_cut_and_join_tls_bytes(talk: Talk) -> None:
    def carry(_: str, chunk: bytes) -> list[bytes]:
        if chunk[:1] != b"\x01":
            return [chunk]
        body = chunk[1:]
        return [b"\x01" + body[i : i + 100] for i in range(0, len(body), 100)]

    talk.carry = carry
    talk.run()
    assert talk.done == {"provider", "requester"}


def test_keys_may_arrive_before_the_requesters_own_proofs(
    world: World, provider: Node, requester: Node
) -> None:
    """In TLS 1.3 the client is done first; it may still be waiting for proofs."""
    talk = Talk(world, provider, requester)
    r, p = talk.ends["requester"], talk.ends["provider"]
    chunks: Any = r.start().send
    p.start()
    out = r.feed(p.feed(chunks).send)
    world.register(requester, out.registration.statement)
    out = r.prove(world.state(out.wanted))
    ready, client_hello = out.send
    wants = p.feed([ready, client_hello])
    server_hello = p.prove(world.state(wants.wanted)).send
    out = r.feed(server_hello)  # the client is done and wants proofs …
    late = out.wanted
    assert late
    wants = p.feed(out.send)
    keys = wants.send + p.prove(world.state(wants.wanted)).send  # … the other faster
    assert r.feed(keys).error is None
    assert requester.installed is None  # nothing is opened before the proofs
    out = r.prove(world.state(late))
    assert out.done
    assert p.feed(out.send).done
    assert requester.installed is not None


def test_the_provider_sends_keys_only_after_it_verified_the_client(
    world: World, provider: Node, requester: Node
) -> None:
    talk = Talk(world, provider, requester)
    asked_at: list[str] = []
    honest = provider.key_package

    def spy(**options: Any) -> Any:
        asked_at.append(talk.ends["provider"].state.name)
        assert talk.ends["provider"]._tls.peer_accepted  # type: ignore[union-attr]
        return honest(**options)

    provider.key_package = spy  # type: ignore[method-assign]
    talk.run()
    assert asked_at == ["P_ACK"]


def test_the_acknowledgement_names_the_package(talk: Talk) -> None:
    """The provider is done after the requester, never before."""
    talk.run()
    order = [role for role, output in talk.outputs if output.done]
    assert order == ["requester", "provider"]
