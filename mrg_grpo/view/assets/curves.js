// Curves: one small chart per metric, in sections.

const WIDE = 270, TALL = 128, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;

function running(values) {
  // exponential mean over about a tenth of the run, corrected for its start
  const keep = 1 - 1 / Math.max(1, Math.min(20, values.length / 10));
  let sum = 0, weight = 0;
  return values.map((value) => {
    if (!isNumber(value)) return null;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return weight ? sum / weight : value;
  });
}

function ticks(low, high) {
  // two to five round numbers, each with as many digits as tell it from its neighbour
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const places = (nice) => [Math.ceil(low / nice - 1e-6), Math.floor(high / nice + 1e-6)];
  const nice = [1, 2, 5, 10].map((k) => k * step).find((k) => places(k)[1] - places(k)[0] < 5);
  const [least, most] = places(nice);
  const found = Array.from({ length: most - least + 1 }, (_, i) => (least + i) * nice);
  const size = Math.max(...found.map(Math.abs)), digits = (of) => Math.max(0, -Math.floor(Math.log10(of) + 1e-9));
  const [unit, mark] = [[1e9, "G"], [1e6, "M"], [1e4, "k"]].find(([from]) => size >= from) || [1, ""];
  const scale = mark === "k" ? 1000 : unit;
  const name = (tick) => {
    if (Math.abs(tick) < nice / 2) return "0";
    if (size < 0.001) return tick.toExponential(Math.max(0, digits(nice) - digits(Math.abs(tick))));
    return (tick / scale).toFixed(digits(nice / scale)) + mark;
  };
  return found.map((tick) => [tick, name(tick).replaceAll("-", "−")]);
}

function line(points, className) {
  let path = "", pen = "M";
  for (const [x, y] of points) {
    if (y === null) { pen = "M"; continue; }
    path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return svg("path", { d: path, class: className, fill: "none" });
}

function brief(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100000 || size < 0.001) return value.toExponential(2).replaceAll("-", "−");
  return String(+value.toPrecision(3)).replace("-", "−");
}

function chart(curve, index) {
  const known = curve.values.filter(isNumber);
  if (!known.length) return null;
  let low = Math.min(...known), high = Math.max(...known);
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) { // constant
    const pad = Math.abs(high) * 0.1;
    low -= pad;
    high += pad || 1;
  }
  const first = curve.steps[0], last = curve.steps[curve.steps.length - 1];
  const x = (step) => LEFT + (last === first ? 0.5 : (step - first) / (last - first)) * (WIDE - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (TALL - TOP - BOTTOM);
  const place = (values) => values.map((value, i) => [x(curve.steps[i]), isNumber(value) ? y(value) : null]);
  const smooth = running(curve.values);
  const cursor = svg("g", { class: "cursor", visibility: "hidden" }, svg("line", { y1: TOP, y2: TALL - BOTTOM }), svg("circle", { r: 3.5 }));
  const readout = el("output", { class: "readout" });
  const rest = () => {
    cursor.setAttribute("visibility", "hidden");
    readout.textContent = brief(known[known.length - 1]);
  };
  let at = curve.values.length - 1;
  const show = (i) => {
    at = Math.max(0, Math.min(curve.values.length - 1, i));
    const value = curve.values[at];
    readout.textContent = `step ${curve.steps[at]}: ${isNumber(value) ? brief(value) : "–"}`;
    if (!isNumber(value)) return;
    cursor.setAttribute("visibility", "visible");
    cursor.children[0].setAttribute("x1", x(curve.steps[at]));
    cursor.children[0].setAttribute("x2", x(curve.steps[at]));
    cursor.children[1].setAttribute("cx", x(curve.steps[at]));
    cursor.children[1].setAttribute("cy", y(value));
  };
  const few = known.length <= 12; // single evaluations are points, not a stream
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDE} ${TALL}`, tabindex: 0, role: "img", class: "plot",
    "aria-label": `${curve.name}: from ${number(known[0])} at step ${first} to ${number(known[known.length - 1])} at step ${last}`,
    onkeydown: (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: curve.values.length - 1 };
      if (event.key in moves) { event.preventDefault(); show(moves[event.key]); }
    },
    onfocus: () => show(at), onblur: rest,
    onpointermove: (event) => {
      const box = picture.getBoundingClientRect();
      const step = first + (((event.clientX - box.left) / box.width) * WIDE - LEFT) / (WIDE - LEFT - RIGHT) * (last - first);
      let best = 0;
      curve.steps.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(curve.steps[best] - step)) best = i; });
      show(best);
    },
    onpointerleave: rest,
  },
  ticks(low, high).map(([tick, name]) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(tick), y2: y(tick) }),
    svg("text", { class: "tick", x: LEFT - 6, y: y(tick) + 3.5, "text-anchor": "end" }, name),
  ]),
  [...new Set([first, last])].map((step, i) => svg("text", { class: "tick", x: x(step), y: TALL - 5, "text-anchor": last === first ? "middle" : i ? "end" : "start" }, String(step))),
  !isNumber(curve.chosen) ? null : [
    svg("line", { class: "chosen", x1: x(curve.chosen), x2: x(curve.chosen), y1: TOP, y2: TALL - BOTTOM }),
    svg("text", { class: "tick", x: x(curve.chosen) + (x(curve.chosen) > WIDE / 2 ? -4 : 4), y: TALL - BOTTOM - 5, "text-anchor": x(curve.chosen) > WIDE / 2 ? "end" : "start" }, `best: step ${curve.chosen}`),
  ],
  few ? null : line(place(curve.values), "raw"),
  line(place(few ? curve.values : smooth), "smooth"),
  few ? place(curve.values).filter(([, v]) => v !== null).map(([cx, cy]) => svg("circle", { class: "dot", cx, cy, r: 3 })) : null,
  cursor);
  rest();
  const tip = `meaning-${index}`;
  return el("figure", { class: "chart" },
    el("figcaption", {},
      el("span", { class: "hint", tabindex: 0, "aria-describedby": tip }, curve.name,
        el("span", { class: "tip", role: "tooltip", id: tip },
          el("span", {}, curve.meaning || "no meaning is known of this metric"),
          curve.healthy ? el("span", {}, el("b", {}, "healthy: "), curve.healthy) : null,
          curve.otherwise ? el("span", {}, el("b", {}, "when it is not: "), curve.otherwise) : null)),
      readout),
    picture);
}

function drawCurves(home, wanted) {
  const sections = [...new Set(DATA.curves.map((curve) => curve.section))].filter(wanted);
  for (const section of sections) {
    const charts = DATA.curves.map((curve, i) => (curve.section === section ? chart(curve, i) : null));
    if (charts.some(Boolean)) home.append(el("h3", {}, section), el("div", { class: "charts" }, charts));
  }
  if (!home.children.length) home.append(el("p", { class: "empty" }, "No step is logged yet."));
}
