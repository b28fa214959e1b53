"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
// Okabe and Ito's colours, which colour-blind readers can distinguish; forms and dashes vary, too.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6d1f"];
// Seven, so that with eight colours no two of 56 configs look alike.
const FORMS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "x"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const configs = [...new Set(report.tables.flatMap(table => table.rows.map(row => row.config)))];
const style = i => ({
  color: COLOURS[i % COLOURS.length], symbol: FORMS[i % FORMS.length], dash: DASHES[i % DASHES.length],
});
const styleOf = config => style(configs.indexOf(config));
const four = value => value == null ? "" : value.toFixed(4);
// Plotly reads tags, entities and %{...} in texts; a name is none of these.
const literal = text => String(text).replace(/[&<>{}]/g, letter => `&#${letter.charCodeAt(0)};`);
const lowerIsBetter = metric => report.lower_is_better.includes(metric);

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function draw(section, traces, layout, caption = "") {
  const figure = make("figure", "", { style: "margin:0" });
  const plot = make("div", "", { class: "plot" });
  figure.append(plot);
  if (caption) figure.append(make("figcaption", caption));
  section.append(figure);
  react(plot, traces, layout);
  return plot;
}

function react(plot, traces, layout) {
  const narrow = window.innerWidth < 640;
  Plotly.react(plot, traces, {
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

function choice(parent, text, options, change) {
  const label = make("label", text + " ");
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

function showTable(section, content) {
  if (report.tables.length > 1) section.append(make("h3", content.title));
  const published = content.rows.some(row => row.published);
  const names = ["config", ...report.metrics, "seeds", "training", ...(published ? ["published"] : [])];
  const table = make("table");
  const head = table.createTHead().insertRow();
  names.forEach((name, i) => {
    const header = make("th", "", name === "published" ? { class: "text" } : {});
    const button = make("button", name, { type: "button" });
    button.addEventListener("click", () => sortBy(table, i, header));
    header.append(button);
    head.append(header);
  });
  // The best is chosen among configs that are compared with the baseline, if there are any.
  const isCompared = (row, metric) => row.results[metric]?.difference != null;
  const comparable = metric => content.rows.filter(row => row.config === report.baseline
    || isCompared(row, metric) || !content.rows.some(one => isCompared(one, metric)));
  const best = Object.fromEntries(report.metrics.map(metric =>
    [metric, comparable(metric).map(row => row.results[metric]?.mean).filter(value => value != null)
      .reduce((a, b) => (lowerIsBetter(metric) ? b < a : b > a) ? b : a, null)]));
  const body = table.createTBody();
  for (const row of content.rows) {
    const line = body.insertRow();
    line.append(make("td", row.config));
    for (const metric of report.metrics) {
      const result = row.results[metric];
      const cell = make("td", four(result?.mean), { "data-value": result?.mean ?? "" });
      if (result?.mean != null && result.mean === best[metric]) cell.className = "best";
      if (result?.half != null) cell.append(make("span",
        ` ± ${four(result.half)} (${four(result.deviation)})`, { class: "small" }));
      if (result?.p != null && result.p < 0.05) {
        cell.append((result.difference < 0) === lowerIsBetter(metric) ? "*" : "†");
      }
      line.append(cell);
    }
    const seeds = row.seeds < row.planned ? `${row.seeds} of ${row.planned}` : row.seeds;
    line.append(make("td", seeds, { "data-value": row.seeds }));
    const seconds = row.seconds == null ? "" : `${Math.round(row.seconds).toLocaleString()} s`;
    line.append(make("td", seconds, { "data-value": row.seconds ?? "" }));
    if (published) line.append(make("td", row.published, { class: "text" }));
  }
  const wide = make("div", "", { class: "wide" });
  wide.append(table);
  section.append(wide, make("p", content.legend.replace("\\*", "*")));
}

function showDifferences(section) {
  const lower = report.lower_is_better;
  const note = lower.length ? ` Lower is better for ${lower.join(", ")}.` : "";
  const compared = report.tables.filter(table =>
    table.rows.some(row => Object.values(row.results).some(result => result.difference != null)));
  if (!compared.length) return section.remove();
  for (const table of compared) {
    if (compared.length > 1) section.append(make("h3", table.title));
    const rows = table.rows.filter(row => row.config !== report.baseline && row.seeds).reverse();
    const traces = report.metrics.map((metric, i) => {
      const offset = 0.16 * ((report.metrics.length - 1) / 2 - i);
      const points = rows.map((row, y) => ({ result: row.results[metric], y: y + offset, row }))
        .filter(point => point.result?.difference != null);
      const results = points.map(point => point.result);
      return {
        name: metric, type: "scatter", mode: "markers",
        x: results.map(r => r.difference), y: points.map(point => point.y),
        text: points.map(point => literal(point.row.config)),
        error_x: {
          type: "data", symmetric: false, color: style(i).color,
          array: results.map(r => r.high - r.difference),
          arrayminus: results.map(r => r.difference - r.low),
        },
        marker: { color: style(i).color, symbol: style(i).symbol, size: 10 },
        hovertemplate: "%{text}: %{x:+.4f}<extra>" + metric + "</extra>",
      };
    });
    draw(section, traces, {
      height: 150 + 52 * rows.length,
      xaxis: { title: { text: `difference from ${literal(report.baseline)}` }, zeroline: true, zerolinewidth: 2 },
      yaxis: {
        tickvals: rows.map((_, y) => y), ticktext: rows.map(row => literal(row.config)),
        range: [-0.6, rows.length - 0.4], zeroline: false,
      },
    }, "Difference for the same users, with its 95 % confidence interval (paired bootstrap)." + note);
  }
}

function showCurves(section) {
  if (!report.runs.some(run => run.curve.step.length)) return section.remove();
  const dataSets = [...new Set(report.runs.map(run => run.data))];
  const choices = make("div", "", { class: "choices" });
  section.append(choices);
  let [axis, data] = ["steps", dataSets[0]];
  const traces = () => report.runs.filter(run => run.data === data && run.curve.step.length)
    .map(run => ({
      name: literal(run.config), legendgroup: run.config, type: "scatter", mode: "lines+markers",
      showlegend: run === report.runs.find(one => one.config === run.config && one.data === data),
      x: axis === "steps" ? run.curve.step : run.curve.seconds, y: run.curve.value,
      line: { color: styleOf(run.config).color, dash: styleOf(run.config).dash, width: 2 },
      marker: { symbol: styleOf(run.config).symbol, size: 5 },
      hovertemplate: `%{y:.4f} at %{x:,}<extra>${literal(run.config)}, seed ${run.seed}</extra>`,
    }));
  const metrics = () => [...new Set(report.runs.filter(run => run.data === data)
    .map(run => run.curve.name))].join(" or ");
  const layout = () => ({
    xaxis: { title: { text: axis === "steps" ? "steps" : "seconds of training" } },
    yaxis: { title: { text: metrics() } },
  });
  const plot = draw(section, traces(), layout(), "One line per run, one point per validation.");
  const redraw = () => react(plot, traces(), layout());
  choice(choices, "x axis", ["steps", "seconds"], value => { axis = value; redraw(); });
  if (dataSets.length > 1) choice(choices, "data set", dataSets, value => { data = value; redraw(); });
}

function showPairs(section) {
  const names = Object.keys(report.runs[0].metrics)
    .filter(name => report.runs.every(run => run.metrics[name] != null));
  const keys = ["config", "data", ...Object.keys(report.runs[0].knobs)];
  const choices = make("div", "", { class: "choices" });
  section.append(choices);
  const dataSets = [...new Set(report.runs.map(run => run.data))];
  const every = "all data sets";
  const last = report.metrics[report.metrics.length - 1];
  let [x, y, key, data] = ["train_seconds", names.includes(last) ? last : names[0], "config", dataSets[0]];
  const shown = () => report.runs.filter(run => data === every || run.data === data);
  const valueOf = run => key === "config" ? run.config : key === "data" ? run.data : run.knobs[key];
  const traces = () => [...new Set(shown().map(valueOf))].map((value, i) => {
    const runs = shown().filter(run => valueOf(run) === value);
    const look = key === "config" ? styleOf(value) : style(i);
    return {
      name: literal(value), type: "scatter", mode: "markers",
      x: runs.map(run => run.metrics[x]), y: runs.map(run => run.metrics[y]),
      text: runs.map(run => literal(`${run.config}, ${run.data}, seed ${run.seed}`)),
      marker: { color: look.color, symbol: look.symbol, size: 11, opacity: 0.85 },
      hovertemplate: "%{text}<br>%{x:.4~g}, %{y:.4f}<extra></extra>",
    };
  });
  const title = name => name === "train_seconds" ? "seconds of training" : name;
  const layout = () => ({
    showlegend: true,
    xaxis: { title: { text: literal(title(x)) } }, yaxis: { title: { text: literal(title(y)) } },
  });
  const plot = draw(section, traces(), layout(), "One point per run.");
  const redraw = () => react(plot, traces(), layout());
  choice(choices, "x axis", names, value => { x = value; redraw(); }).value = x;
  choice(choices, "y axis", names, value => { y = value; redraw(); }).value = y;
  choice(choices, "colour", keys, value => { key = value; redraw(); });
  if (dataSets.length > 1) choice(choices, "data set", [...dataSets, every], value => { data = value; redraw(); });
}

function showGroups(section) {
  if (!report.groups.length) return section.remove();
  for (const group of report.groups) {
    const bins = group.bins.map((bin, i) => `${literal(bin)}<br>n = ${group.targets[i].toLocaleString()}`);
    const traces = Object.entries(group.configs).map(([config, values]) => ({
      name: literal(config), type: "scatter", mode: "lines+markers", x: bins, y: values,
      line: { color: styleOf(config).color, dash: styleOf(config).dash, width: 2 },
      marker: { symbol: styleOf(config).symbol, size: 9 },
      hovertemplate: "%{y:.4f}<extra>" + literal(config) + "</extra>",
    }));
    section.append(make("h3", group.title));
    draw(section, traces, {
      xaxis: { type: "category" }, yaxis: { rangemode: "tozero" },
    }, "n: number of targets. Each target counts as the only one of its example.");
  }
}

function showReliability(section) {
  const runs = report.runs.filter(run => Object.keys(run.reliability).length);
  if (!runs.length) return section.remove();
  const traces = [{
    name: "perfect calibration", type: "scatter", mode: "lines", x: [0, 1], y: [0, 1],
    line: { color: "#9aa4ae", dash: "dot" }, hoverinfo: "skip",
  }];
  const several = new Set(runs.map(run => run.data)).size > 1;
  for (const run of runs) for (const [task, bins] of Object.entries(run.reliability)) {
    const look = style(traces.length - 1);  // not by config, which may have several lines
    traces.push({
      name: literal([run.config, ...(several ? [run.data] : []), task, `seed ${run.seed}`].join(", ")),
      type: "scatter", mode: "lines+markers",
      x: bins.map(bin => bin.prediction), y: bins.map(bin => bin.yes),
      line: { color: look.color, dash: look.dash }, marker: { symbol: look.symbol, size: 8 },
    });
  }
  draw(section, traces, {
    xaxis: { title: { text: "predicted probability" } }, yaxis: { title: { text: "observed share" } },
  }, "Each point is a tenth of the labels.");
}

function showUsers(section) {
  if (!report.users.length) return section.remove();
  const choices = make("div", "", { class: "choices" });
  const people = make("div", "", { class: "people" });
  const list = (tag, title, items) => {
    const part = make("div");
    part.append(make("h3", title));
    const all = make(tag);
    for (const item of items) all.append(make("li", item.title ?? item, item.hit ? { class: "hit" } : {}));
    part.append(all);
    people.append(part);
  };
  const show = name => {
    const user = report.users.find(one => one.name === name);
    people.replaceChildren();
    const more = user.length - user.history.length;
    list("ul", "History, newest first", user.history);
    if (more > 0 && user.history.length) {
      people.lastChild.append(make("p", `and ${more.toLocaleString()} earlier events`));
    }
    list("ul", user.targets.length > 1 ? "Targets" : "Target", user.targets);
    for (const model of user.models) {
      list("ol", model.config, model.items);
      const rank = model.rank == null ? "not ranked" : Math.floor(model.rank) + 1;
      const target = user.targets.length > 1 ? "best target" : "target";
      people.lastChild.append(make("p", `rank of the ${target}: ${rank}`));
    }
  };
  section.append(choices, people);
  choice(choices, "", report.users.map(user => user.name), show);
  show(report.users[0].name);
}

const section = name => document.getElementById(name);
document.querySelector("h1").textContent = report.question;
document.getElementById("status").textContent = `${report.runs.length} of ${report.planned} runs are evaluated.`;
for (const table of report.tables) showTable(section("tables"), table);
showDifferences(section("differences"));
showCurves(section("curves"));
showPairs(section("pairs"));
showGroups(section("groups"));
showReliability(section("reliability"));
showUsers(section("users"));
document.body.dataset.drawn = "yes";
