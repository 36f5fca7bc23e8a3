"""How figures look: one colour and one marker for a method wherever it appears; fonts embedded."""

from __future__ import annotations

from contextlib import contextmanager

TEXT_WIDTH = 7.0  # inches, across two columns
INK, GREY, PALE = '#222222', '#6b6b6b', '#c8c8c8'
# Okabe and Ito's blue, vermilion and yellow, legible to colour-blind readers, each with its word beside it.
VERDICTS = {'reproduced': '#0072b2', 'contradicted': '#d55e00', 'undecided': '#f0e442', 'not run': '#d9d9d9'}

# seaborn's 'colorblind' palette by position; methods of the two families that do the same share a colour.
_LOOKS = {  # method: (position in the palette, marker, line style)
    'Full FT': (3, 's', '-'),
    'Linear Probing': (7, 'X', ':'),
    'TSA': (5, 'D', '-'),
    'BN Tuning': (9, 'v', '-'),
    'Bias Tuning': (0, 'o', '-'),
    'BitFit': (0, 'o', '-'),
    'SSF': (4, 'P', '-'),
    'Attention Tuning': (1, '^', '-'),
    'LoRA': (2, 'D', '-'),
    'AdaptFormer': (5, 'h', '-'),
    'LayerNorm Tuning': (9, 'v', '-'),
    'Attention': (1, '^', '-'),
    'Bias': (0, 'o', '-'),
    'Norm': (9, 'v', '-'),
    'Bias+Norm+Attention': (6, '>', '-'),
    'SV-Diff': (4, 'P', '-'),
    'DiffFit': (5, 'h', '-'),
}
_OTHERS = ('<', '>', 'p', '*', '8')


def palette() -> list[str]:
    """The ten colours of seaborn's colour-blind palette."""
    import seaborn

    return seaborn.color_palette('colorblind').as_hex()


def look(method: str) -> dict[str, str]:
    """Colour, marker and line style of a method; one that the paper does not have gets a look by its name."""
    number = sum(map(ord, method))
    position, marker, line = _LOOKS.get(method, (6 + 2 * (number % 2), _OTHERS[number % len(_OTHERS)], '-.'))
    return {'color': palette()[position], 'marker': marker, 'linestyle': line}


@contextmanager
def drawing():
    """Matplotlib's settings of this report, for the figures made inside; others are left alone."""
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
