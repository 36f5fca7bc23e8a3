"""Where the parts of three networks are in a drawing: a ResNet bottleneck, a ViT block, a diffusion U-Net's blocks.

A part carries the name of its module in the real network (ResNet-50, ViT-Base, the U-Net of Stable Diffusion v1.5), so
that `diagram.py` can ask the network itself what a method trains there. Places are in units of a part's width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND_ROW, THIRD_ROW = -5.1, -8.9  # of the U-Net's drawing
SUM = 0.34  # width of the circle with a plus


@dataclass(frozen=True)
class Part:
    """A box (a layer with parameters) or a circle (an operation without).

    Args:
        name: of the module, or of a parameter such as 'pos_embed'; '' for an operation.
        label: in the drawing.
        x, y: centre.
        width: in units.
    """

    name: str
    label: str
    x: float
    y: float = 0.0
    width: float = 1.0

    @property
    def is_operation(self) -> bool:
        return not self.name


@dataclass(frozen=True)
class Layout:
    """A drawing of a part of a network.

    Args:
        title: what is drawn.
        parts: boxes and circles.
        arrows: pairs of indices into `parts`; None for the input or the output beside a part.
        skips: residual connections: (from, to, height) between the left of a part and the top of a '+'.
        blocks: names of the modules that are drawn whole.
        frames: (x0, x1, y0, y1, label) of the repeated blocks.
        spans: module that a method adds beside several parts -> (first of them, the '+' where it joins).
        after: module without a part of its own -> the part after which what is added to its output acts.
        stacked: parts with others close above, where what is added beside is drawn inside.
        bottom, top: of the drawing; it grows upwards where a method adds a path beside a part.
    """

    title: str
    parts: list[Part]
    arrows: list[tuple[int | None, int | None]]
    skips: list[tuple[int, int, float]]
    blocks: list[str]
    frames: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    stacked: frozenset[str] = frozenset()
    bottom: float = -1.1
    top: float = 1.2


def _row(items: list[tuple[str, str]], x: float, y: float) -> list[Part]:
    """Parts from left to right, with even gaps."""
    parts, right = [], x
    for name, label in items:
        width = (SUM if len(label) < 2 else 0.3 + 0.135 * len(label)) if not name else 1.0
        parts.append(Part(name, label, right + width / 2, y, width))
        right += width + 0.27
    return parts


def _chain(first: int, count: int) -> list[tuple[int | None, int | None]]:
    return [(None, first), *((i, i + 1) for i in range(first, first + count - 1)), (first + count - 1, None)]


def vit() -> Layout:
    """ViT-Base: patch and position embedding, one of twelve blocks, the last norm and the head."""
    items = [
        ('patch_embed.proj', 'patches'),
        ('pos_embed', 'position'),
        ('blocks.0.norm1', 'LN 1'),
        ('blocks.0.attn.qkv', 'qkv'),
        ('', 'attend'),
        ('blocks.0.attn.proj', 'proj'),
        ('', '+'),
        ('blocks.0.norm2', 'LN 2'),
        ('blocks.0.mlp.fc1', 'fc1'),
        ('', 'GELU'),
        ('blocks.0.mlp.fc2', 'fc2'),
        ('', '+'),
        ('norm', 'LN'),
        ('head', 'head'),
    ]
    parts = _row(items, 0.0, 0.0)
    frame = (parts[2].x - 0.7, parts[11].x + 0.31, -1.0, 1.1, 'block, × 12')
    skips = [(2, 6, -0.75), (7, 11, -0.75)]
    spans = {'blocks.0.mlp.adapter': (7, 11)}
    return Layout('ViT-Base', parts, _chain(0, len(parts)), skips, ['blocks.0'], [frame], spans)


def cnn() -> Layout:
    """ResNet-50: the stem, the first bottleneck of a stage (with its projection), and the head."""
    items = [
        ('conv1', 'conv 7×7'),
        ('bn1', 'BN'),
        ('', 'ReLU'),
        ('layer1.0.conv1', 'conv 1×1'),
        ('layer1.0.bn1', 'BN 1'),
        ('', 'ReLU'),
        ('layer1.0.conv2', 'conv 3×3'),
        ('layer1.0.bn2', 'BN 2'),
        ('', 'ReLU'),
        ('layer1.0.conv3', 'conv 1×1'),
        ('layer1.0.bn3', 'BN 3'),
        ('', '+'),
        ('', 'ReLU'),
        ('fc', 'head'),
    ]
    parts = _row(items, 0.0, 0.0)
    side = [
        Part('layer1.0.downsample.0', 'conv 1×1', parts[5].x, -1.35),
        Part('layer1.0.downsample.1', 'BN', parts[8].x, -1.35),
    ]
    frame = (parts[3].x - 0.7, parts[12].x + 0.6, -2.0, 1.1, 'bottleneck, × 16; the projection below in 4 of them')
    arrows = [*_chain(0, len(parts)), (14, 15)]
    return Layout('ResNet-50', parts + side, arrows, [(3, 11, -1.35)], ['layer1.0'], [frame], bottom=-2.2)


def _attention(prefix: str, x: float, y: float, context: str) -> list[Part]:
    """Norm, then q, k, v one above the other, attention, output and sum."""
    norm, number = prefix.rsplit('.', 1)[0] + '.norm' + prefix[-1], prefix[-1]
    parts = [Part(norm, f'LN {number}', x, y)]
    tall = {'to_q': 1.06, 'to_k': 0.0, 'to_v': -1.06}
    parts += [
        Part(f'{prefix}.{name}', name[-1] + context * (name != 'to_q'), x + 1.45, y + dy) for name, dy in tall.items()
    ]
    parts += [Part('', 'attend', x + 2.75, y, 1.1), Part(f'{prefix}.to_out.0', 'out', x + 4.05, y)]
    return [*parts, Part('', '+', x + 5.1, y, SUM)]


def unet() -> Layout:
    """A level of Stable Diffusion's U-Net: a residual block, then a transformer with self- and cross-attention."""
    residual, block = 'down_blocks.1.resnets.0', 'down_blocks.1.attentions.0'
    inner = f'{block}.transformer_blocks.0'
    first = _row(
        [
            (f'{residual}.norm1', 'GN 1'),
            ('', 'SiLU'),
            (f'{residual}.conv1', 'conv 3×3'),
            ('', '+'),
            (f'{residual}.norm2', 'GN 2'),
            ('', 'SiLU'),
            (f'{residual}.conv2', 'conv 3×3'),
            ('', '+'),
        ],
        0.0,
        0.0,
    )
    time = Part(f'{residual}.time_emb_proj', 'time', first[3].x, -1.25)
    shortcut = Part(f'{residual}.conv_shortcut', 'conv 1×1', first[5].x + 0.6, -2.15)
    entry = _row([(f'{block}.norm', 'GN'), (f'{block}.proj_in', 'in')], 0.0, SECOND_ROW)
    own = _attention(f'{inner}.attn1', 3.4, SECOND_ROW, '')
    cross = _attention(f'{inner}.attn2', 10.0, SECOND_ROW, ' (text)')
    forward = _row(
        [
            (f'{inner}.norm3', 'LN 3'),
            (f'{inner}.ff.net.0.proj', 'ff 1'),
            ('', 'GEGLU'),
            (f'{inner}.ff.net.2', 'ff 2'),
            ('', '+'),
            (f'{block}.proj_out', 'out'),
            ('', '+'),
        ],
        0.0,
        THIRD_ROW,
    )
    before = Part('', 'before GN', forward[5].x, THIRD_ROW - 0.9, 1.4)  # the transformer's own skip
    return _unet_layout([*first, time, shortcut], entry, own, cross, [*forward, before])


def _unet_layout(
    rows: list[Part], entry: list[Part], own: list[Part], cross: list[Part], forward: list[Part]
) -> Layout:
    parts = [*rows, *entry, *own, *cross, *forward]
    a, b, c, d = 10, 12, 19, 26  # where entry, self-attention, cross-attention and feed-forward begin
    arrows = [*_chain(0, 8), (8, 3), (None, a), (a, a + 1), (a + 1, b)]
    for k in (b, c):
        arrows += [(k, k + 1), (k, k + 2), (k, k + 3), (k + 1, k + 4), (k + 2, k + 4), (k + 3, k + 4)]
        arrows += [(k + 4, k + 5), (k + 5, k + 6)]
    arrows += [(b + 6, c), (c + 6, None), *_chain(d, 7), (d + 7, d + 6)]
    skips = [(0, 7, -2.15), (b, b + 6, -1.75), (c, c + 6, -1.75), (d, d + 4, -0.75)]
    right = cross[-1].x + 0.45
    frames = [
        (-0.45, rows[7].x + 0.45, -2.8, 1.1, 'residual block'),
        (
            -0.45,
            right,
            SECOND_ROW - 1.95,
            SECOND_ROW + 2.0,
            'transformer: self-attention, cross-attention to the text',
        ),
        (-0.45, forward[6].x + 0.45, THIRD_ROW - 1.25, THIRD_ROW + 1.45, 'transformer, continued: feed-forward'),
    ]
    inner = 'down_blocks.1.attentions.0.transformer_blocks.0'
    after = {f'{inner}.attn1': b + 5, f'{inner}.attn2': c + 5, f'{inner}.ff': d + 3}
    blocks = ['down_blocks.1.resnets.0', 'down_blocks.1.attentions.0']
    stacked = frozenset(part.name for part in parts if part.name)
    return Layout(
        "Stable Diffusion's U-Net", parts, arrows, skips, blocks, frames, {}, after, stacked, bottom=THIRD_ROW - 1.35
    )


LAYOUTS = {'vit': vit, 'cnn': cnn, 'unet': unet}
