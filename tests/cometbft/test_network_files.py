"""Homes of CometBFT nodes: what is written, and what is refused."""

import json
import socket
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from sealift.base import ChainId
from sealift.crypto import account_of, sha256, system_entropy
from sealift.node import ConfigInvalidError, HomeNotEmptyError
from sealift.node.cometbft import (
    CometHome,
    NodeKeys,
    NodePlan,
    NodePortError,
    free_ports,
    make_network,
    node_id,
    require_free,
    rpc_url,
)
from sealift.relay import ConsensusParams
from sealift.transport.clock import WallClock
from sealift.transport.files import (
    ExposedKeyError,
    MissingFileError,
    UnreadableFileError,
)
from sealift.transport.keys import read_node_key, read_validator_key, write_node_key

PLANS = [
    NodePlan(name=f"val{n}", rpc_port=20_100 + n, p2p_port=20_200 + n) for n in range(4)
]


def make(folder: Path) -> tuple[CometHome, ...]:
    return make_network(
        folder,
        PLANS,
        chain_id=ChainId("net"),
        genesis_time=WallClock().now(),
        consensus_params=ConsensusParams(app_version=1),
        app_state=b"{}",
        block_ms=700,
        entropy=system_entropy,
    )


def test_all_nodes_share_a_genesis_and_dial_all_others(tmp_path: Path) -> None:
    homes = make(tmp_path)
    assert len({home.genesis.read_bytes() for home in homes}) == 1
    genesis = homes[0].read_genesis()
    keys = {account_of(read_validator_key(home.validator_key)) for home in homes}
    assert {one.public_key for one in genesis.validators.validators} == keys
    assert len(keys) == 4
    ids = [node_id(read_node_key(home.node_key)) for home in homes]
    assert len(set(ids)) == 4
    for number, home in enumerate(homes):
        config = tomllib.loads(home.config.read_text())
        assert config["consensus"]["timeout_commit"] == "700ms"
        assert rpc_url(home) == f"http://127.0.0.1:{20_100 + number}"
        others = config["p2p"]["persistent_peers"].split(",")
        assert others == [
            f"{ids[n]}@127.0.0.1:{20_200 + n}" for n in range(4) if n != number
        ]
        # several nodes at one address, results kept (facts/cometbft.md §6)
        assert config["p2p"]["allow_duplicate_ip"] is True
        assert config["p2p"]["addr_book_strict"] is False
        assert config["storage"]["discard_abci_responses"] is False


def test_secrets_are_private_and_ids_are_cometbfts(tmp_path: Path) -> None:
    (home, *_) = make(tmp_path)
    for path in (home.validator_key, home.node_key, home.signed):
        assert path.stat().st_mode & 0o077 == 0
    secret = read_node_key(home.node_key)
    assert node_id(secret) == sha256(account_of(secret)).hex()[:40]
    home.node_key.chmod(0o644)
    with pytest.raises(ExposedKeyError):
        read_node_key(home.node_key)


def test_a_home_is_never_made_over_another(tmp_path: Path) -> None:
    homes = make(tmp_path)
    before = [path.read_bytes() for path in all_files(homes)]
    with pytest.raises(HomeNotEmptyError):
        make(tmp_path)
    assert [path.read_bytes() for path in all_files(homes)] == before


def all_files(homes: tuple[CometHome, ...]) -> list[Path]:
    found = chain.from_iterable(home.root.rglob("*") for home in homes)
    return sorted(path for path in found if path.is_file())


@pytest.mark.parametrize(
    "value",
    [
        {"priv_key": {"type": "other", "value": ""}},
        {"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": "AAAA"}},
        {
            "priv_key": {
                "type": "tendermint/PrivKeyEd25519",
                "value": "AA" * 42 + "AA==",
            }
        },
        {"priv_key": 1},
        [],
    ],
)
def test_a_node_key_that_is_none_is_kept(tmp_path: Path, value: object) -> None:
    path = tmp_path / "node_key.json"
    path.write_text(json.dumps(value))
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(UnreadableFileError):
        read_node_key(path)
    assert path.read_bytes() == before


def test_a_node_key_is_read_back(tmp_path: Path) -> None:
    keys = NodeKeys.fresh(system_entropy)
    write_node_key(tmp_path / "k", keys.node)
    assert node_id(read_node_key(tmp_path / "k")) == keys.node_id


@pytest.mark.parametrize(
    "text",
    [
        "not toml ][",
        "",
        "rpc = 3",
        "[rpc]\nladdr = 7",
        '[rpc]\nladdr = "tcp://127.0.0.1:0"',
        '[rpc]\nladdr = "unix:///s"',
        '[rpc]\nladdr = "tcp://127.0.0.1:99999999"',
    ],
)
def test_a_configuration_without_a_fixed_rpc_is_refused(
    tmp_path: Path, text: str
) -> None:
    (home, *_) = make(tmp_path)
    home.config.write_text(text)
    with pytest.raises(ConfigInvalidError):
        rpc_url(home)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="sealift node init"):
        rpc_url(CometHome(tmp_path))


def test_a_genesis_that_is_none(tmp_path: Path) -> None:
    (home, *_) = make(tmp_path)
    home.genesis.write_text('{"chain_id": 7}')
    with pytest.raises(ConfigInvalidError, match="genesis"):
        home.read_genesis()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NodePortError, match=f"127.0.0.1:{port} is taken"):
            require_free(port, what="the RPC of val0")
    require_free(port, what="the RPC of val0")
    assert not list(tmp_path.iterdir())


def test_free_ports_differ_and_run_out() -> None:
    found = free_ports(20, entropy=system_entropy)
    assert len(set(found)) == 20
    assert all(20_000 <= port < 32_000 for port in found)
    with pytest.raises(NodePortError, match="no free ports"):
        free_ports(2, entropy=bytes)  # always the same wish


def test_a_long_path_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    with CometHome(Path("/tmp/x")).socket() as near:
        assert near == Path("/tmp/x/abci.sock")
    with CometHome(tmp_path / ("long" * 40)).socket() as far:
        assert len(str(far)) < 100
        assert far.parent.stat().st_mode & 0o077 == 0
    assert not far.parent.exists()
