// The tiny models of tests/golden/models: weights, a packed batch, and PyTorch's loss and gradients in float64.
//
//     GoldenModel golden("moe.h5");
//     model.load(golden.parameters());
//     EXPECT_LE(golden.worst_gradient_error(model.parameters()), 1e-5);
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/nn/transformer.h"
#include "data/files/hdf5_file.h"
#include "data/text/loader.h"

namespace limbeck::testing {

/// A group of an HDF5 file as named tensors: "/parameters/layers/0/..." as "layers.0....".
class Hdf5Group : public core::StateReader {
 public:
  Hdf5Group(std::shared_ptr<const data::Hdf5File> file, const std::string& group);
  std::string source() const override;
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  std::shared_ptr<const data::Hdf5File> file_;
  std::string group_;
  std::map<std::string, core::StateInfo> tensors_;
};

/// A file is opened, and each of its datasets read, once in a process: ranks that are threads ask for the same ones.
class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name);

  nn::ModelConfig config(const std::string& group = "/") const;
  /// What the router does beside routing.
  nn::RouterTraining router() const;
  Hdf5Group parameters(const std::string& group = "/parameters") const { return {kept_->file, group}; }
  data::TokenBatch samples() const;
  double number(const std::string& attribute, const std::string& group = "/") const;
  bool has(const std::string& attribute) const { return kept_->file->has_attribute("/", attribute); }
  /// A dataset's values, in float64.
  const std::vector<double>& values(const std::string& path) const;
  double value(const std::string& path) const { return values(path).at(0); }

  /// Of the stored gradients (float32), as below.
  double worst_gradient_error(const core::ParameterList& parameters, const std::string& group = "/gradients") const;

 private:
  struct Kept {
    std::shared_ptr<const data::Hdf5File> file;
    std::mutex mutex = {};
    std::map<std::string, std::vector<double>> values = {};  // by path; none is removed
  };
  static Kept& kept(const std::string& name);

  Kept* kept_;
};

/// The worst of max|a-b| / max(max|b|, G/100) over this rank's parts of the parameters' gradients; `expected`: whole
/// gradients by name, G the largest entry of all.
double worst_gradient_error(const core::ParameterList& parameters,
                            const std::map<std::string, std::vector<double>>& expected);

/// A float32 or float64 tensor's values.
std::vector<double> values_of(const core::Tensor& t);

}  // namespace limbeck::testing
