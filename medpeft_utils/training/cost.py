"""What a run costs besides its time: floating-point operations, bytes, images a second."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medpeft_utils.training.precision import Precision, synchronise

COUNTED = 2  # images that operations are counted on
TIMED = {1: 8, 64: 2}  # batch -> repetitions


def flops(adapted, image_size: int, device: torch.device) -> dict[str, int]:
    """Floating-point operations of an image, two for a multiplication with addition.

    torch's counter takes matrix products, convolutions and attention, and nothing else; on a CPU it counts fused
    attention as nothing, which is therefore switched off for the count.

    Returns:
        `forward_flops`, in evaluation; `step_flops`, forward and backward as the method trains, the optimizer left out.
    """
    model, x = adapted.model, torch.zeros(COUNTED, 3, image_size, image_size, device=device)
    attention = [module for module in model.modules() if getattr(module, 'fused_attn', False)]
    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    try:
        for module in attention:
            module.fused_attn = False
        adapted.train(False)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            model(x)
        adapted.train(True)
        with FlopCounterMode(display=False) as step, torch.random.fork_rng(devices=[]):
            logits = model(x)
            logits.float().square().mean().backward()
    finally:
        model.zero_grad(set_to_none=True)
        for module in attention:
            module.fused_attn = True
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for name, tensor in model.named_buffers():  # BatchNorm's statistics
                tensor.copy_(buffers[name])
    counted = {'forward_flops': forward.get_total_flops(), 'step_flops': step.get_total_flops()}
    return {name: total // COUNTED for name, total in counted.items()}


@torch.no_grad()
def images_per_second(model: nn.Module, image_size: int, how: Precision, device: torch.device) -> dict[str, float]:
    """How many images a second the network takes in evaluation, by batch: the best of a few repetitions."""
    rates = {}
    model.eval()
    for batch, repetitions in TIMED.items():
        x = how.images(torch.zeros(batch, 3, image_size, image_size, device=device))
        taken = []
        for _ in range(repetitions + 1):  # the first one warms up
            synchronise(device)
            started = time.perf_counter()
            with how.autocast(device):
                model(x)
            synchronise(device)
            taken.append(time.perf_counter() - started)
        rates[str(batch)] = round(batch / min(taken[1:]), 2)
    return rates
