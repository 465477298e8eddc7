"use strict";
// The result: the best settings, their spread over seeds, and which others cannot be told apart from them.

function groupRuns(index) {
  return RUNS.filter(run => run.group === index);
}

function groupText(index) {
  return settingsText(groupRuns(index)[0], AXES.filter(key => key !== "seed")) || groupRuns(index)[0].name;
}

function figureText(group) {
  return numberText(group.mean) + (group.spread === null ? "" : ` ± ${numberText(group.spread, 2)}`);
}

function verdictOf(group, index) {
  if (index === DATA.best) return BEST;
  if (!group.comparison) return group.seeds ? "not known: fewer than two seeds in common" : "no result";
  return group.comparison.distinguishable ? "worse" : "not distinguishable";
}

function drawResult() {
  const best = DATA.groups[DATA.best];
  find("result").hidden = !best || DATA.groups.length < 2;
  if (find("result").hidden) return;
  const alike = DATA.groups.flatMap((group, i) => verdictOf(group, i) === "not distinguishable" ? [groupText(i)] : []);
  const compared = DATA.groups.some(group => group.comparison);
  const certainty = !compared ? "Without several seeds, how much of the difference is chance is not known: sweep seed=0,1,2, too." :
    alike.length ? `Not distinguishable from it: ${alike.join("; ")}.` : "Every other that was compared over seeds is worse.";
  find("verdict").replaceChildren(
    make("p", { class: "verdict" }, `${DATA.higher ? "Highest" : "Lowest"} ${METRIC}: ${figureText(best)} with ${groupText(DATA.best)}`),
    make("p", {}, certainty));
  if (compared) find("seeds").append(...seedTable());
}

function seedTable() {
  const order = DATA.groups.map((group, i) => [group, i]).filter(([group]) => group.seeds);
  order.sort((a, b) => (DATA.higher ? -1 : 1) * (a[0].mean - b[0].mean));
  const heads = ["settings", "seeds", `mean ${METRIC}`, "± between seeds", `${DATA.higher ? "from" : "above"} the ${BEST}`, "95 % interval", ""];
  const rows = order.map(([group, i]) => {
    const c = group.comparison;
    const cells = [group.seeds, numberText(group.mean), numberText(group.spread, 2), c ? numberText(c.mean, 3) : "",
      c ? `${numberText(c.low, 3)} to ${numberText(c.high, 3)}` : "", verdictOf(group, i)];
    const swatch = make("span", { class: "swatch", colour: colour({ group: i }), "aria-hidden": "true" }, "●");
    return make("tr", {}, make("th", { scope: "row" }, swatch, groupText(i)),
      ...cells.map((cell, n) => make("td", { class: n < 5 && "number" }, String(cell))));
  });
  const head = heads.map((words, n) => make("th", { scope: "col", class: n > 0 && n < 6 && "number" }, words));
  const same = DATA.higher ? "" : ", on the same validation images, noise and timesteps";
  const method = `Differences are taken seed by seed${same}. The interval is a ` +
    "percentile bootstrap over seeds (10,000 resamples); up to ten seeds, at least as wide as Student's t.";
  return [make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
    make("p", { class: "note" }, method)];
}
