"""An adapter in the layout of peft or diffusers, and read from it: names, options and shapes, no network needed.

Nothing that a foreign config names is imported, and weights are read from safetensors alone.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.files import parse_json, read_tensors, write_tensors
from medpeft_utils.methods import METHODS
from medpeft_utils.methods.base import BATCH_NORM
from medpeft_utils.methods.lora import ADAPTER, FINAL_NORMS, adapted_layers
from medpeft_utils.methods.peft_tuners import PeftMethod, feedforward_layers

if TYPE_CHECKING:
    from torch import nn

PEFT_CONFIG, PEFT_WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
DIFFUSERS_WEIGHTS = 'pytorch_lora_weights.safetensors'
PREFIX = 'base_model.model.'
ADDED = re.compile(rf'(?P<layer>.+)\.(?P<what>\w+)\.{ADAPTER}(?P<leaf>\.weight)?')
# Fields of peft's configs that say where an adapter is from and not what it computes.
ABOUT = {
    *('peft_type', 'auto_mapping', 'peft_version', 'base_model_name_or_path', 'revision', 'task_type'),
    *('inference_mode', 'target_modules', 'feedforward_modules', 'modules_to_save', 'init_weights', 'runtime_config'),
    *('init_lora_weights', 'layers_pattern', 'megatron_core', 'ensure_weight_tying', 'bias', 'use_dora', 'use_rslora'),
}
Tensors = dict[str, torch.Tensor]


def exportable() -> list[str]:
    """The methods whose adapters peft can hold."""
    return [key for key, method in METHODS.items() if key == 'lora' or isinstance(method, PeftMethod)]


# ---- to peft


def to_peft(about: dict[str, Any], tensors: Tensors, folder: Path, backbone: str, model: nn.Module) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, which `PeftModel.from_pretrained` loads.

    Head, final norm and BatchNorm layers are modules to save. An update of q and v apart becomes one of the fused qkv
    of twice the rank, which computes the same.

    Args:
        about: method, family, config, as `methods.adapted.read` gives them.
        tensors: by this package's names.
        folder: is made.
        backbone: what the config calls the base model.
        model: the base model; a module to save is saved whole, its frozen parts from here.
    Raises DoesNotFit for a method that peft does not hold.
    """
    key, method = about['method'], METHODS[about['method']]
    if key not in exportable():
        raise DoesNotFit(
            f'method {key!r} has no layout in peft; these have: {", ".join(exportable())}. `methods.load(...).merge()` '
            'gives plain weights for others'
        )
    config = method.configure(about['config'], about['family'])
    layers: dict[str, Tensors] = {}
    saved = {}
    for name, tensor in tensors.items():
        if found := ADDED.fullmatch(name):
            layers.setdefault(found['layer'], {})[found['what']] = tensor
        else:
            saved[name] = tensor
    layers, config = _fused(layers, key, config)
    second = [name for name in layers if name.endswith('.fc2')]
    settings = copy.copy(method.peft_config(config, list(layers), *([second] if key == 'ia3' else [])))
    settings.modules_to_save = list(dict.fromkeys(name.rpartition('.')[0] for name in saved)) or None
    base = model.state_dict()
    for module in settings.modules_to_save or ():
        saved |= {name: base[name] for name in base if name.rpartition('.')[0] == module and name not in saved}
    settings.base_model_name_or_path, settings.inference_mode = backbone, True
    settings.target_modules = list(layers)
    added = {f'{layer}.{_leaf(what)}': tensor for layer, parts in layers.items() for what, tensor in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / PEFT_WEIGHTS, {PREFIX + name: tensor for name, tensor in (added | saved).items()})
    settings.save_pretrained(folder)


def _leaf(what: str) -> str:
    """The end of peft's name in a file: a layer of its own has a weight, a parameter has none."""
    return f'{what}.weight' if what in ('lora_A', 'lora_B', 'oft_R') else what


def _fused(layers: dict[str, Tensors], key: str, config: Any) -> tuple[dict[str, Tensors], Any]:
    """Layers of a split qkv put together again; the config with what changes by that."""
    fused: dict[str, Tensors] = {}
    for name, parts in layers.items():
        whole, _, letter = name.rpartition('.')
        if letter in ('q', 'k', 'v') and whole.endswith('.qkv'):
            fused.setdefault(whole, {})[letter] = parts
        else:
            fused[name] = parts
    if not any(name.endswith('.qkv') and parts.keys() <= {'q', 'k', 'v'} for name, parts in fused.items()):
        return fused, config
    if key == 'ia3':
        return {name: _scaled(p) if name.endswith('.qkv') else p for name, p in fused.items()}, config
    if key not in ('lora', 'rslora'):
        raise DoesNotFit(f"method {key!r} with parts='qv' has no layout in peft over a fused qkv; LoRA and rsLoRA have")
    factor = 2 if key == 'lora' else math.sqrt(2)  # alpha over the rank, or over its root, stays
    config = dataclasses.replace(config, rank=2 * config.rank, alpha=factor * config.alpha, parts='qkv')
    return {name: _stacked(parts) for name, parts in fused.items()}, config


def _scaled(parts: dict[str, Tensors]) -> Tensors:
    """IA3's factors of k and v [D, 1] as those of the fused layer [3 D, 1], with ones for q."""
    k, v = parts['k']['ia3_l'], parts['v']['ia3_l']
    return {'ia3_l': torch.cat([torch.ones_like(k), k, v])}


def _stacked(parts: dict[str, Tensors]) -> Tensors:
    """LoRA's factors of q and v, rank r, as those of the fused layer, rank 2 r."""
    a_q, b_q, a_v, b_v = (parts[part][f'lora_{factor}'] for part in 'qv' for factor in 'AB')
    b = b_q.new_zeros(3 * len(b_q), 2 * len(a_q))
    b[: len(b_q), : len(a_q)], b[-len(b_v) :, len(a_q) :] = b_q, b_v
    return {'lora_A': torch.cat([a_q, a_v]), 'lora_B': b}


# ---- from peft


def from_peft(folder: Path, model: nn.Module, family: str) -> tuple[dict[str, Any], Tensors]:
    """An adapter in peft's layout as this package's: what `methods.adapted.read` gives, without a base's hash.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        model: the backbone, whose layers the config's names are compared with; it is not changed.
        family: of the backbone.
    Raises:
        BadInput: a file is missing or spoilt.
        DoesNotFit: it computes something that no method here does.
    """
    if not (folder / PEFT_CONFIG).is_file():
        raise BadInput(f'{folder} holds no {PEFT_CONFIG}')
    found = _object((folder / PEFT_CONFIG).read_bytes(), str(folder / PEFT_CONFIG))
    _, tensors = read_tensors(folder / PEFT_WEIGHTS)
    key, config = _method_of(found, folder)
    saved = found.get('modules_to_save') or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise DoesNotFit(f'{folder / PEFT_CONFIG}: modules_to_save={short(saved)}; only a list of names is read')
    if key == 'lora' and any(f'{name}.'.startswith(FINAL_NORMS) for name in saved):
        config['train_final_norm'] = True
    layers = _named_layers(found.get('target_modules'), model, folder)
    config |= _parts_of(layers, key, model, family, folder)
    names = {}
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            raise BadInput(f"{folder / PEFT_WEIGHTS}: {name!r} is not one of peft's names, which begin with {PREFIX}")
        names |= _own_name(name.removeprefix(PREFIX), tensor, layers)
    if key == 'ia3':
        names = _unscaled(names, folder)
    return {'method': key, 'family': family, 'config': config}, _without_frozen(names, model, folder)


def _object(text: str | bytes, what: str) -> dict[str, Any]:
    """The options by name in JSON. Raises BadInput that names them (`what`)."""
    try:
        found = parse_json(text)
    except ValueError as error:
        raise BadInput(f'{what} is not JSON ({short(str(error), 100)})') from error
    if not isinstance(found, dict):
        raise BadInput(f'{what} holds no options by name')
    return found


def _method_of(found: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    """The method's key and its options. Raises DoesNotFit where an option is set that no method here has."""
    import peft

    for key in reversed(exportable()):  # LoRA, whose fields its relatives set, is asked last
        method = METHODS[key]
        rows = {'rank': 'r', 'alpha': 'lora_alpha', 'dropout': 'lora_dropout'}
        fields = method.tuner.fields if key != 'lora' else rows
        fixed = method.tuner.fixed if key != 'lora' else {}
        kind = getattr(peft, method.tuner.peft_config if key != 'lora' else 'LoraConfig')
        defaults = {f.name: f.default for f in dataclasses.fields(kind)}
        differs = [name for name, value in fixed.items() if found.get(name, defaults.get(name)) != value]
        if found.get('peft_type') != kind().peft_type.value or (differs and key != 'lora'):
            continue
        for name, value in found.items():
            known = name in fields.values() or name in fixed or name in ABOUT
            if not known and value and value != defaults.get(name):
                raise DoesNotFit(f'{folder / PEFT_CONFIG}: {name}={value!r} is not supported by method {key!r}')
        if found.get('bias', 'none') != 'none':
            raise DoesNotFit(f'{folder / PEFT_CONFIG}: bias={found["bias"]!r}; methods here train no bias beside it')
        options = {option: found[name] for option, name in fields.items() if found.get(name) is not None}
        kinds = {field.name: type(field.default) for field in dataclasses.fields(method.Config)}
        return key, {n: float(v) if kinds[n] is float and type(v) is int else v for n, v in options.items()}
    raise DoesNotFit(
        f'{folder / PEFT_CONFIG}: peft_type={found.get("peft_type")!r} with these settings is not supported; these '
        f'are: {", ".join(exportable())}'
    )


def _named_layers(wanted: Any, model: nn.Module, folder: Path) -> list[str]:
    """The full names of the layers that a list of names or ends of names stands for, as peft takes it."""
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise DoesNotFit(f'{folder / PEFT_CONFIG}: target_modules={wanted!r}; only a list of names is read')
    ends = tuple(f'.{name}' for name in wanted)
    names = [name for name, _ in model.named_modules() if f'.{name}'.endswith(ends)] if ends else []
    if not names:
        raise DoesNotFit(f'{folder / PEFT_CONFIG}: the network has no layer of those that it names ({wanted[:3]})')
    return names


def _parts_of(layers: list[str], key: str, model: nn.Module, family: str, folder: Path) -> dict[str, str]:
    """The option `parts` that stands for these layers."""
    if key == 'ia3':
        choices = {'': {*adapted_layers(model, family, 'qkv'), *feedforward_layers(model)}}
    else:
        choices = {parts: set(adapted_layers(model, family, parts)) for parts in ('qkv', 'qkvo')}
        choices |= {'qv': set(adapted_layers(model, family, 'qv'))} if family == 'unet' else {}
    for parts, names in choices.items():
        if names == set(layers):
            return {'parts': parts} if parts and family != 'cnn' else {}
    raise DoesNotFit(
        f'{folder / PEFT_CONFIG}: it adapts {len(layers)} layers ({", ".join(layers[:3])}, ...); here method {key!r} '
        f'adapts {" or ".join(str(len(names)) for names in choices.values())} others'
    )


def _own_name(name: str, tensor: torch.Tensor, layers: Iterable[str]) -> Tensors:
    """This package's name of a tensor of peft's."""
    for layer in layers:
        if name.startswith(f'{layer}.'):
            what, _, leaf = name.removeprefix(f'{layer}.').partition('.')
            if what not in ('weight', 'bias', 'base_layer'):
                leaf = '.weight' if leaf or what == 'lora_magnitude_vector' else ''
                return {f'{layer}.{what}.{ADAPTER}{leaf}': tensor}
    return {name: tensor}


def _without_frozen(tensors: Tensors, model: nn.Module, folder: Path) -> Tensors:
    """Without the weights and biases of BatchNorm, which peft saves with its statistics; they must be the network's."""
    norms = {name for name, module in model.named_modules() if isinstance(module, BATCH_NORM)}
    base = model.state_dict()
    kept = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition('.')
        if not (module in norms and leaf in ('weight', 'bias')):
            kept[name] = tensor
        elif not torch.equal(tensor, base[name].cpu()):
            raise DoesNotFit(f"{folder}: {name} is not the network's; methods here train no BatchNorm beside an update")
    return kept


def _unscaled(tensors: Tensors, folder: Path) -> Tensors:
    """IA3's factors of fused layers as those of k and v; q must have none."""
    names = {}
    for name, tensor in tensors.items():
        layer, what = name.partition('.ia3_l.')[::2]
        if not (what and layer.endswith('.qkv')):
            names[name] = tensor
            continue
        if len(tensor) % 3 or not torch.equal(tensor[: len(tensor) // 3], torch.ones_like(tensor[: len(tensor) // 3])):
            raise DoesNotFit(f'{folder}: {layer} scales q as well; IA3 here scales k and v')
        _, k, v = tensor.chunk(3)
        names |= {f'{layer}.k.ia3_l.{ADAPTER}': k.contiguous(), f'{layer}.v.ia3_l.{ADAPTER}': v.contiguous()}
    return names


# ---- diffusers


def to_diffusers(about: dict[str, Any], tensors: Tensors, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` by diffusers' own saver, which `load_lora_weights` loads.

    Raises DoesNotFit for all but LoRA on a U-Net.
    """
    from diffusers import StableDiffusionPipeline

    config = METHODS[about['method']].configure(about['config'], about['family'])
    if about['method'] != 'lora' or about['family'] != 'unet' or config.train_final_norm:
        with_norm = ' with train_final_norm' if getattr(config, 'train_final_norm', False) else ''
        raise DoesNotFit(
            f'method {about["method"]!r}{with_norm} on family {about["family"]!r} has no layout in diffusers, which '
            'reads LoRA on a U-Net alone; give --to peft'
        )
    layers = {name.replace(f'.{ADAPTER}', ''): tensor for name, tensor in tensors.items()}
    targets = sorted({name.rpartition('.lora_')[0] for name in layers})
    folder.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers,
        unet_lora_adapter_metadata={'r': config.rank, 'lora_alpha': config.alpha, 'target_modules': targets},
    )


def from_diffusers(folder: Path, model: nn.Module) -> tuple[dict[str, Any], Tensors]:
    """A U-Net's LoRA in diffusers' layout as this package's; see `from_peft`. Both spellings of the factors are read.

    Without metadata alpha is the rank, as diffusers takes it.
    """
    path = folder / DIFFUSERS_WEIGHTS
    metadata, tensors = read_tensors(path)
    about = _object(metadata.get('lora_adapter_metadata', '{}'), f'{path}: lora_adapter_metadata')
    names = {}
    for name, tensor in tensors.items():
        own = name.replace('.lora.down.', '.lora_A.').replace('.lora.up.', '.lora_B.')
        if not (own.startswith('unet.') and own.endswith(('.lora_A.weight', '.lora_B.weight'))):
            raise DoesNotFit(f'{path}: {name!r} is not a factor of LoRA on a U-Net; nothing else is read')
        names[f'{own.removeprefix("unet.").removesuffix(".weight")}.{ADAPTER}.weight'] = tensor
    ranks = {len(tensor) for name, tensor in names.items() if '.lora_A.' in name}
    if len(ranks) != 1:
        raise DoesNotFit(f'{path}: LoRA here has one rank, this file has {sorted(ranks)[:5] or "none"}')
    rank = ranks.pop()
    layers = sorted({name.rpartition('.lora_')[0] for name in names})
    alpha = about.get('unet.lora_alpha', rank)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise BadInput(f'{path}: unet.lora_alpha={alpha!r} in its metadata is not a number')
    config = {'rank': rank, 'alpha': float(alpha)} | _parts_of(layers, 'lora', model, 'unet', folder)
    return {'method': 'lora', 'family': 'unet', 'config': config}, names
