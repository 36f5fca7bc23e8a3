"""How figures look: one colour and one marker for a method wherever it appears; fonts embedded."""

from __future__ import annotations

from medpeft_utils.core.drawing import GREY, INK, drawing, new_figure

__all__ = ['GREY', 'INK', 'PALE', 'TEXT_WIDTH', 'VERDICTS', 'drawing', 'look', 'new_figure', 'palette']

TEXT_WIDTH = 7.0  # inches, across two columns
PALE = '#c8c8c8'
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
