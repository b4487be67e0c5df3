// Sends pictures one by one, so that each answer is shown as soon as it is there. The token stays in this page's memory.
"use strict";

const MOST_BARS = 10;
const AT_ONCE = 4;
const NEIGHBOURS = 6;
const $ = (id) => document.getElementById(id);
const queue = [];
let token = "";
let sending = 0;
let done = 0;
let asked = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function headers(more = {}) {
  return token ? {...more, Authorization: `Bearer ${token}`} : more;
}

async function describe() {
  const response = await fetch("model", {headers: headers()});
  const needsToken = response.status === 401;
  $("entry").hidden = !needsToken;
  if (needsToken) {
    $("model").textContent = "This server asks for a token.";
    if (token) $("status").textContent = "The token is wrong.";
    $("token").focus();
    return;
  }
  const model = await response.json();
  const accuracy = model.metrics.val_accuracy;
  const known = accuracy == null ? "" : `, ${(100 * accuracy).toFixed(1)} % right on its validation images`;
  $("model").textContent = `${model.classes.length} classes (${model.classes.slice(0, 8).join(", ")}${
    model.classes.length > 8 ? ", …" : ""})${known}. Head ${model.head.slice(0, 8)}, ${model.engine}.`;
}

function take(files) {
  for (const file of files) {
    const item = element("li");
    const words = element("div", undefined, "words");
    words.append(element("h2", file.name || "pasted picture"), element("p", "waiting …", "quiet"));
    item.append(words);
    $("answers").prepend(item);
    queue.push({file, item});
  }
  asked += files.length;
  next();
}

function next() {
  while (queue.length && sending < AT_ONCE) {
    sending++;
    const {file, item} = queue.shift();
    classify(file, item).finally(() => {
      sending--;
      done++;
      next();
    });
  }
  $("status").textContent = asked ? `${done} of ${asked} answered` : "";
}

async function classify(file, item) {
  const name = file.name || "pasted picture";
  try {
    const {response, body} = await answered(file);
    const found = body.predictions?.[0];
    if (found?.status === "ok") item.replaceChildren(square(found, name), bars(found, name));
    else item.replaceChildren(sorry(name, body.code, body.message));
    if (response.status === 401) describe();
  } catch {
    item.replaceChildren(sorry(name, "no answer", "the server cannot be reached, or refused to read all of the picture"));
  }
}

// A server that is full says when to come back.
async function answered(file) {
  for (let left = 10; ; left--) {
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    const response = await fetch(`predict?square=1&neighbours=${NEIGHBOURS}`, {method: "POST", headers: headers({"Content-Type": type}), body: file});
    const seconds = Number(response.headers.get("Retry-After"));
    if (!seconds || !left) return {response, body: await response.json()};
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function square(found, name) {
  const figure = element("figure");
  const image = element("img");
  image.src = `data:image/png;base64,${found.square}`;
  image.alt = `${name} as the network sees it`;
  figure.append(image, element("figcaption", "as the network sees it"));
  return figure;
}

function bars(found, name) {
  const words = element("div", undefined, "words");
  words.append(element("h2", found.class), element("p", name, "quiet"));
  const list = element("dl");
  const sorted = Object.entries(found.probabilities).sort((one, other) => other[1] - one[1]);
  for (const [label, probability] of sorted.slice(0, MOST_BARS)) {
    const meter = element("meter");
    meter.value = probability;
    meter.setAttribute("aria-label", label);
    const bar = element("dd");
    bar.append(meter);
    list.append(element("dt", label), bar, element("dd", `${(100 * probability).toFixed(1)} %`));
  }
  words.append(list);
  if (sorted.length > MOST_BARS) words.append(element("p", `and ${sorted.length - MOST_BARS} more classes`, "quiet"));
  if (found.neighbours?.length) words.append(neighbours(found.neighbours));
  return words;
}

function neighbours(found) {
  const section = element("section");
  const list = element("ul", undefined, "neighbours");
  for (const {path, class: label, similarity, thumbnail} of found) {
    const item = element("li");
    if (thumbnail) {
      const image = element("img");
      image.src = `data:image/jpeg;base64,${thumbnail}`;
      image.alt = path;
      image.title = path;
      item.append(image);
    } else {
      item.append(element("span", path, "quiet"));
    }
    item.append(element("span", `${label}, ${similarity.toFixed(2)}`));
    list.append(item);
  }
  section.append(element("h3", "The most similar training pictures"), list);
  return section;
}

function sorry(name, code, message) {
  const words = element("div", undefined, "words");
  words.append(element("h2", name), element("p", `${code}: ${message}`, "bad"));
  return words;
}

$("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
$("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  describe();
});
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) addEventListener(name, () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) take(files);
});
describe();
