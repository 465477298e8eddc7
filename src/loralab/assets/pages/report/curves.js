"use strict";
// The charts: training loss, validation loss, the gap between both kinds of images, scores, learning rate.

function points(curve) {
  return curve ? curve[0].map((step, i) => [step, curve[1][i]]) : [];
}

// An exponential moving average without the bias of its start.
function smoothed(given, weight) {
  let mean = 0, sum = 0;
  return given.map(([x, y]) => {
    if (y === null) return [x, y];
    [mean, sum] = [weight * mean + (1 - weight) * y, weight * sum + 1 - weight];
    return [x, mean / sum];
  });
}

function gap(run) {
  const trained = new Map(points(run.curves["validation/trained"]));
  return points(run.curves["validation/loss"]).filter(([step]) => trained.has(step)).map(([step, loss]) => {
    const other = trained.get(step);
    return [step, loss === null || other === null ? null : loss - other];
  });
}

function best(run) {
  const { best_step: x, best: y } = run.figures;
  return x === null ? [] : [{ run, x, y, words: `lowest validation loss of ${run.name}: ${numberText(y)} at step ${x}` }];
}

function bestOfGap(run) {
  return best(run).flatMap(mark => gap(run).filter(([step]) => step === mark.x).map(([, y]) => ({ ...mark, y })));
}

function drawCurves() {
  find("plots").replaceChildren();
  const runs = chosen.shown, log = chosen.log;
  const lines = of => runs.map(run => ({ run, points: of(run) })).filter(line => line.points.length);
  const losses = lines(run => points(run.curves.loss));
  const smooth = losses.map(line => ({ ...line, points: smoothed(line.points, chosen.smoothing) }));
  const raw = runs.length <= 8 && chosen.smoothing > 0 ? losses.map(line => ({ ...line, faint: true })) : [];
  const rates = runs.flatMap(run => Object.keys(run.curves).filter(name => name.startsWith("lr/")).map((name, i) =>
    ({ run, name, points: points(run.curves[name]), dashed: i > 0 })));
  const charts = [
    ["training loss", [...raw, ...smooth], [], log],
    ["validation loss, ● lowest", lines(run => points(run.curves["validation/loss"])), runs.flatMap(best), log],
    ["gap: validation loss − loss on images trained on, ● step of the lowest validation loss", lines(gap),
      runs.flatMap(bestOfGap), false],
    ...SCORES.map(name => [`${name} of the pictures`, lines(run => points(run.curves[name])), [], false]),
    ["learning rate", rates, [], false],
  ].filter(([, drawn]) => drawn.length);
  const holders = charts.map(([title]) => make("figure", { class: "plot" }, make("figcaption", {}, title)));
  find("plots").append(...holders);  // all, before the first is drawn: they share the width
  charts.forEach((chart, i) => plot(holders[i], ...chart));
  if (!charts.length) {
    const words = "No curves: these runs wrote neither TensorBoard's event files nor a CSV file into their folders.";
    find("plots").append(make("p", { class: "note" }, words));
  }
}
