#include "launch/watch/watch_page.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "launch/report/html.h"
#include "launch/report/report.h"
#include "launch/report/run_results.h"

namespace limbeck::launch {
namespace {

constexpr const char* ranks_section =
    "<section id=\"live\" aria-live=\"off\"><p class=\"note\" id=\"link\">not connected</p>"
    "<div class=\"scroll\"><table id=\"ranks\" hidden=\"\"><thead><tr><th>run</th><th>rank</th><th>host</th><th>process"
    "</th><th>step</th><th>last operation with others</th><th>heard of</th></tr></thead><tbody></tbody></table></div>"
    "</section>\n";

/// Takes over what the server sends. Texts go into the page by textContent alone; a new page is parsed without running
/// anything of it, and of its scripts only their JSON is read. Like the report's script it has no mark of markup.
constexpr const char* watch_script = R"js(
"use strict";
const link = document.getElementById("link"), ranksTable = document.getElementById("ranks");
const ageText = age => age > 120 ? Math.round(age / 60) + " min ago" : Math.round(age) + " s ago";
const showRanks = ranks => {
  ranksTable.hidden = ranks.length === 0;
  const body = ranksTable.tBodies[0];
  body.replaceChildren();
  for (const rank of ranks) {
    const row = body.insertRow();
    if (rank.age > 10) row.className = "late";
    const said = (rank.waits ? "waits in " : "") + rank.operation;
    for (const text of [rank.run, rank.rank, rank.host, rank.pid, rank.step, said, ageText(rank.age)])
      row.insertCell().textContent = text;
  }
};
const takeOver = text => {
  const found = new DOMParser().parseFromString(text, "text/html");
  const opened = [...document.querySelectorAll("details")].map(part => part.open);
  const live = document.getElementById("live"), controls = document.getElementById("controls");
  const parts = [...found.body.children].filter(part => part.tagName !== "SCRIPT");
  document.title = found.title;
  document.body.replaceChildren(...parts.map(part => document.importNode(part, true)));
  document.getElementById("live").replaceWith(live);
  document.querySelectorAll("details").forEach((part, i) => { part.open = opened[i]; });
  const data = found.getElementById("runs");
  if (!data) return;
  // Other runs, or more to draw them over, have other controls.
  if (!controls || !isOfSameKind(data.textContent)) { location.reload(); return; }
  document.getElementById("controls").replaceWith(controls);
  followPage(data.textContent);
};
let asked = false, again = false;
const fetchPage = async () => {
  if (asked) { again = true; return; }
  asked = true;
  try {
    const answer = await fetch("/page");
    if (answer.ok) takeOver(await answer.text());
  } catch (error) { link.textContent = "not connected: " + error.message; }
  asked = false;
  if (again) { again = false; fetchPage(); }
};
const news = new EventSource("/events");
news.addEventListener("open", () => { link.textContent = "follows the run"; });
news.addEventListener("error", () => { link.textContent = "not connected: the page stays as it was"; });
news.addEventListener("ranks", event => showRanks(JSON.parse(event.data)));
news.addEventListener("page", fetchPage);
)js";

/// Of other places the page may ask this one alone.
constexpr const char* policy = "connect-src 'self'; ";

PageParts live_parts() { return {.policy = policy, .section = ranks_section, .script = watch_script}; }

}  // namespace

std::string watch_page(const std::vector<RunResults>& all) {
  std::vector<RunResults> begun;
  std::vector<std::string> names;
  for (const RunResults& run : all) names.push_back(run.name);
  std::ranges::copy_if(all, std::back_inserter(begun), [](const RunResults& run) { return !run.record.is_empty(); });
  if (begun.empty()) return page_without_runs(names, "no step has been done yet");
  return report_page(begun, live_parts());
}

std::string page_without_runs(const std::vector<std::string>& names, const std::string& why) {
  return empty_page(fmt::format("{}", fmt::join(names, ", ")), why, live_parts());
}

}  // namespace limbeck::launch
