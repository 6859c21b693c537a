#!/usr/bin/env bash
# Feeds the readers of foreign files with what libFuzzer makes of small good ones, under the address and undefined behaviour
# sanitizers, as many readers at once as there are cores. An input that breaks one is kept in build/asan/crashes.
#
#     tests/fuzz.sh 20               # seconds a reader
#     tests/fuzz.sh 600 gguf         # one of tests/fuzz/*_fuzz.cpp
#     build/asan/bin/gguf_fuzz build/asan/crashes/gguf-...      # once more, to see what happens
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
seconds=${1:?seconds a reader}
shift
readers=("$@")
if [[ ${#readers[@]} -eq 0 ]]; then
  for source in tests/fuzz/*_fuzz.cpp; do readers+=("$(basename "$source" _fuzz.cpp)"); done
fi
launch/install.sh --clang
launch/build.sh asan "${readers[@]/%/_fuzz}"

golden=tests/golden
crashes=build/asan/crashes
mkdir -p "$crashes"

# seeds READER FOLDER: good inputs to start from.
seeds() {
  case $1 in
    config) cp examples/*.textproto "$2" ;;
    gguf) find "$golden/gguf" -name '*.gguf' -size -64k -exec cp {} "$2" \; ;;
    chat_lines) gunzip -c "$golden"/chat/chat.jsonl.gz | head -n 1 | python3 -c '
import json, sys
for chat in json.load(sys.stdin)["conversations"]:
    messages = [{"role": role, "content": content} for role, content in chat]
    print(json.dumps({"messages": messages}))
    print(json.dumps({"chosen": messages, "rejected": messages[:-1] + [{"role": "assistant", "content": "b"}]}))
print(json.dumps({"prompt": "a", "chosen": "b", "rejected": "ab"}))' | split -l 1 - "$2/" ;;
    safetensors) for file in "$golden"/{families,quantised,gpt_oss_mxfp4,fp8}/*/model.safetensors; do head -c 60000 "$file" >"$2/$(basename "$(dirname "$file")")"; done ;;
    model_config) for file in "$golden"/families/*/config*.json; do cp "$file" "$2/$(basename "$(dirname "$file")")-$(basename "$file")"; done ;;
    task_file) for file in "$golden"/evaluation/tasks/*_dev.jsonl; do
      for kind in 0 1 2 3 4; do { printf "\\x0$kind" && head -n 1 "$file"; } >"$2/$(basename "$file")-$kind"; done
    done ;;
    hdf5_index) ;;  # makes its own, by the writer
    tokenizer_json) gunzip -c "$golden"/tokenizer_json/seeds.jsonl.gz | split -l 1 - "$2/" ;;
    token_index)
      local index size
      for index in "$golden"/token_file/*.idx; do
        size=$(stat -c %s "$index")
        { printf "\\x$(printf %02x $((size % 256)))\\x$(printf %02x $((size / 256)))" && cat "$index" "${index%.idx}.bin"; } \
          >"$2/$(basename "$index")"
      done
      ;;
  esac
}

run() {
  local reader=$1 folder=build/asan/corpus/$1 log=build/asan/$1.log
  mkdir -p "$folder"
  seeds "$reader" "$folder"
  if "build/asan/bin/${reader}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -artifact_prefix="$crashes/$reader-" "$folder" >"$log" 2>&1 </dev/null; then
    echo "$reader: $(grep -a '^Done' "$log")"
  else
    tail -n 40 "$log" >&2
    echo "tests/fuzz.sh: error: $reader failed (whole log: $log)" >&2
    return 1
  fi
}
export TMPDIR=/dev/shm  # some write their inputs as files
export -f run seeds
export seconds golden crashes
printf '%s\n' "${readers[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run {}'
