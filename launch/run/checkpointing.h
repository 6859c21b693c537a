// What a run's checkpoint holds of the trainer, and how the ranks of a run find one together (saves.h: write).
//
//     FoundCheckpoint found = agree_on_checkpoint(rank, run / "checkpoints", log);   // the same on every rank
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/best_evaluation.h"
#include "launch/run/model_source.h"
#include "launch/run/rank.h"
#include "launch/run/sampled_text.h"
#include "launch/run/spike_guard.h"

namespace limbeck::launch {

/// Throws, naming `where`, unless a run that had the one, or none, can go on with the other.
void check_same_adapters(const std::optional<AdapterState>& was, const std::optional<AdapterState>& now,
                         const std::string& where);

/// Where a run stands, beside its tensors: the trainer's part of a checkpoint's extra text (model_source.h).
struct TrainerState {
  std::int64_t step = 0;                  // optimizer steps done
  std::int64_t next_sample = 0;           // the loader's position
  std::int64_t tokens = 0;                // seen so far
  std::string run_config = {};            // resolved, textproto
  std::string text = {};                  // Session::text_fingerprint; empty: not known
  std::string teacher = {};               // Session::teacher_fingerprint; empty: there is none, or it is not known
  std::vector<std::int64_t> layers = {};  // StudentStart::layers
  std::optional<BestEvaluation> best = std::nullopt;  // by train.keep_best, until now
  std::optional<AdapterState> adapters = std::nullopt;
  std::vector<std::vector<std::int64_t>> replicated = {};    // RunSteps::replicated, for the next step
  std::vector<std::vector<std::int64_t>> expert_order = {};  // ExpertPlacement's, of a run that deals experts anew
  std::vector<std::vector<double>> expert_counts = {};       // likewise
  std::string quantised_as = {};  // precision.quantised_weights, as `limbeck convert --dtype` calls it; empty: none
  bool expert_choice = false;     // routing.expert_choice
  std::optional<double> choice_kl = std::nullopt;  // with it, the last ChoiceResult's of the held-out text
  std::optional<GuardState> guard = std::nullopt;  // of a run with one
  SaidAhead said = {};                             // SampledTexts::ahead
};
nlohmann::json to_json(const TrainerState& state);
/// Throws, naming `where`, unless every field but `text`, `teacher`, `layers`, `best`, `adapters`, `replicated`,
/// `expert_order`, `expert_counts`, `quantised_as`, `expert_choice`, `choice_kl`, `guard` and `said` is there.
TrainerState trainer_state_from_json(const nlohmann::json& json, const std::string& where);

/// Throws, naming `where` and the field, unless a checkpoint's model is the one that the config describes.
void check_same_model(const nn::ModelConfig& saved, const nn::ModelConfig& wanted, const std::string& where);

/// Whether a run that stood at `was`, in the checkpoint `where`, can go on with another config over the text and the
/// teacher of these fingerprints: throws where the samples would be others, or the teacher. Returns the sections that
/// are not the run's own, by which it goes on all the same.
std::vector<std::string> check_continues(const TrainerState& was, const std::string& where, const RunConfig& now,
                                         const std::string& text, const std::string& teacher);

struct FoundCheckpoint {
  std::optional<std::filesystem::path> folder;
  std::vector<std::filesystem::path> damaged;  // newer ones
};

/// Collective: the newest checkpoint whose files are all whole (the ranks divide the hashing); damaged ones are logged
/// in one line each, even by a quiet log. No folder where there is no checkpoint; throws where there are some and all
/// are damaged.
FoundCheckpoint agree_on_checkpoint(Rank& rank, const std::filesystem::path& checkpoints, const Log& log);

/// Collective: as open_model, the ranks dividing the hashing; of a run directory all take the same checkpoint.
ModelSource open_model_together(Rank& rank, const std::filesystem::path& path, const Log& log);

}  // namespace limbeck::launch
