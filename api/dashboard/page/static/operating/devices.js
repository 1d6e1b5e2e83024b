// A card for each device: its current job, loaded models and latest measurements. Then the nodes.

import { awaited, none } from "../base/awaited.js";
import { h } from "../base/dom.js";
import { ago, at, lasting, megabytes, number, NONE, percent, plural, words } from "../base/format.js";
import { lastLines } from "../base/log.js";
import { badge, bar, fact, facts, note, progressOf, titleOf } from "../base/parts.js";
import { deviceName, state } from "../base/state.js";
import { isQueuePaused } from "../overview/pauses.js";
import { isAdmin } from "../overview/usage.js";
import { deviceActions, nodeActions } from "./steering.js";

export function devices() {
  const { workers } = state;
  const wanting = awaited("workers", "devices", workers);
  if (!workers) return wanting;
  return [
    wanting,
    workers.devices.length
      ? h("ul", { class: "cards" }, workers.devices.map(card))
      : none("workers", "No device has registered yet. A GPU worker registers when it starts."),
    h(
      "section",
      { class: "panel", "aria-labelledby": "h-nodes" },
      h("h2", { id: "h-nodes" }, "Nodes"),
      workers.nodes.length ? h("ul", { class: "nodes" }, workers.nodes.map(node)) : none("workers", "No node has reported yet."),
    ),
  ];
}

function card(device) {
  const key = `${device.node}/${device.kind}/${device.index}`;
  const job = device.job ? state.jobs.get(device.job) : null;
  return h(
    "li",
    { key, class: "panel card", "data-device": key },
    h(
      "div",
      { class: "row between" },
      h("h2", null, deviceName(device)),
      badge(device.state),
    ),
    h("p", { class: "muted small" }, device.name),
    quarantine(device),
    paused(device),
    running(device, job),
    readings(device),
    h("h3", null, "Loaded"),
    device.warm.length
      ? h(
          "ul",
          { class: "chips" },
          [...device.warm].reverse().map((one, index) => h("li", { key: index }, warm(one))),
        )
      : h("p", { class: "muted small" }, "no model"),
    h(
      "p",
      { class: "muted small" },
      device.state === "offline"
        ? device.last_seen
          ? `last seen ${ago(device.last_seen)}`
          : "shut down"
        : `up for ${lasting(device.started_at)} · pid ${device.pid}`,
    ),
    deviceActions(device),
    isAdmin() ? lastLines(logOf(device), "The node's processes log to standard output, or nothing yet.", "Log", { ofOne: true }) : null,
  );
}

/** Returns why the device accepts no jobs, or how many faults it has had in a row. */
function quarantine(device) {
  if (device.quarantined_at)
    return [
      note(`Quarantined ${ago(device.quarantined_at)}: ${device.quarantine_reason}`, "bad"),
      h("p", { class: "muted small" }, "Once it is repaired: ", h("code", null, `wanworks release ${keyOf(device)}`)),
    ];
  return device.faults ? note(`${plural(device.faults, "fault")} in a row`, "warn") : null;
}

/** Returns why and until when the device is paused. */
function paused(device) {
  if (!device.paused_at) return null;
  const end = device.paused_until ? ` until ${at(device.paused_until)}` : "";
  return note(`Paused ${ago(device.paused_at)}${end}${device.pause_reason ? `: ${device.pause_reason}` : ""}`, "warn");
}

const logOf = (device) => `/api/v1/nodes/${encodeURIComponent(device.node)}/log?process=gpu-${device.index}&lines=100`;

const keyOf = (device) => `${device.node}/${device.index}`;

/** The reasons for a reduced clock rate that point to heat or to the power supply. */
const SLOWDOWNS = new Set(["hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown"]);

function running(device, job) {
  const finishing = device.finishing_job
    ? h("p", { class: "muted small" }, "Finishing ", h("a", { href: `#job/${device.finishing_job}` }, "the job before"))
    : null;
  if (!device.job) return [h("p", { class: "idle" }, waiting(device)), finishing];
  return h(
    "div",
    { class: "running" },
    h("a", { class: "title", href: `#job/${device.job}` }, job ? titleOf(job) : "a job"),
    job ? progressOf(job) : null,
    finishing,
  );
}

/** What a device without a job waits for. Its state is in the badge above. */
function waiting(device) {
  if (device.state === "idle") return isQueuePaused() ? "idle – the queue is paused" : "waits for a job";
  return "no job";
}

function readings(device) {
  const { sample } = device;
  if (!sample)
    return facts(fact("Memory", megabytes(device.memory_mb)), fact("Utilisation", NONE, "No recent measurement"));
  const memory = sample.memory_total_mb ?? device.memory_mb;
  const used = sample.memory_used_mb;
  return h(
    "div",
    { class: "readings" },
    gauge(
      "Utilisation",
      device.kind === "cpu"
        ? sample.utilization_percent && Math.min(100, sample.utilization_percent)
        : sample.utilization_percent,
      percent(sample.utilization_percent),
      device.kind === "cpu" ? "of one core" : "",
    ),
    gauge(
      "Memory",
      used == null || !memory ? null : (100 * used) / memory,
      used == null ? NONE : `${megabytes(used)} of ${megabytes(memory)}`,
      device.kind === "cpu" ? "of the host" : "",
    ),
    facts(
      fact("Temperature", sample.temperature_celsius == null ? NONE : `${number(sample.temperature_celsius)}\u00a0°C`),
      fact("Power", sample.power_watts == null ? NONE : `${number(sample.power_watts)}\u00a0W`),
      sample.ecc_uncorrected ? fact("Memory errors", number(sample.ecc_uncorrected)) : null,
    ),
    slowed(sample),
  );
}

function slowed(sample) {
  const reasons = (sample.throttle_reasons ?? []).filter((reason) => SLOWDOWNS.has(reason));
  return reasons.length ? note(`Slowed down: ${reasons.map(words).join(", ")}`, "warn") : null;
}

function gauge(label, value, text, of) {
  return h(
    "div",
    { class: "gauge", key: label },
    h(
      "div",
      { class: "row between small" },
      h("span", { class: "muted" }, label, of ? ` ${of}` : ""),
      h("span", null, text),
    ),
    value == null ? null : bar(value, label),
  );
}

function warm(one) {
  const more = [
    one.quantization && one.quantization !== "none" ? one.quantization : null,
    one.profile ? words(one.profile) : null,
    one.memory_mb ? megabytes(one.memory_mb) : null,
  ];
  const presets = state.catalogue.filter((entry) => entry.extends === one.model_id).map((entry) => entry.model_id);
  if (presets.length) more.unshift(`also for ${presets.join(", ")}`);
  return [h("b", null, one.model_id ?? "a model"), more.filter(Boolean).map((text) => ` · ${text}`)];
}

function node(one) {
  const used = one.disk_total_mb ? (100 * (one.disk_total_mb - one.disk_free_mb)) / one.disk_total_mb : null;
  const devicesThere = state.workers.devices.filter((device) => device.node === one.name).length;
  return h(
    "li",
    { key: one.name },
    h("div", { class: "row between" }, h("strong", null, one.name), badge(one.state)),
    h(
      "p",
      { class: "muted small" },
      `wanworks ${one.version} · ${plural(devicesThere, "device")}`,
      one.last_seen ? ` · seen ${ago(one.last_seen)}` : "",
      one.running_jobs ? ` · ${plural(one.running_jobs, "job")} running` : "",
      one.drained_at ? ` · drain requested ${ago(one.drained_at)}` : "",
    ),
    one.state !== "offline" && !one.io_online
      ? note("Its io worker does not report: downloads, integrity checks and cleanups do not run on this node.", "warn")
      : null,
    used == null
      ? null
      : gauge("Disk with the models", used, `${megabytes(one.disk_free_mb)} free of ${megabytes(one.disk_total_mb)}`),
    nodeActions(one),
  );
}
