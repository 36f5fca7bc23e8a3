"""Figures, tables and claims from records; nothing here runs an experiment.

from medpeft_utils import report
report.RENDERERS                       # every figure and table, by name
report.render('table2', records)       # a Table or Figure: shows itself in a notebook, `.save(folder)` writes it
"""

from __future__ import annotations

__all__ = ['RENDERERS', 'render']


def __getattr__(name: str):
    if name in __all__:
        from medpeft_utils.report import output

        return output.discovered() if name == 'RENDERERS' else getattr(output, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
