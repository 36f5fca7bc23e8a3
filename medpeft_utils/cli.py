"""`medpeft`, the command line. Every command's body lies in its own module, imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

import medpeft_utils
from medpeft_utils.core.errors import BadInput, MedpeftError

# command: where it is, and what `medpeft --help` says of it
COMMANDS = {
    'run': ('medpeft_utils.study.commands:run', 'Execute the runs of a grid, except those that are done.'),
    'status': ('medpeft_utils.study.commands:status', 'Show where the runs of a grid stand.'),
    'retry': ('medpeft_utils.study.commands:retry', 'Execute again what failed or died.'),
    'stop': ('medpeft_utils.study.commands:stop', 'Cancel the SLURM jobs of a study.'),
    'show': ('medpeft_utils.study.commands:show', 'Show one run: parameters, metrics, curve, error.'),
    'events': ('medpeft_utils.study.commands:events', 'Follow a study: what happens, as JSON lines for other tools.'),
    'compare': ('medpeft_utils.compare.commands:compare', 'Compare methods on your own images.'),
    'predict': ('medpeft_utils.adapters.commands:predict', 'Classify new images with a saved adapter.'),
    'adapter': (
        'medpeft_utils.adapters.commands:adapter',
        'Exchange adapters with peft, diffusers and the Hub.',
    ),
    'report': ('medpeft_utils.compare.commands:report', 'Render the figures and tables of a study.'),
    'cost': ('medpeft_utils.report.cost:command', 'Show what each method of a study costs.'),
    'verify': ('medpeft_utils.study.verify:verify', 'Repeat some recorded runs and compare their numbers.'),
    'artefact': ('medpeft_utils.study.artefact:artefact', 'Pack a study into one archive, for a DOI.'),
    'params': ('medpeft_utils.cli:params', 'Count the trainable parameters of every method.'),
    'bench': ('benchmarks.commands:bench', 'Measure how fast this machine trains, starts and loads.'),
    'book': ('medpeft_utils.learn.commands:book', 'Run the learning notebooks and build their pages.'),
    'data': ('medpeft_utils.data.commands:data', 'List, prepare and check datasets.'),
    'generate': ('medpeft_utils.adapters.commands:generate', 'Draw images from prompts with a saved adapter.'),
    'backbones': ('medpeft_utils.backbones.commands:backbones', 'List backbones and fetch published weights.'),
    'pipelines': (
        'medpeft_utils.text_image.commands:pipelines',
        'List or fetch text-to-image pipelines; compute their memory.',
    ),
    'pretrain': ('recipes.backbones.commands:pretrain', 'Train a small chest-radiograph backbone.'),
}


class Commands(click.Group):
    """A group that imports a command when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(':')
        if not module.startswith('medpeft_utils.'):
            _beside_the_package(name)
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section('Commands'):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


def _beside_the_package(name: str) -> None:
    """Let benchmarks and recipes, which lie beside the package in a checkout, be imported."""
    checkout = Path(medpeft_utils.__file__).resolve().parents[1]
    if not (checkout / 'benchmarks').is_dir():
        raise BadInput(f'`medpeft {name}` needs a checkout of the project; an installed package does not contain it')
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))


@click.group(cls=Commands, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(medpeft_utils.__version__, prog_name='medpeft')
def medpeft() -> None:
    """Parameter-efficient fine-tuning of medical image models: run a study, see where it stands, render its figures."""


@click.command()
@click.option('--csv', 'as_csv', is_flag=True, help='family,backbone,method,trainable_parameters')
def params(as_csv: bool) -> None:
    """Count the trainable parameters of every method on the paper's backbones, without the head.

    Without --csv, each count is compared with the paper's.
    """
    from medpeft_utils.methods import counts

    (counts.params_csv if as_csv else counts.params_table)(sys.stdout)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error that is the user's to mend is one message and exit code 2."""
    try:
        code = medpeft.main(arguments, prog_name='medpeft', standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)  # click returns what a command gave to `ctx.exit`
    except MedpeftError as error:
        click.echo(f'error: {error}', err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except BrokenPipeError:  # `medpeft status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if 'MEDPEFT_TRACEBACK' in os.environ:
            raise
        place = f' {error.filename}' if error.filename else ''
        click.echo(f'error: cannot use{place}: {(error.strerror or str(error)).lower()}', err=True)
        sys.exit(2)


if __name__ == '__main__':
    main()
