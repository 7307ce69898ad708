"""The examples run as a user runs them, in a process and a folder of their own.

Owns their exit codes, output and figures; what training computes is tested elsewhere.
"""

import csv
import os
import re
import runpy
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import fastnn as fnn

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
PNG = b"\x89PNG\r\n\x1a\n"
NO_MNIST = (
    "import fastnn.datasets.images as d; d.MIRRORS['mnist'] = (); d.SYSTEM_FOLDER = 'nowhere'"
)


def run(folder, *options, script=DEMO, prelude="", **environment):
    """Run an example in ``folder``, after the statements in ``prelude``."""
    lines = (
        "import runpy, sys",
        f"sys.path[0] = {str(script.parent)!r}",
        prelude,
        f"runpy.run_path({str(script)!r}, run_name='__main__')",
    )
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *options],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def accuracy(result):
    assert result.returncode == 0, result.stderr
    percent = re.search(r"^test accuracy (\d+\.\d\d)%$", result.stdout, re.MULTILINE)
    assert percent, result.stdout
    return float(percent[1]) / 100


def check_figure(path):
    """Check that a file is a whole PNG with pixels of many values."""
    data = path.read_bytes()
    assert data[:8] == PNG and data[12:16] == b"IHDR"
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    assert 600 <= width <= 1600 and 400 <= height <= 1600 and (depth, color) == (8, 6)
    at, pixels = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        pixels += body if kind == b"IDAT" else b""
        at += 12 + length
    rows = zlib.decompress(pixels)
    assert kind == b"IEND" and len(rows) == height * (1 + 4 * width)
    assert len(set(rows)) > 100


def test_demo_on_digits(tmp_path):
    result = run(tmp_path, "--data", "digits", "--epochs", "8", "--out", "a/b.png")
    assert accuracy(result) > 0.93
    assert re.search(r"^data: 8x8 digits, 1,438 images .* 359 ", result.stdout, re.MULTILINE)
    assert re.search(r"\d\.\d\d s: [\d,]+ samples/s$", result.stdout, re.MULTILINE)
    assert "17,226 trainable parameters" in result.stdout
    assert len(re.findall(r"^epoch +\d/8 .*val_accuracy 0\.\d{4} ", result.stdout, re.M)) == 8
    assert not result.stderr
    check_figure(tmp_path / "a" / "b.png")


@pytest.mark.skipif("FASTNN_DATA" not in os.environ, reason="FASTNN_DATA is not set")
def test_demo_on_mnist(tmp_path):
    result = run(tmp_path)  # as make demo runs it
    assert accuracy(result) >= 0.975
    assert "data: MNIST, 60,000 images" in result.stdout
    assert "109,386 trainable parameters" in result.stdout
    check_figure(tmp_path / "out" / "demo.png")


def test_demo_falls_back_on_digits(tmp_path):
    here = {"FASTNN_DATA": "", "FASTNN_CACHE": str(tmp_path / "cache")}
    result = run(tmp_path, "--epochs", "1", prelude=NO_MNIST, **here)
    assert accuracy(result) > 0.5
    assert "MNIST cannot be loaded" in result.stdout
    assert "data: 8x8 digits" in result.stdout

    result = run(tmp_path, "--data", "mnist", prelude=NO_MNIST, **here)
    assert result.returncode == 1
    assert result.stderr.startswith("mnist: ") and "Traceback" not in result.stderr


def test_demo_without_matplotlib(tmp_path):
    prelude = "sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None"
    result = run(tmp_path, "--data", "digits", "--epochs", "1", prelude=prelude)
    assert accuracy(result) > 0.5
    assert "pip install matplotlib" in result.stdout
    assert not (tmp_path / "out" / "demo.png").exists()


def test_demo_refuses_bad_options(tmp_path):
    for option, value, expected in (("--epochs", "0", "at least 1"), ("--seed", "-1", "0 to")):
        result = run(tmp_path, option, value)
        assert result.returncode == 2
        assert f"{option}: got {value}, expected {expected}" in result.stderr


def characters(folder, *options):
    """Run the character-level model."""
    return subprocess.run(
        [sys.executable, DEMO.with_name("characters.py"), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_characters(tmp_path):
    """A text of two words in turn, é among them, must soon cost next to nothing."""
    (tmp_path / "text.txt").write_text("thé time\n" * 1000, encoding="utf-8")
    options = ("text.txt", "--units", "16", "--streams", "8", "--steps", "20", "--epochs", "4")
    samples = []
    for _ in range(2):
        result = characters(tmp_path, *options, "--cell", "gru", "--length", "17")
        assert result.returncode == 0, result.stderr
        assert "9,000 characters, 8 different ones" in result.stdout
        assert re.search(r"^0\.[01]\d\d bits per character of the held", result.stdout, re.M)
        assert " bits per character: 'thé time\\nthé " in result.stdout
        assert "thé time\nthé time\nfigure: " in result.stdout
        check_figure(tmp_path / "out" / "characters.png")
        samples.append(re.findall(r"^.* per character: .*$", result.stdout, re.M))
    assert samples[0] == samples[1] and len(samples[0]) == 4


def test_characters_refuses_bad_options(tmp_path):
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "bytes.txt").write_bytes(b"\xff" * 100_000)
    for options, message in (
        (["short.txt"], "text: got 5 characters, expected at least 32000"),
        (["bytes.txt"], "text: 'utf-8' codec can't decode"),
        (["none.txt"], "No such file"),
        (["--streams", "0"], "--streams: got 0, expected a number above 0"),
        (["--seed", "-1"], "--seed: got -1, expected 0 to 2**64 - 1"),
        (["--temperature", "nan"], "--temperature: got nan, expected a number above 0"),
    ):
        result = characters(tmp_path, *options)
        assert result.returncode == 2 and message in result.stderr


@pytest.mark.skipif("FASTNN_DATA" not in os.environ, reason="FASTNN_DATA is not set")
@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cnn", ("--images", "1000"), r"test accuracy [789]\d\."),
        ("rnn", ("--images", "1000", "--units", "32"), r"test accuracy [4-6]\d\."),
        (
            "rnn",
            ("--images", "1000", "--epochs", "5", "--cell", "lstm"),
            r"test accuracy [4-7]\d\.",
        ),
        (
            "autoencoder",
            ("--epochs", "1", "--images", "640", "--noise", "0.3"),
            r"test error 0\.\d",
        ),
    ],
)
def test_other_networks(name, options, says, tmp_path):
    result = run(tmp_path, *options, script=DEMO.with_name(f"{name}.py"))
    assert result.returncode == 0, result.stderr
    assert re.search(says, result.stdout), result.stdout
    check_figure(tmp_path / "out" / f"{name}.png")


@pytest.mark.parametrize("name", ["cnn", "rnn", "autoencoder"])
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--epochs", "0", "a number above 0"),
        ("--images", "0", "a number above 0"),
        ("--seed", "-1", "0 to 2**64 - 1"),
    ],
)
def test_other_networks_refuse_bad_options(name, option, value, expected, tmp_path):
    result = run(tmp_path, option, value, script=DEMO.with_name(f"{name}.py"))
    assert result.returncode == 2
    assert f"{option}: got {value}, expected {expected}" in result.stderr


def small_sets(images):
    """Return statements after which MNIST and Fashion-MNIST are so many small digits."""
    return f"""
sys.path.insert(1, {str(Path(__file__).parent)!r})
import fastnn.datasets as d
from test_docs import small_set
few = [(x[:{images}], y[:{images}]) for x, y in small_set()]
d.load_mnist = d.load_fashion_mnist = lambda: few
"""


def test_gradient_norms_are_those_of_the_steps():
    """Weights of a tenth let a tenth of the gradient through to the step before."""
    recurrent = fnn.RNN(6)
    fnn.Sequential([recurrent], input_shape=(4, 2))
    recurrent.wh[...] = 0.1 * np.eye(6)
    functions = runpy.run_path(str(DEMO.with_name("rnn.py")))
    x, dout = np.zeros((3, 4, 2), np.float32), np.ones((3, 6), np.float32)
    norms = functions["gradient_norms"](recurrent, x, dout)
    np.testing.assert_allclose(norms, np.sqrt(18) * 0.1 ** np.arange(3, -1, -1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("letter", "rows", "images"),
    [("a", 12, 1400), ("b", 16, 8000), ("c", 6, 1400), ("d", 8, 1400), ("e", 8, 1400)],
)
def test_reports(letter, rows, images, tmp_path):
    script, prelude = DEMO.with_name(f"report_{letter}.py"), small_sets(images)
    result = run(tmp_path, "--quick", "--seed", "3", script=script, prelude=prelude)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out" / "reports"
    with open(out / f"report_{letter}-accuracy.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == rows
    assert all(row["report"] and float(row["s"]) >= 0 for row in table)
    assert all(re.search(r"\d", row["here"]) for row in table)
    if letter == "c":
        assert "The network has 109,386 parameters" in result.stdout
    if letter == "e":
        line = r"^Epoch 3/3 \| Train Loss \S+ \| .* \| Val Acc \S+ \| Patience: \d/5$"
        assert len(re.findall(line, result.stdout, re.MULTILINE)) == 8 + 13

    docs = tmp_path / "docs"
    docs.mkdir()
    result = run(tmp_path, str(out), str(docs), script=DEMO.with_name("reports.py"))
    assert result.returncode == 0, result.stderr
    page = (docs / "reports.md").read_text()
    assert f"## Report {letter.upper()}: " in page and "| report " in page
    figures = re.findall(r"!\[.*\]\((.*)\)", page)
    assert figures and all((docs / name).read_bytes()[:8] == PNG for name in figures)


def test_reports_without_data(tmp_path):
    here = {"FASTNN_DATA": "", "FASTNN_CACHE": str(tmp_path / "cache")}
    result = run(tmp_path, script=DEMO.with_name("report_a.py"), prelude=NO_MNIST, **here)
    assert result.returncode == 1
    assert result.stderr.startswith("mnist: ") and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "-1", "argument --seed: got -1, expected 0 to 2**64 - 1"),
        ("--seed", "one", "argument --seed: invalid int value: 'one'"),
        ("--out", "file", "argument --out: [Errno 17] File exists"),
        ("--out", "file/folder", "argument --out: [Errno 20] Not a directory"),
    ],
)
def test_reports_refuse_bad_options(option, value, message, tmp_path):
    (tmp_path / "file").touch()
    result = run(tmp_path, option, value, script=DEMO.with_name("report_b.py"))
    assert result.returncode == 2 and message in result.stderr, result.stderr
