"""The benchmark of accelerators runs, compares and writes its table, tried on the processor."""

from __future__ import annotations

import sys
from pathlib import Path

import gpu
import pytest


@pytest.mark.slow
def test_it_runs_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--rounds", "1", "--out", str(tmp_path)])
    gpu.main()
    table = (tmp_path / "gpu.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    assert [row.split("|")[1].strip() for row in table.splitlines()[4:]] == [case.name for case in gpu.TINY]


def test_a_device_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gpu.made

    def wrong(case: gpu.Case, device: str) -> object:
        map, parts = made(case, "cpu")
        return (map if device == "cpu" else map.with_parameters(eta=0.2)), parts

    monkeypatch.setattr(gpu, "made", wrong)
    with pytest.raises(SystemExit, match="apart: nothing is timed"):
        gpu.compare(gpu.TINY[0], "cuda")
    monkeypatch.undo()
    assert gpu.compare(gpu.TINY[0], "cpu") == 0.0
