// The bar of a selection, at the bottom of the window: what is selected above it keeps its place. On a phone it is one
// row, with what does not fit behind "More".

import { topmost } from "./dialogs.js";
import { h } from "./dom.js";
import { button } from "./parts.js";
import { changed } from "./state.js";

const narrow = matchMedia("(max-width: 1100px)");
narrow.addEventListener("change", changed);

const clearing = new Map(); // by the label of a bar: what ends its selection

// Esc ends the selection of the view, unless something that is open, or a field, has its own use for it.
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || topmost() !== document.body) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea, details:is(.menu, .copies)[open]")) return;
  const bar = [...document.querySelectorAll(".selection-bar")].find((one) => one.getClientRects().length);
  if (!bar) return;
  event.preventDefault();
  clearing.get(bar.getAttribute("aria-label"))();
});

/**
 * Returns the bar. `count`: how many are selected, `clear` ends the selection, `first` and `more`: the actions,
 * `remove`: the one that deletes. `hint`: why an action does not fit, in words, since a finger sees no tooltip.
 */
export function selectionBar({ label, count, clear, first, more, remove, hint }) {
  const isNarrow = narrow.matches;
  clearing.set(label, clear);
  // Below the actions, so that they keep their places.
  const why = hint ? h("span", { key: "why", class: "small muted why" }, hint) : null;
  return h(
    "div",
    { key: "selection", class: `selection-bar ${isNarrow ? "narrow" : ""}`, role: "group", "aria-label": label },
    h("strong", { role: "status" }, `${count} selected`),
    isNarrow ? null : button("Clear selection", clear, { key: "clear", kind: "quiet" }),
    first,
    isNarrow ? null : more,
    h("span", { key: "apart", class: "spacer" }),
    isNarrow ? null : remove,
    isNarrow
      ? [
          h(
            "details",
            { key: "more", class: "menu up" },
            h("summary", { class: "button" }, "More"),
            h("div", { class: "menu-body" }, more, remove),
          ),
          h("button", { key: "close", type: "button", class: "icon-button", "aria-label": "Clear selection", on: { click: clear } }, "✕"),
        ]
      : null,
    why,
  );
}
