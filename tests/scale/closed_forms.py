"""What each simulation of the scale study should take by arithmetic: latencies (alpha, seconds) and bytes over rates (beta, bytes a second).

Each takes the line of JSON that scale_study prints, and gives the seconds that are compared.
"""
from math import ceil, comb


def distinct(groups, experts, chosen):
    """Of a token that chooses among experts of equal groups, how many groups it meets in the mean: the complement of the hypergeometric chance of none."""
    return groups * (1 - comb(experts - experts // groups, chosen) / comb(experts, chosen))


def messages(count, size, link, in_flight):
    """Of one port, alpha + n beta (Hockney 1994): the bytes of all by its rate, and a latency for each bunch of messages, which start and end together."""
    alpha, beta = link
    return ceil(count / in_flight) * alpha + count * size / beta


def experts(r):
    """Dispatch and combine. Pairwise exchanges of all ranks, or in two levels (DeepSeek-AI 2024, arXiv 2412.19437, section 3.2.2), one level after the other."""
    ranks, node = r["ranks"], r["ranks_a_node"]
    nodes, chosen, window = ranks // node, r["experts_per_token"], r["in_flight"]
    row_bytes = r["tokens"] * r["row_bytes"]
    if r["arm"] in ("by_expert", "by_rank"):
        copies = chosen if r["arm"] == "by_expert" else distinct(ranks, r["experts"], chosen)
        size = copies * row_bytes / ranks
        one_way = messages(node - 1, size, r["inside"], window) + messages(ranks - node, size, r["between"], window)
    else:
        near = min(nodes, r["max_nodes"]) if r["arm"] == "by_few_nodes" else nodes  # nodes that a token may go to
        pool = r["experts"] * near // nodes
        across = distinct(near, pool, chosen) * row_bytes / nodes
        handed_on = distinct(near * node, pool, chosen) * row_bytes / node
        one_way = messages(nodes - 1, across, r["between"], window) + messages(node - 1, handed_on, r["inside"], window)
    return 2 * one_way


def gradients(r):
    """The exposed time. Rings as Patarasuk and Yuan 2009: 2 (n - 1) steps of an n-th of the bytes, a step as long as its slowest port is busy or,
    if that is longer, as a hop takes in the mean. Levels: rings of a node's ranks, then of nodes with a share each (Cho et al. 2019, BlueConnect).
    Buckets of equal length are reduced one after the other, each when its gradients are there: the two-stage flow shop of Johnson 1954."""
    ranks, node, size = r["ranks"], r["ranks_a_node"], r["bucket_bytes"]
    nodes = ranks // node
    hop = lambda link, part: link[0] + part / link[1]
    if r["arm"] == "ring":
        part = size / ranks
        slowest = r["between"] if nodes > 1 else r["inside"]
        crossing = 1 / node if nodes > 1 else 0
        mean = crossing * hop(r["between"], part) + (1 - crossing) * hop(r["inside"], part)
        reduction = 2 * (ranks - 1) * max(mean, part / slowest[1])
    else:
        reduction = 2 * (node - 1) * hop(r["inside"], size / node) + 2 * (nodes - 1) * hop(r["between"], size / ranks)
    computed = r["bucket_flops"] / r["flops"]
    return reduction + (r["buckets"] - 1) * max(0, reduction - computed)


def pipeline(r):
    """Work and bubble as in the header of parallel/pipeline/schedule.h, of equal forward, input and weight passes of `pass_s` each. A send of `sent_s`
    is there and back for every micro-batch in flight: where a stage has no slack, in 1F1B and interleaved, it waits for that each time round;
    zero bubble has its weights' gradients to do meanwhile, and waits while the pipeline fills and drains."""
    node, chunks = r["ranks_a_node"], r["chunks"]
    stages = r["ranks"] // node
    batches = r["micro_batches_a_stage"] * stages
    pass_s = r["layers"] / (stages * chunks) * r["layer_flops"] / node / r["flops"]
    sent_s = r["between"][0] + r["sent_bytes"] / node / r["between"][1] if stages > 1 else 0
    work = 3 * pass_s * batches * chunks
    if r["arm"] == "zero_bubble":
        return work + (stages - 1) * (pass_s + 2 * sent_s)
    round_trips = batches * (stages - 1) / stages if chunks == 1 else batches * chunks
    return work + (stages - 1) * 3 * pass_s + 2 * sent_s * round_trips


COMPARED = {"experts": (experts, "seconds"), "gradients": (gradients, "exposed"), "pipeline": (pipeline, "seconds")}
