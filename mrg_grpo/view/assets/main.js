// The page as a whole: head, theme, sections, and the look for a newer page.

function drawHead() {
  byId("title").textContent = DATA.title;
  byId("facts").append(...DATA.facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  byId("notes").append(...DATA.notes.map((note) => el("p", { class: "muted" }, note)));
  if (DATA.banner) { byId("banner").textContent = DATA.banner; byId("banner").hidden = false; }
}

function themes() {
  // what the system asks for, until the button says otherwise
  const button = byId("theme"), asked = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (memory.get("theme") || (asked.matches ? "dark" : "light")) === "dark";
  const apply = () => {
    document.documentElement.dataset.theme = dark() ? "dark" : "light";
    button.textContent = dark() ? "☀ light" : "☾ dark";
    button.setAttribute("aria-label", `switch to ${dark() ? "light" : "dark"} colours`);
  };
  let choice = null;
  button.addEventListener("click", () => {
    choice = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    memory.set("theme", choice);
    apply();
    document.documentElement.dataset.theme = choice; // also where nothing may be remembered
    button.textContent = choice === "dark" ? "☀ light" : "☾ dark";
  });
  asked.addEventListener("change", () => { if (!choice) apply(); });
  apply();
}

function watchForNewer() {
  if (!DATA.refresh) return;
  let frame = null;
  addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || !event.data || !event.data.mrgGrpoStamp) return;
    frame.remove();
    frame = null;
    if (event.data.mrgGrpoStamp === DATA.stamp) return;
    memory.set("scroll", window.scrollY);
    location.reload();
  });
  setInterval(() => {
    if (document.hidden) return;
    if (frame) frame.remove();
    frame = el("iframe", { hidden: true, "aria-hidden": "true", tabindex: -1, title: "is there a newer page?", src: `${location.href.split(/[?#]/)[0]}?probe${Date.now()}` });
    document.body.append(frame);
  }, DATA.refresh * 1000);
}

drawHead();
themes();
drawSides(byId("sides"));
drawBars(byId("bars"));
drawLegend(byId("legend"));
drawBrowser(byId("browser"));
drawCurves(byId("learned"), (section) => DATA.top.includes(section));
drawCurves(byId("charts"), (section) => !DATA.top.includes(section));
watchForNewer();
const scrolled = memory.get("scroll");
if (scrolled) { memory.set("scroll", 0); window.scrollTo(0, scrolled); }
