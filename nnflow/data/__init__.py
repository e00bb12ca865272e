"""Data for training maps: `nnflow.training_map(module, loss, *data.train, test=data.test)`, for `data = iris()`, say.

Tables that installed packages ship, problems drawn by a seed, and the user's own files; nothing is downloaded. Splits
are drawn by `seed`, with the share `test` of the rows (0: no test rows) and, of labels, the same share of each class.
"""

from nnflow.data.files import arrays, cifar10, mnist, read_idx, table
from nnflow.data.problems import blobs, chebyshev, moons, teacher_student, two_gaussians
from nnflow.data.split import Split, scaled, split_rows
from nnflow.data.tables import breast_cancer, digits, iris, iris_split, iris_table, wine

__all__ = [
    "Split",
    "arrays",
    "blobs",
    "breast_cancer",
    "chebyshev",
    "cifar10",
    "digits",
    "iris",
    "iris_split",
    "iris_table",
    "mnist",
    "moons",
    "read_idx",
    "scaled",
    "split_rows",
    "table",
    "teacher_student",
    "two_gaussians",
    "wine",
]
