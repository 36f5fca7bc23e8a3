"""Chest-radiograph backbones: checkpoints in the authors' format, the shipped small ones, and how those are trained."""

from __future__ import annotations

import argparse
import csv
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

from medpeft_utils import backbones, methods
from medpeft_utils.backbones import build, radiograph
from medpeft_utils.backbones.small import SMALL_BACKBONES
from medpeft_utils.cli import medpeft
from medpeft_utils.core.errors import BadInput, DoesNotFit
from recipes.backbones import radiographs
from recipes.backbones.commands import RECIPES, recipe_of
from recipes.backbones.objectives import MASKED, PAD, MaskedRecord, words_of
from recipes.backbones.publish import calibrated_norm, publish
from recipes.backbones.run import Pretraining, Recipe, _encoder_of

MRM = 'vit_base_patch16_224.mrm'
MINIS = ('vit_base_mini_mrm', 'vit_base_mini_cxr_mae')
COUNTS = Path(backbones.__file__).parents[1] / 'report' / 'paper' / 'parameter_counts.csv'


def mae_file(path: Path, width: int = 768, blocks: int = 12, patch: int = 16, pixels: int = 224) -> Path:
    """A checkpoint as MRM's training writes it: encoder, `norm`, image decoder, report decoder, options, epoch.

    All rows of a tensor are one random row, which is stored once; a file of full width stays small.
    """
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return (torch.randn(shape[-1], generator=generator) * 0.02).expand(shape)

    tokens = (pixels // patch) ** 2 + 1
    state = {'cls_token': tensor(1, 1, width), 'pos_embed': tensor(1, tokens, width)}
    state |= {'patch_embed.proj.weight': tensor(width, 3, patch, patch), 'patch_embed.proj.bias': tensor(width)}
    for i in range(blocks):
        for part, rows, columns in (('attn.qkv', 3, 1), ('attn.proj', 1, 1), ('mlp.fc1', 4, 1), ('mlp.fc2', 1, 4)):
            state[f'blocks.{i}.{part}.weight'] = tensor(rows * width, columns * width)
            state[f'blocks.{i}.{part}.bias'] = tensor(rows * width)
        for part in ('norm1', 'norm2'):
            state |= {f'blocks.{i}.{part}.weight': tensor(width), f'blocks.{i}.{part}.bias': tensor(width)}
    state |= {'norm.weight': tensor(width), 'norm.bias': tensor(width), 'mask_token': tensor(1, 1, width)}
    state |= {
        'decoder_embed.weight': tensor(width, width),
        'decoder_blocks.0.attn.qkv.weight': tensor(3 * width, width),
    }
    state |= {'bert_mlp.weight': tensor(384, width), 'bert_encoder.model.bert.embeddings.weight': tensor(30000, 384)}
    torch.save({'model': state, 'epoch': 199, 'args': argparse.Namespace(lr=1.5e-4, mask_ratio=0.75)}, path)
    return path


@pytest.fixture
def narrow(monkeypatch):
    """MRM's entry with a network of width 192, for speed."""
    small = replace(radiograph.RADIOGRAPH_BACKBONES[MRM], architecture='vit_tiny_patch16_224')
    monkeypatch.setitem(radiograph.RADIOGRAPH_BACKBONES, MRM, small)


# ---- checkpoints of the authors


def test_a_checkpoint_in_the_format_of_mrm_loads_trains_a_step_and_gives_the_counts(tmp_path):
    path = mae_file(tmp_path / 'MRM.pth')
    backbone = backbones.load(MRM, 14, 32, weights=str(path), drop_path=0.1)
    assert (backbone.role, backbone.family, backbone.mean) == ('MRM', 'vit', (0.4978,) * 3)
    assert backbone.fresh == ('fc_norm.weight', 'fc_norm.bias')
    assert {'norm.weight', 'mask_token', 'bert_mlp.weight', 'decoder_embed.weight'} <= set(backbone.left_over)
    assert 'bert_encoder, bert_mlp, decoder_blocks, decoder_embed, mask_token, norm (2)' in backbone.report
    assert 'fc_norm (2), head (2)' in backbone.report
    model = backbone.model
    assert [round(block.drop_path1.drop_prob, 4) for block in model.blocks[1:]] == [
        round(0.1 * i / 11, 4) for i in range(1, 12)
    ]
    with COUNTS.open(newline='') as file:
        known = {(row['backbone'], row['method']): int(row['trainable_parameters']) for row in csv.DictReader(file)}
    full = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(('head', 'pos_embed')))
    assert full + 197 * 768 == known['vit_base_patch16_224', 'Full FT']  # fc_norm in the place of norm
    config = {'rank': 16, 'alpha': 32.0, 'dropout': 0.1, 'parts': 'qv', 'train_final_norm': True}
    adapted = methods.apply(model, 'lora', 'vit', config).train()
    fc_norm = 2 * 768
    assert adapted.count() == known['vit_base_patch16_224', 'LoRA'] + fc_norm
    assert adapted.count(head=True) == adapted.count() + 14 * 769
    before = {name: p.detach().clone() for name, p in adapted.trainable().items()}
    optimizer = torch.optim.SGD(adapted.trainable().values(), lr=0.05)
    torch.nn.functional.binary_cross_entropy_with_logits(
        adapted.model(torch.randn(2, 3, 32, 32)), torch.randint(0, 2, (2, 14)).float()
    ).backward()
    optimizer.step()
    moved = {name for name, p in adapted.trainable().items() if not torch.equal(p, before[name])}
    assert {'head.weight', 'head.bias', 'fc_norm.bias'} <= moved and any('lora_B' in name for name in moved)


@pytest.mark.parametrize('rank', [4, 8, 16, 32])
def test_ranks_of_lian_et_al_train_less_than_one_per_cent(rank):
    with torch.device('meta'):
        model = backbones.build(MRM, 14)
    total = sum(p.numel() for p in model.parameters())
    adapted = methods.apply(model, 'lora', 'vit', {'rank': rank, 'parts': 'qv', 'train_final_norm': True})
    assert adapted.count(head=True) == rank * 2 * (768 + 768) * 12 + 2 * 768 + 14 * 769
    assert (adapted.count(head=True) / total < 0.01) == (rank < 32)  # 1.4 % at rank 32, beyond the paper's claim


def test_the_mean_of_the_patch_tokens_is_normalised(tmp_path, narrow):
    backbone = backbones.load(MRM, 5, weights=str(mae_file(tmp_path / 'm.pth', width=192)))
    state, model = torch.load(tmp_path / 'm.pth', weights_only=False)['model'], backbone.model.eval()
    plain = timm.create_model('vit_tiny_patch16_224', num_classes=0).eval()
    plain.norm = torch.nn.Identity()
    plain.load_state_dict({k: v for k, v in state.items() if k in plain.state_dict()}, strict=False)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = plain.forward_features(x)  # [B, 1 + 196, D], not normalised
        pooled = torch.nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (192,), eps=1e-6)
        assert torch.allclose(model.forward_head(model.forward_features(x), pre_logits=True), pooled, atol=1e-5)
        assert torch.allclose(model(x), model.head(pooled), atol=1e-5)
    assert model.head.weight.detach().std() == pytest.approx(2e-5, rel=0.1)
    assert model.head.bias.abs().max() == 0


def test_a_file_with_fc_norm_keeps_it(tmp_path, narrow):
    path = mae_file(tmp_path / 'm.pth', width=192)
    content = torch.load(path, weights_only=False)
    content['model'] |= {'fc_norm.weight': torch.full((192,), 3.0), 'fc_norm.bias': torch.full((192,), 0.5)}
    torch.save(content, path)
    backbone = backbones.load(MRM, 5, 32, weights=str(path))
    assert backbone.fresh == () and backbone.model.fc_norm.weight.eq(3).all()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'width': 384}, r'of another shape.*cls_token is \(1, 1, 384\), not \(1, 1, 192\)'),
        ({'patch': 32}, 'patches of 32 px'),
        ({'blocks': 10}, '24 tensors missing'),
        ({'blocks': 13}, '12 of blocks that it has not'),
    ],
)
def test_checkpoints_of_another_architecture_are_refused(tmp_path, narrow, changes, words):
    path = mae_file(tmp_path / 'other.pth', **({'width': 192} | changes))
    with pytest.raises(DoesNotFit, match=rf'other\.pth.*{words}'):
        backbones.load(MRM, 5, 32, weights=str(path))


def test_a_pickle_that_runs_code_is_not_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    content = {'model': {}, 'args': argparse.Namespace(lr=Payload())}
    (tmp_path / 'evil.pth').write_bytes(pickle.dumps(content, protocol=2))
    torch.save(content, tmp_path / 'zip.pth')  # the format of today, with the same payload
    for name in ('evil.pth', 'zip.pth'):
        with pytest.raises(BadInput, match=rf'{name}: holds more than tensors.*convert it to safetensors'):
            backbones.load(MRM, 5, weights=str(tmp_path / name))
    assert not (tmp_path / 'ran').exists()


def test_without_a_file_it_is_said_where_to_get_one(tmp_path):
    with pytest.raises(BadInput, match=r'RL4M/MRM-pytorch.*weights=FILE'):
        backbones.load(MRM, 14)
    with pytest.raises(BadInput, match=r'RL4M/MED-PEFT.*weights=FILE'):
        CliRunner().invoke(
            medpeft,
            ['backbones', 'fetch', 'vit_base_patch16_224.cxr_mae'],
            catch_exceptions=False,
            standalone_mode=False,
        )
    with pytest.raises(BadInput, match='no such weights file'):
        backbones.load(MRM, 14, weights=str(tmp_path / 'MRM.pth'))
    listed = CliRunner().invoke(medpeft, ['backbones', 'list']).output
    assert 'vit_base_patch16_224.mrm' in listed and 'vit_base_mini_cxr_mae' in listed


# ---- the small ones


@pytest.mark.parametrize('name', MINIS)
def test_the_small_ones_average_their_tokens_and_say_what_they_saw(name):
    from medpeft_utils.backbones.cards import read_card

    backbone = backbones.load(name, 14)
    assert backbone.label == f'{backbone.role} (mini)' and backbone.role in ('MRM', 'CXR-MAE')
    assert backbone.fresh == () and backbone.left_over == ('norm.bias', 'norm.weight')
    assert read_card(name)['calibration'] == 'fc_norm standardises every feature over 2,000 training images'
    assert 'pre-trained on synthetic radiographs' in read_card(name)['data']
    assert SMALL_BACKBONES[name].weights.stat().st_size < 5_000_000


@pytest.fixture(scope='module')
def drawn(tmp_path_factory) -> radiographs.Radiographs:
    return radiographs.synthetic(48, size=48, cache=tmp_path_factory.mktemp('drawn'))


def test_radiographs_for_pretraining_are_of_other_patients_than_the_study(drawn):
    from medpeft_utils.data import synthetic

    study = synthetic.generate('nih_chestxray14', 48, n=48)[0]
    assert not (drawn.images[:, None] == study[None]).all(axis=(2, 3, 4)).any()
    train, held_out = drawn.split(0.25, seed=0)
    assert not set(drawn.groups[train]) & set(drawn.groups[held_out])
    assert len(train) + len(held_out) == 48 and 4 <= len(held_out) <= 20
    assert len(drawn.captions) == len(set(drawn.captions)) == drawn.labels.max() + 1


def test_words_of_reports():
    numbers, words = words_of(['b a .', 'a'])
    assert words == ['.', 'a', 'b']
    assert numbers.tolist() == [[4, 3, 2], [3, PAD, PAD]] and MASKED not in numbers


def test_the_report_teaches_the_encoder_and_only_masked_words_count(drawn):
    objective = MaskedRecord('vit_base_mini_mrm', drawn.captions)
    images = torch.from_numpy(drawn.images[:8]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(drawn.labels[:8])
    seen = objective._reconstruct(images, torch.Generator().manual_seed(0))[1]
    logits, words = objective._read(seen, labels, torch.Generator().manual_seed(0))
    asked = (objective.reports[labels] != PAD).sum()
    assert len(logits) == len(words) and 0.65 < len(words) / asked < 0.95
    torch.nn.functional.cross_entropy(logits, words).backward()
    assert objective.encoder.patch_embed.proj.weight.grad.abs().max() > 0
    assert objective.predict[1].weight.grad is None  # the image decoder has no part in it


@pytest.mark.parametrize(('name', 'objective'), [(MINIS[0], 'masked_record'), (MINIS[1], 'masked')])
def test_a_pretraining_of_radiographs_becomes_weights_and_a_card(drawn, tmp_path, name, objective):
    recipe = Recipe(name, objective, passes=1, batch=16, bf16=False, held_out_share=0.2)
    training = Pretraining(recipe, drawn, tmp_path)
    assert training.optimizer(training.config).defaults['betas'] == (0.9, 0.95)
    assert np.isfinite(training.train())
    told = (drawn.data, drawn.licence, 'a command', 'a device')
    with pytest.raises(BadInput, match='give images of the pre-training'):
        publish(tmp_path, *told, weights_folder=tmp_path)
    path = publish(tmp_path, *told, weights_folder=tmp_path, images=drawn.images)
    loaded = backbones.load(name, 3, weights=str(path))
    assert loaded.left_over == ('norm.bias', 'norm.weight') and loaded.fresh == ()
    trained = training.objective.encoder.blocks[3].attn.qkv.weight
    assert torch.allclose(loaded.model.blocks[3].attn.qkv.weight, trained, atol=1e-3)  # half precision


def test_a_calibrated_norm_gives_features_of_mean_0_and_deviation_1(drawn):
    """Measured in the network as it is loaded, with the encoder's tokens behind a large constant."""
    encoder = build('vit_base_mini_mrm', seed=3)
    with torch.no_grad():
        encoder.pos_embed[:, :, 5] += 200
    state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith('fc_norm.')}
    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        before = encoder.eval()(images).std(dim=0)
        encoder.load_state_dict(calibrated_norm('vit_base_mini_mrm', state, drawn.images), strict=False)
        after = encoder(images)
    assert before.max() < 0.05
    assert after.mean(dim=0).abs().max() < 0.05 and (after.std(dim=0) - 1).abs().max() < 0.05


@pytest.mark.parametrize('name', MINIS)
def test_the_shipped_radiograph_models_tell_images_apart_at_the_head(drawn, name):
    """A head sees features that vary by about 1 over images, of other patients than those of the calibration."""
    backbone = backbones.load(name, 0)
    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        deviation = backbone.model.eval()(images).std(dim=0)
    assert 0.5 < deviation.mean() < 2 and deviation.min() > 0.2


@pytest.mark.parametrize('name', MINIS)
def test_a_pretraining_begins_from_what_the_recipe_says(name):
    recipe, on_patients = recipe_of(name, 2), recipe_of(name, 2, real=True)
    assert Path(recipe.grown_from).stem == RECIPES[name]['begin'] and Path(on_patients.grown_from).stem == name
    state = _encoder_of(Path(on_patients.grown_from))
    assert 'norm.weight' in state and 'fc_norm.weight' not in state  # recalibrated at the end


def test_weights_of_patients_are_not_shipped_and_reports_are_needed():
    for arguments, words in (
        (['vit_base_mini_cxr_mae', '--images', 'x', '--publish'], 'not shipped'),
        (['vit_base_mini_mrm', '--images', 'x'], 'learns from reports'),
    ):
        with pytest.raises(BadInput, match=words):
            CliRunner().invoke(medpeft, ['pretrain', *arguments], catch_exceptions=False, standalone_mode=False)
