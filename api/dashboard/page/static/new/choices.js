// Choices that are shown as what they mean: models by what they do, sizes as small pictures of their shape.

import { h } from "../base/dom.js";
import { number, size as sizeText } from "../base/format.js";
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

const SHAPES = [["wide", "Landscape"], ["tall", "Portrait"], ["square", "Square"]]; // prettier-ignore
const SHOWN = 3; // sizes of each shape

const opened = new Set(); // models whose further sizes are shown

/** Sizes in groups by their shape: the usual ones of the model, and behind them all others. */
export function sizes(entry, value) {
  const all = entry.resolutions.map((text) => ({ text, width: Number(text.split("x")[0]), height: Number(text.split("x")[1]) }));
  const area = (one) => one.width * one.height;
  all.sort((a, b) => area(a) - area(b) || b.width - a.width);
  const usual = usualOf(entry, all);
  const rest = all.filter((one) => !usual.has(one));
  if (rest.some((one) => one.text === value)) opened.add(entry.model_id);
  const largest = Math.max(...all.map((one) => Math.max(one.width, one.height)));
  const groups = (some) => SHAPES.map(([shape, label]) => group(label, some.filter((one) => shapeOf(one) === shape), value, largest));
  return h(
    "fieldset",
    { class: "sizes", key: `sizes-${entry.model_id}` },
    h("legend", null, "Shape and size"),
    groups([...usual].sort((a, b) => all.indexOf(a) - all.indexOf(b))),
    rest.length
      ? h("details", { key: "more", class: "more-sizes", open: opened.has(entry.model_id) }, h("summary", null, `More sizes (${rest.length})`), groups(rest))
      : null,
    problem("resolution"),
  );
}

/**
 * Returns the model's default size, and of each shape those nearest to it by area. Sizes beside the model's grid are
 * none of them: they are computed larger and cut, and are often twins of one on it.
 */
function usualOf(entry, all) {
  const wanted = all.find((one) => one.text === entry.defaults.resolution) ?? all[0];
  const away = (one) => Math.abs(Math.log((one.width * one.height) / (wanted.width * wanted.height)));
  const onGrid = all.filter((one) => one.width % entry.size_multiple === 0 && one.height % entry.size_multiple === 0);
  const chosen = SHAPES.flatMap(([shape]) => onGrid.filter((one) => shapeOf(one) === shape).sort((a, b) => away(a) - away(b)).slice(0, SHOWN));
  return new Set([wanted, ...chosen]);
}

function group(label, some, value, largest) {
  if (!some.length) return null;
  return h(
    "div",
    { key: label, class: "size-group" },
    h("span", { class: "small muted" }, label),
    h("div", { class: "choices sizes-row" }, some.map((one) => size(one, value, largest))),
  );
}

/** A size, drawn to scale within one box. */
function size(one, value, largest) {
  const long = Math.max(one.width, one.height);
  const scale = 14 + 22 * (long / largest);
  return h(
    "label",
    { key: one.text, class: "choice size" },
    h("input", { type: "radio", name: "resolution", value: one.text, checked: one.text === value, "aria-label": `${one.width} by ${one.height}, ${described(one)}` }),
    h(
      "span",
      { class: "shape", "aria-hidden": "true" },
      h("span", { css: { width: `${(scale * one.width) / long}px`, height: `${(scale * one.height) / long}px` } }),
    ),
    h("span", { class: "small" }, sizeText(one.text)),
    one.width === one.height ? null : h("span", { class: "small muted" }, ratioOf(one)),
  );
}

const KNOWN = [[16, 9], [4, 3], [3, 2], [2, 3], [3, 4], [9, 16]]; // prettier-ignore

const shapeOf = ({ width, height }) => (width === height ? "square" : width > height ? "wide" : "tall");

/** Returns the usual name of a ratio, with "about" where it is not quite that, or the ratio itself. */
function ratioOf({ width, height }) {
  const near = KNOWN.find(([a, b]) => Math.abs(width / height / (a / b) - 1) < 0.04);
  if (!near) return number(width / height, 2);
  return `${Math.abs(width / height / (near[0] / near[1]) - 1) < 0.005 ? "" : "about "}${near.join(":")}`;
}

const described = (one) => (shapeOf(one) === "square" ? "square" : `${ratioOf(one)} ${shapeOf(one)}`);

/** Sums up what is chosen, for the button that creates the video. */
export function chosenInWords({ resolution, frames, fps, speed, count }) {
  const parts = [sizeText(resolution), `${number(frames / fps, 1)} s`, `speed: ${speed}`];
  return [...parts, count > 1 ? `${count} videos` : null].filter(Boolean).join(" · ");
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
