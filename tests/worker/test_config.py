"""worker.toml: what is missing, unreadable or wrong is refused by name."""

import tomllib
from pathlib import Path

import pytest
from doubles import SHARD
from hypothesis import given, settings
from hypothesis import strategies as st

from sealift.worker import CONFIG_FILE, TEMPLATE, ConfigError, load_config
from sealift.worker._config import ApiSection, L1Section

RIGHT = TEMPLATE.format(
    rpc="http://127.0.0.1:26657",
    shard=SHARD.hex(),
    genesis="genesis.bin",
    bundle="../app.bundle",
    sim="/sim",
    machine="alpha",
    port=0,
    upstream="",
)


def home_with(folder: Path, text: str | bytes) -> Path:
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / CONFIG_FILE).write_bytes(raw)
    return folder


def test_the_template_is_read_and_paths_are_relative_to_the_home(
    tmp_path: Path,
) -> None:
    config = load_config(home_with(tmp_path, RIGHT))
    assert config.shard == SHARD
    assert config.genesis == tmp_path / "genesis.bin"
    assert config.bundle == tmp_path / "../app.bundle"
    assert config.sim == Path("/sim")
    assert config.memory_limit == 0
    assert (config.api.host, config.api.port) == ("127.0.0.1", 0)
    assert config.snapshot_every == 2000


def test_the_template_names_everything_that_can_be_set() -> None:
    text = tomllib.loads(RIGHT)
    for name, section in (("api", ApiSection), ("l1", L1Section)):
        assert set(text[name]) == set(section.__struct_fields__)


def test_the_template_carries_as_an_older_file_without_the_names_does(
    tmp_path: Path,
) -> None:
    written = load_config(home_with(tmp_path, RIGHT)).api.terms
    lines = RIGHT.splitlines()
    older = "\n".join(line for line in lines if not line.startswith("carry"))
    assert load_config(home_with(tmp_path, older)).api.terms == written
    off = RIGHT.replace("carry = true", "carry = false")
    assert not load_config(home_with(tmp_path, off)).api.terms.carry


def test_without_a_genesis_there_is_none(tmp_path: Path) -> None:
    text = RIGHT.replace('genesis = "genesis.bin"', 'genesis = ""')
    assert load_config(home_with(tmp_path, text)).genesis is None


def test_a_memory_limit_is_in_mebibytes(tmp_path: Path) -> None:
    text = RIGHT.replace("memory_limit = 0", "memory_limit = 3")
    assert load_config(home_with(tmp_path, text)).memory_limit == 3 * 1024 * 1024


def test_no_file_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_config(tmp_path)
    assert "worker init" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[l1]", "[l1"),
        ("port = 0", "port = 70000"),
        ("port = 0", 'port = "0"'),
        ("memory_limit = 0", "memory_limit = -1"),
        ("carry = true", "carry = 1"),
        ("carry_reserve = 1000000", "carry_reserve = -1"),
        ("carry_per_minute = 1200", "carry_per_minute = 0"),
        ("carry_per_address = 300", "carry_per_address = 0"),
        ("every = 2000", "every = 0"),
        ('platform = "insecure-sim"', 'platform = "sgx"'),
        (SHARD.hex(), "zz"),
        (SHARD.hex(), "00"),
        ("[upstream]", "[upsteam]"),
        ("every = 2000", "every = 2000\nskip_checks = true"),
        ('rpc = "http://127.0.0.1:26657"', ""),
        ("every = 2000", "every = " + "[" * 5000),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, old: str, new: str) -> None:
    assert old in RIGHT
    with pytest.raises(ConfigError, match="is wrong"):
        load_config(home_with(tmp_path, RIGHT.replace(old, new)))


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_refused(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(ConfigError):
        load_config(home_with(tmp_path_factory.mktemp("home"), raw))
