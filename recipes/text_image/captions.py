"""Captions of natural images that say what can be seen: class, light, grey, and which zone is lightest and darkest.

And the tokenizer: the byte-pair encoding of CLIP, learned from these captions and from a list of words of radiology, so
that an impression is not cut at 77 tokens. As no image goes with those words, what they mean is left to fine-tuning.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from recipes.text_image import mini

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

DARK, BRIGHT = 75.0, 165.0  # mean grey value of a picture, 0 to 255
DIFFERENCE = 20.0  # of a zone's mean grey value from the picture's, so the zone is named
ZONES = ('upper', 'mid', 'lower')
END = '</w>'  # of a word, in CLIP's vocabulary
RADIOLOGY = """\
no acute cardiopulmonary process abnormality intrathoracic disease evidence of focal consolidation pleural effusion
effusions pneumothorax normal chest radiograph clear lungs heart size is mildly enlarged lung volumes hazy faint subtle
ill defined opacity opacities patchy airspace infiltrate infiltrates dense left right upper mid lower lobe lobes lung
zone zones perihilar region base bases bibasilar bilateral both at concerning for compatible with may represent
pneumonia mild moderate severe marked markedly cardiomegaly cardiac silhouette small large apical on the side there a
partial collapse and in atelectasis edema pulmonary vascular congestion interstitial ground glass covid 19 ards sars
pneumocystis streptococcus pa ap supine view frontal lateral x ray patient has been are to new unchanged stable improved
worsening increased decreased since prior exam examination tube line catheter tip position process likely consistent
thickening shadow hilar mediastinal contour unremarkable within limits peripheral predominantly multifocal diffuse
consolidations finding findings impression acute chronic nodule mass fracture emphysema fibrosis hernia device devices
"""


def first_name(caption: str) -> str:
    """'goldfish, Carassius auratus' to 'goldfish': the first of a class's names."""
    return caption.split(',')[0].strip().lower()


def places(image: np.ndarray) -> list[str]:
    """Where a picture [S, S, 3] uint8 is clearly lightest and darkest, of six zones as a radiologist divides the lungs.

    Such as ['lightest in the left upper zone', 'darkest in the right lower zone']. Left and right are those of somebody
    who faces the viewer, as on radiographs: what is called right lies on the left of the picture.
    """
    luma, half, cuts = image.mean(axis=2), image.shape[1] // 2, np.linspace(0, len(image), 4).round().astype(int)
    means = {
        f'{side} {zone} zone': luma[top:bottom, columns].mean()
        for zone, top, bottom in zip(ZONES, cuts[:-1], cuts[1:], strict=True)
        for side, columns in (('right', slice(0, half)), ('left', slice(half, None)))
    }
    lightest, darkest = max(means, key=means.get), min(means, key=means.get)
    found = [f'lightest in the {lightest}'] if means[lightest] - luma.mean() > DIFFERENCE else []
    return [*found, f'darkest in the {darkest}'] if luma.mean() - means[darkest] > DIFFERENCE else found


def caption(image: np.ndarray, name: str, grey: bool) -> str:
    """A caption such as 'a dark black and white photo of a goldfish, lightest in the left upper zone'.

    Args:
        image: [S, S, 3] uint8.
        name: of its class.
        grey: whether its colour was taken away.
    """
    mean = image.mean()
    light = 'dark ' if mean < DARK else 'bright ' if mean > BRIGHT else ''
    article = 'an' if name[0] in 'aeiou' else 'a'
    return ', '.join([f'a {light}{"black and white " if grey else ""}photo of {article} {name}', *places(image)])


def learn_tokenizer(names: list[str], length: int = mini.TOKENS) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary learned from captions of the classes and from the words of radiology.

    In CLIP's order: all bytes, all bytes at a word's end, the merges, beginning, end.

    Args:
        names: of the classes.
        length: tokens of a text, beginning and end among them.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    rules = CLIPTokenizer().backend_tokenizer
    words = Counter()
    for text in [*_captions(names), *[RADIOLOGY] * 4]:
        words.update(word for word, _ in rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(text)))
    merges, letters = learn_merges(words), sorted(ByteLevel.alphabet())
    ends = '<|startoftext|>', '<|endoftext|>'
    tokens = [*letters, *(f'{letter}{END}' for letter in letters), *map(''.join, merges), *ends]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, model_max_length=length)


def _captions(names: list[str]) -> list[str]:
    """Every word that there may be, in captions."""
    pictures = [np.full((6, 6, 3), level, np.uint8) for level in (0, 128, 255)]
    for row in range(0, 6, 2):
        light = np.zeros((6, 6, 3), np.uint8)
        light[row : row + 2, :3] = 255
        pictures += [light, light[:, ::-1], 255 - light, 255 - light[:, ::-1]]
    return [caption(picture, name, grey) for picture in pictures for name in names for grey in (False, True)]


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909, Algorithm 1), until words are whole.

    Of equally frequent pairs the first by name is taken. The trainer of `tokenizers` renumbers the letters in every
    process and breaks ties by number, so two runs of the recipe would give two vocabularies.
    """
    spelled = {word: (*word[:-1], f'{word[-1]}{END}') for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {word: _merged(pieces, best) for word, pieces in spelled.items()}


def _merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    if pair[1] not in pieces:
        return pieces
    found, at = [], 0
    while at < len(pieces):
        both = pieces[at : at + 2] == pair
        found.append(pieces[at] + pieces[at + 1] if both else pieces[at])
        at += 1 + both
    return tuple(found)
