"""The families whose tiny models make_families.py writes: transformers' name of each, and the numbers that its config has."""
ORIGINAL, WINDOW = 10, 7  # original context, sliding window
COMMON = dict(vocab_size=89, num_hidden_layers=3, max_position_embeddings=40, bos_token_id=1, eos_token_id=2)


def rope(theta, kind="default", **others):
    return {"rope_type": kind, "rope_theta": theta, **others}


def llama3(theta):
    """Of the first wavelengths one is below the band that is interpolated, one is in it, the others are above."""
    return rope(theta, "llama3", factor=5.0, low_freq_factor=0.5, high_freq_factor=1.5, original_max_position_embeddings=ORIGINAL)


def yarn(theta, **others):
    return rope(theta, "yarn", original_max_position_embeddings=ORIGINAL, **others)


def longrope(theta, short, long):
    return rope(theta, "longrope", short_factor=short, long_factor=long)


def heads(width, heads, kv_heads, head_width=None):
    own = {} if head_width is None else {"head_dim": head_width}
    return dict(hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads, **own)


SMALL = dict(vocab_size=41, num_hidden_layers=2)
PHI = dict(**heads(18, 3, 1), intermediate_size=14, original_max_position_embeddings=ORIGINAL, pad_token_id=0)

FAMILIES = {
    "llama": ("Llama", dict(**heads(16, 4, 2, 6), intermediate_size=14, rope_parameters=llama3(20.0))),
    "llama_tied": ("Llama", dict(**heads(12, 6, 2, 8), intermediate_size=16, rope_parameters=llama3(30.0), tie_word_embeddings=True)),
    "mistral": ("Mistral", dict(**heads(12, 6, 2, 4), intermediate_size=20, sliding_window=WINDOW, rope_parameters=rope(50.0))),
    "mixtral": ("Mixtral", dict(**heads(12, 6, 2, 4), intermediate_size=7, num_local_experts=6, num_experts_per_tok=3,
                                rope_parameters=rope(50.0))),
    "qwen2": ("Qwen2", dict(**heads(24, 6, 2), intermediate_size=10, rope_parameters=rope(50.0), tie_word_embeddings=True)),
    "qwen2_moe": ("Qwen2Moe", dict(
        **heads(12, 2, 1), intermediate_size=14, moe_intermediate_size=8, shared_expert_intermediate_size=10, num_experts=6,
        num_experts_per_tok=3, num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=False,
        rope_parameters=rope(50.0))),  # experts in layer 1 alone
    "qwen3": ("Qwen3", dict(**heads(12, 6, 2, 8), intermediate_size=18, tie_word_embeddings=True,
                            rope_parameters=yarn(50.0, factor=4.0, beta_fast=0.5, beta_slow=0.1))),
    "qwen3_moe": ("Qwen3Moe", dict(**heads(10, 4, 2, 6), intermediate_size=14, moe_intermediate_size=7, num_experts=6,
                                   num_experts_per_tok=3, norm_topk_prob=True, rope_parameters=rope(50.0))),
    "olmoe": ("Olmoe", dict(**heads(12, 2, 2), intermediate_size=7, num_experts=6, num_experts_per_tok=3, pad_token_id=0,
                            rope_parameters=rope(50.0))),
    "olmo2": ("Olmo2", dict(**heads(16, 4, 2), intermediate_size=22, pad_token_id=0, rope_parameters=rope(50.0))),
    "gemma3": ("Gemma3", dict(
        **heads(16, 4, 2, 6), intermediate_size=22, sliding_window=WINDOW, query_pre_attn_scalar=10, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"sliding_attention": rope(15.0), "full_attention": rope(60.0, "linear", factor=4.0)})),
    "phi3": ("Phi3", dict(**PHI, sliding_window=WINDOW, rope_parameters=longrope(50.0, [1.0, 1.1, 1.4], [1.2, 2.1, 3.7]))),
    "deepseek_v2": ("DeepseekV2", dict(
        **heads(12, 3, 3), q_lora_rank=None, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=6, v_head_dim=5,
        intermediate_size=16, moe_intermediate_size=4, n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=3,
        first_k_dense_replace=1, topk_method="group_limited_greedy", n_group=3, topk_group=2, routed_scaling_factor=1.3,
        norm_topk_prob=False,
        rope_parameters=yarn(30.0, factor=4.0, beta_fast=1.0, beta_slow=0.1, mscale=0.9, mscale_all_dim=0.6))),
    "deepseek_v3": ("DeepseekV3", dict(
        **heads(10, 3, 3), q_lora_rank=11, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=6, v_head_dim=5,
        intermediate_size=16, moe_intermediate_size=4, n_routed_experts=9, n_shared_experts=1, num_experts_per_tok=4,
        first_k_dense_replace=1, n_group=3, topk_group=2, routed_scaling_factor=1.7, norm_topk_prob=True,
        rope_parameters=yarn(30.0, factor=4.0, beta_fast=0.4, beta_slow=0.1, mscale=1.0, mscale_all_dim=1.0))),
    # Kimi K2 is a DeepSeek-V3 of one group, whose rotary frequencies are all stretched or none.
    "kimi_k2": ("DeepseekV3", dict(
        **SMALL, **heads(10, 3, 3), q_lora_rank=9, kv_lora_rank=7, qk_nope_head_dim=4, qk_rope_head_dim=6, v_head_dim=5,
        intermediate_size=11, moe_intermediate_size=5, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3,
        first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=2.827, norm_topk_prob=True, rms_norm_eps=1e-6,
        rope_parameters=yarn(50000.0, factor=32.0, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0))),
    "glm4": ("Glm4", dict(
        vocab_size=41, pad_token_id=0, **heads(10, 6, 2, 8), intermediate_size=14, attention_bias=True,
        rope_parameters=dict(yarn(30.0, factor=4.0, beta_fast=1.0, beta_slow=0.1), partial_rotary_factor=0.75))),  # 6 of 8
    "glm4_moe": ("Glm4Moe", dict(
        **SMALL, **heads(10, 4, 2, 8), attention_bias=True, use_qk_norm=True, intermediate_size=14, moe_intermediate_size=3,
        n_routed_experts=9, n_shared_experts=2, num_experts_per_tok=4, first_k_dense_replace=1, n_group=3, topk_group=2,
        routed_scaling_factor=1.7, norm_topk_prob=True,
        rope_parameters=dict(yarn(30.0, factor=4.0, beta_fast=1.0, beta_slow=0.1), partial_rotary_factor=0.75))),  # 6 of a head's 8 channels turn
    "glm4_moe_air": ("Glm4Moe", dict(
        **SMALL, **heads(9, 6, 2, 8), attention_bias=True, intermediate_size=11, moe_intermediate_size=5, n_routed_experts=6,
        n_shared_experts=1, num_experts_per_tok=4, first_k_dense_replace=1, routed_scaling_factor=1.3, norm_topk_prob=False,
        tie_word_embeddings=True, rope_parameters=rope(50.0))),  # 4 of 8: what is taken where it is not said
    "gpt_oss": ("GptOss", dict(
        **heads(10, 4, 2, 8), intermediate_size=6, num_local_experts=6, num_experts_per_tok=3, sliding_window=WINDOW,
        swiglu_limit=1.5, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=yarn(40.0, factor=4.0, beta_fast=0.9, beta_slow=0.12, truncate=False))),
    "gpt2": ("GPT2", dict(vocab_size=89, n_embd=12, n_head=2, n_layer=3, n_positions=30, bos_token_id=1, eos_token_id=2)),
    "phimoe": ("Phimoe", dict(
        **heads(16, 4, 2), intermediate_size=7, num_local_experts=6, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True,
        router_jitter_noise=0.2, sliding_window=WINDOW, rope_parameters=dict(
            longrope(50.0, [1.0, 1.3], [1.2, 2.9]), short_mscale=1.1, long_mscale=1.3, original_max_position_embeddings=ORIGINAL))),
    "mamba2": ("Mamba2", dict(
        hidden_size=16, num_heads=8, head_dim=4, n_groups=2, state_size=4, chunk_size=8)),
    "bamba": ("Bamba", dict(
        **heads(16, 4, 2), intermediate_size=14, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_state=6, mamba_d_conv=3,
        mamba_conv_bias=False, mamba_chunk_size=8, time_step_limit=(0.4, 1.1), rope_parameters=rope(50.0))),  # 2 of a head's 4 channels turn
    "granite_hybrid": ("GraniteMoeHybrid", dict(
        **heads(12, 2, 1), intermediate_size=7, shared_intermediate_size=10, num_local_experts=6, num_experts_per_tok=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"], mamba_n_heads=6, mamba_n_groups=2, mamba_d_state=5,
        mamba_chunk_size=8, tie_word_embeddings=True, embedding_multiplier=2.0, attention_multiplier=0.25, residual_multiplier=0.5,
        logits_scaling=4.0, rope_parameters=rope(50.0))),
    "granite_hybrid_dense": ("GraniteMoeHybrid", dict(
        **SMALL, **heads(12, 6, 2), intermediate_size=7, shared_intermediate_size=14, num_local_experts=0, num_experts_per_tok=0,
        layer_types=["full_attention", "linear_attention"], mamba_n_heads=3, mamba_d_state=4, mamba_chunk_size=8,
        position_embedding_type="rope", attention_multiplier=0.5, rope_parameters=rope(50.0))),
    "phi4_mini": ("Phi3", dict(**PHI, partial_rotary_factor=0.75, tie_word_embeddings=True,
                               rope_parameters=longrope(50.0, [1.0, 1.3], [1.2, 2.9]))),  # 4 of a head's 6 channels turn
}
