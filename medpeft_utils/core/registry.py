"""A registry: names to entries, filled by decorators, refusing a second entry of one name."""

from __future__ import annotations

from typing import TypeVar

from medpeft_utils.core.errors import UnknownName

Entry = TypeVar('Entry')


class Registry(dict[str, Entry]):
    """Entries by name, in the order in which they were registered; a name that none has raises `UnknownName`.

    Args:
        kind: what an entry is, for messages: 'dataset', 'method', 'backbone'.
        listing: the command that lists the entries, for messages.
    """

    def __init__(self, kind: str, listing: str = ''):
        super().__init__()
        self.kind, self.listing = kind, listing

    def register(self, name: str, entry: Entry) -> Entry:
        """Add an entry and return it. Raises ValueError where the name is taken."""
        if name in self:
            raise ValueError(f'{self.kind} {name!r} is registered already: {self[name]!r}')
        self[name] = entry
        return entry

    def __missing__(self, name: str) -> Entry:
        raise UnknownName(self.kind, name, self, self.listing)
