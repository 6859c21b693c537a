// The rows of a map with a row a layer: where each lies, and its label. Of many layers every k-th is shown.
//
//     const LayerRows rows(layers);
//     for (std::size_t r = 0; r < rows.count(); ++r) svg += rows.label(r) + cells(rows.layer(r), rows.y(r),
//     rows.height()); return rows.figure({.title = "Expert load", .of = run, .unit = "shares"}, svg, rows.bottom() +
//     48);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace limbeck::launch {

struct MapTitle {
  std::string title;
  std::string of;  // whose layers they are, or nothing
  std::string unit;
};

class LayerRows {
 public:
  /// One layer or more.
  explicit LayerRows(std::vector<std::int64_t> layers);

  std::size_t count() const { return (layers_.size() + stride_ - 1) / stride_; }
  std::int64_t layer(std::size_t row) const { return layers_[row * stride_]; }
  double height() const { return height_; }
  double y(std::size_t row) const;
  double bottom() const { return y(count()); }
  /// SVG; of rows that are too low for text some have none.
  std::string label(std::size_t row) const;
  /// A <figure> of the drawing, `full_height` units high, that says how many layers are shown.
  std::string figure(const MapTitle& title, const std::string& svg, double full_height) const;

 private:
  std::vector<std::int64_t> layers_;
  std::size_t stride_;
  double height_;
};

}  // namespace limbeck::launch
