"""Errors that a user can act on: each names the thing, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def short(value: Any, length: int = 60) -> str:
    """A value for a message: its repr, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of more digits than Python writes
        text = f'a {type(value).__name__} too large to be written'
    text = text.encode(errors='replace').decode()
    return text if len(text) <= length else f'{text[: length - 3]}...'


MOST_NAMES = 60  # in a message


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
        more = f' and {len(known) - MOST_NAMES} more' if len(known) > MOST_NAMES else ''
        wanted = str(name)[:200].lower()
        close = sorted((entry for entry in known if wanted and entry.startswith(wanted)), key=len)
        close = close or difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        hint = f'did you mean {close[0]!r}?' if close else f'known: {", ".join(known[:MOST_NAMES])}{more}'
        self.message = f'unknown {kind} {short(name, 100)}; {hint}' + (f' ({listing})' if listing else '')
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class BadInput(MedpeftError, ValueError):
    """A file, value or setting that cannot be used; the message says which, why, and what to do."""


class DoesNotFit(MedpeftError, ValueError):
    """A method that does not fit a backbone, or weights that do not fit an architecture."""
