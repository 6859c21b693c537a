#!/usr/bin/env bash
# Prints docs/config.md: every field of a config, from the comments of launch/config/config.proto. A test compares the two.
#
#     docs/config_reference.sh > docs/config.md
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
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
  print "# Configuration\n"
  print "Every field of a CONFIG.textproto, which `limbeck train`, `distill` and `eval` take; made by `docs/config_reference.sh` from"
  print "`launch/config/config.proto`. `--set section.field=value` overrides one on the command line. A run directory keeps the config as"
  print "resolved in `config.textproto`. Unknown fields are refused with their line and column."
  n = split(fields["Config"], sections, " ")
  for (i = 1; i <= n; i++) {
    of = type["Config", sections[i]]
    if (meaning["Config", sections[i]] != "") about[of] = about[of] (about[of] == "" ? "" : " ") "(" meaning["Config", sections[i]] ")"
    print_message(of, sections[i])
  }
}
' launch/config/config.proto
