"""The alert rules: of metrics that there are, in PromQL, each with its section."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_systemd import accept

from sealift.worker._config import ApiSection
from sealift.worker._metrics import WAITS, Metrics, Reading

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
#: Prometheus' own.
OWN = {"up": {"job", "instance"}}
AGGREGATIONS = {"avg", "count", "max", "min", "sum"}
#: Functions, and whether they take a range.
FUNCTIONS = {
    "absent": False,
    "changes": True,
    "delta": True,
    "deriv": True,
    "increase": True,
    "max_over_time": True,
    "min_over_time": True,
    "rate": True,
}


class RuleError(Exception):
    """A rule that Prometheus would not take, or that can never fire."""


@dataclass
class Rule:
    """One alert as the file has it."""

    alert: str
    expr: str = ""
    wait: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


def parse_rules(text: str) -> list[Rule]:
    """Read the file: a small part of YAML, of which every line has one meaning.

    Values are JSON strings, which YAML reads the same.

    Raises:
        RuleError: A line of another form, or a name twice.
    """
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    if lines[:3] != ["groups:", '  - name: "sealift"', "    rules:"]:
        raise RuleError(f"another beginning: {lines[:3]}")
    rules: list[Rule] = []
    section: dict[str, str] | None = None
    for line in lines[3:]:
        if found := re.fullmatch(r"      - alert: (\".*\")", line):
            rules.append(Rule(json.loads(found[1])))
            section = None
        elif found := re.fullmatch(r"        (labels|annotations):", line):
            section = getattr(rules[-1], found[1])
            if section:
                raise RuleError(f"twice: {line}")
        elif found := re.fullmatch(r"          (\w+): (\".*\")", line):
            if section is None or found[1] in section:
                raise RuleError(f"no place for it: {line}")
            section[found[1]] = json.loads(found[2])
        elif found := re.fullmatch(r"        (expr|for): (\".*\")", line):
            name = {"expr": "expr", "for": "wait"}[found[1]]
            if section is not None or getattr(rules[-1], name):
                raise RuleError(f"no place for it: {line}")
            setattr(rules[-1], name, json.loads(found[2]))
        else:
            raise RuleError(f"a line of another form: {line}")
    return rules


class Promql:
    """Reads an expression by Prometheus' grammar, as far as rules here need it.

    Args:
        text: The expression.
        metrics: Names of metrics that there are, and their labels.
    """

    _TOKEN = re.compile(
        r"\s*(?:(\d+(?:\.\d+)?(?:e\d+)?)|(\w+)|(\"[^\"]*\")|(==|!=|=~|!~|<=|>=|[-+*/<>(){},=\[\]]))"
    )

    def __init__(self, text: str, metrics: dict[str, set[str]]) -> None:
        self._metrics = metrics
        self.used: set[str] = set()
        self._tokens: list[str] = []
        place = 0
        while place < len(text.rstrip()):
            found = self._TOKEN.match(text, place)
            if found is None:
                raise RuleError(f"no token at {text[place:]!r}")
            self._tokens.append(found[0].strip())
            place = found.end()
        self._whole()
        if self._tokens:
            raise RuleError(f"left over: {self._tokens}")

    def _peek(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def _take(self, *wanted: str) -> str:
        if not self._tokens or (wanted and self._tokens[0] not in wanted):
            raise RuleError(f"got {self._peek()!r}, expected {wanted}")
        return self._tokens.pop(0)

    def _whole(self) -> None:
        self._comparison()
        while self._peek() in {"and", "or", "unless"}:
            self._take()
            self._comparison()

    def _comparison(self) -> None:
        self._sum()
        if self._peek() in {"==", "!=", "<", ">", "<=", ">="}:
            self._take()
            self._sum()

    def _sum(self) -> None:
        self._term()
        while self._peek() in {"+", "-", "*", "/"}:
            self._take()
            self._term()

    def _term(self) -> None:
        word = self._take()
        if re.fullmatch(r"\d+(\.\d+)?(e\d+)?", word):
            return
        if word == "(":
            self._whole()
            self._take(")")
        elif word in AGGREGATIONS:
            self._take("by")
            labels = self._labels()
            self._take("(")
            before = set(self.used)
            self._whole()
            self._take(")")
            for name in self.used - before:
                if not labels <= self._metrics[name]:
                    raise RuleError(f"{name} has no labels {labels}")
        elif word in FUNCTIONS and self._peek() == "(":
            self._take("(")
            self._selector(self._take(), ranged=FUNCTIONS[word])
            self._take(")")
        else:
            self._selector(word, ranged=False)

    def _labels(self) -> set[str]:
        self._take("(")
        found = {self._take()}
        while self._peek() == ",":
            self._take()
            found.add(self._take())
        self._take(")")
        return found

    def _selector(self, name: str, *, ranged: bool) -> None:
        if name not in self._metrics:
            raise RuleError(f"no such metric or function: {name}")
        self.used.add(name)
        if self._peek() == "{":
            self._take()
            while True:
                label = self._take()
                if label not in self._metrics[name]:
                    raise RuleError(f"{name} has no label {label}")
                self._take("=", "!=", "=~", "!~")
                value = json.loads(self._take())
                if name == "sealift_waiting" and value not in WAITS:
                    raise RuleError(f"nothing is waited for by the name {value}")
                if self._take(",", "}") == "}":
                    break
        if ranged:
            self._take("[")
            number, unit = re.fullmatch(r"(\d+)([smhd])", self._span()).groups()
            if not int(number) or not unit:
                raise RuleError("an empty range")
            self._take("]")

    def _span(self) -> str:
        span = self._take()
        while self._peek() != "]":
            span += self._take()
        if not re.fullmatch(r"\d+[smhd]", span):
            raise RuleError(f"no span: {span}")
        return span


def exported() -> dict[str, set[str]]:
    """Every series of a worker, and its labels, as it is scraped."""

    async def read() -> Reading:
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

    text = asyncio.run(Metrics("00" * 32, read).render()).decode()
    found: dict[str, set[str]] = {name: set(labels) for name, labels in OWN.items()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {*sample.labels, "job", "instance"}
            found.setdefault(sample.name, set()).update(labels)
    return found


METRICS = exported()
ALERTS = parse_rules(RULES.read_text(encoding="utf-8"))
SECTIONS = {
    part.splitlines()[0]: part
    for part in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda r: r.alert)
def test_a_rule_is_of_metrics_that_a_worker_exports(rule: Rule) -> None:
    assert Promql(rule.expr, METRICS).used
    assert re.fullmatch(r"\d+[smh]", rule.wait)
    assert rule.labels["severity"] in {"critical", "warning", "info"}
    assert set(rule.annotations) == {"summary", "description", "runbook_url"}


@pytest.mark.parametrize(
    "expr",
    [
        "sealift_blok_lag > 20",
        "max by (shard) (sealift_block_lag",
        "max by (shrad) (sealift_block_lag) > 1",
        "changes(sealift_block_lag) == 0",
        "changes(sealift_block_lag[10]) == 0",
        'sealift_waiting{what="l1_node"} == 1',
        'sealift_waiting{waht="keys"} == 1',
        "sealift_block_lag >",
        "sealift_block_lag > 20 and",
        "sealift_block_lag 20",
        "chagnes(sealift_block_lag[10m]) == 0",
        "sealift_block_lag > 20; drop",
    ],
)
def test_a_slip_in_an_expression_is_found(expr: str) -> None:
    with pytest.raises(RuleError):
        Promql(expr, METRICS)


def test_a_slip_in_the_file_is_found() -> None:
    text = RULES.read_text(encoding="utf-8")
    for broken in (
        text.replace("        expr:", "        exp:", 1),
        text.replace("        expr:", "       expr:", 1),
        text.replace('severity: "critical"', "severity: critical", 1),
        text.replace("groups:", "group:", 1),
        text.replace(
            '        for: "2m"\n', '        for: "2m"\n        for: "3m"\n', 1
        ),
    ):
        with pytest.raises(RuleError):
            parse_rules(broken)


def test_every_alert_has_its_section_and_no_section_is_orphaned() -> None:
    names = [rule.alert for rule in ALERTS]
    assert len(set(names)) == len(names)
    assert list(SECTIONS) == names  # in the order of the rules
    for rule in ALERTS:
        assert rule.annotations["runbook_url"] == (
            f"docs/runbook.md#{rule.alert.lower()}"
        )


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_says_what_it_means_how_to_see_it_and_what_to_do(name: str) -> None:
    said = re.findall(r"^\*\*(\w+)\.\*\* \S", SECTIONS[name], re.MULTILINE)
    assert said == ["Means", "See", "Do"]


def test_command_lines_of_the_runbook_are_of_this_release() -> None:
    lines = re.findall(r"`sealift ([^`]+)`", " ".join(RUNBOOK.split()))
    assert len(lines) > 15
    for line in lines:
        if line == "evidence":
            continue
        try:
            accept(line.replace("HOME", "w1").split())
        except click.ClickException as error:
            pytest.fail(f"sealift {line}: {error}")


def test_every_value_that_is_watched_for_is_known_to_operators() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for rule in ALERTS:
        for metric in Promql(rule.expr, METRICS).used - set(OWN):
            assert f"| `{metric}` |" in page, metric


def test_what_is_low_in_funds_comes_before_calls_are_refused() -> None:
    (rule,) = (one for one in ALERTS if one.alert == "SealiftOperatorFundsLow")
    reserve = ApiSection().carry_reserve
    assert int(rule.expr.rsplit(" ", 1)[1]) > reserve
