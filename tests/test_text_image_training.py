"""The training half of text-to-image: pipelines, latents and texts, the loop, sampling, and a whole run."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
import torch

from medpeft_utils import methods
from medpeft_utils.core.errors import BadInput, DoesNotFit, UnknownName
from medpeft_utils.methods import unet as unets
from medpeft_utils.text_image import computing, measuring, names, pipeline
from medpeft_utils.text_image.adaptation import Settings, TextToImage
from medpeft_utils.text_image.encoding import encode
from medpeft_utils.text_image.sampling import denoise, sample, starting_noise
from medpeft_utils.text_image.training import CLIP, Denoising, DenoisingTask, EncodedPairs, timesteps, validation_loss
from medpeft_utils.training.config import TrainingConfig
from medpeft_utils.training.loop import Diverged, fit

METHODS = methods.names('unet')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A tiny pipeline as diffusers writes it."""
    path = tmp_path_factory.mktemp('pipelines') / 'tiny'
    tiny.diffusers_pipeline().save_pretrained(path)
    return path


@pytest.fixture
def pipe(folder) -> pipeline.Pipeline:
    return pipeline.load(str(folder))


@pytest.fixture(scope='module')
def table(tmp_path_factory) -> Path:
    return tiny.write_pairs(tmp_path_factory.mktemp('pairs'))


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(folder, tmp_path / 'spoilt')


def pictures(count: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)


def encoded(pipe, cache: Path, count: int = 16):
    texts = [tiny.CAPTIONS[i % 3] for i in range(count)]
    return encode(pipe, pictures(count), texts, np.arange(count), cache)


CONFIG = TrainingConfig(
    learning_rate=1e-2, min_steps=6, max_steps=6, batch_size=4, evaluations=3, evaluate_first=True, clip=CLIP
)


def task_of(pipe, cache: Path, key: str = 'bias_tuning', changes: dict | None = None, config=None) -> DenoisingTask:
    """What a training of the tiny U-Net is over: ten pairs, and six of validation."""
    pairs = encoded(pipe, cache)
    adapted = methods.apply(pipe.unet, key, 'unet', config or {}, seed=0)
    train, validation = (EncodedPairs(pairs, rows, torch.device('cpu')) for rows in (np.arange(10), np.arange(10, 16)))
    return DenoisingTask(adapted, train, validation, Denoising(pipe.noising, **(changes or {})))


def test_timesteps_are_even_or_shifted_towards_noise():
    """A shift of 4 puts t below 1000 * 4 * 0.5 / (1 + 3 * 0.5) = 800 in half of the draws."""
    even, shifted = (timesteps(40_000, 1000, shift, torch.Generator().manual_seed(0)) for shift in (1.0, 4.0))
    assert even.min() == 0 and even.max() == shifted.max() == 999
    assert (even < 250).float().mean() == pytest.approx(0.25, abs=0.01)
    assert (shifted < 800).float().mean() == pytest.approx(0.5, abs=0.01)
    assert (shifted < 250).float().mean() == pytest.approx(1 / 13, abs=0.01)  # 4 t / (1 + 3 t) = 1 / 4


# ---- pipelines


def test_a_pipeline_of_diffusers_is_read(folder, pipe):
    assert names.image_size_of(str(folder)) == pipe.image_size == tiny.SIZE
    assert (pipe.length, pipe.shrinking, pipe.scaling, pipe.family) == (tiny.TOKENS, 2, 0.5, 'unet')
    theirs = tiny.diffusers_pipeline()
    for part in ('text_encoder', 'vae', 'unet'):
        for name, tensor in getattr(theirs, part).state_dict().items():
            assert torch.equal(tensor, getattr(pipe, part).state_dict()[name])
    texts, _ = theirs.encode_prompt(list(tiny.CAPTIONS), 'cpu', 1, False)
    assert torch.allclose(pipe.encode_texts(list(tiny.CAPTIONS)), texts, atol=1e-6)


def test_its_hash_is_of_the_weights(folder, pipe):
    again = pipeline.load(str(folder))
    assert (again.hash, again.encoder_hash) == (pipe.hash, pipe.encoder_hash)
    parts = tiny.parts() | {'unet': tiny.parts(seed=1)['unet']}
    other = pipeline.Pipeline('x', tiny.SIZE, source='', **parts)
    assert other.encoder_hash == pipe.encoder_hash and other.hash != pipe.hash


def spoil(copied: Path, what: str) -> None:
    index = json.loads((copied / 'model_index.json').read_text())
    if what == 'no U-Net':
        del index['unet']
    elif what == 'another network':
        config = json.loads((copied / 'unet' / 'config.json').read_text()) | {'_class_name': 'UNet3DConditionModel'}
        (copied / 'unet' / 'config.json').write_text(json.dumps(config))
    elif what == 'no scheduler':
        shutil.rmtree(copied / 'scheduler')
    elif what == 'pickle':
        weights = copied / 'vae' / 'diffusion_pytorch_model.safetensors'
        weights.rename(weights.with_suffix('.bin'))
    elif what == 'cut short':
        weights = copied / 'text_encoder' / 'model.safetensors'
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == 'predicts images':
        path = copied / 'scheduler' / 'scheduler_config.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | {'prediction_type': 'sample'}))
    (copied / 'model_index.json').write_text(json.dumps(index))


@pytest.mark.parametrize(
    ('what', 'error', 'words'),
    [
        ('no U-Net', DoesNotFit, 'without a U-Net'),
        ('another network', DoesNotFit, 'UNet3DConditionModel'),
        ('no scheduler', BadInput, 'scheduler is missing'),
        ('pickle', BadInput, r'diffusion_pytorch_model\.bin is a pickle'),
        ('cut short', BadInput, 'cannot be read'),
        ('predicts images', DoesNotFit, "'sample'"),
    ],
)
def test_a_pipeline_that_cannot_be_used_is_refused(copied, what, error, words):
    spoil(copied, what)
    with pytest.raises(error, match=words):
        pipeline.load(str(copied))


def test_names_that_are_none_and_pipelines_that_are_not_here(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match='stable_diffusion_mini'):
        names.family_of('stable_difusion_mini')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(BadInput, match='medpeft pipelines fetch stable_diffusion_v1_5'):
        pipeline.load('stable_diffusion_v1_5')
    with pytest.raises(BadInput, match='no pipeline'):
        pipeline.load('stable_diffusion_v1_5', weights=str(tmp_path))


def test_a_tokenizer_that_cuts_prompts_says_how_many_and_how_much(pipe, caplog):
    with caplog.at_level(logging.WARNING):
        assert pipe.cut([tiny.CAPTIONS[0]]).prompts == 0
        assert not caplog.records
        found = pipe.cut([tiny.CAPTIONS[0], 'the left ' * 10])  # 20 words, beginning and end
    assert (found.prompts, found.tokens, found.longest) == (1, 22 - tiny.TOKENS, 22)
    assert '1 of 2 prompts are cut and lose 10 of 29 tokens' in caplog.text  # the other has five words, stop, two ends


# ---- latents and texts


def test_what_is_encoded_is_what_the_parts_give(pipe, tmp_path):
    found = encoded(pipe, tmp_path)
    assert found.latents.shape == (16, 4, 8, 8) and found.texts.shape == (4, tiny.TOKENS, tiny.WIDTH)
    wanted = pipe.encode_images(pictures()[5:6])
    assert np.allclose(found.latents[5], wanted[0], atol=1e-3)
    x = torch.from_numpy(pictures()[5:6]).permute(0, 3, 1, 2) / 255 * 2 - 1
    assert torch.allclose(wanted, pipe.vae.encode(x).latent_dist.mean * 0.5, atol=1e-5)
    assert np.allclose(found.texts[found.text_of[4]], pipe.encode_texts([tiny.CAPTIONS[1]])[0], atol=1e-3)
    assert np.allclose(found.texts[0], pipe.encode_texts([''])[0], atol=1e-3)


def test_encoding_is_done_once_for_the_frozen_parts_and_the_data(pipe, tmp_path, monkeypatch):
    first = encoded(pipe, tmp_path)
    with torch.no_grad():
        pipe.unet.conv_in.weight += 1  # the U-Net has no say in it
    monkeypatch.setattr(pipeline.Pipeline, 'encode_images', lambda *_: pytest.fail('encoded again'))
    again = encoded(pipe, tmp_path)
    assert np.array_equal(first.latents, again.latents)
    with pytest.raises(pytest.fail.Exception):
        encode(pipe, pictures() + 1, [''] * 16, np.arange(16), tmp_path)
    with pytest.raises(KeyError):
        EncodedPairs(first, np.array([3, 99]), torch.device('cpu'))


# ---- the loop


@pytest.mark.parametrize('key', METHODS)
def test_every_method_trains_what_it_declares(pipe, tmp_path, key):
    task = task_of(pipe, tmp_path, key)
    before = {name: p.detach().clone() for name, p in task.adapted.model.named_parameters()}
    result = fit(task, CONFIG, quiet=True)
    moved = {n for n, p in task.adapted.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= set(task.adapted.trainable())
    assert [row['step'] for row in result.curve] == [0, 2, 4, 6]
    assert result.best == 1 + int(np.argmin([row['validation_loss'] for row in result.curve[1:]]))
    assert validation_loss(task.adapted, task.validation, task.denoising) == pytest.approx(
        result.curve[result.best]['validation_loss'], rel=1e-6
    )


def test_the_loss_by_hand(pipe):
    """A U-Net that predicts zero has the mean square of its target: the noise, or alpha noise - sigma latents."""
    latents, noise = torch.randn(2, 3, 4, 8, 8)
    times, texts = torch.tensor([0, 500, 999]), torch.zeros(3, tiny.TOKENS, tiny.WIDTH)
    for parameter in pipe.unet.conv_out.parameters():
        parameter.data.zero_()
    assert torch.allclose(
        Denoising(pipe.noising).loss(pipe.unet, latents, texts, noise, times), noise.square().mean(dim=(1, 2, 3))
    )
    velocity = pipeline.Pipeline('v', tiny.SIZE, source='', **tiny.parts('v_prediction') | {'unet': pipe.unet})
    product = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[times].view(-1, 1, 1, 1)
    wanted = product.sqrt() * noise - (1 - product).sqrt() * latents
    found = Denoising(velocity.noising).loss(pipe.unet, latents, texts, noise, times)
    assert torch.allclose(found, wanted.square().mean(dim=(1, 2, 3)), atol=1e-5)


def test_parts_of_a_batch_and_checkpointing_give_the_same_gradients(folder, tmp_path):
    kinds = {'whole': {}, 'parts': {'micro_batch': 3}, 'recomputed': {'gradient_checkpointing': True}}
    gradients = {}
    for name, changes in kinds.items():
        task = task_of(pipeline.load(str(folder)), tmp_path, 'bias_tuning', changes)
        task.adapted.train()
        task.backward(task.batch(np.array([7, 2, 5, 0]), torch.Generator().manual_seed(0)))
        gradients[name] = {key: parameter.grad for key, parameter in task.adapted.trainable().items()}
    for name in ('parts', 'recomputed'):
        for key, gradient in gradients['whole'].items():
            assert torch.allclose(gradient, gradients[name][key], rtol=1e-3, atol=1e-6), (name, key)


def test_dropped_prompts_are_empty_ones(pipe, tmp_path):
    pairs = EncodedPairs(encoded(pipe, tmp_path), np.arange(16), torch.device('cpu'))
    _, texts = pairs.fetch(np.array([1, 2]), np.array([True, False]))
    assert torch.equal(texts[0], torch.tensor(np.array(pairs.encoded.texts[0])).float())
    assert not torch.equal(texts[1], texts[0])


@pytest.mark.parametrize('die_at', [1, 3, 5])
def test_a_killed_training_goes_on_to_the_same_bits(folder, tmp_path, die_at):
    def fresh() -> DenoisingTask:  # the dropout draws from the global generator
        return task_of(pipeline.load(str(folder)), tmp_path / 'cache', 'lora', config={'dropout': 0.5})

    whole, killed, resumed, path = fresh(), fresh(), fresh(), tmp_path / 'checkpoint.safetensors'
    whole_fit = fit(whole, CONFIG, quiet=True)
    steps, step = [], killed.backward

    def die(batch):
        steps.append(batch)
        if len(steps) == die_at + 1:
            raise KeyboardInterrupt
        return step(batch)

    killed.backward = die
    with pytest.raises(KeyboardInterrupt):
        fit(killed, CONFIG, quiet=True, checkpoint=path, checkpoint_seconds=0)
    resumed_fit = fit(resumed, CONFIG, quiet=True, checkpoint=path)
    assert resumed_fit.curve == whole_fit.curve and resumed_fit.best == whole_fit.best
    for name, tensor in whole.adapted.state().items():
        assert torch.equal(tensor, resumed.adapted.state()[name]), name


def test_a_checkpoint_of_another_training_is_refused(folder, tmp_path):
    how = {'quiet': True, 'checkpoint': tmp_path / 'c.safetensors', 'checkpoint_seconds': 0}
    fit(task_of(pipeline.load(str(folder)), tmp_path, 'lora'), CONFIG, **how)
    with pytest.raises(BadInput, match='other settings'):
        fit(task_of(pipeline.load(str(folder)), tmp_path, 'norm_tuning'), CONFIG, **how)


def test_a_loss_that_is_no_number_stops_the_training(folder, tmp_path):
    task = task_of(pipeline.load(str(folder)), tmp_path, 'full_ft')
    step = task.backward
    task.backward = lambda batch: step(batch) * float('nan')
    with pytest.raises(Diverged, match=r'steps 1 and 2 of 6; lower learning_rate \(now 0\.01\)'):
        fit(task, CONFIG, quiet=True)
    task = task_of(pipeline.load(str(folder)), tmp_path, 'full_ft')
    task.adapted.model.conv_in.weight.data.fill_(float('nan'))
    with pytest.raises(Diverged, match='validation loss is nan'):
        fit(task, CONFIG, quiet=True)


# ---- sampling


def test_sampling_is_that_of_diffusers(pipe):
    theirs = tiny.diffusers_pipeline()
    theirs.set_progress_bar_config(disable=True)
    noise, prompts = starting_noise(3, (4, 8, 8), seed=5), list(tiny.CAPTIONS)
    for guidance in (4.0, 1.0):
        settings = {'num_inference_steps': 4, 'guidance_scale': guidance, 'output_type': 'latent'}
        wanted = theirs(prompts, height=tiny.SIZE, width=tiny.SIZE, latents=noise, **settings).images
        found = denoise(pipe, pipe.unet, noise, pipe.encode_texts(prompts), pipe.encode_texts(['']), guidance, 4)
        assert torch.equal(found, wanted)


def test_an_image_depends_on_seed_and_number_alone(pipe):
    prompts, how = [*tiny.CAPTIONS, ''], {'steps': 2, 'guidance_scale': 3.0}
    images = sample(pipe, pipe.unet, prompts, seed=1, batch_size=4, **how)
    assert images.shape == (4, tiny.SIZE, tiny.SIZE, 3) and images.dtype == np.uint8
    last = sample(pipe, pipe.unet, prompts[2:], seed=1, first=2, batch_size=1, **how)
    assert np.abs(images[2:].astype(int) - last).max() <= 1
    assert not np.array_equal(images, sample(pipe, pipe.unet, prompts, seed=2, **how))
    for wrong in ({'prompts': []}, {'steps': 0}):
        with pytest.raises(BadInput):
            sample(pipe, pipe.unet, **{'prompts': prompts, 'steps': 1} | wrong)
    with pytest.raises(DoesNotFit, match='such as 16 px'):
        sample(pipe, pipe.unet, prompts, steps=1, image_size=17)


# ---- a run


def settings(folder: Path, table: Path, **changes) -> Settings:
    small = {
        'batch_size': 4,
        'steps': 2,
        'evaluations': 1,
        'sampling_steps': 2,
        'precision': 'float32',
    }  # nothing is timed
    return Settings(**{'dataset': str(table), 'backbone': str(folder), 'method': 'lora'} | small | changes)


def test_a_run_from_its_settings_to_images(folder, table, tmp_path):
    run = TextToImage(settings(folder, table, training_pairs=6, save_adapter=True, learning_rate=1e-2), tmp_path)
    assert [len(run.rows(split)) for split in ('train', 'validation', 'test')] == [6, 4, 4]
    untuned = run.generate(run.prompts('test'), unet=run.base)
    run.adapted.model.eval()
    assert np.array_equal(untuned, run.generate(run.prompts('test')))  # LoRA starts as the base model
    run.train(quiet=True)
    tuned = run.generate(run.prompts('test'))
    assert not np.array_equal(untuned, tuned)
    unmerged = run.generate(run.prompts('test'), unet=run.adapted.model)
    assert np.abs(tuned.astype(int) - unmerged).max() <= 1
    assert run.losses()['validation_loss'] == pytest.approx(
        validation_loss(run.adapted, run.pairs('validation'), run.denoising), rel=1e-6
    )
    from medpeft_utils.text_image import recording

    (saved,) = recording.write_files(run, tmp_path)
    loaded = methods.load(pipeline.load(str(folder)).unet, saved, 'unet', run.pipeline.hash)
    assert np.array_equal(unmerged, run.generate(run.prompts('test'), unet=loaded.model))


def test_weights_of_a_folder_replace_those_of_the_pipeline(folder, table, tmp_path):
    run = TextToImage(settings(folder, table, weights=str(folder)), tmp_path)
    assert run.pipeline.source == f'folder {folder.name}'
    with pytest.raises(BadInput, match='or a folder that is there'):
        settings(folder, table, weights=str(table)).require_weights()


def test_subsets_are_nested_and_the_encoded_pairs_are_shared(folder, table, tmp_path):
    small = TextToImage(settings(folder, table, training_pairs=2), tmp_path)
    large = TextToImage(settings(folder, table, training_pairs=6), tmp_path)
    assert set(small.rows('train')) < set(large.rows('train'))
    assert small.encoded.latents.filename == large.encoded.latents.filename


def test_a_search_takes_the_rate_of_the_lowest_validation_loss(folder, table, tmp_path):
    run = TextToImage(settings(folder, table, search_trials=2), tmp_path)
    chosen = run.choose_learning_rate(tmp_path / 'searches')
    scores = {trial['learning_rate']: trial['score'] for trial in chosen['trials']}
    assert chosen['how'] == 'searched' and len(scores) == 2
    assert chosen['value'] == max(scores, key=scores.__getitem__) and max(scores.values()) < 0
    other_seed = TextToImage(settings(folder, table, search_trials=2, seed=1), tmp_path)
    other_seed._search = lambda *_: pytest.fail('searched again')
    assert other_seed.choose_learning_rate(tmp_path / 'searches') == chosen


def test_what_is_left_open_is_computed_as_is_fastest_here(folder, pipe, tmp_path, monkeypatch):
    """Plain bfloat16 is the slowest here, with unfused attention the fastest; timed once, and then read."""
    seconds, timed = {computing.PLAIN: 0.2, computing.FUSED: 0.3, computing.UNFUSED: 0.1}, []

    def step_seconds(unet, way, batch):
        timed.append(way)
        return seconds[way]

    monkeypatch.setattr(computing, 'step_seconds', step_seconds)
    how = pipe, lambda: pipeline.load(str(folder)).unet, tiny.SIZE, 4, tmp_path
    assert computing.choose('float32', *how) == computing.PLAIN and not timed
    assert [computing.choose('auto', *how) for _ in range(2)] == [computing.UNFUSED] * 2
    assert len(timed) == 3 * (1 + computing.ROUNDS)
    seconds[computing.FUSED] = 0.05
    assert computing.choose('bf16', *how) == computing.FUSED
    assert computing.choose('auto', *how) == computing.UNFUSED  # as it was when the study began


@pytest.mark.parametrize('way', computing.WAYS['auto'], ids=str)
def test_every_way_to_compute_predicts_alike_and_is_timed(pipe, way):
    noisy, times, texts = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.randn(2, tiny.TOKENS, tiny.WIDTH)
    unet = pipe.unet.requires_grad_(True)
    with torch.no_grad():
        plain = unet(noisy, times, encoder_hidden_states=texts).sample
        with way.autocast(noisy.device):
            other = computing.prepare(unet, way)(noisy, times, encoder_hidden_states=texts).sample
    assert torch.allclose(plain, other.float(), atol=0.05 if way.bf16 else 1e-5)
    assert computing.step_seconds(unet, way, (noisy, times, texts)) > 0
    assert all(parameter.grad is None for parameter in unet.parameters())
    images = [
        sample(pipe, unet, tiny.CAPTIONS[:2], steps=2, precision=how).astype(int) for how in (computing.PLAIN, way)
    ]
    assert abs(images[0] - images[1]).max() <= (20 if way.bf16 else 0)


@pytest.mark.parametrize(
    ('changes', 'error', 'words'),
    [
        ({'method': 'ssf'}, DoesNotFit, 'does not fit'),
        ({'method': 'lorra'}, UnknownName, 'lora'),
        ({'backbone': 'stable_difusion_v1_5'}, UnknownName, 'stable_diffusion_v1_5'),
        ({'sampling_steps': 0}, BadInput, 'sampling_steps=0'),
        ({'training_pairs': -1}, BadInput, 'training_pairs=-1'),
        ({'prompt_dropout': 1.0}, BadInput, 'prompt_dropout'),
        ({'guidance_scale': float('nan')}, BadInput, 'guidance_scale=nan'),
        ({'precision': 'fp8'}, UnknownName, 'bf16'),
        ({'steps': 0}, BadInput, 'steps=0'),
        ({'method_config': '{'}, BadInput, 'not JSON'),
        ({'method_config': '{"rang": 4}'}, BadInput, 'rank'),
    ],
)
def test_settings_that_cannot_be_used_are_refused(folder, table, changes, error, words):
    with pytest.raises(error, match=words):
        settings(folder, table, **changes).check()


def test_the_untuned_pipeline_is_sampled_once_for_all_methods(folder, table, tmp_path):
    def key(**changes) -> str:
        run = TextToImage(settings(folder, table, **changes), tmp_path)
        return measuring._key(run, run.data.rows('test'), 1)

    assert key(method='lora') == key(method='bias_tuning', learning_rate=0.1, steps=7)
    assert len({key(), key(guidance_scale=2.0), key(training_pairs=4), key(precision='bf16')}) == 4


def test_too_many_pairs_are_refused(folder, table, tmp_path):
    with pytest.raises(BadInput, match='9'):
        TextToImage(settings(folder, table, training_pairs=9), tmp_path).rows('train')


# ---- the paper's settings on a graphics card


def test_memory_is_what_the_formulas_say():
    from medpeft_utils.text_image import memory
    from recipes.text_image.mini import UNET

    full, bias = memory.estimate('full_ft'), memory.estimate('bias_tuning')
    assert full.trained == 859_520_964  # of Stable Diffusion v1.5
    assert (full.weights, full.gradients, full.optimizer) == tuple(859_520_964 * n for n in (4, 4, 8))
    assert (bias.weights, bias.gradients, bias.optimizer) == tuple(n * 4 for n in (859_520_964, 343_684, 2 * 343_684))
    assert memory.estimate('bias_tuning', 16).activations == pytest.approx(2 * bias.activations, rel=0.02)
    assert bias.activations < full.activations
    with torch.device('meta'):
        unet = unets.build(UNET)
        unet.requires_grad_(False)
        assert memory.kept_bytes(unet, 1, 8, 128) == 0
        linear = torch.nn.Linear(3, 5)
    kept = memory.kept_bytes(Twice(linear), 2, 4, 128)
    assert kept == 2 * 3 * 4  # the input of the Linear, in float32


class Twice(torch.nn.Module):
    """A Linear on a part of its input; nothing else is kept."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x, times, encoder_hidden_states):
        return self.linear(torch.empty(x.shape[0], 3))


@pytest.mark.slow
def test_every_method_fits_24_gb_at_the_settings_of_the_paper():
    from medpeft_utils.text_image import memory

    rows = memory.table()
    assert [row['method'] for row in rows] == METHODS
    assert max(row['total'] for row in rows) < 24


# ---- the notebook


def test_the_notebook_refuses_a_test_split_that_is_too_small_before_it_trains(folder, table, tmp_path):
    import papermill

    root = Path(__file__).resolve().parents[1]
    given = {'dataset': str(table), 'backbone': str(folder), 'record_folder': str(tmp_path / 'run')}
    with pytest.raises(papermill.PapermillExecutionError, match='4 test images are too few for KID') as caught:
        papermill.execute_notebook(
            root / 'notebooks' / 'experiments' / 'text_to_image.ipynb',
            tmp_path / 'out.ipynb',
            parameters=given,
            kernel_name='python3',
            cwd=root,
            progress_bar=False,
        )
    assert 'TextToImage(settings)' in caught.value.source


def test_the_notebook_runs_and_leaves_a_whole_record(folder, tmp_path):
    import papermill

    root = Path(__file__).resolve().parents[1]
    table = tiny.write_pairs(tmp_path / 'pairs', count=96)
    given = {'dataset': str(table), 'backbone': str(folder), 'method': 'lora', 'training_pairs': 20, 'controls': True}
    given |= {'steps': 2, 'evaluations': 1, 'batch_size': 4, 'sampling_steps': 2, 'sampling_seeds': 2}
    given |= {'test_images': 20, 'learning_rate': 1e-3, 'save_adapter': True, 'record_folder': str(tmp_path / 'run')}
    papermill.execute_notebook(
        root / 'notebooks' / 'experiments' / 'text_to_image.ipynb',
        tmp_path / 'out.ipynb',
        parameters=given,
        kernel_name='python3',
        cwd=root,
        progress_bar=False,
    )
    record = json.loads((tmp_path / 'run' / 'record.json').read_text())
    assert (record['status'], record['experiment'], record['backbone']['family']) == ('done', 'text_to_image', 'unet')
    assert record['data']['used'] == {'train': 20, 'validation': 24} and record['data']['counts']['test'] == 24
    assert record['data']['prompts_cut']['prompts'] == 0
    metrics = record['metrics']
    assert np.isfinite([metrics['validation_loss'], metrics['base_validation_loss']]).all()
    assert [one['seed'] for one in metrics['samples']] == [one['seed'] for one in metrics['base']] == [0, 1]
    assert metrics['checks']['gradient_norm'] > 0 and metrics['checks']['output_change'] > 0
    assert metrics['checks']['merged_difference'] < 1e-4
    assert (
        [one['kid'] for one in metrics['controls']['not_applied']]
        == [one['kid'] for one in metrics['base']]
        != metrics['controls']['untrained']
    )
    assert (tmp_path / 'run' / 'samples.png').is_file() and not (tmp_path / 'run' / 'ground_truth.png').exists()
    assert methods.load(
        pipeline.load(str(folder)).unet, tmp_path / 'run' / 'adapter.safetensors', 'unet', record['backbone']['hash']
    )
