
"use strict";
// Whatever comes from the fleet is put in by textContent: a worker may be called <script>.
const EVERY = 1000;       // milliseconds between two questions
const PATIENCE = 5000;    // milliseconds until a question counts as unanswered
const MEMORY = 60;        // samples in a curve
const AFTERGLOW = 60000;  // milliseconds that a worker which left stays on the page
const KEY = "vicuna-key";
const at = (id) => document.getElementById(id);
const seen = {workers: new Map(), models: new Map()};
const curves = {requests: [], tokens: []};
let last = null;
let heard = 0;

function make(tag, name, ...inside) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside);
  return node;
}

function put(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

function short(hash) {
  return hash ? hash.slice(0, 8) : "–";
}

function number(value) {
  return value.toLocaleString("en", {maximumFractionDigits: value < 10 ? 1 : 0});
}

function nameOf(model) {
  return model.version ? `${model.name}@${model.version}` : model.name;
}

// ------------------------------------------------------------------------------------------ numbers
function card(label) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  svg.setAttribute("viewBox", "0 0 120 26");
  svg.setAttribute("aria-hidden", "true");
  svg.append(line);
  const value = make("b");
  at("numbers").append(make("div", "card", value, make("span", "", label), svg));
  return {value, svg, line};
}

const cards = {};

function show(label, text, curve) {
  const {value, svg, line} = (cards[label] ??= card(label));
  put(value, text);
  svg.toggleAttribute("hidden", !curve);
  if (!curve) return;
  const most = Math.max(...curve, 1e-9);
  const points = curve.map((each, i) => `${(120 * (MEMORY - curve.length + i)) / (MEMORY - 1)},${25 - (24 * each) / most}`);
  line.setAttribute("points", points.join(" "));
}

function remember(curve, value) {
  curve.push(value);
  if (curve.length > MEMORY) curve.shift();
}

function rates(totals, now) {
  if (last && totals.requests >= last.totals.requests) {
    const seconds = Math.max((now - last.now) / 1000, 1e-3);
    remember(curves.requests, (totals.requests - last.totals.requests) / seconds);
    remember(curves.tokens, Math.max(0, totals.completion_tokens - last.totals.completion_tokens) / seconds);
  }
  last = {totals, now};
}

function showNumbers(fleet, now) {
  const live = fleet.workers.filter((each) => each.state === "live");
  const room = live.reduce((sum, each) => sum + each.capacity, 0);
  const waiting = Object.values(fleet.waiting).reduce((sum, each) => sum + each, 0);
  show("workers live", `${number(live.length)} of ${number(fleet.workers.length)}`);
  show("in flight, of capacity", `${number(fleet.in_flight)} of ${number(room)}`);
  show("waiting", number(waiting));
  if (!fleet.totals) return;
  rates(fleet.totals, now);
  show("requests a second", number(curves.requests.at(-1) ?? 0), curves.requests);
  show("tokens a second", number(curves.tokens.at(-1) ?? 0), curves.tokens);
  show("failovers", number(fleet.totals.failovers));
}

// ------------------------------------------------------------------------------------------ tables
function row(table, known, key) {
  let found = known.get(key);
  if (found) return found;
  const labels = [...at(table).querySelectorAll("th")].map((each) => each.textContent);
  const cells = labels.map((label) => {
    const cell = make("td");
    cell.dataset.label = label;
    const body = make("div");
    cell.append(body);
    return body;
  });
  found = {node: make("tr", "", ...cells.map((each) => each.parentNode)), cells};
  known.set(key, found);
  at(table).tBodies[0].append(found.node);
  return found;
}

function lines(cell, texts) {
  while (cell.children.length > texts.length) cell.lastChild.remove();
  texts.forEach(([tag, name, text], i) => {
    const old = cell.children[i];
    const node = old && old.localName === tag ? old : make(tag);
    if (!old) cell.append(node);
    else if (node !== old) old.replaceWith(node);
    if (node.className !== name) node.className = name;
    put(node, text);
  });
}

function load(cell, used, room, more) {
  if (!cell.firstChild) cell.append(make("span"), make("span", "bar", make("i")), make("small"));
  const [text, bar, small] = cell.children;
  put(text, `${number(used)} / ${number(room)}`);
  bar.firstChild.style.width = `${Math.min(100, (100 * used) / Math.max(room, 1))}%`;
  put(small, more);
}

function percent(part, whole) {
  return `${Math.round((100 * (part ?? 0)) / Math.max(whole, 1))}%`;
}

function showEngine(cell, engine, its) {
  if (!cell.firstChild) {
    const bar = make("span", "bar", make("i"), make("i", "kept"));
    cell.append(make("span"), make("small"), bar, make("small"), make("small"));
  }
  const [kind, batch, bar, cache, prefixes] = cell.children;
  const [used, kept] = [percent(its.cache_used, its.cache_room), percent(its.cache_kept, its.cache_room)];
  put(kind, engine);
  put(batch, its.batch === undefined ? "" : `batch ${number(its.batch)}, waiting ${number(its.waiting ?? 0)}`);
  bar.hidden = !its.cache_room;
  [bar.firstChild.style.width, bar.lastChild.style.width] = [used, kept];
  put(cache, bar.hidden ? "" : `cache ${used} in use` + (its.cache_kept === undefined ? "" : `, ${kept} kept`));
  put(prefixes, its.prefix_looked_up ? `prompts ${percent(its.prefix_found, its.prefix_looked_up)} from the cache` : "");
}

function showWorker(worker) {
  const found = row("workers", seen.workers, worker.id);
  const {node, cells} = found;
  const [who, state, models, engine, busy, answered, lease, failures] = cells;
  node.className = "";
  found.well = worker.state === "live";
  lines(who, [["span", "", worker.id], ["small", "", worker.address]]);
  lines(state, [["span", `state ${worker.state}`, worker.state]]);
  lines(models, worker.models.flatMap((each) => [
    ["span", "", nameOf(each)],
    ["small", "", `weights ${short(each.checkpoint_hash)}, template ${short(each.template_hash)}`],
  ]));
  showEngine(engine, worker.engine, worker.load);
  const elsewhere = (worker.running ?? worker.in_flight) - worker.in_flight;
  load(busy, worker.in_flight, worker.capacity, elsewhere > 0 ? `${elsewhere} from other controllers` : "");
  lines(answered, [["span", "", number(worker.answered)]]);
  lines(lease, [["span", "", `${worker.lease_seconds_left.toFixed(1)} s`]]);
  lines(failures, [["span", "", worker.failures_in_a_row], ["small", "", worker.last_failure]]);
  return worker.id;
}

function showModels(fleet) {
  const versions = new Map();
  for (const worker of fleet.workers) {
    for (const model of worker.models) {
      const key = JSON.stringify([nameOf(model), model.checkpoint_hash, model.template_hash]);
      const found = versions.get(key) ?? {model, live: 0, all: 0, used: 0, room: 0};
      versions.set(key, found);
      found.all += 1;
      found.used += worker.in_flight;
      found.room += worker.capacity;
      found.live += worker.state === "live";
    }
  }
  const lacking = Object.keys(fleet.waiting).filter(
    (name) => ![...versions.values()].some(({model}) => name === model.name || name === nameOf(model)));
  for (const name of lacking) {
    versions.set(JSON.stringify([name]), {model: {name}, live: 0, all: 0, used: 0, room: 0});
  }
  for (const [key, each] of [...versions].sort()) {
    const {cells} = row("models", seen.models, key);
    const {model} = each;
    const waiting = (fleet.waiting[model.name] ?? 0) + (model.version ? fleet.waiting[nameOf(model)] ?? 0 : 0);
    lines(cells[0], [["span", "", nameOf(model)]]);
    lines(cells[1], [["code", "", short(model.checkpoint_hash)]]);
    lines(cells[2], [["code", "", short(model.template_hash)]]);
    lines(cells[3], [["span", each.live ? "" : "expired", `${each.live} live of ${each.all}`]]);
    load(cells[4], each.used, each.room, "");
    lines(cells[5], [["span", "", number(waiting)]]);
  }
  for (const [key, {node}] of seen.models) {
    if (!versions.has(key)) {
      node.remove();
      seen.models.delete(key);
    }
  }
}

function showWorkers(fleet, now) {
  const present = new Set(fleet.workers.map(showWorker));
  for (const [id, found] of seen.workers) {
    if (present.has(id)) {
      found.gone = 0;
      continue;
    }
    found.gone ||= now;
    found.node.className = "gone";
    found.well = false;
    lines(found.cells[1], [["span", "state gone", "gone"]]);
    if (now - found.gone > AFTERGLOW) {
      found.node.remove();
      seen.workers.delete(id);
    }
  }
  troubleFirst();
  at("none").hidden = seen.workers.size > 0;
}

function troubleFirst() {
  const body = at("workers").tBodies[0];
  [...seen.workers.values()].sort((a, b) => a.well - b.well).forEach(({node}, i) => {
    if (body.rows[i] !== node) body.insertBefore(node, body.rows[i] ?? null);
  });
}

// ------------------------------------------------------------------------------------------ asking
function say(text, bad) {
  put(at("said"), text);
  at("said").className = bad ? "bad" : "soft";
  at("board").classList.toggle("stale", bad);
}

async function ask() {
  const headers = {accept: "application/json"};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  const reply = await fetch(location.pathname, {headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE)});
  const body = await reply.json();
  at("ask").hidden = reply.ok || ![401, 403].includes(reply.status);
  if (!reply.ok) {
    say(body.error?.message ?? `The controller answered with status ${reply.status}.`, true);
    return;
  }
  const now = performance.now();
  heard = Date.now();
  at("board").hidden = false;
  showNumbers(body, now);
  showModels(body);
  showWorkers(body, now);
  say(`As this controller sees it; ${new Date(heard).toLocaleTimeString()}.`, false);
}

async function watch() {
  if (!document.hidden) {
    try {
      await ask();
    } catch (error) {
      const since = heard ? `; what is shown is from ${new Date(heard).toLocaleTimeString()}` : "";
      say(`The controller does not answer (${error.message})${since}.`, true);
    }
  }
  setTimeout(watch, EVERY);
}

put(at("here"), location.origin);
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value.trim());
  at("key").value = "";
  ask().catch((error) => say(`The controller does not answer (${error.message}).`, true));
});
watch();
