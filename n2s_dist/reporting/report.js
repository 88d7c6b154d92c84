// What moves on the page: images and their comparer. Goes after report_charts.js.

// --- image by image ----------------------------------------------------------------------------------------

// A column of the table: what it is called, its value in a row, how that is written, and whether larger is better.
const NOISY = "psnr_noisy_db", PSNR = "psnr_db", HIDDEN = ["psnr_uint8_db"];
const withUnit = each => each.title + (each.unit && each.unit !== "dB" ? ` (${each.unit})` : "");
const MEASURED = data.measures.filter(each => !HIDDEN.includes(each.key)).map(each => ({
  key: each.key, label: each.key === PSNR ? "denoised" : withUnit(each), higher: each.higher_is_better,
  of: row => row.figures[each.key] ?? null, text: value => fixed(value, each.digits)}));
const COLUMNS = [{key: "name", label: "image", higher: true, of: row => row.name}, ...MEASURED,
  {key: "estimated", label: "estimated", higher: true, of: row => row.estimated, text: value => value ?? "–"},
  {key: "network", label: "network", higher: true, of: row => row.network, text: value => value ?? "–"}];
const FEW = 10;
const psnr = row => row.figures[PSNR] ?? null;
let cell, picked = null, exhibit = null, sorting = {by: PSNR, down: false}, all = false;

function chooseCell(index) {
  cell = data.cells[index];
  $("cell").value = index;
  const rivals = data.cells.filter(other => other !== cell && other.rivals.join() === cell.rivals.join());
  cell.axes = [...MEASURED.filter(each => each.key !== PSNR).map(each => [each.key === NOISY ? "noisy PSNR (dB)" : each.label,
    new Map(cell.images.map(row => [row.name, each.of(row)]))]),
    ...rivals.map(other => [`PSNR (dB) of ${other.way}`, new Map(other.images.map(row => [row.name, psnr(row)]))])]
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
  const row = cell.images.find(row => row.name === name);
  const told = MEASURED.filter(each => each.key !== PSNR && row && each.of(row) !== null)
    .map(each => `${each.label} ${each.text(each.of(row))}${each.key === NOISY ? " dB" : ""}`);
  $("tip").textContent = !row || psnr(row) === null ? "" : [`${name}: ${fixed(psnr(row))} dB`, ...told].join(", ");
}

function drawRows() {
  const columns = COLUMNS.filter(column => cell.images.some(row => column.of(row) !== null));
  const by = COLUMNS.find(column => column.key === sorting.by), last = by.text && !["estimated", "network"].includes(by.key) ? Infinity : "";
  const value = row => by.of(row) ?? last;
  const order = (a, b) => (value(a) > value(b)) - (value(a) < value(b));
  const rows = [...cell.images].sort((a, b) => sorting.down ? order(b, a) : order(a, b));
  const head = columns.map(({key, label, higher}) => {
    // The worst first, then the best.
    const sort = () => { sorting = {by: key, down: sorting.by === key ? !sorting.down : !higher}; drawRows(); };
    const direction = sorting.by === key ? sorting.down ? "descending" : "ascending" : "none";
    return make("th", {scope: "col", ariaSort: direction}, make("button", {textContent: label, onclick: sort}));
  });
  const shown = new Set(cell.exhibits.map(each => each.name));
  const look = name => { chooseExhibit(cell.exhibits.findIndex(each => each.name === name)); $("stage").focus(); };
  const entry = (row, column) => column.text ? make("td", {textContent: column.text(column.of(row))})
    : make("th", {scope: "row"}, shown.has(row.name)
      ? make("button", {textContent: row.name, title: "show", onclick: () => look(row.name)}) : row.name);
  $("rows").replaceChildren(make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...rows.slice(0, all ? Infinity : FEW).map(row => {
      const line = make("tr", {}, ...columns.map(column => entry(row, column)));
      if (row.name === picked) line.style.background = "var(--card)";
      return line;
    })));
  $("more").hidden = rows.length <= FEW;
  $("more").textContent = all ? "fewer" : `all ${rows.length}`;
}

function drawScatter() {
  const [label, values] = cell.axes[$("against").value] ?? ["", new Map()];
  const points = cell.images.map(row => [values.get(row.name) ?? null, psnr(row), row.name])
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
  $("about-samples").hidden = !kinds().includes("sample-1");
  look(1, 0, 0);
  showSides();
  pick(exhibit.name);
}

function caption(kind) {
  const {figures} = cell.images.find(row => row.name === exhibit.name);
  const db = {noisy: figures[NOISY], denoised: figures[PSNR]}[kind];
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
