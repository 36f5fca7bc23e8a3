"""The recipe of the shipped text-to-image pipeline, on a handful of images made for the test."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from medpeft_utils.core.errors import BadInput
from medpeft_utils.text_image import names, pipeline
from recipes.backbones.source import NaturalImages
from recipes.text_image import captions, mini, recipe
from recipes.text_image.autoencoder import Autoencoder, grey, to_input
from recipes.text_image.publish import as_pipeline, publish
from recipes.text_image.stage import Schedule, read_curve

SHORT = Schedule(steps=3, batch=4, warmup=1, held_out_share=0.25)


@pytest.fixture(scope='module')
def source() -> NaturalImages:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    return NaturalImages(pixels, np.arange(16) % 2, ['n01', 'n02'], ['goldfish, Carassius auratus', 'African elephant'])


@pytest.fixture(scope='module')
def made(source, tmp_path_factory):
    """Both stages, trained for three steps, and their folder."""
    folder = tmp_path_factory.mktemp('made')
    return folder, *recipe.make(source, folder, SHORT, SHORT)


# ---- captions and tokenizer


def test_captions_say_what_can_be_seen():
    dark = np.full((64, 64, 3), 10, np.uint8)
    assert captions.caption(dark, 'goldfish', False) == 'a dark photo of a goldfish'
    light = np.full((66, 66, 3), 100, np.uint8)
    light[44:, 33:] = 180  # a sixth of the picture: 67 above its mean, and no other zone more than 13 below
    assert captions.caption(light, 'cat', False) == 'a photo of a cat, lightest in the left lower zone'
    assert (
        captions.caption(light[:, ::-1], 'elephant', True)
        == 'a black and white photo of an elephant, lightest in the right lower zone'
    )
    both = light.copy()
    both[22:44, :33] = 0
    assert captions.places(both) == ['lightest in the left lower zone', 'darkest in the right mid zone']
    assert captions.first_name('goldfish, Carassius auratus') == 'goldfish'


def test_merges_are_those_of_the_published_example():
    """The words of Sennrich et al. 2016, Section 3.2, where e-r is the most frequent pair and then l-o."""
    words = Counter({'low': 5, 'lowest': 2, 'newer': 6, 'wider': 3})
    merges = captions.learn_merges(words)
    assert merges[0] == ('e', 'r</w>')  # nine times; here a word's last letter carries its end from the start
    assert merges[1:3] == [('l', 'o'), ('e', 'w')]  # seven times; six, as others that come later by name
    pieces = {word: (*word[:-1], f'{word[-1]}</w>') for word in words}
    for merge in merges:
        pieces = {word: captions._merged(parts, merge) for word, parts in pieces.items()}
    assert pieces == {word: (f'{word}</w>',) for word in words}


def test_the_tokenizer_is_the_same_every_time_and_knows_every_byte():
    first, second = (captions.learn_tokenizer(['goldfish']) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    ids = first('Small left effusion, 5 cm; Ångström 漢')['input_ids']
    assert (ids[0], ids[-1]) == (first.bos_token_id, first.eos_token_id) == (len(first) - 2, len(first) - 1)
    assert first.eos_token_id not in ids[1:-1]  # it stands for what is unknown, too
    assert first.tokenize('no acute cardiopulmonary process.') == [
        *('no</w>', 'acute</w>', 'cardiopulmonary</w>', 'process</w>', '.</w>')
    ]
    assert first.pad_token_id == first.eos_token_id and first.model_max_length == mini.TOKENS


def test_grey_pictures_are_grey_and_the_others_as_they_were(source):
    x = to_input(torch.from_numpy(source.images[:2]))
    assert x.min() >= -1 and x.max() <= 1
    y = grey(x, torch.tensor([True, False]))
    assert torch.equal(y[1], x[1]) and torch.equal(y[0, 0], y[0, 2])
    assert torch.allclose(y[0, 0], 0.299 * x[0, 0] + 0.587 * x[0, 1] + 0.114 * x[0, 2], atol=1e-6)


# ---- stages


def test_both_stages_train_all_of_their_networks(made):
    folder, first, data, second = made
    assert data.latents.shape == (16, 4, 16, 16) and data.latents.std() == pytest.approx(1, abs=0.01)
    assert (first.step, second.step) == (3, 3)
    fresh = mini.build_vae().state_dict()
    assert not any(
        torch.equal(first.vae.state_dict()[name], tensor) for name, tensor in fresh.items() if tensor.ndim > 1
    )
    assert all(np.isfinite(row['loss']) for row in read_curve(folder / 'vae')) and read_curve(folder / 'vae')
    assert read_curve(folder / 'diffusion')[-1]['score'] == pytest.approx(second.score(), rel=1e-5)
    assert json.loads((folder / 'prepared' / 'prepared.json').read_text())['captions'][0].split()[-1]


def test_a_killed_stage_goes_on_to_the_same_bits(source, tmp_path):
    whole = Autoencoder(SHORT, source, tmp_path / 'whole')
    whole.train()
    killed = Autoencoder(SHORT, source, tmp_path / 'killed')
    step, steps = killed.backward, []

    def die_at_two(rows):
        steps.append(rows)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(rows)

    killed.backward = die_at_two
    with pytest.raises(KeyboardInterrupt):
        killed.train(checkpoint_seconds=0)
    with pytest.raises(BadInput, match='other settings'):
        Autoencoder(Schedule(steps=4), source, tmp_path / 'killed').train()
    resumed = Autoencoder(SHORT, source, tmp_path / 'killed')
    resumed.train()
    again = Autoencoder(SHORT, source, tmp_path / 'killed')  # finished: read and not trained
    assert again.step == 3
    for name, tensor in whole.vae.state_dict().items():
        assert torch.equal(tensor, resumed.vae.state_dict()[name]), name
        assert torch.equal(tensor, again.vae.state_dict()[name]), name
    with pytest.raises(BadInput, match='another recipe'):
        Autoencoder(Schedule(steps=4), source, tmp_path / 'killed')


def test_the_rate_stays_before_it_falls_and_a_longer_training_begins_the_same():
    short, long = (Schedule(steps=n, learning_rate=2.0, warmup=10, cooldown=0.25) for n in (100, 200))
    assert [short.rate(step) for step in (0, 9, 10, 75)] == pytest.approx([0.2, 2.0, 2.0, 2.0])
    assert short.rate(75 + 25 / 2) == pytest.approx(1.0) and short.rate(100) == pytest.approx(0.0)
    assert [short.rate(step) for step in range(76)] == [long.rate(step) for step in range(76)]
    whole = Schedule(steps=100, learning_rate=2.0, warmup=10)
    assert whole.rate(55) == pytest.approx(1.0)  # half a cosine over all that follows the warm-up


def test_a_perfect_reconstruction_by_hand(source, tmp_path):
    """A mean square error of e^2 on pixels of -1..1 is a PSNR of 10 log10(4 / e^2) dB."""
    stage = Autoencoder(SHORT, source, tmp_path)

    class Off:
        sample = None

    stage.vae.decode = lambda latents: Off()
    stage.vae.encode = lambda x: setattr(Off, 'sample', x * 0.5) or type('E', (), {'latent_dist': Off})
    Off.mean = torch.zeros(1)
    rows = stage.held_out_rows
    x = to_input(torch.from_numpy(source.images[rows]))
    assert stage.score() == pytest.approx(10 * np.log10(4 / (x * 0.5).square().mean().item()), rel=1e-4)


# ---- publishing


def test_what_is_published_loads_as_a_pipeline(made, tmp_path):
    _, first, data, second = made
    told = {'data': 'images', 'data_licence': 'none', 'command': 'command', 'device': 'cpu'}
    card = tmp_path / 'card.json'
    path = publish(first, data, second, told, tmp_path / 'weights', card)
    loaded, now = pipeline.load(str(path)), as_pipeline(first, data, second)
    for part in ('text_encoder', 'vae', 'unet'):
        for name, tensor in getattr(now, part).state_dict().items():
            assert torch.equal(getattr(loaded, part).state_dict()[name], tensor.half().to(tensor.dtype)), name
    assert loaded.scaling == pytest.approx(data.scaling)
    texts = ['a photo of a goldfish', '']
    assert torch.equal(
        loaded.tokens(texts),
        torch.from_numpy(data.tokens[:0].astype(np.int64)).new_tensor(
            np.stack([now.tokens(texts)[0], data.empty]).astype(np.int64)
        ),
    )
    told = json.loads(card.read_text())
    assert told['bytes'] < 20e6
    assert told['parameters']['unet'] == sum(p.numel() for p in loaded.unet.parameters())
    assert told['bytes'] == sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
    assert set(told['sha256']) == {file.relative_to(path).as_posix() for file in path.rglob('*') if file.is_file()}
    assert 'velocity-prediction loss' in (path.parent / 'README.md').read_text()


def test_an_unfinished_stage_is_not_published(source, made, tmp_path):
    _, _, data, second = made
    unfinished = Autoencoder(SHORT, source, tmp_path / 'new')
    with pytest.raises(BadInput, match='run it to the end'):
        publish(unfinished, data, second, {}, tmp_path, tmp_path / 'card.json')


def test_the_shipped_weights_are_those_of_the_card():
    if not names.CARD.is_file():
        pytest.skip('the small pipeline is not published yet')
    from medpeft_utils.backbones.cards import file_hash

    card, folder = json.loads(names.CARD.read_text()), names.WEIGHTS_FOLDER / mini.NAME
    assert {name: file_hash(folder / name) for name in card['sha256']} == card['sha256']
    assert pipeline.load(mini.NAME).image_size == 64
