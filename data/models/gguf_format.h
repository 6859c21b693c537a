// The numbers of the GGUF format that its reader and its writer share.
//
//     const GgufFormat* format = gguf_format(12);               // Q4_K; nullptr where GGUF defines no such type
//     std::uint32_t id = gguf_format(DType::Q8_0).id;           // 8
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace limbeck::data {

/// Of metadata values.
enum class GgufType : std::uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };

constexpr std::int64_t gguf_alignment = 32;  // of tensors, unless general.alignment says otherwise

/// Of tensors: ggml_type of ggml.h. Those without a dtype are only named in messages.
struct GgufFormat {
  std::uint32_t id;
  std::string_view name;
  std::optional<core::DType> dtype = {};
};

inline constexpr std::array gguf_formats = {GgufFormat{0, "F32", core::DType::F32},
                                            GgufFormat{1, "F16", core::DType::F16},
                                            GgufFormat{2, "Q4_0", core::DType::Q4_0},
                                            GgufFormat{3, "Q4_1", core::DType::Q4_1},
                                            GgufFormat{6, "Q5_0", core::DType::Q5_0},
                                            GgufFormat{7, "Q5_1", core::DType::Q5_1},
                                            GgufFormat{8, "Q8_0", core::DType::Q8_0},
                                            GgufFormat{9, "Q8_1"},
                                            GgufFormat{10, "Q2_K", core::DType::Q2_K},
                                            GgufFormat{11, "Q3_K", core::DType::Q3_K},
                                            GgufFormat{12, "Q4_K", core::DType::Q4_K},
                                            GgufFormat{13, "Q5_K", core::DType::Q5_K},
                                            GgufFormat{14, "Q6_K", core::DType::Q6_K},
                                            GgufFormat{15, "Q8_K"},
                                            GgufFormat{16, "IQ2_XXS"},
                                            GgufFormat{17, "IQ2_XS"},
                                            GgufFormat{18, "IQ3_XXS"},
                                            GgufFormat{19, "IQ1_S"},
                                            GgufFormat{20, "IQ4_NL", core::DType::IQ4_NL},
                                            GgufFormat{21, "IQ3_S"},
                                            GgufFormat{22, "IQ2_S"},
                                            GgufFormat{23, "IQ4_XS", core::DType::IQ4_XS},
                                            GgufFormat{24, "I8"},
                                            GgufFormat{25, "I16"},
                                            GgufFormat{26, "I32"},
                                            GgufFormat{27, "I64"},
                                            GgufFormat{28, "F64"},
                                            GgufFormat{29, "IQ1_M"},
                                            GgufFormat{30, "BF16", core::DType::BF16},
                                            GgufFormat{34, "TQ1_0"},
                                            GgufFormat{35, "TQ2_0"},
                                            GgufFormat{39, "MXFP4", core::DType::MXFP4}};

inline const GgufFormat* gguf_format(std::uint32_t id) {
  const auto* found = std::find_if(gguf_formats.begin(), gguf_formats.end(), [&](const auto& f) { return f.id == id; });
  return found == gguf_formats.end() ? nullptr : found;
}

/// The format that stores a dtype; throws where there is none.
inline const GgufFormat& gguf_format(core::DType dtype) {
  const auto* found =
      std::find_if(gguf_formats.begin(), gguf_formats.end(), [&](const auto& f) { return f.dtype == dtype; });
  core::check(found != gguf_formats.end(), "GGUF: cannot hold {}", dtype);
  return *found;
}

/// The names of the formats that are read, for messages.
inline std::string readable_gguf_formats() {
  std::string names;
  for (const auto& format : gguf_formats)
    if (format.dtype) names += fmt::format("{}{}", names.empty() ? "" : ", ", format.name);
  return names;
}

}  // namespace limbeck::data
