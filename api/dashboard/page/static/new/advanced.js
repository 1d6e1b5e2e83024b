// The collapsed advanced fields of the form: LoRAs and the webhook.

import { h } from "../base/dom.js";
import { addLora, draft, dropLora, MAX_LORAS } from "./draft.js";
import { line, optional, problem, real } from "./form_fields.js";
import { button } from "../base/parts.js";
import { afterDrawing } from "../base/state.js";

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
      "This URL receives a signed request when the job ends.",
    ),
    h(
      "div",
      { class: "field", key: "webhook_progress" },
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "webhook_progress", value: "true" }),
        "Also send progress",
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
      button("Add a LoRA", add, { disabled: draft.loras.length >= MAX_LORAS }),
      h("span", { class: "hint" }, "The name of a LoRA file on the server."),
    ),
  );
}

function row(id, index) {
  const given = draft.filled.loras?.[id] ?? {}; // the first rows are the form's initial values
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
