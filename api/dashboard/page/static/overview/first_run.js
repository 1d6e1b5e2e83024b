// The guide of a new installation: what its host has, what fits and how fast, and one button for the best model.

import { newKey, post } from "../base/api.js";
import { attempt } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { gigabytes, megabytes, NONE, seconds } from "../base/format.js";
import * as load from "../base/load.js";
import { badge, button, note, progressOf } from "../base/parts.js";
import { mergeJobs, state } from "../base/state.js";
import { isAdmin } from "./usage.js";

const BASIS = { measured: "measured here", derived: "derived from published figures", none: "not measured" };

/** Shows the guide while no node has any model. */
export function firstRun() {
  const found = state.firstRun;
  if (!found || found.any_model) return null;
  const best = found.models.find((one) => one.model_id === found.best);
  const going = found.models.map((one) => one.downloading && state.jobs.get(one.downloading)).filter(Boolean);
  return h(
    "section",
    { class: "panel first-run", "aria-labelledby": "h-first", key: "first-run" },
    h("h2", { id: "h-first" }, "Your first video"),
    h("p", null, "This installation has no model yet. It needs one that fits its device; then a prompt is enough."),
    h("h3", null, "1. What this installation has"),
    hosts(),
    h("h3", null, "2. What fits"),
    found.models.length
      ? h(
          "div",
          { class: "sideways", tabindex: "0", role: "region", "aria-label": "Models that fit" },
          h(
            "table",
            { class: "figures first-two" },
            h("thead", null, h("tr", null, ["Model", "Fits", "Memory on the device", "On its host", "One video", "Disk needed"].map((one) => h("th", { key: one, scope: "col" }, one)))),
            h("tbody", null, found.models.map((one) => row(one, found.best))),
          ),
        )
      : note("No device accepts jobs yet. A GPU worker registers when it starts.", "warn"),
    h("h3", null, "3. Get it"),
    found.hub.reachable ? null : note(`The model hub cannot be reached, so nothing can be downloaded now. ${found.hub.detail} Check the network, a proxy (HTTPS_PROXY), or WANWORKS_HUB_URL.`, "bad"),
    going.map((job) => h("div", { key: job.id, class: "now" }, h("a", { href: `#job/${job.id}` }, `Download of ${job.model_id}`), progressOf(job))),
    best ? fetching(best, found.hub, going) : found.models.length ? note(nothingText(found.models), "warn") : null,
    h("p", { class: "small muted" }, "Each model and what it needs: ", h("a", { href: "#models" }, "Models"), "."),
  );
}

function hosts() {
  const { nodes = [], devices = [] } = state.workers ?? {};
  return h(
    "ul",
    { class: "plain-list" },
    nodes.map((node) => {
      const there = devices.filter((one) => one.node === node.name && one.state !== "offline");
      return h(
        "li",
        { key: node.name },
        h("b", null, node.name),
        `: ${there.length ? there.map((one) => `${one.name} (${megabytes(one.memory_mb)})`).join(", ") : "no device online"}`,
        ` · memory ${node.memory_mb == null ? NONE : megabytes(node.memory_mb)}`,
        ` · ${node.disk_free_mb == null ? "disk not reported yet" : `${megabytes(node.disk_free_mb)} free for models`}`,
      );
    }),
  );
}

function row(one, best) {
  const disk = `${gigabytes(one.download_gb)}${one.copies_gb ? ` + up to ${gigabytes(one.copies_gb)}` : ""}`;
  const room = { short: "too little room", without_copies: "no room for the copies", unknown: "free space unknown" }[one.room];
  return h(
    "tr",
    { key: one.model_id },
    h("th", { scope: "row" }, one.model_id, one.model_id === best ? [" ", h("span", { class: "tag" }, "best fit")] : null),
    h("td", null, one.fits ? `yes${one.quantization === "none" ? "" : `, as ${one.quantization}`}${one.layout ? `, ${one.layout}` : ""}` : "no"),
    h("td", null, one.device_gb === null ? NONE : gigabytes(one.device_gb)),
    h("td", null, one.host_gb === null ? NONE : gigabytes(one.host_gb)),
    h("td", null, one.seconds === null ? BASIS.none : [`about ${seconds(one.seconds)} `, h("span", { class: "muted" }, BASIS[one.basis])]),
    h("td", null, disk, room ? [" ", badge(one.room === "short" ? "failed" : "degraded", room)] : null),
  );
}

function nothingText(models) {
  if (!models.some((one) => one.fits)) return "No model of the catalogue fits this device with its default size. Smaller sizes may: see Models.";
  const least = Math.min(...models.filter((one) => one.fits).map((one) => one.download_gb));
  return `The disk is too small: the smallest model that fits needs ${gigabytes(least)}. Free space, or set WANWORKS_MODELS_PATH to a larger disk.`;
}

function fetching(best, hub, going) {
  if (going.length) return null;
  if (!isAdmin()) return note("An administrator can download a model.");
  return [
    best.room === "without_copies" ? note("The disk has room for the files, but perhaps not for the 16-bit copies that load faster.", "warn") : null,
    best.room === "unknown" ? note("The node has not reported its free space yet.", "warn") : null,
    h(
      "p",
      null,
      button(`Download ${best.model_id} (${gigabytes(best.download_gb)})`, () => download(best), { kind: "primary large", disabled: !hub.reachable, key: "get" }),
    ),
  ];
}

const download = (best) =>
  attempt(async () => {
    mergeJobs([await post("/api/v1/jobs/download", { model_id: best.model_id, node: best.node }, { key: newKey() })]);
    await load.firstRun();
  }, `The download of ${best.model_id} is queued. It goes on if this page is closed.`);

/** What keeps a job that is submitted now from running; null: nothing. */
export function obstacle() {
  const found = state.firstRun;
  return found && !found.ready ? found.why_not : null;
}
