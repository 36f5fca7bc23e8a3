"""Turn a finished pre-training into shipped weights and their card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from medpeft_utils.backbones.cards import file_hash, write_page
from medpeft_utils.backbones.small import SMALL_BACKBONES, WEIGHTS_FOLDER
from medpeft_utils.core.errors import BadInput
from medpeft_utils.training.augment import normalise, resize
from recipes.backbones.run import MEAN, STD
from recipes.stage import read_curve, read_finished

IMAGES = 2_000  # that calibrate an `fc_norm`
HEADS = ('head.', 'fc.')
SUMMARIES = {
    'supervised': 'Learned to name the class of natural images.',
    'masked': 'Learned without labels to reconstruct masked patches (MAE).',
    'masked_record': 'Learned to reconstruct masked patches and masked words of reports (MRM).',
    'image_text': 'Learned to match natural images with the words of their class (CLIP).',
}


def encoder_state(objective: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's tensors without its head, floating-point ones in half precision, from an objective's state."""
    encoder = {name.removeprefix('encoder.'): t for name, t in objective.items() if name.startswith('encoder.')}
    kept = {name: tensor for name, tensor in encoder.items() if not name.startswith(HEADS)}
    return {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in kept.items()}


def publish(
    folder: Path,
    data: str,
    data_licence: str,
    command: str,
    device: str,
    weights_folder: Path = WEIGHTS_FOLDER,
    score_note: str = '',
    images: np.ndarray | None = None,
) -> Path:
    """Write weights, card and the page of cards; the weights' path.

    Args:
        folder: of a `Pretraining` that ran to its last step.
        data, data_licence, command, device: for the card, in words.
        score_note: what a reader of the held-out score must know, in words.
        images: [N, S, S, 3] uint8 of the pre-training, for the `fc_norm` of a network that has one (`calibrated_norm`).
    Raises:
        BadInput: the pre-training has not reached its last step, or a network with `fc_norm` comes without images.
    """
    finished = read_finished(folder)
    if finished is None:
        raise BadInput(f'{folder}: holds no finished pre-training; run it to the end first')
    about, objective = finished
    recipe, curve = json.loads(about['stage']), read_curve(folder)
    name = recipe['backbone']
    path = weights_folder / f'{name}.safetensors'
    weights_folder.mkdir(parents=True, exist_ok=True)
    card = _card(recipe, curve)
    told = {'name': name} | {key: json.dumps(card[key], sort_keys=True) for key in ('recipe', 'begun_from')}
    state = encoder_state(objective)
    if averages_tokens(name):
        if images is None:
            raise BadInput(f'{name!r} averages its tokens; give images of the pre-training, to calibrate its fc_norm')
        state |= calibrated_norm(name, state, images)
        card['calibration'] = f'fc_norm standardises every feature over {min(len(images), IMAGES):,} training images'
    save_file(state, path, metadata=told)
    path.chmod(0o644)  # safetensors makes it readable by its owner alone
    card |= {'data': data, 'data_licence': data_licence, 'command': command, 'device': device}
    card |= {'score_note': score_note} if score_note else {}
    card['hours'] = float(about['seconds']) / 3600
    card |= {'sha256': file_hash(path), 'bytes': path.stat().st_size}
    (weights_folder / f'{name}.json').write_text(json.dumps(card, indent=1) + '\n')
    write_page(weights_folder)
    return path


def averages_tokens(name: str) -> bool:
    """Whether the shipped network of that name averages its patch tokens, so it has an `fc_norm`."""
    return SMALL_BACKBONES[name].architecture.get('global_pool') == 'avg'


@torch.no_grad()
def calibrated_norm(
    name: str, encoder: dict[str, torch.Tensor], images: np.ndarray, batch: int = 250
) -> dict[str, torch.Tensor]:
    """The weight and bias, [D] float32 each, that give every output of `fc_norm` mean 0 and deviation 1 over images.

    The average of a masked autoencoder's tokens is nearly the same for every image: only 2 % of it varies. Behind a
    fresh `fc_norm` (weight 1, bias 0) a head would see features that vary by 0.02, and learn nothing in hundreds of
    steps. He et al. 2022, arXiv:2111.06377, App. A.1, put a BatchNorm without parameters before a linear head for this
    reason. We write the same standardisation into `fc_norm` once, from images of the pre-training and no labels; LoRA
    and full fine-tuning both start from it, and both train it.

    Args:
        name: of a network that averages its tokens.
        encoder: its tensors as they will be stored.
        images: [N, S, S, 3] uint8, of which the first `IMAGES` count.
    """
    model = SMALL_BACKBONES[name].build(num_classes=0).eval()
    model.load_state_dict({key: value.float() for key, value in encoder.items()}, strict=False)
    mean, std, size = torch.tensor(MEAN), torch.tensor(STD), SMALL_BACKBONES[name].image_size
    parts = []
    for start in range(0, min(len(images), IMAGES), batch):
        x = normalise(torch.from_numpy(images[start : min(start + batch, IMAGES)]), mean, std)
        pooled = model.pool(model.forward_features(resize(x, size)))  # [B, D]
        parts.append(F.layer_norm(pooled, pooled.shape[-1:], eps=model.fc_norm.eps))
    features = torch.cat(parts)
    deviation = features.std(dim=0).clamp(min=1e-4)
    return {'fc_norm.weight': 1 / deviation, 'fc_norm.bias': -features.mean(dim=0) / deviation}


def lineage(start: str) -> list[dict]:
    """The pre-trainings that a file stands at the end of, the last one first: {name, recipe} each.

    Args:
        start: a recipe's `grown_from`: published weights, another pre-training's `finished.safetensors`, or ''.
    """
    if not start:
        return []
    with safe_open(start, framework='pt') as file:
        told = file.metadata() or {}
    if 'stage' not in told:
        recipe = shown_recipe(json.loads(told.get('recipe', '{}')))
        this = {'name': told.get('name', Path(start).stem), 'recipe': recipe}
        return [this, *json.loads(told.get('begun_from', '[]'))]
    recipe = json.loads(told['stage'])
    return [{'name': recipe['backbone'], 'recipe': shown_recipe(recipe)}, *lineage(recipe['grown_from'])]


def shown_recipe(recipe: dict) -> dict:
    """What of a recipe belongs on a card; of the file that it begins from the name of the backbone alone."""
    return {key: value for key, value in recipe.items() if key not in ('backbone', 'grown_from')}


def _card(recipe: dict, curve: list[dict]) -> dict:
    """What recipe and curve say of a backbone."""
    from recipes.backbones.objectives import OBJECTIVES

    name, objective = recipe['backbone'], recipe['objective']
    return {
        'name': name,
        'summary': SUMMARIES[objective],
        'score_name': OBJECTIVES[objective].score_name,
        'score': [row['score'] for row in curve if 'score' in row][-1],
        'parameters': sum(p.numel() for p in SMALL_BACKBONES[name].build().parameters()),
        'recipe': shown_recipe(recipe),
        'begun_from': lineage(recipe['grown_from']),
        'curve': curve,
    }
