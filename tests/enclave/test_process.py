"""The process: two descriptors, and what the platform may answer."""

import socket
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest
from enclave_world import FakePlatform, Host, World, runtime_v1

from sealift.attestation import TrustAnchorError
from sealift.base import FrameReader, InvariantError, Message, decode, encode, frame
from sealift.bundle import Manifest, encode_manifest
from sealift.crypto import sha256
from sealift.enclave import (
    Enclave,
    PlatformAnswerError,
    PlatformClient,
    PlatformRefusedError,
)
from sealift.enclave.main import load_runtime, main
from sealift.protocol import ecall as e
from sealift.protocol.platform import (
    IdentityReply,
    IdentityRequest,
    PlatformRefusal,
    QuoteReply,
    QuoteRequest,
    SealKeyRequest,
    parse_platform_request,
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("some_app")
    module.runtime = runtime_v1()
    module.nothing = object()
    monkeypatch.setitem(__import__("sys").modules, "some_app", module)
    return module


def answer(platform: FakePlatform, payload: bytes) -> Message:
    """A machine at the other end of the descriptor."""
    request = parse_platform_request(payload)
    try:
        if isinstance(request, IdentityRequest):
            return platform.identity()
        if isinstance(request, QuoteRequest):
            return QuoteReply(quote=platform.quote(request.report_data))
        return platform.seal_key(
            request.label, cpu_svn=request.cpu_svn, isv_svn=request.isv_svn
        )
    except PlatformRefusedError as error:
        return PlatformRefusal(code=error.code, message=str(error))


def client(platform: FakePlatform) -> PlatformClient:
    return PlatformClient(lambda payload: encode(answer(platform, payload)))


class Process:
    """``main`` in a thread, a machine in another, the host's end here."""

    def __init__(self, manifest: bytes, platform: FakePlatform | None) -> None:
        self.host, child_host = socket.socketpair()
        self.machine, child_machine = socket.socketpair()
        self.ends = (child_host, child_machine)
        self.error: BaseException | None = None
        self.thread = threading.Thread(
            target=self.run,
            args=(child_host.fileno(), child_machine.fileno(), manifest),
        )
        self.reader = FrameReader(limit=e.MAX_FRAME_BYTES)
        if platform is None:
            self.machine.close()
        else:
            threading.Thread(target=self.serve, args=(platform,), daemon=True).start()
        self.thread.start()

    def run(self, host: int, machine: int, manifest: bytes) -> None:
        try:
            main(host, machine, manifest)
        except BaseException as error:  # noqa: BLE001 - what ends the process
            self.error = error

    def serve(self, platform: FakePlatform) -> None:
        reader = FrameReader(limit=70_000)
        while data := self.machine.recv(65_536):
            for payload in reader.feed(data):
                self.machine.sendall(frame(encode(answer(platform, payload))))

    def call(self, request: Message) -> Any:
        data = frame(encode(request))
        for at in range(0, len(data), 7):
            self.host.sendall(data[at : at + 7])
        while True:
            for payload in self.reader.feed(self.host.recv(65_536)):
                return decode(e.Reply, payload)

    def end(self) -> BaseException | None:
        self.host.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        for one in (*self.ends, self.machine):
            one.close()
        return self.error


@pytest.fixture
def manifest(world: World, app: ModuleType) -> Callable[..., bytes]:
    def make(**changes: Any) -> bytes:
        made: Manifest = world.host.manifest()
        fields = {
            "entry": "some_app:runtime",
            "metadata": sha256(encode(app.runtime.metadata())).hex(),
        }
        return encode_manifest(msgspec.structs.replace(made, **(fields | changes)))

    return make


def test_the_loop_serves_until_the_host_closes(
    manifest: Callable[..., bytes], world: World
) -> None:
    process = Process(manifest(), FakePlatform())
    hello = process.call(e.Hello(version_low=1, version_high=1))
    assert hello.fingerprint == FakePlatform().code
    started = process.call(
        e.Start(
            shard=b"s" * 32, key_store=None, checkpoint=None,
            light_block=world.l1.light(1),
        )
    )  # fmt: skip
    assert started.head == 1
    assert isinstance(
        process.call(
            e.Start(
                **dict.fromkeys(("key_store", "checkpoint", "light_block")),
                shard=b"s" * 32,
            )
        ),
        e.Refused,
    )
    assert process.call(world.l1.request(1)).height == 1
    assert process.end() is None


def test_without_a_platform_there_is_no_enclave(
    manifest: Callable[..., bytes],
) -> None:
    error = Process(manifest(), None).end()
    with pytest.raises((PlatformAnswerError, OSError)):
        raise error


def test_metadata_of_another_runtime_ends_the_process(
    manifest: Callable[..., bytes],
) -> None:
    error = Process(manifest(metadata="11" * 32), FakePlatform()).end()
    with pytest.raises(InvariantError):
        raise error


def test_an_entry_that_is_no_runtime(app: ModuleType) -> None:
    assert load_runtime("some_app:runtime") is app.runtime
    with pytest.raises(InvariantError):
        load_runtime("some_app:nothing")


def test_a_platform_that_gives_another_answer(world: World) -> None:
    identity = FakePlatform().identity()
    lying = PlatformClient(lambda _: encode(identity))
    assert lying.identity() == identity
    with pytest.raises(PlatformAnswerError):
        lying.quote(bytes(64))


def test_a_platform_that_refuses_or_talks_junk(world: World) -> None:
    port = client(FakePlatform())
    with pytest.raises(PlatformRefusedError):
        port.seal_key(b"", cpu_svn=b"\xff" * 16, isv_svn=None)
    junk = PlatformClient(lambda _: b"junk")
    for ask in (junk.identity, lambda: junk.quote(bytes(64))):
        with pytest.raises(Exception, match="PlatformRe"):
            ask()


def test_the_client_speaks_what_the_machine_speaks(world: World) -> None:
    platform = FakePlatform()
    port = client(platform)
    assert port.identity() == platform.identity()
    assert port.quote(bytes(64)) == platform.quote(bytes(64))
    key = port.seal_key(b"label", cpu_svn=None, isv_svn=None)
    assert key == platform.seal_key(b"label", cpu_svn=None, isv_svn=None)
    assert isinstance(port.identity(), IdentityReply)
    assert SealKeyRequest


def test_a_quote_that_is_refused_is_a_refusal_not_an_end(world: World) -> None:
    class Mute(FakePlatform):
        def quote(self, report_data: bytes) -> bytes:
            raise PlatformRefusedError("no quotes today")

    host = Host(world.l1, Mute(machine=b"m9"), seed=b"mute")
    for request in (e.Register(operator=bytes(32)), e.DumpRa()):
        with pytest.raises(PlatformRefusedError):
            host.call(request)
    assert host.status().head == 1


def test_a_root_that_is_no_certificate_starts_nothing(world: World) -> None:
    made = world.host.manifest()
    bad = msgspec.structs.replace(made.attestation_roots[0], der="00")
    with pytest.raises(Exception, match="trust anchor"):
        Enclave(
            manifest=msgspec.structs.replace(made, attestation_roots=(bad,)),
            platform=FakePlatform(),
            entropy=bytes,
            runtime=runtime_v1(),
        )


def test_a_simulators_root_that_is_said_to_be_intels_starts_nothing(
    world: World,
) -> None:
    """Whoever reads the manifest would take it for a production bundle."""
    made = world.host.manifest()
    said = msgspec.structs.replace(made.attestation_roots[0], kind="intel")
    with pytest.raises(TrustAnchorError, match="got insecure-sim, expected intel"):
        Enclave(
            manifest=msgspec.structs.replace(made, attestation_roots=(said,)),
            platform=FakePlatform(),
            entropy=bytes,
            runtime=runtime_v1(),
        )
