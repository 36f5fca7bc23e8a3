"""Write the five classification notebooks from one source: `python notebooks/experiments/make.py`.

A parameter's default comes from `Settings` or from what the experiment fixes (`FIXED`); its help is written here, once.
A test checks that the notebooks are what this file writes.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from medpeft_utils.training.classification import Settings
from medpeft_utils.training.radiographs import RadiographSettings

HELP = {
    'Data': {
        'dataset': 'a name (`medpeft data list`), a folder per class, or a CSV file',
        'data_folder': "folder of the published download; '' for synthetic or prepared data",
        'fraction': 'share of the training images; smaller shares lie within larger ones',
        'folds': '0: the usual split; 5: five folds by patient or lesion, of which split_seed picks the test fold',
        'split_seed': 'of the split into training, validation and test, or which fold is the test split',
    },
    'Model': {
        'backbone': 'a shipped name (`medpeft backbones list`) or a timm name',
        'weights': "'pretrained', 'random', or a weights file",
        'image_size': 'pixels; 0 for the size that the backbone was trained with',
        'drop_path': 'stochastic depth at the last block, falling to 0 at the first',
        'method': '',
        'method_config': "the method's own settings as JSON, such as {example}",
        'rank': 'of LoRA on q and v: 4, 8, 16 or 32; alpha is 32, dropout 0.1; other methods ignore it',
        'head': "'own': its own rate; 'probe': the same, started from the linear probe; 'tied': one rate",
        'seed': 'of head and adapters, order, augmentation and the share of the training images',
    },
    'Training': {
        'batch_size': 'images a step',
        'epochs': 'passes over the training images; min_steps and max_steps bound them',
        'min_steps': 'optimizer steps at least',
        'max_steps': 'optimizer steps at most',
        'warmup_epochs': 'first epochs, in which the learning rate rises',
        'evaluations': 'how often the validation split is scored',
        'optimizer': "'adamw', or 'sgd' (momentum 0.9, one rate for all layers)",
        'weight_decay': 'of SGD on all weights, of AdamW on matrices alone',
        'layer_decay': "AdamW's rate of a layer divided by that of the next one; 1: one rate for all",
        'learning_rate': "0: searched if search_trials > 0, else the method's default",
        'learning_rate_kind': "of a given rate: 'absolute' or 'per 256 images'",
        'head_learning_rate': "0: as learning_rate; not with head='tied'",
        'search_trials': 'rates that Optuna tries on validation, 8 or more; the same number for every method',
        'search_fraction': 'share of the training images for the search; 0: as `fraction`',
        'class_weighting': 'weigh the loss by inverse class frequency',
        'augmentation': "'standard', 'rotations' or 'none'; linear probing has none",
        'probe_copies': 'augmented copies whose features linear probing averages; 0: the image itself',
        'save_adapter': 'keep what was trained as adapter.safetensors beside the record',
        'record_folder': "where the record goes; '' for results/by_hand",
    },
}
# Where an experiment departs from the defaults of its settings, and the parameters that it leaves at their defaults.
FIXED = {
    'cnn': {'dataset': 'synthetic_breastus', 'backbone': 'resnet50_mini', 'method': 'ssf'},
    'vit': {'dataset': 'synthetic_breastus', 'backbone': 'vit_base_mini', 'method': 'lora'},
    'low_data_regime': {
        'dataset': 'synthetic_ham10000',
        'backbone': 'vit_base_mini',
        'method': 'lora',
        'fraction': 0.2,
    },
    'protocol': {
        'dataset': 'synthetic_ham10000',
        'backbone': 'vit_base_mini',
        'method': 'lora',
        'fraction': 0.1,
    },
    'cxr_lora_vs_full': {
        'dataset': 'synthetic_nih_chestxray14',
        'backbone': 'vit_base_mini_cxr_mae',
        'method': 'lora',
    },
}
LEFT_OUT = {'cxr_lora_vs_full': ('folds', 'momentum', 'search_fraction', 'probe_copies')}
SETTINGS = {'cxr_lora_vs_full': RadiographSettings}
# Help that differs between experiments.
OWN_HELP = {
    'cnn': {
        'method': 'a key of medpeft_utils.methods.METHODS',
        'method_config': 'the method\'s own settings as JSON, such as \'{"convolutions": "3x3"}\'',
    },
    'vit': {
        'method': 'a key of medpeft_utils.methods.METHODS',
        'method_config': "the method's own settings as JSON, such as '{\"rank\": 8}'",
    },
    'low_data_regime': {
        'method': 'full_ft, bias_tuning (BitFit), lora; any other ViT method runs as well',
        'method_config': "the method's own settings as JSON, such as '{\"rank\": 8}'",
    },
    'protocol': {
        'method': 'full_ft, bias_tuning (BitFit), lora; any other ViT method runs as well',
        'method_config': "the method's own settings as JSON, such as '{\"rank\": 8}'",
    },
    'cxr_lora_vs_full': {
        'data_folder': "folder of the published download and its lists; '' for synthetic or prepared data",
        'fraction': 'share of the training labels; 0.01 and 0.1 use the published lists where they exist',
        'backbone': 'or vit_base_mini_mrm, vit_base_patch16_224.mrm, vit_base_patch16_224.cxr_mae',
        'method': "'lora' or 'full_ft'; the other methods for ViTs work too",
        'method_config': "more of the method's own settings as JSON",
        'head': "'tied': one rate, as in the paper; 'own' or 'probe' as in the other experiments",
        'seed': 'of head and adapters, order, augmentation, dropout and the share of the training images',
    },
}


def parameters_cell(name: str) -> str:
    """The parameters cell of an experiment: typed, flat, each with its help."""
    settings, help_texts, lines = SETTINGS.get(name, Settings), OWN_HELP[name], []
    known = {field.name: field for field in fields(settings) if field.name not in LEFT_OUT.get(name, ())}
    for title, texts in HELP.items():
        if name not in SETTINGS:  # the radiographs' cell is long enough without titles
            lines.append(f'# {title}')
        for parameter, text in texts.items():
            if (field := known.pop(parameter, None)) is None:
                continue
            value = FIXED[name].get(parameter, field.default)
            lines.append(f'{parameter}: {field.type} = {value!r}  # {help_texts.get(parameter, text)}')
    if known:
        raise ValueError(f'no help for {", ".join(known)} of {settings.__name__}; add it to HELP in {__file__}')
    return '\n'.join(lines)


def cells(name: str) -> list[tuple[str, str]]:
    """Kind and source of every cell of an experiment, from experiments.txt."""
    variant, found = 'radiographs' if name in SETTINGS else 'images', []
    source = (Path(__file__).parent / 'experiments.txt').read_text()
    for part in source.split('\n# %% ')[1:]:
        head, _, body = part.partition('\n')
        kind, *only = head.split()
        if only and not {name, variant} & set(only):
            continue
        body = body.strip('\n').replace('{{name}}', name)
        found.append((kind, parameters_cell(name) if kind == 'parameters' else body))
    return found


def notebook(name: str) -> str:
    """The whole notebook as JSON."""
    made = []
    for number, (kind, source) in enumerate(cells(name)):
        cell = {
            'cell_type': 'markdown' if kind == 'markdown' else 'code',
            'id': f'{name.replace("_", "-")}-{number:02}',
        }
        cell['metadata'] = {'tags': ['parameters']} if kind == 'parameters' else {}
        if kind != 'markdown':
            cell |= {'execution_count': None, 'outputs': []}
        made.append(cell | {'source': source.splitlines(keepends=True)})
    about = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    about |= {'language_info': {'name': 'python'}}
    content = {'cells': made, 'metadata': about, 'nbformat': 4, 'nbformat_minor': 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    for name in FIXED:
        (Path(__file__).parent / f'{name}.ipynb').write_text(notebook(name))
