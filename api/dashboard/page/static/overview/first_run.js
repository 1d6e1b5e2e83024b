// The guide of a new installation, until it has its first video: what its host has, what fits and how fast, how the model
// gets there, and the way to the form.

import { newKey, post } from "../base/api.js";
import { attempt } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { gigabytes, megabytes, NONE, seconds } from "../base/format.js";
import * as load from "../base/load.js";
import { badge, bar, button, note, progressOf } from "../base/parts.js";
import { activeJobs, hasEnded, mergeJobs, state } from "../base/state.js";
import { downloadedByJobs, firstUse } from "../models/first_use.js";
import { isAdmin } from "./usage.js";

const BASIS = { measured: "measured here", derived: "derived from published figures", none: "not measured" };
// How the weights are kept while a job runs: docs/hardware.md.
const LAYOUTS = { full: "without offloading", "text-offload": "with the text encoder offloaded", offload: "one component at a time", stream: "weights streamed block by block" };

const maySubmit = () => document.body.dataset.scopes.split(" ").includes("submit");

/** Shows the guide while there is no video, and so much of it as is still to be done. */
export function firstRun() {
  const found = state.firstRun;
  if (!found || !state.loaded.has("latest") || state.latest.length) return null;
  if (found.any_model && !maySubmit()) return null;
  return h(
    "section",
    { class: "panel first-run", "aria-labelledby": "h-first", key: "first-run" },
    h("h2", { id: "h-first" }, "Your first video"),
    found.any_model ? null : beforeAModel(found),
    h("h3", { key: "h-create" }, found.any_model ? "The model is there" : "4. Create your first video"),
    creating(found),
  );
}

function beforeAModel(found) {
  const best = found.models.find((one) => one.model_id === found.best);
  const byJobs = downloadedByJobs();
  const going = found.first_downloads.map((one) => state.jobs.get(one.job_id)).filter(Boolean);
  return [
    h("p", { key: "intro" }, `This installation has no model yet. ${byJobs.length ? "The first job of a model downloads it; so a prompt is enough." : "It needs one that fits its device; then a prompt is enough."}`),
    h("h3", { key: "h-has" }, "1. What this installation has"),
    hosts(),
    h("h3", { key: "h-fits" }, "2. What fits"),
    found.models.length
      ? h(
          "div",
          { class: "sideways", key: "fits", tabindex: "0", role: "region", "aria-label": "Models that fit" },
          h(
            "table",
            { class: "figures first-two one-line" },
            h("thead", null, h("tr", null, ["Model", "Fits", "Memory on the device", "On its host", "One video", "Disk needed"].map((one) => h("th", { key: one, scope: "col" }, one)))),
            h("tbody", null, found.models.map((one) => row(one, found.best))),
          ),
        )
      : note("No device accepts jobs yet. A GPU worker registers when it starts.", "warn"),
    found.models.some((one) => one.copies_gb) ? h("p", { key: "copies", class: "small muted" }, "Copies of the weights load faster. A download writes them where the settings ask for them.") : null,
    h("h3", { key: "h-get" }, "3. Get the model"),
    found.hub.reachable ? null : note(`The model hub cannot be reached, so nothing can be downloaded now. ${found.hub.detail} Check the network, a proxy (HTTPS_PROXY), or WANWORKS_HUB_URL.`, "bad"),
    going.map((job) =>
      h(
        "div",
        { key: job.id, class: "now" },
        h("a", { href: `#job/${job.id}` }, `Download of ${job.model_id}`),
        hasEnded(job) ? bar(job.status === "succeeded" ? 100 : job.progress.percent, `Download of ${job.model_id}`) : progressOf(job),
        h("p", { class: "small muted" }, stage(job)),
      ),
    ),
    best ? fetching(best, found.hub, going, byJobs) : found.models.length ? note(nothingText(found.models), "warn") : null,
    h("p", { class: "small muted", key: "more" }, "Each model and what it needs: ", h("a", { href: "#models" }, "Models"), "."),
  ];
}

/** Says what a download does beyond its percentage. */
function stage(job) {
  const { phase, bytes_done: done, bytes_total: total } = job.progress;
  if (hasEnded(job)) return job.status === "succeeded" ? "Downloaded. Checking the files…" : `It has ${job.status}.`;
  if (job.status === "paused") return "It is paused. Resume it under Models.";
  if (job.status === "queued") return "It starts once the node is ready for it.";
  if (phase === "preparing") return "The files are here and checked. Copies that load faster are written; jobs can start already.";
  if (phase === "verifying" || (total && done >= total)) return "All files are here. Checking them…";
  if (phase === "listing") return "The hub is asked for the files.";
  return "It goes on if this page is closed. Every file is checked when it is complete.";
}

function creating(found) {
  const making = activeJobs().find((job) => job.type === "generation");
  if (making) return h("div", { key: "making", class: "now" }, h("a", { class: "title", href: `#job/${making.id}` }, making.params.prompt), progressOf(making));
  if (!maySubmit()) return note("A key that may submit jobs creates videos.");
  const first = found.any_model ? null : (found.first_downloads.find((one) => one.state === "going") ?? downloadedByJobs()[0]);
  if (!found.any_model && !first) return h("p", { key: "wait", class: "muted" }, "Once a model is there, or is being downloaded.");
  return h(
    "p",
    { key: "create", class: "row wrap" },
    h("a", { class: "button primary large", href: first ? `#new?model=${encodeURIComponent(first.model_id)}` : "#new" }, "Create your first video"),
    first
      ? h("span", { class: "hint" }, first.state === "going" ? "You need not wait: the job starts once the model is there." : `Its job downloads ${first.model_id} first (about ${gigabytes(first.download_gb)}).`)
      : null,
  );
}

function hosts() {
  const { nodes = [], devices = [] } = state.workers ?? {};
  return h(
    "ul",
    { class: "plain-list", key: "hosts" },
    nodes.map((node) => {
      const there = devices.filter((one) => one.node === node.name && one.state !== "offline");
      return h(
        "li",
        { key: node.name },
        h("b", null, node.name),
        `: ${there.length ? there.map(named).join(", ") : "no device online"}`,
        ` · memory ${node.memory_mb == null ? NONE : megabytes(node.memory_mb)}`,
        ` · ${node.disk_free_mb == null ? "disk not reported yet" : `${megabytes(node.disk_free_mb)} free for models`}`,
      );
    }),
  );
}

/** Names a device with its memory; that of a CPU is its host's. */
const named = (device) => (device.kind === "cpu" ? device.name : `${device.name} (${megabytes(device.memory_mb)})`);

function row(one, best) {
  const disk = `${gigabytes(one.download_gb)}${one.copies_gb ? ` + up to ${gigabytes(one.copies_gb)} for copies` : ""}`;
  const room = { short: "too little room", without_copies: "no room for the copies", unknown: "free space unknown" }[one.room];
  return h(
    "tr",
    { key: one.model_id },
    h("th", { scope: "row" }, one.model_id, one.model_id === best ? [" ", h("span", { class: "tag" }, "best fit")] : null),
    h("td", null, one.fits ? `yes, ${one.quantization === "none" ? "" : `as ${one.quantization}, `}${LAYOUTS[one.layout] ?? one.layout}` : "no"),
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

function fetching(best, hub, going, byJobs) {
  if (going.length) return null;
  if (!isAdmin()) return byJobs.length ? null : note("An administrator can download a model.");
  const other = firstUse(best.model_id);
  return [
    best.room === "without_copies" ? note("The disk has room for the files, but perhaps not for the 16-bit copies that load faster.", "warn") : null,
    best.room === "unknown" ? note("The node has not reported its free space yet.", "warn") : null,
    other?.reason === "ended" ? note("An earlier download of it has ended before it was complete.", "warn") : null,
    h(
      "p",
      { key: "get", class: "row wrap" },
      button(`Download ${best.model_id} (about ${gigabytes(best.download_gb)})`, () => download(best), { kind: byJobs.length ? "" : "primary large", disabled: !hub.reachable, key: "get" }),
      byJobs.length ? h("span", { class: "hint" }, "Or leave it to the first job.") : null,
    ),
  ];
}

const download = (best) =>
  attempt(async () => {
    mergeJobs([await post("/api/v1/jobs/download", { model_id: best.model_id, node: best.node }, { key: newKey() })]);
    await load.firstRun();
  }, `The download of ${best.model_id} is queued. It goes on if this page is closed.`, { not: `The download of ${best.model_id} is not queued` });

/** What keeps a job that is submitted now from running at once: [level, sentence]; null: nothing. */
export function obstacle() {
  const found = state.firstRun;
  if (!found || found.ready) return null;
  const going = found.any_model ? null : found.first_downloads.find((one) => one.state === "going");
  if (going) return ["unknown", `${going.model_id} is being downloaded; jobs start once it is there.`];
  const [first] = found.any_model || !found.models.length ? [] : downloadedByJobs();
  if (first) return ["unknown", `No model is here yet. The first job of a model downloads it (${first.model_id}: about ${gigabytes(first.download_gb)}).`];
  return ["warn", `A job submitted now would wait. ${found.why_not}`];
}
