"use strict";
// A metric over two swept settings: the mean of the runs of each cell. Of scores, the highest is the best.

const MEASURES = [
  ["validation/loss", "validation loss"], ["best", "lowest validation loss"], ["loss", "training loss"],
  ...SCORES.map(name => [name, name]), ["seconds", "time, s"], ["images_per_second", "images/s"], ["peak_memory_gb", "memory, GB"],
];

function startHeatmap() {
  const known = MEASURES.filter(([name]) => RUNS.some(run => (run.figures[name] ?? null) !== null));
  find("heat").hidden = !AXES.length || !known.length;
  fillSelect("measure", known, DATA.metric, drawHeatmap);
  fillSelect("heat-x", axisOptions(), AXES[0] ?? "", drawHeatmap);
  fillSelect("heat-y", axisOptions(), AXES[1] ?? "", drawHeatmap);
}

function drawHeatmap() {
  if (find("heat").hidden) return;
  const name = find("measure").value, x = find("heat-x").value, y = find("heat-y").value;
  const runs = chosen.shown.filter(run => (run.figures[name] ?? null) !== null);
  const mean = some => some.reduce((sum, run) => sum + run.figures[name], 0) / some.length;
  const cells = [];
  const table = axesTable(runs, x, y, some => {
    if (!some.length) return ["–"];
    const words = make("b", {}, numberText(mean(some)));
    cells.push({ value: mean(some), words });
    return [words, some.length > 1 ? make("small", {}, `${some.length} runs`) : null];
  });
  const values = cells.map(cell => cell.value), low = Math.min(...values), high = Math.max(...values);
  const best = SCORES.includes(name) ? high : low;
  for (const { value, words } of cells) {
    const td = words.parentNode;
    td.style.setProperty("--share", high > low ? `${Math.round(100 * (value - low) / (high - low))}%` : "0%");
    td.className = value === best ? "cell best" : "cell";
  }
  find("heatmap").replaceChildren(table);
}
