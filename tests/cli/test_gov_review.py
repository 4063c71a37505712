"""Before the vote: what a bundle changes, and who would fall out."""

import datetime as dt
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from shard_world import World

from sealift.bundle import encode_bundle, parse_bundle
from sealift.cli import _bundle_source, _gov_review, _gramine_check, run_cli
from sealift.cli._application import sign_bundle
from sealift.cli._gramine_check import GramineToolError
from sealift.cli._params import run
from sealift.cli._review import compare
from sealift.client import read_card, write_card
from sealift.transport import build as build_module
from sealift.transport.bundle_folder import BundleFolderError

EXAMPLES = Path(__file__).parents[2] / "examples" / "auction"
#: However old the world is by now.
ALL = 1_000_000


@dataclass(frozen=True)
class Story:
    """A shard that runs v1, and an order for v2."""

    folder: Path
    card: Path
    v1: Path
    v2: Path
    order: Path
    boss: Path


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, vendor_pem: bytes
) -> Iterator[tuple[Path, Path, Path]]:
    """Both versions of the example, signed; wheels are left out."""
    folder = tmp_path_factory.mktemp("review")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "fetch_wheels", lambda *_: {})
        patch.setenv("SOURCE_DATE_EPOCH", "1795410000")
        key = folder / "vendor.pem"
        key.write_bytes(vendor_pem)
        key.chmod(0o600)
        run_cli(["insecure-sim", "init", str(folder / "sim")])
        run_cli(["chain", "init", str(folder / "chain"), "--sim", str(folder / "sim"),
                 "--port", "0"])  # fmt: skip
        for name in ("v1", "v2"):
            code = run_cli([
                "build", str(EXAMPLES / name), "--key", str(key),
                "--trust-root", str(folder / "chain" / "trust_root.json"),
                "--root", str(folder / "sim" / "root.der"),
                "-o", str(folder / f"{name}.bundle"),
            ])  # fmt: skip
            assert code == 0
        yield folder, folder / "v1.bundle", folder / "v2.bundle"


@pytest.fixture
def story(world: World, built: Any, boss: Path, tmp_path: Path, sealift: Any) -> Story:
    _, v1, v2 = built
    card, order = tmp_path / "card.json", tmp_path / "order.bin"
    made = sealift(
        "shard", "create", "--rpc", world.url, "--authority", boss, "--payer",
        world.key("payer"), "--bundle", v1, "--genesis", tmp_path / "g.bin",
        "--card", card,
    )  # fmt: skip
    assert made.code == 0, made
    chain = {name: getattr(world.card, name) for name in ("chain_id", "trust_root")}
    write_card(card, msgspec.structs.replace(read_card(card), **chain))
    said = sealift(
        "gov", "schedule", "--card", card, "--bundle", v2, "--bundle-url", v2,
        "--at", "+900", "--out", order,
    )  # fmt: skip
    assert said.code == 0, said
    return Story(tmp_path, card, v1, v2, order, boss)


def checks(said: Any) -> dict[str, bool]:
    return {row["check"]: row["ok"] for row in said.json["checks"]}


def test_an_upgrade_is_read_rebuilt_and_understood(
    story: Story, world: World, sealift: Any
) -> None:
    me = ("--card", story.card, "--blocks", 50)
    said = sealift(
        "gov", "review", "--order", story.order, "--against", story.v1,
        "--source", EXAMPLES / "v2", *me, "--json",
    )  # fmt: skip
    assert said.code == 0, said
    assert checks(said) == {
        "hash": True, "fingerprint": True, "signature": True, "vendor": True,
        "rebuild": True,
    }  # fmt: skip
    found = said.json
    by_path = {row["path"]: row for row in found["sources"]}
    assert by_path["app/auction/model.py"]["change"] == "added"
    assert (
        "+++ proposed/app/auction/pallet.py"
        in (by_path["app/auction/pallet.py"]["diff"])
    )
    assert any("storage_version" in row["what"] for row in found["pallets"])
    assert any(row["what"].startswith("auction.") for row in found["storage"])
    assert not found["wheels"]

    pay = ("--authority", story.boss, "--payer", world.key("payer"))
    done = sealift("gov", "submit", story.order, "--card", story.card, *pay, "--json")
    assert done.json["decided"] is True
    folder = story.folder / "bundles"
    folder.mkdir()
    (folder / "broken.bundle").write_bytes(b"PK")
    shutil.copy(story.v1, folder / "some.bundle")
    again = sealift("gov", "review", 1, *me, "--against", folder)
    assert again.code == 0, again
    assert "--- active/app/auction/pallet.py" in again.out
    assert "generation 1, pending" in again.out
    gone = sealift("gov", "review", 1, *me, "--against", story.v2, "--json")
    assert gone.code == 4
    assert gone.json["error"]["code"] == "NoActiveBundleError"
    assert "not the bundle that runs" in gone.err


def test_other_sources_are_not_those_of_the_bundle(story: Story, sealift: Any) -> None:
    said = sealift(
        "gov", "review", "--order", story.order, "--card", story.card,
        "--source", EXAMPLES / "v1", "--json",
    )  # fmt: skip
    assert said.code == 1
    assert checks(said)["rebuild"] is False


def test_bytes_that_are_not_the_orders_are_not_even_parsed(
    story: Story, sealift: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: bytes) -> None:
        raise AssertionError("parsed before its hash was compared")

    monkeypatch.setattr(_gov_review, "parse_bundle", never)
    tampered = story.folder / "t.bundle"
    tampered.write_bytes(story.v2.read_bytes() + b"\0")
    for path in (story.v1, tampered, story.card):
        said = sealift(
            "gov", "review", "--order", story.order, "--card", story.card,
            "--bundle", path, "--json",
        )  # fmt: skip
        assert said.code == 1
        assert said.json["error"]["code"] == "BundleHashError"
        assert "nothing of them was read" in said.err


def test_a_tampered_bundle_that_no_hash_binds_is_refused_by_its_fingerprint(
    story: Story, sealift: Any, vendor_pem: bytes
) -> None:
    """Same name, same vendor, another line: only --code stands in the order."""
    bundle = parse_bundle(story.v2.read_bytes())
    code = sealift("measure", story.v2).out.strip()
    order = story.folder / "code.bin"
    made = sealift(
        "gov", "schedule", "--card", story.card, "--code", f"insecure-sim={code}",
        "--at", "+900", "--out", order,
    )  # fmt: skip
    assert made.code == 0
    files = {**bundle.files, "app/auction/pallet.py": b"import os\n"}
    path = story.folder / "evil.bundle"
    path.write_bytes(encode_bundle(replace(bundle, files=files)))
    words = ("gov", "review", "--order", order, "--card", story.card, "--json")
    said = sealift(*words, "--bundle", path)
    assert said.code == 1
    assert checks(said)["fingerprint"] is False
    assert checks(said)["signature"] is False
    resigned = sign_bundle(
        replace(bundle, files=files, sigstruct=None), vendor_pem,
        date=dt.date(2026, 11, 23),
    )  # fmt: skip
    path.write_bytes(encode_bundle(resigned))
    said = sealift(*words, "--bundle", path)
    assert checks(said)["signature"] is True
    assert said.code == 1
    assert sealift(*words, "--bundle", story.v2).code == 0


def test_sources_cannot_command_the_terminal_nor_deceive_the_eye(
    story: Story, vendor_pem: bytes, sealift: Any
) -> None:
    bundle = parse_bundle(story.v2.read_bytes())
    nasty = "x = 1\x1b[2K\r # \u202efine\u202c \x9b31m\u2028y\n\tz\u200b\n"
    files = {**bundle.files, "app/auction/pallet.py": nasty.encode()}
    path = story.folder / "nasty.bundle"
    path.write_bytes(encode_bundle(sign_bundle(
        replace(bundle, files=files, sigstruct=None), vendor_pem,
        date=dt.date(2026, 11, 23),
    )))  # fmt: skip
    said = sealift(
        "gov", "review", "--bundle", path, "--card", story.card,
        "--against", story.v1,
    )  # fmt: skip
    assert said.code == 0, said
    line = next(each for each in said.out.split("\n") if each.startswith("+x = 1"))
    assert line == r"+x = 1\x1b[2K\r # \u202efine\u202c \x9b31m\u2028y"
    assert "+\tz\\u200b" in said.out
    for char in "\x1b\r\u202e\x9b\u2028\u200b":
        assert char not in said.out


def test_files_that_cannot_be_compared_by_lines_are_named(story: Story) -> None:
    bundle = parse_bundle(story.v2.read_bytes())
    files = {
        **bundle.files,
        "app/blob.dat": b"\xff\xfe",
        "app/long.py": b"\n" * 20_000,
        "app/end.py": b"x",
        "app/wheels.txt": b"",
    }
    found = {
        one.path: one for one in compare(bundle, replace(bundle, files=files)).sources
    }
    assert "not shown" in found["app/blob.dat"].lines[0]
    assert "not shown" in found["app/long.py"].lines[0]
    assert "no line feed" in found["app/end.py"].lines[-1]
    assert found["app/wheels.txt"].change == "added"
    back = compare(replace(bundle, files=files), bundle)
    assert {one.change for one in back.sources} == {"removed"}


class _Place(http.server.BaseHTTPRequestHandler):
    """What a source on the network may answer."""

    bodies: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/v2")
            self.end_headers()
            return
        body = self.bodies.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def place(story: Story) -> Iterator[str]:
    _Place.bodies = {"/v2": story.v2.read_bytes(), "/large": b"x" * 2000}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Place) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_where_an_order_may_send_its_reader(
    story: Story, place: str, sealift: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(source: object) -> Any:
        order = story.folder / "sourced.bin"
        order.unlink(missing_ok=True)
        made = sealift(
            "gov", "schedule", "--card", story.card, "--bundle", story.v2,
            "--bundle-url", source, "--at", "+900", "--out", order,
        )  # fmt: skip
        assert made.code == 0, made
        said = sealift(
            "gov", "review", "--order", order, "--card", story.card, "--json"
        )
        assert "Traceback" not in said.err
        return said

    kinds = {0: None, 1: "BundleSourceError", 3: "BundleUnreachableError",
             4: "BundleFolderError"}  # fmt: skip

    for source, code, words in (
        (f"{place}/v2", 0, ""),
        (f"file://{story.v2}", 0, ""),
        (f"{place}/none", 3, "HTTP 404"),
        (f"{place}/moved", 3, "HTTP 302"),
        ("http://127.0.0.1:9/v2", 3, "cannot be reached"),
        ("http://192.0.2.1/v2", 1, "this machine alone"),
        ("http://localhost.example/v2", 1, "this machine alone"),
        ("http://127.0.0.1@192.0.2.1/v2", 1, "this machine alone"),
        ("http://[::1/v2", 1, "this machine alone"),
        ("ftp://127.0.0.1/v2", 1, "not a source"),
        ("/dev/zero", 4, "not a file"),
        (story.folder, 4, "directory"),
        ("a\x1bb", 4, "a\\x1bb"),
        ("", 1, "does not say where"),
    ):
        said = look(source)
        assert said.code == code, (source, said)
        assert words in said.err, (source, said)
        assert "\x1b" not in said.err
        assert said.json.get("error", {}).get("code") == kinds[code]
    monkeypatch.setattr(_bundle_source, "MAX_BUNDLE_BYTES", 1000)
    for source in (f"{place}/large", str(story.v2)):
        with pytest.raises(BundleFolderError, match="too large"):
            run(_bundle_source.fetch_bundle(source))


def test_what_cannot_be_reviewed(story: Story, sealift: Any) -> None:
    me = ("--card", story.card)
    cancel = story.folder / "cancel.bin"
    sealift("gov", "cancel", 1, *me, "--out", cancel)
    for words, code, sentence in (
        ((), 2, "Review what"),
        ((1, "--order", story.order), 2, "one"),
        ((7,), 1, "no such generation"),
        (("ab" * 32,), 1, "no such order"),
        (("ab" * 32, "--json"), 1, "no such order"),
        (("--order", cancel), 1, "no code"),
        (("--order", story.folder / "none"), 4, "missing"),
        (("--bundle", story.folder / "none"), 4, "cannot be read"),
        (("--bundle", story.card), 1, ""),
    ):
        said = sealift("gov", "review", *words, *me)
        assert said.code == code, (words, said)
        assert sentence in said.err
        if "--json" in words:
            assert said.json["error"]["code"] == "NothingToReviewError"


# --- who falls out ---


def test_who_would_fall_out_and_why(world: World, tmp_path: Path, sealift: Any) -> None:
    card = tmp_path / "card.json"
    write_card(card, world.card)
    me = ("gov", "forecast", "--card", card, "--blocks", ALL, "--json")
    calm = sealift(*me).json
    assert (calm["instances"], calm["stay"], calm["fall_out"]) == (1, 1, 0)
    assert calm["forecast"][0]["runs_that_code"] is True
    assert calm["quorums_missed"] == ["effects_quorum 2"]
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"accepted_tcb_statuses": ["SWHardeningNeeded"]}))
    for words, reason in (
        (("--policy", policy), "UpToDate"),
        (("--min-isv-svn", 9), "ISV_SVN"),
        (("--not-before", "+0"), "attested"),
        (("--min-tcb-evaluation", 99), "evaluation"),
    ):
        said = sealift(*me, *words)
        assert said.code == 0, said
        (row,) = said.json["forecast"]
        assert row["stays"] is False, words
        assert reason in row["why_not"], row
    assert "forecast:" in sealift(*me[:-1]).out


def test_a_machine_is_judged_as_if_it_ran_the_new_code(
    world: World, tiny_bundle: Path, tmp_path: Path, sealift: Any
) -> None:
    card = tmp_path / "card.json"
    write_card(card, world.card)
    me = (
        "gov", "forecast", "--card", card, "--blocks", ALL, "--bundle", tiny_bundle,
        "--json",
    )  # fmt: skip
    (row,) = sealift(*me).json["forecast"]
    assert row["stays"] is True
    assert row["runs_that_code"] is False
    (row,) = sealift(*me, "--min-isv-svn", 3).json["forecast"]
    assert row["stays"] is False  # the bundle's own version is 2


# --- a fingerprint under Gramine ---


def tool(folder: Path, name: str, program: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)


MANIFEST_TOOL = """
import sys, pathlib
pathlib.Path(sys.argv[2]).write_text(pathlib.Path(sys.argv[1]).read_text() + "#{salt}")
"""
SIGN_TOOL = """
import sys, pathlib
sys.path.insert(0, {src!r})
import datetime as dt
from sealift.bundle import make_tbs, measure, sign_sigstruct
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
text = pathlib.Path(words["--manifest"]).read_bytes()
pathlib.Path(words["--output"]).write_bytes(text)
measured = measure({{"m": text}})
date = dt.date.fromisoformat(words["--date"])
tbs = make_tbs(measured, isv_prod_id=1, isv_svn=1, date=date)
pathlib.Path("sealift.sig").write_bytes(
    sign_sigstruct(tbs, pathlib.Path(words["--key"]).read_bytes()))
"""


@pytest.fixture
def gramine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs with the names of Gramine's, which measure the manifest alone."""
    folder = tmp_path / "tools"
    folder.mkdir()
    src = str(Path(__file__).parents[2] / "src")
    tool(folder, "gramine-manifest", MANIFEST_TOOL.format(salt="1.9"))
    tool(folder, "gramine-sgx-sign", SIGN_TOOL.format(src=src))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def order_for_both(story: Story, code: bytes, sealift: Any) -> Path:
    out = story.folder / "both.bin"
    out.unlink(missing_ok=True)
    said = sealift(
        "gov", "schedule", "--card", story.card, "--bundle", story.v2, "--at", "+900",
        "--code", f"gramine-sgx={code.hex()}", "--out", out,
    )  # fmt: skip
    assert said.code == 0, said
    return out


def reviewed(story: Story, order: Path, sealift: Any, *more: str) -> Any:
    return sealift(
        "gov", "review", "--order", order, "--bundle", story.v2, "--card", story.card,
        *more, "--json",
    )  # fmt: skip


def row(said: Any) -> dict[str, Any]:
    return next(r for r in said.json["checks"] if "gramine-sgx" in r["check"])


def test_a_gramine_fingerprint_is_recomputed_where_gramine_is(
    story: Story, gramine: Path, sealift: Any
) -> None:
    bundle = parse_bundle(story.v2.read_bytes())
    right = _gramine_check.recompute_fingerprint(bundle)
    said = reviewed(story, order_for_both(story, right, sealift), sealift)
    assert (said.code, row(said)["ok"]) == (0, True)
    assert "recomputed" in row(said)["detail"]
    # another bundle behind the same words, or another Gramine
    said = reviewed(story, order_for_both(story, b"x" * 32, sealift), sealift)
    assert (said.code, row(said)["ok"]) == (1, False)
    assert "another bundle, or other versions" in row(said)["detail"]
    tool(gramine, "gramine-manifest", MANIFEST_TOOL.format(salt="2.0"))
    order = order_for_both(story, right, sealift)
    assert reviewed(story, order, sealift).code == 1
    # what can be recomputed is, whatever is said to be believed
    assert reviewed(story, order, sealift, "--unchecked", "gramine-sgx").code == 1


def test_without_gramine_a_review_says_that_it_checked_nothing(
    story: Story, sealift: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A review that passed over it would wave any code through on hardware."""
    monkeypatch.setenv("PATH", str(tmp_path))
    order = order_for_both(story, b"x" * 32, sealift)
    said = reviewed(story, order, sealift)
    assert (said.code, row(said)["ok"]) == (1, False)
    assert "NOT recomputed" in row(said)["detail"]
    said = reviewed(story, order, sealift, "--unchecked", "gramine-sgx")
    assert (said.code, row(said)["ok"]) == (0, True)
    assert "NOT recomputed" in row(said)["detail"]


@pytest.mark.parametrize("name", ["gramine-manifest", "gramine-sgx-sign"])
def test_a_tool_of_gramines_that_fails_is_told(
    name: str, story: Story, gramine: Path, sealift: Any
) -> None:
    tool(gramine, name, "import sys; sys.exit('no such libpal')")
    said = reviewed(story, order_for_both(story, b"x" * 32, sealift), sealift)
    assert said.code == 1
    assert f"{name} failed" in row(said)["detail"]
    assert "no such libpal" in row(said)["detail"]
    with pytest.raises(GramineToolError):
        _gramine_check.recompute_fingerprint(parse_bundle(story.v2.read_bytes()))
