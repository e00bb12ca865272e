"""What the tensor backend makes of one state, for a compiled network to be compared with at each verb's first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnflow.map import generator
from nnflow.systems.derivatives import easy
from nnflow.systems.training.compiled import Peer
from nnflow.systems.training.witness import NEARBY, most, nearby, rounding

if TYPE_CHECKING:
    from nnflow.systems.training.task import Task
    from nnflow.systems.training.tensor import TensorTraining


def peer(map: TensorTraining, task: Task) -> Peer:
    """A step and a tangent vector of the tensor backend, for a compiled map to be compared with."""
    p, v = easy(map), generator(0, "peer").standard_normal(map.dim)
    own = np.concatenate([task.weights, np.zeros(map.memory)])
    near = np.concatenate([nearby(task, task.weights), np.zeros(map.memory)])
    points = np.stack([own, near])
    states = map.to_numpy(map.step(points, p.repeat(2, 0), 0))
    moved = map.to_numpy(map.tangent(points, p.repeat(2, 0), 0, np.stack([v, v])[:, None]))[:, 0]
    off = rounding(task)
    room = [off * (most(pair[1]) + most(pair[1] - pair[0]) / NEARBY) for pair in (states, moved)]
    return Peer(near[None], p, v, states[1], moved[1], room[0], room[1])
