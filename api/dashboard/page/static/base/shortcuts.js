// The dialog of the keyboard's shortcuts. Loaded when it is first opened.

import { openModal } from "./dialogs.js";
import { h, render } from "./dom.js";

const KEYS = [
  ["Everywhere", [["?", "these shortcuts"], ["Esc", "close a dialog or a menu"]]],
  ["New video", [["Ctrl+Enter", "send the form"]]],
  ["A job or video", [["← →", "the one before or after it in the list"]]],
  ["Jobs, on the title of a job that waits", [["Alt+↑ Alt+↓", "raise or lower its priority"], ["Alt+Home", "to the front of the queue, from where Alt+↓ takes it back"]]],
  ["Jobs", [["Shift+↑ Shift+↓", "select a range; also Shift with a click on a box, or with Space"], ["Esc", "end the selection"]]],
  [
    "Gallery",
    [
      ["← → ↑ ↓", "move, where Tab reaches one video; also Page Up, Page Down, Home, End"],
      ["Enter", "open"],
      ["X", "select"],
      ["Shift+arrow", "select a range"],
      ["F", "favourite"],
      ["Esc", "end the selection"],
    ],
  ],
  ["Comparison", [["Space", "play or pause"], ["← →", "one frame back or on"]]],
];

let dialog = null;

export function show() {
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.className = "dialog small";
    dialog.setAttribute("aria-labelledby", "shortcuts-title");
    document.getElementById("dialogs").append(dialog);
    render(
      dialog,
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "shortcuts-title", tabindex: "-1", autofocus: true }, "Keyboard shortcuts"),
        KEYS.map(([place, keys]) => [
          h("h3", { key: place }, place),
          h(
            "dl",
            { key: `${place} keys`, class: "shortcuts" },
            keys.map(([key, does]) => [h("dt", { key }, h("kbd", null, key)), h("dd", { key: does }, does)]),
          ),
        ]),
        h("div", { class: "row end" }, h("button", { class: "button" }, "Close")),
      ),
    );
  }
  if (!dialog.open) openModal(dialog);
}
