"""Writes the golden files of this folder: losses, gradients and AdamW steps of tiny models in float64.

    python tests/golden/models/make_models.py          (PyPI: torch transformers h5py; seconds)

dense.h5, dense_uneven.h5, moe.h5, moe_idle_expert.h5, moe_options.h5, moe_global_balance.h5, moe_expert_choice.h5, distillation.h5,
preferences.h5, rewards.h5, matching.h5, hidden.h5, bridge.h5. Names as arguments: these alone.
The models and their batches are those of tiny_models.py. Prints
the largest difference to transformers' Llama and Mixtral, and how near the routing comes to a flip.
"""
import math
import sys
from dataclasses import replace

import torch

from tiny_models import (  # first: it says where the others lie
    BALANCE, CHOICE, DENSE, FOLDER, GLOBAL, JUDGE, MOE, OPTIONS, SCRIPT, SMALLEST_GAP, STUDENT, TEACHER, UNEVEN, Z, gradients, make_batch,
    random_parameters, run, trainable, write_batch)
from bridge import write_bridge
from reference_model import create, forward, head, kl_divergence, write_array, write_attributes, write_tensors
from reference_transformers import as_transformers, in_float64

STEPS, RATE, BETAS, EPSILON, DECAY, CLIP = 10, 1e-2, (0.9, 0.95), 1e-8, 0.1, 1.0
IDLE = {0: [4], 1: [4, 5, 6, 7]}  # experts without a token by layer: one; and all of the second rank's of two


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
