"""The field numbers that we declare are those of CometBFT's own ``.proto`` files."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sealift.node.abci._proto import SCHEMA

pytestmark = [pytest.mark.cometbft, pytest.mark.timeout(1800)]
FIELD = re.compile(
    r"^\s*(repeated\s+)?([\w.]+)\s+(\w+)\s*=\s*(\d+)\s*[;\[]", re.MULTILINE
)
FILES = ("abci/types", "types/params", "crypto/proof", "crypto/keys")


def declared(folder: Path) -> dict[str, dict[str, tuple[int, str]]]:
    found = {}
    for name in FILES:
        text = (folder / "proto" / "tendermint" / f"{name}.proto").read_text()
        text = re.sub(r"//.*", "", text)
        text = text.replace("{}", "{\n}")
        # enumerations first: they stand inside of messages too
        text = re.sub(r"\benum\s+\w+\s*\{[^}]*\}", "", text)
        text = re.sub(r"\boneof\s+\w+\s*\{([^}]*)\}", r"\1", text)
        for message, body in re.findall(
            r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL
        ):
            found[message] = {
                field: (int(number), ("*" if repeated else "") + shorten(kind))
                for repeated, kind, field, number in FIELD.findall(body)
            }
    return found


def shorten(kind: str) -> str:
    last = kind.rsplit(".", 1)[-1]
    enumeration = {"CheckTxType", "Result", "ProposalStatus", "VerifyStatus"}
    enumeration |= {"BlockIDFlag", "MisbehaviorType"}
    return "int32" if last in enumeration else last


def test_schema_is_upstreams(program: Callable[[str], str]) -> None:
    go = program("go")
    module = "github.com/cometbft/cometbft@v0.38.25"
    fetched = subprocess.run(
        [go, "mod", "download", "-json", module],
        capture_output=True,
        text=True,
        check=True,
    )
    upstream = declared(Path(json.loads(fetched.stdout)["Dir"]))
    well_known = {"Timestamp", "Duration"}
    assert set(SCHEMA) - well_known <= set(upstream)
    for message, fields in SCHEMA.items():
        if message not in well_known:
            assert fields == upstream[message], message
    # nothing that an engine may ask is forgotten
    assert set(SCHEMA["Request"]) == set(upstream["Request"])
