"""Who hosts the two enclaves of a handover: two workers, or one that swaps them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from ._chaos_ground import Ground, old_home
from ._chaos_judge import Seat
from ._chaos_parts import Parts, free_port
from ._chaos_plan import SWAP_VICTIMS, VICTIMS, Victim
from ._demo_stage import BuiltBundle, Stage, write_worker_home

#: The enclaves of a run, by the names that traces have for them.
ENCLAVES: Final = ("old", "new")


class Seen(NamedTuple):
    """What a worker says of one of its enclaves; ``None`` and ``()``: nothing."""

    who: str
    life: int
    imported: int
    state: int | None
    epochs: tuple[int, ...]


class Hosts(Protocol):
    """The workers of a run, and what is in which."""

    #: Whom a seed may have killed.
    victims: tuple[Victim, ...]
    #: The workers in the order in which they start.
    workers: tuple[str, ...]

    def place(self, ground: Ground, l1_url: str) -> dict[str, Path]:
        """Write the homes of all workers, each with what it begins with."""

    def kill(self, victim: Victim) -> bool:
        """SIGKILL to a worker or an enclave; whether it ran."""

    def seat(self, enclave: str) -> Seat:
        """Where an enclave's disk is, and the machine that it runs on."""

    def executor(self, worker: str, height: int, *, upgrade_at: int) -> str:
        """Which enclave a worker speaks of that has executed a block."""

    def life(self, worker: str) -> Counter[str]:
        """How often each enclave of a worker was ended, as far as is known."""

    def seen(
        self, worker: str, said: dict[str, Any], life: Counter[str]
    ) -> Iterator[Seen]:
        """What a worker's status says of its enclaves.

        Args:
            worker: Who said it.
            said: ``/v1/status``.
            life: Since before it was asked.
        """


class TwoWorkers:
    """The old enclave's worker, and another one with the new enclave.

    Args:
        stage: Where they are.
        parts: Their processes.
    """

    victims: tuple[Victim, ...] = VICTIMS
    workers: tuple[str, ...] = ENCLAVES

    def __init__(self, stage: Stage, parts: Parts) -> None:
        self._stage, self._parts = stage, parts

    def place(self, ground: Ground, l1_url: str) -> dict[str, Path]:
        stage, port = self._stage, free_port()
        upstream = f"http://127.0.0.1:{port}"
        old = old_home(ground, stage, l1_url=l1_url, port=port)
        write_worker_home(stage, "new", l1_url=l1_url, upstream=upstream)
        return {"old": old, "new": stage.worker("new")}

    def kill(self, victim: Victim) -> bool:
        whose, what = victim.split()
        if what == "worker":
            return self._parts.kill(whose)
        return self._parts.kill_enclave(whose)

    def seat(self, enclave: str) -> Seat:
        return Seat(self._stage.worker(enclave), enclave)

    def executor(self, worker: str, height: int, *, upgrade_at: int) -> str:
        del height, upgrade_at
        return worker

    def life(self, worker: str) -> Counter[str]:
        return Counter({worker: len(self._parts.parts[worker].ended)})

    def seen(
        self, worker: str, said: dict[str, Any], life: Counter[str]
    ) -> Iterator[Seen]:
        yield Seen(
            who=worker,
            life=life[worker],
            imported=said["imported"],
            state=said["state_height"],
            epochs=tuple(said["epochs"]),
        )


class HotSwap:
    """One worker that finds the new bundle, and runs both enclaves until XYZ.

    Args:
        stage: Where it is.
        parts: Its process.
    """

    victims: tuple[Victim, ...] = SWAP_VICTIMS
    workers: tuple[str, ...] = ("old",)

    def __init__(self, stage: Stage, parts: Parts) -> None:
        self._stage, self._parts = stage, parts
        self._struck: Counter[str] = Counter()

    def place(self, ground: Ground, l1_url: str) -> dict[str, Path]:
        port = free_port()
        home = old_home(ground, self._stage, l1_url=l1_url, port=port, next_to_it=True)
        return {"old": home}

    def kill(self, victim: Victim) -> bool:
        if victim == "worker":
            return self._parts.kill("old")
        enclave = victim.split()[0]
        code = self._bundle(enclave).fingerprint.hex()
        hit = self._parts.kill_one_enclave("old", code)
        self._struck[enclave] += hit
        return hit

    def seat(self, enclave: str) -> Seat:
        home = self._stage.worker("old")
        if enclave == "new":
            home = home / "instances" / self._stage.new.fingerprint.hex()
        return Seat(home, "old")

    def executor(self, worker: str, height: int, *, upgrade_at: int) -> str:
        """The front tells blocks of both: whose it was is judged by who confirms."""
        del worker
        return ENCLAVES[height >= upgrade_at]

    def life(self, worker: str) -> Counter[str]:
        ended = len(self._parts.parts[worker].ended)
        return Counter({one: ended + self._struck[one] for one in ENCLAVES})

    def seen(
        self, worker: str, said: dict[str, Any], life: Counter[str]
    ) -> Iterator[Seen]:
        if life != self.life(worker):  # by whom of its lives it was said is not known
            return
        rows = {row["mrenclave"]: row for row in said["instances"]}
        for one in ENCLAVES:
            code = self._bundle(one).fingerprint.hex()
            row = rows.get(code)
            if row is not None and row["imported"] is not None:
                yield Seen(
                    who=one,
                    life=life[one],
                    imported=row["imported"],
                    state=row["state_height"],
                    epochs=tuple(said["epochs"]) if said["mrenclave"] == code else (),
                )

    def _bundle(self, enclave: str) -> BuiltBundle:
        return self._stage.old if enclave == "old" else self._stage.new
