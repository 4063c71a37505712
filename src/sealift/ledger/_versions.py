"""The released versions of the L1 runtime, as a table.

A version's rules never change once it was released: a block is executed with the
version that the state before it says, today and whenever a lost state is made again
from blocks. What changes is a new version's, in a package of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sealift.relay import ValidatorSet

from ._errors import UnknownRuntimeVersionError
from ._genesis import FIRST_RUNTIME, LedgerGenesis
from ._ports import QuoteVerifier
from ._runtime import LedgerPallets, compose, genesis_config
from .v2 import SECOND_RUNTIME
from .v2 import compose as compose_v2
from .v3 import THIRD_RUNTIME
from .v3 import compose as compose_v3


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeVersion:
    """One version of the rules of L1.

    Its pallets take over the state of the version before by ``on_runtime_upgrade``,
    and check it by ``pre_upgrade`` and ``post_upgrade``.

    Attributes:
        number: By which root plans it, and the state names it.
        compose: Makes its pallets; the argument judges quotes and collateral.
        genesis: What its pallets begin with on a chain that begins with it.
    """

    number: int
    compose: Callable[[QuoteVerifier], LedgerPallets]
    genesis: Callable[[LedgerGenesis, ValidatorSet], dict[str, object]] = genesis_config


def version_table(*versions: RuntimeVersion) -> Mapping[int, RuntimeVersion]:
    """Versions by their numbers."""
    return MappingProxyType({one.number: one for one in versions})


#: Every version that this program has.
RUNTIME_VERSIONS: Final = version_table(
    RuntimeVersion(number=FIRST_RUNTIME, compose=compose),
    RuntimeVersion(number=SECOND_RUNTIME, compose=compose_v2),
    RuntimeVersion(number=THIRD_RUNTIME, compose=compose_v3),
)
#: The newest of them; its metadata has the calls of all.
NEWEST_RUNTIME: Final = max(RUNTIME_VERSIONS)


class Compositions:
    """The pallets of each version, made when they are first needed.

    Args:
        verifier: Judges quotes and collateral.
        versions: What this program has.
    """

    def __init__(
        self, verifier: QuoteVerifier, versions: Mapping[int, RuntimeVersion]
    ) -> None:
        self._verifier = verifier
        self._versions = versions
        self._made: dict[int, LedgerPallets] = {}

    def known(self, number: int) -> bool:
        """Whether this program has a version."""
        return number in self._versions

    def pallets(self, number: int, *, block: int) -> LedgerPallets:
        """A version's pallets.

        Args:
            number: The version.
            block: That it is needed for; said in the refusal.

        Raises:
            UnknownRuntimeVersionError: This program does not have it.
        """
        self._require(number, block)
        if number not in self._made:
            self._made[number] = self._versions[number].compose(self._verifier)
        return self._made[number]

    def genesis(
        self, genesis: LedgerGenesis, validators: ValidatorSet
    ) -> dict[str, object]:
        """What the pallets of a chain's first version begin with.

        Raises:
            UnknownRuntimeVersionError: This program does not have that version.
            LedgerGenesisError: No chain can begin so.
        """
        self._require(genesis.runtime, 1)
        return self._versions[genesis.runtime].genesis(genesis, validators)

    def _require(self, number: int, block: int) -> None:
        if number not in self._versions:
            known = ", ".join(str(one) for one in sorted(self._versions))
            raise UnknownRuntimeVersionError(
                f"block {block} is executed by a version of the L1 runtime that this"
                " program does not have",
                got=f"versions {known}",
                expected=f"version {number}",
                hint="Nothing is lost: install a release that has it and start again",
            )
