# shellcheck shell=bash
# Part of first_contact.sh: a distillation on the GPU beside the same one on the CPU, which goes on beside the first steps.

text=/usr/share/doc/anarchism/markdown
name_of_teacher=SmolLM2-135M-Instruct.Q4_1.gguf
sha256_of_teacher=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 # as launch/fetch_teacher.sh has it

# Sets teacher to the file, put together where it came in pieces; empty where it is not there.
find_teacher() {
  local pieces=()
  [[ -n $teacher || ! -f $root/downloads/$name_of_teacher ]] || teacher=$root/downloads/$name_of_teacher
  [[ -z $bundle ]] || pieces=("$(dirname "$bundle")"/teacher.[0-9][0-9])
  if [[ -z $teacher && -f ${pieces[0]-} ]]; then
    teacher=$work/$name_of_teacher
    cat "${pieces[@]}" >"$teacher"
  fi
  [[ -n $teacher ]] || return 0
  echo "$sha256_of_teacher  $teacher" | sha256sum --check --status - && return
  note_check "teacher" "**$teacher has another SHA-256**: a small teacher instead" 0
  teacher=""
}

# What both jobs have: one rank, bfloat16.
options() { # DEVICE THREADS
  local sets=("data.text=$text" "data.cache_dir=$work/cache" "train.device=$1" precision.compute=BFLOAT16 parallel.layout= train.checkpoint_every_steps=0)
  if $rehearse; then
    sets+=(data.sequence_length=64 batch.sequences_per_step=2 train.eval_tokens=128 generation.max_tokens=4)
  fi
  printf -- '--set\n%s\n' "${sets[@]}"
  printf -- '--threads\n%s\n' "$2"
}

# distill DEVICE THREADS: the command, into $work/DEVICE.
distill() {
  mapfile -t given < <(options "$1" "$2")
  if [[ -n $teacher ]]; then
    job=("${ours[@]}" "$bin/limbeck$emulated" distill examples/distill_smollm2.textproto --set "teacher.source=$teacher")
  else
    job=("${ours[@]}" "$bin/limbeck$emulated" distill examples/distill_offline_teacher.textproto --set "teacher.source=$work/teacher")
    ! $rehearse || job+=(--set train.steps=4)
  fi
  job+=("${given[@]}" --out "$work/$1")
}

begin_job_of_the_cpu() {
  local threads=$(($(nproc) / 2)) job given train=(true)
  threads=$((threads < 1 ? 1 : threads))
  $rehearse || find_teacher
  job_name="main job, SmolLM2-135M"
  if [[ -z $teacher ]]; then
    job_name="small job, without SmolLM2"
    mapfile -t given < <(options CPU "$threads")
    train=("${ours[@]}" "$bin/limbeck$emulated" train examples/offline_teacher.textproto "${given[@]}" --out "$work/teacher")
    ! $rehearse || train+=(--set model.width=64 --set model.mlp_width=96 --set train.steps=20)
  fi
  distill CPU "$threads"
  # shellcheck disable=SC2016 # of the other shell
  aside job 240 bash -c 'n=$1; shift; "${@:1:n}" && "${@:n+1}"' - "${#train[@]}" "${train[@]}" "${job[@]}"
}

# With the large teacher the GPU's job waits for nothing; the small one is trained first, by the CPU.
run_job() {
  local job given
  [[ -n $teacher ]] || end_job_of_the_cpu
  distill CUDA 4
  step "$job_name" 90 "${job[@]}"
  keep_job CUDA
  [[ -z $teacher ]] || end_job_of_the_cpu
}

end_job_of_the_cpu() {
  local left=$(($(seconds_left) - 5))
  [[ -n $teacher ]] || left=$((left - 60))
  await job "$left"
  note_aside job "$job_name, on the CPU"
  keep_job CPU
}

keep_job() { # DEVICE
  [[ -f $work/$1/end.json ]] || return 0
  "$python" - "$work/$1" "$job_name" "$1" >>"$results" 2>>"$log" <<'END'
import json, pathlib, sys
run, name, device = pathlib.Path(sys.argv[1]), *sys.argv[2:]
start, end = (json.loads((run / file).read_text()) for file in ("start.json", "end.json"))
last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
print(json.dumps({"kind": "job", "name": name, "side": device, "kl_before": start["student"]["kl"], "kl": end["student"]["kl"],
                  "agreement": end["student"]["top1_agreement"], "steps": end["step"], "seconds": last["seconds"],
                  "tokens": last["tokens"]}))
END
}
