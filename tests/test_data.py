"""Splits are seeded and stratified; drawn problems are what they say; files are read whole, or refused and why."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from nnflow import data
from nnflow.data import files

# -------------------------------------------------------------------------------------------------------------- splits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=60), st.floats(0, 0.9), st.integers(0, 9))
def test_every_row_is_in_one_part_and_classes_keep_their_shares(labels: list[int], test: float, seed: int) -> None:
    rows, y = np.arange(len(labels), dtype=float)[:, None], np.array(labels)
    if round(test * len(y)) >= len(y):
        return
    split = data.split_rows(rows, y, test, seed)
    assert sorted(np.concatenate([split.inputs, split.test_inputs])[:, 0].tolist()) == rows[:, 0].tolist()
    assert len(split.test_targets) == round(test * len(y))
    for part, targets in ((split.inputs, split.targets), (split.test_inputs, split.test_targets)):
        assert np.array_equal(y[part[:, 0].astype(int)], targets)
    for label in set(labels):
        share = len(split.test_targets) * labels.count(label) / len(labels)
        assert abs(np.sum(split.test_targets == label) - share) < 1


def test_a_split_belongs_to_its_seed() -> None:
    first, again, other = (data.digits(seed=seed).inputs for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("load", "shape", "classes"),
    [
        (data.iris, (150, 4), 3),
        (data.digits, (1797, 64), 10),
        (data.wine, (178, 13), 3),
        (data.breast_cancer, (569, 30), 2),
    ],
)
def test_shipped_tables(load: Any, shape: tuple[int, int], classes: int) -> None:
    split = load(scale="raw")
    assert (len(split.inputs) + len(split.test_inputs), split.inputs.shape[1]) == shape
    assert sorted(set(split.targets.tolist())) == list(range(classes))
    assert split.targets.dtype == np.int64
    ratio = np.bincount(split.test_targets) / np.bincount(split.targets)
    np.testing.assert_allclose(ratio, 0.25, atol=0.03)
    standard, unit = load(scale="standard").inputs, load(scale="unit")
    moving = np.ptp(split.inputs, axis=0) > 0
    np.testing.assert_allclose(standard.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(standard.std(axis=0), moving * 1.0, atol=1e-12)
    assert (unit.inputs.min(), unit.inputs.max()) == (0.0, 1.0)
    np.testing.assert_allclose(load(test=0.0, scale="unit").inputs.max(), 1.0)
    assert load(test=0.0).test is None


def test_test_rows_are_scaled_as_the_training_rows_are() -> None:
    raw, standard = data.iris(scale="raw"), data.iris(scale="standard")
    expected = (raw.test_inputs - raw.inputs.mean(axis=0)) / raw.inputs.std(axis=0)
    np.testing.assert_allclose(standard.test_inputs, expected, rtol=1e-12)
    assert np.array_equal(data.digits(scale="unit").inputs * 16, data.digits(scale="raw").inputs)


# ------------------------------------------------------------------------------------------------------ drawn problems


def test_two_gaussians_have_the_known_error() -> None:
    split = data.two_gaussians(40_000, features=3, distance=2.0, test=0.5, seed=1)
    found = LinearDiscriminantAnalysis().fit(*split.train).score(*split.test)
    assert found == pytest.approx(ndtr(1.0), abs=4 * math.sqrt(0.16 * 0.84 / 20_000))


def test_chebyshev_values_are_those_of_numpy() -> None:
    split = data.chebyshev(5, samples=41, test=0.25)
    expected = np.polynomial.Chebyshev.basis(5)(split.inputs)
    np.testing.assert_allclose(split.targets, expected, atol=1e-14)
    x = np.sort(np.concatenate([split.inputs, split.test_inputs])[:, 0])
    np.testing.assert_allclose(x, np.linspace(-1, 1, 41), atol=1e-15)
    noisy = data.chebyshev(0, samples=2000, noise=0.1)
    assert np.std(noisy.targets) == pytest.approx(0.1, rel=0.1)
    with pytest.raises(ValueError, match="degree = -1"):
        data.chebyshev(-1)


def test_a_teacher_is_a_network_of_unit_scale() -> None:
    split = data.teacher_student(3000, features=20, hidden=50, outputs=2, test=0.1, seed=3)
    assert split.inputs.shape == (2700, 20)
    assert split.targets.shape == (2700, 2)
    assert 0.3 < split.targets.std() < 1.0  # ⟨tanh² z⟩ = 0.39 for z ~ N(0, 1)
    noisy = data.teacher_student(3000, features=20, hidden=50, outputs=2, noise=0.5, test=0.1, seed=3)
    assert np.std(noisy.targets - split.targets) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("draw", [data.moons, data.blobs, data.two_gaussians, data.teacher_student])
def test_drawn_problems_belong_to_their_seed(draw: Any) -> None:
    first, again, other = (draw(seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.inputs, other.inputs)
    assert np.isfinite(first.inputs).all()


def test_blobs_and_moons_have_their_classes() -> None:
    blobs = data.blobs(100, classes=4, features=3, spread=1e-3, test=0.0)
    assert blobs.inputs.shape == (100, 3)
    assert all(blobs.inputs[blobs.targets == c].std(axis=0).max() < 2e-3 for c in range(4))
    moons = data.moons(50, noise=0.0, test=0.0)
    assert np.bincount(moons.targets).tolist() == [25, 25]
    outer = moons.inputs[moons.targets == 0]
    np.testing.assert_allclose(np.linalg.norm(outer, axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.split_rows([[1.0]] * 3, [0, 1]), "3 inputs and 2 targets"),
        (lambda: data.split_rows([[1.0]] * 3, [0, 1, 0], test=1.0), "test = 1.0"),
        (lambda: data.split_rows([[1.0]] * 3, [0, 1, 0], test=0.9), "test = 0.9"),
        (lambda: data.iris(scale="log"), "scale = 'log': give one of raw, unit, standard"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------------------------------------------- images


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


IMAGES, LABELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28)), np.array([3, 0, 9, 1, 1])


@pytest.fixture
def digits_folder(tmp_path: Path) -> Path:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[:2])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:2])))
    return tmp_path


def test_mnist_is_read_plain_and_gzipped(digits_folder: Path) -> None:
    raw = files.mnist(digits_folder, pixels="raw", flat=False)
    assert np.array_equal(raw.inputs, IMAGES[:, None])
    assert raw.inputs.dtype == np.float64
    unit = files.fashion_mnist(digits_folder)
    assert np.array_equal(unit.inputs, IMAGES.reshape(5, 784) / 255)
    assert unit.targets.tolist() == LABELS.tolist()
    assert unit.test_targets.tolist() == LABELS[:2].tolist()
    with pytest.raises(ValueError, match="pixels = 'grey'"):
        files.mnist(digits_folder, pixels="grey")


@pytest.mark.parametrize("code", files.IDX_TYPES)
def test_idx_of_every_type(tmp_path: Path, code: int) -> None:
    kind = np.dtype(files.IDX_TYPES[code])
    values = np.array([[1, 2, 3], [4, 5, 6]], kind)
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, code, 2]) + np.array([2, 3], ">u4").tobytes() + values.tobytes())
    assert files.read_idx(path).tolist() == values.tolist()


def test_broken_image_files_are_refused(digits_folder: Path) -> None:
    images, labels = digits_folder / "train-images-idx3-ubyte", digits_folder / "train-labels.idx1-ubyte"
    packed = digits_folder / "t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes(), labels.read_bytes(), packed.read_bytes()
    for path, content, message in [
        (images, whole[0][:-3], "images-idx3-ubyte is truncated: it has 3933 bytes, and its header says 3936"),
        (images, whole[0] + b"x", "is too long: it has 3937 bytes"),
        (images, whole[0][:9], "is truncated: it has 9 bytes, and its header says 16"),
        (images, b"PNG?", "is no IDX file: it begins with 50 4e 47 3f"),
        (images, b"", "is no IDX file: it begins with nothing"),
        (images, idx(IMAGES[:4]), "do not belong together"),
        (labels, idx(LABELS + 1), "label 10 of row 2, but there are only 10 classes"),
        (packed, whole[2][:-20], "truncated or broken gzip"),
    ]:
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            files.mnist(digits_folder)
        path.write_bytes(before)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="holds none of train-labels-idx1-ubyte, .*train-labels.idx1-ubyte.gz"):
        files.mnist(digits_folder)


def test_cifar10(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = rng.integers(0, 256, (12, files.RECORD)).astype(np.uint8)
    records[:, 0] = np.arange(12) % 10
    for i in range(5):
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(records[2 * i : 2 * i + 2].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[10:].tobytes())
    split = files.cifar10(tmp_path, pixels="raw")
    assert split.inputs.shape == (10, 3, 32, 32)
    assert split.inputs[4, 2, 31, 30] == records[4, 1 + 2 * 1024 + 31 * 32 + 30]
    assert split.targets.tolist() == list(range(10))
    assert np.array_equal(files.cifar10(tmp_path, flat=True).test_inputs, records[10:, 1:] / 255)
    (tmp_path / "data_batch_3.bin").write_bytes(records[:2].tobytes()[:-1])
    with pytest.raises(ValueError, match="data_batch_3.bin is truncated: 6145 bytes are no whole number of records"):
        files.cifar10(tmp_path)
    records[0, 0] = 10
    (tmp_path / "data_batch_3.bin").write_bytes(records[:2].tobytes())
    with pytest.raises(ValueError, match="label 10 of row 0"):
        files.cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match="does not hold data_batch_3.bin"):
        files.cifar10(tmp_path)


# --------------------------------------------------------------------------------------------------------------- tables


def read(tmp_path: Path, text: str, **settings: Any) -> data.Split:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return files.table(path, test=0.0, **settings)


def in_order(split: data.Split) -> list[list[float]]:
    return sorted(np.column_stack([split.inputs, split.targets]).tolist())


def test_tables_with_and_without_a_header(tmp_path: Path) -> None:
    text = "a,b,kind\n1,2.5,yes\n3,4,no\n5,6,yes\n"
    split = read(tmp_path, text)
    assert in_order(split) == [[1, 2.5, 1], [3, 4, 0], [5, 6, 1]]
    assert split.targets.dtype == np.int64
    values = read(tmp_path, "1;2\n".replace(";", ",") + "3,4.5\n")
    assert values.targets.shape == (2, 1)
    assert in_order(values) == [[1, 2], [3, 4.5]]
    named = read(tmp_path, text.replace("yes", "7").replace("no", "2"), target="kind", classes=False)
    assert in_order(named) == [[1, 2.5, 7], [3, 4, 2], [5, 6, 7]]
    first = read(tmp_path, "0.5,1\n2.5,3\n2.5,4\n", target=0, classes=True)
    assert in_order(first) == [[1, 0], [3, 1], [4, 1]]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "t.csv is empty"),
        ("a,b\n1,2\n3\n", {}, "line 3: 1 columns, but 2 in the first line"),
        ("a,b,c\n1,x,2\n", {}, "line 2, column 1: 'x' where a finite number"),
        ("a,b,c\n1,,2\n", {}, "line 2, column 1: nothing where a finite number"),
        ("a,b,c\n1,nan,2\n", {}, "line 2, column 1: 'nan' where a finite number"),
        ("a,b\n1,2\n", {"target": "bb"}, "unknown column of .*t.csv 'bb'. Did you mean 'b'"),
        ("1,2\n", {"target": "b"}, "has no header, so give the index"),
        ("1,2\n", {"target": 2}, "target = 2: .*t.csv has 2 columns"),
        ("a,b\n1,x\n", {"classes": False}, "holds words"),
        ("a,b\n1,inf\n", {}, "values that are not finite"),
        ("0,5;0\n0,7;1\n", {}, "line 1: semicolons seem to part the cells"),
        ("b;c;label\n0.5;1;2\n", {}, "line 1: semicolons"),
        ("b\tc\tlabel\n0.5\t1\t2\n", {}, "line 1: tabs"),
        ("b,c\n0.5,1\n0.5,1;2\n", {}, "line 3: semicolons"),
        ("0.5 1 2\n", {}, "line 1: spaces"),
        ("label\nyes\nno\n", {}, "one column only"),
        ("1\n2\n", {}, "one column only"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, text: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, **settings)


@pytest.mark.parametrize("head", ["# made by hand\n", "# made by hand, in May\n# twice\na,b\n", "#a,b\n", "# a,b\n"])
def test_comments_before_a_table(tmp_path: Path, head: str) -> None:
    split = read(tmp_path, f"{head}0.5,1\n0.7,2.5\n", **({"target": "a"} if "a,b" in head else {"target": 0}))
    assert in_order(split) == [[1, 0.5], [2.5, 0.7]]


def test_npz_files(tmp_path: Path) -> None:
    path, x, y = tmp_path / "a.npz", np.arange(20.0).reshape(10, 2), np.arange(10) % 2
    np.savez(path, x=x, y=y)
    split = files.arrays(path, test=0.2)
    assert (len(split.inputs), np.bincount(split.test_targets).tolist()) == (8, [1, 1])
    np.savez(path, inputs=x, targets=y, test_inputs=x[:3], test_targets=y[:3])
    assert len(files.arrays(path).test_inputs) == 3
    np.savez(path, x=x)
    with pytest.raises(ValueError, match="holds x: name the arrays inputs and targets"):
        files.arrays(path)
    np.savez(path, x=np.where(x > 3, np.nan, x), y=y)
    with pytest.raises(ValueError, match="inputs of float64 holds what is no finite number"):
        files.arrays(path)
