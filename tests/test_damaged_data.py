"""Data files of one's own: an index is no feature, nothing missing becomes a class, damage is refused.

What else could go wrong: the index that pandas writes, a column "Id"; a label that is missing; two columns of one name;
arrays that are left unread; a compressed file with a changed byte; text in another encoding.
"""

from __future__ import annotations

import gzip
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nnflow
from nnflow.data.files import arrays, read_idx, table


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (",a,y\n0,.5,u\n1,.6,v\n2,.7,u\n", -1, "counts the rows"),
        ("Id,a,y\n1,.5,u\n2,.6,v\n3,.7,u\n", "y", "'Id' counts the rows"),
        ("0,.5,u\n1,.6,v\n2,.7,u\n", -1, "counts the rows"),
        ("a,y\n.5,u\n.6,\n.7,v\n", -1, "line 3: the target is missing"),
        ("a,y\n.5,1\n.6,nan\n.7,2\n", -1, "line 3: the target is missing"),
        ("a,y,y\n.5,1,2\n.6,1,2\n", "y", "two columns 'y'"),
        ("a,y\n1_0,u\n.5,v\n", -1, "'1_0' where a finite number is needed"),
        ("a,y\n,u\n.5,v\n", -1, "nothing where a finite number is needed"),
    ],
)
def test_a_table_is_not_guessed_at(tmp_path: Path, text: str, target: Any, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "a.csv", target)


def test_a_table_that_pandas_wrote_without_its_index_is_read(tmp_path: Path) -> None:
    pd.DataFrame({"a": [0.5, 0.6, 0.7, 0.9], "y": list("uvuv")}).to_csv(tmp_path / "a.csv", index=False)
    split = table(tmp_path / "a.csv", test=0.0)
    assert sorted(split.inputs.ravel().tolist()) == [0.5, 0.6, 0.7, 0.9]
    (tmp_path / "a.csv").write_bytes("gröÿe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(nnflow.Refusal, match=r"a\.csv cannot be read as a table"):
        table(tmp_path / "a.csv")


@pytest.mark.parametrize("names", [("inputs",), ("inputs", "targets", "test_inputs"), ("inputs", "targets", "x"),
                                   ("inputs", "targets", "weights"), ()])  # fmt: skip
def test_no_array_of_an_archive_is_left_unread(tmp_path: Path, names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, np.arange(6.0)))  # type: ignore[arg-type]
    with pytest.raises(nnflow.Refusal, match="name the arrays inputs and targets"):
        arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_archives_are_refused(tmp_path: Path, compressed: bool) -> None:
    x, path = np.random.default_rng(0).normal(size=(20, 2)), tmp_path / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, inputs=x, targets=np.arange(20) % 2)
    whole, draw = path.read_bytes(), random.Random(1)
    before = arrays(path, test=0.0)
    for _ in range(200):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content[: draw.choice([None, None, draw.randrange(len(content))])])
        with suppress(nnflow.Refusal, ValueError):
            found = arrays(path, test=0.0)
            np.testing.assert_array_equal(found.inputs, before.inputs)
            np.testing.assert_array_equal(found.targets, before.targets)


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    path, draw = tmp_path / "a.gz", random.Random(2)
    pixels = bytes(draw.randbytes(400))
    whole = gzip.compress(b"\0\0\x08\x02" + (20).to_bytes(4, "big") * 2 + pixels)
    for _ in range(200):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        with suppress(ValueError):
            assert read_idx(path).tobytes() == pixels
