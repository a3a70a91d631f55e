// The page's controls and charts. Every number comes from the server; nothing is computed here
// but positions on the screen. Text goes in as text nodes, never as markup.
"use strict";

const SLIDERS = [
  // key, label, from, to, how a slider position becomes a value, how it is shown
  ["count", "Chips", 0, 10, (x) => 2 ** x, (v) => v.toFixed(0)],
  ["context", "Context", 7, 20, (x) => 2 ** x, (v) => `${v.toLocaleString("en")} tokens`],
  ["batch", "Requests in flight", 0, 14, (x) => 2 ** x, (v) => v.toLocaleString("en")],
  ["drafts", "Drafts per step", 0, 3, (x) => x, (v) => v.toFixed(0)],
  ["compute", "Compute", -3, 3, (x) => 2 ** x, (v) => `x ${v}`],
  ["mem_bw", "Memory bandwidth", -3, 3, (x) => 2 ** x, (v) => `x ${v}`],
  ["link", "Link", -5, 3, (x) => 2 ** x, (v) => `x ${v}`],
];
const SVG = "http://www.w3.org/2000/svg";
const state = {};
let newest = 0;

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.append(text);
  return made;
}

function draw(parent, name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.append(text);
  parent.append(made);
  return made;
}

function choice(key, label, entries) {
  const box = element("label");
  const name = element("span", { class: "name" }, label);
  const select = element("select", { id: key });
  for (const [value, text] of entries) select.append(element("option", { value }, text));
  select.value = state[key];
  select.addEventListener("input", () => set(key, select.value));
  box.append(name, select);
  return box;
}

function slider([key, label, low, high, value, show]) {
  const box = element("label");
  const name = element("span", { class: "name" }, label);
  const shown = element("output");
  const step = 1;
  const input = element("input", { id: key, type: "range", min: low, max: high, step });
  const exact = Number(state[key]);
  input.value = key === "drafts" ? exact : Math.log2(exact);
  shown.textContent = show(exact);
  input.addEventListener("input", () => {
    const now = value(Number(input.value));
    shown.textContent = show(now);
    set(key, String(now));
  });
  name.append(shown);
  box.append(name, input);
  return box;
}

function rental() {
  const box = element("label");
  box.append(element("span", { class: "name" }, "Rental, USD per chip-hour (empty: published)"));
  const input = element("input", { id: "rental", type: "number", min: 0, step: "0.1" });
  input.value = state.rental;
  input.addEventListener("input", () => set("rental", input.value));
  box.append(input);
  return box;
}

function set(key, value) {
  state[key] = value;
  const query = new URLSearchParams(state);
  history.replaceState(null, "", `?${query}`);
  refresh();
}

async function refresh() {
  const mine = ++newest;
  const started = performance.now();
  const asked = Object.fromEntries(Object.entries(state).filter(([, value]) => value !== ""));
  const response = await fetch(`/plan?${new URLSearchParams(asked)}`);
  const answer = await response.json();
  if (mine !== newest) return; // a later drag has asked again
  const error = document.getElementById("error");
  error.hidden = !answer.error;
  error.textContent = answer.error || "";
  document.getElementById("result").classList.toggle("stale", Boolean(answer.error));
  if (!answer.error) {
    figures(answer);
    roofline(answer);
    frontier(answer);
    parts(answer);
  }
  document.body.dataset.redrawMs = (performance.now() - started).toFixed(1);
}

function si(value, unit) {
  if (unit === "s" && value >= 1000) return `${Math.round(value).toLocaleString("en")} s`; // never "ks"
  const steps = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]];
  const [scale, prefix] = steps.find(([size]) => value >= size) || [1, ""];
  return `${(value / scale).toPrecision(3)} ${prefix}${unit}`;
}

function tick(power) {
  const prefix = { 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E" };
  const base = Math.floor(power / 3) * 3;
  return base in prefix ? `${10 ** (power - base)} ${prefix[base]}`.trim() : `1e${power}`;
}

// Writes a label above its point, where a roofline is empty, moved up until it covers no other and
// left until it ends inside the chart.
function label(svg, taken, wanted, y, text) {
  const width = 6 * text.length;
  const x = Math.min(wanted, 552 - width);
  let at = y;
  while (taken.some((t) => Math.abs(t.y - at) < 13 && x < t.x + t.width && t.x < x + width)) at -= 13;
  taken.push({ x, y: at, width });
  draw(svg, "text", { x, y: at }, text);
}

function figures(answer) {
  const fits = answer.fits ? "Fits" : "Does not fit";
  document.getElementById("verdict").textContent =
    `${fits}: ${answer.layout}, ${answer.precision}; the step is bound by ${answer.bound}.`;
  const f = answer.figures;
  const rows = [
    ["Time per token", si(f.time_per_token_s.value, "s"), `90 %: ${si(f.time_per_token_s.low, "s")} to ${si(f.time_per_token_s.high, "s")}`],
    ["Per request", `${f.tokens_per_s_per_user.value.toFixed(1)} tokens/s`, ""],
    ["Per chip", `${f.tokens_per_s_per_chip.value.toFixed(0)} tokens/s`, `90 %: ${f.tokens_per_s_per_chip.low.toFixed(0)} to ${f.tokens_per_s_per_chip.high.toFixed(0)}`],
    ["First token", si(answer.ttft_s, "s"), "one prompt per group"],
    ["Memory per chip", si(answer.memory_bytes, "B"), `of ${si(answer.capacity_bytes, "B")}`],
    ["Price", answer.price.value === null ? "not known" : `${answer.price.value.toPrecision(3)} USD/M`, answer.price.value === null ? "fill in the rental" : answer.price.formula],
    ["Energy", answer.energy.value === null ? "not known" : `${answer.energy.value.toPrecision(3)} J/token`, answer.energy.value === null ? "its power is not published" : answer.energy.formula],
    ["Compute / link", answer.threshold === null ? "no link" : `${answer.compute_to_link.toFixed(0)} FLOP/B`, answer.threshold === null ? "" : `hides up to ${answer.threshold.toFixed(0)}`],
  ];
  const list = document.getElementById("figures");
  list.replaceChildren(...rows.map(([name, value, note]) => {
    const box = element("div");
    const shown = element("dd", {}, value);
    if (note) shown.append(element("small", {}, note));
    box.append(element("dt", {}, name), shown);
    return box;
  }));
}

function axes(svg, frame, x, y, xLabel, yLabel) {
  const { left, top, width, height } = frame;
  for (let p = Math.ceil(x.low); p <= x.high; p++) {
    const at = x.at(10 ** p);
    draw(svg, "line", { class: "grid", x1: at, x2: at, y1: top, y2: top + height });
    draw(svg, "text", { class: "soft", x: at, y: top + height + 14, "text-anchor": "middle" }, tick(p));
  }
  for (let p = Math.ceil(y.low); p <= y.high; p++) {
    const at = y.at(10 ** p);
    draw(svg, "line", { class: "grid", x1: left, x2: left + width, y1: at, y2: at });
    draw(svg, "text", { class: "soft", x: left - 5, y: at + 4, "text-anchor": "end" }, tick(p));
  }
  draw(svg, "text", { x: left + width / 2, y: top + height + 32, "text-anchor": "middle" }, xLabel);
  draw(svg, "text", { x: left, y: top - 8 }, yLabel);
}

function scale(low, high, from, to) {
  return { low, high, at: (v) => from + ((Math.log10(v) - low) / (high - low)) * (to - from) };
}

function range(values) {
  const logs = values.filter((v) => v > 0 && Number.isFinite(v)).map(Math.log10);
  const low = Math.floor(Math.min(...logs)), high = Math.ceil(Math.max(...logs));
  return [low, high > low ? high : low + 1];
}

function roofline(answer) {
  const svg = document.getElementById("roofline");
  svg.replaceChildren();
  const frame = { left: 55, top: 26, width: 490, height: 306 };
  const { bandwidth, compute } = answer.roofs;
  const top = Math.max(...Object.values(compute));
  const ops = answer.operators;
  const total = ops.reduce((sum, one) => sum + one.seconds, 0);
  const [x0, x1] = range([...ops.map((o) => o.intensity), (top / bandwidth) * 4]);
  const [y0, y1] = range([...ops.map((o) => o.flops_per_s), top]);
  const x = scale(x0, x1, frame.left, frame.left + frame.width);
  const y = scale(y0, y1, frame.top + frame.height, frame.top);
  axes(svg, frame, x, y, "FLOP per byte of memory traffic", "FLOP/s reached");
  for (const [name, rate] of Object.entries(compute)) {
    const ridge = Math.max(10 ** x0, rate / bandwidth);
    const start = Math.max(10 ** x0, 10 ** y0 / bandwidth);
    draw(svg, "polyline", { class: "roof", points: `${x.at(start)},${y.at(start * bandwidth)} ${x.at(ridge)},${y.at(rate)} ${x.at(10 ** x1)},${y.at(rate)}` });
  }
  const taken = [];
  for (const [name, rate] of Object.entries(compute)) {
    label(svg, taken, frame.left + 6, y.at(rate) - 4, `${name.toUpperCase()} ${si(rate, "FLOP/s")}`);
  }
  for (const one of [...ops].sort((a, b) => b.seconds - a.seconds)) {
    const share = one.seconds / total;
    const circle = draw(svg, "circle", { class: `dot ${one.bound}`, cx: x.at(one.intensity), cy: y.at(one.flops_per_s), r: 3 + 22 * Math.sqrt(share) });
    draw(circle, "title", {}, `${one.name}: ${si(one.seconds, "s")}, ${one.bound}-bound, ${one.format}`);
  }
  for (const one of ops.filter((each) => each.seconds / total > 0.07)) {
    const x0 = x.at(one.intensity);
    const y0 = y.at(one.flops_per_s);
    const above = Math.min(y0, y.at(top)) - 30;
    label(svg, taken, x0 + 4, above, one.name);
    draw(svg, "line", { class: "grid", x1: x0, x2: x0 + 4, y1: y0, y2: above });
  }
}

function frontier(answer) {
  const svg = document.getElementById("frontier");
  svg.replaceChildren();
  const frame = { left: 55, top: 26, width: 490, height: 306 };
  const points = answer.sweep;
  const here = answer.figures;
  const [x0, x1] = range([...points.map((p) => p.user), here.tokens_per_s_per_user.value]);
  const [y0, y1] = range([...points.map((p) => p.chip), here.tokens_per_s_per_chip.value]);
  const x = scale(x0, x1, frame.left, frame.left + frame.width);
  const y = scale(y0, y1, frame.top + frame.height, frame.top);
  axes(svg, frame, x, y, "tokens/s that one request sees", "tokens/s per chip");
  draw(svg, "polyline", { class: "curve", points: points.map((p) => `${x.at(p.user)},${y.at(p.chip)}`).join(" ") });
  for (const p of points) {
    if (Math.log2(p.batch) % 4 === 0) draw(svg, "text", { class: "soft", x: x.at(p.user) + 6, y: y.at(p.chip) + 12 }, `${p.batch}`);
  }
  const user = here.tokens_per_s_per_user, chip = here.tokens_per_s_per_chip;
  draw(svg, "circle", { class: "here", cx: x.at(user.value), cy: y.at(chip.value), r: 6 });
}

function parts(answer) {
  const svg = document.getElementById("parts");
  svg.replaceChildren();
  const entries = Object.entries(answer.parts_s).filter(([, s]) => s > 0);
  const total = entries.reduce((sum, [, s]) => sum + s, 0);
  let at = 10;
  let row = 0;
  for (const [index, [name, seconds]] of Object.entries(answer.parts_s).entries()) {
    if (!(seconds > 0)) continue;
    const width = (seconds / total) * 1120;
    draw(svg, "rect", { class: `part${index}`, x: at, y: 10, width, height: 44 });
    const label = `${name} ${si(seconds, "s")}`;
    if (width > 110) draw(svg, "text", { class: "inside", x: at + 6, y: 36 }, label);
    draw(svg, "rect", { class: `part${index}`, x: 10 + row * 190, y: 72, width: 10, height: 10 });
    draw(svg, "text", { x: 25 + row * 190, y: 81 }, label);
    row += 1;
    at += width;
  }
}

async function start() {
  const options = await (await fetch("/options")).json();
  Object.assign(state, options.defaults, Object.fromEntries(new URLSearchParams(location.search)));
  for (const key of Object.keys(state)) if (!(key in options.defaults)) delete state[key];
  const controls = document.getElementById("controls");
  const chips = options.chips.map((chip) => [chip.id, chip.missing.length ? `${chip.name} (incomplete)` : chip.name]);
  controls.append(
    choice("model", "Model", options.models.map((name) => [name, name])),
    choice("chip", "Chip", chips),
    choice("precision", "Format", options.precisions.map((name) => [name, name])),
    ...SLIDERS.map(slider),
    rental(),
  );
  await refresh();
}

start();
