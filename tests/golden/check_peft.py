"""Holds what `limbeck convert RUN ADAPTER --adapter` wrote against PyPI's peft: the logits of base and adapter, which peft puts
together, beside those of the merged model, and of peft's own merge.

    limbeck convert BASE base_hf; limbeck convert RUN adapter --adapter; limbeck convert RUN merged_hf
    python tests/golden/check_peft.py base_hf adapter merged_hf        (PyPI: torch transformers peft; seconds)
"""
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5  # of the largest logit, in float32


def main():
    base, adapter, merged = sys.argv[1:]
    load = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain, expected = load(base), load(merged)
    tokens = torch.randint(0, expected.config.vocab_size, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, wanted = plain(tokens).logits, expected(tokens).logits
        model = PeftModel.from_pretrained(plain, adapter)
        missing = [name for name, _ in model.named_parameters() if "lora_" in name]
        found = {"with peft": model(tokens).logits, "merged by peft": model.merge_and_unload()(tokens).logits}
    largest = wanted.abs().max()
    print(f"{len(missing)} factors; the adapter moves logits by {((wanted - before).abs().max() / largest):.1e} of the largest")
    bad = False
    for name, logits in found.items():
        apart = ((logits - wanted).abs().max() / largest).item()
        print(f"{name}: apart {apart:.1e}")
        bad = bad or not apart < TOLERANCE
    sys.exit(bad)


if __name__ == "__main__":
    main()
