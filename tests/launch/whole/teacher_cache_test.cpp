// `limbeck cache-teacher`, and runs that learn from what it wrote.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/random.h"
#include "data/files/plain_hdf5.h"
#include "data/teacher_cache/teacher_cache.h"
#include "tests/support/raw_hdf5.h"
#include "tests/support/teacher_cache_runs.h"

namespace limbeck::testing {
namespace {

using ::testing::HasSubstr;

std::vector<std::int64_t> numbers_of(const std::filesystem::path& path, const char* dataset) {
  const RawId file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const RawId data = H5Dopen2(file, dataset, H5P_DEFAULT);
  const RawId space = H5Dget_space(data);
  std::vector<std::int64_t> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  EXPECT_GE(H5Dread(data, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  return values;
}

using Key = std::pair<std::int64_t, std::int64_t>;

/// How often each document is there, with its positions, as HDF5's own library reads all files of a folder.
std::map<Key, std::vector<std::int64_t>> documents_of(const std::filesystem::path& folder) {
  std::map<Key, std::vector<std::int64_t>> documents;
  for (const auto& item : std::filesystem::directory_iterator(folder)) {
    if (item.path().extension() != ".h5") continue;
    const std::vector<std::int64_t> keys = numbers_of(item.path(), "/documents"),
                                    lengths = numbers_of(item.path(), "/num_positions");
    EXPECT_EQ(keys.size(), 2 * lengths.size());
    for (std::size_t d = 0; d < lengths.size(); ++d)
      documents[{keys.at(2 * d), keys.at(2 * d + 1)}].push_back(lengths[d]);
  }
  return documents;
}

// Written by two ranks, with all tokens kept and nothing rounded: what a run learns is what the teacher beside it would
// teach, whatever layout, batch, order and packing reads it.
TEST_F(TeacherCacheRuns, LearnWhatTheTeacherBesideThemWouldTeach) {
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_tokens=300 --set teacher.cache_exact=true",
              2);
  struct Case {
    std::string sets;
    int ranks;
  };
  const std::vector<Case> cases = {{"", 1},
                                   {"", 2},
                                   {"--set parallel.layout=ep2", 2},
                                   {"--set parallel.layout=tp2", 2},
                                   {"--set parallel.layout=cp2 --set batch.micro_batches=2", 2},
                                   {"--set batch.micro_batches=2 --set batch.sequences_per_step=5", 1},
                                   {"--set data.seed=9 --set data.sequence_length=48", 2},
                                   {"--set objective.temperature=2 --set train.recompute=true", 1},
                                   {"--set data.sequence_length=8 --set objective.final_cross_entropy_weight=0", 1}};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const std::string run = "run" + std::to_string(i),
                      command = "distill job.textproto " + cases[i].sets + " --out " + run;
    expect_done(command + "_online", cases[i].ranks);
    expect_done(command + "_cached --set teacher.cache=cache", cases[i].ranks);
    expect_as_online(run, cases[i].sets);
  }
}

// Hidden states that are kept are those of the teacher beside the student, with and without a projector, and of a cache
// alone.
TEST_F(TeacherCacheRuns, KeepHiddenStatesToo) {
  const std::string layers = " --set teacher.cache_hidden_layers=0 --set teacher.cache_hidden_layers=1";
  const std::string all = " --set teacher.cache_tokens=300";
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_exact=true" + all + layers, 2);
  expect_done("cache-teacher job.textproto --out of_tp2 --set teacher.cache_exact=true --set parallel.layout=tp2" +
                  all + layers,
              2);
  const std::string hidden = "--set objective.hidden_states.weight=0.7 ";
  const std::vector<std::pair<std::string, int>> cases = {
      {hidden, 1},
      {hidden + "--set parallel.layout=ep2 --set data.sequence_length=48 --set data.seed=9", 2},
      {hidden + "--set parallel.layout=tp2 --set objective.hidden_states.distance=SQUARED_ERROR", 2},
      {hidden + "--set parallel.layout=cp2 --set data.sequence_length=48", 2},
      {hidden + "--set model.width=8 --set objective.hidden_states.projector=true --set batch.micro_batches=2", 1}};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto& [sets, ranks] = cases[i];
    const std::string run = "run" + std::to_string(i), command = "distill job.textproto " + sets + " --out " + run;
    expect_done(command + "_online", ranks);
    expect_done(command + "_cached --set teacher.cache=" + (i % 2 == 0 ? "cache" : "of_tp2"), ranks);
    expect_as_online(run, sets);
    const auto online = folder_.metrics(run + "_online"), cached = folder_.metrics(run + "_cached");
    for (std::size_t step = 0; step < 4; ++step) {
      EXPECT_GT(online[step]["hidden_loss"].get<double>(), 0.01);
      EXPECT_NEAR(cached[step]["hidden_loss"].get<double>(), online[step]["hidden_loss"].get<double>(), 1e-5) << sets;
    }
  }
  expect_done("distill job.textproto " + hidden + "--set teacher.cache=cache --set teacher.source= --set " +
              "data.tokenizer=bytes --out alone --steps 2");
  expect_done("distill alone --resume");
  EXPECT_EQ(folder_.metrics("alone"), folder_.metrics("run0_cached"));

  // Rounded to bfloat16 they are nearly the same.
  expect_done("cache-teacher job.textproto --out rounded" + all + layers);
  expect_done("distill job.textproto " + hidden + "--set teacher.cache=rounded --out rounded_run");
  const double exact = folder_.metrics("run0_online")[0]["hidden_loss"],
               rounded = folder_.metrics("rounded_run")[0]["hidden_loss"];
  EXPECT_NE(rounded, exact);
  EXPECT_NEAR(rounded, exact, 0.005 * exact);

  const auto error = [&](const std::string& command) {
    const Outcome refused = folder_.limbeck(command);
    EXPECT_EQ(refused.code, 2) << refused.output;
    return refused.output;
  };
  const std::string learn = "distill job.textproto " + hidden + "--out refused --set teacher.cache=";
  expect_done("cache-teacher job.textproto --out last --set teacher.cache_hidden_layers=1");
  expect_done("cache-teacher job.textproto --out none");
  EXPECT_THAT(error(learn + "last"), HasSubstr("asks for the teacher's layers 0, 1, expected those that"));
  expect_done("distill job.textproto " + hidden +
              "--out of_last --set teacher.cache=last --set objective.hidden_states.layers=[-1,1]");
  EXPECT_THAT(error(learn + "none"), HasSubstr("hidden states are not kept in it"));
  EXPECT_THAT(error("cache-teacher job.textproto --out refused2 --set teacher.cache_hidden_layers=2"),
              HasSubstr("teacher.cache_hidden_layers has 2, expected layers of the teacher's 2, from 0"));
  EXPECT_THAT(error("cache-teacher job.textproto --out refused2 --set teacher.cache_kind=FULL" + layers),
              HasSubstr("expected TOP_K or SAMPLED"));
  EXPECT_THAT(error("cache-teacher job.textproto --out last --set teacher.cache_hidden_layers=0"),
              HasSubstr("16 channels of layers 1, expected TOP_K 64"));
}

// Whole distributions teach by every divergence, at every temperature, and layers that predict further tokens too.
TEST_F(TeacherCacheRuns, OfWholeDistributionsTeachWhatTheTeacherBesideThemWould) {
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_kind=FULL --set teacher.cache_exact=true");
  const std::vector<std::pair<std::string, int>> cases = {
      {"--set objective.divergence=REVERSE_KL --set parallel.layout=ep2", 2},
      {"--set objective.divergence=JENSEN_SHANNON --set objective.temperature=3 --set parallel.layout=tp2", 2},
      {"--set objective.divergence=REVERSE_KL --set parallel.layout=cp2 --set data.sequence_length=48", 2},
      {"--set objective.divergence=TOTAL_VARIATION --set objective.final_temperature=2.5 --set batch.micro_batches=2",
       1},
      {"--set model.num_predict_layers=2 --set objective.predict_weight=0.4 --set data.sequence_length=48", 1}};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto& [sets, ranks] = cases[i];
    const std::string run = "run" + std::to_string(i), command = "distill job.textproto " + sets + " --out " + run;
    expect_done(command + "_online", ranks);
    expect_done(command + "_cached --set teacher.cache=cache", ranks);
    expect_as_online(run, sets);
  }
  // Rounded to 8 bits they are nearly the same.
  expect_done("cache-teacher job.textproto --out rounded --set teacher.cache_kind=FULL");
  expect_done(
      "distill job.textproto --set objective.divergence=REVERSE_KL --set teacher.cache=rounded --out rounded_run");
  const auto exact = folder_.metrics("run0_online"), rounded = folder_.metrics("rounded_run");
  EXPECT_NE(rounded[0]["kl"], exact[0]["kl"]);
  EXPECT_NEAR(rounded[0]["kl"].get<double>(), exact[0]["kl"].get<double>(), 0.01 * exact[0]["kl"].get<double>());
}

// Without the teacher itself a student that does not begin as part of it learns the same of its cache.
TEST_F(TeacherCacheRuns, ACacheAloneTeachesAStudentThatIsNotCutFromTheTeacher) {
  expect_done("cache-teacher job.textproto --out cache");
  expect_done("distill job.textproto --set teacher.cache=cache --out both");
  std::filesystem::rename(folder_.path() / "teacher", folder_.path() / "gone");
  const std::string alone =
      "distill job.textproto --set teacher.cache=cache --set teacher.source= --set data.tokenizer=bytes --out alone";
  const Outcome outcome = expect_done(alone + " --steps 2");
  EXPECT_EQ(outcome.lines_with("stands for it").size(), 1U) << outcome.output;
  expect_done("distill alone --resume");
  EXPECT_EQ(folder_.metrics("alone"), folder_.metrics("both"));
  const auto end = [&](const std::string& run) { return nlohmann::json::parse(folder_.read(run + "/end.json")); };
  EXPECT_NEAR(end("alone")["student"]["ce"].get<double>(), end("both")["student"]["ce"].get<double>(), 1e-9);
  EXPECT_EQ(end("alone")["student"], end("both")["student"]);
  const auto error = [&](const std::string& command, int code = 2) {
    const Outcome refused = folder_.limbeck(command);
    EXPECT_EQ(refused.code, code) << refused.output;
    return refused.output;
  };
  expect_done("train teacher.textproto --out other --set train.seed=77");
  expect_done("cache-teacher job.textproto --set teacher.source=other --out of_other");
  EXPECT_THAT(error("distill alone --resume --set teacher.cache=of_other", 1), HasSubstr("expected the same teacher"));
  folder_.write("cut.textproto",
                "teacher { cache: \"cache\" } student_init { num_layers: 1 } data { text: \"lines.jsonl\" }");
  EXPECT_THAT(error("distill cut.textproto --out cut"), HasSubstr("student_init cuts the student from it"));
  EXPECT_THAT(error("cache-teacher job.textproto --out cache --set teacher.source="),
              HasSubstr("teacher.source is not given"));
  EXPECT_THAT(error(alone + "2 --set train.eval_every_steps=2 --set train.keep_best=kl"),
              HasSubstr("train.keep_best is \"kl\", expected kl_lower_bound or sum_min_upper_bound"));
}

TEST_F(TeacherCacheRuns, OfFewTokensGiveABoundAndSayHowMuchWasKept) {
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_tokens=4 --verify");
  expect_done(
      "cache-teacher job.textproto --out draws --set teacher.cache_kind=SAMPLED --set teacher.cache_temperatures=1");
  expect_done("distill job.textproto --out online");
  expect_done("distill job.textproto --out cached --set teacher.cache=cache");
  expect_done("distill job.textproto --out both_sides --set teacher.cache=cache --set objective.renormalised=true");
  expect_done("distill job.textproto --out drawn --set teacher.cache=draws");
  const auto online = folder_.metrics("online"), cached = folder_.metrics("cached"),
             both_sides = folder_.metrics("both_sides"), drawn = folder_.metrics("drawn");
  const double kl = online[0]["kl"];
  EXPECT_LT(cached[0]["kl"].get<double>(), kl);
  EXPECT_GT(cached[0]["kl"].get<double>(), 0);
  EXPECT_EQ(both_sides[0]["kl"], cached[0]["kl"]);
  EXPECT_LT(both_sides[0]["loss"].get<double>(), cached[0]["loss"].get<double>());
  EXPECT_NEAR(drawn[0]["kl"].get<double>(), kl, 0.3 * kl);
  EXPECT_NEAR(cached[0]["teacher_ce"].get<double>(), online[0]["teacher_ce"].get<double>(), 1e-3);
  EXPECT_GT(cached[0]["kept_mass"].get<double>(), 0.05);
  EXPECT_LT(cached[0]["kept_mass"].get<double>(), 1);
  EXPECT_THAT(folder_.read("cached/metrics.jsonl"), HasSubstr("\"cache_wait_s\""));
  // A run that stops and goes on reads the same.
  expect_done("distill job.textproto --out stopped --steps 2 --set teacher.cache=cache");
  expect_done("distill stopped --resume");
  EXPECT_EQ(folder_.metrics("stopped"), cached);
}

TEST_F(TeacherCacheRuns, WhatIsThereIsNotDoneAgainAndMoreIsAdded) {
  expect_done("cache-teacher job.textproto --out cache");
  const std::string manifest = folder_.read("cache/cache.json"), part = folder_.read("cache/part_00000.h5");
  EXPECT_THAT(expect_done("cache-teacher job.textproto --out cache").output,
              HasSubstr("0 positions of the text are missing"));
  EXPECT_EQ(folder_.read("cache/cache.json"), manifest);
  expect_done("cache-teacher job.textproto --out cache --set data.text=text", 2);
  EXPECT_EQ(folder_.read("cache/part_00000.h5"), part);
  expect_done("distill job.textproto --out run --set teacher.cache=cache --set data.text=text");
  expect_done("distill job.textproto --out run2 --set teacher.cache=cache");
}

// Two ranks are killed twice while they write. The same command goes on, and in the end each document is there once,
// with what a writer that nobody killed says of it.
TEST_F(TeacherCacheRuns, AKilledWriterGoesOnWithoutALostOrDoubledToken) {
  constexpr std::int64_t num_documents = 3200;
  const core::RandomStream random(3, 0, "documents");
  std::string lines;
  std::int64_t bytes = 0;
  std::uint64_t next = 0;
  for (std::int64_t d = 0; d < num_documents; ++d) {
    std::string text = std::to_string(d) + " ";
    const std::uint64_t length = 30 + random.below(next++, 60);
    while (text.size() < length) text.push_back(static_cast<char>('a' + random.below(next++, 26)));
    bytes += std::ssize(text);
    lines += "{\"text\": \"" + text + "\"}\n";
  }
  folder_.write("many.jsonl", lines);
  const std::string write =
      "cache-teacher job.textproto --set data.text=many.jsonl --set teacher.cache_exact=true "
      "--set teacher.cache_tokens=8 --out ";
  expect_done(write + "whole");
  const auto expected = documents_of(folder_.path() / "whole");
  ASSERT_EQ(std::ssize(expected), num_documents);
  std::int64_t positions = 0;
  for (const auto& [key, lengths] : expected) {
    ASSERT_EQ(lengths.size(), 1U);
    positions += lengths[0];
  }
  EXPECT_EQ(positions, bytes);  // a document's tokens are its bytes and an end, which says nothing of what follows

  std::size_t files = 0;
  for (int kill = 0; kill < 2; ++kill) {
    const std::string command = folder_.command(write + "killed", 2);
    const std::size_t at = command.find("&& ");
    const Outcome killed = run_shell(fmt::format(
        "bash -c '{}; {} & p=$!; for i in $(seq 6000); do [ $(ls killed 2>/dev/null | grep -c h5$) -gt {} ] && break; "
        "sleep 0.01; done; kill -9 $(pgrep -P $p); wait $p'",
        command.substr(0, at), command.substr(at + 3), files));
    EXPECT_NE(killed.code, 0) << killed.output;
    const auto left = documents_of(folder_.path() / "killed");
    ASSERT_GT(left.size(), 0U) << killed.output;
    ASSERT_LT(left.size(), expected.size()) << "it was whole before it was killed";
    EXPECT_THAT(nlohmann::json::parse(folder_.read("killed/cache.json")).dump(),
                ::testing::Not(HasSubstr("many.jsonl")));
    for (files = 0; const auto& item : std::filesystem::directory_iterator(folder_.path() / "killed"))
      files += item.path().extension() == ".h5" ? 1 : 0;
  }
  // Three processes at once write a share each, of which the last has one more start; a fourth closes the cache.
  std::string shares = "true";
  for (int i = 0; i < 3; ++i)
    shares += fmt::format(" && ({}) & p{}=$!; true", folder_.command(fmt::format("{}shares --share {}/3", write, i), 1), i);
  const Outcome parts = run_shell("bash -c '" + shares + "; wait $p0 && wait $p1 && wait $p2'");
  EXPECT_EQ(parts.code, 0) << parts.output;
  EXPECT_THAT(expect_done(write + "shares --share 2/3").output, HasSubstr("0 positions of share 2/3 of the text"));
  EXPECT_THAT(folder_.read("shares/cache.json"), ::testing::Not(HasSubstr("many.jsonl")));
  EXPECT_THAT(expect_done(write + "shares").output,
              AllOf(HasSubstr(fmt::format("earlier writers left {} positions", positions)),
                    HasSubstr("0 positions of the text are missing")));
  EXPECT_EQ(documents_of(folder_.path() / "shares"), expected);
  const Outcome refused = folder_.limbeck(write + "shares --share 3/3", 1);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.output, HasSubstr("--share is '3/3', expected I/N with 0 <= I < N"));

  folder_.write("killed/part_00099.h5.tmp", "the half of a file");
  EXPECT_THAT(expect_done(write + "killed --verify", 2).output, HasSubstr("earlier writers left"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "killed/part_00099.h5.tmp"));
  EXPECT_EQ(documents_of(folder_.path() / "killed"), expected);

  const data::TeacherCache whole(folder_.path() / "whole"), again(folder_.path() / "killed");
  for (const auto& [key, lengths] : expected) {
    const data::DocumentKey document{static_cast<std::uint64_t>(key.first), static_cast<std::uint64_t>(key.second)};
    const auto place = whole.find(document), place_again = again.find(document);
    ASSERT_TRUE(place && place_again);
    data::CachedRows rows = whole.read(*place, 0, lengths[0]), rows_again = again.read(*place_again, 0, lengths[0]);
    for (std::int64_t i = 0; i < lengths[0]; ++i) {  // what a batch holds else may change a product's last bits
      ASSERT_NEAR(rows_again.target_loss[i], rows.target_loss[i], 1e-4);
      ASSERT_NEAR(rows_again.rest_at(0, i), rows.rest_at(0, i), 1e-4);
      for (data::CachedRows* either : {&rows, &rows_again})
        std::sort(either->log_p.begin() + i * 8, either->log_p.begin() + (i + 1) * 8);
      for (std::int64_t j = i * 8; j < (i + 1) * 8; ++j) ASSERT_NEAR(rows_again.log_p[j], rows.log_p[j], 1e-4);
    }
  }
}

TEST_F(TeacherCacheRuns, AFlippedBitIsFoundByVerifyAndByTraining) {
  expect_done("cache-teacher job.textproto --out cache");
  const std::string part = "cache/part_00000.h5", whole = folder_.read(part);
  const std::vector<std::int64_t> ends = numbers_of(folder_.path() / part, "/block_ends");
  const data::PlainHdf5 hdf5(folder_.path() / part, /*with_bytes=*/true);
  const std::int64_t begin = hdf5.datasets().at("/data").first_byte;
  ASSERT_EQ(ends.size(), 51U);  // a document each; the last nine are as the first
  bool is_found = false;
  for (std::size_t block = 0; block < 3 && !is_found; ++block) {
    std::string damaged = whole;
    char& last = damaged.at(static_cast<std::size_t>(begin + ends[block] - 1));
    last = static_cast<char>(last ^ 16);
    folder_.write(part, damaged);
    const Outcome verified = folder_.limbeck("cache-teacher job.textproto --out cache --verify");
    EXPECT_EQ(verified.code, 1) << verified.output;
    EXPECT_THAT(verified.output, HasSubstr("part_00000.h5"));
    const Outcome run =
        folder_.limbeck(fmt::format("distill job.textproto --set teacher.cache=cache --out run{}", block));
    if (run.code == 0) continue;  // a document that is held out, and not in the sample
    is_found = true;
    EXPECT_EQ(run.code, 1) << run.output;
    EXPECT_THAT(run.output, HasSubstr(fmt::format("part_00000.h5: block {} of 51 is corrupt", block)));
  }
  EXPECT_TRUE(is_found);
  folder_.write(part, whole);
  expect_done("cache-teacher job.textproto --out cache --verify");
}

TEST_F(TeacherCacheRuns, RefuseWhatIsOfSomethingElse) {
  expect_done("cache-teacher job.textproto --out cache");
  const auto error = [&](const std::string& command, int code) {
    const Outcome outcome = folder_.limbeck(command);
    EXPECT_EQ(outcome.code, code) << outcome.output;
    return outcome.output;
  };
  const std::string distill = "distill job.textproto --out refused --set teacher.cache=cache ";
  EXPECT_THAT(error(distill + "--set objective.temperature=3", 2),
              HasSubstr("objective.temperature is 3, expected one that"));
  EXPECT_THAT(error(distill + "--set data.text=text", 2), HasSubstr("is of another text"));
  EXPECT_THAT(error(distill + "--set objective.divergence=REVERSE_KL", 2),
              HasSubstr("which keeps TOP_K, expected FORWARD_KL"));
  EXPECT_THAT(error(distill + "--set objective.final_temperature=2", 2),
              HasSubstr("objective.final_temperature is given"));
  EXPECT_THAT(error("distill job.textproto --out refused --set objective.renormalised=true", 2),
              HasSubstr("without teacher.cache"));
  EXPECT_THAT(error("cache-teacher job.textproto --out cache --set teacher.cache_tokens=3", 2),
              HasSubstr("keeps something else"));
  EXPECT_THAT(error("cache-teacher job.textproto", 2), HasSubstr("expected --out DIR or teacher.cache"));
  EXPECT_THAT(error("cache-teacher job.textproto --out text", 2),
              HasSubstr("expected a teacher cache or an empty folder"));
  expect_done("train teacher.textproto --out other --set train.seed=77");
  EXPECT_THAT(error(distill + "--set teacher.source=other", 2), HasSubstr("is of another teacher"));
}

}  // namespace
}  // namespace limbeck::testing
