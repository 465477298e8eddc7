"use strict";
// What the page shows, how its values read, and what the user has chosen.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
const METRIC = { loss: "training loss", "validation/loss": "validation loss" }[DATA.metric] ?? DATA.metric;
const BEST = DATA.higher ? "highest" : "lowest";
const SCORES = ["score/images", "score/prompt", "score/diversity"];  // the higher, the better
const AXES = DATA.axes.filter(key => distinct(RUNS, key).length <= 30);  // more make no axis

const chosen = { shown: RUNS, sort: null, down: false, smoothing: 0.6, log: false, layout: "grid", step: 0 };

function distinct(runs, key) {
  const values = new Map(runs.map(run => [JSON.stringify(run.values[key] ?? null), run.values[key] ?? null]));
  return [...values.values()].sort(inOrder);
}

function inOrder(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function numberText(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size <= 1e-3 || size >= 1e6)) return value.toExponential(digits - 1).replace(/\.?0+e\+?/, "e");
  return String(Number(value.toPrecision(Number.isInteger(value) ? 9 : digits)));
}

function valueText(value, key = "") {
  if (value === null || value === undefined) return "null";
  if (typeof value === "number") {
    return value && Math.abs(value) <= 0.01 ? value.toExponential().replace("e+", "e") : numberText(value, 6);
  }
  if (key.endsWith("_target_")) return String(value).split(".").pop();
  return typeof value === "string" ? value : JSON.stringify(value);
}

function durationText(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.round(seconds), parts = [Math.floor(s / 3600), Math.floor(s / 60) % 60, s % 60];
  if (parts[0]) return `${parts[0]} h ${parts[1]} min`;
  return parts[1] ? `${parts[1]} min ${parts[2]} s` : `${parts[2]} s`;
}

// Of each setting the last part of its key, unless two that differ end alike.
const SHORT = Object.fromEntries(DATA.settings.map(key => {
  const last = name => name.replace(/\._target_$/, "").split(".").pop();
  return [key, DATA.settings.filter(other => last(other) === last(key)).length > 1 ? key.replace(/\._target_$/, "") : last(key)];
}));

function settingsText(run, keys = AXES) {
  return keys.slice(0, 6).map(key => `${SHORT[key]}=${valueText(run.values[key], key)}`).join(" · ");
}

function runText(run) {
  return run.text ??= [run.name, settingsText(run)].filter(Boolean).join(" · ");
}

// Runs that differ by their seed only have one colour.
function colour(run) {
  const few = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
  if (DATA.groups.length <= few.length) return `var(${few[run.group]})`;
  return `hsl(${Math.round(run.group * 137.5) % 360} 65% var(--lines))`;
}
