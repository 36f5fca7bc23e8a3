"""The decision of `medpeft compare`, on invented test splits whose truth is known."""

from __future__ import annotations

import re

import numpy as np
import pytest

from medpeft_utils.compare.answer import UNDETECTED, Answer, Candidate, decide, growth, number, too_few
from medpeft_utils.report.inference import Sample, TestSplit

CLASSES = 3


class World:
    """Patients with one to three images, some harder than others for every method alike."""

    def __init__(self, seed: int, patients: int = 150, draws: int = 300):
        self.random = np.random.default_rng(seed)
        images = self.random.integers(1, 4, patients)
        self.groups = np.repeat(np.arange(patients), images)
        self.labels = self.random.choice(CLASSES, len(self.groups), p=[0.5, 0.3, 0.2])
        self.hardness = self.random.normal(0, 1, patients)[self.groups]
        self.split = TestSplit(self.labels, self.groups, CLASSES, draws=draws)

    def predicted(self, skill: float) -> np.ndarray:
        right = self.random.random(len(self.labels)) < 1 / (1 + np.exp(self.hardness - skill))
        wrong = (self.labels + self.random.integers(1, CLASSES, len(self.labels))) % CLASSES
        return np.where(right, self.labels, wrong)

    def candidate(self, label: str, skill: float, seeds: int = 3, cost: int | None = None) -> Candidate:
        """A method whose skill (log-odds of a right answer) moves a little from seed to seed."""
        trained = [skill + self.random.normal(0, 0.05) for _ in range(seeds)]
        runs = {(0, seed): self.split.f1(self.predicted(own), 'macro') for seed, own in enumerate(trained)}
        test = Sample.of_runs(runs, self.split.groups)
        # Validation: other images on which the same trained networks answer, of which nothing but the mean is used.
        validation = float(np.mean(trained) + self.random.normal(0, 0.05))
        return Candidate(label, validation, test, cost)

    def constant(self, seeds: int = 3) -> Sample:
        score = self.split.f1(np.zeros(len(self.labels), dtype=int), 'macro')
        return Sample.of_runs({(0, seed): score for seed in range(seeds)}, self.split.groups)

    def answer(self, **skills: float) -> Answer:
        return decide([self.candidate(label, skill) for label, skill in skills.items()], self.constant())


def test_a_planted_winner_is_found_in_95_of_100():
    answers = [World(seed, patients=200).answer(a=0.5, b=0.6, winner=1.9, c=0.4, d=0.5) for seed in range(100)]
    assert sum(answer.best and answer.choice.label == 'winner' for answer in answers) >= 95


@pytest.mark.parametrize('copies', [2, 5])
def test_copies_of_one_method_are_found_different_in_at_most_5_of_100(copies: int):
    skills = {f'copy {k}': 1.0 for k in range(copies)}
    answers = [World(seed).answer(**skills) for seed in range(200)]
    assert sum(len(answer.of(UNDETECTED)) < copies - 1 for answer in answers) <= 10


def test_best_is_never_said_while_an_interval_includes_0():
    said = 0
    for seed in range(60):
        answer = World(seed).answer(a=1.0, b=1.0 + seed / 30)
        text = answer.recommendation()
        if re.search(r'\bbest\b', text):
            said += 1
            assert all(relation.lead.low > 0 for relation in answer.relations)
        if any(relation.lead.low <= 0 <= relation.lead.high for relation in answer.relations):
            assert 'best' not in text and 'No choice is supported' in text
    assert 10 < said < 60


def test_among_those_without_a_detectable_difference_the_cheapest_is_taken():
    world = World(0, patients=400)
    runs = {name: world.candidate(name, 1.5, cost=cost) for name, cost in (('dear', 96_000), ('cheap', 24_000))}
    # The dear one is ahead by what no test of this size can show; a third one is far behind, and the cheapest of all.
    ahead = Candidate('dear', runs['cheap'].validation + 0.1, runs['dear'].test, 96_000)
    answer = decide([ahead, runs['cheap'], world.candidate('bad', -0.5, cost=1)], world.constant())
    assert (answer.chosen.label, answer.choice.label, answer.best) == ('dear', 'cheap', False)
    lead = next(relation.lead for relation in answer.relations if relation.other.label == 'cheap')
    may_be_lost = number(max(lead.high, 0))
    assert answer.recommendation() == (
        f'Use cheap if losing up to {may_be_lost} in macro F1 does not matter, and dear otherwise: no difference from '
        'dear is detectable, and cheap stores a quarter of the bytes of dear (24 kB instead of 96 kB).'
    )


def test_a_smaller_loss_at_a_middle_price_is_named_beside_the_cheapest():
    world = World(1, patients=400)
    dear, middle, cheap = (
        Candidate(name, validation, world.candidate(name, skill).test, price)
        for name, validation, skill, price in (('dear', 2, 1.5, 1000), ('middle', 1, 1.5, 100), ('cheap', 0, 1.3, 10))
    )
    answer = decide([dear, middle, cheap, world.candidate('bad', -0.5, cost=1)], world.constant())
    assert [one.label for one, _ in answer.cheaper] == ['middle', 'cheap']
    text = answer.recommendation()
    assert text.startswith('Use middle if losing up to') and ', cheap if losing up to' in text
    assert answer.choice is cheap


def test_no_choice_with_fewer_than_three_seeds_however_large_the_difference():
    world = World(1)
    two = [world.candidate('good', 3.0, seeds=2), world.candidate('bad', -1.0, seeds=2)]
    answer = decide(two, world.constant(2))
    assert answer.choice is None and '2 seeds' in answer.recommendation()


def test_no_choice_where_a_class_has_hardly_any_test_image():
    world = World(1)
    few = too_few({'benign': 40, 'malignant': 4})
    answer = decide([world.candidate('good', 3.0), world.candidate('bad', -1.0)], world.constant(), few)
    assert answer.choice is None and "only 4 images of class 'malignant'" in answer.recommendation()
    assert too_few({'benign': 40, 'malignant': 5}) == ''


def test_no_choice_where_nothing_beats_the_commonest_class():
    answer = World(2).answer(a=-1.5, b=-2.5)
    assert answer.choice is None and 'commonest class' in answer.recommendation()


def test_no_choice_where_validation_and_test_disagree():
    world = World(3)
    good, bad = world.candidate('good', 2.5), world.candidate('bad', 0.5)
    answer = decide([good, Candidate('bad', good.validation + 0.1, bad.test)], world.constant())
    assert answer.choice is None
    assert 'bad was chosen on validation, but good did better on the test split' in answer.recommendation()


def test_seeds_that_only_one_method_has_do_not_count():
    world = World(4)
    answer = decide([world.candidate('three', 2.0), world.candidate('five', 1.0, seeds=5)], world.constant(5))
    assert answer.relations[0].lead.seeds == 3


def test_a_method_with_too_few_seeds_is_neither_chosen_nor_beaten():
    world = World(5)
    good, few = world.candidate('good', 2.0, cost=100), world.candidate('few', -1.0, seeds=2, cost=1)
    answer = decide([good, few, world.candidate('bad', 0.0, cost=1000)], world.constant())
    assert answer.choice is good and not answer.best
    assert answer.recommendation() == ('Use good: it is detectably better than bad. Too few runs of few have finished.')
    alone = decide([good, few], world.constant())
    assert alone.recommendation() == 'No choice is supported: too few runs of few have finished.'


def test_a_cheaper_method_that_validation_chose_is_recommended_with_what_it_saves():
    world = World(0, patients=400)
    cheap, dear = world.candidate('cheap', 1.5, cost=24_000), world.candidate('dear', 1.5, cost=96_000)
    ahead = Candidate('cheap', dear.validation + 0.1, cheap.test, 24_000)
    answer = decide([ahead, dear, world.candidate('bad', -0.5)], world.constant())
    assert answer.recommendation() == (
        'Use cheap: no difference from dear is detectable, and cheap stores a quarter of the bytes of dear '
        '(24 kB instead of 96 kB).'
    )


def test_more_data_helps_where_the_last_doubling_did_and_seldom_where_nothing_grows():
    images = {0.125: 50, 0.25: 100, 0.5: 200, 1.0: 400}
    said = {'rising': 0, 'flat': 0}
    for seed in range(40):
        world = World(seed, patients=200)
        for name, skill in (('rising', lambda share: 4 * share), ('flat', lambda share: 1.5)):
            samples = {count: world.candidate('x', skill(share)).test for share, count in images.items()}
            said[name] += 'more images are likely to help' in growth('LoRA', samples).sentence()
    assert said['rising'] >= 38
    assert said['flat'] <= 3
