// A small virtual DOM. A view returns a tree of `h(...)`; `render` changes only what differs, so focus, scroll
// position, open dialogs and typed text stay. Text is never parsed as markup. Independent of what is shown.

const SVG = "http://www.w3.org/2000/svg";
const ENTERED = new Set(["value", "checked"]); // set when a field is created; later changes are the user's
const OURS = new Set(["key", "on", "css", "made", "own"]); // not attributes
const FIELDS = new Set(["input", "select", "textarea"]);

/**
 * Describes one element. `props` are attributes, and these: `key`; `on` {event: handler}; `css` {property: value};
 * `made(element)` is called when it is created; `own(element)` after every change, and draws the content itself.
 * An element of the document with the property `kept` is no part of what is drawn, and stays.
 */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, key: props?.key, children: flat(children) };
}

/** Updates the container's content to `wanted`. Content that the server rendered is replaced. */
export function render(container, ...wanted) {
  if (!container.oursNow) {
    container.replaceChildren();
    container.oursNow = true;
  }
  patchChildren(container, flat(wanted), container.namespaceURI === SVG);
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
  let place = parent.firstChild;
  for (const node of nodes) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
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
