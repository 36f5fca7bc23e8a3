"""The methods compute what other implementations compute: outputs and gradients kept from running their code.

`reference/make.py` made the files; no foreign code is in this project. A difference shows that a method, or timm, peft
or diffusers beneath it, has changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_references import build, gradients, inputs

from medpeft_utils import methods

FILES = sorted((Path(__file__).parent / 'reference').glob('*.safetensors'))
# SV-Diff keeps singular vectors in float32.
TOLERANCE = {'svdiff': 1e-6}


def test_every_foreign_implementation_has_a_file():
    wanted = {
        'ssf',
        'adaptformer',
        'tsa',
        'med_peft',
        'svdiff',
        'difffit',
        'apla',
        'vpt_deep',
        'convpass',
        'diffusers_lora',
    }
    assert {path.stem for path in FILES} == wanted | {f'peft_{key}' for key in ('lora', 'dora', 'rslora')}
    assert sum(path.stat().st_size for path in FILES) < 1 << 20


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_outputs_and_gradients_are_those_of_the_foreign_implementation(path: Path):
    with safe_open(path, framework='pt') as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about['repository'].startswith('https://github.com/')
    assert about['commit']
    parts = {part: {} for part in ('base', 'trained', 'gradient')}
    for name, tensor in tensors.items():
        part, _, rest = name.partition('.')
        if part in parts:
            parts[part][rest] = tensor
    model = build(about['network'])
    model.load_state_dict(parts['base'])
    adapted = methods.apply(model, about['method'], about['family'], json.loads(about['config'])).eval()
    assert parts['trained'].keys() == adapted.trainable().keys() - {'head.weight', 'head.bias', 'fc.weight', 'fc.bias'}
    adapted.model.load_state_dict(parts['trained'], strict=False)
    output, found = gradients(adapted.model, inputs(about['network']))
    close = {'rtol': TOLERANCE.get(path.stem, 1e-10), 'atol': TOLERANCE.get(path.stem, 1e-10)}
    torch.testing.assert_close(output, tensors['output'], **close)
    for name, gradient in parts['gradient'].items():
        torch.testing.assert_close(found[name].to(gradient.dtype), gradient, **close, msg=lambda m, n=name: f'{n}: {m}')
