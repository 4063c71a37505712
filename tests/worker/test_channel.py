"""The ECALL channel: what an enclave may answer, and what breaks it."""

import asyncio

import pytest
from doubles import FakeEnclave, LostError, refusal, status
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.base import SealiftError
from sealift.protocol.ecall import EnclaveStatus, GetStatus
from sealift.worker import EnclaveGoneError, EnclaveRefusedError
from sealift.worker._channel import EnclaveChannel


def ask(fake: object) -> EnclaveStatus:
    return asyncio.run(EnclaveChannel(fake).call(GetStatus(), EnclaveStatus))


def test_a_refusal_keeps_the_enclaves_name_for_it() -> None:
    fake = FakeEnclave(GetStatus=lambda _: refusal("NoStateError", "there is none"))
    with pytest.raises(EnclaveRefusedError, match="there is none") as caught:
        ask(fake)
    assert caught.value.refused == "NoStateError"


def test_another_reply_than_the_asked_one_breaks_the_channel() -> None:
    with pytest.raises(EnclaveGoneError, match="out of turn"):
        asyncio.run(
            EnclaveChannel(FakeEnclave(GetStatus=lambda _: status())).call(
                GetStatus(), GetStatus
            )
        )


class Raw:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def call(self, payload: bytes) -> bytes:
        return self.data


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=100))
def test_any_bytes_of_an_enclave_are_a_reply_or_a_broken_channel(data: bytes) -> None:
    with pytest.raises(SealiftError) as caught:
        ask(Raw(data))
    assert isinstance(caught.value, EnclaveGoneError)


def test_a_call_that_is_cut_off_leaves_the_next_one_in_step() -> None:
    class Slow(FakeEnclave):
        async def call(self, payload: bytes) -> bytes:
            await asyncio.sleep(0.02)
            return await super().call(payload)

    async def whole() -> None:
        fake = Slow(GetStatus=lambda _: status())
        channel = EnclaveChannel(fake)
        cut = asyncio.create_task(channel.ask(GetStatus()))
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        await channel.call(GetStatus(), EnclaveStatus)
        await asyncio.sleep(0.03)
        assert fake.count(GetStatus) == 2

    asyncio.run(whole())


def test_the_death_of_the_process_is_told_with_what_to_do() -> None:
    fake = FakeEnclave()
    fake.gone = LostError("the process has ended", got="exit code -9")
    with pytest.raises(EnclaveGoneError, match="exit code -9") as caught:
        ask(fake)
    assert "start the worker again" in caught.value.hint
