"use strict";
// The training images that a run learns worst and best, and its tags.

function startImages() {
  const known = RUNS.filter(run => run.images);
  find("images").hidden = !known.length;
  if (!known.length) return;
  fillSelect("images-run", known.map(run => [run.index, runText(run)]), known[0].index, drawImages);
  drawImages();
}

function drawImages() {
  const { images } = RUNS[find("images-run").value], groups = Object.entries(images.groups);
  const cards = groups.flatMap(([, some]) => some), extent = extentOf(cards.flatMap(card => card.curve));
  find("images-facts").textContent = `${images.samples} samples of ${images.images} images, steps ${images.steps.join(" to ")}. ` +
    `${images.baseline} In brackets are 95 % intervals. Change is that from the first to the last third of the run` +
    `${images.change === null ? "" : `, of the median image ${ratioText(images.change)}`}.` +
    (images.measured ? " Learnt is the loss with the adapter as a multiple of the base model's, fit the base model's loss with the " +
      "caption as a multiple of that without: above 1, the caption misleads it." : "");
  find("images-groups").replaceChildren(...groups.flatMap(([title, some]) =>
    [make("h3", {}, title), make("div", { class: "gallery" }, ...some.map(card => imageCard(card, extent)))]));
  find("images-tags").replaceChildren(...images.tags.length ? tagTable(images.tags, images.measured ? "learnt least" : "the hardest") : []);
}

function imageCard(card, extent) {
  const source = card.thumbnail && `${DATA.media}/training_images/${card.thumbnail}.webp`;
  const shown = source ? make("img", { class: "thumb", src: source, alt: card.caption || card.name, loading: "lazy" })
    : make("div", { class: "missing" }, "image not found");
  if (source) shown.addEventListener("load", () => shown.classList.toggle("pixels", Math.max(shown.naturalWidth, shown.naturalHeight) <= 64));
  return make("div", { class: "card", title: card.path }, shown,
    make("b", {}, card.name),
    ...card.reasons.map(words => make("span", { class: "error" }, words)),
    ...["learnt", "fit"].filter(name => card[name]).map(name => make("span", {}, `${name} × ${intervalText(card[name])}`)),
    make("span", {}, `loss × ${intervalText(card.loss)}`),
    make("span", {}, `change × ${intervalText(card.change)}`),
    spark(card.curve, extent),
    make("span", { class: "caption", title: card.caption }, card.caption));
}

// The loss over the run, on a logarithmic scale that all images share; the line is the baseline, at 1.
function spark(curve, [low, high]) {
  const place = value => 32 - 30 * (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low) || 1);
  const known = curve.map((value, i) => [100 * i / Math.max(1, curve.length - 1), value]).filter(([, value]) => value !== null);
  if (known.length < 2) return null;
  const path = known.map(([x, value], i) => `${i ? "L" : "M"}${x.toFixed(1)},${place(value).toFixed(1)}`).join("");
  const words = `loss over the run: × ${ratioText(known[0][1])} to × ${ratioText(known.at(-1)[1])}`;
  return makeSvg("svg", { class: "spark", viewBox: "0 0 100 34", preserveAspectRatio: "none", role: "img", "aria-label": words },
    makeSvg("title", {}, words), makeSvg("line", { x1: 0, x2: 100, y1: place(1), y2: place(1) }), makeSvg("path", { d: path }));
}

function extentOf(values) {
  const known = values.filter(value => value !== null);
  return [known.reduce((a, b) => Math.min(a, b), 1), known.reduce((a, b) => Math.max(a, b), 1)];
}

function tagTable(tags, worst) {
  const kinds = [["learnt", tag => tag.learnt], ["loss", tag => tag.loss], ["change", tag => tag.change]].filter(([, of]) => tags.some(of));
  const head = ["tag", "images", ...kinds.flatMap(([name]) => [`${name} ×`, "95 %"])].map((words, i) =>
    make("th", { scope: "col", class: i > 0 && "number" }, words));
  const rows = tags.map(tag => make("tr", {}, make("th", { scope: "row" }, tag.tag),
    ...[String(tag.images), ...kinds.flatMap(([, of]) => [ratioText(of(tag).value), rangeText(of(tag))])].map(words =>
      make("td", { class: "number" }, words))));
  return [make("h3", {}, `Tags: their images against those without, ${worst} first`),
    make("table", { class: "plain" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))];
}

function ratioText(value) {
  return value === null ? "–" : value.toFixed(2);
}

function rangeText(ratio) {
  return ratio.low === null || ratio.high === null ? "–" : `${ratioText(ratio.low)}–\u2060${ratioText(ratio.high)}`;  // without a line break
}

function intervalText(ratio) {
  return ratio.low === null ? ratioText(ratio.value) : `${ratioText(ratio.value)} (${rangeText(ratio)})`;
}
