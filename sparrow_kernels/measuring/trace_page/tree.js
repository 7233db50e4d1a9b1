// The drafted tree of a step as SVG: columns from left to right where there is room, else rows.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, children = []) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const chance = (log) => (log === null ? 0 : Math.exp(log));

function percent(log) {
  const value = 100 * chance(log);
  if (value >= 99.95) return "100 %";
  if (value >= 9.95) return `${Math.round(value)} %`;
  return value >= 0.05 ? `${value.toFixed(1)} %` : "< 0.1 %";
}

/** Whitespace made visible, in one line. */
function shown(text) {
  const inner = text.replace(/\n/g, "↵").replace(/\t/g, "⇥").trim();
  return inner === "" ? "␣".repeat(text.length || 1) : inner;
}

/** Nodes of a step, the target's own token at the end, with what became of each. */
function nodesOf(step, piece) {
  const taken = new Set(step.path.slice(1, step.emitted.length + 1));
  const ended = step.emitted.length < step.path.length;
  const nodes = step.tokens.map((token, node) => ({
    text: piece(token), parent: step.parent[node], draft: step.draft && step.draft[node],
    target: step.target[node], children: [],
    kind: node === 0 ? "root" : taken.has(node) ? "accepted" : "rejected",
    outcome: node === 0 ? "already in the text" : taken.has(node) ? "accepted" :
      step.path.includes(node) ? "not needed: the text ended" : "refused",
  }));
  if (!ended) {
    const last = step.emitted.length - 1;
    nodes.push({
      text: piece(step.emitted[last]), parent: step.path[step.path.length - 1], draft: null,
      target: step.emittedTarget[last], children: [], kind: "bonus", outcome: "the target's own",
    });
  }
  nodes.forEach((node, number) => {
    node.number = number;
    node.above = nodes[node.parent];
    node.depth = node.above ? node.above.depth + 1 : 0;
    const above = node.above ? node.above.path : 1;
    node.path = node.depth && node.kind !== "bonus" ? above * chance(node.draft) : above;
    if (node.above) node.above.children.push(node);
  });
  return nodes;
}

const measure = document.createElement("canvas").getContext("2d");

/** `text`, shortened to `room` pixels. */
function fitted(text, room) {
  measure.font = "600 13px system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";
  if (measure.measureText(text).width <= room) return text;
  let letters = Array.from(text);
  while (letters.length > 1 && measure.measureText(`${letters.join("")}…`).width > room) {
    letters = letters.slice(0, -1);
  }
  return `${letters.join("")}…`;
}

/** Places nodes in columns by depth; a parent stands beside the middle of its children. */
function inColumns(nodes, width) {
  const levels = Math.max(...nodes.map((node) => node.depth)) + 1;
  const column = Math.max(104, Math.min(190, (width - 4) / levels));
  const leaves = nodes.filter((node) => !node.children.length).length;
  const row = leaves > 24 ? 28 : 36;
  let next = 0;
  const place = (node) => {
    node.x = 2 + node.depth * column;
    node.children.forEach(place);
    if (!node.children.length) node.y = 16 + row * next++;
    else node.y = (node.children[0].y + node.children.at(-1).y) / 2;
  };
  place(nodes[0]);
  nodes.forEach((node) => { node.width = column - (column > 130 ? 34 : 24); });
  const edge = (a, b) => {
    const [x, half] = [a.x + a.width, (b.x - a.x - a.width) / 2];
    return `M${x} ${a.y}C${x + half} ${a.y} ${x + half} ${b.y} ${b.x} ${b.y}`;
  };
  return { width: levels * column, height: row * Math.max(1, next) + 4, edge };
}

/** Places nodes in rows, indented by depth: what fits a phone. */
function inRows(nodes, width) {
  const levels = Math.max(...nodes.map((node) => node.depth)) + 1;
  const indent = Math.min(26, (width - 130) / levels);
  let next = 0;
  const place = (node) => {
    node.x = 2 + node.depth * indent;
    node.y = 16 + 32 * next++;
    node.width = Math.min(170, width - 4 - node.x);
    node.children.forEach(place);
  };
  place(nodes[0]);
  const edge = (a, b) => `M${a.x + 8} ${a.y + 13}V${b.y}H${b.x}`;
  return { width, height: 32 * next + 2, edge };
}

/** What a node's tooltip says. */
function told(node) {
  if (node.kind === "root") return `“${node.text}”: the last token so far, the root`;
  const lines = [`“${node.text}”: ${node.outcome}`];
  if (node.draft !== null) {
    lines.push(`draft ${percent(node.draft)}, along the path ${percent(Math.log(node.path))}`);
  }
  return [...lines, `target ${percent(node.target)}`].join("\n");
}

function drawTree(holder, nodes, label) {
  const room = Math.max(240, holder.clientWidth);
  const places = room < 560 ? inRows(nodes, room) : inColumns(nodes, room);
  const picture = svg("svg", {
    width: places.width, height: places.height, role: "img", "aria-label": label,
  });
  const strong = (node) => node.kind === "accepted" || node.kind === "bonus";
  const drawn = [...nodes].sort((a, b) => strong(a) - strong(b));
  for (const node of drawn) {
    if (!node.above) continue;
    const own = node.kind === "bonus" ? 0.35 : chance(node.draft);
    picture.append(svg("path", {
      class: `edge ${node.kind}`, d: places.edge(node.above, node),
      "stroke-width": (1 + 4 * own).toFixed(2),
      "stroke-opacity": (node.kind === "rejected" ? 0.3 + 0.7 * node.path : 1).toFixed(2),
    }));
  }
  for (const node of nodes) {
    const sure = node.kind === "root" ? "" :
      node.kind === "bonus" ? "own" : node.draft === null ? "" : percent(node.draft);
    const text = svg("text", { x: node.x + 8, y: node.y + 5 });
    text.textContent = fitted(shown(node.text), node.width - 16 - (sure ? 6 * sure.length + 8 : 0));
    const note = svg("text", { class: "sure", x: node.x + node.width - 7, y: node.y + 4 });
    note.textContent = sure;
    const title = svg("title");
    title.textContent = told(node);
    picture.append(svg("g", { class: `node ${node.kind}` }, [
      title,
      svg("rect", { x: node.x, y: node.y - 13, width: node.width, height: 26, rx: 6 }),
      text, note,
    ]));
  }
  holder.replaceChildren(picture);
}
