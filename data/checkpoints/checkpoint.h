// Checkpoints without a layout: every rank writes the boxes it holds, an index shows them as whole tensors, and any
// other layout reads the boxes it wants. docs/checkpoint_format.md describes the files.
//
//     path temporary = begin_checkpoint(run / "checkpoints", step);                // rank 0, then a barrier
//     RankFileInfo mine = write_rank_file(temporary, rank, step, state);           // every rank, in parallel
//     finish_checkpoint(temporary, all_infos, extra);                 // rank 0, with to_text(mine) of every rank
//
//     auto folder = newest_good_checkpoint(run / "checkpoints", [&](const std::string& bad) { log(bad); });
//     Checkpoint checkpoint(*folder);
//     checkpoint.read("layers.3.attention.q.weight", entry);                       // entry's box, whatever wrote it
//
// Names are module paths, `optimizer/<name>/<moment>` for optimizer state, `distillation/<name>` for what is trained
// beside the model (core::is_of_model). Tensors are float32, float64, bfloat16 or int64. Nothing here communicates:
// whoever calls brings the infos to rank 0.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/state_dict.h"
#include "data/checkpoints/manifest.h"
#include "data/checkpoints/stored_tensors.h"
#include "data/checkpoints/tensor_boxes.h"

namespace limbeck::data {

/// What rank 0 has to know of a rank's file.
struct RankFileInfo {
  ManifestFile file;
  std::int64_t step = 0;
  std::vector<TensorBox> boxes;
};
std::string to_text(const RankFileInfo& info);
RankFileInfo rank_file_info_from_text(const std::string& text);

// ---- Writing

/// Makes an empty checkpoints/step_N.tmp and removes what interrupted writers left there. One rank calls it.
std::filesystem::path begin_checkpoint(const std::filesystem::path& checkpoints, std::int64_t step);

/// Writes `folder`/rank_RRRRR.h5 with the entries whose `write` is set, and waits until it is on the disk. Throws,
/// naming file and tensor, for a box outside its global shape or another dtype; and in the midst of it when `stop`
/// asks.
RankFileInfo write_rank_file(const std::filesystem::path& folder, int rank, std::int64_t step,
                             const core::StateDict& state, const std::stop_token& stop = {});

/// Checks that the boxes of every tensor tile its global shape (else throws and names the tensor), writes index.h5,
/// then manifest.json with `extra`, and renames step_N.tmp to step_N, which it returns. After a kill at any instant
/// step_N is whole, or what it was before.
std::filesystem::path finish_checkpoint(const std::filesystem::path& temporary, std::span<const RankFileInfo> infos,
                                        const std::string& extra);

/// Which checkpoints stay when one has been saved.
struct Keep {
  int newest = 1;                                        // 1 or more, with that one
  std::int64_t every_steps = 0;                          // those of its multiples stay too; 0: none for that
  std::vector<std::filesystem::path> damaged = {};       // of which none stays but that one
  std::optional<std::int64_t> best_step = std::nullopt;  // stays too
};

/// After step `written_step` was saved: keeps it and the latest before it, and what else `keep` says. Later ones are of
/// a line of training that was left behind, and go, as do temporary folders.
void prune_checkpoints(const std::filesystem::path& checkpoints, std::int64_t written_step, const Keep& keep);

/// Makes checkpoints/best a link to step_N, in one step; false, and no link, where there is no such checkpoint. A path
/// like any checkpoint's to whoever reads.
bool point_to_best(const std::filesystem::path& checkpoints, std::int64_t step);

// ---- Finding

/// N of a folder "step_N"; nothing for any other name, "step_N.tmp" among them.
std::optional<std::int64_t> step_of(const std::filesystem::path& folder);

/// The folders step_N, the latest first, good or not; none where `checkpoints` does not exist.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& checkpoints);

/// Nothing if the manifest is whole, every file has its size, and the files of this part have their hashes; else one
/// line that names the bad file. Ranks divide the hashing: `part` of `parts`.
std::optional<std::string> find_damage(const std::filesystem::path& folder, int part = 0, int parts = 1);

/// The latest checkpoint without damage; each bad one on the way is given to on_bad in one line.
std::optional<std::filesystem::path> newest_good_checkpoint(const std::filesystem::path& checkpoints,
                                                            const std::function<void(const std::string&)>& on_bad);

// ---- Reading

class Checkpoint : public core::StateReader {
 public:
  enum class Verify : std::uint8_t { Sizes, Hashes };
  /// Throws with find_damage's line (with Sizes the hashes are taken on trust: find_damage was just called), and where
  /// the files do not hold what a checkpoint holds, whatever their hashes (stored_tensors.h).
  explicit Checkpoint(std::filesystem::path folder, Verify verify = Verify::Hashes);

  std::int64_t step() const { return manifest_.step; }
  const std::string& extra() const { return manifest_.extra; }

  std::string source() const override { return folder_.string(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  /// Only the parts of the rank files that overlap the box are read. int64 is read as int64 alone.
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  std::filesystem::path folder_;
  Manifest manifest_;
  std::map<std::string, core::StateInfo> tensors_;
  std::map<std::string, std::vector<StoredBox>> boxes_;
};

}  // namespace limbeck::data
