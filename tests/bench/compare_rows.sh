# shellcheck shell=bash
# Part of compare.sh: a row is a function `row_X`, which measures all its rounds and prints its lines.

model_a=(train tests/bench/model_a.textproto)
bf16=(--set precision.compute=BFLOAT16)

# in_rounds ROW MOST COMMAND... : as many rounds as are wanted, MOST at most; `round` counts them.
in_rounds() {
  local row=$1 count=$(($2 < rounds ? $2 : rounds)) round
  shift 2
  for ((round = 1; round <= count; ++round)); do
    echo "compare.sh: row $row, round $round of $count" >&2
    "$@"
  done
}

# --- Beside PyTorch: A, B, C, D, and E, their memory -----------------------------------------------------------------

share_line() { # ROW [LEAST]: LEAST of float32's
  local share
  share=$(figure "$1 float32 share")
  plain "$1: share of the measured peak" "$(scaled "$share" 0.01 '%.0f %%')" "$(scaled "$(figure "$1 bf16 share")" 0.01 '%.0f %%')" \
    < <([[ -z ${2-} ]] || goal "float32" "$share" '>=' "$2")
}
memory_line() { line "E. peak memory of $1, GiB" memory least 1073741824 %.2f "$1" goals_of_memory; }
goals_of_memory() {
  goal float32 "$1" '<=' 0.6
  goal bf16 "$2" '<=' 0.5
}

steps_beside_peer() { # ROW MODEL
  ours "$1 float32" "$limbeck" train "$2" --threads "$threads"
  ours "$1 bf16" "$limbeck" train "$2" --threads "$threads" "${bf16[@]}"
  theirs "$1" tests/bench/torch_step.py "$2"
}
goals_of_steps() {
  goal float32 "$1" '>=' 1.3
  goal_on_amx "bf16 / PyTorch's" "$2" '>=' 2
  goal_on_amx "bf16 / own float32" "$3" '>=' 2.2
  goal_below_amx "bf16 / PyTorch's" "$2" '>=' 1.2
}

row_A() {
  in_rounds A 5 steps_beside_peer A tests/bench/model_a.textproto
  line "A. mixture of experts, 8 of 1024, top 2, tokens/s" speed most 1 %.0f A goals_of_steps
  share_line A 0.6
  memory_line A
}

row_B() {
  in_rounds B 5 steps_beside_peer B tests/bench/model_b.textproto
  line "B. dense, 124M, tokens/s" speed most 1 %.0f B goals_of_steps
  share_line B
  memory_line B
  if [[ -z $llm_c ]]; then
    echo "compare.sh: row B: llm.c is left out (--llm-c names a checkout)" >&2
    return 0
  fi
  rm -rf "$work/llm.c" && mkdir "$work/llm.c"
  "$python" tests/bench/llm_c_files.py "$work/llm.c" >"$work/log" 2>&1 || fails llm_c_files.py "$work/log"
  # As its Makefile does.
  "${CC:-gcc}" -Ofast -march=native -fopenmp -DOMP -I "$llm_c" "$llm_c/train_gpt2.c" -lm -o "$work/llm.c/train_gpt2" \
    >"$work/log" 2>&1 || fails "the compilation of llm.c" "$work/log"
  in_rounds "B, llm.c" 2 llm_c_run
  local speed times
  speed=$(figure "B llm.c speed")
  times=$(ratio "$(figure "B float32 speed")" "$speed")
  plain "B: float32 / llm.c ($(scaled "$speed" 1 %.0f) tokens/s)" "$times" "" < <(goal float32 "$times" '>=' 4)
}
# 4 x 64 tokens a step, as in row B. Its number of steps is no option: it is ended by its next line.
llm_c_run() {
  (cd "$work/llm.c" && OMP_NUM_THREADS=$threads stdbuf -oL ./train_gpt2 2>&1 | sed "/^step $((warm_up + steps - 1)):/q" >"$work/log") || true
  local milliseconds
  milliseconds=$(sed -n 's/^step [0-9]*: .*took \([.0-9]*\) ms.*/\1/p' "$work/log" | tail -n +$((warm_up + 1)) | median)
  [[ -n $milliseconds ]] || fails "llm.c's train_gpt2" "$work/log"
  note "B llm.c speed" "$(scaled 256000 "$milliseconds" %.4g)"
}

row_C() {
  in_rounds C 3 teacher_beside_peer
  line "C. teacher's forward to probabilities, 8 x 512, tokens/s" speed most 1 %.0f C goals_of_teacher
  share_line C 0.65
}
teacher_beside_peer() {
  local peer_command=(env "${peer_environment[@]}" "$python" tests/bench/torch_distill.py teacher --steps 2 --warm-up 1
    --threads "$threads")
  fields "C float32" "$bin/bench_teacher" "$teacher" "$threads" float32 2
  [[ -z $peer ]] || fields "C torch-float32" "${peer_command[@]}" --precision float32
  fields "C bf16" "$bin/bench_teacher" "$teacher" "$threads" bf16 2
  [[ -z $peer ]] || fields "C torch-bfloat16" "${peer_command[@]}" --precision bfloat16
}
goals_of_teacher() {
  goal float32 "$1" '>=' 1.3
  goal "bf16 / bf16" "$(ratio "$(figure "C bf16 speed")" "$(figure "C torch-bfloat16 speed")")" '>=' 1.3
}

row_D() {
  in_rounds D 3 main_job_beside_peer
  line "D. the main job's models at 512 tokens (Limbeck: 2 ranks of a thread; PyTorch: 2 threads), tokens/s" speed most 1 %.0f D goals_of_main_job
  memory_line D
}
main_job_beside_peer() {
  main_job "D float32"
  main_job "D bf16" "${bf16[@]}"
  # Its bfloat16 steps took up to 25 s.
  steps=2 warm_up=1 theirs D tests/bench/torch_distill.py step
}
main_job() { # KEY OPTION...
  local key=$1
  shift
  local command=(mpirun --oversubscribe --bind-to none -n 2 "$limbeck" distill examples/distill_smollm2.textproto --threads 1
    --set "teacher.source=$teacher" --set "data.cache_dir=$work/cache" --set train.checkpoint_every_steps=0
    --set train.eval_tokens=512 --set generation.max_tokens=1
    --set parallel.layout=ep2 --set batch.sequences_per_step=2 --set objective.cross_entropy_weight=0.1 "$@") # 512 tokens a step, as the peer has
  timed "$key" "${command[@]}"
  # What a rank says of its memory has pages in it that both ranks share. To look takes time: in a run of its own.
  unset "figures[$key memory]"
  [[ $round -eq 1 ]] || { note "$key memory" "${watched[$key]}"; return 0; }
  "${command[@]}" --set train.steps=3 --out "$work/watched" >"$work/log" 2>&1 </dev/null &
  local run=$!
  watched[$key]=$(most_memory "$run")
  note "$key memory" "${watched[$key]}"
  wait "$run" || fails "${command[*]}" "$work/log"
  rm -rf "$work/watched"
}
declare -A watched # bytes by key
goals_of_main_job() {
  goal float32 "$1" '>=' 1.8
  goal_on_amx "bf16 / PyTorch's" "$2" '>=' 3
  goal_on_amx "bf16 / own float32" "$3" '>=' 2
}

# --- Beside itself: F, G, H, I ---------------------------------------------------------------------------------------

# against ROW NAME MOST BOUND FIRST SECOND: the step time of the command in the array SECOND over that of FIRST, in both
# precisions, of MOST rounds at most; BOUND is the most that it shall be.
against() {
  local row=$1 name=$2 bound=$4 precision ratios=() a b
  local -n first=$5 second=$6
  in_rounds "$row" "$3" both_in_turns
  for precision in float32 bf16; do
    a=$(figure "$row first-$precision speed") b=$(figure "$row second-$precision speed")
    ratios+=("$(ratio "$a" "$b")" "($(scaled "$b" 1 %.0f), $(scaled "$a" 1 %.0f) tokens/s)")
  done
  plain "$row. $name, step time" "${ratios[*]:0:2}" "${ratios[*]:2:2}" \
    < <(goal float32 "${ratios[0]}" '<=' "$bound"; goal bf16 "${ratios[2]}" '<=' "$bound")
}
both_in_turns() {
  ours "$row first-float32" "${first[@]}"
  ours "$row second-float32" "${second[@]}"
  ours "$row first-bf16" "${first[@]}" "${bf16[@]}"
  ours "$row second-bf16" "${second[@]}" "${bf16[@]}"
}

# The arrays are read by `against`, by name.
# shellcheck disable=SC2034
row_F() {
  local few=("$limbeck" "${model_a[@]}" --threads "$threads")
  local many=("${few[@]}" --set model.moe.num_experts=64 --set model.moe.experts_per_token=16 --set model.moe.expert_width=128)
  against F "64 experts of 128, top 16 / 8 of 1024, top 2" 5 1.25 few many
}

# 4096 tokens a step, as one sequence or as 16. What attention has more, 12 FLOPs a pair of tokens, head, layer and channel
# (forward 4, backward 8), is allowed at the rate of the shorter step.
# shellcheck disable=SC2034
row_G() {
  local steps=2 warm_up=1 more allowed
  read -r more allowed < <(awk 'BEGIN {
    weights = 8 * (2 * 512 * 512 + 2 * 512 * 256 + 2 * 3 * 512 * 1024 + 8 * 512) + 32000 * 512  # that a token meets
    pair = 12 * 512 * 8
    short = pair * 16 * 256 * 257 / 2
    more = pair * 4096 * 4097 / 2 - short
    printf "%.0f %.2f\n", more / 1e9, 1 + more / (6 * weights * 4096 + short)
  }')
  local short=("$limbeck" "${model_a[@]}" --threads "$threads" --set model.max_positions=4096 --set batch.sequences_per_step=16)
  local long=("${short[@]}" --set batch.sequences_per_step=1 --set data.sequence_length=4096)
  against G "1 x 4096 tokens, whose attention has $more GFLOP more, / 16 x 256" 3 "$allowed" short long
  local float32 half
  float32=$(ratio "$(figure "G second-float32 memory")" "$(figure "G first-float32 memory")")
  half=$(ratio "$(figure "G second-bf16 memory")" "$(figure "G first-bf16 memory")")
  plain "G: peak memory, the same" "$float32" "$half" < <(goal float32 "$float32" '<=' 1.1; goal bf16 "$half" '<=' 1.1)
}

# shellcheck disable=SC2034
row_I() {
  local one=("$limbeck" "${model_a[@]}" --threads 2)
  local two=(mpirun --oversubscribe --bind-to none -n 2 "$limbeck" "${model_a[@]}" --threads 1 --set parallel.layout=ep2)
  against I "two ranks of a thread, ep2 / one of two threads" 5 1.1 one two
}

# Trained at a rate of next to nothing, so that the routing stays what set_routing.py made it.
# shellcheck disable=SC2034
row_H() {
  make_text
  local text=(--set "data.text=$work/text" --set "data.tokenizer=$work/tokenizer" --set "data.cache_dir=$work/cache")
  "$limbeck" "${model_a[@]}" "${text[@]}" --set train.steps=1 --out "$work/start" >"$work/log" 2>&1 </dev/null ||
    fails "the start of row H" "$work/log"
  local routing
  for routing in even half; do
    "$limbeck" convert "$work/start" "$work/$routing" >"$work/log" 2>&1 || fails "convert of row H" "$work/log"
    "$python" tests/bench/set_routing.py "$work/$routing" "$routing" >"$work/log" 2>&1 || fails set_routing.py "$work/log"
  done
  rm -rf "$work/start"
  local even=("$limbeck" "${model_a[@]}" --threads "$threads" --set optimizer.rate=1e-9 --set model= --set "model.source=$work/even")
  local half=("${even[@]}" --set "model.source=$work/half")
  against H "half of all tokens at one expert / even" 3 1.15 even half
  echo "compare.sh: row H: greatest share of a layer's assignments (a quarter is half of all tokens), median of layers and steps:" \
    "$(figure "H first-float32 load"), $(figure "H second-float32 load")" >&2
  rm -rf "$work/even" "$work/half"
}

# --- Prefill and decode: J -------------------------------------------------------------------------------------------

llama_speed() {
  local run=(env "OMP_NUM_THREADS=$threads" "$llama" tests/bench/llama_speed.py "$teacher" --threads "$threads")
  "${run[@]}" 2>/dev/null || {
    echo "compare.sh: row J: llama.cpp fails with weights rearranged for this processor: they are taken as stored" >&3
    "${run[@]}" --as-stored
  }
}
row_J() {
  local bandwidth
  bandwidth=$("$bin/bench_bandwidth" "$threads" --benchmark_filter=none 2>/dev/null | sed -n 's/^ceiling: read, \([.0-9]*\) GB.*/\1/p')
  printf 'freedom%.0s ' {1..512} >"$work/prompt" # a token a word
  "$limbeck" convert "$teacher" "$work/float32" >"$work/log" 2>&1 || fails "convert of row J" "$work/log"
  in_rounds J 5 generated_in_turns
  local f q l
  f=$(figure "J float32 decode") q=$(figure "J kept decode") l=$(figure "J llama decode")
  # A token reads every weight once: 134.5 million of four bytes, or the file.
  local of_f of_q
  of_f=$(share_of_read "$f" 538060032) of_q=$(share_of_read "$q" "$(stat -L -c %s "$teacher")")
  plain "J. decode, float32, tokens/s (share of the $bandwidth GB/s that are read)" "$(scaled "$f" 1 %.1f) ($of_f)" "" \
    < <(goal share "$of_f" '>=' 0.8)
  plain "J. decode, Q4_1 kept, tokens/s (share); llama.cpp ${l:+$(scaled "$l" 1 %.1f)}" "$(scaled "$q" 1 %.1f) ($of_q)" "" \
    < <(goal "/ own float32" "$(ratio "$q" "$f")" '>=' 2; goal "/ llama.cpp" "$(ratio "$q" "$l")" '>=' 1)
  f=$(figure "J float32 prefill") q=$(figure "J kept prefill") l=$(figure "J llama prefill")
  plain "J. prefill of 512 tokens, float32 and Q4_1 kept, tokens/s; llama.cpp ${l:+$(scaled "$l" 1 %.0f)}" \
    "$(scaled "$f" 1 %.0f), $(scaled "$q" 1 %.0f)" "" < <(goal "/ llama.cpp" "$(ratio "$(most "$f" "$q")" "$l")" '>=' 1)
}
share_of_read() { # TOKENS_PER_S BYTES_A_TOKEN
  [[ -z $1 ]] || awk -v rate="$1" -v bytes="$2" -v read="$bandwidth" 'BEGIN { printf "%.2f", rate * bytes / read / 1e9 }'
}
generated_in_turns() {
  generated "J float32" "$work/float32"
  generated "J kept" "$teacher"
  [[ -z $llama ]] || fields "J llama" llama_speed
}
generated() { # KEY MODEL
  local key=$1 what
  "$limbeck" generate "$2" --prompt - --max-tokens 64 --temperature 0 --threads "$threads" <"$work/prompt" \
    >"$work/log" 2>&1 || fails "limbeck generate" "$work/log"
  for what in prefill decode; do
    note "$key $what" "$(grep -aoE "$what [0-9,]+ tokens? at [.0-9]+" "$work/log" | tail -n 1 | sed 's/.* at //')"
  done
}
