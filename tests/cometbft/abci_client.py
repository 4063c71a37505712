"""The engine's side of ABCI: requests as frames, responses as plain values."""

import asyncio
import hashlib
from pathlib import Path

import comet

from sealift.ledger import DcapVerifier
from sealift.node import LedgerApplication
from sealift.node.abci import AbciApplication
from sealift.node.abci._frames import AbciFrameReader
from sealift.node.abci._messages import (
    FinalizeBlockRequest,
    FinalizeBlockResponse,
    InfoRequest,
    InfoResponse,
    InitChainRequest,
    QueryRequest,
    QueryResponse,
    parse_request,
)
from sealift.node.abci._proto import parse_choice, render_choice
from sealift.relay import Validator, ValidatorSet, validators_hash

INFO = {
    "version": "0.38.25",
    "block_version": 11,
    "p2p_version": 8,
    "abci_version": "2.0.0",
}
#: Of the genesis below.
VALIDATORS = ValidatorSet(validators=(Validator(public_key=bytes(32), power=10),))
GENESIS = {
    "time": {"seconds": 1_700_000_000, "nanos": 5},
    "chain_id": comet.CHAIN,
    "consensus_params": {
        "block": {"max_bytes": 4_194_304, "max_gas": 5_000_000},
        "evidence": {
            "max_age_num_blocks": 100_000,
            "max_age_duration": {"seconds": 172_800},
            "max_bytes": 1_048_576,
        },
        "validator": {"pub_key_types": ["ed25519"]},
        "version": {"app": 1},
        "abci": {},
    },
    "validators": [{"pub_key": {"ed25519": bytes(32)}, "power": 10}],
    "app_state_bytes": comet.app_state(),
    "initial_height": 1,
}


def frame(kind: str, **body: object) -> bytes:
    return render_choice("Request", kind, body)


def message(kind: str, **body: object) -> bytes:
    (payload,) = AbciFrameReader().feed(frame(kind, **body))
    return payload


def block(
    height: int,
    txs: tuple[bytes, ...] = (),
    salt: bytes = b"",
    validators: ValidatorSet = VALIDATORS,
) -> dict:
    return {
        "txs": txs,
        "hash": hashlib.sha256(salt + height.to_bytes(8, "big")).digest(),
        "height": height,
        "time": {"seconds": 1_700_000_000 + height},
        "proposer_address": bytes(20),
        "next_validators_hash": validators_hash(validators),
    }


def open_driver(path: Path) -> AbciApplication:
    return AbciApplication.open(path, application=LedgerApplication(DcapVerifier()))


def init(driver: AbciApplication, **changed: object) -> bytes:
    request = parse_request(message("init_chain", **(GENESIS | changed)))
    assert isinstance(request, InitChainRequest)
    return driver.init_chain(request).app_hash


def finalize(
    driver: AbciApplication, height: int, *txs: bytes, salt: bytes = b""
) -> FinalizeBlockResponse:
    request = parse_request(message("finalize_block", **block(height, txs, salt)))
    assert isinstance(request, FinalizeBlockRequest)
    return driver.finalize_block(request)


def commit(driver: AbciApplication) -> None:
    driver.persist()
    driver.adopt()


def run_block(driver: AbciApplication, height: int, *txs: bytes) -> bytes:
    app_hash = finalize(driver, height, *txs).app_hash
    commit(driver)
    return app_hash


def query(
    driver: AbciApplication, key: bytes, *, height: int = 0, path: str = "/store"
) -> QueryResponse:
    request = QueryRequest(data=key, path=path, height=height, prove=True)
    return asyncio.run(driver.query(request))


def parse_info(**changed: object) -> InfoRequest:
    request = parse_request(message("info", **(INFO | changed)))
    assert isinstance(request, InfoRequest)
    return request


def info(driver: AbciApplication) -> InfoResponse:
    return driver.info(parse_info())


class Connection:
    """One of the engine's connections."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._frames = AbciFrameReader()
        self._waiting: list[bytes] = []

    @classmethod
    async def open(cls, socket: Path) -> "Connection":
        return cls(*await asyncio.open_unix_connection(socket))

    def send(self, kind: str, **body: object) -> None:
        self.writer.write(frame(kind, **body))

    async def answer(self) -> tuple[str, dict[str, object]]:
        while not self._waiting:
            data = await asyncio.wait_for(self._reader.read(65536), 20)
            if not data:
                raise EOFError
            self._waiting += self._frames.feed(data)
        return parse_choice("Response", self._waiting.pop(0))

    async def ask(self, kind: str, **body: object) -> tuple[str, dict[str, object]]:
        # in one piece: a refusal may close the connection before a second one
        self.writer.write(frame(kind, **body) + frame("flush"))
        answered = await self.answer()
        if answered[0] != "exception":
            flushed = await self.answer()
            if flushed != ("flush", {}):  # no assert: it has to run under -O
                raise AssertionError(flushed)
        return answered

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()
