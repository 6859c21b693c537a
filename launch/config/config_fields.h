// The one list that binds the fields of config.proto to the plain structs, with their ranges. A visitor `io` is called
// for every field in turn; config.cpp has one that reads and checks and one that writes.
//
//     void fields(Io& io, BatchConfig& c) {
//       io("micro_batches", c.micro_batches, at_least(1));   // scalars, strings, lists, enums; a range for numbers
//     }
#pragma once

#include <limits>
#include <string>

#include "launch/config/config.h"

namespace limbeck::launch {

/// The values a number may have, and how a message puts it.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;
  std::string expected = "a finite number";
  bool contains(double x) const {
    return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high) && x - x == 0.0;
  }
};

inline std::string plain(double x) { return fmt::format("{:.15g}", x); }
inline Range at_least(double low) { return {.low = low, .expected = plain(low) + " or more"}; }
inline Range above(double low) { return {.low = low, .low_open = true, .expected = "a number above " + plain(low)}; }
inline Range between(double low, double high) {
  return {.low = low, .high = high, .expected = plain(low) + " to " + plain(high)};
}
inline Range inside(double low, double high) {
  return {.low = low,
          .high = high,
          .low_open = true,
          .high_open = true,
          .expected = "above " + plain(low) + " and below " + plain(high)};
}
inline Range above_to(double low, double high) {
  return {.low = low, .high = high, .low_open = true, .expected = "above " + plain(low) + " to " + plain(high)};
}
inline Range from_to_below(double low, double high) {
  return {.low = low, .high = high, .high_open = true, .expected = plain(low) + " to below " + plain(high)};
}

template <class Io>
void fields(Io& io, nn::MoeConfig& c) {
  io("num_experts", c.num_experts, at_least(0));
  io.derived("experts_per_token", c.experts_per_token, 2);
  io.derived("expert_width", c.expert_width, 0);
  io("renormalise", c.renormalise);
  io("weight_scale", c.weight_scale, above(0));
  io("dense_layers", c.dense_layers);
  io("shared_width", c.shared_width, between(0, nn::ModelLimits::width));
  io("shared_gate", c.shared_gate);
  io("router", c.router);
  io("mixer_jitter", c.mixer_jitter, above(0));
  io("scores", c.scores);
  io("selection_bias", c.selection_bias);
  io("num_groups", c.num_groups, between(1, nn::ModelLimits::num_experts));
  io("groups_per_token", c.groups_per_token, between(1, nn::ModelLimits::num_experts));
  io("group_score", c.group_score);
  io("router_bias", c.router_bias);
  io("expert_bias", c.expert_bias);
}

template <class Io>
void fields(Io& io, nn::LatentConfig& c) {
  io("rank", c.rank, between(0, nn::ModelLimits::width));
  io("query_rank", c.query_rank, between(0, nn::ModelLimits::width));
  io("rope_width", c.rope_width, between(0, nn::ModelLimits::head_width));
  io("value_width", c.value_width, between(0, nn::ModelLimits::head_width));
  io("norm_eps", c.norm_eps, above(0));
}

template <class Io>
void fields(Io& io, nn::MambaConfig& c) {
  io("num_heads", c.num_heads, between(0, nn::ModelLimits::num_heads));
  io("head_width", c.head_width, between(1, nn::ModelLimits::head_width));
  io("state_width", c.state_width, between(1, nn::ModelLimits::head_width));
  io("num_groups", c.num_groups, between(1, nn::ModelLimits::num_heads));
  io("conv_width", c.conv_width, between(1, nn::ModelLimits::conv_width));
  io("conv_bias", c.conv_bias);
  io("least_step", c.least_step, at_least(0));
  io("most_step", c.most_step, at_least(0));
  io("attention_layers", c.attention_layers);
}

template <class Io>
void fields(Io& io, nn::RopeScaling& c) {
  io("kind", c.kind);
  io("factor", c.factor, above(0));
  io("original_positions", c.original_positions, at_least(0));
  io("low_frequency_factor", c.low_frequency_factor, above(0));
  io("high_frequency_factor", c.high_frequency_factor, above(0));
  io("beta_fast", c.beta_fast, above(0));
  io("beta_slow", c.beta_slow, above(0));
  io("truncates", c.truncates);
  io("attention_factor", c.attention_factor, at_least(0));
  io("short_factors", c.short_factors);
  io("long_factors", c.long_factors);
  io("short_scale", c.short_scale, at_least(0));
  io("long_scale", c.long_scale, at_least(0));
  io("mscale", c.mscale, at_least(0));
  io("mscale_all", c.mscale_all, at_least(0));
}

template <class Io>
void fields(Io& io, ModelSection& section) {
  nn::ModelConfig& c = section.architecture;
  io("source", section.source);
  io.derived("vocabulary", c.vocabulary, 0);
  io("width", c.width, between(1, nn::ModelLimits::width));
  io("num_layers", c.num_layers, between(1, nn::ModelLimits::num_layers));
  io("num_heads", c.num_heads, between(1, nn::ModelLimits::num_heads));
  io.derived("num_kv_heads", c.num_kv_heads, c.num_heads);
  io.derived("head_width", c.head_width, c.num_heads > 0 ? c.width / c.num_heads : 0);
  io.derived("mlp_width", c.mlp_width, 4 * c.width);
  io("max_positions", c.max_positions, at_least(1));
  io("norm_eps", c.norm_eps, above(0));
  io("rope_base", c.rope_base, above(0));
  io("tied_head", c.tied_head);
  io("moe", c.moe);
  io("head_norm", c.head_norm);
  io("attention_bias", c.attention_bias);
  io("attention_scale", c.attention_scale, at_least(0));
  io("attention_sinks", c.attention_sinks);
  io("window", c.window, at_least(0));
  io("full_layers", c.full_layers);
  io("window_rope_base", c.window_rope_base, at_least(0));
  io("rope_scaling", c.rope_scaling);
  io("norm_placement", c.norm_placement);
  io("norm_offset", c.norm_offset, between(0, 1));
  io("embedding_scale", c.embedding_scale, above(0));
  io("activation", c.activation);
  io("activation_limit", c.activation_limit, at_least(0));
  io("attention_output_bias", c.attention_output_bias);
  io("mlp_bias", c.mlp_bias);
  io("head_bias", c.head_bias);
  io("mlp_gate", c.mlp_gate);
  io("norm_kind", c.norm_kind);
  io("positions", c.positions);
  io("rotary_width", c.rotary_width, at_least(0));
  io("latent", c.latent);
  io("reward_head", c.reward_head);
  io("num_predict_layers", c.num_predict_layers, between(0, nn::ModelLimits::num_predict_layers));
  io("residual_scale", c.residual_scale, above(0));
  io("logits_scale", c.logits_scale, above(0));
  io("mamba", c.mamba);
  io("feed_forward", c.feed_forward);
}

template <class Io>
void fields(Io& io, OtherTeacherConfig& c) {
  io("source", c.source);
  io("teaches", c.teaches);
  io("weight", c.weight, above_to(0, 1e12));
}

template <class Io>
void fields(Io& io, TeacherConfig& c) {
  io("source", c.source);
  io("cache", c.cache);
  io("cache_kind", c.cache_kind);
  io("cache_tokens", c.cache_tokens, between(1, 65535));
  io("cache_temperatures", c.cache_temperatures);
  io("cache_window", c.cache_window, at_least(0));
  io("cache_exact", c.cache_exact);
  io("cache_hidden_layers", c.cache_hidden_layers);
  io("teaches", c.teaches);
  io("weight", c.weight, above_to(0, 1e12));
  io("others", c.others);
}

template <class Io>
void fields(Io& io, UpcycleConfig& c) {
  io("slices", c.slices, between(1, nn::ModelLimits::num_experts));
  io("experts", c.experts, between(1, nn::ModelLimits::num_experts));
  io("experts_per_token", c.experts_per_token, at_least(1));
  io("router_std", c.router_std, above(0));
  io("shared_slices", c.shared_slices, at_least(0));
  io("shared_gate", c.shared_gate);
}

template <class Io>
void fields(Io& io, ExpertStartConfig& c) {
  io("keep", c.keep, between(0, nn::ModelLimits::num_experts));
  io("rule", c.rule);
  io("experts_per_token", c.experts_per_token, at_least(0));
}

template <class Io>
void fields(Io& io, DenseStartConfig& c) {
  io("experts", c.experts, between(0, nn::ModelLimits::num_experts));
}

template <class Io>
void fields(Io& io, WidthStartConfig& c) {
  io("mlp_width", c.mlp_width, between(0, nn::ModelLimits::width));
  io("num_kv_heads", c.num_kv_heads, between(0, nn::ModelLimits::num_heads));
  io("width", c.width, between(0, nn::ModelLimits::width));
}

template <class Io>
void fields(Io& io, StudentInitConfig& c) {
  io("choice", c.choice);
  io("num_layers", c.num_layers, at_least(0));
  io("layers", c.layers);
  io("calibration_tokens", c.calibration_tokens, between(1, 16777216));
  io("upcycle", c.upcycle);
  io("greedy_tokens", c.greedy_tokens, between(1, 16777216));
  io("experts", c.experts);
  io("dense", c.dense);
  io("width", c.width);
  io("report_tokens", c.report_tokens, between(1, 16777216));
  io("vocabulary_count", c.vocabulary_count, at_least(0));
}

template <class Io>
void fields(Io& io, DataSourceConfig& c) {
  io("tokens", c.tokens);
  io("text", c.text);
  io("weight", c.weight, above_to(0, 1e12));
  io("format", c.format);
  io("field", c.field);
  io("parse_special", c.parse_special);
  io("name", c.name);
}

template <class Io>
void fields(Io& io, DataConfig& c) {
  io("tokens", c.tokens);
  io("text", c.text);
  io("tokenizer", c.tokenizer);
  io("cache_dir", c.cache_dir);
  io("sequence_length", c.sequence_length, at_least(1));
  io("held_out_fraction", c.held_out_fraction, between(0, 0.5));
  io("seed", c.seed);
  io("format", c.format);
  io("field", c.field);
  io("parse_special", c.parse_special);
  io("sources", c.sources);
}

template <class Io>
void fields(Io& io, HiddenStatesConfig& c) {
  io("weight", c.weight, at_least(0));
  io("distance", c.distance);
  io("layers", c.layers);
  io("projector", c.projector);
}

template <class Io>
void fields(Io& io, RouterMatchConfig& c) {
  io("weight", c.weight, at_least(0));
  io("layers", c.layers);
  io("by_load", c.by_load);
}

template <class Io>
void fields(Io& io, UpdateMatchConfig& c) {
  io("weight", c.weight, at_least(0));
  io("distance", c.distance);
  io("layers", c.layers);
}

template <class Io>
void fields(Io& io, SampledTextConfig& c) {
  io("by", c.by);
  io("fraction", c.fraction, {.low = 0, .high = 1, .expected = "above 0 to 1"});  // 0: objective_checks.h
  io("first_step", c.first_step, at_least(1));
  io("prompt_tokens", c.prompt_tokens, at_least(1));
  io("temperature", c.temperature, at_least(0));
  io("divergence", c.divergence);
  io("mix", c.mix, between(0, 1));
  io("cross_entropy_weight", c.cross_entropy_weight, between(0, 1));
  io("steps_at_once", c.steps_at_once, at_least(1));
  io("texts_at_once", c.texts_at_once, at_least(1));
}

template <class Io>
void fields(Io& io, PreferenceConfig& c) {
  io("beta", c.beta, above(0));
}

template <class Io>
void fields(Io& io, RewardConfig& c) {
  io("center", c.center, at_least(0));
}

template <class Io>
void fields(Io& io, ObjectiveConfig& c) {
  io("cross_entropy_weight", c.cross_entropy_weight, between(0, 1));
  io("temperature", c.temperature, above(0));
  io("divergence", c.divergence);
  io("mix", c.mix, between(0, 1));
  io("final_cross_entropy_weight", c.final_cross_entropy_weight, between(0, 1));
  io("final_temperature", c.final_temperature, above(0));
  io("hidden_states", c.hidden_states);
  io("sampled_text", c.sampled_text);
  io("control", c.control);
  io("smoothing", c.smoothing, inside(0, 1));
  io("renormalised", c.renormalised);
  io("predict_weight", c.predict_weight, at_least(0));
  io("preference", c.preference);
  io("reward", c.reward);
  io("routers", c.routers);
  io("attention", c.attention);
  io("feed_forward", c.feed_forward);
  io("bridge", c.bridge);
}

template <class Io>
void fields(Io& io, MoeLossConfig& c) {
  io("balance_weight", c.balance_weight, at_least(0));
  io("z_weight", c.z_weight, at_least(0));
  io("balance_scope", c.balance_scope);
}

template <class Io>
void fields(Io& io, RoutingConfig& c) {
  io("capacity_factor", c.capacity_factor, between(0, 65536));
  io("jitter", c.jitter, from_to_below(0, 1));
  io("bias_rate", c.bias_rate, at_least(0));
  io("expert_choice", c.expert_choice);
}

template <class Io>
void fields(Io& io, OptimizerGroupConfig& c) {
  io("pattern", c.pattern);
  io("rate_factor", c.rate_factor, at_least(0));
  io("weight_decay", c.weight_decay, at_least(0));
  io("frozen", c.frozen);
  io("adamw", c.adamw);
}

template <class Io>
void fields(Io& io, OptimizerConfig& c) {
  io("kind", c.kind);
  io("rate", c.rate, at_least(0));
  io("beta1", c.beta1, from_to_below(0, 1));
  io("beta2", c.beta2, from_to_below(0, 1));
  io("eps", c.eps, above(0));
  io("weight_decay", c.weight_decay, at_least(0));
  io("clip_norm", c.clip_norm, at_least(0));
  io("groups", c.groups);
  io("momentum", c.momentum, from_to_below(0, 1));
  io("adamw_rate_factor", c.adamw_rate_factor, at_least(0));
  io("eight_bit_state", c.eight_bit_state);
  io("offload", c.offload);
}

template <class Io>
void fields(Io& io, ScheduleConfig& c) {
  io("kind", c.kind);
  io("warmup_steps", c.warmup_steps, at_least(0));
  io("final_rate_fraction", c.final_rate_fraction, between(0, 1));
  io("decay_fraction", c.decay_fraction, between(0, 1));
  io("decay", c.decay);
}

template <class Io>
void fields(Io& io, BatchConfig& c) {
  io("sequences_per_step", c.sequences_per_step, between(1, 1048576));
  io("micro_batches", c.micro_batches, between(1, 65536));
}

template <class Io>
void fields(Io& io, TrainConfig& c) {
  io("steps", c.steps, at_least(1));
  io("tokens", c.tokens, at_least(1));
  io("epochs", c.epochs, above_to(0, 1e9));
  io("seed", c.seed);
  io("recompute", c.recompute);
  io("checkpoint_every_steps", c.checkpoint_every_steps, at_least(0));
  io("keep_checkpoints", c.keep_checkpoints, between(1, 1000000));
  io("keep_every_steps", c.keep_every_steps, at_least(0));
  io("save_in_background", c.save_in_background);
  io("eval_every_steps", c.eval_every_steps, at_least(0));
  io("eval_tokens", c.eval_tokens, at_least(1));
  io("log_every_steps", c.log_every_steps, at_least(1));
  io("threads", c.threads, between(0, 4096));
  io("device", c.device);
  io("cuda_graph", c.cuda_graph);
  io("keep_best", c.keep_best);
  io("stop_after_evaluations_without_gain", c.stop_after_evaluations_without_gain, at_least(0));
}

template <class Io>
void fields(Io& io, PrecisionConfig& c) {
  io("compute", c.compute);
  io("master", c.master);
  io("gradient", c.gradient);
  io("reduction", c.reduction);
  io("frozen_storage", c.frozen_storage);
  io("bfloat16_weights", c.bfloat16_weights);
  io("bfloat16_residual", c.bfloat16_residual);
  io("bfloat16_teacher", c.bfloat16_teacher);
  io("float32_teacher", c.float32_teacher);
  io("mapped_teacher", c.mapped_teacher);
  io("sharded_teacher", c.sharded_teacher);
  io("offload_teacher", c.offload_teacher);
  io("fp8_products", c.fp8_products);
  io("quantised_weights", c.quantised_weights);
  io("quantised_teacher", c.quantised_teacher);
}

template <class Io>
void fields(Io& io, AdaptersConfig& c) {
  io("rank", c.rank, between(1, nn::ModelLimits::width));
  io("alpha", c.alpha, above(0));
  io("targets", c.targets);
}

template <class Io>
void fields(Io& io, GuardConfig& c) {
  io("action", c.action);
  io("deviations", c.deviations, above(0));
  io("window", c.window, between(4, 65536));
  io("most", c.most, at_least(0));
}

template <class Io>
void fields(Io& io, ParallelConfig& c) {
  io("layout", c.layout);
  io("sequence_parallel", c.sequence_parallel);
  io("bucket_mib", c.bucket_mib, above_to(0, 65536));
  io("deadline_s", c.deadline_s, above_to(0, 1e7));
  io("teacher_ranks", c.teacher_ranks, between(0, 65536));
  io("teacher_layout", c.teacher_layout);
  io("expert_exchange", c.expert_exchange);
  io("shard", c.shard);
  io("shard_ranks", c.shard_ranks, between(0, 65536));
  io("expert_replicas", c.expert_replicas, between(0, nn::ModelLimits::num_experts));
  io("deal_experts_every_steps", c.deal_experts_every_steps, at_least(0));
  io("expert_chunks", c.expert_chunks, between(1, 1024));
  io("tensor_chunks", c.tensor_chunks, between(1, 1024));
  io("schedule", c.schedule);
  io("chunks", c.chunks, between(1, nn::ModelLimits::num_layers));
  io("stages", c.stages);
}

template <class Io>
void fields(Io& io, GenerationConfig& c) {
  io("prompt", c.prompt);
  io("max_tokens", c.max_tokens, at_least(0));
  io("temperature", c.temperature, at_least(0));
  io("top_k", c.top_k, at_least(0));
  io("top_p", c.top_p, above_to(0, 1));
  io("seed", c.seed);
}

template <class Io>
void fields(Io& io, OutputConfig& c) {
  io("dir", c.dir);
  io("started_in", c.started_in);
}

template <class Io>
void fields(Io& io, EvaluationSetConfig& c) {
  io("name", c.name);
  io("text", c.text);
  io("tokens", c.tokens);
  io("format", c.format);
  io("field", c.field);
  io("parse_special", c.parse_special);
  io("every_steps", c.every_steps, at_least(0));
}

template <class Io>
void fields(Io& io, EvaluationConfig& c) {
  io("set", c.set);
}

template <class Io>
void fields(Io& io, RunConfig& c) {
  io("model", c.model);
  io("teacher", c.teacher);
  io("student_init", c.student_init);
  io("data", c.data);
  io("objective", c.objective);
  io("moe_loss", c.moe_loss);
  io("optimizer", c.optimizer);
  io("schedule", c.schedule);
  io("batch", c.batch);
  io("train", c.train);
  io("precision", c.precision);
  io("parallel", c.parallel);
  io("generation", c.generation);
  io("output", c.output);
  io("routing", c.routing);
  io("evaluation", c.evaluation);
  io("adapters", c.adapters);
  io("guard", c.guard);
}

}  // namespace limbeck::launch
