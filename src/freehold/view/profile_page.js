// The flame graph of a heap profile, and what stands around it: drawn on a canvas, steered with mouse and keys.
// Only what is wide enough to be seen is drawn, so that its cost is the picture's, not the profile's.
// What a program calls its files and functions reaches the page only as text.

const ROW = 20, LEAST = 0.5, SHADES = 5; // pixels: a frame's height, and the width below which none is drawn
const HUES = { numpy: 255, arrow: 62, obj: 152, mem: 200, raw: 118, malloc: 302, block: 0, other: 255 };
const ANY = [255, 62, 152, 302, 0, 200, 118];
const graph = $("graph"), canvas = graph.querySelector("canvas"), pen = canvas.getContext("2d");
let picked = 0, view = [0, 1], moving = 0, colours = [], letter = 7, matches = [];

// ---- drawing ----

function paint_box() {
  const style = getComputedStyle(document.documentElement), get = (name) => style.getPropertyValue(name).trim();
  const light = parseFloat(get("--light")), vivid = parseFloat(get("--vivid"));
  colours = kinds.map(([name], k) => { // all of one lightness, so that text can be read on each
    const tone = `${name === "other" ? 0.012 : vivid} ${HUES[name] ?? ANY[k % ANY.length]}`;
    return Array.from({ length: SHADES }, (_, i) => `oklch(${light + 0.02 * (i - 2)} ${tone})`);
  });
  colours.ink = get("--on");
  colours.all = get("--rule");
  colours.outline = get("--ink");
  for (const swatch of $("legend").querySelectorAll("i")) swatch.style.setProperty("--hue", hue(swatch.dataset.kind));
}
const hue = (k) => colours[k][2];

/** The source that has most of a node, and a shade of it by file, so that neighbours can be told apart. */
function fill(node) {
  if (node === 0) return colours.all;
  let most = 0;
  for (let k = 1; k < kinds.length; k++) if (tree.by[node * kinds.length + k] > tree.by[node * kinds.length + most]) most = k;
  return colours[most][(data.frames[tree.frame[node]][1] * 7 + tree.frame[node]) % SHADES];
}

function fit() {
  const rows = 1 + tree.deepest, height = Math.min(rows * ROW, Math.max(240, Math.round(innerHeight * 0.66)));
  const sharp = devicePixelRatio || 1;
  graph.style.height = `${height}px`;
  const width = graph.clientWidth;
  canvas.style.height = `${height}px`;
  graph.querySelector("i").style.height = `${rows * ROW - height}px`;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  pen.font = "12px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
  pen.textBaseline = "middle";
  letter = pen.measureText("mmmmmmmmmm").width / 10;
  draw();
}

function draw() {
  const width = graph.clientWidth, height = canvas.clientHeight, scale = width / (view[1] - view[0] || 1);
  pen.clearRect(0, 0, width, height);
  const waiting = tree.value[0] > 0 ? [0] : [];
  while (waiting.length) {
    const node = waiting.pop(), x = (tree.start[node] - view[0]) * scale, end = x + tree.value[node] * scale;
    const y = tree.depth[node] * ROW - graph.scrollTop;
    if (end < 0 || x > width || end - x < LEAST || y > height) continue;
    if (y > -ROW) box(node, Math.max(0, x), Math.min(width, end), y);
    for (const child of tree.children[node] || []) {
      if (tree.value[child] * scale < LEAST) break; // those after it are smaller still
      waiting.push(child);
    }
  }
}

function box(node, x, end, y) {
  const wide = end - x - (end - x > 3 ? 1 : 0), dim = node && tree.hit && !tree.hit[tree.frame[node]];
  pen.globalAlpha = dim ? 0.3 : 1;
  pen.fillStyle = fill(node);
  pen.fillRect(x, y, wide, ROW - 1);
  if (wide > 6 && node) stripe(node, x, wide, y + ROW - 4);
  if (wide > 3 * letter) {
    pen.fillStyle = node ? colours.ink : colours.outline;
    const room = Math.floor((wide - 8) / letter), name = label(node);
    const more = node ? place(tree.frame[node]).file : ` ${amount(tree.value[0])} ${kind()}`;
    const text = name.length + 2 < room && more ? `${name}  ${more}` : name;
    pen.fillText(text.length > room ? `${text.slice(0, Math.max(1, room - 1))}…` : text, x + 4, y + ROW / 2 - 0.5);
  }
  pen.globalAlpha = 1;
  if (node === picked && node) {
    pen.strokeStyle = colours.outline;
    pen.lineWidth = 2;
    pen.strokeRect(x + 1, y + 1, Math.max(1, wide - 2), ROW - 3);
  }
}

/** Where a node is of several sources: their shares, along its lower edge. */
function stripe(node, x, wide, y) {
  const at = node * kinds.length, value = tree.value[node];
  let mine = 0;
  for (let k = 0; k < kinds.length; k++) if (tree.by[at + k] > 0.01 * value) mine++;
  if (mine < 2) return;
  for (let k = 0; k < kinds.length; k++) {
    const part = (wide * tree.by[at + k]) / value;
    pen.fillStyle = colours[k][0];
    pen.fillRect(x, y, part, 3);
    x += part;
  }
}

// ---- looking around ----

function zoom(node, glide = true) {
  zoomed = node;
  $("tip").hidden = true;
  const is = inside(), to = [tree.start[node], tree.start[node] + tree.value[node]];
  tree.deepest = 0;
  for (let i = 0; i < tree.count; i++) if (is[i] && tree.value[i] > 0) tree.deepest = Math.max(tree.deepest, tree.depth[i]);
  $("reset").disabled = node === 0;
  $("caption").textContent = node ? `Lines below ${label(node)}` : "Lines";
  fit();
  graph.scrollTop = Math.max(0, (tree.depth[node] - 2) * ROW);
  fill_lines(is);
  tell();
  turn(to, glide && !matchMedia("(prefers-reduced-motion: reduce)").matches ? 160 : 0);
}

/** Move the view to *to* within so many milliseconds. */
function turn(to, during) {
  const from = view, began = performance.now(), mine = ++moving;
  const step = (now) => {
    if (mine !== moving) return;
    const done = during ? Math.min(1, Math.max(0, (now - began) / during)) : 1, eased = 1 - (1 - done) ** 3;
    view = done === 1 ? to : [from[0] + (to[0] - from[0]) * eased, from[1] + (to[1] - from[1]) * eased];
    draw();
    if (done < 1) requestAnimationFrame(step);
  };
  step(began);
}

function leave() {
  picked = 0;
  zoom(0);
}

function pick(node) {
  picked = node;
  $("tip").hidden = true;
  const y = tree.depth[node] * ROW, height = canvas.clientHeight;
  if (y < graph.scrollTop) graph.scrollTop = y;
  if (y + ROW > graph.scrollTop + height) graph.scrollTop = y + ROW - height;
  const wide = ((view[1] - view[0]) * 3) / (graph.clientWidth || 1);
  if (tree.value[node] < wide && tree.parent[node] !== zoomed) zoom(tree.parent[node]);
  draw();
  tell();
}

function node_at(event) {
  const frame = canvas.getBoundingClientRect();
  const depth = Math.floor((event.clientY - frame.top + graph.scrollTop) / ROW);
  const at = view[0] + ((event.clientX - frame.left) / frame.width) * (view[1] - view[0]);
  let node = 0;
  while (node !== undefined && tree.depth[node] < depth)
    node = (tree.children[node] || []).find((child) => at >= tree.start[child] && at < tree.start[child] + tree.value[child]);
  return node !== undefined && tree.value[node] > 0 ? node : undefined;
}

/** What can be said of a node, as rows of name and value. */
function figures(node) {
  const value = tree.value[node], other = tree.other[node], rows = [];
  rows.push([shown.bytes ? size(value) : blocks(value), kind()]);
  const each = size(shown.bytes ? value / other : other / value);
  rows.push([shown.bytes ? blocks(other) : size(other), value > 0 && other > 0 ? `${shown.bytes ? "" : "in blocks "}of ${each} on average` : ""]);
  rows.push([share(value, tree.value[0]), "of all that is shown"]);
  if (zoomed) rows.push([share(value, tree.value[zoomed]), "of what is zoomed to"]);
  if (!shown.up && tree.own[node] > 0) rows.push([amount(tree.own[node]), "allocated here itself"]);
  return rows;
}

function tell() {
  const node = picked || zoomed, where = node ? place(tree.frame[node]) : { name: "all", file: "" };
  const said = figures(node).map((row) => row.join(" ").trim()).join(" · ");
  $("told").replaceChildren(element("b", where.name), where.file ? ` ${where.file} · ` : " · ", said);
}

function hover(event) {
  const node = node_at(event), tip = $("tip");
  tip.hidden = node === undefined;
  graph.style.cursor = node === undefined ? "default" : "pointer";
  if (node === undefined) return;
  const where = node ? place(tree.frame[node]) : { name: "all", path: "" }, table = element("table", "");
  for (const [value, name] of figures(node)) table.insertRow().append(element("td", value), element("td", name));
  kinds.forEach(([, name], k) => {
    const part = tree.by[node * kinds.length + k];
    if (part <= 0) return;
    const cell = element("td", ""), swatch = element("i", "");
    swatch.style.setProperty("--hue", hue(k));
    cell.append(swatch, name);
    table.insertRow().append(element("td", amount(part)), cell);
  });
  tip.replaceChildren(element("b", where.name), element("div", where.file ? where.path : "", { className: "file" }), table);
  const right = event.clientX + 16 + tip.offsetWidth < innerWidth, low = event.clientY + 18 + tip.offsetHeight < innerHeight;
  tip.style.left = `${right ? event.clientX + 16 : Math.max(4, event.clientX - 12 - tip.offsetWidth)}px`;
  tip.style.top = `${low ? event.clientY + 18 : Math.max(4, event.clientY - 12 - tip.offsetHeight)}px`;
}

// ---- searching ----

/** Mark the frames that are looked for; tell how much is in them, nothing twice. */
function search() {
  const looked = shown.find.trim().toLowerCase(), topmost = [], covered = new Uint8Array(tree.count);
  tree.hit = null;
  let sum = 0;
  if (looked) {
    tree.hit = data.frames.map((_, i) => `${place(i).name} ${place(i).path} ${place(i).file}`.toLowerCase().includes(looked));
    for (let node = 1; node < tree.count; node++) {
      covered[node] = covered[tree.parent[node]];
      if (covered[node] || tree.value[node] <= 0 || !tree.hit[tree.frame[node]]) continue;
      covered[node] = 1;
      topmost.push(node);
      sum += tree.value[node];
    }
  }
  matches = topmost.sort((a, b) => tree.value[b] - tree.value[a]);
  $("found").textContent = looked ? (sum > 0 ? `${amount(sum)}, ${share(sum, tree.value[0])}` : "nothing found") : "";
  draw();
}

/** Zoom to the next of what was found, the largest first. */
function next_match() {
  if (!matches.length) return;
  const node = matches[(matches.indexOf(picked) + 1) % matches.length];
  zoom(node);
  pick(node);
}

function look_for(text) {
  $("find").value = shown.find = text;
  search();
}

// ---- around the picture ----

/** The lines that allocated most in what is zoomed to: themselves, and with all that they called. */
function fill_lines(is) {
  const count = data.frames.length, first = offset() + (shown.bytes ? 0 : 1), second = offset() + (shown.bytes ? 1 : 0);
  const itself = new Float64Array(count), under = new Float64Array(count), also = new Float64Array(count);
  const seen = new Int32Array(count).fill(-1);
  tree.stacks.forEach((stack, turn) => {
    if (!is[tree.ends.get(stack)]) return;
    itself[data.places[stack[0]]] += stack[first];
    also[data.places[stack[0]]] += stack[second];
    for (let node = stack[0]; node; node = data.parents[node]) {
      const frame = data.places[node];
      if (seen[frame] === turn) continue;
      seen[frame] = turn;
      under[frame] += stack[first];
    }
  });
  const order = [...itself.keys()].filter((i) => under[i] > 0);
  order.sort((a, b) => itself[b] - itself[a] || under[b] - under[a]);
  const whole = tree.value[zoomed];
  $("lines").tBodies[0].replaceChildren(...order.slice(0, 50).map((i) => line(i, itself[i], under[i], also[i], whole)));
  for (const bar of $("lines").querySelectorAll("i")) bar.style.width = `${(2.6 * bar.dataset.part) / (itself[order[0]] || 1)}rem`;
}

function line(frame, itself, under, also, whole) {
  const row = document.createElement("tr"), where = place(frame), cell = element("td", "");
  const link = element("a", `${where.name} `, { href: "#", title: where.path });
  link.append(element("span", where.file));
  link.onclick = (event) => {
    event.preventDefault();
    look_for(where.file || where.name);
    graph.scrollIntoView({ block: "nearest" });
  };
  cell.append(link);
  const bar = element("i", ""), parted = element("td", share(itself, whole), { className: "share" });
  bar.dataset.part = itself;
  parted.prepend(bar);
  const counted = Math.round(shown.bytes ? also : itself).toLocaleString("en-US");
  row.append(cell, element("td", amount(itself)), parted, element("td", amount(under)), element("td", counted));
  return row;
}

/** What each source has, whether or not it is left out. */
function fill_legend() {
  const at = offset() + (shown.bytes ? 0 : 1), sums = new Float64Array(kinds.length);
  for (const stack of data.stacks) sums[stack[shown.column]] += stack[at];
  const whole = sums.reduce((a, b) => a + b, 0);
  for (const button of $("legend").children) {
    const k = Number(button.dataset.kind);
    button.setAttribute("aria-pressed", String(!shown.hidden.has(k)));
    button.querySelector("span").textContent = `${amount(sums[k])}, ${share(sums[k], whole)}`;
  }
}

function make_legend() {
  $("legend").replaceChildren();
  kinds.forEach(([, name], k) => {
    const button = element("button", "", { type: "button" }), swatch = element("i", "");
    button.dataset.kind = swatch.dataset.kind = k;
    button.append(swatch, element("b", name), element("span", ""));
    button.onclick = () => {
      if (!shown.hidden.delete(k)) shown.hidden.add(k);
      renew();
    };
    $("legend").append(button);
  });
}

/** Show what was chosen, all of it: the tree is another one. */
function renew() {
  for (const [id, is] of [["live", shown.live], ["allocated", !shown.live], ["bytes", shown.bytes], ["blocks", !shown.bytes],
    ["down", !shown.up], ["up", shown.up], ["sources", shown.column === 1], ["heaps", shown.column === 2]]) $(id).setAttribute("aria-pressed", String(is));
  grow();
  picked = 0;
  fill_legend();
  $("total").firstElementChild.textContent = amount(tree.value[0]);
  $("total").lastElementChild.textContent =
    `${kind()}${shown.hidden.size ? " of those chosen" : ""}, ${shown.bytes ? blocks(tree.other[0]) : size(tree.other[0])}, estimated`;
  search();
  zoom(0, false);
}

const choose = (id, name, value) => ($(id).onclick = () => {
  shown[name] = value;
  renew();
});

function steer(event) {
  const node = picked || zoomed, around = (tree.children[tree.parent[node]] || []).filter(() => node);
  const steps = {
    ArrowDown: () => (tree.children[node] || [])[0], ArrowUp: () => node && tree.parent[node],
    ArrowLeft: () => around[around.indexOf(node) - 1], ArrowRight: () => around[around.indexOf(node) + 1], Home: () => 0,
  };
  if (event.key in steps) {
    const to = steps[event.key]();
    if (to !== undefined) pick(to);
  } else if (event.key === "Enter" || event.key === " ") zoom(node);
  else if (event.key === "Backspace") zoom(tree.parent[zoomed]);
  else return;
  event.preventDefault();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target === $("find");
  if (event.key === "Escape") {
    if (writing && shown.find) look_for("");
    else if (writing) graph.focus();
    else if (zoomed || picked) leave();
    else look_for("");
  } else if (writing) {
    if (event.key === "Enter") next_match();
    return;
  } else if (event.key === "/") $("find").select();
  else if (event.key === "t") $(shown.live ? "allocated" : "live").click();
  else if (event.key === "o") $(shown.up ? "down" : "up").click();
  else return;
  event.preventDefault();
}

/** Colour by source, or by heap. */
function tell_apart(column) {
  shown.column = column;
  shown.hidden.clear();
  kinds = column === 1 ? data.sources : data.heaps.map((name) => ["", name]);
  make_legend();
  paint_box();
  renew();
}

choose("live", "live", true);
choose("allocated", "live", false);
choose("bytes", "bytes", true);
choose("blocks", "bytes", false);
choose("down", "up", false);
choose("up", "up", true);
$("sources").onclick = () => tell_apart(1);
$("heaps").onclick = () => tell_apart(2);
$("sources").parentElement.hidden = data.heaps.length < 2;
tell_apart(1);
$("reset").onclick = leave;
$("find").oninput = (event) => look_for(event.target.value);
graph.onclick = (event) => {
  const node = node_at(event);
  if (node === undefined) return;
  picked = node;
  zoom(node);
};
graph.onmousemove = hover;
graph.onmouseleave = () => ($("tip").hidden = true);
graph.onscroll = () => {
  $("tip").hidden = true;
  draw();
};
graph.onkeydown = steer;
document.onkeydown = keys;
new ResizeObserver(fit).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").onchange = () => {
  paint_box();
  draw();
};
