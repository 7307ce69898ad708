"""Owns the model: layers in a row, their weights in one vector, and the public verbs.

Leaves samples and targets to ``samples``, the training step to ``trainer``, the forward pass alone
to ``inference``, and what a layer computes to ``layers``.
"""

import copy
import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastnn.callbacks import Callback, to_callbacks
from fastnn.checkpoint import Checkpoint
from fastnn.checks import (
    Array,
    assign,
    check_flag,
    check_integer,
    check_shape,
    to_array,
)
from fastnn.component import choose
from fastnn.formats import check_format, inside, outside
from fastnn.history import History
from fastnn.inference import Predictor
from fastnn.layers.activations import Sigmoid
from fastnn.layers.base import Layer
from fastnn.layers.recurrent import Recurrent
from fastnn.losses import LOSSES, CrossEntropy, Loss, last_computing
from fastnn.memory import aligned_zeros
from fastnn.optimizers import OPTIMIZERS, SGD, Optimizer
from fastnn.progress import Progress
from fastnn.run import Run
from fastnn.samples import (
    first_stateful,
    rows_at_once,
    sequence_lengths,
    to_data,
    to_samples,
    to_validation,
)
from fastnn.trainer import Trainer, generator

__all__ = ["Sequential"]

_WEIGHT_ALIGNMENT = 16

_INITIAL_EPOCH = 2**64 - 1


class Sequential:
    """A neural network: layers, each of which takes the output of the one before.

    Parameters
    ----------
    layers : sequence of Layer
        An activation given to a layer becomes a layer of its own, after it.
    input_shape : int or tuple of int, optional
        Of one sample. Without it the model is built at the first data that it sees.
    seed : int, optional
        Of the first weights, the order of the samples and dropout; in [0, 2**64). Without it
        each model has another one.
    dtype : {"float32", "float64"}
        float64 runs on the reference backend only, to check gradients.
    data_format : {"channels_last", "channels_first"}
        How images lie in ``input_shape``, samples, image-shaped targets and all that is returned:
        (height, width, channels) or, as in PyTorch, (channels, height, width). Every shape with
        three axes is an image. Options of layers, and what ``Flatten`` and ``Reshape`` see, are
        channels-last in any case.

    Attributes
    ----------
    layers : tuple of Layer
    theta, grad : (n,) float
        All weights, and their gradients after a step (but see ``fit``'s ``fuse``); the layers' are
        views of them. Each weight starts at a multiple of 16 elements, the gaps are 0. To assign to
        these, or to a layer's weights and buffers, copies the values.
    history : History or None
        Of the last ``fit``, also of one that was interrupted.
    optimizer : Optimizer or None
        Of the last ``fit``.
    plan : fastnn.kernels.Plan or None
        The recorded step of the last ``fit``; ``print(model.plan)`` lists its operations. It
        keeps that run's data alive; set it to None to let go.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or a layer cannot take the output of the one before.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Dense(8, activation="relu"), fnn.Dense(2)], seed=0)
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = (x[:, 0] > x[:, 1]).astype(int)
    >>> history = model.fit(x, y, optimizer=fnn.SGD(0.1), epochs=30, batch_size=10, verbose=0)
    >>> history["accuracy"][-1] > 0.95
    True
    >>> model.predict(x[:1]).shape
    (1, 2)
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: int | Sequence[int] | None = None,
        seed: int | None = None,
        dtype: DTypeLike = np.float32,
        data_format: str = "channels_last",
    ) -> None:
        self.dtype = _float_dtype(dtype)
        self.data_format = check_format("data_format", data_format)
        self.seed = _seed(seed)
        self._drawn = seed is None
        self.layers = _expand(layers)
        self.input_shape: tuple[int, ...] | None = None
        self.output_shape: tuple[int, ...] | None = None
        self.history: History | None = None
        self.optimizer: Optimizer | None = None
        self.plan: Any = None
        self._loss: Loss = CrossEntropy()
        self._streams = 0  # how many optimizers' states have trained it
        self._reset()
        if input_shape is not None:
            try:
                with self._refusing():
                    self.build(input_shape)
            except BaseException:
                for layer in self.layers:
                    layer._unbind()
                    del layer.index
                raise

    def _reset(self) -> None:
        """Make what neither a copy nor a file of the model takes over."""
        self._forget_plans()
        self._warned = False
        self._pixels: bool | None = None  # whether the last fit's targets were
        self._building = threading.Lock()
        self._entered = 0  # calls that check their data now
        self._accepted = False  # whether any data were right

    def _forget_plans(self) -> None:
        """Let the next predictions be computed anew, as after a change of a layer's options."""
        # by the number of layers, and whether there are lengths
        self._predictors: defaultdict[tuple[int, bool], list[Predictor]] = defaultdict(list)
        self._whole: list[Predictor] = self._predictors[len(self.layers), False]

    # ---- shapes and weights ------------------------------------------------------------------

    def build(self, input_shape: int | Sequence[int]) -> None:
        """Infer all shapes and make the first weights.

        Parameters
        ----------
        input_shape : int or tuple of int
            Of one sample.

        Raises
        ------
        TypeError, ValueError
            If it is no shape, or a layer cannot take its input.
        """
        shape = check_shape("input_shape", input_shape)
        with self._building:
            if self.input_shape is None:
                self._build(shape)
        if shape != self.input_shape:
            raise ValueError(f"input_shape: got {shape}, the model is built for {self.input_shape}")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Let a model that is first built inside be unbuilt again if what is inside fails.

        Unless others have come meanwhile. Nothing is locked while a user's data are checked.
        """
        with self._building:
            self._entered += 1
            fresh = self.input_shape is None
        try:
            yield
            self._accepted = True
            for layer in self.layers:
                layer.__dict__.pop("_copies", None)
        except BaseException:
            with self._building:
                if fresh and not self._accepted and self._entered == 1:
                    self.input_shape = self.output_shape = None
                    for layer in self.layers:
                        layer._unbind()
                    self._forget_plans()
            raise
        finally:
            with self._building:
                self._entered -= 1

    def _build(self, shape: tuple[int, ...]) -> None:
        output = self._infer(shape)
        self._allocate()
        rng = generator(self.seed, _INITIAL_EPOCH)
        for key, weight, initializer in self._weights():
            values = to_array(f"weight {key}", initializer(weight.shape, rng))
            with np.errstate(over="ignore"):
                values = values.astype(self.dtype)
            if values.shape != weight.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"weight {key}: {initializer} gave shape {values.shape}, expected finite "
                    f"{self.dtype} of shape {weight.shape}"
                )
            weight[...] = values
        for layer in self.layers:
            layer._take_copies()
        # Last, because it says to other threads that all is there.
        self.output_shape, self.input_shape = output, shape

    def _infer(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Let the layers declare their weights and buffers, and return the output's shape."""
        output = inside(shape, self.data_format)
        for layer in self.layers:
            layer.weights.clear()
            layer.buffers.clear()
            layer._unbind()
            layer.input_shape = output
            with layer.named():
                output = check_shape("output shape", layer.build(output))
            layer.output_shape = output
        return outside(output, self.data_format)

    def _allocate(self) -> None:
        """Lay all weights out in two vectors and give the layers their views, and buffers."""
        spans, size = [], 0
        self._gaps = []
        self._parts = []  # of the vectors, each layer's
        for layer in self.layers:
            begin = size
            for name, (shape, _) in layer.weights.items():
                spans.append((layer, name, shape, size))
                stop = size + math.prod(shape)
                size = -(-stop // _WEIGHT_ALIGNMENT) * _WEIGHT_ALIGNMENT
                self._gaps.append(slice(stop, size))
            self._parts.append(slice(begin, size))
        self._theta = aligned_zeros(size, self.dtype)
        self._grad = aligned_zeros(size, self.dtype)
        arrays: list[dict[str, Array]] = [{} for _ in self.layers]
        for layer, name, shape, start in spans:
            stop = start + math.prod(shape)
            arrays[layer.index][name] = self._theta[start:stop].reshape(shape)
            arrays[layer.index][f"d{name}"] = self._grad[start:stop].reshape(shape)
        for layer, bound in zip(self.layers, arrays, strict=True):
            for name, (shape, value) in layer.buffers.items():
                bound[name] = aligned_zeros(math.prod(shape), self.dtype).reshape(shape)
                bound[name][...] = value
            layer._bind(bound, self._forget_plans)

    def _restore(
        self,
        shape: tuple[int, ...],
        check: Callable[[Mapping[str, tuple[int, ...]]], None],
        read: Callable[[Mapping[str, Array]], None],
    ) -> None:
        """Build the model with weights that ``read`` fills in, after ``check`` saw the shapes.

        Nothing is allocated before.
        """
        output = self._infer(shape)
        check(
            {
                f"{index}.{name}": shape
                for index, layer in enumerate(self.layers)
                for name, (shape, _) in (*layer.weights.items(), *layer.buffers.items())
            }
        )
        self._allocate()
        self.output_shape, self.input_shape = output, shape
        read(self.arrays())

    def _weights(self) -> Iterable[tuple[str, Array, Any]]:
        """Yield name, values and initializer of each weight."""
        for index, layer in enumerate(self.layers):
            for name, (_, initializer) in layer.weights.items():
                yield f"{index}.{name}", getattr(layer, name), initializer

    def arrays(self) -> dict[str, Array]:
        """Return weights and buffers by the name of each: the arrays themselves, no copies.

        Raises
        ------
        ValueError
            If the model is not built.
        """
        self._check_built()
        return {
            f"{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self.layers)
            for name in (*layer.weights, *layer.buffers)
        }

    @property
    def theta(self) -> Array:
        """All weights; to assign copies values of its shape.

        Raises
        ------
        ValueError
            If the model is not built.
        """
        self._check_built()
        return self._theta

    @theta.setter
    def theta(self, value: ArrayLike) -> None:
        self._assign("theta", self.theta, value)

    @property
    def grad(self) -> Array:
        """All gradients; to assign copies values of its shape.

        Raises
        ------
        ValueError
            If the model is not built.
        """
        self._check_built()
        return self._grad

    @grad.setter
    def grad(self, value: ArrayLike) -> None:
        self._assign("grad", self.grad, value)

    def _assign(self, name: str, vector: Array, value: ArrayLike) -> None:
        assign(name, vector, value)
        for gap in self._gaps:
            vector[gap] = 0

    @property
    def n_parameters(self) -> int:
        """Number of parameters that ``fit`` trains."""
        self._check_built()
        return sum(
            math.prod(shape)
            for layer in self.layers
            if layer.trainable
            for shape, _ in layer.weights.values()
        )

    def _check_built(self) -> None:
        if self.input_shape is None:
            raise ValueError(
                "the model has no shapes yet: give input_shape, or call build or fit first"
            )

    def state_dict(self) -> dict[str, Array]:
        """Return a copy of each weight and buffer by its name, such as ``"0.w"``.

        Raises
        ------
        ValueError
            If the model is not built.
        """
        return {key: array.copy() for key, array in self.arrays().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Set all weights and buffers; where anything does not fit, none is changed.

        Parameters
        ----------
        state : mapping of str to array_like
            Exactly the names, shapes and kind (float) of ``state_dict``, all finite.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or a value does not fit.
        """
        arrays = self.arrays()
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {type(state).__name__}, expected a dict of arrays")
        missing = [key for key in arrays if key not in state]
        unexpected = [key for key in state if key not in arrays]
        if missing or unexpected:
            raise ValueError(f"state: missing {missing}, unexpected {unexpected}")
        converted = {}
        for key, array in arrays.items():
            name = f"state[{key!r}]"
            values = to_array(name, state[key])
            if values.dtype.kind != "f":
                raise TypeError(f"{name}: got dtype {values.dtype}, expected a float dtype")
            if values.shape != array.shape:
                raise ValueError(f"{name}: got shape {values.shape}, expected {array.shape}")
            with np.errstate(over="ignore"):
                converted[key] = values.astype(self.dtype)
            if not np.isfinite(converted[key]).all():
                raise ValueError(f"{name}: got NaN or infinity, expected finite {self.dtype}")
        for key, array in arrays.items():
            array[...] = converted[key]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write layers, options and weights to a file, which ``fastnn.load`` reads.

        The file is in the safetensors format. It is replaced at once or not at all, and is on disk
        when this returns. Functions that were given as options cannot be saved.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        TypeError, ValueError
            If the model is not built, a weight is not finite, or an option has no form in a file.
        OSError
            If the file cannot be written; then an older one is as it was.
        """
        from fastnn.saving import save

        save(self, path)

    # ---- training ----------------------------------------------------------------------------

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        loss: str | Loss = "cross_entropy",
        optimizer: str | Optimizer | None = None,
        epochs: int = 1,
        batch_size: int | None = 32,
        lengths: ArrayLike | None = None,
        validation_data: tuple[ArrayLike, ...] | None = None,
        validation_every: int | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        callbacks: Iterable[Callback | Callable[["Sequential", History], object]] | None = None,
        verbose: int = 1,
        shuffle: bool = True,
        seed: int | None = None,
        eager: bool = False,
        fuse: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train on samples ``x`` and targets ``y``.

        An interrupted or failed run leaves the weights of the last whole step, and ``history``.

        Parameters
        ----------
        x : (N, *input_shape) array_like
            float32 in C order and uint8 are used as they are, other numbers are converted once.
            uint8 are pixels, scaled to [0, 1]. An ``Embedding`` takes integers.
        y : array_like
            As the loss takes it: integer class numbers (N,) or one-hot rows for cross-entropy.
        loss : str or Loss
        optimizer : str or Optimizer, optional
            ``SGD(0.01)`` by default. One that was used on this model before goes on where it was.
        epochs : int
        batch_size : int or None
            None takes all samples in one step. The last batch of an epoch may be smaller.
        lengths : (N,) array_like of int, optional
            Of sequences, in [1, steps]: what comes after is padding, which changes nothing but the
            statistics of a ``BatchNorm``.
        validation_data : (x, y) or (x, y, lengths), optional
            Measured after each epoch.
        validation_every : int, optional
            Measure them every so many steps, too; the figures are in ``history.iterations``.
        sample_weight : (N,) array_like, optional
            Factors on the samples' losses; samples of weight 0 count in nothing but in the
            statistics of a ``BatchNorm``. The loss is the weighted sum over the number of samples
            that count.
        class_weight : dict of int to float, optional
            The same by class number, 1 for classes that it leaves out; both together multiply. With
            cross-entropy, or binary cross-entropy of a single output, whose targets are 0 and 1.
        callbacks : iterable of Callback or callable, optional
            A function is called after each epoch with the model and the history; if it returns
            True, the run ends.
        verbose : {0, 1, 2}
            0: silent. 1: a line per epoch and, on a terminal, a progress bar. 2: the lines alone.
        shuffle : bool
            Take the samples in another order in each epoch.
        seed : int, optional
            Of that order and of dropout, which calls with equal seeds and new optimizers repeat. By
            default the model's, with which every new optimizer, also by name, gets others.
        eager : bool
            Run each step in Python instead of recording it in a plan.
        fuse : bool
            Let the plan merge operations; results then differ within rounding. Plain SGD then adds
            gradients of dense layers to the weights at once, and leaves none of them in ``grad``.
        checkpoint : path, optional
            A file for the state of the run, written after epochs and at the end. If it is there
            at the beginning, the run goes on from it until it has ``epochs`` in total, and gives
            the bits of a run that was never interrupted.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.
        DivergenceError
            If the loss is not finite, or after an epoch a weight.
        RuntimeError
            If another thread is fitting this model.
        OSError
            If the checkpoint cannot be read or written.
        """
        chosen = choose("loss", loss, Loss, LOSSES)
        if optimizer is None:
            optimizer = SGD(0.01)
        updater = choose("optimizer", optimizer, Optimizer, OPTIMIZERS)
        epochs = check_integer("epochs", epochs, 1)
        verbose = int(verbose) if isinstance(verbose, bool) else verbose
        verbose = check_integer("verbose", verbose, 0, 2)
        shuffle = check_flag("shuffle", shuffle)
        eager, fuse = check_flag("eager", eager), check_flag("fuse", fuse)
        hooks = to_callbacks(callbacks)
        if seed is not None:
            seed = _seed(seed)
        if batch_size is not None:
            check_integer("batch_size", batch_size, 1)
        carrying = first_stateful(self)
        if shuffle and carrying is not None:
            raise ValueError(
                f"shuffle: got True, expected False, because {carrying.label} is stateful"
            )
        if validation_every is not None:
            check_integer("validation_every", validation_every, 1)
            if validation_data is None:
                raise ValueError(
                    f"validation_every: got {validation_every}, expected None without "
                    "validation_data"
                )
        self._claim()
        try:
            with self._refusing():
                data = to_data(
                    self,
                    x,
                    y,
                    chosen,
                    sample_weight=sample_weight,
                    class_weight=class_weight,
                    lengths=lengths,
                )
                rows = rows_at_once(self, "x", len(data.x), batch_size, train=True)
                held, held_rows = None, 0
                if validation_data is not None:
                    held = to_validation(self, validation_data, chosen, data)
                    held_rows = rows_at_once(self, "validation_data[0]", len(held.x), batch_size)
            self.history = history = History()
            saved = None
            if checkpoint is not None:
                options = {
                    "batch_size": batch_size,
                    "validation_every": validation_every,
                    "shuffle": shuffle,
                    "seed": seed,
                    "eager": eager,
                    "fuse": fuse,
                    "trainable": [layer.trainable for layer in self.layers if layer.weights],
                }
                saved = Checkpoint(checkpoint, self, chosen, updater, history, hooks)
                saved.restore(data, held, options)
            state = updater.state(self)
            stream = self._streams if state.stream is None else state.stream
            measure = None
            if held is not None:
                measure = Trainer(self, held, chosen, batch_size=held_rows, eager=eager, fuse=fuse)
            trainer = Trainer(
                self,
                data,
                chosen,
                updater,
                batch_size=rows,
                shuffle=shuffle,
                seed=_stream_seed(self.seed, stream) if seed is None else seed,
                eager=eager,
                fuse=fuse,
            )
            self._loss, self.optimizer, self.plan = chosen, updater, trainer.plan
            self._pixels = data.pixels
            state.stream, self._streams = stream, max(self._streams, stream + 1)
            run = Run(self, history, trainer, measure, validation_every, hooks, saved)
            run.train(epochs, Progress(verbose, epochs, trainer.samples))
        finally:
            self.__dict__.pop("_fitter", None)
        return history

    def _claim(self) -> None:
        """Refuse a second fit at the same time; no lock, which Ctrl-C or fork could leave taken."""
        me = threading.current_thread().ident
        owner = self.__dict__.setdefault("_fitter", me)
        if owner != me and owner in {thread.ident for thread in threading.enumerate()}:
            raise RuntimeError("fit: another thread is fitting this model; wait for it to end")
        self._fitter = me

    # ---- use ---------------------------------------------------------------------------------

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike,
        loss: str | Loss | None = None,
        *,
        lengths: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> dict[str, float]:
        """Measure loss and, with cross-entropy, accuracy.

        Parameters
        ----------
        x, y : array_like
            As for ``fit``.
        loss : str or Loss, optional
            That of the last ``fit`` by default, or cross-entropy.
        lengths, sample_weight : (N,) array_like, optional
            As for ``fit``.
        batch_size : int, optional
            How many rows make a batch for stateful layers; all of them by default.

        Returns
        -------
        dict of str to float
            ``{"loss": ..., "accuracy": ...}``

        Raises
        ------
        TypeError, ValueError
            If the data do not fit.
        DivergenceError
            If the loss is not finite.
        """
        chosen = self._loss if loss is None else choose("loss", loss, Loss, LOSSES)
        if batch_size is not None:
            check_integer("batch_size", batch_size, 1)
        with self._refusing():
            data = to_data(
                self,
                x,
                y,
                chosen,
                sample_weight=sample_weight,
                lengths=lengths,
                pixels=self._pixels,
            )
        n = rows_at_once(self, "x", len(data.x), batch_size)
        measure = Trainer(self, data, chosen, batch_size=n)
        measure.run_epoch()
        return measure.figures()

    def predict(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return the outputs (N, *output_shape) for samples ``x`` (N, *input_shape).

        The bits do not depend on how samples are split among calls. Threads may call it at the
        same time. ``lengths`` (N,) are those of sequences, as for ``fit``.

        A stateful layer, if there is one, begins at its ``state`` and leaves there the one it ends
        with: calls then follow one another, in one thread, with the same N.

        Raises
        ------
        TypeError, ValueError
            If ``x`` does not fit.
        """
        pool = self._whole if lengths is None else self._predictors[len(self.layers), True]
        return self._outputs(pool, x, len(self.layers), lengths)

    def _outputs(
        self, pool: list[Predictor], x: ArrayLike, end: int, lengths: ArrayLike | None
    ) -> Array:
        """Return what layer ``end - 1`` gives, by one of the pool that nobody else uses now."""
        try:
            predictor = pool.pop()
        except IndexError:
            with self._refusing():
                if self.input_shape is None:
                    to_samples(self, "x", x)
                    sequence_lengths(self, "lengths", lengths, np.shape(x)[0], end)
            predictor = Predictor(self, end, lengths is not None)
        try:
            return predictor(x, lengths)
        finally:
            pool.append(predictor)

    def predict_classes(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Return the class with the largest output for each sample, step or pixel: (N, ...) int64.

        Of a single output it is 1 where the probability is above 1/2, else 0: that is the output
        of a last ``Sigmoid``; if ``fit`` had binary cross-entropy, it is the sigmoid of any other
        output.

        Raises
        ------
        TypeError, ValueError
            If ``x`` or ``lengths`` do not fit, or a single output is no probability.

        Examples
        --------
        >>> import fastnn as fnn
        >>> model = fnn.Sequential([fnn.Sigmoid()], input_shape=1)
        >>> model.predict_classes([[-2.0], [3.0]])
        array([0, 1])
        """
        out = self.predict(x, lengths)
        if out.ndim == 4 and self.data_format == "channels_first":
            out = out.transpose(0, 2, 3, 1)
        if out.shape[-1] > 1:
            classes: Array = out.argmax(axis=-1)
            return classes
        probability = isinstance(last_computing(self.layers), Sigmoid)
        if not probability and self._loss.includes is not Sigmoid:
            raise ValueError(
                "predict_classes: the model has a single output, which is no probability; let it "
                "end in Sigmoid(), or fit it with binary_cross_entropy; predict gives its numbers"
            )
        return (out[..., 0] > (0.5 if probability else 0.0)).astype(np.int64)

    def features(self, x: ArrayLike, layer: int = -2, lengths: ArrayLike | None = None) -> Array:
        """Return a layer's output (N, ...) for samples ``x``; a state goes on as in ``predict``.

        Parameters
        ----------
        x : (N, *input_shape) array_like
        layer : int
            Index as in ``summary``; from the end where it is negative.
        lengths : (N,) array_like of int, optional
            Of sequences, as for ``fit``.

        Raises
        ------
        TypeError, ValueError
            If ``x`` does not fit, or there is no such layer.
        """
        count = len(self.layers)
        end = check_integer("layer", layer, -count, count - 1) % count + 1
        return self._outputs(self._predictors[end, lengths is not None], x, end, lengths)

    def reset_states(self) -> None:
        """Let stateful layers begin at zero in the next prediction.

        Examples
        --------
        >>> import numpy as np
        >>> import fastnn as fnn
        >>> model = fnn.Sequential([fnn.GRU(4, stateful=True)], input_shape=(1, 2), seed=0)
        >>> first, second = model.predict(np.ones((1, 1, 2))), model.predict(np.ones((1, 1, 2)))
        >>> model.reset_states()
        >>> bool((model.predict(np.ones((1, 1, 2))) == first).all()), bool((first == second).all())
        (True, False)
        """
        for layer in self.layers:
            if isinstance(layer, Recurrent) and layer.stateful:
                layer.state = None

    def summary(self) -> None:
        """Print layers, output shapes and parameters."""
        print(self._table())

    def _table(self) -> str:
        rows = [("layer", "output shape", "parameters")]
        total, fixed, built = 0, 0, self.input_shape is not None
        for index, layer in enumerate(self.layers):
            count = sum(math.prod(shape) for shape, _ in layer.weights.values())
            total += count if layer.trainable else 0
            fixed += 0 if layer.trainable else count
            fixed += sum(math.prod(shape) for shape, _ in layer.buffers.values())
            shape = str(outside(layer.output_shape, self.data_format)) if built else "?"
            rows.append((f"{index:2}  {layer!r}", shape, f"{count:,}" if built else "?"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        lines.append(
            f"input {self.input_shape}, {total:,} trainable parameters"
            + (f", {fixed:,} numbers not trained" if fixed else "")
            if built
            else "not built"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        more = f", dtype={self.dtype.name!r}" if self.dtype != np.float32 else ""
        more += ", data_format='channels_first'" if self.data_format == "channels_first" else ""
        layers = list(self.layers)
        return f"Sequential({layers!r}, input_shape={self.input_shape}, seed={self.seed}{more})"

    # ---- copies ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        layers = copy.deepcopy(self.layers)
        for layer in layers if self.input_shape is not None else ():
            layer.__dict__.pop("_copies", None)
        return {
            "layers": layers,
            "input_shape": self.input_shape,
            "seed": self.seed,
            "drawn": self._drawn,
            "dtype": self.dtype.name,
            "data_format": self.data_format,
            "weights": None if self.input_shape is None else self.state_dict(),
            "loss": self._loss,
            "history": self.history,
            "streams": self._streams,
            "pixels": self._pixels,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        layers, shape = state["layers"], state["input_shape"]
        options = state["seed"], state["dtype"], state["data_format"]
        Sequential.__init__(self, layers, shape, *options)
        if state["weights"] is not None:
            self.theta[:] = 0
            for key, array in self.arrays().items():
                array[...] = state["weights"][key]
        self._loss, self.history = state["loss"], state["history"]
        self._drawn, self._streams = state["drawn"], state["streams"]
        self._pixels = state["pixels"]


def _float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype: got {dtype!r:.60}, expected float32 or float64") from error
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype: got {found}, expected float32 or float64")
    return found


def _seed(seed: int | None) -> int:
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    return check_integer("seed", seed, 0, 2**64 - 1)


def _stream_seed(seed: int, stream: int) -> int:
    """Return the seed of one of a model's streams of random numbers: of the first, its own."""
    if stream == 0:
        return seed
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0])


def _expand(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers with their activations as layers of their own."""
    if isinstance(layers, Layer) or not isinstance(layers, Iterable):
        raise TypeError(f"layers: got {layers!r:.60}, expected a list of layers")
    expanded: list[Layer] = []
    for layer in layers:
        if not isinstance(layer, Layer):
            hint = f"; make an object of it: {layer.__name__}()" if isinstance(layer, type) else ""
            raise TypeError(f"layers: got {layer!r:.60} at {len(expanded)}, expected a layer{hint}")
        expanded.append(layer)
        if layer.activation is not None:
            expanded.append(layer.activation)
    if not expanded:
        raise ValueError("layers: got none, expected at least one layer")
    seen: set[int] = set()
    for i, layer in enumerate(expanded):
        if hasattr(layer, "index") or id(layer) in seen:
            raise ValueError(
                f"layers: {layer!r} at {i} is used already, here or in another model; "
                "make a new one"
            )
        seen.add(id(layer))
    for i, layer in enumerate(expanded):
        layer.index = i
    return tuple(expanded)
