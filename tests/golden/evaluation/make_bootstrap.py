"""Golden values of tests/launch/run/paired_bootstrap_test.cpp: paired bootstraps of small samples by NumPy, from the same random
numbers (Philox 4x32-10, Salmon et al. 2011), held against scipy.stats.bootstrap, which draws its own.

    python3 make_bootstrap.py        # writes bootstrap.json beside this file
"""
import json
import os
import platform

import numpy as np
import scipy
import scipy.stats

RESAMPLES, SEED = 10000, 1
U64 = np.uint64


def philox(counter, key):
    c = [np.asarray(x, dtype=U64) for x in counter]
    k = list(key)
    low = U64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = U64(0xD2511F53) * c[0], U64(0xCD9E8D57) * c[2]
        c = [(p1 >> U64(32)) ^ c[1] ^ U64(k[0]), p1 & low, (p0 >> U64(32)) ^ c[3] ^ U64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def stream_of(step, name):
    h = 0xCBF29CE484222325 ^ (step * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def draws(resample, n):
    """n numbers below n."""
    stream = stream_of(resample, "paired bootstrap")
    index = np.arange(n, dtype=U64)
    zeros = np.zeros(n, dtype=U64)
    b = philox([index, zeros, zeros + U64(stream & 0xFFFFFFFF), zeros + U64(stream >> 32)], [SEED & 0xFFFFFFFF, SEED >> 32])
    bits = (b[0] << U64(32)) | b[1]
    return np.array([(int(x) * n) >> 64 for x in bits])


def case(model, against, figures):
    """Rows of units; figures of the sums over the units."""
    n = len(model)
    d = np.empty((RESAMPLES, len(figures)))
    for r in range(RESAMPLES):
        chosen = draws(r, n)
        a, b = model[chosen].sum(axis=0), against[chosen].sum(axis=0)
        d[r] = [f(a) - f(b) for f in figures]
    a, b = model.sum(axis=0), against.sum(axis=0)
    found = []
    for i, f in enumerate(figures):
        least = min((d[:, i] <= 0).sum(), (d[:, i] >= 0).sum())
        low, high = np.quantile(d[:, i], 0.025, method="lower"), np.quantile(d[:, i], 0.975, method="higher")
        both = scipy.stats.bootstrap((np.arange(n),), lambda at: f(model[at].sum(axis=0)) - f(against[at].sum(axis=0)), vectorized=False,
                                     n_resamples=RESAMPLES, method="percentile", random_state=4)
        theirs = both.confidence_interval
        width = max(high - low, 1e-12)
        assert abs(theirs.low - low) < 0.08 * width and abs(theirs.high - high) < 0.08 * width, (theirs, low, high)
        found.append({"model": f(a), "against": f(b), "difference": f(a) - f(b), "low": low, "high": high,
                      "p_value": min(1.0, 2 * (1 + int(least)) / (RESAMPLES + 1))})
    return {"model": model.tolist(), "against": against.tolist(), "expected": found}


mean_nats = lambda s: float(s[1] / s[0])
perplexity = lambda s: float(np.exp(s[1] / s[0]))
rng = np.random.default_rng(11)
tokens = rng.integers(5, 200, 30).astype(float)
nats = tokens * rng.normal(3, 0.4, 30)
texts = case(np.stack([tokens, nats], 1), np.stack([tokens, nats + tokens * rng.normal(0.05, 0.12, 30)], 1), [mean_nats, perplexity])
right = (rng.random(25) < 0.6).astype(float)
questions = case(np.stack([np.ones(25), right], 1), np.stack([np.ones(25), np.where(rng.random(25) < np.where(right == 1, 0.35, 0.1), 1 - right, right)], 1), [mean_nats])
same = case(np.stack([tokens, nats], 1), np.stack([tokens, nats], 1), [mean_nats])

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.json"), "w") as f:
    json.dump({"made_by": "tests/golden/evaluation/make_bootstrap.py",
               "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
               "texts": texts, "questions": questions, "same": same}, f, indent=0)
for name, c in (("texts", texts), ("questions", questions), ("same", same)):
    print(name, c["expected"])
