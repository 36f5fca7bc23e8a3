"""Methods of the peft library: a row of `TUNERS` is a method.

A row says what of the method's paper became an option, which config of peft it fills, and where the search for its
learning rate is centred. How layers are found, injected, merged and saved is the same for all of them (`PeftMethod`).
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from medpeft_utils.methods.base import Method, attentions, modules_where, option, register
from medpeft_utils.methods.lora import adapted_layers, inject, merge_layers, split_qkv, unadapted_layers

COMPARISON = "method_comparison of peft's repository (MetaMathQA)"
PARTS = option(
    'qkv',
    "what is adapted on a ViT: the fused qkv as one matrix, 'qv': its q and v as two, 'qkvo': qkv and the output's",
    "the default of this project's LoRA, so that methods are compared on the same matrices",
    choices=('qkv', 'qv', 'qkvo'),
)


@dataclass(frozen=True)
class Tuner:
    """A method of peft.

    Args:
        key, label, order, paper, summary: as in `Method`.
        peft_config: name of the class in peft.
        options: name -> a field made by `option`.
        fields: option -> the field of peft's config that it fills.
        fixed: fields of peft's config with the values that make it this method.
        rate: family -> the centre of the search for the learning rate; its keys are the families served.
        rate_source: where that comes from.
        split: the letters of the parts that the fused qkv is split for; '' for those of the option `parts`.
        feedforward: the second Linear of every MLP is adapted too, on its input.
        weight_decay, start_tolerance, letters: as in `Method`.
    """

    key: str
    label: str
    order: int
    paper: str
    summary: str
    peft_config: str
    options: dict[str, Any]
    fields: dict[str, str]
    rate: dict[str, float]
    rate_source: str
    fixed: dict[str, Any] = field(default_factory=dict)
    split: str = ''
    feedforward: bool = False
    weight_decay: float = Method.weight_decay
    start_tolerance: float = 0.0
    letters: dict[str, tuple[str, bool]] = field(default_factory=dict)


class PeftMethod(Method):
    """A row of `TUNERS` as a method: peft's layers over the attention's projections, or over a CNN's convolutions."""

    kind = 'additive'
    tuner: ClassVar[Tuner]

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        layers = adapted_layers(model, family, getattr(config, 'parts', 'qkv'))
        return layers + feedforward_layers(model) if layers and self.tuner.feedforward else layers

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        return unadapted_layers(model, targets, family)

    def attach(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        split = self.tuner.split or ('qv' if getattr(config, 'parts', '') == 'qv' else '')
        second = feedforward_layers(model) if self.tuner.feedforward else []
        if family == 'vit' and split:
            targets = split_qkv(model, targets, split)
        settings = self.peft_config(config, targets, second)
        if next(model.parameters()).is_meta and getattr(settings, 'init_lora_weights', '') == 'pissa':
            settings.init_lora_weights = True  # to be counted or drawn: there are no singular values to start from
        return inject(model, settings)

    def peft_config(self, config: Any, targets: list[str], second: list[str] | None = None) -> Any:
        """The config of peft's for these layers; `second` are those among them that are adapted on their input."""
        import peft

        settings = {field: getattr(config, option) for option, field in self.tuner.fields.items()} | self.tuner.fixed
        if self.tuner.feedforward:
            settings['feedforward_modules'] = second
        with warnings.catch_warnings():  # of projections that are drawn again and not saved
            warnings.simplefilter('ignore', UserWarning)
            return getattr(peft, self.tuner.peft_config)(target_modules=targets, **settings)

    def merge(self, model: nn.Module, config: Any) -> None:
        merge_layers(model)


def feedforward_layers(model: nn.Module) -> list[str]:
    """The names of the second Linear of every block's MLP."""
    mlps = [f'{name.rpartition(".")[0]}.mlp.fc2' for name, _ in attentions(model)]
    return modules_where(model, lambda name, module: name in mlps and type(module) is nn.Linear)


def _rank(default: int, source: str) -> dataclasses.Field:
    return option(default, 'r, the rank of the update', source, minimum=1)


def _alpha(default: float, source: str) -> dataclasses.Field:
    return option(default, 'the update is scaled by alpha / rank', source, minimum=1e-6)


SAME_RANK = "that of this project's LoRA, so that only the method differs"
AB = {'lora_A': ('A', True), 'lora_B': ('B', True)}
ATTENTION_RATE = {'vit': 1e-3, 'cnn': 1e-3}
LORAS_RATE = f"that of this project's LoRA; {COMPARISON} trains it at LoRA's rate too"

TUNERS = (
    Tuner(
        key='dora',
        label='DoRA',
        order=210,
        paper='Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv:2402.09353',
        summary='LoRA on the direction of each weight column, and a trained magnitude for each.',
        peft_config='LoraConfig',
        options={'rank': _rank(16, SAME_RANK), 'alpha': _alpha(16.0, SAME_RANK), 'parts': PARTS},
        fields={'rank': 'r', 'alpha': 'lora_alpha'},
        fixed={'use_dora': True},
        rate=ATTENTION_RATE,
        rate_source=LORAS_RATE,
        start_tolerance=1e-5,  # each weight is divided by its length and multiplied by it
        letters=AB | {'lora_magnitude_vector': ('m', False)},
    ),
    Tuner(
        key='rslora',
        label='rsLoRA',
        order=220,
        paper='Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732',
        summary='LoRA scaled by alpha / sqrt(rank), which keeps the gradients of large ranks from vanishing.',
        peft_config='LoraConfig',
        options={
            'rank': _rank(16, SAME_RANK),
            'alpha': option(16.0, 'the update is scaled by alpha / sqrt(rank)', SAME_RANK, minimum=1e-6),
            'parts': PARTS,
        },
        fields={'rank': 'r', 'alpha': 'lora_alpha'},
        fixed={'use_rslora': True},
        rate={'vit': 3e-4, 'cnn': 3e-4},
        rate_source="about LoRA's over the factor sqrt(rank), 4 at the default, by which its update is larger",
        letters=AB,
    ),
    Tuner(
        key='pissa',
        label='PiSSA',
        order=230,
        paper='Meng et al. 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation, arXiv:2404.02948',
        summary='LoRA that starts from the principal singular vectors and freezes the rest of each weight.',
        peft_config='LoraConfig',
        options={
            'rank': _rank(16, SAME_RANK),
            'alpha': _alpha(16.0, 'Meng et al.: alpha equals the rank'),
            'parts': PARTS,
        },
        fields={'rank': 'r', 'alpha': 'lora_alpha'},
        fixed={'init_lora_weights': 'pissa'},
        rate={'vit': 1e-4},
        rate_source='a tenth of LoRA: its factors start at the size of the weights (Meng et al. 2024 train at 2e-5)',
        start_tolerance=1e-4,  # the factors are subtracted from the weight and added again
        letters=AB,
    ),
    Tuner(
        key='vera',
        label='VeRA',
        order=240,
        paper='Kopiczko et al. 2024, VeRA: Vector-based Random Matrix Adaptation, arXiv:2310.11454',
        summary='Two frozen random matrices shared by all layers, and two trained vectors for each layer.',
        peft_config='VeraConfig',
        options={
            'rank': _rank(256, 'Kopiczko et al. 2024, image classification'),
            'd_initial': option(0.1, 'the start of the vector d; b starts at zero', 'Kopiczko et al. 2024, Sec. 3.3'),
            'parts': PARTS,
        },
        # The projections come from the key again and need no place in a file.
        fields={'rank': 'r', 'd_initial': 'd_initial'},
        fixed={'save_projection': False},
        rate={'vit': 1e-2},
        rate_source=f"ten times LoRA's, as in {COMPARISON} (1e-3 beside 1e-4)",
        weight_decay=0.0,
        letters={'vera_lambda_d': ('Λd', True), 'vera_lambda_b': ('Λb', True)},
    ),
    Tuner(
        key='ia3',
        label='IA³',
        order=250,
        paper='Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper, arXiv:2205.05638',
        summary='Trained factors on keys, values and the hidden features of the MLP.',
        peft_config='IA3Config',
        options={},
        fields={},
        split='kv',
        feedforward=True,
        rate={'vit': 1e-2},
        rate_source=f"{COMPARISON}: 5e-3, fifty times LoRA's; Liu et al. 2022: 3e-3 with Adafactor",
        weight_decay=0.0,
        letters={'ia3_l': ('l', False)},
    ),
    Tuner(
        key='oft',
        label='OFT',
        order=260,
        paper='Qiu et al. 2023, Controlling Text-to-Image Diffusion by Orthogonal Finetuning, arXiv:2306.07280',
        summary="Rotating blocks of each weight's input features by trained orthogonal matrices.",
        peft_config='OFTConfig',
        options={
            'block_size': option(
                32, 'features rotated together; the nearest divisor of the width is taken', "peft's default", minimum=2
            ),
            'parts': PARTS,
        },
        fields={'block_size': 'oft_block_size'},
        fixed={'use_cayley_neumann': False},
        rate={'vit': 1e-3},
        rate_source=LORAS_RATE,
        start_tolerance=1e-5,
        letters={'oft_R': ('R', True)},
    ),
    Tuner(
        key='lokr',
        label='LoKr',
        order=270,
        paper='Yeh et al. 2024, Navigating Text-To-Image Customization: LyCORIS, arXiv:2309.14859',
        summary='An update that is the Kronecker product of a small matrix and a low-rank one.',
        peft_config='LoKrConfig',
        options={'rank': _rank(16, SAME_RANK), 'alpha': _alpha(16.0, SAME_RANK), 'parts': PARTS},
        fields={'rank': 'r', 'alpha': 'alpha'},
        rate={'vit': 3e-3, 'cnn': 3e-3},
        rate_source=f'{COMPARISON}: 3e-3',
        letters={'lokr_w1': ('w1', True), 'lokr_w2': ('w2', True)},
    ),
    Tuner(
        key='randlora',
        label='RandLoRA',
        order=280,
        paper='Albert et al. 2025, RandLoRA: Full-rank parameter-efficient fine-tuning, arXiv:2502.00987',
        summary='A sum of frozen random low-rank products, each scaled by trained diagonals, of full rank.',
        peft_config='RandLoraConfig',
        options={
            'rank': option(
                32, 'of each random product; fewer give more products and more parameters', "peft's default", minimum=1
            ),
            'alpha': _alpha(640.0, "peft's default and the paper's: twenty times the rank"),
            'parts': PARTS,
        },
        fields={'rank': 'r', 'alpha': 'randlora_alpha'},
        fixed={'save_projection': False},
        rate={'vit': 1e-3},
        rate_source=LORAS_RATE,
        letters={'randlora_lambda': ('Λ', True), 'randlora_gamma': ('Γ', True)},
    ),
    Tuner(
        key='fourierft',
        label='FourierFT',
        order=290,
        paper='Gao et al. 2024, Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, arXiv:2405.03003',
        summary='An update given by a few trained coefficients of its two-dimensional Fourier transform.',
        peft_config='FourierFTConfig',
        options={
            'frequencies': option(1000, 'n, the coefficients of each weight', f'Gao et al.; {COMPARISON}', minimum=1),
            'scaling': option(300.0, 'alpha, the factor of the update', f'Gao et al. 2024, ViT; {COMPARISON}'),
            'zero_start': option(
                True,
                'whether the coefficients start at zero, or at N(0, 1)',
                "this project's: on a narrow network noise of N(0, 1) outweighs the weights; Gao et al. start from it",
            ),
            'parts': PARTS,
        },
        fields={'frequencies': 'n_frequency', 'scaling': 'scaling', 'zero_start': 'init_weights'},
        rate={'vit': 3e-2},
        rate_source="peft's example FourierFT.ipynb: 6e-2 on a hidden size of 768",
        weight_decay=0.0,
        letters={'fourierft_spectrum': ('c', True)},
    ),
)


def _as_method(tuner: Tuner) -> type[PeftMethod]:
    """The class of a row, in the registry."""
    fields = [(name, type(about.default), about) for name, about in tuner.options.items()]
    config = dataclasses.make_dataclass(f'{tuner.label}Config'.replace('³', '3'), fields, frozen=True)
    where = "a CNN's convolutions or the attention of a ViT" if 'cnn' in tuner.rate else 'the attention of a ViT'
    return register(
        type(
            tuner.label.replace('³', '3'),
            (PeftMethod,),
            {
                '__doc__': f'{tuner.summary} {tuner.paper}.',
                '__module__': __name__,
                'tuner': tuner,
                'key': tuner.key,
                'labels': dict.fromkeys(sorted(tuner.rate, reverse=True), tuner.label),
                'order': tuner.order,
                'paper': tuner.paper,
                'summary': tuner.summary,
                'learning_rate': tuner.rate,
                'learning_rate_source': tuner.rate_source,
                'weight_decay': tuner.weight_decay,
                'start_tolerance': tuner.start_tolerance,
                'letters': tuner.letters,
                'needs': f'{where} (a Linear as attn.qkv in its blocks)',
                'Config': config,
            },
        )
    )


for _tuner in TUNERS:
    _as_method(_tuner)
