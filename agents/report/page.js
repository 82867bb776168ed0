"use strict";
const began = performance.now();
const data = JSON.parse(document.getElementById("data").textContent);
const shown = data.runs.map(() => true);
const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip");

function make(name, attributes = {}, parent = null, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.appendChild(element);
  return element;
}

function html(name, className = "", parent = null, text = null) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  if (parent) parent.appendChild(element);
  return element;
}

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e15 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  return String(+value.toPrecision(3));
}

function ticksOf(low, high, log) {
  if (log) {
    const first = Math.ceil(low - 1e-9), last = Math.floor(high + 1e-9);
    const stride = Math.max(1, Math.ceil((last - first) / 4));
    const ticks = [];
    for (let power = first; power <= last; power += stride) ticks.push(power);
    return ticks.length > 1 ? ticks : [low, (low + high) / 2, high];
  }
  const rough = (high - low) / 4, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * scale).find(s => s >= rough);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) {
    ticks.push(Math.abs(t) < step * 1e-9 ? 0 : t);
  }
  return ticks;
}

// lines: [{name, look: {color, dash, swatch}, at, y, width, opacity, low, high}];
// marks: [{at, number, title}]
function draw(parent, lines, options = {}) {
  const width = Math.max(260, parent.clientWidth || 360), height = options.height || 150;
  const box = { left: 46, right: width - 6, top: 12, bottom: height - 20 };
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" }, parent);
  let values = [];
  for (const line of lines) {
    for (const y of [...line.y, ...(line.low || []), ...(line.high || [])]) {
      if (y !== null && (!options.log || y > 0)) values.push(y);
    }
  }
  if (!values.length) {
    const why = options.log ? "nothing above 0 was recorded" : "nothing was recorded";
    make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg, why);
    return;
  }
  const turn = options.log ? Math.log10 : y => y;
  values = values.map(turn).sort((a, b) => a - b);
  let low = values[0], high = values[values.length - 1];
  // The edge of the healthy band is shown where the curve comes near to it.
  const constant = high - low < 1e-9 * Math.max(1, Math.abs(high));
  const span = constant
    ? (options.log ? 1 : Math.abs(high) || 1)
    : Math.max(high - low, options.log ? 0.5 : Math.abs(high) * 0.02);
  if (constant) { high += 0.5 * span; low -= low === 0 ? 0 : 0.5 * span; }
  for (const edge of [options.low, options.high]) {
    if (edge === null || edge === undefined || (options.log && edge <= 0)) continue;
    const e = turn(edge);
    if (e > high && e - high < 1.2 * span) high = e + 0.08 * span;
    if (e < low && low - e < 1.2 * span) low = e - 0.08 * span;
  }
  const pad = Math.max(0.04 * (high - low), options.log ? 0.08 : span * 0.02);
  low -= pad; high += pad;
  const most = options.steps;
  const X = at => box.left + (box.right - box.left) * at / most;
  const Y = y => {
    const inside = Math.min(high, Math.max(low, y));
    return box.bottom - (box.bottom - box.top) * (inside - low) / (high - low);
  };
  const given = edge => edge !== null && edge !== undefined;
  if (given(options.low) || given(options.high)) {
    const edge = (value, other) =>
      !given(value) || (options.log && value <= 0) ? other : turn(value);
    const top = Math.min(high, edge(options.high, high));
    const bottom = Math.max(low, edge(options.low, low));
    if (top >= bottom) make("rect", {
      class: "band", x: box.left, width: box.right - box.left,
      y: Y(top), height: Math.max(2, Y(bottom) - Y(top)),
    }, svg);
  }
  for (const tick of ticksOf(low, high, options.log)) {
    if (tick < low || tick > high) continue;
    make("line", { class: "grid", x1: box.left, x2: box.right, y1: Y(tick), y2: Y(tick) }, svg);
    const label = options.log ? short(+(10 ** tick).toPrecision(2)) : short(+tick.toPrecision(6));
    make("text", { x: box.left - 6, y: Y(tick) + 4, "text-anchor": "end" }, svg, label);
  }
  const xs = ticksOf(0, most, false);
  xs.forEach((tick, i) => {
    if (tick > most) return;
    const anchor = i ? (X(tick) > box.right - 14 ? "end" : "middle") : "start";
    make("text", { x: X(tick), y: height - 4, "text-anchor": anchor }, svg, short(tick));
  });
  for (const line of lines) {
    if (line.low) {
      const edge = values => line.at.map(
        (at, i) => `${X(at).toFixed(1)},${Y(turn(values[i])).toFixed(1)}`);
      const points = [...edge(line.high), ...edge(line.low).reverse()].join(" ");
      make("polygon", { points, fill: line.look.color, opacity: 0.13 }, svg);
    }
    let path = "", pen = false;
    const known = y => y !== undefined && y !== null && !(options.log && y <= 0);
    line.at.forEach((at, i) => {
      const y = line.y[i];
      if (!known(y)) { pen = false; return; }
      const place = { cx: X(at).toFixed(1), cy: Y(turn(y)).toFixed(1) };
      path += `${pen ? "L" : "M"}${place.cx} ${place.cy}`;
      if (!pen && !known(line.y[i + 1])) {  // alone, it makes no line
        const look = { class: "alone", r: 3, fill: line.look.color, opacity: line.opacity || 1 };
        make("circle", { ...place, ...look }, svg);
      }
      pen = true;
    });
    make("path", {
      d: path, fill: "none", stroke: line.look.color, "stroke-width": line.width || 1.4,
      "stroke-linejoin": "round", "stroke-linecap": line.look.dash ? "butt" : "round",
      "stroke-dasharray": line.look.dash, opacity: line.opacity || 1,
    }, svg);
  }
  const taken = [];
  for (const mark of options.marks || []) {
    const x = Math.max(box.left, X(mark.at));
    make("line", { class: "mark", x1: x, x2: x, y1: box.top, y2: box.bottom }, svg);
    let dot = Math.max(x, box.left + 7);
    while (taken.some(other => Math.abs(other - dot) < 15)) dot += 15;
    taken.push(dot);
    const group = make("g", {}, svg);
    make("circle", { class: "dot", cx: dot, cy: box.top - 4, r: 7 }, group);
    const number = { class: "number", x: dot, y: box.top - 0.5, "text-anchor": "middle" };
    make("text", number, group, mark.number);
    const of = mark.run ? " of " + mark.run : "";
    const title = `${mark.number}: ${mark.title}, from step ${short(mark.at)}${of}`;
    make("title", {}, group, title);
  }
  const cross = make(
    "line", { class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden" }, svg);
  svg.addEventListener("mousemove", event => {
    const frame = svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) * width / frame.width;
    if (x < box.left || x > box.right) { hide(); return; }
    const at = most * (x - box.left) / (box.right - box.left);
    cross.setAttribute("x1", x); cross.setAttribute("x2", x);
    cross.setAttribute("visibility", "visible");
    tip.replaceChildren(html("div", "dim", null, `step ${Math.round(at).toLocaleString("en")}`));
    for (const line of lines) {
      if (!line.name) continue;
      let near = 0;
      line.at.forEach((other, i) => {
        if (Math.abs(other - at) < Math.abs(line.at[near] - at)) near = i;
      });
      const row = html("div", "", tip);
      html("i", "", row).style.background = line.look.swatch;
      row.append(`${line.name}  ${short(line.y[near])}`);
    }
    place(event);
  });
  const hide = () => { tip.hidden = true; cross.setAttribute("visibility", "hidden"); };
  svg.addEventListener("mouseleave", hide);
}

function place(event) {
  tip.hidden = false;
  const right = event.clientX + 16, left = event.clientX - 16 - tip.offsetWidth;
  tip.style.left = (right + tip.offsetWidth > innerWidth ? left : right) + "px";
  tip.style.top = Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 8) + "px";
}

const visible = () => data.runs.filter((run, i) => shown[i]);
const longest = runs => Math.max(...runs.map(run => run.steps), 1);

function interpolated(at, y, grid) {
  let i = 0;
  return grid.map(x => {
    if (!at.length || x < at[0] || x > at[at.length - 1]) return null;
    while (i < at.length - 2 && at[i + 1] < x) i++;
    if (at.length === 1 || y[i] === null || y[i + 1] === null) return y[i];
    return y[i] + (y[i + 1] - y[i]) * (x - at[i]) / (at[i + 1] - at[i] || 1);
  });
}

const INK = { color: "currentColor", dash: "", swatch: "currentColor" };
function drawReturns() {
  const parent = document.getElementById("return-charts");
  parent.replaceChildren();
  const runs = visible();
  for (const env of new Set(runs.map(run => run.env))) {
    const own = runs.filter(run => run.env === env), steps = longest(own), lines = [];
    if (new Set(runs.map(run => run.env)).size > 1) html("h3", "", parent, env);
    for (const run of own) if (run.episodes) lines.push({
      look: run.look, at: run.episodes.at, y: run.episodes.y,
      width: 1, opacity: own.length > 1 ? 0.12 : 0.3,
    });
    for (const group of new Set(own.map(run => run.group))) {
      const seeds = own.filter(run => run.group === group && run.evaluations);
      const alone = seeds.length === 1 && own.length === 1;
      for (const run of seeds) lines.push({
        name: run.name, look: run.look,
        at: run.evaluations.step, y: run.evaluations.mean_return,
        width: seeds.length > 1 ? 1 : 2, opacity: seeds.length > 1 ? 0.5 : 1,
        low: alone && run.evaluations.min_return, high: alone && run.evaluations.max_return,
      });
      if (seeds.length > 1) {
        const all = seeds.flatMap(run => [...run.evaluations.step]);
        const grid = [...new Set(all)].sort((a, b) => a - b);
        const curves = seeds.map(
          ({ evaluations }) => interpolated(evaluations.step, evaluations.mean_return, grid));
        const mean = grid.map((_, i) => {
          const known = curves.map(c => c[i]).filter(v => v !== null);
          const whole = known.length === curves.length;
          return whole ? known.reduce((a, b) => a + b) / known.length : null;
        });
        const one = data.groups.length === 1;
        lines.push({
          name: `mean of ${seeds.length} seeds` + (one ? "" : `, ${data.groups[group].label}`),
          look: one ? INK : data.groups[group].look, at: grid, y: mean, width: 2.6,
        });
      }
    }
    const marks = marksFor(own, "returns", null);
    const legend = html("div", "legend", parent);
    for (const line of lines) if (line.name) {
      const entry = html("span", "", legend);
      html("i", "", entry).style.background = line.look.swatch;
      entry.append(line.name);
    }
    draw(html("div", "", parent), lines, { steps, height: 260, marks });
  }
}

function marksFor(runs, statistic, learner) {
  const marks = [];
  for (const run of runs) run.findings.forEach((finding, i) => {
    const own = !learner || !finding.learner || finding.learner === learner;
    if (finding.statistic === statistic && own) marks.push({
      at: finding.at, number: i + 1, title: finding.title,
      run: data.runs.length > 1 ? run.name : "",
    });
  });
  const same = mark => m => m.number === mark.number && m.at === mark.at;
  return marks.filter((mark, i) => marks.findIndex(same(mark)) === i);
}

function drawCharts() {
  const parent = document.getElementById("charts");
  parent.replaceChildren();
  const runs = visible(), several = data.runs.length > 1;
  const keys = [...new Set(runs.flatMap(run => Object.keys(run.statistics)))];
  for (const key of keys) {
    const own = runs.filter(run => run.statistics[key]);
    const { name, learner } = own[0].statistics[key];
    const about = data.statistics[name] || {
      title: name.replaceAll("_", " "), says: "Reported by the agent.",
      low: null, high: null, log: false,
    };
    const chart = html("div", "chart", parent);
    chart.dataset.statistic = name;
    html("h4", "", chart, about.title + (key.includes("/") ? ` · ${learner}` : ""));
    html("p", "", chart, about.says);
    const lines = own.map(run => ({
      name: several ? run.name : about.title, look: run.look,
      at: run.statistics[key].at, y: run.statistics[key].y,
    }));
    draw(chart, lines, { ...about, steps: longest(own), marks: marksFor(own, name, learner) });
  }
}

// Viridis, in nine colours between which is interpolated.
const MAP = [
  "440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725",
].map(c => [0, 2, 4].map(i => parseInt(c.slice(i, i + 2), 16)));
function colour(share) {
  const x = Math.min(1, Math.max(0, share)) * (MAP.length - 1);
  const i = Math.min(MAP.length - 2, Math.floor(x));
  return MAP[i].map((c, k) => Math.round(c + (MAP[i + 1][k] - c) * (x - i)));
}

let column = "grad_norm";
function drawHeat() {
  const parent = document.getElementById("heat-maps");
  parent.replaceChildren();
  const runs = visible(), log = !["zero_fraction", "dormant"].includes(column);
  let values = [];
  for (const heat of runs.flatMap(run => run.heat)) {
    for (const v of (heat.columns[column] || []).flat()) {
      if (v !== null && (!log || v > 0)) values.push(log ? Math.log10(v) : v);
    }
  }
  if (!values.length) { html("p", "dim", parent, "Nothing was recorded."); return; }
  values.sort((a, b) => a - b);
  const last = values.length - 1;
  let low = log ? values[Math.floor(0.01 * values.length)] : 0;
  let high = log ? values[Math.ceil(0.99 * values.length) - 1] : Math.max(0.05, values[last]);
  if (high - low < (log ? 0.3 : 1e-9)) high = low + (log ? 0.3 : 1e-9);
  const scale = html("div", "scale", parent);
  html("span", "", scale, short(log ? +(10 ** low).toPrecision(2) : low));
  const bar = html("canvas", "", scale); bar.width = 220; bar.height = 1;
  const ink = bar.getContext("2d");
  for (let x = 0; x < 220; x++) {
    ink.fillStyle = `rgb(${colour(x / 219)})`;
    ink.fillRect(x, 0, 1, 1);
  }
  html("span", "", scale, short(log ? +(10 ** high).toPrecision(2) : high));
  html("span", "", scale, `${data.heat[column]}${log ? ", logarithmic" : ""}`);
  const steps = longest(runs);
  for (const run of runs) {
    if (data.runs.length > 1) {
      const head = html("h3", "", parent);
      html("i", "", head).style.background = run.look.swatch;
      head.append(run.name);
    }
    for (const heat of run.heat) {
      const rows = heat.columns[column];
      if (!rows) continue;
      const known = heat.layers.map((layer, i) => i).filter(i => rows[i].some(v => v !== null));
      const grid = html("div", "heat", parent);
      const names = html("div", "names", grid), stage = html("div", "stage", grid);
      const prefix = run.heat.length > 1 ? `${heat.learner}: ` : "";
      for (const i of known) html("div", "", names, prefix + heat.layers[i]);
      const canvas = html("canvas", "", stage);
      canvas.width = 960; canvas.height = known.length;
      canvas.style.height = known.length * 19 + "px";
      const context = canvas.getContext("2d");
      known.forEach((layer, row) => rows[layer].forEach((v, i) => {
        if (v === null) return;
        const before = Math.max(0, 2 * heat.at[0] - (heat.at[1] || 2 * heat.at[0]));
        const from = i ? heat.at[i - 1] : before, to = heat.at[i];
        const value = log ? (v > 0 ? Math.log10(v) : low) : v;
        context.fillStyle = `rgb(${colour((value - low) / (high - low))})`;
        const x = Math.floor(960 * from / steps);
        context.fillRect(x, row, Math.max(1, Math.ceil(960 * to / steps) - x), 1);
      }));
      canvas.addEventListener("mousemove", event => {
        const frame = canvas.getBoundingClientRect();
        const at = steps * (event.clientX - frame.left) / frame.width;
        const row = Math.floor(known.length * (event.clientY - frame.top) / frame.height);
        const layer = known[Math.min(known.length - 1, row)];
        let near = heat.at.findIndex(a => a >= at); if (near < 0) near = heat.at.length - 1;
        const step = `step ${Math.round(at).toLocaleString("en")}`;
        const told = `${heat.layers[layer]}  ${short(rows[layer][near])}`;
        tip.replaceChildren(html("div", "dim", null, step), html("div", "", null, told));
        place(event);
      });
      canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
      html("div", "", grid);
      const ticks = html("div", "", grid);
      ticks.style.cssText = "position:relative;height:18px;font-size:11px;color:var(--dim)";
      for (const tick of ticksOf(0, steps, false)) {
        const label = html("span", "", ticks, short(tick));
        const shift = tick === 0 ? 0 : tick > 0.97 * steps ? -100 : -50;
        label.style.cssText =
          `position:absolute;left:${100 * tick / steps}%;transform:translateX(${shift}%)`;
      }
    }
  }
}

function drawAll() { drawReturns(); drawHeat(); drawCharts(); }

const choice = document.getElementById("heat-choice");
for (const [name, title] of Object.entries(data.heat)) {
  if (!data.runs.some(run => run.heat.some(heat => heat.columns[name]))) continue;
  const button = html("button", "", choice, title);
  button.setAttribute("aria-pressed", name === column);
  button.addEventListener("click", () => {
    column = name;
    for (const other of choice.children) other.setAttribute("aria-pressed", other === button);
    drawHeat();
  });
}
for (const box of document.querySelectorAll("[data-run]")) box.addEventListener("change", () => {
  shown[box.dataset.run] = box.checked;
  for (const patient of document.querySelectorAll(`[data-of="${box.dataset.run}"]`)) {
    patient.hidden = !box.checked;
  }
  if (shown.some(Boolean)) drawAll();
});
for (const link of document.querySelectorAll(".jump")) link.addEventListener("click", event => {
  event.preventDefault();
  for (const chart of document.querySelectorAll(".chart.found")) chart.classList.remove("found");
  const chart = document.querySelector(`.chart[data-statistic="${link.dataset.statistic}"]`);
  if (chart) { chart.classList.add("found"); chart.scrollIntoView({ block: "center" }); }
});
let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); });
drawAll();
document.documentElement.dataset.ready = Math.round(performance.now() - began);
