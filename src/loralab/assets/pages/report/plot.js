"use strict";
// A chart of lines as inline SVG: it takes the theme's colours, prints sharply, and its text is text.

const MARGIN = { left: 52, right: 12, top: 8, bottom: 24 };

// lines: [{ run, name, points: [[x, y]], faint }]; marks: [{ run, x, y, words }]; holder: a figure in its place
function plot(holder, title, lines, marks, log) {
  const height = 260;
  const width = Math.max(240, holder.clientWidth);
  const finite = lines.flatMap(line => line.points).filter(([, y]) => y !== null && (!log || y > 0));
  if (!finite.length) return holder.append(make("p", { class: "note" }, "nothing to draw"));
  const xs = scale(finite.map(point => point[0]), MARGIN.left, width - MARGIN.right, false);
  const ys = scale(finite.map(point => point[1]), height - MARGIN.bottom, MARGIN.top, log);
  const words = `${title}: ${new Set(lines.map(line => line.run)).size} runs over ${numberText(xs.high)} steps, ` +
    `from ${numberText(ys.low)} to ${numberText(ys.high)}`;
  const svg = makeSvg("svg", { width, height, role: "img", "aria-label": words }, ...grid(xs, ys, width, height));
  const drawn = lines.map(line => drawLine(line, xs, ys, log));
  svg.append(...drawn.map(line => line.path));
  for (const { run, x, y, words } of marks) {
    const place = { cx: xs.at(x), cy: ys.at(y), r: 4, class: "mark-best", colour: colour(run), "data-run": run.index };
    svg.append(makeSvg("circle", place, makeSvg("title", {}, words)));
  }
  const tip = make("div", { class: "tip", hidden: true, role: "status" });
  holder.append(svg, tip);
  hover(svg, tip, drawn.filter(line => !line.faint), width);
}

function scale(values, from, to, log) {
  const of = log ? Math.log10 : value => value;
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  if (low === high) [low, high] = low ? [low * 0.9, high * 1.1].sort((a, b) => a - b) : [0, 1];
  const room = log ? 0 : 0.04 * (high - low) * (to < from);  // above and below
  [low, high] = [low - room, high + room];
  const at = value => from + (to - from) * (of(value) - of(low)) / (of(high) - of(low));
  return { low, high, at, ticks: log ? logTicks(low, high) : ticks(low, high) };
}

function ticks(low, high) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(each => each * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) found.push(Number((i * step).toPrecision(6)));
  return found;
}

function logTicks(low, high) {
  const powers = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) powers.push(...[1, 2, 5].map(n => n * 10 ** p));
  const inside = powers.filter(value => value >= low && value <= high);
  return inside.length > 1 ? inside : ticks(low, high);
}

function grid(xs, ys, width, height) {
  const bottom = height - MARGIN.bottom;
  return [
    ...ys.ticks.flatMap(value => [
      makeSvg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: ys.at(value), y2: ys.at(value) }),
      makeSvg("text", { x: MARGIN.left - 6, y: ys.at(value) + 4, "text-anchor": "end" }, numberText(value, 3)),
    ]),
    ...xs.ticks.filter(Number.isInteger).map(value =>
      makeSvg("text", { x: xs.at(value), y: bottom + 16, "text-anchor": "middle" }, numberText(value))),
  ];
}

function drawLine(line, xs, ys, log) {
  const places = line.points.map(([x, y]) => y === null || (log && y <= 0) ? null : [xs.at(x), ys.at(y), x, y]);
  let path = "", pen = "M";
  for (const place of places) {
    if (place) path += `${pen}${place[0].toFixed(1)},${place[1].toFixed(1)}`;
    pen = place ? "L" : "M";
  }
  const only = places.filter(Boolean).length === 1;
  const look = `line${line.faint ? " faint" : ""}${line.dashed ? " dashed" : ""}${only ? " dot" : ""}`;
  const attributes = { d: only ? path + "h0.1" : path, class: look, colour: colour(line.run), "data-run": line.run.index };
  return { ...line, places: places.filter(Boolean), path: makeSvg("path", attributes) };
}

// Names the run whose line is nearest to the pointer.
function hover(svg, tip, lines, width) {
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let nearest = null, best = 40 ** 2;
    for (const line of lines) {
      for (const place of line.places) {
        const far = (place[0] - x) ** 2 + (place[1] - y) ** 2;
        if (far < best) [nearest, best] = [{ line, place }, far];
      }
    }
    tip.hidden = !nearest;
    highlight(nearest ? nearest.line.run.index : null);
    if (!nearest) return;
    const [left, top, step, value] = nearest.place;
    const words = [nearest.line.name, `step ${step}`, numberText(value)].filter(Boolean).join(" · ");
    tip.replaceChildren(make("b", {}, nearest.line.run.name), make("span", {}, settingsText(nearest.line.run)), words);
    tip.style.left = `${Math.min(left + 12, width - 190)}px`;
    tip.style.top = `${top + 12}px`;
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    highlight(null);
  });
}
