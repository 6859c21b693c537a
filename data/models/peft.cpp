#include "data/models/peft.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/device/memory.h"
#include "core/nn/adapters.h"
#include "data/files/atomic_file.h"
#include "data/models/families/family.h"
#include "data/models/hugging_face_names.h"
#include "data/models/safetensors.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using core::Shape;
using core::Tensor;

constexpr const char *settings_file = "adapter_config.json", *weights_file = "adapter_model.safetensors";

/// Of a factor, or of the one of `expert` of a stack's.
Tensor factor(const core::StateReader& adapters, const std::string& name, std::int64_t expert) {
  const Shape whole = adapters.tensors().at(name).shape;
  Shape box = whole;
  std::vector<std::int64_t> offset(static_cast<std::size_t>(whole.rank()), 0);
  if (expert >= 0) {
    box[0] = 1;
    offset[0] = expert;
  }
  core::StateEntry entry{whole, offset, Tensor::empty(core::Memory::cpu(1), core::DType::F32, box)};
  adapters.read(name, entry);
  const int rank = box.rank();
  return entry.tensor.reshape({box[rank - 2], box[rank - 1]});
}

std::string settings(const PeftExport& options, const std::vector<std::string>& modules) {
  const nlohmann::ordered_json json = {{"peft_type", "LORA"},
                                       {"task_type", "CAUSAL_LM"},
                                       {"base_model_name_or_path", options.base},
                                       {"r", options.rank},
                                       {"lora_alpha", options.alpha},
                                       {"lora_dropout", 0.0},
                                       {"target_modules", modules},
                                       {"bias", "none"},
                                       {"fan_in_fan_out", false},
                                       {"use_rslora", false},
                                       {"use_dora", false},
                                       {"modules_to_save", nullptr},
                                       {"inference_mode", true}};
  return json.dump(1) + "\n";
}

}  // namespace

void export_peft(const core::StateReader& adapters, const nn::ModelConfig& config, const fs::path& folder,
                 const PeftExport& options) {
  const Family& family = family_for(config, "export of adapters");
  for (const char* file : {settings_file, weights_file})
    if (!options.replace && fs::exists(folder / file))
      core::fail_usage("{}: is there already, expected a folder without it (or --force)", (folder / file).string());
  std::vector<std::string> modules;
  std::vector<SafetensorsPlan> plan;
  std::vector<Tensor> tensors;
  for_each_hugging_face_name(in_family(family, config), family.names, [&](const HuggingFaceName& name) {
    if (!adapters.tensors().contains(nn::adapter_name(name.name, 'a'))) return;
    if (!name.is_as_stored())
      core::fail(
          "{}: {} is stored in another form by {} ({}): its adapter has no place of its own; merged with the model it "
          "can be written",
          adapters.source(), name.name, family.name, name.stored.front());
    if (family.traits.mamba == FamilyTraits::Mamba::All)
      core::fail("{}: peft takes no adapter of {} in a model of {}; merged with the model it can be written",
                 adapters.source(), name.stored.front(), family.name);
    for (std::size_t i = 0; i < name.stored.size(); ++i) {
      constexpr std::string_view weight = ".weight";
      core::check(name.stored[i].ends_with(weight), "{}: {} is stored as {}, expected a module's weight",
                  adapters.source(), name.name, name.stored[i]);
      modules.push_back(name.stored[i].substr(0, name.stored[i].size() - weight.size()));
      for (const auto& [which, theirs] : {std::pair('a', "lora_A"), {'b', "lora_B"}}) {
        tensors.push_back(
            factor(adapters, nn::adapter_name(name.name, which), name.is_stack ? static_cast<std::int64_t>(i) : -1));
        plan.push_back({fmt::format("base_model.model.{}.{}.weight", modules.back(), theirs), core::DType::F32,
                        tensors.back().shape()});
      }
    }
  });
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) core::fail_usage("{}: cannot be made: {}", folder.string(), error.message());
  SafetensorsWriter weights(folder / weights_file, std::move(plan), {{"format", "pt"}});
  for (const Tensor& tensor : tensors) weights.write(tensor);
  weights.finish();
  write_file_atomically(folder / settings_file, settings(options, modules));
}

}  // namespace limbeck::data
