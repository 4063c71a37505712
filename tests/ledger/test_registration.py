"""Who gets into the registry, and what registering cannot do."""

from typing import Any

import pytest

from sealift.attestation import (
    CollateralOlderError,
    CollateralRefusedError,
    PolicyRefusedError,
    QuoteFormatError,
    QuoteRefusedError,
)
from sealift.base import encode
from sealift.frame import BadOriginError
from sealift.ledger import ledger_call
from sealift.ledger._errors import (
    ChallengeUsedError,
    CollateralRootError,
    CollateralTeeError,
    NotRegisteredError,
    OperatorRefusedError,
    QuoteBindingError,
    RegistrationBlockError,
    RegistrationChainError,
    RegistrationReplayedError,
    StatementSignatureError,
    SvnTooLowError,
    TooManyInstancesError,
    UnknownFmspcError,
    UnknownProviderError,
    UnknownShardError,
    UrlError,
    WrongFingerprintForShardError,
)
from sealift.ledger._teerex import CHALLENGE_WINDOWS
from sealift.protocol import CollateralRecord, collateral_key


@pytest.fixture
def ready(world: Any) -> Any:
    """A shard, collateral, and an instance that was never registered."""
    world.shard = world.create_shard()
    world.collateral()
    world.one = world.instance("one")
    return world


def schedule_bytes(world: Any) -> Any:
    return world.ledger.query(b"enclave_bridge/schedule/" + world.shard)[0]


def test_a_genuine_instance_is_registered_with_all_that_was_seen(ready: Any) -> None:
    ready.register(ready.shard, ready.one, url="https://one.example:2000")
    record = ready.enclave(ready.one)
    assert record.operator == ready.account("operator")
    assert record.platform == "insecure-sim"
    assert record.fingerprint == ready.CODE_A
    assert record.platform_id == ready.one.machine
    assert (record.isv_svn, record.tcb_status) == (3, "UpToDate")
    assert record.tcb_evaluation_number == 17
    assert record.registered_at == record.attested_at == ready.height
    assert record.url == "https://one.example:2000"


def test_a_forged_quote_is_refused(ready: Any) -> None:
    """peers: any quote passes."""
    with pytest.raises(QuoteRefusedError):
        ready.register(ready.shard, ready.one, genuine=False)
    assert ready.enclave(ready.one) is None


def test_junk_is_no_quote(ready: Any) -> None:
    fields = ready.registration(ready.shard, ready.one)
    with pytest.raises(QuoteFormatError):
        ready.call(
            "teerex.register_sgx_enclave", by="operator", **fields | {"quote": b"junk"}
        )


def test_a_debug_enclave_is_refused(ready: Any) -> None:
    with pytest.raises(QuoteRefusedError):
        ready.register(ready.shard, ready.one, debug=True)


def test_anothers_quote_is_refused(ready: Any) -> None:
    """peers: a public report is replayed by whoever has none of his own."""
    honest = ready.registration(ready.shard, ready.one)
    ready.call("teerex.register_sgx_enclave", by="operator", **honest)
    thief = ready.instance("thief", operator="other-operator")
    mine = ready.registration(ready.shard, thief)
    with pytest.raises(QuoteBindingError):
        ready.call(
            "teerex.register_sgx_enclave",
            by="other-operator",
            **mine | {"quote": honest["quote"]},
        )
    assert ready.enclave(thief) is None


@pytest.mark.parametrize(
    "field", ["tls_key", "hpke_key", "block_hash", "shard", "chain_id"]
)
def test_every_field_of_the_statement_is_bound_by_the_quote(
    ready: Any, field: Any
) -> None:
    """A statement that says anything else than was quoted is refused."""
    quoted = ready.statement(ready.shard, ready.one)
    other = "x" if field == "chain_id" else b"x" * 32
    quote = ready.quote(ready.replace(quoted, **{field: other}), ready.one)
    with pytest.raises(QuoteBindingError):
        ready.call(
            "teerex.register_sgx_enclave",
            by="operator",
            statement=quoted,
            signature=quoted.sign(ready.one.secret),
            quote=encode(quote),
        )


def test_a_statement_signed_by_another_key_is_refused(ready: Any) -> None:
    statement = ready.statement(ready.shard, ready.one)
    fields = ready.registration(ready.shard, ready.one, statement=statement)
    forged = statement.sign(ready.instance("mallory").secret)
    with pytest.raises(StatementSignatureError):
        ready.call(
            "teerex.register_sgx_enclave",
            by="operator",
            **fields | {"signature": forged},
        )


def test_a_registration_seen_in_the_mempool_cannot_be_hijacked(ready: Any) -> None:
    """Mallory submits it first, to become the instance's operator."""
    fields = ready.registration(ready.shard, ready.one)
    with pytest.raises(OperatorRefusedError):
        ready.call("teerex.register_sgx_enclave", by="bob", **fields)
    ready.call("teerex.register_sgx_enclave", by="operator", **fields)


def test_a_statement_for_another_chain_is_refused(ready: Any) -> None:
    statement = ready.statement(ready.shard, ready.one, chain_id="other-chain")
    with pytest.raises(RegistrationChainError):
        ready.register(ready.shard, ready.one, statement=statement)


def test_an_old_block_is_refused_and_the_window_is_exact(new_world: Any) -> None:
    world = new_world(quote_window=10)
    world.shard = world.create_shard()
    world.collateral()
    old, fresh = world.instance("old"), world.instance("fresh")
    late = world.statement(world.shard, old)
    in_time = world.statement(world.shard, fresh)
    world.blocks_until(late.block_height + 9)
    world.register(world.shard, fresh, statement=in_time)
    with pytest.raises(RegistrationBlockError):
        world.register(world.shard, old, statement=late)


def test_a_block_of_a_fork_is_refused(ready: Any) -> None:
    statement = ready.statement(ready.shard, ready.one, block_hash=b"f" * 32)
    with pytest.raises(RegistrationBlockError):
        ready.register(ready.shard, ready.one, statement=statement)


def test_a_block_that_is_not_yet_is_refused(ready: Any) -> None:
    statement = ready.statement(ready.shard, ready.one, block_height=ready.next)
    with pytest.raises(RegistrationBlockError):
        ready.register(ready.shard, ready.one, statement=statement)


def test_a_replayed_registration_never_refreshes_an_attestation(ready: Any) -> None:
    """The same quote, submitted every day, would make one quote last for ever."""
    fields = ready.registration(ready.shard, ready.one)
    ready.call("teerex.register_sgx_enclave", by="operator", **fields)
    attested = ready.enclave(ready.one).attested_at
    with pytest.raises(RegistrationReplayedError):
        ready.call("teerex.register_sgx_enclave", by="operator", **fields)
    assert ready.enclave(ready.one).attested_at == attested


def test_reattesting_keeps_the_birthday_and_the_address(ready: Any) -> None:
    ready.register(ready.shard, ready.one, url="https://one.example")
    born = ready.height
    ready.blocks_until(20)
    ready.register(ready.shard, ready.one)
    record = ready.enclave(ready.one)
    assert (record.registered_at, record.attested_at) == (born, 21)
    assert record.url == "https://one.example"


def test_an_instance_cannot_be_taken_over_by_another_operator(ready: Any) -> None:
    """Even with a fresh quote that names the thief."""
    ready.register(ready.shard, ready.one)
    ready.block()
    statement = ready.statement(
        ready.shard, ready.one, operator=ready.account("other-operator")
    )
    with pytest.raises(OperatorRefusedError):
        ready.register(ready.shard, ready.one, statement=statement, by="other-operator")


def test_a_signing_key_belongs_to_one_shard(ready: Any) -> None:
    ready.register(ready.shard, ready.one)
    second = ready.create_shard()
    with pytest.raises(NotRegisteredError):
        ready.register(second, ready.one)


def test_registering_for_a_shard_that_is_not_is_refused(ready: Any) -> None:
    with pytest.raises(UnknownShardError):
        ready.register(b"no" * 16, ready.one)


def test_registering_needs_an_account(ready: Any) -> None:
    fields = ready.registration(ready.shard, ready.one)
    inner = ledger_call("teerex.register_sgx_enclave", **fields)
    with pytest.raises(BadOriginError):
        ready.call("sudo.sudo", by="root", call=inner)


# which code


def test_code_that_the_schedule_does_not_name_is_refused(ready: Any) -> None:
    stranger = ready.instance("stranger", b"X" * 32)
    with pytest.raises(WrongFingerprintForShardError):
        ready.register(ready.shard, stranger)


def test_intel_code_is_not_spoken_for_by_simulated_evidence(world: Any) -> None:
    """A simulated machine claims the fingerprint listed for real hardware."""
    config = world.config(codes={"gramine-sgx": world.CODE_A})
    shard = world.create_shard(config)
    world.collateral()
    with pytest.raises(WrongFingerprintForShardError):
        world.register(shard, world.instance("one"), anchor="insecure-sim")
    world.register(shard, world.instance("one"), anchor="intel")


def test_pending_code_registers_before_it_runs_and_changes_no_schedule(
    ready: Any,
) -> None:
    """peers: a joining worker cancels a pending upgrade, lifts maintenance."""
    ready.upgrade(ready.shard, code=ready.CODE_B, release_from=50, upgrade_at=60)
    ready.submit(ready.status_order(ready.shard, mode="maintenance"))
    ready.block()
    before = schedule_bytes(ready)
    two = ready.instance("two", ready.CODE_B)
    ready.register(ready.shard, ready.one)
    ready.register(ready.shard, two)
    ready.call("teerex.announce", by="operator", signing_key=two.key, url="ws://b")
    ready.call(
        "enclave_bridge.touch_shard",
        by="operator",
        shard=ready.shard,
        signing_key=two.key,
    )
    ready.call("teerex.unregister_enclave", by="operator", signing_key=two.key)
    assert schedule_bytes(ready) == before


def test_cancelled_code_cannot_register(ready: Any) -> None:
    ready.upgrade(ready.shard, code=ready.CODE_B)
    ready.submit(ready.cancel_order(ready.shard, 1))
    with pytest.raises(WrongFingerprintForShardError):
        ready.register(ready.shard, ready.instance("two", ready.CODE_B))


def test_retired_code_cannot_register_once_its_blocks_are_confirmed(world: Any) -> None:
    one, two = world.instance("one"), world.instance("two", world.CODE_B)
    shard = world.born_shard(one)
    xyz = world.upgrade(shard, code=world.CODE_B)
    world.register(shard, two)
    world.blocks_until(xyz)
    world.register(shard, one)  # its last blocks wait to be confirmed
    world.confirm(shard, one, xyz - 1, generation=0)
    world.register(shard, world.instance("late"))  # frontier - 1 provides keys
    world.confirm(shard, two, xyz + 1)
    with pytest.raises(WrongFingerprintForShardError):
        world.register(shard, world.instance("too late"))


# policy


@pytest.mark.parametrize(
    "seen",
    [
        {"status": "OutOfDate"},
        {"advisories": ("INTEL-SA-00999",)},
        {"tcb_evaluation_data_number": 15},
    ],
)
def test_the_entrys_policy_is_enforced(world: Any, seen: Any) -> None:
    policy = {
        "rejected_advisories": ("INTEL-SA-00999",),
        "min_tcb_evaluation_number": 16,
    }
    shard = world.create_shard(world.config(policy=policy))
    world.collateral()
    with pytest.raises(PolicyRefusedError):
        world.register(shard, world.instance("one"), **seen)
    world.register(shard, world.instance("one"))


def test_each_instance_is_judged_by_its_own_entrys_policy(ready: Any) -> None:
    """The pending entry wants more than the active one."""
    strict = ready.config(ready.CODE_B, policy={"min_tcb_evaluation_number": 20})
    ready.upgrade(ready.shard, config=strict)
    ready.register(ready.shard, ready.one)
    two = ready.instance("two", ready.CODE_B)
    with pytest.raises(PolicyRefusedError):
        ready.register(ready.shard, two)
    ready.register(ready.shard, two, tcb_evaluation_data_number=20)


def test_a_later_entry_of_the_same_code_may_accept_what_the_first_does_not(
    ready: Any,
) -> None:
    lenient = ready.config(policy={"accepted_tcb_statuses": ("UpToDate", "OutOfDate")})
    with pytest.raises(PolicyRefusedError):
        ready.register(ready.shard, ready.one, status="OutOfDate")
    ready.upgrade(ready.shard, config=lenient)
    ready.register(ready.shard, ready.one, status="OutOfDate")


def test_a_policy_is_not_before(world: Any) -> None:
    shard = world.create_shard(world.config(policy={"not_before": 20}))
    world.collateral()
    with pytest.raises(PolicyRefusedError):
        world.register(shard, world.instance("one"))
    world.blocks_until(19)
    world.register(shard, world.instance("one"))


def test_an_old_security_version_is_refused(world: Any) -> None:
    shard = world.create_shard(world.config(min_isv_svn=3))
    world.collateral()
    with pytest.raises(SvnTooLowError):
        world.register(shard, world.instance("one"), isv_svn=2)
    world.register(shard, world.instance("one"), isv_svn=3)


def test_raised_floors_refuse_from_the_next_block(ready: Any) -> None:
    ready.submit(
        ready.status_order(ready.shard, min_isv_svn=4, min_tcb_evaluation_number=18)
    )
    with pytest.raises(SvnTooLowError):
        ready.register(ready.shard, ready.one)
    with pytest.raises(PolicyRefusedError):
        ready.register(ready.shard, ready.one, isv_svn=4)
    ready.register(ready.shard, ready.one, isv_svn=4, tcb_evaluation_data_number=18)


def test_only_operators_of_the_entry_register(world: Any) -> None:
    config = world.config(operators=(world.account("operator"),))
    shard = world.create_shard(config)
    world.collateral()
    stranger = world.instance("s", operator="other-operator")
    with pytest.raises(OperatorRefusedError):
        world.register(shard, stranger)
    world.register(shard, world.instance("one"))


# how many


def test_max_instances_is_enforced(world: Any) -> None:
    """peers: max_instances is stored and never read."""
    shard = world.create_shard(world.config(max_instances=2))
    world.collateral()
    for name in ("one", "two"):
        world.register(shard, world.instance(name))
    with pytest.raises(TooManyInstancesError):
        world.register(shard, world.instance("three"))
    world.register(shard, world.instance("one"))  # attesting again is no new one


def test_places_expire_with_attestation_age_so_nothing_fills_up(world: Any) -> None:
    """peers: the status table fills up at ten, then all touches fail."""
    config = world.config(max_instances=2, policy={"max_age_blocks": 10})
    shard = world.create_shard(config)
    world.collateral()
    for name in ("one", "two"):
        world.register(shard, world.instance(name))
    with pytest.raises(TooManyInstancesError):
        world.register(shard, world.instance("three"))
    world.blocks_until(world.enclave(world.instance("one")).attested_at + 10)
    world.register(shard, world.instance("three"))
    world.register(shard, world.instance("one"))
    with pytest.raises(TooManyInstancesError):
        world.register(shard, world.instance("two"))


def test_twenty_instances_can_touch(world: Any) -> None:
    shard = world.create_shard()
    world.collateral()
    for number in range(20):
        each = world.instance(f"i{number}")
        world.register(shard, each)
        world.call(
            "enclave_bridge.touch_shard",
            by="operator",
            shard=shard,
            signing_key=each.key,
        )


def test_an_instance_that_left_frees_its_place(world: Any) -> None:
    shard = world.create_shard(world.config(max_instances=1))
    world.collateral()
    one, two = world.instance("one"), world.instance("two")
    world.register(shard, one)
    with pytest.raises(TooManyInstancesError):
        world.register(shard, two)
    world.call("teerex.unregister_enclave", by="operator", signing_key=one.key)
    world.register(shard, two)


def test_an_expired_instance_cannot_touch(world: Any) -> None:
    shard = world.create_shard(world.config(policy={"max_age_blocks": 5}))
    world.collateral()
    one = world.instance("one")
    world.register(shard, one)
    world.blocks_until(world.height + 5)
    with pytest.raises(PolicyRefusedError):
        world.call(
            "enclave_bridge.touch_shard",
            by="operator",
            shard=shard,
            signing_key=one.key,
        )


# sessions


def session(
    world: Any, instance: Any, challenge: Any = b"c" * 32, provider: Any = None
) -> Any:
    return world.statement(
        world.shard,
        instance,
        challenge=challenge,
        provider=(provider or world.one).key,
    )


def test_anothers_challenge_is_refused(ready: Any) -> None:
    """One challenge serves one session."""
    ready.register(ready.shard, ready.one)
    two, three = ready.instance("two"), ready.instance("three")
    ready.register(ready.shard, two, statement=session(ready, two))
    with pytest.raises(ChallengeUsedError):
        ready.register(ready.shard, three, statement=session(ready, three))
    with pytest.raises(ChallengeUsedError):
        ready.register(ready.shard, two, statement=session(ready, two))
    other = session(ready, two, challenge=b"d" * 32)
    ready.register(ready.shard, two, statement=other)


def test_challenges_and_touches_leave_nothing_behind_for_ever(new_world: Any) -> None:
    """Who registers and touches again and again does not fill L1's state."""
    world = new_world(quote_window=2)
    world.shard = world.create_shard()
    world.collateral()
    one, two = world.instance("one"), world.instance("two")
    world.register(world.shard, one)
    kept = CHALLENGE_WINDOWS * 2
    sizes = []
    for number in range(3 * kept):
        challenge = number.to_bytes(32, "big")
        world.register(
            world.shard,
            two,
            statement=session(world, two, challenge=challenge, provider=one),
        )
        world.call(
            "enclave_bridge.touch_shard",
            by="operator",
            shard=world.shard,
            signing_key=two.key,
        )
        named = world.store.items(b"teerex/challenges/")
        assert len(named) <= kept
        assert len(world.store.items(b"teerex/challenges_at/")) == len(named)
        entries = [key.split(b"/")[:2] for key, _ in world.store.items(b"")]
        hashes = entries.count([b"system", b"block_hashes"])
        sizes.append(len(entries) - hashes)  # those are a ring of their own
    assert sizes[-1] == sizes[kept]
    assert world.store.items(b"enclave_bridge/touched/") == []


def test_a_challenge_is_refused_until_its_session_must_be_over(new_world: Any) -> None:
    world = new_world(quote_window=2)
    world.shard = world.create_shard()
    world.collateral()
    world.one = world.instance("one")
    two, three = world.instance("two"), world.instance("three")
    world.register(world.shard, world.one)
    world.register(world.shard, two, statement=session(world, two))
    last = world.height + CHALLENGE_WINDOWS * 2
    world.blocks_until(last - 2)
    with pytest.raises(ChallengeUsedError):
        world.register(world.shard, three, statement=session(world, three))
    world.blocks_until(last)
    world.register(world.shard, three, statement=session(world, three))


def test_a_challenge_over_which_nothing_was_quoted_is_refused(ready: Any) -> None:
    """Its own quote, but with a challenge swapped in afterwards."""
    ready.register(ready.shard, ready.one)
    two = ready.instance("two")
    quoted = session(ready, two)
    swapped = ready.replace(quoted, challenge=b"d" * 32)
    with pytest.raises(QuoteBindingError):
        ready.call(
            "teerex.register_sgx_enclave",
            by="operator",
            statement=swapped,
            signature=swapped.sign(two.secret),
            quote=encode(ready.quote(quoted, two)),
        )


def test_a_provider_that_is_not_registered_is_refused(ready: Any) -> None:
    two = ready.instance("two")
    with pytest.raises(UnknownProviderError):
        ready.register(ready.shard, two, statement=session(ready, two))
    half = ready.statement(ready.shard, two, challenge=b"c" * 32)
    with pytest.raises(UnknownProviderError):
        ready.register(ready.shard, two, statement=half)


# addresses and leaving


def test_only_the_operator_announces_and_leaves(ready: Any) -> None:
    ready.register(ready.shard, ready.one)
    key = ready.one.key
    with pytest.raises(OperatorRefusedError):
        ready.call("teerex.announce", by="bob", signing_key=key, url="https://evil")
    with pytest.raises(OperatorRefusedError):
        ready.call("teerex.unregister_enclave", by="bob", signing_key=key)
    with pytest.raises(OperatorRefusedError):
        ready.call(
            "enclave_bridge.touch_shard", by="bob", shard=ready.shard, signing_key=key
        )
    with pytest.raises(NotRegisteredError):
        ready.call("teerex.announce", by="bob", signing_key=b"n" * 32, url="ws://x")
    inner = ledger_call("teerex.unregister_enclave", signing_key=key)
    ready.call("sudo.sudo", by="root", call=inner)
    assert ready.enclave(ready.one) is None


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "one.example", "https://" + "x" * 256]
)
def test_an_address_that_is_none_is_refused(ready: Any, url: Any) -> None:
    with pytest.raises(UrlError):
        ready.register(ready.shard, ready.one, url=url)


# collateral


def test_without_collateral_the_refusal_names_the_fmspc_and_the_way_out(
    world: Any,
) -> None:
    shard = world.create_shard()
    with pytest.raises(UnknownFmspcError) as refusal:
        world.register(shard, world.instance("one"))
    assert "00a067110000" in str(refusal.value)
    assert "register_collateral" in str(refusal.value)


def test_forged_or_expired_collateral_is_refused(world: Any) -> None:
    with pytest.raises(CollateralRefusedError):
        world.collateral(genuine=False)
    with pytest.raises(CollateralRefusedError):
        world.collateral(expires=world.time_of(0))


def test_expired_collateral_judges_no_quote(world: Any) -> None:
    """Block time is now; the ledger's own collateral counts, not the host's."""
    shard = world.create_shard()
    world.collateral(expires=world.time_of(5))
    world.blocks_until(5)
    with pytest.raises(QuoteRefusedError):
        world.register(shard, world.instance("one"))
    world.collateral(issued=101)
    world.register(shard, world.instance("one"))


@pytest.mark.parametrize("fallen", ["issued", "number", "crl"])
def test_collateral_never_goes_back(world: Any, fallen: Any) -> None:
    """An attacker with an old but genuine CRL un-revokes his machine."""
    current = {"issued": 200, "number": 18, "crl": 4}
    world.collateral(**current)
    with pytest.raises(CollateralOlderError):
        world.collateral(**current | {fallen: current[fallen] - 1})
    world.collateral(**current | {fallen: current[fallen] + 1})


def test_simulated_collateral_never_replaces_intels(world: Any) -> None:
    """Nor does it block Intel's by high numbers, on a chain that trusts both."""
    world.collateral(anchor="insecure-sim", number=10**6, crl=10**6, issued=10**6)
    world.collateral(anchor="intel")
    with pytest.raises(CollateralRootError):
        world.collateral(anchor="insecure-sim", number=10**6)


def test_collateral_of_another_tee_is_refused(world: Any) -> None:
    with pytest.raises(CollateralTeeError):
        world.collateral(tee="tdx")


def test_collateral_is_kept_whole_with_its_numbers(world: Any) -> None:
    world.collateral(number=18, crl=4, issued=200)
    fmspc = bytes.fromhex("00a067110000")
    record = world.read(CollateralRecord, collateral_key(fmspc))
    assert (record.tcb_evaluation_number, record.qe_evaluation_number) == (18, 18)
    assert (record.pck_crl_number, record.root_crl_number) == (4, 4)
    assert (record.tcb_issued_at, record.qe_issued_at) == (200, 200)
    assert record.recorded_at == world.height
