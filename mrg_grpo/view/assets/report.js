// One report: its strip of 13 cells, its text with the findings coloured, its rewards.

// class id -> shape, word, style. Shape and word say what the colour says.
const SIGNS = {
  0: { mark: "", word: "not mentioned", style: "blank" },
  1: { mark: "+", word: "positive", style: "pos" },
  2: { mark: "−", word: "negative", style: "neg" },
  3: { mark: "?", word: "uncertain", style: "unc" },
};
const direction = (label) => [0, 1, -1, 1][label]; // as the reward reads it: uncertain counts as positive

function describe(labels) {
  const said = labels.map((label, c) => (label ? `${DATA.conditions[c]} ${SIGNS[label].word}` : null)).filter(Boolean);
  return said.length ? said.join(", ") : "no condition mentioned";
}

function strip(labels, reference, small) {
  return el("div", { class: small ? "strip small" : "strip", role: "img", "aria-label": describe(labels) },
    labels.map((label, c) => {
      const differs = reference && direction(label) !== direction(reference[c]);
      const words = `${DATA.conditions[c]}: ${SIGNS[label].word}` + (differs ? `; the reference: ${SIGNS[reference[c]].word}` : "");
      return el("span", { class: `cell ${SIGNS[label].style}${differs ? " differs" : ""}`, title: words, "data-c": c },
        small ? null : el("span", { class: "code" }, DATA.codes[c]), el("span", { class: "sign" }, SIGNS[label].mark || " "));
    }));
}

function text(pieces) {
  return el("p", { class: "text" }, pieces.map((piece) => {
    if (!piece.findings.length) return piece.text;
    const styles = new Set(piece.findings.map(([, label]) => SIGNS[label].style));
    return el("mark", { class: styles.size === 1 ? [...styles][0] : "mixed", "data-c": piece.findings.map(([c]) => c).join(" ") },
      piece.text, piece.findings.map(([c, label]) => el("span", {
        class: `tag ${SIGNS[label].style}`, title: `${SIGNS[label].word}: ${DATA.conditions[c]}`,
      }, `\u2060${SIGNS[label].mark}${DATA.codes[c]}`))); // a word joiner: the first tag stays with its sentence
  }));
}

function balance(advantage, largest) {
  const half = largest ? (Math.abs(advantage) / largest) * 50 : 0;
  return svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "balance", "aria-hidden": "true" },
    svg("rect", { class: "bed", width: 100, height: 8 }),
    svg("rect", { class: advantage < 0 ? "down" : "up", x: advantage < 0 ? 50 - half : 50, width: half, height: 8 }),
    svg("rect", { class: "middle", x: 49.6, width: 0.8, height: 8 }));
}

function figures(report) {
  const rows = Object.entries(report.rewards).map(([name, value]) => [name, number(value, 2)]);
  rows.push(["cosine", number(report.cosine, 2)]);
  return el("dl", { class: "figures" }, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function reportCard(report, reference, largest) {
  const judged = isNumber(report.advantage);
  return el("article", { class: "card", "aria-label": report.name },
    el("header", {},
      el("h4", {}, report.name),
      report.compliant === null ? null : el("span", { class: report.compliant ? "form" : "form broken", title: "the asked form: <think>…</think><report>…</report>" }, report.compliant ? "✓ form" : "✗ form"),
      judged ? el("span", { class: "reward" }, "reward ", el("b", {}, number(report.reward, 2))) : null),
    judged ? el("div", { class: "advantage" }, el("span", {}, "advantage ", el("b", {}, signed(report.advantage))), balance(report.advantage, largest)) : null,
    strip(report.labels, reference.labels),
    report.pieces ? (report.pieces.some((piece) => piece.text.trim()) ? text(report.pieces) : el("p", { class: "muted" }, "(an empty report)"))
      : el("p", { class: "muted" }, "(text not kept)"),
    report.relabelled ? el("p", { class: "muted" }, "The labeler at hand reads this text otherwise than the run did.") : null,
    figures(report),
    report.think ? el("details", {}, el("summary", {}, "think"), el("p", { class: "text" }, report.think)) : null,
    report.raw ? el("details", {}, el("summary", {}, "whole completion"), el("p", { class: "text raw" }, report.raw)) : null);
}

function caseView(cases, shown, choose) {
  const reference = shown.reference;
  const largest = Math.max(...shown.reports.map((report) => Math.abs(report.advantage || 0)));
  const judged = shown.reports.some((report) => isNumber(report.advantage));
  const reports = judged ? [...shown.reports].sort((a, b) => b.reward - a.reward) : shown.reports;
  const again = cases.filter((other) => other.study_id === shown.study_id);
  const view = el("div", { class: "case" },
    el("h3", {}, shown.study_id, isNumber(shown.step) ? el("span", { class: "muted" }, ` sampled at step ${shown.step}`) : null),
    again.length > 1 ? el("p", { class: "again" }, "The same study: ", again.map((other) => el("button", {
      type: "button", "aria-pressed": String(other === shown), onclick: () => choose(other),
    }, `step ${other.step}`))) : null,
    el("div", { class: "truth" },
      el("div", { class: "xrays" }, shown.pictures.map((p, i) => el("img", { src: DATA.pictures[p], alt: `X-ray of ${shown.study_id}, view ${i + 1}` })),
        shown.unseen.map((line) => el("p", { class: "muted" }, line))),
      el("div", {}, shown.context ? el("p", { class: "muted" }, shown.context) : null,
        el("h4", {}, "reference"), strip(reference.labels, null),
        reference.pieces ? text(reference.pieces) : el("p", { class: "muted" }, "(text not kept)"),
        shown.lesson ? el("p", { class: "lesson" }, el("b", {}, "What the group taught. "), shown.lesson) : null)),
    el("div", { class: "cards" }, reports.map((report) => reportCard(report, reference, largest))));
  // pointing at a cell shows the sentences that carry its finding, and the other way round
  const point = (event) => {
    const at = event.type === "pointerover" ? event.target.closest("[data-c]") : null;
    const wanted = at ? at.dataset.c.split(" ") : [];
    for (const node of view.querySelectorAll("[data-c]")) {
      node.classList.toggle("lit", node.dataset.c.split(" ").some((c) => wanted.includes(c)));
    }
  };
  view.addEventListener("pointerover", point);
  view.addEventListener("pointerleave", point);
  return view;
}

function drawLegend(home) {
  const cell = (label) => el("span", { class: `cell ${SIGNS[label].style}` }, el("span", { class: "sign" }, SIGNS[label].mark || " "));
  home.append(
    ...[1, 3, 2, 0].map((label) => el("span", { class: "entry" }, cell(label), SIGNS[label].word)),
    el("span", { class: "entry" }, el("span", { class: "cell blank differs" }, el("span", { class: "sign" }, " ")), "barred: not as the reference (uncertain counts as positive)"),
    el("details", { class: "codes" }, el("summary", {}, "the 13 conditions"),
      el("dl", {}, DATA.codes.map((code, c) => el("div", {}, el("dt", {}, code), el("dd", {}, DATA.conditions[c]))))));
}
