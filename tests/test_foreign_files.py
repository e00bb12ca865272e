"""A file that bears our checksum may still be a stranger's: nothing but its own bytes is read, and no more than fits.

What else could go wrong: arrays whose numbers lie in another file, whole or in part; links within, to another place,
another file or in circles; groups; arrays larger than memory; attributes that cannot be read; texts without an end.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import nnflow
from nnflow.results import _seal

SECRET = "secret.bin"


def external(file: h5py.File) -> None:
    file.create_dataset("x", (10,), "f8", external=[(SECRET, 8, 80)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(10,), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(10,))
    file.create_virtual_dataset("x", layout)


def soft(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/y")


def outside(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def circle(file: h5py.File) -> None:
    file.create_group("x")["again"] = file["/"]


def huge(file: h5py.File) -> None:
    file.create_dataset("x", (10**15,), "f8", chunks=(10,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external, "another file"),
        (virtual, "another file"),
        (soft, "is a link"),
        (outside, "is a link"),
        (circle, "is no array"),
        (huge, "memory"),
    ],
)
def test_only_the_file_itself_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[h5py.File], None], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.arange(12.0).tofile(SECRET)
    with h5py.File("other.h5", "w") as other:
        other["x"] = np.arange(10.0)
    content = BytesIO()
    with h5py.File(content, "w") as file:
        file["y"] = np.zeros(10)
        make(file)
    Path("a.nc").write_bytes(content.getvalue() + _seal(content.getvalue()))
    with pytest.raises(nnflow.Refusal, match=message) as caught:
        nnflow.load("a.nc")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_is_damaged_and_sealed_again_leaves_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An attribute of the root that HDF5 cannot read: the reader failed half made, and again as it was thrown away."""
    nnflow.save(xr.Dataset(attrs={"analysis": "series"}), tmp_path / "a.nc")
    content = (tmp_path / "a.nc").read_bytes()[: -len(_seal(b""))]
    refused = 0
    for at in range(0, len(content), 23):
        damaged = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        (tmp_path / "a.nc").write_bytes(damaged + _seal(damaged))
        try:
            nnflow.load(tmp_path / "a.nc")
        except nnflow.Refusal:
            refused += 1
    assert refused > 3
    assert not capsys.readouterr().err


def test_texts_in_a_picture_have_an_end() -> None:
    found = nnflow.run("series", nnflow.maps["logistic"](), steps=20)
    long = "x " * 1_500_000
    figure = nnflow.plot(found.assign_attrs(map=long))
    figure.savefig(BytesIO())
    assert len(figure.axes[0].get_title()) < 300
    plt.close(figure)


def test_a_library_that_does_not_come_back_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 turns in circles in some files that were made to that end; a child tries first, and has its time."""

    def turn(content: bytes, own: bool) -> None:
        while True:
            pass

    nnflow.save(nnflow.run("series", nnflow.maps["henon"](), steps=5), tmp_path / "out.nc")
    monkeypatch.setattr("nnflow.results._check_whole", turn)
    monkeypatch.setattr("nnflow.results.SECONDS", 1)
    with pytest.raises(nnflow.Refusal, match="crashes, or does not come back"):
        nnflow.load(tmp_path / "out.nc")
