// The fields of the form that are seldom changed, each with a line of help.

import { h } from "../base/dom.js";
import { button } from "../base/parts.js";
import { afterDrawing, state } from "../base/state.js";
import { addLora, draft, dropLora, MAX_LORAS, valueOf } from "./draft.js";
import { area, choice, count, line, optional, problem, real } from "./form_fields.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const GUIDANCE = [0, 30];
const FLOW_SHIFT = [0, 100, true];
// In this order they are sent and tried, so those that always apply are last.
const FALLBACKS = [
  ["hybrid_approach", "use another model now, download this one for later"],
  ["alternative_model", "use another model"],
  ["reduce_requirements", "reduce memory requirements"],
  ["download_and_retry", "download the model first"],
  ["mock_generation", "create placeholder output"],
  ["queue_and_wait", "wait for the model"],
];

/** Returns how many devices of one kind the largest node has; infinite while that is not known. */
function largestTeam() {
  const counts = new Map();
  for (const { node, kind } of state.workers?.devices ?? []) counts.set(`${node} ${kind}`, (counts.get(`${node} ${kind}`) ?? 0) + 1);
  return counts.size ? Math.max(...counts.values()) : Infinity;
}

export function advanced(entry) {
  const isFixed = (name) => entry.fixed.includes(name); // a preset's parameter is shown, and not sent
  const value = (name) => valueOf(entry, name);
  const decimal = (name, label, range, hint) => real(name, label, value(name), range, undefined, isFixed(name), hint);
  const team = draft.filled.devices_per_job ?? entry.devices_per_job;
  const teams = entry.team_sizes.filter((size) => size <= largestTeam() || size === Number(team));
  return h(
    "details",
    { key: "advanced", class: "advanced", open: draft.filled.loras?.length > 0 },
    h("summary", null, "Advanced"),
    area("negative_prompt", optional("Negative prompt"), {
      value: draft.filled.negative_prompt,
      rows: 2,
      hint: "What must not be seen. Left empty, the model's own list is used.",
    }),
    h(
      "div",
      { class: "field-grid wide", key: `grid-${entry.model_id}` },
      count("seed", "Seed", [0, 2 ** 32 - 1], draft.filled.seed ?? "", "random", false, "The same seed and settings make the same video."),
      count("steps", "Steps", entry.steps, value("steps"), undefined, isFixed("steps"), "More steps take longer and show more detail."),
      choice("fps", "Frames per second", entry.fps.map(String), String(value("fps")), {}, "How fast the frames are played."),
      decimal("guidance_scale", entry.two_experts ? "Guidance (high)" : "Guidance", GUIDANCE, entry.two_experts ? "How closely the prompt is followed in the first, rough part." : "How closely the prompt is followed."),
      entry.two_experts ? decimal("guidance_scale_2", "Guidance (low)", GUIDANCE, "The same for the second part, with the details.") : null,
      decimal("flow_shift", "Flow shift", FLOW_SHIFT, "Higher values spend more steps on the rough shape and motion."),
      choice("quantization", "Quantization", entry.quantizations, String(value("quantization") ?? "none"), { none: "none (native)" }, "Smaller weights: less memory, slightly different pictures."),
      teams.length > 1
        ? choice("devices_per_job", "Devices", teams.map(String), String(team), {}, "How many compute this video together.")
        : null,
      choice("output_format", "Format", entry.output_formats, String(value("output_format") ?? "mp4"), {}, "mp4 plays everywhere."),
      choice("priority", "Priority", PRIORITIES, draft.filled.priority ?? "normal", {}, "More urgent jobs are served first."),
    ),
    h(
      "fieldset",
      { class: "checks", key: "fallback" },
      h("legend", null, "If the model is not ready"),
      FALLBACKS.map(([name, text]) =>
        h(
          "label",
          { key: name, class: "check" },
          h("input", { type: "checkbox", name: "fallback", value: name, checked: draft.filled.fallback?.includes(name) }),
          text,
        ),
      ),
      h("p", { class: "hint" }, "Check what is allowed: the first that is possible is done, in this order. With none, the video waits for its model."),
      problem("fallback"),
    ),
    entry.loras ? loras() : null,
    line(
      "webhook_url",
      optional("Webhook"),
      draft.filled.webhook_url ?? "",
      { type: "url", inputmode: "url", autocomplete: "off", spellcheck: "false", maxlength: 2000, placeholder: "https://" },
      "This URL receives a signed request when the job ends.",
    ),
    h(
      "div",
      { class: "field", key: "webhook_progress" },
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "webhook_progress", value: "true", checked: draft.filled.webhook_progress === true }),
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
    h("datalist", { id: "known-loras", key: "known" }, (state.loras ?? []).map(({ name }) => h("option", { key: name, value: name }))),
    problem("loras"),
    h(
      "div",
      { class: "row wrap", key: "add" },
      button("Add a LoRA", add, { disabled: draft.loras.length >= MAX_LORAS }),
      h("span", { class: "hint" }, "Those of the library, under Models, and of the operator's folder."),
    ),
  );
}

function row(id, index) {
  const given = draft.filled.loras?.[index] ?? {};
  const name = `loras.${id}.name`;
  const number = index + 1;
  return h(
    "div",
    { class: "lora", key: id },
    line(name, `LoRA ${number}`, given.name, { maxlength: 128, autocomplete: "off", spellcheck: "false", list: "known-loras" }),
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
