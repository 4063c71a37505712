"""``sealift gramine``: a bundle as Gramine starts it, on Intel SGX."""

from pathlib import Path

import click

from sealift.transport.gramine import (
    ENCLAVE_NAME,
    read_gramine_sigstruct,
    write_gramine_folder,
)

from ._cards import read_bundle
from ._output import emit, json_option, say
from ._params import PATH


@click.group()
def gramine() -> None:
    r"""A bundle as Gramine starts it, on Intel SGX: docs/real-hardware.md.

    \b
    Example:
      sealift gramine manifest auction-v1.bundle -o auction-v1.gramine
    """


@gramine.command()
@click.argument("bundle", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The folder to make.")
@json_option
def manifest(*, bundle: Path, out: Path, as_json: bool) -> None:
    r"""Unpack a signed BUNDLE, and write the manifest that trusts it alone.

    What is left to do is Gramine's: gramine-manifest, then gramine-sgx-sign.

    \b
    Example:
      sealift gramine manifest auction-v1.bundle -o auction-v1.gramine
    """
    template = write_gramine_folder(read_bundle(bundle), out)
    name = ENCLAVE_NAME
    say(
        f"Next, where Gramine is, in {out}:\n"
        f"  gramine-manifest {template.name} {name}.manifest\n"
        f"  gramine-sgx-sign --manifest {name}.manifest --output {name}.manifest.sgx "
        "--key VENDOR_KEY --date YYYY-MM-DD\n"
        f"  sealift gramine fingerprint {out}"
    )
    emit({"folder": str(out), "template": str(template)}, as_json=as_json)


@gramine.command()
@click.argument("folder", type=PATH)
@json_option
def fingerprint(*, folder: Path, as_json: bool) -> None:
    r"""Print the MRENCLAVE that gramine-sgx-sign signed in FOLDER.

    For `--code gramine-sgx=FINGERPRINT` of `sealift gov propose`.

    \b
    Example:
      sealift gramine fingerprint auction-v1.gramine
    """
    signed = read_gramine_sigstruct(folder)
    if not as_json:
        click.echo(signed.mrenclave.hex())
        return
    emit(
        {
            "mrenclave": signed.mrenclave,
            "mrsigner": signed.mrsigner,
            "isv_prod_id": signed.isv_prod_id,
            "isv_svn": signed.isv_svn,
        },
        as_json=True,
    )
