"""What a method is: its documented config, where it sits in a backbone, and what it trains."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from medpeft_utils.backbones import head_names
from medpeft_utils.backbones.names import attention_of
from medpeft_utils.core.errors import BadInput, short
from medpeft_utils.core.registry import Registry

BATCH_NORM = nn.modules.batchnorm._BatchNorm  # 1d, 2d and 3d, and timm's BatchNormAct2d

LARGEST, LARGEST_COUNT = 2**32, 2**16  # of options; a rank of 10^9 would fill the memory before any check
PEFT_RATE = (
    'Dutt et al. 2024, Appendix B: PEFT prefers rates about a magnitude above those of full fine-tuning (here 1e-4, on '
    'a U-Net 1e-5)'
)


def option(
    default: Any,
    description: str,
    source: str,
    choices: tuple = (),
    minimum: float | None = None,
    below: float | None = None,
) -> dataclasses.Field:
    """A field of a method's config.

    Args:
        default: the value where none is given; its type is the type that is accepted.
        description: what it does, in a sentence.
        source: where the default comes from (paper, original code, or this project's own reason).
        choices: the values allowed; empty for any.
        minimum: the smallest number allowed.
        below: a number above all that are allowed.
    """
    about = {'description': description, 'source': source, 'choices': choices, 'minimum': minimum, 'below': below}
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class NoOptions:
    """The config of a method that has no hyper-parameter but the learning rate."""


class Method:
    """A way to fine-tune a backbone.

    A subclass is a file in this folder with `@register`; nothing else needs to know of it. It names the parts of a
    backbone that it works on (`targets`) and changes the backbone (`attach`). Freezing, the head, saving and loading
    are the same for all of them (`adapted.py`).

    Attributes:
        key: the name in grids and records.
        labels: family -> the column of the paper's tables.
        order: its place among the columns of those tables.
        kind: 'baseline', 'selective' (trains some of the backbone's own parameters) or 'additive' (adds parameters).
        paper: authors, year, title and arXiv number.
        summary: what the method is, after Table 1 of Dutt et al. 2024.
        by_family: family -> those of the attributes above that differ in that family.
        learning_rate: family -> the peak rate of AdamW where none is searched for.
        learning_rate_source: where that comes from.
        weight_decay: AdamW's, on matrices and kernels; 0 if the method's paper has none, or if it would pull factors
            that start at 1 towards 0.
        mergeable: `Adapted.merge` gives the original architecture with the same outputs.
        identity_at_start: with the default config the adapted model computes what the base model computes.
        start_tolerance: how far rounding may move these outputs from the base model's.
        letters: a piece of the names of what it adds -> its letter in drawings, and whether it lies on a path beside
            the layer.
        updates_batchnorm: BatchNorm takes the statistics of each training batch and updates its running ones, as
            under `model.train()` in the listings of Dutt et al. 2024; where False it stays in evaluation mode.
        family_defaults: family -> options whose default there is not that of `Config`.
        uses_cache: `attach` takes a folder `cache` (or None) for what it computes once for a backbone.
        count_variants: label in the table of counts -> config, where the paper's text allows several readings.
        needs: what a backbone must have, in words, for the message to a user whose backbone lacks it.
    """

    key: ClassVar[str]
    labels: ClassVar[dict[str, str]]
    order: ClassVar[int]
    kind: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    by_family: ClassVar[dict[str, dict[str, str]]] = {}
    learning_rate: ClassVar[dict[str, float]]
    learning_rate_source: ClassVar[str] = PEFT_RATE
    weight_decay: ClassVar[float] = 0.01
    mergeable: ClassVar[bool] = True
    identity_at_start: ClassVar[bool] = True
    start_tolerance: ClassVar[float] = 0.0
    letters: ClassVar[dict[str, tuple[str, bool]]] = {}
    updates_batchnorm: ClassVar[bool] = True
    family_defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    uses_cache: ClassVar[bool] = False
    count_variants: ClassVar[dict[str, dict[str, Any]]] = {}
    needs: ClassVar[str]
    Config: ClassVar[type] = NoOptions

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def targets(self, model: nn.Module, family: str, config: Any) -> list[str]:
        """The names of the parameters or modules of the backbone that it works on; empty where it does not fit."""
        raise NotImplementedError

    def left_out(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        """Names of modules or parameters of its kind that the method leaves untouched; usually none."""
        return []

    def attach(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        """Change the model in place and return the names of the parameters to train, without the head's.

        Random initialisation uses the global generator, which `apply` seeds and restores.
        """
        raise NotImplementedError

    def merge(self, model: nn.Module, config: Any) -> None:
        """Fold what was added into the weights, in place; nothing to do where nothing was added."""

    def configure(self, given: dict[str, Any] | None = None, family: str | None = None) -> Any:
        """The config with the given options, and the family's defaults for the rest.

        Raises BadInput for an unknown option or an unusable value.
        """
        known = {field.name: field for field in dataclasses.fields(self.Config)}
        for name, value in (given or {}).items():
            if name not in known:
                raise BadInput(self._unknown_option(name, known))
            self._check_option(known[name], value)
        return self.Config(**(self.family_defaults.get(family, {}) | (given or {})))

    def _unknown_option(self, name: str, known: Iterable[str]) -> str:
        close = difflib.get_close_matches(name[:200], list(known), n=1, cutoff=0.5)
        hint = f'did you mean {close[0]!r}? ' if close else ''
        options = ', '.join(known) or 'none'
        return f'method {self.key!r} has no option {short(name)}; {hint}its options: {options}'

    def _check_option(self, field: dataclasses.Field, value: Any) -> None:
        kind, about = type(field.default), field.metadata
        accepted = (int, float) if kind is float else kind
        wanted, most = '', LARGEST_COUNT if kind is int and not field.name.endswith('seed') else LARGEST
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            wanted = f'a {kind.__name__}'
        elif isinstance(value, (int, float)) and not abs(value) <= most:  # NaN is not, either
            wanted = f'a number of a size up to {most}'
        elif about['choices'] and value not in about['choices']:
            wanted = 'one of ' + ', '.join(map(repr, about['choices']))
        elif about['minimum'] is not None and value < about['minimum']:
            wanted = f'{about["minimum"]} or more'
        elif about['below'] is not None and not value < about['below']:
            wanted = f'below {about["below"]}'
        if wanted:
            raise BadInput(f'option {field.name!r} of method {self.key!r} is {short(value)}; it must be {wanted}')

    def __repr__(self) -> str:
        return f'{type(self).__module__}.{type(self).__name__}'


class SelectiveMethod(Method):
    """A method that trains some of the backbone's own parameters: its targets are their names."""

    kind = 'selective'

    def attach(self, model: nn.Module, targets: list[str], family: str, config: Any) -> list[str]:
        return targets


METHODS: Registry[Method] = Registry('method', 'medpeft params lists them')


def register(method: type[Method]) -> type[Method]:
    """Class decorator that adds a method to the registry. Raises ValueError where its key is taken."""
    METHODS.register(method.key, method())
    return method


def parameters_where(model: nn.Module, rule: Callable[[str, nn.Module, str], bool]) -> list[str]:
    """The names of the backbone's parameters for which rule(full name, owning module, name in it) holds."""
    head = set(head_names(model))
    names = []
    for prefix, module in model.named_modules():
        for leaf, _ in module.named_parameters(recurse=False):
            name = f'{prefix}.{leaf}' if prefix else leaf
            if name not in head and rule(name, module, leaf):
                names.append(name)
    return names


def modules_where(model: nn.Module, rule: Callable[[str, nn.Module], bool]) -> list[str]:
    """The names of the modules outside the head for which rule(name, module) holds."""
    in_head = {name.rpartition('.')[0] for name in head_names(model)}
    return [name for name, module in model.named_modules() if name not in in_head and rule(name, module)]


def transformer_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every standard block of a timm VisionTransformer; empty for any other network.

    All have one width and see [B, N, D]: class token and registers, then the patches.
    """
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(model, VisionTransformer):
        return []
    return [(f'blocks.{i}', block) for i, block in enumerate(model.blocks) if isinstance(block, Block)]


# timm's blocks that compute x + drop_path(scale * mlp(norm2(x))), where the scale is `ls2`, `gamma_2` or none.
PRE_NORM = {
    'beit.Block',
    'cait.LayerScaleBlock',
    'convit.Block',
    'eva.EvaBlock',
    'hiera.HieraBlock',
    'swin_transformer.SwinTransformerBlock',
    'vision_transformer.Block',
    'vision_transformer_sam.Block',
}


def pre_norm_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every block whose MLP, with its norm and scale, can be replaced as a whole (`PRE_NORM`)."""
    paths = {f'timm.models.{path}' for path in PRE_NORM}
    return [
        (name, module)
        for name, module in model.named_modules()
        if f'{type(module).__module__}.{type(module).__qualname__}' in paths
    ]


def attentions(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of the attention of every transformer block, whatever the network."""
    found = []
    for prefix, block in model.named_modules():
        if leaf := attention_of(block):
            found.append((f'{prefix}.{leaf}', block.get_submodule(leaf)))
    return found


# Projections of an attention that are Linear layers of their own, by the letters of LoRA's option `parts`.
APART = (
    {'q': 'q_proj', 'k': 'k_proj', 'v': 'v_proj'},
    {'q': 'q', 'k': 'k', 'v': 'v'},
)


def attention_layers(model: nn.Module, parts: str) -> list[str]:
    """The names of the Linear layers that project to q, k and v, and with an 'o' in `parts` of the output projection.

    A fused `qkv` is one name; where q, k and v are layers of their own (EVA-02, CaiT), they are those of `parts`; fused
    k and v (PVT) are adapted where `parts` has both.
    """
    names = []
    for prefix, attention in attentions(model):
        children = {name for name, child in attention.named_children() if type(child) is nn.Linear}
        apart = next((layers for layers in APART if set(layers.values()) <= children), None)
        if 'qkv' in children:
            both = attention.qkv.out_features == 2 * attention.qkv.in_features  # GCViT: q comes from elsewhere
            chosen = [] if both and 'k' not in parts else ['qkv']
        elif apart:
            chosen = [layer for letter, layer in apart.items() if letter in parts]
        else:
            chosen = ['q', 'kv'] if {'q', 'kv'} <= children and 'k' in parts else []
        output = ['proj'] if chosen and 'o' in parts and 'proj' in children else []
        names += [f'{prefix}.{leaf}' for leaf in chosen + output]
    return names


def prepare_for_additions(model: nn.Module) -> None:
    """Let every attention call its `qkv` layer, and mark Linear layers whose output is changed in place.

    BEiT, EVA-02 and Swin V2 keep the biases of q and v beside `qkv` and multiply by its weight themselves. They would
    ignore a module in its place. Told to add the biases afterwards, they call it: the outputs are the same up to
    rounding. They add in place, as some activations do, and such an output cannot be kept for the gradient
    (`changed_in_place`).
    """
    for module in model.modules():
        if getattr(module, 'q_bias', None) is not None and hasattr(module, 'qkv_bias_separate'):
            module.qkv_bias_separate = module.qkv.changed_in_place = True
        if isinstance(module, nn.Sequential):
            for layer, after in itertools.pairwise(module):
                if isinstance(layer, nn.Linear) and getattr(after, 'inplace', False):
                    layer.changed_in_place = True


def is_any_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer of any kind that has a weight."""
    return 'norm' in type(module).__name__.lower() and 'weight' in module._parameters


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(parent), leaf, module)


def modules_of_type(model: nn.Module, kind: type | tuple[type, ...]) -> list[tuple[str, nn.Module]]:
    """Name and module, as a list: the caller may change the model while it iterates."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
