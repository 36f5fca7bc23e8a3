"""The commands `medpeft adapter` and `medpeft predict`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from medpeft_utils.core.errors import BadInput, DoesNotFit

RESULTS = click.option(
    '--results', type=click.Path(path_type=Path), default='results', show_default=True, help='Where studies lie.'
)
WEIGHTS = click.option('--weights', default='', help="The backbone's weights file, if it is not where the record says.")
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
PUSHED = ['README.md', 'medpeft.json', 'adapter_config.json', '*.safetensors']


@click.group()
def adapter() -> None:
    """Exchange trained adapters with other tools."""


@adapter.command()
@click.argument('run')
@click.argument('folder', metavar='DIR', type=click.Path(path_type=Path))
@click.option('--to', 'layout', type=click.Choice(['peft', 'diffusers']), default='peft', show_default=True)
@WEIGHTS
@RESULTS
def export(run: str, folder: Path, layout: str, weights: str, results: Path) -> None:
    """Write the adapter of RUN (a hash, a folder or a file) into DIR, with a model card.

    PeftModel.from_pretrained and load_lora_weights of diffusers load it.
    """
    from medpeft_utils.adapters import store

    store.export(store.find(run, results), folder, layout, weights)
    click.echo(f'{folder}: {", ".join(sorted(path.name for path in folder.iterdir()))}')


@adapter.command()
@click.argument('folder', metavar='DIR', type=FOLDER)
@click.option('--backbone', default='', help='Name of the backbone, if DIR does not say it.')
@click.option('--save', type=click.Path(path_type=Path), help="Write it as this package's adapter.safetensors.")
@WEIGHTS
def load(folder: Path, backbone: str, save: Path | None, weights: str) -> None:
    """Read an adapter in the layout of peft or diffusers from DIR, put it over its backbone, and say what it is."""
    from medpeft_utils import backbones
    from medpeft_utils.adapters import store

    saved = store.find(folder)
    model, digest, loaded = store.network(saved, backbone, weights)
    family = 'unet' if saved.layout == 'diffusers' else backbones.family_of(loaded.name)
    adapted = store.load(saved, model, digest, family)
    head = adapted.count(head=True) - adapted.count()
    click.echo(
        f'{adapted.method.labels[family]} over {loaded.name} ({digest}): {adapted.count():,} parameters, {head:,} of'
    )
    click.echo(f'the head; {adapted.config}')
    if save:
        click.echo(f'written: {adapted.save(save, digest)}')


@adapter.command()
@click.argument('folder', metavar='DIR', type=FOLDER)
@click.argument('target', metavar='hf:OWNER/NAME')
@click.option('--public', is_flag=True, help='Make it public.')
@click.option('--allow-restricted', is_flag=True, help='Even if trained under a data-use agreement.')
def push(folder: Path, target: str, public: bool, allow_restricted: bool) -> None:
    """Upload an exported DIR to the Hugging Face Hub, private by default."""
    from medpeft_utils.adapters import store
    from medpeft_utils.adapters.card import data_card, is_restricted

    match = re.fullmatch(r'hf:([\w.-]+/[\w.-]+)', target)
    if not match:
        raise BadInput(f'{target!r} is no place on the Hub; give hf:owner/name')
    saved = store.find(folder)
    if saved.layout == 'medpeft':
        raise BadInput(f'{folder} is not exported; first `medpeft adapter export`')
    data = saved.known('data')
    card = data_card(data['name'])
    if is_restricted(card) and not allow_restricted:
        raise DoesNotFit(
            f'{folder} was trained on {data["label"]}, whose licence is: {card.licence}. Weights can give training '
            'images away; where your agreement allows it, say --allow-restricted'
        )
    click.echo(_upload(folder, match[1], private=not public))


def _upload(folder: Path, name: str, private: bool) -> str:
    """The address of the new or changed repository. Raises BadInput with the Hub's reason in a line."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        if private and not api.repo_info(name).private:
            raise BadInput(f'{name} is there already and public; give another name, or say --public')
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=PUSHED)
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f'{name} was not pushed: {reason}; `hf auth login` stores a token') from error
    return str(address)


@click.command()
@click.argument('saved', metavar='RUN|ADAPTER')
@click.argument('images', nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option('--csv', 'out', type=click.Path(path_type=Path), help='Write the table here, in full precision.')
@WEIGHTS
@RESULTS
def predict(saved: str, images: tuple[Path, ...], out: Path | None, weights: str, results: Path) -> None:
    """Print the probabilities of IMAGES. The adapter is that of a run, a file, or an exported folder.

    Not for clinical use.
    """
    from medpeft_utils.adapters import store
    from medpeft_utils.adapters.predict import predict as predicted
    from medpeft_utils.core.files import write_bytes

    table = predicted(store.find(saved, results), images, weights)
    if out:
        write_bytes(out, table.to_csv(index=False).encode())
    click.echo(table.to_string(index=False, float_format='{:.4f}'.format))
