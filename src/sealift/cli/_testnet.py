"""``sealift testnet``: a network of CometBFT validators and workers on loopback."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click

from sealift.crypto import system_entropy
from sealift.node.cometbft import find_engine
from sealift.transport.files import read_or_explain
from sealift.transport.marks import runs
from sealift.transport.process import ProcessNotReadyError
from sealift.transport.supervise import SupervisorRecord, end_recorded, read_record

from ._errors import EXIT_REFUSED
from ._output import emit, emit_sections, json_option, say
from ._params import PATH, run, wall_clock
from ._service import until_stopped
from ._testnet_home import Plan, TestnetError, TestnetHome, make_plan, make_testnet
from ._testnet_run import GRACE, TestnetRun
from ._testnet_status import look

_SUPERVISOR: Final = "supervisor"
_POLL_SECONDS: Final = 0.1
_MOST: Final = 16
_LINES: Final = 40
_TAIL: Final = 64 * 1024

home_option = click.option(
    "--home",
    type=PATH,
    default=Path("testnet"),
    show_default=True,
    help="The network's folder.",
)


@click.group()
def testnet() -> None:
    r"""A local network: CometBFT validators, workers of one shard, simulated platforms.

    For playing and testing: everything listens on 127.0.0.1 alone, and the
    simulator protects nobody.

    \b
    Example:
      sealift testnet up --validators 4 --workers 3
      sealift testnet status
      sealift testnet down
    """


@testnet.command()
@home_option
@click.option(
    "--validators", type=click.IntRange(1, _MOST), help="How many (default: 4)."
)
@click.option("--workers", type=click.IntRange(0, _MOST), help="How many (default: 3).")
@click.option(
    "--block-ms",
    type=click.IntRange(50, 60_000),
    help="Milliseconds between a commit and the next proposal (default: 1000).",
)
@click.option("--chain-id", help="Name of the chain (default: sealift-testnet).")
@click.option("--foreground", is_flag=True, help="Stay here until Ctrl-C.")
@click.pass_context
def up(
    ctx: click.Context,
    *,
    home: Path,
    validators: int | None,
    workers: int | None,
    block_ms: int | None,
    chain_id: str | None,
    foreground: bool,
) -> None:
    r"""Make the network of HOME, or go on with it, and keep it running.

    It runs under a supervisor of its own that starts again what dies. After
    `down`, a reboot or a kill, `up` goes on with the same chain. Then
    HOME/card.json and HOME/keys are all that `sealift client` and `sealift gov`
    need: alice and bob have tokens, boss decides, faucet pays.

    \b
    Examples:
      sealift testnet up --validators 4 --workers 3
      sealift testnet up --foreground
    """
    find_engine(os.environ)  # before anything is made
    place = TestnetHome(home)
    wanted = {
        "chain_id": chain_id,
        "block_ms": block_ms,
        "validators": validators,
        "workers": workers,
    }
    if place.plan.is_file():
        _require_same(place.read_plan(), wanted)
    else:
        say("making keys, genesis and configuration")
        plan = make_plan(
            chain_id=chain_id or "sealift-testnet",
            block_ms=block_ms or 1000,
            validators=4 if validators is None else validators,
            workers=3 if workers is None else workers,
            entropy=system_entropy,
        )
        make_testnet(place, plan, clock=wall_clock(), entropy=system_entropy)
    if foreground:
        running = TestnetRun(place, clock=wall_clock(), say=click.echo)
        ctx.exit(run(until_stopped(running.serve())))
    _start_detached(place)


@testnet.command()
@home_option
@json_option
@click.pass_context
def status(ctx: click.Context, *, home: Path, as_json: bool) -> None:
    r"""Who runs, how high, with whom; exit code 1 unless all of it does.

    \b
    Example:
      sealift testnet status --json
    """
    found = run(look(TestnetHome(home)))
    emit_sections(
        found.answer,
        {"validators": found.validators, "workers": found.workers},
        as_json=as_json,
    )
    if found.answer["state"] != "runs":
        ctx.exit(EXIT_REFUSED)


@testnet.command()
@home_option
@json_option
def down(*, home: Path, as_json: bool) -> None:
    r"""Stop the network of HOME; everything is kept, and `up` goes on with it.

    Only processes that its supervisor recorded are touched, each recognised by
    its pid and its start.

    \b
    Example:
      sealift testnet down
    """
    place = TestnetHome(home)
    place.read_plan()
    record = read_record(place.record)
    ended = [] if record is None else run(_stop(place, record))
    if not ended:
        say("nothing of it was running")
    emit({"home": str(home), "ended": ended}, as_json=as_json)


@testnet.command()
@click.argument("name", required=False)
@home_option
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=_LINES)
def logs(*, name: str | None, home: Path, lines: int) -> None:
    r"""The last lines of NAME's log: of a worker, a validator, its CometBFT.

    Without NAME, which there are: supervisor, val0, val0.cometbft, worker0 and so on.

    \b
    Example:
      sealift testnet logs worker0 -n 100
    """
    place = TestnetHome(home)
    known = dict(_logs(place, place.read_plan()))
    if name is None:
        click.echo("\n".join(f"{one}  {path}" for one, path in known.items()))
        return
    if name not in known:
        raise click.BadParameter(
            f"got {name!r}, expected one of {', '.join(known)}", param_hint="NAME"
        )
    raw = read_or_explain(known[name], what=f"log of {name}", hint="Has it run yet?")
    for line in raw[-_TAIL * lines :].decode(errors="replace").splitlines()[-lines:]:
        click.echo(line)


def _logs(home: TestnetHome, plan: Plan) -> Iterator[tuple[str, Path]]:
    yield _SUPERVISOR, home.log(_SUPERVISOR)
    for validator in plan.validators:
        yield validator.name, home.log(validator.name)
        yield f"{validator.name}.cometbft", home.validator(validator.name).log
    for worker in plan.workers:
        yield worker.name, home.log(worker.name)


def _require_same(plan: Plan, wanted: Mapping[str, object]) -> None:
    """A network that is there keeps what it was made with.

    Raises:
        TestnetError: Something else is asked for.
    """
    there: dict[str, object] = {
        "chain_id": plan.chain_id,
        "block_ms": plan.block_ms,
        "validators": len(plan.validators),
        "workers": len(plan.workers),
    }
    for name, value in wanted.items():
        if value is not None and value != there[name]:
            raise TestnetError(
                f"this network was made with another --{name.replace('_', '-')}",
                got=value,
                expected=there[name],
                hint="Leave it out to go on, or make another network with --home",
            )


def _start_detached(home: TestnetHome) -> None:
    """Start the supervisor, tell what it says until all is up, and leave it.

    Raises:
        ProcessNotReadyError: It ended; with its last line.
        TestnetError: Its log cannot be written.
    """
    record = read_record(home.record)
    if record is not None and runs(record.supervisor):
        say(f"it runs already, under pid {record.supervisor.pid}")
        return
    log = home.log(_SUPERVISOR)
    try:
        out = log.open("ab")
    except OSError as error:
        raise TestnetError(
            "the network's log cannot be written",
            got=f"{log}: {error.strerror}",
            hint="Nothing was started; make room, or let this user write there",
        ) from error
    with out:
        start = out.tell()
        child = subprocess.Popen(  # noqa: S603 - ourselves
            [
                *(sys.executable, "-m", "sealift", "testnet", "up", "--foreground"),
                *("--home", str(home.root)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        line = _follow(child, log, start)
    except BaseException:
        # Ctrl-C before it is up: nothing is left behind.
        if child.poll() is None:
            child.terminate()
            child.wait()
        raise
    click.echo(line)
    say("`sealift testnet status` says how it stands, `sealift testnet down` stops it.")


def _follow(child: "subprocess.Popen[bytes]", log: Path, start: int) -> str:
    """Repeat what the supervisor says until it is ready; that line."""
    with log.open("rb") as lines:
        lines.seek(start)
        last, part = "", b""
        while True:
            ended = child.poll() is not None
            part += lines.readline()
            if part.endswith(b"\n"):
                last, part = part.decode(errors="replace").rstrip("\n"), b""
                if last.startswith("ready "):
                    return last
                if not last.startswith("sealift: "):
                    say(last)
            elif ended:
                raise ProcessNotReadyError(
                    "the network did not start",
                    got=last.removeprefix("sealift: ") or f"code {child.returncode}",
                    hint=f"Its log is {log}",
                )
            else:
                time.sleep(_POLL_SECONDS)


async def _stop(home: TestnetHome, record: SupervisorRecord) -> list[str]:
    """Everything of the record, and what its supervisor started meanwhile."""
    ended = await end_recorded(record, grace=2 * GRACE)
    later = read_record(home.record)
    if later is not None and later != record:
        ended += [
            name for name in await end_recorded(later, grace=GRACE) if name not in ended
        ]
    return ended
