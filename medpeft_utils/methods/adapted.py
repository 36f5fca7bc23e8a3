"""Applying a method to a backbone; training mode, saving, loading and merging of the result."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medpeft_utils import backbones
from medpeft_utils.core.errors import BadInput, DoesNotFit, MedpeftError, short
from medpeft_utils.core.files import parse_json, read_tensors, write_tensors
from medpeft_utils.methods.base import BATCH_NORM, METHODS, Method, head_names, modules_of_type, prepare_for_additions
from medpeft_utils.methods.precision import in_own_precision, train_in_float32
from medpeft_utils.methods.structure import Structure, detached, unchanged_on_error

SCHEMA = '1'


class Adapted:
    """A backbone with a method applied to it.

    Args:
        model: takes and gives what it did before: images and logits, or the arguments and output of a U-Net.
        method: the method.
        config: its config.
        family: of the backbone.
        head_names: the parameters of the head; none on a U-Net.
        base: the network before the method, if its values were kept.
        left_out: names of parts of the method's kind that it leaves untouched in this backbone (`Method.left_out`).
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        config: Any,
        family: str,
        head_names: list[str],
        base: Structure | None = None,
        left_out: tuple[str, ...] = (),
    ):
        self.model, self.method, self.config = model, method, config
        self.family, self.head_names, self.base, self.left_out = family, head_names, base, left_out

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name to parameter of all that is trained, the head too."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def count(self, head: bool = False) -> int:
        """The number of trained parameters, without the head unless asked for."""
        names = set() if head else set(self.head_names)
        return sum(parameter.numel() for name, parameter in self.trainable().items() if name not in names)

    def train(self, mode: bool = True) -> Adapted:
        """Training mode, in which BatchNorm keeps its running statistics where the method freezes them."""
        self.model.train(mode)
        if mode and not self.method.updates_batchnorm:
            for _, module in modules_of_type(self.model, BATCH_NORM):
                module.eval()
        return self

    def eval(self) -> Adapted:
        """Evaluation mode."""
        return self.train(False)

    def state(self) -> dict[str, torch.Tensor]:
        """What a file holds: trained parameters, head and BatchNorm buffers, on the CPU."""
        tensors = {name: parameter.detach() for name, parameter in self.trainable().items()}
        for prefix, module in modules_of_type(self.model, BATCH_NORM):
            tensors |= {f'{prefix}.{leaf}': buffer for leaf, buffer in module.named_buffers(recurse=False)}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def save(self, path: str | Path, base_hash: str) -> Path:
        """Write `state` as safetensors, whole or not at all.

        Args:
            path: of the file.
            base_hash: of the backbone that the method was applied to (`Backbone.hash`); `load` compares it.
        """
        about = {'schema': SCHEMA, 'method': self.method.key, 'family': self.family, 'base_hash': base_hash}
        about['config'] = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        return write_tensors(path, self.state(), about)

    @contextmanager
    def disable(self) -> Iterator[nn.Module]:
        """The network without the method, as it was when the method was applied, for as long as the context lasts.

        Raises BadInput where the base's own values were not kept (`apply`).
        """
        adapted = Structure(self.model)
        try:
            yield self._base().restore()
        finally:
            adapted.restore()

    def unload(self) -> nn.Module:
        """Take the method off, for good, and return the network as it was; raises as `disable` does."""
        return self._base().restore()

    def _base(self) -> Structure:
        if self.base is None:
            raise BadInput(
                f'method {self.method.key!r} trains weights of {name_of(self.model)}, and their old values were '
                'not kept; apply it with keep=True, or load the backbone again'
            )
        return self.base

    def merge(self) -> nn.Module:
        """A copy in the original architecture, additions folded into its weights; the same outputs in evaluation mode.

        Raises DoesNotFit where the method's additions are not linear in their input.
        """
        if not self.method.mergeable:
            able = ', '.join(key for key, method in METHODS.items() if method.mergeable and method.kind == 'additive')
            raise DoesNotFit(f'method {self.method.key!r} cannot be merged into the weights; these can: {able}')
        merged = copy.deepcopy(self.model)
        del merged.medpeft_method
        with torch.no_grad():
            self.method.merge(merged, self.config)
        in_own_precision(merged)
        return merged.requires_grad_(True)


def apply(
    model: nn.Module,
    key: str,
    family: str,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    keep: bool | None = None,
) -> Adapted:
    """Apply a method to a backbone, in place: only what the method trains, and the head, stay trainable.

    Trained parameters are kept in float32, on a half-precision network too (`precision.py`). If anything fails, the
    network stays as it was.

    Args:
        model: the backbone, with its head where it has one.
        key: of the method in `METHODS`.
        family: of the backbone: 'cnn', 'vit' or 'unet'.
        config: options of the method; the family's defaults for what is not given.
        seed: of the random initialisation of adapters.
        cache: a folder for what a method computes once for a backbone (the decomposition of SV-Diff); several
            processes may share it. Computed at every call where None.
        keep: whether to keep the old values of trained parameters, for `disable` and `unload`. None keeps them for
            additive methods, which train little of the backbone itself.
    Raises:
        UnknownName: no such method.
        BadInput: an option is unknown or unusable, or the model has a method already.
        DoesNotFit: the backbone lacks what the method works on.
    """
    method = METHODS[key]
    config = method.configure(config, family)
    if hasattr(model, 'medpeft_method'):
        raise BadInput(
            f'{name_of(model)} has method {model.medpeft_method!r} already; load the backbone again to apply {key!r}'
        )
    targets = method.targets(model, family, config) if family in method.families else []
    if not targets:
        raise DoesNotFit(_why_not(model, method, family))
    head, left_out = head_names(model), tuple(method.left_out(model, targets, family, config))
    with unchanged_on_error(model) as base, seeded(seed):
        if method.kind == 'additive':
            prepare_for_additions(model)
        model.requires_grad_(False)
        kept = {'cache': cache} if method.uses_cache else {}
        trained = {*method.attach(model, targets, family, config, **kept), *head}
        keep = method.kind == 'additive' if keep is None else keep
        if keep:
            detached(model, trained)
        train_in_float32(model, trained)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        model.medpeft_method = key
    return Adapted(model, method, config, family, head, base if keep else None, left_out)


def load(
    base_model: nn.Module,
    path: str | Path,
    family: str,
    base_hash: str | None = None,
    cache: str | Path | None = None,
) -> Adapted:
    """Apply a saved method to a fresh copy of the backbone that it was trained on.

    Args:
        base_model: the backbone, with the number of classes of the training. It is changed in place, or not at all
            if anything fails.
        path: a file that `Adapted.save` wrote.
        family: of the backbone.
        base_hash: of the backbone (`Backbone.hash`); not compared where None.
        cache: as for `apply`.
    Raises:
        BadInput: no such file, or not one of ours.
        DoesNotFit: saved over another backbone, or for another number of classes.
    """
    about, tensors = read(Path(path))
    return install(base_model, about, tensors, family, base_hash, cache, where=path)


def install(
    base_model: nn.Module,
    about: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    family: str,
    base_hash: str | None = None,
    cache: str | Path | None = None,
    where: str | Path = 'the adapter',
) -> Adapted:
    """`load` from what `read` gives; `where` names the file in messages."""
    if base_hash is not None and about.get('base_hash') not in (None, base_hash):
        raise DoesNotFit(f'{where} was trained over backbone {about["base_hash"][:32]}, this one is {base_hash}')
    if about['family'] != family:
        raise DoesNotFit(
            f'{where} was trained on family {short(about["family"])}, this backbone is of family {family!r}'
        )
    check_sizes(where, about['config'], tensors)
    with unchanged_on_error(base_model):
        adapted = apply(base_model, about['method'], family, about['config'], cache=cache, keep=True)
        _check_tensors(where, tensors, adapted)
        base_model.load_state_dict(tensors, strict=False)
    return adapted


def name_of(model: nn.Module) -> str:
    """What to call a network in a message: its timm name where it has one."""
    architecture = (getattr(model, 'pretrained_cfg', None) or {}).get('architecture', '')
    return f'backbone {architecture or type(model).__name__!r}'


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators inside and restore them afterwards; peft initialises from the global one."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@cache
def check_fit(key: str, backbone: str, config: str = '{}', batch_size: int | None = None) -> None:
    """Raise where a method cannot train a backbone, which is built without values (on the meta device).

    Every method of a family fits the shipped backbones with its defaults; these are not looked at.

    Args:
        key: of the method.
        backbone: its name.
        config: the method's own options, as JSON.
        batch_size: of a training step; None where there is none.
    Raises:
        DoesNotFit: the method finds nothing to train, or its options do not fit the backbone.
        BadInput: a batch of one image, of which BatchNorm has no statistics.
    """
    method, family, given = METHODS[key], backbones.family_of(backbone), json.loads(config)
    if backbones.is_shipped(backbone) and not given and batch_size != 1:
        return
    with torch.device('meta'):
        model = backbones.build(backbone, 2)
    if batch_size == 1 and method.updates_batchnorm and modules_of_type(model, BATCH_NORM):
        raise BadInput(f'batch_size=1: BatchNorm of {name_of(model)} needs 2 images or more; give 2, or 16')
    if not given and family in method.families and method.targets(model, family, method.configure({}, family)):
        return
    try:
        apply(model, key, family, given)
    except MedpeftError:
        raise
    except Exception as error:  # a library refuses an option that this network cannot take
        raise DoesNotFit(
            f'method {key!r} with {config} does not fit {name_of(model)}: {short(str(error), 200)}; lower its options'
        ) from error


def _why_not(model: nn.Module, method: Method, family: str) -> str:
    fitting = [
        key
        for key, other in METHODS.items()
        if family in other.families and other.targets(model, family, other.configure({}, family))
    ]
    if family not in method.families:
        why = f'it is for {" and ".join(method.families)} backbones, this is of family {family!r}'
    else:
        why = f'it needs {method.needs}'
    fit = ', '.join(fitting) or 'none'
    return f'method {method.key!r} does not fit {name_of(model)}: {why}; methods that fit: {fit}'


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a saved file says of itself (schema, method, family, base_hash, config) and its tensors. Raises BadInput."""
    about, tensors = read_tensors(path)
    if about.get('schema') != SCHEMA or not {'method', 'family', 'base_hash', 'config'} <= about.keys():
        raise BadInput(f'{path} was not written by medpeft: its metadata hold {short(sorted(about) or "nothing")}')
    try:
        config = parse_json(about['config'])
    except ValueError as error:
        raise BadInput(f'{path}: the config in its metadata is not JSON ({short(str(error), 100)})') from error
    if not isinstance(config, dict):
        raise BadInput(f'{path}: the config in its metadata is {short(config)}, not options by name')
    return about | {'config': config}, tensors


def check_sizes(where: str | Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """No option may ask for more than the file holds: a rank of 10^9 would fill the memory before any comparison."""
    largest = max((tensor.numel() for tensor in tensors.values()), default=0)
    for name, value in config.items():
        if isinstance(value, int) and not name.endswith('seed') and value > max(largest, 1 << 10):
            raise BadInput(
                f'{where}: option {short(name)} is {short(value)}, but its largest tensor has {largest} numbers'
            )


def _check_tensors(path: str | Path, tensors: dict[str, torch.Tensor], adapted: Adapted) -> None:
    state = adapted.state()
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    where = f'{path} does not fit {name_of(adapted.model)}'
    if unknown := sorted(found.keys() - wanted.keys()):
        raise DoesNotFit(
            f'{where}: it has no {", ".join(name[:100] for name in unknown[:3])} ({len(unknown)} unknown names)'
        )
    if missing := sorted(wanted.keys() - found.keys()):
        raise DoesNotFit(f'{where}: the file lacks {", ".join(missing[:3])} ({len(missing)} names)')
    for name, shape in wanted.items():
        if found[name] != shape:
            classes = found[name][:1] if name in adapted.head_names else ()
            hint = f'; build it with num_classes={classes[0]}' if classes else ''
            raise DoesNotFit(f'{where}: {name} is {found[name]} in the file and {shape} in the network{hint}')
    for name, tensor in state.items():
        if tensor.is_floating_point() != tensors[name].is_floating_point():
            raise BadInput(f'{path}: {name} holds {tensors[name].dtype}, and must hold {tensor.dtype}')
