"""Captions of natural images that say what can be seen: the class, light and grey, and where it is brighter.

And the tokenizer: the byte-pair encoding of CLIP, learned from these captions and from a list of words of radiology, so
that an impression is not cut at 77 tokens. As no image goes with those words, what they mean is left to fine-tuning.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medpeft_utils.text_image import mini

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

DARK, BRIGHT, DIFFERENCE = 75.0, 165.0, 28.0  # mean grey value of a picture; difference between its halves (0 to 255)
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


def place(image: np.ndarray) -> str:
    """Where a picture [S, S, 3] uint8 is clearly brighter: ', brighter on the left' and so on; '' where nowhere is."""
    luma, half = image.mean(axis=2), len(image) // 2
    across = luma[:, :half].mean() - luma[:, half:].mean()
    down = luma[:half].mean() - luma[half:].mean()
    if max(abs(across), abs(down)) < DIFFERENCE:
        return ''
    if abs(across) >= abs(down):
        return ', brighter on the left side' if across > 0 else ', brighter on the right side'
    return ', brighter in the upper half' if down > 0 else ', brighter in the lower half'


def caption(image: np.ndarray, name: str, grey: bool) -> str:
    """A caption such as 'a dark black and white photo of a goldfish, brighter on the left side'.

    Args:
        image: [S, S, 3] uint8.
        name: of its class.
        grey: whether its colour was taken away.
    """
    mean = image.mean()
    light = 'dark ' if mean < DARK else 'bright ' if mean > BRIGHT else ''
    article = 'an' if name[0] in 'aeiou' else 'a'
    return f'a {light}{"black and white " if grey else ""}photo of {article} {name}{place(image)}'


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
    """Every caption that there may be."""
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (0, 128, 255)]
    left, upper = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    left[:, :2], upper[:2] = 255, 255
    pictures += [left, left[:, ::-1], upper, upper[::-1]]
    return [caption(picture, name, grey) for picture in pictures for name in names for grey in (False, True)]


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909, Algorithm 1), until words are whole.

    Of equally frequent pairs the first by name is taken. The trainer of `tokenizers` numbers the letters anew in every
    process and breaks ties by number, so that two runs of the recipe would give two vocabularies.
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
