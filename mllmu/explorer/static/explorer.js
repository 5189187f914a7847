"use strict";
// All text from the run is set as text, never as markup; what is chosen stands behind the # of the address.
const $ = (id) => document.getElementById(id);
const FIELDS = { split: "set", task: "task", modality: "modality", attribute: "attribute", profile_id: "person", part: "part" };
const LIMIT = 50, MANY = 60;
let about = null, page = null, chosen = new URLSearchParams(location.hash.slice(1));
let asked = 0, opened = 0, waiting = 0, offset = 0;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

async function ask(path, query) {
  const answer = await fetch(`${path}?${query}`);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error || answer.statusText);
  return content;
}

function say(text, failed) {
  $("state").textContent = text;
  $("state").className = failed ? "error" : "";
}

const label = (field, value) => ((about.labels[field] || {})[value]) || value.replaceAll("_", " ");
const hidden = () => (chosen.get("hide") || "").split(",").filter(Boolean);
const shown = (model) => !hidden().includes(model);

// What is sent: the choices that concern questions.
function query() {
  const sent = new URLSearchParams();
  for (const [name, value] of chosen) if (!["q", "ref", "hide"].includes(name) && value) sent.append(name, value);
  return sent;
}

function choose(changes, { keep = false } = {}) {
  for (const [name, value] of Object.entries(changes)) {
    chosen.delete(name);
    for (const each of [value].flat()) if (each) chosen.append(name, each);
  }
  const hash = `#${chosen}`;
  if (keep) history.replaceState(null, "", hash); else history.pushState(null, "", hash);
}

function options(select, entries, value) {
  select.replaceChildren(...entries.map(([key, text, disabled]) => element("option", { value: key, textContent: text, disabled: !!disabled })));
  select.value = value || "";
}

// --- filters ---

function drawFilters() {
  $("title").textContent = about.name;
  document.title = `${about.name}: explorer`;
  $("board").hidden = !about.board;
  $("ask-button").hidden = !about.asks;
  $("evaluation-label").hidden = about.evaluations.length < 2;
  options($("evaluation"), about.evaluations.map((each) => [each, each]), about.evaluation);
  $("fields").replaceChildren(...Object.entries(FIELDS).filter(([field]) => about.fields[field].length > 1).map(([field, title]) => {
    const select = element("select", { id: `field-${field}` });
    select.addEventListener("change", () => { choose({ [field]: select.value }); refresh(); });
    if (about.fields[field].length > MANY) select.addEventListener("focus", () => { if (page) fill(select, field, about.fields[field]); });
    return element("label", {}, title, select);
  }));
  $("legend").replaceChildren(...about.outcomes.map((each) => element("span", { className: each }, element("i"), each)));
  const models = about.models.map((each) => [each, each]);
  options($("condition-model"), [["any", "any"], ["all", "every"], ...models], "any");
  options($("condition-outcome"), about.outcomes.map((each) => [each, each]), "wrong");
  for (const id of ["contrast-a", "contrast-b"]) options($(id), [["", "–"], ...models]);
}

function drawCounts() {
  for (const field of Object.keys(FIELDS)) {
    const select = $(`field-${field}`);
    if (!select) continue;
    // A long list is filled when it is opened; until then it holds what is chosen.
    const values = about.fields[field].length > MANY && document.activeElement !== select ? [chosen.get(field)].filter(Boolean) : about.fields[field];
    fill(select, field, values);
  }
  $("words").value = document.activeElement === $("words") ? $("words").value : chosen.get("words") || "";
  if (chosen.get("forgotten")) [$("contrast-a").value, $("contrast-b").value] = chosen.get("forgotten").split(":");
  $("models").replaceChildren(...about.models.map(drawModel));
  const conditions = ["is", "not"].flatMap((kind) => chosen.getAll(kind).map((text) => [kind, text]));
  $("chips").replaceChildren(...conditions.map(([kind, text]) => {
    const [model, outcome] = text.split(":");
    const chip = element("button", { type: "button", textContent: `${model} ${kind === "not" ? "is not" : "is"} ${outcome}`, title: "take this condition away" });
    chip.addEventListener("click", () => { choose({ [kind]: chosen.getAll(kind).filter((each) => each !== text) }); refresh(); });
    return chip;
  }));
  const count = Object.keys(FIELDS).filter((field) => chosen.get(field)).length + conditions.length + !!chosen.get("words");
  $("filter-count").textContent = count ? `(${count})` : "";
}

function fill(select, field, values) {
  const counts = page.counts[field];
  options(select, [["", "all"], ...values.map((value) => [value, `${label(field, value)} (${counts[value] || 0})`, !counts[value]])], chosen.get(field));
}

function drawModel(model) {
  const counts = page.outcomes[model];
  const box = element("input", { type: "checkbox", checked: shown(model), title: `show replies of ${model}` });
  box.setAttribute("aria-label", box.title);
  box.addEventListener("change", () => {
    choose({ hide: (box.checked ? hidden().filter((each) => each !== model) : [...hidden(), model]).join(",") }, { keep: true });
    drawList();
    show(chosen.get("q"));
  });
  const stack = element("div", { className: "stack" });
  const total = counts ? counts.reduce((sum, each) => sum + each, 0) : 0;
  for (const [number, outcome] of about.outcomes.entries()) {
    if (!total || !counts[number]) continue;
    const part = element("button", { type: "button", className: outcome, title: `${model}: ${counts[number]} of ${total} ${outcome}` });
    part.style.width = `${100 * counts[number] / total}%`;
    part.setAttribute("aria-label", `${part.title}; show only these`);
    part.addEventListener("click", () => addCondition("is", model, outcome));
    stack.append(part);
  }
  return element("div", { className: "model" }, box, element("span", { className: "name", textContent: model, title: model }), stack);
}

function addCondition(kind, model, outcome) {
  choose({ [kind]: [...new Set([...chosen.getAll(kind), `${model}:${outcome}`])] });
  refresh();
}

// --- the list ---

async function refresh({ at = "", quiet = false, from = 0 } = {}) {
  const number = ++asked;
  clearTimeout(waiting);
  if (!quiet) say("...");
  const sent = query();
  sent.set("limit", LIMIT);
  sent.set("offset", from);
  if (at) sent.set("at", at);
  try {
    const found = await ask("api/questions", sent);
    if (number !== asked) return;
    page = { ...found, forgotten: sent.get("forgotten") };
    offset = found.offset;
  } catch (error) {
    if (number === asked) say(error.message, true);
    return;
  }
  drawCounts();
  drawList();
  const left = about.models.length - page.read;
  say(left ? `reading the replies of ${left} more model${left > 1 ? "s" : ""} ...` : "");
  document.body.dataset.ready = left ? "" : "yes";
  if (left) waiting = setTimeout(() => refresh({ quiet: true, from: offset }), 600);
}

function drawList() {
  const last = Math.min(offset + page.rows.length, page.total);
  let text = `${page.total.toLocaleString("en")} of ${about.questions.toLocaleString("en")} questions`;
  if (page.contrast !== null) {
    const [a, b] = page.forgotten.split(":");
    text += `; ${page.contrast.toLocaleString("en")} forgotten by ${a}, but not by ${b}, come first`;
  }
  $("summary").textContent = text;
  $("page").textContent = page.total ? `${offset + 1} to ${last}` : "";
  $("pages").hidden = page.total <= LIMIT;
  $("earlier").disabled = !offset;
  $("later").disabled = last >= page.total;
  $("list").replaceChildren(...page.rows.map(drawRow));
}

function picture(path, text) {
  return element("img", { src: `image?${new URLSearchParams({ path, evaluation: about.evaluation })}`, alt: text, loading: "lazy" });
}

function drawRow(row) {
  const dots = element("span", { className: "dots" });
  about.models.forEach((model, number) => {
    if (!shown(model)) return;
    const outcome = about.outcomes[row.outcomes[number]];
    const dot = element("span", { className: `dot ${outcome || ""}`, title: `${model}: ${outcome || "not counted"}` });
    dots.append(dot);
  });
  const where = [label("split", row.split), label("task", row.task), label("modality", row.modality), row.attribute.replaceAll("_", " ")];
  const button = element("button", { type: "button" },
    row.image ? picture(row.image, "") : element("span", { className: "none", textContent: "text" }),
    element("span", { className: "asked", textContent: row.question }),
    element("span", { className: "about", textContent: `${row.name}: ${row.truth} · ${where.join(", ")}` }),
    dots);
  button.dataset.id = row.id;
  button.setAttribute("aria-current", row.id === chosen.get("q"));
  button.addEventListener("click", () => { choose({ q: row.id }); show(row.id); });
  return element("li", {}, button);
}

function step(by) {
  const ids = page.rows.map((row) => row.id);
  const now = ids.indexOf(chosen.get("q"));
  const next = now < 0 ? 0 : now + by;
  if (next < 0 || next >= ids.length) return turn(by, true);
  choose({ q: ids[next] }, { keep: true });
  show(ids[next]);
  return undefined;
}

async function turn(by, open) {
  const next = offset + by * LIMIT;
  if (next < 0 || next >= page.total) return;
  await refresh({ from: next });
  $("results").scrollTop = 0;
  if (open) {
    const row = page.rows[by > 0 ? 0 : page.rows.length - 1];
    choose({ q: row.id }, { keep: true });
    show(row.id);
  }
}

// --- one question ---

async function show(id) {
  const number = ++opened;
  document.body.classList.toggle("opened", !!id);
  for (const button of $("list").querySelectorAll("button")) {
    const current = button.dataset.id === id;
    button.setAttribute("aria-current", current);
    if (current) button.scrollIntoView({ block: "nearest" });
  }
  if (!id) {
    $("detail").replaceChildren(element("p", { className: "empty", textContent: "Choose a question: click, or press j." }));
    return;
  }
  const sent = new URLSearchParams({ id, evaluation: about.evaluation });
  if (chosen.get("ref")) sent.set("reference", chosen.get("ref"));
  try {
    const found = await ask("api/question", sent);
    if (number !== opened) return;
    $("detail").replaceChildren(...drawQuestion(found));
    $("detail").scrollTop = 0;
  } catch (error) {
    if (number === opened) say(error.message, true);
  }
}

function only(field, value, text) {
  const button = element("button", { type: "button", textContent: text, title: "show only these" });
  button.addEventListener("click", () => { choose({ [field]: value }); refresh({ at: chosen.get("q") }); });
  return button;
}

function drawQuestion(it) {
  const back = element("button", { type: "button", className: "back", textContent: "back" });
  back.addEventListener("click", close);
  const crumbs = element("p", { className: "crumbs" }, back,
    only("profile_id", it.profile_id, label("profile_id", it.profile_id)),
    ...["split", "task", "modality", "attribute"].map((field) => only(field, it[field], label(field, it[field]))),
    element("code", { textContent: it.id }));
  const models = it.models.filter((each) => shown(each.model));
  const reference = element("select", { id: "reference" });
  options(reference, it.models.map((each) => [each.model, each.model]), it.reference);
  reference.addEventListener("change", () => { choose({ ref: reference.value }, { keep: true }); show(it.id); });
  return [
    crumbs, drawPrompt(it),
    element("h3", {}, "Replies, and where they differ from that of ", reference),
    element("div", { className: "scroll" }, drawReplies(it, models)),
    element("h3", { textContent: "Scores" }),
    ...drawScores(models), ...drawAttacks(it), drawFacts(it),
  ];
}

// What models replied under attack; of several tries one that tells the truth, if any does.
function drawAttacks(it) {
  const rows = it.attacks.filter((each) => shown(each.model));
  if (!rows.length) return [];
  const several = new Set(rows.map((each) => each.budget)).size > 1;
  const head = element("tr", {}, ...["attack", "model", "tells the truth", "reply"].map((text) => element("th", { scope: "col", textContent: text })));
  const body = rows.map((each, number) => {
    const told = `${each.told} of ${each.tries.length}`;
    const first = number === 0 || rows[number - 1].attack !== each.attack;
    return element("tr", { className: first ? "first" : "" },
      element("th", { scope: "row", textContent: each.attack + (several ? ` (${each.budget} budget)` : "") }),
      element("td", { textContent: each.model }),
      element("td", {}, element("span", { className: `reply-chip ${each.told ? "right" : "wrong"}`, textContent: each.tries.length > 1 ? told : each.told ? "yes" : "no" })),
      element("td", { className: "said" }, each.tries[0].text || element("span", { className: "same", textContent: "(nothing)" }), drawTries(each.tries)));
  });
  return [element("h3", { textContent: "Replies under attack" }),
    element("div", { className: "scroll" }, element("table", { className: "replies attacks" }, element("thead", {}, head), element("tbody", {}, ...body)))];
}

function drawTries(tries) {
  const plain = tries.length === 1 && !tries[0].prompt && !tries[0].other_image;
  if (plain) return null;
  return element("details", {}, element("summary", { textContent: tries.length > 1 ? `all ${tries.length} tries, as they were put` : "as it was put" }),
    ...tries.map((each) => element("div", { className: "turn" },
      element("b", { textContent: each.other_image ? "asked, with another picture" : "asked" }), each.prompt || "the question as it is",
      element("b", { textContent: each.value ? "reply: tells the truth" : "reply" }), each.text || "(nothing)")));
}

function drawTurn(who, text, image) {
  return element("div", { className: "turn" }, element("b", { textContent: who }), image ? picture(image, "the image of this turn") : null, text);
}

function drawPrompt(it) {
  const turns = element("div", { className: "turns" });
  if (it.system) turns.append(drawTurn("system", it.system));
  for (const each of it.examples) turns.append(drawTurn("example", each.prompt, each.image), drawTurn("its reply", each.reply));
  turns.append(drawTurn(it.raw ? "prompt, put as it is" : "user", it.prompt), drawTruth(it));
  turns.append(drawRendered(it));
  return element("div", { className: "put" }, it.image ? picture(it.image, `the portrait of ${it.name}`) : null, turns);
}

// The prompt with the chat template, which needs the model's processor and so is read when it is wanted.
function drawRendered(it) {
  const text = element("pre", { textContent: "..." });
  const part = element("details", { className: "rendered" }, element("summary", { textContent: "As the model reads it" }), text);
  part.addEventListener("toggle", async () => {
    if (!part.open || part.dataset.read) return;
    part.dataset.read = "yes";
    try {
      text.textContent = (await ask("api/rendered", new URLSearchParams({ id: it.id, evaluation: about.evaluation, model: it.reference }))).text;
    } catch (error) {
      text.textContent = error.message;
    }
  });
  return part;
}

function drawTruth(it) {
  const value = it.value && !it.truth.includes(it.value) ? `${it.truth} (${it.value})` : it.truth;
  return element("p", { className: "truth" }, element("b", { textContent: "truth" }), value);
}

function drawReplies(it, models) {
  const head = element("tr", {}, ...["model", "outcome", "reply", "log p of the truth"].map((text, number) =>
    element("th", { scope: "col", className: number === 3 ? "num" : "", textContent: text, title: number === 3 ? "log-probability of the true answer as the reply, in nats, and its tokens" : "" })));
  const rows = models.map((each) => {
    const said = element("td", { className: `said${each.same && each.model !== it.reference ? " same" : ""}` });
    for (const [differs, text] of each.reply) said.append(differs ? element("mark", { textContent: text }) : text);
    if (!each.reply.length) said.append(element("span", { className: "same", textContent: "(nothing)" }));
    const notes = [each.why, each.finished ? "" : "cut at the reply limit"].filter(Boolean);
    return element("tr", { className: each.model === it.reference ? "reference" : "" },
      element("th", { scope: "row", textContent: each.model }),
      element("td", {}, element("span", { className: `reply-chip ${each.outcome}`, textContent: each.outcome || "not counted" }),
        ...notes.map((text) => element("span", { className: "why", textContent: text }))),
      said,
      element("td", { className: "num", textContent: each.truth ? `${each.truth.logp.toFixed(2)} (${each.truth.num_tokens})` : "–" }));
  });
  return element("table", { className: "replies" }, element("thead", {}, head), element("tbody", {}, ...rows));
}

function drawScores(models) {
  const metrics = [...new Set(models.flatMap((each) => each.scores.map((score) => score.metric)))];
  if (!metrics.length) return [element("p", { className: "note", textContent: "Nothing has been scored." })];
  const reasons = new Map();
  const head = element("tr", {}, element("th", { scope: "col", textContent: "model" }), ...metrics.map((metric) => {
    const info = about.metrics[metric] || {};
    return element("th", { scope: "col", className: "num", textContent: info.label || metric, title: info.about || "" });
  }));
  const rows = models.map((each) => element("tr", {}, element("th", { scope: "row", textContent: each.model }), ...metrics.map((metric) => {
    const score = each.scores.find((one) => one.metric === metric);
    if (!score) return element("td", { textContent: "" });
    if (score.value !== null) return element("td", { textContent: Number.isInteger(score.value) ? score.value : score.value.toFixed(3) });
    reasons.set(`${each.model}, ${(about.metrics[metric] || {}).label || metric}: ${score.reason}`, true);
    return element("td", { className: "unjudged", textContent: "unjudged", title: score.reason });
  })));
  const table = element("table", { className: "scores dense" }, element("thead", {}, head), element("tbody", {}, ...rows));
  const list = element("ul", { className: "reasons" }, ...[...reasons.keys()].map((text) => element("li", { textContent: text })));
  return [element("div", { className: "scroll" }, table), reasons.size ? list : ""];
}

function drawFacts(it) {
  const facts = Object.entries(it.facts).flatMap(([name, value]) => [element("dt", { textContent: name.replaceAll("_", " ") }), element("dd", { textContent: value })]);
  return element("details", {}, element("summary", { textContent: `All facts about ${it.name}` }), element("dl", {}, ...facts));
}

function close() {
  choose({ q: "" });
  show("");
}

// --- events ---

function listen() {
  let typing = 0;
  $("words").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { choose({ words: $("words").value.trim() }, { keep: true }); refresh(); }, 150);
  });
  $("condition").addEventListener("submit", (event) => {
    event.preventDefault();
    addCondition($("condition-is").value, $("condition-model").value, $("condition-outcome").value);
  });
  const contrast = () => {
    const [a, b] = [$("contrast-a").value, $("contrast-b").value];
    if (!(a && b) && !chosen.get("forgotten")) return;
    choose({ forgotten: a && b ? `${a}:${b}` : "" });
    refresh();
  };
  $("contrast-a").addEventListener("change", contrast);
  $("contrast-b").addEventListener("change", contrast);
  $("evaluation").addEventListener("change", () => { chosen = new URLSearchParams({ evaluation: $("evaluation").value }); choose({}); start(); });
  $("clear").addEventListener("click", clear);
  $("earlier").addEventListener("click", () => turn(-1));
  $("later").addEventListener("click", () => turn(1));
  $("ask-button").addEventListener("click", () => showAsking(page && page.rows.find((row) => row.id === chosen.get("q"))));
  $("help-button").addEventListener("click", () => $("help").showModal());
  window.addEventListener("popstate", () => { chosen = new URLSearchParams(location.hash.slice(1)); start(); });
  document.addEventListener("keydown", key);
}

function clear() {
  chosen = new URLSearchParams(["evaluation", "q", "hide", "ref"].filter((name) => chosen.get(name)).map((name) => [name, chosen.get(name)]));
  choose({});
  for (const id of ["words", "contrast-a", "contrast-b"]) $(id).value = "";
  refresh({ at: chosen.get("q") });
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !page || $("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (event.key === "Escape") { if (field) field.blur(); else close(); return; }
  if (field) return;
  const person = chosen.get("q") && page.rows.find((row) => row.id === chosen.get("q"));
  const keys = {
    j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1), c: clear,
    a: () => { if (about.asks) showAsking(person); },
    "/": () => { $("filters").open = true; $("words").focus(); }, "?": () => $("help").showModal(),
    f: () => { if (person) { choose({ profile_id: person.profile_id }); refresh({ at: person.id }); } },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
}

async function start() {
  try {
    about = await ask("api/run", new URLSearchParams(chosen.get("evaluation") ? { evaluation: chosen.get("evaluation") } : {}));
  } catch (error) {
    say(error.message, true);
    return;
  }
  drawFilters();
  await refresh({ at: chosen.get("q") });
  if (page) show(chosen.get("q"));
}

if (window.matchMedia("(max-width: 640px)").matches) $("filters").open = false;
listen();
start();
