"""The commands `medpeft adapter`, `medpeft predict` and `medpeft generate`."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import click

from medpeft_utils.core.errors import BadInput, DoesNotFit, short
from medpeft_utils.core.files import check_writable, write_bytes
from medpeft_utils.core.values import LARGEST_SEED

RESULTS = click.option(
    '--results', type=click.Path(path_type=Path), default='results', show_default=True, help='Folder of records.'
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
    click.echo(f'{click.format_filename(folder)}: {", ".join(sorted(path.name for path in folder.iterdir()))}')


@adapter.command()
@click.argument('folder', metavar='DIR', type=FOLDER)
@click.option('--backbone', default='', help='Name of the backbone, if DIR does not say it.')
@click.option('--save', type=click.Path(path_type=Path), help="Write it as this package's adapter.safetensors.")
@WEIGHTS
def load(folder: Path, backbone: str, save: Path | None, weights: str) -> None:
    """Read an adapter in the layout of peft or diffusers from DIR, apply it to its backbone, and describe it."""
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
        raise BadInput(f'{target!r} is not an address on the Hub; give hf:owner/name')
    saved = store.find(folder)
    if saved.layout == 'medpeft':
        raise BadInput(f'{folder} is not exported; first `medpeft adapter export`')
    data = saved.known('data')
    card = data_card(data['name'])
    if is_restricted(card) and not allow_restricted:
        raise DoesNotFit(
            f'{folder} was trained on {data["label"]}, whose licence is: {card.licence}. Weights can reveal training '
            'images; if your agreement allows it, give --allow-restricted'
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
            raise BadInput(f'{name} exists already and is public; give another name, or --public')
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

    table = predicted(store.find(saved, results), images, weights)
    if out:
        write_bytes(out, table.to_csv(index=False).encode())
    click.echo(table.to_string(index=False, float_format='{:.4f}'.format))


# option of `generate`: the least and the most that it may be
MOST_IMAGES, LARGER = 10_000, 8  # times the size that a pipeline was trained at: attention grows with its fourth power
RANGES = {
    'guidance': (0, 100),
    'steps': (1, 1000),
    'seed': (0, LARGEST_SEED),
    'count': (1, MOST_IMAGES),
    'image_size': (0, 4096),
}


@click.command()
@click.option('--adapter', required=True, metavar='RUN|ADAPTER', help='A run, a file that it saved, or a folder.')
@click.option('--prompt', 'prompts', required=True, multiple=True, help='What to draw; may be repeated.')
@click.option('--negative', default='', help='What the images should not show; nothing by default.')
@click.option('--backbone', default='', help="Pipeline of the adapter; by default the one that its run's record names.")
@click.option('--guidance', default=4.0, show_default=True, help='Weight of the prompt; 1 is no guidance.')
@click.option('--steps', default=75, show_default=True, help='Denoising steps.')
@click.option('--seed', default=0, show_default=True, help='Seed of the starting noise.')
@click.option('--count', default=1, show_default=True, help='Images of each prompt.')
@click.option('--image-size', default=0, help="Side in pixels; by default that of the run, or the pipeline's.")
@click.option(
    '--out', default='generated', show_default=True, type=click.Path(path_type=Path), help='Folder of the PNGs.'
)
@WEIGHTS
@RESULTS
def generate(
    adapter: str,
    prompts: tuple[str, ...],
    negative: str,
    backbone: str,
    out: Path,
    weights: str,
    results: Path,
    **numbers: float,
) -> None:
    """Draw images from prompts with a fine-tuned pipeline.

    A pipeline that was trained on patients' images may reproduce them: protect its images as you protect the data.
    """
    from medpeft_utils.adapters import store
    from medpeft_utils.adapters.predict import tuned_pipeline
    from medpeft_utils.text_image.sampling import sample

    check_values(prompts, negative, numbers)
    prompts = [prompt for prompt in prompts for _ in range(numbers['count'])]
    saved = store.find(adapter, results)
    try:
        check_writable(out)  # before anything is drawn
    except OSError as error:
        reason = error.strerror or getattr(error.__cause__, 'strerror', error)
        raise BadInput(f'--out {short(str(out))}: cannot be written ({reason})') from None
    pipe, unet = tuned_pipeline(saved, backbone, weights)
    logging.basicConfig(format='%(levelname)s: %(message)s')
    pipe.cut(list(dict.fromkeys([*prompts, negative])))  # warns where the tokenizer cuts a prompt
    size = numbers['image_size'] or saved.about.get('backbone', {}).get('image_size') or pipe.image_size
    if size > LARGER * pipe.image_size:
        raise BadInput(f'--image-size {size}: {pipe.label} draws {pipe.image_size} px; give up to {LARGER} times that')
    how = {'image_size': size, 'quiet': False, 'negative': negative}
    images = sample(pipe, unet, prompts, numbers['seed'], numbers['guidance'], numbers['steps'], **how)
    for path in write_images(images, prompts, out):
        click.echo(click.format_filename(path))
    if not saved.about.get('data', {'synthetic': True}).get('synthetic'):
        click.echo('trained on images of patients: protect these pictures as you protect that data', err=True)


def check_values(prompts: tuple[str, ...], negative: str, numbers: dict[str, float]) -> None:
    """Raise BadInput for the first value that cannot be used; nothing is loaded."""
    for text in (*prompts, negative):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInput(f'prompt {short(text)}: is not text in UTF-8') from None
    if any(not prompt.strip() for prompt in prompts):
        raise BadInput("an empty prompt; say what to draw, such as --prompt 'No acute cardiopulmonary process.'")
    for name, (least, most) in RANGES.items():
        most = most // len(prompts) if name == 'count' else most
        if not least <= numbers[name] <= most:  # NaN is in no range
            option = name.replace('_', '-')
            raise BadInput(f'--{option} {numbers[name]}: give a number from {least} to {most:,}')
    if negative and numbers['guidance'] == 1:
        raise BadInput(f'--negative {negative!r} does nothing with --guidance 1; raise the guidance, or leave it out')


def write_images(images, prompts: list[str], out: Path) -> list[Path]:
    """Write PNG files, named by number and prompt, each with its prompt inside."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    first, paths = len(list(out.glob('*.png'))), []
    for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        about, content = PngInfo(), io.BytesIO()
        about.add_itxt('prompt', prompt)
        Image.fromarray(image).save(content, format='PNG', pnginfo=about)
        name = re.sub(r'[^a-z0-9]+', '_', prompt.lower()).strip('_')[:40] or 'prompt'
        paths.append(out / f'{first + number:04d}_{name}.png')
        write_bytes(paths[-1], content.getvalue(), durable=False)
    return paths
