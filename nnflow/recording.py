"""A recording: measured series in the clothes of an ensemble, which offers only `orbit`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.axes import Axis, chosen_members, named, step_indices, whole_blocks
from nnflow.ensemble import Ensemble
from nnflow.indices import is_index, unevenness
from nnflow.labels import Labelled, labelled, texts
from nnflow.map import Map
from nnflow.names import Refusal, WrongKind, shown, unknown
from nnflow.progress import tick
from nnflow.settings import checked, convert, whole
from nnflow.typing import Array, Integers
from nnflow.values import real


@dataclass(frozen=True, eq=False)
class Recording:
    """Measured series that go through the same analyses: an ensemble that offers only `orbit`.

    What needs a map (tangents, perturbations) raises TypeError.

    Args:
        values: ``(time,)``, ``(time, channel)`` or ``(series, time, channel)``. Masked samples are missing, NaN.
            Labels (pandas, xarray) are followed: dims "time" and "channel", and channels that are the names, in any
            order.
        names: Of the channels, one each (default: the labels of the channels if there are any, else "x").
        t: The present time, in samples; `advance` drops samples from the start.
        lost: ``(series,)`` int64: the first sample that is not finite, of those that `orbit` has given, -1 = none;
            `escaped` tells it.

    Raises:
        Refusal: (a ValueError) for values of another shape or with other labels, two channels of one name, a `t` beyond
            the end, and a frame whose first column tells the time: give the `names` if it was measured.

    Warns:
        UserWarning: where the times that the rows are labelled by are not equally spaced, for the samples are taken so;
            and of a first column that may tell the time.

    >>> Recording([1.0, 2.0, 3.0, 4.0]).orbit(4, every=2)[0].ravel()
    array([1., 3.])
    """

    values: npt.ArrayLike
    names: Sequence[str] = ()
    t: int = 0
    lost: Integers | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        arranged, names = _arranged(self.values, convert("names", self.names, tuple[str, ...]))
        values = real(arranged, "the values of a recording")
        cube = values[None, :, None] if values.ndim == 1 else values[None] if values.ndim == 2 else values
        if len(set(names)) < len(names):
            raise Refusal(f"names = {shown(names)}: give each channel a name of its own")
        if cube.ndim != 3 or cube.shape[2] != len(names) or 0 in cube.shape:
            raise Refusal(
                f"values of shape {values.shape} with names {shown(names)}: give (time,), (time, channel) or "
                "(series, time, channel), and one name a channel"
            )
        cube = cube.copy()  # the caller's own may change
        cube.flags.writeable = False
        object.__setattr__(self, "values", cube)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "t", whole("t", self.t, 0))
        if self.samples < 0:
            raise Refusal(f"t = {self.t}: the recording has {cube.shape[1]} samples, give 0 … {cube.shape[1]}")
        if self.lost is not None:
            object.__setattr__(self, "lost", step_indices("lost", self.lost, len(cube)))

    def __repr__(self) -> str:
        left = f"{self.samples} samples left from t = {self.t}"
        return f"<Recording of {len(self)} series of {shown(self.names)}, {left}>"

    def __getattr__(self, name: str) -> Any:
        """What only an ensemble of a map has: a recording has it not.

        Raises:
            WrongKind: (a TypeError) for what an ensemble has.
            AttributeError: for what neither has.
        """
        if not name.startswith("_") and name in {*vars(Ensemble), *(f.name for f in fields(Ensemble))}:
            raise WrongKind(f"a recording has no map, so no {name}: only analyses of observed series apply to it")
        raise AttributeError(f"a recording has no {name!r}")

    @property
    def cube(self) -> Array:
        """The values as ``(series, time, channel)``."""
        return np.asarray(self.values)

    def __len__(self) -> int:
        return len(self.cube)

    @property
    def samples(self) -> int:
        """How many samples are left from the present time on."""
        return int(self.cube.shape[1]) - self.t

    @property
    def axes(self) -> tuple[Axis, ...]:
        """One axis, "series", if there is more than one."""
        return (Axis("series", np.arange(len(self)), "member"),) if len(self) > 1 else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def escaped(self) -> Integers:
        """The index of the first sample that is not finite, per series, of those that `orbit` gave; -1 = none."""
        return np.full(len(self), -1) if self.lost is None else self.lost

    @property
    def map(self) -> Map:
        """There is none: raises TypeError."""
        raise WrongKind("a recording has no map: only analyses of observed series apply to it")

    def take(self, members: npt.ArrayLike, axes: tuple[Axis, ...] | None = None) -> Recording:
        """The series of these indices, or those that a mask marks.

        Args:
            members: Indices, in the order wanted, or a mask of bools.
            axes: Not used: series have one axis.

        Returns:
            A recording of these series, at the same time.

        Raises:
            Refusal: as `Ensemble.take`.
        """
        chosen = chosen_members(members, self.axes, len(self))
        return replace(self, values=self.cube[chosen], lost=self.escaped[chosen])

    @checked
    def split(self, size: int, whole: Sequence[str] = ()) -> list[tuple[Integers, Recording]]:
        """Cut the recording into chunks of at most `size` series.

        Args:
            size: Series of a chunk.
            whole: Not used: series do not depend on one another.

        Returns:
            Chunks as (indices, recording).

        Raises:
            Refusal: for an unknown axis in `whole`.
        """
        named(self.axes, whole)
        rows = np.arange(len(self))
        chunks = [rows[i : i + max(1, size)] for i in range(0, len(self), max(1, size))]
        return [(c, self.take(c)) for c in chunks]

    def advance(self, steps: int) -> Recording:
        """The recording from `steps` samples later on.

        Args:
            steps: Samples to drop.

        Returns:
            A recording of the same series at a later time.

        Raises:
            Refusal: (a ValueError) if it is too short.
        """
        steps = whole("steps", steps)
        if not 0 <= steps <= self.samples:
            raise Refusal(f"steps = {steps}: the recording has {self.samples} samples left")
        tick(steps * len(self))
        return self._with(t=self.t + steps)

    def orbit(self, steps: int, every: int = 1, observe: str | Sequence[str] | None = None) -> tuple[Array, Recording]:
        """The next `steps` samples, every `every`-th.

        Args:
            steps: How many samples, a positive multiple of `every`.
            every: Samples between two records.
            observe: A channel, or channels (default: all).

        Returns:
            Records ``(series, steps // every, channel)`` float64, and the recording that follows.

        Raises:
            Refusal: (a ValueError) for an unknown channel, `steps` that is not a positive multiple of `every`, or too
                short a recording.
        """
        names = list(self.names)
        wanted = names if observe is None else convert("observe", observe, tuple[str, ...])
        for name in wanted:
            if name not in names:
                raise Refusal(unknown("channel of the recording", name, names))
        steps, every, _ = whole_blocks(steps, every)
        after = self.advance(steps)
        records = self.cube[:, self.t : after.t : every, [names.index(name) for name in wanted]].copy()
        bad = np.asarray(~np.isfinite(records).all(axis=2))
        found = np.where(bad.any(axis=1), self.t + every * bad.argmax(axis=1), -1)
        return records, after._with(lost=np.where(self.escaped >= 0, self.escaped, found))

    def _with(self, **changes: Any) -> Recording:
        """The same series, not copied, with other fields."""
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, **changes)
        return changed


def _arranged(values: Any, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Samples in the order of their axes, (series, time, channel), and the names of their channels.

    Returns:
        Numbers without labels, and names; those given are followed, in whatever order the labels are.

    Raises:
        Refusal: for other labels than the names, and for dims of which none is said to be that of the channels.
    """
    found = labelled(values)
    if found is None or found.array.ndim < 2:
        if found is not None and found.array.ndim:
            _look_at_times(found.labels[0], found.dims[0])
        return (values if found is None else found.array), names or ("x",)
    last = found.array.ndim - 1
    channel = _channel(found, names)
    time = found.dims.index("time") if "time" in found.dims else max(i for i in range(last + 1) if i != channel)
    found = found.moved([*(i for i in range(last + 1) if i not in (time, channel)), time, channel])
    _look_at_times(found.labels[-2], found.dims[-2])
    own = texts(found.labels[-1])
    if len(own) > 1 and not names:
        _look_at_first(own[0], found.array[..., 0])
    names = names or own or ("x",)
    return found.along(names, "the channels of the values").array, names


def _look_at_first(name: str, column: Any) -> None:
    """Refuse a first column that tells the time or counts the rows, and would be analyzed as if measured.

    Raises:
        Refusal: if it does.

    Warns:
        UserWarning: if it may.
    """
    try:
        index = is_index(name, np.asarray(column, dtype=np.float64), first=True)
    except (TypeError, ValueError):  # dates, say: refused as no numbers
        return
    if index:
        raise Refusal(
            f"column {name} tells the time or counts the rows: make it the index (frame.set_index({name!r})), leave it "
            "out, or give names=… of all columns if it was measured"
        )
    if index is None:
        warnings.warn(
            f"column {name} may tell the time or count the rows, and is taken as measured: give names=… of all columns "
            "if it was, or leave it out",
            UserWarning,
            stacklevel=4,
        )


def _look_at_times(labels: list[Any] | None, name: Any) -> None:
    """Refuse samples whose times, numbers or dates, do not rise: the order of the rows would be that of time.

    Raises:
        Refusal: if they fall, or do not go one way.

    Warns:
        UserWarning: where they are not equally spaced.
    """
    if labels is None or any(isinstance(label, (str, tuple)) for label in labels):
        return
    if not all(bool(one < other) for one, other in pairwise(labels)):
        falls = all(bool(one > other) for one, other in pairwise(labels))
        said = "fall, the newest is first: turn them round (values[::-1])" if falls else "rise and fall: sort by them"
        raise Refusal(f"the times of the values {said}, or give the numbers alone (np.asarray)")
    said, cells = str(name or "the index"), [str(label) for label in labels]
    unlike = [unevenness(said, np.array([stamps]), cells) for stamps in _stamps(labels)]
    if unlike and all(unlike):
        warnings.warn(f"{unlike[0]}; the samples are taken as equally spaced", UserWarning, stacklevel=4)


def _stamps(labels: list[Any]) -> list[list[float]]:
    """Times as numbers, in each way in which they may be equally spaced; none for labels that nobody can place.

    Args:
        labels: Numbers, time differences, dates.

    Returns:
        Of dates so many seconds, also by the clock on the wall, or days; and months, where all are of one day.
    """
    with suppress(TypeError, ValueError):
        return [[float(label) for label in labels]]
    if all(hasattr(label, "total_seconds") for label in labels):
        return [[label.total_seconds() for label in labels]]
    if all(isinstance(label, date) for label in labels):
        days = [float(label.toordinal()) for label in labels]
        months = [[12.0 * each.year + each.month for each in by] for by in _of_one_day(labels)]
        seconds = [label for label in labels if isinstance(label, datetime)]
        times = [[label.timestamp() for label in seconds], [label.replace(tzinfo=UTC).timestamp() for label in seconds]]
        return [*(times if seconds else [days]), *months]
    return []


def _of_one_day(labels: list[Any]) -> Iterator[list[Any]]:
    """The dates, or the days after them, if they are all the same day of a month."""
    for by in (labels, [label + timedelta(days=1) for label in labels]):
        if len({(each.day, getattr(each, "hour", 0), getattr(each, "minute", 0)) for each in by}) == 1:
            yield by


def _channel(found: Labelled, names: tuple[str, ...]) -> int:
    """The axis of the channels: labelled by the names or called so, else the last, unless that is the time."""
    last = found.array.ndim - 1
    if (said := found.place(names)) is not None:
        return said
    if "time" not in found.dims or found.dims.index("time") == last - 1:
        return last
    if found.dims[last] == "time" and not names and texts(found.labels[last - 1]):
        return last - 1
    raise Refusal(
        f"values of dims {shown(list(found.dims))}: call the dim of the channels 'channel', or label it by the names"
    )
