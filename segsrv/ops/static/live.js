"use strict";

// What clients sent reaches the page through textContent alone.

const ROWS_MAX = 200;
const DRAW_MS = 250;
const RETRY_MS = 2000;
const SILENT_MS = 25000;

const byId = (id) => document.getElementById(id);
const lists = { event: byId("event"), refused: byId("refused"), letter: byId("letter") };
const counts = { event: 0, refused: 0, letter: 0 };
const coming = { event: [], refused: [], letter: [] };
const answers = new Map();
let shown = "event";
let isPaused = false;
let isConnected = false;
let leftOut = 0;
let isStale = false;
let lastStatus = null;
let connection = null;

function make(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function count(number) {
  return Number.isFinite(number) ? Math.round(number).toLocaleString("en") : "–";
}

function rate(number) {
  if (!Number.isFinite(number)) return "–";
  return number > 0 && number < 10 ? number.toFixed(1) : count(number);
}

function bytes(number) {
  if (!Number.isFinite(number)) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return `${unit && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

function latencies(both) {
  if (!both || !Number.isFinite(both.p50)) return "–";
  const one = (ms) => (ms < 10 ? ms.toFixed(1) : count(ms));
  return `${one(both.p50)} / ${one(both.p99)} ms`;
}

function time(ms) {
  const at = new Date(ms);
  return Number.isFinite(at.getTime()) ? at.toTimeString().slice(0, 8) : "";
}

function nameOf(item) {
  const event = item.event || {};
  const inner = event.eventn_ctx && typeof event.eventn_ctx === "object" ? event.eventn_ctx : {};
  const found = [event.event_name, event.event, inner.event_name, event.name]
    .find((value) => typeof value === "string" && value !== "" && value !== item.type);
  return found || "";
}

function userOf(item) {
  const event = item.event || {};
  const found = [event.userId, event.user_id, event.user_anonymous_id, event.anonymousId]
    .find((value) => typeof value === "string" && value !== "");
  return found || "";
}

function part(row, className, text) {
  if (text !== undefined && text !== null && text !== "") row.append(make("span", className, String(text)));
}

function bodyOf(item) {
  if (item.kind === "event") {
    return item.is_too_large ? "This event is too large to be shown here." : JSON.stringify(item.event, null, 2);
  }
  return item.excerpt || "(the body was empty)";
}

function rowOf(item) {
  const row = make("details", `row ${item.kind}`);
  const summary = make("summary");
  const at = make("time", "", time(item.at_ms));
  summary.append(at);
  if (item.kind === "event") {
    part(summary, "type", item.type);
    const name = nameOf(item);
    part(summary, name ? "name" : "name user", name || userOf(item));
  } else {
    part(summary, "type", item.kind === "refused" ? `${item.status} ${item.code}` : item.reason);
    part(summary, "name", item.message);
  }
  part(summary, "key", item.key || (item.kind === "refused" ? "no key" : ""));
  part(summary, "size", item.bytes === undefined ? "" : bytes(item.bytes));
  row.append(summary);
  row.addEventListener("toggle", () => {
    if (!row.open || row.childElementCount > 1) return;
    const facts = [["id", item.id], ["format", item.format], ["worker", item.worker], ["at", item.path]];
    const told = facts.filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join("  ·  ");
    if (told) row.append(make("p", "facts", told));
    const body = make("pre", "", bodyOf(item));
    body.tabIndex = 0;
    row.append(body);
  });
  return row;
}

function draw() {
  if (!isPaused) {
    if (isStale) for (const list of Object.values(lists)) list.replaceChildren();
    isStale = false;
    for (const [kind, items] of Object.entries(coming)) {
      if (!items.length) continue;
      const list = lists[kind];
      list.prepend(...items.splice(0).map(rowOf).reverse());
      while (list.childElementCount > ROWS_MAX) list.lastElementChild.remove();
    }
  }
  for (const button of document.querySelectorAll("[data-list]")) {
    button.querySelector("span").textContent = count(counts[button.dataset.list]);
  }
  const waiting = Object.values(coming).reduce((sum, items) => sum + items.length, 0);
  byId("pause").textContent = isPaused ? `Resume${waiting ? ` (${waiting} new)` : ""}` : "Pause";
  const note = byId("note");
  note.hidden = !leftOut;
  note.textContent = leftOut ? `A sample: ${count(leftOut)} more came than a page can show.` : "";
  const why = lists[shown].childElementCount ? "" : whyEmpty();
  if (byId("why").textContent !== why) byId("why").textContent = why;
  byId("why").hidden = !why;
}

function refusedCodes() {
  const worst = [...answers].sort((one, other) => other[1] - one[1]).slice(0, 3);
  return worst.map(([code, times]) => `${code} (${count(times)})`).join(", ");
}

function whyEmpty() {
  if (!isConnected) return "Connecting to the server.";
  if (isPaused) return "Paused. What comes now is shown when you resume.";
  const status = lastStatus;
  const stuck = status && (status.workers || []).find((worker) => !worker.ready);
  if (shown === "event" && stuck) {
    return `Worker ${stuck.worker} takes no events: ${stuck.message || stuck.code || "it is not ready"}.`;
  }
  if (shown === "refused") return "No request was refused.";
  if (shown === "letter") return "No event was set aside.";
  if (answers.size) {
    return `Requests arrive, but they are refused: ${refusedCodes()}. Look at “Refused” for the reason and the body.`;
  }
  const filter = new FormData(byId("filter"));
  if ([...filter.values()].some((value) => value)) return "No event matches this filter yet.";
  const byAnswer = status && status.rates && status.rates.by_answer;
  const codes = byAnswer ? Object.entries(byAnswer).filter(([, perSecond]) => perSecond > 0) : [];
  const wrong = codes.filter(([code]) => code !== "ok");
  if (wrong.length && wrong.length === codes.length) {
    return `Requests arrive, but they are refused: ${wrong.map(([code]) => code).join(", ")}.`;
  }
  if (codes.length) return "Requests are answered with ok; their events are shown as they are stored.";
  if (!byAnswer) return "Waiting for the next event.";
  return "No request yet. Check that clients send to the public port, not to this one, and that no firewall or proxy is between.";
}

function table(heads, rows) {
  const made = make("table");
  const head = make("tr");
  heads.forEach((text, column) => {
    const cell = make("th", column ? "number" : "", text);
    cell.scope = "col";
    head.append(cell);
  });
  made.append(make("thead"), make("tbody"));
  made.tHead.append(head);
  for (const cells of rows) {
    const row = make("tr");
    cells.forEach((text, column) => row.append(make("td", column ? "number" : "", text)));
    made.tBodies[0].append(row);
  }
  return made;
}

function drawSinks(sinks) {
  const made = sinks.map((sink) => {
    const card = make("div", "card");
    const head = make("p", "head");
    part(head, "label", sink.name);
    const state = make("span", "pill", sink.state);
    state.dataset.state = sink.state === "ok" ? "ok" : "bad";
    head.append(state);
    const lag = [
      Number.isFinite(sink.lag_events) ? `${count(sink.lag_events)} events` : "",
      bytes(sink.lag_bytes), duration(sink.lag_s),
    ].filter(Boolean).join(" · ");
    const isCaughtUp = !sink.lag_events && !sink.lag_bytes;
    card.append(head, make("p", "lag", isCaughtUp ? "up to date" : `${lag} behind`));
    const speed = [`${rate(sink.events_per_s)} events/s`];
    if (Number.isFinite(sink.eta_s) && sink.eta_s > 1) speed.push(`caught up in ${duration(sink.eta_s)}`);
    card.append(make("p", "hint", speed.join(" · ")));
    if (sink.message && sink.state !== "ok") card.append(make("p", "wrong", sink.message));
    return card;
  });
  byId("sinks").replaceChildren(...(made.length ? made : [make("p", "hint", "No sink has reported.")]));
}

function drawWorkers(workers) {
  const made = workers.map((worker) => {
    const card = make("div", "card");
    const head = make("p", "head");
    part(head, "label", worker.worker);
    const state = make("span", "pill", worker.ready ? "ready" : "not ready");
    state.dataset.state = worker.ready ? "ok" : "bad";
    head.append(state);
    card.append(head);
    card.append(make("p", "hint", `journal ${bytes(worker.journal_bytes)} · undelivered ${bytes(worker.undelivered_bytes)}`));
    if (!worker.ready && worker.message) card.append(make("p", "wrong", worker.message));
    return card;
  });
  byId("workers").replaceChildren(...(made.length ? made : [make("p", "hint", "No worker has reported.")]));
}

function drawRates(rates) {
  const named = [["Key", rates.by_key], ["Type", rates.by_type], ["Answer", rates.by_answer]];
  const made = named.filter(([, values]) => values && Object.keys(values).length).map(([name, values]) => {
    const rows = Object.entries(values).sort((one, other) => other[1] - one[1]).slice(0, 20);
    return table([name, "per second"], rows.map(([label, perSecond]) => [label, rate(perSecond)]));
  });
  byId("rates").replaceChildren(...(made.length ? made : [make("p", "hint", "Nothing yet.")]));
  byId("keys").replaceChildren(...Object.keys(rates.by_key || {}).slice(0, 100).map((key) => {
    const option = make("option");
    option.value = key;
    return option;
  }));
}

function figure(name, text) {
  document.querySelector(`[data-figure=${name}]`).textContent = text;
}

function drawStatus(status) {
  lastStatus = status;
  const rates = status.rates || {};
  const sum = (values) => Object.values(values || {}).reduce((total, value) => total + value, 0);
  figure("events", rates.by_type ? rate(sum(rates.by_type)) : "–");
  figure("refused", rates.by_answer ? rate(sum(rates.by_answer) - (rates.by_answer.ok || 0)) : "–");
  figure("request", latencies(status.request_ms));
  figure("commit", latencies(status.commit_ms));
  const workers = status.workers || [];
  figure("undelivered", bytes(workers.reduce((total, worker) => total + (worker.undelivered_bytes || 0), 0)));
  drawSinks(status.sinks || []);
  drawWorkers(workers);
  drawRates(rates);
  const errors = (status.errors || []).slice(-10);
  byId("errors").hidden = !errors.length;
  byId("errors").querySelector("ol").replaceChildren(
    ...errors.map((line) => make("li", "", typeof line === "string" ? line : JSON.stringify(line))));
}

function take(item) {
  if (item.kind === "status") return drawStatus(item);
  if (item.kind === "left_out") { leftOut += item.items; return undefined; }
  const items = coming[item.kind];
  if (!items) return undefined;
  counts[item.kind] += 1;
  if (item.kind === "refused") answers.set(item.code, (answers.get(item.code) || 0) + 1);
  items.push(item);
  if (items.length > ROWS_MAX) items.shift();
  return undefined;
}

function forget() {
  // The rows themselves stay for as long as the page is paused.
  isStale = true;
  for (const kind of Object.keys(lists)) {
    coming[kind].length = 0;
    counts[kind] = 0;
  }
  answers.clear();
  leftOut = 0;
}

function setState(state, text) {
  isConnected = state === "live";
  byId("state").dataset.state = state;
  if (byId("state").textContent !== text) byId("state").textContent = text;
}

async function read(signal) {
  const query = new URLSearchParams(new FormData(byId("filter")));
  const watchdog = new AbortController();
  const stop = () => watchdog.abort();
  signal.addEventListener("abort", stop);
  let timer = setTimeout(stop, SILENT_MS);
  try {
    const answer = await fetch(`live/events?${query}`, { signal: watchdog.signal, cache: "no-store" });
    if (answer.status === 401) { location.reload(); return; }
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      throw new Error(told.message || `the server answers ${answer.status}`);
    }
    // What is known already comes again with each connection.
    forget();
    setState("live", "Live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENT_MS);
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) if (frame.startsWith("data: ")) take(JSON.parse(frame.slice(6)));
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}

async function connect() {
  if (connection) connection.abort();
  const own = new AbortController();
  connection = own;
  while (!own.signal.aborted) {
    let why = "Reconnecting";
    try {
      await read(own.signal);
    } catch (error) {
      if (!(error instanceof TypeError) && error.name !== "AbortError") why = error.message;
    }
    if (own.signal.aborted) return;
    setState("waiting", why);
    await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
  }
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  draw();
});
for (const button of document.querySelectorAll("[data-list]")) {
  button.addEventListener("click", () => {
    shown = button.dataset.list;
    for (const other of document.querySelectorAll("[data-list]")) {
      other.setAttribute("aria-pressed", String(other === button));
      lists[other.dataset.list].hidden = other !== button;
    }
    draw();
  });
}
byId("filter").addEventListener("submit", (event) => { event.preventDefault(); forget(); connect(); });
byId("filter").addEventListener("change", () => { forget(); connect(); });
setInterval(draw, DRAW_MS);
connect();
