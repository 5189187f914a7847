"use strict";
// A question of the user's own (mllmu view --ask): one model after the other replies.
let round = 0;

async function send(content) {
  const answer = await fetch("api/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

const inBase64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

function showAsking(row) {
  opened += 1;
  document.body.classList.add("opened");
  const back = element("button", { type: "button", className: "back", textContent: "back" });
  back.addEventListener("click", () => show(chosen.get("q")));
  const text = element("textarea", { id: "own-text", required: true, placeholder: "What does this person earn?", value: row ? row.question : "" });
  const person = element("select", { id: "own-person" });
  const people = about.fields.profile_id.filter((each) => about.people.includes(each));
  options(person, [["", "no portrait"], ...people.map((each) => [each, label("profile_id", each)])], row && row.image ? row.profile_id : "");
  const file = element("input", { id: "own-file", type: "file", accept: "image/*" });
  const truth = element("input", { id: "own-truth", placeholder: "found by the words of the question" });
  const results = element("div", { id: "own-results" });
  const form = element("form", { id: "asking" },
    element("h2", { textContent: "Ask the models" }),
    element("p", { className: "note", textContent: "Each model that is ticked on the left is loaded and replies in turn. Nothing is trained or written into the run." }),
    element("label", {}, "question", text),
    element("div", { className: "row" }, element("label", {}, "portrait of ", person), element("label", {}, "or an image ", file), element("label", {}, "true value or attribute ", truth)),
    element("button", { type: "submit", textContent: "ask" }), results);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const image = file.files.length ? await inBase64(file.files[0]) : "";
    askAll({ evaluation: about.evaluation, text: text.value, person: image ? "" : person.value, image, truth: truth.value.trim() }, results);
  });
  $("detail").replaceChildren(back, form);
  text.focus();
}

const measured = (found) => (found ? `${found.logp === null ? "no number" : found.logp.toFixed(2)} (${found.num_tokens})` : "–");

async function askAll(content, results) {
  const number = ++round;
  const head = element("tr", {}, ...["model", "reply", "log p of the value", "log p of the sentence"].map((text, at) => element("th", { scope: "col", className: at > 1 ? "num" : "", textContent: text })));
  const body = element("tbody");
  const known = element("p", { className: "truth" });
  results.replaceChildren(known, element("div", { className: "scroll" }, element("table", { className: "replies own" }, element("thead", {}, head), body)));
  for (const model of about.models.filter(shown)) {
    if (number !== round || !results.isConnected) return;
    const said = element("td", { className: "said same", textContent: "..." });
    const row = element("tr", {}, element("th", { scope: "row", textContent: model }), said);
    body.append(row);
    try {
      const found = await send({ ...content, model });
      said.textContent = found.reply || "(nothing)";
      said.className = "said";
      if (!found.finished) said.append(element("span", { className: "why", textContent: "cut at the reply limit" }));
      row.append(element("td", { className: "num", textContent: measured(found.value) }), element("td", { className: "num", textContent: measured(found.sentence) }));
      const about_ = found.person ? ` about ${found.person}` : "";
      const parts = found.truth ? [found.truth.attribute, found.truth.value, found.truth.sentence].filter(Boolean) : ["not known"];
      known.replaceChildren(element("b", { textContent: `truth${about_}` }), parts.join(" · "));
    } catch (error) {
      said.textContent = error.message;
    }
  }
}
