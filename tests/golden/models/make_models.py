"""Writes the golden files of this folder: losses, gradients and AdamW steps of tiny models in float64.

    python tests/golden/models/make_models.py          (PyPI: torch transformers h5py; seconds)

dense.h5, dense_uneven.h5, moe.h5, moe_idle_expert.h5, moe_options.h5, moe_global_balance.h5, moe_expert_choice.h5, distillation.h5,
preferences.h5, rewards.h5, matching.h5, hidden.h5, bridge.h5. Names as arguments: these alone.
Weights are multiples of 1/256, so float32 holds them exactly. Prints
the largest difference to transformers' Llama and Mixtral, and how near the routing comes to a flip.
"""
import math
import pathlib
import sys
from dataclasses import replace

import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import (  # noqa: E402
    Config, create, forward, head, kl_divergence, loss_terms, write_array, write_attributes, write_tensors)
from reference_transformers import as_transformers, in_float64  # noqa: E402

SCRIPT = "models/make_models.py"
DENSE = Config(vocabulary=97, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_width=6, mlp_width=40)
UNEVEN = replace(DENSE, vocabulary=257, width=18, num_layers=1, num_heads=6, num_kv_heads=3, head_width=4, mlp_width=13,
                 tied_head=True)  # nothing that two ranks halve
MOE = replace(DENSE, mlp_width=0, num_experts=8, experts_per_token=2, expert_width=20, tied_head=True)
OPTIONS = replace(MOE, mlp_width=12, num_experts=4, expert_width=8, leading_dense=1, shared_width=10, capacity_factor=0.8, jitter=0.1,
                  seed=5)
GLOBAL = replace(MOE, num_layers=1, num_experts=4, expert_width=8, global_balance=True)
CHOICE = replace(MOE, expert_width=8, renormalise=False, capacity_factor=0.8, jitter=0.1, seed=7, expert_choice=True)
STUDENT = replace(MOE, num_layers=1)
JUDGE = replace(MOE, num_experts=4, expert_width=12)
TEACHER = replace(DENSE, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, mlp_width=28, tied_head=True)
BALANCE, Z = 0.01, 1e-3
STEPS, RATE, BETAS, EPSILON, DECAY, CLIP = 10, 1e-2, (0.9, 0.95), 1e-8, 0.1, 1.0
SMALLEST_GAP = 2e-4  # of router logits, also during the AdamW steps: float32 must not flip a choice
IDLE = {0: [4], 1: [4, 5, 6, 7]}  # experts without a token by layer: one; and all of the second rank's of two


def random_parameters(config, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return (values * 256).round() / 256

    def linear(rows, columns):
        return draw(rows, columns, scale=columns ** -0.5)

    c, e = config.width, config.num_experts
    parameters = {"embed.weight": draw(config.vocabulary, c, scale=1.0 if not config.tied_head else 0.3)}
    for layer in range(config.num_layers):
        p = f"layers.{layer}."
        parameters[p + "attention_norm.weight"] = 1 + draw(c, scale=0.2)
        for name, heads in (("q", config.num_heads), ("k", config.num_kv_heads), ("v", config.num_kv_heads)):
            parameters[f"{p}attention.{name}.weight"] = linear(heads * config.head_width, c)
        parameters[p + "attention.o.weight"] = linear(c, config.num_heads * config.head_width)
        parameters[p + "mlp_norm.weight"] = 1 + draw(c, scale=0.2)
        if e and layer >= config.leading_dense:
            f = config.expert_width
            parameters[p + "moe.router.weight"] = draw(e, c, scale=2 * c ** -0.5)
            parameters[p + "moe.experts.gate"] = draw(e, f, c, scale=c ** -0.5)
            parameters[p + "moe.experts.up"] = draw(e, f, c, scale=c ** -0.5)
            parameters[p + "moe.experts.down"] = draw(e, c, f, scale=f ** -0.5)
            f, p = config.shared_width, p + "moe.shared."
        else:
            f, p = config.mlp_width, p + "mlp."
        if f:
            parameters[p + "gate.weight"] = linear(f, c)
            parameters[p + "up.weight"] = linear(f, c)
            parameters[p + "down.weight"] = linear(c, f)
    parameters["norm.weight"] = 1 + draw(c, scale=0.2)
    if not config.tied_head:
        parameters["head.weight"] = linear(config.vocabulary, c)
    return parameters


def starve(parameters):
    """Channel 0 of the residual stream becomes large and positive, and the idle experts' router rows read it negatively."""
    parameters["embed.weight"][:, 0] = 4.0
    for layer, idle in IDLE.items():
        parameters[f"layers.{layer}.mlp_norm.weight"][0] = 1.0
        parameters[f"layers.{layer}.moe.router.weight"][:, 0] = 0.0
        parameters[f"layers.{layer}.moe.router.weight"][idle, 0] = -4.0
        for name in ("attention.o.weight", "moe.experts.down"):
            parameters[f"layers.{layer}.{name}"][..., 0, :] = 0.0  # no layer writes to channel 0
    return parameters


def make_batch(config, seed):
    """3 packed sequences of 17 tokens; documents of many lengths, one of a single token; a row that is one document."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, config.vocabulary, (3, 17), generator=generator)
    lengths = [[5, 1, 11], [17], [8, 9]]
    positions = torch.tensor([[i for length in row for i in range(length)] for row in lengths])
    documents, number = torch.empty_like(tokens), 0
    for row, parts in enumerate(lengths):
        start = 0
        for length in parts:
            documents[row, start:start + length] = number
            start, number = start + length, number + 1
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = torch.randint(0, config.vocabulary, (3,), generator=generator)
    targets[documents != documents.roll(-1, dims=1)] = -1  # the last of a document does not predict the next document
    targets[:, -1] = torch.where(torch.tensor([True, False, True]), targets[:, -1].abs(), -1)
    targets[1, 3:6] = -1
    sequences = torch.arange(3)[:, None].expand(3, 17)
    return {"tokens": tokens, "targets": targets, "positions": positions, "documents": documents, "sequences": sequences}


def run(parameters, config, batch, balance_weight, z_weight):
    output = forward(parameters, config, batch["tokens"], batch["positions"], batch["documents"])
    terms = loss_terms(parameters, config, output, batch["targets"])
    terms["total"] = terms["ce"] + balance_weight * terms["balance"] + z_weight * terms["z"]
    return output, terms


def gradients(parameters, loss):
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))


def trainable(parameters):
    return {name: weight.clone().requires_grad_() for name, weight in parameters.items()}


def norm(values):
    return torch.stack([value.pow(2).sum() for value in values]).sum().sqrt()


def adamw_steps(parameters, config, batch, balance_weight, z_weight):
    """Ten steps on one batch. -> losses before each update, norms before clipping, last parameters, smallest routing gap."""
    parameters = trainable(parameters)
    plain = [weight for name, weight in parameters.items() if "norm." in name]
    decayed = [weight for name, weight in parameters.items() if "norm." not in name]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}],
                                  lr=RATE, betas=BETAS, eps=EPSILON)
    losses, norms, gap = [], [], float("inf")
    for _ in range(STEPS):
        output, terms = run(parameters, config, batch, balance_weight, z_weight)
        gap = min([gap] + [routing.smallest_gap() for routing in output.routing])
        found = gradients(parameters, terms["total"])
        norms.append(norm(found.values()).item())
        losses.append([terms[name].item() for name in ("total", "ce", "balance", "z")])
        for name, gradient in found.items():
            parameters[name].grad = gradient * min(1.0, CLIP / norms[-1])
        optimizer.step()
    return losses, norms, parameters, gap


def cross_check(parameters, config, batch):
    """Logits and cross-entropy gradients of transformers' model, given the document mask. -> the largest differences."""
    documents = batch["documents"]
    allowed = documents[:, :, None] == documents[:, None, :]
    allowed = allowed & torch.ones(17, 17, dtype=torch.bool).tril()
    mask = torch.zeros(3, 1, 17, 17, dtype=torch.float64).masked_fill(~allowed[:, None], -1e300)
    with in_float64():
        model = as_transformers(parameters, config)
        logits = model(batch["tokens"], attention_mask=mask, position_ids=batch["positions"]).logits
    valid = batch["targets"] >= 0
    torch.nn.functional.cross_entropy(logits[valid], batch["targets"][valid]).backward()
    ours = trainable(parameters)
    output, terms = run(ours, config, batch, 0.0, 0.0)
    found = gradients(ours, terms["ce"])
    theirs = {"embed.weight": model.model.embed_tokens, "norm.weight": model.model.norm}
    for i, layer in enumerate(model.model.layers):
        theirs[f"layers.{i}.attention.q.weight"] = layer.self_attn.q_proj
        theirs[f"layers.{i}.attention.k.weight"] = layer.self_attn.k_proj
        theirs[f"layers.{i}.mlp_norm.weight"] = layer.post_attention_layernorm
        if config.num_experts:
            theirs[f"layers.{i}.moe.router.weight"] = layer.mlp.gate
    differences = [(found[name] - module.weight.grad).abs().max().item() for name, module in theirs.items()]
    if config.num_experts:
        experts = model.model.layers[0].mlp.experts
        differences.append((found["layers.0.moe.experts.down"] - experts.down_proj.grad).abs().max().item())
    return (head(ours, config, output.final) - logits).abs().max().item(), max(differences)


def write_batch(file, batch):
    for name, values in batch.items():
        write_array(file, name, values.numpy())


def write_model(name, config, parameters, batch):
    moe = config.num_experts > 0
    balance_weight, z_weight = (0.0 if config.expert_choice else BALANCE, Z) if moe else (0.0, 0.0)
    ours = trainable(parameters)
    output, terms = run(ours, config, batch, balance_weight, z_weight)
    losses, norms, last, gap = adamw_steps(parameters, config, batch, balance_weight, z_weight)
    if gap < SMALLEST_GAP:
        return False
    with create(FOLDER / f"{name}.h5") as file:
        write_attributes(file, SCRIPT, config, balance_weight=balance_weight, z_weight=z_weight, learning_rate=RATE,
                         beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, weight_decay=DECAY, clip_norm=CLIP,
                         num_valid=int((batch["targets"] >= 0).sum()))
        write_batch(file, batch)
        write_tensors(file, "parameters", parameters, "f4")
        write_tensors(file, "gradients", gradients(ours, terms["total"]), "f4")
        for term, value in terms.items():
            write_array(file, f"loss/{term}", value.item())
        write_array(file, "final_hidden", output.final.detach().numpy(), "f4")
        write_array(file, "logits", head(ours, config, output.final).detach().numpy(), "f4")
        for layer, routing in enumerate(output.routing):
            counts = torch.bincount(routing.chosen[routing.kept], minlength=config.num_experts)
            assert routing.kept.all() == (config.capacity_factor == 0)
            assert name != "moe_idle_expert" or not counts[IDLE[layer]].any()
            write_array(file, f"routing/layers/{layer}/chosen", routing.chosen.numpy())
            write_array(file, f"routing/layers/{layer}/counts", counts.numpy())
            print(f"  layer {layer}: tokens an expert {counts.tolist()}, without any {int((~routing.kept.any(-1)).sum())}")
        for column, term in enumerate(("total", "ce", "balance", "z")):
            write_array(file, f"steps/{term}", [row[column] for row in losses])
        write_array(file, "steps/grad_norm", norms)
        if not moe:
            kept = {key: value for key, value in last.items() if key.startswith("layers.0.attention") or key == "norm.weight"}
            write_tensors(file, "steps/parameters", kept, "f4")
        file["steps"].attrs["smallest_routing_gap"] = gap
    in_transformers = config in (DENSE, UNEVEN, MOE)
    logits, gradient = cross_check(parameters, config, batch) if in_transformers else (math.nan, math.nan)
    print(f"{name}: loss {terms['total'].item():.6f} -> {losses[-1][0]:.6f}, gradient norm {norms[0]:.3f}, routing gap {gap:.1e}; "
          f"transformers: logits {logits:.1e}, gradients {gradient:.1e}")
    return True


def search(name, config, change=lambda parameters: parameters):
    """Writes the file from the first seed whose routing stays clear of ties."""
    for seed in range(1, 1000):
        parameters = change(random_parameters(config, seed))
        batch = make_batch(config, seed)
        if write_model(name, config, parameters, batch):
            print(f"  seed {seed}")
            return
    raise RuntimeError(f"{name}: every seed has a near-tie")


def write_distillation():
    parameters, batch = random_parameters(STUDENT, 7), make_batch(STUDENT, 7)
    teacher = random_parameters(TEACHER, 2024)
    with torch.no_grad():
        final = forward(teacher, TEACHER, batch["tokens"], batch["positions"], batch["documents"]).final
        teacher_logits = head(teacher, TEACHER, final)
    valid, targets = batch["targets"] >= 0, batch["targets"]
    with create(FOLDER / "distillation.h5") as file:
        write_attributes(file, SCRIPT, STUDENT, balance_weight=0.0, z_weight=0.0, num_valid=int(valid.sum()))
        write_batch(file, batch)
        write_tensors(file, "parameters", parameters, "f4")
        write_tensors(file, "teacher/parameters", teacher, "f4")
        write_attributes(file["teacher"], SCRIPT, TEACHER)
        write_array(file, "teacher/logits", teacher_logits.numpy(), "f4")
        for name, alpha, temperature in (("a", 0.1, 1.0), ("b", 0.5, 2.0)):
            ours = trainable(parameters)
            output, terms = run(ours, STUDENT, batch, 0.0, 0.0)
            assert output.routing[0].smallest_gap() > SMALLEST_GAP
            logits = head(ours, STUDENT, output.final)
            kl = kl_divergence(teacher_logits, logits, temperature)[valid].sum() / valid.sum()
            total = alpha * terms["ce"] + (1 - alpha) * temperature ** 2 * kl
            write_tensors(file, f"objectives/{name}/gradients", gradients(ours, total), "f4")
            for term, value in (("ce", terms["ce"]), ("kl", kl), ("total", total)):
                write_array(file, f"objectives/{name}/loss/{term}", value.item())
            file[f"objectives/{name}"].attrs["alpha"] = alpha
            file[f"objectives/{name}"].attrs["temperature"] = temperature
            print(f"distillation {name}: ce {terms['ce'].item():.6f} kl {kl.item():.6f} total {total.item():.6f}")
        with torch.no_grad():
            p, q = teacher_logits.softmax(-1), logits.softmax(-1)
            values = {
                "kl": kl_divergence(teacher_logits, logits),
                "ce": -q.log().gather(-1, targets.clamp(min=0)[..., None])[..., 0],
                "teacher_ce": -p.log().gather(-1, targets.clamp(min=0)[..., None])[..., 0],
                "top1_agreement": (p.argmax(-1) == q.argmax(-1)).double(),
                "sum_min": torch.minimum(p, q).sum(-1),
            }
        for metric, by_token in values.items():
            write_array(file, f"metrics/{metric}", by_token[valid].mean().item())
            write_array(file, f"metrics/by_token/{metric}", torch.where(valid, by_token, 0.0).numpy())
            print(f"  {metric} {by_token[valid].mean().item():.6f}")


def make_pairs(config, seed):
    """4 pairs of 24 tokens: the chosen response behind its prompt, the rejected one behind it, and filling. Only the responses have
    targets; one of them is a single token."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, config.vocabulary, (4, 24), generator=generator)
    targets, documents, positions = torch.full_like(tokens, -1), torch.empty_like(tokens), torch.empty_like(tokens)
    for row, (prompt, chosen, rejected) in enumerate([(3, 6, 5), (5, 1, 8), (2, 9, 11), (4, 7, 2)]):
        start = 0
        for number, length in enumerate((prompt + chosen, prompt + rejected, 24 - 2 * prompt - chosen - rejected)):
            documents[row, start:start + length] = number
            positions[row, start:start + length] = torch.arange(length)
            if number == 1:
                tokens[row, start:start + prompt] = tokens[row, :prompt]
            if number < 2:
                targets[row, start + prompt - 1:start + length - 1] = tokens[row, start + prompt:start + length]
            start += length
    sequences = torch.arange(4)[:, None].expand(4, 24)
    return {"tokens": tokens, "targets": targets, "positions": positions, "documents": documents, "sequences": sequences}


def responses(parameters, config, output, batch):
    """Log-probabilities [4,2] of the chosen and the rejected responses."""
    log_q = head(parameters, config, output.final).log_softmax(-1)
    of_targets = log_q.gather(-1, batch["targets"].clamp(min=0)[..., None])[..., 0]
    of_targets = torch.where(batch["targets"] >= 0, of_targets, 0.0)
    return torch.stack([torch.where(batch["documents"] == part, of_targets, 0.0).sum(-1) for part in (0, 1)], -1)


def write_preferences():
    beta = 0.3
    parameters, reference, batch = random_parameters(MOE, 11), random_parameters(MOE, 12), make_pairs(MOE, 11)
    with torch.no_grad():
        of_reference = responses(reference, MOE, run(reference, MOE, batch, 0.0, 0.0)[0], batch)
    ours = trainable(parameters)
    output, terms = run(ours, MOE, batch, 0.0, 0.0)
    assert min(routing.smallest_gap() for routing in output.routing) > SMALLEST_GAP
    rewards = beta * (responses(ours, MOE, output, batch) - of_reference)
    margins = rewards[:, 0] - rewards[:, 1]
    preference = -torch.nn.functional.logsigmoid(margins).mean()
    total = preference + BALANCE * terms["balance"] + Z * terms["z"]
    with create(FOLDER / "preferences.h5") as file:
        write_attributes(file, SCRIPT, MOE, balance_weight=BALANCE, z_weight=Z, num_valid=int((batch["targets"] >= 0).sum()),
                         beta=beta)
        write_batch(file, batch)
        write_tensors(file, "parameters", parameters, "f4")
        write_tensors(file, "reference/parameters", reference, "f4")
        write_tensors(file, "gradients", gradients(ours, total), "f4")
        values = {"total": total, "preference": preference, "accuracy": (margins > 0).double().mean(), "margin": margins.mean(),
                  "chosen": rewards[:, 0].mean(), "rejected": rewards[:, 1].mean()}
        for name, value in values.items():
            write_array(file, f"loss/{name}", value.item())
            print(f"preferences: {name} {value.item():.6f}")


def write_rewards():
    """A reward head in the place of the vocabulary's, without and with a center."""
    parameters, batch = random_parameters(JUDGE, 21), make_pairs(JUDGE, 21)
    generator = torch.Generator().manual_seed(22)
    parameters["reward.weight"] = (torch.randn(1, JUDGE.width, generator=generator, dtype=torch.float64) * 64).round() / 256
    ends = torch.tensor([[torch.nonzero(row == part).max().item() for part in (0, 1)] for row in batch["documents"]])
    with create(FOLDER / "rewards.h5") as file:
        write_attributes(file, SCRIPT, JUDGE, balance_weight=BALANCE, z_weight=Z, num_valid=int((batch["targets"] >= 0).sum()))
        write_batch(file, batch)
        write_tensors(file, "parameters", parameters, "f4")
        for group, center in (("plain", 0.0), ("centred", 0.05)):
            ours = trainable(parameters)
            output, terms = run(ours, JUDGE, batch, 0.0, 0.0)
            assert min(routing.smallest_gap() for routing in output.routing) > SMALLEST_GAP
            of_tokens = (output.final @ ours["reward.weight"].T)[..., 0]
            rewards = of_tokens.gather(-1, ends)
            margins = rewards[:, 0] - rewards[:, 1]
            preference = -torch.nn.functional.logsigmoid(margins).mean() + center * rewards.sum(-1).pow(2).mean()
            total = preference + BALANCE * terms["balance"] + Z * terms["z"]
            write_tensors(file, f"{group}/gradients", gradients(ours, total), "f4")
            file[group].attrs["center"] = center
            write_array(file, f"{group}/rewards", rewards.detach().numpy())
            values = {"total": total, "preference": preference, "accuracy": (margins > 0).double().mean(), "margin": margins.mean(),
                      "chosen": rewards[:, 0].mean(), "rejected": rewards[:, 1].mean()}
            for name, value in values.items():
                write_array(file, f"{group}/loss/{name}", value.item())
                print(f"rewards, {group}: {name} {value.item():.6f}")


def load_weights(chosen, experts):
    """[B,S]: a token's share of its experts' loads in its row, so that every expert that the row uses counts alike; mean 1."""
    counts = torch.nn.functional.one_hot(chosen, experts).sum(dim=(1, 2)).double()  # [B,E]
    used = (counts > 0).sum(-1)
    weights = torch.stack([(1 / row_counts[row]).sum(-1) for row_counts, row in zip(counts, chosen)])
    weights = weights * chosen.shape[1] / used[:, None]
    assert torch.allclose(weights.mean(-1), torch.ones(chosen.shape[0], dtype=torch.float64))
    return weights


def models_apart(config, of_teacher, theirs_seed):
    """A student and a teacher whose routing is far enough from a flip, a batch, and what the teacher makes of it."""
    for seed in range(17, 100):
        parameters, batch, teacher = random_parameters(config, seed), make_batch(config, seed), random_parameters(of_teacher, theirs_seed(seed))
        arguments = batch["tokens"], batch["positions"], batch["documents"]
        with torch.no_grad():
            own = forward(parameters, config, *arguments)
            theirs = forward(teacher, of_teacher, *arguments)
        if min(r.smallest_gap() for r in own.routing + theirs.routing) > SMALLEST_GAP:
            return parameters, batch, teacher, theirs
    raise RuntimeError("every seed has a near-tie")


def distances(x, y, cosine):
    """[T,C], [T,C] -> [T]"""
    return 1 - torch.nn.functional.cosine_similarity(x, y, dim=-1) if cosine else (x - y).pow(2).mean(-1)


def write_matching():
    """A student of two layers beside a teacher of three of the same width: what blocks add, and routing, of some of them."""
    config, of_teacher = MOE, replace(MOE, num_layers=3)
    parameters, batch, teacher, theirs = models_apart(config, of_teacher, lambda seed: 2 * seed)
    teacher_logits = head(teacher, of_teacher, theirs.final)
    valid = batch["targets"] >= 0
    count = valid.sum()
    with create(FOLDER / "matching.h5") as file:
        write_attributes(file, SCRIPT, config, balance_weight=0.0, z_weight=0.0, num_valid=int(count))
        write_batch(file, batch)
        write_tensors(file, "parameters", parameters, "f4")
        write_tensors(file, "teacher/parameters", teacher, "f4")
        write_attributes(file["teacher"], SCRIPT, of_teacher)
        # Which of the teacher's layers: of attention, of feed-forwards, of routing.
        for name, cosine, by_load, attended, fed, routed in (("a", False, True, [1, 2], [2, -1], [0, 2]),
                                                             ("b", True, False, [-1, 0], [0, 1], [1, -1])):
            ours = trainable(parameters)
            output, terms = run(ours, config, batch, 0.0, 0.0)
            logits = head(ours, config, output.final)
            alpha, temperature, routers_weight = 0.3, 1.5, 0.9
            ce = alpha * torch.nn.functional.cross_entropy(logits[valid], batch["targets"][valid])
            kl = (1 - alpha) * temperature ** 2 * kl_divergence(teacher_logits, logits, temperature)[valid].sum() / count
            routing, updates, update_squares = 0, {}, {}
            for block, weight, layers, own_rows, their_rows in (("attention", 0.7, attended, output.attended, theirs.attended),
                                                                ("feed_forward", 0.4, fed, output.fed, theirs.fed)):
                updates[block] = update_squares[f"{block}_square"] = 0
                for layer, of in enumerate(layers):
                    if of < 0:
                        continue
                    y, share = their_rows[of][valid], weight / (len(layers) - layers.count(-1))

                    def apart(x):
                        return share * distances(x, y, cosine).sum() / count

                    updates[block] = updates[block] + apart(own_rows[layer][valid])
                    alone = own_rows[layer][valid].detach().requires_grad_()  # not what further layers make of it
                    update_squares[f"{block}_square"] += torch.autograd.grad(apart(alone), alone)[0].pow(2).sum().item()
            for layer, of in enumerate(routed):
                if of < 0:
                    continue
                apart = kl_divergence(theirs.routing[of].logits, output.routing[layer].logits)
                if by_load:
                    apart = apart * load_weights(theirs.routing[of].chosen, config.num_experts)
                routing = routing + routers_weight / (len(routed) - routed.count(-1)) * apart[valid].sum() / count
            total = ce + kl + sum(updates.values()) + routing
            group = f"objectives/{name}"
            squares = {term: torch.autograd.grad(value, logits, retain_graph=True)[0].pow(2).sum().item()
                       for term, value in (("ce_square", ce), ("divergence_square", kl))}
            squares.update(update_squares)
            write_tensors(file, f"{group}/gradients", gradients(ours, total), "f4")
            losses = {**updates, "routing": routing, "total": total}
            for term, value in {**{term: loss.item() for term, loss in losses.items()}, **squares}.items():
                write_array(file, f"{group}/loss/{term}", value)
                print(f"matching {name}: {term} {value:.9f}")


def write_hidden():
    """A student of two layers held behind them to hidden states of three: of a narrower teacher through projectors, and of one as wide."""
    config = replace(MOE, num_experts=4, expert_width=12)
    with create(FOLDER / "hidden.h5") as file:
        # By which teacher and distance, and of which of its layers.
        for name, which, cosine, layers in (("a", "narrow", False, [1, 2]), ("b", "narrow", True, [2, 0]), ("c", "wide", True, [-1, 1])):
            of_teacher = replace(TEACHER, num_layers=3, width=16 if which == "narrow" else config.width)
            parameters, batch, teacher, theirs = models_apart(config, of_teacher, lambda _: 2025)
            valid = batch["targets"] >= 0
            count = valid.sum()
            ours = trainable(parameters)
            if which == "narrow":
                generator = torch.Generator().manual_seed(41)
                projectors = {f"projectors.{layer}": (torch.randn(of_teacher.width, config.width, generator=generator, dtype=torch.float64)
                                                      * config.width ** -0.5 * 256).round() / 256 for layer in range(config.num_layers)}
                ours.update(trainable(projectors))
            if name == "a":
                write_attributes(file, SCRIPT, config, balance_weight=0.0, z_weight=0.0, num_valid=int(count))
                write_batch(file, batch)
                write_tensors(file, "parameters", parameters, "f4")
                write_tensors(file, "", projectors, "f4")
            if which not in file:
                write_tensors(file, f"{which}/parameters", teacher, "f4")
                write_attributes(file[which], SCRIPT, of_teacher)
            output, _ = run(ours, config, batch, 0.0, 0.0)
            logits = head(ours, config, output.final)
            alpha, temperature, weight = 0.2, 1.5, 0.6
            ce = alpha * torch.nn.functional.cross_entropy(logits[valid], batch["targets"][valid])
            kl = kl_divergence(head(teacher, of_teacher, theirs.final), logits, temperature)[valid].sum() / count
            hidden, square = 0, 0
            for layer, of in enumerate(layers):
                if of < 0:
                    continue
                x, y, share = output.hidden[layer + 1][valid], theirs.hidden[of + 1][valid], weight / (len(layers) - layers.count(-1))
                if which == "narrow":
                    x = x @ ours[f"projectors.{layer}"].T
                hidden = hidden + share * distances(x, y, cosine).sum() / count
                alone = x.detach().requires_grad_()  # not what further layers make of it
                square += torch.autograd.grad(share * distances(alone, y, cosine).sum() / count, alone)[0].pow(2).sum().item()
            total = ce + (1 - alpha) * temperature ** 2 * kl + hidden
            write_tensors(file, f"objectives/{name}/gradients", gradients(ours, total), "f4")
            for term, value in (("hidden", hidden.item()), ("hidden_square", square), ("total", total.item())):
                write_array(file, f"objectives/{name}/loss/{term}", value)
                print(f"hidden {name}: {term} {value:.9f}")


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


def main():
    files = {
        "dense": lambda: search("dense", DENSE),
        "dense_uneven": lambda: search("dense_uneven", UNEVEN),
        "moe": lambda: search("moe", MOE),
        "moe_idle_expert": lambda: search("moe_idle_expert", MOE, starve),
        "moe_options": lambda: search("moe_options", OPTIONS),
        "moe_global_balance": lambda: search("moe_global_balance", GLOBAL),
        "moe_expert_choice": lambda: search("moe_expert_choice", CHOICE),
        "distillation": write_distillation,
        "preferences": write_preferences,
        "rewards": write_rewards,
        "matching": write_matching,
        "hidden": write_hidden,
        "bridge": write_bridge,
    }
    for name in sys.argv[1:] or files:
        files[name]()


if __name__ == "__main__":
    main()
