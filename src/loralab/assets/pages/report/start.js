"use strict";
// Fills the page, and listens to its controls.

document.addEventListener("DOMContentLoaded", () => {
  RUNS.forEach((run, i) => { run.index = i; });
  find("facts").textContent = `${RUNS.length} run${RUNS.length > 1 ? "s" : ""} · written ${DATA.written} · loralab ${DATA.version}`;
  if (DATA.notes.length) {
    find("notes").append(make("details", { class: "finding", open: DATA.notes.length < 4 },
      make("summary", { class: "warning" }, `${DATA.notes.length} not shown, or not in full`),
      make("ul", {}, ...DATA.notes.map(words => make("li", {}, words)))));
  }
  find("all-label").hidden = DATA.settings.length <= FEW;
  startPictures();
  startGrids();
  startViewer();
  startHeatmap();
  startImages();
  startSettings();
  drawResult();
  drawSettings();
  listen();
  applyFilter();
  const sections = [...document.querySelectorAll("section")].filter(section => !section.hidden);
  find("contents").append(...sections.map(section => make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
});

function listen() {
  find("filter").addEventListener("input", applyFilter);
  find("all-settings").addEventListener("change", drawTable);
  const smoothing = find("smoothing");
  const smooth = () => {
    chosen.smoothing = Number(smoothing.value);
    find("smoothing-value").textContent = smoothing.value;
  };
  smooth();
  smoothing.addEventListener("input", () => { smooth(); drawCurves(); });
  find("log").addEventListener("change", event => { chosen.log = event.target.checked; drawCurves(); });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return;
    width = window.innerWidth;
    drawCurves();
  });
}
