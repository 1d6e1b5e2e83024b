// The bar of a selection, at the bottom of the window: what is selected above it keeps its place. On a phone it is one
// row, with what does not fit behind "More".

import { h } from "./dom.js";
import { button } from "./parts.js";
import { changed } from "./state.js";

const narrow = matchMedia("(max-width: 1100px)");
narrow.addEventListener("change", changed);

/**
 * Returns the bar. `count`: how many are selected, `clear` ends the selection, `first` and `more`: the actions,
 * `remove`: the one that deletes.
 */
export function selectionBar({ label, count, clear, first, more, remove }) {
  const isNarrow = narrow.matches;
  return h(
    "div",
    { key: "selection", class: `selection-bar ${isNarrow ? "narrow" : ""}`, role: "group", "aria-label": label },
    h("strong", { role: "status" }, `${count} selected`),
    isNarrow ? null : button("Clear selection", clear, { key: "clear", kind: "quiet" }),
    first,
    isNarrow ? null : more,
    h("span", { key: "apart", class: "spacer" }),
    remove,
    isNarrow
      ? [
          h(
            "details",
            { key: "more", class: "menu up" },
            h("summary", { class: "button" }, "More"),
            h("div", { class: "menu-body" }, more),
          ),
          h("button", { key: "close", type: "button", class: "icon-button", "aria-label": "Clear selection", on: { click: clear } }, "✕"),
        ]
      : null,
  );
}
