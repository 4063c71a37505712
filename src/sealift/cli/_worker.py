"""``sealift worker``: the host service that runs an enclave."""

import asyncio
import logging
from pathlib import Path

import aiohttp
import click
import msgspec

from sealift.attestation import (
    AttestationError,
    Collateral,
    ReportBody,
    VerifiedQuote,
    parse_quote,
    parse_ratls_certificate,
    quote_fmspc,
    verify_evidence,
    verify_key_binding,
)
from sealift.base import UnixSeconds, decode
from sealift.bundle import measure
from sealift.client import WorkerAnswerError, Workers, read_card
from sealift.crypto import system_entropy
from sealift.protocol import PLATFORM_KINDS
from sealift.transport.files import (
    create_durably,
    make_folder,
    write_durably,
)
from sealift.transport.gramine import gramine_fingerprint
from sealift.transport.keys import write_account_key
from sealift.transport.pccs import pccs_url
from sealift.transport.process import wait_for_stop
from sealift.worker import (
    CONFIG_FILE,
    GRAMINE_TEMPLATE,
    INSTANCE_FIELDS,
    TEMPLATE,
    Platform,
    Ready,
    existing_machine,
    load_config,
    request_keys_once,
    run_worker,
)

from ._cards import open_chain, read_bundle
from ._chain import stop_code
from ._check import examine
from ._errors import EXIT_REFUSED
from ._output import emit, emit_rows, emit_sections, json_option, say
from ._params import HEX32, PATH, rpc_option, run, wall_clock
from ._worker_http import URL_FILE, ask_status, worker_url
from ._worker_join import join_command
from ._worker_stage import stage

_SEED = 32
#: What an operator should have for registrations and some weeks of blocks.
NEEDED_FUNDS = 10_000_000
_LONELY = (
    "KEYS HELD BY 1 INSTANCE: losing this machine loses the shard. "
    "Run another worker and let it request the keys."
)

url_option = click.option(
    "--url", help="The running worker's URL (default: from HOME)."
)
pccs_option = click.option("--pccs", help="URL of a PCCS to take collateral from.")
home_argument = click.argument("home", type=PATH)


@click.group()
def worker() -> None:
    r"""Run an enclave of a shard, and look after it.

    \b
    Example:
      sealift worker init w1 --card card.json --bundle auction-v1.bundle \
        --sim sim --machine alpha --genesis genesis.bin
      sealift worker run w1
    """


@worker.command()
@home_argument
@click.option("--card", type=PATH, help="Takes shard and RPC from this card.")
@click.option("--shard", type=HEX32, help="The shard, if there is no card.")
@rpc_option
@click.option("--bundle", type=PATH, required=True, help="The bundle to run.")
@click.option(
    "--platform",
    type=click.Choice(PLATFORM_KINDS),
    default="insecure-sim",
    show_default=True,
)
@click.option("--sim", type=PATH, help="insecure-sim: folder of the simulated Intel.")
@click.option("--machine", help="insecure-sim: name of the simulated machine.")
@click.option("--gramine", type=PATH, help="gramine-sgx: the folder that was signed.")
@pccs_option
@click.option("--genesis", type=PATH, help="Genesis blob, for the first worker.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0)
@click.option("--upstream", default="", help="URL of a worker that has the keys.")
@json_option
@click.pass_context
def init(
    ctx: click.Context,
    *,
    home: Path,
    card: Path | None,
    shard: bytes | None,
    rpc: str,
    bundle: Path,
    platform: str,
    sim: Path | None,
    machine: str | None,
    gramine: Path | None,
    pccs: str | None,
    genesis: Path | None,
    port: int,
    upstream: str,
    as_json: bool,
) -> None:
    r"""Make a worker's HOME: a commented worker.toml and an operator's key.

    \b
    Examples:
      sealift worker init w1 --card card.json --bundle auction-v1.bundle \
        --sim sim --machine alpha --genesis genesis.bin --port 7000
      sealift worker init w1 --card card.json --bundle auction-v1.bundle \
        --platform gramine-sgx --gramine auction-v1.gramine --pccs URL
    """
    known = None if card is None else read_card(card)
    if known is None and shard is None:
        raise click.UsageError("Which shard? Give --card, or --shard.")
    words = _platform_words(platform, sim, machine, gramine)
    mrenclave = (
        measure(read_bundle(bundle).files).mrenclave
        if gramine is None
        else gramine_fingerprint(gramine)
    )
    explicit = ctx.get_parameter_source("rpc") is not click.core.ParameterSource.DEFAULT
    node = known.l1[0] if known is not None and not explicit else rpc
    shard_text = shard.hex() if shard is not None else known.shard if known else ""
    template = TEMPLATE if gramine is None else GRAMINE_TEMPLATE
    text = template.format(
        rpc=_toml(node),
        shard=shard_text,
        genesis="" if genesis is None else _toml(str(genesis.resolve())),
        bundle=_toml(str(bundle.resolve())),
        port=port,
        upstream=_toml(upstream),
        **words,
        **({} if gramine is None else {"pccs": ""}),
    )
    if pccs is not None:
        named = f'\npccs = "{_toml(pccs_url(pccs))}"\n'
        text = text.replace('\npccs = ""\n', named)
    make_folder(home, mode=0o700)
    create_durably(home / CONFIG_FILE, text.encode())
    config = load_config(home)
    operator = write_account_key(config.operator_key, system_entropy(_SEED))
    say(
        f"The operator's account pays on L1 and needs funds, about {NEEDED_FUNDS}:\n"
        f"  sealift client faucet {operator.hex()} --amount {NEEDED_FUNDS} "
        "--from FAUCET_KEY"
    )
    emit(
        {
            "home": str(home),
            "config": str(home / CONFIG_FILE),
            "operator": operator,
            "needed_funds": NEEDED_FUNDS,
            "mrenclave": mrenclave,
        },
        as_json=as_json,
    )


@worker.command("run")
@home_argument
@click.option(
    "--platform",
    type=click.Choice(PLATFORM_KINDS),
    help="Instead of worker.toml's, which must name what that platform needs.",
)
@pccs_option
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="URL",
    help="RPC of another L1 node to compare headers with; repeatable.",
)
@click.option("--verbose", is_flag=True, help="Say more on stderr.")
@click.pass_context
def run_command(
    ctx: click.Context,
    *,
    home: Path,
    platform: Platform | None,
    pccs: str | None,
    witnesses: tuple[str, ...],
    verbose: bool,
) -> None:
    r"""Run the worker of HOME in the foreground, until Ctrl-C.

    Prints one line when it answers: "ready URL mrenclave=… signing_key=…".

    Witnesses are L1 nodes of others. A second chain that the validators decided
    on stops the enclave for good; both headers are kept in HOME
    (`sealift relay evidence`). It takes at least two to see a fork that one hides.

    \b
    Examples:
      sealift worker run w1
      sealift worker run w1 --platform gramine-sgx --pccs URL
      sealift worker run w1 --witness http://127.0.0.1:26657 \
        --witness http://127.0.0.1:36657
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s"
    )
    ctx.exit(run(_serve(home, platform=platform, pccs=pccs or "", witnesses=witnesses)))


@worker.command("request-keys")
@home_argument
@click.option("--from", "upstream", required=True, help="URL of a worker with keys.")
@json_option
def request_keys(*, home: Path, upstream: str, as_json: bool) -> None:
    r"""Get the shard's keys from another worker's enclave, once, and end.

    \b
    Example:
      sealift worker request-keys w2 --from http://127.0.0.1:7000
    """
    run(request_keys_once(home, upstream, clock=wall_clock()))
    emit({"home": str(home), "keys": "sealed here"}, as_json=as_json)


worker.add_command(join_command)


@worker.command("shielding-key")
@home_argument
@url_option
@json_option
def shielding_key(*, home: Path, url: str | None, as_json: bool) -> None:
    r"""The shard's shielding key, as the running worker says.

    Clients take it from L1's proven state instead.

    \b
    Example:
      sealift worker shielding-key w1
    """
    _show_field(home, url, "shielding_key", as_json=as_json)


@worker.command("signing-key")
@home_argument
@url_option
@json_option
def signing_key(*, home: Path, url: str | None, as_json: bool) -> None:
    r"""The enclave instance's own identity on L1.

    \b
    Example:
      sealift worker signing-key w1
    """
    _show_field(home, url, "signing_key", as_json=as_json)


@worker.command()
@home_argument
@json_option
def mrenclave(*, home: Path, as_json: bool) -> None:
    r"""The MRENCLAVE of what HOME runs: measured now, or as signed for Gramine.

    \b
    Example:
      sealift worker mrenclave w1
    """
    config = load_config(home)
    if config.platform == "gramine-sgx":
        mine = gramine_fingerprint(config.gramine)
    else:
        mine = measure(read_bundle(config.bundle).files).mrenclave
    if as_json:
        emit({"mrenclave": mine}, as_json=True)
    else:
        click.echo(mine.hex())


@worker.command()
@home_argument
@url_option
@json_option
def status(*, home: Path, url: str | None, as_json: bool) -> None:
    r"""How the running worker stands.

    \b
    Example:
      sealift worker status w1
    """
    found = run(ask_status(worker_url(home, url)))
    if found.get("instances_with_keys") == 1:
        say(_LONELY)
    rows = _rows(found.pop("instances", []))
    emit_sections(found, {"instances": rows}, as_json=as_json)


@worker.command()
@home_argument
@url_option
@click.option("--for-upgrade", is_flag=True, help="Also: is the next code ready here?")
@click.option("--min-funds", type=click.IntRange(min=0), default=NEEDED_FUNDS // 10)
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    *,
    home: Path,
    url: str | None,
    for_upgrade: bool,
    min_funds: int,
    as_json: bool,
) -> None:
    r"""What would stop this worker, before it does; exit code 1 if anything.

    \b
    Examples:
      sealift worker check w1
      */5 * * * *  sealift worker check w1 --for-upgrade || mail -s worker ops
    """
    rows = run(
        examine(
            load_config(home),
            worker_url(home, url, required=False),
            for_upgrade=for_upgrade,
            min_funds=min_funds,
        )
    )
    emit_rows(
        "checks",
        [{"check": row.name, "ok": row.ok, "detail": row.detail} for row in rows],
        as_json=as_json,
    )
    if not all(row.ok for row in rows):
        ctx.exit(EXIT_REFUSED)


@worker.command("dump-ra")
@home_argument
@url_option
@click.option("-o", "--out", type=PATH, help="Write the certificate (DER).")
@click.option("--card", type=PATH, help="Verify the quote, by this card and L1.")
@json_option
def dump_ra(
    *, home: Path, url: str | None, out: Path | None, card: Path | None, as_json: bool
) -> None:
    r"""Fetch an RA-TLS certificate of the enclave, and say what is in it.

    With a card the quote is verified under its attestation roots, by the
    collateral that L1's proven state has.

    \b
    Example:
      sealift worker dump-ra w1 -o ra.der --card card.json
    """
    where = worker_url(home, url)
    der, answer = run(_dump_ra(where, card))
    if out is not None:
        write_durably(out, der)
        answer["certificate"] = str(out)
    emit(answer, as_json=as_json)


async def _serve(
    home: Path, *, platform: Platform | None, pccs: str, witnesses: tuple[str, ...]
) -> int:
    def ready(what: Ready) -> None:
        write_durably(home / URL_FILE, what.url.encode() + b"\n")
        click.echo(
            f"ready {what.url} mrenclave={what.fingerprint.hex()} "
            f"signing_key={what.signing_key.hex()}"
        )

    stopped = asyncio.create_task(wait_for_stop())
    serving = asyncio.create_task(
        run_worker(
            home,
            clock=wall_clock(),
            ready=ready,
            platform=platform,
            pccs=pccs,
            witnesses=witnesses,
        )
    )
    try:
        await asyncio.wait((stopped, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            return EXIT_REFUSED
        return stop_code(stopped.result())
    finally:
        for task in (stopped, serving):
            task.cancel()
        await asyncio.gather(stopped, serving, return_exceptions=True)


def _rows(found: object) -> list[dict[str, object]]:
    """The instances that a worker told of; nothing where it is something else."""
    try:
        rows = msgspec.convert(found, list[dict[str, object]])
    except msgspec.ValidationError:
        return []
    return [{name: row.get(name) for name in INSTANCE_FIELDS} for row in rows]


def _show_field(home: Path, url: str | None, name: str, *, as_json: bool) -> None:
    found = run(ask_status(worker_url(home, url)))
    value = found.get(name)
    if not value:
        raise WorkerAnswerError(
            f"the worker has no {name.replace('_', ' ')} yet",
            hint="It needs the shard's keys first: see `sealift worker status`",
        )
    if as_json:
        emit({name: value}, as_json=True)
    else:
        click.echo(str(value))


async def _dump_ra(url: str, card: Path | None) -> tuple[bytes, dict[str, object]]:
    async with aiohttp.ClientSession() as http:
        der = await Workers((url,), http).get(url, "/v1/dump-ra")
    evidence = parse_ratls_certificate(der)
    verify_key_binding(evidence)
    report = parse_quote(evidence.quote).report
    answer: dict[str, object] = {
        "form": evidence.form,
        "quote_bytes": len(evidence.quote),
        "key_bound": True,
    }
    if isinstance(report, ReportBody):
        answer["mrenclave"] = report.mr_enclave
        answer["mrsigner"] = report.mr_signer
    answer["verified"] = False
    if card is not None:
        answer.update(await _verified(evidence.quote, card))
    return der, answer


async def _verified(quote: bytes, path: Path) -> dict[str, object]:
    """The quote's verdict by a card's roots and L1's proven collateral."""
    card = read_card(path)
    async with open_chain(card) as chain:
        record = await chain.collateral(quote_fmspc(quote))
        head = await chain.follow()
    if record is None:
        return {"verified": False, "why_not": "L1 has no collateral for its platform"}
    collateral = decode(Collateral, record.collateral)
    refusals = []
    for anchor in card.anchors():
        try:
            found = verify_evidence(
                quote,
                collateral=collateral,
                root=anchor,
                now=UnixSeconds(head.time.seconds),
            )
        except AttestationError as error:
            refusals.append(str(error))
            continue
        return {
            "verified": isinstance(found, VerifiedQuote),
            "anchor": found.anchor,
            "tcb_status": found.status,
            "advisories": found.advisories,
            "platform_id": found.platform_id,
        }
    return {"verified": False, "why_not": "; ".join(refusals) or "the card has no root"}


def _platform_words(
    platform: str, sim: Path | None, machine: str | None, gramine: Path | None
) -> dict[str, str]:
    """What worker.toml says of a platform.

    Raises:
        SimStateError: There is no such simulated machine.
    """
    if platform == "gramine-sgx":
        if gramine is None or sim is not None or machine is not None:
            raise click.UsageError("--platform gramine-sgx takes --gramine alone.")
        return {"gramine": _toml(str(gramine.resolve()))}
    if sim is None or machine is None or gramine is not None:
        raise click.UsageError("--platform insecure-sim takes --sim and --machine.")
    existing_machine(sim, machine)
    return {"sim": _toml(str(sim.resolve())), "machine": _toml(machine)}


def _toml(text: str) -> str:
    """Text as it stands between a TOML string's quotes; JSON's escapes are its."""
    return msgspec.json.encode(text).decode()[1:-1]


worker.add_command(stage)
