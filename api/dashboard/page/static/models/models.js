// The model library: the files of each model on each node, downloads and their controls, and health.

import { newKey, post, remove } from "../base/api.js";
import { awaited } from "../base/awaited.js";
import { cleanup } from "./cleanup.js";
import { firstUse } from "./first_use.js";
import { loras } from "./loras.js";
import { compare, recommend } from "./choosing.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, fraction, gigabytes, megabytes, NONE, number, percent, plural, seconds, words } from "../base/format.js";
import * as load from "../base/load.js";
import { badge, bar, button, fact, facts, note, progressText } from "../base/parts.js";
import { changed, deviceNamed, isDrained, mergeJobs, state, whenEnded } from "../base/state.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const RATED = new Set(["degraded", "critical"]); // states shown beside the availability
const READY = new Set(["available", "updating"]);
const VERIFIABLE = new Set([...READY, "corrupted"]);

export function models() {
  const wanting = awaited("models", "models", state.models);
  if (!state.models) return wanting;
  return [
    wanting,
    document.querySelector(".demo")
      ? h(
          "p",
          { class: "note", key: "demo" },
          "These are the tiny models of the demo. Their weights are random, so every picture is noise, and their sizes, memory and times say nothing about the real models of these names. Those are offered by ",
          h("code", null, "wanworks up"),
          " without ",
          h("code", null, "--catalogue demo"),
          ", or by ",
          h("code", null, "make up CATALOGUE=default"),
          "; the page Hardware of the documentation says what they need.",
        )
      : null,
    h("p", { class: "small muted", key: "actions" }, "Verify compares the files of a model with their checksums. Pin keeps them from being removed by a cleanup."),
    h("ul", { class: "cards wide" }, Object.values(state.models).map(card)),
    h("div", { class: "columns" }, compare(), recommend()),
    loras(),
    cleanup(),
  ];
}

function card(model) {
  const health = state.health?.[model.model_id];
  const insight = state.insight?.[model.model_id];
  return h(
    "li",
    { key: model.model_id, class: "panel card", "data-model": model.model_id },
    h(
      "div",
      { class: "row between wrap" },
      h("h2", null, model.model_id),
      h(
        "span",
        { class: "row" },
        availability(model.availability_status),
        health && RATED.has(health.health_status) ? badge(health.health_status) : null,
      ),
    ),
    facts(
      fact("Size", [megabytes(model.size_mb), catalogueHint(model, "size_mb")]),
      fact("Verified", fraction(model.integrity_score), "How much of its files has the right checksum"),
      fact("Average time, 30 days", seconds(model.average_generation_time)),
      fact("Succeeded", health?.success_rate == null ? NONE : `${fraction(health.success_rate)} of the latest ${plural(health.samples, "job")}`),
      fact("In 24 h", insight ? plural(insight.generations_24h ?? 0, "job") : NONE),
      fact("Last used", ago(model.last_used)),
      fact("Loaded on", model.loaded_on.map((key) => deviceNamed(key)).join(", ") || NONE),
      fact("Version", model.current_version ? model.current_version.slice(0, 10) : NONE, model.current_version),
    ),
    model.extends ? note(`A preset of ${model.extends}: it needs that model's files too; the size is its LoRA's.`) : null,
    model.caveat ? note(`${model.caveat[0].toUpperCase()}${model.caveat.slice(1)}.`, "warn") : null,
    firstUse(model.model_id) && health?.health_status === "missing"
      ? note(ofFirstJob(firstUse(model.model_id)))
      : (health?.issues ?? []).map((text) => note(text, health.health_status === "healthy" ? "" : "warn")),
    speeds(model),
    model.update_available ? note("A newer version is available on the hub.") : null,
    h(
      "ul",
      { class: "replicas" },
      model.replicas.map((one) => replica(model, one)),
    ),
    model.replicas.length || state.notes.models ? null : h("p", { class: "muted small" }, "No node has reported yet."),
    h(
      "div",
      { class: "row wrap card-actions" },
      READY.has(model.availability_status)
        ? h("a", { class: "button primary", href: `#new?model=${encodeURIComponent(model.model_id)}` }, "Create a video")
        : null,
      button(model.pinned ? "Unpin" : "Pin", () => pin(model), {
        label: `${model.pinned ? "Unpin" : "Pin"} ${model.model_id}: ${model.pinned ? "allow cleanup to remove it" : "protect it from cleanup"}`,
      }),
      button("Verify", () => check(model, false), {
        label: `Verify ${model.model_id}`,
        disabled: !model.replicas.some((one) => VERIFIABLE.has(one.availability_status)) && `No node has ${model.model_id}`,
      }),
      health?.can_auto_repair && model.replicas.some(isRepairable)
        ? button("Repair", () => check(model, true), { label: `Repair ${model.model_id}` })
        : null,
    ),
  );
}

/** One word as in the other views: the API has "missing" for what was never downloaded, and "available" for ready. */
const availability = (status) =>
  status === "missing" ? badge("absent", "not downloaded") : status === "available" ? badge(status, "ready") : badge(status);

function ofFirstJob(first) {
  if (first.state === "starts") return `Its first job downloads it (about ${gigabytes(first.download_gb)}).`;
  return first.state === "going" ? "Jobs of it start once it is there." : `A job of it would wait. ${first.why_not}`;
}

/** Shows the speed tiers with what was measured of them here. */
function speeds(model) {
  const tiers = state.tiers?.[model.model_id]?.tiers.filter((one) => one.tier !== "exact");
  if (!tiers) return null;
  const unknown = tiers.filter((one) => !one.measured[0]).map((one) => one.tier);
  return h(
    "ul",
    { class: "small", "aria-label": `Speed tiers of ${model.model_id}`, key: "tiers" },
    tiers.filter((one) => one.measured[0]).map((one) => h("li", { key: one.tier }, h("b", null, one.tier), ": ", measured(one.measured[0]))),
    unknown.length
      ? h("li", { key: "unknown" }, h("b", null, unknown.join(", ")), ": not measured here yet; ", h("code", null, `wanworks benchmark ${model.model_id}`), " does that")
      : null,
  );
}

function measured(one) {
  const psnr = one.psnr_mean === null ? "equal frames" : `PSNR ${number(one.psnr_mean, 1)} dB`;
  return `${number(one.speedup, 2)} times as fast as exact, SSIM ${number(one.ssim_mean, 3)} (least ${number(one.ssim_min, 3)}), ${psnr}; ${one.resolution}, ${one.frames} frames, ${one.device_name}`;
}

/** Returns whether a repair would start on this replica's node; a drained node repairs nothing. */
function isRepairable(one) {
  return (one.availability_status === "corrupted" || one.corruption_types.length > 0) && !isDrained(one.node);
}

/** Marks a value that comes from the catalogue and was not measured here. */
function catalogueHint(model, name) {
  return model.basis[name] === "catalogue" ? h("span", { class: "muted small" }, " from the catalogue") : null;
}

function replica(model, one) {
  const drained = isDrained(one.node); // a download there would stay queued
  const open = one.online && !drained;
  const job = one.download_job_id ? state.jobs.get(one.download_job_id) : null;
  const active =
    ["downloading", "paused", "queued", "updating"].includes(one.availability_status) && one.download_job_id;
  return h(
    "li",
    { key: one.node, class: "replica" },
    h(
      "div",
      { class: "row between wrap" },
      h(
        "span",
        null,
        h("b", null, one.node),
        " ",
        h(
          "span",
          { class: "muted small" },
          one.online ? "" : "offline · ",
          drained ? "drained · " : "",
          one.last_verified ? `verified ${ago(one.last_verified)}` : "never verified",
        ),
      ),
      h(
        "span",
        { class: "row" },
        availability(one.availability_status),
        !active && !READY.has(one.availability_status) && open
          ? button("Download", () => download(model, one), { label: `Download ${model.model_id} to ${one.node}` })
          : !active && model.update_available && open
            ? button("Update", () => download(model, one), { label: `Update ${model.model_id} on ${one.node}` })
            : null,
      ),
    ),
    one.missing_files.length
      ? h(
          "p",
          { class: "small muted clamp" },
          `${plural(one.missing_files.length, "file")} missing: ${one.missing_files.slice(0, 3).join(", ")}`,
        )
      : null,
    one.corruption_types.length
      ? h("p", { class: "small bad-text" }, `damaged: ${one.corruption_types.map(words).join(", ")}`)
      : null,
    active ? steering(model, one, job) : null,
  );
}

function steering(model, one, job) {
  const percentDone = job?.progress.percent ?? one.download_progress;
  const paused = one.availability_status === "paused" || job?.status === "paused";
  const name = `${model.model_id} on ${one.node}`;
  return h(
    "div",
    { class: "steering" },
    bar(percentDone, `Download of ${name}`),
    h(
      "p",
      { class: "small muted" },
      job ? progressText(job) : percent(percentDone),
      job?.bandwidth_limit_mbps ? ` · at most ${number(job.bandwidth_limit_mbps, 2)} Mbps` : "",
    ),
    h(
      "div",
      { class: "row wrap" },
      paused
        ? button("Resume", () => manage(model, one, "resume"), {
            key: "resume",
            label: `Resume the download of ${name}`,
          })
        : button("Pause", () => manage(model, one, "pause"), { key: "pause", label: `Pause the download of ${name}` }),
      button("Cancel", () => cancel(model, one), {
        key: "cancel",
        kind: "quiet",
        label: `Cancel the download of ${name}`,
      }),
      h(
        "label",
        { class: "inline", key: `p${job?.priority}` },
        "Priority ",
        h(
          "select",
          {
            value: job?.priority ?? "normal",
            on: { change: (event) => manage(model, one, "priority", { priority: event.target.value }) },
          },
          PRIORITIES.map((each) => h("option", { key: each, value: each }, each)),
        ),
      ),
      h(
        "form",
        { class: "inline", key: "limit", on: { submit: (event) => limit(event, model, one) } },
        h(
          "label",
          null,
          "Limit ",
          h("input", {
            type: "number",
            name: "mbps",
            min: 0.01,
            step: "any",
            class: "narrow",
            value: job?.bandwidth_limit_mbps ?? "",
            required: true,
          }),
          " Mbps",
        ),
        h("button", { class: "button quiet" }, "Set"),
      ),
    ),
  );
}

async function download(model, one) {
  await attempt(async () => {
    mergeJobs([await post("/api/v1/jobs/download", { model_id: model.model_id, node: one.node }, { key: newKey() })]);
    await load.models();
  }, "The download is queued", { not: `The download of ${model.model_id} is not queued` });
}

const MANAGED = { pause: "paused", resume: "resumed", cancel: "cancelled", bandwidth: "limited" };

async function manage(model, one, action, more = {}) {
  const send = async () => {
    const answer = await post("/api/v1/models/download/manage", {
      model_id: model.model_id,
      node: one.node,
      action,
      ...more,
    });
    showMessage(answer.message, answer.success ? "good" : "info");
    await Promise.all([load.models(), load.active()]);
  };
  const not = `The download of ${model.model_id} is not ${MANAGED[action] ?? "changed"}`;
  await attempt(send, null, { ofForm: action === "bandwidth", not });
}

function limit(event, model, one) {
  event.preventDefault();
  manage(model, one, "bandwidth", { bandwidth_limit_mbps: Number(new FormData(event.target).get("mbps")) });
}

async function cancel(model, one) {
  const yes = await confirm({
    title: `Cancel the download of ${model.model_id}?`,
    text: `Its downloaded files on ${one.node} are removed, unless another download needs them. To keep them, pause the download instead.`,
    yes: "Cancel the download",
    no: "Keep it",
  });
  if (yes) await manage(model, one, "cancel");
}

const checks = new Set(); // ids of the integrity checks that were asked for here

// One that succeeds is seen on its card.
whenEnded((job) => {
  if (!checks.delete(job.id) || job.status !== "failed") return;
  showMessage(`The check of ${job.model_id} failed: ${job.error?.message ?? "see its job"}`, "bad", { actions: [{ text: "Open", href: `#job/${job.id}` }] });
});

async function check(model, repair) {
  await attempt(
    async () => {
      const answer = await post(
        "/api/v1/jobs/integrity-check",
        { model_id: model.model_id, repair },
        { key: newKey() },
      );
      const jobs = answer.data ?? [answer];
      for (const { id } of jobs) checks.add(id);
      mergeJobs(jobs);
    },
    repair ? "The repair is queued" : "The integrity check is queued",
    { not: `The ${repair ? "repair" : "integrity check"} of ${model.model_id} is not queued` },
  );
}

async function pin(model) {
  const path = `/api/v1/models/${encodeURIComponent(model.model_id)}/pin`;
  await attempt(
    async () => {
      const answer = model.pinned ? await remove(path) : await post(path);
      model.pinned = answer.pinned;
      changed();
    },
    model.pinned ? `${model.model_id} is unpinned` : `${model.model_id} is pinned: cleanups do not remove it`,
    { key: `pin ${model.model_id}`, not: `${model.model_id} is not ${model.pinned ? "unpinned" : "pinned"}` },
  );
}
