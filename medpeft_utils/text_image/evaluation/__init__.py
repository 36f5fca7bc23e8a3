"""Evaluation of generated images against the test split of a set of image-text pairs.

metrics = evaluation.evaluate(images, rows, pairs, train_rows, folder)       # one set of images

by = evaluation.judge(pairs, folder)                                         # or several
by.evaluate(images, rows, train_rows), by.real(train_rows)
"""

from __future__ import annotations

from medpeft_utils.text_image.evaluation.distances import require_images
from medpeft_utils.text_image.evaluation.judge import Judge, evaluate, judge, test_rows
from medpeft_utils.text_image.pictures import read_strip, write_strip

PROMPT = 'No acute cardiopulmonary process.'  # of Figure 2

__all__ = ['PROMPT', 'Judge', 'evaluate', 'judge', 'read_strip', 'require_images', 'test_rows', 'write_strip']
