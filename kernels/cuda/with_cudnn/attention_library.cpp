#include "attention_library.h"

#include <cudnn_frontend.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {
namespace {

namespace fe = cudnn_frontend;
using Attributes = fe::graph::Tensor_attributes;
using Named = std::shared_ptr<Attributes>;

/// What a graph's tensors are told apart by when it runs.
enum Id : std::int64_t {
  lengths_id = 1,
  q_places_id,
  k_places_id,
  v_places_id,
  out_places_id,
  rows_id,
  q_id,
  k_id,
  v_id,
  out_id,
  logsumexp_id,
  dout_id,
  dq_id,
  dk_id,
  dv_id
};

/// A graph of one shape with its tensors: [sequences, heads, longest, width] of which a sequence has its own beginning
/// and length ("ragged"), and tokens lie in rows of all heads.
class Drawing {
 public:
  explicit Drawing(const PackedShape& shape) : shape_(shape) {
    graph.set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    lengths_ = column("lengths", lengths_id, shape.sequences, fe::DataType_t::INT32);
    q_places_ = places("q_places", q_places_id);
    k_places_ = places("k_places", k_places_id);
    v_places_ = places("v_places", v_places_id);
    out_places_ = places("out_places", out_places_id);
    rows_ = places("rows", rows_id);
  }

  void draw_forward() {
    const Named q = tensor("q", q_id, shape_.num_heads, shape_.width, q_places_);
    const Named k = tensor("k", k_id, shape_.num_kv_heads, shape_.width, k_places_);
    const Named v = tensor("v", v_id, shape_.num_kv_heads, shape_.value_width, v_places_);
    auto attention = fe::graph::SDPA_attributes()
                         .set_name("attention")
                         .set_generate_stats(true)
                         .set_attn_scale(static_cast<float>(shape_.scale))
                         .set_causal_mask(true)
                         .set_padding_mask(true)
                         .set_seq_len_q(lengths_)
                         .set_seq_len_kv(lengths_);
    auto [out, logsumexp] = graph.sdpa(q, k, v, attention);
    give(out, out_id, shape_.num_heads, shape_.value_width, out_places_);
    give(logsumexp, logsumexp_id, shape_.num_heads, 1, rows_);
    logsumexp->set_data_type(fe::DataType_t::FLOAT);
  }

  void draw_backward() {
    const Named q = tensor("q", q_id, shape_.num_heads, shape_.width, q_places_);
    const Named k = tensor("k", k_id, shape_.num_kv_heads, shape_.width, k_places_);
    const Named v = tensor("v", v_id, shape_.num_kv_heads, shape_.value_width, v_places_);
    const Named out = tensor("out", out_id, shape_.num_heads, shape_.value_width, out_places_);
    const Named dout = tensor("dout", dout_id, shape_.num_heads, shape_.value_width, out_places_);
    const Named logsumexp = tensor("logsumexp", logsumexp_id, shape_.num_heads, 1, rows_);
    logsumexp->set_data_type(fe::DataType_t::FLOAT);
    auto attention = fe::graph::SDPA_backward_attributes()
                         .set_name("attention_backward")
                         .set_attn_scale(static_cast<float>(shape_.scale))
                         .set_causal_mask(true)
                         .set_padding_mask(true)
                         .set_seq_len_q(lengths_)
                         .set_seq_len_kv(lengths_)
                         .set_max_total_seq_len_q(shape_.tokens)
                         .set_max_total_seq_len_kv(shape_.tokens)
                         .set_deterministic_algorithm(true);
    auto [dq, dk, dv] = graph.sdpa_backward(q, k, v, out, dout, logsumexp, attention);
    give(dq, dq_id, shape_.num_heads, shape_.width, q_places_);
    give(dk, dk_id, shape_.num_kv_heads, shape_.width, k_places_);
    give(dv, dv_id, shape_.num_kv_heads, shape_.value_width, v_places_);
  }

  fe::graph::Graph graph;

 private:
  Named column(const char* name, Id id, std::int64_t count, fe::DataType_t type) {
    return graph.tensor(
        Attributes().set_name(name).set_uid(id).set_dim({count, 1, 1, 1}).set_stride({1, 1, 1, 1}).set_data_type(type));
  }
  Named places(const char* name, Id id) { return column(name, id, shape_.sequences + 1, fe::DataType_t::INT64); }

  std::vector<std::int64_t> extents(std::int64_t heads, std::int64_t width) const {
    return {shape_.sequences, heads, shape_.longest, width};
  }
  std::vector<std::int64_t> strides(std::int64_t heads, std::int64_t width) const {
    return {heads * shape_.longest * width, width, heads * width, 1};
  }
  Named tensor(const char* name, Id id, std::int64_t heads, std::int64_t width, const Named& begin) {
    return graph.tensor(Attributes()
                            .set_name(name)
                            .set_uid(id)
                            .set_dim(extents(heads, width))
                            .set_stride(strides(heads, width))
                            .set_ragged_offset(begin));
  }
  void give(const Named& result, Id id, std::int64_t heads, std::int64_t width, const Named& begin) const {
    result->set_output(true)
        .set_uid(id)
        .set_dim(extents(heads, width))
        .set_stride(strides(heads, width))
        .set_ragged_offset(begin);
  }

  PackedShape shape_;
  Named lengths_, q_places_, k_places_, v_places_, out_places_, rows_;
};

void draw(Drawing& drawing, bool backward) {
  if (backward)
    drawing.draw_backward();
  else
    drawing.draw_forward();
}

void check_cudnn(cudnnStatus_t status) {
  if (status != CUDNN_STATUS_SUCCESS) throw std::runtime_error(std::string("cuDNN: ") + cudnnGetErrorString(status));
}

}  // namespace

/// A rank's handle and its plans; none where cuDNN refused.
class AttentionPlans {
 public:
  explicit AttentionPlans(cudaStream_t stream) {
    check_cudnn(cudnnCreate(&handle_));
    check_cudnn(cudnnSetStream(handle_, stream));
  }
  ~AttentionPlans() {
    plans_.clear();
    cudnnDestroy(handle_);
  }
  AttentionPlans(const AttentionPlans&) = delete;
  AttentionPlans& operator=(const AttentionPlans&) = delete;

  fe::graph::Graph* find(const PackedShape& shape, bool backward) {
    const auto [place, is_new] = plans_.try_emplace({shape, backward});
    if (is_new) {
      auto drawing = std::make_unique<Drawing>(shape);
      draw(*drawing, backward);
      if (drawing->graph.build(handle_, {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}).is_good())
        place->second = std::move(drawing);
    }
    return place->second ? &place->second->graph : nullptr;
  }

  std::optional<std::int64_t> workspace(const PackedShape& shape, bool backward) {
    const fe::graph::Graph* graph = find(shape, backward);
    std::int64_t bytes = 0;
    if (graph == nullptr || !graph->get_workspace_size(bytes).is_good()) return std::nullopt;
    return bytes;
  }

  void run(const PackedShape& shape, bool backward, std::unordered_map<std::int64_t, void*> tensors, void* workspace) {
    auto error = find(shape, backward)->execute(handle_, tensors, workspace);
    if (!error.is_good()) throw std::runtime_error("cuDNN: attention: " + error.get_message());
  }

 private:
  cudnnHandle_t handle_ = nullptr;
  std::map<std::pair<PackedShape, bool>, std::unique_ptr<Drawing>> plans_;
};

namespace {

AttentionPlans& plans_of(const Cuda& cuda) {
  std::shared_ptr<AttentionPlans>& plans = cuda.state->attention;
  if (!plans) plans = std::make_shared<AttentionPlans>(cuda.state->stream);
  return *plans;
}

template <class T>
std::pair<const std::int64_t, void*> bound(Id id, const T* memory) {
  return {id, const_cast<std::remove_const_t<T>*>(memory)};
}

/// Tensors by their numbers, with where the sequences begin.
template <class... T>
std::unordered_map<std::int64_t, void*> tensors_of(const PackedPlaces& p, const T&... tensors) {
  return {bound(lengths_id, p.lengths),
          bound(q_places_id, p.q),
          bound(k_places_id, p.k),
          bound(v_places_id, p.v),
          bound(out_places_id, p.out),
          bound(rows_id, p.rows),
          tensors...};
}

std::optional<std::int64_t> workspace_of(const Cuda& cuda, const PackedShape& shape, bool backward) {
  if (cuda.state->architecture < 90 || cudnnGetVersion() < 91801) return std::nullopt;
  return plans_of(cuda).workspace(shape, backward);
}

}  // namespace

bool takes_empty_sequences() { return cudnnGetVersion() >= 92500; }

std::optional<std::int64_t> forward_workspace(const Cuda& cuda, const PackedShape& shape) {
  return workspace_of(cuda, shape, false);
}

std::optional<std::int64_t> backward_workspace(const Cuda& cuda, const PackedShape& shape) {
  return workspace_of(cuda, shape, true);
}

void run_forward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedForward& t,
                 void* workspace) {
  plans_of(cuda).run(shape, false,
                     tensors_of(places, bound(q_id, t.q), bound(k_id, t.k), bound(v_id, t.v), bound(out_id, t.out),
                                bound(logsumexp_id, t.logsumexp)),
                     workspace);
}

void run_backward(const Cuda& cuda, const PackedShape& shape, const PackedPlaces& places, const PackedBackward& t,
                  void* workspace) {
  plans_of(cuda).run(shape, true,
                     tensors_of(places, bound(q_id, t.q), bound(k_id, t.k), bound(v_id, t.v), bound(out_id, t.out),
                                bound(logsumexp_id, t.logsumexp), bound(dout_id, t.dout), bound(dq_id, t.dq),
                                bound(dk_id, t.dk), bound(dv_id, t.dv)),
                     workspace);
}

std::string why_no_plan(const PackedShape& shape, bool backward, const std::string& properties, int architecture) {
  auto described = std::make_shared<fe::DeviceProperties>();
  if (auto error = described->deserialize({properties.begin(), properties.end()}); !error.is_good())
    return error.get_message();
  Drawing drawing(shape);
  fe::graph::Graph& graph = drawing.graph;
  graph.set_device_properties(described);  // before anything is drawn, which asks for them
  graph.set_sm_version(architecture);
  draw(drawing, backward);
  auto error = graph.validate();
  if (error.is_good()) error = graph.build_operation_graph();
  if (error.is_good()) error = graph.create_execution_plans({fe::HeurMode_t::A});
  if (error.is_good()) error = graph.check_support();
  return error.is_good() ? "" : error.get_message();
}

}  // namespace limbeck::kernels
