"use strict";

const nonce = document.currentScript.nonce;
const fine = matchMedia("(pointer: fine)").matches;

/* Plotly's template, from the page's own colours. */
function template() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: color("--grid"), linecolor: color("--line"), zerolinecolor: color("--line"), automargin: true };
  axis.title = { standoff: 8 };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 8, r: 12, t: 36, b: 8 },
      xaxis: axis,
      yaxis: axis,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      hoverlabel: { bgcolor: color("--card"), bordercolor: color("--quiet"), font: { color: color("--text") }, align: "left" },
      sliderdefaults: { bgcolor: color("--accent"), bordercolor: color("--line"), tickcolor: color("--quiet") },
      // With a finger, dragging is to scroll the page.
      dragmode: fine ? "zoom" : false,
    },
  };
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function say(place, text) {
  place.replaceChildren(Object.assign(document.createElement("p"), { className: "note bad", textContent: text }));
  place.style.height = "auto";
}

async function drawAll() {
  const places = [...document.querySelectorAll(".plot")];
  try {
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await unpack(document.getElementById("plotly").textContent);
    document.head.append(script);
  } catch (error) {
    places.forEach((place) => say(place, `The figures need a browser of 2023 or later (${error}).`));
    return;
  }
  const buttons = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"];
  const config = { responsive: true, displaylogo: false, displayModeBar: fine ? "hover" : false, modeBarButtonsToRemove: buttons };
  for (const place of places) {
    try {
      const { data, layout } = JSON.parse(place.firstElementChild.textContent);
      place.replaceChildren();
      await Plotly.newPlot(place, data, { ...layout, template: template() }, config);
    } catch (error) {
      say(place, `This figure could not be drawn: ${error}`);
    }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    places.filter((place) => place.layout).forEach((place) => Plotly.relayout(place, { template: template() }));
  });
  document.documentElement.dataset.drawn = places.length;
}

/* A click on a column's head sorts by it; numbers as numbers, empty cells last. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [one, two] = [text(a), text(b)];
        if (one === "" || two === "") return (one === "") - (two === "");
        const order = isNaN(one) || isNaN(two) ? one.localeCompare(two) : one - two;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
drawAll();
