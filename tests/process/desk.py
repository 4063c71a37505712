"""People at the command line: every command they give is a process of its own."""

import asyncio
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from cast import MIN_NOTICE, PATIENCE, SEALIFT, Cast

from sealift.base import ShardId
from sealift.cli import run_cli
from sealift.cli._demo_stage import user_secret
from sealift.crypto import account_of
from sealift.node import SoloHome
from sealift.transport.keys import write_account_key

#: Commands are forked from a process that has imported them once: starting an
#: interpreter takes longer than most of them do.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [f"sealift.cli.{name}" for name in ("_gov", "_client", "_shard")]
)


def _obey(words: tuple[str, ...], out: Path, err: Path) -> None:
    """In a process of its own: one command, what it says into files."""
    for stream, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, stream)
    sys.exit(run_cli(words))


@dataclass(frozen=True)
class Said:
    """Exit code, stdout and stderr of one command, and how long it took."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


class Desk:
    """Where the people of a shard sit: their key files, and its card.

    Args:
        cast: Its chain runs.
        people: Names, and what each has in the shard from the beginning.
    """

    def __init__(self, cast: Cast, people: dict[str, int]) -> None:
        self._cast = cast
        self.folder = cast.stage.folder / "desk"
        self.folder.mkdir()
        self.card = self.folder / "card.json"
        self.people = people
        self._given = 0
        self.accounts = {
            name: write_account_key(self.key(name), user_secret(5_000 + number)).hex()
            for number, name in enumerate(people)
        }

    def key(self, name: str) -> Path:
        """A key file: of one of the people, or of an account of the chain."""
        if name in ("authority", "carrier", "old", "new"):
            return SoloHome(self._cast.stage.chain).account_key(name)
        return self.folder / f"{name}.json"

    async def give(self, *words: object, within: float = PATIENCE) -> Said:
        """Give one command and wait for its end; it is killed if that never comes."""
        said = tuple(str(word) for word in words)
        self._given += 1
        started = time.monotonic()
        out, err = (self.folder / f"{self._given}.{name}" for name in ("out", "err"))
        process = _PROCESSES.Process(target=_obey, args=(said, out, err))
        process.start()
        try:
            async with asyncio.timeout(within):
                while process.exitcode is None:
                    await asyncio.sleep(0.02)
        finally:
            process.kill()  # harmless if it has ended
            process.join()
        code = process.exitcode or 0
        return Said(
            words=said,
            code=code,
            out=out.read_text(),
            err=err.read_text(),
            seconds=time.monotonic() - started,
        )

    async def give_afresh(self, *words: object) -> Said:
        """A command as a shell would give it: a new interpreter, the real door."""
        said = tuple(str(word) for word in words)
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *SEALIFT,
            *said,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        code = process.returncode
        return Said(
            words=said,
            code=-1 if code is None else code,
            out=out.decode(),
            err=err.decode(),
            seconds=time.monotonic() - started,
        )

    async def as_(self, name: str, *words: object) -> Said:
        """A command that takes a card and a key, given by one of the people."""
        return await self.give(*words, "--card", self.card, "--key", self.key(name))

    async def ask(self, name: str, *words: object) -> Any:
        """The same; what it answers to programs."""
        said = await self.as_(name, *words, "--json")
        return self.answer(said)

    async def look(self, *words: object) -> Any:
        """A command that takes only a card; what it answers to programs."""
        return self.answer(await self.give(*words, "--card", self.card, "--json"))

    def answer(self, said: Said) -> Any:
        """What a command that succeeded answers."""
        if said.code:
            raise AssertionError(f"{said}\n{self._cast.words()}")
        return said.json

    async def found_shard(self, authority: dict[str, object], *more: object) -> None:
        """A shard governed so, two workers that run it, and its card."""
        cast, stage = self._cast, self._cast.stage
        paper, state = self.folder / "authority.json", self.folder / "state.json"
        genesis = self.folder / "genesis.bin"
        paper.write_text(json.dumps(authority))
        sudo = account_of(stage.keys["authority"])
        endowments = [
            {"account": self.accounts[name], "free": free}
            for name, free in self.people.items()
            if free
        ]
        state.write_text(
            json.dumps(
                {
                    "balances": {"endowments": endowments},
                    "sudo": {"key": sudo.hex()},
                }
            )
        )
        made = await self.give(
            "shard", "create", "--rpc", cast.parts["chain"].url,
            "--payer", self.key("authority"), "--authority-json", paper,
            "--bundle", stage.old.path, "--state", state, "--genesis", genesis,
            "--card", self.card, "--min-notice", MIN_NOTICE, "--rescue-after", 400,
            "--page-bits", 8, *more, "--json",
        )  # fmt: skip
        shard = ShardId(bytes.fromhex(self.answer(made)["shard"]))
        cast.stage = replace(stage, genesis=genesis.read_bytes(), shard=shard)
        cast.home("old")
        cast.run_worker("old")
        await cast.up("old")
        await cast.until_status("old", lambda s: s["state_height"] is not None)
        home = cast.home("second", machine="new", upstream=cast.parts["old"].url)
        cast.run_worker("second", home)
        await cast.up("second")
        await cast.until_status("second", lambda s: s["state_height"] and s["ok"])
        await self.know("old", "second")

    async def know(self, *workers: str) -> None:
        """The card names these workers."""
        urls = [("--worker", self._cast.parts[name].url) for name in workers]
        words = [word for pair in urls for word in pair]
        made = await self.give(
            "shard", "card", "--from", self.card, *words, "-o", self.card, "--json"
        )
        self.answer(made)
