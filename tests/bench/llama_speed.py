"""llama.cpp's prefill of 512 tokens and its decode at batch 1; the peer of row J of tests/bench/compare.sh.

    pip install llama-cpp-python
    python tests/bench/llama_speed.py FILE.gguf [--threads 2] [--prefill 512] [--decode 64] [--as-stored]

It prints one line of JSON: prefill and decode, tokens/s; version, that of llama-cpp-python. Decode feeds tokens behind the prompt one
by one, and samples nothing: which they are does not change the time. With --as-stored weights are not rearranged for the processor:
with AMX, 0.3.36 ends by a segmentation fault in ggml_backend_amx_mul_mat where it does.
"""

import argparse
import json
import time

import llama_cpp


def main():
    parser = argparse.ArgumentParser(description="llama.cpp's tokens/s.")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--as-stored", action="store_true")
    options = parser.parse_args()
    if options.as_stored:
        default_params = llama_cpp.llama_cpp.llama_model_default_params

        def without_extra_buffers():
            params = default_params()
            params.use_extra_bufts = False
            return params

        llama_cpp.llama_cpp.llama_model_default_params = without_extra_buffers

    model = llama_cpp.Llama(options.model, n_ctx=options.prefill + options.decode + 64, n_batch=options.prefill,
                            n_ubatch=options.prefill, n_threads=options.threads, n_threads_batch=options.threads, verbose=False)

    def rate_of(tokens, at_once):
        start = time.perf_counter()
        for first in range(0, len(tokens), at_once):
            model.eval(tokens[first:first + at_once])
        return len(tokens) / (time.perf_counter() - start)

    tokens = [i * 7919 % 49152 for i in range(max(options.prefill, options.decode))]
    rate_of(tokens[:32], 32)  # reads the file
    model.reset()
    prefill = rate_of(tokens[:options.prefill], options.prefill)
    print(json.dumps({"prefill": prefill, "decode": rate_of(tokens[:options.decode], 1), "version": llama_cpp.__version__}))


main()
