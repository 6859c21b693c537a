"""Values, and how far ggml's own quantisers put them off: the root mean square error of each row and format.

    python tests/golden/k_quants/make_k_quants.py LLAMA_CPP [OUT]

LLAMA_CPP is a source tree of llama.cpp (the one that PyPI's llama_cpp_python 0.3.36 carries as vendor/llama.cpp); ggml-quants.c is
compiled as it is. The errors are measured on what PyPI's gguf 0.19.0 makes of the blocks. Writes values.f32 (rows of 1024) and
errors.txt (a row a line: Q4_0 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K).
"""
import ctypes
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

FORMATS = ("Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
COLUMNS = 1024


def rows():
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(COLUMNS)
    yield 0.02 * normal
    yield rng.uniform(-1, 1, COLUMNS)
    yield 0.01 * rng.standard_t(2, COLUMNS)                      # heavy tails
    yield np.abs(rng.standard_normal(COLUMNS))                   # one sign
    yield -3 - 0.1 * rng.standard_normal(COLUMNS)                # far from zero
    yield rng.laplace(0, 0.05, COLUMNS)
    yield normal * np.repeat(10.0 ** rng.uniform(-4, 1, COLUMNS // 16), 16)  # runs of other magnitudes
    yield np.where(rng.uniform(size=COLUMNS) < 0.9, 0, normal)   # sparse
    yield np.repeat(rng.standard_normal(COLUMNS // 32), 32)      # constant runs
    yield 1e-7 * normal
    yield 2e4 * rng.uniform(-1, 1, COLUMNS)


def library(source, folder):
    """ggml-quants.c with what it calls of ggml.c left out."""
    ggml = source / "ggml"
    stubs = folder / "stubs.c"
    stubs.write_text(r"""
#include <stdio.h>
#include <stdlib.h>
#include <stdarg.h>
void ggml_abort(const char * file, int line, const char * fmt, ...) { fprintf(stderr, "%s:%d\n", file, line); abort(); }
void ggml_critical_section_start(void) {}
void ggml_critical_section_end(void) {}
float ggml_table_f32_f16[1 << 16];
void ggml_log_internal(int level, const char * format, ...) {}
const char * ggml_type_name(int type) { return ""; }
size_t ggml_row_size(int type, long n) { abort(); }
size_t ggml_type_size(int type) { abort(); }
long ggml_blck_size(int type) { abort(); }
""")
    target = folder / "libquants.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-w", f"-I{ggml}/include", f"-I{ggml}/src", str(ggml / "src/ggml-quants.c"),
                    str(stubs), "-lm", "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def main():
    source, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parent)
    values = np.array(list(rows()), np.float32)
    values.tofile(out / "values.f32")
    with tempfile.TemporaryDirectory() as folder:
        quants = library(source, pathlib.Path(folder))
        lines = []
        for row in values:
            errors = []
            for name in FORMATS:
                kind = gguf.GGMLQuantizationType[name]
                block, size = gguf.GGML_QUANT_SIZES[kind]
                stored = np.zeros(COLUMNS // block * size, np.uint8)
                getattr(quants, f"quantize_row_q{name[1:]}_ref")(
                    row.ctypes.data_as(ctypes.c_void_p), stored.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(COLUMNS))
                back = gguf.quants.dequantize(stored, kind)
                errors.append(float(np.sqrt(np.mean((back.astype(np.float64) - row) ** 2))))
            lines.append(" ".join(f"{error:.9e}" for error in errors))
        (out / "errors.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
