"""The model card of an adapter, from the record of its run."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from medpeft_utils.training import rows

if TYPE_CHECKING:
    from medpeft_utils.adapters.store import Saved
    from medpeft_utils.data import DataCard

RESTRICTED = re.compile('agreement|credential|competition', re.IGNORECASE)  # in the licence of a set


def data_card(name: str) -> DataCard | None:
    """The card of a dataset; None for own images."""
    from medpeft_utils.data import CARDS

    return dict(CARDS.items()).get(name)


def is_restricted(card: DataCard | None) -> bool:
    """Whether users of the data have signed an agreement, which restricts sharing what is trained on them."""
    return card is not None and (card.credentialed or RESTRICTED.search(card.licence) is not None)


def scores_with_intervals(record: dict[str, Any]) -> dict[str, str]:
    """Test scores as 'value [low, high]', percentiles of a bootstrap over the groups of the test split, in percent."""
    from medpeft_utils.report.inference import Sample, TestSplit

    if 'rows' not in record:
        return {}
    kept = rows.read(record, 'test')
    split = TestSplit(kept.labels, kept.groups, kept.scores.shape[1])
    draws = {'AUROC': split.auroc(kept.scores)}
    if kept.labels.ndim == 1:
        draws = {f'{name} F1': split.f1(kept.arg_max, name) for name in ('macro', 'weighted')} | draws
    found = {name: Sample.of_runs({('', 0): values}, split.groups).interval() for name, values in draws.items()}
    return {name: f'{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]' for name, i in found.items()}


def model_card(saved: Saved, layout: str) -> str:
    """README.md: what it is, over what, on which data with which split, its scores with intervals, what it is not for.

    Raises BadInput where no record is beside the adapter.
    """
    data, backbone, method = (saved.known(section) for section in ('data', 'backbone', 'method'))
    card = data_card(data['name'])
    licence = card.licence if card else 'that of your own images'
    restricted = is_restricted(card)
    counts = data['counts']
    groups = {
        split: len(np.unique(rows.read(saved.about, split).groups)) for split in saved.about.get('rows', {})
    }  # patients or lesions
    unit = (card.group if card and card.group else 'group') + 's'
    head = [
        '---',
        f'library_name: {layout}',
        f'base_model: {json.dumps(backbone["name"])}',
        'tags: [medical-imaging, parameter-efficient-fine-tuning, medpeft]',
        '---',
        '',
        f'# {method["label"]} of {backbone["label"]} on {data["label"]}',
        '',
        '**Not for clinical use.** It was made to compare methods of fine-tuning; nobody has validated it for any '
        'decision about a patient.',
        '',
        f'Method {method["label"]} (`{method["key"]}`, {json.dumps(method["config"], sort_keys=True)}) trained '
        f'{method["trainable_parameters"]:,} parameters beside the head over `{backbone["name"]}`, whose weights have '
        f'the hash {backbone["hash"]}.',
        '',
        '## Data',
        '',
        f'{data["label"]}, split {data["split_hash"]}; licence of the data: {licence}.',
    ]
    if data.get('synthetic'):
        head += ['', 'The images are synthetic: no patient was seen, and no score says anything about real images.']
    if restricted:
        head += ['', 'Who passes this adapter on must keep to the agreement under which the data were given.']
    head += ['', f'| split | images | {unit} |', '| --- | ---: | ---: |']
    head += [f'| {split} | {n:,} | {groups.get(split, "")} |' for split, n in counts.items()]
    if classes := data.get('classes'):
        head += ['', f'Classes, in the order of the outputs: {", ".join(classes)}.']
    if scores := scores_with_intervals(saved.about):
        head += ['', '## Scores on the test split', '']
        head += ['| score (%) | value [95 % interval over groups] |', '| --- | --- |']
        head += [f'| {name} | {text} |' for name, text in scores.items()]
        head += ['', 'One run: the interval is over the test images, not over seeds or splits.']
    head += ['', '## Use', '', '```python', *_use(layout, backbone, data), '```', '']
    return '\n'.join(head)


def _use(layout: str, backbone: dict[str, Any], data: dict[str, Any]) -> list[str]:
    if layout == 'diffusers':
        return ['pipeline.load_lora_weights(FOLDER)']
    name, classes = backbone['name'], len(data.get('classes', ()))
    size = f', image_size={backbone["image_size"]}' if backbone.get('family') == 'vit' else ''
    return [
        'from medpeft_utils import backbones',
        'from peft import PeftModel',
        '',
        f"base = backbones.load('{name}', num_classes={classes}{size})",
        'model = PeftModel.from_pretrained(base.model, FOLDER).eval()',
    ]
