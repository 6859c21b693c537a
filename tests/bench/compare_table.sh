# shellcheck shell=bash
# Part of compare.sh: figures, ratios, targets and lines of the table.

# figure KEY: the median of the rounds; nothing where there are none.
figure() {
  [[ -n ${figures[$1]-} ]] || return 0
  tr ' ' '\n' <<<"${figures[$1]# }" | median
}
# ratio A B: A / B; nothing where one is missing.
ratio() { [[ -z ${1-} || -z ${2-} ]] || awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2fx", a / b }'; }
scaled() { [[ -z ${1-} ]] || awk -v a="$1" -v b="$2" -v f="$3" 'BEGIN { printf f, a / b }'; }
most() { printf '%s\n' "$@" | { grep . || true; } | sort -g | tail -n 1; }
least() { printf '%s\n' "$@" | { grep . || true; } | sort -g | head -n 1; }

# The processor's instructions that matter here.
flags() {
  grep -m 1 '^flags' /proc/cpuinfo | tr ' ' '\n' | grep -xE 'avx2|avx512f|avx512_bf16|amx_bf16|amx_int8' | tr '\n' ' ' | sed 's/ $//'
}
has_flag() { [[ " $(flags) " == *" $1 "* ]]; }
machine() {
  echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p), $(nproc) cores, $(flags)," \
    "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
}

# goal WHAT VALUE '>='|'<=' BOUND: a line of the column of targets, met or missed; nothing where there is no VALUE.
goal() {
  [[ -n ${2-} ]] || return 0
  awk -v what="$1" -v value="${2%x}" -v sign="$3" -v bound="$4" \
    'BEGIN { print what, (sign == ">=" ? "≥" : "≤"), bound ": " ((sign == ">=" ? value >= bound + 0 : value <= bound + 0) ? "met" : "**missed**") }'
}
# Of amx_bf16 processors alone, or of those with avx512_bf16 alone.
goal_on_amx() { ! has_flag amx_bf16 || goal "$@"; }
goal_below_amx() { has_flag amx_bf16 || ! has_flag avx512_bf16 || goal "$@"; }

cells() { printf '| %s ' "$@"; echo '|'; }
heading() {
  cells "" "Limbeck float32" "Limbeck bf16" "PyTorch float32" "PyTorch bf16 autocast" "PyTorch bf16 throughout" \
    "float32 / float32" "bf16 / PyTorch's best" "bf16 / own float32" "target"
  cells --- --- --- --- --- --- --- --- --- ---
}
joined() { awk 'NR > 1 { printf "; " } { printf "%s", $0 }'; }
# plain NAME FLOAT32 BF16: a line without a peer; its goals come by standard input.
plain() { cells "$1" "$2" "$3" "" "" "" "" "" "" "$(joined)"; }

# line NAME FIGURE BEST UNIT FORMAT KEY GOALS: a line of the table of `FIGURE`; BEST says which of the peer's is best; GOALS is a
# function of the three ratios that prints goals.
line() {
  local name=$1 what=$2 best=$3 unit=$4 format=$5 key=$6 goals=$7 f b t a w
  f=$(figure "$key float32 $what") b=$(figure "$key bf16 $what")
  t=$(figure "$key torch-float32 $what") a=$(figure "$key torch-autocast $what") w=$(figure "$key torch-bfloat16 $what")
  local ratios=("$(ratio "$f" "$t")" "$(ratio "$b" "$("$best" "$t" "$a" "$w")")" "$(ratio "$b" "$f")")
  cells "$name" "$(scaled "$f" "$unit" "$format")" "$(scaled "$b" "$unit" "$format")" "$(scaled "$t" "$unit" "$format")" \
    "$(scaled "$a" "$unit" "$format")" "$(scaled "$w" "$unit" "$format")" "${ratios[@]}" "$("$goals" "${ratios[@]}" | joined)"
}
