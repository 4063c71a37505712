"""A program named ``gramine-sgx`` for machines without SGX; it protects nobody.

It does what Gramine does with a signed folder, as far as that can be without SGX:
verifies SIGSTRUCT and manifest, gives the process the manifest's words and
environment and nothing else, hands on stdin, stdout and stderr alone, and refuses
files that are not trusted. Then it *becomes* the enclave process, which runs the
bundle's own ``boot.py``. What stands in is the interpreter (the host's) and the place
of ``/dev/attestation``: its files are answered by a child process, the simulated CPU.
"""

import datetime as dt
import json
import os
import re
import socket
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sealift.bundle import Bundle, make_tbs, measure, sign_sigstruct, verify_sigstruct
from sealift.crypto import sha256, system_entropy
from sealift.insecure_sim import SimIntel, SimMachine
from sealift.testing import AttestationTree
from sealift.transport.gramine import ENCLAVE_NAME, write_gramine_folder

SRC = Path(__file__).resolve().parents[2] / "src"
HERE = Path(__file__).resolve().parent

#: The enclave process's first code here: boot.py, but for the place of the files.
ENTRY = r"""
import errno, json, os, runpy, socket, sys

bundle, boot, *words, cpu = sys.argv[1:]
channel = socket.socket(fileno=int(cpu)).makefile("rwb")

def ask(**question):
    channel.write(json.dumps(question).encode() + b"\n")
    channel.flush()
    answer = json.loads(channel.readline())
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    return answer

class File:
    def __init__(self, path, mode):
        self.number = ask(do="open", path=path, mode=mode)["file"]
    def read(self, size):
        return bytes.fromhex(ask(do="read", file=self.number, size=size)["data"])
    def write(self, data):
        return ask(do="write", file=self.number, data=bytes(data).hex())["taken"]
    def close(self):
        ask(do="close", file=self.number)

before = list(sys.path)
sys.path += [bundle, bundle + "/site", bundle + "/app"]
from sealift.enclave import _gramine
sys.path[:] = before  # boot.py makes its own
_gramine.GramineSgx.__init__.__kwdefaults__["opener"] = File
sys.argv[:] = [boot, *words]
runpy.run_path(boot, run_name="__main__")
"""


class GramineError(Exception):
    """What the stand-in refuses, as Gramine does: it ends with a line on stderr."""


def parsed(manifest: str) -> dict[str, Any]:
    """A manifest after gramine-manifest: what stands between braces is filled in."""
    text = manifest.replace("{{ gramine.libos }}", "/gramine/libsysdb.so")
    text = text.replace("{{ gramine.runtimedir() }}", "/gramine/runtime/glibc")
    if "{{" in text or re.search(r"@[A-Z_]+@", text):
        raise GramineError("the manifest is not rendered")
    return tomllib.loads(text)


def sign(bundle: Bundle, folder: Path, vendor: bytes) -> bytes:
    """``sealift gramine manifest``, ``gramine-manifest`` and ``gramine-sgx-sign``.

    Returns:
        The fingerprint: here a measurement of the manifest, which has all hashes.
    """
    template = write_gramine_folder(bundle, folder)
    manifest = template.read_text()
    said = parsed(manifest)["sgx"]
    (folder / f"{ENCLAVE_NAME}.manifest.sgx").write_text(manifest)
    measured = measure({"sealift.manifest.sgx": manifest.encode()})
    tbs = make_tbs(
        measured,
        isv_prod_id=said["isvprodid"],
        isv_svn=said["isvsvn"],
        date=dt.date(2026, 1, 1),
    )
    (folder / f"{ENCLAVE_NAME}.sig").write_bytes(sign_sigstruct(tbs, vendor))
    return measured.mrenclave


def install(bin_folder: Path, sim: Path, machine: str) -> None:
    """Put ``gramine-sgx`` for one simulated machine into a folder."""
    bin_folder.mkdir(parents=True, exist_ok=True)
    program = bin_folder / "gramine-sgx"
    program.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path[:0] = [{str(SRC)!r}, {str(HERE)!r}]\n"
        "import gramine_stand_in\n"
        f"gramine_stand_in.main({str(sim)!r}, {machine!r}, sys.argv[1:])\n"
    )
    program.chmod(0o755)


def main(sim: str, machine: str, words: list[str]) -> None:
    """What the program does; does not return."""
    try:
        start(sim, machine, words)
    except GramineError as error:
        sys.exit(f"error: {error}")


def start(sim: str, machine: str, words: list[str]) -> None:
    name, *rest = words
    folder = Path.cwd()
    manifest = (folder / f"{name}.manifest.sgx").read_text()
    said = parsed(manifest)
    if rest and not said["loader"].get("insecure__use_cmdline_argv"):
        raise GramineError("command-line arguments are not allowed by the manifest")
    sigstruct = (folder / f"{name}.sig").read_bytes()
    measured = measure({"sealift.manifest.sgx": manifest.encode()})
    if verify_sigstruct(sigstruct).mrenclave != measured.mrenclave:
        raise GramineError("the signature is of another enclave")
    check_trusted(said, folder)
    cpu = SimMachine(SimIntel(Path(sim)), machine, entropy=system_entropy)
    tree = AttestationTree(
        cpu,
        cpu.einit(measured, sigstruct),
        attestation_type=said["sgx"]["remote_attestation"],
    )
    mine, theirs = socket.socketpair()
    if os.fork() == 0:
        theirs.close()
        for descriptor in (0, 1):
            os.close(descriptor)
        answer(mine, tree)
        os._exit(0)
    mine.close()
    theirs.set_inheritable(True)
    become(said, folder, theirs.fileno())


def check_trusted(said: Mapping[str, Any], folder: Path) -> None:
    """Every file of the mounted bundle is trusted by its hash, as when it is opened."""
    trusted = {
        one["uri"]: one["sha256"]
        for one in said["sgx"]["trusted_files"]
        if isinstance(one, dict)
    }
    for path in sorted((folder / "bundle").rglob("*")):
        if path.is_file():
            uri = f"file:{path.relative_to(folder)}"
            if trusted.get(uri) != sha256(path.read_bytes()).hex():
                raise GramineError(f"{uri} is not a trusted file")


def become(said: Mapping[str, Any], folder: Path, cpu: int) -> None:
    """The enclave process: the manifest's words and environment, and no others."""
    python, *argv = said["loader"]["argv"]
    if not re.fullmatch(r"python3\.[0-9]+", python):
        raise GramineError(f"not an interpreter: {python}")
    at = argv.index("/bundle/boot.py")
    bundle = str(folder / "bundle")
    os.execve(
        sys.executable,
        [
            sys.executable, *argv[:at], "-c", ENTRY,
            bundle, f"{bundle}/boot.py", *argv[at + 1 :], str(cpu),
        ],
        dict(said["loader"]["env"]),
    )  # fmt: skip


def answer(channel: socket.socket, tree: AttestationTree) -> None:
    """Be the CPU behind the files until the enclave is gone."""
    stream = channel.makefile("rwb")
    files: dict[int, Any] = {}
    while line := stream.readline():
        question = json.loads(line)
        try:
            reply = act(tree, files, question)
        except OSError as error:
            reply = {"errno": error.errno}
        stream.write(json.dumps(reply).encode() + b"\n")
        stream.flush()


def act(
    tree: AttestationTree, files: dict[int, Any], question: dict[str, Any]
) -> dict[str, Any]:
    if question["do"] == "open":
        number = len(files)
        files[number] = tree.open(question["path"], question["mode"])
        return {"file": number}
    file = files[question["file"]]
    match question["do"]:
        case "read":
            return {"data": file.read(question["size"]).hex()}
        case "write":
            return {"taken": file.write(bytes.fromhex(question["data"]))}
        case _:
            file.close()
            return {}
