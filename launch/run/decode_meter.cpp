#include "launch/run/decode_meter.h"

#include "launch/run/step_footprint.h"

namespace limbeck::launch {

DecodeMeter::DecodeMeter(const Rank& rank) {
  if (rank.is_first() && is_on_one_machine(rank)) meter_.emplace(/*with_gpus=*/!rank.memory()->is_host());
}

WorkFigures DecodeMeter::figures(const nn::Generated& generated, std::int64_t ranks) {
  const nn::Pace &decode = generated.decode, &prefill = generated.prefill;
  WorkFigures figures{.tokens = decode.tokens, .seconds = decode.seconds, .ranks = ranks};
  const auto joules = meter_ ? meter_->take() : std::nullopt;
  if (!joules || decode.seconds <= 0) return figures;
  figures.joules = *joules * decode.seconds / (decode.seconds + prefill.seconds);
  figures.by = meter_->by();
  return figures;
}

}  // namespace limbeck::launch
