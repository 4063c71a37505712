"""What a page names exists in the code, and its numbers are the code's."""

import ast
import asyncio
import inspect
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client.parser import text_string_to_metric_families

import sealift
from sealift.base import ChainId, ShardId
from sealift.crypto import system_entropy
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.ledger import DcapVerifier
from sealift.node import LedgerApplication, SoloHome
from sealift.node.abci import run_abci
from sealift.node.cometbft import CometHome, NodePlan, make_network
from sealift.relay import ConsensusParams
from sealift.transport.clock import WallClock
from sealift.worker import CONFIG_FILE, _api, load_config
from sealift.worker._metrics import InstanceMetrics, Metrics, Reading

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "sealift"
DOCS = ROOT / "docs"
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*.md")})
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

CODE = re.compile(r"`([\w/]+\.py)(?:: (\w+))?`")
ERROR = re.compile(r"`(\w+Error)`")
STEP = re.compile(r"^(\d+)\. ", re.MULTILINE)
CITED = re.compile(r"DESIGN (§\d[\d.]*(?:[-,]? ?(?:§?\d[\d.]*))*)")
FACT = re.compile(r"facts/(\w+)(?:\.md)?[,)]? ?\n?\s*(§[\d.]*\d)?")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def sources() -> list[Path]:
    return [path for path in SRC.rglob("*.py") if "_data" not in path.parts]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def defined(path: Path) -> frozenset[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(n.name for n in ast.walk(tree_of(path)) if isinstance(n, kinds))


@cache
def error_classes() -> frozenset[str]:
    return frozenset(
        node.name
        for path in [*sources(), *ROOT.glob("examples/**/*.py")]
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    )


@pytest.mark.parametrize("page", NAMES)
def test_files_and_functions_that_a_page_names_exist(page: str) -> None:
    for file, name in CODE.findall(read(page)):
        found = next((at / file for at in (SRC, ROOT) if (at / file).is_file()), None)
        if found is None and "/" not in file:
            continue  # a file of the reader's own, such as boot.py in a bundle
        assert found is not None, file
        assert not name or name in defined(found), f"{file}: {name}"


@pytest.mark.parametrize("page", NAMES)
def test_errors_that_a_page_names_exist(page: str) -> None:
    builtin = {"MemoryError", "RecursionError"}
    code = re.sub(r"^```python.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    assert {*ERROR.findall(code)} <= error_classes() | builtin


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next."""
    parts = re.split(r"^#+ (.+)$", read(page), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return found[heading]


def steps_on(text: str) -> list[int]:
    return [int(number) for number in STEP.findall(text)]


def docstring(file: str, name: str) -> str:
    for node in ast.walk(tree_of(SRC / file)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return inspect.cleandoc(ast.get_docstring(node) or "")
    raise AssertionError(f"no {name} in {file}")


NUMBERED = [
    ("attestation.md", "A quote", "attestation/_verify.py", "verify_evidence"),
    (
        "attestation.md",
        "A registration on L1",
        "ledger/_teerex.py",
        "register_sgx_enclave",
    ),
    ("relay.md", "A header", "relay/_verify.py", "verify_adjacent"),
    ("schedule.md", "Orders", "ledger/_orders.py", "verify_order"),
    (
        "schedule.md",
        "The beginning of a block",
        "ledger/_bridge_schedule.py",
        "on_initialize",
    ),
    ("evidence.md", "What is verified", "evidence/_verify.py", "verify_evidence"),
    ("calls.md", "What becomes of it", "stf/_opening.py", "open_and_verify"),
    ("calls.md", "Getters", "enclave/_reads.py", "ask"),
    (
        "effects.md",
        "A word on a block's effects",
        "ledger/_bridge_effects.py",
        "post_effects",
    ),
    ("keys.md", "Staging on L1", "ledger/_bridge_keys.py", "stage_keys"),
]


@pytest.mark.parametrize(
    ("page", "heading", "file", "name"),
    NUMBERED,
    ids=[f"{n[0]} {n[3]}" for n in NUMBERED],
)
def test_a_page_and_a_docstring_count_alike(
    page: str, heading: str, file: str, name: str
) -> None:
    """As many steps, in order, on both sides."""
    there = steps_on(section(f"docs/protocols/{page}", heading))
    before_raises = docstring(file, name).split("Raises:")[0]
    here = [int(n) for n in re.findall(r"(?:^|\s)(\d)\. (?=\S)", before_raises)]
    assert there == list(range(1, len(there) + 1))
    assert here == there


def test_the_steps_of_a_block_are_those_of_the_enclave() -> None:
    page = steps_on(read("docs/protocols/block.md"))
    assert page == list(range(1, 10))
    follow = docstring("enclave/_follow.py", "import_block").split("Raises:")[0]
    execute = docstring("enclave/_execute.py", "execute").split("Raises:")[0]
    numbers = re.findall(r"^(\d)\. ", follow + "\n" + execute, re.MULTILINE)
    assert [int(n) for n in numbers] == [1, 2, 3, 4, 4, 5, 6]


def test_the_handover_has_nine_steps() -> None:
    assert steps_on(read("docs/protocols/handover.md")) == list(range(1, 10))


def sections_map() -> dict[str, list[str]]:
    """From a section's number to the pages that the map gives for it."""
    text = read("docs/protocols/README.md")
    rows = re.findall(r"^\| `§([\d.]+)` [^|]*\|(.+)\|$", text, re.MULTILINE)
    return {number: re.findall(r"\]\(([^)#]+)", links) for number, links in rows}


def cited_sections() -> dict[str, str]:
    """Every section of the design that a source cites, and where."""
    found = {}
    for path in sources():
        for group in CITED.findall(path.read_text(encoding="utf-8")):
            for number in re.findall(r"§(\d+(?:\.\d+)?)", group):
                found[number] = str(path.relative_to(ROOT))
    return found


@pytest.mark.parametrize("number", sorted(cited_sections()))
def test_a_cited_section_of_the_design_is_described(number: str) -> None:
    """A section has a page; a step has its number on that page."""
    pages = sections_map()
    if number in pages:
        assert pages[number]
        return
    whole, _, step = number.partition(".")
    assert whole in pages, f"{cited_sections()[number]} cites §{number}"
    if step:
        numbers = [
            n
            for link in pages[whole]
            for n in steps_on((DOCS / "protocols" / link).read_text(encoding="utf-8"))
        ]
        assert int(step) in numbers, f"{cited_sections()[number]} cites §{number}"


def test_every_cited_fact_is_told() -> None:
    page = read("docs/facts.md")
    told: dict[str, str] = {}
    for part in page.split("\n## facts/")[1:]:
        told[part.split("\n", 1)[0].strip()] = part
    cited = [
        (topic, number, path)
        for path in sources()
        for topic, number in FACT.findall(path.read_text(encoding="utf-8"))
    ]
    assert cited
    for topic, number, path in cited:
        assert topic in told, f"{path} cites facts/{topic}"
        if number:
            top = re.match(r"§\d+(\.\d+)?", number)
            assert top is not None
            known = re.findall(r"^\| (§[\d.]+) \|", told[topic], re.MULTILINE)
            near = {number, number.split(".")[0]}
            assert near & set(known), f"{path} cites facts/{topic} {number}"


@pytest.mark.parametrize(
    "page", sorted(p.name for p in (DOCS / "adr").glob("[0-9]*.md"))
)
def test_a_decision_has_its_four_parts_and_stands_in_the_index(page: str) -> None:
    text = read(f"docs/adr/{page}")
    parts = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Consequences", "Alternatives"]
    assert text.startswith(f"# {page[:4]} ")
    assert f"[{page[:4]}]({page})" in read("docs/adr/README.md")


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(p.name[:4]) for p in sorted((DOCS / "adr").glob("[0-9]*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_glossary_is_sorted_and_has_each_word_once() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \|$", read("docs/glossary.md"), re.MULTILINE)
    words = [re.sub(r"[^a-z0-9 ]", "", row.lower()) for row in rows[1:]]
    assert words == sorted(words)
    assert len(set(words)) == len(words)


def test_the_list_of_packages_is_true() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ", read("docs/contributing.md"), re.MULTILINE)
    folders = {
        path.parent.name
        for path in SRC.glob("*/__init__.py")
        if path.parent.name != "_data"
    }
    assert sorted(rows) == sorted(folders)
    assert f'__version__ = "{sealift.__version__}"' in (SRC / "__init__.py").read_text(
        encoding="utf-8"
    )


async def _reading() -> Reading:
    return Reading(
        l1_height=9,
        imported_height=7,
        state_height=None,
        blocks_to_upgrade=3,
        instances_with_keys=1,
        attestation_age_blocks=2,
        operator_funds=5,
        calls_executed=4,
        state_bytes=6,
        halted=False,
        fingerprint="ab",
        version="1.0.0",
    )


class _Row:
    fingerprint = "ab"
    role = "current"
    state_height = 5
    lag = 0


def test_the_table_of_metrics_is_what_a_worker_shows() -> None:
    shown = asyncio.run(Metrics("00" * 32, _reading).render()).decode()
    shown += InstanceMetrics("00" * 32).render([_Row()], switches=0).decode()
    names = {
        sample.name
        for family in text_string_to_metric_families(shown)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    page = read("docs/operations.md")
    table = re.findall(r"^\| `(sealift_\w+)` \|", page, re.MULTILINE)
    assert sorted(table) == sorted(names)


def test_the_files_of_a_workers_home_are_told(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(
        '[l1]\nrpc = "http://127.0.0.1:1"\n'
        f'[shard]\nid = "{ShardId(bytes(32)).hex()}"\n'
        '[enclave]\nplatform = "insecure-sim"\nbundle = "b"\n'
        'sim = "s"\nmachine = "m"\n',
        encoding="utf-8",
    )
    config = load_config(tmp_path)
    text = section("docs/files.md", "A worker's home")
    for path in (config.operator_key, config.key_store, config.database):
        assert f"`{path.name}`" in text
    assert f"`{config.unpacked.name}/`" in text
    assert f"`{CONFIG_FILE}`" in text


def test_the_files_of_a_chains_home_are_told(tmp_path: Path) -> None:
    home = SoloHome(tmp_path)
    text = section("docs/files.md", "A solo chain's home")
    files = (home.genesis, home.validator_key, home.config, home.trust_root)
    for path in (*files, home.database, home.lock):
        assert f"`{path.relative_to(tmp_path)}`" in text
    assert home.account_key("x").relative_to(tmp_path) == Path("keys/x.json")


def test_the_files_of_a_cometbft_node_are_told() -> None:
    text = section("docs/files.md", "The home of a CometBFT node")

    async def serve(home: CometHome) -> None:
        ledger = LedgerApplication(DcapVerifier())
        with home.socket() as socket:
            async with run_abci(home.ledger, socket=socket, application=ledger):
                pass

    with TemporaryDirectory() as short:  # a unix socket's path is
        (home,) = make_network(
            Path(short),
            [NodePlan(name="n", rpc_port=1, p2p_port=2)],
            chain_id=ChainId("net"),
            genesis_time=WallClock().now(),
            consensus_params=ConsensusParams(app_version=1),
            app_state=b"{}",
            block_ms=1000,
            entropy=system_entropy,
        )
        asyncio.run(serve(home))
        made = {
            str(path.relative_to(home.root))
            for path in home.root.rglob("*")
            if path.is_file()
        }
    assert {"ledger/state.sqlite", "ledger/lock", "config/config.toml"} <= made
    for name in (*made, home.log.name, home.process.name):
        assert f"`{name}`" in text, name


def test_the_files_of_the_simulator_are_told(tmp_path: Path) -> None:
    SimMachine(SimIntel(tmp_path), "one", entropy=bytes)
    text = section("docs/files.md", "The simulator's folder")
    made = {
        str(path.relative_to(tmp_path)).replace("one", "<name>")
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert made
    for name in made:
        assert f"`{name}`" in text


def test_the_places_for_strangers_are_the_workers() -> None:
    rows = re.findall(
        r"^\| ([a-z, ]+) \| ([\d,]+) \| (\d+) \|$",
        read("docs/operations.md"),
        re.MULTILINE,
    )
    told = {what: (int(all_.replace(",", "")), int(one)) for what, all_, one in rows}
    doors = {
        "getters": _api._ASKS,
        "status, metrics": _api._LOOKS,
        "certificates, snapshots": _api._FETCHES,
        "waiting for receipts, diffs, executions": _api.WAITS,
    }
    assert told == {
        what: (places.together, places.per_address) for what, places in doors.items()
    }
