"""Pipelines and arguments that cannot be used: each one message, no code of others, no picture of what is no number.

And what `medpeft generate` draws where nothing is wrong.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from medpeft_utils import methods
from medpeft_utils.cli import medpeft
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError
from medpeft_utils.text_image import pipeline, pipeline_files, sampling

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = {
    'text_encoder': 'model.safetensors',
    'vae': 'diffusion_pytorch_model.safetensors',
    'unet': 'diffusion_pytorch_model.safetensors',
}


# ---- medpeft generate


@pytest.fixture(scope='module')
def tuned(tmp_path_factory) -> tuple[Path, Path]:
    """A pipeline of random weights in the layout of diffusers, and a LoRA adapter over it."""
    folder = tmp_path_factory.mktemp('pipe')
    tiny.diffusers_pipeline().save_pretrained(folder)
    pipe = pipeline.load(str(folder))
    adapted = methods.apply(pipe.unet, 'lora', 'unet', {'rank': 2})
    for parameter in adapted.trainable().values():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    return folder, adapted.save(folder / 'adapter.safetensors', pipe.hash)


def call(*words) -> tuple[str, Exception | None]:
    result = CliRunner().invoke(medpeft, ['generate', *map(str, words)])
    return result.output, result.exception


def test_generate_writes_what_the_adapter_draws(tuned, tmp_path: Path, caplog):
    folder, adapter = tuned
    words = ('--adapter', adapter, '--backbone', folder, '--steps', 2, '--out', tmp_path)
    with caplog.at_level(logging.WARNING):
        output, error = call(*words, '--prompt', 'No acute process.', '--count', 2, '--prompt', 'opacity ' * 200)
    assert error is None, output
    paths = sorted(tmp_path.glob('*.png'))
    assert len(paths) == 4 and 'cut' in caplog.text
    assert Image.open(paths[0]).info['prompt'] == 'No acute process.'
    pipe = pipeline.load(str(folder))
    loaded = methods.load(pipe.unet, adapter, 'unet', pipe.hash)
    expected = sampling.sample(pipe, loaded.merge(), ['No acute process.'], 0, 4.0, 2)
    assert (np.asarray(Image.open(paths[0])) == expected[0]).mean() > 0.99  # rounding differs with the batch
    base = sampling.sample(
        pipeline.load(str(folder)), pipeline.load(str(folder)).unet, ['No acute process.'], 0, 4.0, 2
    )
    assert (base[0] != expected[0]).any()


def test_generate_takes_a_negative_prompt(tuned, tmp_path: Path):
    folder, adapter = tuned
    words = ('--adapter', adapter, '--backbone', folder, '--steps', 2, '--prompt', 'Clear lungs.')
    pictures = []
    for number, negative in enumerate(('', 'a goldfish')):
        output, error = call(*words, '--negative', negative, '--out', tmp_path / str(number))
        assert error is None, output
        pictures.append(np.asarray(Image.open(next((tmp_path / str(number)).glob('*.png')))))
    assert (pictures[0] != pictures[1]).any()
    assert 'does nothing with --guidance 1' in str(call(*words, '--negative', 'x', '--guidance', 1)[1])


def test_generate_says_what_is_wrong(tuned, tmp_path: Path):
    folder, adapter = tuned
    assert 'no run begins with' in str(call('--adapter', tmp_path / 'none', '--prompt', 'x')[1])
    assert 'empty prompt' in str(call('--adapter', adapter, '--prompt', ' ')[1])
    assert '--count 0' in str(call('--adapter', adapter, '--prompt', 'x', '--count', 0)[1])
    other = tmp_path / 'other.safetensors'
    pipe = pipeline.load(str(folder))
    methods.apply(pipe.unet, 'bias_tuning', 'unet').save(other, 'f' * 16)
    error = call('--adapter', other, '--backbone', folder, '--prompt', 'x')[1]
    assert isinstance(error, DoesNotFit) and 'f' * 16 in str(error) and '--backbone' in str(error)


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (('--guidance', 'nan'), '--guidance nan'),
        (('--guidance', 'inf'), '--guidance inf'),
        (('--guidance', '-3'), 'from 0 to 100'),
        (('--steps', 10**9), '--steps 1000000000'),
        (('--seed', -1), '--seed -1'),
        (('--seed', 2**70), '--seed'),
        (('--count', 10**9), '--count'),
        (('--image-size', -32), '--image-size -32'),
        (('--image-size', 17), 'multiple of'),
        (('--image-size', 4096), 'give up to 8 times that'),
        (('--out', '{file}'), 'cannot'),
        (('--out', '{file}/below'), 'cannot'),
        (('--out', 'n' * 400), 'cannot'),
        (('--backbone', 'n' * 400), 'unknown pipeline'),
        (('--adapter', 'n' * 400), 'no run begins with'),
        (('--adapter', '{file}'), '--backbone'),
        (('--prompt', 'half \udc80'), 'UTF-8'),
    ],
    ids=str,
)
def test_every_argument_that_cannot_be_used_is_one_message(tuned, tmp_path: Path, words, said):
    folder, adapter = tuned
    (tmp_path / 'file').write_text('')
    given = {'--adapter': adapter, '--backbone': folder, '--prompt': 'x', '--out': tmp_path / 'out', '--steps': 1}
    given |= {words[0]: str(words[1]).replace('{file}', str(tmp_path / 'file'))}
    output, error = call(*(word for item in given.items() for word in item))
    assert isinstance(error, MedpeftError), error or output
    if words[0] != '--adapter' or 'file' not in words[1]:
        assert said in str(error)
    assert not list(tmp_path.rglob('*.png'))


@pytest.mark.parametrize(
    'content',
    [
        *('', 'no JSON', '[]', '7', '{"backbone": 3}', '{"data": []}', '[' * 10**5, '{"folder": 3}', '{"rows": []}'),
        '{"backbone": {"name": "x", "label": "x", "family": "unet", "hash": "x", "image_size": -5}}',
        '{"backbone": {"name": "x", "label": "x", "family": "rnn", "hash": "x", "image_size": 5}}',
        *('{"parameters": "seed"}', '{"parameters": {"seed": "x"}}', '{"parameters": {"weights": 7}}'),
        *('{"rows": {"test": 7}}', '{"rows": {"test": {"n": 2}}}', '{"folder": "a\\u0000"}'),
    ],
)
def test_a_record_that_is_none_is_said(tuned, tmp_path: Path, content):
    adapter = shutil.copy(tuned[1], tmp_path)
    (tmp_path / 'record.json').write_text(content)
    for words in (
        ('generate', '--adapter', adapter, '--prompt', 'x', '--out', tmp_path / 'out'),
        ('predict', adapter, adapter),
        ('adapter', 'export', tmp_path, tmp_path / 'out'),
    ):
        error = CliRunner().invoke(medpeft, [*map(str, words)]).exception
        assert isinstance(error, BadInput) and 'record.json' in str(error)


def test_names_that_no_file_can_have_are_one_message(tuned, tmp_path: Path):
    for words in (
        ('predict', tuned[1], 'n' * 400),
        ('predict', 'n' * 400, tuned[1]),
        ('adapter', 'export', tuned[1], 'n' * 400),
        ('adapter', 'export', 'n' * 400, tmp_path / 'out'),
        ('adapter', 'load', 'n' * 400),
    ):
        result = CliRunner().invoke(medpeft, [*map(str, words)])
        assert isinstance(result.exception, MedpeftError | SystemExit) and result.exit_code != 0, words


def test_what_is_no_number_is_not_drawn(tuned, tmp_path: Path):
    folder, _ = tuned
    pipe = pipeline.load(str(folder))
    adapted = methods.apply(pipe.unet, 'bias_tuning', 'unet')
    for parameter in adapted.trainable().values():
        parameter.data.fill_(float('inf'))
    with pytest.raises(BadInput, match='NaN or infinity; lower the guidance'):
        sampling.sample(pipe, adapted.model, ['x'], steps=2)


# ---- pipelines


@pytest.fixture
def copied(tuned, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(tuned[0], tmp_path / 'spoilt')


JSON_FILES = (
    'model_index.json',
    *(f'{part}/config.json' for part in WEIGHTS),
    'scheduler/scheduler_config.json',
    'tokenizer/tokenizer_config.json',
    'tokenizer/tokenizer.json',
)
GARBAGE = {
    'empty': b'',
    'text': b'hello',
    'list': b'[1, 2]',
    'number': b'7',
    'null': b'null',
    'bytes': b'\xff\xfe\x00',
    'deep': b'[' * 100_000,
    'long number': b'{"a": ' + b'9' * 10_000 + b'}',
    'half a character': b'{"_class_name": "\\ud800"}',
    'empty object': b'{}',
}


@pytest.mark.parametrize('garbage', GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize('name', JSON_FILES)
def test_every_json_may_be_anything(copied: Path, name: str, garbage: bytes):
    """A message and no traceback, from the index to the tokenizer."""
    if (name, garbage) == ('tokenizer/tokenizer_config.json', b'{}'):
        return  # tokenizer.json says all
    (copied / name).write_bytes(garbage)
    with pytest.raises(MedpeftError):
        pipeline.load(str(copied))


def values(path: Path) -> list[str]:
    content = json.loads(path.read_text())
    return [key for key in content if key not in ('_diffusers_version', 'transformers_version')]


@pytest.mark.parametrize('value', [10**12, float('nan'), 'x', None], ids=str)
@pytest.mark.parametrize('name', JSON_FILES[:-1])
def test_every_value_of_every_json_may_be_anything(copied: Path, name: str, value):
    """Whatever a value becomes, the pipeline is read or refused with one message."""
    path = copied / name
    original = path.read_text()
    for key in values(path):
        path.write_text(json.dumps(json.loads(original) | {key: value}))
        try:
            pipeline.load(str(copied))
        except MedpeftError:
            continue


@pytest.mark.parametrize('part', WEIGHTS)
@pytest.mark.parametrize(
    ('what', 'said'),
    [
        ('missing', 'lacks the tensor'),
        ('unknown', 'holds a tensor that no'),
        ('other shape', ''),
        ('NaN', 'not finite'),
        ('integers', 'real numbers'),
        ('complex', 'real numbers'),
        ('empty', ''),
        ('garbage', ''),
        ('cut short', ''),
    ],
)
def test_weights_are_those_of_the_file_or_refused(copied: Path, part: str, what: str, said: str):
    """A tensor that is missing was filled at random in silence, whole numbers were taken for weights."""
    path = copied / part / WEIGHTS[part]
    tensors = load_file(path)
    name = sorted(tensors)[1]
    if what == 'missing':
        del tensors[name]
    elif what == 'unknown':
        tensors['stranger'] = torch.zeros(3)
    elif what == 'other shape':
        tensors[name] = torch.zeros(3, 5, 7)
    elif what == 'NaN':
        tensors[name].view(-1)[0] = float('nan')
    elif what in ('integers', 'complex'):
        tensors[name] = tensors[name].to({'integers': torch.int32, 'complex': torch.complex64}[what])
    elif what == 'empty':
        tensors = {}
    save_file(tensors, path)
    if what == 'garbage':
        path.write_bytes(b'no weights at all')
    elif what == 'cut short':
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MedpeftError, match=said):
        pipeline.load(str(copied))


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('tokenizer/tokenizer_config.json', {'model_max_length': '77'}),
        ('tokenizer/tokenizer_config.json', {'model_max_length': 0}),
        ('scheduler/scheduler_config.json', {'_class_name': 'FlowMatchEulerDiscreteScheduler'}),
        ('scheduler/scheduler_config.json', {'_class_name': 'KarrasVeScheduler'}),
        ('scheduler/scheduler_config.json', {'trained_betas': [2.0] * 1000}),
        ('scheduler/scheduler_config.json', {'trained_betas': [0.1] * 10}),
    ],
    ids=str,
)
def test_lengths_and_noise_that_nothing_can_be_drawn_with_are_refused(copied: Path, name, changes):
    (copied / name).write_text(json.dumps(json.loads((copied / name).read_text()) | changes))
    with pytest.raises(MedpeftError, match=name.partition('/')[0]):
        pipeline.load(str(copied))


def test_what_is_wrong_is_said_once(copied: Path, capfd):
    """The libraries' own reports would print names of tensors, with the control characters in them."""
    path = copied / 'text_encoder' / WEIGHTS['text_encoder']
    save_file(load_file(path) | {'a\x1b[31m': torch.zeros(1)}, path)
    with pytest.raises(BadInput, match='holds a tensor that no'):
        pipeline.load(str(copied))
    assert capfd.readouterr() == ('', '')


def test_a_network_far_larger_than_its_weights_is_not_built(copied: Path):
    """Tensors that are missing are made before they are missed: these would take terabytes."""
    path = copied / 'text_encoder' / 'config.json'
    sizes = {'hidden_size': 16_384, 'intermediate_size': 65_536, 'num_hidden_layers': 128}
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
    with pytest.raises(BadInput, match='describes a network of 412'):
        pipeline.load(str(copied))


def test_parts_that_do_not_fit_each_other_are_told(copied: Path):
    parts = tiny.parts()
    config = parts['text_encoder'].config
    config.hidden_size, config.num_attention_heads = 16, 2
    type(parts['text_encoder'])(config).save_pretrained(copied / 'text_encoder')
    with pytest.raises(DoesNotFit, match='of the text encoder and of the U-Net do not fit: 16 and 8 wide'):
        pipeline.load(str(copied))


CODE = """
from pathlib import Path
Path({marker!r}).write_text('ran')
class Custom: pass
"""
PLACES = {
    'index': ('model_index.json', {'unet': ['custom_unet', 'Custom']}),
    'index, list of one': ('model_index.json', {'vae': ['diffusers']}),
    'index, pipeline': ('model_index.json', {'_class_name': ['custom_pipe', 'Custom'], 'custom_pipeline': 'x'}),
    'tokenizer': ('tokenizer/tokenizer_config.json', {'auto_map': {'AutoTokenizer': ['custom.Custom', None]}}),
    'tokenizer class': (
        'tokenizer/tokenizer_config.json',
        {'tokenizer_class': 'Custom', 'auto_map': {'AutoTokenizer': ['custom.Custom', 'custom.Custom']}},
    ),
    'text encoder': (
        'text_encoder/config.json',
        {'auto_map': {'AutoModel': 'custom.Custom', 'AutoConfig': 'custom.C'}},
    ),
    'U-Net': ('unet/config.json', {'auto_map': {'AutoModel': 'custom.Custom'}}),
    'VAE': ('vae/config.json', {'auto_map': {'AutoModel': 'custom.Custom'}}),
    'attention': ('text_encoder/config.json', {'_attn_implementation': 'somebody/kernel'}),
    'scheduler': ('scheduler/scheduler_config.json', {'_class_name': 'custom.Custom'}),
    'scheduler, a module': ('scheduler/scheduler_config.json', {'_class_name': 'utils'}),
    'scheduler, a function': ('scheduler/scheduler_config.json', {'_class_name': 'DiffusionPipeline'}),
}


LOAD = """
import sys
from medpeft_utils.core.errors import MedpeftError
from medpeft_utils.text_image import pipeline
for folder in sys.argv[1:]:
    try:
        pipeline.load(folder)
    except MedpeftError as error:
        print('refused:', ' '.join(str(error).split()))
"""


def test_code_of_others_is_never_run_and_nobody_is_asked(tuned, tmp_path: Path):
    """In a process of its own whose standard input says yes to whatever is asked."""
    marker, folders = tmp_path / 'ran', []
    for number, (name, changes) in enumerate(PLACES.values()):
        folders.append(shutil.copytree(tuned[0], tmp_path / str(number)))
        for folder in (folders[-1], *(folders[-1] / part for part in pipeline_files.COMPONENTS)):
            for stem in ('custom', 'custom_unet', 'custom_pipe', 'pipeline'):
                (folder / f'{stem}.py').write_text(CODE.format(marker=str(marker)))
        path = folders[-1] / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    ended = subprocess.run(
        [sys.executable, '-c', LOAD, *map(str, folders)],
        **{'input': 'y\n' * 99, 'capture_output': True, 'text': True, 'cwd': ROOT, 'timeout': 300},
    )
    assert ended.returncode == 0 and not marker.exists(), ended.stderr
    assert len(ended.stdout.splitlines()) == len(PLACES), ended.stdout
    assert all(line.startswith('refused:') for line in ended.stdout.splitlines()), ended.stdout
    assert '[y/N]' not in ended.stdout + ended.stderr


def test_files_of_a_pipeline_that_are_folders_or_links_to_nowhere(copied: Path):
    path = copied / 'unet' / 'config.json'
    path.unlink()
    path.mkdir()
    with pytest.raises(BadInput, match='is missing'):
        pipeline.load(str(copied))
    path.rmdir()
    path.symlink_to(copied / 'nowhere')
    with pytest.raises(BadInput, match='is missing'):
        pipeline.load(str(copied))


def test_the_older_layout_of_published_pipelines_is_read(tuned, copied: Path):
    """As Stable Diffusion v1.5 lies on the hub: older names of tensors, a buffer, vocabulary and merges apart."""
    vae, text = copied / 'vae' / WEIGHTS['vae'], copied / 'text_encoder' / WEIGHTS['text_encoder']
    older = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    tensors = {}
    for name, tensor in load_file(vae).items():
        for new, old in older.items():
            name = name.replace(new, old) if 'attentions' in name else name
        tensors[name] = tensor
    assert sum('proj_attn' in name for name in tensors) == 4
    save_file(tensors, vae)
    tensors = {f'text_model.{name.removeprefix("text_model.")}': tensor for name, tensor in load_file(text).items()}
    save_file(tensors | {'text_model.embeddings.position_ids': torch.arange(tiny.TOKENS)[None]}, text)
    model = json.loads((copied / 'tokenizer' / 'tokenizer.json').read_text())['model']
    merges = [merge if isinstance(merge, str) else ' '.join(merge) for merge in model['merges']]
    (copied / 'tokenizer' / 'vocab.json').write_text(json.dumps(model['vocab']))
    (copied / 'tokenizer' / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n')
    (copied / 'tokenizer' / 'tokenizer.json').unlink()
    new, old = pipeline.load(str(tuned[0])), pipeline.load(str(copied))
    assert old.hash == new.hash
    assert torch.equal(old.tokens(list(tiny.CAPTIONS)), new.tokens(list(tiny.CAPTIONS)))
