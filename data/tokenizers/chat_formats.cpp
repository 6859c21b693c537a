#include "data/tokenizers/chat_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace limbeck::data {

namespace {

using System = ChatFormat::System;

constexpr std::string_view llama3_turn =
    "'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'";
constexpr std::string_view chatml_turn = "'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'";

ChatFormat chatml(std::string_view name, std::vector<std::string_view> has, std::vector<std::string_view> lacks,
                  std::string_view default_system = {}) {
  return {.name = name,
          .has = std::move(has),
          .lacks = std::move(lacks),
          .system = System::Turn,
          .default_system = default_system,
          .system_begin = "<|im_start|>system\n",
          .system_end = "<|im_end|>\n",
          .user_begin = "<|im_start|>user\n",
          .user_end = "<|im_end|>\n",
          .reply_begin = "<|im_start|>assistant\n",
          .reply_end = "<|im_end|>",
          .reply_after = "\n",
          .alternates = false};
}

ChatFormat qwen3() {
  ChatFormat format = chatml("Qwen3", {"ns.last_query_index", "reasoning_content.strip('\n')", "'\n</think>\n\n'"},
                             {"'<|im_start|>assistant\n<think>\n'"});
  format.thinks = true;
  return format;
}

ChatFormat llama3(std::string_view name, std::vector<std::string_view> has, std::vector<std::string_view> lacks) {
  return {.name = name,
          .has = std::move(has),
          .lacks = std::move(lacks),
          .system = System::Turn,
          .system_begin = "<|start_header_id|>system<|end_header_id|>\n\n",
          .system_end = "<|eot_id|>",
          .user_begin = "<|start_header_id|>user<|end_header_id|>\n\n",
          .user_end = "<|eot_id|>",
          .reply_begin = "<|start_header_id|>assistant<|end_header_id|>\n\n",
          .reply_end = "<|eot_id|>",
          .trims_system = true,
          .trims_user = true,
          .trims_reply = true,
          .alternates = false};
}

/// From 3.1 on there is always a system message. Its date is that which the template of 3.1 and 3.3 names: texts of
/// today are those of tomorrow.
ChatFormat llama31() {
  ChatFormat format = llama3("Llama-3.1", {llama3_turn, "Cutting Knowledge Date: December 2023", "26 Jul 2024"}, {});
  format.always_system = true;
  format.later_begin = format.system_begin;
  format.system_begin =
      "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul "
      "2024\n\n";
  return format;
}

ChatFormat mistral(std::string_view name, std::vector<std::string_view> has, std::vector<std::string_view> lacks) {
  return {.name = name,
          .has = std::move(has),
          .lacks = std::move(lacks),
          .system_end = "\n\n",
          .user_begin = "[INST] ",
          .user_end = " [/INST]",
          .reply_end = "{eos}"};
}

ChatFormat phi3(std::string_view name, std::vector<std::string_view> has, std::vector<std::string_view> lacks) {
  return {.name = name,
          .has = std::move(has),
          .lacks = std::move(lacks),
          .system = System::Refused,
          .system_begin = "<|system|>\n",
          .system_end = "<|end|>\n",
          .user_begin = "<|user|>\n",
          .user_end = "<|end|>\n",
          .reply_begin = "<|assistant|>\n",
          .reply_end = "<|end|>",
          .reply_after = "\n",
          .alternates = false};
}

ChatFormat gemma(std::string_view name, std::vector<std::string_view> has, std::vector<std::string_view> lacks) {
  return {.name = name,
          .has = std::move(has),
          .lacks = std::move(lacks),
          .system = System::Refused,
          .system_end = "\n\n",
          .user_begin = "<start_of_turn>user\n",
          .user_end = "<end_of_turn>\n",
          .reply_begin = "<start_of_turn>model\n",
          .reply_end = "<end_of_turn>",
          .reply_after = "\n",
          .trims_user_alone = true,
          .trims_reply = true};
}

ChatFormat deepseek3(std::string_view name, std::vector<std::string_view> has, std::vector<std::string_view> lacks) {
  return {.name = name,
          .has = std::move(has),
          .lacks = std::move(lacks),
          .user_begin = "<｜User｜>",
          .reply_begin = "<｜Assistant｜>",
          .reply_end = "<｜end▁of▁sentence｜>",
          .alternates = false};
}

/// Its date is the day on which the models were published.
ChatFormat gpt_oss() {
  return {.name = "gpt-oss",
          .has = {"'<|start|>system<|message|>'", "'Knowledge cutoff: 2024-06\n'",
                  "'# Valid channels: analysis, commentary, final.", "'# Instructions\n\n'",
                  "'<|start|>assistant<|channel|>final<|message|>'+message.content+'<|return|>'"},
          .system_begin = "<|start|>developer<|message|># Instructions\n\n",
          .system_end = "\n\n<|end|>",
          .user_begin = "<|start|>user<|message|>",
          .user_end = "<|end|>",
          .reply_begin = "<|start|>assistant",
          .reply_lead = "<|channel|>final<|message|>",
          .reply_end = "<|end|>",
          .last_reply_end = "<|return|>",
          .preamble =
              "<|start|>system<|message|>You are ChatGPT, a large language model trained by "
              "OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: 2025-08-05\n\nReasoning: medium\n\n# Valid "
              "channels: analysis, commentary, final. Channel must be included for every message.<|end|>",
          .skips_empty_system = true,
          .alternates = false};
}

ChatFormat with(ChatFormat format, void (*change)(ChatFormat&)) {
  change(format);
  return format;
}

}  // namespace

const std::vector<ChatFormat>& chat_formats() {
  constexpr std::string_view think = "</think>";
  static const std::vector<ChatFormat> formats = {
      qwen3(),
      chatml("Qwen2.5", {"<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
             {think}, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
      chatml("Qwen2", {chatml_turn, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"}, {think},
             "You are a helpful assistant."),
      chatml("Qwen1.5", {chatml_turn, "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"}, {think},
             "You are a helpful assistant"),
      chatml("SmolLM2",
             {chatml_turn,
              "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"},
             {think}, "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
      chatml("ChatML", {chatml_turn}, {think, "<|im_start|>system", "system_message", "!='system'", "|trim"}),
      chatml("ChatML", {"'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>\n'"},
             {think, "<|im_start|>system", "system_message", "!='system'", "|trim"}),
      llama31(),
      llama3("Llama-3", {llama3_turn}, {"Cutting Knowledge Date", "tools"}),
      {.name = "Llama-2",
       .has = {"bos_token+'[INST] '+content.strip()+' [/INST]'", "'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'",
               "' '+content.strip()+' '+eos_token"},
       .lacks = {"true==true"},
       .system = System::InFirstUser,
       .system_begin = "<<SYS>>\n",
       .system_end = "\n<</SYS>>\n\n",
       .user_begin = "{bos}[INST] ",
       .user_end = " [/INST]",
       .reply_lead = " ",
       .reply_end = " {eos}",
       .trims_user = true,
       .trims_reply = true},
      with(
          mistral("Mistral-v1",
                  {"' [INST] '+system_message+'\n\n'+message.content+' [/INST]'", "' '+message.content+eos_token"}, {}),
          [](ChatFormat& f) {
            f.system = System::InFirstUser;
            f.user_begin = " [INST] ";
            f.reply_lead = " ";
          }),
      with(mistral("Mistral-7B-v0.1", {"'[INST] '+message.content+' [/INST]'", "message.content+eos_token+' '"},
                   {"<<SYS>>"}),
           [](ChatFormat& f) {
             f.system = System::Refused;
             f.reply_after = " ";
           }),
      with(mistral("Mistral-7B-v0.2", {"'[INST] '+message.content+' [/INST]'", "message.content+eos_token"},
                   {"<<SYS>>", "system_message"}),
           [](ChatFormat& f) { f.system = System::Refused; }),
      with(mistral("Mistral-v3",
                   {"'[INST] '+message.content+'[/INST]'", "' '+message.content|trim+eos_token",
                    "'[INST] '+system_message+'\n\n'+message.content+'[/INST]'"},
                   {"[SYSTEM_PROMPT]"}),
           [](ChatFormat& f) {
             f.system = System::InLastUser;
             f.user_end = "[/INST]";
             f.reply_lead = " ";
             f.trims_reply = true;
           }),
      with(mistral("Mistral-v3-tekken",
                   {"'[INST]'+message.content+'[/INST]'", "message.content+eos_token",
                    "'[INST]'+system_message+'\n\n'+message.content+'[/INST]'"},
                   {"[SYSTEM_PROMPT]"}),
           [](ChatFormat& f) {
             f.system = System::InLastUser;
             f.user_begin = "[INST]";
             f.user_end = "[/INST]";
           }),
      with(mistral("Mistral-v7",
                   {"'[INST] '+message.content+'[/INST]'", "'[SYSTEM_PROMPT] '+message.content+'[/SYSTEM_PROMPT]'",
                    "' '+message.content+eos_token"},
                   {"default_system"}),
           [](ChatFormat& f) {
             f.system = System::Turn;
             f.system_begin = "[SYSTEM_PROMPT] ";
             f.system_end = "[/SYSTEM_PROMPT]";
             f.user_end = "[/INST]";
             f.reply_lead = " ";
             f.alternates = false;
           }),
      with(phi3("Phi-3.5",
                {"message.role=='system'andmessage.content", "'<|system|>\n'+message.content+'<|end|>\n'",
                 "'<|user|>\n'+message.content+'<|end|>\n'", "'<|assistant|>\n'+message.content+'<|end|>\n'",
                 "{%else%}{{eos_token}}"},
                {}),
           [](ChatFormat& f) {
             f.system = System::Turn;
             f.skips_empty_system = true;
             f.text_end = "{eos}";
           }),
      with(phi3("Phi-3",
                {"'<|user|>'+'\n'+message.content+'<|end|>'+'\n'+'<|assistant|>'+'\n'",
                 "message.content+'<|end|>'+'\n'"},
                {"<|system|>"}),
           [](ChatFormat& f) {
             f.user_end = "<|end|>\n<|assistant|>\n";
             f.reply_begin = {};
           }),
      with(
          phi3("Phi-3-small", {"'<|'+message.role+'|>'+'\n'+message.content+'<|end|>\n'", "{%else%}{{eos_token}}"}, {}),
          [](ChatFormat& f) {
            f.system = System::Turn;
            f.text_end = "{eos}";
          }),
      with(gemma("Gemma-3", {"first_user_prefix=messages[0].content+'\n\n'", "'<start_of_turn>'+role+'\n'+"}, {}),
           [](ChatFormat& f) { f.system = System::InFirstUser; }),
      gemma("Gemma",
            {"'<start_of_turn>'+role+'\n'+message.content|trim+'<end_of_turn>\n'", "System role not supported"}, {}),
      {.name = "DeepSeek-V2",
       .has = {"'User: '+message.content+'\n\n'", "'Assistant: '+message.content+eos_token", "message.content+'\n\n'"},
       .system = System::Turn,
       .system_end = "\n\n",
       .user_begin = "User: ",
       .user_end = "\n\n",
       .reply_begin = "Assistant:",
       .reply_lead = " ",
       .reply_end = "{eos}",
       .alternates = false},
      with(deepseek3("DeepSeek-R1",
                     {"'<｜User｜>'+message.content", "'<｜Assistant｜>'+content+'<｜end▁of▁sentence｜>'",
                      "'<｜Assistant｜><think>\n'"},
                     {"thinking"}),
           [](ChatFormat& f) {
             f.prompt_begin = "<｜Assistant｜><think>\n";
             f.drops_thoughts = true;
           }),
      with(deepseek3("DeepSeek-R1",
                     {"'<｜User｜>'+message.content", "'<｜Assistant｜>'+content+'<｜end▁of▁sentence｜>'"},
                     {"thinking"}),
           [](ChatFormat& f) { f.drops_thoughts = true; }),
      deepseek3("DeepSeek-V3",
                {"'<｜User｜>'+message.content", "'<｜Assistant｜>'+message.content+'<｜end▁of▁sentence｜>'"},
                {"thinking", think}),
      gpt_oss(),
  };
  return formats;
}

std::string chat_template_of(const nlohmann::json& chat_template) {
  if (chat_template.is_string()) return chat_template.get<std::string>();
  if (!chat_template.is_array()) return "";
  std::string only;
  for (const auto& entry : chat_template) {
    if (!entry.is_object() || !entry.contains("template") || !entry["template"].is_string()) continue;
    if (entry.value("name", nlohmann::json()) == "default") return entry["template"].get<std::string>();
    if (chat_template.size() == 1) only = entry["template"].get<std::string>();
  }
  return only;
}

std::string squeezed_template(std::string_view jinja) {
  std::string result;
  char quote = 0;           // of the string around
  bool is_in_code = false;  // {{ }} or {% %}
  for (std::size_t at = 0; at < jinja.size(); ++at) {
    const std::string_view rest = jinja.substr(at);
    if (quote != 0) {
      if (rest.starts_with("\\n") || rest.starts_with("\\'") || rest.starts_with("\\\"")) {
        result += rest[1] == 'n' ? '\n' : rest[1];
        ++at;
      } else if (rest.front() == quote) {
        result += '\'';
        quote = 0;
      } else {
        result += rest.front();
      }
      continue;
    }
    if (rest.starts_with("{#")) {
      const std::size_t end = jinja.find("#}", at);
      if (end == std::string_view::npos) break;
      at = end + 1;
      continue;
    }
    const bool opens = rest.starts_with("{{") || rest.starts_with("{%");
    const bool closes = is_in_code && (rest.starts_with("}}") || rest.starts_with("%}"));
    if (!is_in_code && opens) {
      is_in_code = true;
      result += rest.substr(0, 2);
      at += rest.substr(2).starts_with('-') || rest.substr(2).starts_with('+') ? 2 : 1;
    } else if (closes) {
      is_in_code = false;
      if (result.ends_with('-')) result.pop_back();
      result += rest.substr(0, 2);
      ++at;
    } else if (is_in_code && (rest.front() == '\'' || rest.front() == '"')) {
      quote = rest.front();
      result += '\'';
    } else if (!(rest.front() == ' ' || (rest.front() >= '\t' && rest.front() <= '\r'))) {
      result += rest.front();
    }
  }
  const auto replace_all = [&](std::string_view from, std::string_view to) {
    for (std::size_t at = result.find(from); at != std::string::npos; at = result.find(from, at + to.size()))
      result.replace(at, from.size(), to);
  };
  for (const char* field : {"role", "content"}) replace_all(fmt::format("['{}']", field), fmt::format(".{}", field));
  return result;
}

const ChatFormat* find_chat_format(std::string_view jinja) {
  const std::string text = squeezed_template(jinja);
  const auto is_in = [&](std::string_view part) { return text.find(part) != std::string::npos; };
  const auto found = std::find_if(chat_formats().begin(), chat_formats().end(), [&](const ChatFormat& format) {
    return std::all_of(format.has.begin(), format.has.end(), is_in) &&
           std::none_of(format.lacks.begin(), format.lacks.end(), is_in);
  });
  return found == chat_formats().end() ? nullptr : &*found;
}

}  // namespace limbeck::data
