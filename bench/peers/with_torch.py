"""The rows in PyTorch: eager with fused optimizers, or the whole step under ``torch.compile``.

Threads come from the environment that the worker was started with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.peers.rows import Activation, Dense, Dropout, Row, UnsupportedError, batches

VERSION = torch.__version__
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def network(row: Row, weights: list[np.ndarray], inplace: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    arrays = iter(weights)
    for layer in row.layers:
        match layer:
            case Dense():
                w, b = next(arrays), next(arrays)
                linear = nn.Linear(*w.shape)
                linear.load_state_dict({"weight": torch.tensor(w.T), "bias": torch.tensor(b)})
                modules.append(linear)
            case Activation("relu"):
                modules.append(nn.ReLU(inplace=inplace))
            case Activation("sigmoid"):
                modules.append(nn.Sigmoid())
            case Activation("gelu"):
                modules.append(nn.GELU())
            case Dropout(rate):
                modules.append(nn.Dropout(rate))
            case _:
                raise UnsupportedError(f"torch: {layer}")
    return nn.Sequential(*modules)


def eager_step(row: Row, model: nn.Module) -> Step:
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[str(row.optimizer)]
    optimizer = kind(model.parameters(), lr=row.lr, fused=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def compiled_step(row: Row, model: nn.Module) -> Step:
    """Forward, gradient and update as one graph: faster here than compiling the model alone."""
    names = [name for name, _ in model.named_parameters()]
    parameters = [p.detach().clone() for p in model.parameters()]
    state = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    torch.compiler.reset()  # else the limit on recompilations counts all rows together
    powers = torch.ones(2)  # of beta1 and beta2; numbers would be compiled in, anew each step
    betas = torch.tensor([0.9, 0.999])

    def loss_of(values: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return functional.cross_entropy(out, y)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor
        gradients, loss = torch.func.grad_and_value(loss_of)(parameters, x, y)
        if row.optimizer == "adam":
            powers.mul_(betas)
            scale1, scale2 = 1 / (1 - powers)
            for p, g, (m, v) in zip(parameters, gradients, state, strict=True):
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.001)
                p.sub_(row.lr * scale1 * m / ((scale2 * v).sqrt() + 1e-8))
        else:
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(row.lr * g)
        return loss

    compiled: Step = torch.no_grad()(torch.compile(step, dynamic=False))
    return compiled


def trainer(
    row: Row, weights: list[np.ndarray], pixels: np.ndarray, labels: np.ndarray, compiled: bool
) -> Callable[[int], float]:
    x, y = batches(pixels, labels, row.batch)
    xs, ys = list(torch.tensor(x)), list(torch.tensor(y, dtype=torch.int64))
    model = network(row, weights, inplace=not compiled)
    step = compiled_step(row, model) if compiled else eager_step(row, model)
    done = 0

    def run(steps: int) -> float:
        nonlocal done
        for _ in range(steps):
            loss = step(xs[done % len(xs)], ys[done % len(ys)])
            done += 1
        return float(loss)

    return run


def predictor(
    row: Row, weights: list[np.ndarray], x: np.ndarray, compiled: bool
) -> Callable[[int], np.ndarray]:
    model: Callable[[torch.Tensor], torch.Tensor] = network(row, weights, inplace=True).eval()
    if compiled:
        torch.compiler.reset()
        model = torch.compile(model, dynamic=False)
    sample = torch.tensor(x)

    def run(calls: int) -> np.ndarray:
        with torch.inference_mode():
            for _ in range(calls):
                out = model(sample)
        return np.asarray(out)

    return run
