"""Golden values of tests/core/{sum,squared_error,softmax,cross_entropy,swiglu,gelu,layer_norm}_test.cpp: the definitions, in decimal numbers of 50 digits.

    python3 make_ops.py        # writes ops.json beside this file
"""
import json
import os
import platform
from decimal import Decimal, getcontext, localcontext

getcontext().prec = 50
D = Decimal
T, V = 4, 6
# Fractions that float32 and float64 hold as they are; a row of small numbers, one of large ones, one of equal ones.
X = [[D(v) / 8 for v in row] for row in ([3, -9, 14, 0, 5, -2], [800, 792, -640, 801, 0, 799], [7] * 6, [-1, 1, -2, 2, -3, 3])]
Y = [[D(v) / 16 for v in row] for row in ([1, -20, 30, 4, 9, 0], [1600, 1500, -1300, 1602, 1, 1599], [-5] * 6, [0, 0, 0, 0, 0, 1])]
UPSTREAM = [[D(v) / 4 for v in row] for row in ([1, 2, -3, 4, -5, 6], [-2, 0, 1, 7, 3, -1], [4, 3, 2, 1, 0, -1], [5, -5, 5, -5, 5, -5])]
TARGETS = [2, 1, -1, 5]


def softmax(row):
    largest = max(row)
    e = [(v - largest).exp() for v in row]
    return [v / sum(e) for v in e]


def softmax_gradient(row, upstream):
    p = softmax(row)
    dot = sum(a * b for a, b in zip(p, upstream))
    return [a * (b - dot) for a, b in zip(p, upstream)]


def log_sum_exp(row):
    largest = max(row)
    return largest + sum((v - largest).exp() for v in row).ln()


PI = D("3.14159265358979323846264338327950288419716939937511")


def erf(z):
    """By its series in numbers of 200 digits, of which large terms cost some; beyond 12 it is 1 to 60 digits."""
    if abs(z) > 12:
        return D(1).copy_sign(z)
    with localcontext() as context:
        context.prec = 200
        term, total, n = z, z, 0
        while abs(term) > D(10) ** -100:
            n += 1
            term *= -z * z / n
            total += term / (2 * n + 1)
        return +(2 * total / PI.sqrt())


def tanh(a):
    e = (-2 * abs(a)).exp()
    return ((1 - e) / (1 + e)).copy_sign(a)


# Each with its derivative.
ACTIVATIONS = {
    "silu": (lambda x: x / (1 + (-x).exp()), lambda x: 1 / (1 + (-x).exp()) + x * (-x).exp() / (1 + (-x).exp()) ** 2),
    "gelu": (lambda x: x * (1 + erf(x / D(2).sqrt())) / 2, lambda x: (1 + erf(x / D(2).sqrt())) / 2 + x * (-x * x / 2).exp() / (2 * PI).sqrt()),
    "gelu_tanh": (lambda x: x / 2 * (1 + tanh((2 / PI).sqrt() * (x + D("0.044715") * x ** 3))),
                  lambda x: (1 + tanh((2 / PI).sqrt() * (x + D("0.044715") * x ** 3))) / 2 + x / 2 * (1 - tanh((2 / PI).sqrt() * (x + D("0.044715") * x ** 3)) ** 2)
                  * (2 / PI).sqrt() * (1 + 3 * D("0.044715") * x * x)),
}


def of_rows(f, *matrices):
    return flat([[f(*values) for values in zip(*rows)] for rows in zip(*matrices)])


def activations():
    golden = {}
    for name, (f, slope) in ACTIVATIONS.items():
        golden[name] = of_rows(f, X)
        golden[name + "_dx"] = of_rows(lambda x, u, slope=slope: u * slope(x), X, UPSTREAM)
        golden[name + "_times_y"] = of_rows(lambda x, y, f=f: f(x) * y, X, Y)
        golden[name + "_times_y_dx"] = of_rows(lambda x, y, u, slope=slope: u * y * slope(x), X, Y, UPSTREAM)
        golden[name + "_times_y_dy"] = of_rows(lambda x, u, f=f: u * f(x), X, UPSTREAM)
    return golden


def layer_norm():
    """With the weight Y[0] and the bias Y[1]; the gradient of x by the Jacobian of its definition."""
    eps, weight, bias = D("1e-5"), Y[0], Y[1]
    mean = [sum(row) / V for row in X]
    deviation = [(sum((v - m) ** 2 for v in row) / V + eps).sqrt() for row, m in zip(X, mean)]
    n = [[(v - m) / d for v in row] for row, m, d in zip(X, mean, deviation)]

    def slope(t, i, j):  # of n[t][i] by x[t][j]
        own = (1 if i == j else 0) - D(1) / V
        return own / deviation[t] - n[t][i] * n[t][j] / V / deviation[t]

    return {
        "layer_norm": flat([[v * w + b for v, w, b in zip(row, weight, bias)] for row in n]),
        "layer_norm_dx": flat([[sum(UPSTREAM[t][i] * weight[i] * slope(t, i, j) for i in range(V)) for j in range(V)] for t in range(T)]),
        "layer_norm_dweight": [float(sum(UPSTREAM[t][i] * n[t][i] for t in range(T))) for i in range(V)],
        "layer_norm_dbias": [float(sum(UPSTREAM[t][i] for t in range(T))) for i in range(V)],
    }


def flat(rows):
    return [float(v) for row in rows for v in row]


with_target = [t for t in range(T) if TARGETS[t] >= 0]
n = D(T * V)
golden = {
    "versions": {"python": platform.python_version(), "digits": getcontext().prec},
    "shape": [T, V], "x": flat(X), "y": flat(Y), "upstream": flat(UPSTREAM), "targets": TARGETS,
    "sum": float(sum(sum(row) for row in X)),
    "mean": float(sum(sum(row) for row in X) / n),
    "mean_squared_error": float(sum((a - b) ** 2 for r, s in zip(X, Y) for a, b in zip(r, s)) / n),
    "mean_squared_error_dx": flat([[2 * (a - b) / n for a, b in zip(r, s)] for r, s in zip(X, Y)]),
    "softmax": flat([softmax(row) for row in X]),
    "softmax_dx": flat([softmax_gradient(r, u) for r, u in zip(X, UPSTREAM)]),
    "cross_entropy": float(sum(log_sum_exp(X[t]) - X[t][TARGETS[t]] for t in with_target) / len(with_target)),
    "cross_entropy_dx": flat([[(p - (1 if v == TARGETS[t] else 0)) / len(with_target) if t in with_target else D(0)
                               for v, p in enumerate(softmax(X[t]))] for t in range(T)]),
    **activations(),
    **layer_norm(),
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ops.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
