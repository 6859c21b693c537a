// Experts in MXFP4 on their way into a model directory, as gpt-oss is published: NAME_blocks and NAME_scales for NAME
// [E,K,N] (data/models/quantised/mxfp4.cpp).
//
//     for (const PlannedTensor& part : mxfp4_tensors(parts)) plan.push_back(part.plan), tensors.push_back(part.tensor);
#pragma once

#include <vector>

#include "data/models/export_tensors.h"
#include "data/models/hugging_face_names.h"
#include "data/models/safetensors.h"

namespace limbeck::data {

struct PlannedTensor {
  SafetensorsPlan plan;
  ExportTensor tensor;
};

/// `parts`, which outlive the result, are ours that are stored as one: stacks [E,F,K] whose rows are its columns.
/// Blocks that a model keeps are copied, others are made of its values. Throws where K is not whole blocks of 32.
std::vector<PlannedTensor> mxfp4_tensors(const std::vector<const HuggingFaceName*>& parts);

}  // namespace limbeck::data
