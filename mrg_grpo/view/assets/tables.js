// The before/after table with intervals, and F1 of each condition.

function interval(cell) {
  if (!cell || !isNumber(cell.value)) return "–";
  const range = isNumber(cell.low) ? ` [${number(cell.low)}, ${number(cell.high)}]` : "";
  return [el("b", {}, number(cell.value)), el("span", { class: "range" }, range)];
}

function forest(row) {
  // both intervals on one axis from 0 to 1; a metric of another scale has no picture
  const ends = [row.before, row.after].flatMap((cell) => [cell.low, cell.high, cell.value]);
  if (!ends.every((end) => isNumber(end) && end >= -0.001 && end <= 1.001)) return null;
  const x = (value) => 6 + value * 148;
  const mark = (cell, y, name, shape) => svg("g", { class: name },
    svg("line", { x1: x(cell.low), x2: x(cell.high), y1: y, y2: y }), shape(x(cell.value), y));
  return svg("svg", { viewBox: "0 0 160 24", class: "forest", "aria-hidden": "true" },
    [0, 0.25, 0.5, 0.75, 1].map((tick) => svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 0, y2: 24 })),
    mark(row.before, 7, "before", (cx, cy) => svg("rect", { x: cx - 3.5, y: cy - 3.5, width: 7, height: 7 })),
    mark(row.after, 17, "after", (cx, cy) => svg("circle", { cx, cy, r: 4 })));
}

function clear(difference) {
  return isNumber(difference.low) && (difference.low > 0 || difference.high < 0);
}

function sideTable(title, side) {
  const rows = Object.entries(side.metrics).map(([name, row]) => el("tr", {},
    el("th", { scope: "row" }, DATA.metric_titles[name] || name),
    el("td", {}, interval(row.before)), el("td", {}, interval(row.after)),
    el("td", { class: clear(row.difference) ? "clear" : "" }, isNumber(row.difference.value)
      ? [el("b", {}, signed(row.difference.value, 3)), el("span", { class: "range" }, ` [${number(row.difference.low)}, ${number(row.difference.high)}]`)]
      : "–"),
    el("td", { class: "picture" }, forest(row))));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}, before and after` },
    el("table", {}, el("caption", {}, `${title}, ${side.studies.toLocaleString("en")} studies`),
      el("thead", {}, el("tr", {}, ["metric", "before", "after", "difference"].map((head) => el("th", { scope: "col" }, head)),
        el("th", { scope: "col", class: "picture" }, el("span", { class: "key before" }, "■ before"), " ", el("span", { class: "key after" }, "● after")))),
      el("tbody", {}, rows)));
}

function drawSides(home) {
  const sides = Object.entries(DATA.sides);
  home.append(...sides.map(([title, side]) => sideTable(title, side)));
  home.append(el("p", { class: "muted" }, sides.length
    ? "95% bootstrap intervals over studies, differences resampled in pairs. A difference in bold colour has an interval without 0."
    : "The table is here when the run has ended: it decodes the test split before and after."));
}

function drawBars(home) {
  if (!DATA.bars.length) { home.hidden = true; return; }
  home.append(el("figcaption", {}, "F1 of each condition ", el("span", { class: "muted" }, "(uncertain as positive; n: references that state it)")));
  for (const bar of DATA.bars) {
    const one = (value, name) => el("span", { class: `track ${name}` }, svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "bed", width: 100, height: 8 }), svg("rect", { class: "fill", width: 100 * (value || 0), height: 8 })));
    const words = bar.stated === 0 ? `${bar.condition}: no F1, no reference states it`
      : `${bar.condition}: F1 before ${number(bar.before)}, after ${number(bar.after)}`;
    home.append(el("div", { class: "bar", role: "img", "aria-label": words, title: words },
      el("span", { class: "label" }, bar.condition, el("span", { class: "muted" }, isNumber(bar.stated) ? ` n ${bar.stated}` : "")),
      el("span", { class: "tracks" }, one(bar.before, "before"), one(bar.after, "after")),
      el("span", { class: "values" }, el("span", { class: "before" }, number(bar.before, 2)), el("span", { class: "after" }, number(bar.after, 2)))));
  }
}
