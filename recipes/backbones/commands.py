"""`medpeft pretrain`: train a small chest-radiograph backbone by its recipe."""

from __future__ import annotations

from pathlib import Path

import click

# Both begin where a masked autoencoder ended, as Zhou et al. 2023 do: of natural images, then of radiographs. A crop
# that loses a third of the chest loses what the report says, so crops for reports are larger. Rates were not searched.
RECIPES = {
    'vit_base_mini_cxr_mae': {'objective': 'masked', 'begin': 'vit_base_mini_mae', 'smallest_crop': 0.5},
    'vit_base_mini_mrm': {'objective': 'masked_record', 'begin': 'vit_base_mini_cxr_mae', 'smallest_crop': 0.75},
}
SHARED = {'batch': 64, 'learning_rate': 1e-3, 'warmup_share': 0.08, 'seed': 0, 'bf16': False}


def recipe_of(name: str, passes: float, real: bool = False):
    """The `Recipe` of a radiograph backbone; on real radiographs, which are few, it begins from the shipped weights."""
    from medpeft_utils.backbones.small import SMALL_BACKBONES
    from recipes.backbones.run import Recipe

    own = dict(RECIPES[name])
    begin = own.pop('begin')
    start = SMALL_BACKBONES[name if real else begin].weights
    return Recipe(name, passes=passes, grown_from=str(start), **own, **SHARED)


@click.command()
@click.argument('name', type=click.Choice(list(RECIPES)))
@click.option(
    '--images', default='', help="Folder of NIH radiographs with the authors' lists; by default images are synthetic."
)
@click.option('--count', default=12_000, show_default=True, help='Number of synthetic radiographs.')
@click.option('--passes', default=6.0, show_default=True, help='Passes over the training images.')
@click.option('--folder', default='', help='Folder of checkpoints and curve; by default results/pretraining/NAME.')
@click.option('--threads', default=0, help='CPU threads  [default: OMP_NUM_THREADS, else 1].')
@click.option('--publish', is_flag=True, help='Replace the shipped weights and their card (synthetic images only).')
def pretrain(name: str, images: str, count: int, passes: float, folder: str, threads: int, publish: bool) -> None:
    """Train NAME, a small chest-radiograph backbone. You may kill it at any time: the same command resumes it.

    Weights trained on real radiographs (--images) stay in the folder, as NAME.safetensors for `weights=FILE`.
    """
    import torch

    from medpeft_utils.core.errors import BadInput
    from medpeft_utils.study.machine import cores, threads_for
    from recipes.backbones import radiographs
    from recipes.backbones.publish import publish as publish_weights
    from recipes.backbones.run import Pretraining

    if images and publish:
        raise BadInput('--publish with --images: weights trained on patients are not shipped; leave one of them out')
    if images and RECIPES[name]['objective'] == 'masked_record':
        raise BadInput(f'{name!r} learns from reports, which NIH ChestX-ray14 has not; leave --images out')
    torch.set_num_threads(threads or threads_for(cores()))
    source = radiographs.real(Path(images)) if images else radiographs.synthetic(count)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    where = Path(folder or f'results/pretraining/{name}')
    recipe = recipe_of(name, passes, real=bool(images))
    training = Pretraining(recipe, source, where, device)
    click.echo(f'{source.data}; step {training.step:,} of {training.steps:,}')
    click.echo(f'{training.objective.score_name}: {training.train():.3f}')
    target = {'images': source.images[training.train_rows]} | ({} if publish else {'weights_folder': where})
    source_words = '--images FOLDER' if images else f'--count {count} --publish'
    command = f'medpeft pretrain {name} --passes {passes:g} {source_words}'
    on = f'{torch.get_num_threads()} CPU thread(s)' if device == 'cpu' else torch.cuda.get_device_name()
    click.echo(publish_weights(where, source.data, source.licence, command, on, **target))
