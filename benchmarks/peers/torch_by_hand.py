"""torch.func, written out by hand: gradient descent by vmap of grad, tangent vectors by jvp over grad."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from iris_data import INPUTS, LABELS
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn.functional import cross_entropy

inputs, labels = torch.tensor(INPUTS), torch.tensor(LABELS)


def iris_loss(w: Tensor) -> Tensor:
    hidden = torch.sigmoid(inputs @ w[:40].view(10, 4).T + w[40:50])
    return cross_entropy(hidden @ w[50:80].view(3, 10).T + w[80:], labels)


gradient = vmap(grad(iris_loss))


@torch.no_grad()
def train(states: np.ndarray, eta: float, steps: int) -> np.ndarray:
    w = torch.tensor(states)
    for _ in range(steps):
        w = w - eta * gradient(w)
    return w.numpy()


@torch.no_grad()
def log_stretches(states: np.ndarray, frames: np.ndarray, eta: float, steps: int) -> np.ndarray:
    """(member, step, k): of frames (member, k, dim) carried along each orbit."""

    def one(w: Tensor, frame: Tensor) -> Tensor:
        return vmap(lambda v: v - eta * jvp(grad(iris_loss), (w,), (v,))[1])(frame)

    w, v, found = torch.tensor(states), torch.tensor(frames), []
    for _ in range(steps):
        q, r = torch.linalg.qr(vmap(one)(w, v).transpose(1, 2))
        w, v = w - eta * gradient(w), q.transpose(1, 2)
        found.append(torch.diagonal(r, dim1=1, dim2=2).abs().log().numpy())
    return np.stack(found, axis=1)


def gradients(sizes: tuple[int, ...], weights: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Four gradients of a tanh perceptron by autograd; returns the last, flat."""
    module = perceptron(sizes)
    nn.utils.vector_to_parameters(torch.tensor(weights), module.parameters())
    x, y = torch.tensor(inputs), torch.tensor(labels)
    for _ in range(4):
        found = torch.autograd.grad(cross_entropy(module(x), y), list(module.parameters()))
    return nn.utils.parameters_to_vector([part.detach() for part in found]).numpy()


def perceptron(sizes: tuple[int, ...]) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()
