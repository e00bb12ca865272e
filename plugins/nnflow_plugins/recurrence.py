"""`nnflow_plugins.recurrence`, the public address of the recurrence measures; they stand in `signals/recurrence.py`."""

from nnflow_plugins.signals.recurrence import (
    MEASURES,
    Lines,
    Recurrence,
    embed,
    lines_of_matrix,
    measures_of_lines,
    measures_of_matrix,
    recurrence_matrix,
    recurrence_measures,
    threshold_of_rate,
)

__all__ = [
    "MEASURES",
    "Lines",
    "Recurrence",
    "embed",
    "lines_of_matrix",
    "measures_of_lines",
    "measures_of_matrix",
    "recurrence_matrix",
    "recurrence_measures",
    "threshold_of_rate",
]
