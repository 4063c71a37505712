"""Collateral on L1: brought when it says something new, also past a PCCS that lies."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from doubles import FakeAccount

from sealift.attestation import (
    Collateral,
    CollateralMarks,
    Failure,
    Rule,
    TrustAnchor,
    parse_collateral,
    verify_collateral,
)
from sealift.base import Height, UnixSeconds, canonical_decode, encode
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.crypto import rsa_generate, system_entropy
from sealift.insecure_sim import COLLATERAL_SECONDS, SimIntel, SimMachine
from sealift.protocol import CollateralRecord, collateral_key
from sealift.relay import Timestamp
from sealift.transport.pccs import PccsAnswerError, PccsUnreachableError
from sealift.worker import StalledError
from sealift.worker._collateral import CollateralKeeper, SimSource
from sealift.worker._outbox import Included, Outbox

NOW = 1_790_000_000
DAY = 86_400


class FakeClock:
    def __init__(self) -> None:
        self.seconds = NOW

    def now(self) -> Timestamp:
        return Timestamp(seconds=self.seconds, nanos=0)


class Node:
    """L1's registry: what was registered last, as the ledger would keep it."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.asked: list[bytes] = []

    async def abci_query(self, key: bytes, *, prove: bool) -> Any:
        self.asked.append(key)

        class Entry:
            value = self.value

        return Entry()


class Source:
    """A source that does as it is told."""

    def __init__(self, intel: SimIntel) -> None:
        self.real = SimSource(intel)
        self.error: Exception | None = None
        self.lifetime = 0
        self.known: list[CollateralMarks | None] = []

    async def collateral(self, quote: bytes, known: Any, now: UnixSeconds) -> Any:
        self.known.append(known)
        if self.error is not None:
            raise self.error
        if self.lifetime:
            raw = self.real._intel.collateral_json(now=now, lifetime=self.lifetime)
            root = TrustAnchor(root_der=self.real._intel.root_der, kind="insecure-sim")
            return verify_collateral(parse_collateral(raw), root=root, now=now)
        return await self.real.collateral(quote, known, now)


class Scene:
    def __init__(self, path: Path, *, source: bool = True) -> None:
        self.intel = SimIntel(path / "sim")
        machine = SimMachine(self.intel, "one", entropy=system_entropy)
        measured = measure({"app/a.py": b"x"})
        tbs = make_tbs(measured, isv_prod_id=1, isv_svn=1, date=dt.date(2026, 1, 1))
        identity = machine.einit(measured, sign_sigstruct(tbs, rsa_generate()))
        self.machine = machine
        self.quote = machine.quote(identity, bytes(64))
        self.clock, self.node, self.account = FakeClock(), Node(), FakeAccount()
        self.source = Source(self.intel)
        self.account.outcomes["teerex.register_collateral"] = self.register
        self.outcome = 0
        self.log = ""
        self.roots = (TrustAnchor(root_der=self.intel.root_der, kind="insecure-sim"),)
        self.keeper = self.new_keeper(source=source)

    def new_keeper(self, *, source: bool) -> CollateralKeeper:
        async def quoted() -> bytes:
            return self.quote

        return CollateralKeeper(
            source=self.source if source else None,
            roots=self.roots,
            l1=self.node,  # type: ignore[arg-type]
            clock=self.clock,
            quote=quoted,
        )

    def register(self, args: dict[str, Any]) -> Included:
        if not self.outcome:
            verified = verify_collateral(
                canonical_decode(Collateral, args["collateral"]),
                root=self.roots[0],
                now=UnixSeconds(self.clock.seconds),
            )
            marks = verified.marks
            self.node.value = encode(
                CollateralRecord(
                    collateral=args["collateral"],
                    recorded_at=Height(1),
                    tcb_issued_at=marks.tcb_info_issued,
                    qe_issued_at=marks.qe_identity_issued,
                    tcb_evaluation_number=marks.tcb_evaluation_data_number,
                    qe_evaluation_number=marks.qe_evaluation_data_number,
                    pck_crl_number=marks.pck_crl_number,
                    root_crl_number=marks.root_crl_number,
                )
            )
        return Included(height=Height(2), code=self.outcome, log=self.log)

    def ensure(self) -> int:
        """Once; how many transactions it took."""

        async def once() -> None:
            outbox = Outbox(self.account)
            running = asyncio.create_task(outbox.run())
            try:
                await self.keeper.ensure_collateral(outbox, self.quote)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        before = len(self.account.sent)
        asyncio.run(once())
        return len(self.account.sent) - before

    def left(self) -> int | None:
        self.keeper._look_again = float("-inf")
        return self.told()

    def told(self) -> int | None:
        return asyncio.run(self.keeper.collateral_seconds_left())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


LIE = PccsAnswerError(
    "the PCCS lies", [Failure(rule=Rule.TCB_INFO_SIGNATURE, got="x", expected="y")]
)


def test_it_is_brought_once_and_then_when_it_says_something_new(scene: Scene) -> None:
    assert scene.ensure() == 1
    assert scene.node.asked[0] == collateral_key(scene.intel.fmspc)
    assert scene.source.known == [None]
    scene.clock.seconds += DAY
    assert scene.ensure() == 0  # nobody pays for the same again
    assert scene.source.known[-1] is not None
    scene.intel.tcb_recovery(now=UnixSeconds(NOW), advisories=("INTEL-SA-1",))
    assert scene.ensure() == 1
    scene.machine.revoke()
    assert scene.ensure() == 1  # a revocation reaches L1 too
    assert scene.ensure() == 0
    scene.clock.seconds += 7 * DAY
    assert scene.ensure() == 1


def test_that_there_was_none_is_not_said_once_it_was_brought(scene: Scene) -> None:
    """A warning of minutes ago would send an operator looking for what is there."""
    assert scene.told() is None
    scene.ensure()
    left = scene.told()
    assert left is not None
    assert left > 0


def test_what_is_about_to_lapse_is_replaced(scene: Scene) -> None:
    assert scene.ensure() == 1
    left = scene.left()
    assert left == COLLATERAL_SECONDS - 120
    scene.clock.seconds += 6 * DAY
    assert scene.ensure() == 0
    scene.clock.seconds += COLLATERAL_SECONDS  # all of it has expired
    assert scene.left() is None
    assert scene.ensure() == 1
    assert scene.left() == COLLATERAL_SECONDS - 120


def test_what_lapses_within_days_gives_way_to_what_lasts_longer(scene: Scene) -> None:
    """Though it is young, and nothing in it is new."""
    scene.source.lifetime = 2 * DAY
    assert scene.ensure() == 1
    scene.clock.seconds += 3600
    scene.source.lifetime = 2 * DAY - 7200
    assert scene.ensure() == 0  # what would end even earlier is not worth a fee
    scene.source.lifetime = 30 * DAY
    assert scene.ensure() == 1
    assert scene.ensure() == 0


@pytest.mark.parametrize("error", [LIE, PccsUnreachableError("it is silent")])
def test_a_source_that_lies_stops_nobody_while_l1s_own_holds(
    error: Exception, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.ensure()
    scene.source.error = error
    assert scene.ensure() == 0
    assert str(error) in caplog.text  # the rule's name is told
    scene.clock.seconds += COLLATERAL_SECONDS + DAY
    with pytest.raises(type(error)):
        scene.ensure()
    assert len(scene.account.sent) == 1


def test_without_any_the_lie_is_the_reason_not_to_register(scene: Scene) -> None:
    scene.source.error = LIE
    with pytest.raises(PccsAnswerError) as caught:
        scene.ensure()
    assert caught.value.rules == {Rule.TCB_INFO_SIGNATURE}
    assert scene.account.sent == []


def test_without_a_source_somebody_else_brings_it_or_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path, source=False)
    with pytest.raises(StalledError, match="no collateral of this platform") as error:
        scene.ensure()
    assert "--pccs" in error.value.hint
    scene.keeper = scene.new_keeper(source=True)
    scene.ensure()
    scene.keeper = scene.new_keeper(source=False)
    assert scene.ensure() == 0
    assert scene.left() is not None


def test_a_refusal_of_l1_is_told_unless_another_was_faster(scene: Scene) -> None:
    scene.outcome, scene.log = 7, "CollateralOlderError: older than known"
    scene.ensure()
    scene.log = "CollateralRefusedError"
    with pytest.raises(StalledError, match="L1 refused"):
        scene.ensure()
