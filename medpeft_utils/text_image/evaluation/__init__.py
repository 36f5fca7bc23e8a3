"""Evaluation of generated images against the test split of a set of image-text pairs.

by = evaluation.evaluator(pairs, folder)
by.evaluate(images, rows, train_rows), by.real(train_rows, len(images))
"""

from __future__ import annotations

from medpeft_utils.text_image.evaluation.distances import require_images
from medpeft_utils.text_image.evaluation.evaluator import Evaluator, evaluator, test_rows

PROMPT = 'No acute cardiopulmonary process.'  # of Figure 2

__all__ = ['PROMPT', 'Evaluator', 'evaluator', 'require_images', 'test_rows']
