"""``sealift app``: making an application, and checking it before it is released."""

from pathlib import Path

import click

from ._app_check import check_application, lines_of
from ._app_new import make_application
from ._cards import read_bundle
from ._errors import EXIT_REFUSED
from ._output import emit, emit_rows, json_option, say
from ._params import PATH


@click.group()
def app() -> None:
    r"""Applications: begin one, and check it before it is built.

    \b
    Example:
      sealift app new notes
    """


@app.command()
@click.argument("name")
@click.option(
    "--in",
    "folder",
    type=PATH,
    default=Path(),
    show_default="here",
    help="Where its folder is made.",
)
@json_option
def new(*, name: str, folder: Path, as_json: bool) -> None:
    r"""Make an application that works: a pallet, its runtime, its tests.

    NAME is the name of the folder, the package, the pallet and the runtime. What
    is there already is never touched.

    \b
    Examples:
      sealift app new notes
      sealift app new ballot --in applications
    """
    made = make_application(name, folder)
    say(f"Next: cd {made.folder} && pytest; then `sealift dev` there.")
    emit(
        {"application": str(made.folder), "files": [str(path) for path in made.files]},
        as_json=as_json,
    )


@app.command()
@click.argument("application", type=PATH, default=Path(), metavar="APP")
@click.option(
    "--against", type=PATH, help="The bundle of the version before; nothing of it runs."
)
@json_option
@click.pass_context
def check(
    ctx: click.Context, *, application: Path, against: Path | None, as_json: bool
) -> None:
    r"""Refuse what would break consensus, or the state that is there.

    APP is a folder with sealift.toml and app/ (default: here). Its sources are
    read for clocks, floats, randomness, the order of sets, I/O and what is kept
    outside of the state. With --against, storage, calls, getters, events and
    errors are compared with those of a bundle. Each finding has a name, a place and
    a line to write.

    \b
    Examples:
      sealift app check examples/auction/v2 --against auction-v1.bundle
      sealift app check notes --json
    """
    previous = None if against is None else read_bundle(against)
    found = check_application(application, previous)
    rows = [
        {
            "rule": one.rule,
            "file": one.path,
            "line": one.line,
            "what": one.what,
            "write": one.write,
        }
        for one in found
    ]
    if as_json:
        emit_rows("findings", rows, as_json=True)
    for one in found if not as_json else ():
        for line in lines_of(one):
            click.echo(line)
    if found:
        say(f"{len(found)} refused.")
        ctx.exit(EXIT_REFUSED)
    elif not as_json:
        click.echo("nothing to refuse")
