"""What the learning notebooks draw and count is what the methods train: nothing is missing, nothing invented."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from medpeft_utils import methods
from medpeft_utils.learn import bars, marks, networks
from medpeft_utils.learn.blocks import LAYOUTS
from medpeft_utils.learn.diagram import block
from medpeft_utils.report import paper

PAIRS = [(family, key) for family in LAYOUTS for key in methods.names(family)]
TRANSFORMER = 'down_blocks.1.attentions.0.transformer_blocks.0'
ATTENTION = [f'{TRANSFORMER}.attn{k}.{layer}' for k in (1, 2) for layer in ('to_q', 'to_k', 'to_v', 'to_out.0')]
UNET_LAYERS = {
    *(f'down_blocks.1.resnets.0.{layer}' for layer in ('norm1', 'conv1', 'norm2', 'conv2', 'time_emb_proj')),
    *('down_blocks.1.resnets.0.conv_shortcut', *ATTENTION),
    *(f'down_blocks.1.attentions.0.{layer}' for layer in ('norm', 'proj_in', 'proj_out')),
    *(f'{TRANSFORMER}.{layer}' for layer in ('norm1', 'norm2', 'norm3', 'ff.net.0.proj', 'ff.net.2')),
}
VIT_LAYERS = {f'blocks.0.{layer}' for layer in ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')}
CONVOLUTIONS = {f'layer1.0.conv{k}' for k in (1, 2, 3)}
# Where the papers put what they add, and its letters.
ADDED = {
    ('vit', 'lora'): ({'blocks.0.attn.qkv'}, ['A', 'B']),
    ('vit', 'adaptformer'): ({'blocks.0.mlp.adapter'}, ['down', 'up']),
    ('vit', 'ssf'): (VIT_LAYERS | {'patch_embed.proj', 'norm'}, ['γ', 'β']),
    ('cnn', 'ssf'): ({*(f'layer1.0.bn{k}' for k in (1, 2, 3)), 'bn1', 'layer1.0.downsample.1'}, ['γ', 'β']),
    ('cnn', 'tsa'): (CONVOLUTIONS, ['α']),
    ('unet', 'lora'): (set(ATTENTION), ['A', 'B']),
    ('unet', 'sv_diff'): (UNET_LAYERS, ['δ']),
    ('unet', 'difffit'): ({*ATTENTION, *(f'{TRANSFORMER}.{part}' for part in ('attn1', 'attn2', 'ff'))}, ['γ']),
}
COUNTED = paper.read('parameter_counts')
OTHER_NAMES = {'TSA (matrix; every direct convolution of a block)': 'TSA'}


def own_names(found: dict[str, marks.Marks], trained: bool) -> set[str]:
    """The network's own parameters that have a mark; of the trained ones, or of all."""
    named = ((place, leaf, on) for place, mark in found.items() for leaf, on in mark.own.items())
    return {place if place == leaf else f'{place}.{leaf}' for place, leaf, on in named if on or not trained}


@pytest.mark.parametrize(('family', 'key'), PAIRS)
def test_all_that_is_trained_in_a_drawn_block_is_shown(family: str, key: str):
    layout, published = LAYOUTS[family](), networks.parameter_names(family)
    found, trained = marks.read(layout, family, key), networks.adapted(key, family).trainable().keys()
    blocks = tuple(f'{name}.' for name in layout.blocks)
    inside = {name for name in published if name.startswith(blocks)}
    assert inside <= own_names(found, trained=False), 'a layer of the block is not drawn at all'
    assert inside & trained <= own_names(found, trained=True) <= published.keys() & trained


@pytest.mark.parametrize(('family', 'key'), PAIRS)
def test_what_a_method_adds_is_where_its_paper_puts_it(family: str, key: str):
    found = marks.read(LAYOUTS[family](), family, key)
    added = {place: mark.inside + mark.beside for place, mark in found.items() if mark.inside or mark.beside}
    if (family, key) in ADDED:
        places, letters = ADDED[family, key]
        assert added == dict.fromkeys(places, letters)
    elif methods.METHODS[key].kind == 'additive':  # a method of which this test does not know
        shown = {letter for letters in added.values() for letter in letters}
        assert shown == {letter for letter, _ in methods.METHODS[key].letters.values()}
    else:
        assert not added


@pytest.mark.parametrize(('family', 'key', 'place'), [
    ('vit', 'lora', 'blocks.0.attn.qkv'),  # added to
    ('vit', 'bias_tuning', 'blocks.0.norm1'),  # trained itself
    ('unet', 'sv_diff', f'{TRANSFORMER}.ff.net.2'),
    ('cnn', 'bn_tuning', 'layer1.0.bn2'),
])  # fmt: skip
def test_a_drawing_without_a_place_for_what_is_trained_is_refused(family: str, key: str, place: str):
    layout = LAYOUTS[family]()
    assert place in {part.name for part in layout.parts}
    without = replace(layout, parts=[part for part in layout.parts if part.name != place])
    with pytest.raises(KeyError, match='no place for it'):
        marks.read(without, family, key)


def test_an_addition_without_a_letter_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(methods.METHODS['sv_diff']), 'letters', {})
    with pytest.raises(KeyError, match='no letter for it'):
        marks.read(LAYOUTS['unet'](), 'unet', 'sv_diff')


def words(svg: str) -> Counter:
    """How often each text appears in a drawing."""
    return Counter(element.text for element in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}text'))


@pytest.mark.parametrize(('family', 'key'), PAIRS)
def test_a_drawing_shows_every_mark_as_text(family: str, key: str):
    found, seen = marks.read(LAYOUTS[family](), family, key), words(block(family, key).svg())
    letters = Counter(letter for mark in found.values() for letter in mark.inside + mark.beside)
    assert {letter: seen[letter] for letter in letters} == letters
    assert any(methods.label(key, family) in text for text in seen)
    assert ('added, trained' in seen) == bool(letters)
    assert ('trained' in seen) == any(on for mark in found.values() for on in mark.own.values())


def test_a_drawing_is_the_same_twice():
    assert block('vit', 'lora').svg() == block('vit', 'lora').svg()
    assert block('vit', 'lora').svg() != block('vit', 'ssf').svg()


def published_counts() -> list[tuple[str, str, int]]:
    """Family, method and count of the three real networks, of the variant that is the default here."""
    by_label = {(family, methods.label(key, family)): key for family, key in PAIRS}
    rows = COUNTED[COUNTED['backbone'].isin(networks.REAL.values())].replace({'method': OTHER_NAMES})
    found = [
        (row.family, by_label.get((row.family, row.method)), row.trainable_parameters) for row in rows.itertuples()
    ]
    return [row for row in found if row[1]]


def test_the_counts_are_of_all_methods_that_train_more_than_a_head():
    columns = {'cnn': paper.CNN_METHODS, 'vit': paper.VIT_METHODS}
    columns['unet'] = [methods.label(key, 'unet') for key in methods.names('unet')]
    printed = {(family, key) for family, key in PAIRS if methods.label(key, family) in columns[family]}
    assert {row[:2] for row in published_counts()} == {pair for pair in printed if pair[1] != 'linear_probing'}


@pytest.mark.parametrize(('family', 'key', 'count'), published_counts())
def test_bars_add_up_to_the_published_count(family: str, key: str, count: int):
    table = bars.part_counts(key, family)
    body = table[table['head'] == 0]
    assert body[['trained', 'added']].to_numpy().sum() == count
    own = sum(p.numel() for p in networks.real(family).parameters())
    assert table[['frozen', 'trained']].to_numpy().sum() == own
    title = next(text for text in words(bars.network(key, family).svg()) if f'{count:,}' in text)
    assert f'{count / body[["frozen", "trained"]].to_numpy().sum():.2%}' in title


def test_linear_probing_trains_the_head_alone():
    for family in ('cnn', 'vit'):
        table = bars.part_counts('linear_probing', family)
        assert table.loc[table['trained'] + table['added'] > 0, 'head'].tolist() == [1]


def test_the_parts_of_a_network_stand_in_the_order_of_the_forward_pass():
    parts = bars.part_counts('full_ft', 'unet').index.tolist()
    assert parts[0] == 'conv_in' and parts[-1] == 'conv_out'
    assert parts.index('down 4') < parts.index('mid_block') < parts.index('up 1')


@pytest.mark.parametrize('family', LAYOUTS)
def test_the_map_names_every_method(family: str):
    assert {methods.label(key, family) for key in methods.names(family)} <= set(words(bars.method_map(family).svg()))
