// How the report looks, light and dark, wide and narrow. The colours of curves are told apart by the colour-blind too
// (after Okabe and Ito, https://jfly.uni-koeln.de/color).
#include "launch/report/report.h"

namespace limbeck::launch {

const char* const report_style = R"css(
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --text: #1c1c1a; --faint: #6a6964; --grid: #e7e6e1; --axis: #b9b7b0;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b0578d; --c4: #c98a00; --c5: #3ba3d8; --c6: #55534d; --c7: #6a3d9a;
  --e0: #6f2404; --e1: #993a0c; --e2: #bd571f; --e3: #d9773e; --e4: #e79a69; --e5: #efb892; --e6: #f3d1b7; --e7: #f3e2d4; --e8: #efeeea;
  --h0: #1f55a5; --h1: #5585c8; --h2: #92b2dd; --h3: #c8d8ee; --h4: #efeeea; --h5: #f6d5c0; --h6: #eba47c; --h7: #d8703f; --h8: #b0410e;
  --unused: #1c1c1a; --on_low: #ffffff; --on_middle: #1c1c1a; --on_high: #ffffff; --on_unused: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161615; --card: #20201e; --text: #ecebe6; --faint: #a3a19a; --grid: #33322f; --axis: #5d5b55;
    --c0: #4ea8e6; --c1: #f0853a; --c2: #2fc396; --c3: #dd8bbb; --c4: #e8b23a; --c5: #8fd0f5; --c6: #b4b2aa; --c7: #b493e0;
    --e0: #ffb27f; --e1: #f29458; --e2: #d97c43; --e3: #b96634; --e4: #96542d; --e5: #764528; --e6: #5c3c2a; --e7: #48392f; --e8: #3a3936;
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
.cards { display: flex; flex-wrap: wrap; gap: 0.7rem; margin: 1.2rem 0 0; } .card { flex: 1 1 7rem; }
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
.key.c4 { --key: var(--c4); } .key.c5 { --key: var(--c5); } .key.c6 { --key: var(--c6); } .key.c7 { --key: var(--c7); }
#controls { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; align-items: center; margin: 0 0 0.9rem;
  padding: 0.5rem 0; background: var(--page); border-bottom: 1px solid var(--grid); font-size: 0.88rem; }
#controls[hidden] { display: none; }
#controls label { display: inline-flex; align-items: center; gap: 0.35em; color: var(--faint); margin: 0; overflow-wrap: anywhere; }
#controls .key { font-size: inherit; color: var(--text); } #controls .key::before { flex: none; margin: 0; }
#controls select, #controls input { font: inherit; accent-color: var(--c0); } #controls output { font-variant-numeric: tabular-nums; }
figure { position: relative; }
.tip { position: absolute; right: 0.6rem; top: 3.9rem; z-index: 3; padding: 0.35rem 0.6rem; max-width: 75%; background: var(--card); border: 1px solid var(--axis);
  border-radius: 6px; font-size: 0.8rem; line-height: 1.4; pointer-events: none; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.tip.left { right: auto; left: 0.6rem; }
.tip .key { display: block; margin: 0; font-size: inherit; } .tip .key b { color: var(--text); }
svg { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; }
svg text { font-size: 11px; fill: var(--faint); font-variant-numeric: tabular-nums; }
text.y { text-anchor: end; } text.x, text.cell { text-anchor: middle; }
svg text.cell { font-size: 9.5px; fill: var(--on_middle); }
.grid line.grid, line.grid { stroke: var(--grid); stroke-width: 1; }
line.axis, line.cursor { stroke: var(--axis); stroke-width: 1; }
polyline { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.line { stroke-width: 2; } .raw { stroke-width: 1; opacity: 0.28; } .band { opacity: 0.18; }
.mark { stroke: var(--card); stroke-width: 1.2; }
svg .c0 { color: var(--c0); } svg .c1 { color: var(--c1); } svg .c2 { color: var(--c2); } svg .c3 { color: var(--c3); }
svg .c4 { color: var(--c4); } svg .c5 { color: var(--c5); } svg .c6 { color: var(--c6); } svg .c7 { color: var(--c7); }
polyline { stroke: currentColor; } circle, polygon { fill: currentColor; } polygon.raw { stroke: none; opacity: 0.22; }
.h0 { fill: var(--h0); } .h1 { fill: var(--h1); } .h2 { fill: var(--h2); } .h3 { fill: var(--h3); } .h4 { fill: var(--h4); }
.h5 { fill: var(--h5); } .h6 { fill: var(--h6); } .h7 { fill: var(--h7); } .h8 { fill: var(--h8); } .unused { fill: var(--unused); }
svg text.on_h0, svg text.on_h1 { fill: var(--on_low); } svg text.on_h7, svg text.on_h8 { fill: var(--on_high); } svg text.on_unused { fill: var(--on_unused); }
.e0 { fill: var(--e0); } .e1 { fill: var(--e1); } .e2 { fill: var(--e2); } .e3 { fill: var(--e3); } .e4 { fill: var(--e4); }
.e5 { fill: var(--e5); } .e6 { fill: var(--e6); } .e7 { fill: var(--e7); } .e8 { fill: var(--e8); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--grid); font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.8rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); font-weight: 400; }
tbody th { text-align: left; } thead th { color: var(--faint); border-top: 0; }
table.runs thead th { max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
table.runs td.text { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; max-width: 20rem; }
table.runs tbody th { white-space: pre; position: sticky; left: 0; background: var(--card); } td.best { font-weight: 700; } td.best::before { content: "★ "; font-size: 0.75em; color: var(--c1); }
tr.late td { color: var(--c1); }
tr.part th { color: var(--faint); padding-top: 1rem; }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 1rem; } h2 + details, .grid + details, .scroll + details { margin-top: 2.2rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; padding: 0.85rem; background: var(--card); border: 1px solid var(--grid); border-radius: 8px; font-size: 0.82rem; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 2rem; color: var(--faint); font-size: 0.82rem; }
)css";

}  // namespace limbeck::launch
