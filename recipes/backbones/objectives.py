"""What a backbone learns from: labels, masked patches, captions, or masked patches and masked reports.

Each objective is a module that holds the backbone and whatever it needs only while pre-training, gives a loss for a
batch, and scores held-out images. `encoder` is what is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from medpeft_utils.backbones.small import SMALL_BACKBONES


def _encoder(name: str) -> nn.Module:
    """A ViT as it is pre-trained: all tokens normalised after the blocks, also where fine-tuning averages them first.

    `backbones.load` then leaves this `norm` out; `publish.calibrated_norm` sets the `fc_norm` of such a network.
    """
    averages = SMALL_BACKBONES[name].architecture.get('global_pool') == 'avg'
    return SMALL_BACKBONES[name].build(num_classes=0, **({'global_pool': 'token'} if averages else {}))


class Supervised(nn.Module):
    """Cross-entropy over the classes, with label smoothing; held-out score: top-1 accuracy."""

    score_name = 'held-out top-1 accuracy'

    def __init__(self, name: str, captions: list[str], label_smoothing: float = 0.1):
        super().__init__()
        self.encoder = SMALL_BACKBONES[name].build(num_classes=len(captions))
        self.label_smoothing = label_smoothing

    def forward(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return F.cross_entropy(self.encoder(images).float(), labels, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (self.encoder(images).argmax(dim=1) == labels).float()


class MaskedAutoencoder(nn.Module):
    """Reconstruct the three quarters of the patches that the encoder does not see.

    He et al. 2022, arXiv:2111.06377: random masking of 75 %, mean squared error on masked patches, each normalised by
    its own mean and standard deviation. Differs: the decoder has 2 blocks of the encoder's width, not 8 of 512.
    Held-out score: the share of the masked patches' variance that is explained.
    """

    score_name = 'held-out explained variance of masked patches'

    def __init__(self, name: str, captions: list[str], mask_share: float = 0.75, decoder_depth: int = 2):
        super().__init__()
        from timm.models.vision_transformer import Block

        self.encoder = _encoder(name)
        width, heads = self.encoder.embed_dim, SMALL_BACKBONES[name].architecture['num_heads']
        self.patch, self.mask_share = SMALL_BACKBONES[name].architecture['patch_size'], mask_share
        tokens = self.encoder.patch_embed.num_patches
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.decoder = nn.Sequential(*[Block(width, heads, qkv_bias=True) for _ in range(decoder_depth)])
        self.predict = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * self.patch**2))

    def _patches(self, images: torch.Tensor) -> torch.Tensor:
        x = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)  # [B, N, 3 P P]
        return (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    def _encode_visible(self, images: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        vit = self.encoder
        x = vit.patch_embed(images)  # [B, N, D]
        cls, positions = vit.pos_embed[:, :1], vit.pos_embed[:, 1:]
        x = (x + positions).gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # [B, K, D]
        x = torch.cat([(vit.cls_token + cls).expand(len(x), -1, -1), x], dim=1)  # [B, 1 + K, D]
        return vit.blocks(vit.norm_pre(x))

    def _reconstruct(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss over masked patches; the encoder's tokens [B, 1 + K, D] of those that it saw, before its norm."""
        target = self._patches(images)
        n, tokens = target.shape[:2]
        order = torch.rand(n, tokens, generator=generator).to(images.device).argsort(dim=1)
        keep, masked = order.split([round(tokens * (1 - self.mask_share)), round(tokens * self.mask_share)], dim=1)
        tokens_seen = self._encode_visible(images, keep)  # [B, 1 + K, D]
        seen = self.encoder.norm(tokens_seen)
        full = self.mask_token.expand(n, tokens, -1).to(seen.dtype).clone()  # [B, N, D]
        index = keep.unsqueeze(-1).expand(-1, -1, full.shape[-1])
        full = full.scatter(1, index, seen[:, 1:]) + self.decoder_position + seen[:, :1]
        predicted = self.predict(self.decoder(full)).float()  # [B, N, 3 P P]
        error = (predicted - target).square().mean(dim=-1)  # [B, N]
        return error.gather(1, masked).mean(), tokens_seen

    def forward(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self._reconstruct(images, generator)[0]

    @torch.no_grad()
    def score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 1 - self(images, labels, torch.Generator().manual_seed(0)).expand(len(images))


class ImageText(nn.Module):
    """Bring an image and its caption together, others apart.

    Radford et al. 2021, arXiv:2103.00020, the symmetric contrastive loss. Differs: several images of a batch share a
    caption, so all of these count as matches (UniCL, Yang et al. 2022, arXiv:2204.03610, Eq. 3); the text encoder
    reads bytes and has 2 blocks. Held-out score: zero-shot top-1 accuracy over all captions.
    """

    score_name = 'held-out zero-shot top-1 accuracy'
    length = 48

    def __init__(self, name: str, captions: list[str], width: int = 96, depth: int = 2):
        super().__init__()
        from timm.models.vision_transformer import Block

        self.encoder = SMALL_BACKBONES[name].build(num_classes=0)
        texts = [f'a photo of {caption}'.encode()[: self.length].ljust(self.length, b'\0') for caption in captions]
        tokens = torch.tensor([list(text) for text in texts])  # [classes, length]
        self.register_buffer('captions', tokens, persistent=False)
        self.embed = nn.Embedding(256, width)
        self.position = nn.Parameter(torch.randn(1, self.length, width) * 0.02)
        self.text = nn.Sequential(*[Block(width, 2, qkv_bias=True) for _ in range(depth)])
        self.text_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128, bias=False))
        self.image_head = nn.Linear(self.encoder.embed_dim, 128, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def _texts(self, labels: torch.Tensor) -> torch.Tensor:
        tokens = self.captions[labels]  # [B, length]
        weight = (tokens != 0).float().unsqueeze(-1)
        x = self.text_head(self.text(self.embed(tokens) + self.position))  # [B, length, 128]
        return F.normalize(((x * weight).sum(dim=1) / weight.sum(dim=1)).float(), dim=-1)

    def _pictures(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.image_head(self.encoder(images)).float(), dim=-1)

    def forward(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        logits = self._pictures(images) @ self._texts(labels).T * self.log_scale.exp().clamp(max=100)  # [B, B]
        match = (labels.unsqueeze(0) == labels.unsqueeze(1)).float()
        match = match / match.sum(dim=1, keepdim=True)
        by_image = -(match * logits.log_softmax(dim=1)).sum(dim=1).mean()
        by_text = -(match * logits.log_softmax(dim=0)).sum(dim=0).mean()
        return (by_image + by_text) / 2

    @torch.no_grad()
    def score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        texts = self._texts(torch.arange(len(self.captions), device=images.device))
        return ((self._pictures(images) @ texts.T).argmax(dim=1) == labels).float()


PAD, MASKED = range(2)
WORDS_MASKED = 0.8  # share of a report's words


def words_of(reports: list[str]) -> tuple[torch.Tensor, list[str]]:
    """[R, T] numbers of the words of every report, padded with `PAD`, and the words; the first word is number 2."""
    words = sorted({word for report in reports for word in report.split()})
    number = {word: i for i, word in enumerate(words, start=MASKED + 1)}
    rows = [torch.tensor([number[word] for word in report.split()]) for report in reports]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD), words


class MaskedRecord(MaskedAutoencoder):
    """Reconstruct masked patches, and the masked words of the report from the image (masked record modelling, MRM).

    Zhou et al. 2023, arXiv:2301.13155: the mean of the visible patches' features, projected, is added to every word's
    embedding, and a small transformer predicts the masked words; both losses weigh the same. As in the authors' code,
    images are flipped though reports name sides. Differs: half of the patches and 80 % of the words are masked, there
    75 and 50 % (with 6 x 6 patches and reports of set phrases, those leave a report little to learn from its image:
    features were no better than random ones for a linear classifier); the mean is taken before the norm, as fine-tuning
    does, and standardised over the batch (a masked autoencoder's tokens have a large part that is the same in every
    image, beside which a report would reach the encoder by a whisper); patches are reconstructed at the resolution of
    the input, there at twice that; words are whole, there word pieces; the report decoder has 2 blocks of the encoder's
    width, there 6 of 384; the loss is over masked words, there over all. Held-out score: the share of the masked words
    that is predicted.
    """

    score_name = 'held-out accuracy of masked report words'

    def __init__(self, name: str, captions: list[str], mask_share: float = 0.5, report_depth: int = 2):
        super().__init__(name, captions, mask_share)
        from timm.models.vision_transformer import Block

        width, heads = self.encoder.embed_dim, SMALL_BACKBONES[name].architecture['num_heads']
        reports, words = words_of(captions)
        self.register_buffer('reports', reports, persistent=False)
        self.embed = nn.Embedding(MASKED + 1 + len(words), width)
        self.word_position = nn.Parameter(torch.randn(1, reports.shape[1], width) * 0.02)
        self.standardise = nn.Sequential(
            nn.LayerNorm(width, elementwise_affine=False), nn.BatchNorm1d(width, affine=False)
        )
        self.project = nn.Linear(width, width)
        self.report = nn.Sequential(*[Block(width, heads, qkv_bias=True) for _ in range(report_depth)])
        self.predict_words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, MASKED + 1 + len(words)))

    def _read(self, seen: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> tuple:
        """Logits [M, V] of the masked words of the batch, and the words [M]."""
        words = self.reports[labels]  # [B, T]
        hidden = (torch.rand(words.shape, generator=generator).to(words.device) < WORDS_MASKED) & (words != PAD)
        image = self.project(self.standardise(seen[:, 1:].mean(dim=1).float())).unsqueeze(1)  # [B, 1, D]
        x = self.embed(words.masked_fill(hidden, MASKED)) + self.word_position + image  # [B, T, D]
        return self.predict_words(self.report(x)[hidden]).float(), words[hidden]

    def forward(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        of_image, seen = self._reconstruct(images, generator)
        return of_image + F.cross_entropy(*self._read(seen, labels, generator))

    @torch.no_grad()
    def score(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        logits, words = self._read(self._reconstruct(images, generator)[1], labels, generator)
        return (logits.argmax(dim=1) == words).float().mean().expand(len(images))


OBJECTIVES = {
    'supervised': Supervised,
    'masked': MaskedAutoencoder,
    'image_text': ImageText,
    'masked_record': MaskedRecord,
}
