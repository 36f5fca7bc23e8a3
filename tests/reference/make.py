"""Make the fixtures beside this file by running foreign implementations, which are no part of this project.

    python tests/reference/make.py FOLDER

FOLDER holds clones, each in a folder `owner+name`: dongzelian/SSF, ShoufaChen/AdaptFormer, VICO-UoE/URL, RL4M/MED-PEFT,
mkshing/svdiff-pytorch, mkshing/DiffFit-pytorch, MoeinSorkhei/APLA, JieShibo/PETL-ViT. peft and diffusers are those
installed. Each file has the weights of the network (`base.`), those that are trained (`trained.`), the output and the
gradients (`gradient.`), all by this package's names, and in its metadata where the code is from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tiny_references import TEXT, WIDTH, build, gradients, inputs  # noqa: E402 (beside the tests)

Names = dict[str, torch.Tensor]
ADAPTER_IMPORT = 'from .adapter import Adapter'


def git(clone: Path, *arguments: str) -> str:
    return subprocess.run(['git', '-C', clone, *arguments], check=True, capture_output=True, text=True).stdout


def module(clone: Path, path: str, name: str, changes: tuple[tuple[str, str], ...] = (), **known: Any) -> Any:
    """A file of a clone as a module; `changes` mend imports of today's libraries, never what is computed."""
    source = git(clone, 'show', f'HEAD:{path}')
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    made = types.ModuleType(name)
    vars(made).update(known)
    sys.modules[name] = made
    exec(compile(source, path, 'exec'), vars(made))
    return made


def standing_in() -> None:
    """Names of modules that older code imports, for what they are called today, or for what is not used."""
    import timm.layers
    import timm.models

    for name in ('layers', 'layers.helpers'):
        sys.modules[f'timm.models.{name}'] = timm.layers
    helpers = types.ModuleType('timm.models.helpers')
    for name in ('build_model_with_cfg', 'named_apply', 'adapt_input_conv', 'resolve_pretrained_cfg', 'checkpoint_seq'):
        setattr(helpers, name, getattr(timm.models, name, None))
    registry = types.ModuleType('timm.models.registry')
    registry.register_model = lambda function: function
    timm.layers._assert = getattr(timm.layers, '_assert', torch._assert)
    ipdb = types.ModuleType('ipdb')
    sys.modules |= {'timm.models.helpers': helpers, 'timm.models.registry': registry, 'ipdb': ipdb}


def moved(model: nn.Module, trained: list[str]) -> None:
    """Put all that is trained somewhere else than its start."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def write(file: str, about: dict[str, Any], base: Names, trained: Names, output: torch.Tensor, found: Names) -> None:
    tensors = {f'base.{name}': tensor for name, tensor in base.items()}
    tensors |= {f'trained.{name}': tensor for name, tensor in trained.items()} | {'output': output}
    tensors |= {f'gradient.{name}': tensor for name, tensor in found.items()}
    kept = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    path = HERE / f'{file}.safetensors'
    save_file(kept, path, {name: v if isinstance(v, str) else json.dumps(v) for name, v in about.items()})
    print(f'{path.name}: {path.stat().st_size // 1024} KB')


def run(
    file: str, source: dict[str, str], ours: dict[str, Any], theirs: nn.Module, base: nn.Module, names: dict[str, str]
) -> None:
    """Run a foreign network and write its fixture.

    Args:
        ours: network, method, config, family of this package's counterpart.
        theirs: their network with the weights of `base`.
        names: their name of each trained parameter to ours.
    """
    moved(theirs, list(names))
    output, found = gradients(theirs, inputs(ours['network']))
    trained = dict(theirs.named_parameters())
    write(
        file,
        source | ours,
        base.state_dict(),
        {mine: trained[its] for its, mine in names.items()},
        output,
        {mine: found[its] for its, mine in names.items()},
    )


def from_clone(folder: Path, repository: str) -> tuple[Path, dict[str, str]]:
    clone = folder / repository.replace('/', '+')
    clone = clone / 'repo' if (clone / 'repo').is_dir() else clone
    return clone, {'repository': f'https://github.com/{repository}', 'commit': git(clone, 'rev-parse', 'HEAD').strip()}


def ssf(folder: Path) -> None:
    clone, source = from_clone(folder, 'dongzelian/SSF')
    code = module(clone, 'models/vision_transformer.py', 'ssf_vit')
    size = {'img_size': 16, 'patch_size': 8, 'embed_dim': WIDTH, 'depth': 2, 'num_heads': 2, 'mlp_ratio': 2}
    theirs, base = code.VisionTransformer(**size, num_classes=3, tuning_mode='ssf').double().eval(), build('vit')
    theirs.load_state_dict(base.state_dict(), strict=False)
    places = {'patch_embed.ssf_{}_1': 'patch_embed.proj', 'ssf_{}_1': 'norm'}
    for i in range(2):
        for k, layer in ((1, 'norm1'), (2, 'norm2')):
            places[f'blocks.{i}.ssf_{{}}_{k}'] = f'blocks.{i}.{layer}'
        for part, layers in (('attn', ('qkv', 'proj')), ('mlp', ('fc1', 'fc2'))):
            for k, layer in enumerate(layers, 1):
                places[f'blocks.{i}.{part}.ssf_{{}}_{k}'] = f'blocks.{i}.{part}.{layer}'
    names = {its.format(leaf): f'{mine}.{leaf}' for its, mine in places.items() for leaf in ('scale', 'shift')}
    run('ssf', source, {'network': 'vit', 'method': 'ssf', 'family': 'vit', 'config': {}}, theirs, base, names)


def adaptformer(folder: Path) -> None:
    clone, source = from_clone(folder, 'ShoufaChen/AdaptFormer')
    adapter = module(clone, 'models/adapter.py', 'adaptformer_adapter')
    imported = ((ADAPTER_IMPORT, ''),)
    code = module(clone, 'models/custom_modules.py', 'adaptformer_modules', imported, Adapter=adapter.Adapter)
    tuning = SimpleNamespace(ffn_adapt=True, ffn_option='parallel', ffn_num=3, ffn_adapter_init_option='lora')
    vars(tuning).update(ffn_adapter_scalar='0.1', ffn_adapter_layernorm_option='none', d_model=WIDTH)
    base, theirs, names = build('vit'), build('vit'), {}
    for i, block in enumerate(base.blocks):
        made = code.Block(WIDTH, 2, 2, qkv_bias=True, config=tuning, layer_id=i).double().eval()
        state = block.state_dict()
        for leaf in ('weight', 'bias'):
            for part, rows in zip('qkv', state.pop(f'attn.qkv.{leaf}').chunk(3), strict=True):
                state[f'attn.{part}_proj.{leaf}'] = rows
            state |= {f'{fc}.{leaf}': state.pop(f'mlp.{fc}.{leaf}') for fc in ('fc1', 'fc2')}
            for layer in ('down', 'up'):
                mine = f'blocks.{i}.mlp.adapter.{layer}.{leaf}'
                names[f'blocks.{i}.adaptmlp.{layer}_proj.{leaf}'] = mine
        made.load_state_dict(state, strict=False)
        made.norm1.eps = made.norm2.eps = block.norm1.eps
        theirs.blocks[i] = made
    config = {'bottleneck': 3, 'scale': 0.1}
    ours = {'network': 'vit', 'method': 'adaptformer', 'family': 'vit', 'config': config}
    run('adaptformer', source, ours, theirs, base, names)


def tsa(folder: Path) -> None:
    clone, source = from_clone(folder, 'VICO-UoE/URL')
    options = {'test.tsa_opt': 'alpha', 'test.tsa_ad_type': 'residual', 'test.tsa_ad_form': 'matrix'}
    options |= {'test.tsa_init': 'eye'}
    sys.modules['config'] = SimpleNamespace(args=options)
    sys.modules |= {'models.losses': SimpleNamespace(prototype_loss=None), 'utils': SimpleNamespace(device='cpu')}
    sys.modules['models'] = types.ModuleType('models')
    code = module(clone, 'models/tsa.py', 'tsa_code')
    base = build('resnet')
    theirs = code.resnet_tsa(build('resnet')).double().eval()
    theirs.reset()
    theirs = theirs.backbone.double()
    names = {name: name for name, _ in theirs.named_parameters() if name.endswith('.alpha')}
    ours = {'network': 'resnet', 'method': 'tsa', 'family': 'cnn', 'config': {'convolutions': '3x3'}}
    run('tsa', source, ours, theirs, base, names)


def med_peft(folder: Path) -> None:
    clone, source = from_clone(folder, 'RL4M/MED-PEFT')
    code = module(clone, 'lora.py', 'med_peft_lora')
    base, theirs, rank = build('vit_pooled'), build('vit_pooled'), 2
    for block in theirs.blocks:
        qkv = code.MergedLinear(
            WIDTH, 3 * WIDTH, r=rank, lora_alpha=32, enable_lora=[True, False, True], merge_weights=False
        ).double()
        qkv.load_state_dict(block.attn.qkv.state_dict(), strict=False)
        qkv.eval()  # gives None
        block.attn.qkv = qkv
    names = [f'blocks.{i}.attn.qkv.lora_{factor}' for i in range(2) for factor in 'AB']
    moved(theirs, [*names, 'fc_norm.weight', 'fc_norm.bias'])
    output, found = gradients(theirs, inputs('vit_pooled'))
    parameters = dict(theirs.named_parameters())

    def ours(tensors: Names) -> Names:
        split = {name: tensors[name] for name in ('fc_norm.weight', 'fc_norm.bias')}
        for name in names:
            layer, factor = name.rpartition('.')[::2]
            q, v = tensors[name].chunk(2)
            split |= {f'{layer}.{part}.{factor}.default.weight': t for part, t in (('q', q), ('v', v))}
        return split

    config = {'rank': rank, 'alpha': 32.0, 'parts': 'qv', 'train_final_norm': True}
    about = source | {'network': 'vit_pooled', 'method': 'lora', 'family': 'vit', 'config': config}
    write('med_peft', about, base.state_dict(), ours(parameters), output, ours(found))


def svdiff(folder: Path) -> None:
    clone, source = from_clone(folder, 'mkshing/svdiff-pytorch')
    einops = types.ModuleType('einops')
    einops.rearrange = lambda t, how, **sizes: t.view(len(t), *sizes.values()) if sizes else t.flatten(1)
    sys.modules.setdefault('einops', einops)
    code = module(clone, 'svdiff_pytorch/layers.py', 'svdiff_layers')
    base = build('stack')
    made = [
        code.SVDConv2d(3, 4, 3, padding=1),
        code.SVDGroupNorm(2, 4),
        nn.Flatten(),
        code.SVDLayerNorm(64),
        code.SVDLinear(64, 5),
    ]
    theirs = nn.Sequential(*made).double().eval()
    theirs.load_state_dict(base.state_dict(), strict=False)
    names = {f'{i}.delta': f'{i}.parametrizations.weight.0.delta' for i in (0, 1, 3, 4)}
    run(
        'svdiff', source, {'network': 'stack', 'method': 'sv_diff', 'family': 'unet', 'config': {}}, theirs, base, names
    )


def difffit(folder: Path) -> None:
    clone, source = from_clone(folder, 'mkshing/DiffFit-pytorch')
    processors = module(clone, 'difffit_pytorch/diffusers_models/attention_processor.py', 'difffit_processors')
    code = module(
        clone,
        'difffit_pytorch/diffusers_models/attention.py',
        'difffit_attention',
        (('from .attention_processor import Attention', ''),),
        Attention=processors.Attention,
    )
    base, theirs = build('transformer'), build('transformer')
    theirs.block = code.BasicTransformerBlock(WIDTH, 2, WIDTH // 2, cross_attention_dim=TEXT)
    for attention in (theirs.block.attn1, theirs.block.attn2):
        attention.set_processor(processors.DiffFitAttnProcessor(WIDTH))
    theirs = theirs.double().eval()
    theirs.load_state_dict(base.state_dict(), strict=False)
    names = {}
    for name, _ in theirs.named_parameters():
        place, _, leaf = name.rpartition('.')
        if leaf.startswith('gamma'):
            site = place.removesuffix('.processor')
            part = {'gamma_q': '.to_q', 'gamma_k': '.to_k', 'gamma_v': '.to_v', 'gamma_fnn': '.to_out.0'}.get(leaf)
            names[name] = f'{site}{part or "." + leaf.removeprefix("gamma_")}.gamma'
        elif 'norm' in name or leaf == 'bias':
            names[name] = name
    ours = {'network': 'transformer', 'method': 'difffit', 'family': 'unet', 'config': {}}
    run('difffit', source, ours, theirs, base, names)


def apla(folder: Path) -> None:
    clone, source = from_clone(folder, 'MoeinSorkhei/APLA')
    sys.modules['utils'] = types.ModuleType('utils')
    colors = types.ModuleType('utils.colors')
    sys.modules['utils.colors'] = colors
    code = module(clone, 'src/apla/appla_attn.py', 'apla_code', print_ddp=lambda *_: None)
    base, theirs, columns = build('vit'), build('vit'), 3
    generator = torch.Generator().manual_seed(0)  # ours draws the rows of one layer after the other
    rows = [torch.randperm(WIDTH, generator=generator) for _ in range(2)]
    for block, order in zip(theirs.blocks, rows, strict=True):
        made = code.APLA_Attention(SimpleNamespace(partial_size=columns), WIDTH, order, 2, qkv_bias=True).double()
        state = block.attn.state_dict()
        for leaf in ('weight', 'bias'):
            whole = state.pop(f'proj.{leaf}')
            state |= {f'proj_{leaf}1': whole[order[:columns]], f'proj_{leaf}2': whole[order[columns:]]}
        made.load_state_dict(state | {'inds': order})
        block.attn = First(made.eval())
    names = {
        f'blocks.{i}.attn.inner.proj_{leaf}1': f'blocks.{i}.attn.proj.{leaf}'
        for i in range(2)
        for leaf in ('weight', 'bias')
    }
    ours = {'network': 'vit', 'method': 'apla', 'family': 'vit', 'config': {'columns': columns}}
    run('apla', source, ours, theirs, base, names)


def vpt(folder: Path) -> None:
    """The prompts of the code of AdaptFormer, which compares with VPT: before the class token, which is the same."""
    clone, source = from_clone(folder, 'ShoufaChen/AdaptFormer')
    blocks = module(clone, 'models/custom_modules.py', 'vpt_modules', ((ADAPTER_IMPORT, ''),), Adapter=None)
    imported = (('from .custom_modules  import Block', ''),)
    code = module(clone, 'models/vit_image.py', 'vpt_vit', imported, Block=blocks.Block)
    tuning = SimpleNamespace(ffn_adapt=False, vpt_on=True, vpt_num=3)
    size = {'img_size': 16, 'patch_size': 8, 'embed_dim': WIDTH, 'depth': 2, 'num_heads': 2, 'mlp_ratio': 2}
    theirs = code.VisionTransformer(**size, num_classes=3, tuning_config=tuning).double().eval()
    base = build('vit')
    state = {}
    for name, tensor in base.state_dict().items():
        if '.attn.qkv.' in name:
            parts = zip('qkv', tensor.chunk(3), strict=True)
            state |= {name.replace('qkv', f'{part}_proj'): rows for part, rows in parts}
        else:
            state[name.replace('.mlp.', '.')] = tensor
    theirs.load_state_dict(state, strict=False)
    names = {f'embeddings.{i}': f'blocks.{i}.prompts.tokens' for i in range(2)}
    moved(theirs, list(names))
    output, found = gradients(theirs, inputs('vit'))
    trained = dict(theirs.named_parameters())
    about = source | {'network': 'vit', 'method': 'vpt_deep', 'family': 'vit', 'config': {'tokens': 3}}
    ours = {mine: trained[its][0] for its, mine in names.items()}
    write('vpt_deep', about, base.state_dict(), ours, output, {mine: found[its][0] for its, mine in names.items()})


def convpass(folder: Path) -> None:
    """Their module has the width and the grid of ViT-Base in it; those, and nothing else, are replaced."""
    clone, source = from_clone(folder, 'JieShibo/PETL-ViT')
    sizes = (('768', str(WIDTH)), ('14 * 14', '2 * 2'), ('14, 14', '2, 2'), ('torch.eye(8', 'torch.eye(dim'))
    code = module(clone, 'convpass/vtab/convpass.py', 'convpass_code', sizes)
    base, theirs = build('vit'), build('vit')
    code.set_Convpass(theirs, 'convpass', dim=4, s=0.7)
    for block in theirs.blocks:
        block.drop_path = nn.Identity()  # as timm called it then
        block.forward = forward_of(code, block)
    names = {}
    for i in range(2):
        for branch in ('attn', 'mlp'):
            for layer in ('down', 'conv', 'up'):
                for leaf in ('weight', 'bias'):
                    its = f'blocks.{i}.adapter_{branch}.adapter_{layer}.{leaf}'
                    names[its] = f'blocks.{i}.{branch}.bypass.{layer}.{leaf}'
    ours = {'network': 'vit', 'method': 'convpass', 'family': 'vit', 'config': {'width': 4, 'scale': 0.7}}
    run('convpass', source, ours, theirs.double().eval(), base, names)


def forward_of(code: Any, block: nn.Module) -> Any:
    """Their forward of a block, which today is given more arguments than it takes."""
    return lambda x, **_: code.forward_block(block, x)


class First(nn.Module):
    """Of a module that gives several outputs, the first."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return self.inner(x)[0]


def peft_and_diffusers(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for key, options in (('lora', {}), ('dora', {'use_dora': True}), ('rslora', {'use_rslora': True})):
        base = build('vit')
        theirs = get_peft_model(build('vit'), LoraConfig(r=2, lora_alpha=6, target_modules=['qkv'], **options)).eval()
        names = {
            name: name.removeprefix('base_model.model.') for name, p in theirs.named_parameters() if p.requires_grad
        }
        source = {'repository': 'https://github.com/huggingface/peft', 'commit': f'v{metadata.version("peft")}'}
        ours = {'network': 'vit', 'method': key, 'family': 'vit', 'config': {'rank': 2, 'alpha': 6.0}}
        run(f'peft_{key}', source, ours, theirs, base, names)
    base, theirs = build('transformer'), build('transformer')
    layers = ['to_q', 'to_k', 'to_v', 'to_out.0']
    made = get_peft_model(theirs.block, LoraConfig(r=2, lora_alpha=6, target_modules=layers))
    theirs.block = made.base_model.model  # as `add_adapter` of diffusers puts LoRA layers into a U-Net
    names = {name: name for name, p in theirs.named_parameters() if '.lora_' in name}
    source = {'repository': 'https://github.com/huggingface/diffusers', 'commit': f'v{metadata.version("diffusers")}'}
    ours = {'network': 'transformer', 'method': 'lora', 'family': 'unet', 'config': {'rank': 2, 'alpha': 6.0}}
    run('diffusers_lora', source, ours, theirs.eval(), base, names)


if __name__ == '__main__':
    standing_in()
    for make in (ssf, adaptformer, tsa, med_peft, svdiff, difffit, apla, vpt, convpass, peft_and_diffusers):
        make(Path(sys.argv[1]))
