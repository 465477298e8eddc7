"use strict";
// Elements are made from text only: nothing that the page shows is ever read as markup.

function find(id) {
  return document.getElementById(id);
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "colour") element.style.color = value;
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function fillSelect(id, options, initial, changed) {
  const select = find(id);
  select.replaceChildren(...options.map(([value, words]) => make("option", { value }, words)));
  if (initial !== undefined) select.value = initial;
  select.addEventListener("change", changed);
  return select;
}

// Shows one run above the others, wherever it appears.
function highlight(index) {
  for (const element of document.querySelectorAll(".hot")) element.classList.remove("hot");
  document.body.classList.toggle("has-hot", index !== null);
  if (index === null) return;
  for (const element of document.querySelectorAll(`[data-run="${index}"]`)) element.classList.add("hot");
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not allowed for files in some browsers
    const area = make("textarea", {}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}
