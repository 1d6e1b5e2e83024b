// Choices that are shown as what they mean: models by what they do, sizes as small pictures of their shape.

import { h } from "../base/dom.js";
import { number } from "../base/format.js";
import { firstUseInWords } from "../models/first_use.js";
import { state } from "../base/state.js";
import { problem } from "./form_fields.js";

const PICTURES = { required: "starts from a picture", optional: "text, or a picture", refused: "text alone" };

export function models(entry, choose) {
  return h(
    "fieldset",
    { class: "choices models", key: "models" },
    h("legend", null, "Model"),
    state.catalogue.map((one) => {
      return h(
        "label",
        { key: one.model_id, class: "choice" },
        h("input", {
          type: "radio",
          name: "model_id",
          value: one.model_id,
          own: (field) => {
            if (field.checked !== (one.model_id === entry.model_id)) field.checked = one.model_id === entry.model_id;
          },
          "aria-label": one.model_id,
          "aria-describedby": `about-${one.model_id}`,
          on: { change: () => choose(one.model_id) },
        }),
        h("span", { class: "row between wrap" }, h("b", null, one.model_id), h("span", { class: "small muted" }, readiness(one.model_id))),
        h("span", { class: "small", id: `about-${one.model_id}` }, about(one)),
      );
    }),
    problem("model_id"),
  );
}

function readiness(modelId) {
  const there = state.models?.[modelId];
  if (!there) return "";
  if (!there.is_available) return firstUseInWords(modelId);
  return there.is_loaded ? "loaded" : "ready";
}

function about(one) {
  const preset = one.extends ? `A preset of ${one.extends}. ` : "";
  const caveat = one.caveat ? ` ${one.caveat[0].toUpperCase()}${one.caveat.slice(1)}.` : "";
  return `${preset}${one.notes || `Makes videos from ${PICTURES[one.image]}.`}${caveat}`;
}

/** Sizes by shape, each drawn to scale within one box. */
export function sizes(entry, value) {
  const all = entry.resolutions.map((text) => ({ text, width: Number(text.split("x")[0]), height: Number(text.split("x")[1]) }));
  all.sort((a, b) => ratio(b) - ratio(a) || a.width * a.height - b.width * b.height);
  const largest = Math.max(...all.map((one) => Math.max(one.width, one.height)));
  return h(
    "fieldset",
    { class: "choices sizes", key: `sizes-${entry.model_id}` },
    h("legend", null, "Shape and size"),
    all.map((one) => {
      const scale = 14 + 22 * (Math.max(one.width, one.height) / largest);
      const long = Math.max(one.width, one.height);
      return h(
        "label",
        { key: one.text, class: "choice size" },
        h("input", { type: "radio", name: "resolution", value: one.text, checked: one.text === value, "aria-label": `${one.width} by ${one.height}, ${shape(one)}` }),
        h(
          "span",
          { class: "shape", "aria-hidden": "true" },
          h("span", { css: { width: `${(scale * one.width) / long}px`, height: `${(scale * one.height) / long}px` } }),
        ),
        h("span", { class: "small" }, `${one.width} × ${one.height}`),
        h("span", { class: "small muted" }, shape(one)),
      );
    }),
    problem("resolution"),
  );
}

const KNOWN = [[16, 9], [4, 3], [3, 2], [1, 1], [2, 3], [3, 4], [9, 16]]; // prettier-ignore

const nearest = ({ width, height }) => KNOWN.find(([a, b]) => Math.abs(width / height / (a / b) - 1) < 0.04);

function ratio(size) {
  const near = nearest(size);
  return near ? near[0] / near[1] : size.width / size.height;
}

function shape(size) {
  const { width, height } = size;
  const name = nearest(size)?.join(":") ?? number(width / height, 2);
  return width === height ? "square" : `${name} ${width > height ? "wide" : "tall"}`;
}

const SPEEDS = {
  exact: "As the model computes it.",
  balanced: "Quicker; the difference is hard to see.",
  fast: "Quickest; fine detail may change.",
};

export function speeds(entry, value) {
  return h(
    "fieldset",
    { class: "choices speeds", key: `speeds-${entry.model_id}` },
    h("legend", null, "Speed"),
    entry.speeds.map((one) =>
      h(
        "label",
        { key: one, class: "choice" },
        h("input", { type: "radio", name: "speed", value: one, checked: one === value, "aria-label": one, "aria-describedby": `speed-${one}` }),
        h("b", null, one),
        h("span", { class: "small muted", id: `speed-${one}` }, SPEEDS[one] ?? ""),
      ),
    ),
    problem("speed"),
  );
}
