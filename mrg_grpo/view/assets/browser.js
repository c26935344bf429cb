// The browser: tabs for sampled groups, test studies and followed studies; filters, order, list, and the chosen case.

const TABS = [
  { key: "groups", title: "Sampled groups", empty: "No group is written yet.", orders: ["step", "best reward", "mean reward", "reward spread", "largest advantage", "disagreement"] },
  { key: "tests", title: "Test studies, before and after", empty: "The test studies are here when the run has ended.", orders: ["gain in cosine", "cosine first", "cosine last", "disagreement"] },
  { key: "followed", title: "The same study over training", empty: "No validation study was followed in this run (run.follow_studies).", orders: ["study", "gain in cosine", "cosine first", "cosine last", "disagreement"] },
];
const SAYS = { any: "mentioned", 1: "+ positive", 3: "? uncertain", 2: "− negative", 0: "not mentioned", differ: "not as the reference" };
const PAGE = 60; // entries of the list drawn at once

const measure = (entry, name) => (name === "step" ? entry.step : name === "study" ? null : entry.numbers[name]);

function matches(entry, filter) {
  for (const [name, [low, high]] of Object.entries(filter.ranges)) {
    const value = measure(entry, name);
    if ((low !== null && !(value >= low)) || (high !== null && !(value <= high))) return false;
  }
  if (filter.condition >= 0) {
    const c = filter.condition, wanted = direction(entry.reference.labels[c]);
    const says = (report) => filter.says === "any" ? report.labels[c] !== 0
      : filter.says === "differ" ? direction(report.labels[c]) !== wanted : report.labels[c] === Number(filter.says);
    const where = filter.where === "reference" ? [entry.reference] : entry.reports;
    if (!where.some(says)) return false;
  }
  const words = filter.words.trim().toLowerCase();
  if (!words) return true;
  const texts = [entry.study_id, ...[entry.reference, ...entry.reports].map((r) => (r.pieces || []).map((p) => p.text).join(""))];
  return texts.some((words_) => words_.toLowerCase().includes(words));
}

function ordered(entries, order, rising) {
  const way = rising ? 1 : -1;
  const compare = (a, b) => order === "study" ? a.study_id.localeCompare(b.study_id) : measure(a, order) - measure(b, order);
  return entries.map((entry, i) => [entry, i]).sort(([a, i], [b, j]) => way * compare(a, b) || i - j).map(([entry]) => entry);
}

function emptyFilter() {
  return { condition: -1, says: "any", where: "reference", words: "", ranges: {} };
}

class Panel {
  constructor(tab) {
    this.tab = tab;
    this.cases = DATA[tab.key];
    const kept = memory.get(tab.key) || {};
    this.filter = { ...emptyFilter(), ...kept.filter };
    this.order = tab.orders.includes(kept.order) ? kept.order : tab.orders[0];
    this.rising = kept.rising ?? (this.order === "step" || this.order === "study");
    this.shown = PAGE;
    this.chosen = this.cases.find((entry) => entry.key === kept.chosen) || null;
    this.list = el("div", { class: "list", role: "listbox", "aria-label": tab.title, onkeydown: (event) => this.key(event) });
    this.count = el("p", { class: "count", role: "status" });
    this.column = el("span");
    this.detail = el("div", { class: "detail" });
    this.controls = el("div", { class: "controls" });
    this.node = el("div", { class: "panel", role: "tabpanel", id: `panel-${tab.key}`, "aria-labelledby": `tab-${tab.key}` },
      this.cases.length ? [el("div", { class: "side" }, this.controls, this.count, el("div", { class: "list-head", "aria-hidden": "true" }, el("span", {}, "study"), this.column), this.list), this.detail] : el("p", { class: "empty" }, tab.empty));
    if (this.cases.length) { this.drawControls(); this.update(); }
  }

  drawControls() {
    const choice = (name, label, options, value, set) => el("label", {}, label, el("select", { name, onchange: (event) => { set(event.target.value); this.update(); } },
      options.map(([key, words]) => el("option", { value: key, selected: String(key) === String(value) }, words))));
    const bound = (name, end) => el("input", {
      type: "number", step: "any", name: `${name} ${end ? "to" : "from"}`, "aria-label": `${name} ${end ? "at most" : "at least"}`, placeholder: end ? "to" : "from",
      value: this.filter.ranges[name]?.[end] ?? "",
      oninput: (event) => {
        const range = this.filter.ranges[name] || [null, null];
        range[end] = event.target.value === "" ? null : Number(event.target.value);
        this.filter.ranges[name] = range;
        this.update();
      },
    });
    const ranges = this.tab.orders.filter((name) => name !== "study");
    this.way = el("button", { type: "button", class: "way", onclick: () => { this.rising = !this.rising; this.update(); } });
    const inUse = this.filter.condition >= 0 || this.filter.words || Object.values(this.filter.ranges).flat().some(isNumber);
    this.controls.replaceChildren(
      el("div", { class: "row" },
        choice("order", "Sort by", this.tab.orders.map((name) => [name, name]), this.order, (value) => { this.order = value; this.rising = value === "step" || value === "study"; }), this.way),
      el("details", { open: Boolean(inUse) || window.innerWidth > 900 }, el("summary", {}, "Filter"),
        choice("condition", "Condition", [[-1, "any"], ...DATA.conditions.map((name, c) => [c, name])], this.filter.condition, (value) => { this.filter.condition = Number(value); }),
        el("div", { class: "row" },
          choice("says", "is", Object.entries(SAYS), this.filter.says, (value) => { this.filter.says = value; }),
          choice("where", "in", [["reference", "the reference"], ["reports", "some report"]], this.filter.where, (value) => { this.filter.where = value; })),
        el("label", {}, "Words or study", el("input", { type: "search", name: "words", value: this.filter.words, oninput: (event) => { this.filter.words = event.target.value; this.update(); } })),
        ranges.map((name) => el("div", { class: "range-row" }, el("span", {}, name), bound(name, 0), bound(name, 1))),
        el("button", { type: "button", class: "reset", onclick: () => { this.filter = emptyFilter(); this.drawControls(); this.update(); } }, "Clear filters")));
  }

  update() {
    this.found = ordered(this.cases.filter((entry) => matches(entry, this.filter)), this.order, this.rising);
    this.way.textContent = this.rising ? "↑ rising" : "↓ falling";
    this.way.setAttribute("aria-label", `order: ${this.rising ? "rising" : "falling"}; press to turn`);
    this.count.textContent = `${this.found.length.toLocaleString("en")} of ${this.cases.length.toLocaleString("en")} shown`;
    this.shown = PAGE;
    if (!this.found.includes(this.chosen)) this.chosen = this.found[0] || null;
    this.shown = Math.max(PAGE, this.found.indexOf(this.chosen) + 1);
    this.drawList();
    this.drawDetail();
  }

  // the number beside each study: what the list is sorted by
  get beside() { return this.order === "step" || this.order === "study" ? this.tab.orders[1] : this.order; }

  drawList() {
    this.column.textContent = this.beside;
    this.list.replaceChildren(...this.found.slice(0, this.shown).map((entry) => this.item(entry)));
    if (this.found.length > this.shown) {
      this.list.append(el("button", { type: "button", class: "more", onclick: () => { this.shown += PAGE; this.drawList(); } }, `show ${Math.min(PAGE, this.found.length - this.shown)} more`));
    }
  }

  item(entry) {
    const name = this.beside;
    const chosen = entry === this.chosen;
    return el("div", { class: "item", role: "option", "aria-selected": String(chosen), tabindex: chosen ? 0 : -1, "data-key": entry.key, onclick: () => this.choose(entry) },
      el("span", { class: "who" }, entry.study_id), isNumber(entry.step) ? el("span", { class: "muted" }, `step ${entry.step}`) : null,
      el("b", { class: "what", title: name }, name.startsWith("gain") ? signed(measure(entry, name)) : number(measure(entry, name), 2)), strip(entry.reference.labels, null, true));
  }

  choose(entry, focus = true) {
    this.chosen = entry;
    if (!this.found.includes(entry)) { this.filter = emptyFilter(); this.drawControls(); this.update(); return; }
    this.shown = Math.max(this.shown, this.found.indexOf(entry) + 1);
    this.drawList();
    this.drawDetail();
    const node = this.list.querySelector('[aria-selected="true"]');
    if (focus) node.focus({ preventScroll: true });
    // the list scrolls, never the page
    const top = node.offsetTop - this.list.offsetTop;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + node.offsetHeight > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + node.offsetHeight - this.list.clientHeight;
  }

  key(event) {
    const at = this.found.indexOf(this.chosen), last = this.found.length - 1;
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last, PageDown: at + 10, PageUp: at - 10 };
    if (!(event.key in moves) || at < 0) return;
    event.preventDefault();
    this.choose(this.found[Math.max(0, Math.min(last, moves[event.key]))]);
  }

  drawDetail() {
    this.detail.replaceChildren(this.chosen ? caseView(this.cases, this.chosen, (entry) => this.choose(entry, false)) : el("p", { class: "empty" }, "Nothing fits these filters."));
    this.keep();
  }

  keep() {
    memory.set(this.tab.key, { filter: this.filter, order: this.order, rising: this.rising, chosen: this.chosen?.key });
  }
}

function drawBrowser(home) {
  const panels = TABS.map((tab) => new Panel(tab));
  const tabs = panels.map((panel, i) => el("button", {
    type: "button", role: "tab", id: `tab-${panel.tab.key}`, "aria-controls": `panel-${panel.tab.key}`, onclick: () => open(i),
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { open((i + step + panels.length) % panels.length); tabs[(i + step + panels.length) % panels.length].focus(); }
    },
  }, panel.tab.title, el("span", { class: "muted" }, ` ${panel.cases.length}`)));
  const open = (chosen) => {
    panels.forEach((panel, i) => {
      panel.node.hidden = i !== chosen;
      tabs[i].setAttribute("aria-selected", String(i === chosen));
      tabs[i].setAttribute("tabindex", i === chosen ? 0 : -1);
    });
    memory.set("tab", chosen);
  };
  home.append(el("div", { class: "tabs", role: "tablist" }, tabs), ...panels.map((panel) => panel.node));
  const first = panels.findIndex((panel) => panel.cases.length);
  open(memory.get("tab") ?? Math.max(first, 0));
}
