"""`medpeft compare`: which method suits your own images, with the notebooks, runner and records of the study."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
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
    from medpeft_utils.study.grid import Run

BUDGET = '10m'
# Beside the study's grid.
PLANS, ABOUT, LATEST, EXPECTED = 'plans.json', 'about.json', 'latest.json', 'expected.jsonl'
BY = click.option('--by', multiple=True, help='Subgroups: a column, or one with cuts: sex, age:60, skin_type:12-34-56.')
SHOWN = 12  # faults of the data, all at once
SHARES = (0.125, 0.25, 0.5)  # of the training images, beside all of them, for a learning curve


@click.command()
@click.argument('dataset', metavar='DATA')
@click.option('--backbone', default='', help='A shipped or timm name  [default: chosen for the images].')
@click.option('--methods', 'listed', default='usual', show_default=True, help='Methods, such as full_ft,lora,ssf.')
@click.option('--seeds', default=3, show_default=True, type=click.IntRange(1, 100), help='Runs of each method.')
@click.option('--budget', default=BUDGET, show_default=True, help='Time for all of it, such as 30m or 2h.')
@click.option('--curve', is_flag=True, help='Would more data help? Two methods over four shares of the images.')
@BY
@settings_option
@run_options
@RESULTS
def compare(dataset: str, results: Path, **options: Any) -> None:
    """Say which method suits the images of DATA: a folder with a folder per class, a CSV file, or a dataset's name.

    Checks the data, announces the runs and their time, executes them, and answers in a page (HTML and Markdown) in the
    study's folder. After Ctrl-C the same command goes on where it stopped.
    """
    if click.get_current_context().get_parameter_source('jobs') is ParameterSource.DEFAULT:
        options['jobs'] = 0  # as many as the machine has room for
    comparison = Comparison(dataset, results, options)
    comparison.look()
    comparison.prepare()
    ended = comparison.run(comparison.wanted())
    if comparison.curve and not ended:
        ended = comparison.run([comparison.wanted()[0], *comparison.shares()])
    click.echo(show(comparison.folder, comparison.by))
    sys.exit(ended)


class Comparison:
    """One command: its data, its backbone and methods, its plan, and the study that it belongs to."""

    def __init__(self, dataset: str, results: Path, options: dict[str, Any]):
        from medpeft_utils.compare.plan import asked_for, methods_of, seconds_of
        from medpeft_utils.data import CARDS

        path = Path(dataset).expanduser()
        if dataset in CARDS and path.exists() and options['data_root'] is None:
            raise BadInput(
                f'{dataset!r} is the name of a published dataset and of a folder here: write ./{dataset} for a folder '
                f'with a folder per class, or add --data-root . for the published download in it'
            )
        self.dataset = dataset if dataset in CARDS or not path.exists() else str(path.resolve())
        self.results, self.asked = results, {name: options.pop(name) for name in ('backbone', 'listed', 'budget')}
        self.seeds, self.settings, self.curve = (options.pop(name) for name in ('seeds', 'settings', 'curve'))
        self.by = options.pop('by')
        self.budget, self.running = seconds_of(self.asked['budget']), options
        if self.asked['backbone']:  # before the images are opened
            methods_of(self.asked['listed'], asked_for(self.asked['backbone']).name)
        check_writable(results)

    # ---- the data

    def look(self) -> None:
        """Check the data and say what they are. Raises BadInput with every fault."""
        from medpeft_utils import data
        from medpeft_utils.data.check import check

        root = self.running['data_root']
        below = root / self.dataset if root and (root / self.dataset).is_dir() else None
        self.data_folder = str(below.resolve()) if below and below != Path(self.dataset) else ''
        named = self.dataset in data.CARDS
        if named and data.CARDS[self.dataset].multi_label:
            raise BadInput(f'{self.dataset}: an image has several findings there; compare takes one class an image')
        self.check = check(self.dataset, self.data_folder or None) if self.data_folder or not named else None
        if self.check is not None and not self.check.usable:
            faults = [*self.check.faults, *self.check.unreadable]
            if len(faults) == 1:
                raise BadInput(faults[0] if self.dataset in faults[0] else f'{self.dataset}: {faults[0]}')
            shown = [f'  {fault}' for fault in faults[:SHOWN]]
            shown += [f'  and {len(faults) - SHOWN} more (medpeft data check)'] * (len(faults) > SHOWN)
            raise BadInput('\n'.join([f'{self.dataset} cannot be used yet:', *shown]))

    @property
    def remarks(self) -> list[str]:
        if self.check is None:
            return []
        return [*self.check.remarks, *(f'{count:,} {words}' for words, count in self.check.notes.items())]

    def _side(self) -> int:
        """The usual shorter side of the images, in pixels."""
        sizes = self.check.sizes if self.check is not None else {}
        sides = [min(map(int, size.split('x'))) for size, count in sizes.items() for _ in range(count)]
        return round(statistics.median(sides)) if sides else 0

    # ---- what to run

    def prepare(self) -> None:
        """Choose backbone and methods, pack the images, find the study, plan, and say all of it."""
        from medpeft_utils import backbones, data
        from medpeft_utils.compare import plan
        from medpeft_utils.compare.study import profile_of
        from medpeft_utils.study.machine import graphics_cards, threads_for
        from medpeft_utils.training.classification import stored_size

        jobs, graphics = self.running['jobs'], bool(graphics_cards())
        self.network = self._network(jobs or 1, self.running['threads'] or threads_for(jobs or 1))
        self.running['jobs'] = jobs or plan.jobs_here(self.network, graphics)
        threads = self.running['threads'] or threads_for(self.running['jobs'])
        self.methods = plan.methods_of(self.asked['listed'], self.network.name)
        self.family = backbones.family_of(self.network.name)
        size = self.settings.get('image_size') or self.network.image_size
        side = stored_size(size or backbones.image_size_of(self.network.name))
        self.data = data.load(self.dataset, self.data_folder or None, side)
        self.folder = StudyFolder(self.results / profile_of(self.dataset, self.data))
        speeds = plan.speeds(self.network, self.methods, threads, data.cache_root())
        work = self._work({split: len(self.data.rows(split)) for split in data.SPLITS}, self.running['jobs'])
        self.plan = self._planned(work, speeds)
        self.each = {key: work.seconds(key, speeds[key], self.plan.settings) / work.seeds for key in self.methods}
        click.echo('\n'.join(self._announcement()))

    def _network(self, jobs: int, threads: int) -> Any:
        from medpeft_utils import data
        from medpeft_utils.compare import plan

        side = self._side()
        if self.asked['backbone']:
            return plan.asked_for(self.asked['backbone'], side)
        work = self._work(self.check.split_images if self.check is not None else {}, jobs)
        return plan.chosen(side, work, self.asked['listed'], self.budget, data.cache_root(), threads)

    def _work(self, images: dict[str, int], jobs: int) -> Any:
        from medpeft_utils.compare.plan import Work
        from medpeft_utils.data import SPLITS

        counts = (images.get(split, 0) for split in SPLITS)
        return Work(*counts, self.seeds, jobs, shares=len(SHARES) if self.curve else 0)

    def _planned(self, work: Any, speeds: dict[str, Any]) -> Any:
        """The plan of this budget: as it was made before in this study, so what is added is trained alike."""
        from medpeft_utils.compare import plan
        from medpeft_utils.core.hashing import json_digest

        path, key = self.folder.root / PLANS, json_digest([self.budget, self.settings])
        kept = self.kept_plans = read_json(path) or {}
        if key in kept:
            settings = {**kept[key], **self.settings}
            seconds = plan.total_seconds(work, speeds, settings)
            longer = 'trained as what this study holds already, which takes longer than the budget'
            return plan.Plan(settings, self.seeds, seconds, longer if seconds > self.budget else '')
        made = plan.plan(work, speeds, self.budget, self.settings)
        if made.seeds == self.seeds:
            self.kept_plans = {**kept, key: made.settings}
        return made

    def _announcement(self) -> list[str]:
        from medpeft_utils import methods

        labels = ', '.join(methods.label(key, self.family) for key in self.methods)
        s, seeds = self.plan.settings, self.plan.seeds
        each = f'{s["max_steps"]} steps of {s["batch_size"]} images'
        tried = f', {s["search_trials"]} learning rates tried for each method' if s['search_trials'] else ''
        lines = [self.about()['data'], *(f'  remark: {remark}' for remark in self.remarks), self.about()['network']]
        lines.append(f'{labels}: {seeds} seed{"s" if seeds > 1 else ""} each, {each}{tried}')
        lines += [f'  remark: {self.plan.remark}'] if self.plan.remark else []
        if self.curve:
            percent = ', '.join(f'{100 * share:g}' for share in SHARES)
            lines.append(f'then two of them with {percent} % of the training images')
        lines.append(f'about {duration(self.plan.seconds)} on this machine; what is done already is not done again')
        return lines

    def about(self) -> dict[str, Any]:
        """What the page says beside the runs."""
        from medpeft_utils import backbones, data

        counts = self.data.counts().sum(axis=1)
        classes = ', '.join(f'{name} {count:,}' for name, count in counts.items())
        groups = len(set(self.data.groups))
        of = f' of {groups:,} groups' if groups < len(self.data) else ''
        splits = ', '.join(f'{len(self.data.rows(split)):,} {split}' for split in data.SPLITS)
        label, size = backbones.label_of(self.network.name), self.network.image_size
        size = size or backbones.image_size_of(self.network.name)
        words = ['medpeft', 'compare', *sys.argv[2:]] if sys.argv[1:2] == ['compare'] else ['medpeft', 'compare']
        return {
            'title': f'Which method for {self.data.label}?',
            'data': f'{self.dataset}: {len(self.data):,} images{of}; {classes}; {splits}.',
            'remarks': self.remarks,
            'network': f'Backbone: {label} ({self.network.name}), {size} px; {self.network.why}.',
            'command': shlex.join(words),
        }

    # ---- running

    def wanted(self, methods: Sequence[str] = (), shares: Sequence[float] = (1.0,)) -> list[Any]:
        """What the study is to hold: these methods, or all that were asked for."""
        from medpeft_utils.compare.study import Wanted

        given = {'dataset': self.dataset, 'backbone': self.network.name, 'save_adapter': True}
        given |= {'data_folder': self.data_folder} if self.data_folder else {}
        given |= {'image_size': self.network.image_size} if self.network.image_size else {}
        parameters = {**given, **self.plan.settings}
        return [Wanted(self.family, tuple(methods or self.methods), self.plan.seeds, parameters, tuple(shares))]

    def shares(self) -> list[Any]:
        """The learning curves: of the method chosen on validation, and of the cheapest alike or the next one."""
        from medpeft_utils.compare.evidence import gather
        from medpeft_utils.compare.study import add

        _, _, latest = add(self.folder, self.data.label, self.wanted())
        found = gather(latest, latest, self.folder)
        if found.answer is None:
            return []
        answer = found.answer
        second = answer.cheapest if answer.cheapest is not answer.chosen else None
        second = second or next((relation.other for relation in answer.relations), None)
        both = [one for one in (answer.chosen, second) if one]
        return self.wanted([found.records[one.label][0]['method']['key'] for one in both], SHARES)

    def run(self, wanted: list[Any]) -> int:
        """Do the runs; the exit status: 0, or that of runs that failed or of Ctrl-C."""
        from medpeft_utils.compare.study import add

        grid, _, latest = add(self.folder, self.data.label, wanted)
        write_json(self.folder.root / ABOUT, self.about())
        write_json(self.folder.root / PLANS, self.kept_plans)
        try:
            execute(grid, latest, self.folder, retry=True, earlier=self._expected(latest), **self.running)
        except SystemExit as ended:
            return int(ended.code or 0)
        finally:
            write_json(self.folder.root / LATEST, [run.key for run in latest])
        return 0

    def _expected(self, runs: list[Run]) -> Path:
        """A file that tells the runner how long each run takes, as the plan has it, before it has measured any."""
        known = [run for run in runs if run.parameters['method'] in self.each]
        lines = [
            {
                'experiment': run.experiment,
                'parameters': run.parameters,
                'time': {'total_seconds': self.each[run.parameters['method']]},
            }
            for run in known
        ]
        path = self.folder.root / EXPECTED
        write_bytes(path, ''.join(f'{json.dumps(line)}\n' for line in lines).encode())
        return path


def answered(folder: StudyFolder, with_older: bool = False) -> tuple[Evidence, Page]:
    """What the records of a comparison show, and its page as far as the answer goes."""
    from medpeft_utils.compare.evidence import gather
    from medpeft_utils.compare.sections import page_of
    from medpeft_utils.compare.study import GRID
    from medpeft_utils.study.grid import load_grid
    from medpeft_utils.study.splits import identified, known

    runs = identified(load_grid(folder.root / GRID).runs, known(folder))
    keys = set(read_json(folder.root / LATEST) or [])
    found = gather(runs, [run for run in runs if run.key in keys], folder, with_older)
    return found, page_of(found, read_json(folder.root / ABOUT))


def show(folder: StudyFolder, by: Sequence[str] = (), with_older: bool = False) -> str:
    """Write the page of a comparison from its records, as HTML and Markdown; what the terminal shows of it."""
    from medpeft_utils.compare.sections import further
    from medpeft_utils.compare.study import PAGE

    found, page = answered(folder, with_older)
    page.sections[-1:-1] = further(found, folder.root / 'tables', by)  # before what it does not say
    html, markdown = folder.root / f'{PAGE}.html', folder.root / f'{PAGE}.md'
    write_bytes(html, page.html().encode())
    write_bytes(markdown, page.markdown().encode())
    beside = f'{markdown.name}, tables/; notebooks and adapters: {folder.runs}'
    return f'\n{page.text()}\n\nThe page: {html} (beside it {beside})'


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
        commands.report.callback(profile, results, figures, by)
