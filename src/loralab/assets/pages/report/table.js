"use strict";
// The table of runs: one row a run, sorted by its headings, filtered by words and comparisons.

const FEW = 8;

function columns() {
  const settings = find("all-settings").checked ? DATA.settings : DATA.settings.slice(0, FEW);
  const figure = (title, name, text = numberText) => ({
    title, value: run => run.figures[name], text: run => text(run.figures[name]), number: true,
  });
  const spread = run => {
    const group = DATA.groups[run.group];
    return group.spread === null ? "–" : `${numberText(group.mean)} ± ${numberText(group.spread, 2)}`;
  };
  const all = [
    { title: "run", value: run => run.name, text: run => run.name },
    { title: "status", value: run => run.status, text: run => run.status },
    ...settings.map(key => ({
      title: key, value: run => run.values[key], text: run => valueText(run.values[key], key),
      number: RUNS.every(run => typeof (run.values[key] ?? 0) === "number"),
    })),
    figure("validation loss", "validation/loss"),
    { title: "lowest", value: run => run.figures.best, number: true,
      text: run => run.figures.best === null ? "–" : `${numberText(run.figures.best)} at ${run.figures.best_step}` },
    { title: "mean ± seeds", value: run => DATA.groups[run.group].spread === null ? null : DATA.groups[run.group].mean,
      text: spread, number: true },
    figure("training loss", "loss"),
    ...SCORES.map(name => figure(name, name)),
    figure("time", "seconds", durationText),
    figure("images/s", "images_per_second"),
    figure("memory, GB", "peak_memory_gb"),
    figure("steps", "steps"),
  ];
  const useful = c => c.title === "steps" ? distinctFigures("steps") > 1 : RUNS.some(run => (c.value(run) ?? null) !== null);
  return all.filter(c => !c.number || useful(c));
}

function distinctFigures(name) {
  return new Set(RUNS.map(run => run.figures[name])).size;
}

function matches(run, words) {
  const cells = columns().map(c => [c.title.toLowerCase(), c.value(run), c.text(run).toLowerCase()]);
  const everything = [...cells.map(cell => cell[2]), run.folder.toLowerCase()].join("\n");
  return words.every(word => {
    const parts = word.match(/^([^<>=!]+)(<=|>=|!=|<|>|=)(.+)$/);
    const cell = parts && cells.find(([title]) => title === parts[1] || title.endsWith("." + parts[1]));
    return cell ? holds(cell, parts[2], parts[3]) : everything.includes(word);
  });
}

function holds([, value, text], sign, given) {
  const number = Number(given), numeric = typeof value === "number" && !Number.isNaN(number);
  if (sign === "=") return numeric ? value === number : text === given;
  if (sign === "!=") return numeric ? value !== number : text !== given;
  if (!numeric) return false;
  return { "<": value < number, ">": value > number, "<=": value <= number, ">=": value >= number }[sign];
}

function applyFilter() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  chosen.shown = RUNS.filter(run => matches(run, words));
  find("count").textContent = `${chosen.shown.length} of ${RUNS.length}`;
  drawTable();
  drawCurves();
  drawSheet();
  drawHeatmap();
}

function sorted(runs, column) {
  const empty = run => (column.value(run) ?? null) === null;
  const order = (a, b) => empty(a) - empty(b) || (chosen.down ? -1 : 1) * inOrder(column.value(a), column.value(b));
  return [...runs].sort(order);
}

function drawTable() {
  const shown = columns(), by = shown.find(column => column.title === chosen.sort);
  const heading = column => {
    const sorting = column === by ? (chosen.down ? "descending" : "ascending") : null;
    const sort = () => {
      chosen.down = chosen.sort === column.title && !chosen.down;
      chosen.sort = column.title;
      drawTable();
      find("table").querySelector("[aria-sort] button").focus();
    };
    return make("th", { scope: "col", class: column.number && "number", "aria-sort": sorting },
      make("button", { onclick: sort }, column.title));
  };
  const values = RUNS.map(run => run.figures[DATA.metric] ?? null).filter(value => value !== null);
  const rows = (by ? sorted(chosen.shown, by) : chosen.shown).map(run => row(run, shown, DATA.higher ? Math.max(...values) : Math.min(...values)));
  find("table").replaceChildren(make("thead", {}, make("tr", {}, ...shown.map(heading))), make("tbody", {}, ...rows));
}

function row(run, shown, value) {
  const name = make("th", { scope: "row" },
    make("button", { class: "name", title: "settings and command", onclick: () => showSettings(run) },
      make("span", { class: "swatch", colour: colour(run), "aria-hidden": "true" }, "●"), run.name));
  const cells = shown.slice(1).map(column => {
    const best = column.title === METRIC && column.value(run) === value;
    const bad = column.title === "status" && run.status !== "finished";
    const words = make(best ? "strong" : "span", { title: best ? `the ${BEST}` : bad && run.error }, column.text(run));
    return make("td", { class: [column.number && "number", bad && "unusual"].filter(Boolean).join(" ") }, words);
  });
  const on = () => highlight(run.index), off = () => highlight(null);
  const heard = { onmouseenter: on, onmouseleave: off, onfocusin: on, onfocusout: off };
  return make("tr", { "data-run": run.index, ...heard }, name, ...cells);
}
