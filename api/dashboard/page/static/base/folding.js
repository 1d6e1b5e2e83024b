// The filters of a list. On a phone they are folded behind a button, which counts those that are in force.

import { h } from "./dom.js";
import { changed } from "./state.js";

const unfolded = new Set(); // names of lists

/** Returns the button and the fields behind it. `inForce`: how many of them filter now. */
export function folded(name, inForce, ...fields) {
  const isOpen = unfolded.has(name);
  return [
    h(
      "button",
      { key: "fold", type: "button", class: "button fold", "aria-expanded": String(isOpen), on: { click: () => turn(name) } },
      inForce ? `Filters (${inForce})` : "Filters",
    ),
    h("div", { key: "folded", class: `folded ${isOpen ? "open" : ""}` }, fields),
  ];
}

function turn(name) {
  if (!unfolded.delete(name)) unfolded.add(name);
  changed();
}
