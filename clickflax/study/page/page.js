"use strict";
const found = JSON.parse(document.getElementById("data").textContent);
// Okabe and Ito's colours, which the colour-blind tell apart; forms and dashes say the same again.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6d1f"];
// Seven, so that with eight colours no two of 56 configs look alike.
const FORMS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "x"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const configs = [...new Set(found.tables.flatMap(t => t.lines.map(line => line.config)))];
const style = i => ({
  color: COLOURS[i % COLOURS.length], symbol: FORMS[i % FORMS.length], dash: DASHES[i % DASHES.length],
});
const styleOf = config => style(configs.indexOf(config));
const four = value => value == null ? "" : value.toFixed(4);
const mean = values => values.reduce((a, b) => a + b, 0) / values.length;

function make(tag, words = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = words;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function draw(section, traces, layout, caption = "") {
  const figure = make("figure", "", { style: "margin:0" });
  const place = make("div", "", { class: "plot" });
  figure.append(place);
  if (caption) figure.append(make("figcaption", caption));
  section.append(figure);
  react(place, traces, layout);
  return place;
}

function react(place, traces, layout) {
  const narrow = window.innerWidth < 640;
  Plotly.react(place, traces, {
    font: { family: "system-ui, sans-serif", size: 13, color: "#1b1f24" },
    height: 380,
    margin: { l: 60, r: 16, t: 12, b: narrow ? 96 : 48 },
    paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    legend: narrow ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom" } : {},
    hovermode: "closest",
    ...layout,
    xaxis: { gridcolor: "#e6eaee", zerolinecolor: "#9aa4ae", automargin: true, ...layout.xaxis },
    yaxis: { gridcolor: "#e6eaee", zerolinecolor: "#9aa4ae", automargin: true, ...layout.yaxis },
  }, { responsive: true, displaylogo: false, displayModeBar: false });
}

function choice(parent, words, options, change) {
  const label = make("label", words + " ");
  const select = make("select");
  for (const option of options) select.append(make("option", option, { value: option }));
  select.addEventListener("change", () => change(select.value));
  label.append(select);
  parent.append(label);
  return select;
}

function sortBy(table, column, header) {
  const up = header.getAttribute("aria-sort") === "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? order : -order;
  });
  table.tBodies[0].append(...rows);
}

function showTable(section, told) {
  if (found.tables.length > 1) section.append(make("h3", told.title));
  const published = told.lines.some(line => line.published);
  const heads = ["config", ...found.metrics, "seeds", "training", ...(published ? ["published"] : [])];
  const table = make("table");
  const head = table.createTHead().insertRow();
  heads.forEach((words, i) => {
    const header = make("th", "", words === "published" ? { class: "text" } : {});
    const button = make("button", words, { type: "button" });
    button.addEventListener("click", () => sortBy(table, i, header));
    header.append(button);
    head.append(header);
  });
  // of those that can be compared, where some can
  const apart = (line, metric) => line.results[metric]?.apart != null;
  const compared = metric => told.lines.filter(line => line.config === found.baseline
    || apart(line, metric) || !told.lines.some(one => apart(one, metric)));
  const best = Object.fromEntries(found.metrics.map(metric =>
    [metric, compared(metric).map(line => line.results[metric]?.mean).filter(mean => mean != null)
      .reduce((a, b) => (found.lower.includes(metric) ? b < a : b > a) ? b : a, null)]));
  const body = table.createTBody();
  for (const line of told.lines) {
    const row = body.insertRow();
    row.append(make("td", line.config));
    for (const metric of found.metrics) {
      const result = line.results[metric];
      const cell = make("td", four(result?.mean), { "data-value": result?.mean ?? "" });
      if (result?.mean != null && result.mean === best[metric]) cell.className = "best";
      if (result?.half != null) cell.append(make("span",
        ` ± ${four(result.half)} (${four(result.deviation)})`, { class: "small" }));
      if (result?.p != null && result.p < 0.05) {
        cell.append((result.apart < 0) === found.lower.includes(metric) ? "*" : "†");
      }
      row.append(cell);
    }
    const seeds = line.seeds < told.planned ? `${line.seeds} of ${told.planned}` : line.seeds;
    row.append(make("td", seeds, { "data-value": line.seeds }));
    const seconds = line.seconds == null ? "" : `${Math.round(line.seconds).toLocaleString()} s`;
    row.append(make("td", seconds, { "data-value": line.seconds ?? "" }));
    if (published) row.append(make("td", line.published, { class: "text" }));
  }
  const wide = make("div", "", { class: "wide" });
  wide.append(table);
  section.append(wide, make("p", told.legend.replace("\\*", "*")));
}

function showDifferences(section) {
  const lower = found.lower.length ? ` Of ${found.lower.join(", ")} the lower is the better.` : "";
  const shown = found.tables.filter(t => t.lines.some(l => Object.values(l.results).some(r => r.apart != null)));
  if (!shown.length) return section.remove();
  for (const told of shown) {
    if (shown.length > 1) section.append(make("h3", told.title));
    const lines = told.lines.filter(line => line.config !== found.baseline && line.seeds).reverse();
    const traces = found.metrics.map((metric, i) => {
      const beside = 0.16 * ((found.metrics.length - 1) / 2 - i);
      const some = lines.map((line, y) => ({ result: line.results[metric], y: y + beside, line }))
        .filter(one => one.result?.apart != null);
      const results = some.map(one => one.result);
      return {
        name: metric, type: "scatter", mode: "markers",
        x: results.map(r => r.apart), y: some.map(one => one.y),
        text: some.map(one => one.line.config),
        error_x: {
          type: "data", symmetric: false, color: style(i).color,
          array: results.map(r => r.high - r.apart), arrayminus: results.map(r => r.apart - r.low),
        },
        marker: { color: style(i).color, symbol: style(i).symbol, size: 10 },
        hovertemplate: "%{text}: %{x:+.4f}<extra>" + metric + "</extra>",
      };
    });
    draw(section, traces, {
      height: 150 + 52 * lines.length,
      xaxis: { title: { text: `difference from ${found.baseline}` }, zeroline: true, zerolinewidth: 2 },
      yaxis: {
        tickvals: lines.map((_, y) => y), ticktext: lines.map(line => line.config),
        range: [-0.6, lines.length - 0.4], zeroline: false,
      },
    }, "The difference for the same users and its 95 % interval by the paired bootstrap." + lower);
  }
}

function showCurves(section) {
  if (!found.cells.some(cell => cell.curve.step.length)) return section.remove();
  const data = [...new Set(found.cells.map(cell => cell.data))];
  const choices = make("div", "", { class: "choices" });
  section.append(choices);
  let [against, which] = ["steps", data[0]];
  const traces = () => found.cells.filter(cell => cell.data === which && cell.curve.step.length)
    .map(cell => ({
      name: cell.config, legendgroup: cell.config, type: "scatter", mode: "lines+markers",
      showlegend: cell === found.cells.find(c => c.config === cell.config && c.data === which),
      x: against === "steps" ? cell.curve.step : cell.curve.seconds, y: cell.curve.value,
      line: { color: styleOf(cell.config).color, dash: styleOf(cell.config).dash, width: 2 },
      marker: { symbol: styleOf(cell.config).symbol, size: 5 },
      hovertemplate: `%{y:.4f} at %{x:,}<extra>${cell.config}, seed ${cell.seed}</extra>`,
    }));
  const measured = () => [...new Set(found.cells.filter(cell => cell.data === which)
    .map(cell => cell.curve.name))].join(" or ");
  const layout = () => ({
    xaxis: { title: { text: against === "steps" ? "steps" : "seconds of training" } },
    yaxis: { title: { text: measured() } },
  });
  const place = draw(section, traces(), layout(), "A line is a run, at each of its validations.");
  const again = () => react(place, traces(), layout());
  choice(choices, "against", ["steps", "seconds"], value => { against = value; again(); });
  if (data.length > 1) choice(choices, "on", data, value => { which = value; again(); });
}

function showPairs(section) {
  const names = Object.keys(found.cells[0].metrics)
    .filter(name => found.cells.every(cell => cell.metrics[name] != null));
  const keys = ["config", "data", ...Object.keys(found.cells[0].knobs)];
  const choices = make("div", "", { class: "choices" });
  section.append(choices);
  const data = [...new Set(found.cells.map(cell => cell.data))];
  const every = "all data sets";
  const last = found.metrics[found.metrics.length - 1];
  let [x, y, key, which] = ["train_seconds", names.includes(last) ? last : names[0], "config", data[0]];
  const shown = () => found.cells.filter(cell => which === every || cell.data === which);
  const valueOf = cell => key === "config" ? cell.config : key === "data" ? cell.data : cell.knobs[key];
  const traces = () => [...new Set(shown().map(valueOf))].map((value, i) => {
    const some = shown().filter(cell => valueOf(cell) === value);
    const look = key === "config" ? styleOf(value) : style(i);
    return {
      name: String(value), type: "scatter", mode: "markers",
      x: some.map(cell => cell.metrics[x]), y: some.map(cell => cell.metrics[y]),
      text: some.map(cell => `${cell.config}, ${cell.data}, seed ${cell.seed}`),
      marker: { color: look.color, symbol: look.symbol, size: 11, opacity: 0.85 },
      hovertemplate: "%{text}<br>%{x:.4~g}, %{y:.4f}<extra></extra>",
    };
  });
  const words = name => name === "train_seconds" ? "seconds of training" : name;
  const layout = () => ({
    showlegend: true,
    xaxis: { title: { text: words(x) } }, yaxis: { title: { text: words(y) } },
  });
  const place = draw(section, traces(), layout(), "A point is a run.");
  const again = () => react(place, traces(), layout());
  choice(choices, "across", names, value => { x = value; again(); }).value = x;
  choice(choices, "up", names, value => { y = value; again(); }).value = y;
  choice(choices, "coloured by", keys, value => { key = value; again(); });
  if (data.length > 1) choice(choices, "on", [...data, every], value => { which = value; again(); });
}

function showGroups(section) {
  if (!found.groups.length) return section.remove();
  for (const group of found.groups) {
    const bins = group.bins.map((bin, i) => `${bin}<br>n ${group.targets[i].toLocaleString()}`);
    const traces = Object.entries(group.lines).map(([config, values]) => ({
      name: config, type: "scatter", mode: "lines+markers", x: bins, y: values,
      line: { color: styleOf(config).color, dash: styleOf(config).dash, width: 2 },
      marker: { symbol: styleOf(config).symbol, size: 9 },
      hovertemplate: "%{y:.4f}<extra>" + config + "</extra>",
    }));
    section.append(make("h3", group.title));
    draw(section, traces, {
      xaxis: { type: "category" }, yaxis: { rangemode: "tozero" },
    }, "n targets, each ranked as if it were the only one.");
  }
}

function showReliability(section) {
  const some = found.cells.filter(cell => Object.keys(cell.reliability).length);
  if (!some.length) return section.remove();
  const traces = [{
    name: "as told", type: "scatter", mode: "lines", x: [0, 1], y: [0, 1],
    line: { color: "#9aa4ae", dash: "dot" }, hoverinfo: "skip",
  }];
  const several = new Set(some.map(cell => cell.data)).size > 1;
  for (const cell of some) for (const [task, bins] of Object.entries(cell.reliability)) {
    const look = style(traces.length - 1);  // each line its own: a config may have many
    traces.push({
      name: [cell.config, ...(several ? [cell.data] : []), task, `seed ${cell.seed}`].join(", "),
      type: "scatter", mode: "lines+markers",
      x: bins.map(bin => bin.told), y: bins.map(bin => bin.yes),
      line: { color: look.color, dash: look.dash }, marker: { symbol: look.symbol, size: 8 },
    });
  }
  draw(section, traces, {
    xaxis: { title: { text: "probability that is told" } }, yaxis: { title: { text: "share that is so" } },
  }, "A point is a tenth of the labels.");
}

function showUsers(section) {
  if (!found.users.length) return section.remove();
  const choices = make("div", "", { class: "choices" });
  const people = make("div", "", { class: "people" });
  const list = (tag, words, items) => {
    const part = make("div");
    part.append(make("h3", words));
    const all = make(tag);
    for (const item of items) all.append(make("li", item.title ?? item, item.hit ? { class: "hit" } : {}));
    part.append(all);
    people.append(part);
  };
  const show = name => {
    const user = found.users.find(one => one.name === name);
    people.replaceChildren();
    const more = user.length - user.history.length;
    list("ul", "What they had, the newest first", user.history);
    if (more > 0 && user.history.length) people.lastChild.append(make("p", `and ${more.toLocaleString()} before`));
    list("ul", "What came next", user.targets);
    for (const model of user.models) {
      list("ol", model.config, model.items);
      const place = model.place == null ? "nowhere" : `at place ${Math.floor(model.place) + 1}`;
      people.lastChild.append(make("p", `what came next is ${place}`));
    }
  };
  section.append(choices, people);
  choice(choices, "", found.users.map(user => user.name), show);
  show(found.users[0].name);
}

const section = name => document.getElementById(name);
document.querySelector("h1").textContent = found.question;
document.getElementById("how").textContent =
  `${found.cells.length} of ${found.planned} runs; every number is in the files beside them.`;
for (const told of found.tables) showTable(section("tables"), told);
showDifferences(section("differences"));
showCurves(section("curves"));
showPairs(section("pairs"));
showGroups(section("groups"));
showReliability(section("reliability"));
showUsers(section("users"));
document.body.dataset.drawn = "yes";
