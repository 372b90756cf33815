"""Objective of a trial: the one number that the epochs of a trial are reduced to.

    best             m_e = max_{i <= e} a_i
    last             m_e = a_e
    mean_of_last_K   m_e = mean of a_i over the last min(K, e) epochs up to e

where a_i is the validation top-1 of epoch i and m_e the objective after epoch e.

The objective decides the value that the sampler and the scheduler read, the order of the leaderboard, and
the checkpoint of the study. The checkpoint is the one that the number describes: that of the best epoch for
`best`, that of the last epoch for the others.
"""

import re
from typing import TYPE_CHECKING

from evclip_ray.formatting import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

OBJECTIVE = "objective"
"""Key of the objective's name in the ledger, and of its value in Tune's results."""
BEST, LAST = "best", "last"
OF_OLD_STUDIES = BEST
"""Objective of a study whose ledger does not name one."""
_MEAN = re.compile(r"mean_of_last_([1-9]\d*)")


def check_objective(objective: str) -> str:
    """Return a valid objective unchanged.

    Raises:
        ValueError: The objective is unknown.
    """
    if objective not in (BEST, LAST) and not _MEAN.fullmatch(objective):
        raise ValueError(f"must be best, last or mean_of_last_K such as mean_of_last_3, got {objective!r}")
    return objective


def window(objective: str) -> int | None:
    """Return the number of last epochs that are averaged, None for `best`.

    >>> window("mean_of_last_3"), window("last"), window("best")
    (3, 1, None)
    """
    if objective == BEST:
        return None
    match = _MEAN.fullmatch(check_objective(objective))
    return int(match[1]) if match else 1


def describe(objective: str) -> str:
    """Return the epochs of an objective in words: "mean of the last 3 epochs"."""
    return (
        f"mean of the last {counted(window(objective) or 1, 'epoch')}"
        if objective not in (BEST, LAST)
        else f"{objective} epoch"
    )


def objective_values(top1: "Floats", objective: str) -> "Floats":
    """Return the objective after each epoch.

    >>> import numpy as np
    >>> objective_values(np.array([0.2, 0.5, 0.3]), "best").tolist()
    [0.2, 0.5, 0.5]
    >>> objective_values(np.array([0.25, 0.5, 0.75]), "mean_of_last_2").tolist()
    [0.25, 0.375, 0.625]

    Args:
        top1: (E, ...) validation top-1 by epoch. NaN in an epoch without a score, which `best` skips.
        objective: Name of the objective.

    Returns:
        (E, ...) values.
    """
    # Imported here: `evclip-ray --help` reads this file and needs no NumPy.
    import numpy as np

    size = window(objective)
    if size is None:
        best: Floats = np.fmax.accumulate(top1, axis=0)
        return best
    means = [top1[max(0, end - size) : end].mean(axis=0) for end in range(1, len(top1) + 1)]
    return np.array(means, np.float64).reshape(np.shape(top1))


def objective_weights(top1: "Floats", objective: str) -> "Floats":
    """Return the share of each epoch in the objective after the last epoch.

    The objective is (weights * top1).sum(0). To choose on one sample of videos and read on another, take the
    weights from the first and the top-1 from the second. `best` divides its weight equally among tied epochs.

    >>> import numpy as np
    >>> objective_weights(np.array([0.2, 0.5, 0.5]), "best").tolist()
    [0.0, 0.5, 0.5]
    >>> objective_weights(np.array([0.2, 0.5, 0.3]), "last").tolist()
    [0.0, 0.0, 1.0]

    Args:
        top1: (E, ...) validation top-1 by epoch, finite.
        objective: Name of the objective.

    Returns:
        (E, ...) weights that sum to 1 over the epochs.
    """
    import numpy as np

    size = window(objective)
    if size is None:
        chosen = np.asarray(top1 == top1.max(axis=0), np.float64)
    else:
        chosen = np.zeros(np.shape(top1))
        chosen[-size:] = 1.0
    weights: Floats = chosen / chosen.sum(axis=0)
    return weights
