"""Golden values of tests/launch/whole/eval_tasks_test.cpp and tests/data/tasks_test.cpp: what PyPI's lm-eval makes of small task
files and a small model.

    python3 -m venv /opt/lmeval && /opt/lmeval/bin/pip install lm-eval torch transformers
    /opt/lmeval/bin/python tests/golden/evaluation/make_tasks.py            (a minute)

Writes beside itself

    tasks/model/    a Llama of 2 layers as transformers saves it, with a byte-level BPE that puts <s> before texts; it has seen
                    the answers of some questions a few times, so that it is right now and then
    tasks/*.jsonl   questions and examples in the formats of mmlu, hellaswag, arc, lambada and gsm8k, made up here
    tasks.json      by lm-eval's own tasks (mmlu_*, hellaswag, arc_easy, lambada_openai, gsm8k; the files in place of their
                    data sets, examples taken in order) with HFLM in float32: for each task and number of shots the figures, and
                    by question contexts and continuations, log-likelihoods, whether they are greedy, or the generated text
    python.json     strip, rstrip, capitalize, lower, len and hellaswag's preprocess of hard strings by Python and lm-eval; the
                    answers that gsm8k's filters find in texts, and which are exact matches, by lm-eval's filters and metric
"""
import importlib.metadata
import json
import pathlib
import platform
import random
import shutil

import datasets
import lm_eval
import numpy as np
import tokenizers
import torch
import transformers
from lm_eval.api.metrics import exact_match_hf_evaluate, mean_stderr
from lm_eval.api.task import ConfigurableTask
from lm_eval.filters.extraction import RegexFilter
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.tasks.hellaswag.utils import preprocess

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "tasks"
TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"
POSITIONS, NEW_TOKENS = 192, 24
torch.manual_seed(3)
torch.set_num_threads(1)
rng = random.Random(5)

THINGS = ["still", "lamp", "kettle", "ladder", "violin", "anchor", "compass", "loom", "plough", "sextant", "bellows", "lathe", "kiln", "quill"]
USES = ["separates liquids", "gives light", "boils water", "reaches high shelves", "plays a melody", "holds a ship", "shows the north",
        "weaves cloth", "turns the soil", "measures a star's height", "feeds a fire", "shapes wood", "bakes clay", "writes letters"]
PLACES = ["Zürich", "Ōsaka", "Łódź", "Québec", "Αθήνα", "Bath"]


def others(i, n):
    return rng.sample([j for j in range(len(THINGS)) if j != i], n)


def mmlu(count, first):
    rows = []
    for i in range(first, first + count):
        chosen = [i % len(THINGS)] + others(i % len(THINGS), 3)
        rng.shuffle(chosen)
        rows.append({"question": rng.choice(["", " ", "\n"]) + f"What {USES[i % len(THINGS)]}?" + rng.choice(["", "  "]),
                     "choices": [f"A {THINGS[j]}" for j in chosen], "answer": chosen.index(i % len(THINGS)),
                     "subject": ["old_tools", "physics"][i % 2]})
    return rows


def hellaswag(count, first):
    rows = []
    for i in range(first, first + count):
        t = i % len(THINGS)
        endings = [f"takes the {THINGS[t]}, which {USES[t]}."]
        endings += [f"{rng.choice(['[substeps] waits', 'sings to', 'paints'])} the {THINGS[j]}  in {rng.choice(PLACES)}." for j in others(t, 3)]
        label = rng.randrange(4)
        endings[0], endings[label] = endings[label], endings[0]
        rows.append({"ind": i, "activity_label": rng.choice(["Craft", "Home and Garden "]), "ctx_a": f"Somebody needs what {USES[t]}. [header] How to [step] begin",
                     "ctx_b": rng.choice(["she", "the McTavish family", "éva [title] then", ""]), "ctx": "unused", "endings": endings,
                     "label": str(label)})
    return rows


def arc(count, first):
    rows = []
    for i in range(first, first + count):
        t = i % len(THINGS)
        chosen = [t] + others(t, rng.choice([2, 3, 4]))
        rng.shuffle(chosen)
        labels = list("ABCDE"[:len(chosen)]) if i % 3 else list("12345"[:len(chosen)])
        texts = [THINGS[j] + rng.choice(["", " of brass", f" from {rng.choice(PLACES)}"]) for j in chosen]
        rows.append({"id": f"q{i}", "question": f"Which of these {USES[t]}?", "choices": {"text": texts, "label": labels},
                     "answerKey": labels[chosen.index(t)]})
    return rows


def lambada(count, first):
    return [{"text": f"In {rng.choice(PLACES)} it was dark, and whatever {USES[i % len(THINGS)]} was gone. \"Where,\" she asked, \"is the {THINGS[i % len(THINGS)]}"}
            for i in range(first, first + count)]


def gsm8k(count, first):
    rows = []
    for i in range(first, first + count):
        a, b = 3 + i % 7, 2 + i % 5
        rows.append({"question": f"Anna has {a} bags of {b} nuts. How many?", "answer": f"{a} * {b} = <<{a}*{b}={a * b}>>{a * b}\n#### {a * b}" if i % 4 else f"It is {a}.\n#### 1,{a:03d}"})
    return rows


MAKERS = {"mmlu": (mmlu, 14, 9), "hellaswag": (hellaswag, 12, 2), "arc": (arc, 14, 3), "lambada": (lambada, 12, 2), "gsm8k": (gsm8k, 18, 2)}
SHOTS = {"mmlu": [0, 3], "hellaswag": [0, 1], "arc": [0, 2], "lambada": [0, 1], "gsm8k": [0, 2]}
YAMLS = {"mmlu": "mmlu/default/_default_template_yaml", "hellaswag": "hellaswag/hellaswag.yaml", "arc": "arc/arc_easy.yaml",
         "lambada": "lambada/lambada_openai.yaml", "gsm8k": "gsm8k/gsm8k.yaml"}


def make_files():
    OUT.mkdir(exist_ok=True)
    files = {}
    for name, (make, count, examples) in MAKERS.items():
        files[name] = {"test": make(count, 0), "dev": make(examples, 30)}
        for split, rows in files[name].items():
            with open(OUT / f"{name}_{split}.jsonl", "w", encoding="utf-8") as f:
                for row in rows:
                    f.write(json.dumps(row, ensure_ascii=False) + "\n")
    return files


def texts_to_learn(files):
    texts = []
    for row in files["arc"]["test"][:9]:
        texts.append(f"Question: {row['question']}\nAnswer: {row['choices']['text'][row['choices']['label'].index(row['answerKey'])]}")
    texts += [row["text"] for row in files["lambada"]["test"][:8]]
    texts += [f"Question: {row['question']}\nAnswer: {row['answer']}\n\nQuestion: Anna" for row in files["gsm8k"]["test"][:12]]
    for row in files["hellaswag"]["test"][:6]:
        texts.append(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b']} {row['endings'][int(row['label'])]}")
    for row in files["mmlu"]["test"][:8]:
        letters = "\n".join(f"{c}. {text}" for c, text in zip("ABCD", row["choices"]))
        texts.append(f"{row['question'].strip()}\n{letters}\nAnswer: {'ABCD'[row['answer']]}")
    return texts


def make_model(texts):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], show_progress=False,
                                                                        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False)
    config = transformers.LlamaConfig(vocab_size=fast.vocab_size, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, max_position_embeddings=POSITIONS, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True,
                                      initializer_range=0.1)
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    ids = [torch.tensor([fast.encode(text)]) for text in texts]
    for epoch in range(30):
        for one in ids:
            optimizer.zero_grad()
            model(input_ids=one, labels=one).loss.backward()
            optimizer.step()
    model = model.to(torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(bos_token_id=0, eos_token_id=1)
    shutil.rmtree(OUT / "model", ignore_errors=True)
    model.save_pretrained(OUT / "model")
    fast.save_pretrained(OUT / "model")


def task_of(name, files, subject=None):
    config = load_yaml(TASKS / YAMLS[name], resolve_func=True)
    rows = {split: [r for r in files[name][split] if subject is None or r["subject"] == subject] for split in ("test", "dev")}
    config.update(task=name, dataset_path=None, dataset_name=None, training_split=None, validation_split=None, test_split="test", fewshot_split="dev",
                  fewshot_config={"sampler": "first_n"}, custom_dataset=lambda **_: datasets.DatasetDict({s: datasets.Dataset.from_list(r) for s, r in rows.items()}))
    config.pop("tag", None)
    if config["output_type"] == "multiple_choice":
        config["metric_list"] = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_bytes")]
    if config["output_type"] == "generate_until":
        config["generation_kwargs"]["max_gen_toks"] = NEW_TOKENS
    if subject is not None:
        config["description"] = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    return ConfigurableTask(config=config)


def result_of(lm, name, shots, files, subject=None):
    task = task_of(name, files, subject)
    task.set_config("num_fewshot", shots)
    found = lm_eval.simple_evaluate(model=lm, tasks=[task], num_fewshot=shots, bootstrap_iters=0, log_samples=True)
    figures = {k: v for k, v in found["results"][name].items() if isinstance(v, float)}
    questions = {}
    if "acc,none" in figures:
        figures["acc_stderr"] = mean_stderr([sample["acc"] for sample in found["samples"][name]])
    for sample in found["samples"][name]:
        one = questions.setdefault(sample["doc_id"], {})
        arguments = [list(a.values()) if isinstance(a, dict) else list(a) for a in
                     (sample["arguments"].values() if isinstance(sample["arguments"], dict) else sample["arguments"])]
        one["context"] = arguments[0][0]
        if task.OUTPUT_TYPE == "generate_until":
            one["generated"] = sample["resps"][0][0]
            one[sample["filter"]] = sample["exact_match"]
        else:
            one["continuations"] = [a[1] for a in arguments]
            one["log_likelihoods"] = [r[0][0] for r in sample["resps"]]
            one["greedy"] = [bool(r[0][1]) for r in sample["resps"]]
    return {"task": name, "shots": shots, "figures": figures, "questions": [questions[i] for i in sorted(questions)]}


def of_both_subjects(lm, shots, files):
    """mmlu's tasks are of one subject each; the group's acc is weighted by their sizes."""
    parts = {s: result_of(lm, "mmlu", shots, files, s) for s in ("old_tools", "physics")}
    iterators = {s: iter(p["questions"]) for s, p in parts.items()}
    questions = [next(iterators[row["subject"]]) for row in files["mmlu"]["test"]]
    sizes = {s: len(p["questions"]) for s, p in parts.items()}
    figures = {k: sum(parts[s]["figures"][k] * sizes[s] for s in parts) / len(questions) for k in parts["physics"]["figures"] if "stderr" not in k}
    return {"task": "mmlu", "shots": shots, "figures": figures, "questions": questions}


def python_cases():
    strings = ["", " ", "  two words \n", "\u00a0x\u3000", "\u2028a\u200a", "\x1cz\x1f", "\u180ekeeps\u200b", "ÉCOLE ÀÉ", "éva SAYS", "ǆ titlecase",
               "straße", "ΑΘΗΝΑ ΩΔΗ", "жЖ ПРИВЕТ", "ŁÓDŹ", "x", "MCTAVISH", "日本語 かな", "😀 A", "ẞ"]
    marks = ["a [title] b", " [header] How to [step] begin ", "[unclosed", "x [two\nlines] y", "a  b   c    d", "[] []", "]a[b]c]", "[[a]b]", " [title]", "[a][title] b"]
    answers = ["#### 42", "so #### -1,234.5.", "####42 #### x", "#### - #### 7", "It is 5", "5.", "$1,200.50 or -3", "no number", "a - 5", "--7", ".", "1 . 2 , 3", "-.5", "... 8",
               "#### 1.\n", "costs $5", "$", "-$5", "7-8", "#### -", "x #### 3 #### 4", "12 %", "３", ""]
    references = ["#### 42", "a #### 1,234.5", "5", "7", "-1234.5", "#### 5.\n", "x\n#### 1", "$5", "3", "[INVALID]", "8", "#### 1,200.50"]
    strict, flexible = RegexFilter(r"#### (\-?[0-9\.\,]+)"), RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    ignore = dict(ignore_case=True, ignore_punctuation=False, regexes_to_ignore=[",", "\\$", "(?s).*#### ", "\\.$"])
    r = random.Random(1)
    texts = answers + ["".join(r.choice("#### 0123456789.,-$ \nx") for _ in range(30)) for _ in range(200)]
    found = []
    for text in texts:
        a, b = strict.apply([[text]], None)[0][0], flexible.apply([[text]], None)[0][0]
        found.append({"text": text, "strict": a, "flexible": b})
    matches = [{"answer": a, "reference": b, "is_match": bool(exact_match_hf_evaluate([a], [b], **ignore)["exact_match"])}
               for a in answers + ["42", "5", "1", "7", "-1234.5", "[invalid]", "8..", "8.\n"] for b in references]
    return {"strings": [{"text": s, "strip": s.strip(), "rstrip": s.rstrip(), "capitalize": s.capitalize(), "lower": s.lower(), "len": len(s)} for s in strings],
            "marks": [{"text": s, "preprocess": preprocess(s)} for s in marks], "answers": found, "matches": matches}


def write(name, content):
    versions = {"python": platform.python_version(), "lm-eval": importlib.metadata.version("lm-eval"), "torch": torch.__version__,
                "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "numpy": np.__version__}
    with open(HERE / name, "w", encoding="utf-8") as f:
        json.dump({"made_by": "tests/golden/evaluation/make_tasks.py", "versions": versions, **content}, f, indent=0, ensure_ascii=False)


def main():
    write("python.json", python_cases())
    files = make_files()
    make_model(texts_to_learn(files))
    lm = HFLM(pretrained=str(OUT / "model"), dtype="float32", device="cpu", batch_size=4)
    results = []
    for name, all_shots in SHOTS.items():
        for shots in all_shots:
            results.append(of_both_subjects(lm, shots, files) if name == "mmlu" else result_of(lm, name, shots, files))
    write("tasks.json", {"max_tokens": NEW_TOKENS, "results": results})
    for result in results:
        print(result["task"], result["shots"], {k: round(v, 4) for k, v in result["figures"].items()})


if __name__ == "__main__":
    main()
