"""Golden values of tests/launch/run/{calibration,joint_counts}_test.cpp: calibration errors by NumPy, and mutual information
of tables of counts, what it is by chance, and both adjusted, by scikit-learn and SciPy.

    python3 make_figures.py        # writes figures.json beside this file
"""
import json
import os
import platform

import numpy as np
import scipy
import scipy.stats
import sklearn
from sklearn.metrics.cluster import expected_mutual_information
from sklearn.metrics import mutual_info_score

BINS = 15
rng = np.random.default_rng(7)


def calibration_error(confidence, right):
    """Guo et al. 2017, equation 3; bin b has (b / BINS, (b + 1) / BINS]."""
    bins = np.clip(np.digitize(confidence, np.arange(BINS + 1) / BINS, right=True) - 1, 0, BINS - 1)
    error = 0.0
    for b in range(BINS):
        of_bin = bins == b
        if of_bin.any():
            error += of_bin.mean() * abs(right[of_bin].mean() - confidence[of_bin].mean())
    return float(error)


def calibration_case(confidence, share_right):
    confidence = np.asarray(confidence, dtype=np.float64)
    right = rng.random(len(confidence)) < share_right
    return {"confidence": confidence.tolist(), "right": right.astype(int).tolist(), "error": calibration_error(confidence, right)}


def table_case(table):
    table = np.asarray(table, dtype=np.int64)
    n = int(table.sum())
    information = float(mutual_info_score(None, None, contingency=table))
    seen = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    chance = float(expected_mutual_information(seen, n)) if seen.shape[1] > 1 else 0.0
    open_nats = float(scipy.stats.entropy(table.sum(axis=0)))
    case = {"table": table.tolist(), "information": information, "chance": chance}
    if open_nats - chance > 1e-9:
        case["specialisation"] = (information - chance) / (open_nats - chance)
    return case


calibrations = [
    calibration_case(rng.random(400), 0.5),
    calibration_case(rng.random(50) ** 4, 0.1),
    calibration_case(np.arange(1, BINS + 1) / BINS, 0.5),  # on the borders
    calibration_case([1.0, 1.0, 1.0, 0.5], 0.9),
    calibration_case([0.25], 1.1),
]
tables = [
    table_case(rng.integers(0, 6, (20, 4))),
    table_case(np.diag([5, 9, 2])),                                  # a row has one column
    table_case([[3, 3], [7, 7]]),                                    # nothing in common
    table_case(np.eye(12, 4, dtype=int) + np.eye(12, 4, -4, dtype=int) + np.eye(12, 4, -8, dtype=int)),  # each row once
    table_case(rng.poisson(rng.gamma(0.3, 40, (60, 1)) * rng.dirichlet(np.full(8, 0.5), 60))),  # as words and experts
    table_case([[4000, 100, 7], [90, 2500, 11], [1, 1, 1]]),
    table_case([[5, 0], [8, 0]]),                                    # one column alone is used
]

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "figures.json"), "w") as f:
    json.dump({"made_by": "tests/golden/evaluation/make_figures.py",
               "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
                            "scikit-learn": sklearn.__version__},
               "calibrations": calibrations, "tables": tables}, f, indent=0)
