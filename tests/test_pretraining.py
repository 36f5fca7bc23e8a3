"""The recipe of the shipped backbones, on a handful of images made for the test."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.core.errors import BadInput
from recipes.backbones import publish as publishing
from recipes.backbones.objectives import OBJECTIVES
from recipes.backbones.run import Pretraining, Recipe, block_plan, deepen
from recipes.backbones.source import pack


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Two classes of 20 images: one as a folder, one in a tar file with Tiny ImageNet's layout."""
    root = tmp_path_factory.mktemp('natural')
    (root / 'n01').mkdir()
    for i in range(20):
        (root / 'n01' / f'{i}.png').write_bytes(picture(i))
    with tarfile.open(root / 'part0.tar', 'w') as tar:
        for i in range(20):
            info = tarfile.TarInfo(f'tiny/train/n02/images/n02_{i}.png')
            content = picture(100 + i)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (root / 'words.txt').write_text('n01\ttabby cat\nn02\tfire truck\n')
    return root


@pytest.fixture(scope='module')
def images(source, tmp_path_factory):
    return pack(source, tmp_path_factory.mktemp('packed'))


def test_folders_and_tar_files_are_packed_with_their_captions(images):
    assert images.images.shape == (40, 64, 64, 3)
    assert images.classes == ['n01', 'n02']
    assert images.captions == ['tabby cat', 'fire truck']
    assert np.bincount(images.labels).tolist() == [20, 20]


def test_held_out_images_are_the_same_share_of_every_class_and_never_trained_on(images):
    train, held_out = images.split(0.25, seed=0)
    assert np.bincount(images.labels[held_out]).tolist() == [5, 5]
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 40


def test_a_pack_cut_short_is_made_again_and_another_source_is_refused(source, tmp_path):
    (tmp_path / 'images.npy').write_bytes(b'half')  # without index: not a pack
    assert len(pack(source, tmp_path).labels) == 40
    with pytest.raises(ValueError, match='delete it'):
        pack(source, tmp_path, size=32)


@pytest.mark.parametrize(
    ('make', 'error', 'words'),
    [
        (lambda root: None, FileNotFoundError, 'no such folder'),
        (lambda root: root.mkdir(), FileNotFoundError, 'holds no'),
        (
            lambda root: ((root / 'cat').mkdir(parents=True), (root / 'cat' / 'a.png').write_text('x')),
            ValueError,
            r'a\.png',
        ),
        (lambda root: (root.mkdir(), (root / 'loose.png').write_bytes(picture(0))), ValueError, 'no class folder'),
    ],
)
def test_sources_that_cannot_be_used_are_refused(tmp_path, make, error, words):
    make(tmp_path / 'natural')
    with pytest.raises(error, match=words):
        pack(tmp_path / 'natural', tmp_path / 'packed')


def recipe(**changes) -> Recipe:
    base = {
        'backbone': 'vit_base_mini',
        'passes': 1,
        'batch': 8,
        'held_out_share': 0.2,
        'bf16': False,
    }
    return Recipe(**(base | changes))


@pytest.mark.parametrize(
    ('backbone', 'objective'),
    [('resnet50_mini', 'supervised'), ('vit_base_mini_mae', 'masked'), ('vit_base_mini_clip', 'image_text')],
)
def test_every_objective_trains_its_encoder(images, tmp_path, backbone, objective):
    training = Pretraining(recipe(backbone=backbone, objective=objective), images, tmp_path)
    before = {name: p.detach().clone() for name, p in training.objective.encoder.named_parameters()}
    assert np.isfinite(training.train())
    moved = {n for n, p in training.objective.encoder.named_parameters() if not torch.equal(p, before[n])}
    unused = {'head.weight', 'head.bias', 'fc.weight', 'fc.bias'} if objective != 'supervised' else set()
    assert moved == set(before) - unused
    (row,) = publishing.read_curve(tmp_path)  # one pass
    assert row['step'] == training.steps == 4 and np.isfinite([row['loss'], row['score']]).all()


def test_a_killed_pretraining_goes_on_to_the_same_weights(images, tmp_path):
    whole = Pretraining(recipe(passes=2), images, tmp_path / 'whole')
    whole.train()
    first = Pretraining(recipe(passes=2), images, tmp_path / 'killed')
    step, steps = first.backward, []

    def die_at_five(batch):
        steps.append(batch)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step(batch)

    first.backward = die_at_five
    with pytest.raises(KeyboardInterrupt):
        first.train(checkpoint_seconds=0)
    with pytest.raises(BadInput, match='other settings'):
        Pretraining(recipe(passes=2, seed=1), images, tmp_path / 'killed').train()
    resumed = Pretraining(recipe(passes=2), images, tmp_path / 'killed')
    resumed.train()
    again = Pretraining(recipe(passes=2), images, tmp_path / 'killed')
    assert again.step == again.steps == 8 and [row['step'] for row in publishing.read_curve(again.folder)] == [4, 8]
    for name, tensor in whole.objective.state_dict().items():
        assert torch.equal(tensor, resumed.objective.state_dict()[name]), name
        assert torch.equal(tensor, again.objective.state_dict()[name]), name
    with pytest.raises(BadInput, match='another recipe'):
        Pretraining(recipe(passes=2, seed=1), images, tmp_path / 'killed')


@pytest.mark.parametrize(('shallow', 'deep'), [(12, 24), (24, 32), (12, 32)])
def test_a_deepened_network_computes_what_the_shallow_one_does(shallow, deep):
    plan = block_plan(shallow, deep)
    assert [source for source, new in plan if not new] == list(range(shallow))
    small = SMALL_BACKBONES['vit_base_mini']
    first = small.build(depth=shallow, embed_dim=32).eval()
    second = small.build(depth=deep, embed_dim=32).eval()
    second.load_state_dict(deepen(first.state_dict(), shallow, deep))
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(first(x), second(x), atol=1e-5)


def test_a_grown_network_begins_where_the_other_ended_head_and_all(images, tmp_path):
    first = Pretraining(recipe(), images, tmp_path / 'base')
    first.train()
    start = str(tmp_path / 'base' / 'finished.safetensors')
    grown = Pretraining(recipe(backbone='vit_large_mini', grown_from=start), images, tmp_path / 'large')
    grown.objective.eval()
    first.objective.eval()
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(first.objective.encoder(x), grown.objective.encoder(x), atol=1e-5)
    assert publishing.lineage(start)[0]['name'] == 'vit_base_mini'
    path = publishing.publish(tmp_path / 'base', 'images', 'none', 'command', 'cpu', tmp_path / 'weights')
    again = Pretraining(recipe(grown_from=str(path)), images, tmp_path / 'again')
    again.train()
    publishing.publish(tmp_path / 'again', 'images', 'none', 'command', 'cpu', tmp_path / 'weights')
    card = json.loads((tmp_path / 'weights' / 'vit_base_mini.json').read_text())
    assert [before['recipe']['passes'] for before in card['begun_from']] == [recipe().passes]
    assert publishing.lineage(str(path))[1:] == card['begun_from']


def test_masked_loss_by_hand(images):
    """A decoder that always predicts zero explains nothing: normalised patches have mean square 1."""
    torch.manual_seed(0)
    objective = OBJECTIVES['masked']('vit_base_mini_mae', ['a'])
    objective.predict[-1].weight.data.zero_()
    objective.predict[-1].bias.data.zero_()
    loss = objective(torch.rand(2, 3, 48, 48), torch.zeros(2, dtype=torch.long), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(191 / 192, rel=1e-3)  # unbiased variance over 192 values


def test_image_text_loss_counts_every_image_of_a_caption_as_a_match():
    """With equal logits everywhere the loss is the entropy of the uniform prediction: log B."""
    objective = OBJECTIVES['image_text']('vit_base_mini_clip', ['cat', 'dog'])
    objective.log_scale.data.fill_(-100.0)
    labels = torch.tensor([0, 0, 1, 0])
    loss = objective(torch.rand(4, 3, 48, 48), labels, torch.Generator())
    assert loss.item() == pytest.approx(np.log(4), rel=1e-4)


def test_publishing_needs_a_finished_training_and_gives_loadable_weights(images, tmp_path):
    training = Pretraining(recipe(), images, tmp_path / 'work')
    with pytest.raises(BadInput, match='run it to the end'):
        publishing.publish(tmp_path / 'work', 'images', 'none', 'command', 'cpu', tmp_path / 'weights')
    training.train()
    path = publishing.publish(tmp_path / 'work', 'images', 'none', 'command', 'cpu', tmp_path / 'weights')
    card = json.loads((tmp_path / 'weights' / 'vit_base_mini.json').read_text())
    assert card['bytes'] == path.stat().st_size
    from medpeft_utils import backbones

    loaded = backbones.load('vit_base_mini', 3, weights=str(path))
    trained = training.objective.encoder.state_dict()['blocks.0.attn.qkv.weight']
    assert torch.equal(loaded.model.blocks[0].attn.qkv.weight, trained.half().float())


def test_the_notebook_runs(source, tmp_path):
    import papermill

    root = Path(__file__).resolve().parents[1]
    work = tmp_path / 'work' / 'resnet50_mini'
    parameters = {'source': str(source), 'backbone': 'resnet50_mini', 'passes': 0.5, 'batch': 8}
    papermill.execute_notebook(
        root / 'notebooks' / 'pretrain_backbones.ipynb',
        tmp_path / 'out.ipynb',
        parameters | {'work_folder': str(work)},
        kernel_name='python3',
        progress_bar=False,
    )
    assert (work / 'finished.safetensors').exists()
    assert publishing.read_curve(work)[-1]['score'] >= 0
