"""A comparison whose records are invented: real files in a real study's folder, without the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medpeft_utils import metrics
from medpeft_utils.compare.study import Wanted, add
from medpeft_utils.core.files import write_json
from medpeft_utils.study import records
from medpeft_utils.study.grid import Run
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.training import rows

CLASSES = ['benign', 'malignant', 'no finding']
COUNTS = {'train': 420, 'validation': 60, 'test': 240}
LABELS = {'linear_probing': 'Linear Probing', 'lora': 'LoRA', 'ssf': 'SSF', 'full_ft': 'Full FT'}
BYTES = {'linear_probing': 1200, 'lora': 90_000, 'ssf': 24_000, 'full_ft': 5_400_000}


class Invented:
    """Records of methods with a known skill: the log-odds of a right answer, for easy and hard patients alike."""

    def __init__(self, root: Path, name: str = 'compare-images-01234567', classes: Sequence[str] = CLASSES):
        self.folder, self.classes = StudyFolder(root / name), list(classes)
        generator = np.random.default_rng(0)
        self.truth, self.groups, self.hard = {}, {}, {}
        for split, first in (('validation', 0), ('test', 1000)):
            self.groups[split] = first + np.sort(generator.integers(0, COUNTS[split] // 2, COUNTS[split]))
            self.truth[split] = generator.choice(3, COUNTS[split], p=[0.5, 0.3, 0.2])
            self.hard[split] = generator.normal(0, 1, 3000)[self.groups[split]]

    def add(self, skills: dict[str, float], seeds: int = 3, fractions: tuple[float, ...] = (1.0,), **parameters):
        """Plan the methods and write a record for each run that has none; gives back the runs of this call."""
        images = self.folder.root.parent / 'images'
        images.mkdir(exist_ok=True)
        given = {'dataset': str(images), 'backbone': 'vit_base_mini', **parameters}
        wanted = Wanted('vit', tuple(skills), seeds, given, fractions)
        _, _, latest = add(self.folder, 'Which method for images?', [wanted])
        for run in latest:
            if records.read(self.folder.record(run.hash)) is None:
                share = run.parameters['fraction']
                records.write(
                    self.record(run, skills[run.parameters['method']] + np.log2(share)), self.folder.run(run.hash)
                )
        write_json(self.folder.root / 'latest.json', [run.key for run in latest])
        about = {'title': 'Which method for images?', 'data': '/data/images: 720 images.', 'remarks': ['a remark <b>']}
        about |= {'network': 'Backbone: vit_base_mini, 48 px; shipped.', 'command': 'medpeft compare /data/images'}
        write_json(self.folder.root / 'about.json', about)
        return latest

    def record(self, run: Run, skill: float) -> dict:
        method, seed = run.parameters['method'], run.parameters['seed']
        generator = np.random.default_rng([seed, sum(map(ord, method)), round(1000 * run.parameters['fraction'])])
        skill += generator.normal(0, 0.05)
        found = {split: self._probabilities(split, skill, generator) for split in self.truth}
        scores = {split: metrics.evaluate(self.truth[split], found[split]) for split in found}
        kept = {
            split: rows.write(self.truth[split], self.groups[split], found[split], self._attributes(split))
            for split in found
        }
        shares = {**COUNTS, 'train': round(COUNTS['train'] * run.parameters['fraction'])}
        return {
            **{'run': run.hash, 'status': 'done', 'experiment': run.experiment, 'parameters': run.parameters},
            **{'code_version': run.code, 'metrics': scores, 'rows': kept, 'curve': []},
            'data': {'name': 'images', 'label': 'images', 'split_hash': 'x', 'counts': COUNTS, 'classes': self.classes}
            | {'used': shares},
            'backbone': {'name': run.parameters['backbone'], 'label': run.parameters['backbone'], 'family': 'vit'}
            | {'role': run.parameters['backbone'], 'image_size': run.parameters['image_size'] or 48},
            'method': {'key': method, 'label': LABELS[method], 'trainable_parameters': BYTES[method] // 4}
            | {'head_parameters': 0},
            'learning_rate': {'value': 1e-3, 'head_value': 1e-2, 'how': 'searched', 'edge': None},
            'cost': {
                'adapter_bytes': BYTES[method],
                'total_bytes': 6_000_000,
                'step_flops': 3e8,
                'search_seconds': 9.0,
            },
            'time': {'total_seconds': 20.0, 'step_seconds': 0.3 if method == 'full_ft' else 0.2},
            'environment': {'device': 'cpu', 'versions': {'medpeft': '0', 'torch': '2'}},
        }

    def _attributes(self, split: str) -> pd.DataFrame:
        return pd.DataFrame({'sex': np.where(self.groups[split] % 2, 'F', 'M'), 'age': 40 + self.groups[split] % 50})

    def _probabilities(self, split: str, skill: float, generator: np.random.Generator) -> np.ndarray:
        """[N, 3], the largest for the true class with the odds of the skill against the hardness."""
        truth = self.truth[split]
        right = generator.random(len(truth)) < 1 / (1 + np.exp(self.hard[split] - skill))
        answer = np.where(right, truth, (truth + generator.integers(1, 3, len(truth))) % 3)
        logits = generator.normal(0, 0.5, (len(truth), 3)) + 2.5 * np.eye(3)[answer]
        top = logits.argmax(axis=1)
        logits[np.arange(len(truth)), top], logits[np.arange(len(truth)), answer] = (
            logits[np.arange(len(truth)), answer].copy(),
            logits[np.arange(len(truth)), top].copy(),
        )
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
