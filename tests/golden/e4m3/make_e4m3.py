"""Golden values of tests/kernels/fp8_test.cpp: e4m3's codes and what is rounded to them, by PyTorch's float8_e4m3fn.

    python3 make_e4m3.py        # writes e4m3.json beside this file
"""
import json
import os
import platform

import torch

codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
finite = codes[:127]
midpoints = (finite[1:] + finite[:-1]) / 2
infinity = torch.tensor(float("inf"))
x = torch.cat([
    midpoints, torch.nextafter(midpoints, infinity), torch.nextafter(midpoints, -infinity),
    torch.tensor([0.0, 448.0, 449.0, 464.0, 465.0, 1e30, float("inf"), 1e-30, 2**-140]),
    torch.randn(100, generator=torch.Generator().manual_seed(1)) * 30,
])
x = torch.cat([x, -x])
rounded = x.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)  # conversion alone saturates in newer versions only
golden = {
    "versions": {"python": platform.python_version(), "torch": torch.__version__},
    "values": [None if v != v else v for v in codes.tolist()],
    "bits": x.view(torch.int32).to(torch.int64).bitwise_and(0xFFFFFFFF).tolist(),  # of float32
    "codes": rounded.tolist(),
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "e4m3.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
