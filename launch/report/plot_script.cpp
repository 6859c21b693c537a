// The page's script: the figures drawn from their values, as plot.cpp draws them, over another axis, more or less
// smooth, and with the values under the pointer. Without it the drawings stay as they are.
//
// It has none of the marks of markup that XML forbids, so that it stands in the page as it is: no less-than sign, no
// ampersand. Texts of files go into the page by textContent alone.
#include "launch/report/report.h"

namespace limbeck::launch {

const char* const report_script = R"js(
"use strict";
let page = JSON.parse(document.getElementById("runs").textContent);
const area = {left: 46, top: 8, width: 344, height: 190, right: 390, bottom: 198};
const state = {x: "step", y: "fit", weight: page.weight, hidden: new Set()};
const axes = {step: "step", tokens: "tokens", seconds: "training time"};

const svgNode = (parent, name, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return parent.appendChild(node);
};
const htmlNode = (parent, name, kind, text) => {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return parent.appendChild(node);
};

// --- where things lie

const between = (from, to, at) => {
  if (from.length === 0) return NaN;
  let low = 0, high = from.length - 1;
  if (at > from[high] || at === from[high]) return to[high];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle] > at) high = middle; else low = middle;
  }
  if (from[low] > at) return to[low];
  return to[low] + (at - from[low]) / (from[high] - from[low]) * (to[high] - to[low]);
};
const place = (run, step) => state.x === "step" ? step : between(page.runs[run].step, page.runs[run][state.x], step);
const range = () => {
  const shown = page.runs.filter((run, i) => !state.hidden.has(i));
  const ends = shown.flatMap(run => run[state.x].slice(-1));
  const low = state.x === "step" ? page.first : 0, high = Math.max(low, ...ends);
  return high > low ? [low, high] : [low - 1, low + 1];
};
const smoothed = (values, weight) => {
  let average = 0, correction = 1;
  return values.map(value => {
    average = weight * average + (1 - weight) * value;
    correction *= weight;
    return average / (1 - correction);
  });
};

// --- ticks and texts, as plot_ticks.cpp has them

const roundTicks = (low, high, most, least) => {
  for (let power = Math.pow(10, Math.floor(Math.log10((high - low) / most))); ; power *= 10)
    for (const factor of [1, 2, 5]) {
      const step = factor * power, first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
      if (last - first + 1 > most || least > step) continue;
      const ticks = [];
      for (let i = first; !(i > last); ++i) ticks.push(i * step);
      return ticks.length ? ticks : [low];
    }
};
const logTicks = (low, high) => {
  const first = Math.floor(Math.log10(low)), last = Math.floor(Math.log10(high)), ticks = [];
  const stride = 1 + Math.trunc((last - first) / 8);
  for (let exponent = first; !(exponent > last); exponent += stride)
    for (const factor of last - first > 3 ? [1] : [1, 2, 5]) {
      const tick = factor * Math.pow(10, exponent);
      if (!(low * (1 - 1e-9) > tick || tick > high * (1 + 1e-9))) ticks.push(tick);
    }
  return ticks;
};
const tickText = (value, step, largest) => {
  if (value === 0) return "0";
  const text = (unit, suffix) => {
    const digits = Math.ceil(-Math.log10((step > 0 ? step : Math.abs(value)) / unit) - 1e-9);
    return (value / unit).toFixed(Math.min(12, Math.max(0, digits))) + suffix;
  };
  if (0.001 > largest || !(1e12 > largest)) {
    const exponent = Math.floor(Math.log10(largest) + 1e-9);
    return text(Math.pow(10, exponent), "e" + exponent);
  }
  if (!(1e9 > largest)) return text(1e9, "G");
  if (!(1e6 > largest)) return text(1e6, "M");
  return 1e4 > largest ? text(1, "") : text(1000, "k");
};
const tickTexts = (ticks, isLog) => {
  const step = isLog || 2 > ticks.length ? 0 : ticks[1] - ticks[0];
  const largest = Math.max(Math.abs(ticks[0]), Math.abs(ticks[ticks.length - 1]));
  return ticks.map(tick => tickText(tick, step, isLog ? tick : largest));
};
const timeUnit = seconds => seconds > 172800 ? [86400, "d"] : seconds > 7200 ? [3600, "h"] : seconds > 120 ? [60, "min"] : [1, "s"];
const valueText = value => Number(value.toPrecision(5)).toString();
const xText = at => {
  if (state.x !== "seconds") return axes[state.x] + " " + Math.round(at).toLocaleString("en");
  const [unit, name] = timeUnit(at);
  return valueText(at / unit) + " " + name;
};

// --- a figure

const yAxis = (plot, curves) => {
  const values = curves.flatMap(curve => (curve.low || []).concat(curve.high || [], curve.y));
  if (plot.data.band) values.push(...plot.data.band.low, ...plot.data.band.high);
  const positive = values.filter(value => value > 0);
  const isLog = state.y === "log" ? positive.length > 0 : state.y === "fit" ? plot.data.log : false;
  const used = isLog ? positive : values;
  let low = used.reduce((a, b) => Math.min(a, b), Infinity), high = used.reduce((a, b) => Math.max(a, b), -Infinity);
  if (isLog) {
    if (low === high) { low /= 1.5; high *= 1.5; }
    const y0 = Math.log10(low), y1 = Math.log10(high);
    const powers = logTicks(low, high), few = 3 > powers.length, ticks = few ? roundTicks(low, high, 5, 0) : powers;
    return {y0, y1, ticks, texts: tickTexts(ticks, !few), shown: value => value > 0 ? Math.log10(value) : NaN};
  }
  if (plot.data.zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  if (!(high - low > 1e-9 * Math.max(Math.abs(low), Math.abs(high)))) {
    const around = high === 0 ? 1 : 0.1 * Math.abs(high);
    low -= around; high += around;
  }
  const margin = 0.04 * (high - low);
  const y0 = plot.data.zero ? (low === 0 ? 0 : low - margin) : low - margin;
  const y1 = plot.data.zero ? (high === 0 ? 0 : high + margin) : high + margin;
  const ticks = roundTicks(y0, y1, 6, 0);
  return {y0, y1, ticks, texts: tickTexts(ticks, false), shown: value => value};
};

const draw = plot => {
  const svg = plot.svg, [x0, x1] = range();
  svg.replaceChildren();
  plot.drawn = [];
  const curves = plot.data.curves.filter(curve => !state.hidden.has(curve.run));
  if (curves.length === 0) return;
  const axis = yAxis(plot, curves);
  const px = at => area.left + (at - x0) / (x1 - x0) * area.width;
  const py = value =>  // an average of zeros lies below a logarithmic axis
    Math.min(area.bottom, area.top + (axis.y1 - axis.shown(value)) / (axis.y1 - axis.y0) * area.height);
  plot.at = pixel => x0 + (pixel - area.left) / area.width * (x1 - x0);

  axis.ticks.forEach((tick, i) => {
    const y = py(tick).toFixed(1);
    svgNode(svg, "line", {class: "grid", x1: area.left, x2: area.right, y1: y, y2: y});
    svgNode(svg, "text", {class: "y", x: area.left - 6, y: py(tick) + 3.5}, axis.texts[i]);
  });
  const [unit, unitName] = state.x === "seconds" ? timeUnit(x1) : [1, ""];
  const ticks = roundTicks(x0 / unit, x1 / unit, 6, state.x === "seconds" ? 0 : 1), names = tickTexts(ticks, false);
  ticks.forEach((tick, i) => {
    const x = px(tick * unit).toFixed(1);
    svgNode(svg, "line", {class: "axis", x1: x, x2: x, y1: area.bottom, y2: area.bottom + 4});
    svgNode(svg, "text", {class: "x", x: x, y: area.bottom + 16}, names[i]);
  });
  svgNode(svg, "line", {class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom});
  svgNode(svg, "text", {class: "x name", x: area.left + area.width / 2, y: area.bottom + 30},
    axes[state.x] + (unitName ? ", " + unitName : ""));

  const points = (run, steps, values) => steps.map((step, i) => [px(place(run, step)), py(values[i])])
    .filter(point => point.every(Number.isFinite));
  const joined = list => list.map(point => point[0].toFixed(1) + "," + point[1].toFixed(1)).join(" ");
  const weight = plot.data.exact ? 0 : state.weight;
  const band = plot.data.band;
  if (band) {
    const there = points(0, band.x, smoothed(band.low, weight)), back = points(0, band.x, smoothed(band.high, weight));
    svgNode(svg, "polygon", {class: "band c0", points: joined(there.concat(back.reverse()))});
  }
  const onlyMarks = curves.every(curve => curve.marks);
  for (const curve of curves) {
    const colour = "c" + curve.colour, raw = points(curve.run, curve.x, curve.y);
    const average = curve.marks ? curve.y : smoothed(curve.y, weight);
    plot.drawn.push({curve, average, x: curve.x.map(step => px(place(curve.run, step)))});
    if (curve.marks) {
      if (onlyMarks) svgNode(svg, "polyline", {class: "raw " + colour, points: joined(raw)});
      continue;
    }
    if (curve.y.length === 1) {
      for (const [x, y] of raw) svgNode(svg, "circle", {class: "dot " + colour, cx: x.toFixed(1), cy: y.toFixed(1), r: 3});
      continue;
    }
    if (curve.low) {
      const there = points(curve.run, curve.x, curve.low), back = points(curve.run, curve.x, curve.high);
      svgNode(svg, "polygon", {class: "raw " + colour, points: joined(there.concat(back.reverse()))});
    } else if (weight > 0) {
      svgNode(svg, "polyline", {class: "raw " + colour, points: joined(raw)});
    }
    svgNode(svg, "polyline", {class: "line " + colour, points: joined(points(curve.run, curve.x, average))});
  }
  for (const curve of curves.filter(curve => curve.marks))
    for (const [x, y] of points(curve.run, curve.x, curve.y))
      svgNode(svg, "circle", {class: "mark c" + curve.colour, cx: x.toFixed(1), cy: y.toFixed(1), r: 3.5});
  plot.cursor = svgNode(svg, "line", {class: "cursor", x1: 0, x2: 0, y1: area.top, y2: area.bottom, visibility: "hidden"});
};

// --- values under the pointer

const hide = plot => {
  plot.tip.hidden = true;
  if (plot.cursor) plot.cursor.setAttribute("visibility", "hidden");
};
const show = (plot, event) => {
  if (plot.drawn.length === 0) return;
  const box = plot.svg.getBoundingClientRect();
  const pixel = Math.min(area.right, Math.max(area.left, (event.clientX - box.left) / box.width * 400));
  plot.cursor.setAttribute("x1", pixel);
  plot.cursor.setAttribute("x2", pixel);
  plot.cursor.setAttribute("visibility", "visible");
  plot.tip.replaceChildren();
  htmlNode(plot.tip, "b", "", xText(plot.at(pixel)));
  for (const {curve, average, x} of plot.drawn) {
    let nearest = -1;
    x.forEach((at, i) => {
      if (!Number.isFinite(at)) return;
      if (nearest === -1 || Math.abs(x[nearest] - pixel) > Math.abs(at - pixel)) nearest = i;
    });
    if (nearest === -1) continue;
    const row = htmlNode(plot.tip, "span", "key " + (curve.marks ? "marks " : "curve ") + "c" + curve.colour, curve.label + " ");
    htmlNode(row, "b", "", valueText(average[nearest]));
    if (valueText(average[nearest]) !== valueText(curve.y[nearest])) row.append(" (" + valueText(curve.y[nearest]) + ")");
  }
  plot.tip.hidden = false;
  plot.tip.classList.toggle("left", pixel > area.left + area.width / 2);
};

const plotsOf = () => [...document.querySelectorAll("figure.plot")].map(figure => {
  const plot = {svg: figure.querySelector("svg"), data: JSON.parse(figure.querySelector("script").textContent), drawn: []};
  plot.tip = htmlNode(figure, "div", "tip");
  plot.tip.hidden = true;
  for (const name of ["pointermove", "pointerdown"]) plot.svg.addEventListener(name, event => show(plot, event));
  plot.svg.addEventListener("pointerleave", () => hide(plot));
  return plot;
});
let plots = plotsOf();
const redraw = () => plots.forEach(plot => { hide(plot); draw(plot); });

// --- the controls

const bar = document.getElementById("controls");
const choice = (name, key, options) => {
  const label = htmlNode(bar, "label", "", name + " ");
  const select = htmlNode(label, "select");
  for (const [value, text] of Object.entries(options)) htmlNode(select, "option", "", text).value = value;
  select.value = state[key];
  select.addEventListener("change", () => { state[key] = select.value; redraw(); });
};
const known = Object.entries(axes).filter(([key]) => page.runs.some(run => run[key].length > 1));
choice("Over", "x", Object.fromEntries(known.length ? known : [["step", "step"]]));
choice("Values", "y", {fit: "as fits", linear: "linear", log: "logarithmic"});
const label = htmlNode(bar, "label", "", "Smoothing ");
const slider = htmlNode(label, "input");
const said = htmlNode(label, "output", "", state.weight.toFixed(2));
Object.assign(slider, {type: "range", min: 0, max: 0.99, step: 0.01, value: state.weight});
slider.addEventListener("input", () => { state.weight = Number(slider.value); said.textContent = state.weight.toFixed(2); redraw(); });
if (page.runs.length > 1)
  page.runs.forEach((run, i) => {
    const chosen = htmlNode(bar, "label", "key curve c" + i % page.colours);
    const box = htmlNode(chosen, "input");
    Object.assign(box, {type: "checkbox", checked: true});
    chosen.append(" " + run.name);
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](i); redraw(); });
  });
bar.hidden = false;
redraw();
const kindOf = of => of.runs.map(run => run.name) + " " + Object.keys(axes).filter(key => of.runs.some(run => run[key].length > 1));
const isOfSameKind = runs => kindOf(JSON.parse(runs)) === kindOf(page);
// The page's parts have been replaced by those of another state of the same runs, whose "runs" are these.
const followPage = runs => {
  page = JSON.parse(runs);
  plots = plotsOf();
  redraw();
};
)js";

}  // namespace limbeck::launch
