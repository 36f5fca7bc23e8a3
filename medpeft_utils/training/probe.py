"""Linear probing to convergence: features of a frozen backbone, computed once for a dataset, and L-BFGS on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medpeft_utils.core.errors import DoesNotFit
from medpeft_utils.methods.adapted import name_of
from medpeft_utils.training.augment import augment, normalise, resize
from medpeft_utils.training.batches import View
from medpeft_utils.training.objective import Objective

STRENGTHS = tuple(float(10**power) for power in np.arange(-4, 2.5, 0.5))  # C, as in scikit-learn: larger is freer
CONVERGED = {'maxiter': 2000, 'maxfun': 4000, 'gtol': 1e-6, 'ftol': 1e-13}
PATIENCE = 4  # values of C without a better score that end the search


@torch.no_grad()
def extract(model: nn.Module, images: np.ndarray, view: View, copies: int = 0, batch_size: int = 128) -> np.ndarray:
    """Pooled features [N, D] float32 of `images` [N, S, S, 3] uint8: what the head of a timm network is given.

    A distilled network has two heads, and two features; their mean is given, since its logits are the heads' mean.

    Args:
        copies: 0 for the images as they are; else the mean over so many augmented copies of each.
    """
    model.eval()
    mean, std = torch.tensor(view.mean, device=view.device), torch.tensor(view.std, device=view.device)
    generator, parts = torch.Generator().manual_seed(0), []
    for start in range(0, len(images), batch_size):
        pixels, total = torch.from_numpy(np.array(images[start : start + batch_size])).to(view.device), 0.0
        for _ in range(max(1, copies)):
            if copies:
                x = augment(pixels, view.image_size, mean, std, view.augmentation, generator)
            else:
                x = resize(normalise(pixels, mean, std), view.image_size)
            with view.precision.autocast(view.device):
                features = model.forward_head(model.forward_features(view.precision.images(x)), pre_logits=True)
            total = total + features.float()
        parts.append((total / max(1, copies)).cpu())
    return torch.cat(parts).numpy()


def shared(
    model: Callable[[], nn.Module], images: np.ndarray, view: View, key: str, folder: Path, copies: int = 0
) -> np.ndarray:
    """`extract`, computed once for `key` (backbone, data and precision) by whichever process comes first."""
    from medpeft_utils.core.shared import once

    folder = Path(folder)
    path = folder / f'{key}.npy'

    def compute() -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        features = extract(model(), images, view, copies)
        with path.open('wb') as file:  # the marker that `once` writes afterwards is what makes it count
            np.save(file, features)
        return {'file': path.name, 'shape': list(features.shape)}

    once(folder / f'{key}.json', compute)
    return np.load(path, mmap_mode='r')


def converge(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    objective: Objective,
    weighted: bool = False,
    device: torch.device | str = 'cpu',
    strengths: tuple[float, ...] = STRENGTHS,
) -> dict[str, Any]:
    """A linear classifier at its optimum, the strength of its L2 penalty chosen on validation.

    It minimises the task's own loss (softmax, or a logistic loss a finding) plus |w|^2 / (2 C N) over standardised
    features, by L-BFGS from the optimum of the penalty before; the minimum is that of scikit-learn.

    Args:
        train, validation: features [N, D] and labels [N], or [N, K] of 0 and 1.
        classes: K.
        objective: loss, and the score that chooses C (the lower loss decides between equal ones).
        weighted: weigh the loss by inverse class frequency.
        device: where it is computed, in float64.
        strengths: the values of C, rising.
    Returns:
        `weight` [K, D] and `bias` [K] for features as they are; `C`; `edge`, 'low' or 'high' where C is the first or
        the last; `iterations` at C and `seconds` of all; `curve`, a row a C, and `best`, which of them.
    """
    from scipy.optimize import minimize

    started = time.perf_counter()
    x, labels = torch.tensor(np.asarray(train[0]), dtype=torch.float64, device=device), np.asarray(train[1])
    truth, criterion = torch.tensor(labels, device=device), objective.criterion(labels, classes, weighted, device)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, torch.inf)  # a feature that is constant says nothing
    x = (x - mean) / std
    held_out = (torch.tensor(np.asarray(validation[0]), dtype=torch.float64, device=device) - mean) / std
    averaged = classes if labels.ndim > 1 else 1  # the loss of findings is a mean over them too

    def value(flat: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).to(device).view(classes, -1).requires_grad_()  # [K, D + 1]
        loss = criterion(x @ w[:, :-1].T + w[:, -1], truth) + penalty * w[:, :-1].square().sum()
        loss.backward()
        return loss.item(), w.grad.cpu().numpy().ravel()

    flat, curve, best, score = np.zeros(classes * (x.shape[1] + 1)), [], {}, None
    for number, strength in enumerate(strengths):
        penalty = 1 / (2 * strength * len(x) * averaged)
        found = minimize(value, flat, (penalty,), jac=True, method='L-BFGS-B', options=CONVERGED)
        flat, w = found.x, torch.from_numpy(found.x).to(device).view(classes, -1)
        probabilities = objective.probabilities(held_out @ w[:, :-1].T + w[:, -1]).float().cpu().numpy()
        scores = objective.evaluate(np.asarray(validation[1]), probabilities)
        curve.append({'step': number + 1, 'epoch': int(found.nit), 'C': strength, 'train_loss': float(found.fun)})
        curve[-1] |= {f'validation_{name}': scores[name] for name in objective.shown}
        now = (np.nan_to_num(scores[objective.selection], nan=-1.0), -scores['loss'])
        if score is None or now > score:
            score, weight = now, w[:, :-1] / std
            best = {'weight': weight.cpu().numpy(), 'bias': (w[:, -1] - weight @ mean).cpu().numpy()}
            best |= {'C': strength, 'best': number, 'iterations': int(found.nit)}
        elif number - best['best'] >= PATIENCE:
            break
    edge = {0: 'low', len(strengths) - 1: 'high'}.get(best['best'])
    return best | {'edge': edge, 'curve': curve, 'seconds': time.perf_counter() - started}


@torch.no_grad()
def place(model: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    """Put a linear classifier over `extract`'s features into a network's head, or in both of a distilled one.

    Raises DoesNotFit where the head is no linear layer of that size.
    """
    heads = model.get_classifier()
    for head in heads if isinstance(heads, tuple | list) else (heads,):
        if not isinstance(head, nn.Linear) or tuple(head.weight.shape) != weight.shape:
            raise DoesNotFit(f'the head of {name_of(model)} is {head}, not linear from {weight.shape[1]} features')
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
