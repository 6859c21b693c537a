// How the report looks, light and dark, wide and narrow; and values under the pointer, for those who have one.
#include "launch/report/report.h"

namespace limbeck::launch {

const char* const report_style = R"css(
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --text: #1c1c1a; --faint: #6a6964; --grid: #e7e6e1; --axis: #b9b7b0;
  --c0: #2563b8; --c1: #c2410c; --c2: #6d6c66; --c3: #15803d;
  --h0: #1f55a5; --h1: #5585c8; --h2: #92b2dd; --h3: #c8d8ee; --h4: #efeeea; --h5: #f6d5c0; --h6: #eba47c; --h7: #d8703f; --h8: #b0410e;
  --unused: #1c1c1a; --on_low: #ffffff; --on_middle: #1c1c1a; --on_high: #ffffff; --on_unused: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161615; --card: #20201e; --text: #ecebe6; --faint: #a3a19a; --grid: #33322f; --axis: #5d5b55;
    --c0: #6ea8f0; --c1: #f0935a; --c2: #a3a19a; --c3: #5fc27e;
    --h0: #5c9bee; --h1: #4a80c6; --h2: #3b659b; --h3: #334d6f; --h4: #3a3936; --h5: #6b4330; --h6: #99572f; --h7: #cb7038; --h8: #f29458;
    --unused: #000000; --on_low: #10100f; --on_middle: #ecebe6; --on_high: #10100f; --on_unused: #ecebe6;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 84rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 0.4rem; font-size: 1.15rem; overflow-wrap: anywhere; }
.note { margin: 0.2rem 0 0.9rem; color: var(--faint); overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 0.7rem; margin: 1.2rem 0 0; } .card { flex: 1 1 8.3rem; }
.card, figure { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: 0.7rem 0.85rem; margin: 0; }
.card dt { color: var(--faint); font-size: 0.85rem; }
.card dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; line-height: 1.35; }
.card dd.more { color: var(--faint); font-size: 0.78rem; line-height: 1.35; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); gap: 0.9rem; align-items: start; }
figcaption { min-height: 3em; font-size: 0.9rem; line-height: 1.35; }
.unit { color: var(--faint); }
.keys { display: block; }
.key { display: inline-block; margin-right: 0.9em; color: var(--faint); font-size: 0.82rem; }
.key::before { content: ""; display: inline-block; width: 0.9em; height: 3px; margin-right: 0.35em; vertical-align: 0.22em; border-radius: 2px; background: var(--key); }
.key.marks::before { width: 8px; height: 8px; border-radius: 50%; vertical-align: 0; }
.key.shade::before { height: 0.7em; vertical-align: -0.05em; opacity: 0.25; }
.key.c0 { --key: var(--c0); } .key.c1 { --key: var(--c1); } .key.c2 { --key: var(--c2); } .key.c3 { --key: var(--c3); }
svg { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; }
svg text { font-size: 11px; fill: var(--faint); font-variant-numeric: tabular-nums; }
text.y { text-anchor: end; } text.x, text.cell { text-anchor: middle; }
svg text.cell { font-size: 9.5px; fill: var(--on_middle); }
svg text.hover { text-anchor: end; fill: var(--text); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.grid line.grid, line.grid { stroke: var(--grid); stroke-width: 1; }
line.axis, line.cursor { stroke: var(--axis); stroke-width: 1; }
polyline { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.line { stroke-width: 2; } .raw { stroke-width: 1; opacity: 0.28; } .band { opacity: 0.18; }
.mark { stroke: var(--card); stroke-width: 1.2; }
polyline.c0 { stroke: var(--c0); } polyline.c1 { stroke: var(--c1); } polyline.c2 { stroke: var(--c2); } polyline.c3 { stroke: var(--c3); }
circle.c0, polygon.c0 { fill: var(--c0); } circle.c1 { fill: var(--c1); } circle.c2 { fill: var(--c2); } circle.c3 { fill: var(--c3); }
.h0 { fill: var(--h0); } .h1 { fill: var(--h1); } .h2 { fill: var(--h2); } .h3 { fill: var(--h3); } .h4 { fill: var(--h4); }
.h5 { fill: var(--h5); } .h6 { fill: var(--h6); } .h7 { fill: var(--h7); } .h8 { fill: var(--h8); } .unused { fill: var(--unused); }
svg text.on_h0, svg text.on_h1 { fill: var(--on_low); } svg text.on_h7, svg text.on_h8 { fill: var(--on_high); } svg text.on_unused { fill: var(--on_unused); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--grid); font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.8rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); font-weight: 400; }
tbody th { text-align: left; } thead th { color: var(--faint); border-top: 0; }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 2.2rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; padding: 0.85rem; background: var(--card); border: 1px solid var(--grid); border-radius: 8px; font-size: 0.82rem; }
footer { margin-top: 2rem; color: var(--faint); font-size: 0.82rem; }
)css";

// Without the marks of markup, so that it stands in XML as it is. The values are read back from the drawing.
const char* const report_script = R"js(
document.querySelectorAll("svg.plot").forEach(svg => {
  const make = (name, kind) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    node.setAttribute("class", kind);
    return svg.appendChild(node);
  };
  const numbers = name => svg.getAttribute(name).split(" ").map(Number);
  const [x0, x1] = numbers("data-x"), [y0, y1] = numbers("data-y"), isLog = svg.getAttribute("data-log") === "1";
  const curves = [...svg.querySelectorAll("polyline.line")].map(
    line => line.getAttribute("points").split(" ").map(point => point.split(",").map(Number)));
  if (curves.length === 0) return;
  const cursor = make("line", "cursor"), text = make("text", "hover");
  const hide = () => { cursor.style.display = "none"; text.style.display = "none"; };
  hide();
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * 400;
    const nearest = curves.map(points => points.reduce((a, b) => Math.abs(a[0] - at) > Math.abs(b[0] - at) ? b : a));
    const step = Math.round(x0 + (nearest[0][0] - 46) / 344 * (x1 - x0));
    const values = nearest.map(point => {
      const shown = y1 - (point[1] - 8) / 190 * (y1 - y0);
      return Number((isLog ? Math.pow(10, shown) : shown).toPrecision(3));
    });
    cursor.setAttribute("x1", nearest[0][0]); cursor.setAttribute("x2", nearest[0][0]);
    cursor.setAttribute("y1", 8); cursor.setAttribute("y2", 198);
    text.setAttribute("x", 390); text.setAttribute("y", 18);
    text.textContent = "step " + step + ":  " + values.join("   ");
    cursor.style.display = ""; text.style.display = "";
  });
});
)js";

}  // namespace limbeck::launch
