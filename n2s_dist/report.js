"use strict";
// What moves on the page. Everything that came from files reaches the document as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const NAMES = {clean: "clean", noisy: "noisy", denoised: "denoised", std: "uncertainty"};
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
const colour = index => `var(--c${index % 6})`;

function fill(select, labels) {
  select.replaceChildren(...labels.map((label, value) => make("option", {value, textContent: label})));
}

// --- charts ------------------------------------------------------------------------------------------------

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
  const look = line => ({class: "line", stroke: colour(several ? line.run : keys.indexOf(line.name)),
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
    const paint = colour(labels.indexOf(label));
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

// --- image by image ----------------------------------------------------------------------------------------

const NAME = 0, NOISY = 1, PSNR = 2, SSIM = 4, ESTIMATED = 5;
const COLUMNS = [["image", NAME], ["noisy", NOISY], ["denoised", PSNR], ["SSIM", SSIM], ["estimated", ESTIMATED]];
const FEW = 10;
let cell, picked = null, exhibit = null, sorting = {by: PSNR, down: false}, all = false;

function chooseCell(index) {
  cell = data.cells[index];
  $("cell").value = index;
  const rivals = data.cells.filter(other => other !== cell && other.rivals.join() === cell.rivals.join());
  const column = place => new Map(cell.images.map(row => [row[NAME], row[place]]));
  cell.axes = [["noisy PSNR (dB)", column(NOISY)], ["SSIM", column(SSIM)],
    ...rivals.map(other => [`PSNR (dB) of ${other.way}`, new Map(other.images.map(row => [row[NAME], row[PSNR]]))])]
    .filter(([, values]) => [...values.values()].some(value => value !== null));
  fill($("against"), cell.axes.map(axis => axis[0]));
  $("against").value = Math.max(0, cell.axes.length - 1);
  fill($("image"), cell.exhibits.map(each => each.name));
  $("comparer").hidden = !cell.exhibits.length;
  all = false;
  sorting = {by: PSNR, down: false};
  if (cell.exhibits.length) chooseExhibit(0);
  pick(exhibit?.name ?? null);
  drawScatter();
}

function pick(name) {
  picked = name;
  drawRows();
  for (const dot of $("scatter").querySelectorAll(".dot")) dot.classList.toggle("picked", dot.dataset.name === name);
  const row = cell.images.find(row => row[NAME] === name), at = cell.axes[$("against").value];
  $("tip").textContent = !row || row[PSNR] === null ? "" :
    `${name}: ${fixed(row[PSNR])} dB, noisy ${fixed(row[NOISY])} dB, SSIM ${fixed(row[SSIM], 4)}`;
}

function drawRows() {
  const columns = COLUMNS.filter(([, place]) => cell.images.some(row => row[place] !== null));
  const value = row => row[sorting.by] ?? (sorting.by === PSNR ? Infinity : "");
  const order = (a, b) => (value(a) > value(b)) - (value(a) < value(b));
  const rows = [...cell.images].sort((a, b) => sorting.down ? order(b, a) : order(a, b));
  const head = columns.map(([label, place]) => {
    const sort = () => { sorting = {by: place, down: sorting.by === place && !sorting.down}; drawRows(); };
    const direction = sorting.by === place ? sorting.down ? "descending" : "ascending" : "none";
    return make("th", {scope: "col", ariaSort: direction}, make("button", {textContent: label, onclick: sort}));
  });
  const shown = new Set(cell.exhibits.map(each => each.name));
  const look = name => { chooseExhibit(cell.exhibits.findIndex(each => each.name === name)); $("stage").focus(); };
  const entry = (row, place) => place !== NAME ? make("td", {textContent: place === ESTIMATED ? row[place] ?? "–"
    : fixed(row[place], place === SSIM ? 4 : 2)})
    : make("th", {scope: "row"}, shown.has(row[NAME])
      ? make("button", {textContent: row[NAME], title: "show", onclick: () => look(row[NAME])}) : row[NAME]);
  $("rows").replaceChildren(make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows.slice(0, all ? Infinity : FEW).map(row => {
      const line = make("tr", {}, ...columns.map(([, place]) => entry(row, place)));
      if (row[NAME] === picked) line.style.background = "var(--card)";
      return line;
    })));
  $("more").hidden = rows.length <= FEW;
  $("more").textContent = all ? "fewer" : `all ${rows.length}`;
}

function drawScatter() {
  const [label, values] = cell.axes[$("against").value] ?? ["", new Map()];
  const points = cell.images.map(row => [values.get(row[NAME]) ?? null, row[PSNR], row[NAME]])
    .filter(([a, b]) => a !== null && b !== null).sort((a, b) => a[0] - b[0]);
  $("scatter").parentElement.hidden = !points.length;
  if (!points.length) return;
  const {drawing, x, y, xs, ys} = axes($("scatter"), points, [label, "PSNR (dB)"], 340);
  if (label.startsWith("PSNR")) {
    const low = Math.max(xs[0], ys[0]), high = Math.min(xs[1], ys[1]);
    if (low < high) drawing.append(svg("line", {class: "diagonal", x1: x(low), x2: x(high), y1: y(low), y2: y(high)}));
  }
  for (const [a, b, name] of points) {
    const dot = svg("circle", {class: "dot", cx: x(a), cy: y(b), r: 5}, svg("title", {}, name));
    dot.dataset.name = name;
    drawing.append(dot);
  }
  for (const [name, value] of Object.entries({tabindex: 0, role: "group",
    "aria-label": `${points.length} images, PSNR against ${label}; arrow keys go from one to the next`}))
    drawing.setAttribute(name, value);
  const show = () => {
    const index = cell.exhibits.findIndex(each => each.name === picked);
    if (index >= 0) chooseExhibit(index);
  };
  drawing.onpointermove = drawing.onpointerdown = event => {
    const box = drawing.getBoundingClientRect();
    const far = ([a, b]) => Math.hypot(x(a) - event.clientX + box.left, y(b) - event.clientY + box.top);
    const near = points.reduce((best, point) => far(point) < far(best) ? point : best);
    if (far(near) < 24 && near[2] !== picked) pick(near[2]);
  };
  drawing.onclick = show;
  drawing.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
    if (step) pick(points.at((points.findIndex(point => point[2] === picked) + step) % points.length)[2]);
    else if (event.key === "Enter") show();
    else return;
    event.preventDefault();
  };
  pick(picked);
}

// --- the comparer: all versions of an image share one view and so show the same spot -----------------------

const view = {zoom: 1, x: 0, y: 0};  // x, y: the image's point at the top left corner, as shares of its size
const kinds = () => Object.keys(NAMES).filter(kind => kind in exhibit.pictures);

function chooseExhibit(index) {
  exhibit = cell.exhibits[index];
  $("image").value = index;
  const labels = kinds().map(kind => NAMES[kind]), sides = {left: "noisy", right: "denoised"};
  for (const [side, usual] of Object.entries(sides)) {
    const before = $(side).selectedOptions[0]?.textContent;
    fill($(side), labels);
    $(side).value = labels.indexOf(labels.includes(before) ? before : usual);
  }
  const [width, height] = exhibit.size, ratio = `${width} / ${height}`;
  $("stage").style.aspectRatio = ratio;
  $("stage").style.width = $("cut").style.width = `min(100%, ${3 * width}px, ${70 * width / height}vh)`;
  $("panels").replaceChildren(...kinds().map((kind, number) => {
    const frame = make("div", {className: "frame"}, make("img", {src: data.pictures[exhibit.pictures[kind]], alt: ""}));
    frame.style.aspectRatio = ratio;
    return make("button", {onclick: () => { $("right").value = number; showSides(); }}, frame,
      make("span", {textContent: caption(kind)}));
  }));
  $("about-std").hidden = !kinds().includes("std");
  look(1, 0, 0);
  showSides();
  pick(exhibit.name);
}

function caption(kind) {
  const row = cell.images.find(row => row[NAME] === exhibit.name), db = {noisy: row[NOISY], denoised: row[PSNR]}[kind];
  return NAMES[kind] + (db == null ? "" : `, ${fixed(db)} dB`);
}

function showSides() {
  for (const side of ["left", "right"]) {
    const kind = kinds()[$(side).value], picture = $(`${side}-picture`);
    picture.src = data.pictures[exhibit.pictures[kind]];
    picture.alt = `${exhibit.name}, ${NAMES[kind]}`;
    $(`${side}-tag`).textContent = caption(kind);
  }
  [...$("panels").children].forEach((button, number) => button.ariaPressed = number === +$("right").value);
  $("cut-out").textContent = exhibit.cut === null ? "The whole image." : `Cut from the image at row ${exhibit.cut[0]}, ` +
    `column ${exhibit.cut[1]}, ${exhibit.size.join(" × ")} pixels.`;
}

function look(zoom, x, y) {
  view.zoom = clamp(zoom, 1, 16);
  [view.x, view.y] = [x, y].map(start => clamp(start, 0, 1 - 1 / view.zoom));
  const percent = start => `${(-100 * start).toFixed(3)}%`;
  $("comparer").style.setProperty("--view", `scale(${view.zoom}) translate(${percent(view.x)}, ${percent(view.y)})`);
  $("comparer").classList.toggle("close-up", view.zoom > 1);
  $("zoom").textContent = `${+view.zoom.toFixed(1)}×`;
}

// Zoom so that what was at [x, y], shares of the stage, comes to be at `to`; without it, stays there.
function zoomAt(zoom, [x, y] = [0.5, 0.5], to = [x, y]) {
  const next = clamp(zoom, 1, 16);
  look(next, view.x + x / view.zoom - to[0] / next, view.y + y / view.zoom - to[1] / next);
}

function divide(percent) {
  $("cut").value = clamp(percent, 0, 100);
  $("comparer").style.setProperty("--cut", `${$("cut").value}%`);
}

function followPointers(stage) {
  const fingers = new Map();
  let dividing = false;
  const at = event => {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  stage.onpointerdown = event => {
    if (event.button) return;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    dividing = view.zoom === 1 || event.target.className === "handle";
    if (dividing && fingers.size === 1) divide(100 * at(event)[0]);
  };
  stage.onpointermove = event => {
    if (!fingers.has(event.pointerId)) return;
    const was = fingers.get(event.pointerId), now = at(event);
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    fingers.set(event.pointerId, now);
    const apart = (a, b) => Math.hypot((a[0] - b[0]) * stage.clientWidth, (a[1] - b[1]) * stage.clientHeight);
    const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    if (other)
      zoomAt(view.zoom * apart(now, other) / (apart(was, other) || 1), middle(was, other), middle(now, other));
    else if (dividing) divide(100 * now[0]);
    else look(view.zoom, view.x - (now[0] - was[0]) / view.zoom, view.y - (now[1] - was[1]) / view.zoom);
  };
  stage.onpointerup = stage.onpointercancel = event => fingers.delete(event.pointerId);
  stage.ondblclick = event => zoomAt(view.zoom > 1 ? 1 : 4, at(event));
  stage.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;  // the page scrolls
    event.preventDefault();
    zoomAt(view.zoom * 2 ** clamp(-event.deltaY / 100, -1, 1), at(event));
  }, {passive: false});
  stage.onkeydown = event => {
    const [right, down] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? [];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (right !== undefined && view.zoom > 1) look(view.zoom, view.x + right / view.zoom / 8, view.y + down / view.zoom / 8);
    else if (right) divide(+$("cut").value + 2 * right);
    else if (event.key === "+" || event.key === "=") zoomAt(view.zoom * 2);
    else if (event.key === "-") zoomAt(view.zoom / 2);
    else if (event.key === "0") look(1, 0, 0);
    else return;
    event.preventDefault();
  };
}

// --- beginning ---------------------------------------------------------------------------------------------

function drawCharts() {
  if (data.glance.length) drawGlance();
  for (const [panel, host] of panels) drawCurves(panel, host);
  if (cell) drawScatter();
}

const panels = data.curves.filter(panel => panel.lines.length).map(panel => {
  const host = make("div");
  $("curves").append(host);
  return [panel, host];
});
if (data.cells.length) {
  fill($("cell"), data.cells.map(each => each.title));
  followPointers($("stage"));
  const step = by => chooseExhibit((+$("image").value + by + cell.exhibits.length) % cell.exhibits.length);
  $("cell").onchange = () => chooseCell($("cell").value);
  $("image").onchange = () => chooseExhibit(+$("image").value);
  $("before").onclick = () => step(-1);
  $("after").onclick = () => step(1);
  $("left").onchange = $("right").onchange = showSides;
  $("cut").oninput = () => divide(+$("cut").value);
  $("in").onclick = () => zoomAt(view.zoom * 2);
  $("out").onclick = () => zoomAt(view.zoom / 2);
  $("whole").onclick = () => look(1, 0, 0);
  $("against").onchange = drawScatter;
  $("more").onclick = () => { all = !all; drawRows(); };
  chooseCell(Math.max(0, data.cells.findIndex(each => each.exhibits.length)));
}
let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth !== width) { width = document.body.clientWidth; drawCharts(); }
}).observe(document.body);
