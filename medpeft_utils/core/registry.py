"""A registry: names to entries, filled by decorators, refusing a second entry of one name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from medpeft_utils.core.errors import UnknownName

Entry = TypeVar('Entry')


class Registry(Generic[Entry]):
    """Entries by name, in the order in which they were registered.

    Args:
        kind: what an entry is, for messages: 'dataset', 'method', 'backbone'.
        listing: the command that lists the entries, for messages.
    """

    def __init__(self, kind: str, listing: str = ''):
        self.kind, self.listing = kind, listing
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> Entry:
        """Add an entry and return it. Raises ValueError where the name is taken."""
        if name in self._entries:
            raise ValueError(f'{self.kind} {name!r} is registered already: {self._entries[name]!r}')
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries, self.listing)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self):
        return self._entries.items()

    def values(self):
        return self._entries.values()
