"""What the tensor backend makes of one state, for a compiled network to be compared with at each loop's first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnflow.map import generator
from nnflow.systems.derivatives import easy
from nnflow.systems.training.compiled import Peer
from nnflow.systems.training.witness import NEARBY, most, nearby, rounding

if TYPE_CHECKING:
    from nnflow.schedules import Schedule
    from nnflow.systems.training.task import Task
    from nnflow.systems.training.tensor import TensorTraining


SOON = 10_000  # steps within which a schedule begins to move anything


def moving(schedule: Schedule | None) -> int:
    """The first step at which a schedule lets anything move; 0 if it does not within SOON steps."""
    return next((t for t in range(SOON) if schedule is None or schedule(t) != 0), 0)


def peer(map: TensorTraining, task: Task) -> Peer:
    """A step, a tangent vector and a product with the Hessian by the tensor backend, for a compiled map."""
    p, v, t = easy(map), generator(0, "peer").standard_normal(map.dim), moving(map.schedule)
    own = np.concatenate([task.weights, np.zeros(map.memory)])
    near = np.concatenate([nearby(task, task.weights), np.zeros(map.memory)])
    points, pair, vectors = np.stack([own, near]), p.repeat(2, 0), np.stack([v, v])[:, None]
    states = map.to_numpy(map.step(points, pair, t))
    moved = map.to_numpy(map.tangent(points, pair, t, vectors))[:, 0]
    bent = map.to_numpy(map.curvature(points, pair, t, vectors[:, :, : map.weights]))[:, 0]
    off = rounding(task)
    room = [off * (most(pair[1]) + most(pair[1] - pair[0]) / NEARBY) for pair in (states, moved, bent)]
    return Peer(near[None], p, t, v, states[1], moved[1], bent[1], *room)
