#include "core/communicators.h"

#include <utility>

namespace limbeck::nn {
namespace {

using core::check;

class SingleExpertComm final : public ExpertComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  ExchangePtr prepare(const Tensor& selection, std::int64_t) override {
    auto exchange = std::make_shared<Exchange>();
    exchange->selection = selection;
    exchange->num_rows = selection.numel();
    return exchange;
  }
  RowsUnderWay start_dispatch(const ExchangePtr& exchange, const Tensor& x) override { return checked(*exchange, x); }
  RowsUnderWay start_combine(const ExchangePtr& exchange, const Tensor& y) override { return checked(*exchange, y); }

 private:
  static RowsUnderWay checked(const Exchange& exchange, const Tensor& rows) {
    const std::int64_t expected = exchange.selection.shape()[0];
    check(rows.shape()[0] == expected, "expert exchange: {} tokens, expected {}", rows.shape()[0], expected);
    return [rows] { return rows; };
  }
};

class SingleBatchComm final : public BatchComm {
 public:
  void sum(Tensor&) override {}
};

class SingleContextComm final : public ContextComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  void sum(Tensor&) override {}
  Tensor gather(const Tensor& rows) override { return rows; }
  CommHandle start_pass(std::int64_t, const Tensor& rows, const Tensor& arriving) override {
    Tensor(arriving).copy_from(rows);
    return {};
  }
};

class SingleTensorComm final : public TensorComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  RowsUnderWay start_sum(Tensor x) override {
    return [x = std::move(x)] { return x; };
  }
  void max(Tensor&) override {}
  RowsUnderWay start_gather(const Tensor& part, int, std::int64_t) override {
    return [part] { return part; };
  }
  RowsUnderWay start_sum_share(const Tensor& x) override {
    return [x] { return x; };
  }
};

}  // namespace

const Communicators& single_communicators() {
  static const Communicators single{.tensor = std::make_shared<SingleTensorComm>(),
                                    .expert = std::make_shared<SingleExpertComm>(),
                                    .replicas = nullptr,
                                    .batch = std::make_shared<SingleBatchComm>(),
                                    .context = std::make_shared<SingleContextComm>()};
  return single;
}

}  // namespace limbeck::nn
