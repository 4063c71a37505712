"""The key of a validator, however it is written; what is none is told in words."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

KEY = bytes(range(32))
DEAD = "http://127.0.0.1:9"


def key_file(path: Path, **changed: object) -> Path:
    found = {
        "type": "tendermint/PubKeyEd25519",
        "value": base64.b64encode(KEY).decode(),
    } | changed
    path.write_text(json.dumps({"address": "00", "pub_key": found, "priv_key": "x"}))
    return path


@pytest.mark.parametrize("form", ["hex", "0x", "base64", "file"])
def test_a_key_is_taken_in_every_form_that_cometbft_writes(
    form: str, tmp_path: Path, sealift: Any
) -> None:
    words = {
        "hex": KEY.hex(),
        "0x": "0x" + KEY.hex(),
        "base64": base64.b64encode(KEY).decode(),
        "file": key_file(tmp_path / "priv_validator_key.json"),
    }
    account = tmp_path / "sudo.json"
    sealift("client", "new-account", account)
    said = sealift(
        "chain", "set-validator", words[form], 3, "--key", account, "--rpc", DEAD
    )
    assert said.code == 3, said  # read; only the node is not there


@pytest.mark.parametrize(
    "wrong",
    ["", "nonsense", "ab" * 31, "QUJD", "\u00e9", "other-type", "short", "no-json"],
)
def test_what_is_no_ed25519_key_is_wrong_usage(
    wrong: str, tmp_path: Path, sealift: Any
) -> None:
    if wrong == "other-type":
        wrong = str(key_file(tmp_path / "k", type="tendermint/PubKeySecp256k1"))
    elif wrong == "short":
        wrong = str(key_file(tmp_path / "k", value="QUJD"))
    elif wrong == "no-json":
        (tmp_path / "k").write_bytes(b"\xff")
        wrong = str(tmp_path / "k")
    account = tmp_path / "sudo.json"
    sealift("client", "new-account", account)
    said = sealift("chain", "set-validator", wrong, 3, "--key", account)
    assert said.code == 2
    assert "Ed25519 public key" in said.err + said.out
    said = sealift("chain", "set-validator", KEY.hex(), -1, "--key", account)
    assert said.code == 2


def test_a_node_that_is_not_there_is_told(sealift: Any) -> None:
    assert sealift("chain", "validators", "--rpc", DEAD).code == 3
