"use strict";
// What the page of a heap profile is about: `data` is what profile_html.py says, `shown` what the reader has chosen,
// `tree` the stacks as they are drawn: arrays by node, parents before their children, node 0 for all.
// Nothing recurses: stacks may be deep. profile_page.js, which follows in the same script, draws it.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("profile").textContent);
const shown = { live: data.live, bytes: true, up: false, hidden: new Set(), find: "", column: 1 };
let tree, zoomed = 0;
// What the colours tell, as name and text: sources, or heaps where there are several. `column` is where a stack has its own.
let kinds = data.sources;

// ---- words ----

function size(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  for (; count >= 999.5 && power < units.length - 1; power++) count /= 1024;
  return `${count.toFixed(power === 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2)} ${units[power]}`;
}
const blocks = (count) => `${Math.round(count).toLocaleString("en-US")} block${Math.round(count) === 1 ? "" : "s"}`;
const amount = (value) => (shown.bytes ? size(value) : blocks(value));
const share = (part, whole) => (whole > 0 ? `${((100 * part) / whole).toFixed(part < whole / 10 ? 1 : 0)} %` : "0 %");
const kind = () => (data.grown ? "more " : "") + (shown.live ? "live" : "allocated in total");

function place(frame) {
  const [name, file, line] = data.frames[frame];
  return { name, file: data.files[file][1] && `${data.files[file][0]}:${line}`, path: `${data.files[file][1]}:${line}` };
}
function label(node) {
  return node === 0 ? "all" : data.frames[tree.frame[node]][0];
}
function element(tag, text, more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

// ---- the tree ----

const offset = () => 3 + (shown.live ? 0 : 2);
const visible = () => data.stacks.filter((stack) => !shown.hidden.has(stack[shown.column]) && stack[offset()] + stack[offset() + 1] > 0);

/** The nodes of the picture, and for each visible stack the one where it ends. */
function planted() {
  const stacks = visible(), ends = new Map();
  if (!shown.up) {
    for (const stack of stacks) ends.set(stack, stack[0]);
    return { parent: data.parents, frame: data.places, stacks, ends };
  }
  const parent = [0], frame = [-1], children = new Map(), width = data.frames.length;
  for (const stack of stacks) {
    let at = 0;
    for (let from = stack[0]; from; from = data.parents[from]) {
      const step = at * width + data.places[from];
      let next = children.get(step);
      if (next === undefined) {
        next = parent.length;
        parent.push(at);
        frame.push(data.places[from]);
        children.set(step, next);
      }
      at = next;
    }
    ends.set(stack, at);
  }
  return { parent, frame, stacks, ends };
}

function grow() {
  const { parent, frame, stacks, ends } = planted();
  const count = parent.length, first = offset() + (shown.bytes ? 0 : 1), second = offset() + (shown.bytes ? 1 : 0);
  const value = new Float64Array(count), other = new Float64Array(count), by = new Float64Array(count * kinds.length);
  const depth = new Int32Array(count);
  for (const stack of stacks) {
    value[ends.get(stack)] += stack[first];
    other[ends.get(stack)] += stack[second];
    by[ends.get(stack) * kinds.length + stack[shown.column]] += stack[first];
  }
  const own = value.slice();
  for (let node = 1; node < count; node++) depth[node] = depth[parent[node]] + 1;
  for (let node = count - 1; node > 0; node--) {
    value[parent[node]] += value[node];
    other[parent[node]] += other[node];
    for (let k = 0; k < kinds.length; k++) by[parent[node] * kinds.length + k] += by[node * kinds.length + k];
  }
  tree = { parent, frame, stacks, ends, count, value, other, own, by, depth };
  place_all();
}

/** Each node's children, the largest first, and where it begins on the scale that ends at the value of all. */
function place_all() {
  const { parent, value, count } = tree;
  const children = Array.from({ length: count }, () => null), start = new Float64Array(count);
  for (let node = 1; node < count; node++) if (value[node] > 0) (children[parent[node]] ||= []).push(node);
  for (let node = 0; node < count; node++) {
    let at = start[node];
    for (const child of (children[node] || []).sort((a, b) => value[b] - value[a] || a - b)) {
      start[child] = at;
      at += value[child];
    }
  }
  Object.assign(tree, { children, start });
}

/** For each node whether it is the zoomed one or below it. */
function inside() {
  const is = new Uint8Array(tree.count);
  is[zoomed] = 1;
  for (let node = zoomed + 1; node < tree.count; node++) is[node] = is[tree.parent[node]];
  return is;
}
