"""Saved adapters and what is known of them: a run with its record, a file, or an exported folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from medpeft_utils.adapters import exchange
from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.files import check_writable, parse_json, read_tensors, write_json
from medpeft_utils.core.schema import checked
from medpeft_utils.core.values import LARGEST_SEED
from medpeft_utils.methods.adapted import Adapted, install, read

if TYPE_CHECKING:
    from torch import nn

ABOUT, ADAPTER, RECORD = 'medpeft.json', 'adapter.safetensors', 'record.json'
PRIVATE = ('data_folder', 'record_folder')  # parameters that name folders of this machine
KEPT = ('run', 'experiment', 'code_version', 'data', 'backbone', 'method', 'training', 'metrics')


@dataclass(frozen=True)
class Saved:
    """A saved adapter.

    Args:
        path: the file (layout 'medpeft') or the folder ('peft', 'diffusers').
        layout: 'medpeft', 'peft' or 'diffusers'.
        about: the record of its run, or what was kept of it at the export; {} where nothing is known.
    """

    path: Path
    layout: str
    about: dict[str, Any]

    @property
    def family(self) -> str:
        """Of its backbone. Raises BadInput where nothing is known of it."""
        if self.layout == 'diffusers':
            return 'unet'
        return self.known('backbone')['family']

    def known(self, section: str) -> dict[str, Any]:
        """A section of the record. Raises BadInput where nothing is known of it."""
        if section not in self.about:
            raise BadInput(f'{self.path}: no file beside it names its {section} ({RECORD} of its run, or {ABOUT})')
        return self.about[section]


@cache
def _schema() -> type:
    """What this room reads of a record; a section may be missing, and other fields pass."""
    from pydantic import BaseModel, ConfigDict, Field, create_model

    class Open(BaseModel):
        model_config = ConfigDict(extra='allow', strict=True)

    def part(**fields: Any) -> type:
        return create_model('Part', __base__=Open, **{name: (kind, ...) for name, kind in fields.items()})

    whole, side = Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1, le=4096)]
    name = Annotated[str, Field(min_length=1, max_length=4096, pattern='^[^\\x00]+$')]
    data = part(name=name, label=str, counts=dict[str, whole], split_hash=str)
    data = create_model('Data', __base__=data, classes=(list[str], []), synthetic=(bool, False))
    backbone = part(name=name, label=str, hash=str, family=Literal['vit', 'cnn', 'unet'], image_size=side)
    method = part(key=str, label=str, config=dict[str, Any], trainable_parameters=whole)
    packed = dict.fromkeys(('labels', 'groups', 'arg_max', 'scores'), str)
    rows = part(n=whole, classes=whole, multi_label=bool, **packed)
    seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
    parameters = create_model('Parameters', __base__=Open, seed=(seed, 0), weights=(name, 'pretrained'))
    maybe = {'data': data, 'backbone': backbone, 'method': method, 'rows': dict[str, rows], 'folder': name}
    fields = {key: (kind | None, None) for key, kind in (maybe | {'parameters': parameters}).items()}
    return create_model('Record', __base__=Open, **fields)


def _read_about(path: Path) -> dict[str, Any]:
    """The record at `path`; {} where there is none. Raises BadInput for a file that is no record."""
    if not os.path.isfile(path):
        return {}
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f'{path}: no record ({short(str(error))}); move it away, and name the --backbone') from None
    checked(_schema(), content, str(path))
    return {name: value for name, value in content.items() if value is not None}


def find(what: str | Path, results: Path = Path('results')) -> Saved:
    """The adapter of a run (its hash or the beginning of it, or its folder), in a file, or in an exported folder.

    Raises BadInput where there is none, or where the record beside it is none.
    """
    from medpeft_utils.study.status import find_run

    path = Path(what)
    if os.path.isfile(path):  # a study keeps each attempt in a folder below the run's, and the record in the run's
        return Saved(path, 'medpeft', _read_about(path.parent / RECORD) or _read_about(path.parent.parent / RECORD))
    folder = path if os.path.isdir(path) else find_run(str(what), results)
    for layout, name in (('peft', exchange.PEFT_CONFIG), ('diffusers', exchange.DIFFUSERS_WEIGHTS)):
        if (folder / name).is_file():
            return Saved(folder, layout, _read_about(folder / ABOUT))
    record = _read_about(folder / RECORD)
    for file in (folder / record.get('folder', '') / ADAPTER, folder / ADAPTER):
        if file.is_file():
            return Saved(file, 'medpeft', record)
    raise BadInput(f'{folder} holds no adapter; run it with save_adapter=true (medpeft run ... --set)')


def network(saved: Saved, backbone: str = '', weights: str = '') -> tuple[nn.Module, str, Any]:
    """The backbone that an adapter was made for: its network, its hash, and the loaded `Backbone` or pipeline.

    Args:
        backbone, weights: in place of those that the record names.
    Raises:
        BadInput: it is not available, or neither the record nor `backbone` names one.
        DoesNotFit: its weights are not those that the adapter was trained over.
    """
    from medpeft_utils.text_image import names

    parameters, known = saved.about.get('parameters', {}), saved.about.get('backbone', {})
    name, weights = backbone or known.get('name'), weights or parameters.get('weights') or 'pretrained'
    if not name:
        raise BadInput(f'{saved.path} does not name its backbone; give --backbone')
    seed = parameters.get('seed', 0)
    if saved.layout == 'diffusers' or known.get('family') == 'unet' or names.is_pipeline(name):
        from medpeft_utils.text_image import pipeline

        loaded = pipeline.load(name, weights, seed)
        model = loaded.unet
    else:
        from medpeft_utils import backbones

        size = known.get('image_size') if backbones.family_of(name) == 'vit' else None
        classes = len(saved.about['data']['classes']) if 'data' in saved.about else _classes(saved, name)
        loaded = backbones.load(name, classes, size, weights=weights, seed=seed)
        loaded.image_size = known.get('image_size', loaded.image_size)
        model = loaded.model
    if known.get('hash') not in (None, loaded.hash):
        raise DoesNotFit(
            f'{saved.path} was trained over {known["name"]} with weights {known["hash"]}; those found here are '
            f'{loaded.hash} ({loaded.source}); give the right ones by --weights'
        )
    return model, loaded.hash, loaded


def _classes(saved: Saved, name: str) -> int:
    """The number of classes of a foreign adapter, by the rows of its head."""
    from medpeft_utils import backbones

    _, tensors = read_tensors(saved.path / exchange.PEFT_WEIGHTS)
    head = exchange.PREFIX + next(iter(backbones.head_names(backbones.build(name, 2))), '')
    if head not in tensors or not tensors[head].ndim:
        raise BadInput(f'{saved.path}: it has no weights of a head for {name} ({head}), so its classes are not known')
    return len(tensors[head])


def load(saved: Saved, model: nn.Module, base_hash: str, family: str) -> Adapted:
    """Put a saved adapter, of whatever layout, over its backbone; `methods.load` says what is raised."""
    if saved.layout == 'medpeft':
        about, tensors = read(saved.path)
    elif saved.layout == 'peft':
        about, tensors = exchange.from_peft(saved.path, model, family)
    else:
        about, tensors = exchange.from_diffusers(saved.path, model)
    return install(model, about, tensors, family, base_hash, where=saved.path)


def export(saved: Saved, folder: Path, layout: str, weights: str = '') -> None:
    """Write an adapter in another tool's layout, with a model card and what is known of its run.

    Raises DoesNotFit, BadInput as `network` and `exchange` do.
    """
    from medpeft_utils.adapters.card import model_card

    if saved.layout != 'medpeft':
        raise BadInput(f"{saved.path} is in the layout of {saved.layout} already; export a run's own adapter")
    try:
        check_writable(folder)
    except OSError as error:
        reason = error.strerror or getattr(error.__cause__, 'strerror', error)
        raise BadInput(f'{short(str(folder))}: cannot be written ({reason}); give another folder') from None
    if any(folder.iterdir()):
        raise BadInput(f'{folder} is not empty; give a new folder')
    about, tensors = read(saved.path)
    if layout == 'diffusers':
        exchange.to_diffusers(about, tensors, folder)
    else:
        model, _, _ = network(saved, weights=weights)
        load(saved, model, about['base_hash'], about['family'])  # it fits: one error here, not at who loads it
        base, _, _ = network(saved, weights=weights)
        exchange.to_peft(about, tensors, folder, saved.known('backbone')['name'], base)
    kept = {name: saved.about[name] for name in KEPT if name in saved.about}
    parameters = {name: v for name, v in saved.about.get('parameters', {}).items() if name not in PRIVATE}
    if 'dataset' in parameters:  # that of own images is a path
        parameters['dataset'] = saved.known('data')['name']
    if parameters.get('weights') not in ('pretrained', 'random'):  # so is that of a file of your own
        parameters.pop('weights', None)
    write_json(folder / ABOUT, kept | {'parameters': parameters})
    (folder / 'README.md').write_text(model_card(saved, layout), encoding='utf-8')
