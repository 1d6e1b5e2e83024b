// A small virtual DOM. A view returns a tree of `h(...)`; `render` changes only what differs, so focus, scroll
// position, open dialogs and typed text stay. Text is never parsed as markup. Independent of what is shown.

const SVG = "http://www.w3.org/2000/svg";
const ENTERED = new Set(["value", "checked"]); // set when a field is created; later changes are the user's
const OURS = new Set(["key", "on", "css", "made", "own", "heir"]); // not attributes
const FIELDS = new Set(["input", "select", "textarea"]);

/**
 * Describes one element. `props` are attributes, and these: `key`; `on` {event: handler}; `css` {property: value};
 * `made(element)` is called when it is created; `own(element)` after every change, and draws the content itself; `heir`: a
 * selector of what takes the focus where what had it is no longer drawn.
 * An element of the document with the property `kept` is no part of what is drawn, and stays.
 */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, key: props?.key, children: flat(children) };
}

/**
 * Updates the container's content to `wanted`. Content that the server rendered is replaced. The keyboard keeps its place:
 * the focused element is never moved, and where it is gone, another one takes the focus.
 */
export function render(container, ...wanted) {
  if (!container.oursNow) {
    container.replaceChildren();
    container.oursNow = true;
  }
  const active = document.activeElement;
  const lost = active !== container && container.contains(active) ? lineOf(active, container) : null;
  patchChildren(container, flat(wanted), container.namespaceURI === SVG);
  if (lost && !lost[0].element.isConnected && document.activeElement === document.body) inherit(lost, container);
}

/** Returns the element and those around it within the container, each with its place among its siblings. */
function lineOf(element, container) {
  const line = [];
  for (let one = element; one && one !== container; one = one.parentElement)
    line.push({ element: one, parent: one.parentElement, place: [...one.parentElement.children].indexOf(one) });
  return line;
}

/**
 * Gives the focus of an element that is gone to the one drawn in its stead, else to the heir that the nearest element around
 * it names, in the row at its place if there are rows, else to the head of the dialog or view.
 */
function inherit(line, container) {
  const [{ element }] = line;
  const { parent, place } = line.find((one) => one.parent.isConnected) ?? {};
  const likeness = ["name", "aria-label"].filter((name) => element.hasAttribute(name)).map((name) => `[${name}="${CSS.escape(element.getAttribute(name))}"]`);
  let found = parent && likeness.length ? parent.querySelector(element.localName + likeness.join("")) : null;
  for (const { element: around } of [{ element: parent }, ...line]) {
    const heir = !found && around?.isConnected && around.wanted?.props.heir;
    if (heir) found = (around === parent ? around.children[Math.min(place, around.children.length - 1)]?.querySelector(heir) : null) ?? around.querySelector(heir);
  }
  found ??= container.closest("dialog")?.querySelector("[autofocus]") ?? container.closest("section")?.querySelector(":scope > [tabindex='-1']");
  found?.focus({ preventScroll: true });
}

function flat(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== true && child !== "")
    .map((child) => (typeof child === "object" ? child : String(child)));
}

function patchChildren(parent, wanted, inSvg) {
  const keyed = new Map();
  const loose = [];
  for (const node of parent.childNodes) {
    if (node.kept) continue;
    const key = node.wanted?.key;
    if (key === undefined) loose.push(node);
    else keyed.set(key, node);
  }
  const nodes = wanted.map((want) => {
    const old = want.key === undefined ? take(loose, want) : keyed.get(want.key);
    if (old && fits(old, want)) {
      keyed.delete(want.key);
      patch(old, want);
      return old;
    }
    return create(want, inSvg);
  });
  for (const node of [...loose, ...keyed.values()]) node.remove();
  const active = document.activeElement;
  const focused = parent.contains(active) ? nodes.findIndex((node) => node.contains(active)) : -1;
  if (focused >= 0) return orderAround(parent, nodes, focused);
  let place = parent.firstChild;
  for (const node of nodes) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
}

/** Puts the nodes in order without moving the one at this place: moving takes the focus from what is in it. */
function orderAround(parent, nodes, fixed) {
  for (let at = fixed - 1; at >= 0; at -= 1) if (nodes[at].nextSibling !== nodes[at + 1]) parent.insertBefore(nodes[at], nodes[at + 1]);
  for (let at = fixed + 1; at < nodes.length; at += 1)
    if (nodes[at - 1].nextSibling !== nodes[at]) parent.insertBefore(nodes[at], nodes[at - 1].nextSibling);
}

function take(loose, want) {
  const at = loose.findIndex((node) => fits(node, want));
  return at < 0 ? undefined : loose.splice(at, 1)[0];
}

function fits(node, want) {
  return typeof want === "string" ? node.nodeType === Node.TEXT_NODE : node.wanted?.tag === want.tag;
}

function create(want, inSvg) {
  if (typeof want === "string") return document.createTextNode(want);
  const svg = inSvg || want.tag === "svg";
  const element = svg ? document.createElementNS(SVG, want.tag) : document.createElement(want.tag);
  element.wanted = { tag: want.tag, props: {}, children: [] };
  patch(element, want, svg);
  if (FIELDS.has(want.tag)) for (const name of ENTERED) if (name in want.props) element[name] = want.props[name] ?? "";
  want.props.made?.(element);
  return element;
}

function patch(node, want, inSvg = node.namespaceURI === SVG) {
  if (typeof want === "string") {
    if (node.data !== want) node.data = want;
    return;
  }
  const before = node.wanted.props;
  const field = FIELDS.has(want.tag);
  for (const name of new Set([...Object.keys(before), ...Object.keys(want.props)])) {
    if (OURS.has(name) || (field && ENTERED.has(name))) continue;
    if (before[name] !== want.props[name]) attribute(node, name, want.props[name]);
  }
  for (const [name, value] of Object.entries(want.props.css ?? {})) {
    if (before.css?.[name] !== value) node.style.setProperty(name, value);
  }
  for (const event of Object.keys(want.props.on ?? {})) {
    if (!before.on?.[event]) node.addEventListener(event, handleEvent);
  }
  node.wanted = want;
  if (want.props.own) want.props.own(node);
  else patchChildren(node, want.children, inSvg);
}

function handleEvent(event) {
  event.currentTarget.wanted.props.on?.[event.type]?.(event);
}

function attribute(node, name, value) {
  if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}

/** Returns an icon from the page's SVG sprite. */
export function icon(name) {
  return h("svg", { class: "icon", "aria-hidden": "true" }, h("use", { href: `#i-${name}` }));
}
