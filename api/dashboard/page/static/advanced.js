// What most requests leave alone, behind a word to open: LoRAs, and whom to tell of the job's end.

import { h } from "./dom.js";
import { addLora, draft, dropLora, LORAS } from "./draft.js";
import { line, optional, problem, real } from "./form_fields.js";
import { button } from "./parts.js";
import { afterDrawing } from "./state.js";

export function advanced(entry) {
  return h(
    "details",
    { key: "advanced", class: "advanced", open: draft.filled.loras?.length > 0 },
    h("summary", null, "Advanced"),
    entry.loras ? loras() : null,
    line(
      "webhook_url",
      optional("Webhook"),
      "",
      { type: "url", inputmode: "url", autocomplete: "off", spellcheck: "false", maxlength: 2000, placeholder: "https://" },
      "An address that is told, signed, when the job has ended.",
    ),
    h(
      "div",
      { class: "field", key: "webhook_progress" },
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "webhook_progress", value: "true" }),
        "Tell it of progress too",
      ),
      problem("webhook_progress"),
    ),
  );
}

function loras() {
  return h(
    "fieldset",
    { key: "loras", name: "loras", class: "loras" },
    h("legend", null, "LoRAs"),
    draft.loras.map(row),
    problem("loras"),
    h(
      "div",
      { class: "row wrap", key: "add" },
      button("Add a LoRA", add, { disabled: draft.loras.length >= LORAS }),
      h("span", { class: "hint" }, "By the name of its file among the server's LoRAs."),
    ),
  );
}

function row(id, index) {
  const given = draft.filled.loras?.[id] ?? {}; // the first rows are those that the form began with
  const name = `loras.${id}.name`;
  const number = index + 1;
  return h(
    "div",
    { class: "lora", key: id },
    line(name, `LoRA ${number}`, given.name, { maxlength: 128, autocomplete: "off", spellcheck: "false" }),
    real(`loras.${id}.scale`, `Scale ${number}`, given.scale, [-4, 4], "1"),
    button("Remove", () => drop(id), { kind: "quiet", label: `Remove LoRA ${number}` }),
  );
}

function add() {
  const id = addLora();
  afterDrawing(() => document.getElementById(`f-loras.${id}.name`)?.focus());
}

function drop(id) {
  dropLora(id);
  document.querySelector(".loras > .row button").focus();
}
