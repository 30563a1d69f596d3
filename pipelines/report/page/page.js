"use strict";
// Draws what `clx report` found, from the JSON in the page. Text from data is only ever set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const SVG = "http://www.w3.org/2000/svg";
const RAMPS = { // cividis, and a lighter one that stands out from a dark page
  light: ["#00224e", "#213b6e", "#4c556c", "#6c6e72", "#8d8878", "#b1a570", "#d9c65b", "#fee838"],
  dark: ["#3f69bd", "#5c7ab0", "#7a87a2", "#979590", "#b5a87a", "#d2bd60", "#ead350", "#fee838"],
};
const scheme = matchMedia("(prefers-color-scheme: dark)");
const SHAPES = ["circle", "square", "triangle", "diamond", "cross", "down"];

// --- small things ---

function el(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.filter((each) => each != null));
  return made;
}

function svg(tag, attributes = {}, ...inside) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const colour = (k) => css(`--c${k % 10}`);

function format(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  return String(+value.toPrecision(4));
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;

function mix(a, b, share) {
  const part = (text, at) => parseInt(text.slice(at, at + 2), 16);
  const made = [1, 3, 5].map((at) => Math.round(part(a, at) + (part(b, at) - part(a, at)) * share));
  return { fill: `rgb(${made.join(",")})`, light: made[0] * 0.3 + made[1] * 0.59 + made[2] * 0.11 > 140 };
}

function ramp(share) {
  const stops = RAMPS[scheme.matches ? "dark" : "light"], at = Math.min(0.9999, Math.max(0, share)) * (stops.length - 1);
  return mix(stops[Math.floor(at)], stops[Math.floor(at) + 1], at % 1).fill;
}

// --- everything drawn is drawn again when its width or the colour scheme changes ---

const drawn = new Map();
const watcher = new ResizeObserver((entries) => {
  // In the next frame: what is drawn here changes heights, which the observer would take for a loop.
  requestAnimationFrame(() => entries.forEach(({ target }) => redraw(target)));
});

function redraw(host, always = false) {
  const kept = drawn.get(host), width = Math.floor(host.clientWidth);
  if (kept && width > 0 && (always || kept.width !== width)) {
    kept.width = width;
    kept.draw(width);
  }
}

function draws(host, draw) {
  drawn.set(host, { draw, width: 0 });
  watcher.observe(host);
  return () => redraw(host, true);
}

scheme.addEventListener("change", () => {
  for (const host of drawn.keys()) {
    if (host.isConnected) redraw(host, true);
    else drawn.delete(host); // its picture has given way to another
  }
  paintSwatches();
});

function paintSwatches() {
  for (const each of document.querySelectorAll(".swatch[data-colour]")) each.style.background = colour(+each.dataset.colour);
}

function swatch(k) {
  const made = el("span", { class: "swatch", "data-colour": k });
  made.style.background = colour(k);
  return made;
}

// --- the tip ---

const tip = document.getElementById("tip");

function showTip(event, ...inside) {
  tip.replaceChildren(...inside);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 6))}px`;
}

const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

function tipped(host, at) {
  // `at(event)` shows a tip; a mouse hovers, a finger taps.
  host.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") at(event); });
  host.addEventListener("pointerdown", at);
  host.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") { hideTip(); at(null); } });
}

// --- previews of samples ---

function curves(lines, wave) {
  const width = 128, height = 34;
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  lines.forEach((values, k) => {
    const x = (i) => ((i + 0.5) / values.length) * width;
    const shape = wave
      ? values.map((v, i) => `M${x(i).toFixed(1)} ${(17 - (v / 99) * 16).toFixed(1)}V${(17.6 + (v / 99) * 16).toFixed(1)}`).join("")
      : values.map((v, i) => v == null ? "" : `${i && values[i - 1] != null ? "L" : "M"}${x(i).toFixed(1)} ${(32 - (v / 99) * 30).toFixed(1)}`).join("");
    made.append(svg("path", { d: shape, fill: "none", stroke: colour(k), "stroke-width": 1.4 }));
  });
  return made;
}

function seen(item, ...captions) {
  const made = el("div", { class: "seen" });
  (item.pair ?? [item]).forEach((one) => draw(made, one));
  made.append(...captions);
  return made;
}

function draw(made, item) {
  if (item.image) {
    const picture = el("img", { class: "thumb", src: item.image, alt: "" });
    picture.addEventListener("load", () => picture.classList.toggle("sharp", picture.naturalWidth <= 40));
    made.append(picture);
  }
  if (item.wave) {
    made.append(curves([item.wave], true), el("img", { class: "spectrum", src: item.spectrum, alt: "" }));
    made.append(el("p", { class: "soft" }, `${format(item.seconds)} s`));
  }
  if (item.curves) {
    const more = item.channels > item.curves.length ? `, ${item.curves.length} of ${item.channels} channels` : "";
    made.append(curves(item.curves), el("p", { class: "soft" }, `${item.steps} steps${more}`));
  }
  if (item.text != null) made.append(el("p", {}, `“${item.text}”`));
  if (item.cells) {
    const rows = item.cells.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)));
    made.append(el("table", {}, el("tbody", {}, ...rows)));
    if (item.more) made.append(el("p", { class: "soft" }, `and ${item.more} more`));
  }
}

function about(panel, row) {
  const [where, label, target] = panel.rows[row];
  const parts = [];
  if (label >= 0) parts.push(panel.classes[label]);
  if (target != null) parts.push(`${panel.target} ${format(target)}`);
  return { named: parts.join(", "), where };
}

function caption(panel, item) {
  const { named, where } = about(panel, item.row);
  const made = el("div", {}, el("div", {}, el("b", {}, named || where)));
  made.append(el("div", { class: "soft" }, `${panel.modalities[item.modality].name}, ${where}`));
  return made;
}

// --- axes ---

function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of high / low > 1000 ? [1] : [1, 2, 5]) {
      const at = m * 10 ** e;
      if (at >= low * 0.999 && at <= high * 1.001) found.push(at);
    }
  }
  return found.length > 1 ? found : [low, high];
}

function frame(width, height, x, y, options = {}) {
  // An SVG with axes, and the scales of both. x and y are [low, high].
  const left = 46, right = 12, top = 8, bottom = options.label ? 36 : 22;
  const turn = (v) => (options.log ? Math.log10(v) : v);
  const [low, high] = y.map(turn);
  const px = (v) => left + ((v - x[0]) / (x[1] - x[0] || 1)) * (width - left - right);
  const py = (v) => height - bottom - ((turn(v) - low) / (high - low || 1)) * (height - top - bottom);
  const made = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.name || "" });
  for (const at of options.log ? logTicks(...y) : ticks(...y, 5)) {
    made.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: py(at), y2: py(at) }));
    made.append(svg("text", { x: left - 6, y: py(at) + 4, "text-anchor": "end" }, format(at)));
  }
  for (const at of ticks(...x, Math.max(4, Math.floor(width / 90)))) {
    made.append(svg("line", { class: "axis", x1: px(at), x2: px(at), y1: top, y2: height - bottom }));
    made.append(svg("text", { x: px(at), y: height - bottom + 15, "text-anchor": "middle" }, format(at)));
  }
  if (options.label) made.append(svg("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, options.label));
  return { made, px, py, left, right, top, bottom };
}

// --- training curves ---

let smoothing = 0;

function smoothed(values) {
  let mean = null, weight = 0;
  return values.map((v) => {
    if (v == null) return null;
    mean = smoothing * (mean ?? 0) + (1 - smoothing) * v;
    weight = smoothing * weight + (1 - smoothing);
    return mean / weight;
  });
}

function path(line, ys, px, py) {
  let made = "", pen = "M";
  ys.forEach((v, i) => {
    if (v == null) { pen = "M"; return; }
    made += `${pen}${px(line.x[i]).toFixed(1)} ${py(v).toFixed(1)}`;
    pen = "L";
  });
  return made;
}

function curve(chart) {
  const positive = chart.lines.every((line) => line.y.every((v) => v == null || v > 0));
  let log = positive && chart.log;
  const host = el("div");
  const button = el("button", { class: "small", type: "button", "aria-pressed": String(log) }, "log");
  const box = el("figure", { class: "card" }, el("h3", {}, el("span", {}, chart.name), positive ? button : null), host);
  const state = {};
  const draw = (width) => {
    const all = chart.lines.flatMap((line) => line.y.filter((v) => v != null));
    const xs = chart.lines.flatMap((line) => line.x);
    if (!all.length) { host.replaceChildren(el("p", { class: "soft" }, "no finite value")); return; }
    let low = Math.min(...all), high = Math.max(...all);
    if (low === high) { low = log ? low / 1.5 : low - (Math.abs(low) || 1) * 0.05; high = log ? high * 1.5 : high + (Math.abs(high) || 1) * 0.05; }
    const f = frame(width, 210, [Math.min(...xs), Math.max(...xs)], [low, high], { log, name: chart.name });
    for (const line of chart.lines) {
      const dash = line.held ? { "stroke-dasharray": "5 3" } : {};
      if (smoothing && !line.held && line.y.length > 8) {
        f.made.append(svg("path", { class: "line faint", stroke: colour(line.run), d: path(line, line.y, f.px, f.py) }));
        f.made.append(svg("path", { class: "line", stroke: colour(line.run), d: path(line, smoothed(line.y), f.px, f.py) }));
      } else {
        f.made.append(svg("path", { class: "line", stroke: colour(line.run), d: path(line, line.y, f.px, f.py), ...dash }));
      }
      if (line.y.length < 40) {
        line.y.forEach((v, i) => { if (v != null) f.made.append(svg("circle", { cx: f.px(line.x[i]), cy: f.py(v), r: 2.2, fill: colour(line.run) })); });
      }
    }
    state.rule = svg("line", { class: "rule", y1: f.top, y2: 210 - f.bottom, visibility: "hidden" });
    f.made.append(state.rule);
    state.frame = f;
    host.replaceChildren(f.made);
  };
  const again = draws(host, draw);
  button.addEventListener("click", () => { log = !log; button.setAttribute("aria-pressed", String(log)); again(); });
  tipped(host, (event) => {
    if (!state.frame) return;
    if (!event) { state.rule.setAttribute("visibility", "hidden"); return; }
    const at = event.clientX - host.getBoundingClientRect().left;
    let best = null;
    for (const line of chart.lines) for (const x of line.x) if (best == null || Math.abs(state.frame.px(x) - at) < Math.abs(state.frame.px(best) - at)) best = x;
    state.rule.setAttribute("visibility", "visible");
    state.rule.setAttribute("x1", state.frame.px(best));
    state.rule.setAttribute("x2", state.frame.px(best));
    const rows = chart.lines.map((line) => {
      const i = line.x.reduce((near, x, k) => (Math.abs(x - best) < Math.abs(line.x[near] - best) ? k : near), 0);
      return el("div", {}, swatch(line.run), `${line.name}: ${line.y[i] == null ? "not finite" : format(line.y[i])}${line.x[i] === best ? "" : ` (step ${line.x[i]})`}`);
    });
    showTip(event, el("b", {}, `step ${best}`), ...rows);
  });
  const several = new Set(chart.lines.map((line) => line.name)).size > 1;
  if (several) {
    const legend = chart.lines.map((line) => el("span", {}, swatch(line.run), line.name + (line.held ? " (dashed)" : "")));
    box.insertBefore(el("div", { class: "legend" }, ...legend), host);
  }
  return { box, again };
}

function training() {
  const charts = data.curves.map(curve);
  document.getElementById("curves").append(...charts.map(({ box }) => box));
  if (!data.curves.some((chart) => chart.lines.some((line) => !line.held && line.y.length > 8))) return;
  const noisy = data.curves.some((chart) => chart.lines.some((line) => line.y.length > 60));
  smoothing = noisy ? 0.6 : 0;
  const slider = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: smoothing, id: "smoothing" });
  slider.addEventListener("input", () => { smoothing = +slider.value; charts.forEach(({ again }) => again()); });
  document.getElementById("smooth").append(el("label", { for: "smoothing" }, "Smoothing"), slider);
}

// --- matrices ---

function matrix(host, table) {
  // table: rows, columns (names), value(i, j) -> number|null, paint(v) -> {fill, light}, write(v), say(i, j) -> nodes
  const canvas = el("canvas", { role: "img", "aria-label": table.name });
  host.classList.add("wide");
  host.replaceChildren(canvas);
  const state = {};
  const draw = (width) => {
    const pen = canvas.getContext("2d"), sharp = devicePixelRatio || 1;
    const font = getComputedStyle(document.body).fontFamily;
    pen.font = `11px ${font}`;
    const longest = Math.max(...[...table.rows, ...table.columns].map((name) => pen.measureText(name).width));
    const gutter = Math.min(width < 500 ? 72 : 120, Math.ceil(longest) + 10);
    const cell = Math.max(table.columns.length > 40 ? 7 : 14, Math.min(44, Math.floor((Math.min(width, table.columns.length > 40 ? 1200 : 720) - gutter - 2) / table.columns.length)));
    const w = gutter + cell * table.columns.length + 2, h = gutter + cell * table.rows.length + 2;
    canvas.width = w * sharp; canvas.height = h * sharp;
    canvas.style.width = `${w}px`; canvas.style.height = `${h}px`;
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.font = `11px ${font}`;
    pen.textBaseline = "middle";
    const short = (name) => {
      if (pen.measureText(name).width <= gutter - 8) return name;
      let text = name;
      while (text.length > 1 && pen.measureText(text + "…").width > gutter - 8) text = text.slice(0, -1);
      return text + "…";
    };
    const every = Math.max(1, Math.ceil(11 / cell));
    pen.fillStyle = css("--soft");
    table.rows.forEach((name, i) => {
      if (i % every) return;
      pen.textAlign = "right";
      pen.fillText(short(name), gutter - 5, gutter + (i + 0.5) * cell);
    });
    table.columns.forEach((name, j) => {
      if (j % every) return;
      pen.save();
      pen.translate(gutter + (j + 0.5) * cell, gutter - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(short(name), 0, 0);
      pen.restore();
    });
    pen.textAlign = "center";
    const gap = cell > 12 ? 1 : 0;
    for (let i = 0; i < table.rows.length; i++) for (let j = 0; j < table.columns.length; j++) {
      const v = table.value(i, j);
      const { fill, light } = table.paint(v);
      pen.fillStyle = fill;
      pen.fillRect(gutter + j * cell, gutter + i * cell, cell - gap, cell - gap);
      const text = cell >= 24 ? table.write(v) : "";
      if (text && pen.measureText(text).width < cell - 2) {
        pen.fillStyle = light ? "#111" : "#fff";
        pen.fillText(text, gutter + (j + 0.5) * cell, gutter + (i + 0.5) * cell);
      }
    }
    Object.assign(state, { gutter, cell });
  };
  const again = draws(host, draw);
  tipped(canvas, (event) => {
    if (!event) return;
    const box = canvas.getBoundingClientRect();
    const j = Math.floor((event.clientX - box.left - state.gutter) / state.cell);
    const i = Math.floor((event.clientY - box.top - state.gutter) / state.cell);
    if (i < 0 || j < 0 || i >= table.rows.length || j >= table.columns.length) hideTip();
    else showTip(event, ...table.say(i, j));
  });
  return again;
}

// --- choosing ---

function choice(name, options, chosen) {
  const id = `choice-${choice.count = (choice.count || 0) + 1}`;
  const select = el("select", { id }, ...options.map((text, k) => el("option", { value: k }, text)));
  select.addEventListener("change", () => chosen(+select.value));
  return { node: options.length > 1 ? el("span", {}, el("label", { for: id }, `${name} `), select) : el("span", { class: "soft" }, `${name} ${options[0]}`), select };
}

// --- answers: confusion and worst mistakes ---

function answers(panel) {
  const made = el("div", {}, el("h3", {}, "Answers and mistakes")), place = el("div");
  const show = (k) => {
    const given = panel.answers[k], names = given.classes, totals = given.totals, count = new Map(given.cells.map(([i, j, n]) => [i * names.length + j, n]));
    const host = el("div"), value = (i, j) => count.get(i * names.length + j) || 0;
    const left = el("div", {}, el("p", { class: "soft" }, `${given.note} Rows: the true class; columns: the answer; colour: the share of the row.`), host);
    const empty = { fill: css("--grid"), light: true };
    matrix(host, {
      name: "confusion matrix", rows: names, columns: names, value: (i, j) => [i, j],
      paint: ([i, j]) => (value(i, j) ? mix(hex("--card"), hex(i === j ? "--cool" : "--warm"), 0.12 + 0.88 * (value(i, j) / totals[i])) : { ...empty, fill: css("--grid") }),
      write: ([i, j]) => (value(i, j) ? String(value(i, j)) : ""),
      say: (i, j) => [el("div", {}, el("b", {}, names[i]), ` called `, el("b", {}, names[j])), el("div", {}, `${value(i, j)} of ${totals[i]} rows${totals[i] ? `, ${percent(value(i, j) / totals[i])}` : ""}`)],
    });
    const most = given.cells.filter(([i, j]) => i !== j).sort((a, b) => b[2] - a[2]).slice(0, 10);
    const list = most.map(([i, j, n]) => el("tr", {}, el("td", {}, names[i]), el("td", {}, names[j]), el("td", { class: "number" }, String(n)), el("td", { class: "number" }, percent(n / totals[i]))));
    const right = el("div", {}, el("p", { class: "soft" }, "The most frequent confusions"));
    if (list.length) {
      const heads = ["true", "answer", "rows", "of its class"].map((text, k) => el("th", { scope: "col", class: k > 1 ? "number" : false }, text));
      right.append(el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...list))));
    } else right.append(el("p", {}, "None: every row was right."));
    place.replaceChildren(el("div", { class: names.length > 40 ? "split big" : "split" }, left, right));
    if (given.mistakes && given.mistakes.length) {
      const cards = given.mistakes.map(({ items, row, said, sure }) => {
        const { named, where } = about(panel, row);
        const words = el("p", {}, el("b", {}, named), " called ", el("span", { class: "wrong" }, panel.classes[said]), ` with ${percent(sure)}`);
        return el("div", { class: "card" }, words, ...items.map((k) => seen(panel.items[k])), el("p", { class: "soft" }, where));
      });
      place.append(el("p", { class: "soft" }, "The most confident mistakes among the rows looked at here"), el("div", { class: "grid" }, ...cards));
    }
  };
  made.append(el("div", { class: "controls" }, choice("Input", panel.answers.map((given) => given.title), show).node), place);
  show(0);
  return made;
}

function hex(name) {
  const text = css(name);
  return text.length === 4 ? "#" + [...text.slice(1)].map((c) => c + c).join("") : text;
}

// --- similarity ---

function similarity(panel) {
  const { by, names, matrices } = panel.similarity, made = el("div", {}, el("h3", {}, "Similarity"));
  const words = { class: "Mean cosine of all pairs of rows of two classes", target: `Mean cosine of all pairs of rows, by range of ${panel.target}`, row: "Cosine of single rows; partners are on the diagonal" };
  const host = el("div"), scale = el("p", { class: "soft" });
  const show = (k) => {
    const { values } = matrices[k];
    const flat = values.flat(), most = Math.max(...flat.map(Math.abs), 1) / 1000;
    const rows = by === "row" ? values.map((_, i) => `row ${i + 1}`) : names;
    scale.textContent = `${words[by]}. Rows: ${matrices[k].from}; columns: ${matrices[k].to}. Blue is alike, orange opposed; full colour is ${format(most)}.`;
    matrix(host, {
      name: "similarity matrix", rows, columns: by === "row" ? values[0].map((_, i) => `row ${i + 1}`) : names, value: (i, j) => (values[i][j] == null ? null : values[i][j] / 1000),
      paint: (v) => (v == null ? { fill: css("--grid"), light: true } : mix(hex("--card"), hex(v < 0 ? "--warm" : "--cool"), Math.abs(v) / most)),
      write: (v) => (v == null ? "" : v.toFixed(2).replace("0.", ".")),
      say: (i, j) => [el("div", {}, `${matrices[k].from} `, el("b", {}, rows[i]), ` and ${matrices[k].to} `, el("b", {}, by === "row" ? rows[j] : names[j])), el("div", {}, values[i][j] == null ? "no pair of rows" : `cosine ${(values[i][j] / 1000).toFixed(3)}`)],
    })();
  };
  const right = el("div");
  if (panel.pairs.length) {
    const heads = ["", "partners", "other rows", "difference"].map((text, k) => el("th", { scope: "col", class: k ? "number" : false }, text));
    const rows = panel.pairs.map((pair) => el("tr", {}, el("th", { scope: "row" }, pair.inputs), ...[pair.paired, pair.others, pair.paired - pair.others].map((v) => el("td", { class: "number" }, v.toFixed(3)))));
    right.append(el("p", { class: "soft" }, "Mean cosine of partners (cells of one row) and of other rows"), el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))));
  }
  const across = matrices.findIndex((m) => m.from !== m.to);
  const picker = choice("Of", matrices.map((m) => (m.from === m.to ? `${m.from} and itself` : `${m.from} and ${m.to}`)), show);
  made.append(el("div", { class: "controls" }, picker.node), el("div", { class: by !== "row" && names.length > 40 ? "split big" : "split" }, el("div", {}, scale, host), right));
  picker.select.value = Math.max(0, across);
  show(Math.max(0, across));
  return made;
}

// --- the map ---

function mark(pen, shape, x, y, r) {
  pen.beginPath();
  if (shape === "circle") pen.arc(x, y, r, 0, 7);
  else if (shape === "square") pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
  else if (shape === "cross") { const t = r * 0.42; pen.rect(x - r * 1.1, y - t, r * 2.2, 2 * t); pen.rect(x - t, y - r * 1.1, 2 * t, r * 2.2); }
  else {
    const corners = { triangle: [[0, -1.25], [1.15, 0.85], [-1.15, 0.85]], down: [[0, 1.25], [1.15, -0.85], [-1.15, -0.85]], diamond: [[0, -1.35], [1.2, 0], [0, 1.35], [-1.2, 0]] }[shape];
    corners.forEach(([a, b], k) => (k ? pen.lineTo(x + a * r, y + b * r) : pen.moveTo(x + a * r, y + b * r)));
    pen.closePath();
  }
}

function icon(shape) {
  // The same shape as SVG, by a pen that writes what it is told.
  let d = "";
  const pen = {
    beginPath() {}, closePath() { d += "Z"; },
    moveTo(x, y) { d += `M${x} ${y}`; }, lineTo(x, y) { d += `L${x} ${y}`; },
    rect(x, y, w, h) { d += `M${x} ${y}h${w}v${h}h${-w}Z`; },
    arc(x, y, r) { d += `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`; },
  };
  mark(pen, shape, 7, 7, 4.8);
  return svg("svg", { class: "icon", viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("path", { d }));
}

function map(panel) {
  const { modality, item, of } = panel.map, ways = ["tsne", "pca"].filter((way) => panel.map[way]);
  const made = el("div", {}, el("h3", {}, "Map of the embeddings"));
  if (!ways.length) return null;
  const rowsOf = item.map((k) => panel.items[k].row), labels = rowsOf.map((row) => panel.rows[row][1]), targets = rowsOf.map((row) => panel.rows[row][2]);
  const known = targets.filter((t) => t != null), low = Math.min(...known), high = Math.max(...known);
  const colours = [panel.target ? panel.target : null, labels.some((k) => k >= 0) ? "class" : null, "modality"].filter(Boolean);
  const partners = item.map(() => new Set());
  for (const points of of) for (const p of points) for (const q of points) if (p !== q) partners[p].add(q);
  const state = { way: ways[0], by: colours[0], only: null, hidden: new Set(), at: null, lines: false };
  const host = el("div"), legend = el("div", { class: "legend" }), words = el("p", { class: "soft" });
  const canvas = el("canvas", { role: "img", "aria-label": "map of the embeddings" });
  host.append(canvas);
  const fill = (p) => {
    if (state.by === "modality") return colour(modality[p]);
    if (state.by === "class") return labels[p] < 0 ? css("--soft") : colour(labels[p]);
    return targets[p] == null ? css("--soft") : ramp((targets[p] - low) / (high - low || 1));
  };
  let places = [];
  const draw = (width) => {
    const sharp = devicePixelRatio || 1, size = Math.min(width, 640), pad = 14;
    canvas.width = canvas.height = size * sharp;
    canvas.style.width = canvas.style.height = `${size}px`;
    const pen = canvas.getContext("2d");
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.fillStyle = css("--card");
    pen.fillRect(0, 0, size, size);
    const [xs, ys] = panel.map[state.way].xy;
    places = item.map((_, p) => [pad + (xs[p] / 999) * (size - 2 * pad), size - pad - (ys[p] / 999) * (size - 2 * pad)]);
    const r = (size < 420 ? 3 : 3.8) * (item.length > 2000 ? 0.7 : 1);
    const cache = new Map();
    const shown = (p) => !state.hidden.has(modality[p]) && (state.only == null || (state.by === "modality" ? modality[p] : labels[p]) === state.only);
    const faded = (p) => state.only != null && !shown(p);
    if (state.lines) {
      pen.strokeStyle = css("--soft");
      pen.globalAlpha = Math.max(0.12, Math.min(0.5, 60 / of.length));
      pen.beginPath();
      for (let p = 0; p < item.length; p++) for (const q of partners[p]) if (p < q && shown(p) && shown(q)) { pen.moveTo(...places[p]); pen.lineTo(...places[q]); }
      pen.stroke();
    }
    if (state.at != null) {
      pen.strokeStyle = css("--soft");
      pen.globalAlpha = 0.5;
      for (const q of partners[state.at]) { pen.beginPath(); pen.moveTo(...places[state.at]); pen.lineTo(...places[q]); pen.stroke(); }
    }
    pen.lineWidth = 0.7;
    pen.strokeStyle = css("--card");
    for (const pass of [true, false]) for (let p = 0; p < item.length; p++) {
      if (state.hidden.has(modality[p]) || faded(p) !== pass) continue;
      const key = state.by === "modality" ? modality[p] : state.by === "class" ? labels[p] : p;
      if (!cache.has(key)) cache.set(key, fill(p));
      pen.globalAlpha = pass ? 0.12 : 0.85;
      pen.fillStyle = cache.get(key);
      mark(pen, SHAPES[modality[p] % SHAPES.length], ...places[p], r);
      pen.fill();
      if (!pass) pen.stroke();
    }
    pen.globalAlpha = 1;
    if (state.at != null) { pen.strokeStyle = css("--ink"); pen.lineWidth = 2; mark(pen, SHAPES[modality[state.at] % SHAPES.length], ...places[state.at], r + 2.5); pen.stroke(); }
  };
  const again = draws(host, draw);
  tipped(canvas, (event) => {
    let near = null, best = event && event.pointerType === "mouse" ? 14 : 26;
    if (event) {
      const box = canvas.getBoundingClientRect();
      places.forEach(([x, y], p) => {
        if (state.hidden.has(modality[p])) return;
        const away = Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y);
        if (away < best) { best = away; near = p; }
      });
    }
    if (near !== state.at) { state.at = near; again(); }
    if (near == null) hideTip();
    else {
      const one = panel.items[item[near]], count = partners[near].size;
      showTip(event, seen(one, caption(panel, one), count ? el("div", { class: "soft" }, `lines lead to its ${count} partner${count > 1 ? "s" : ""}`) : null));
    }
  });
  const fillLegend = () => {
    const chips = [];
    if (state.by === "class" || state.by === "modality") {
      const keys = state.by === "class" ? [...new Set(labels)].sort((a, b) => a - b) : panel.modalities.map((_, k) => k);
      for (const key of keys) {
        const name = state.by === "modality" ? panel.modalities[key].name : key < 0 ? "no class" : panel.classes[key];
        const dot = key < 0 ? null : swatch(key);
        const chip = el("button", { class: "chip", type: "button", "aria-pressed": String(state.only === key) }, dot, name);
        chip.addEventListener("click", () => { state.only = state.only === key ? null : key; fillLegend(); again(); });
        chips.push(chip);
      }
    } else {
      const bar = el("canvas", { class: "ramp", width: 180, height: 1, "aria-hidden": "true" }), pen = bar.getContext("2d");
      for (let x = 0; x < 180; x++) { pen.fillStyle = ramp(x / 179); pen.fillRect(x, 0, 1, 1); }
      chips.push(el("span", {}, format(low)), bar, el("span", {}, `${format(high)} ${panel.target}`));
    }
    legend.replaceChildren(...chips);
    const share = panel.map.pca && state.way === "pca" ? ` The two components hold ${percent(panel.map.pca.share.reduce((a, b) => a + b, 0))} of the variance.` : "";
    const method = { tsne: "t-SNE keeps neighbours together; distances between far groups and the sizes of groups mean nothing.", pca: "PCA is a shadow of the space: what is apart here is apart there." }[state.way];
    const repeat = state.by === "class" && new Set(labels).size > 10 ? " Colours repeat after ten classes: pick one to single it out." : "";
    words.textContent = `${item.length} distinct points of ${of.length} rows. ${method}${share}${repeat}`;
  };
  const shapes = el("div", { class: "legend" });
  if (panel.modalities.length > 1) panel.modalities.forEach(({ name }, k) => {
    const chip = el("button", { class: "chip", type: "button", "aria-pressed": "true" }, icon(SHAPES[k % SHAPES.length]), name);
    chip.addEventListener("click", () => {
      if (state.hidden.delete(k)) chip.setAttribute("aria-pressed", "true");
      else { state.hidden.add(k); chip.setAttribute("aria-pressed", "false"); }
      again();
    });
    shapes.append(chip);
  });
  const which = choice("Drawn by", ways.map((way) => ({ tsne: "t-SNE", pca: "PCA" })[way]), (k) => { state.way = ways[k]; state.at = null; fillLegend(); again(); });
  const coloured = choice("Colour", colours, (k) => { state.by = colours[k]; state.only = null; fillLegend(); again(); });
  const joined = el("button", { class: "small", type: "button", "aria-pressed": "false" }, "lines between partners");
  joined.addEventListener("click", () => { state.lines = !state.lines; joined.setAttribute("aria-pressed", String(state.lines)); again(); });
  fillLegend();
  const side = el("div", {}, legend, shapes);
  made.append(el("div", { class: "controls" }, which.node, coloured.node, panel.modalities.length > 1 ? joined : null), words, el("div", { class: "split" }, host, side));
  return made;
}

// --- neighbours ---

function neighbours(panel) {
  const ways = panel.neighbours.directions, made = el("div", {}, el("h3", {}, "Nearest neighbours")), place = el("div");
  const show = (k) => {
    const strips = ways[k].lines.map(({ asked, hits }) => {
      const first = asked.map((n, i) => seen(panel.items[n], i === asked.length - 1 ? caption(panel, panel.items[n]) : null));
      const label = panel.rows[panel.items[asked[0]].row][1];
      const rest = hits.map(([n, cosine, partner]) => {
        const item = panel.items[n], same = partner ? "its partner" : label >= 0 && panel.rows[item.row][1] === label ? "same class" : "";
        return el("div", {}, seen(item, caption(panel, item), el("div", {}, `cosine ${(cosine / 1000).toFixed(2)} `, same ? el("span", { class: "tag" }, same) : null)));
      });
      return el("div", { class: "strip", tabindex: 0 }, el("div", { class: "asked" }, ...first), ...rest);
    });
    place.replaceChildren(...strips);
  };
  const across = Math.max(0, ways.findIndex((way) => way.from !== way.to));
  const picker = choice("From and to", ways.map((way) => `${way.from} to ${way.to}`), show);
  made.append(el("div", { class: "controls" }, picker.node), el("p", { class: "soft" }, "Left of the line what was asked with, then the nearest distinct things among the rows looked at."), place);
  picker.select.value = across;
  show(across);
  return made;
}

// --- regression ---

function regression(panel) {
  const found = panel.regression, made = el("div", {}, el("h3", {}, `Predicted ${panel.target}`));
  made.append(el("p", { class: "soft" }, `Predicted ${found.how}; mean absolute error ${format(found.mae)} on the rows looked at here.`));
  const scatter = el("div"), regions = el("div");
  const itemOf = new Map(panel.items.map((item) => [item.row, item]));
  const state = {};
  const truth = found.points.map(([row]) => panel.rows[row][2]), said = found.points.map(([, v]) => v);
  const low = Math.min(...truth, ...said), high = Math.max(...truth, ...said);
  draws(scatter, (width) => {
    const size = Math.min(width, 460), f = frame(size, size, [low, high], [low, high], { label: `true ${panel.target}`, name: "predicted against true" });
    f.made.append(svg("line", { class: "rule", x1: f.px(low), y1: f.py(low), x2: f.px(high), y2: f.py(high) }));
    const dots = truth.map((t, k) => `M${f.px(t).toFixed(1)} ${f.py(said[k]).toFixed(1)}h0`).join("");
    f.made.append(svg("path", { d: dots, stroke: colour(0), "stroke-width": 5, "stroke-linecap": "round", opacity: 0.45, fill: "none" }));
    scatter.replaceChildren(f.made);
    state.f = f;
  });
  tipped(scatter, (event) => {
    if (!event) return;
    const box = scatter.getBoundingClientRect();
    let near = null, best = event.pointerType === "mouse" ? 12 : 24;
    truth.forEach((t, k) => {
      const away = Math.hypot(event.clientX - box.left - state.f.px(t), event.clientY - box.top - state.f.py(said[k]));
      if (away < best) { best = away; near = k; }
    });
    if (near == null) { hideTip(); return; }
    const row = found.points[near][0], item = itemOf.get(row);
    const words = [el("div", {}, `true ${format(truth[near])}, predicted ${format(said[near])}`), el("div", { class: "soft" }, panel.rows[row][0])];
    showTip(event, item ? seen(item, ...words) : el("div", {}, ...words));
  });
  draws(regions, (width) => {
    const { edges, error, rows, train } = found, density = train || rows;
    const bars = (height, values, k, name, label) => {
      const f = frame(width, height, [edges[0], edges[edges.length - 1]], [0, Math.max(...values.map((v) => v || 0)) || 1], { label, name });
      values.forEach((v, i) => { if (v) f.made.append(svg("rect", { x: f.px(edges[i]) + 0.5, width: Math.max(1, f.px(edges[i + 1]) - f.px(edges[i]) - 1), y: f.py(v), height: f.py(0) - f.py(v), fill: colour(k) })); });
      return f.made;
    };
    regions.replaceChildren(
      el("p", { class: "soft" }, "Mean absolute error by region of the target"), bars(160, error, 1, "error by region"),
      el("p", { class: "soft" }, train ? "Training rows in the same regions" : "Rows looked at in the same regions (the training rows are not at hand)"), bars(140, density, 8, "rows by region", panel.target),
    );
  });
  tipped(regions, (event) => {
    if (!event) return;
    const box = regions.getBoundingClientRect(), { edges, error, rows, train } = found;
    const share = (event.clientX - box.left - 46) / (box.width - 58);
    const i = Math.floor(share * error.length);
    if (i < 0 || i >= error.length) { hideTip(); return; }
    showTip(event, el("b", {}, `${format(edges[i])} to ${format(edges[i + 1])}`), el("div", {}, `error ${error[i] == null ? "unknown" : format(error[i])} over ${rows[i]} rows`), train ? el("div", {}, `${train[i]} training rows`) : el("div"));
  });
  const worst = found.worst.map(({ items, row, said: value }) => el("div", { class: "card" }, el("p", {}, el("b", {}, `true ${format(panel.rows[row][2])}`), `, predicted ${format(value)}`), ...items.map((k) => seen(panel.items[k])), el("p", { class: "soft" }, panel.rows[row][0])));
  made.append(el("div", { class: "split" }, el("div", {}, el("p", { class: "soft" }, "Predicted (upwards) against true; on the dashed line they agree"), scatter), regions));
  if (worst.length) made.append(el("p", { class: "soft" }, "The largest errors"), el("div", { class: "grid" }, ...worst));
  return made;
}

// --- views ---

function views(panel) {
  const made = el("div", {}, el("h3", {}, "Views as training makes them"));
  for (const { modality, augmentation, lines } of panel.views) {
    made.append(el("p", { class: "soft" }, `${modality}, ${augmentation}: the sample, then random views of it`));
    for (const { sample, views: varied } of lines) made.append(el("div", { class: "strip", tabindex: 0 }, el("div", { class: "asked" }, seen(sample)), ...varied.map((view) => el("div", {}, seen(view)))));
  }
  return made;
}

// --- features over time ---

function strips(parts, kind) {
  const canvas = el("canvas", { role: "img", "aria-label": `${kind} over time`, class: kind });
  canvas.width = parts[0].length;
  canvas.height = parts.length;
  const pen = canvas.getContext("2d");
  parts.forEach((values, row) => values.forEach((v, at) => {
    if (v == null) return;
    pen.fillStyle = mix(hex("--card"), hex(v < 0 ? "--warm" : "--cool"), Math.abs(v) / 99).fill;
    pen.fillRect(at, row, 1, 1);
  }));
  return canvas;
}

function steps(panel) {
  const made = el("div", {}, el("h3", {}, "Features over time"));
  for (const { modality, share, width, lines } of panel.steps) {
    made.append(el("p", { class: "soft" }, `${modality}: each sample, and below it the first ${share.length} principal components of its encoder's features per time step (${share.map(percent).join(", ")} of the variance), then the ${lines[0].features.length} of its ${width} features that vary most, from the first step to the last. Blue is high, orange low; one scale for all samples.`));
    const strip = el("div", { class: "strip", tabindex: 0 });
    const fill = () => strip.replaceChildren(...lines.map(({ item, parts, features }) => el("div", {}, seen(panel.items[item], strips(parts, "components"), strips(features, "features"), caption(panel, panel.items[item])))));
    fill();
    scheme.addEventListener("change", fill);
    made.append(strip);
  }
  return made;
}

// --- the page ---

function build(panel) {
  const made = el("div", {}, el("p", { class: "soft" }, panel.source));
  if (panel.answers.length) made.append(answers(panel));
  if (panel.regression) made.append(regression(panel));
  if (panel.map) { const drawnMap = map(panel); if (drawnMap) made.append(drawnMap); }
  if (panel.similarity && panel.similarity.matrices.length) made.append(similarity(panel));
  if (panel.neighbours && panel.neighbours.directions.length) made.append(neighbours(panel));
  if (panel.views && panel.views.length) made.append(views(panel));
  if (panel.steps && panel.steps.length) made.append(steps(panel));
  return made;
}

function pictures() {
  const place = document.getElementById("panels"), picker = document.getElementById("picker"), built = new Map();
  const show = (k) => {
    hideTip();
    if (!built.has(k)) { built.set(k, build(data.panels[k])); place.append(built.get(k)); }
    for (const [key, node] of built) node.hidden = key !== k;
    [...picker.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
  };
  if (data.panels.length > 1) data.panels.forEach((panel, k) => picker.append(el("button", { type: "button", onclick: () => show(k) }, swatch(panel.run), panel.name)));
  show(0);
}

paintSwatches();
if (data.curves.length) training();
if (data.panels.length) pictures();
