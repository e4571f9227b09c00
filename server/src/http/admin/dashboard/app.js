// The dashboard: what the admin API tells, kept up to date by its events. Text goes in as text, never
// as markup: names and reasons come from others.

const $ = (id) => document.getElementById(id);
const state = { token: null, role: "viewer", runs: [], chosen: null, rounds: new Map(), clients: [], audit: [], tags: [], stop: null };
const ROLES = ["viewer", "operator", "admin"];
const may = (role) => ROLES.indexOf(state.role) >= ROLES.indexOf(role);
const plain = (name) => name.replace("urn:gossamer:problem:", "").replaceAll("-", " ");
const short = (id) => id.slice(0, 8);
const number = (n) => n.toLocaleString("en");

function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000 || unit === "GB") return `${unit === "B" ? n : n.toPrecision(3)} ${unit}`;
    n /= 1000;
  }
}

function ago(ms) {
  if (!ms) return "\u2013";
  const s = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

const when = (ms) => new Date(ms).toLocaleString("en-GB", { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

function make(tag, attributes = {}, ...inside) {
  const svg = ["g", "line", "polyline", "circle", "text", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside);
  return made;
}

// A cell that says what it is where there is no room for a table's head.
const cell = (is, ...inside) => make("td", { "data-is": is || null }, ...inside);

// Replaces what is in a place, but keeps the focus where it was.
function fill(place, ...inside) {
  const key = place.contains(document.activeElement) && document.activeElement.dataset.key;
  place.replaceChildren(...inside);
  if (key) place.querySelector(`[data-key="${key}"]`)?.focus();
}

async function api(path, method = "GET", body) {
  const headers = { authorization: `Bearer ${state.token}` };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: state.stop?.signal });
  if (answer.status === 401) {
    leave("The token is unknown, void or revoked.");
    throw new DOMException("signed out", "AbortError");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({ detail: `status ${answer.status}` }));
    throw new Error(problem.detail);
  }
  return answer.status === 204 ? null : answer.json();
}

const say = (text) => { $("said").textContent = text; };

async function act(path, body, done) {
  try {
    await api(path, "POST", body);
    say(done);
    showClients();
  } catch (error) {
    say(error.message);
  }
}

// Asks before what cannot be undone; gives the reason, or nothing.
function ask(title, text, yes, wantsReason) {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  $("reason").value = "";
  $("reason").hidden = $("reason-label").hidden = !wantsReason;
  const dialog = $("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes" ? $("reason").value : null), { once: true });
  });
}

function figures(clients) {
  state.counts = clients ?? state.counts;
  const running = state.runs.filter((run) => run.status === "running").length;
  const all = [[state.counts.enrolled, "clients enrolled"], [state.counts.here, "here in the last 5 min"], [state.counts.revoked, "revoked"], [running, running === 1 ? "run is on" : "runs are on"]];
  fill($("figures"), ...all.map(([n, what]) => make("li", {}, make("b", {}, number(n)), make("span", {}, what))));
}

function showRuns(runs) {
  for (const run of runs) {
    const before = state.runs.find((old) => old.run === run.run);
    if (before && before.round < run.round) say(`${run.name}: round ${run.round - 1} closed, ${run.round} of ${run.rounds} are done.`);
  }
  state.runs = runs;
  if (!runs.some((run) => run.run === state.chosen)) state.chosen = runs.findLast((run) => run.status === "running")?.run ?? runs.at(-1)?.run ?? null;
  const cards = [...runs].reverse().map((run) => {
    const set = (verb, done) => () => act(`/v1/runs/${run.run}/${verb}`, undefined, `${run.name} is ${done}.`);
    const end = async () => {
      if (await ask(`Abort ${run.name}?`, "It ends for good; its rounds so far stay.", "Abort", false) !== null) set("abort", "aborted")();
    };
    const button = (text, onclick, more = {}) => make("button", { type: "button", onclick, "data-key": text + run.run, "aria-label": `${text} ${run.name}`, ...more }, text);
    const buttons = [button("Show", () => choose(run.run), { "aria-pressed": String(run.run === state.chosen), hidden: runs.length === 1 })];
    if (may("operator") && run.status === "running") buttons.push(button("Pause", set("pause", "paused")));
    if (may("operator") && run.status === "paused") buttons.push(button("Resume", set("resume", "running")));
    if (may("operator") && ["running", "paused"].includes(run.status)) buttons.push(button("Abort", end, { class: "danger" }));
    const over = ["complete", "aborted"].includes(run.status);
    const now = over ? run.note ?? "" : `Round ${run.round}: ${run.accepted} of ${run.goal} updates, ${run.asked} asked${run.attempt ? `, attempt ${run.attempt + 1}` : ""}`;
    const lacks = { clients: "lacks enrolled clients", participation: "lacks clients that have not had their turn" }[run.lacks];
    return make("article", { class: run.run === state.chosen ? "run chosen" : "run", "data-run": run.run },
      make("div", {}, make("h3", {}, run.name), make("p", {}, make("span", { class: `state ${run.status}` }, run.status), " ", make("code", { title: run.run }, short(run.run)))),
      make("div", {},
        make("p", { class: "progress" }, `${number(run.round)} of ${number(run.rounds)} rounds`),
        make("progress", { max: run.rounds, value: run.round, "aria-label": `Rounds of ${run.name}` }),
        make("p", {}, lacks ? `${now}: ${lacks}` : now), ...tagged(run)),
      make("div", { class: "row" }, ...buttons));
  });
  fill($("runs"), ...(cards.length ? cards : [make("p", { class: "quiet" }, "There is no run yet: gossamer-server run create DIR run.toml")]));
  figures();
  showRounds();
}

// What apps get of a run: its tags, and what is on trial.
function tagged(run) {
  const on = (what) => what?.run === run.run;
  const named = state.tags.flatMap((tag) => [
    ...(on(tag) ? [`${tag.tag}: round ${tag.round}`] : []),
    ...(on(tag.canary) ? [`${tag.tag}, canary for ${tag.canary.permille / 10} %: round ${tag.canary.round}`] : [])]);
  return named.length ? [make("p", { class: "tags" }, named.join("; "))] : [];
}

async function showTags() {
  try {
    state.tags = await api("/v1/tags");
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return;
  }
  showRuns(state.runs);
}

function choose(run) {
  state.chosen = run;
  showRuns(state.runs);
}

async function showRounds() {
  const run = state.runs.find((one) => one.run === state.chosen);
  $("rounds").hidden = !run;
  if (!run) return;
  if (!state.rounds.has(run.run)) state.rounds.set(run.run, []);
  const rows = state.rounds.get(run.run);
  try {
    while ((rows.at(-1)?.round ?? -1) + 1 < run.round) {
      const from = (rows.at(-1)?.round ?? -1) + 1;
      const more = (await api(`/v1/runs/${run.run}/rounds?from=${from}`)).filter((row) => row.round > (rows.at(-1)?.round ?? -1));
      if (!more.length) break;
      rows.push(...more);
    }
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return;
  }
  if (state.chosen !== run.run) return;
  $("rounds-title").textContent = `Rounds of ${run.name}`;
  chart($("loss"), rows, [["up", (row) => row.loss, "training"], ["down", (row) => row.evaluation?.loss, "held out"]], (v) => v.toPrecision(4), false);
  chart($("bytes"), rows, [["up", (row) => row.bytes_up], ["down", (row) => row.bytes_down]], bytes, true);
  fill($("closed"), ...rows.slice(-50).reverse().map((row) => make("tr", {},
    cell("Round", row.round), cell("", when(row.closed_ms)), cell("Updates", `${row.accepted} of ${row.asked}`),
    cell("Loss", row.loss?.toFixed(4) ?? "\u2013"), cell("Held out", row.evaluation?.loss.toFixed(4) ?? "\u2013"), cell("Up", bytes(row.bytes_up)), cell("Down", bytes(row.bytes_down)))));
}

function chart(svg, rows, lines, tell, fromZero) {
  const [w, h, left, bottom] = [Math.max(svg.clientWidth, 240), 192, 64, 22];
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  const values = lines.flatMap(([, get]) => rows.map(get)).filter((v) => v != null);
  if (!values.length) {
    svg.setAttribute("aria-label", "No round has closed yet");
    return svg.replaceChildren(make("text", { x: w / 2, y: h / 2, "text-anchor": "middle" }, "No round has closed yet"));
  }
  let [low, high] = [fromZero ? 0 : Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  if (!fromZero) low -= room;
  high += room;
  const [first, last] = [rows[0].round, rows.at(-1).round];
  const x = (round) => left + (last === first ? 0.5 : (round - first) / (last - first)) * (w - left - 12);
  const y = (value) => 8 + (1 - (value - low) / (high - low)) * (h - bottom - 14);
  const parts = [];
  for (const value of [low, (low + high) / 2, high]) {
    parts.push(make("line", { class: "grid", x1: left, x2: w - 6, y1: y(value), y2: y(value) }),
      make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tell(fromZero ? Math.round(value) : value)));
  }
  parts.push(make("text", { x: left, y: h - 2 }, `round ${first}`), make("text", { x: w - 6, y: h - 2, "text-anchor": "end" }, last === first ? "" : `round ${last}`));
  const told = [];
  for (const [name, get, label = name] of lines) {
    const points = rows.filter((row) => get(row) != null);
    parts.push(make("polyline", { class: name, points: points.map((row) => `${x(row.round)},${y(get(row))}`).join(" ") }));
    if (points.length <= 60) {
      for (const row of points) parts.push(make("circle", { class: name, r: 3, cx: x(row.round), cy: y(get(row)) }, make("title", {}, `round ${row.round}: ${tell(get(row))}`)));
    }
    if (points.length) told.push(`${lines.length > 1 ? `${label}: ` : ""}${tell(get(points[0]))} in round ${points[0].round}, ${tell(get(points.at(-1)))} in round ${points.at(-1).round}`);
  }
  svg.setAttribute("aria-label", told.join("; "));
  svg.replaceChildren(...parts);
}

const PAGE = 100;

// The pages that are shown, read anew.
async function showClients(more = 0) {
  const pages = Math.max(1, Math.ceil(state.clients.length / PAGE)) + more;
  const all = [];
  let last = 0;
  try {
    for (let page = 0; page < pages; page++) {
      const after = all.at(-1)?.client;
      const got = await api(`/v1/clients?limit=${PAGE}${after ? `&after=${after}` : ""}`);
      all.push(...got);
      last = got.length;
      if (last < PAGE) break;
    }
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
    return;
  }
  state.clients = all;
  $("more").hidden = last < PAGE;
  listClients();
}

function listClients() {
  const filter = $("filter").value;
  const shown = state.clients.filter((one) => !filter || one.state === filter || (filter === "refused" && one.refused));
  const rows = shown.map((one) => {
    const revoke = async () => {
      const reason = await ask(`Revoke client ${short(one.client)}?`, "For good: whatever it signs is refused from now on.", "Revoke", true);
      if (reason !== null) act(`/v1/clients/${one.client}/revoke`, { reason }, `Client ${short(one.client)} is revoked.`);
    };
    const button = may("operator") && one.state === "enrolled" ? make("button", { type: "button", onclick: revoke, "data-key": one.client, "aria-label": `Revoke client ${short(one.client)}` }, "Revoke") : "";
    const refusal = one.refused ? `${plain(one.refused)}, ${ago(one.refused_ms)} (${number(one.refusals)} in all)` : "\u2013";
    return make("tr", {}, make("td", {}, make("code", { title: one.client }, short(one.client))),
      make("td", {}, make("span", { class: `state ${one.state}` }, one.state), one.reason ? ` ${one.reason}` : ""),
      cell("Seen", ago(one.seen_ms)), cell("Refusal", refusal), make("td", {}, button));
  });
  fill($("clients"), ...(rows.length ? rows : [make("tr", {}, make("td", { colspan: 5 }, filter ? "None of those shown." : "No client has enrolled yet: gossamer-server token new DIR"))]));
}

function tellEntry(entry) {
  const run = entry.run && (state.runs.find((one) => one.run === entry.run)?.name ?? short(entry.run));
  const told = {
    "serving": () => `began to serve, version ${entry.version}`,
    "tokens-made": () => `made ${entry.count} enrolment token${entry.count === 1 ? "" : "s"}, good for ${entry.quota} client${entry.quota === 1 ? "" : "s"}${entry.count === 1 ? "" : " each"}`,
    "token-revoked": () => `voided enrolment token ${short(entry.token)}`,
    "enrolled": () => "enrolled",
    "client-revoked": () => `revoked client ${short(entry.client)}${entry.reason ? `: ${entry.reason}` : ""}`,
    "operator-added": () => `made ${entry.name} a${entry.role === "viewer" ? "" : "n"} ${entry.role}`,
    "operator-revoked": () => `revoked operator ${entry.name}`,
    "run-created": () => `created run ${entry.name}`,
    "run-status": () => `set ${run} to ${entry.status}${entry.note ? `: ${entry.note}` : ""}`,
    "round-closed": () => `closed round ${entry.round} of ${run} with ${entry.accepted} updates${entry.last ? ", its last" : ""}`,
    "tag-set": () => `had tag ${entry.tag} name round ${entry.round} of ${run}`,
    "tag-removed": () => `dropped tag ${entry.tag}`,
    "canary-set": () => `gave ${entry.permille / 10} % of those who ask for ${entry.tag} round ${entry.round} of ${run}`,
    "canary-promoted": () => `promoted the canary of ${entry.tag}: round ${entry.round} of ${run}`,
    "canary-ended": () => `took the canary of ${entry.tag} back`,
    "rolled-back": () => `went back to the adapter of round ${entry.to} of ${run}`,
    "round-abandoned": () => `tries round ${entry.round} of ${run} again: ${entry.accepted} updates were too few`,
    "refused": () => `refused ${entry.counts.map((one) => `${one.count} \u00d7 ${plain(one.reason)}${one.client ? ` (${short(one.client)})` : ""}`).join(", ")}`,
  }[entry.action];
  return told ? told() : plain(entry.action);
}

function showAudit() {
  fill($("audit"), ...state.audit.slice(0, 100).map(({ entry }) => make("li", {},
    make("time", { datetime: new Date(entry.at_ms).toISOString() }, when(entry.at_ms)),
    make("span", { title: entry.actor }, entry.actor.startsWith("client:") ? `client ${short(entry.actor.slice(7))}` : entry.actor.replace("operator:", "")),
    make("span", {}, tellEntry(entry)))));
}

let clientsDue = null;
const on = {
  runs: (runs) => showRuns(runs),
  clients: (counts) => {
    figures(counts);
    clientsDue ??= setTimeout(() => { clientsDue = null; showClients(); }, 1000);
  },
  audit: (entry) => {
    state.audit.unshift(entry);
    if (/^(tag|canary)-/.test(entry.entry.action)) showTags();
    showAudit();
  },
};

// Server-sent events by `fetch`: `EventSource` cannot send a token.
async function follow() {
  const headers = { authorization: `Bearer ${state.token}` };
  const answer = await fetch("/v1/events", { headers, signal: state.stop.signal });
  if (answer.status === 401) return leave("The token is unknown, void or revoked.");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  link("live", "Live");
  // What the log told before: the stream tells what comes.
  state.audit = await api("/v1/audit?limit=100");
  await showClients();
  await showTags();
  showAudit();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
      const [event, data] = [field("event"), field("data")];
      if (event === "audit" && state.audit.some((one) => one.hash === JSON.parse(data).hash)) continue;
      if (data) on[event]?.(JSON.parse(data));
    }
  }
}

function link(kind, text) {
  $("link").className = kind;
  if ($("link").textContent !== text) $("link").textContent = text;
}

async function enter(token) {
  state.token = token;
  state.stop = new AbortController();
  const server = await api("/v1/server");
  sessionStorage.setItem("token", token);
  state.role = server.operator.role;
  state.counts = server.clients;
  $("who").textContent = `${server.operator.name} (${server.operator.role}) \u00b7 version ${server.version}`;
  for (const [id, shown] of [["login", false], ["board", true], ["who", true], ["leave", true]]) $(id).hidden = !shown;
  $("main").focus();
  for (let wait = 500; state.token === token; wait = Math.min(wait * 2, 15000)) {
    const began = Date.now();
    try {
      await follow();
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    if (state.token !== token) return;
    link("lost", "Connection lost, trying again");
    if (Date.now() - began > 5000) wait = 500;
    await new Promise((done) => setTimeout(done, wait));
  }
}

function leave(why = "") {
  state.stop?.abort();
  sessionStorage.removeItem("token");
  Object.assign(state, { token: null, role: "viewer", runs: [], chosen: null, rounds: new Map(), clients: [], audit: [] });
  for (const [id, shown] of [["login", true], ["board", false], ["who", false], ["leave", false]]) $(id).hidden = !shown;
  link("", "Signed out");
  $("token").value = "";
  $("refused").textContent = why;
  $("token").focus();
}

function start(token) {
  $("refused").textContent = "";
  enter(token).catch((error) => leave(error.name === "AbortError" ? $("refused").textContent : `Cannot sign in: ${error.message}`));
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  start($("token").value.trim());
});
$("leave").addEventListener("click", () => leave());
$("filter").addEventListener("change", listClients);
$("more").addEventListener("click", () => showClients(1));
addEventListener("resize", () => state.token && showRounds());
// What is told as "ago" grows older.
setInterval(() => state.token && showClients(), 30000);
const kept = sessionStorage.getItem("token");
if (kept) start(kept);
