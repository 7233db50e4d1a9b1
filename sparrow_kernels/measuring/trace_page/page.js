// Everything but the tree: the summary, the words, the times, and going from step to step.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const piece = (token) => data.pieces[token] ?? `#${token}`;
const PHASES = ["draft", "verify", "commit"];
let request = 0;
let step = 0;
let playing = null;

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const ms = (seconds) => {
  const value = 1e3 * seconds;
  return value >= 9.95 ? `${Math.round(value)} ms` : `${value.toFixed(value < 0.1 ? 2 : 1)} ms`;
};

function make(name, properties = {}, children = []) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** The step of this number, its fields by name. */
function stepOf(of, number) {
  const [tokens, parent, draft, target, path, emitted, emittedTarget, words, seconds, slots] =
    of.steps[number];
  return { tokens, parent, draft, target, path, emitted, emittedTarget, words, seconds, slots };
}

function tile(name, value, note = "") {
  return make("div", {}, [
    make("dt", { textContent: name }),
    make("dd", {}, [value, " ", make("small", { textContent: note })]),
  ]);
}

function showRequest() {
  const of = data.requests[request];
  const tokens = sum(of.steps.map((each) => each[5].length)) + 1;
  const calls = of.steps.length;
  const decoding = sum(of.steps.map((each) => sum(each[8])));
  document.title = `${data.question} — step by step`;
  at("question").textContent = data.question;
  at("about").textContent = [
    of.clip, `${of.visual_tokens.toLocaleString("en")} visual tokens`, `target ${data.target}`,
    data.tree ? `tree ${data.tree}${/^\d+-\d+-\d+$/.test(data.tree) ? " (total-depth-width)" : ""}`
      : "no draft",
  ].filter(Boolean).join(" · ");
  at("film").replaceChildren(...of.frames.map(([second, source]) =>
    make("img", { src: source, alt: `at ${second} s`, title: `at ${second} s` })));
  const tiles = [
    tile("Tokens of the answer", tokens),
    tile("Calls of the target", calls, "and the prompt's"),
  ];
  if (calls) {
    tiles.push(tile("Tokens emitted a call", ((tokens - 1) / calls).toFixed(2), "plainly: 1"));
    tiles.push(tile("Time a token", ms(decoding / (tokens - 1)),
      data.requests.length > 1 ? "all clips together" : ""));
  }
  for (const { against, ratio, low, high } of data.speed) {
    tiles.push(tile(`Against ${against}`, `${ratio.toFixed(2)}×`,
      low === null ? "one run" : `${low.toFixed(2)}–${high.toFixed(2)}`));
  }
  if (!data.speed.length) tiles.push(tile("Against plain decoding", "–", "--compare measures it"));
  at("summary").replaceChildren(...tiles);
  const { prefill, draft_prefill: draftPrefill } = data.seconds;
  at("time-note").textContent = "the number above a step: tokens it emitted; before the first,"
    + ` ${ms(prefill)} to read the prompt` + (data.tree ? ` and ${ms(draftPrefill)} in the draft` : "");
  showText(of);
  at("slider").max = Math.max(1, calls);
  at("slider").disabled = calls < 2;
  at("made").textContent = data.made;
}

function showText(of) {
  const word = (text, number, kind) => {
    const span = make("span", { textContent: text, className: kind });
    span.dataset.step = number;
    return span;
  };
  const spans = [word(of.first, -1, "own")];
  of.steps.forEach((_, number) => {
    const { path, words } = stepOf(of, number);
    words.forEach((text, rank) =>
      spans.push(word(text, number, rank + 1 < path.length ? "drafted" : "own")));
  });
  at("text").replaceChildren(...spans);
}

function showTime() {
  const of = data.requests[request];
  const count = of.steps.length;
  const holder = at("time");
  if (!count) {
    holder.replaceChildren("No step: the prompt's own call emitted all there is.");
    return;
  }
  const [width, height, left, top] = [Math.max(260, holder.clientWidth), 130, 46, 16];
  const times = of.steps.map((each) => sum(each[8]));
  const middle = [...times].sort((a, b) => a - b)[count >> 1];
  const most = Math.max(...times) > 4 * middle ? 3 * middle : Math.max(...times);
  const pitch = (width - left) / count;
  const bar = Math.max(0.5, Math.min(34, pitch - (pitch > 4 ? 2 : 0)));
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, height, role: "img",
    "aria-label": `Milliseconds of ${counted(count, "step")}, by phase`,
  });
  for (const share of [0, 0.5, 1]) {
    const y = top + (height - top - 4) * (1 - share);
    const text = svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" });
    text.textContent = share ? ms(share * most) : "0";
    picture.append(svg("line", { x1: left, x2: width, y1: y, y2: y }), text);
  }
  of.steps.forEach((each, number) => {
    const x = left + number * pitch + (pitch - bar) / 2;
    const shrunk = Math.min(1, most / times[number]);
    const group = svg("g", { "data-step": number });
    let y = height - 4;
    PHASES.forEach((phase, place) => {
      const tall = (height - top - 4) * each[8][place] * shrunk / most;
      y -= tall;
      group.append(svg("rect", { class: `phase-${phase}`, x, y, width: bar, height: tall }));
    });
    if (pitch >= 13 || shrunk < 1) {
      const text = svg("text", { x: x + bar / 2, y: y - 4, "text-anchor": "middle" });
      text.textContent = (shrunk < 1 ? "▲" : "") + (pitch >= 13 ? each[5].length : "");
      group.append(text);
    }
    const title = svg("title");
    title.textContent = `step ${number + 1}: ${counted(each[5].length, "token")} in `
      + `${ms(times[number])} (${PHASES.map((p, i) => `${p} ${ms(each[8][i])}`).join(", ")})`;
    group.append(svg("rect", {
      class: "hit", x: left + number * pitch, y: 0, width: pitch, height,
    }), title);
    picture.append(group);
  });
  const mark = svg("rect", { class: "mark", y: 1, width: Math.max(4, bar + 4), height: height - 2 });
  mark.setAttribute("x", left + step * pitch + pitch / 2 - Math.max(4, bar + 4) / 2);
  mark.setAttribute("rx", 3);
  picture.append(mark);
  holder.replaceChildren(picture);
}

function showStep() {
  const of = data.requests[request];
  const count = of.steps.length;
  for (const span of at("text").children) {
    const number = Number(span.dataset.step);
    span.classList.toggle("now", number === step);
    span.classList.toggle("later", number > step);
  }
  const first = at("text").querySelector(".now");
  const line = parseFloat(getComputedStyle(at("text")).lineHeight);
  if (first) at("text").scrollTop = first.offsetTop - 2 * line;
  at("back").disabled = step <= 0;
  at("on").disabled = step >= count - 1;
  at("place").textContent = count ? `${step + 1} of ${count}` : "no step";
  at("slider").value = step + 1;
  showTime();
  if (!count) return;
  const now = stepOf(of, step);
  const nodes = nodesOf(now, piece);
  const accepted = nodes.filter((node) => node.kind === "accepted").length;
  const bonus = nodes.find((node) => node.kind === "bonus");
  const own = bonus ? `added “${shown(bonus.text)}” itself` : "and the text ended there";
  const drafted = now.tokens.length - 1;
  const kept = drafted === 0 ? `No draft: the target ${own}` :
    `The draft proposed ${counted(drafted, "token")}. The target kept `
    + `${accepted === drafted ? "all" : accepted || "none"} of them${bonus ? " and " : ", "}${own}`;
  at("tree-title").textContent = `Step ${step + 1}`;
  at("told").textContent = `${kept}: ${counted(now.emitted.length, "token")} for one call, in `
    + `${ms(sum(now.seconds))}.`;
  at("slider").setAttribute("aria-valuetext",
    `Step ${step + 1} of ${count}, ${counted(now.emitted.length, "token")}`);
  drawTree(at("tree"), nodes, at("told").textContent);
  at("nodes").replaceChildren(...nodes.map((node) => make("tr", {}, [
    make("td", { textContent: node.number }),
    make("td", { textContent: node.above ? node.above.number : "" }),
    make("td", { textContent: node.text }),
    ...[
      node.draft === null || !node.above ? "" : percent(node.draft),
      node.draft === null || !node.above ? "" : percent(Math.log(node.path)),
      node.above ? percent(node.target) : "",
    ].map((value) => make("td", { className: "number", textContent: value })),
    make("td", { textContent: node.outcome }),
  ])));
  at("tree").setAttribute("title", `${now.slots[0]} slots committed in the target's cache`
    + (now.slots[1] === null ? "" : `, ${now.slots[1]} in the draft's`));
}

function go(number) {
  const last = data.requests[request].steps.length - 1;
  step = Math.max(0, Math.min(last, number));
  showStep();
  const hash = `#${request ? `${request + 1}.` : ""}${step + 1}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

function choose(number) {
  request = number;
  at("request").value = number;
  showRequest();
}

function stop() {
  clearInterval(playing);
  playing = null;
  at("play").textContent = "Play";
  at("play").setAttribute("aria-pressed", "false");
}

function play() {
  const count = data.requests[request].steps.length;
  if (step >= count - 1) go(0);
  at("play").textContent = "Stop";
  at("play").setAttribute("aria-pressed", "true");
  playing = setInterval(() => {
    if (step >= count - 1) stop();
    else go(step + 1);
  }, 700);
}

function begin() {
  data.requests.forEach((of, number) =>
    at("request").append(make("option", { value: number, textContent: of.clip })));
  at("which").hidden = data.requests.length < 2;
  const read = () => {
    const asked = /^#(?:(\d+)\.)?(\d+)$/.exec(location.hash);
    const wanted = asked && asked[1] ? Number(asked[1]) - 1 : 0;
    choose(data.requests[wanted] ? wanted : 0);
    go(asked ? Number(asked[2]) - 1 : 0);
  };
  read();
  addEventListener("hashchange", read);
  at("request").addEventListener("change", () => {
    stop();
    choose(Number(at("request").value));
    go(0);
  });
  const by = (move) => { stop(); go(step + move); };
  at("back").addEventListener("click", () => by(-1));
  at("on").addEventListener("click", () => by(1));
  at("play").addEventListener("click", () => (playing === null ? play() : stop()));
  at("slider").addEventListener("input", () => { stop(); go(Number(at("slider").value) - 1); });
  for (const id of ["text", "time"]) {
    at(id).addEventListener("click", (event) => {
      const found = event.target.closest("[data-step]");
      if (found) { stop(); go(Number(found.dataset.step)); }
    });
  }
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, input, .tree, .text, .scrolls")) return;
    const last = data.requests[request].steps.length - 1;
    const wanted = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: last }[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    stop();
    go(wanted);
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) { width = innerWidth; showStep(); }
  });
}

begin();
