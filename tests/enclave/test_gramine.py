"""Gramine's files: buffers of a whole process, keys of one level, and hostile trees."""

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import pytest

from sealift.attestation import TrustAnchor, parse_collateral, parse_quote, verify_quote
from sealift.base import ChainId, UnixSeconds
from sealift.bundle import make_tbs, measure, sign_sigstruct
from sealift.crypto import rsa_generate, system_entropy
from sealift.enclave import (
    GramineSgx,
    KeyStoreLevelError,
    KeyStoreUnreadableError,
    PlatformAnswerError,
    PlatformRefusedError,
    SealingLevelError,
)
from sealift.enclave._gramine import MAX_QUOTE_BYTES, open_device
from sealift.enclave._keystore import open_key_store, seal_key_store
from sealift.enclave._start import _new_keys
from sealift.insecure_sim import SimIdentity, SimIntel, SimMachine
from sealift.relay import TrustRoot
from sealift.testing import AttestationTree

NOW = UnixSeconds(1_790_000_000)
SHARD = b"s" * 32
CHAIN = ChainId("test-chain")


@pytest.fixture(scope="session")
def vendor() -> bytes:
    return rsa_generate()


@pytest.fixture
def machine(tmp_path: Path) -> SimMachine:
    return SimMachine(SimIntel(tmp_path / "sim"), "one", entropy=system_entropy)


def enclave_of(
    machine: SimMachine, vendor: bytes, *, code: bytes = b"code", isv_svn: int = 3
) -> SimIdentity:
    """What gramine-sgx-sign would have signed: some manifest, measured."""
    measured = measure({"sealift.manifest.sgx": code})
    tbs = make_tbs(measured, isv_prod_id=7, isv_svn=isv_svn, date=dt.date(2026, 1, 1))
    return machine.einit(measured, sign_sigstruct(tbs, vendor))


@pytest.fixture
def identity(machine: SimMachine, vendor: bytes) -> SimIdentity:
    return enclave_of(machine, vendor)


@pytest.fixture
def tree(machine: SimMachine, identity: SimIdentity) -> AttestationTree:
    return AttestationTree(machine, identity)


def under(tree: AttestationTree) -> GramineSgx:
    return GramineSgx(opener=tree.open)


# --- what it gives ---


def test_identity_is_what_the_cpu_reports(
    tree: AttestationTree, identity: SimIdentity, machine: SimMachine
) -> None:
    me = under(tree).identity()
    assert me.kind == "gramine-sgx"
    assert (me.mrenclave, me.mrsigner) == (identity.mrenclave, identity.mrsigner)
    assert (me.isv_prod_id, me.isv_svn) == (7, 3)
    assert me.cpu_svn == machine.cpu_svn


def test_a_quote_is_judged_by_the_real_verifier(
    tree: AttestationTree, machine: SimMachine, identity: SimIdentity
) -> None:
    data = bytes(range(64))
    quote = under(tree).quote(data)
    intel = machine.intel
    verified = verify_quote(
        quote,
        collateral=parse_collateral(intel.collateral_json(now=NOW)),
        root=TrustAnchor(root_der=intel.root_der, kind="insecure-sim"),
        now=NOW,
    )
    assert verified.mrenclave == identity.mrenclave
    assert verified.report_data == data


def test_a_quote_that_comes_in_small_pieces_is_whole(tree: AttestationTree) -> None:
    port = under(tree)
    tree.opened = lambda _, mode: setattr(tree, "piece", 7 if mode == "r" else 512)
    assert parse_quote(port.quote(b"x" * 64)).report.report_data == b"x" * 64


def test_report_data_is_written_in_one_piece(tree: AttestationTree) -> None:
    """Two writes of 32 bytes leave the second half and zeros: another statement."""
    port = under(tree)
    tree.piece = 32
    with pytest.raises(PlatformAnswerError, match="a part of user_report_data"):
        port.quote(b"a" * 32 + b"b" * 32)
    tree.save("user_report_data", b"short")
    assert tree._user_report_data == b"short" + bytes(59)
    for size in (0, 32, 63, 65):
        with pytest.raises(PlatformRefusedError, match="another length"):
            port.quote(bytes(size))


def test_two_threads_never_get_each_others_quote(tree: AttestationTree) -> None:
    """The buffers are the process's: without the lock one thread's data is quoted
    for the other, here always, because they meet between write and read."""
    port = under(tree)
    met = threading.Barrier(2)
    collisions: list[str] = []

    def meet(name: str, mode: str) -> None:
        if (name, mode) == ("user_report_data", "w"):
            try:
                met.wait(0.2)
                collisions.append(name)
            except threading.BrokenBarrierError:
                met.reset()

    tree.opened = meet
    got: dict[bytes, bytes] = {}

    def ask(data: bytes) -> None:
        got[data] = parse_quote(port.quote(data)).report.report_data

    threads = [threading.Thread(target=ask, args=(c * 64,)) for c in (b"a", b"b")]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert got == {c * 64: c * 64 for c in (b"a", b"b")}
    assert collisions == []


def test_a_quote_over_what_somebody_else_wrote_is_refused(
    tree: AttestationTree,
) -> None:
    """An application's own thread that uses the files without our lock."""
    port = under(tree)

    def disturb(name: str, mode: str) -> None:
        if (name, mode) == ("user_report_data", "w"):
            tree.opened = lambda _n, _m: None
            # after our write, before our read: at the close, as it were
            tree.save = lambda _name, _data: AttestationTree.save(  # type: ignore[method-assign]
                tree, "user_report_data", b"mine" * 16
            )

    tree.opened = disturb
    with pytest.raises(PlatformAnswerError, match="over other report data") as error:
        port.quote(b"asked" * 12 + b"four")
    assert error.value.got == b"mine" * 16


def test_a_quote_of_another_enclave_is_refused(
    tree: AttestationTree, machine: SimMachine, vendor: bytes
) -> None:
    other = AttestationTree(machine, enclave_of(machine, vendor, code=b"other"))

    def mixed(path: str, mode: str) -> Any:
        if path.endswith("/quote"):
            other.save("user_report_data", tree._user_report_data)
            return other.open(path, mode)
        return tree.open(path, mode)

    port = GramineSgx(opener=mixed)
    with pytest.raises(PlatformAnswerError, match="of another enclave"):
        port.quote(b"x" * 64)


# --- trees that are not what they must be ---


def test_a_quote_larger_than_gramine_has_room_for_is_refused(
    tree: AttestationTree,
) -> None:
    port = under(tree)
    tree.quote_suffix = bytes(MAX_QUOTE_BYTES)
    with pytest.raises(PlatformAnswerError, match=r"too large.*8192"):
        port.quote(bytes(64))
    tree.quote_suffix = b"\x00"
    with pytest.raises(PlatformAnswerError, match="no quote"):
        port.quote(bytes(64))


def test_without_dcap_nothing_starts(
    machine: SimMachine, identity: SimIdentity
) -> None:
    bare = AttestationTree(machine, identity, attestation_type="none")
    with pytest.raises(PlatformRefusedError, match="got none, expected dcap"):
        under(bare)


def test_a_debug_enclave_does_not_start(machine: SimMachine, vendor: bytes) -> None:
    machine.set_debug(debug=True)
    tree = AttestationTree(machine, enclave_of(machine, vendor))
    with pytest.raises(PlatformRefusedError, match="debug enclave"):
        under(tree)


def test_outside_of_gramine_there_is_no_platform(tmp_path: Path) -> None:
    """The place is a constant of the measured code; here it is an empty folder."""
    with pytest.raises(PlatformRefusedError, match="attestation_type cannot be used"):
        GramineSgx(str(tmp_path))
    assert list(tmp_path.iterdir()) == []  # opening for writing creates nothing
    with pytest.raises(FileNotFoundError):
        open_device(str(tmp_path / "user_report_data"), "w")
    assert list(tmp_path.iterdir()) == []


def test_files_on_a_disk_are_read_by_the_same_code(
    tree: AttestationTree, tmp_path: Path, identity: SimIdentity
) -> None:
    """Real descriptors; plain files do not answer, so the quote is an old one."""
    names = ("attestation_type", "my_target_info", "report", "quote")
    for name in (*names, "keys/_sgx_mrenclave"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tree.open(f"{tree.root}/{name}", "r").read(1 << 20))
    for name in ("user_report_data", "target_info"):
        (tmp_path / name).write_bytes(b"")
    port = GramineSgx(str(tmp_path))
    assert port.identity().mrenclave == identity.mrenclave
    assert (tmp_path / "target_info").stat().st_size == 512
    assert port.seal_key(b"l", cpu_svn=None, isv_svn=None).isv_svn == 3
    assert len(port.quote(bytes(64))) > 1000
    with pytest.raises(PlatformAnswerError, match="other report data"):
        port.quote(b"n" * 64)
    (tmp_path / "quote").unlink()
    with pytest.raises(PlatformRefusedError, match="quote cannot be used"):
        port.quote(bytes(64))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report", b""),
        ("report", bytes(431)),
        ("report", bytes(433)),
        ("my_target_info", bytes(511)),
        ("my_target_info", bytes(513)),
        ("attestation_type", b""),
        ("attestation_type", b"epid"),
        ("attestation_type", b"d" * 100),
        ("keys/_sgx_mrenclave", b""),
        ("keys/_sgx_mrenclave", b"k" * 15),
        ("keys/_sgx_mrenclave", b"k" * 17),
        ("keys/_sgx_mrenclave", bytes(16)),
        ("quote", b""),
        ("quote", b"\xff" * 8192),
    ],
)
def test_a_file_of_another_form_is_a_typed_refusal(
    name: str, content: bytes, tree: AttestationTree
) -> None:
    def forged(path: str, mode: str) -> Any:
        file = tree.open(path, mode)
        if path == f"{tree.root}/{name}" and mode == "r":
            file._rest = content
        return file

    def use() -> None:
        port = GramineSgx(opener=forged)
        port.identity()
        port.seal_key(b"label", cpu_svn=None, isv_svn=None)
        port.quote(bytes(64))

    with pytest.raises((PlatformRefusedError, PlatformAnswerError)):
        use()


# --- sealing keys ---


def key(port: GramineSgx, label: bytes = b"label") -> bytes:
    return bytes(port.seal_key(label, cpu_svn=None, isv_svn=None).key)


def test_keys_differ_by_label_and_are_never_gramines_own(
    tree: AttestationTree,
) -> None:
    """Gramine mounts encrypted files with the raw key: it must not be ours."""
    port = under(tree)
    raw = tree.open(f"{tree.root}/keys/_sgx_mrenclave", "r").read(16)
    assert key(port) == key(under(tree))
    assert key(port) != key(port, b"other")
    assert raw not in {key(port)[:16], key(port)[16:]}
    assert len(key(port)) == 32


def test_keys_differ_by_code_machine_and_level(
    tree: AttestationTree, machine: SimMachine, vendor: bytes
) -> None:
    other = SimMachine(machine.intel, "two", entropy=system_entropy)
    before = key(under(tree))
    seen = {before}
    for where, code, isv in (
        (machine, b"other", 3),
        (machine, b"code", 4),
        (other, b"code", 3),
    ):
        moved = AttestationTree(
            where, enclave_of(where, vendor, code=code, isv_svn=isv)
        )
        seen.add(key(under(moved)))
    machine.install_microcode(bytes(n + 1 for n in machine.cpu_svn))
    seen.add(key(under(tree)))
    assert len(seen) == 5


def test_an_older_level_is_refused_by_name(
    tree: AttestationTree, machine: SimMachine
) -> None:
    """A CPU could derive it; Gramine has no way to ask."""
    port = under(tree)
    old = port.seal_key(b"l", cpu_svn=None, isv_svn=None)
    again = port.seal_key(b"l", cpu_svn=old.cpu_svn, isv_svn=old.isv_svn)
    assert again == old
    machine.install_microcode(bytes(n + 1 for n in machine.cpu_svn))
    with pytest.raises(SealingLevelError, match="current level only"):
        port.seal_key(b"l", cpu_svn=old.cpu_svn, isv_svn=old.isv_svn)
    for isv in (2, 4):
        with pytest.raises(SealingLevelError):
            port.seal_key(b"l", cpu_svn=None, isv_svn=isv)


def test_a_key_store_of_another_level_is_named_so_and_kept(
    tree: AttestationTree, machine: SimMachine
) -> None:
    root = TrustRoot(chain_id=CHAIN, height=1, header_hash=bytes(32))
    store = _new_keys(root, SHARD, system_entropy)
    port = under(tree)
    blob = seal_key_store(store, port, entropy=system_entropy)
    where = {"chain_id": CHAIN, "shard": SHARD}
    assert open_key_store(blob, port, **where) == store
    machine.install_microcode(bytes(n + 1 for n in machine.cpu_svn))
    with pytest.raises(KeyStoreLevelError, match=r"SealingLevelError.*CPUSVN"):
        open_key_store(blob, under(tree), **where)
    # altered bytes on the same level are no matter of levels
    fresh = bytearray(seal_key_store(store, port, entropy=system_entropy))
    fresh[-1] ^= 1
    with pytest.raises(KeyStoreUnreadableError) as error:
        open_key_store(bytes(fresh), port, **where)
    assert not isinstance(error.value, KeyStoreLevelError)
