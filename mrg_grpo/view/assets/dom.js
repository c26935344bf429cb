"use strict";
// Small helpers. All text reaches the page through text nodes and attributes: nothing of a run is ever parsed as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const byId = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function number(value, digits = 3) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1).replace("-", "−");
  return (size >= 100 ? value.toFixed(size >= 1000 || Number.isInteger(value) ? 0 : 1) : value.toFixed(digits)).replace("-", "−");
}

const signed = (value, digits = 2) => (!isNumber(value) ? "–" : (value > 0 ? "+" : "") + number(value, digits));

// What is remembered over a reload; a browser may refuse it to a page from disk, then nothing is.
const memory = {
  get(key) {
    try { return JSON.parse(sessionStorage.getItem(`mrg-grpo ${DATA.title} ${key}`)); } catch { return null; }
  },
  set(key, value) {
    try { sessionStorage.setItem(`mrg-grpo ${DATA.title} ${key}`, JSON.stringify(value)); } catch { /* refused */ }
  },
};
