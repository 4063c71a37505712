"""``sealift build | sign | measure | inspect``: bundles and their identity."""

import datetime as dt
import os
from dataclasses import replace
from pathlib import Path

import click
from asn1crypto import keys, pem

from sealift.attestation import TrustAnchor, parse_trust_anchor
from sealift.base import decode
from sealift.bundle import (
    Bundle,
    SigstructError,
    attach_signature,
    attach_sigstruct,
    encode_bundle,
    first_difference,
    measure,
    parse_bundle,
    verify_bundle,
)
from sealift.crypto import rsa_generate
from sealift.frame import RuntimeMetadata
from sealift.transport.build import write_bundle
from sealift.transport.bundle_folder import read_bundle_file
from sealift.transport.files import (
    read_or_explain,
    read_private_key,
    write_durably,
    write_private_key,
)

from ._app_check import require_good
from ._application import Trust, build_application, sign_bundle, tbs_of
from ._errors import EXIT_REFUSED
from ._output import emit, emit_rows, json_option, say
from ._params import PATH, read_trust_root, wall_clock

_METADATA = "metadata.bin"
_DAY = "%Y-%m-%d"

date_option = click.option(
    "--date",
    type=click.DateTime([_DAY]),
    help="Date in the SIGSTRUCT (default: SOURCE_DATE_EPOCH, else today).",
)


@click.command()
@click.argument("application", type=PATH)
@click.option(
    "--trust-root",
    "trust_root",
    type=PATH,
    required=True,
    help="trust_root.json of the L1 chain; measured.",
)
@click.option(
    "--root",
    "roots",
    type=PATH,
    multiple=True,
    required=True,
    help="Attestation root (DER or PEM); repeatable, measured.",
)
@click.option("--key", type=PATH, help="Vendor key (PEM); without it, unsigned.")
@click.option("-o", "--out", type=PATH, help="The bundle to write.")
@click.option("--check", type=PATH, help="Build again and compare with this bundle.")
@click.option(
    "--previous",
    type=PATH,
    help="The bundle of the version before: refuse what may not follow it.",
)
@date_option
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    *,
    application: Path,
    trust_root: Path,
    roots: tuple[Path, ...],
    key: Path | None,
    out: Path | None,
    check: Path | None,
    previous: Path | None,
    date: dt.datetime | None,
    as_json: bool,
) -> None:
    r"""Build the measured bundle of an application.

    APPLICATION is a folder with sealift.toml and app/. The same source, lock and
    target give the same MRENCLAVE on any machine. With --previous, what
    `sealift app check` refuses is not built.

    \b
    Examples:
      sealift build examples/auction/v1 --trust-root chain/trust_root.json \
        --root sim/root.der --key vendor.pem -o auction-v1.bundle
      sealift build examples/auction/v1 --trust-root chain/trust_root.json \
        --root sim/root.der --check auction-v1.bundle
      sealift build examples/auction/v2 --trust-root chain/trust_root.json \
        --root sim/root.der --previous auction-v1.bundle -o auction-v2.bundle
    """
    if (out is None) == (check is None):
        raise click.UsageError("Give -o OUT to build, or --check BUNDLE to compare.")
    trust = Trust(l1=read_trust_root(trust_root), roots=_anchors(roots))
    if previous is not None:
        require_good(application, parse_bundle(read_bundle_file(previous)))
    bundle = build_application(application, trust)
    if check is not None:
        _check(ctx, bundle, check, as_json=as_json)
        return
    if key is not None:
        pem_bytes = read_private_key(key, what="vendor key", hint=_KEY_HINT)
        bundle = sign_bundle(bundle, pem_bytes, date=_date(date))
    else:
        say("The bundle is not signed: no platform starts it before `sealift sign`.")
    if out is not None:
        write_bundle(out, encode_bundle(bundle))
    emit({"bundle": str(out), **_identity(bundle)}, as_json=as_json)


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.option("--new-key", type=PATH, help="Make a vendor key (RSA-3072, PEM).")
@click.option("--key", type=PATH, help="Sign with this vendor key.")
@click.option(
    "--tbs",
    type=PATH,
    help="Write the 256 bytes to sign elsewhere; with --attach, read them.",
)
@click.option("--attach", type=PATH, help="A signature (384 bytes) made elsewhere.")
@click.option("--public", type=PATH, help="With --attach: the public key, PEM.")
@click.option("-o", "--out", type=PATH, help="Where to write (default: in place).")
@date_option
@json_option
def sign(
    *,
    bundle: Path | None,
    new_key: Path | None,
    key: Path | None,
    tbs: Path | None,
    attach: Path | None,
    public: Path | None,
    out: Path | None,
    date: dt.datetime | None,
    as_json: bool,
) -> None:
    r"""Sign a bundle as its vendor, here or with a key that stays offline.

    \b
    Examples:
      sealift sign --new-key vendor.pem
      sealift sign auction.bundle --key vendor.pem
      sealift sign auction.bundle --tbs tbs.bin
      openssl dgst -sha256 -sign vendor.pem -out tbs.sig tbs.bin
      sealift sign auction.bundle --tbs tbs.bin --attach tbs.sig --public vendor.pub
    """
    if new_key is not None:
        write_private_key(new_key, rsa_generate())
        emit({"vendor_key": str(new_key)}, as_json=as_json)
        return
    if bundle is None:
        raise click.UsageError("Which bundle? Give BUNDLE, or --new-key.")
    unsigned = replace(parse_bundle(read_bundle_file(bundle)), sigstruct=None)
    if key is not None:
        pem_bytes = read_private_key(key, what="vendor key", hint=_KEY_HINT)
        signed = sign_bundle(unsigned, pem_bytes, date=_date(date))
    elif attach is not None and tbs is not None and public is not None:
        sigstruct = attach_signature(
            read_or_explain(tbs, what="signed bytes"),
            _modulus(public),
            read_or_explain(attach, what="signature"),
        )
        signed = attach_sigstruct(unsigned, sigstruct)
    elif tbs is not None and attach is None:
        write_durably(tbs, tbs_of(unsigned, date=_date(date)))
        emit({"tbs": str(tbs), **_identity(unsigned)}, as_json=as_json)
        return
    else:
        raise click.UsageError(
            "Give --key, or --tbs, or --tbs with --attach and --public."
        )
    target = out if out is not None else bundle
    write_bundle(target, encode_bundle(signed))
    emit({"bundle": str(target), **_identity(signed)}, as_json=as_json)


@click.command("measure")
@click.argument("bundle", type=PATH)
@json_option
def measure_command(*, bundle: Path, as_json: bool) -> None:
    r"""Print the MRENCLAVE of a bundle, measured now.

    \b
    Example:
      sealift measure auction-v1.bundle
    """
    measured = measure(parse_bundle(read_bundle_file(bundle)).files)
    if as_json:
        answer = {"mrenclave": measured.mrenclave, "pages": measured.pages}
        emit(answer, as_json=True)
    else:
        click.echo(measured.mrenclave.hex())


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--calls", is_flag=True, help="List the calls of its runtime.")
@json_option
def inspect(*, bundle: Path, calls: bool, as_json: bool) -> None:
    r"""Say everything that a bundle says about itself.

    \b
    Example:
      sealift inspect auction-v1.bundle --calls
    """
    parsed = parse_bundle(read_bundle_file(bundle))
    if calls:
        emit_rows("calls", _calls(parsed), as_json=as_json)
        return
    manifest = parsed.manifest
    answer = {
        **_identity(parsed),
        "target": manifest.target,
        "runtime": manifest.entry,
        "l1_chain": manifest.l1.chain_id,
        "l1_height": manifest.l1.height,
        "l1_header_hash": manifest.l1.header_hash,
        "attestation_roots": [root.kind for root in manifest.attestation_roots],
        "ecall_versions": list(manifest.ecall_versions),
        "metadata": manifest.metadata,
        "wheels": sorted(parsed.wheels()),
        "files": len(parsed.files),
    }
    emit(answer, as_json=as_json)


_KEY_HINT = "`sealift sign --new-key vendor.pem` makes one"


def _identity(bundle: Bundle) -> dict[str, object]:
    """Who a bundle is; who signed it, if anybody did."""
    measured = measure(bundle.files)
    manifest = bundle.manifest
    answer: dict[str, object] = {
        "name": manifest.name,
        "version": manifest.version,
        "mrenclave": measured.mrenclave,
        "isv_prod_id": manifest.isv_prod_id,
        "isv_svn": manifest.isv_svn,
        "pages": measured.pages,
        "signed": bundle.sigstruct is not None,
    }
    if bundle.sigstruct is not None:
        try:
            verified = verify_bundle(bundle)
        except SigstructError as error:
            answer["signature"] = f"invalid: {error}"
        else:
            answer["mrsigner"] = verified.sigstruct.mrsigner
            answer["date"] = verified.sigstruct.date.isoformat()
    return answer


def _check(ctx: click.Context, built: Bundle, path: Path, *, as_json: bool) -> None:
    """Compare a fresh build with a bundle, page by page."""
    other = parse_bundle(read_bundle_file(path))
    found = first_difference(built.files, other.files)
    answer: dict[str, object] = {
        "same": found is None,
        "built": measure(built.files).mrenclave,
        "bundle": measure(other.files).mrenclave,
    }
    if found is not None:
        answer["first_difference"] = {
            "page": found.page,
            "file": found.path,
            "offset": found.offset,
            "reason": found.reason,
        }
    emit(answer, as_json=as_json)
    if found is not None:
        ctx.exit(EXIT_REFUSED)


def _calls(bundle: Bundle) -> list[dict[str, object]]:
    metadata = decode(RuntimeMetadata, bundle.files[_METADATA])
    return [
        {
            "call": f"{pallet.name}.{call.name}",
            "arguments": ", ".join(field.name for field in call.args),
            "what": (call.doc.splitlines() or [""])[0],
        }
        for pallet in metadata.pallets
        for call in pallet.calls
    ]


def _anchors(roots: tuple[Path, ...]) -> tuple[TrustAnchor, ...]:
    return tuple(
        parse_trust_anchor(read_or_explain(path, what="attestation root"))
        for path in roots
    )


def _date(given: dt.datetime | None) -> dt.date:
    if given is not None:
        return given.date()
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isdecimal() else wall_clock().now().seconds
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date()


def _modulus(path: Path) -> int:
    """The RSA modulus of a public key in PEM.

    Raises:
        SigstructError: Not an RSA public key.
    """
    raw = read_or_explain(path, what="public key")
    try:
        _, _, der = pem.unarmor(raw)
        parsed = keys.PublicKeyInfo.load(der, strict=True)
        return int(parsed["public_key"].parsed["modulus"].native)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SigstructError(
            "not an RSA public key",
            got=str(path),
            expected="PEM, as `openssl rsa -pubout` writes it",
        ) from error
