#include "launch/config/config.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/config/config.pb.h"
#include "tests/launch/config/config_error.h"
#include "tests/support/places.h"

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ConfigText, AnEndlessNameIsNamedInShort) {
  const std::string error = error_of(std::string(400'000, 'a') + ": 1");
  EXPECT_THAT(error, HasSubstr("run.textproto:1:1: there is no field aaaa"));
  EXPECT_LT(error.size(), 500U);
}

TEST(Config, EmptyTextGivesTheDefaults) {
  RunConfig expected;
  expected.output.dir = "runs/run";
  EXPECT_EQ(parse_config("", "some/where/run.textproto"), expected);
}

TEST(Config, ReadsEverySection) {
  const RunConfig c = parse_config(R"(
    teacher { source: "t.gguf" }
    student_init {
      choice: LIST layers: [0, 3, 7] upcycle { slices: 4 experts: 16 experts_per_token: 4 }
      width { mlp_width: 5 num_kv_heads: 6 width: 7 } report_tokens: 8
    }
    data { text: "/a" text: "/b" sequence_length: 128 seed: 18446744073709551615 }
    optimizer { rate: 2.5e-4 }
    precision { compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: FLOAT64 }
  )",
                                   "x");
  EXPECT_EQ(c.teacher->source, "t.gguf");
  EXPECT_EQ(c.student_init->choice, LayerChoice::List);
  EXPECT_EQ(c.student_init->layers, (std::vector<std::int64_t>{0, 3, 7}));
  EXPECT_EQ(c.student_init->upcycle->experts, 16);
  EXPECT_EQ(c.student_init->width->mlp_width, 5);
  EXPECT_EQ(c.student_init->width->num_kv_heads, 6);
  EXPECT_EQ(c.student_init->width->width, 7);
  EXPECT_EQ(c.student_init->report_tokens, 8);
  const RunConfig fewer = parse_config("student_init { experts { keep: 3 rule: MERGE experts_per_token: 2 } }", "x");
  EXPECT_EQ(fewer.student_init->experts->keep, 3);
  EXPECT_EQ(fewer.student_init->experts->rule, ExpertRule::Merge);
  EXPECT_EQ(fewer.student_init->experts->experts_per_token, 2);
  EXPECT_EQ(parse_config("student_init { dense { experts: 3 } }", "x").student_init->dense->experts, 3);
  EXPECT_EQ(c.data.text, (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(c.data.seed, 18446744073709551615U);
  EXPECT_EQ(c.optimizer.rate, 2.5e-4);
  EXPECT_EQ(c.precision.reduction, core::DType::F64);
  EXPECT_EQ(c.precision.frozen_storage, core::DType::F64);
  EXPECT_FALSE(c.model.has_value());
}

TEST(Config, ModelWidthsFollowWhereTheyAreNotGiven) {
  const RunConfig c = parse_config("model { width: 96 num_heads: 6 moe { num_experts: 4 } }", "x");
  const nn::ModelConfig& m = c.model->architecture;
  EXPECT_EQ(m.num_kv_heads, 6);
  EXPECT_EQ(m.head_width, 16);
  EXPECT_EQ(m.mlp_width, 384);
  EXPECT_EQ(m.moe.experts_per_token, 2);
  EXPECT_EQ(m.moe.expert_width, 384);
}

TEST(Config, PrintsAsTextThatLoadsToTheSame) {
  const RunConfig c = parse_config(R"(
    model { width: 96 num_heads: 6 num_kv_heads: 2 moe { num_experts: 4 dense_layers: [0] } }
    teacher { source: "a \"quoted\"\npath" }
    student_init { num_layers: 15 upcycle { slices: 4 experts_per_token: 4 router_std: 0.1 } }
    data { text: ["/a", "/b"] }
    optimizer {
      rate: 0.1234567890123456789 weight_decay: 0
      groups { pattern: "embed.*" frozen: true } groups { pattern: "*" weight_decay: 0 }
    }
    schedule { kind: CONSTANT }
    generation { prompt: "Ünïcödé" top_k: 0 }
  )",
                                   "x", {"output.dir=else where"});
  EXPECT_EQ(parse_config(to_textproto(c), "y"), c);
}

// A field of the schema that config_fields.h does not bind would be read by nobody.
void expect_every_field_is_listed(const google::protobuf::Descriptor& type, const std::string& path) {
  for (int i = 0; i < type.field_count(); ++i) {
    const auto* field = type.field(i);
    const std::string name = path + field->name();
    if (field->message_type() != nullptr)
      expect_every_field_is_listed(*field->message_type(), name + (field->is_repeated() ? "[]." : "."));
    else
      EXPECT_THAT(fields_as_text(), HasSubstr("\n" + name + "  ")) << "is not bound";
  }
}

TEST(Config, TextIsOneSourceOrSeveral) {
  const auto sources = [](const std::string& data) {
    return sources_of(parse_config("data { " + data + " }", "x").data);
  };
  EXPECT_TRUE(sources("").empty());
  ASSERT_EQ(sources("text: 'a' text: 'b' format: PLAIN field: 'f'").size(), 1U);
  EXPECT_EQ(sources("text: 'a' text: 'b' format: PLAIN field: 'f'")[0],
            (DataSourceConfig{.text = {"a", "b"}, .format = data::TextFormat::Plain, .field = "f"}));
  EXPECT_EQ(sources("tokens: 'a'")[0], (DataSourceConfig{.tokens = "a"}));
  const auto two = sources("sources { tokens: 'a' weight: 0.3 } sources { text: 'b' format: JSON_LINES field: 'f' }");
  ASSERT_EQ(two.size(), 2U);
  EXPECT_EQ(two[0], (DataSourceConfig{.tokens = "a", .weight = 0.3}));
  EXPECT_EQ(two[1], (DataSourceConfig{.text = {"b"}, .format = data::TextFormat::JsonLines, .field = "f"}));
  const RunConfig c =
      parse_config("data { sources { tokens: 'a' weight: 0.3 } sources { text: 'b' field: 'f' } }", "x");
  EXPECT_EQ(parse_config(to_textproto(c), "y"), c);
}

TEST(Config, EvaluationSetsAreReadAndPrinted) {
  const RunConfig c = parse_config(R"(
    train { eval_every_steps: 10 keep_best: "web.bits_per_byte" stop_after_evaluations_without_gain: 3 }
    evaluation {
      set { name: "web" text: "a" text: "b" format: JSON_LINES field: "f" parse_special: true every_steps: 5 }
      set { name: "own.2" tokens: "t" }
    }
  )",
                                   "x");
  ASSERT_EQ(c.evaluation.set.size(), 2U);
  EXPECT_EQ(c.evaluation.set[0], (EvaluationSetConfig{.name = "web",
                                                      .text = {"a", "b"},
                                                      .tokens = "",
                                                      .format = data::TextFormat::JsonLines,
                                                      .field = "f",
                                                      .parse_special = true,
                                                      .every_steps = 5}));
  EXPECT_EQ(c.evaluation.set[1].tokens, "t");
  EXPECT_EQ(c.train.keep_best, "web.bits_per_byte");
  EXPECT_EQ(c.train.stop_after_evaluations_without_gain, 3);
  EXPECT_EQ(parse_config(to_textproto(c), "y"), c);
}

TEST(ConfigErrors, AnEvaluationSetHasANameOfItsOwnAndOneText) {
  const auto error = [](const std::string& sets) { return error_of("evaluation { " + sets + " }"); };
  EXPECT_EQ(error("set { name: 'a' text: 'x' } set { name: 'b' tokens: 'x' }"), "");
  EXPECT_THAT(error("set { text: 'x' }"), HasSubstr("run.textproto:1:14: evaluation.set[0].name is not given"));
  EXPECT_THAT(error("set { name: 'a' text: 'x' } set { name: 'a' text: 'y' }"),
              HasSubstr("evaluation.set[1].name is \"a\", as that of a set before it"));
  EXPECT_THAT(error("set { name: 'a/b' text: 'x' }"), HasSubstr("evaluation.set[0].name is \"a/b\", expected letters"));
  EXPECT_THAT(error("set { name: 'a' }"), HasSubstr("evaluation.set[0] (\"a\") has none of tokens and text"));
  EXPECT_THAT(error("set { name: 'a' text: 'x' tokens: 'y' }"), HasSubstr("has both of tokens and text"));
  EXPECT_THAT(error_of("data { sources { text: 'x' name: '1' } sources { text: 'y' } }"),
              HasSubstr("data.sources[1] is called \"1\", as one before it"));
}

TEST(ConfigErrors, TheBestIsByAFigureThatIsMeasured) {
  const auto error = [](const std::string& figure, const std::string& more = "") {
    return error_of("train { eval_every_steps: 5 keep_best: '" + figure + "' } " + more);
  };
  const std::string set = "evaluation { set { name: 'a.b' text: 'x' } }";
  const std::string sources = "data { sources { text: 'x' name: 'code' } sources { text: 'y' } }";
  EXPECT_EQ(error("ce"), "");
  EXPECT_EQ(error("a.b.perplexity", set), "");
  EXPECT_EQ(error("held_out/code.ce", sources), "");
  EXPECT_EQ(error("held_out/1.ce", sources), "");
  EXPECT_EQ(error("kl", "teacher { source: 't' }"), "");
  EXPECT_THAT(error("loss"), AllOf(HasSubstr("run.textproto:1:"), HasSubstr("train.keep_best is \"loss\", expected"),
                                   HasSubstr("bits_per_byte, kl")));
  EXPECT_THAT(error("b.ce", set), HasSubstr("expected a set of evaluation.set before the last dot"));
  EXPECT_THAT(error("held_out/web.ce", sources), HasSubstr("the name of a source"));
  EXPECT_THAT(error("kl"), HasSubstr("expected a figure without a teacher"));
  EXPECT_THAT(error("a.b.preference_loss", set + " data { text: 'p' format: PAIRS } objective { preference { } }"),
              HasSubstr("evaluation sets have no pairs of responses"));
  EXPECT_THAT(error_of("train { keep_best: 'ce' }"), HasSubstr("train.eval_every_steps above 0"));
  EXPECT_THAT(error_of("train { stop_after_evaluations_without_gain: 2 }"), HasSubstr("expected train.keep_best too"));
}

TEST(Config, EveryFieldOfTheSchemaIsBound) { expect_every_field_is_listed(*config::Config::descriptor(), ""); }

TEST(Config, TheListOfFieldsHasDefaultsAndNothingThatFollowsFromThem) {
  const std::string text = fields_as_text();
  EXPECT_THAT(text, HasSubstr("docs/config.md"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\ndata\\.sequence_length +256 +a whole number, 1 or more\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\nmodel\\.head_width +0 +a whole number, 0 or more; 0: follows"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\nschedule\\.kind +COSINE +one of COSINE, CONSTANT, LINEAR"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\noptimizer\\.groups\\[\\]\\.weight_decay +none +a number, 0 or more"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\ntrain\\.epochs +none +a number, above 0 to 1000000000\n"));
}

TEST(ConfigErrors, NameFileLineColumnAndField) {
  struct Case {
    std::string text;
    std::string place;
    std::string expected;
  };
  const std::vector<Case> cases{
      {"train {\n  stepz: 3\n}", "run.textproto:2:3: ", "no field stepz, did you mean steps"},
      {"\ntrian { }", "run.textproto:2:1: ", "no field trian, did you mean train"},
      {"student_init {\n choice: EVENLY }", "run.textproto:2:", "EVENLY"},
      {"optimizer { rate: fast }", "run.textproto:1:19: ", "fast"},
      {"train { steps: 1.5 }", "run.textproto:1:16: ", "1.5"},
      {"train { steps: \"3\" }", "run.textproto:1:16: ", "Expected integer"},
      {"train { steps: 3", "run.textproto:1:", "Expected"},
      {"train { steps: 3 steps: 4 }", "run.textproto:1:", "specified multiple times"},
      {"data {\n  sequence_length: 0\n}", "run.textproto:2:3: ", "data.sequence_length is 0, expected 1 or more"},
      {"data { held_out_fraction: 0.7 }", "run.textproto:1:8: ", "data.held_out_fraction is 0.7, expected 0 to 0.5"},
      {"optimizer { rate: nan }", "run.textproto:1:13: ", "optimizer.rate is nan, expected 0 or more"},
      {"optimizer { rate: inf }", "run.textproto:1:13: ", "optimizer.rate is inf"},
      {"optimizer { beta2: 1 }", "run.textproto:1:13: ", "optimizer.beta2 is 1, expected 0 to below 1"},
      {"generation { top_p: 0 }", "run.textproto:1:14: ", "generation.top_p is 0, expected above 0 to 1"},
      {"objective { temperature: -1 }", "run.textproto:1:13: ", "a number above 0"},
      {"schedule { kind: 9 }", "run.textproto:1:12: ", "schedule.kind is 9, expected"},
      {"optimizer { groups { rate_factor: 2 } }",
       "run.textproto:1:13: ", "optimizer.groups[0].pattern is not given, expected"},
      {"optimizer {\n groups { pattern: \"a\" }\n groups { pattern: \"b\"\n rate_factor: -1 } }",
       "run.textproto:4:2: ", "optimizer.groups[1].rate_factor is -1, expected 0 or more"},
      {"optimizer { groups { pattern: \"a\" weight_decay: nan } }",
       "run.textproto:1:", "groups[0].weight_decay is nan"},
      {"optimizer { groups { patern: \"a\" } }", "run.textproto:1:22: ", "no field patern, did you mean pattern"},
      {"optimizer { kind: LION }", "run.textproto:1:24: ", "LION"},
      {"optimizer { momentum: 1 }", "run.textproto:1:13: ", "optimizer.momentum is 1, expected 0 to below 1"},
      {"optimizer { adamw_rate_factor: -2 }", "run.textproto:1:13: ", "adamw_rate_factor is -2, expected 0 or more"},
      {"optimizer { eight_bit_state: true }\n"
       "precision { compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: FLOAT64 }",
       "run.textproto:1:13: ", "optimizer.eight_bit_state is true, expected false with precision.compute float64"},
      {"precision { bfloat16_weights: true compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 "
       "frozen_storage: FLOAT64 }",
       "run.textproto:1:13: ", "precision.bfloat16_weights is true, expected false with precision.compute float64"},
      {"schedule { decay: COSINE }", "run.textproto:1:", "COSINE"},
      {"schedule { decay_fraction: 1.2 }", "run.textproto:1:12: ", "schedule.decay_fraction is 1.2, expected 0 to 1"},
      {"precision { compute: BFLOAT16 master: BFLOAT16 }",
       "run.textproto:1:", "precision.master is bfloat16, expected float32 with precision.compute bfloat16"},
      {"precision { bfloat16_residual: true }",
       "run.textproto:1:13: ", "precision.bfloat16_residual is true, expected false with precision.compute float32"},
      {"precision { fp8_products: true }",
       "run.textproto:1:13: ", "precision.fp8_products is true, expected false with precision.compute float32"},
      {"adapters { rank: 0 }", "run.textproto:1:12: ", "adapters.rank is 0, expected 1 to 16777216"},
      {"adapters { alpha: 4 }", "run.textproto:1:", "adapters are of a model that is there, expected model.source or"},
      {"model { source: 'there' } adapters { rank: 2 } parallel { deal_experts_every_steps: 5 }",
       "run.textproto:1:", "adapters is given with parallel.deal_experts_every_steps, expected none: what lies in a"},
      {"parallel { deal_experts_every_steps: -1 }",
       "run.textproto:1:12: ", "deal_experts_every_steps is -1, expected 0 or"},
      {"train { cuda_graph: true } precision { quantised_weights: Q4_0 }",
       "run.textproto:1:40: ", "precision.quantised_weights is given, expected none with train.cuda_graph"},
      {"precision { quantised_weights: Q4_K }", "run.textproto:1:", "Q4_K"},
      {"train { cuda_graph: true } routing { jitter: 0.1 }",
       "run.textproto:1:9: ", "train.cuda_graph is true, expected false with routing.jitter"},
      {"precision { compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: FLOAT64 "
       "bfloat16_teacher: true }",
       "run.textproto:1:", "precision.bfloat16_teacher is true, expected false with precision.compute float64"},
      {"precision { float32_teacher: true }",
       "run.textproto:1:13: ", "precision.float32_teacher is true, expected false with precision.compute float32"},
      {"precision { compute: BFLOAT16 bfloat16_teacher: true\n float32_teacher: true }",
       "run.textproto:2:2: ", "precision.float32_teacher is true, expected false with precision.bfloat16_teacher"},
      {"precision { master: FLOAT64 }", "run.textproto:1:13: ", "precision.master is float64, expected float32"},
      {"precision { compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: BFLOAT16 }",
       "run.textproto:1:", "precision.frozen_storage is bfloat16, expected float64"},
      {"precision { frozen_storage: FLOAT64 }",
       "run.textproto:1:13: ", "expected float32, as precision.compute, or bfloat16"},
      {"batch { sequences_per_step: 3 micro_batches: 0 }", "run.textproto:1:31: ", "expected 1 to 65536"},
      {"batch { sequences_per_step: 9000000000000000000 }", "run.textproto:1:9: ", "expected 1 to 1048576"},
      {"batch { micro_batches: 65537 }", "run.textproto:1:9: ", "expected 1 to 65536"},
      {"student_init { calibration_tokens: 16777217 }", "run.textproto:1:16: ", "expected 1 to 16777216"},
      {"student_init { upcycle { experts: 9000000000000000000 } }", "run.textproto:1:26: ", "expected 1 to 65536"},
      {"train { checkpoint_every_steps: 20 keep_every_steps: 30 }",
       "run.textproto:1:36: ", "keep_every_steps is 30, expected a multiple of train.checkpoint_every_steps = 20"},
      {"train { checkpoint_every_steps: 0 keep_every_steps: 30 }", "run.textproto:1:35: ", "expected a multiple of"},
      {"train { keep_checkpoints: 4294967297 }", "run.textproto:1:9: ", "expected 1 to 1000000"},
      {"parallel { deadline_s: 1e8 }", "run.textproto:1:12: ", "deadline_s is 100000000, expected above 0 to 10000000"},
      {"parallel { deadline_s: inf }", "run.textproto:1:12: ", "parallel.deadline_s is inf"},
      {"parallel { bucket_mib: 65537 }", "run.textproto:1:12: ", "bucket_mib is 65537, expected above 0 to 65536"},
      {"parallel { bucket_mib: nan }", "run.textproto:1:12: ", "parallel.bucket_mib is nan"},
      {"model { width: 9223372036854775807 }", "run.textproto:1:9: ", "expected 1 to 16777216"},
      {"model { mlp_width: 4611686018427387904 }", "run.textproto:1:9: ", "expected at most 16777216"},
      {"model { num_heads: 3 num_kv_heads: 2 }", "run.textproto:1:22: ", "model.num_kv_heads is 2, expected a divisor"},
      {"model { num_layers: 0 }", "run.textproto:1:9: ", "model.num_layers is 0, expected 1 to 10000"},
      {"model { num_heads: 0 }", "run.textproto:1:9: ", "model.num_heads is 0, expected 1 to 65536"},
      {"student_init { layers: 3 }", "run.textproto:1:16: ", "expected only with choice: LIST"},
      {"student_init { choice: LIST layers: [3, 3] }",
       "run.textproto:1:", "has 3 at position 1, expected layers from 0 in ascending"},
      {"student_init { upcycle { slices: 3 experts: 8 } }",
       "run.textproto:1:36: ", "expected a multiple of slices = 3"},
      {"student_init { upcycle { experts_per_token: 9 } }", "run.textproto:1:26: ", "expected 1 to experts = 8"},
      {"student_init { experts { rule: LOAD } }",
       "run.textproto:1:", "student_init.experts.keep is not given, expected how many"},
      {"student_init { experts { keep: 2 experts_per_token: 3 } }",
       "run.textproto:1:34: ", "experts.experts_per_token is 3, expected 1 to keep = 2"},
      {"student_init { experts { keep: 2 } dense { experts: 1 } }",
       "run.textproto:1:", "student_init.dense is given with experts, expected one of them"},
      {"student_init { experts { keep: 2 } upcycle { experts: 4 } }",
       "run.textproto:1:", "student_init.experts is given with upcycle, expected one of them"},
      {"student_init { dense {} upcycle { experts: 4 } }",
       "run.textproto:1:", "student_init.dense is given with upcycle, expected one of them"},
      {"student_init { dense { experts: 2 }\n width { mlp_width: 8 } }",
       "run.textproto:2:10: ", "student_init.width.mlp_width is 8 with dense"},
      {"model { moe { num_experts: 4 shared_width: -1 } }", "run.textproto:1:", "shared_width is -1, expected 0 to"},
      {"routing { capacity_factor: -1 }", "run.textproto:1:11: ", "routing.capacity_factor is -1, expected 0 to 65536"},
      {"routing { expert_choice: true }\n moe_loss { balance_weight: 0.01 }",
       "run.textproto:2:13: ", "moe_loss.balance_weight is given with routing.expert_choice, expected 0: every expert"},
      {"routing { expert_choice: true } objective { preference {} }",
       "run.textproto:1:", "objective.preference is given with routing.expert_choice, expected none"},
      {"routing { expert_choice: true } objective { sampled_text { fraction: 0.5 } }",
       "run.textproto:1:", "objective.sampled_text is given with routing.expert_choice, expected none"},
      {"routing { jitter: 1 }", "run.textproto:1:11: ", "routing.jitter is 1, expected 0 to below 1"},
      {"moe_loss { balance_scope: GLOBAL_BATCH } batch { micro_batches: 2 }",
       "run.textproto:1:12: ", "GLOBAL_BATCH with batch.micro_batches 2, expected one micro-batch"},
      {"data { tokens: \"a\" text: \"b\" }", "run.textproto:1:8: ", "both given"},
      {"data { text: \"a\"\n sources { text: \"b\" } }",
       "run.textproto:2:2: ", "data.sources and data.text are both given"},
      {"data { sources { text: \"a\" }\n sources { weight: 2 } }",
       "run.textproto:2:2: ", "data.sources[1] has none of tokens and text, expected one of them"},
      {"data { sources { text: \"a\" tokens: \"b\" } }",
       "run.textproto:1:8: ", "data.sources[0] has both of tokens and"},
      {"data { sources { text: \"a\" }\n sources { text: \"b\"\n weight: 0 } }",
       "run.textproto:3:2: ", "data.sources[1].weight is 0, expected above 0 to 1000000000000"},
      {"data { sources { text: \"a\" wieght: 1 } }", "run.textproto:1:28: ", "no field wieght, did you mean weight"},
      {"data { format: CSV }", "run.textproto:1:20: ", "CSV"},
      {"train { steps: 1.5e0 }", "run.textproto:1:16: ", "1.5e0"},
      {"train { steps: 1e99 }", "run.textproto:1:16: ", "1e99"},
      {"train { steps: 3 tokens: 4 }", "run.textproto:1:", "\"tokens\" is specified along with field \"steps\""},
      {"train { tokens: 4\n epochs: 2 }", "run.textproto:2:", "\"epochs\" is specified along with field \"tokens\""},
      {"train { epochs: 0 }", "run.textproto:1:9: ", "train.epochs is 0, expected above 0 to 1000000000"},
      {"train { tokens: 0 }", "run.textproto:1:9: ", "train.tokens is 0, expected 1 or more"},
      // What was spelt another way takes nothing of the place.
      {"train { steps: 1e3 seed: 2e0 stepz: 3 }", "run.textproto:1:30: ", "no field stepz"},
      {"\n# cosine 1e3\ntrain { steps: 1e3 log_every_steps: 0 }", "run.textproto:3:20: ", "log_every_steps is 0"},
  };
  for (const Case& c : cases)
    EXPECT_THAT(error_of(c.text), AllOf(::testing::StartsWith(c.place), HasSubstr(c.expected))) << c.text;
}

TEST(ConfigErrors, MissingFileIsNamed) {
  EXPECT_THROW(load_config("/no/such/file.textproto"), core::UsageError);
  EXPECT_THROW(load_config(std::filesystem::temp_directory_path()), core::UsageError);
}

TEST(ConfigChecks, CommandsNeedTheirSections) {
  const auto error = [](auto check, const std::string& text) -> std::string {
    try {
      check(parse_config(text, "x"));
    } catch (const core::UsageError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(error(check_for_train, ""), HasSubstr("no section model"));
  EXPECT_THAT(error(check_for_train, "model {} data { text: 'a' }"), HasSubstr("data.tokenizer"));
  EXPECT_THAT(error(check_for_train, "model {} data { tokenizer: 'bytes' }"), HasSubstr("data.text"));
  EXPECT_EQ(error(check_for_train, "model {} data { tokenizer: 'bytes' text: 'a' }"), "");
  EXPECT_THAT(error(check_for_train, "model {} teacher {} data { tokenizer: 'bytes' text: 'a' }"),
              HasSubstr("a section teacher, expected none"));
  EXPECT_THAT(error(check_for_train, "model {} student_init {} data { tokenizer: 'bytes' text: 'a' }"),
              HasSubstr("a section student_init, expected none"));
  const std::string pairs = "data { tokenizer: 'bytes' text: 'a' format: PAIRS } objective { preference {} } ";
  EXPECT_THAT(error(check_for_train, pairs + "model {}"), HasSubstr("no reference"));
  EXPECT_EQ(error(check_for_train, pairs + "model { source: 'm' }"), "");
  EXPECT_EQ(error(check_for_train, pairs + "model {} teacher { source: 't' }"), "");
  EXPECT_THAT(error(check_for_distill, pairs + "model {} teacher { source: 't' }"), HasSubstr("train learns"));
  EXPECT_THAT(error(check_for_distill, "data { text: 'a' }"), HasSubstr("teacher.source"));
  EXPECT_THAT(error(check_for_distill, "teacher { source: 't' } data { text: 'a' }"), HasSubstr("no student"));
  EXPECT_THAT(error(check_for_distill, "teacher { source: 't' } model {} student_init {} data { text: 'a' }"),
              HasSubstr("both"));
  EXPECT_EQ(error(check_for_distill, "teacher { source: 't' } student_init {} data { text: 'a' }"), "");
  // A cache is enough of a teacher for a student that is not cut from it.
  EXPECT_EQ(error(check_for_distill, "teacher { cache: 'c' } model {} data { text: 'a' }"), "");
  EXPECT_THAT(error(check_for_distill, "teacher { cache: 'c' } student_init {} data { text: 'a' }"),
              HasSubstr("student_init cuts the student from it"));
}

TEST(ConfigPreference, ItsReferenceIsTheStartUnlessAnotherIsNamed) {
  const auto named = [](const std::string& sections) {
    RunConfig config = parse_config("data { format: PAIRS } objective { preference { beta: 0.3 } } " + sections, "c");
    name_reference(config);
    EXPECT_EQ(config.objective.preference->beta, 0.3);
    return config.teacher.value().source;
  };
  EXPECT_EQ(named("model { source: 'm' }"), "m");
  EXPECT_EQ(named("model { source: 'm' } teacher { source: 't' }"), "t");
  RunConfig other = parse_config("model { source: 'm' }", "c");
  name_reference(other);
  EXPECT_FALSE(other.teacher);
}

TEST(ConfigExamples, AllLoad) {
  int num_examples = 0;
  for (const auto& entry : std::filesystem::directory_iterator(limbeck::testing::source_folder() / "examples")) {
    if (entry.path().extension() != ".textproto") continue;
    ++num_examples;
    const RunConfig c = load_config(entry.path());
    EXPECT_NO_THROW(c.teacher ? check_for_distill(c) : check_for_train(c)) << entry.path();
  }
  EXPECT_GE(num_examples, 5);
}

TEST(ConfigQuantisedTeacher, ContradictsWhatKeepsItOtherwise) {
  const auto refuses = [](const std::string& text, const std::string& expected) {
    EXPECT_THAT([&] { parse_config(text, "c"); }, ::testing::ThrowsMessage<core::UsageError>(HasSubstr(expected)))
        << text;
  };
  const std::string quantised = "precision { quantised_teacher: Q4_K_M ";
  EXPECT_EQ(parse_config(quantised + "bfloat16_teacher: true }", "c").precision.quantised_teacher,
            QuantisedWeights::Q4_K_M);
  refuses(quantised + "mapped_teacher: true }",
          "c:1:13: precision.quantised_teacher is given, expected none with "
          "precision.mapped_teacher, by which matrices stay as their file has");
  refuses(quantised + "compute: FLOAT64 master: FLOAT64 gradient: FLOAT64 reduction: FLOAT64 frozen_storage: FLOAT64 }",
          "precision.quantised_teacher is given, expected none with precision.compute FLOAT64");
  refuses(quantised + "} teacher { cache: \"kept\" } model { width: 8 }",
          "precision.quantised_teacher is given, expected none with a teacher.cache and no teacher.source");
}

}  // namespace
}  // namespace limbeck::launch
