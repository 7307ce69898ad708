"""Backends: choice, threads, a package without its extension, and what an import costs."""

import threading

import numpy as np
import pytest

import fastnn as fnn
from fastnn import backend as backends
from fastnn import reference


def test_use_backend_as_a_call_and_as_a_block(compiled):
    assert backends.active is compiled
    with fnn.use_backend("reference"):
        assert backends.active is reference
        with fnn.use_backend("compiled"):
            assert backends.active is compiled
        assert backends.active is reference
    assert backends.active is compiled
    fnn.use_backend("reference")
    assert backends.active is reference
    fnn.use_backend("compiled")


def test_the_backend_comes_back_after_an_error():
    before = backends.active
    with pytest.raises(KeyError), fnn.use_backend("reference"):
        raise KeyError
    assert backends.active is before


def test_unknown_backends_are_refused():
    for name in ("fast", "", None, 3, "Reference"):
        with pytest.raises(ValueError, match="expected 'compiled' or 'reference'"):
            fnn.use_backend(name)


def test_compiled_without_the_extension(monkeypatch):
    monkeypatch.setattr(backends, "compiled", None)
    monkeypatch.setattr(backends, "missing", "ImportError: no such file")
    with pytest.raises(ImportError, match="no such file"):
        fnn.use_backend("compiled")
    assert fnn.get_num_threads() == 1
    fnn.set_num_threads(3)


def test_threads(compiled):
    for n in (1, 2, np.int64(5)):
        fnn.set_num_threads(n)
        assert fnn.get_num_threads() == n


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", None, True, 2**40])
def test_wrong_numbers_of_threads_are_refused(n):
    with pytest.raises((ValueError, TypeError), match=r"^n: got .*, expected an integer >= 1"):
        fnn.set_num_threads(n)


def test_show_config(backend, capsys):
    fnn.show_config()
    out = capsys.readouterr().out
    for word in (fnn.__version__, "threads", "instruction set", np.__version__):
        assert word in out
    assert ("reference" in out) == (backend == "reference")


WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["fastnn.kernels"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastnn as fnn
    from fastnn import layers, model
    import numpy as np
    net = fnn.Sequential([fnn.Dense(3, "relu"), fnn.Dense(2)], 4, seed=0)
    net.fit(np.ones((10, 4)), [0, 1] * 5, verbose=0)
    net.predict(np.ones((1, 4)))
    fnn.show_config()
assert len(caught) == 1, [str(warning.message) for warning in caught]
message = str(caught[0].message)
assert "compiled kernels cannot be imported" in message, message
assert "fastnn.kernels" in message and "pip install" in message, message
"""


def test_without_the_extension_there_is_one_warning(run_python):
    out = run_python(WITHOUT_EXTENSION)
    assert "reference" in out


def test_the_warning_points_at_the_import(run_python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import fastnn\n")
    code = (
        "import sys, runpy, warnings\n"
        "sys.modules['fastnn.kernels'] = None\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    runpy.run_path({str(script)!r})\n"
        "print(caught[0].filename)"
    )
    assert run_python(code).strip() == str(script)


def test_import_is_light(run_python):
    heavy = [
        "tqdm",
        "pooch",
        "matplotlib",
        "sklearn",
        "scipy",
        "torch",
        "requests",
        "pathlib",
        "ssl",
    ]
    out = run_python(
        "import sys, numpy\n"
        "before = set(sys.modules)\n"  # an environment may import more for its own sake
        "import fastnn\n"
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])\n"
        "print([name for name in fastnn._LAZY if f'fastnn.{name}' in sys.modules])\n"
        "print(fastnn.metrics.accuracy([1, 2], [1, 3]))"
    )
    assert out.split("\n")[:3] == ["[]", "[]", "0.5"]


def test_a_backend_is_for_all_threads(compiled):
    seen = []
    with fnn.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(backends.active))
        thread.start()
        thread.join()
    assert seen == [reference]
