"""Tests of model files: round trips, hostile files, and saving that is interrupted.

FASTNN_FUZZ sets the number of mutated files, FASTNN_KILLS that of processes killed while saving.
"""

import contextlib
import copy
import errno
import inspect
import json
import os
import random
import resource
import signal
import struct
import threading
import time
import tracemalloc
import zlib

import numpy as np
import pytest

import fastnn as fnn
from fastnn import files

FUZZ = int(os.environ.get("FASTNN_FUZZ", "5000"))
KILLS = int(os.environ.get("FASTNN_KILLS", "30"))
MIB = 1 << 20

# ------------------------------------------------------------------------------ round trips

IMAGE, SEQUENCE, ROW = (6, 6, 4), (5, 4), (6,)
LAYERS = [  # each public layer, with options that are not the defaults
    (fnn.Dense(3, use_bias=False, kernel_initializer="he_normal", kernel_regularizer="l2"), ROW),
    (fnn.Dense(3, fnn.LeakyReLU(0.2), bias_initializer=fnn.Constant(0.5)), ROW),
    (fnn.Conv2D(3, (2, 3), (2, 1), ((1, 0), (2, 2)), dilation=1), IMAGE),
    (fnn.Conv2D(3, 3, padding="same", kernel_regularizer=fnn.L1L2(0.1, 0.2)), IMAGE),
    (fnn.ConvTranspose2D(2, 3, stride=2, padding=1, output_padding=1), IMAGE),
    (fnn.MaxPool2D((2, 3), stride=1, padding=1), IMAGE),
    (fnn.AvgPool2D(2, padding=(1, 0), count_include_pad=False), IMAGE),
    (fnn.GlobalAvgPool2D(), IMAGE),
    (fnn.UpSample2D((2, 1)), IMAGE),
    (fnn.BatchNorm(momentum=0.3, eps=1e-3), IMAGE),
    (fnn.Flatten(), IMAGE),
    (fnn.Reshape((4, -1)), IMAGE),
    (fnn.Dropout(0.25), ROW),
    (fnn.RNN(3, True, bidirectional=True, recurrent_initializer="orthogonal"), SEQUENCE),
    (fnn.LSTM(3, use_bias=False, bptt_steps=2, stateful=True), SEQUENCE),
    (fnn.Embedding(9, 3, kernel_initializer="he_normal"), (5,)),
    (fnn.GRU(3, kernel_initializer=fnn.RandomUniform(-0.1, 0.2)), SEQUENCE),
    (fnn.ReLU(), ROW),
    (fnn.LeakyReLU(0.3), ROW),
    (fnn.GELU(approximate=True), ROW),
    (fnn.LeakyGELU(), ROW),
    (fnn.Sigmoid(), ROW),
    (fnn.Tanh(), ROW),
    (fnn.Softmax(), ROW),
    (fnn.Linear(), ROW),
]
LOSSES = [
    fnn.CrossEntropy(penalty=fnn.L1(0.5)),
    fnn.MeanSquaredError(),
    fnn.MeanAbsoluteError("l2"),
    fnn.Huber(delta=0.5),
    fnn.BinaryCrossEntropy(),
]


class Scale(fnn.Layer):
    """A user's layer."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def build(self, input_shape):
        self.add_weight("w", input_shape, fnn.Constant(self.factor))
        return input_shape

    def forward(self, k, x, out, saved):
        np.multiply(x, self.w, out=out)


def public(kind):
    found = [getattr(fnn, name) for name in fnn.__all__]
    return {c for c in found if inspect.isclass(c) and issubclass(c, kind) and c is not kind}


def bits(model):
    return {name: (array.dtype, array.tobytes()) for name, array in model.state_dict().items()}


def assert_same(loaded, model):
    assert repr(loaded) == repr(model) and loaded.dtype == model.dtype
    assert bits(loaded) == bits(model)
    x = np.random.default_rng(0).random((3, *model.input_shape))
    if isinstance(model.layers[0], fnn.Embedding):
        x = (9 * x).astype(int)
    assert loaded.predict(x).tobytes() == model.predict(x).tobytes()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda pair: repr(pair[0]))
def test_every_layer_comes_back(layer, tmp_path, backend):
    kind, shape = layer
    model = fnn.Sequential([copy.deepcopy(kind)], input_shape=shape, seed=2**64 - 1)
    model.save(tmp_path / "model")
    assert_same(fnn.load(tmp_path / "model"), model)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_every_loss_comes_back(loss, tmp_path):
    model = fnn.Sequential([fnn.Dense(2)], seed=0)
    x, y = np.eye(4), np.eye(4)[:, :2] + [[0, 0], [0, 0], [0, 1], [0, 1]]
    model.fit(x, y, loss=loss, verbose=0)
    model.save(tmp_path / "model")
    assert fnn.load(tmp_path / "model").evaluate(x, y) == model.evaluate(x, y)


def test_the_tables_are_whole():
    assert {type(layer) for layer, _ in LAYERS} == public(fnn.Layer)
    assert {type(loss) for loss in LOSSES} == public(fnn.Loss)


def test_a_loaded_model_trains_on_to_the_same_bits(tmp_path, backend, blobs):
    model = fnn.Sequential([fnn.Dense(8, "relu"), fnn.Dropout(0.1), fnn.Dense(2)], seed=0)
    model.fit(*blobs, verbose=0)
    model.save(tmp_path / "model")
    loaded = fnn.load(tmp_path / "model")
    for one in (model, loaded):
        one.fit(*blobs, optimizer="adam", epochs=2, verbose=0)
    assert bits(loaded) == bits(model)


@pytest.mark.parametrize(
    "options", [{"dtype": "float64"}, {"data_format": "channels_first"}], ids=str
)
def test_options_of_the_model_come_back(options, tmp_path):
    model = fnn.Sequential([fnn.Conv2D(3, 2)], input_shape=(2, 4, 5), **options)
    model.save(tmp_path / "model")
    assert_same(fnn.load(tmp_path / "model"), model)


def test_users_layers_need_custom_objects(tmp_path):
    model = fnn.Sequential([Scale(3.0)], input_shape=2)
    model.save(tmp_path / "model")
    with pytest.raises(fnn.FileFormatError, match=r"unknown class 'Scale'.*custom_objects"):
        fnn.load(tmp_path / "model")
    loaded = fnn.load(tmp_path / "model", custom_objects={"Scale": Scale})
    assert isinstance(loaded.layers[0], Scale) and loaded.layers[0].factor == 3.0
    for bad in (Scale, [Scale], {"Scale": Scale()}, {"Scale": dict}):
        with pytest.raises(TypeError, match="custom_objects"):
            fnn.load(tmp_path / "model", custom_objects=bad)


def test_the_safetensors_library_agrees(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    model = fnn.Sequential([fnn.Conv2D(3, 3), fnn.Flatten(), fnn.Dense(2)], input_shape=(5, 5, 1))
    model.save(tmp_path / "model")
    read = library.load_file(tmp_path / "model")
    assert read.keys() == model.state_dict().keys()
    for name, array in model.state_dict().items():
        assert np.array_equal(read[name], array)
    content = (tmp_path / "model").read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    library.save_file(read, tmp_path / "theirs", metadata=metadata)
    with files.TensorFile(tmp_path / "theirs") as file:
        assert {name: entry.shape for name, entry in file.entries.items()} == {
            name: array.shape for name, array in read.items()
        }


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Scale([1, {}]), TypeError, r"layer 0 \(Scale\): factor: got \{\}"),
        (Scale(len), TypeError, "factor: got <built-in"),
        (Scale(float("nan")), TypeError, "factor: got nan"),
        (type("Dense", (Scale,), {})(), ValueError, "the name of a fastnn class"),
        (type("Lost", (Scale,), {"__init__": lambda self, a: None})(1), ValueError, "self.a"),
        (type("Lost", (Scale,), {"__init__": lambda self, a=1: None})(2), ValueError, "self.a"),
    ],
    ids=["dict", "function", "nan", "name", "not kept", "not kept, with a default"],
)
def test_what_has_no_form_in_a_file(layer, error, message, tmp_path):
    layer.build = lambda shape: shape
    model = fnn.Sequential([layer], input_shape=2)
    with pytest.raises(error, match=message):
        model.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_models_that_cannot_be_saved(tmp_path):
    model = fnn.Sequential([fnn.Dense(2)])
    with pytest.raises(ValueError, match="no shapes yet"):
        model.save(tmp_path / "model")
    model.build(2)
    model.theta[0] = np.nan
    with pytest.raises(ValueError, match=r"weight 0\.w: got nan"):
        model.save(tmp_path / "model")
    for path in (None, 3, ["a"]):
        with pytest.raises(TypeError, match="path: got"):
            fnn.load(path)
    assert not os.listdir(tmp_path)


# ------------------------------------------------------------------------------ hostile files


def joined(header, data=b"", length=None):
    """The bytes of a file, written without any code of the package's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def sealed(header, data=b"", **metadata):
    """A file whose checksum is right, whatever its metadata and arrays say."""
    model = metadata.get("model", MODEL)
    model = model if isinstance(model, str) else json.dumps(model)
    crc = zlib.crc32(data, zlib.crc32(model.encode("utf-8", "surrogatepass")))
    known = {"format": "fastnn 1", "crc32": f"{crc:08x}", **metadata, "model": model}
    return joined({"__metadata__": known, **header}, data)


def layers(*found, **options):
    """The description of a model of these layers, each a class name and its options."""
    made = [{"class": name, "config": config} for name, config in found]
    loss = {"class": "CrossEntropy", "config": {}}
    return {
        "layers": made,
        "input_shape": [2],
        "seed": 0,
        "dtype": "float32",
        "loss": loss,
        "streams": 0,
    } | (options)


DENSE = layers(("Dense", {"units": 3}))
MODEL = json.dumps(DENSE)
ARRAYS = {"0.w": entry([2, 3], 0, 24), "0.b": entry([3], 24, 36)}
DATA = np.arange(9, dtype="<f4").tobytes()
GOOD = sealed(ARRAYS, DATA)
NAN = np.array([np.nan] * 9, "<f4").tobytes()
DEEP = 100_000


def nested(depth):
    value = {"class": "ReLU", "config": {}}
    for _ in range(depth):
        value = {"class": "Dense", "config": {"units": 3, "activation": value}}
    return value


def changed(name, **fields):
    return sealed(ARRAYS | {name: ARRAYS[name] | fields}, DATA)


def of(*found, **options):
    return sealed(ARRAYS, DATA, model=layers(*found, **options))


ATTACKS = {
    "empty": b"",
    "7 bytes": bytes(7),
    "8 zeros": bytes(8),
    "100 zeros": bytes(100),
    "text": b"not a model file, but a long enough text to have a header length",
    "pickle": b"\x80\x04\x95" + bytes(40),
    "zip": b"PK\x03\x04" + bytes(40),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "header of 2**63": joined(b"{}", length=2**63),
    "header of 2**64 - 1": joined(b"{}", length=2**64 - 1),
    "header one byte longer than the file": joined(b"{}", length=3),
    "header of 1": joined(b"{}", length=1),
    "header of 3 MiB": joined(b"{}" + b" " * 3 * MIB),
    "empty header": joined(b"{}"),
    "header is a list": joined(b"[]"),
    "header is a number": joined(b"17"),
    "header is null": joined(b"null"),
    "header is not closed": joined(GOOD[8:100]),
    "header is not UTF-8": joined(b'{"\xff": 1}'),
    "header is UTF-16": joined('{"a": 1}'.encode("utf-16")),
    "header begins with a mark": joined(b"\xef\xbb\xbf" + GOOD[8:]),
    "two values in the header": joined(b"{} {}"),
    "lists in lists": joined(b"[" * DEEP + b"]" * DEEP),
    "objects in objects": joined(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "a number of a million digits": joined(b'{"a":' + b"9" * (MIB - 100) + b"}"),
    "NaN in the header": joined(GOOD[8:].split(b"}}")[0][:-4] + b"NaN]}}"),
    "two arrays of one name": joined(
        json.dumps({"__metadata__": {}})[:-1].encode() + b', "a": {}, "a": {}}'
    ),
    "two metadata": joined(b'{"__metadata__": {}, "__metadata__": {}}'),
    "no metadata": joined(ARRAYS, DATA),
    "metadata are a list": joined({"__metadata__": [], **ARRAYS}, DATA),
    "metadata without format": joined({"__metadata__": {"model": MODEL}, **ARRAYS}, DATA),
    "metadata of PyTorch": joined({"__metadata__": {"format": "pt"}, **ARRAYS}, DATA),
    "a later version": sealed(ARRAYS, DATA, format="fastnn 2"),
    "metadata with more": sealed(ARRAYS, DATA, author="me"),
    "metadata that is no string": sealed(ARRAYS, DATA, crc32=5),
    "wrong checksum": sealed(ARRAYS, DATA, crc32="00000000"),
    "checksum of another model": GOOD.replace(b"units", b"unitz"),
    "a byte more": GOOD + b"\0",
    "a byte less": GOOD[:-1],
    "no data": sealed(ARRAYS),
    "array is a number": sealed(ARRAYS | {"0.b": 3}, DATA),
    "array with more fields": changed("0.b", extra=1),
    "array without shape": sealed(ARRAYS | {"0.b": {"dtype": "F32"}}, DATA),
    "dtype that is none": changed("0.b", dtype="F31"),
    "dtype that is a list": changed("0.b", dtype=["F32"]),
    "half precision": changed("0.b", dtype="F16", shape=[6]),
    "integers for weights": changed("0.b", dtype="I32"),
    "objects of Python": changed("0.b", dtype="O"),
    "shape is a number": changed("0.b", shape=3),
    "shape with -3": changed("0.b", shape=[-3]),
    "shape (-1, -3)": changed("0.b", shape=[-1, -3]),
    "shape with 3.0": changed("0.b", shape=[3.0]),
    "shape with true": changed("0.b", shape=[3, True]),
    "shape with 2**62": changed("0.b", shape=[2**62]),
    "shape that wraps to 3": changed("0.b", shape=[2**62 + 3]),
    "shape that wraps to 3 in 64 bits": changed("0.b", shape=[2**32, 2**32, 3]),
    "shape 0 x 2**62": changed("0.b", shape=[0, 2**62]),
    "shape of 33 axes": changed("0.b", shape=[3, *[1] * 32]),
    "shape of 100,000 axes": changed("0.b", shape=[2**48] * 50_000),
    "shape that the layer has not": changed("0.b", shape=[1, 3]),
    "transposed weight": changed("0.w", shape=[3, 2]),
    "offsets are one": changed("0.b", data_offsets=[24]),
    "offsets are three": changed("0.b", data_offsets=[24, 36, 48]),
    "offsets are strings": changed("0.b", data_offsets=["24", "36"]),
    "offsets are negative": changed("0.b", data_offsets=[-12, 0]),
    "offsets the other way": changed("0.b", data_offsets=[36, 24]),
    "offsets of 2**63": changed("0.b", data_offsets=[2**63 - 12, 2**63]),
    "offsets past the end": changed("0.b", data_offsets=[36, 48]),
    "arrays overlap": changed("0.b", data_offsets=[20, 32]),
    "arrays are one": changed("0.b", data_offsets=[0, 12]),
    "a gap between": sealed(
        {"0.w": ARRAYS["0.w"], "0.b": entry([3], 28, 40)}, DATA[:24] + bytes(4) + DATA[24:]
    ),
    "a gap before": sealed(
        {"0.w": entry([2, 3], 4, 28), "0.b": entry([3], 28, 40)}, bytes(4) + DATA
    ),
    "weight is missing": sealed({"0.w": ARRAYS["0.w"]}, DATA[:24]),
    "weights are missing": sealed({}),
    "one weight more": sealed(ARRAYS | {"1.w": entry([1], 36, 40)}, DATA + bytes(4)),
    "weight of another name": sealed({"0.w": ARRAYS["0.w"], "0.c": ARRAYS["0.b"]}, DATA),
    "weights are NaN": sealed(ARRAYS, NAN),
    "model is no JSON": sealed(ARRAYS, DATA, model="{"),
    "model is a list": sealed(ARRAYS, DATA, model=[]),
    "model is empty": sealed(ARRAYS, DATA, model={}),
    "model with half a character": sealed(ARRAYS, DATA, model='{"\ud800": 1}'),
    "model is deep": sealed(ARRAYS, DATA, model="[" * DEEP + "]" * DEEP),
    "model with more options": of(("Dense", {"units": 3}), more=1),
    "layers are none": of(),
    "layers are a string": of(layers="Dense"),
    "layers are numbers": of(layers=[1, 2]),
    "layer without options": of(layers=[{"class": "Dense"}]),
    "layer of a list as name": of(layers=[{"class": ["Dense"], "config": {}}]),
    "layer is a loss": of(("MeanSquaredError", {})),
    "layer is the base": of(("Layer", {})),
    "layer is a model": of(("Sequential", {"layers": []})),
    "layer is a callback": of(("CSVLogger", {"path": "/tmp/hostile"})),
    "layer is a function of fastnn": of(("load", {"path": "/etc/passwd"})),
    "layer is os.system": of(("os.system", {"command": "true"})),
    "layer is eval": of(("eval", {"source": "1"})),
    "layer is __import__": of(("__import__", {"name": "antigravity"})),
    "layer is __class__": of(("__class__", {})),
    "unknown option": of(("Dense", {"units": 3, "x": 1})),
    "option self": of(("Dense", {"self": 1, "units": 3})),
    "no option": of(("Dense", {})),
    "10**9 units": of(("Dense", {"units": 10**9})),
    "10**9 units twice": of(("Dense", {"units": 10**9}), ("Dense", {"units": 10**9})),
    "2**70 units": of(("Dense", {"units": 2**70})),
    "-3 units": of(("Dense", {"units": -3})),
    "units are text": of(("Dense", {"units": "3"})),
    "units are a layer": of(("Dense", {"units": {"class": "ReLU", "config": {}}})),
    "10**9 filters": of(("Conv2D", {"filters": 10**9, "kernel_size": 3}), input_shape=[9, 9, 9]),
    "image enlarged by 10**12": of(("UpSample2D", {"size": 10**6}), input_shape=[9, 9, 9]),
    "10**9 recurrent units": of(("LSTM", {"units": 10**9}), input_shape=[9, 9]),
    "orthogonal of 30,000": of(
        ("Dense", {"units": 30000, "kernel_initializer": {"class": "Orthogonal", "config": {}}}),
        input_shape=[30000],
    ),
    "rate is NaN": sealed(ARRAYS, DATA, model=MODEL.replace('"units": 3', '"rate": NaN')),
    "rate of 400 digits": of(("Dropout", {"rate": 10**400}), ("Dense", {"units": 3})),
    "layers in layers": of(layers=[nested(400)]),
    "two seeds": sealed(ARRAYS, DATA, model=MODEL[:-1] + ', "seed": 5}'),
    "dtype of many fields": of(("Dense", {"units": 3}), dtype="f4," * 300_000),
    "input shape is huge": of(("Dense", {"units": 3}), input_shape=[2**62]),
    "input shape has 10,000 axes": of(("Dense", {"units": 3}), input_shape=[2] * 10_000),
    "input shape is none": of(("Dense", {"units": 3}), input_shape=None),
    "seed is text": of(("Dense", {"units": 3}), seed="0"),
    "seed is negative": of(("Dense", {"units": 3}), seed=-1),
    "dtype is text": of(("Dense", {"units": 3}), dtype="float99"),
    "dtype is object": of(("Dense", {"units": 3}), dtype="O"),
    "dtype is float64": of(("Dense", {"units": 3}), dtype="float64"),
    "loss is a layer": of(("Dense", {"units": 3}), loss={"class": "ReLU", "config": {}}),
    "loss is missing": sealed(ARRAYS, DATA, model={k: v for k, v in DENSE.items() if k != "loss"}),
}


@contextlib.contextmanager
def memory_of(size):
    """Fail if what runs inside holds more than a file of this size may cost."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= 2 * size + 32 * MIB
    finally:
        tracemalloc.stop()


def refused(path):
    with memory_of(os.path.getsize(path)), pytest.raises(fnn.FileFormatError) as caught:
        fnn.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_files_of_the_attacks_differ_from_a_good_one(tmp_path):
    (tmp_path / "good").write_bytes(GOOD)
    model = fnn.load(tmp_path / "good")
    assert model.state_dict()["0.b"].tolist() == [6, 7, 8]
    assert len(ATTACKS) >= 60 and GOOD not in ATTACKS.values()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack, tmp_path):
    (tmp_path / "file").write_bytes(ATTACKS[attack])
    refused(tmp_path / "file")


@pytest.mark.parametrize(("size", "what"), [(0, "it is empty"), (9, "only 9 bytes")])
def test_a_file_without_a_header(size, what, tmp_path):
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(fnn.FileFormatError, match=f"not a model file: {what}, expected at least"):
        fnn.load(tmp_path / "file")


def test_not_a_file(tmp_path):
    with pytest.raises(IsADirectoryError):
        fnn.load(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "regular" in refused(tmp_path / "fifo")  # and does not wait for a writer
    for name in ("nothing", "nothing/deeper", "x" * 300):
        with pytest.raises(OSError):
            fnn.load(tmp_path / name)
    with pytest.raises(ValueError, match="null"):
        fnn.load("a\0b")


def test_truncation_at_every_offset(tmp_path):
    path = tmp_path / "file"
    model = fnn.Sequential([fnn.Dense(3, "relu"), fnn.Dense(2)], input_shape=2)
    model.save(path)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(fnn.FileFormatError):
            fnn.load(path)


def test_memory_of_an_intact_file(tmp_path):
    fnn.Sequential([fnn.Dense(4096)], input_shape=2048).save(tmp_path / "model")
    with memory_of(os.path.getsize(tmp_path / "model")):
        fnn.load(tmp_path / "model")


def test_memory_of_the_longest_headers(tmp_path):
    many = [("ReLU", {})] * 20_000
    for content in (
        sealed({}, model=layers(*many)),
        joined(b'{"a":[' + b"[]," * (MIB // 3 - 10) + b"1]}"),
        joined(b"{" + b",".join(b'"%x":{}' % i for i in range(100_000)) + b"}"),
    ):
        (tmp_path / "file").write_bytes(content)
        with memory_of(len(content)), contextlib.suppress(fnn.FileFormatError):
            fnn.load(tmp_path / "file")


def mutated(rng, header, data):
    """A file with some changes, most of them in its meaning, with a right checksum or not."""
    header = json.loads(json.dumps(header))
    numbers = [0, 1, -1, 2, 3, 4, 24, 36, 2**31, 2**32, 2**62, 2**63, 2**64, 1e9, 1.5, 10**400]
    words = [None, True, "", "F32", "F64", "Dense", "ReLU", "float64", [], {}, [2], [[2]]]

    def spoil(value):
        if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
            key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
            action = rng.random()
            if action < 0.1:
                del value[key]
            elif action < 0.2 and isinstance(value, dict):
                value[rng.choice(["0.w", "1.b", "class", "units", "seed", "x"])] = value[key]
            elif action < 0.2:
                value.append(value[key])
            else:
                value[key] = spoil(value[key])
            return value
        return copy.deepcopy(rng.choice(numbers + words))

    for _ in range(rng.choice([0, 1, 1, 2])):
        spoil(header)
    model = header.get("model", MODEL)
    arrays = header.get("arrays", {})
    arrays = arrays if isinstance(arrays, dict) else {"0.w": arrays}
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data))] + rng.randbytes(rng.randrange(20))
    content = bytearray(sealed(arrays, data, model=model))
    for _ in range(rng.choice([0, 0, 1, 1, 3])):
        at = rng.randrange(len(content))
        action = rng.randrange(5)
        if action == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del content[at : at + rng.choice([1, 1, 8, len(content)])]
        elif action == 2:
            content[at:at] = rng.randbytes(rng.randrange(9))
        elif action == 3:
            content[at:at] = content[at : at + rng.randrange(40)]
        else:
            content[at] = rng.choice(b'{}[],:"0987654321-eE \0\xff')
        content = content or bytearray(1)
    return bytes(content)


def test_mutated_files(tmp_path):
    rng = random.Random(5)
    path = tmp_path / "mutant"
    seeds = []
    for made, shape in (
        ([fnn.Dense(3, "relu"), fnn.Dropout(0.5), fnn.Dense(2)], 2),
        ([fnn.Conv2D(2, 2, kernel_regularizer="l1"), fnn.MaxPool2D(2), fnn.Flatten()], (5, 5, 1)),
        ([fnn.LSTM(2, True), fnn.GRU(2, bidirectional=True)], (4, 2)),
    ):
        fnn.Sequential(made, input_shape=shape, seed=1).save(path)
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        model = json.loads(header.pop("__metadata__")["model"])
        seeds.append(({"arrays": header, "model": model}, content[end:]))
    intact = 0
    tracemalloc.start()
    try:
        for _ in range(FUZZ):
            content = mutated(rng, *rng.choice(seeds))
            # Overwritten in place: emptying a file first makes some file systems flush it.
            with open(path, "r+b") as file:
                file.write(content)
                file.truncate()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                model = fnn.load(path)
            except fnn.FileFormatError as error:
                assert str(path) in str(error)
            else:
                assert all(np.isfinite(array).all() for array in model.state_dict().values())
                intact += 1
            assert tracemalloc.get_traced_memory()[1] - before <= 2 * len(content) + 32 * MIB
    finally:
        tracemalloc.stop()
    assert FUZZ // 50 < intact < FUZZ // 2  # the mutants are neither all broken nor all intact


# ------------------------------------------------------------------------------ saving


@pytest.fixture
def two():
    """Two models of one kind, whose files have the same size."""
    return [fnn.Sequential([fnn.Dense(200)], input_shape=300, seed=seed) for seed in (1, 2)]


FAILURES = {
    "disk full": ("fsync", OSError(errno.ENOSPC, "No space left on device")),
    "quota": ("fchmod", OSError(errno.EDQUOT, "Disk quota exceeded")),
    "read-only file": ("replace", OSError(errno.EACCES, "Permission denied")),
    "Ctrl-C": ("fsync", KeyboardInterrupt()),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_the_old_file_and_nothing_else(failure, two, tmp_path, monkeypatch):
    path = tmp_path / "model"
    two[0].save(path)
    function, error = FAILURES[failure]

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(type(error)) as caught:
            two[1].save(path)
    if isinstance(error, OSError):
        assert caught.value.errno == error.errno and caught.value.filename == str(path)
        assert f"{error.strerror}; nothing was written" in str(caught.value)
    assert os.listdir(tmp_path) == ["model"]
    assert bits(fnn.load(path)) == bits(two[0])


def test_a_disk_that_takes_only_a_part(two, tmp_path):
    path = tmp_path / "model"
    two[0].save(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large; nothing was written"):
            two[1].save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["model"]
    assert bits(fnn.load(path)) == bits(two[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(two, tmp_path):
    path = tmp_path / "model"
    two[0].save(path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="nothing was written"):
            two[1].save(path)
    finally:
        tmp_path.chmod(0o700)
    assert bits(fnn.load(path)) == bits(two[0])


def test_places_that_take_no_file(two, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo"):
        with pytest.raises(FileExistsError, match="not a regular file"):
            two[0].save(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nothing was written"):
        two[0].save(tmp_path / "nowhere" / "model")
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder"]


def test_permissions_and_links(two, tmp_path):
    path, link = tmp_path / "model", tmp_path / "link"
    before = os.umask(0o027)
    try:
        two[0].save(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o604)
    link.symlink_to("model")
    two[1].save(link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o604
    assert bits(fnn.load(path)) == bits(two[1])
    two[0].save(tmp_path / ("x" * 255))
    assert bits(fnn.load(tmp_path / ("x" * 255))) == bits(two[0])


def test_orphans_of_killed_processes_are_swept(two, tmp_path):
    kept = [tmp_path / f".model.{os.getpid()}-00000000.part", tmp_path / ".other.1-00000000.part"]
    gone = tmp_path / f".model.{2**22 + 1}-00000000.part"  # more than Linux ever numbers
    for path in (*kept, gone):
        path.touch()
    two[0].save(tmp_path / "model")
    assert not gone.exists() and all(path.exists() for path in kept)


def test_threads_save_to_one_file(two, tmp_path):
    path = tmp_path / "model"

    def save(model):
        for _ in range(10):
            model.save(path)

    threads = [threading.Thread(target=save, args=(model,)) for model in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bits(fnn.load(path)) in [bits(model) for model in two]
    assert os.listdir(tmp_path) == ["model"]


def test_killed_while_saving(two, tmp_path):
    path, rng = tmp_path / "model", random.Random(0)
    two[0].save(path)
    want, seen = [bits(model) for model in two], set()
    for _ in range(KILLS):
        child = os.fork()
        if not child:
            try:
                while True:
                    for model in reversed(two):
                        model.save(path)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.001, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        seen.add(want.index(bits(fnn.load(path))))
    assert seen == {0, 1}
    two[0].save(path)
    assert os.listdir(tmp_path) == ["model"]
