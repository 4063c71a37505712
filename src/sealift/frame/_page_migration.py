"""A store of migrated records, made in small steps and kept current."""

from collections.abc import Iterable

from ._errors import RecordMigrationError
from ._pages import PageStore
from ._records import RecordPlan
from ._state import Changes

#: More records than this that do not migrate are not kept track of.
MAX_FAILING = 1024
#: A page that has nothing to convert costs as much as one record per so many pages.
_PAGES_PER_RECORD = 16


class PageMigration:
    """The records of a store as a plan makes them, in a store beside it.

    Law: once :attr:`complete`, and if :meth:`note` was told of every change of the
    source, ``migrated`` holds exactly what the plan makes of the source's entries.
    Pages that the plan leaves alone are shared.

    Args:
        source: The store that is migrated; it may change while this lives, if every
            change is noted.
        plan: What becomes of its records.
    """

    __slots__ = ("_failing", "_next", "_overflown", "_plan", "_source", "_target")

    def __init__(self, source: PageStore, plan: RecordPlan) -> None:
        self._source = source
        self._plan = plan
        self._target = source.empty_twin()
        self._next = 0
        self._failing: dict[bytes, RecordMigrationError] = {}
        self._overflown = False

    @property
    def complete(self) -> bool:
        """Whether every page was converted, whatever came of it."""
        return self._next == self._source.page_count

    @property
    def done(self) -> float:
        """How much of it was, between 0 and 1."""
        return self._next / self._source.page_count

    def is_of(self, source: PageStore) -> bool:
        """Whether this very store is migrated."""
        return self._source is source

    @property
    def refusal(self) -> RecordMigrationError | None:
        """Why the records, as far as they were converted, may not be used.

        Of several the same is named in any order of conversion: the first item's
        first record.
        """
        if not self._failing:
            return None
        first = min(self._failing, key=lambda key: (self._failing[key].check, key))
        return self._failing[first]

    @property
    def hopeless(self) -> bool:
        """Whether too many records fail to go on; the next attempt begins anew."""
        return self._overflown

    def advance(self, records: int | None) -> None:
        """Convert about so many records more; ``None``: all that are left."""
        source, plan = self._source, self._plan
        pages = source.pages()
        prefixes = plan.prefixes
        left = 0.0 if records is None else float(records)
        while not self.complete and not self._overflown:
            number = self._next
            page = pages[number]
            self._next += 1
            if any(prefix in page for prefix in prefixes):
                left -= self._convert(number)
            elif self._target.page_items(number, b""):
                self._target.apply(dict(source.page_items(number, b"")))
            else:
                self._target.share_page(number, source)
            left -= 1 / _PAGES_PER_RECORD
            if records is not None and left <= 0:
                return

    def note(self, changes: Changes) -> None:
        """Have the migrated store follow a change of the source."""
        page_of = self._source.page_of
        self._put(
            (key, raw) for key, raw in changes.items() if page_of(key) < self._next
        )

    def migrated(self) -> PageStore:
        """The migrated store; it is the caller's from now on.

        Raises:
            RecordMigrationError: A record does not migrate.
        """
        if not self.complete and not self._overflown:
            self.advance(None)
        refusal = self.refusal
        if refusal is not None:
            raise refusal.with_traceback(None)
        return self._target

    def _convert(self, number: int) -> int:
        """Convert one page; returns how many entries it has."""
        entries = self._source.page_items(number, b"")
        plan = self._plan
        made: dict[bytes, bytes] = {}
        stays = not self._target.page_items(number, b"")
        for key, raw in entries:
            try:
                new = plan.migrate(key, raw)
            except RecordMigrationError as error:
                self._fail(key, error)
                continue
            if new is not None:
                stays = stays and new[0] == key
                made[new[0]] = new[1]
        if stays:
            self._target.fill_page(number, made)
        else:
            self._target.apply(made)
        return len(entries)

    def _put(self, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        changes: dict[bytes, bytes | None] = {}
        gone, made = [], {}
        for key, raw in entries:
            self._failing.pop(key, None)
            gone.append(self._plan.target(key))
            if raw is None:
                continue
            try:
                new = self._plan.migrate(key, raw)
            except RecordMigrationError as error:
                self._fail(key, error)
                continue
            if new is not None:
                made[new[0]] = new[1]
        changes |= {key: None for key in gone if key is not None}
        changes |= made
        self._target.apply(changes)

    def _fail(self, key: bytes, error: RecordMigrationError) -> None:
        if len(self._failing) >= MAX_FAILING:
            self._overflown = True
            return
        self._failing[key] = error.with_traceback(None)
