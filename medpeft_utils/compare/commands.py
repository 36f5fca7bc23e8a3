"""`medpeft compare`: which method suits your own images, with the notebooks, runner and records of the study."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import check_writable, read_json, write_bytes, write_json
from medpeft_utils.study.commands import FIGURES, RESULTS, execute, run_options, settings_option
from medpeft_utils.study.paths import StudyFolder
from medpeft_utils.study.progress import duration

if TYPE_CHECKING:
    from medpeft_utils.compare.evidence import Evidence
    from medpeft_utils.compare.page import Page
    from medpeft_utils.compare.plan import Plan, Speed, Work
    from medpeft_utils.compare.study import Wanted
    from medpeft_utils.study.grid import Run

# Beside the study's grid.
PLANS, ABOUT, LATEST, EXPECTED = 'plans.json', 'about.json', 'latest.json', 'expected.jsonl'
SHOWN = 12  # faults of the data, all at once
FRACTIONS = (0.125, 0.25, 0.5)  # of the training images, beside all of them, for a learning curve


@click.command()
@click.argument('dataset', metavar='DATA')
@click.option('--backbone', default='', help='A shipped or timm name  [default: chosen for the images].')
@click.option('--methods', default='usual', show_default=True, help='Methods, such as full_ft,lora,ssf.')
@click.option('--seeds', default=3, show_default=True, type=click.IntRange(1, 100), help='Runs of each method.')
@click.option('--budget', default='10m', show_default=True, help='Time for the whole comparison, such as 30m or 2h.')
@click.option('--curve', is_flag=True, help='Would more data help? Two methods over four fractions of the images.')
@click.option('--by', multiple=True, help='Subgroups: a column, or one with cuts: sex, age:60, skin_type:12-34-56.')
@settings_option
@run_options
@RESULTS
def compare(dataset: str, backbone: str, methods: str, by: tuple[str, ...], results: Path, **options: Any) -> None:
    """Say which method suits the images of DATA: a folder with a folder per class, a CSV file, or a dataset's name.

    Checks the data, announces the runs and their time, executes them, and answers in a page (HTML and Markdown) in the
    study's folder. After Ctrl-C the same command continues where it stopped.
    """
    from medpeft_utils.compare import plan

    budget = plan.seconds_of(options.pop('budget'))
    if backbone:  # before the images are opened
        plan.methods_of(methods, plan.asked_for(backbone).name)
    check_writable(next(place for place in (results, *results.absolute().parents) if place.exists()))
    if click.get_current_context().get_parameter_source('jobs') is ParameterSource.DEFAULT:
        options['jobs'] = 0  # as many as the machine has room for
    images = Images(dataset, options['data_root'])
    seeds, curve, settings = (options.pop(name) for name in ('seeds', 'curve', 'settings'))
    comparison = Comparison(images, results, seeds, budget, curve, settings, options)
    comparison.prepare(backbone, methods)
    ended = comparison.run(comparison.wanted())
    if curve and not ended:
        ended = comparison.run([*comparison.wanted(), *comparison.fractions()])
    click.echo(show(comparison.folder, by))
    sys.exit(ended)


class Images:
    """The data that the user names, checked.

    Args:
        dataset: a folder, a CSV file, or the name of a published dataset.
        data_root: the folder of published downloads.
    Raises:
        BadInput: with every fault of the data.
    """

    def __init__(self, dataset: str, data_root: Path | None):
        from medpeft_utils.data import CARDS
        from medpeft_utils.data.check import check

        path, published = Path(dataset).expanduser(), dataset in CARDS
        if published and path.exists() and data_root is None:
            raise BadInput(
                f'{dataset!r} is the name of a published dataset and of a folder here: write ./{dataset} for a folder '
                f'with a folder per class, or add --data-root . for the published download in it'
            )
        if published and CARDS[dataset].multi_label:
            raise BadInput(f'{dataset}: an image can have several findings; compare needs one class per image')
        self.dataset = dataset if published or not path.exists() else str(path.resolve())
        below = data_root / dataset if data_root and Path(self.dataset) != path.resolve() else None
        self.folder = str(below.resolve()) if below and below.is_dir() else ''
        self.check = None if published and not self.folder else check(self.dataset, self.folder or None)
        if self.check and not self.check.usable:
            raise BadInput(self._refusal([*self.check.faults, *self.check.unreadable]))

    def _refusal(self, faults: list[str]) -> str:
        if len(faults) == 1:
            return faults[0] if self.dataset in faults[0] else f'{self.dataset}: {faults[0]}'
        shown = [f'  {fault}' for fault in faults[:SHOWN]]
        shown += [f'  and {len(faults) - SHOWN} more (medpeft data check)'] * (len(faults) > SHOWN)
        return '\n'.join([f'{self.dataset} cannot be used yet:', *shown])

    @property
    def title(self) -> str:
        """A folder's name, a CSV file's with that of its folder, or the dataset's."""
        path = Path(self.dataset)
        return '/'.join(path.parts[-2:]) if path.is_file() else path.name

    @property
    def remarks(self) -> list[str]:
        if self.check is None:
            return []
        return [*self.check.remarks, *(f'{count:,} {words}' for words, count in self.check.notes.items())]

    @property
    def side(self) -> int:
        """The usual shorter side of the images, in pixels; 0 where it is not known."""
        sizes = self.check.sizes if self.check else {}
        sides = [min(map(int, size.split('x'))) for size, count in sizes.items() for _ in range(count)]
        return round(statistics.median(sides)) if sides else 0


@dataclass
class Comparison:
    """One command: its images, and what `prepare` adds: backbone, methods, plan, and the study that it belongs to.

    Args:
        images: the data.
        results: the folder of all studies.
        seeds: runs of each method.
        budget: in seconds.
        curve: whether learning curves follow.
        settings: parameters of all runs that the user sets.
        running: options of `execute`.
    """

    images: Images
    results: Path
    seeds: int
    budget: float
    curve: bool
    settings: dict[str, Any]
    running: dict[str, Any]

    # ---- what to run

    def prepare(self, backbone: str, methods: str) -> None:
        """Choose backbone and methods, decode the images, find the study, plan, and announce all of it."""
        from medpeft_utils import backbones, data
        from medpeft_utils.compare import plan
        from medpeft_utils.compare.study import profile_of
        from medpeft_utils.study.machine import graphics_cards, threads_for
        from medpeft_utils.training.classification import stored_size

        jobs, cache = self.running['jobs'], data.cache_root()
        if backbone:
            self.network = plan.asked_for(backbone, self.images.side)
        else:
            threads = self.running['threads'] or threads_for(jobs or 1)
            work = self._work(self.images.check.split_images if self.images.check else {}, jobs or 1)
            self.network = plan.chosen(self.images.side, work, methods, self.budget, cache, threads)
        self.running['jobs'] = jobs = jobs or plan.jobs_here(self.network, bool(graphics_cards()))
        self.methods = plan.methods_of(methods, self.network.name)
        self.family = backbones.family_of(self.network.name)
        size = stored_size(self.settings.get('image_size') or self.network.side)
        self.data = data.load(self.images.dataset, self.images.folder or None, size)
        self.folder = StudyFolder(self.results / profile_of(self.images.dataset, self.data))
        threads = self.running['threads'] or threads_for(jobs)
        speeds = {key: plan.speed(self.network, key, threads, cache) for key in self.methods}
        work = self._work({split: len(self.data.rows(split)) for split in data.SPLITS}, jobs)
        self.plan = self._planned(work, speeds)
        self.each = {key: work.seconds(key, speeds[key], self.plan.settings) / work.seeds for key in self.methods}
        click.echo('\n'.join(self._announcement()))

    def _work(self, images: dict[str, int], jobs: int) -> Work:
        from medpeft_utils.compare.plan import Work
        from medpeft_utils.data import SPLITS

        counts = (images.get(split, 0) for split in SPLITS)
        return Work(*counts, self.seeds, jobs, fractions=len(FRACTIONS) if self.curve else 0)

    def _planned(self, work: Work, speeds: dict[str, Speed]) -> Plan:
        """The plan of this budget: as it was made before in this study, so what is added is trained alike."""
        from medpeft_utils.compare import plan
        from medpeft_utils.core.hashing import json_digest

        key = json_digest([self.budget, self.settings])
        self.plans = read_json(self.folder.root / PLANS) or {}
        if key in self.plans:
            settings = {**self.plans[key], **self.settings}
            seconds = plan.total_seconds(work, speeds, settings)
            longer = 'the runs are trained like those that this study holds already, which exceeds the budget'
            return plan.Plan(settings, self.seeds, seconds, longer if seconds > self.budget else '')
        made = plan.plan(work, speeds, self.budget, self.settings)
        if made.seeds == self.seeds:
            self.plans[key] = made.settings
        return made

    def _announcement(self) -> list[str]:
        from medpeft_utils import methods
        from medpeft_utils.compare.answer import too_few

        labels = ', '.join(methods.label(key, self.family) for key in self.methods)
        s, seeds, about = self.plan.settings, self.plan.seeds, self.about()
        each = f'{s["max_steps"]} steps of {s["batch_size"]} images'
        tried = f', {s["search_trials"]} learning rates tried for each method' if s['search_trials'] else ''
        lines = [about['data'], *(f'  remark: {remark}' for remark in about['remarks']), about['network']]
        lines.append(f'{labels}: {seeds} seed{"s" if seeds > 1 else ""} each, {each}{tried}.')
        remarks = self.plan.remark, too_few(self.data.counts()['test'].to_dict())
        lines += [f'  remark: {remark}' for remark in remarks if remark]
        if self.curve:
            percent = ', '.join(f'{100 * fraction:g}' for fraction in FRACTIONS)
            lines.append(f'Then two of them with {percent} % of the training images.')
        return [*lines, f'This takes about {duration(self.plan.seconds)} here. Finished runs are not repeated.']

    def about(self) -> dict[str, Any]:
        """What the page says beside the runs."""
        from medpeft_utils import backbones, data

        classes = ', '.join(f'{name} {count:,}' for name, count in self.data.counts().sum(axis=1).items())
        groups = len(set(self.data.groups))
        of = f' of {groups:,} groups' if groups < len(self.data) else ''
        splits = ', '.join(f'{len(self.data.rows(split)):,} {split}' for split in data.SPLITS)
        name, label = self.network.name, backbones.label_of(self.network.name)
        words = ['medpeft', 'compare', *sys.argv[2:]] if sys.argv[1:2] == ['compare'] else ['medpeft', 'compare']
        return {
            'title': f'Which fine-tuning method for {self.images.title}?',
            'data': f'{self.images.dataset}: {len(self.data):,} images{of} ({classes}); {splits}.',
            'remarks': self.images.remarks,
            'network': f'Backbone: {label} ({name}), {self.network.side} px; {self.network.why}.',
            'command': shlex.join(words),
        }

    # ---- running

    def wanted(self, methods: Sequence[str] = (), fractions: Sequence[float] = (1.0,)) -> list[Wanted]:
        """What the study is to hold: these methods, or all that were asked for."""
        from medpeft_utils.compare.study import Wanted

        given = {'dataset': self.images.dataset, 'backbone': self.network.name, 'save_adapter': True}
        given |= {'data_folder': self.images.folder} if self.images.folder else {}
        given |= {'image_size': self.network.image_size} if self.network.image_size else {}
        parameters = {**given, **self.plan.settings}
        return [Wanted(self.family, tuple(methods or self.methods), self.plan.seeds, parameters, tuple(fractions))]

    def fractions(self) -> list[Wanted]:
        """The learning curves: of the method chosen on validation, and of the cheapest alike or the next one."""
        from medpeft_utils.compare.evidence import gather
        from medpeft_utils.compare.study import add

        _, _, latest = add(self.folder, self.data.label, self.wanted())
        found = gather(latest, latest, self.folder)
        if found.answer is None:
            return []
        answer = found.answer
        both = dict.fromkeys(one.label for one in (answer.chosen, answer.cheapest, *answer.candidates))
        return self.wanted([found.records[label][0]['method']['key'] for label in list(both)[:2]], FRACTIONS)

    def run(self, wanted: list[Wanted]) -> int:
        """Do the runs; the exit status: 0, or that of runs that failed or of Ctrl-C."""
        from medpeft_utils.compare.study import add

        grid, _, latest = add(self.folder, self.data.label, wanted)
        write_json(self.folder.root / ABOUT, self.about())
        write_json(self.folder.root / PLANS, self.plans)
        try:
            execute(grid, latest, self.folder, retry=True, earlier=self._expected(latest), **self.running)
        except SystemExit as ended:
            return int(ended.code or 0)
        finally:
            write_json(self.folder.root / LATEST, [run.key for run in latest])
        return 0

    def _expected(self, runs: list[Run]) -> Path:
        """A file that tells the runner how long each run takes, as the plan has it, before it has measured any."""
        path, lines = self.folder.root / EXPECTED, []
        for run in runs:
            time = {'total_seconds': self.each[run.parameters['method']]}
            lines.append(json.dumps({'experiment': run.experiment, 'parameters': run.parameters, 'time': time}) + '\n')
        write_bytes(path, ''.join(lines).encode())
        return path


# ---- the page


def answered(folder: StudyFolder, with_older: bool = False) -> tuple[Evidence, Page]:
    """What the records of a comparison show, and its page as far as the answer goes."""
    from medpeft_utils.compare.evidence import gather
    from medpeft_utils.compare.sections import page_of
    from medpeft_utils.compare.study import GRID
    from medpeft_utils.study.grid import identified, known, load_grid

    runs = identified(load_grid(folder.root / GRID).runs, known(folder))
    keys = set(read_json(folder.root / LATEST) or [])
    found = gather(runs, [run for run in runs if run.key in keys], folder, with_older)
    return found, page_of(found, read_json(folder.root / ABOUT))


def show(folder: StudyFolder, by: Sequence[str] = (), with_older: bool = False) -> str:
    """Write the page of a comparison from its records, as HTML and Markdown; what the terminal shows of it."""
    from medpeft_utils.compare.sections import further
    from medpeft_utils.compare.study import PAGE

    found, page = answered(folder, with_older)
    page.sections[-1:-1] = further(found, folder.root / 'tables', by)  # before what it cannot tell
    html, markdown = folder.root / f'{PAGE}.html', folder.root / f'{PAGE}.md'
    write_bytes(html, page.html().encode())
    write_bytes(markdown, page.markdown().encode())
    beside = f'{markdown.name} and tables/ lie beside it, notebooks and adapters in {folder.runs}'
    return f'\n{page.text()}\n\nThe whole page: {html} ({beside})'


@click.command()
@click.argument('profile')
@RESULTS
@FIGURES
@click.option('--by', multiple=True, help='Subgroups: a column, or one with cuts: sex, age:60. Default: these two.')
@click.option('--only', multiple=True, metavar='NAME', help='Draw only this figure or table, such as figure1.')
def report(profile: str, results: Path, figures: Path, by: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Render the figures and tables of PROFILE from its records; of a comparison, its page."""
    from medpeft_utils.compare.study import GRID
    from medpeft_utils.report.output import draw
    from medpeft_utils.study import commands

    folder = StudyFolder(results / profile)
    if (folder.root / GRID).is_file():
        click.echo(show(folder, by, with_older=True))
    elif only:
        draw(profile, results, figures, only)
    else:
        commands.render(profile, results, figures, by)
