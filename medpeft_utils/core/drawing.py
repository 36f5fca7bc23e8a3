"""How figures of reports and of the pages of datasets are drawn: their settings, and figures without a window."""

from __future__ import annotations

from contextlib import contextmanager

INK, GREY = '#222222', '#6b6b6b'


def plain(text: str) -> str:
    """Text whose dollar signs are not taken for formulas: names that others gave may hold some."""
    return text.replace('$', r'\$')


@contextmanager
def drawing():
    """Matplotlib's settings of reports and pages, for the figures made inside; others are left alone."""
    import matplotlib

    settings = {
        'font.family': 'DejaVu Sans',
        'font.size': 8,
        'axes.titlesize': 8.5,
        'axes.titleweight': 'bold',
        'axes.titlelocation': 'left',
        'axes.labelsize': 8,
        'xtick.labelsize': 7,
        'ytick.labelsize': 7,
        'axes.spines.top': False,
        'axes.spines.right': False,
        'axes.edgecolor': GREY,
        'axes.linewidth': 0.7,
        'axes.axisbelow': True,
        'axes.grid': True,
        'grid.color': '#e8e8e8',
        'grid.linewidth': 0.6,
        'xtick.color': GREY,
        'ytick.color': GREY,
        'xtick.labelcolor': INK,
        'ytick.labelcolor': INK,
        'text.color': INK,
        'axes.labelcolor': INK,
        'lines.linewidth': 1.5,
        'lines.markersize': 4.5,
        'pdf.fonttype': 42,  # TrueType: text in the PDF stays text
        'ps.fonttype': 42,
        'svg.hashsalt': 'medpeft',  # the same figure gives the same file
        'savefig.dpi': 200,
        'figure.dpi': 110,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float):
    """A figure of so many inches that belongs to no window, and so needs no closing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure
