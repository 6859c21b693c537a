#include "core/communicators.h"

#include "kernels/permute.h"

namespace limbeck::nn {
namespace {

using core::check;

class SingleExchange final : public Exchange {
 public:
  explicit SingleExchange(std::int64_t rows) : num_rows(rows) { num_sent = rows; }
  std::int64_t num_rows;
};

class SingleExpertComm final : public ExpertComm {
 public:
  std::int64_t size() const override { return 1; }
  std::int64_t rank() const override { return 0; }
  ExchangePtr prepare(const Tensor& counts, std::int64_t num_rows, Tensor& offsets) override {
    core::on_device(counts, [&](const auto& device) {
      kernels::offsets_of_counts(device, counts.data<std::int64_t>(), counts.numel(),
                                 offsets.mutable_data<std::int64_t>());
    });
    return std::make_shared<SingleExchange>(num_rows);
  }
  RowsUnderWay start_dispatch(const ExchangePtr& exchange, const Tensor& rows) override {
    return checked(*exchange, rows);
  }
  RowsUnderWay start_combine(const ExchangePtr& exchange, const Tensor& rows) override {
    return checked(*exchange, rows);
  }

 private:
  static RowsUnderWay checked(const Exchange& exchange, const Tensor& rows) {
    const auto expected = dynamic_cast<const SingleExchange&>(exchange).num_rows;
    check(rows.shape()[0] == expected, "expert exchange: {} rows, expected {}", rows.shape()[0], expected);
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
  CommHandle start_pass(std::int64_t, const Tensor& rows, const Tensor& arriving) override {
    Tensor(arriving).copy_from(rows);
    return {};
  }
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

const Communicators& single_communicators() {
  static const Communicators single{.tensor = std::make_shared<SingleTensorComm>(),
                                    .expert = std::make_shared<SingleExpertComm>(),
                                    .replicas = nullptr,
                                    .batch = std::make_shared<SingleBatchComm>(),
                                    .context = std::make_shared<SingleContextComm>()};
  return single;
}

}  // namespace limbeck::nn
