"""Homes: made whole or not at all, never over another; files that were changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from node_kv import KvApplication

from sealift.base import ChainId, Height, SealiftError
from sealift.crypto import account_of, sha256
from sealift.node import (
    ChainStoreError,
    ConfigInvalidError,
    ForeignChainError,
    HomeNotEmptyError,
    SoloConfig,
    SoloHome,
    WrongValidatorError,
    init_solo,
)
from sealift.relay import Timestamp, TrustRoot, header_hash
from sealift.transport.files import (
    DiskFullError,
    ExposedKeyError,
    MissingFileError,
    UnreadableFileError,
)
from sealift.transport.keys import read_account_key, write_validator_key

START = Timestamp(seconds=1_700_000_000)


def init(home: Path, **changed: object) -> TrustRoot:
    options: dict[str, object] = {
        "chain_id": ChainId("home-test"),
        "genesis_time": START,
        "accounts": {"faucet": None, "sudo": bytes(32)},
        "app_state": lambda keys: json.dumps(
            {name: key.hex() for name, key in keys.items()}
        ).encode(),
        "application": KvApplication(),
        "entropy": lambda n: sha256(b"home")[:n],
    }
    return init_solo(home, **(options | changed))  # type: ignore[arg-type]


def test_home_has_keys_genesis_and_a_trust_root_in_block_one(tmp_path: Path) -> None:
    root = init(
        tmp_path / "deep" / "home", config=SoloConfig(block_ms=5, moniker='a"b')
    )
    home = SoloHome(tmp_path / "deep" / "home")
    assert home.read_trust_root() == root
    chain = home.open_chain(KvApplication())
    first = chain.store.block(Height(1)).block.header
    assert (root.height, root.header_hash) == (1, header_hash(first))
    assert first.time == START
    faucet = account_of(read_account_key(home.account_key("faucet")))
    assert chain.read_state(b"faucet", height=None, prove=False).value == (
        faucet.hex().encode()
    )
    assert read_account_key(home.account_key("sudo")) == bytes(32)
    chain.close()
    for secret in (home.validator_key, home.account_key("faucet")):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert home.read_config() == SoloConfig(block_ms=5, moniker='a"b')
    doc = json.loads(home.genesis.read_bytes())
    assert doc["chain_id"] == "home-test"
    assert doc["app_state"]["sudo"] == account_of(bytes(32)).hex()
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["home"]


def test_same_inputs_make_the_same_trust_root(tmp_path: Path) -> None:
    assert init(tmp_path / "one") == init(tmp_path / "two")


def test_empty_folder_is_taken_and_anything_else_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    init(empty)
    before = SoloHome(empty).validator_key.read_bytes()
    for folder in (empty, SoloHome(empty).genesis):
        with pytest.raises(HomeNotEmptyError):
            init(folder)
    assert SoloHome(empty).validator_key.read_bytes() == before


def test_failed_init_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = KvApplication()

    def refuse(_: object) -> None:
        raise DiskFullError("no space")

    monkeypatch.setattr(application, "init_chain", refuse)
    with pytest.raises(DiskFullError):
        init(tmp_path / "home", application=application)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("genesis", None, MissingFileError),
        ("genesis", b"{", ConfigInvalidError),
        ("genesis", b"[]", ConfigInvalidError),
        ("genesis", b'{"chain_id": 3}', ConfigInvalidError),
        ("genesis", b"[" * 100_000, ConfigInvalidError),
        ("validator_key", None, MissingFileError),
        ("validator_key", b"{}", UnreadableFileError),
        ("database", None, ChainStoreError),
        ("database", b"", ChainStoreError),
    ],
)
def test_home_with_a_broken_file_does_not_start_and_keeps_it(
    tmp_path: Path, name: str, content: bytes | None, error: type[SealiftError]
) -> None:
    init(tmp_path / "home")
    home = SoloHome(tmp_path / "home")
    path: Path = getattr(home, name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(error):
        home.open_chain(KvApplication())
    assert path.exists() is (content is not None)
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"block_ms = -1",
        b"block_ms = 'soon'",
        b"port = 70000",
        b"unknown = 1",
        b"not toml",
        b"port = " + b"[" * 100_000,
        b"\xff",
    ],
)
def test_configuration_that_is_not_known_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    home = SoloHome(tmp_path)
    with pytest.raises(MissingFileError):
        home.read_config()
    home.config.write_bytes(content)
    with pytest.raises(ConfigInvalidError):
        home.read_config()


@pytest.mark.parametrize(
    "change", [{"header_hash": "zz"}, {"header_hash": "00"}, {"height": -1}]
)
def test_trust_root_that_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    init(tmp_path / "home")
    path = SoloHome(tmp_path / "home").trust_root
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigInvalidError):
        SoloHome(tmp_path / "home").read_trust_root()


def replace_key(home: SoloHome) -> None:
    home.validator_key.unlink()
    write_validator_key(home.validator_key, bytes(32))


def replace_genesis(home: SoloHome) -> None:
    doc = json.loads(home.genesis.read_text())
    doc["app_state"]["sudo"] = "another"
    home.genesis.write_text(json.dumps(doc))


def expose_key(home: SoloHome) -> None:
    home.validator_key.chmod(0o644)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (replace_key, WrongValidatorError),
        (replace_genesis, ForeignChainError),
        (expose_key, ExposedKeyError),
    ],
)
def test_home_with_an_exchanged_file_does_not_start(
    tmp_path: Path, change: Callable[[SoloHome], None], error: type[SealiftError]
) -> None:
    init(tmp_path / "home")
    home = SoloHome(tmp_path / "home")
    change(home)
    with pytest.raises(error):
        home.open_chain(KvApplication())
