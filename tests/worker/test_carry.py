"""The gate before the operator's purse: junk, floods and an empty purse."""

import asyncio
from dataclasses import replace

import pytest

from sealift.base import Epoch, encode
from sealift.crypto import HpkeSuite, hpke_generate, system_entropy
from sealift.protocol import (
    SIZE_CLASSES,
    Envelope,
    TrustedCall,
    TrustedCallBody,
    seal_message,
)
from sealift.worker import (
    CarryOffError,
    CarryRateError,
    CarryReserveError,
    EnvelopeSizeError,
)
from sealift.worker._carry import (
    CIPHERTEXT_SIZES,
    CarryGate,
    CarryTerms,
    network_of,
)

CALL = Envelope(epoch=0, ciphertext=bytes(CIPHERTEXT_SIZES[0]))
SIZE = len(encode(CALL))
TERMS = CarryTerms(carry=True, reserve=1000, per_minute=60, per_address=6)


class Purse:
    """Funds and a clock that the test moves."""

    def __init__(self, terms: CarryTerms = TERMS) -> None:
        self.funds = 10**9
        self.looked = 0
        self.now = 100.0
        self.gate = CarryGate(terms, funds=self.look, now=lambda: self.now)

    async def look(self) -> int:
        self.looked += 1
        return self.funds

    def ask(self, peer: str = "10.0.0.1", envelope: Envelope = CALL) -> None:
        size = len(encode(envelope))
        asyncio.run(self.gate.admit(envelope, size, peer=peer))

    def flood(self, peer: str) -> int:
        """How many get through until the gate closes."""
        for number in range(1000):
            try:
                self.ask(peer)
            except CarryRateError:
                return number
        raise AssertionError("it never closes")


@pytest.mark.parametrize("size", SIZE_CLASSES)
def test_a_call_of_every_size_class_is_let_through(size: int) -> None:
    """The sizes are those that the real sealing makes."""
    public = hpke_generate(HpkeSuite.X25519, system_entropy).public
    body = TrustedCallBody(
        chain_id="test",
        shard=bytes(32),
        signer=bytes(32),
        nonce=0,
        call="a.b",
        args=bytes(size - 400),
        valid_until=1,
        reply_key=bytes(32),
    )
    sealed = seal_message(
        TrustedCall(body=body, signature=bytes(64)),
        shielding_key=public,
        epoch=Epoch(0),
    )
    assert len(sealed.ciphertext) == CIPHERTEXT_SIZES[SIZE_CLASSES.index(size)]
    Purse().ask(envelope=sealed)


@pytest.mark.parametrize("size", [0, 1, 512, 559, 561, 65_536, 65_585, 100_000])
def test_junk_of_another_size_is_not_paid_for(size: int) -> None:
    purse = Purse()
    with pytest.raises(EnvelopeSizeError, match="560, 1072") as caught:
        purse.ask(envelope=Envelope(epoch=0, ciphertext=bytes(size)))
    assert caught.value.got == f"{size} B"
    assert not purse.looked


def test_a_worker_that_carries_nothing_says_where_else() -> None:
    with pytest.raises(CarryOffError, match="another worker"):
        Purse(replace(TERMS, carry=False)).ask()


def test_one_address_that_floods_does_not_shut_others_out() -> None:
    purse = Purse()
    assert purse.flood("10.0.0.1") == 6
    purse.ask("10.0.0.2")
    with pytest.raises(CarryRateError, match="from this address") as caught:
        purse.ask("10.0.0.1")
    assert "in 10 s" in caught.value.hint


def test_many_addresses_that_flood_have_one_limit() -> None:
    purse = Purse()
    through = sum(purse.flood(f"10.0.{n}.1") for n in range(30))
    assert through == 60
    with pytest.raises(CarryRateError, match="from all together"):
        purse.ask("10.1.1.1")


def test_patience_opens_the_gate_again_and_never_wider() -> None:
    purse = Purse()
    assert purse.flood("10.0.0.1") == 6
    purse.now += 10.0
    assert purse.flood("10.0.0.1") == 1
    purse.now += 1e6
    assert purse.flood("10.0.0.1") == 6


def test_a_refused_call_uses_no_share_of_the_others() -> None:
    purse = Purse()
    purse.flood("10.0.0.1")
    for _ in range(100):
        with pytest.raises(CarryRateError):
            purse.ask("10.0.0.1")
    purse.ask("10.0.0.2")


def test_who_changes_the_address_within_its_network_is_the_same() -> None:
    purse = Purse()
    assert purse.flood("2001:db8::1") == 6
    with pytest.raises(CarryRateError, match="from this address"):
        purse.ask("2001:db8::ffff:2")
    purse.ask("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("") == ""


def test_a_crowd_of_addresses_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sealift.worker._carry._MOST_ADDRESSES", 8)
    purse = Purse(replace(TERMS, per_minute=10_000))
    for number in range(200):
        purse.ask(f"10.0.{number}.1")
    assert len(purse.gate._by_address) == 8


def test_the_reserve_stays_for_the_workers_own_duties() -> None:
    purse = Purse()
    purse.funds = 1000 + SIZE - 1
    with pytest.raises(CarryReserveError, match="carry_reserve"):
        purse.ask()
    purse.now += 3
    purse.funds = 1000 + SIZE
    purse.ask()


def test_calls_between_two_looks_at_the_account_do_not_pass_the_reserve() -> None:
    purse = Purse()
    purse.funds = 1000 + 3 * SIZE
    for _ in range(3):
        purse.ask()
    with pytest.raises(CarryReserveError):
        purse.ask()
    assert purse.looked == 1
