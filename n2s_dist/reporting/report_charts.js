"use strict";
// The page's charts, and what all of its script uses. All that came from files becomes text, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const NAMES = {clean: "clean", noisy: "noisy", denoised: "denoised", std: "uncertainty",
  "sample-1": "sample", "sample-2": "another sample"};
const DASHES = ["", "6 4", "2 3"];

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const fixed = (value, digits = 2) => value === null ? "–" : value.toFixed(digits);
const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const color = index => `var(--c${index % 6})`;

function fill(select, labels) {
  select.replaceChildren(...labels.map((label, value) => make("option", {value, textContent: label})));
}

// Round numbers that cover [low, high].
function ticks(low, high, count) {
  const rough = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({length: last - first + 1}, (_, i) => +((first + i) * step).toPrecision(10));
}

// Axes around the points [x, y]; gives the drawing and what places a value on it.
function axes(host, points, labels, height = 260) {
  const width = Math.max(240, host.clientWidth), left = 44, bottom = height - 40, right = width - 12, top = 24;
  const range = index => {
    const values = points.map(point => point[index]), low = Math.min(...values), high = Math.max(...values);
    const margin = (high - low) * 0.04 || 0.5;
    return [low - margin, high + margin];
  };
  const [xs, ys] = [range(0), range(1)];
  const x = value => left + (value - xs[0]) / (xs[1] - xs[0]) * (right - left);
  const y = value => bottom - (value - ys[0]) / (ys[1] - ys[0]) * (bottom - top);
  const compact = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 4});
  const drawing = svg("svg", {viewBox: `0 0 ${width} ${height}`, height});
  for (const value of ticks(...ys, 5)) {
    drawing.append(svg("line", {class: "grid", x1: left, x2: right, y1: y(value), y2: y(value)}));
    drawing.append(svg("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, compact.format(value)));
  }
  for (const value of ticks(...xs, width / 90))
    drawing.append(svg("text", {x: x(value), y: bottom + 16, "text-anchor": "middle"}, compact.format(value)));
  drawing.append(svg("text", {x: right, y: height - 6, "text-anchor": "end"}, labels[0]));
  drawing.append(svg("text", {x: 0, y: 12}, labels[1]));
  host.replaceChildren(drawing);
  return {drawing, x, y, xs, ys};
}

function legend(host, entries) {
  host.replaceChildren(...entries.map(([label, mark]) =>
    make("li", {}, svg("svg", {viewBox: "0 0 32 16", "aria-hidden": true}, mark), label)));
}

function drawCurves(panel, host) {
  const place = value => panel.log ? Math.log10(value) : value;
  const several = data.runs.length > 1;
  const chart = make("div", {className: "chart"}), list = make("ul", {className: "legend"});
  host.replaceChildren(make("h3", {textContent: panel.title}), list, chart);
  const {drawing, x, y} = axes(chart, panel.lines.flatMap(line => line.points.map(([a, b]) => [a, place(b)])),
    ["crops seen", ""]);
  const last = panel.lines.map(line => `${line.name} ends at ${+line.points.at(-1)[1].toPrecision(4)}`);
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", `${panel.title} over crops seen; ${last.join(", ")}`);
  const keys = [...new Set(panel.lines.map(line => line.name))];
  const look = line => ({class: "line", stroke: color(several ? line.run : keys.indexOf(line.name)),
    "stroke-dasharray": DASHES[keys.indexOf(line.name) % DASHES.length]});
  for (const line of panel.lines)
    drawing.append(svg("polyline", {...look(line),
      points: line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(place(b)).toFixed(1)}`).join(" ")}));
  legend(list, panel.lines.map(line => [(several ? data.runs[line.run] + ", " : "") + line.name,
    svg("line", {...look(line), x1: 0, x2: 32, y1: 8, y2: 8})]));
}

function drawGlance() {
  const marks = data.glance.flatMap(chart => chart.rows.flatMap(([, row]) => row));
  const labels = [...new Set(marks.map(mark => mark[0]))];
  const computed = new Map(marks.map(mark => [mark[0], mark[1]]));
  const dot = (label, cx, cy) => {
    const paint = color(labels.indexOf(label));
    return computed.get(label) ? svg("circle", {cx, cy, r: 5.5, fill: paint})
      : svg("rect", {x: cx - 4.5, y: cy - 4.5, width: 9, height: 9, fill: "none", stroke: paint, "stroke-width": 2});
  };
  const values = marks.map(mark => mark[2]), low = Math.min(0, ...values), high = Math.max(0, ...values);
  legend($("glance-charts").querySelector("ul"), labels.map(label => [label, dot(label, 16, 8)]));
  const hosts = data.glance.map(() => make("div", {className: "chart"}));
  $("glance-charts").querySelector("div").replaceChildren(...data.glance.map(({title}, i) =>
    make("div", {}, make("h3", {textContent: title}), hosts[i])));
  data.glance.forEach(({title, rows}, number) => {
    const width = hosts[number].clientWidth, left = 128, right = width - 16, step = 44, bottom = rows.length * step + 8;
    const x = value => left + 8 + (value - low) / (high - low || 1) * (right - left - 8);
    const drawing = svg("svg", {viewBox: `0 0 ${width} ${bottom + 24}`, height: bottom + 24, role: "img",
      "aria-label": `${title}: distances to the paper in dB, as in the table above`});
    for (const value of ticks(low, high, (right - left) / 60)) {
      drawing.append(svg("line", {class: value ? "grid" : "zero", x1: x(value), x2: x(value), y1: 0, y2: bottom}));
      drawing.append(svg("text", {x: x(value), y: bottom + 18, "text-anchor": "middle"},
        value ? signed(value).replace(/\.?0+$/, "") : "0"));
    }
    rows.forEach(([noise, row], i) => {
      drawing.append(svg("text", {class: "name", x: 0, y: i * step + 28}, noise));
      for (const [label, , value] of row) {
        const aside = 4 * (labels.indexOf(label) - (labels.length - 1) / 2);  // lest one hide another
        const mark = dot(label, x(value), i * step + 24 + aside);
        mark.append(svg("title", {}, `${label}: ${signed(value)} dB`));
        drawing.append(mark);
      }
    });
    hosts[number].style.minHeight = 0;
    hosts[number].replaceChildren(drawing);
  });
}
