"use strict";
// Sample pictures at one training step: runs × prompts, or one prompt over two swept settings.

const STEPS = [...new Set(RUNS.flatMap(run => run.pictures.map(picture => picture[0])))].sort((a, b) => a - b);
let cells = [];  // what the sheet shows, in order: { run, column, image, button }

function startPictures() {
  find("pictures").hidden = !STEPS.length;
  for (const run of RUNS) {
    run.columns = DATA.prompts.map(() => []);
    for (const picture of run.pictures) run.columns[picture[1]].push(picture);
  }
  chosen.step = STEPS.length - 1;
  find("step").max = find("viewer-step").max = STEPS.length - 1;
  find("step").addEventListener("input", event => showStep(Number(event.target.value)));
  for (const radio of document.getElementsByName("layout")) {
    radio.addEventListener("change", () => { chosen.layout = radio.value; drawSheet(); });
  }
  fillSelect("prompt", DATA.prompts.map((text, i) => [i, promptWords(text).slice(0, 80)]), 0, drawSheet);
  fillSelect("x", axisOptions(), AXES[0] ?? "", drawSheet);
  fillSelect("y", axisOptions(), AXES[1] ?? "", drawSheet);
}

function promptWords(text) {
  return text.split("\nNegative prompt:")[0] || "(no words)";
}

// The last picture up to the chosen step, of runs that drew at other steps; null where there is none.
function pictureAt(run, column) {
  return run.columns[column].filter(picture => picture[0] <= STEPS[chosen.step]).pop() ?? null;
}

function pictureText(run, column) {
  const picture = pictureAt(run, column);
  return `${promptWords(DATA.prompts[column])} · ${runText(run)}` + (picture ? ` · step ${picture[0]}` : "");
}

function drawSheet() {
  if (find("pictures").hidden) return;
  cells = [];
  const xy = chosen.layout === "xy";
  for (const control of document.querySelectorAll(".xy")) control.hidden = !xy;
  const shown = chosen.shown.filter(run => run.pictures.length), column = Number(find("prompt").value);
  const some = runs => runs.map(run => shot(run, column)).filter(Boolean);
  find("sheet").replaceChildren(xy ? axesTable(shown, find("x").value, find("y").value, some) : promptTable(shown));
  showStep(chosen.step);
}

function promptTable(runs) {
  const used = DATA.prompts.map((text, i) => i).filter(i => runs.some(run => run.columns[i].length));
  const head = used.map(i => make("th", { scope: "col", title: DATA.prompts[i] },
    make("span", { class: "words" }, promptWords(DATA.prompts[i]))));
  const rows = runs.map(run => make("tr", { "data-run": run.index },
    make("th", { scope: "row" }, run.name, make("small", {}, settingsText(run))),
    ...used.map(i => make("td", {}, shot(run, i)))));
  return make("table", { class: "axes" }, make("thead", {}, make("tr", {}, make("td"), ...head)), make("tbody", {}, ...rows));
}

// A thumbnail that opens the viewer; null where the run never drew the prompt.
function shot(run, column) {
  if (!run.columns[column].length) return null;
  const [, , , width, height] = run.columns[column][0], place = cells.length;
  const image = make("img", { loading: "lazy", decoding: "async", width, height, alt: "" });
  if (Math.max(width, height) <= 128) image.className = "pixels";
  const button = make("button", { class: "shot", "data-run": run.index, onclick: () => openViewer(place) }, image);
  cells.push({ run, column, image, button });
  return button;
}

// Only sources change: those outside the window are loaded when they come into it.
function showStep(step) {
  chosen.step = step;
  find("step").value = step;
  find("step-value").textContent = find("viewer-value").textContent = `${STEPS[step]} of ${STEPS[STEPS.length - 1]}`;
  for (const { run, column, image, button } of cells) {
    const picture = pictureAt(run, column), source = picture ? `${run.media}/${picture[2]}.webp` : "";
    button.classList.toggle("none", !picture);
    if (image.getAttribute("src") === source) continue;
    if (picture) image.src = source;
    else image.removeAttribute("src");
    image.alt = picture ? pictureText(run, column) : `no picture yet · ${runText(run)}`;
  }
}
