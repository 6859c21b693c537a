#!/usr/bin/env bash
# A model criticises its own answers by the sentences of a short constitution, revises them, and learns to prefer what it
# revised (Bai et al. 2022, "Constitutional AI", with direct preference optimisation in place of a reward model).
#
#     examples/critique/critique_and_revise.sh [MODEL [FOLDER]]
#
# MODEL: a chat model, as `limbeck generate --chat` takes it; FOLDER: where answers, critiques, pairs and the run go. Both have
# defaults. LIMBECK: the program; CONSTITUTION, QUESTIONS: files with a sentence and a question a line; TOKENS: most of an answer.
# More arguments go to `limbeck train`. Needs Python 3. What is there of an earlier start is not made again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
model=${1-downloads/SmolLM2-135M-Instruct.Q4_1.gguf}
folder=${2-runs/critique}
limbeck=${LIMBECK-$(command -v limbeck || echo build/release/bin/limbeck)}
tokens=${TOKENS-96}
mkdir -p "$folder"

# What the model says to conversations: say STEP SEED, from STEP.prompts.jsonl to STEP.jsonl.
say() {
  [ -s "$folder/$1.jsonl" ] && return
  echo "== $1" >&2
  "$limbeck" generate "$model" --chat --prompts "$folder/$1.prompts.jsonl" --json --quiet --max-tokens "$tokens" \
    --temperature 0.5 --seed "$2" --batch 8 >"$folder/$1.jsonl.partial"
  mv "$folder/$1.jsonl.partial" "$folder/$1.jsonl"
}

# The next file, from those before: prompts, or the pairs.
prepare() {
  python3 - "$1" "$folder" "${QUESTIONS-$here/questions.txt}" "${CONSTITUTION-$here/constitution.txt}" <<'EOF'
import json, pathlib, sys

what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
questions, principles = ([line.strip() for line in open(file, encoding="utf-8") if line.strip()] for file in sys.argv[3:])


def said(step):
    return [json.loads(line)["text"].strip() for line in open(folder / f"{step}.jsonl", encoding="utf-8")]


def user(text):
    return {"role": "user", "content": text}


def reply(text):
    return {"role": "assistant", "content": text}


def conversation(i, upto):
    """Of question i: the answer, its critique by one sentence of the constitution, and the revision."""
    messages = [user(questions[i])]
    if upto in ("critique", "revision"):
        messages += [reply(answers[i]), user("A rule for answers is: " + principles[i % len(principles)] +
                                            " In one or two sentences, say how your answer above breaks this rule.")]
    if upto == "revision":
        messages += [reply(critiques[i]), user("Now answer the first question again, following the rule. "
                                              "Give the new answer alone. The question was: " + questions[i])]
    return messages


answers = said("answer") if what != "answer" else []
critiques = said("critique") if what in ("revision", "pairs") else []
if what == "pairs":
    lines = [{"prompt": conversation(i, "answer"), "chosen": [reply(revised)], "rejected": [reply(answer)]}
             for i, (answer, revised) in enumerate(zip(answers, said("revision"), strict=True))
             if answer and revised and answer != revised]
    file = folder / "pairs.jsonl"
else:
    lines = [{"messages": conversation(i, what)} for i in range(len(questions))]
    file = folder / f"{what}.prompts.jsonl"
with open(file, "w", encoding="utf-8") as out:
    out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
print(f"{file}: {len(lines)} lines", file=sys.stderr)
EOF
}

prepare answer && say answer 1
prepare critique && say critique 2
prepare revision && say revision 3
prepare pairs
exec "$limbeck" train "$here/../preferences.textproto" --out "$folder/run" --set model.source="$model" \
  --set data.text="$folder/pairs.jsonl" "${@:3}"
