"""Conversations as text and tokens by transformers' apply_chat_template and PyPI's `tokenizers`, for every known family.

    python make_chat.py

Writes beside itself chat.jsonl.gz. Its first line holds "conversations", lists of [role, content]. Then a line a tokenizer:
"tokenizer", "tokenizer_json". Then a line a template: "name" (Limbeck's), "tokenizer", "bos", "eos", "template", and for each
conversation in "whole" and in "prompt" (with the generation prompt, where the last message is a user's): {"ids", "targets": [begin,
end) of tokens}, or null where the template refuses the conversation or leaves words of it out, or the conversation has no such form.
"other": it is not known here.

How a name of a special token in somebody's words stays text, which transformers does not do: template and tokenizer are given with
other names for these tokens, so that the library finds the old ones nowhere. A target is a token that has a character of what the
model says: of a reply from behind the generation prompt to its closing token, found by replacing the reply with a word that is
nowhere else.
Made with Python 3.11, transformers 5.24.0, tokenizers 0.23.3.
"""
import datetime
import gzip
import json
import os
import random
import sys

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tokenizer_json"))
import families  # noqa: E402
import templates as t  # noqa: E402

TEKKEN = families.TEKKEN


class Published(datetime.datetime):
    """The day that Limbeck has for today: that on which gpt-oss was published."""

    @classmethod
    def now(cls, tz=None):
        return cls(2025, 8, 5)


chat_template_utils.datetime = Published


def added(content, special=True, rstrip=False):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False, "special": special}


def with_added(tokenizer, tokens, start=None):
    """A tokenizer with these added tokens alone, those that its vocabulary lacks behind it."""
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    kept = [x for x in document["added_tokens"] if x["special"] and x["content"] in vocabulary]
    following = len(vocabulary)
    for token in tokens:
        if token["content"] in [x["content"] for x in kept]:
            continue
        known = vocabulary.get(token["content"])
        kept.append({"id": following if known is None else known, **token})
        following += known is None
    document["added_tokens"] = kept
    ids = {x["content"]: x["id"] for x in kept}
    document["post_processor"] = None if start is None else {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {start: {"id": start, "ids": [ids[start]], "tokens": [start]}}}
    return document


def tokenizers(prose):
    bytes_of = lambda family: families.trained(family, prose, 400)  # noqa: E731
    pieces_of = lambda family: families.trained_fallback(family, prose, 400)  # noqa: E731
    plain = [added(x) for x in ("<|im_start|>", "<|im_end|>")]
    return {
        "qwen": with_added(bytes_of("qwen2"), plain + [added("<think>", False), added("</think>", False)]),
        "llama3": with_added(bytes_of("llama3"), [added("<|end_header_id|>"), *plain], "<|begin_of_text|>"),
        "llama2": with_added(pieces_of("llama2"), plain, "<s>"),
        "mistral": with_added(pieces_of("llama2_first"), [added(x) for x in ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")], "<s>"),
        "tekken": with_added(bytes_of("tekken"), [added("[INST]"), added("[/INST]")], "<s>"),
        "phi3": with_added(pieces_of("llama2"), [added("<|endoftext|>")] + [added(x, rstrip=True) for x in
                                                                            ("<|assistant|>", "<|user|>", "<|system|>", "<|end|>")]),
        "gemma": with_added(pieces_of("gemma"), [added("<start_of_turn>"), added("<end_of_turn>"), added("\n\n", False), added("▁▁", False)], "<s>"),
        "deepseek": with_added(bytes_of("deepseek3"), [added("<｜User｜>", False), added("<｜Assistant｜>", False), added("<think>", False),
                                                       added("</think>", False)], "<｜begin▁of▁sentence｜>"),
        "gpt_oss": with_added(bytes_of("o200k"), [added(x) for x in ("<|start|>", "<|message|>", "<|channel|>", "<|end|>")]),
    }


# name, tokenizer, bos, eos, template, what the model says before and behind the words of a reply
FORMATS = [
    ("ChatML", "qwen", None, "<|im_end|>", t.CHATML, "", "<|im_end|>"),
    ("ChatML", "llama3", "<|begin_of_text|>", "<|im_end|>", t.CHATML, "", "<|im_end|>"),
    ("ChatML", "llama2", "<s>", "</s>", "{{bos_token}}" + t.CHATML.replace("'\\n'}}", "'\n'}}"), "", "<|im_end|>"),
    ("ChatML", "gpt_oss", None, "<|endoftext|>", t.CHATML, "", "<|im_end|>"),  # whose names are text to this tokenizer
    ("Qwen1.5", "qwen", None, "<|im_end|>", t.chatml_with_default("You are a helpful assistant"), "", "<|im_end|>"),
    ("Qwen2", "qwen", None, "<|im_end|>", t.chatml_with_default("You are a helpful assistant."), "", "<|im_end|>"),
    ("SmolLM2", "qwen", None, "<|im_end|>", t.chatml_with_default("You are a helpful AI assistant named SmolLM, trained by Hugging Face"), "", "<|im_end|>"),
    ("Qwen2.5", "qwen", None, "<|im_end|>", t.QWEN25, "", "<|im_end|>"),
    ("Qwen3", "qwen", None, "<|im_end|>", t.QWEN3, "<think>\n\n</think>\n\n", "<|im_end|>"),
    ("Llama-3", "llama3", "<|begin_of_text|>", "<|eot_id|>", t.LLAMA3, "", "<|eot_id|>"),
    ("Llama-3.1", "llama3", "<|begin_of_text|>", "<|eot_id|>", t.LLAMA31, "", "<|eot_id|>"),
    ("Llama-2", "llama2", "<s>", "</s>", t.LLAMA2, " ", " </s>"),
    ("Mistral-7B-v0.1", "llama2", "<s>", "</s>", t.mistral_7b(" + ' '"), "", "</s>"),
    ("Mistral-7B-v0.2", "llama2", "<s>", "</s>", t.mistral_7b(""), "", "</s>"),
    ("Mistral-v1", "llama2", "<s>", "</s>", t.MISTRAL_V1, " ", "</s>"),
    ("Mistral-v3", "mistral", "<s>", "</s>", t.mistral_v3("[INST] ", '" " + message["content"]|trim'), " ", "</s>"),
    ("Mistral-v3-tekken", "tekken", "<s>", "</s>", t.mistral_v3("[INST]", 'message["content"]'), "", "</s>"),
    ("Mistral-v7", "mistral", "<s>", "</s>", t.MISTRAL_V7, " ", "</s>"),
    ("Phi-3", "phi3", "<s>", "<|endoftext|>", t.PHI3.replace("BOS", "{{ bos_token }}"), "", "<|end|>"),
    ("Phi-3", "phi3", "<s>", "<|endoftext|>", t.PHI3.replace("BOS", ""), "", "<|end|>"),
    ("Phi-3.5", "phi3", "<s>", "<|endoftext|>", t.PHI35, "", "<|end|>"),
    ("Phi-3-small", "phi3", "<s>", "<|endoftext|>", t.PHI3_SMALL, "", "<|end|>"),
    ("Gemma", "gemma", "<s>", "</s>", t.GEMMA, "", "<end_of_turn>"),
    ("Gemma-3", "gemma", "<s>", "</s>", t.GEMMA3, "", "<end_of_turn>"),
    ("DeepSeek-V2", "deepseek", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", t.DEEPSEEK2, " ", "<｜end▁of▁sentence｜>"),
    ("DeepSeek-V3", "deepseek", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", t.deepseek3(False), "", "<｜end▁of▁sentence｜>"),
    ("DeepSeek-R1", "deepseek", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", t.deepseek3(True), "", "<｜end▁of▁sentence｜>"),
    ("gpt-oss", "gpt_oss", None, "<|return|>", t.GPT_OSS, "<|channel|>final<|message|>", "<|end|>"),
]

# What these make of a second system message, as a turn of an assistant or put to the first, Limbeck refuses.
SYSTEM_IN_FRONT = {"Llama-2", "Gemma-3", "DeepSeek-V3", "DeepSeek-R1"}
# And a reply with thoughts, of which the template leaves these out. (Qwen3's keeps those of a last reply: that is as it is.)
WITHOUT_THOUGHTS = {"DeepSeek-R1"}

NAMES = ("<|im_end|>\n<|im_start|>assistant\nNo <s> or </s>, [INST] x [/INST] <<SYS>> <end_of_turn><start_of_turn>model\n<|eot_id|>"
         "<|start_header_id|> <｜User｜><｜Assistant｜><｜end▁of▁sentence｜><|end|> <|user|>\n<|start|>assistant<|return|><|endoftext|>")
S, U, A = "system", "user", "assistant"
CONVERSATIONS = [
    [(U, "What is a still?"), (A, "A tool for distilling.")],
    [(S, "Be brief."), (U, "Hi"), (A, "Hello."), (U, "And 1999?"), (A, "No's 12345!\nBye")],
    [(S, "  Be\n brief. \n"), (U, "  two  \n"), (A, "\n\n  spaces  \n "), (U, "\tx\u3000"), (A, "\u00a0y\n\n")],
    [(U, "Hi"), (A, "")],
    [(S, ""), (U, ""), (A, ""), (U, " "), (A, " \n")],
    [(S, NAMES), (U, NAMES + "<|im_end|>"), (A, NAMES), (U, "a"), (A, "b")],
    [(U, NAMES + " "), (A, "x" + NAMES)],
    [(U, "e\u0301\u0323 한 日本語 🙂‍↔️ \ufb01 \u212b"), (A, "\u0301a\u030a 漢字 👍🏽\n\n\n")],
    [(U, "one"), (A, "two"), (U, "three")],
    [(S, "Be brief."), (U, "one"), (A, "two"), (U, "three")],
    [(U, "Hi"), (U, "again"), (A, "yes")],
    [(A, "I begin."), (U, "Go on"), (A, "I do.")],
    [(S, "a"), (U, "b"), (S, "c"), (U, "d"), (A, "e")],
    [(U, "Hi"), (A, "one"), (A, "two")],
    [(U, "Think"), (A, "<think>\nhm\n\n</think>\n\nSo it is.")],
    [(U, "x"), (A, "<think>\na\n</think>\n\n1"), (U, "y"), (A, "<think>b</think>2")],
    [(U, "Long " + "word " * 40), (A, "an answer. " * 40)],
    [(U, "Only a question")],
    [(S, "Be brief."), (U, "Only a question")],
]
WORD = "zqxsentinelxqz"


def renamed(text, names):
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


class Rendering:
    """A template with its tokenizer, special tokens and markers under other names."""

    def __init__(self, document, bos, eos, template):
        markers = [x for x in ("<｜User｜>", "<｜Assistant｜>") if x in template]  # no special tokens of this tokenizer
        literal = [x["content"] for x in document["added_tokens"] if x["special"] or x["content"] in markers]
        self.names = {} if "'<|' + message['role']" in template else {x: f"\ue000{i}\ue001" for i, x in enumerate(literal)}
        other = json.loads(json.dumps(document))
        other["post_processor"] = None
        for token in other["added_tokens"]:
            name = token["content"]
            token["content"] = self.names.get(name, name)
            if name in other["model"]["vocab"] and name in self.names:
                other["model"]["vocab"][self.names[name]] = other["model"]["vocab"].pop(name)
        if other["model"].get("unk_token"):
            other["model"]["unk_token"] = self.names.get(other["model"]["unk_token"], other["model"]["unk_token"])
        self.tokenizer = Tokenizer.from_str(json.dumps(other))
        wrapped = lambda tokenizer, rename: PreTrainedTokenizerFast(  # noqa: E731
            tokenizer_object=tokenizer, bos_token=bos and rename(bos), eos_token=rename(eos), chat_template=rename(template))
        self.renamed = wrapped(self.tokenizer, lambda text: renamed(text, self.names))
        self.as_it_is = wrapped(Tokenizer.from_str(json.dumps({**document, "post_processor": None})), lambda text: text)

    def text(self, conversation, asks):
        messages = [{"role": role, "content": content} for role, content in conversation]
        how = {"tokenize": False, "add_generation_prompt": asks}
        text = self.renamed.apply_chat_template(messages, **how)
        back = text
        for name, other in self.names.items():
            back = back.replace(other, name)
        assert back == self.as_it_is.apply_chat_template(messages, **how)
        return text


def leaves_out(rendering, conversation, asks):
    for i, (role, _) in enumerate(conversation):
        with_word = [(r, WORD if k == i else c) for k, (r, c) in enumerate(conversation)]
        if WORD not in rendering.text(with_word, asks):
            return True
    return False


def replies(rendering, conversation, text, lead, closing, eos):
    """Where the model speaks, in characters of `text`."""
    spans = []
    for i, (role, _) in enumerate(conversation):
        if role != A:
            continue
        with_word = rendering.text([(r, WORD if k == i else c) for k, (r, c) in enumerate(conversation)], False)
        at = with_word.index(WORD)
        rest = with_word[at + len(WORD):]
        said = closing
        if i + 1 == len(conversation) and renamed("<|return|>", rendering.names) == rest:
            said = rest
        assert rest.startswith(said), (rest, said)
        begin = at - len(lead) if with_word[:at].endswith(lead) else at
        assert text[:begin] == with_word[:begin]
        assert text.endswith(rest)
        spans.append((begin, len(text) - len(rest) + len(said)))
    if conversation[-1][0] == A and text.endswith(closing + "\n" + eos):  # Phi-3.5 ends a conversation so
        spans.append((len(text) - len(eos), len(text)))
    return spans


def tokens(rendering, text, spans, start):
    encoding = rendering.tokenizer.encode(text, add_special_tokens=False)
    ids = encoding.ids
    targets = [any(begin < stop and end > first for first, stop in spans) for begin, end in encoding.offsets]
    if start is not None and ids[:1] != [start]:
        ids, targets = [start] + ids, [False] + targets
    ranges = []
    for i, is_target in enumerate(targets + [False]):
        if is_target and (i == 0 or not targets[i - 1]):
            ranges.append(i)
        if not is_target and i > 0 and targets[i - 1]:
            ranges.append(i)
    return {"ids": ids, "targets": ranges}


def main():
    r = random.Random(7)
    prose = families.strings(r, 500, ["user"]) + [c for conversation in CONVERSATIONS for _, c in conversation] * 5
    prose = [text for text in prose if "<" not in text]  # no merge makes the name of a token
    documents = tokenizers(prose)
    lines = [{"conversations": CONVERSATIONS}]
    lines += [{"tokenizer": name, "tokenizer_json": json.dumps(d, ensure_ascii=False)} for name, d in documents.items()]
    for name, tokenizer, bos, eos, template, lead, closing in FORMATS:
        document = documents[tokenizer]
        rendering = Rendering(document, bos, eos, template)
        given = lambda part: renamed(part, rendering.names)  # noqa: E731
        start = document["post_processor"] and next(iter(document["post_processor"]["special_tokens"].values()))["ids"][0]
        line = {"name": name, "tokenizer": tokenizer, "bos": bos, "eos": eos, "template": template, "whole": [], "prompt": []}
        for c in CONVERSATIONS:
            for form, asks in (("whole", False), ("prompt", True)):
                expected = None
                fits = c[-1][0] == U if asks else any(role == A for role, _ in c)
                fits = fits and not (name in SYSTEM_IN_FRONT and S in [role for role, _ in c[1:]])
                fits = fits and not (name in WITHOUT_THOUGHTS and any("</think>" in content for _, content in c))
                names_are_text = rendering.names or NAMES not in "".join(content for _, content in c)
                try:
                    if fits and names_are_text and not leaves_out(rendering, c, asks):
                        text = rendering.text(c, asks)
                        spans = [] if asks else replies(rendering, c, text, given(lead), given(closing), given(eos))
                        expected = tokens(rendering, text, spans, start)
                except TemplateError:
                    pass
                line[form].append(expected if names_are_text else "other")
        lines.append(line)
    with open(os.path.join(HERE, "chat.jsonl.gz"), "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0, filename="") as file:
        for line in lines:
            file.write((json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
