#include "core/pipeline_comm.h"

#include "core/error.h"

namespace limbeck::nn {
namespace {

class SinglePipelineComm final : public PipelineComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  void sum(Tensor&) override {}
  core::CommHandle send(Kind, const Tensor&, std::int64_t to) override {
    core::fail("pipeline: one stage sends to stage {}", to);
  }
  core::CommHandle start_receiving(Kind, const Tensor&, std::int64_t from) override {
    core::fail("pipeline: one stage receives from stage {}", from);
  }
};

}  // namespace

const std::shared_ptr<PipelineComm>& single_pipeline() {
  static const std::shared_ptr<PipelineComm> single = std::make_shared<SinglePipelineComm>();
  return single;
}

}  // namespace limbeck::nn
