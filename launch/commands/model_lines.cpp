// The options of the commands that work on models and text, beside those of runs (command_line.cpp).

#include "data/tokenizers/pretokenizer.h"
#include "launch/commands/command_options.h"

namespace limbeck::launch {

namespace {

constexpr const char* models = "Limbeck checkpoint or run directory, Hugging Face directory, or GGUF file";

/// How text is read. --parse-special is of no use without `of`.
template <class Options>
void add_text_format(CLI::App& app, Options& options, CLI::Option* of) {
  app.add_option("--format", options.format,
                 "text: a file a document; jsonl, chat, pairs: a line (docs/data.md); auto: by the name")
      ->check(CLI::IsMember({"auto", "text", "jsonl", "chat", "pairs"}))
      ->capture_default_str();
  app.add_option("--field", options.field, "Where JSON lines have their text: a name, or names joined by dots")
      ->capture_default_str();
  app.add_flag("--parse-special", options.parse_special,
               "Names of special tokens in the text, as a chat template writes them, become those tokens")
      ->needs(of);
}

}  // namespace

void CommandLine::eval(std::function<int(const EvalOptions&)> run) {
  CLI::App& app =
      command("eval", "Measure a model on its run's held-out text, on any other, or on benchmarks, or write its logits",
              "limbeck eval runs/distill_smollm2\n"
              "  mpirun --bind-to none -n 2 limbeck eval student.gguf --text book.txt --teacher teacher.gguf\n"
              "  limbeck eval student.gguf --task arc:arc.jsonl --task mmlu:test.jsonl,shots=5,examples=dev.jsonl\n"
              "With --text each document is measured whole (docs/runs.md). Of tasks: docs/evaluation.md.");
  const auto options = bind<EvalOptions>(app, std::move(run));
  app.add_option("MODEL", options->model, "Config, checkpoint, run or Hugging Face directory, or GGUF file")
      ->required();
  app.add_option("MORE", options->more, "Configs, each laid over that of MODEL and those before it")->type_name("");
  add_config_options(app, options->sets);
  CLI::Option* text =
      app.add_option("--text", options->text, "Text and JSON-lines files and folders; gzip and zstd too")
          ->type_name("PATH");
  CLI::Option* tokens =
      app.add_option("--tokens", options->tokens, "Token file, or text of integers, instead")->type_name("FILE");
  app.add_option("--teacher", options->teacher, "Also KL to this model, top-1 agreement and sum min(p,q)")
      ->type_name("MODEL");
  app.add_option("--against", options->against, "Also by how much this model differs, with intervals")
      ->type_name("MODEL");
  app.add_option("--task", options->tasks, "Questions: mmlu, hellaswag, arc, lambada or gsm8k; see below")
      ->type_size(1)
      ->allow_extra_args(false)
      ->type_name("KIND:FILE");
  app.add_option("--max-tokens", options->max_tokens, "Most tokens of an answer that is generated; otherwise 256")
      ->transform(number<std::int64_t>(at_least(1)))
      ->type_name("N");
  app.add_option("--window", options->window, "Tokens read at once; else the run's sequence length, or up to 1024")
      ->transform(number<std::int64_t>(at_least(1)))
      ->type_name("N");
  app.add_option("--stride", options->stride, "Tokens from one window to the next; otherwise half a window")
      ->transform(number<std::int64_t>(at_least(1)))
      ->type_name("N");
  add_text_format(app, *options, text);
  app.add_option("--tokenizer", options->tokenizer, "Instead of the model's own: bytes, its file or folder, or a model")
      ->type_name("MODEL|bytes");
  app.add_flag("--json", options->json, "Print one JSON object, with all documents");
  app.add_option("--threads", options->threads, "0: the cores this process may use")
      ->transform(number<int>(between(0, 4096)))
      ->capture_default_str();
  CLI::Option* logits = app.add_option("--logits", options->logits, "Write /tokens [T] and /logits [T,V]")
                            ->check(in_a_folder())
                            ->type_name("OUT.h5");
  app.add_flag("--force", options->force, "Replace OUT.h5 where it is there")->needs(logits);
  logits->needs(tokens);
}

void CommandLine::generate(std::function<int(const GenerateOptions&)> run) {
  CLI::App& app = command("generate", "Continue prompts",
                          "limbeck generate runs/distill_smollm2 --prompt \"The idea of freedom\"\n"
                          "  limbeck generate student.gguf --prompt - <letter.txt --quiet\n"
                          "  limbeck generate student.gguf --prompts questions.jsonl --json --quiet >answers.jsonl\n"
                          "  limbeck generate student.gguf --chat --prompt \"What is a still?\"\n"
                          "  limbeck generate teacher.gguf --draft runs/distill_smollm2 --prompt \"The idea\"");
  const auto options = bind<GenerateOptions>(app, std::move(run));
  app.add_option("CHECKPOINT", options->model, models)->required();
  auto* prompt = app.add_option("--prompt", options->prompt, "Text to continue; - is all of standard input");
  auto* prompts =
      app.add_option("--prompts", options->prompts, "A prompt a line, or JSON lines (.jsonl); - is standard input")
          ->excludes(prompt)
          ->type_name("FILE");
  app.add_option("--field", options->field,
                 "Where JSON lines have their prompt; otherwise \"prompt\", with --chat \"messages\"")
      ->needs(prompts)
      ->type_name("NAME");
  auto* chat = app.add_flag("--chat", options->chat, "Prompts are a user's words, or conversations; the model replies");
  app.add_option("--system", options->system, "The system message of each conversation")
      ->needs(chat)
      ->type_name("TEXT");
  app.add_option("--batch", options->batch, "Most prompts that advance together")
      ->transform(number<std::int64_t>(between(1, 1024)))
      ->capture_default_str();
  app.add_option("--threads", options->threads, "Of each rank; 0: the cores this process may use")
      ->transform(number<int>(between(0, 4096)))
      ->capture_default_str();
  app.add_flag("--json", options->json, "An object a prompt and line: text, tokens, finish_reason, seconds");
  app.add_option("--max-tokens", options->max_tokens, "Most tokens to add; otherwise 64, or as many as fit")
      ->transform(number<std::int64_t>(at_least(0)))
      ->type_name("N");
  app.add_option("--temperature", options->temperature, "0: always the likeliest token")
      ->transform(number<double>(at_least(0)))
      ->capture_default_str();
  app.add_option("--top-k", options->top_k, "Sample among the k likeliest; 0: all")
      ->transform(number<std::int64_t>(at_least(0)))
      ->capture_default_str();
  app.add_option("--top-p", options->top_p, "Sample among the likeliest with this probability in sum")
      ->transform(number<double>(above_to(0, 1)))
      ->capture_default_str();
  app.add_option("--seed", options->seed, "Of the sampling")
      ->transform(number<std::uint64_t>(at_least(0)))
      ->capture_default_str();
  auto* speculative =
      app.add_flag("--speculative", options->speculative, "Layers that predict further tokens draft the text");
  auto* draft = app.add_option("--draft", options->draft,
                               "A smaller model that drafts: at temperature 0 the same text, else the same "
                               "distribution")
                    ->excludes(speculative)
                    ->type_name("MODEL");
  app.add_option("--draft-tokens", options->draft_tokens, "Most drafts of a text before a pass")
      ->transform(number<std::int64_t>(between(1, 64)))
      ->needs(draft)
      ->capture_default_str();
  app.add_option("--cluster", options->cluster, "Power and prices, for what a token takes")->type_name("FILE");
  app.parse_complete_callback([=] {
    if (!*prompt && !*prompts) throw CLI::RequiredError("--prompt or --prompts");
  });
}

void CommandLine::convert(std::function<int(const ConvertOptions&)> run) {
  CLI::App& app = command("convert", "Write a model in another format",
                          "limbeck convert runs/distill_smollm2 student_hf --dtype bfloat16\n"
                          "  limbeck convert runs/distill_smollm2 student.gguf --dtype Q4_K_M\n"
                          "  limbeck convert TEACHER.gguf started --init examples/distill_smollm2.textproto\n"
                          "A conversion that was interrupted goes on when the same command is given again.");
  const auto options = bind<ConvertOptions>(app, std::move(run));
  app.add_option("SRC", options->source, models)->required();
  app.add_option("DST", options->destination,
                 "GGUF file to write if it ends in .gguf, else Hugging Face directory, without a model yet")
      ->required();
  app.add_option("--dtype", options->dtype,
                 "Of the written weights; float32 or bfloat16 in a directory, or MXFP4 of gpt-oss")
      ->transform(CLI::IsMember(std::vector<std::string>{"float32", "float16", "bfloat16", "Q8_0", "Q6_K", "Q5_K_M",
                                                         "Q4_K_M", "Q4_0", "MXFP4"},
                                CLI::ignore_case))
      ->capture_default_str();
  app.add_flag(
      "--adapter", options->adapter,
      "Write the adapters of a run alone into the folder DST, as PyPI's peft has them, not merged with their model");
  app.add_flag("--force", options->force, "Replace DST where it is a file, or a model that convert wrote in a folder");
  app.add_flag(
         "--verify,!--no-verify", options->verify,
         "Read DST back before it gets its name, and hold its values and the logits of a few tokens against SRC's")
      ->default_str("on");
  app.add_option("--threads", options->threads, "0: the cores this process may use")
      ->transform(number<int>(between(0, 4096)))
      ->capture_default_str();
  CLI::Option* init =
      app.add_option("--init", options->init,
                     "Write the student that this config's student_init cuts from SRC, its teacher, and "
                     "say how far from it that is; alone or under mpirun")
          ->type_size(1)
          ->allow_extra_args(false)
          ->type_name("CONFIG");
  app.add_option("--set", options->sets, "Set a field of the config of --init: section.field=value")
      ->type_size(1)
      ->allow_extra_args(false)
      ->needs(init)
      ->type_name("A.B=VALUE");
}

void CommandLine::inspect(std::function<int(const InspectOptions&)> run) {
  CLI::App& app = command(
      "inspect", "Show what a file or folder holds: a model and whether it can be read, a run, tokens, a tokenizer",
      "limbeck inspect downloads/SmolLM2-135M-Instruct.Q4_1.gguf\n"
      "  limbeck inspect runs/distill_smollm2 --json\n"
      "  limbeck inspect tokens/mine --tokenizer bytes");
  const auto options = bind<InspectOptions>(app, std::move(run));
  app.add_option("FILE", options->file, std::string(models) + ", token file, tokenizer or .h5 file")->required();
  app.add_option("--tokenizer", options->tokenizer, "Of a token file: spells its frequent tokens")
      ->type_name("MODEL|bytes");
  app.add_flag("--json", options->json, "Print one JSON object");
}

void CommandLine::tokenize(std::function<int(const TokenizeOptions&)> run) {
  CLI::App& app = command("tokenize", "Turn text into a token file, or train a tokenizer on it",
                          "limbeck tokenize book.txt articles/ --tokenizer bytes --out tokens/mine\n"
                          "  limbeck tokenize web/*.jsonl.zst --field content --tokenizer FILE.gguf --out tokens/web\n"
                          "  limbeck tokenize book.txt articles/ --train --vocab 8192 --out my_tokenizer\n"
                          "A tokenizing that was interrupted goes on when the same command is given again.");
  const auto options = bind<TokenizeOptions>(app, std::move(run));
  app.add_option("PATH", options->paths, "Text and JSON-lines files and folders; gzip and zstd too")->required();
  auto* tokenizer =
      app.add_option("--tokenizer", options->tokenizer,
                     "\"bytes\", a tokenizer.json or its folder, a SentencePiece NAME.model, or a model with a "
                     "tokenizer")
          ->type_name("MODEL|bytes");
  app.add_option("--out", options->out,
                 "PREFIX of the PREFIX.bin and PREFIX.idx to write; with --train the folder of tokenizer.json")
      ->required()
      ->type_name("PREFIX");
  add_text_format(app, *options, tokenizer);
  app.add_flag("--force", options->force, "Replace what is at --out");
  app.add_option("--threads", options->threads, "0: the cores this process may use")
      ->transform(number<int>(between(0, 4096)))
      ->capture_default_str();
  auto* train = app.add_flag("--train", options->train, "Train a byte-level BPE on the text")->excludes(tokenizer);
  auto* vocabulary = app.add_option("--vocab", options->vocabulary,
                                    "Tokens of the trained tokenizer, special ones and 256 bytes included")
                         ->needs(train)
                         ->transform(number<std::int64_t>(between(257, 1 << 24)));
  app.add_option("--pretokenizer", options->pretokenizer, "How it cuts text into words: as that family")
      ->needs(train)
      ->check(CLI::IsMember(data::pretokenizer_names()))
      ->capture_default_str();
  app.add_option("--special", options->special, "Its special tokens; the first ends documents")
      ->needs(train)
      ->type_size(1)
      ->allow_extra_args(false)
      ->type_name("NAME")
      ->capture_default_str();
  app.parse_complete_callback([=] {
    if (*train && !*vocabulary) throw CLI::RequiredError("--vocab");
    if (!*train && !*tokenizer) throw CLI::RequiredError("--tokenizer or --train");
  });
}

}  // namespace limbeck::launch
