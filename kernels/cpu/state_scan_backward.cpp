#include <algorithm>

#include "kernels/cpu/state_scan.h"
#include "kernels/sigmoid.h"

namespace limbeck::kernels {
namespace scan {
namespace {

template <class T>
struct Backward {
  using A = Acc<T>;
  const ScanProblem& problem;
  const ScanInputs<T>& in;
  const T* dy;
  const Room<A>& room;   // with the states before and behind chunks
  const Room<A>& after;  // the gradients of those, which come of the chunks behind
  A* skip_terms;         // [H,T]
  const ScanGradients<T>& gradients;
};

/// Of a thread.
struct Memory {
  Scratch b, c, c_panels, c_columns, scores, factors, db, dc, db_rows;           // of a chunk and group
  Scratch x, dy, x_columns, dy_columns, dy_panels, weighted, products, v, part;  // of a head
};

/// A chunk and the heads of a group, on one thread. Matrices of two tokens have a row for the earlier one, j, and a
/// column for the later one, i, in panels [rows,32].
template <class T>
class Task {
 public:
  Task(const Backward<T>& backward, const attention::Tiles<Acc<T>>& tiles, const Chunk& chunk, std::int64_t group,
       Memory& memory);
  void run() {
    for (std::int64_t head = group_ * p_.group_heads(); head < (group_ + 1) * p_.group_heads(); ++head) run_head(head);
    write_group();
  }

 private:
  using A = Acc<T>;
  using Tiles = attention::Tiles<A>;

  void run_head(std::int64_t head);
  void make_pairs(const Decays<A>& decays);
  void add_pairs(A* d_log_decay) const;
  void add_to_c(const Decays<A>& decays, const A* state, A* d_log_decay);
  void add_to_b(const Decays<A>& decays, const A* state);
  void make_x(const Decays<A>& decays, std::int64_t head, A* d_step, A* d_log_decay);
  void write_step(const Decays<A>& decays, std::int64_t head, const A* d_step, const A* d_log_decay) const;
  void write_group();
  /// The first pair of row j in panel of i.
  std::int64_t pair(std::int64_t i, std::int64_t j) const { return i / block * panel_ + j * block; }
  std::int64_t last(std::int64_t i) const { return std::min(i + block, count_); }

  const Backward<T>& f_;
  const ScanProblem& p_;
  const Tiles& tiles_;
  const Chunk& chunk_;
  std::int64_t group_, count_, rows_, n_, pitch_, width_, panel_;
  A *b_, *c_, *c_panels_, *c_columns_, *scores_, *factors_, *db_, *dc_, *db_rows_;
  A *x_, *dy_, *x_columns_, *dy_columns_, *dy_panels_, *weighted_, *products_, *v_, *part_;
};

template <class T>
Task<T>::Task(const Backward<T>& backward, const Tiles& tiles, const Chunk& chunk, std::int64_t group, Memory& memory)
    : f_(backward),
      p_(backward.problem),
      tiles_(tiles),
      chunk_(chunk),
      group_(group),
      count_(chunk.count),
      rows_(padded(chunk.count)),
      n_(p_.state_width),
      pitch_(padded(n_)),
      width_(p_.padded_width()),
      panel_(rows_ * block),
      b_(memory.b.get<A>(rows_ * pitch_)),
      c_(memory.c.get<A>(rows_ * pitch_)),
      c_panels_(memory.c_panels.get<A>(rows_ * pitch_)),
      c_columns_(memory.c_columns.get<A>(rows_ * n_)),
      scores_(memory.scores.get<A>(rows_ * rows_)),
      factors_(memory.factors.get<A>(rows_ * rows_)),
      db_(memory.db.get<A>(rows_ * n_)),
      dc_(memory.dc.get<A>(rows_ * n_)),
      db_rows_(memory.db_rows.get<A>(panel_)),
      x_(memory.x.get<A>(rows_ * width_)),
      dy_(memory.dy.get<A>(rows_ * width_)),
      x_columns_(memory.x_columns.get<A>(rows_ * p_.width)),
      dy_columns_(memory.dy_columns.get<A>(rows_ * p_.width)),
      dy_panels_(memory.dy_panels.get<A>(rows_ * width_)),
      weighted_(memory.weighted.get<A>(rows_ * rows_)),
      products_(memory.products.get<A>(rows_ * rows_)),
      v_(memory.v.get<A>(panel_)),
      part_(memory.part.get<A>(n_ * block)) {
  const std::int64_t first = (chunk_.begin * p_.num_groups + group_) * n_, step = p_.num_groups * n_;
  widen_rows(f_.in.b + first, step, count_, n_, b_);
  widen_rows(f_.in.c + first, step, count_, n_, c_);
  panels_of_rows<A>(c_, rows_, n_, nullptr, c_panels_);
  panels_of_columns(c_, rows_, n_, c_columns_);
  for (std::int64_t i = 0; i < count_; i += block)  // b_j c_i for j up to i
    tiles_.multiply({b_, pitch_}, last(i), c_columns_ + i * n_, n_, false, scores_ + pair(i, 0));
  std::fill_n(factors_, rows_ * rows_, A(0));
  std::fill_n(db_, rows_ * n_, A(0));
  std::fill_n(dc_, rows_ * n_, A(0));
}

template <class T>
void Task<T>::run_head(std::int64_t head) {
  const std::int64_t at = (chunk_.begin * p_.num_heads + head) * p_.width, step = p_.num_heads * p_.width;
  const Decays<A> decays(f_.room, chunk_, head);
  widen_rows(f_.in.x + at, step, count_, p_.width, x_);
  widen_rows(f_.dy + at, step, count_, p_.width, dy_);
  panels_of_columns(x_, rows_, p_.width, x_columns_);
  panels_of_columns(dy_, rows_, p_.width, dy_columns_);
  panels_of_rows<A>(dy_, rows_, p_.width, nullptr, dy_panels_);
  for (std::int64_t i = 0; i < count_; i += block)  // x_j dy_i for j up to i
    tiles_.multiply({x_, width_}, last(i), dy_columns_ + i * p_.width, p_.width, false, products_ + pair(i, 0));
  make_pairs(decays);

  A d_step[scan_chunk] = {}, d_log_decay[scan_chunk + 1] = {};
  add_pairs(d_log_decay);
  const A* const before = chunk_.before < 0 ? nullptr : f_.room.state(chunk_.before, head);
  const A* const after = chunk_.behind < 0 ? nullptr : f_.after.state(chunk_.behind, head);
  if (before != nullptr) add_to_c(decays, before, d_log_decay);
  if (after != nullptr) add_to_b(decays, after);
  make_x(decays, head, d_step, d_log_decay);
  if (before != nullptr && after != nullptr) {
    A both = 0;
#pragma omp simd reduction(+ : both)
    for (std::int64_t i = 0; i < p_.state_elements(); ++i) both += before[i] * after[i];
    for (std::int64_t t = 0; t < count_; ++t) d_log_decay[t] += decays.whole() * both;
  }
  write_step(decays, head, d_step, d_log_decay);
}

/// weighted: scores times decays. products: what the decays between two tokens get of them. factors: sums over the
/// heads of the gradient of b_j c_i.
template <class T>
void Task<T>::make_pairs(const Decays<A>& decays) {
  for (std::int64_t first_i = 0; first_i < count_; first_i += block)
    for (std::int64_t j = 0; j < last(first_i); ++j) {
      const A* const score = scores_ + pair(first_i, j);
      A* const product = products_ + pair(first_i, j);
      A* const weighted = weighted_ + pair(first_i, j);
      A* const factor = factors_ + pair(first_i, j);
      const A sum = decays.sum[j], step = decays.step[j];
#pragma omp simd
      for (std::int64_t i = 0; i < block; ++i) {
        const A between = decays.sum[first_i + i] - sum;
        const A decay = first_i + i >= j ? exponential(between > 0 ? A(0) : between) : A(0);
        weighted[i] = score[i] * decay;
        const A of_score = product[i] * decay * step;
        factor[i] += of_score;
        product[i] = first_i + i > j ? of_score * score[i] : A(0);
      }
    }
}

/// The decay of token t stands in all products of a token before it and one from it on.
template <class T>
void Task<T>::add_pairs(A* d_log_decay) const {
  alignas(64) A of_later[scan_chunk] = {};
  for (std::int64_t j = 0; j < count_; ++j) {
    A sum = 0;
    for (std::int64_t first_i = j / block * block; first_i < count_; first_i += block) {
      const A* const product = products_ + pair(first_i, j);
#pragma omp simd
      for (std::int64_t i = 0; i < block; ++i) of_later[first_i + i] += product[i];
    }
    of_later[j] = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < scan_chunk; ++i) sum += of_later[i];
    d_log_decay[j + 1] += sum;
  }
}

/// dc_i += from_begin_i state^T dy_i
template <class T>
void Task<T>::add_to_c(const Decays<A>& decays, const A* state, A* d_log_decay) {
  alignas(64) A of_token[scan_chunk] = {};
  for (std::int64_t first_i = 0; first_i < count_; first_i += block) {
    tiles_.multiply({state, block, 1, n_ * block}, n_, dy_columns_ + first_i * p_.width, p_.width, false, part_);
    for (std::int64_t k = 0; k < n_; ++k) {
      A* const dc = dc_ + first_i * n_ + k * block;
      const A* const c = c_columns_ + first_i * n_ + k * block;
      const A* const part = part_ + k * block;
#pragma omp simd
      for (std::int64_t i = 0; i < block; ++i) {
        const A given = part[i] * decays.from_begin[first_i + i];
        dc[i] += given;
        of_token[first_i + i] += given * c[i];
      }
    }
  }
  A sum = 0;
  for (std::int64_t t = count_ - 1; t >= 0; --t) d_log_decay[t] += sum += of_token[t];
}

/// db_j += step_j to_end_j state^T x_j
template <class T>
void Task<T>::add_to_b(const Decays<A>& decays, const A* state) {
  for (std::int64_t first_j = 0; first_j < count_; first_j += block) {
    tiles_.multiply({state, block, 1, n_ * block}, n_, x_columns_ + first_j * p_.width, p_.width, false, part_);
    for (std::int64_t k = 0; k < n_; ++k) {
      A* const db = db_ + first_j * n_ + k * block;
      const A* const part = part_ + k * block;
#pragma omp simd
      for (std::int64_t j = 0; j < block; ++j) db[j] += part[j] * decays.step[first_j + j] * decays.to_end[first_j + j];
    }
  }
}

/// With v_j = Σ_i>=j weighted_ji dy_i + to_end_j after b_j: dx_j = step_j v_j + skip dy_j, and d_step_j = x_j v_j as
/// far as the step is a factor.
template <class T>
void Task<T>::make_x(const Decays<A>& decays, std::int64_t head, A* d_step, A* d_log_decay) {
  const A* const after = chunk_.behind < 0 ? nullptr : f_.after.state(chunk_.behind, head);
  const A skip = f_.in.skip[head];
  A to_end[scan_chunk] = {}, skip_term[scan_chunk] = {};
  for (std::int64_t first = 0; first < p_.width; first += block) {
    if (after != nullptr) {
      tiles_.multiply({b_, pitch_}, count_, after + first * n_, n_, false, v_);
      for (std::int64_t j = 0; j < count_; ++j) {
        A* const v = v_ + j * block;
        const A* const x = x_ + j * width_ + first;
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t e = 0; e < block; ++e) {
          v[e] *= decays.to_end[j];
          sum += v[e] * x[e];
        }
        to_end[j] += sum;
      }
    }
    for (std::int64_t j = 0; j < count_; j += block)
      tiles_.multiply({weighted_ + pair(j, j), block, 1, panel_}, std::min(block, count_ - j),
                      dy_panels_ + first * rows_ + j * block, count_ - j, after != nullptr, v_ + j * block);
    for (std::int64_t j = 0; j < count_; ++j) {
      const A* const v = v_ + j * block;
      const A* const x = x_ + j * width_ + first;
      const A* const dy = dy_ + j * width_ + first;
      A given = 0, skipped = 0;
#pragma omp simd reduction(+ : given, skipped)
      for (std::int64_t e = 0; e < block; ++e) {
        given += v[e] * x[e];
        skipped += dy[e] * x[e];
      }
      d_step[j] += given;
      skip_term[j] += skipped;
      T* const to = f_.gradients.x + ((chunk_.begin + j) * p_.num_heads + head) * p_.width + first;
      for (std::int64_t e = 0; e < std::min(block, p_.width - first); ++e)
        to[e] = as<T>(decays.step[j] * v[e] + skip * dy[e]);
    }
  }
  std::copy_n(skip_term, count_, f_.skip_terms + head * p_.sequences.tokens + chunk_.begin);
  A sum = 0;  // of what is before t and goes on to the end
  for (std::int64_t t = 0; t < count_; ++t) {
    d_log_decay[t] += sum;
    sum += decays.step[t] * to_end[t];
  }
}

/// The gradients of dt; and in place of the steps and sums, which nobody reads any more, the terms of those of dt_bias
/// and of A.
template <class T>
void Task<T>::write_step(const Decays<A>& decays, std::int64_t head, const A* d_step, const A* d_log_decay) const {
  const StepLimits<A> limits(p_);
  const A rate = decay_rate(f_.in.a_log, head);
  for (std::int64_t t = 0; t < count_; ++t) {
    const std::int64_t at = (chunk_.begin + t) * p_.num_heads + head;
    const A raw = as<A>(f_.in.dt[at]) + f_.in.dt_bias[head];
    const A d_raw = limits.hold(softplus(raw)) ? (d_step[t] + rate * d_log_decay[t]) * sigmoid(raw) : A(0);
    f_.gradients.dt[at] = as<T>(d_raw);
    *f_.room.step(head, chunk_.begin + t) = d_raw;
    *f_.room.sum(head, chunk_.begin + t) = decays.step[t] * rate * d_log_decay[t];
  }
}

/// db_j += Σ_i factors_ji c_i, dc_i += Σ_j factors_ji b_j, and both are complete.
template <class T>
void Task<T>::write_group() {
  const std::int64_t at = (chunk_.begin * p_.num_groups + group_) * n_, step = p_.num_groups * n_;
  for (std::int64_t i = 0; i < count_; i += block)
    tiles_.multiply(Tiles::transposed(b_, pitch_, b_, pitch_), n_, factors_ + pair(i, 0), last(i), true, dc_ + i * n_);
  for (std::int64_t i = 0; i < count_; ++i)
    for (std::int64_t k = 0; k < n_; ++k)
      f_.gradients.c[at + i * step + k] = as<T>(dc_[i / block * block * n_ + k * block + i % block]);
  for (std::int64_t first = 0; first < n_; first += block) {
    for (std::int64_t j = 0; j < count_; j += block)
      tiles_.multiply({factors_ + pair(j, j), block, 1, panel_}, std::min(block, count_ - j),
                      c_panels_ + first * rows_ + j * block, count_ - j, false, db_rows_ + j * block);
    for (std::int64_t j = 0; j < count_; ++j)
      for (std::int64_t k = first; k < std::min(first + block, n_); ++k)
        f_.gradients.b[at + j * step + k] =
            as<T>(db_rows_[j * block + k - first] + db_[j / block * block * n_ + k * block + j % block]);
  }
}

/// total[h] = Σ_t terms[h,t], over blocks of tokens, then over the blocks.
template <class A>
void sum_tokens(const Cpu& cpu, const A* terms, std::int64_t heads, std::int64_t tokens, A* total) {
  parallel_for(cpu, heads, 1 + (1 << 14) / (tokens + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) {
      total[h] = 0;
      for (std::int64_t first = 0; first < tokens; first += scan_chunk) {
        const A* const some = terms + h * tokens + first;
        const std::int64_t count = std::min(scan_chunk, tokens - first);
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t t = 0; t < count; ++t) sum += some[t];
        total[h] += sum;
      }
    }
  });
}

}  // namespace
}  // namespace scan

template <class D, class T>
void state_scan_gradient(const D& cpu, const ScanProblem& p, const ScanInputs<T>& in, const T* dy, Acc<T>* memory,
                         const ScanGradients<T>& gradients, const Acc<T>* states, Acc<T>* dstates) {
  using namespace scan;
  using A = Acc<T>;
  const Chunks chunks(p);
  const Room<A> room(p, memory);
  Room<A> after = room;
  after.first_state = room.state(p.num_states(), 0);
  A* const skip_terms = after.state(p.num_states(), 0);
  make_steps(cpu, p, chunks.chunks, in, room);
  make_states(cpu, p, chunks, in, room, states);
  make_after(cpu, p, chunks, in, dy, after, dstates);
  for_each_task(cpu, std::ssize(chunks.runs) * p.num_heads, [&](std::int64_t task) {
    const ChunkRun& run = chunks.runs[task / p.num_heads];
    const std::int64_t head = task % p.num_heads;
    if (run.has_slot_before)
      write_state(p, after.state(chunks.chunks[run.first].before, head),
                  state_of(p, dstates, run.tokens.sequence, head));
  });
  const Backward<T> backward{p, in, dy, room, after, skip_terms, gradients};
  const attention::Tiles<A> tiles(cpu);
  for_each_task(
      cpu, std::ssize(chunks.chunks) * p.num_groups, [] { return Memory(); },
      [&](std::int64_t task, Memory& own) {
        Task<T>(backward, tiles, chunks.chunks[task / p.num_groups], task % p.num_groups, own).run();
      });
  sum_tokens(cpu, room.steps, p.num_heads, p.sequences.tokens, gradients.dt_bias);
  sum_tokens(cpu, room.sums, p.num_heads, p.sequences.tokens, gradients.a_log);
  sum_tokens(cpu, skip_terms, p.num_heads, p.sequences.tokens, gradients.skip);
}

#define LIMBECK_INSTANTIATE(T)                                                                               \
  template void state_scan_gradient(const Cpu&, const ScanProblem&, const ScanInputs<T>&, const T*, Acc<T>*, \
                                    const ScanGradients<T>&, const Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
