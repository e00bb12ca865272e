"""The reference study at a small size: the physics of each experiment, the page, and resuming."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from nnflow_studies.danovski2024 import chaos, intermittency, low_rate, rates, report, study
from nnflow_studies.danovski2024.experiment import Data, Experiment, Picture, Row, Scale, between, figure, near
from nnflow_studies.danovski2024.study import Danovski2024

import nnflow

QUICK = Scale(quick=True, seed=1)


def made(experiment: Experiment, *names: str) -> Data:
    """Some parts of an experiment, or all of them."""
    return {name: experiment.parts[name](QUICK) for name in names or experiment.parts}


def checked(experiment: Experiment, data: Data) -> dict[str, Row]:
    """Its rows by name, after a look at its pictures: each has words, axes and labels."""
    import matplotlib.pyplot as plt

    for picture in experiment.draw(data, QUICK):
        assert picture.title
        assert picture.caption.endswith(".")
        for axes in picture.figure.axes:
            assert axes.has_data() or axes.get_label() == "<colorbar>"
        assert any(axes.get_xlabel() for axes in picture.figure.axes)
        plt.close(picture.figure)
    rows = list(experiment.compare(data, QUICK))
    assert len({row.quantity for row in rows}) == len(rows)
    return {row.quantity: row for row in rows}


@pytest.mark.slow
def test_at_a_low_rate_nothing_grows_exponentially() -> None:
    data = made(low_rate.E1)
    rows = checked(low_rate.E1, data)
    d = data["states"].distance.mean("perturbation")
    rate = np.log(d.sel(time=5000) / d.sel(time=1000)) / 4000
    assert float(abs(rate).max()) < 1e-3  # at η = 1 it is 0.2
    assert (d.sel(time=5000) < 100 * low_rate.SIZE * 70).all()
    unresolved = data["sizes"].unresolved.mean("init")
    assert unresolved.sel(size=1e-15, method="nearest") == 1
    assert unresolved.sel(size=1e-12, method="nearest") == 0
    assert [name for name, row in rows.items() if not row.agrees] == []


@pytest.mark.slow
def test_a_trained_network_is_marginally_stable() -> None:
    rows = checked(low_rate.E2, made(low_rate.E2))
    assert [name for name, row in rows.items() if not row.agrees] == []


@pytest.mark.slow
def test_at_rate_one_neighbours_separate_and_the_fit_is_biased() -> None:
    data = made(chaos.E3)
    rows = checked(chaos.E3, data)
    d = data["distances"].distance.mean("perturbation").median("init")
    assert float(d.sel(time=150)) > 1e4 * float(d.sel(time=0))
    counted = data["fits"].sel(size=1e-8)
    fitted = float(counted.exponent.where(counted.counted).mean())
    assert fitted > float(data["tangent"].exponent.mean()) + 0.03
    assert float(data["two_orbits"].exponent.mean()) == pytest.approx(float(data["tangent"].exponent.mean()), abs=0.02)
    late = data["lasting"].exponent.isel(index=0)
    assert float(late.isel(time=0).median()) > 0.1 > 100 * float(abs(late.isel(time=5).median()))
    assert sum(not row.agrees for row in rows.values()) <= 2


@pytest.mark.slow
def test_at_rate_five_the_network_sits_on_attractors_of_the_softmax_map() -> None:
    data = made(intermittency.E4)
    rows = checked(intermittency.E4, data)
    ends = data["collapse"].sel(eta=slice(3, None))
    assert float(ends.matched.mean()) > 0.7
    whole = ends.kappa / ends.eta - 1
    assert float(abs(whole - whole.round()).where(ends.matched).median()) < 1e-3  # κ = η(1 + n)
    assert float(data["plateaus"].plateau_share.median()) > 0.5
    assert sum(not row.agrees for row in rows.values()) <= 3


@pytest.mark.slow
def test_digits_learn_fastest_where_chaos_sets_in() -> None:
    data = made(rates.E5)
    rows = checked(rates.E5, data)
    growth = rates.growth(data["digits_growth"]).median("init")
    assert float(abs(growth.sel(eta=0.1))) < 0.01 < 0.3 < float(growth.sel(eta=2.5))
    time = rates.training_time(data["digits_learning"]).median("init")
    assert float(time.idxmin()) == 1.0
    assert np.isnan(time.sel(eta=[0.1, 5.0])).all()
    assert sum(not row.agrees for row in rows.values()) <= 3


# ---------------------------------------------------------------------------------------------------- small experiments


def tiny(calls: list[str], fail: bool = False) -> Experiment:
    """An experiment of two small parts that notes when they are made."""

    def part(name: str) -> Callable[[Scale], xr.Dataset]:
        def make(scale: Scale) -> xr.Dataset:
            calls.append(name)
            if fail and name == "second":
                raise KeyboardInterrupt
            ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2, seed=scale.seed)
            return nnflow.run("lyapunov_spectrum", ensemble, progress=False, steps=scale(500, 100))

        return make

    def compare(data: Data, scale: Scale) -> list[Row]:
        value = float(data["first"].exponent.sum("index").mean())
        return [near("Σλ <of Hénon>", float(np.log(0.3)), 1e-6, value, "exact"), between("none", 1, 2, 0.5, "fig")]

    def draw(data: Data, scale: Scale) -> list[Picture]:
        fig, axes = figure()
        axes.plot([0, 1])
        return [Picture("line", "A line", "It rises.", fig)]

    return Experiment("E1", "Tiny", "Small.", {"first": part("first"), "second": part("second")}, compare, draw)


def test_it_resumes_after_an_interruption_and_redoes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(study, "EXPERIMENTS", (tiny(calls, fail=True),))
    with pytest.raises(KeyboardInterrupt):
        Danovski2024(out=tmp_path, quick=True)()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["E1-first.nc"]
    monkeypatch.setattr(study, "EXPERIMENTS", (tiny(calls),))
    Danovski2024(out=tmp_path, quick=True)()
    assert calls == ["first", "second", "second"]
    Danovski2024(out=tmp_path, quick=True)()
    assert len(calls) == 3
    Danovski2024(out=tmp_path, quick=True, seed=3)()  # another seed: everything anew
    Danovski2024(out=tmp_path, seed=3)()  # another size: everything anew
    assert calls[3:] == ["first", "second"] * 2
    text = capsys.readouterr().out
    assert "1 of 2 numbers agree. A quick run" in text
    assert re.search(r"none +0.5 +1 … 2 +NO", text)


def test_the_page_stands_alone_and_names_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "EXPERIMENTS", (tiny([]),))
    Danovski2024(out=tmp_path, quick=True, seed=7)()
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#|https://arxiv)', page)
    for word in (
        "Σλ &lt;of Hénon&gt;",
        "quick run",
        "Seed 7",
        "steps = 100",
        "a = 1.4",
        "data:image/png;base64",
        "numba",
    ):
        assert word in page
    assert "1 of 2" in page
    assert (tmp_path / "E1-line.png").read_bytes().startswith(b"\x89PNG")
    made = nnflow.load(tmp_path / "E1-first.nc")
    assert json.loads(made.attrs["study"]) == {"version": nnflow.__version__, "quick": True, "seed": 7}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_only_some_experiments_and_the_page_shows_those_that_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    first = tiny(calls)
    second = Experiment("E2", "Tiny again", "Small.", first.parts, first.compare, first.draw)
    monkeypatch.setattr(study, "EXPERIMENTS", (first, second))
    Danovski2024(out=tmp_path, quick=True, only=("E2",))()
    assert 'id="E1"' not in (tmp_path / "report.html").read_text()
    Danovski2024(out=tmp_path, quick=True, only=("E1",))()
    assert len(calls) == 4
    assert {'id="E1"', 'id="E2"'} <= set(re.findall(r'id="E\d"', (tmp_path / "report.html").read_text()))
    assert report.TEMPLATE == "report.html"


def test_rows_agree_within_their_ranges() -> None:
    assert near("x", 1.0, 0.1, 1.09, "re").agrees
    assert not near("x", 1.0, 0.1, 1.11, "re").agrees
    assert near("x", 1.0, 0.1, 1.11, "re", slack=0.05).agrees
    assert not between("x", 0, 1, float("nan"), "re").agrees
    assert [e.key for e in study.EXPERIMENTS] == ["E1", "E2", "E3", "E4", "E5"]


def test_shares_have_exact_intervals() -> None:
    share, low, high = rates.share(xr.DataArray([[True] * 5 + [False] * 5, [False] * 10], dims=("eta", "init")))
    np.testing.assert_allclose(share, [0.5, 0.0])
    np.testing.assert_allclose(low, [0.18708603, 0.0], atol=1e-7)
    np.testing.assert_allclose(high, [0.81291397, 0.30849710], atol=1e-7)


def test_means_are_resampled_over_rows() -> None:
    rng = np.random.default_rng(0)
    values: Any = rng.normal(3.0, 1.0, (400, 2))
    values[:, 1] = np.nan
    low, high = chaos.resampled_means(values, 400, 0)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert low[0] < values[:, 0].mean() < high[0]
    assert np.isnan([low[1], high[1]]).all()
