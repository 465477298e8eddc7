"use strict";
// Two swept settings as the axes of a table: of pictures, or of a metric.

function axisOptions() {
  return [["", "–"], ...AXES.map(key => [key, key])];
}

// A table with a column for each value of x, a row for each of y; cell(runs) makes the contents of a cell.
function axesTable(runs, x, y, cell) {
  const xs = x ? distinct(runs, x) : [null], ys = y ? distinct(runs, y) : [null];
  const has = (run, key, value) => !key || JSON.stringify(run.values[key] ?? null) === JSON.stringify(value);
  const words = (key, value) => key ? `${SHORT[key]}=${valueText(value, key)}` : "";
  const head = xs.map(value => make("th", { scope: "col" }, words(x, value)));
  const rows = ys.map(b => make("tr", {}, make("th", { scope: "row" }, words(y, b)), ...xs.map(a =>
    make("td", {}, ...cell(runs.filter(run => has(run, x, a) && has(run, y, b)))))));
  return make("table", { class: "axes" }, make("thead", {}, make("tr", {}, make("td"), ...head)), make("tbody", {}, ...rows));
}
