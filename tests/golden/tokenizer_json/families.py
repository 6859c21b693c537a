"""The pipelines of families of byte-level BPE tokenizers, as in the tokenizer.json that their publishers give, over any
vocabulary; those of BPE with byte fallback (FALLBACK); strings that are hard for them; and vocabularies in tiktoken's format."""
import base64
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tokenizer"))
import make_tokenizer_golden as hard  # noqa: E402

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^""" + "\r\n" + r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[""" + "\r\n"
             + r"""]*|\s*[""" + "\r\n" + r"""]+|\s+(?!\S)|\s+""")
# The cased letters of DeepSeek-LLM, also written by llama.cpp.
CASED = (r"""[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄ"""
         r"""ῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]""")
O200K = "|".join([
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""\p{N}{1,3}""", r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""])


TEKKEN = "|".join([r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+""",
                   r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*""",
                   r"""\p{N}""", r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""])


def split(*patterns, tail=BYTES):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] + [tail])


def special(*names):
    return [AddedToken(n, special=True, normalized=False) for n in names]


# name -> normalizer, pre-tokenizer, special tokens
FAMILIES = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False), special("<|endoftext|>")),
    "llama3": (None, split(hard.LLAMA3), special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>")),
    "qwen2": (normalizers.NFC(), split(hard.QWEN2), special("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    "deepseek3": (normalizers.Sequence([]), split(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3),
                  special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>")),
    "deepseek_coder": (normalizers.Sequence([]),
                       pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in
                                                ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")]
                                               + [pre_tokenizers.Digits(individual_digits=True), BYTES]),
                       special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")),
    "smollm": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
               special("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
    "o200k": (None, split(O200K), special("<|endoftext|>", "<|return|>")),
    "tekken": (None, split(TEKKEN), special("<unk>", "<s>", "</s>", "[INST]")),
    "deepseek_llm": (normalizers.Sequence([]),
                     pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in
                                              ("[\r\n]", r"\s?" + CASED + "+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+")]
                                             + [pre_tokenizers.Digits(individual_digits=True), BYTES]),
                     special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")),
    "olmo": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False), special("<|endoftext|>")),
    "olmo2": (None, split(hard.LLAMA3), special("<|endoftext|>")),
    # No family's: what the format has besides.
    "odd": (normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\t+"), "  "), normalizers.Replace("...", "…")]),
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{Lu}\p{Ll}+"), "merged_with_previous"),
                                     pre_tokenizers.Split(Regex(r"[aeiou]"), "merged_with_next"),
                                     pre_tokenizers.Split("=", "contiguous"),
                                     pre_tokenizers.Split(Regex(r"[^\x{0}]+"), "removed", invert=True),
                                     pre_tokenizers.Digits(individual_digits=False),
                                     pre_tokenizers.ByteLevel(add_prefix_space=True)]),
            special("<s>", "</s>")),
    "nfd": (normalizers.NFD(), pre_tokenizers.ByteLevel(add_prefix_space=False), special("<|endoftext|>")),
    "nfkd": (normalizers.NFKD(), pre_tokenizers.ByteLevel(add_prefix_space=False), special("<|endoftext|>")),
}


def dress(tokenizer, family):
    """Gives a tokenizer with a BPE model the family's pipeline and added tokens."""
    normalizer, pretokenizer, specials = FAMILIES[family]
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pretokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    if family in ("llama3", "deepseek3"):
        first = specials[0].content
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))])])
    if family == "odd":
        tokenizer.add_tokens([AddedToken("[word]", single_word=True, normalized=False), AddedToken("[left]", lstrip=True, normalized=False),
                              AddedToken("[right]", rstrip=True, normalized=True), AddedToken("[both]", lstrip=True, rstrip=True, normalized=False),
                              AddedToken("ﬁn", normalized=True), AddedToken("word", single_word=True, normalized=True), AddedToken("  ", normalized=False),
                              AddedToken("é", normalized=False), AddedToken("Åß", normalized=True)])
    return tokenizer


def trained(family, texts, vocabulary, alphabet=None):
    normalizer, pretokenizer, specials = FAMILIES[family]
    odd = family == "odd"
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if odd else None, fuse_unk=odd, ignore_merges=family == "llama3"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pretokenizer
    # Of some families not all bytes, so that some have no token.
    few = alphabet or (200 if odd or family == "smollm" else None)
    of_bytes = {"limit_alphabet": few} if few else {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, **of_bytes,
                                  special_tokens=["<unk>"] if odd else [s.content for s in specials])
    tokenizer.train_from_iterator(texts, trainer)
    return dress(tokenizer, family)


def spaces(scheme, split):
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=split)


TO_TEXT = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
STRIP = [decoders.Strip(" ", 1, 0)]
AS_SPACE = normalizers.Replace(" ", "▁")

# name -> normalizer, pre-tokenizer, decoder, whether merges reach over spaces, options of the model, bytes without a token
FALLBACK = {
    # Llama 2, Mistral, TinyLlama as transformers 4 and 5 save them; Gemma; and what the format has besides.
    "llama2": (normalizers.Sequence([normalizers.Prepend("▁"), AS_SPACE]), None, TO_TEXT + STRIP, False, {"fuse_unk": True}, ""),
    "llama2_first": (None, spaces("first", False), TO_TEXT + STRIP, False, {"fuse_unk": True}, ""),
    "gemma": (AS_SPACE, pre_tokenizers.Split(" ", "merged_with_previous"), TO_TEXT, True, {"fuse_unk": True, "unk_token": "<unk>"}, ""),
    "always_split": (None, spaces("always", True), TO_TEXT + STRIP, False, {"fuse_unk": True, "unk_token": "<unk>"}, ""),
    "few_bytes": (normalizers.NFKC(), spaces("never", False), TO_TEXT, True, {"unk_token": "<unk>"}, "\xe2\xf0\xcc\x09"),
    "few_bytes_fused": (None, spaces("first", False), TO_TEXT + STRIP, True, {"unk_token": "<unk>", "fuse_unk": True}, "\xe2\xf0\xcc\x09"),
    "whole_words": (None, spaces("always", True), TO_TEXT + STRIP, False, {"ignore_merges": True}, "\xf0"),
}


def trained_fallback(family, texts, vocabulary):
    """A vocabulary of 256 bytes, a few characters and merges of them, with the family's pipeline."""
    normalizer, pretokenizer, decoder, reaches, options, missing = FALLBACK[family]
    learner = Tokenizer(models.BPE())
    if reaches:
        learner.normalizer = AS_SPACE
    else:
        learner.pre_tokenizer = spaces("always", True)
    learner.train_from_iterator([t[:20000] for t in texts], trainers.BpeTrainer(vocab_size=vocabulary - 259, limit_alphabet=90, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256) if chr(b) not in missing]
    names += [t for t in sorted(learnt["vocab"], key=learnt["vocab"].get) if t not in names]
    model = models.BPE(vocab={t: i for i, t in enumerate(names)}, merges=[tuple(m) for m in learnt["merges"]], byte_fallback=True, **options)
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pretokenizer is not None:
        tokenizer.pre_tokenizer = pretokenizer
    tokenizer.decoder = decoders.Sequence(decoder)
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken("[left]", lstrip=True, normalized=False), AddedToken("[right]", rstrip=True, normalized=True),
                          AddedToken("▁▁", normalized=False), AddedToken("word", single_word=True, normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


# name -> normalizer, pre-tokenizer, whether a space is put in front, added tokens: Llama 2 and TinyLlama, Mistral 7B, Phi-3, Gemma
PIECES = {
    "llama2": (normalizers.Sequence([normalizers.Prepend("▁"), AS_SPACE]), None, []),
    "mistral": (None, spaces("first", False), [AddedToken("[INST]", special=True, normalized=False)]),
    "phi3": (normalizers.Sequence([normalizers.Prepend("▁"), AS_SPACE]), None,
             [AddedToken("<|endoftext|>", special=True, normalized=False)]
             + [AddedToken(n, special=True, normalized=False, rstrip=True) for n in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")]),
    "gemma": (AS_SPACE, pre_tokenizers.Split(" ", "merged_with_previous"),
              special("<start_of_turn>", "<end_of_turn>") + [AddedToken("\n\n", normalized=False)]),
}


def trained_pieces(family, texts, vocabulary):
    """BPE with byte fallback as transformers makes it of a SentencePiece model: any two pieces that make a third are merged, in the order
    of the pieces that they make."""
    normalizer, pretokenizer, added = PIECES[family]
    learner = Tokenizer(models.BPE())
    learner.normalizer = AS_SPACE
    if family != "gemma":
        learner.normalizer = None
        learner.pre_tokenizer = spaces("always", True)
    learner.train_from_iterator([t[:20000] for t in texts], trainers.BpeTrainer(vocab_size=vocabulary - 259, limit_alphabet=90, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]["vocab"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    names += [t for t in sorted(learnt, key=learnt.get) if t not in names and t not in [a.content for a in added]]
    merges = [(t[:i], t[i:]) for t in names[259:] for i in range(1, len(t)) if t[:i] in names[259:] and t[i:] in names[259:]]
    model = models.BPE(vocab={t: i for i, t in enumerate(names)}, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pretokenizer is not None:
        tokenizer.pre_tokenizer = pretokenizer
    tokenizer.decoder = decoders.Sequence(TO_TEXT + ([] if family == "gemma" else STRIP))
    tokenizer.add_special_tokens(special("<unk>", "<s>"))
    tokenizer.add_special_tokens([AddedToken("</s>", special=True, normalized=False, rstrip=family == "phi3")])
    tokenizer.add_tokens(added)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def from_tiktoken(path, family):
    """A vocabulary of lines "base64 rank"; a token's merge is the pair that the merges of lower rank leave of it."""
    ranks = {}
    for line in open(path, "rb"):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    characters = {b: c for c, b in hard.ALPHABET.items()}
    text = lambda token: "".join(characters[b] for b in token)  # noqa: E731
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[best] + parts[best + 1], rank) >= rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((text(parts[0]), text(parts[1])))
    model = models.BPE(vocab={text(t): r for t, r in ranks.items()}, merges=merges, ignore_merges=family == "llama3")
    return dress(Tokenizer(model), family)


MARKS = ["\u0301", "\u0300", "\u0323", "\u0327", "\u0345", "\u05b4", "\u064b", "\u0e38", "\u3099", "\u302a", "\U0001d165", "\u08d3", "\u1ab5", "\u0eba",
         "\U0001e132", "\U00011930", "\U0001e4ec"]
BASES = ["a", "e", "E", "o", "\u00c5", "\u212b", "\u1e9b\u0323", "\u0958", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u304b", "ﬁ", "²", "㌀", "\u0344", "\u09c7\u09be",
         "\U0001d15e", "\uf900", "\u32ff", "\U00011935", "\u1b06", "Ǆ", "ﷺ", "…", "\u2126", "\u0385", "\u2003", "ｶﾞ"]
ADDED = ["[word]", "[left]", "[right]", "[both]", "ﬁn", "fin", "word", " word ", "sword", "words", "  ", "\u00a0[both]\u2003 ", "_word-", "\u0301word", "é", "Åß", "[wor[word]"]


def strings(r, count, names, prose=""):
    """Hard strings: the pools of make_tokenizer_golden, marks in any order, names of tokens, and pieces of prose."""
    pools = [hard.SPACES, hard.DIGITS, hard.EMOJI, hard.SCRIPTS, hard.CODE, hard.ENGLISH, list("aZ09 '\n._-<|>=\t"), MARKS, BASES, ADDED, list(names)]
    result = ["", " ", "\n", "'s", "a" * 300, "=" * 65, " " * 70, "\u0301", "e" + "\u0323\u0301" * 40]
    while len(result) < count:
        kind = r.randrange(5 if prose else 4)
        if kind == 0:
            result.append("".join(hard.random_character(r) for _ in range(r.randrange(1, 24))))
        elif kind == 1:
            result.append("".join(r.choice(BASES if r.random() < 0.4 else MARKS) for _ in range(r.randrange(1, 12))))
        elif kind < 4:
            result.append("".join(r.choice(r.choice(pools)) for _ in range(r.randrange(1, 12))))
        else:
            start = r.randrange(len(prose))
            result.append(prose[start:start + r.randrange(1, 400)])
    return result[:count]


def names(tokenizer):
    return [t["content"] for t in json.loads(tokenizer.to_str())["added_tokens"]]
