"""What is particular to the methods on a diffusion U-Net: equations, the kept decomposition, awkward networks."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_backbones import Case, backbone, loss, output, over, perturb
from tiny_unets import SIZE, UNETS, build
from torch import nn

from medpeft_utils import methods
from medpeft_utils.core.errors import DoesNotFit
from medpeft_utils.methods import decomposition
from medpeft_utils.methods.unet import ATTENTION_LAYERS, attention_blocks

ADDITIVE = [Case(name, key) for name in UNETS for key in ('lora', 'sv_diff', 'difffit')]

# --- the equations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', UNETS)
def test_sv_diff_shifts_the_singular_values_of_every_weight(name: str):
    """Dutt et al. 2024, Eq. 5 and 6: W = U Sigma V^T, W_delta = U diag(ReLU(sigma + delta)) V^T."""
    adapted = Case(name, 'sv_diff').apply().eval()
    generator = torch.Generator().manual_seed(3)
    for delta in adapted.trainable().values():
        delta.data = 0.5 * torch.randn(delta.shape, generator=generator)
    deltas, base, cut = {key: value.detach() for key, value in adapted.trainable().items()}, backbone(name), 0
    for key, delta in deltas.items():
        module = base.get_submodule(key.removesuffix('.parametrizations.weight.0.delta'))
        weight = module.weight.detach().numpy()
        matrix = weight.reshape(len(weight), -1) if weight.ndim > 1 else weight[None]
        left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
        shifted = sigma + delta.numpy()
        cut += (shifted < 0).sum()
        module.weight.data = torch.from_numpy((left * np.maximum(shifted, 0) @ right).reshape(weight.shape))
    weights = [p for p in base.parameters() if p.dim() > 1] + [m for m in base.modules() if isinstance(m, NORMS)]
    assert len(deltas) == len(weights) and cut > 10
    torch.testing.assert_close(output(adapted.model), output(base), rtol=1e-4, atol=1e-4)


NORMS = nn.GroupNorm, nn.LayerNorm


@pytest.mark.parametrize('name', UNETS)
def test_difffit_scales_the_parts_of_every_block(name: str):
    """Xie et al. 2023 and its port: h + gamma * attention(norm(h)), the four projections of it scaled as well."""
    adapted = perturb(Case(name, 'difffit').apply()).eval()
    state, base = adapted.model.state_dict(), backbone(name)
    gammas = {key for key in state if key.endswith('.gamma')}
    base.load_state_dict({key: tensor for key, tensor in state.items() if key not in gammas})
    blocks = attention_blocks(base)
    for prefix, block in blocks:
        own = {key.removeprefix(f'{prefix}.'): tensor for key, tensor in state.items() if key.startswith(f'{prefix}.')}
        block.forward = _scaled_block(block, own)
    torch.testing.assert_close(output(adapted.model), output(base), rtol=1e-4, atol=1e-5)
    assert len(gammas) == 11 * len(blocks)


def _scaled_block(block: nn.Module, own: dict[str, torch.Tensor]):
    """The forward of a transformer block written again, with a factor after each of its parts."""

    def attention(name: str, x: torch.Tensor, source: torch.Tensor, heads: int) -> torch.Tensor:
        q, k, v = (
            own[f'{name}.to_{p}.gamma'] * (y @ own[f'{name}.to_{p}.weight'].T)
            for p, y in zip('qkv', (x, source, source), strict=True)
        )
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        mixed = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        out = mixed.transpose(1, 2).flatten(2) @ own[f'{name}.to_out.0.weight'].T + own[f'{name}.to_out.0.bias']
        return own[f'{name}.gamma'] * own[f'{name}.to_out.0.gamma'] * out

    def forward(x: torch.Tensor, *, encoder_hidden_states: torch.Tensor, **rest: object) -> torch.Tensor:
        normed = block.norm1(x)
        x = x + attention('attn1', normed, normed, block.attn1.heads)
        x = x + attention('attn2', block.norm2(x), encoder_hidden_states, block.attn2.heads)
        return x + own['ff.gamma'] * block.ff(block.norm3(x))

    return forward


@pytest.mark.parametrize('parts', ['qkvo', 'qv'])
def test_lora_is_w0_plus_ba_in_every_attention(parts: str):
    """Hu et al. 2022, Eq. 3."""
    case = Case('unet', 'lora', (('rank', 3), ('alpha', 6), ('parts', parts)))
    adapted, base = perturb(case.apply()).eval(), backbone('unet')
    tensors, sites = dict(adapted.model.named_parameters()), 0
    for prefix, _ in attention_blocks(base):
        for name in [f'{prefix}.{attn}.{ATTENTION_LAYERS[part]}' for attn in ('attn1', 'attn2') for part in parts]:
            update = tensors[f'{name}.lora_B.default.weight'] @ tensors[f'{name}.lora_A.default.weight']
            base.get_submodule(name).weight.data += 2 * update.detach()
            sites += 1
    assert 2 * sites == len(adapted.trainable())
    torch.testing.assert_close(output(adapted.model), output(base), rtol=1e-4, atol=1e-5)


# --- as they are trained ----------------------------------------------------------------------------------------------


@over(ADDITIVE)
def test_gradients_are_the_same_with_checkpointing(case: Case):
    """diffusers recomputes the blocks' activations in the backward pass, which hooks and adapters must survive."""
    gradients = []
    for checkpointing in (False, True):
        adapted = perturb(case.apply()).train()
        if checkpointing:
            adapted.model.enable_gradient_checkpointing()
        loss(adapted.model, 0).backward()
        gradients.append({name: parameter.grad for name, parameter in adapted.trainable().items()})
    torch.testing.assert_close(*gradients)


@over([case for case in ADDITIVE if case.backbone == 'unet'])
def test_additions_compute_in_the_precision_of_the_features(case: Case):
    adapted, dtypes = case.apply().train(), set()
    for module in adapted.model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, out: dtypes.add(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        loss(adapted.model, 0).backward()
    assert dtypes == {torch.bfloat16}
    assert all(parameter.grad.dtype is torch.float32 for parameter in adapted.trainable().values())


@over([case for case in ADDITIVE if case.backbone == 'unet'])
def test_half_precision_weights_start_at_the_base_model(case: Case):
    base = output(backbone('unet').bfloat16())
    adapted = case.apply(backbone('unet').bfloat16()).eval()
    assert torch.equal(output(adapted.model), base)


def test_merging_leaves_no_trace_of_the_method():
    for key in ('sv_diff', 'difffit'):
        merged = perturb(Case('unet', key).apply()).merge()
        plain = {name: type(module) for name, module in backbone('unet').named_modules()}
        assert {name: type(module) for name, module in merged.named_modules()} == plain
        assert not any(module._forward_hooks for module in merged.modules())
        methods.apply(merged, key, 'unet')


# --- the kept decomposition -------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file with a line for every weight that is decomposed, by whichever process."""
    log, decompose = tmp_path / 'computed', decomposition.decompose
    log.touch()

    def noted(weight: torch.Tensor) -> decomposition.Decomposition:
        with log.open('a') as file:
            file.write('weight\n')
        return decompose(weight)

    monkeypatch.setattr(decomposition, 'decompose', noted)
    return log


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def test_the_decomposition_is_kept_by_backbone(computed: Path, tmp_path: Path):
    cache = tmp_path / 'cache'
    first = perturb(methods.apply(backbone('unet'), 'sv_diff', 'unet', cache=cache)).eval()
    once = _lines(computed)
    path = first.save(tmp_path / 'adapter.safetensors', 'base')
    loaded = methods.load(backbone('unet'), path, 'unet', 'base', cache=cache).eval()
    assert _lines(computed) == once == len(first.trainable())
    assert torch.equal(output(loaded.model), output(first.model))
    with safe_open(path, framework='pt') as file:
        assert all(name.endswith('.delta') for name in file.keys())  # noqa: SIM118 (not a dict)

    methods.apply(backbone('unet', seed=1), 'sv_diff', 'unet', cache=cache)
    assert _lines(computed) == 2 * once  # other weights
    kept = sorted(file.suffix for file in cache.iterdir() if file.suffix in {'.safetensors', '.json', '.partial'})
    assert kept == ['.json', '.json', '.safetensors', '.safetensors']

    for file in cache.glob('*.safetensors'):
        file.unlink()  # to free the space
    again = methods.load(backbone('unet'), path, 'unet', 'base', cache=cache).eval()
    assert _lines(computed) == 3 * once
    assert torch.equal(output(again.model), output(first.model))


def test_two_processes_decompose_once(computed: Path, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    weights = {f'layer{i}': torch.randn(8, 6, 3, 3, generator=generator) for i in range(20)}
    context = multiprocessing.get_context('fork')
    start = context.Barrier(3)

    def work() -> None:
        start.wait()
        assert len(list(decomposition.decomposed(weights, tmp_path / 'cache'))) == 20

    workers = [context.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert _lines(computed) == 20


def test_a_wide_a_tall_and_a_flat_weight_come_back_from_their_parts():
    for shape in ((4, 5, 3, 3), (7, 3), (6,)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        parts = decomposition.decompose(weight)
        assert len(parts.sigma) == (min(len(weight), weight[0].numel()) if len(shape) > 1 else 1)
        torch.testing.assert_close((parts.left * parts.sigma @ parts.right).view(shape), weight)


# --- awkward U-Nets ---------------------------------------------------------------------------------------------------

NO_ATTENTION = SIZE | {
    'down_block_types': ('DownBlock2D',) * 2,
    'up_block_types': ('UpBlock2D',) * 2,
    'mid_block_type': None,
}
# as the pixel-space U-Nets of diffusers (DeepFloyd IF): attentions without transformer blocks around them
BARE_ATTENTION = SIZE | {
    'down_block_types': ('DownBlock2D', 'SimpleCrossAttnDownBlock2D'),
    'up_block_types': ('SimpleCrossAttnUpBlock2D', 'UpBlock2D'),
    'mid_block_type': 'UNetMidBlock2DSimpleCrossAttn',
    'attention_head_dim': 4,
}


@pytest.mark.parametrize('key', ['attention_tuning', 'bias_norm_attention_tuning', 'lora', 'difffit'])
def test_does_not_fit_a_unet_without_attention(key: str):
    fitting = 'full_ft, bias_tuning, norm_tuning, sv_diff'
    with pytest.raises(DoesNotFit, match=rf"'{key}' does not fit .*'UNet2DConditionModel': it needs .*fit: {fitting}$"):
        methods.apply(build(NO_ATTENTION), key, 'unet')


@pytest.mark.parametrize('key', ['bias_tuning', 'norm_tuning', 'sv_diff'])
def test_what_needs_no_attention_fits_without(key: str):
    model = build(NO_ATTENTION).eval()
    base = output(model)
    adapted = methods.apply(model, key, 'unet').eval()
    assert torch.equal(output(adapted.model), base)
    loss(adapted.model, 0).backward()
    assert all(parameter.grad is not None for parameter in adapted.trainable().values())


def test_attentions_without_transformer_blocks():
    model = build(BARE_ATTENTION).eval()
    base = output(model)
    with pytest.raises(DoesNotFit, match=r"'difffit' does not fit .*it needs transformer blocks .*fit: lora, .*norm"):
        methods.apply(model, 'difffit', 'unet')
    adapted = methods.apply(model, 'lora', 'unet').eval()
    assert torch.equal(output(adapted.model), base)
    layers = {name.split('.lora_')[0].rpartition('attentions.')[2].partition('.')[2] for name in adapted.trainable()}
    assert layers == {*ATTENTION_LAYERS.values()}
    torch.testing.assert_close(output(perturb(adapted).merge()), output(adapted.model), rtol=1e-4, atol=1e-5)


def test_nothing_fits_a_network_without_parameters():
    with pytest.raises(
        DoesNotFit, match=r"'full_ft' does not fit backbone 'Identity': it needs parameters; .*fit: none"
    ):
        methods.apply(nn.Identity(), 'full_ft', 'unet')


def test_the_rules_by_type_and_by_name_are_one_on_stable_diffusion():
    """Listings 5 to 8 of Dutt et al. 2024 go by names: 'norm', 'bias', 'attentions', 'gamma'."""
    words = {'norm_tuning': ('norm',), 'bias_norm_attention_tuning': ('norm', 'bias', 'attentions')}
    words |= {'difffit': ('bias', 'norm', 'gamma', 'y_embed')}
    for name in UNETS:
        for key, parts in words.items():
            adapted = Case(name, key).apply()
            by_name = {n for n, _ in adapted.model.named_parameters() if any(part in n for part in parts)}
            assert set(adapted.trainable()) == by_name
