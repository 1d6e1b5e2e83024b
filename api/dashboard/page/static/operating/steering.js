// What administrators do with devices and nodes: pause, drain, and release from quarantine.

import { post, remove } from "../base/api.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import * as load from "../base/load.js";
import { button } from "../base/parts.js";
import { deviceName } from "../base/state.js";
import { isAdmin } from "../overview/usage.js";

/** The buttons of one device; none without the scope `admin`. */
export function deviceActions(device) {
  if (!isAdmin()) return null;
  const [key, name] = [`${device.node}/${device.index}`, deviceName(device)];
  const steer = (act, done) => change(() => post(`/api/v1/queues/${act}`, { device: key }), done, `${name} is not ${act}d`);
  return h(
    "div",
    { class: "row wrap card-actions", key: "actions" },
    device.paused_at
      ? button("Resume", () => steer("resume", `${name} takes jobs again.`), { key: "pause", label: `Resume ${name}` })
      : button("Pause", () => pause(name, steer), { key: "pause", label: `Pause ${name}` }),
    device.quarantined_at ? button("Release", () => release(device, name), { key: "release", label: `Release ${name} from quarantine` }) : null,
  );
}

async function pause(name, steer) {
  const text = "Its job finishes, and no other starts on it until it is resumed. Other devices go on.";
  if (!(await confirm({ title: `Pause ${name}?`, text, yes: "Pause", kind: "primary" })) || !(await steer("pause"))) return;
  const resume = () => steer("resume", `${name} takes jobs again.`);
  showMessage(`Nothing new starts on ${name}.`, "info", { actions: [{ text: "Resume", act: resume }], only: false, stays: true });
}

/** The button of one node. */
export function nodeActions(node) {
  if (!isAdmin()) return null;
  const path = `/api/v1/nodes/${encodeURIComponent(node.name)}/drain`;
  return h(
    "div",
    { class: "row wrap", key: "actions" },
    node.drained_at
      ? button("Take jobs again", () => change(() => remove(path), `${node.name} takes jobs again.`, `${node.name} is still drained`), { key: "drain", label: `Take jobs again on ${node.name}` })
      : button("Drain", () => drain(node, path), { key: "drain", label: `Drain ${node.name}` }),
  );
}

async function drain(node, path) {
  const text = "What runs on it finishes; nothing new starts on it until the drain is ended.";
  if (await confirm({ title: `Drain the node ${node.name}?`, text, yes: "Drain" })) await change(() => post(path), `Nothing new starts on ${node.name}.`, `${node.name} is not drained`);
}

async function release(device, name) {
  const text = `Release it once it is repaired: ${device.quarantine_reason}. Jobs start on it again at once.`;
  if (!(await confirm({ title: `Release ${name} from quarantine?`, text, yes: "Release" }))) return;
  await change(() => remove(`/api/v1/nodes/${encodeURIComponent(device.node)}/devices/${device.index}/quarantine`), `${name} is released.`, `${name} is not released`);
}

const change = (act, done, not) =>
  attempt(async () => {
    await act();
    await load.essentials();
  }, done, { not });
