// The arena's page. It knows pairs by number and images by side, but never which model drew an image.
"use strict";

const KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", " ": "none", 0: "none" };
const byId = (id) => document.getElementById(id);
const fieldsets = [...document.querySelectorAll("fieldset")];
const questions = fieldsets.map((fieldset) => fieldset.dataset.question);

let rater = "";
let pairs = []; // in this rater's order: pair, caption, and answers or null
let position = 0; // of the pair that is shown
let given = []; // its answers so far, in the questions' order
const revealed = new Set(); // flagged pairs whose images this rater asked to see, until the page is left
const skipped = new Set(); // flagged pairs that this rater would not judge; they come again another time
const loaded = new Map(); // pair -> its two image elements

history.replaceState(null, "", "/"); // the token need not stay in the address bar
byId("rater").value = sessionStorage.getItem("rater") || "";

function setState(state) {
  document.body.dataset.state = state;
  byId("start").hidden = state !== "start";
  byId("judging").hidden = state === "start" || state === "end";
  byId("end").hidden = state !== "end";
  byId("keys").hidden = state === "start";
  byId("veil").hidden = state !== "veiled";
  for (const button of document.querySelectorAll("fieldset button")) button.disabled = state !== "judging";
}

function say(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Votes given so far are kept; start it again and open its new address.");
  }
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

function images(pair) {
  if (!loaded.has(pair)) {
    const two = ["left", "right"].map((side) => {
      const image = new Image();
      image.alt = `${side} image`;
      image.draggable = false;
      image.src = `/image/${pair}/${side}?rater=${encodeURIComponent(rater)}${revealed.has(pair) ? "&reveal=1" : ""}`;
      return image;
    });
    loaded.set(pair, two);
  }
  return loaded.get(pair);
}

function nextOpen(from) {
  const open = (pair) => !pair.answers && !skipped.has(pair.pair);
  const after = pairs.findIndex((pair, index) => index >= from && open(pair));
  return after >= 0 ? after : pairs.findIndex(open);
}

function render() {
  fieldsets.forEach((fieldset, index) => {
    const active = index === given.length;
    fieldset.classList.toggle("active", active);
    if (active) fieldset.setAttribute("aria-current", "step");
    else fieldset.removeAttribute("aria-current");
    for (const button of fieldset.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(given[index] === button.dataset.answer));
    }
  });
  const done = pairs.filter((pair) => pair.answers).length;
  byId("bar").max = pairs.length;
  byId("bar").value = done;
  byId("count").textContent = `${done} of ${pairs.length} judged`;
}

function focusQuestion() {
  if (given.length < fieldsets.length) fieldsets[given.length].focus({ preventScroll: true });
}

async function show(index, answers) {
  if (index < 0) {
    position = pairs.length;
    setState("end");
    const left = pairs.filter((pair) => !pair.answers).length;
    const skippedText = left ? ` You skipped ${left} blurred ${left === 1 ? "pair" : "pairs"}.` : "";
    byId("summary").textContent = `${pairs.length - left} pairs are kept under the name ${rater}.${skippedText} You may close this page.`;
    byId("end").querySelector("h1").focus();
    return;
  }
  position = index;
  given = answers;
  const { pair, caption, flagged } = pairs[index];
  setState("loading"); // no answer counts before both images stand there
  byId("caption").textContent = caption;
  byId("left").replaceChildren(images(pair)[0]);
  byId("right").replaceChildren(images(pair)[1]);
  render();
  try {
    await Promise.all(images(pair).map((image) => image.decode()));
  } catch {
    loaded.delete(pair);
    say("An image could not be loaded. Is the server still running? Open the address that it printed last.");
    return;
  }
  const upcoming = pairs.findIndex((other, at) => at > index && !other.answers);
  const keep = new Set([pair, ...(upcoming >= 0 ? [pairs[upcoming].pair] : [])]);
  for (const other of loaded.keys()) if (!keep.has(other)) loaded.delete(other);
  keep.forEach(images);
  if (flagged && !revealed.has(pair)) {
    setState("veiled"); // no answer counts before the rater has seen the images
    return byId("veil").focus({ preventScroll: true }); // not its buttons: a key meant as an answer would press them
  }
  setState("judging");
  focusQuestion();
}

async function reveal() {
  if (document.body.dataset.state !== "veiled") return;
  const { pair } = pairs[position];
  revealed.add(pair);
  loaded.delete(pair);
  await show(position, given);
}

async function skip() {
  if (document.body.dataset.state !== "veiled") return;
  if (!pairs[position].answers) skipped.add(pairs[position].pair);
  await show(nextOpen(position + 1), []);
}

async function answer(index, choice) {
  if (document.body.dataset.state !== "judging" || index > given.length) return;
  say("");
  given[index] = choice;
  render();
  if (given.length < questions.length) return focusQuestion();
  const current = pairs[position];
  const answers = Object.fromEntries(questions.map((question, at) => [question, given[at]]));
  setState("saving");
  try {
    await ask("/vote", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ rater, pair: current.pair, answers }),
    });
  } catch (error) {
    say(error.message);
    given.pop();
    render();
    setState("judging");
    return focusQuestion();
  }
  current.answers = answers;
  await show(nextOpen(position), []);
}

async function undo() {
  const state = document.body.dataset.state;
  if (!["judging", "veiled", "end"].includes(state)) return;
  say("");
  if (state === "judging" && given.length) {
    given.pop();
    render();
    focusQuestion();
  } else if (position > 0) {
    const before = pairs[position - 1].answers;
    await show(position - 1, before ? questions.slice(0, -1).map((question) => before[question]) : []);
  }
}

function enlarge() {
  byId("larger").setAttribute("aria-pressed", String(document.body.classList.toggle("large")));
}

byId("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  say("");
  rater = byId("rater").value.trim().toLowerCase();
  try {
    pairs = (await ask(`/session?rater=${encodeURIComponent(rater)}`)).pairs;
  } catch (error) {
    return say(error.message);
  }
  sessionStorage.setItem("rater", rater);
  await show(nextOpen(0), []);
});

fieldsets.forEach((fieldset, index) => {
  for (const button of fieldset.querySelectorAll("button")) {
    button.addEventListener("click", () => answer(index, button.dataset.answer));
  }
});
for (const side of ["left", "right"]) byId(side).addEventListener("click", () => answer(given.length, side));
byId("larger").addEventListener("click", enlarge);
byId("undo").addEventListener("click", undo);
byId("reveal").addEventListener("click", reveal);
byId("skip").addEventListener("click", skip);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || document.body.dataset.state === "start") return;
  if (event.key === " " && event.target instanceof HTMLButtonElement) return; // space presses a focused button
  const choice = KEYS[event.key];
  const act = { u: undo, z: enlarge }[event.key.toLowerCase()];
  if (!choice && !act) return;
  event.preventDefault();
  if (event.repeat) return; // a key held down is one answer
  if (choice) answer(given.length, choice);
  else act();
});
