// Scores over training, and charts of saved evaluations. Of one script with page.js, whose functions it uses.

// --- scores over training ---

function scoresOverTraining() {
  const host = document.getElementById("scores"), controls = document.getElementById("scored");
  const state = { chart: 0, at: 0 };
  const sum = (counts) => counts.reduce((a, b) => a + b, 0);
  const overlap = (partners, others) => {
    // The chance that a partner scores above another row, ties in a bin counting half.
    let below = 0, area = 0;
    const all = sum(others), own = sum(partners);
    partners.forEach((n, k) => { area += (n / own) * ((below + others[k] / 2) / all); below += others[k]; });
    return area;
  };
  const label = el("span", { class: "soft" }), box = el("div");
  const slider = el("input", { type: "range", min: 0, step: 1, id: "validation" });
  const draw = (width) => {
    const chart = data.scores[state.chart], sides = ["partners", "others"].map((side) => {
      const counts = chart[side][state.at], all = sum(counts);
      return counts.map((n) => n / all);
    });
    const bins = sides[0].length, edge = (k) => -1 + (2 * k) / bins;
    const low = Math.min(...chart.partners.concat(chart.others).map((counts) => counts.findIndex((n) => n > 0)));
    const most = Math.max(...["partners", "others"].flatMap((side) => chart[side].map((counts) => Math.max(...counts) / sum(counts))));
    const f = frame(Math.min(width, 720), 240, [edge(low), 1], [0, most], { label: "cosine", name: `scores of ${chart.title}` });
    sides.forEach((shares, k) => {
      let d = `M${f.px(edge(low)).toFixed(1)} ${f.py(0).toFixed(1)}`;
      shares.forEach((v, i) => { if (i >= low) d += `V${f.py(v).toFixed(1)}H${f.px(edge(i + 1)).toFixed(1)}`; });
      d += `V${f.py(0).toFixed(1)}Z`;
      f.made.append(svg("path", { d, fill: colour(k), stroke: colour(k), "fill-opacity": 0.35, "stroke-width": 1.2 }));
    });
    box.replaceChildren(f.made);
    const area = overlap(chart.partners[state.at], chart.others[state.at]);
    label.textContent = `step ${chart.steps[state.at]}; a partner scores above another row with ${percent(area)}`;
    slider.setAttribute("aria-valuetext", label.textContent);
  };
  const again = draws(box, draw);
  const show = (k) => {
    state.chart = k;
    state.at = data.scores[k].steps.length - 1;
    slider.max = state.at;
    slider.value = state.at;
    slider.hidden = state.at === 0;
    again();
  };
  slider.addEventListener("input", () => { state.at = +slider.value; again(); });
  controls.append(choice("Of", data.scores.map((chart) => chart.title), show).node, el("label", { for: "validation" }, "Validation"), slider, label);
  host.append(el("div", { class: "legend" }, el("span", {}, swatch(0), "partners"), el("span", {}, swatch(1), "other rows")), box);
  show(0);
}

// --- charts of evaluations ---

function lineChart(chart) {
  const roc = chart.kind === "roc", host = el("div"), state = {};
  const said = (line) => (line.area == null ? line.name : `${line.name}, area ${line.area.toFixed(3)}`);
  draws(host, (width) => {
    const xs = chart.lines.flatMap((line) => line.x), ys = chart.lines.flatMap((line) => line.y).filter((v) => v != null);
    const size = Math.min(width, roc ? 420 : 640), height = roc ? size : 260;
    const x = roc ? [0, 1] : [Math.min(...xs), Math.max(...xs)], low = Math.min(...ys), high = Math.max(...ys);
    const y = roc ? [0, 1] : low === high ? [low - 0.05 * (Math.abs(low) || 1), high + 0.05 * (Math.abs(high) || 1)] : [low, high];
    const f = frame(size, height, x, y, { label: roc ? "share of wrong pairs above a threshold" : "columns of the embedding", name: chart.title });
    if (roc) f.made.append(svg("line", { class: "rule", x1: f.px(0), y1: f.py(0), x2: f.px(1), y2: f.py(1) }));
    for (const line of chart.lines) {
      f.made.append(svg("path", { class: "line", stroke: colour(line.run), d: path(line, line.y, f.px, f.py) }));
      if (!roc) line.x.forEach((v, i) => { if (line.y[i] != null) f.made.append(svg("circle", { cx: f.px(v), cy: f.py(line.y[i]), r: 2.6, fill: colour(line.run) })); });
    }
    state.f = f;
    host.replaceChildren(f.made);
  });
  tipped(host, (event) => {
    if (!event || !state.f) return;
    const box = host.getBoundingClientRect();
    const [ax, ay] = [event.clientX - box.left, event.clientY - box.top];
    let near = null, best = event.pointerType === "mouse" ? 20 : 30;
    for (const line of chart.lines) line.x.forEach((v, i) => {
      if (line.y[i] == null) return;
      const away = Math.hypot(state.f.px(v) - ax, state.f.py(line.y[i]) - ay);
      if (away < best) { best = away; near = [line, i]; }
    });
    if (!near) { hideTip(); return; }
    const [line, i] = near;
    const words = roc ? `${percent(line.y[i])} of right pairs above it, ${percent(line.x[i])} of wrong ones` : `${format(line.y[i])} with ${line.x[i]} columns`;
    showTip(event, el("div", {}, swatch(line.run), el("b", {}, line.name)), el("div", {}, words));
  });
  const legend = el("div", { class: "legend" }, ...chart.lines.map((line) => el("span", {}, swatch(line.run), said(line))));
  const words = roc ? "Share of right pairs above a threshold (upwards) against that of wrong pairs, over all queries together; the dashed line is blind." : null;
  return el("div", {}, words && el("p", { class: "soft" }, words), legend, host);
}

function inputChart(chart) {
  const host = el("div"), flat = chart.values.flat().filter((v) => v != null), rank = chart.figure === "median_rank";
  const [low, high] = rank ? [Math.max(...flat), Math.min(...flat)] : [0, 1];
  const write = (v) => (v == null ? "" : rank ? format(v) : v.toFixed(2).replace(/^0\./, "."));
  matrix(host, {
    name: chart.title, rows: chart.names, columns: chart.names,
    value: (i, j) => chart.values[i][j],
    paint: (v) => (v == null ? { fill: css("--grid"), light: true } : mix(hex("--card"), hex("--cool"), high === low ? 0.5 : (v - low) / (high - low))),
    write,
    say: (i, j) => [el("div", {}, "asked with ", el("b", {}, chart.names[i]), ", answered by ", el("b", {}, chart.names[j])), el("div", {}, chart.values[i][j] == null ? "not asked" : `${chart.figure} ${format(chart.values[i][j])}`)],
  });
  return el("div", {}, el("p", { class: "soft" }, "Rows: asked with; columns: answered by."), host);
}

function evaluationCharts() {
  const host = document.getElementById("charts"), built = new Map();
  const show = (k) => {
    hideTip();
    if (!built.has(k)) { built.set(k, (data.charts[k].kind === "inputs" ? inputChart : lineChart)(data.charts[k])); host.append(built.get(k)); }
    for (const [key, node] of built) node.hidden = key !== k;
  };
  document.getElementById("charted").append(choice("Chart", data.charts.map((chart) => chart.title), show).node);
  show(0);
}

if (data.scores.length) scoresOverTraining();
if (data.charts.length) evaluationCharts();
