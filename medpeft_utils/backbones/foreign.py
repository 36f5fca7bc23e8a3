"""Folders and names of other libraries: transformers' vision towers, open_clip's, and timm's own under a folder.

`hf-hub:owner/name` is a repository in the local hub cache, `local-dir:FOLDER` a folder of the same layout. Where its
`config.json` is timm's, timm builds the network. Where it is transformers' (ViT, DINOv2 with or without registers,
CLIP, SigLIP), or open_clip's around a timm network, the same network is built in timm, with the configuration's epsilon
and activation, and the keys are renamed: the outputs equal those of transformers up to rounding.

No file is taken at its word. Its numbers must be finite and of a size that a network can have, and the network must not
have more weights than its file could hold.
"""

from __future__ import annotations

import math
import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError, short
from medpeft_utils.core.files import parse_json
from medpeft_utils.core.schema import checked

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
# The largest whole number that a configuration may hold, by what its key is about; the first match counts.
MOST = ((r'depth|layer|block', 256), (r'(image|img|input|patch)_size', 8192), ('', 1 << 24))
MOST_BYTES = 1 << 24  # of a configuration file
MOST_WEIGHTS = 10**10  # of a network; the largest of timm has 6.7 thousand million


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
    found = _weights_in(folder)
    if found is None:
        raise BadInput(f'backbone {name!r}: {folder} holds none of {", ".join(WEIGHTS)}; was the download stopped?')
    return found


def _weights_in(folder: Path) -> Path | None:
    return next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)


def _json(path: Path) -> dict[str, Any]:
    """The object in a configuration file; {} where there is no such file. Raises BadInput."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_BYTES:
        raise BadInput(f'{path}: {path.stat().st_size:,} bytes are too many for a configuration; fetch it again')
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise BadInput(f'{path}: not JSON ({short(str(error), 100)}); fetch it again') from error
    if not isinstance(content, dict):
        raise BadInput(f'{path}: holds {short(content)}, not a configuration; fetch it again')
    waiting = [('', content)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.items() if isinstance(value, dict) else [(key, item) for item in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f'{path}: {short(key)} is {value}; give a finite number')
        elif isinstance(value, int) and abs(value) > (most := _most(key)):
            raise BadInput(f'{path}: {short(key)} is {short(value)}; no network is so large, give {most:,} at most')
    return content


def _most(key: str) -> int:
    return next(most for pattern, most in MOST if re.search(pattern, key))


def check_built(name: str, model: nn.Module) -> None:
    """Raise BadInput for a network, built on the meta device, that is too large for its file, or takes no image."""
    import torch

    weights, file = sum(parameter.numel() for parameter in model.parameters()), _weights_in(folder_of(name))
    described = f'backbone {name!r}: its configuration describes {weights:,} weights'
    if weights > MOST_WEIGHTS:
        raise BadInput(f'{described}; {MOST_WEIGHTS:,} at most')
    if file is not None and weights > file.stat().st_size:  # a weight takes two bytes or four
        raise BadInput(f'{described}, and {file.name} has {file.stat().st_size:,} bytes; fetch both again')
    size = input_of(name, model)[0]
    try:
        with torch.inference_mode():
            model.eval()(torch.empty(1, 3, size, size, device='meta'))
    except Exception as error:  # a layer may raise anything
        raise BadInput(f'backbone {name!r}: its configuration takes no image ({short(error, 200)})') from error


def input_of(name: str, model: nn.Module) -> tuple[int, tuple, tuple]:
    """Input size, mean and standard deviation that timm keeps with a network. Raises BadInput where they cannot be."""
    config = model.pretrained_cfg
    try:
        size, mean, std = config['input_size'][-1], tuple(map(float, config['mean'])), tuple(map(float, config['std']))
        usable = (
            size == int(size) > 0 and len(mean) == len(std) == 3 and min(std) > 0 and math.isfinite(sum(mean + std))
        )
    except (KeyError, TypeError, ValueError):
        usable = False
    if not usable:
        about = {key: config.get(key) for key in ('input_size', 'mean', 'std')}
        raise BadInput(f'backbone {name!r}: {short(about, 200)} are no input size, mean and deviation of 3 channels')
    return size, mean, std


@cache
def _schema() -> type:
    """What a transformers configuration of a vision tower must hold; what is not named here passes as it is."""
    from typing import Annotated

    from pydantic import ConfigDict, Field, create_model

    def whole(most: int) -> Any:
        return Annotated[int, Field(ge=1, le=most)]

    width = whole(1 << 14)
    return create_model(
        *('VisionConfig',),
        __config__=ConfigDict(strict=True),
        hidden_size=(width, ...),
        image_size=(whole(8192), ...),
        patch_size=(whole(8192), ...),
        num_hidden_layers=(whole(256), ...),
        num_attention_heads=(whole(1024), ...),
        intermediate_size=(whole(1 << 17) | None, None),
        mlp_ratio=(Annotated[float, Field(gt=0, le=64)], 4.0),
        layer_norm_eps=(Annotated[float, Field(gt=0, lt=1)], 1e-6),
        layerscale_value=(float, 1.0),
        num_register_tokens=(whole(1024), 4),
        hidden_act=(str, 'gelu'),
        qkv_bias=(bool, True),
        use_swiglu_ffn=(bool, False),
    )


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
    except MedpeftError:
        raise
    except Exception as error:  # a library takes the configuration at its word, and may raise anything
        if 'img_size' in str(error):
            raise
        raise BadInput(f'backbone {name!r}: its configuration cannot be built ({short(error, 200)})') from error


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

    checked(_schema(), config, f'backbone {name!r}: config.json')
    kind, width, hidden = config['model_type'], config['hidden_size'], config.get('intermediate_size')
    if (
        config['num_hidden_layers'] * width * (4 * width + 2 * (hidden or 0)) > MOST_WEIGHTS
    ):  # blocks take time to build
        raise BadInput(f'backbone {name!r}: its configuration describes more than {MOST_WEIGHTS:,} weights')
    activation = config.get('hidden_act', {'clip': 'quick_gelu', 'siglip': 'gelu_pytorch_tanh'}.get(kind, 'gelu'))
    if activation not in ACTIVATIONS:
        raise DoesNotFit(
            f'backbone {name!r}: activation {activation!r} is not read; these are: {", ".join(ACTIVATIONS)}'
        )
    dino = kind.startswith('dinov2')
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
        projection = PROJECTION.match(layer[2]) if layer else POOLING.match(inner)
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
