"""Writes bridge.h5 for make_models.py: two tokenizers of one alphabet, and losses over the spans at whose borders they meet."""
import math
from dataclasses import replace

import torch

from tiny_models import (  # first: it says where the others lie
    BALANCE, FOLDER, MOE, SCRIPT, SMALLEST_GAP, TEACHER, Z, gradients, random_parameters, run, trainable, write_batch)
from reference_model import create, forward, head, write_array, write_attributes, write_tensors

# Two tokenizers of one alphabet: single bytes (of an e acute the two of its UTF-8), merges in their order, an end of text behind them;
# the teacher's begins texts with a token too. Nothing cuts a text into words.
TEXTS = ["the thin hen then hid in the inn", "he eats a pâté, né à thé", "then a tin hat", "thé é", "in the night the hen ate the thin tin tea, then hid"]
CHARACTERS = sorted(set("".join(TEXTS).encode()))
MERGES = {"student": [b"t h", b"i n", b"e n", b"th e", b"a t", b"\xc3 \xa9"], "teacher": [b"h e", b"n  ", b"t he", b"t e", b"e  ", b"the n "]}


class Bpe:
    """Merges of lowest rank first, from the left."""
    def __init__(self, merges, has_start=False):
        pairs = [tuple(merge.split(b" ", 1)) for merge in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.tokens = [bytes([c]) for c in CHARACTERS] + [left + right for left, right in pairs]
        self.end, self.start = len(self.tokens), len(self.tokens) + 1 if has_start else None

    def encode(self, text):
        parts = [bytes([c]) for c in text]
        while True:
            ranked = [(self.ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in self.ranks]
            if not ranked:
                return [self.tokens.index(part) for part in parts]
            i = min(ranked)[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]

    def bytes_of(self, token):
        return self.tokens[token] if token < self.end else b""

    def borders(self, tokens, first=0):
        found = [first]
        for token in tokens:
            found.append(found[-1] + len(self.bytes_of(token)))
        return found


def packed(tokenizer, length):
    """Documents one behind the other, cut into rows; and of each place whether its document begins in its row."""
    rows = {name: [] for name in ("tokens", "targets", "positions", "documents", "begins")}
    for text in TEXTS * 2:
        ids = tokenizer.encode(text.encode()) + [tokenizer.end]
        for i, token in enumerate(ids):
            place = len(rows["tokens"])
            is_first = place % length == 0 or i == 0
            rows["tokens"].append(token)
            rows["targets"].append(ids[i + 1] if i + 1 < len(ids) else -1)
            rows["positions"].append(0 if is_first else rows["positions"][-1] + 1)
            rows["documents"].append(0 if place % length == 0 else rows["documents"][-1] + (i == 0))
            rows["begins"].append(int(i == 0) if is_first else rows["begins"][-1])
    count = len(rows["tokens"]) // length
    batch = {name: torch.tensor(column[:count * length]).reshape(count, length) for name, column in rows.items()}
    batch["sequences"] = torch.arange(count)[:, None].expand(count, length)
    return batch


def spans_of(batch, student, teacher):
    """Row by row and part by part: the teacher's tokens, and (places of the student, tokens of the teacher, bytes) of each span."""
    for row in range(batch["tokens"].shape[0]):
        for document in batch["documents"][row].unique().tolist():
            places = (batch["documents"][row] == document).nonzero()[:, 0].tolist()
            chain = batch["tokens"][row, places].tolist()
            if batch["targets"][row, places[-1]] >= 0:
                chain.append(batch["targets"][row, places[-1]].item())
            begins, ends = bool(batch["begins"][row, places[0]]), chain[-1] == student.end
            ours = student.borders(chain)
            text = b"".join(student.bytes_of(token) for token in chain)
            skipped = next((i for i, c in enumerate(text) if c & 0xC0 != 0x80), len(text))
            whole = text[skipped:].decode(errors="ignore").encode()  # without a character that is cut off
            ids = teacher.encode(whole)
            theirs = teacher.borders(ids, skipped)
            common = sorted(set(ours) & set(theirs))
            found = [(begin, end, [i for i in range(len(chain)) if begin <= ours[i] and ours[i + 1] <= end and ours[i + 1] > ours[i]],
                      [j for j in range(len(ids)) if begin <= theirs[j] and theirs[j + 1] <= end]) for begin, end in zip(common, common[1:])]
            if not ends:
                found = found[:-1]
            read = ids
            if begins:
                read = [teacher.start] + ids
                found = [(begin, end, i, [k + 1 for k in j]) for begin, end, i, j in found]
            if ends:
                read = read + [teacher.end]
                found.append((len(text), len(text), [len(chain) - 1], [len(read) - 1]))
            kept = [([places[0] + k - 1 for k in i], j, end - begin) for begin, end, i, j in found if i[0] > 0 and j[0] > 0]
            yield row, read, kept


def sorted_difference(q, p):
    """Universal logit distillation (arXiv 2402.12030): sum over the ranks |q - p|, the shorter of both filled up with zeros."""
    ranks = max(len(q), len(p))
    q, p = (torch.nn.functional.pad(side.sort(descending=True).values, (0, ranks - len(side))) for side in (q, p))
    assert (q - p).abs().min() > SMALLEST_GAP / 100  # no sign is a matter of rounding
    return (q - p).abs().sum()


def write_bridge():
    alpha, length = 0.2, 21
    student, teacher = Bpe(MERGES["student"]), Bpe(MERGES["teacher"], has_start=True)
    batch = packed(student, length)
    config = replace(MOE, vocabulary=student.end + 1, num_layers=1, num_experts=4, expert_width=8)
    of_teacher = replace(TEACHER, vocabulary=teacher.start + 4)  # three of them fill it up
    parameters, theirs = random_parameters(config, 21), random_parameters(of_teacher, 22)
    ours = trainable(parameters)
    output, terms = run(ours, config, batch, BALANCE, Z)
    assert min(routing.smallest_gap() for routing in output.routing) > SMALLEST_GAP
    all_log_q = head(ours, config, output.final).log_softmax(-1)
    log_q = all_log_q.gather(-1, batch["targets"].clamp(min=0)[..., None])[..., 0]
    count, kl, ours_lost, theirs_lost, num_bytes, num_targets, distance = 0, 0, 0, 0, 0, 0, 0
    for row, read, spans in spans_of(batch, student, teacher):
        tokens = torch.tensor([read])
        with torch.no_grad():
            final = forward(theirs, of_teacher, tokens, torch.arange(len(read))[None], torch.zeros_like(tokens)).final
            log_p = head(theirs, of_teacher, final)[0, :, :teacher.start + 1].log_softmax(-1)
        for places, j, size in spans:
            p = sum(log_p[k - 1, read[k]] for k in j).exp()
            q = sum(log_q[row, place] for place in places).exp()
            kl = kl + p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
            distance = distance + sorted_difference(all_log_q[row, places[0]].exp(), log_p[j[0] - 1].exp())
            count, num_bytes, num_targets = count + 1, num_bytes + size, num_targets + len(places)
            ours_lost, theirs_lost = ours_lost - q.log().item(), theirs_lost - p.log().item()
    valid = (batch["targets"] >= 0).sum()
    others = alpha * terms["ce"] + BALANCE * terms["balance"] + Z * terms["z"]
    total, uld = others + (1 - alpha) * kl / valid, others + (1 - alpha) * distance / valid
    with create(FOLDER / "bridge.h5") as file:
        write_attributes(file, SCRIPT, config, balance_weight=BALANCE, z_weight=Z, num_valid=int(valid), alpha=alpha)
        write_batch(file, batch)
        write_tensors(file, "parameters", parameters, "f4")
        write_tensors(file, "teacher/parameters", theirs, "f4")
        write_attributes(file["teacher"], SCRIPT, of_teacher)
        write_array(file, "characters", CHARACTERS)
        write_tensors(file, "gradients", dict(zip(ours, torch.autograd.grad(total, list(ours.values()), retain_graph=True))), "f4")
        write_tensors(file, "uld/gradients", gradients(ours, uld), "f4")
        for name, value in {"total": uld.item(), "distance": distance.item() / count, "share": count / valid.item()}.items():
            write_array(file, f"uld/loss/{name}", value)
            print(f"bridge: uld {name} {value:.6f}")
        bits = num_bytes * math.log(2)
        values = {"total": total.item(), "ce": terms["ce"].item(), "kl": kl.item() / count, "spans": count, "share": num_targets / valid.item(),
                  "bits_per_byte": ours_lost / bits, "teacher_bits_per_byte": theirs_lost / bits}
        for name, value in values.items():
            write_array(file, f"loss/{name}", value)
            print(f"bridge: {name} {value:.6f}")
