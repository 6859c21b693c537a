#!/usr/bin/env bash
# Prints docs/config.md: every field of a config, from the comments of launch/config/config.proto. A test compares the two.
#
#     docs/config_reference.sh > docs/config.md
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cat <<'EOF'
# Configuration

Every field of a CONFIG.textproto, which `limbeck train`, `distill` and `eval` take; made by `docs/config_reference.sh` from
`launch/config/config.proto`. `limbeck train --help-fields` lists them in a terminal. Unknown fields are refused with their line and column.

## Writing one

Text format: `section { field: value }`, `#` begins a comment. Names of choices stand in any case (`COSINE`, `cosine`); a whole number may have an exponent or a point as long as it is whole (`1e6`, `2.5e3`; `1.5` is
an error). A list is `field: [a, b]`, or the field again for every entry.

**Several files** make one config: `limbeck train BASE.textproto MORE.textproto`. Each is laid over those before it by protobuf's rules (`MergeFrom`): a value replaces the one before, a section is merged field by field, and **a list is
appended** to. Of `train.steps`, `tokens` and `epochs` the last one counts. A run that names no `output.dir` goes to `runs/BASE+MORE`. An error names the file and line that it comes from. In place of a file a run directory stands for the config that its run was
resolved to; the run directory keeps that, one file, in `config.textproto`. `limbeck eval` takes the same, and of a run directory (or a checkpoint) the config of the checkpoint that it measures.

**`--set`** changes a field after all files, in the order of the command line. Strings need no quotes; `"..."` may hold `\n` and `\t`.

| `--set` | does |
|---|---|
| `train.seed=7` | sets a field |
| `data.text=a`, or `data.text=[a, "b, c"]` | replaces a list by one entry, or by several; a second such `--set` of the same list appends |
| `data.text+=d`, `data.text+=[d, e]` | appends to what is there |
| `data.text[0]=f` | replaces an entry, from 0 |
| `data.text=` | clears the list |
| `'optimizer.groups={ pattern: "embed.*" frozen: true }'` | a list of sections: an entry is `{ ... }` with the fields of the section; `+=`, `[0]=` and `=` likewise |
| `optimizer.groups[0].rate_factor=0.1` | sets a field of an entry |
| `'model { width: 64 moe { num_experts: 8 } }'`, or `'model={ width: 64 }'` | a section in braces is laid over the config, as a file that says it would be |
| `student_init=` | takes a section away, as if no file had it |
EOF
awk '
function escaped(text) { gsub(/\|/, "\\|", text); gsub(/</, "\\&lt;", text); return text }
# "meaning, [default]; more" -> row, with the default in a column of its own.
function row(path, type, text,    start, rest, value) {
  value = "none"
  if (match(text, /\[[^]]*\]/)) {
    value = substr(text, RSTART + 1, RLENGTH - 2)
    start = substr(text, 1, RSTART - 1)
    rest = substr(text, RSTART + RLENGTH)
    sub(/ +$/, "", start)
    text = start rest
  }
  return "| `" path "` | " type " | " escaped(value) " | " escaped(text) " |\n"
}
function flush() {
  if (field == "") return
  if (kind[block] == "enum")
    values[block] = values[block] "`" field "`" (text == "" ? "" : " (" text ")") ", "
  else {
    fields[block] = fields[block] " " field
    type[block, field] = field_type
    meaning[block, field] = text
  }
  field = ""
}
# The type of a field without `repeated`; as protobuf finds it: in the innermost message around that has it.
function base_type(message, name,    of) {
  of = type[message, name]
  sub(/^repeated /, "", of)
  for (; message != ""; message = message ~ /\./ ? substr(message, 1, match(message, /\.[^.]*$/) - 1) : "")
    if ((message "." of) in kind) return message "." of
  return of
}
function print_message(message, path,    names, i, n, name, of) {
  n = split(fields[message], names, " ")
  printf "\n## `%s`\n\n", path
  if (about[message] != "") print escaped(about[message]) "\n"
  print "| field | type | default | |\n|---|---|---|---|"
  for (i = 1; i <= n; i++) {
    name = names[i]
    of = base_type(message, name)
    if (kind[of] == "message") continue
    printf "%s", row(path "." name, kind[of] == "enum" ? sub_values(of) : type[message, name], meaning[message, name])
  }
  for (i = 1; i <= n; i++) {
    name = names[i]
    of = base_type(message, name)
    if (kind[of] == "message") print_message(of, path "." name (type[message, name] ~ /^repeated / ? "[]" : ""))
  }
}
function sub_values(of,    text) { text = values[of]; sub(/, $/, "", text); return text }
/^ *(message|enum) / {
  flush()
  sub(/^ */, "")
  depth++
  split($0, words, " ")
  block = depth > 1 ? stack[depth - 1] "." words[2] : words[2]
  stack[depth] = block
  kind[block] = words[1]
  about[block] = pending
  pending = ""
  next
}
/^ *oneof / { flush(); pending = ""; stack[++depth] = block; next }  # its fields are those of the message around
/^ *}/ { flush(); depth--; block = stack[depth]; next }
/^ *\/\// {
  sub(/^ *\/\/ ?/, "")
  if (field != "") text = text " " $0
  else pending = pending (pending == "" ? "" : " ") $0
  next
}
/^ *$/ { flush(); pending = ""; next }
depth > 0 {
  flush()
  text = ""
  if (match($0, /\/\/ /)) text = substr($0, RSTART + 3)
  sub(/ *(;.*|\/\/.*)$/, "")
  sub(/^ */, "")
  sub(/^optional /, "")
  sub(/ *= *[0-9]+$/, "")
  n = split($0, words, " ")
  field = words[n]
  field_type = n == 3 ? words[1] " " words[2] : words[1]
  pending = ""
}
END {
  n = split(fields["Config"], sections, " ")
  for (i = 1; i <= n; i++) {
    of = type["Config", sections[i]]
    if (meaning["Config", sections[i]] != "") about[of] = about[of] (about[of] == "" ? "" : " ") "(" meaning["Config", sections[i]] ")"
    print_message(of, sections[i])
  }
}
' launch/config/config.proto
