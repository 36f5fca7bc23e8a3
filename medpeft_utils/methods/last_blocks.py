"""Last blocks: the last k blocks of the network are trained, all before them stays frozen."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from medpeft_utils.methods.base import SelectiveMethod, head_names, option, register


@dataclass(frozen=True)
class LastBlocksConfig:
    """Hyper-parameters of training the last blocks."""

    blocks: int = option(
        1, 'k, how many', 'Yosinski et al. 2014 and Kornblith et al. 2019 vary it; one is the cheapest step', minimum=1
    )


@register
class LastBlocks(SelectiveMethod):
    """Train the last k transformer blocks, or residual blocks of a CNN, and the norm after them.

    The commonest practice where full fine-tuning costs too much, after Yosinski et al. 2014, arXiv:1411.1792: late
    layers are the more specific to their task. What a block is says timm's `group_matcher` of the network, by which it
    decays learning rates from layer to layer; parameters behind the last block, such as the final norm, belong to it.
    """

    key = 'last_blocks'
    labels = {'vit': 'Last Blocks', 'cnn': 'Last Blocks'}
    order = 310
    paper = 'Yosinski et al. 2014, How transferable are features in deep neural networks?, arXiv:1411.1792'
    summary = 'Fine-tuning the last blocks of the network, all before them frozen.'
    learning_rate = {'vit': 1e-4, 'cnn': 1e-4}
    learning_rate_source = 'that of full fine-tuning: whole matrices are trained'
    needs = "blocks that timm's group_matcher of the network names"
    Config = LastBlocksConfig

    def targets(self, model: nn.Module, family: str, config: LastBlocksConfig) -> list[str]:
        blocks = _blocks(model)
        return [name for block in blocks[-config.blocks :] for name in block] if len(blocks) > 1 else []


def _blocks(model: nn.Module) -> list[list[str]]:
    """The names of the parameters of each layer, first to last; what lies beside the head belongs to the last block."""
    from timm.models import group_parameters

    if not hasattr(model, 'group_matcher'):
        return []
    groups = group_parameters(model, model.group_matcher(coarse=False))
    head = set(head_names(model))
    blocks = []
    for layer in sorted(groups):
        names = [name for name in groups[layer] if name not in head]
        if len(names) == len(groups[layer]) or not blocks:
            blocks.append(names)
        else:
            blocks[-1] = blocks[-1] + names
    return blocks
