"use strict";
// One picture in full. Left and right step through the sheet, up and down through the training.

let viewed = 0;

function startViewer() {
  find("previous").addEventListener("click", () => view(viewed - 1));
  find("next").addEventListener("click", () => view(viewed + 1));
  find("viewer-step").addEventListener("input", event => viewStep(Number(event.target.value)));
  find("viewer").addEventListener("close", () => cells[viewed].button.focus());
  find("viewer").addEventListener("click", event => { if (event.target === find("viewer")) find("viewer").close(); });
  find("viewer").addEventListener("keydown", event => {
    const moves = {
      ArrowLeft: () => view(viewed - 1), ArrowRight: () => view(viewed + 1),
      ArrowUp: () => viewStep(chosen.step + 1), ArrowDown: () => viewStep(chosen.step - 1),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
}

function openViewer(place) {
  view(place);
  find("viewer").showModal();
  find("next").focus();
}

function view(place) {
  viewed = (place + cells.length) % cells.length;
  const { run, column } = cells[viewed], picture = pictureAt(run, column), image = find("large");
  find("viewer-step").value = chosen.step;
  image.alt = pictureText(run, column);
  image.className = picture && Math.max(picture[3], picture[4]) <= 256 ? "pixels" : "";
  if (picture) image.src = `${run.media}/${picture[2]}.png`;
  else image.removeAttribute("src");
  find("legend").replaceChildren(make("b", {}, promptWords(DATA.prompts[column])),
    make("span", {}, `${runText(run)} · ${picture ? `step ${picture[0]}` : "no picture yet"}`));
}

function viewStep(step) {
  showStep(Math.min(Math.max(step, 0), STEPS.length - 1));
  view(viewed);
}
