"use strict";

const $ = (id) => document.getElementById(id);
// Readable with dark letters in both colour schemes.
const COLOURS = ["#8ab8ff", "#ffb870", "#8fd694", "#ff9e9e", "#cbb0f5", "#e0c097", "#f5a9d6", "#c3cf74", "#7fd6e0"];
let chosen = null;
let request = null;
let videoAddress = null;

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const seconds = (value) => `${value.toFixed(value < 100 ? 1 : 0)} s`;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  // Names of files and classes are always text, never HTML.
  made.append(...children);
  return made;
}

function showError(text) {
  $("error").textContent = text;
  $("status").textContent = "";
}

function headers() {
  const token = $("token").value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function loadInfo() {
  let answer;
  try {
    answer = await fetch("info", { headers: headers() });
  } catch {
    $("model").textContent = "The server does not answer.";
    return false;
  }
  $("token-row").hidden = answer.status !== 401 && !$("token").value;
  if (!answer.ok) {
    $("model").textContent = answer.status === 401 ? "This server needs a token." : `Error ${answer.status}.`;
    return false;
  }
  const info = await answer.json();
  const limits = info.limits;
  $("model").textContent = `${info.method} on ${info.backbone}, ${info.classes.length} classes`;
  $("model").title = info.classes.join(", ");
  $("limits").textContent = `At most ${limits.upload_megabytes} MB and ${limits.duration_seconds} seconds.`;
  $("limits").dataset.megabytes = limits.upload_megabytes;
  return true;
}

function choose(file) {
  chosen = file || null;
  showError("");
  if (chosen) $("status").textContent = `${chosen.name}, ${(chosen.size / 1e6).toFixed(1)} MB`;
}

function form() {
  const data = new FormData();
  data.append("top_k", $("top").value || "5");
  for (const name of ["window", "stride"]) if ($(name).value) data.append(name, $(name).value);
  for (const line of $("classes").value.split("\n")) if (line.trim()) data.append("classes", line.trim());
  data.append("masks", String($("masks").checked));
  data.append("video", chosen, chosen.name);
  return data;
}

// XMLHttpRequest, because fetch does not report the progress of an upload.
function send() {
  return new Promise((resolve, reject) => {
    request = new XMLHttpRequest();
    request.open("POST", "predict");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) {
        $("status").textContent = `Sending: ${Math.floor((100 * event.loaded) / event.total)} %`;
      }
    };
    request.upload.onload = () => { $("status").textContent = "Decoding and recognising ..."; };
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* a proxy may answer with a page */ }
      if (request.status === 200) resolve(answer);
      else if (request.status === 401) {
        $("token-row").hidden = false;
        $("token").focus();
        reject(new Error("The token is missing or wrong."));
      } else reject(new Error(answer.error || `The server answers ${request.status}.`));
    };
    request.onerror = () => reject(new Error("The connection failed. Is the server running?"));
    request.onabort = () => reject(new Error("Cancelled."));
    request.send(form());
  });
}

function showBars(result, title) {
  $("bars-title").textContent = title;
  $("bars").replaceChildren(...result.scores.map((score) => {
    const bar = element("div", { className: "bar" });
    bar.style.width = `${100 * score.probability}%`;
    const track = element("div", { className: "track" }, bar);
    track.setAttribute("aria-hidden", "true");
    return element("tr", {}, element("th", { scope: "row" }, score.class), element("td", {}, track),
      element("td", {}, percent(score.probability)));
  }));
}

function best(result) {
  return result.unknown ? "unknown" : result.scores[0].class;
}

function showOverlay(result) {
  $("mask").hidden = !result.overlay;
  if (result.overlay) {
    $("overlay").src = result.overlay;
    $("overlay").alt = `Middle frame with the mask, ${seconds(result.start_seconds)} to ${seconds(result.end_seconds)}`;
  }
}

function choosePart(answer, index, { seek }) {
  const part = answer.windows[index];
  const times = `${seconds(part.start_seconds)} to ${seconds(part.end_seconds)}`;
  showBars(part, answer.windows.length > 1 ? `Probabilities, ${times}` : "Probabilities");
  showOverlay(part);
  [...$("timeline").children].forEach((each, number) => each.setAttribute("aria-pressed", String(number === index)));
  if (seek && !$("video").hidden) $("video").currentTime = part.start_seconds;
}

function showTimeline(answer) {
  const names = [...new Set(answer.windows.map(best))];
  const colour = (name) => name === "unknown" ? "#b9b9c3" : COLOURS[names.indexOf(name) % COLOURS.length];
  $("timeline-part").hidden = false;
  $("timeline").replaceChildren(...answer.windows.map((part, index) => {
    const label = `${best(part)}, ${percent(part.scores[0].probability)}, ` +
      `${seconds(part.start_seconds)} to ${seconds(part.end_seconds)}`;
    const made = element("button", { type: "button", title: label }, best(part));
    made.setAttribute("aria-label", label);
    // Windows may overlap: each is drawn up to the start of the next one.
    const next = answer.windows[index + 1];
    const end = next ? Math.min(next.start_seconds, part.end_seconds) : part.end_seconds;
    made.style.left = `${(100 * part.start_seconds) / answer.duration_seconds}%`;
    made.style.width = `${(100 * (end - part.start_seconds)) / answer.duration_seconds}%`;
    made.style.background = colour(best(part));
    made.addEventListener("click", () => choosePart(answer, index, { seek: true }));
    return made;
  }));
  $("legend").replaceChildren(...names.map((name) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = colour(name);
    return element("li", {}, swatch, name);
  }));
}

function showResult(answer) {
  const whole = `${best(answer)} (${percent(answer.scores[0].probability)})`;
  $("result-title").textContent = answer.video;
  $("summary").textContent = `${whole}, ${seconds(answer.duration_seconds)}, ${answer.frames} frames`;
  $("status").textContent = `Done: ${whole}`;
  if (videoAddress) URL.revokeObjectURL(videoAddress);
  videoAddress = URL.createObjectURL(chosen);
  $("video").hidden = false;
  $("video").src = videoAddress;
  showTimeline(answer);
  choosePart(answer, 0, { seek: false });
  $("result").hidden = false;
  $("result").focus();
}

async function recognise(event) {
  event.preventDefault();
  showError("");
  if (!chosen) {
    showError("Choose a video first.");
    $("file").focus();
    return;
  }
  const megabytes = Number($("limits").dataset.megabytes || Infinity);
  if (chosen.size > 1e6 * megabytes) {
    showError(`${chosen.name} has ${(chosen.size / 1e6).toFixed(0)} MB; this server takes at most ${megabytes} MB.`);
    return;
  }
  $("result").hidden = true;
  $("send").disabled = true;
  $("cancel").hidden = false;
  try {
    showResult(await send());
  } catch (error) {
    showError(error.message);
  } finally {
    $("send").disabled = false;
    $("cancel").hidden = true;
  }
}

$("form").addEventListener("submit", recognise);
$("cancel").addEventListener("click", () => request && request.abort());
$("file").addEventListener("change", () => choose($("file").files[0]));
$("token").addEventListener("change", loadInfo);
// A codec that this browser lacks is no fault of the server.
$("video").addEventListener("error", () => { $("video").hidden = true; });
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
}
document.addEventListener("drop", (event) => {
  const file = event.dataTransfer.files[0];
  if (!file) return;
  // The field shows the name of the file, also for screen readers.
  const list = new DataTransfer();
  list.items.add(file);
  $("file").files = list.files;
  choose(file);
});
loadInfo();
