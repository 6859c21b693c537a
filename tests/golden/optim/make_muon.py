"""Golden values of tests/optim/muon_test.cpp: Muon in float64, written with NumPy from Jordan et al. (2024) and Liu et al.
(2025), and held against torch.optim.Muon, which orthogonalises in bfloat16.

    python make_muon.py        # writes muon.json beside this file
"""
import json
import os

import numpy as np
import torch

STEPS, RATE, DECAY, MOMENTUM = 10, 2e-2, 0.1, 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = {"wide": (3, 7), "tall": (8, 3), "square": (4, 4), "row": (1, 5), "experts": (3, 4, 6)}


def orthogonalise(g):
    a, b, c = COEFFICIENTS
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def numpy_steps(value, gradients):
    value, buffer = value.copy(), np.zeros_like(value)
    for g in gradients:
        buffer += (1 - MOMENTUM) * (g - buffer)
        update = orthogonalise(g + MOMENTUM * (buffer - g))
        value = (1 - RATE * DECAY) * value - RATE * 0.2 * np.sqrt(max(value.shape)) * update
    return value, buffer


def torch_steps(value, gradients):
    weight = torch.nn.Parameter(torch.tensor(value, dtype=torch.float32))
    optimizer = torch.optim.Muon([weight], lr=RATE, weight_decay=DECAY, momentum=MOMENTUM, nesterov=True,
                                 ns_coefficients=COEFFICIENTS, ns_steps=5, adjust_lr_fn="match_rms_adamw")
    for g in gradients:
        weight.grad = torch.tensor(g, dtype=torch.float32)
        optimizer.step()
    return weight.detach().double().numpy(), optimizer.state[weight]["momentum_buffer"].double().numpy()


random = np.random.default_rng(3)
parameters = []
for name, shape in SHAPES.items():
    initial = random.standard_normal(shape)
    gradients = random.standard_normal((STEPS,) + shape)
    if name == "experts":
        gradients[:, 1] = 0  # an expert without tokens: only its decay
    stack, grads = initial.reshape((-1,) + shape[-2:]), gradients.reshape((STEPS, -1) + shape[-2:])
    finals, buffers = [], []
    for e in range(stack.shape[0]):
        final, buffer = numpy_steps(stack[e], grads[:, e])
        theirs, their_buffer = torch_steps(stack[e], grads[:, e])
        moved = np.abs(final - stack[e]).max()
        assert np.abs(final - theirs).max() < 0.05 * moved, (name, np.abs(final - theirs).max(), moved)
        assert np.abs(buffer - their_buffer).max() < 1e-6
        finals.append(final)
        buffers.append(buffer)
    parameters.append({"name": name, "shape": list(shape), "initial": initial.ravel().tolist(),
                       "gradients": gradients.reshape(STEPS, -1).tolist(), "final": np.ravel(finals).tolist(),
                       "momentum_buffer": np.ravel(buffers).tolist()})

matrix = random.standard_normal((6, 9))
singular = np.linalg.svd(orthogonalise(matrix), compute_uv=False)
golden = {"versions": {"torch": torch.__version__, "numpy": np.__version__},
          "settings": {"steps": STEPS, "rate": RATE, "decay": DECAY, "momentum": MOMENTUM},
          "matrix": {"shape": [6, 9], "values": matrix.ravel().tolist(), "orthogonal": orthogonalise(matrix).ravel().tolist(),
                     "singular_values": singular.tolist()},
          "parameters": parameters}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "muon.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
