"""Makes clinical.json: dcurves' net benefit and fairlearn's subgroup scores on random cases.

Neither package is a dependency; in an environment of its own:

    pip install dcurves==1.1.7 fairlearn==0.15.0 && python tests/reference/clinical.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

THRESHOLDS = [0.05, 0.1, 0.25, 0.5, 0.75]


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y [300] of 0 and 1, p [300] in steps of 0.01 (some equal a threshold), and three subgroups."""
    random = np.random.default_rng(seed)
    of = random.choice(['a', 'b', 'c'], size=300, p=[0.5, 0.3, 0.2])
    y = (random.random(300) < 0.35).astype(int)
    p = np.clip(np.round(0.2 + 0.3 * y + 0.2 * random.standard_normal(300), 2), 0, 1)
    return y, p, of


def main() -> None:
    import pandas as pd
    from dcurves import dca
    from fairlearn.metrics import MetricFrame, true_negative_rate, true_positive_rate
    from sklearn.metrics import roc_auc_score

    found = []
    for seed in range(4):
        y, p, of = case(seed)
        frame = pd.DataFrame({'y': y, 'model': p})
        curves = dca(data=frame, outcome='y', modelnames=['model'], thresholds=THRESHOLDS)
        curves = curves[np.isclose(curves['threshold'].to_numpy()[:, None], THRESHOLDS).any(axis=1)]
        net = {name: curves[curves['model'] == name]['net_benefit'].tolist() for name in ('model', 'all')}
        areas = MetricFrame(metrics=roc_auc_score, y_true=y, y_pred=p, sensitive_features=of)
        rates = MetricFrame(
            metrics={'sensitivity': true_positive_rate, 'specificity': true_negative_rate},
            y_true=y, y_pred=(p >= 0.3).astype(int), sensitive_features=of,
        )  # fmt: skip
        found.append({'seed': seed, 'net_benefit': net, 'auroc': areas.by_group.to_dict(), 'gap': areas.difference(),
                      'rates': rates.by_group.T.to_dict()})  # fmt: skip
    Path(__file__).with_suffix('.json').write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
