"""Owns the proof that kernels are right: reference against mathematics, compiled against reference.

Leaves the vector functions' last digits to ``test_vecmath`` and the table of kernels to ``cases``.
FASTNN_EXAMPLES sets the number of shapes drawn for each kernel, FASTNN_GRADIENTS that of gradients
checked; with FASTNN_HUGE, a product over more than 2**31 elements is computed, too.
"""

import ctypes
import inspect
import mmap
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cases import CASES, TABLE, Args, Case, Sizes, broken, in_float64, product_bound, spoil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastnn import kernels, reference
from fastnn.reference._philox import philox4x32

EXAMPLES = int(os.environ.get("FASTNN_EXAMPLES", "100"))
GRADIENTS = int(os.environ.get("FASTNN_GRADIENTS", "4"))
ROOT = Path(__file__).parent.parent
COMPILER = shlex.split(os.environ.get("CC", "cc"))
WIDE = ["wide"] if "avx512" not in kernels.available_isas() and shutil.which(COMPILER[0]) else []
OPTIONAL = {"b", "dx", "db", "rows", "correct", "corrects", "velocity", "weights", "scratch"}
OPTIONAL |= {"h0", "c0", "lengths", "bh", "dbh", "index", "clean"}
STEMS = (
    "batchnorm",
    "conv2d",
    "dense",
    "elementwise",
    "embedding",
    "loss",
    "norms",
    "optimizer",
    "pool2d",
    "rnn",
    "step",
)

every_kernel = pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
every_gradient = pytest.mark.parametrize(
    "case", [case for case in TABLE if case.forward], ids=lambda case: case.name
)


@pytest.fixture(scope="session")
def wide_table(tmp_path_factory):
    """The address of all ops in vectors of 16 lanes, as for AVX-512, but compiled for any CPU."""
    library = tmp_path_factory.mktemp("wide") / "wide.so"
    options = "-std=gnu11 -O0 -pthread -shared -fPIC -ffp-contract=off -fno-math-errno -Wno-psabi"
    macros = ["-DFNN_ISA=wide", "-DFNN_EMULATE_AVX512"]
    sources = [
        str(path) for path in (ROOT / "csrc").glob("*.c") if path.stem not in ("dispatch", "plan")
    ]
    command = [*COMPILER, *options.split(), *macros, f"-I{ROOT / 'csrc'}", *sources, "-lm"]
    subprocess.run([*command, "-o", str(library)], check=True, capture_output=True)
    loaded = ctypes.CDLL(str(library))
    return ctypes.addressof(ctypes.c_char.in_dll(loaded, "fnn_table_wide"))


@pytest.fixture(params=[*kernels.available_isas(), *WIDE])
def isa(request):
    """Run the test on every instruction set that can run here, and on 16 lanes in any case."""
    before = kernels.get_isa()
    if request.param == "wide":
        kernels.plan.use_table(request.getfixturevalue("wide_table"), "wide")
    else:
        kernels.select_isa(request.param)
    yield request.param
    kernels.select_isa(before)


@pytest.fixture
def threads():
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


def run(module: ModuleType, case: Case, args: Args) -> Args:
    """Call a kernel and return what it wrote."""
    getattr(module, case.name)(*args.values())
    written = {name: args[name] for name in case.outputs + case.updated}
    return {name: array for name, array in written.items() if array is not None}


def fresh(case: Case, sizes: Sizes, seed: int = 0) -> Args:
    args = case.arguments(sizes, seed)
    spoil(args, case.outputs)
    return args


def copy(args: Args) -> Args:
    return {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in args.items()}


def bits(written: Args) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in written.items()}


def check_against_reference(case: Case, sizes: Sizes, seed: int = 0) -> None:
    args = fresh(case, sizes, seed)
    exact_args = in_float64(args)
    wanted = run(reference, case, exact_args)
    bounds = product_bound(case, args, sizes) if case.terms else {}
    bounds = case.bounds(exact_args) if case.bounds else bounds
    before = copy(args)
    for name, value in args.items():
        kept = name not in case.outputs + case.updated + case.scratch
        if isinstance(value, np.ndarray) and kept:
            value.flags.writeable = False
    got = run(kernels, case, args)
    for name, array in got.items():
        exact = wanted[name]
        if array.dtype.kind != "f":
            assert np.array_equal(array, exact), (name, sizes)
            continue
        bound = bounds[name] if name in bounds else 1e-5 + 1.3e-6 * abs(exact)
        error = abs(array.astype(np.float64) - exact)
        assert not np.isnan(array).any(), (name, sizes)
        assert (error <= bound).all(), (name, sizes, error.max())
    for name, value in args.items():
        if name not in got and name not in case.scratch and isinstance(value, np.ndarray):
            assert value.tobytes() == before[name].tobytes(), f"{name} was changed"


# ---- the table itself -------------------------------------------------------------------------


def test_every_kernel_of_either_module_has_a_row():
    compiled = {
        name
        for stem in STEMS
        for name, f in vars(getattr(kernels, stem)).items()
        if inspect.isroutine(f) and not name.startswith("_")
    }
    assert compiled == set(reference.__all__) == set(CASES)


@every_kernel
def test_signatures_are_equal(case):
    wanted = inspect.signature(getattr(reference, case.name)).parameters.values()
    got = inspect.signature(getattr(kernels, case.name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in got] == [
        (p.name, p.kind, p.default) for p in wanted
    ]


@every_kernel
def test_every_kernel_has_three_error_inputs(case):
    assert len(case.errors) >= 3


# ---- the reference ----------------------------------------------------------------------------


def test_philox_gives_the_published_words():
    # Random123's known-answer vectors
    ones = 0xFFFFFFFF
    for counter, key, words in [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, (ones, ones), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]:
        assert philox4x32(np.array(counter, np.uint64), key).tolist() == words


def gradient_error(case: Case, sizes: Sizes, seed: int) -> dict[str, float]:
    """Relative distance of each gradient from central differences, in float64."""
    assert case.forward is not None and case.wrt is not None
    forward = CASES[case.forward]
    args = case.build(np.random.default_rng([seed, *sizes.values()]), sizes)
    args = in_float64(args) | case.whole
    for name, gradient in case.wrt.items():
        if args[name] is not None:
            args[gradient] = np.full_like(args[name], np.nan)

    def call(kernel: str) -> None:
        names = inspect.signature(getattr(reference, kernel)).parameters
        getattr(reference, kernel)(*(args[name] for name in names))

    def value() -> float:
        call(forward.name)
        return (
            float(args["loss"][0]) if "loss" in args else float((args["dout"] * args["out"]).sum())
        )

    value()
    call(case.name)
    errors = {}
    for name, gradient in case.wrt.items():
        if args[name] is None:
            continue
        analytic, numeric = args[gradient].copy(), np.empty_like(args[name])
        step, flat = 1e-5, args[name].reshape(-1)
        for i, old in enumerate(flat):
            flat[i] = old + step
            above = value()
            flat[i] = old - step
            below = value()
            flat[i] = old
            numeric.reshape(-1)[i] = (above - below) / (2 * step)
        scale = max(np.linalg.norm(numeric), 1e-3)
        errors[gradient] = float(np.linalg.norm(analytic - numeric) / scale)
    return errors


@every_gradient
@pytest.mark.parametrize("seed", range(GRADIENTS))
def test_gradients_match_central_differences(case, seed):
    sizes = {letter: 2 + (seed + 3 * i) % 7 for i, letter in enumerate(case.sizes[0])}
    for name, error in gradient_error(case, sizes, seed).items():
        assert error <= 1e-6, (name, sizes, error)


@every_kernel
def test_reference_keeps_the_contract(case):
    args = in_float64(fresh(case, case.sizes[-1]))
    before = copy(args)
    written = run(reference, case, args)
    for name, value in args.items():
        if name in written:
            assert value.dtype.kind != "f" or not np.isnan(value).any()
        elif isinstance(value, np.ndarray):
            assert value.tobytes() == before[name].tobytes()


# ---- compiled against reference ---------------------------------------------------------------


@every_kernel
def test_compiled_equals_reference(case, isa):
    for sizes in case.sizes:
        for seed in range(3):
            check_against_reference(case, sizes, seed)


@every_kernel
def test_compiled_equals_reference_where_threads_share(case, isa, threads):
    threads(2)
    check_against_reference(case, case.bench)


@every_kernel
def test_compiled_equals_reference_for_drawn_shapes(case):
    near_vectors = st.sampled_from([0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33])
    size = (near_vectors | st.integers(0, 70)).map(lambda n: max(n, case.smallest))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES <= 100,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.fixed_dictionaries(dict.fromkeys(case.sizes[0], size)), st.integers(0, 2**32))
    def check(sizes: Sizes, seed: int) -> None:
        check_against_reference(case, sizes, seed)

    check()


@every_kernel
def test_same_bits_every_time_and_for_any_number_of_threads(case, isa, threads):
    for sizes in (case.sizes[-1], case.bench):
        results = []
        for n in (1, 1, 2, 4):
            threads(n)
            results.append(bits(run(kernels, case, fresh(case, sizes))))
        assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    "case", [case for case in TABLE if case.inplace], ids=lambda case: case.name
)
def test_output_may_be_the_input(case, isa):
    assert case.inplace is not None
    source, target = case.inplace
    for sizes in (case.sizes[-1], case.sizes[2]):
        args = fresh(case, sizes)
        apart = run(kernels, case, copy(args))
        args[target] = args[source]
        assert bits(run(kernels, case, args)) == bits(apart)


# ---- what is refused --------------------------------------------------------------------------


def error_inputs(case: Case) -> list[Args]:
    # ones where an optional argument is present, so that it can be broken
    sizes = {letter: 9 for letter in case.bench}
    found = []
    for name, change in case.errors:
        for seed in range(20):
            args = case.arguments(sizes, seed)
            if args[name] is not None or callable(change):
                found.append(broken(args, name, change))
                break
    return found


@every_kernel
@pytest.mark.parametrize("module", [reference, kernels], ids=["reference", "compiled"])
def test_wrong_arguments_raise(case, module):
    inputs = error_inputs(case)
    assert len(inputs) == len(case.errors)
    for args, (name, change) in zip(inputs, case.errors, strict=True):
        before = copy(args)
        with pytest.raises(ValueError) as caught:
            getattr(module, case.name)(*args.values())
        if change != "flat" or module is reference:
            assert str(caught.value).startswith(f"{case.name}: "), (name, change)
        if change in ("longer", "rows"):
            assert str(args[name].shape) in str(caught.value), (name, change)
        for other, value in args.items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == before[other].tobytes()


@every_kernel
def test_other_memory_layouts_and_types_are_refused(case):
    sizes = {letter: 9 for letter in case.bench}
    args = case.arguments(sizes, 3)
    for name, array in args.items():
        if not isinstance(array, np.ndarray) or array.size < 2:
            continue
        others = [
            np.repeat(array, 2, axis=-1)[..., ::2],
            array[..., ::-1],
            array.astype(array.dtype.newbyteorder()) if array.itemsize > 1 else array.astype("U1"),
            array.astype(np.complex64),
            array.tolist(),
            "text",
        ]
        if array.dtype == np.float32:
            others += [array.astype(np.float64), array.astype(np.int32), array.astype(np.float16)]
        if array.ndim == 2:
            others.append(np.asfortranarray(array))
        for other in others:
            with pytest.raises((ValueError, TypeError)):
                getattr(kernels, case.name)(*{**args, name: other}.values())


@every_kernel
def test_misaligned_arrays_are_refused(case):
    drawn = (case.arguments(dict.fromkeys(case.bench, 9), seed) for seed in range(99))
    args = next(args for args in drawn if all(value is not None for value in args.values()))
    for name, array in args.items():
        if isinstance(array, np.ndarray) and array.itemsize > 1:
            raw = np.empty(array.nbytes + 1, np.uint8)
            odd = raw[1:].view(array.dtype).reshape(array.shape)
            odd[...] = array
            with pytest.raises(ValueError):
                getattr(kernels, case.name)(*{**args, name: odd}.values())


@every_kernel
def test_missing_arguments_are_refused(case):
    args = case.arguments(case.sizes[-1])
    required = {
        name: value
        for name, value in args.items()
        if isinstance(value, np.ndarray) and name not in OPTIONAL
    }
    for name in required:
        with pytest.raises(TypeError):
            getattr(kernels, case.name)(*{**args, name: None}.values())


# ---- special values ---------------------------------------------------------------------------

SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, 100, -100, 1000, -1000],
    np.float32,
)


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu"])
def test_activations_of_special_values(name, approximate, isa):
    extra = {"leaky_relu": (0.01,), "gelu": (approximate, 0.0)}.get(name, ())
    x, got, wanted = SPECIAL, np.empty_like(SPECIAL), np.empty(SPECIAL.size)
    with np.errstate(all="ignore"):
        getattr(reference, f"{name}_forward")(x.astype(np.float64), *extra, wanted)
    getattr(kernels, f"{name}_forward")(x, *extra, got)
    if name == "gelu":
        wanted[x == -np.inf] = got[x == -np.inf]  # -inf * 0: NaN by the formula
    np.testing.assert_allclose(got, wanted.astype(np.float32), rtol=1.3e-6, atol=1e-5)


def test_gradients_vanish_where_an_activation_is_flat(isa):
    x = np.array([1000, -1000, 3e38, -3e38, 30, -30], np.float32)
    ones, dx = np.ones_like(x), np.empty_like(x)
    for approximate in (False, True):
        kernels.gelu_backward(ones, x, approximate, 0.0, dx)
        assert dx.tolist() == [1, 0, 1, 0, 1, 0]


def test_a_nan_reaches_the_loss(isa):
    x = np.zeros((3, 10), np.float32)
    x[1, 9] = np.nan
    loss, correct = np.zeros(1, np.float32), np.zeros(1, np.int64)
    kernels.softmax_cross_entropy(x, np.zeros(3, np.int32), None, None, loss, correct)
    assert np.isnan(loss[0])


def test_large_logits_do_not_overflow(isa):
    x = np.array([[1e4, -1e4, 0.0]], np.float32)
    dx, loss, correct = np.empty_like(x), np.empty(1, np.float32), np.empty(1, np.int64)
    kernels.softmax_cross_entropy(x, np.array([1], np.int32), None, dx, loss, correct)
    assert loss[0] == 2e4 and correct[0] == 0 and dx.tolist() == [[1, -1, 0]]


def test_argmax_takes_the_first_of_equals(isa):
    x, loss = np.ones((2, 20), np.float32), np.empty(1, np.float32)
    for label, wanted in ((0, 2), (1, 0), (19, 0)):
        correct = np.empty(1, np.int64)
        kernels.softmax_cross_entropy(x, np.full(2, label, np.int32), None, None, loss, correct)
        assert correct[0] == wanted


def test_rows_of_weight_0_are_not_looked_at(isa):
    x = np.array([[np.nan, np.inf], [0, 0]], np.float32)
    weights, correct = np.array([0, 3], np.float32), np.empty(1, np.int64)
    dx, loss = np.full_like(x, np.nan), np.empty(1, np.float32)
    kernels.softmax_cross_entropy(x, np.array([-7, 0], np.int32), weights, dx, loss, correct)
    assert dx.tolist() == [[0, 0], [-1.5, 1.5]] and correct[0] == 1
    assert loss[0] == pytest.approx(3 * np.log(2))
    kernels.softmax_cross_entropy_soft(x, x, weights, dx, loss, correct)
    assert dx.tolist() == [[0, 0], [0, 0]] and loss[0] == 0
    kernels.mean_squared_error(x, np.ones_like(x), weights, dx, loss)
    assert dx.tolist() == [[0, 0], [-3, -3]] and loss[0] == 3
    for loss_of in (kernels.mean_absolute_error, kernels.mean_squared_error):
        loss_of(x, np.ones_like(x), 0 * weights, dx, loss)
        assert not dx.any() and loss[0] == 0
    kernels.binary_cross_entropy(x, np.ones_like(x), weights, dx, loss, correct)
    assert dx.tolist() == [[0, 0], [-0.75, -0.75]] and correct[0] == 0


def test_binary_cross_entropy_of_large_logits(isa):
    x, target = np.array([[1e4, -1e4, 200, -1e4]], np.float32), np.array([[1, 0, 0, 1]], np.float32)
    dx, loss, correct = np.empty_like(x), np.empty(1, np.float32), np.empty(1, np.int64)
    kernels.binary_cross_entropy(x, target, None, dx, loss, correct)
    assert loss[0] == (200 + 1e4) / 4 and correct[0] == 2
    assert dx.tolist() == [[0, 0, 0.25, -0.25]]


@pytest.mark.parametrize("o", [70, 131])
@pytest.mark.parametrize("rows", [1, 3, 17, 24, 100, 300])
@pytest.mark.parametrize("zeros", ["rim", "none", "one", "all but one", "all", "at random"])
def test_columns_of_zeros(isa, rows, zeros, o):
    """To the same bits as with a number there that meets a row of zeros."""
    rng = np.random.default_rng(rows)
    i = 797
    empty = {
        "rim": np.arange(i) % 28 >= rng.integers(15, 25, i // 28 + 1).repeat(28)[:i],
        "none": np.zeros(i, bool),
        "one": np.arange(i) == 500,
        "all but one": np.arange(i) != 500,
        "all": np.ones(i, bool),
        "at random": rng.random(i) < 0.8,
    }[zeros]
    x, w, dout = (rng.standard_normal(s).astype(np.float32) for s in ((rows, i), (i, o), (rows, o)))
    b, x_empty = rng.standard_normal(o).astype(np.float32), np.where(empty, np.float32(0), x)
    out, expected = np.full((2, rows, o), np.nan, np.float32)
    kernels.dense_forward(x_empty, w, b, out)
    kernels.dense_forward(x, np.where(empty[:, None], np.float32(0), w), b, expected)
    np.testing.assert_array_equal(out, expected)
    dw, expected = np.full((2, i, o), np.nan, np.float32)
    kernels.gemm_tn(x_empty, dout, dw)
    kernels.gemm_tn(x, dout, expected)
    expected[empty] = 0
    np.testing.assert_array_equal(dw, expected)


def test_a_huge_gradient_is_clipped(isa):
    grad, squares = np.full(3000, 1e30, np.float32), np.empty(3)
    kernels.chunk_sums(grad, 0, 1, squares)
    kernels.clip_gradient(squares, 1.0, grad)
    np.testing.assert_allclose(np.linalg.norm(grad), 1, rtol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reserves memory as Linux does")
def test_more_than_2_to_the_31_elements():
    """In memory that is reserved, but mostly never written."""
    n, noreserve = 2**31 + 9, 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve
    a, b = (np.frombuffer(mmap.mmap(-1, 4 * n, flags), np.float32) for _ in range(2))
    a[-1], b[-1], out = 5, 3, np.zeros((1, 1), np.float32)
    clock, row = np.zeros(3, np.int64), np.array([n - 1])
    kernels.gather_rows(a.reshape(n, 1), row, 1.0, clock, out)
    assert out[0, 0] == 5
    if os.environ.get("FASTNN_HUGE"):
        kernels.gemm_nn(a.reshape(1, n), b.reshape(n, 1), out)
        assert out[0, 0] == 15


def test_little_is_added_to_a_large_gradient_at_once(isa):
    """A GRU carries most of a state back: its digits are rounded twice, not once for each term."""
    case = CASES["gru_backward"]
    args = in_float64(fresh(case, {"N": 20, "T": 1, "I": 5, "H": 70}))
    args |= {"lengths": None, "bptt_steps": 0, "dx": None}
    args["gates"][..., 70:140] = 1 - 2.0**-10  # u
    args = {n: v.astype(np.float32) if isinstance(v, np.ndarray) else v for n, v in args.items()}
    exact = in_float64(args)
    run(reference, case, exact)
    run(kernels, case, args)
    terms = abs(exact["dzh"][:, 0]) @ abs(exact["wh"]).T
    bound = 2.0**-24 * (2 * abs(exact["dout"][:, 0]) + 212 * terms)
    assert (abs(args["dh"] - exact["dh"]) <= bound).all()


# ---- dropout's randomness ---------------------------------------------------------------------


def mask_of(n: int, rate: float, seed: int = 1, stream: int = 0, step: int = 0) -> np.ndarray:
    mask, out = np.empty(n, np.uint8), np.empty(n, np.float32)
    clock = np.array([0, step, 0])
    kernels.dropout_forward(np.ones(n, np.float32), rate, seed, stream, clock, mask, out)
    return mask


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share(rate, isa):
    n = 100_000
    kept = mask_of(n, rate).mean()
    assert abs(kept - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / n)


def test_dropout_masks_differ_by_seed_stream_and_step(isa):
    n = 10_000
    first = mask_of(n, 0.5)
    for other in (
        mask_of(n, 0.5, seed=2),
        mask_of(n, 0.5, seed=1 + 2**32),
        mask_of(n, 0.5, stream=1),
        mask_of(n, 0.5, step=1),
        mask_of(n, 0.5, step=2**32),
    ):
        assert 0.47 < (first == other).mean() < 0.53


def test_dropout_keeps_all_or_next_to_nothing():
    assert mask_of(1000, 0.0).all()
    assert not mask_of(1000, 1 - 2**-40).any()
