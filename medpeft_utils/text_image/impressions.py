"""The impression section of a radiology report, as in MIMIC-CXR.

A heading stands at the start of a line in capitals with a colon. The impression is what follows a heading that names
it, up to the next heading. After the section parser of the MIMIC code repository (Johnson et al. 2019, github.com/
MIT-LCP/mimic-cxr), which lists the misspellings one by one and has hand-made rules for some hundred reports; here a
word near enough to "impression" counts, a conclusion is one too, and the hand-made rules are left out.
"""

from __future__ import annotations

import difflib
import re

HEADING = re.compile(
    r"""(?mx)
    ^[ \t]*(?P<line>[A-Z][A-Z ()/,&'-]{2,60}?)[ \t]*:                # IMPRESSION: at the start of a line
    |^[ \t]*(?P<word>[Ii]mpressions?|[Cc]onclusions?)[ \t]*:         # Impression:
    |^[ \t]*(?P<alone>IMPRESSIONS?|CONCLUSIONS?)[ \t]*[.;-]?[ \t]*$  # alone on its line, no colon
    |(?<=[.\s])(?P<inside>IMPRESSIONS?)[ \t]*:                       # in the middle of a line
    |^[ \t]*_{6,}[ \t]*$                                             # a rule ends a section
    """
)
NAMES = ('impression', 'impressions', 'conclusion', 'conclusions')
NOT_FINAL = ('provisional', 'preliminary', 'pfi', 'wet')  # read before the report; another section holds what stands


def is_impression(heading: str) -> bool:
    """Whether a heading names the impression: alone or with others, misspelt or not, but not a provisional one."""
    words = re.findall(r'[a-z]+', heading.lower())
    if any(word in NOT_FINAL for word in words):
        return False
    return any(difflib.get_close_matches(word, NAMES, n=1, cutoff=0.88) for word in words if len(word) > 7)


def sections(report: str) -> list[tuple[str, str]]:
    """(heading, text) of every section in order, blanks folded; what stands before the first heading is left out."""
    marks = list(HEADING.finditer(report))
    ends = [mark.start() for mark in marks[1:]] + [len(report)]
    return [
        (next(filter(None, mark.groups()), ''), ' '.join(report[mark.end() : end].split()))
        for mark, end in zip(marks, ends, strict=True)
    ]


def impression(report: str) -> str:
    """The impression of a report, blanks folded; '' where there is none.

    Where there are several (an addendum stands above the final report), the last one that says something. Blanks of
    de-identification ('___') stay: what stood there is not known, and without them sentences would read wrongly.
    """
    found = [text for heading, text in sections(report) if is_impression(heading)]
    return next((text for text in reversed(found) if re.search('[A-Za-z]', text)), '')
