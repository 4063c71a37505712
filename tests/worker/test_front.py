"""One surface over several enclaves: who answers, who waits, for how long."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from doubles import executed, receipt, refusal
from test_api import ENVELOPE, GENEROUS
from test_api import Front as OneInstance

from sealift.base import Fingerprint, Height, decode, encode
from sealift.protocol import SealedReceipt
from sealift.protocol.ecall import Answer
from sealift.transport.http import Listening, serve
from sealift.worker import _front as front_module
from sealift.worker._api import WAITS, Health
from sealift.worker._carry import CarryGate
from sealift.worker._door import Door, Places
from sealift.worker._errors import EnclaveGoneError, SwitchingError
from sealift.worker._front import Board, Front, Rank, Seat

OLD, NEW = Fingerprint(b"\x01" * 32), Fingerprint(b"\x02" * 32)
NOT_SERVING = refusal("NotServingError", "this code does not run the shard now")


class Instance(OneInstance):
    """An instance over doubles, with a seat for the board."""

    def __init__(self, path: Path, fingerprint: Fingerprint, rank: Rank) -> None:
        path.mkdir()
        super().__init__(path)
        self.seat = Seat(
            fingerprint=fingerprint,
            api=self.api,
            handlers=self.api.handlers(),
            receipts=self.store,
            news=self.follower,
            rank=rank,
        )
        self.enclave.answers["Ask"] = lambda _: Answer(sealed=bytes(fingerprint))

    def stops_serving(self) -> None:
        self.enclave.answers["Ask"] = lambda _: NOT_SERVING


class Service:
    """A front over two instances; the test moves them."""

    def __init__(self, path: Path) -> None:
        self.awaited = True
        self.newest = 0
        self.board = Board(lambda: self.awaited, lambda epoch: epoch == self.newest)
        self.old = Instance(path / "old", OLD, Rank(generation=0, height=99))
        self.new = Instance(path / "new", NEW, Rank(height=99))
        self.well = Health(ok=True, reasons=())
        self.front = Front(
            self.board,
            submitter=self.old,
            gate=CarryGate(GENEROUS, funds=self.old.funds, now=lambda: 0.0),
            overseer=self,
        )

    def health(self) -> Health:
        return self.well

    def about(self) -> dict[str, object]:
        current = self.board.current
        named = "" if current is None else current.fingerprint.hex()
        return {"instances": [], "answering": named}

    def metrics(self) -> bytes:
        return b"sealift_more 1\n"

    def both(self) -> None:
        self.board.enter(self.old.seat)
        self.board.enter(self.new.seat)

    def switch(self) -> None:
        """The new one executes block 100."""
        self.board.advance(NEW, Rank(generation=1, height=100))


def crowd() -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(limit=0)


Described = Callable[..., Awaitable[dict[str, object]]]
Story = Callable[[Service, aiohttp.ClientSession, Listening], Awaitable[None]]
Play = Callable[[Story], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(story: Story) -> None:
        async def whole() -> None:
            service = Service(tmp_path)
            app = service.front.application(service.old.api.handlers())
            try:
                async with (
                    asyncio.timeout(15),
                    serve(app) as where,
                    aiohttp.ClientSession(where.url, connector=crowd()) as http,
                ):
                    await story(service, http, where)
            finally:
                service.old.store.close()
                service.new.store.close()

        asyncio.run(whole())

    return run


async def ask(http: aiohttp.ClientSession) -> tuple[int, bytes]:
    async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
        return answer.status, await answer.read()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0.005)


def test_reads_at_xyz_wait_and_are_answered_by_the_next_enclave(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        assert await ask(http) == (200, OLD)
        service.old.stops_serving()
        waiting = [asyncio.create_task(ask(http)) for _ in range(12)]
        await settled()
        assert not any(task.done() for task in waiting)
        service.switch()
        assert set(await asyncio.gather(*waiting)) == {(200, NEW)}
        assert service.board.switches == 1

    play(story)


def test_more_wait_than_are_answered_at_once(play: Play) -> None:
    """Those who wait take no place of those who are answered."""

    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        service.old.stops_serving()
        waiting = []
        for _ in range(10):
            waiting += [asyncio.create_task(ask(http)) for _ in range(10)]
            await settled()
        assert not any(task.done() for task in waiting)
        async with http.get("/v1/dump-ra") as answer:
            assert answer.status == 200
        service.switch()
        assert set(await asyncio.gather(*waiting)) == {(200, NEW)}

    play(story)


def test_where_the_next_enclave_does_not_answer_reads_fail_by_name_in_time(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "SWITCH_SECONDS", 0.2)

    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        service.old.stops_serving()
        async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
            body = await answer.json()
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "2"
        assert body["error"]["code"] == "SwitchingError"
        assert "NotServingError" in body["error"]["message"]

    play(story)


def test_an_enclave_that_has_not_seen_its_turn_is_asked_again_when_it_has(
    play: Play,
) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.board.enter(service.new.seat)
        answers = service.new.enclave.answers["Ask"]
        service.new.stops_serving()
        waiting = asyncio.create_task(ask(http))
        await settled()
        assert not waiting.done()
        service.new.enclave.answers["Ask"] = answers
        service.switch()
        assert await waiting == (200, NEW)
        assert service.board.switches == 0

    play(story)


def test_who_is_ahead_of_the_enclave_by_a_rotation_waits_for_it(play: Play) -> None:
    """A client seals to what L1 proves; the enclave may hear of it a block later."""

    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.awaited = False  # no upgrade is near
        service.board.enter(service.old.seat)
        answers = service.old.enclave.answers["Ask"]
        service.old.enclave.answers["Ask"] = lambda _: refusal("UnknownEpochError")
        waiting = asyncio.create_task(ask(http))
        await settled()
        assert not waiting.done()
        service.old.enclave.answers["Ask"] = answers
        service.board.advance(OLD, Rank(generation=0, height=100))
        assert await waiting == (200, OLD)

    play(story)


def test_an_epoch_that_is_over_or_that_nobody_has_is_not_waited_for(play: Play) -> None:
    """Else strangers could hold every place in which is waited."""

    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        service.old.enclave.answers["Ask"] = lambda _: refusal("UnknownEpochError")
        for newest in (1, -1):
            service.newest = newest
            async with asyncio.timeout(5):
                status, _raw = await ask(http)
            assert status == 422

    play(story)


def test_nobody_waits_where_no_other_enclave_is_to_come(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.awaited = False
        service.board.enter(service.old.seat)
        service.old.stops_serving()
        async with http.post("/v1/ask", data=encode(ENVELOPE)) as answer:
            assert answer.status == 422
            assert (await answer.json())["error"]["code"] == "EnclaveRefusedError"

    play(story)


@pytest.mark.parametrize("name", ["GetterExpiredError", "NoStateError"])
def test_other_refusals_are_not_waited_out(play: Play, name: str) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        service.old.enclave.answers["Ask"] = lambda _: refusal(name)
        status, _raw = await ask(http)
        assert status == 422

    play(story)


def test_an_enclave_that_dies_is_waited_for_if_it_is_started_again(
    play: Play,
) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.board.enter(service.old.seat)
        service.old.enclave.gone = EnclaveGoneError("ended")
        waiting = asyncio.create_task(ask(http))
        await settled()
        service.board.leave(OLD)
        await settled()
        assert not waiting.done()
        service.old.enclave.gone = None
        service.board.enter(service.old.seat)
        assert await waiting == (200, OLD)

    play(story)


def test_calls_are_carried_whoever_runs_and_never_wait(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        for _ in range(2):  # nobody is up, then an enclave that serves nobody
            async with http.post("/v1/submit", data=encode(ENVELOPE)) as answer:
                assert (answer.status, await answer.json()) == (200, {"tx": "AB"})
            service.both()
            service.old.stops_serving()
        assert len(service.old.submitted) == 2

    play(story)


def test_receipts_of_both_are_shown_also_after_the_old_one_has_ended(
    play: Play,
) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        first, later = (receipt(n, envelope=bytes([n])) for n in (7, 120))
        service.old.store.commit_block(executed(7, receipts=(first,)))
        service.switch()
        service.new.store.commit_block(executed(120, receipts=(later,)))

        async def shown(one: SealedReceipt) -> int:
            path = f"/v1/receipts/{one.envelope.hex()}"
            async with http.get(path) as answer:
                if answer.status == 200:
                    assert decode(SealedReceipt, await answer.read()) == one
                return answer.status

        assert [await shown(first), await shown(later)] == [200, 200]
        service.board.leave(OLD)
        assert await shown(first) == 404
        service.board.keep(OLD, service.old.store)
        assert [await shown(first), await shown(later)] == [200, 200]
        service.board.keep(OLD, None)
        assert await shown(first) == 404

    play(story)


def test_who_waits_for_a_receipt_gets_it_from_whichever_executes_it(
    play: Play,
) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.board.enter(service.old.seat)
        name = receipt(100).envelope
        wanted = asyncio.create_task(http.get(f"/v1/receipts/{name.hex()}?wait=10"))
        await settled()
        service.board.enter(service.new.seat)  # it came up while somebody waited
        service.board.leave(OLD)
        service.new.happened(100)
        async with await wanted as answer:
            assert answer.status == 200

    play(story)


def test_listeners_hear_both_on_one_connection(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        async with http.ws_connect("/v1/executions") as socket:
            await settled()
            service.old.happened(99)
            service.switch()
            service.new.happened(100)
            service.board.leave(OLD)
            service.old.happened(101)  # it has left
            service.new.happened(102)
            heard = [
                decode(tuple[int, list[SealedReceipt]], (await socket.receive()).data)
                for _ in range(3)
            ]
            assert [height for height, _ in heard] == [99, 100, 102]

    play(story)


def test_everything_else_goes_to_whoever_answers(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        async with http.get("/v1/dump-ra") as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == "SwitchingError"
        service.both()
        for one in (service.old, service.new):
            asked = len(one.enclave.asked)
            async with http.get("/v1/dump-ra") as answer:
                assert answer.status == 200
            assert len(one.enclave.asked) == asked + 1
            service.switch()
        service.new.store.commit_diff(Height(5), b"diff")
        async with http.get("/v1/state/diffs?after=0") as answer:
            found = decode(list[tuple[int, bytes]], await answer.read())
        assert found == [(5, b"diff")]

    play(story)


def test_health_status_and_metrics_are_of_all(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        service.well = Health(ok=False, reasons=("instance 02020202: because",))
        async with http.get("/healthz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"] == list(service.well.reasons)
        async with http.get("/v1/status") as answer:
            found = await answer.json()
        assert found["imported"] == 7
        assert found["instances"] == []
        assert (found["ok"], found["reasons"]) == (False, list(service.well.reasons))

    play(story)


def test_a_status_asked_at_the_switch_tells_of_one_enclave(play: Play) -> None:
    """Seen as the old enclave's hash beside rows in which the new one answers."""

    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()
        for one, name in ((service.old, "old"), (service.new, "new")):
            described = one.api.described

            async def slow(
                *, peer: str, name: str = name, described: Described = described
            ) -> dict[str, object]:
                found = {**await described(peer=peer), "mrenclave": name}
                if name == "old":
                    service.switch()
                return found

            one.api.described = slow  # type: ignore[method-assign]
        async with http.get("/v1/status") as answer:
            found = await answer.json()
        assert found["mrenclave"] == "new"
        assert found["answering"] == NEW.hex()

    play(story)


def test_metrics_asked_at_the_switch_are_of_one_enclave(play: Play) -> None:
    async def story(
        service: Service, http: aiohttp.ClientSession, _: Listening
    ) -> None:
        service.both()

        async def old(*, peer: str) -> bytes:
            service.switch()
            return b"of_the_old 1\n"

        async def new(*, peer: str) -> bytes:
            return b"of_the_new 1\n"

        service.old.api.render_metrics = old  # type: ignore[method-assign]
        service.new.api.render_metrics = new  # type: ignore[method-assign]
        async with http.get("/metrics") as answer:
            assert await answer.read() == b"of_the_new 1\nsealift_more 1\n"

    play(story)


def test_what_an_enclave_that_left_refused_is_asked_of_the_next() -> None:
    board = board_of((OLD, 0, 99), (NEW, -1, 99))

    async def step(seat: Seat) -> Fingerprint:
        if seat.fingerprint == OLD:
            board.leave(OLD)
            raise EnclaveGoneError("the enclave has ended")
        return seat.fingerprint

    async def alone(seat: Seat) -> Fingerprint:
        raise EnclaveGoneError("the enclave has ended")

    async def last(seat: Seat) -> Fingerprint:
        board.leave(NEW)
        return seat.fingerprint

    assert asyncio.run(board.steadily(step)) == NEW
    with pytest.raises(EnclaveGoneError):  # it is the one that answers, still
        asyncio.run(board.steadily(alone))
    with pytest.raises(SwitchingError):
        asyncio.run(board.steadily(last))


def board_of(*ranks: tuple[Fingerprint, int, int]) -> Board:
    board = Board(lambda: True, lambda _: False)
    for fingerprint, generation, height in ranks:
        board.enter(seat_of(fingerprint, generation, height))
    return board


class _Silent:
    def listen(self, _: object) -> Callable[[], None]:
        return lambda: None


def seat_of(fingerprint: Fingerprint, generation: int, height: int) -> Seat:
    return Seat(
        fingerprint=fingerprint,
        api=None,
        handlers={},
        receipts=None,
        news=_Silent(),
        rank=Rank(generation=generation, height=height),
    )


def test_a_later_generation_answers_and_a_rescue_takes_it_back() -> None:
    board = board_of((OLD, 0, 99), (NEW, -1, 99))

    def answers() -> Fingerprint:
        assert board.current is not None
        return board.current.fingerprint

    assert answers() == OLD
    board.advance(NEW, Rank(height=98))  # never less far
    board.advance(NEW, Rank(height=120))  # it follows, and executes nothing
    assert answers() == OLD
    board.advance(NEW, Rank(generation=1, height=100))
    assert answers() == NEW
    board.advance(OLD, Rank(generation=0, height=500))  # it catches up on its own
    assert answers() == NEW
    board.advance(OLD, Rank(generation=2, height=100))
    assert answers() == OLD
    assert board.switches == 2


def test_who_waits_is_bounded() -> None:
    async def whole() -> None:
        board = board_of((OLD, 0, 99), (NEW, -1, 99))
        door = Door(Places(together=2, per_address=2), what="waiters")

        async def step(seat: Seat) -> bytes:
            if seat.fingerprint == OLD:
                raise EnclaveGoneError("ended")
            return b"answer"

        tasks = [
            asyncio.create_task(board.patiently(step, epoch=0, door=door, peer="a"))
            for _ in range(3)
        ]
        await settled()
        assert [task.done() for task in tasks] == [False, False, True]
        assert type(tasks[2].exception()).__name__ == "CrowdOfPeerError"
        board.advance(NEW, Rank(generation=1, height=100))
        assert await tasks[0] == b"answer"
        assert await tasks[1] == b"answer"
        assert door.inside == 0

    asyncio.run(asyncio.wait_for(whole(), 10))
    assert WAITS.together > 500


def test_a_switch_while_one_was_being_asked_is_not_missed() -> None:
    async def whole() -> None:
        board = board_of((OLD, 0, 99), (NEW, -1, 99))
        door = Door(WAITS, what="waiters")

        async def step(seat: Seat) -> bytes:
            if seat.fingerprint == OLD:
                board.advance(NEW, Rank(generation=1, height=100))
                raise EnclaveGoneError("ended")
            return b"answer"

        async with asyncio.timeout(9):
            assert (
                await board.patiently(step, epoch=0, door=door, peer="a") == b"answer"
            )

    asyncio.run(whole())
