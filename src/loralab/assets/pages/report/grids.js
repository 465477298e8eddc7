"use strict";
// The sheets of loralab grid; a click opens one in full.

function startGrids() {
  find("grids").hidden = !DATA.grids.length;
  find("sheets").append(...DATA.grids.map(grid => make("figure", {},
    make("a", { href: `${grid.file}.png`, target: "_blank", rel: "noopener" },
      make("img", { src: `${grid.file}.webp`, alt: `Grid: ${grid.title}`, width: grid.width, height: grid.height, loading: "lazy" })),
    make("figcaption", {}, grid.title, make("small", {}, ` ${grid.place}`)))));
}
