"""The rows in PyTorch: eager with fused optimizers, or the whole step under ``torch.compile``.

Threads come from the environment that the worker was started with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.peers.rows import (
    Activation,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    Recurrent,
    Row,
    UnsupportedError,
    batches,
)

VERSION = torch.__version__
LAYOUT = torch.channels_last if os.environ.get("BENCH_CHANNELS_LAST") else torch.contiguous_format
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class LastState(nn.Module):  # type: ignore[misc, unused-ignore]
    """A recurrent layer that gives its last state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)[0][:, -1]
        return out


def recurrent(cell: str, arrays: Iterator[np.ndarray]) -> nn.Module:
    """PyTorch's layer with these weights; its second bias, which the others lack, stays zero."""
    wx, wh = next(arrays), next(arrays)
    kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    layer = kind(len(wx), len(wh), batch_first=True, bias=cell != "gru")
    state = {"weight_ih_l0": torch.tensor(wx.T), "weight_hh_l0": torch.tensor(wh.T)}
    if cell != "gru":
        b = torch.tensor(next(arrays))
        state |= {"bias_ih_l0": b, "bias_hh_l0": torch.zeros_like(b)}
        layer.bias_hh_l0.requires_grad_(False)
    layer.load_state_dict(state)
    return LastState(layer)


def filters_and_bias(arrays: Iterator[np.ndarray]) -> dict[str, torch.Tensor]:
    """A convolution's next two weights in PyTorch's layout."""
    w, b = torch.tensor(next(arrays)), torch.tensor(next(arrays))
    return {"weight": w.permute(3, 2, 0, 1), "bias": b}


def network(row: Row, weights: list[np.ndarray], inplace: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    arrays: Iterator[np.ndarray] = iter(weights)
    flattened: tuple[int, ...] | None = None
    for layer, shape in row.walk():
        match layer:
            case Conv(filters, kernel, stride, padding):
                conv = nn.Conv2d(shape[2], filters, kernel, stride, padding)
                conv.load_state_dict(filters_and_bias(arrays))
                modules.append(conv)
            case ConvTranspose(filters, kernel, stride, padding, more):
                deconv = nn.ConvTranspose2d(shape[2], filters, kernel, stride, padding, more)
                deconv.load_state_dict(filters_and_bias(arrays))
                modules.append(deconv)
            case MaxPool(size):
                modules.append(nn.MaxPool2d(size))
            case Flatten():
                modules.append(nn.Flatten())
                flattened = shape
            case Recurrent(cell, _):
                modules.append(recurrent(cell, arrays))
            case Dense():
                w, b = next(arrays), next(arrays)
                if flattened:  # its inputs in PyTorch's order: channels first
                    w = w.reshape(*flattened, -1).transpose(2, 0, 1, 3).reshape(w.shape)
                    flattened = None
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
    model = nn.Sequential(*modules)
    return model.to(memory_format=LAYOUT)  # type: ignore[call-overload, no-any-return]


def as_input(row: Row, x: torch.Tensor) -> torch.Tensor:
    """Rows of pixels as the network takes them."""
    x = x.reshape(len(x), *row.shape)
    if len(row.shape) == 3:
        return x.permute(0, 3, 1, 2).contiguous(memory_format=LAYOUT)
    if LAYOUT is torch.channels_last:
        raise UnsupportedError("torch: the order of channels is of images only")
    return x


def loss_function(row: Row) -> Step:
    chosen: Step = functional.mse_loss if row.loss == "mse" else functional.cross_entropy
    return chosen


def eager_step(row: Row, model: nn.Module) -> Step:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if row.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(trained, row.lr, alpha=0.9, eps=1e-7, foreach=True)
    else:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[str(row.optimizer)]
        optimizer = kind(trained, lr=row.lr, fused=True)
    loss_of = loss_function(row)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = loss_of(model(x), y)
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
        return loss_function(row)(out, y)

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
    xs = [as_input(row, batch) for batch in torch.tensor(x)]
    ys = xs if row.loss == "mse" else list(torch.tensor(y, dtype=torch.int64))
    model = network(row, weights, inplace=not compiled)
    if not compiled:
        step = eager_step(row, model)
    elif any(isinstance(layer, Recurrent) for layer in row.layers):
        torch.compiler.reset()  # torch.func cannot differentiate its recurrent layers
        model.compile(dynamic=False)
        step = eager_step(row, model)
    else:
        step = compiled_step(row, model)
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
    sample = as_input(row, torch.tensor(x))

    def run(calls: int) -> np.ndarray:
        with torch.inference_mode():
            for _ in range(calls):
                out = model(sample)
        return np.asarray(out)

    return run
