"""A measured process, two descriptors, and nobody else gets an answer."""

import ast
import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.base import SealiftError, encode
from sealift.bundle import (
    BundleFormatError,
    FolderDiffersError,
    SigstructError,
    parse_manifest,
)
from sealift.crypto import rsa_generate, system_entropy
from sealift.insecure_sim import (
    EgetkeyError,
    EinitError,
    EnclaveDiedError,
    RunningEnclave,
    SimIdentity,
    SimIntel,
    SimMachine,
    SimPlatform,
    StartOptions,
    TargetMismatchError,
)
from sealift.protocol.platform import (
    IdentityReply,
    IdentityRequest,
    PlatformRefusal,
    QuoteReply,
    QuoteRequest,
    SealKeyReply,
    SealKeyRequest,
    parse_platform_reply,
    parse_platform_request,
)
from sealift.transport.bundle_folder import BundleFolderError, install_bundle

Story = Callable[[RunningEnclave], Coroutine[Any, Any, None]]


@pytest.fixture
def run(machine: SimMachine, folder: Path) -> Callable[..., None]:
    def tell(story: Story, options: StartOptions | None = None) -> None:
        async def whole() -> None:
            async with await SimPlatform(machine).start(folder, options) as enclave:
                await asyncio.wait_for(story(enclave), 30)

        asyncio.run(whole())

    return tell


async def ask(enclave: RunningEnclave, request: object) -> object:
    answer = await enclave.call(b"platform:" + encode(request))
    return parse_platform_reply(answer)


async def look(enclave: RunningEnclave, expression: str) -> Any:
    return ast.literal_eval(
        (await enclave.call(b"eval:" + expression.encode())).decode()
    )


# --- what the process has ---


def test_the_process_has_two_descriptors_and_no_environment(
    run: Callable[..., None], folder: Path
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        # listdir itself holds one more while it looks
        assert await look(enclave, "len(os.listdir('/proc/self/fd'))") == 3 + 2 + 1
        assert await look(enclave, "dict(os.environ)") == {
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        assert await look(enclave, "os.getcwd()") == str(folder)
        assert await look(enclave, "os.getpid()") == enclave.pid

    run(story)


def test_only_the_folder_and_the_standard_library_are_imported_from(
    run: Callable[..., None], folder: Path
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        path = await look(enclave, "sys.path")
        assert path[-3:] == [str(folder), f"{folder}/site", f"{folder}/app"]
        assert not [entry for entry in path[:-3] if "site-packages" in entry]
        flags = "[sys.flags.isolated, sys.flags.no_site, sys.dont_write_bytecode]"
        assert await look(enclave, flags) == [1, 1, True]
        prefixes.append(await look(enclave, "sys.pycache_prefix"))
        assert await look(enclave, "'sealift' in sys.modules") is False

    prefixes: list[str] = []
    run(story)
    assert not Path(prefixes[0]).exists()
    assert not list(folder.rglob("*.pyc"))


def test_the_entry_gets_the_measured_manifest(
    run: Callable[..., None], folder: Path
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        raw = await look(enclave, "manifest")
        assert raw == (folder / "manifest.json").read_bytes()
        assert parse_manifest(raw) == enclave.manifest

    run(story)


def test_a_memory_limit_holds_in_the_process(run: Callable[..., None]) -> None:
    limit = 512 * 1024 * 1024

    async def story(enclave: RunningEnclave) -> None:
        got = await look(enclave, "resource.getrlimit(resource.RLIMIT_AS)")
        assert got == (limit, limit)
        with pytest.raises(EnclaveDiedError):
            await look(enclave, "len(bytearray(600 * 1024 * 1024))")

    run(story, StartOptions(memory_limit=limit))


# --- its platform ---


def test_the_platform_answers_for_this_process_alone(
    run: Callable[..., None], machine: SimMachine
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        me = await ask(enclave, IdentityRequest())
        assert isinstance(me, IdentityReply)
        assert me.kind == "insecure-sim"
        assert me.mrenclave == enclave.bundle.fingerprint
        assert me.mrsigner == enclave.bundle.sigstruct.mrsigner
        assert (me.isv_prod_id, me.isv_svn) == (1, 2)
        assert me.cpu_svn == machine.cpu_svn
        quoted = await ask(enclave, QuoteRequest(report_data=b"d" * 64))
        assert isinstance(quoted, QuoteReply)
        assert quoted.quote[112:144] == me.mrenclave
        assert quoted.quote[368:432] == b"d" * 64

    run(story)


def test_sealed_keys_come_back_after_a_restart_and_after_microcode(
    run: Callable[..., None], machine: SimMachine
) -> None:
    got: list[SealKeyReply] = []

    async def seal(enclave: RunningEnclave) -> None:
        reply = await ask(enclave, SealKeyRequest(policy="mrenclave", label=b"keys"))
        assert isinstance(reply, SealKeyReply)
        got.append(reply)

    async def unseal(enclave: RunningEnclave) -> None:
        old = got[0]
        same = SealKeyRequest(
            policy="mrenclave", label=b"keys", cpu_svn=old.cpu_svn, isv_svn=old.isv_svn
        )
        assert await ask(enclave, same) == old
        other = SealKeyRequest(policy="mrenclave", label=b"other")
        assert (await ask(enclave, other)).key != old.key

    run(seal)
    run(unseal)
    machine.install_microcode(bytes([3, 3, 2, 2, 3, 1, 0, 3]) + bytes(8))
    run(unseal)


def test_refusals_are_named_and_the_platform_goes_on(run: Callable[..., None]) -> None:
    async def story(enclave: RunningEnclave) -> None:
        for request in (
            SealKeyRequest(policy="mrsigner", label=b""),
            SealKeyRequest(policy="mrenclave", label=b"", isv_svn=3),
            SealKeyRequest(policy="mrenclave", label=b"", cpu_svn=b"\xff" * 16),
        ):
            refused = await ask(enclave, request)
            assert isinstance(refused, PlatformRefusal)
            assert refused.code == EgetkeyError.code
        garbage = parse_platform_reply(await enclave.call(b"platform:garbage"))
        assert isinstance(garbage, PlatformRefusal)
        assert garbage.code == "DecodeError"
        assert isinstance(await ask(enclave, IdentityRequest()), IdentityReply)

    run(story)


def test_an_endless_platform_frame_ends_only_that_platform_channel(
    machine: SimMachine, folder: Path
) -> None:
    async def story() -> None:
        platform = SimPlatform(machine)
        async with (
            await platform.start(folder) as greedy,
            await platform.start(folder) as modest,
        ):
            with pytest.raises(EnclaveDiedError):
                await greedy.call(b"platform:" + bytes(500_000))
            assert isinstance(await ask(modest, IdentityRequest()), IdentityReply)

    asyncio.run(story())


def test_a_process_that_the_machine_did_not_start_gets_no_answer(
    run: Callable[..., None], folder: Path
) -> None:
    """The measured code itself, started by somebody else beside a real one."""

    async def story(enclave: RunningEnclave) -> None:
        assert isinstance(await ask(enclave, IdentityRequest()), IdentityReply)
        host, child_host = socket.socketpair()
        with host, child_host, socket.socket() as nobody:
            command = [
                sys.executable, "-I", "-S", "-B", str(folder / "boot.py"),
                str(child_host.fileno()), str(nobody.fileno()), "0",
            ]  # fmt: skip
            with subprocess.Popen(  # noqa: ASYNC220 - the loop may wait
                command,
                pass_fds=(child_host.fileno(), nobody.fileno()),
                stderr=subprocess.DEVNULL,
            ) as process:
                child_host.close()
                request = b"platform:" + encode(IdentityRequest())
                host.sendall(len(request).to_bytes(4, "little") + request)
                host.settimeout(20)
                assert host.recv(1) == b""
                process.wait(20)
                assert process.returncode != 0

    run(story)


def test_boot_refuses_to_run_unisolated(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(folder / "boot.py"), "0", "1", "0"],
        check=False,
        capture_output=True,
    )
    assert b"start with -I -S -B" in done.stderr
    assert done.returncode == 1


@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for parse in (parse_platform_request, parse_platform_reply):
        try:
            parse(data)
        except SealiftError:
            continue


def test_any_request_has_one_reply(machine: SimMachine, identity: SimIdentity) -> None:
    platform = SimPlatform(machine)
    for payload in (b"", b"\xff", bytes(100_000), encode(["QuoteRequest", b"short"])):
        assert isinstance(platform.answer(identity, payload), PlatformRefusal)


# --- what is not started ---


def refused(machine: SimMachine, folder: Path, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(SimPlatform(machine).start(folder))


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_an_altered_source_in_the_folder_is_not_started(
    machine: SimMachine, folder: Path
) -> None:
    source = folder / "app" / "tiny.py"
    overwrite(source, source.read_bytes() + b"#")
    refused(machine, folder, SigstructError)


def test_an_altered_boot_or_manifest_is_not_started(
    machine: SimMachine, folder: Path
) -> None:
    boot = (folder / "boot.py").read_bytes()
    overwrite(folder / "boot.py", boot.replace(b"isolated", b"quiet"))
    refused(machine, folder, SigstructError)
    overwrite(folder / "boot.py", boot)
    overwrite(folder / "manifest.json", b"{}")
    refused(machine, folder, BundleFormatError)


@pytest.mark.parametrize(
    ("stray", "error"),
    [
        ("app/__pycache__/tiny.cpython-311.pyc", BundleFormatError),
        ("app/tiny.pyc", BundleFormatError),
        ("site/json.py", FolderDiffersError),
        ("site/evil.pth", FolderDiffersError),
        ("no-pycache/evil.pyc", BundleFormatError),
        ("app/json.py", SigstructError),
    ],
)
def test_a_stray_file_keeps_the_enclave_from_starting(
    machine: SimMachine, folder: Path, stray: str, error: type[Exception]
) -> None:
    (folder / stray).parent.mkdir(exist_ok=True)
    (folder / stray).write_bytes(b"")
    refused(machine, folder, error)


def test_a_linked_source_is_not_started(machine: SimMachine, folder: Path) -> None:
    source = folder / "app" / "tiny.py"
    source.rename(folder.parent / "tiny.py")
    source.symlink_to(folder.parent / "tiny.py")
    refused(machine, folder, BundleFolderError)


def test_the_sigstruct_of_another_bundle_does_not_start_this_one(
    machine: SimMachine, folder: Path, bundle_bytes: Callable[..., bytes]
) -> None:
    other = install_bundle(bundle_bytes(b"main = print\n"), folder.parent)
    overwrite(folder / "sigstruct.bin", (other / "sigstruct.bin").read_bytes())
    refused(machine, folder, SigstructError)


def test_a_bundle_for_another_python_is_not_started(
    machine: SimMachine, tmp_path: Path, bundle_bytes: Callable[..., bytes]
) -> None:
    folder = install_bundle(bundle_bytes(target="cp399-manylinux_x86_64"), tmp_path)
    with pytest.raises(TargetMismatchError, match="another target"):
        asyncio.run(SimPlatform(machine).start(folder))


def test_a_missing_interpreter_is_said_and_leaves_nothing_open(
    machine: SimMachine, folder: Path
) -> None:
    with pytest.raises(EnclaveDiedError, match="no enclave process"):
        asyncio.run(SimPlatform(machine, python="/nonexistent/python").start(folder))


# --- its life ---


def test_versions_run_side_by_side_each_from_its_own_folder(
    machine: SimMachine, folder: Path, bundle_bytes: Callable[..., bytes]
) -> None:
    from .conftest import PROGRAM  # noqa: PLC0415

    second = install_bundle(bundle_bytes(PROGRAM + b"VERSION = 2\n"), folder.parent)

    async def story() -> None:
        platform = SimPlatform(machine)
        async with (
            await platform.start(folder) as one,
            await platform.start(second) as two,
        ):
            first, other = await asyncio.gather(
                ask(one, SealKeyRequest(policy="mrenclave", label=b"x")),
                ask(two, SealKeyRequest(policy="mrenclave", label=b"x")),
            )
            assert first.key != other.key
            assert await look(two, "VERSION") == 2
            with pytest.raises(EnclaveDiedError):
                await look(one, "VERSION")

    asyncio.run(story())


def test_calls_are_answered_in_turn(run: Callable[..., None]) -> None:
    async def story(enclave: RunningEnclave) -> None:
        answers = await asyncio.gather(*(look(enclave, str(n)) for n in range(50)))
        assert answers == list(range(50))
        big = await enclave.call(b"eval:'x' * 3_000_000")
        assert len(big) == 3_000_002

    run(story)


def test_it_ends_by_itself_when_its_host_channel_closes(
    run: Callable[..., None],
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        assert enclave.running
        assert await enclave.stop() == 0
        assert not enclave.running
        with pytest.raises(EnclaveDiedError):
            await enclave.call(b"eval:1")

    run(story)


def test_a_killed_process_is_reaped_and_the_call_says_so(
    run: Callable[..., None],
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        os.kill(enclave.pid, signal.SIGKILL)
        with pytest.raises(EnclaveDiedError, match="exit code -9"):
            await enclave.call(b"eval:1")
        assert await enclave.wait() == -9
        with pytest.raises(ProcessLookupError):
            os.kill(enclave.pid, 0)
        assert await enclave.kill() == -9

    run(story)


def test_what_it_writes_to_stderr_can_be_kept(
    run: Callable[..., None], tmp_path: Path
) -> None:
    log = tmp_path / "stderr.txt"

    async def story(enclave: RunningEnclave) -> None:
        with pytest.raises(EnclaveDiedError):
            await enclave.call(b"exit:")

    run(story, StartOptions(diagnostics=log))
    assert "told to exit" in log.read_text()


def test_a_reply_beyond_the_limit_ends_the_process(run: Callable[..., None]) -> None:
    async def story(enclave: RunningEnclave) -> None:
        with pytest.raises(EnclaveDiedError, match="too large"):
            await enclave.call(b"huge:")
        assert not enclave.running

    run(story)


def test_a_cancelled_call_leaves_no_answer_for_the_next_one(
    run: Callable[..., None],
) -> None:
    async def story(enclave: RunningEnclave) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(enclave.call(b"silent:"), 0.2)
        assert not enclave.running

    run(story)


def test_debug_code_of_another_vendor_is_another_identity(
    intel: SimIntel, identify: Callable[..., SimIdentity]
) -> None:
    machine = SimMachine(intel, "three", entropy=system_entropy)
    one, two = identify(machine), identify(machine, vendor=rsa_generate())
    assert one.mrenclave == two.mrenclave
    assert one.mrsigner != two.mrsigner
    with pytest.raises(EinitError):
        machine.quote(one, b"")
