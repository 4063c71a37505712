"""From what was seen of a real handover to moves of the explorer's model.

A trace (``sealift chaos --trace``) tells of L1's blocks with their acts, and of what
workers said of their enclaves. The model has one act in a block, and one block in
a confirmation. So a real block becomes as many of the model as it holds acts, and a
confirmation one for each block of the model that it covers; every real height has
its place in the model, and the order of everything stays.

What is seen               What the model does
-------------------------  ------------------------------------------------------
a block                    its acts, one block each; without any: ``nothing``
the order                  ``schedule b``
a registration             ``register …``; a session that was open is dropped
a counted confirmation     ``confirm by …``, once for each block it covers: before,
                           that enclave has executed it, or cannot have signed it
staged keys                ``stage by …``
an executed block          ``show …`` and ``… executes …``, by this very enclave,
                           under its generation
a status                   the same, as far as it says: shown, state, keys held
new keys of an enclave     ``… gives keys to …``, by the other one
a state that fell back     ``roll … back`` to a disk that was copied when it stood
after kill -9              there

Left out: the handover certificate (looked at here, no move), holding of staged keys,
collateral, births; how much a restarted relay has to be shown again (the model's
enclave keeps what it was shown: whoever knows more may refuse more, not less);
processes as such: a dead one makes no moves.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handover_model import CODE, Explored, Rules, Terms, World

from sealift.protocol import EntryStatus

ENCLAVES = {"old": "a", "new": "b"}
FORMAT = 1
NEVER = 10**6


class NoPathError(Exception):
    """What was seen is no path of the model."""


@dataclass
class Trace:
    """A trace as it is read, with the place of each real height in the model."""

    params: dict[str, int]
    events: list[dict[str, Any]]
    origin: int = 0
    places: dict[int, int] = field(default_factory=dict)
    acts: dict[int, list[list[Any]]] = field(default_factory=dict)
    confirmed: int = 0

    @classmethod
    def read(cls, path: Path) -> "Trace":
        raw = json.loads(path.read_text())
        assert raw["format"] == FORMAT
        return cls(raw["params"], raw["events"]).placed()

    def placed(self) -> "Trace":
        """Give every real height its place: the last of its blocks in the model."""
        blocks = [e for e in self.events if e["what"] == "block"]
        numbers = [e["height"] for e in blocks]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise NoPathError("blocks are missing or doubled")
        first = next(act for e in blocks for act in e["acts"] if act[0] == "confirm")
        self.origin = self.confirmed = first[2] - 1
        self.places, at = {self.origin: 0}, 0
        for event in blocks:
            height = event["height"]
            if height > self.origin:
                self.acts[height] = [
                    one for act in event["acts"] for one in self._of_model(height, *act)
                ]
                at += max(1, len(self.acts[height]))
                self.places[height] = at
        return self

    def _of_model(
        self, height: int, what: str, who: str, *more: int
    ) -> Iterator[list[Any]]:
        """An act of a real block as the acts of the model that it is."""
        if what in {"schedule", "stage"} or (what == "register" and who in ENCLAVES):
            yield [what, who]
        elif what == "certificate" and more[0] != self.params["upgrade_at"] - 1:
            raise NoPathError(f"a certificate of block {more[0]}")
        elif what == "confirm" and more[1] > self.confirmed:
            if more[0] != self.confirmed + 1:
                raise NoPathError(f"{more[0]} is confirmed after {self.confirmed}")
            if more[1] >= height:
                raise NoPathError(f"{more[1]} is confirmed in block {height}")
            count = self.places[more[1]] - self.places[self.confirmed]
            self.confirmed = more[1]
            yield from [["confirm", who, more[2]]] * count

    def first_of(self, height: int) -> int:
        """The first of a real block's blocks in the model."""
        return self.places[height - 1] + 1

    def terms(self) -> Terms:
        params = self.params
        rescue = params["upgrade_at"] + params["rescue_after"]
        if max(self.places) >= rescue:
            raise NoPathError("a run that is long enough for a rescue is not mapped")
        return Terms(
            notice=params["min_notice"],
            rescue_after=NEVER,
            release_from=self.first_of(params["release_from"]),
            upgrade_at=self.first_of(params["upgrade_at"]),
        )


class Walk:
    """The model, led along a trace; any move that it does not offer ends it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.model = Explored(Rules(), last=NEVER, terms=trace.terms())
        self.world: World = self.model.begin()
        self.moves: list[str] = []
        self.block = trace.origin
        self.lives: dict[str, int] = {}
        self.falls = self._falls()

    # --- one move ---

    def move(self, what: str) -> None:
        after = self.model.moved(self.world, what)
        if after is None:
            raise NoPathError(
                f"no move of the model: {what!r}, after " + ", ".join(self.moves[-6:])
            )
        self.moves.append(what)
        self.world = after

    def can(self, what: str) -> bool:
        return self.model.moved(self.world, what) is not None

    # --- the chain ---

    def make(self, height: int) -> None:
        """All blocks up to a real height."""
        while self.block < height:
            if self.block + 1 not in self.trace.acts:
                raise NoPathError(f"block {self.block + 1} was never seen")
            self.block += 1
            acts = self.trace.acts[self.block] or [["nothing"]]
            for act in acts:
                self._act(*act)

    def _act(self, what: str, who: str = "", generation: int = 0) -> None:
        name = ENCLAVES.get(who, "")
        number = self.world.height + 1
        if what == "nothing":
            self.move(f"block {number}: nothing")
        elif what == "schedule":
            self.move(f"block {number}: schedule b")
        elif what == "register":
            if self.world.asked is not None:
                self.move("drop the session")
            self.move(f"block {number}: register {name}")
        elif what == "stage":
            self.know(name, self.world.height)
            self.move(f"block {number}: stage by {name}")
        elif what == "confirm":
            wanted = self.world.chain[-1].confirmed + 1
            self.reach(name, wanted)
            self.move(f"block {number}: confirm by {name}")
            if self.world.chain[-1].generation != generation:
                raise NoPathError(f"confirmed by generation {generation}")

    # --- enclaves ---

    def know(self, name: str, place: int) -> None:
        """An enclave has been shown the chain up to a place of the model."""
        while self.world.enclave(name).shown < place:
            self.move(f"show {self.world.enclave(name).shown + 1} to {name}")

    def reach(self, name: str, place: int) -> None:
        """An enclave's state stands after a place of the model, or later."""
        if not self.world.enclave(name).epochs:
            self.keys(name)
        while (state := self.world.enclave(name).state) < place:
            self.know(name, min(place, state + 1))
            if not self.can(f"{name} executes {state + 1}"):
                self._help(name, state + 1)
            self.move(f"{name} executes {state + 1}")
            self._copy(name)

    def _help(self, name: str, wanted: int) -> None:
        """It waits for a diff of the other one, which was not heard of yet."""
        if any(height == wanted for height, _ in self.world.executed):
            return
        other = "b" if name == "a" else "a"
        if (
            self.world.enclave(other).state < wanted
            and self.world.enclave(other).epochs
        ):
            self.know(other, wanted)
            if self.can(f"{other} executes {wanted}"):
                self.move(f"{other} executes {wanted}")
                self._copy(other)

    def keys(self, name: str) -> None:
        """It got keys from the other one, by its open session."""
        other = "b" if name == "a" else "a"
        self.know(other, self.world.enclave(name).attested)
        self.move(f"{other} gives keys to {name}")

    # --- disks ---

    def _falls(self) -> dict[str, list[int]]:
        """By enclave: the real heights that its state fell back to, in order."""
        found: dict[str, list[int]] = {"a": [], "b": []}
        last: dict[str, tuple[int, int]] = {}
        for event in self.trace.events:
            if event["what"] != "status" or event["state"] is None:
                continue
            name = ENCLAVES[event["who"]]
            life, state = last.get(name, (event["life"], 0))
            if event["state"] < state:
                if event["life"] == life:
                    raise NoPathError(f"{event['who']} lost state without a restart")
                found[name].append(event["state"])
            last[name] = (event["life"], event["state"])
        return found

    def _copy(self, name: str) -> None:
        """Copy the disk where it will be fallen back to."""
        falls = self.falls[name]
        state = self.world.enclave(name).state
        if falls and state == self.trace.places.get(falls[0]):
            what = f"copy the disk of {name}"
            if self.can(what):
                self.move(what)

    def fall(self, name: str, height: int) -> None:
        place = self.trace.places[height]
        self.move(f"roll {name} back")
        self.falls[name].remove(height)
        if self.world.enclave(name).state != place:
            raise NoPathError(f"{name} fell back to a state that it never had")

    # --- what was seen ---

    def walk(self) -> "Walk":
        """Along all events; then to the end of the chain."""
        for event in self.trace.events:
            getattr(self, "_" + event["what"], self._other)(event)
        self.make(max(self.trace.places))
        self.know_all()
        return self

    def _other(self, event: dict[str, Any]) -> None:
        if event["what"] not in {"killed", "ended", "ready", "stopped"}:
            raise NoPathError(f"an event of no kind: {event['what']}")

    def _block(self, event: dict[str, Any]) -> None:
        if event["height"] > self.trace.origin:
            self.make(event["height"])

    def _executed(self, event: dict[str, Any]) -> None:
        height, name = event["height"], ENCLAVES[event["who"]]
        if height <= self.trace.origin:
            return
        self.make(height)
        first, last = self.trace.first_of(height), self.trace.places[height]
        self.reach(name, last)
        generation = int(height >= self.trace.params["upgrade_at"])
        mine = name == "ab"[generation]
        ran = all(
            (place, generation) in self.world.executed
            for place in range(first, last + 1)
        )
        if not (mine and ran):
            raise NoPathError(f"{event['who']} executed {height}, which is not its own")

    def _status(self, event: dict[str, Any]) -> None:
        name = ENCLAVES[event["who"]]
        imported, state = event["imported"], event["state"]
        if imported > self.trace.origin:
            self.make(imported)
            self.know(name, self.trace.places[imported])
        if event["epochs"] and not self.world.enclave(name).epochs:
            self.keys(name)
        if state is not None and state > self.trace.origin:
            self.make(state)
            place = self.trace.places[state]
            falls = self.falls[name]
            above = self.world.enclave(name).state > place
            reborn = self.lives.get(name) != event["life"]
            if falls and falls[0] == state and above and reborn:
                self.fall(name, state)
            self.reach(name, place)
        self.lives[name] = event["life"]
        held = self.world.enclave(name).epochs
        if not set(event["epochs"]) <= held:
            raise NoPathError(f"{event['who']} holds {event['epochs']}, model: {held}")

    def know_all(self) -> None:
        for name in CODE:
            self.know(name, self.world.height)

    # --- where it ends ---

    def differences(self) -> Iterator[str]:
        """How the model's last state differs from what L1 had at the end."""
        newest = self.model.schedule(self.world.chain[-1])
        old, new = newest.entries
        if (old.status, new.status) != (EntryStatus.RETIRED, EntryStatus.ACTIVE):
            yield f"generations are {old.status} and {new.status}"
        confirmed = self.world.chain[-1].confirmed
        if confirmed != self.trace.places[self.trace.confirmed]:
            yield f"the model has confirmed {confirmed}"
        if self.world.chain[-1].generation != 1:
            yield "the last confirmation is not of the new generation"
        upgrade_at = self.model.terms.upgrade_at or 0
        for height, generation in self.world.executed:
            if generation != (height >= upgrade_at):
                yield f"{height} was executed by generation {generation}"
        broken = self.model.violation(self.world)
        if broken:
            yield broken


def follow(trace: Trace) -> Walk:
    """The path of the model along a trace.

    Raises:
        NoPathError: There is none, or it ends elsewhere.
    """
    path = Walk(trace).walk()
    for difference in path.differences():
        raise NoPathError(difference)
    return path
