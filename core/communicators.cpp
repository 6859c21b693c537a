#include "core/communicators.h"

namespace limbeck::nn {
namespace {

using core::check;

class SingleExchange final : public Exchange {
 public:
  explicit SingleExchange(std::int64_t rows) : num_rows(rows) {}
  std::int64_t num_rows;
};

class SingleExpertComm final : public ExpertComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  ExchangePtr prepare(const Tensor& counts, Tensor& offsets) override {
    const auto* c = counts.data<std::int64_t>();
    auto* o = offsets.mutable_data<std::int64_t>();
    o[0] = 0;
    for (std::int64_t e = 0; e < counts.numel(); ++e) o[e + 1] = o[e] + c[e];
    return std::make_shared<SingleExchange>(o[counts.numel()]);
  }
  Tensor dispatch_rows(const Exchange& exchange, const Tensor& rows) override { return checked(exchange, rows); }
  Tensor combine_rows(const Exchange& exchange, const Tensor& rows) override { return checked(exchange, rows); }

 private:
  static Tensor checked(const Exchange& exchange, const Tensor& rows) {
    const auto expected = dynamic_cast<const SingleExchange&>(exchange).num_rows;
    check(rows.shape()[0] == expected, "expert exchange: {} rows, expected {}", rows.shape()[0], expected);
    return rows;
  }
};

class SingleBatchComm final : public BatchComm {
 public:
  void sum(Tensor&) override {}
};

class SingleTensorComm final : public TensorComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  void sum(Tensor&) override {}
  void max(Tensor&) override {}
  Tensor gather(const Tensor& part, int, std::int64_t) override { return part; }
  Tensor sum_share(const Tensor& x) override { return x; }
};

}  // namespace

Communicators single_communicators() {
  return {std::make_shared<SingleTensorComm>(), std::make_shared<SingleExpertComm>(),
          std::make_shared<SingleBatchComm>()};
}

}  // namespace limbeck::nn
