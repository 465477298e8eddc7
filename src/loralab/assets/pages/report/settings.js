"use strict";
// The command of a run to copy, and what differs between the settings of two.

function startSettings() {
  const options = RUNS.map((run, i) => [i, runText(run)]);
  fillSelect("one", options, 0, drawSettings);
  fillSelect("other", [["", "–"], ...options], RUNS.length > 1 ? 1 : "", drawSettings);
  const same = Object.entries(DATA.same);
  find("same-title").textContent = RUNS.length > 1 ? `${same.length} settings that all runs share` : `all ${same.length} settings`;
  find("same").append(make("table", { class: "plain" }, make("tbody", {}, ...same.map(([key, value]) =>
    make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, valueText(value)))))));
}

function showSettings(run) {
  find("one").value = run.index;
  drawSettings();
  find("settings").scrollIntoView();
  find("one").focus();
}

function drawSettings() {
  const one = RUNS[find("one").value], other = RUNS[find("other").value];
  find("commands").replaceChildren(...[one, other].filter(Boolean).map(run => make("div", { class: "command" },
    make("p", {}, make("b", {}, run.name), ` ${run.folder}`, run.error ? make("span", { class: "error" }, ` ${run.error}`) : null),
    ...run.commands.map(words => make("div", { class: "copy" }, make("pre", {}, make("code", {}, words)),
      make("button", { onclick: event => copy(words, event.target), title: words }, "copy"))))));
  if (!other) return find("diff").replaceChildren();
  const differs = key => JSON.stringify(one.values[key] ?? null) !== JSON.stringify(other.values[key] ?? null);
  const rows = DATA.settings.filter(differs).map(key => make("tr", {}, make("th", { scope: "row" }, key),
    make("td", {}, valueText(one.values[key])), make("td", {}, valueText(other.values[key]))));
  const head = ["", one.name, other.name].map(words => make("th", { scope: "col" }, words));
  find("diff").replaceChildren(rows.length
    ? make("table", { class: "plain" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))
    : make("p", { class: "note" }, "Their settings are the same."));
}
