"""The units: systemd reads them, they run what there is, and they may do little."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from sealift.cli._main import sealift
from sealift.worker._config import ApiSection

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
#: Sections, and the names that a unit of ours may use in them.
KNOWN = {
    "Unit": {
        "After", "Before", "Description", "PartOf", "Requires",
        "StartLimitIntervalSec", "Wants",
    },
    "Service": {
        "AmbientCapabilities", "CapabilityBoundingSet", "EnvironmentFile", "ExecStart",
        "Group", "KeyringMode", "KillMode", "LimitCORE", "LimitNOFILE",
        "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "OOMPolicy",
        "PrivateDevices", "PrivateTmp", "PrivateUsers", "ProtectClock",
        "ProtectControlGroups", "ProtectHome", "ProtectHostname",
        "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
        "ProtectProc", "ProtectSystem", "ReadWritePaths", "RemoveIPC", "Restart",
        "RestartPreventExitStatus", "RestartSec", "RestrictAddressFamilies",
        "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
        "RuntimeDirectory", "RuntimeDirectoryMode", "StateDirectory",
        "StateDirectoryMode", "SystemCallArchitectures", "SystemCallErrorNumber",
        "SystemCallFilter", "TimeoutStartSec", "TimeoutStopSec", "Type", "UMask",
        "User",
    },
    "Timer": {"OnBootSec", "OnUnitActiveSec", "RandomizedDelaySec"},
    "Install": {"WantedBy"},
}  # fmt: skip
#: These may stand more than once; all others would silently replace each other.
LISTS = {"SystemCallFilter", "After", "Wants", "Requires"}
#: What every service must have, whatever it runs.
SANDBOX = {
    "UMask": "0077",
    "LimitCORE": "0",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "StateDirectoryMode": "0700",
    "SystemCallArchitectures": "native",
}


class UnitError(Exception):
    """A unit that systemd would read otherwise than it looks."""


def parse_unit(text: str) -> dict[str, dict[str, list[str]]]:
    """A unit's sections: names and their values, in order.

    Raises:
        UnitError: An unknown section or name, a name twice, a line of no form.
    """
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] | None = None
    title = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line != line.rstrip() or line.endswith("\\"):
            raise UnitError(f"line {number}: spaces or a continuation at its end")
        if header := re.fullmatch(r"\[(\w+)\]", line):
            title = header[1]
            if title not in KNOWN or title in found:
                raise UnitError(f"line {number}: section {title}")
            section = found[title] = {}
            continue
        name, sign, value = line.partition("=")
        if section is None or not sign or name not in KNOWN[title]:
            raise UnitError(f"line {number}: {name!r} in [{title}]")
        if value != value.strip():
            raise UnitError(f"line {number}: spaces around the value")
        if name in section and name not in LISTS:
            raise UnitError(f"line {number}: {name} stands there twice")
        section.setdefault(name, []).append(value)
    return found


def environment() -> dict[str, str]:
    """What ``sealift.env`` sets."""
    lines = (UNITS / "sealift.env").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and line[0] != "#"]
    assert all(sign for _, sign, _ in pairs)
    return {name: value for name, _, value in pairs}


def words_of(unit: Path, extra: str = "") -> list[str]:
    """A unit's command line as systemd gives it to the program.

    ``$NAME`` is split into words, ``${NAME}`` is one word; ``extra`` is the value of
    each optional variable of ``sealift.env``.
    """
    service = parse_unit(unit.read_text())["Service"]
    given = dict.fromkeys(environment(), extra)
    for kind, base in (("State", "/var/lib"), ("Runtime", "/run")):
        if folder := service.get(f"{kind}Directory"):
            path = f"{base}/{folder[0].replace('%i', 'one')}"
            given[f"{kind.upper()}_DIRECTORY"] = path
    (line,) = service["ExecStart"]
    words: list[str] = []
    for word in line.split(" "):
        if whole := re.fullmatch(r"\$([A-Z_]+)", word):
            words += shlex.split(given[whole[1]])
        else:
            words.append(re.sub(r"\$\{([A-Z_]+)\}", lambda m: given[m[1]], word))
    assert "$" not in "".join(words)
    return words


def accept(words: list[str]) -> list[str]:
    """The CLI's own parser reads a command line; the commands that it found.

    Raises:
        click.UsageError: It does not.
    """
    command: click.Command = sealift
    context = command.make_context("sealift", list(words), resilient_parsing=False)
    found = []
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, inner, args = command.resolve_command(context, rest)
        if name is None or inner is None:
            raise click.UsageError(f"no command in {words}")
        found.append(name)
        context = inner.make_context(name, args, parent=context)
        command = inner
    return found


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.*")), ids=lambda p: p.name)
def test_a_unit_has_known_names_once_each(unit: Path) -> None:
    if unit.suffix in {".service", ".timer"} or unit.name == "insecure-sim.conf":
        assert parse_unit(unit.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "[Service]\nRestrat=always\n",
        "[Service]\nRestart=always\nRestart=no\n",
        "[Sevrice]\nRestart=always\n",
        "Restart=always\n",
        "[Service]\nRestart = always\n",
        "[Service]\nExecStart=/bin/true \\\n",
        "[Service]\nRestart\n",
    ],
)
def test_a_slip_in_a_unit_is_found(text: str) -> None:
    with pytest.raises(UnitError):
        parse_unit(text)


def test_systemd_reads_them_and_finds_little_exposed(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    """The programs are stubs, since systemd looks whether they are there."""
    analyze = program("systemd-analyze")
    stub = tmp_path / "bin"
    stub.mkdir()
    for name in ("sealift", "python", "cometbft"):
        shutil.copy(shutil.which("true") or "/bin/true", stub / name)
    units = []
    for unit in (*SERVICES, *UNITS.glob("*.timer")):
        text = unit.read_text().replace("/opt/sealift/bin", str(stub))
        (tmp_path / unit.name).write_text(text)
        units.append(str(tmp_path / unit.name))
    done = subprocess.run(
        [analyze, "verify", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for unit in SERVICES:
        name = unit.name.replace("@", "@one")
        (tmp_path / name).write_text((tmp_path / unit.name).read_text())
        words = ["security", "--offline=true", "--threshold=15", str(tmp_path / name)]
        done = subprocess.run(
            [analyze, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", SERVICES, ids=lambda p: p.name)
def test_every_service_is_locked_in(unit: Path) -> None:
    service = parse_unit(unit.read_text())["Service"]
    for name, value in SANDBOX.items():
        assert service.get(name) == [value], name
    assert service["User"] == service["Group"] != ["root"]
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    writes = service["ExecStart"][0].split().count("${STATE_DIRECTORY}")
    assert writes == 1
    # what the enclave does in RA-TLS needs memory that others are denied
    denied = "MemoryDenyWriteExecute" in service
    assert denied == (unit.name != "sealift-worker@.service")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda p: p.name)
def test_every_service_comes_back_whatever_ended_it(unit: Path) -> None:
    parsed = parse_unit(unit.read_text())
    service = parsed["Service"]
    if service["Type"] == ["oneshot"]:
        assert "Restart" not in service
        return
    assert service["Restart"] == ["always"]
    assert int(service["RestartSec"][0]) > 0
    assert parsed["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert int(service["TimeoutStopSec"][0]) >= 30
    assert parsed["Install"]["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize("extra", ["", "--verbose"])
@pytest.mark.parametrize("unit", SERVICES, ids=lambda p: p.name)
def test_its_command_line_is_one_of_this_release(unit: Path, extra: str) -> None:
    if "check" in unit.name and extra:
        extra = "--min-funds 5000000 --for-upgrade"
    program, *words = words_of(unit, extra)
    assert Path(program).parent == Path("/opt/sealift/bin")
    if Path(program).name == "sealift":
        assert accept(words)[0] in {"chain", "node", "worker"}
    else:
        assert words[:3] == ["start", "--home", "/var/lib/cometbft"]


def test_a_command_line_of_another_release_is_found() -> None:
    assert accept(["worker", "run", "/var/lib/x"]) == ["worker", "run"]
    for words in (
        ["worker", "ran", "/var/lib/x"],
        ["worker", "run", "/var/lib/x", "--loud"],
        ["worker", "run"],
        ["worker", "check", "/var/lib/x", "--min-funds", "much"],
    ):
        with pytest.raises(click.ClickException):
            accept(words)


def test_both_halves_of_a_node_name_one_socket() -> None:
    ledger = words_of(UNITS / "sealift-abci.service")
    socket = ledger[ledger.index("--socket") + 1]
    comet = words_of(UNITS / "cometbft.service")
    assert comet[comet.index("--proxy_app") + 1] == f"unix://{socket}"
    assert len(socket.encode()) < 108  # what a unix socket's path may have


def test_every_variable_is_told_and_used() -> None:
    used = set()
    for unit in SERVICES:
        used |= set(re.findall(r"\$\{?([A-Z_]+)", unit.read_text()))
        service = parse_unit(unit.read_text())["Service"]
        assert service["EnvironmentFile"] == ["-/etc/sealift/sealift.env"]
    used -= {"STATE_DIRECTORY", "RUNTIME_DIRECTORY"}
    assert used | {"SEALIFT_DEBUG"} == set(environment())


def test_users_and_files_of_the_guide_are_those_of_the_folder() -> None:
    guide = (UNITS / "README.md").read_text()
    for path in UNITS.iterdir():
        if path.name != "README.md":
            assert f"`{path.name}`" in guide, path.name
    users = set(re.findall(r"^u (\S+)", (UNITS / "sealift.sysusers.conf").read_text(),
                           re.MULTILINE))  # fmt: skip
    assert users == {
        parse_unit(unit.read_text())["Service"]["User"][0] for unit in SERVICES
    }


def test_command_lines_of_the_guide_are_of_this_release() -> None:
    guide = (UNITS / "README.md").read_text()
    lines = re.findall(r"/opt/sealift/bin/sealift (.*)$", guide, re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        accept(shlex.split(line))
    homes = re.findall(r"sealift worker init (/var/lib/sealift-worker/\w+)", guide)
    assert homes == ["/var/lib/sealift-worker/w1"]
    assert ApiSection().host == "127.0.0.1"  # nobody is served before they decide so
