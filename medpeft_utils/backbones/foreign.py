"""Folders and names of other libraries: transformers' vision towers, open_clip's, and timm's own under a folder.

`hf-hub:owner/name` is a repository in the local hub cache, `local-dir:FOLDER` a folder of the same layout. Where its
`config.json` is timm's, timm builds the network. Where it is transformers' (ViT, DINOv2 with or without registers,
CLIP, SigLIP), or open_clip's around a timm network, the same network is built in timm, with the configuration's epsilon
and activation, and the keys are renamed: outputs equal those of transformers but for rounding.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpeft_utils.core.errors import BadInput, DoesNotFit

if TYPE_CHECKING:
    import torch
    from torch import nn

PREFIXES = ('hf-hub:', 'local-dir:')
WEIGHTS = (
    'model.safetensors',
    'open_clip_model.safetensors',
    'pytorch_model.bin',
    'open_clip_pytorch_model.bin',
)
CONFIGS = ('config.json', 'open_clip_config.json', 'preprocessor_config.json')
ACTIVATIONS = {'gelu': 'gelu', 'quick_gelu': 'quick_gelu', 'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_new': 'gelu_tanh'}
TYPES = ('vit', 'deit', 'dinov2', 'dinov2_with_registers', 'clip', 'siglip')


def is_foreign(name: str) -> bool:
    """Whether a name is of a folder or a repository and not of an architecture."""
    return name.startswith(PREFIXES)


def folder_of(name: str) -> Path:
    """The folder behind a name. Raises BadInput where it is not there, or not in the cache, naming the way out."""
    if name.startswith('local-dir:'):
        folder = Path(name.removeprefix('local-dir:')).expanduser()
        if not any((folder / config).is_file() for config in CONFIGS[:2]):
            raise BadInput(f'backbone {name!r}: {folder} holds no config.json; give a folder of timm or transformers')
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository = name.removeprefix('hf-hub:')
    try:
        found = [try_to_load_from_cache(repository, config) for config in CONFIGS[:2]]
    except HFValidationError as error:
        raise BadInput(f'backbone {name!r}: {repository!r} is no owner/name of a hub repository') from error
    path = next((path for path in found if isinstance(path, str)), None)
    if path is None:
        raise BadInput(
            f'backbone {name!r} is not in the local hub cache; run `medpeft backbones fetch {name}` (a gated one asks '
            'for `hf auth login` first), or give local-dir:FOLDER'
        )
    return Path(path).parent


def weights_of(name: str) -> Path:
    """The weights file in the folder of a name. Raises BadInput where there is none."""
    folder = folder_of(name)
    found = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if found is None:
        raise BadInput(f'backbone {name!r}: {folder} holds none of {", ".join(WEIGHTS)}; was the download stopped?')
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise BadInput(f'{path}: not JSON ({error}); fetch it again') from error
    if not isinstance(content, dict):
        raise BadInput(f'{path}: holds no configuration')
    return content


def vision_config(folder: Path) -> dict[str, Any]:
    """The vision part of a transformers configuration in a folder; {} where there is none of a known type."""
    config = _json(folder / 'config.json')
    kind = str(config.get('model_type', '')).removesuffix('_vision_model')
    part = config.get('vision_config')
    return (part if isinstance(part, dict) else config) | {'model_type': kind} if kind in TYPES else {}


def create(name: str, **arguments: Any) -> nn.Module:
    """The network behind a name with random weights; `img_size`, `num_classes` and others as for `timm.create_model`.

    Raises:
        BadInput: nothing there, or no usable configuration.
        DoesNotFit: a network that has no counterpart in timm.
    """
    import timm

    folder = folder_of(name)
    config, clip = _json(folder / 'config.json'), _json(folder / 'open_clip_config.json')
    try:
        if 'architecture' in config:
            return timm.create_model(f'local-dir:{folder}', pretrained=False, **arguments)
        if clip:
            return _create_open_clip(name, clip, arguments)
        vision = vision_config(folder)
        if vision.get('model_type') not in TYPES:
            raise DoesNotFit(
                f'backbone {name!r}: config.json is of {config.get("model_type") or "nothing"!r}; those of timm, '
                f'open_clip and of {", ".join(TYPES)} are read'
            )
        return _create_transformers(name, vision, _json(folder / 'preprocessor_config.json'), arguments)
    except (KeyError, TypeError, ValueError, AssertionError, ZeroDivisionError, RuntimeError) as error:
        if isinstance(error, (BadInput, DoesNotFit)) or 'img_size' in str(error):
            raise
        raise BadInput(f'backbone {name!r}: its configuration cannot be built ({error!r})') from error


def _create_open_clip(name: str, clip: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    import timm

    tower = clip['model_cfg']['vision_cfg']
    if 'timm_model_name' not in tower:
        raise DoesNotFit(f"backbone {name!r}: open_clip's own tower; give the timm name of it and weights=FILE")
    model = timm.create_model(tower['timm_model_name'], pretrained=False, **arguments)
    given = clip.get('preprocess_cfg', {})
    model.pretrained_cfg = model.pretrained_cfg | {key: given[key] for key in ('mean', 'std') if key in given}
    return model


def _create_transformers(
    name: str, config: dict[str, Any], preprocessor: dict[str, Any], arguments: dict[str, Any]
) -> nn.Module:
    import timm
    from torch import nn

    kind, width = config['model_type'], config['hidden_size']
    activation = config.get('hidden_act', {'clip': 'quick_gelu', 'siglip': 'gelu_pytorch_tanh'}.get(kind, 'gelu'))
    if activation not in ACTIVATIONS:
        raise DoesNotFit(
            f'backbone {name!r}: activation {activation!r} is not read; these are: {", ".join(ACTIVATIONS)}'
        )
    dino, hidden = kind.startswith('dinov2'), config.get('intermediate_size')
    settings = {
        'img_size': config['image_size'],
        'patch_size': config['patch_size'],
        'embed_dim': width,
        'depth': config['num_hidden_layers'],
        'num_heads': config['num_attention_heads'],
        'mlp_ratio': hidden / width if hidden and not dino else config.get('mlp_ratio', 4),
        'qkv_bias': config.get('qkv_bias', True),
        'norm_layer': partial(nn.LayerNorm, eps=config.get('layer_norm_eps', 1e-5 if kind == 'clip' else 1e-6)),
        'act_layer': ACTIVATIONS[activation],
    }
    if dino:
        settings['init_values'] = config.get('layerscale_value', 1.0)
        if config.get('use_swiglu_ffn'):
            from timm.layers import SwiGLUPacked

            hidden = (int(int(width * settings['mlp_ratio']) * 2 / 3) + 7) // 8 * 8
            settings |= {'mlp_layer': SwiGLUPacked, 'act_layer': 'silu', 'mlp_ratio': 2 * hidden / width}
    if kind == 'dinov2_with_registers':
        settings |= {'reg_tokens': config.get('num_register_tokens', 4), 'no_embed_class': True}
    if kind == 'clip':
        settings['pre_norm'] = True
    if kind == 'siglip':
        settings |= {'class_token': False, 'global_pool': 'map'}
    model = timm.create_model('vit_base_patch16_224', pretrained=False, **(settings | arguments))
    own = {'architecture': name, 'input_size': (3, config['image_size'], config['image_size'])}
    for key, theirs in (('mean', 'image_mean'), ('std', 'image_std')):
        own[key] = preprocessor.get(theirs, (0.5,) * 3)
    model.pretrained_cfg = model.pretrained_cfg | own
    return model


EMBEDDING = re.compile(r'^(.*?)embeddings\.(patch_embeddings\.projection|patch_embedding)\.weight$')
LAYER = re.compile(r'^(?:encoder\.)?layers?\.(\d+)\.(.*)$')
PROJECTION = re.compile(r'^(?:attention\.(?:attention\.)?|self_attn\.)(query|key|value|[qkv]_proj)\.(weight|bias)$')
POOLING = re.compile(r'^head\.attention\.in_proj_(weight|bias)$')
IN_LAYER = (
    (r'^(layernorm_before|layer_norm1)\.', 'norm1.'),
    (r'^(layernorm_after|layer_norm2)\.', 'norm2.'),
    (r'^(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.', 'attn.proj.'),
    (r'^(intermediate\.dense|mlp\.weights_in)\.', 'mlp.fc1.'),
    (r'^(output\.dense|mlp\.weights_out|mlp\.down_proj)\.', 'mlp.fc2.'),
    (r'^layer_scale([12])\.lambda1$', r'ls\1.gamma'),
)
OUTSIDE = (
    (r'^embeddings\.(patch_embeddings\.projection|patch_embedding)\.', 'patch_embed.proj.'),
    (r'^embeddings\.(cls_token|class_embedding)$', 'cls_token'),
    (r'^embeddings\.register_tokens$', 'reg_token'),
    (r'^embeddings\.(position_embeddings|position_embedding\.weight)$', 'pos_embed'),
    (r'^(layernorm|post_layernorm)\.', 'norm.'),
    (r'^pre_layrnorm\.', 'norm_pre.'),
    (r'^head\.probe$', 'attn_pool.latent'),
    (r'^head\.attention\.out_proj\.', 'attn_pool.proj.'),
    (r'^head\.layernorm\.', 'attn_pool.norm.'),
    (r'^head\.mlp\.', 'attn_pool.mlp.'),
)


def from_transformers(state: dict[str, torch.Tensor], model: nn.Module) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Transformers' names, in the spelling before version 5 or since, as timm's; and the names that were left.

    A state dict in another format comes back as it is.
    """
    import torch

    match = next((found for found in map(EMBEDDING.match, state) if found), None)
    if match is None:
        return state, []
    prefix, out, parts, left = match[1], {}, {}, []
    for name, tensor in state.items():
        inner = name.removeprefix(prefix)
        layer = LAYER.match(inner)
        projection = (
            PROJECTION.match(layer[2]) if layer else re.match(r'^head\.attention\.in_proj_(weight|bias)$', inner)
        )
        if not name.startswith(prefix):
            left.append(name)
        elif layer and projection:
            parts.setdefault(f'blocks.{layer[1]}.attn.qkv.{projection[2]}', {})[projection[1][0]] = tensor
        elif layer and (gate := re.match(r'^mlp\.(gate|up)_proj\.(weight|bias)$', layer[2])):
            parts.setdefault(f'blocks.{layer[1]}.mlp.fc1.{gate[2]}', {})[gate[1][0]] = tensor
        elif projection:
            third = len(tensor) // 3
            out[f'attn_pool.q.{projection[1]}'], out[f'attn_pool.kv.{projection[1]}'] = tensor[:third], tensor[third:]
        elif layer:
            out[f'blocks.{layer[1]}.{_renamed(layer[2], IN_LAYER)}'] = tensor
        elif (renamed := _renamed(inner, OUTSIDE)) != inner:
            out[renamed] = tensor
        else:
            left.append(name)
    for name, pieces in parts.items():
        out[name] = torch.cat([pieces[letter] for letter in ('q', 'k', 'v', 'g', 'u') if letter in pieces])
    return _with_shapes_of_timm(out, model), left


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, by in rules:
        renamed, count = re.subn(pattern, by, name)
        if count:
            return renamed
    return name


def _with_shapes_of_timm(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """CLIP's vectors as [1, 1, D] and [1, N, D]; where the class token has no place in the grid, its position on it."""
    if 'cls_token' in state:
        state['cls_token'] = state['cls_token'].reshape(1, 1, -1)
    if 'pos_embed' in state and state['pos_embed'].ndim == 2:
        state['pos_embed'] = state['pos_embed'][None]
    if getattr(model, 'no_embed_class', False) and {'cls_token', 'pos_embed'} <= state.keys():
        state['cls_token'] = state['cls_token'] + state['pos_embed'][:, :1]
        state['pos_embed'] = state['pos_embed'][:, 1:]
    return state


def take_epsilon(model: nn.Module, path: Path) -> None:
    """Give every LayerNorm the epsilon of a transformers configuration that lies beside a weights file."""
    from torch import nn

    epsilon = vision_config(path.parent).get('layer_norm_eps')
    if not isinstance(epsilon, int | float):
        return
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(epsilon)
