"""Errors that a user can act on: each names the thing, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MedpeftError(Exception):
    """Base of every error that is the user's to mend; the command line prints its message without a traceback."""


class UnknownName(MedpeftError, KeyError):
    """A name that no registry entry has.

    Args:
        kind: what was asked for, such as 'dataset'.
        name: the name as given.
        known: the names there are.
        listing: the command that lists them.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str = ''):
        known = sorted(known)
        wanted = str(name).lower()
        close = sorted((entry for entry in known if wanted and entry.startswith(wanted)), key=len)
        close = close or difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        hint = f'did you mean {close[0]!r}?' if close else f'known: {", ".join(known)}'
        self.message = f'unknown {kind} {name!r}; {hint}' + (f' ({listing})' if listing else '')
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class BadInput(MedpeftError, ValueError):
    """A file, value or setting that cannot be used; the message says which, why, and what to do."""


class DoesNotFit(MedpeftError, ValueError):
    """A method that does not fit a backbone, or weights that do not fit an architecture."""
