  // Filters and sorting; the page shows everything without it.
  (() => {
    const body = document.querySelector("#entries tbody"), rows = [...body.rows];
    const [text, organ, outcome, shown] = ["text", "organ", "outcome", "shown"].map(id => document.getElementById(id));
    const filter = () => {
      const words = text.value.toLowerCase().split(/\s+/);
      let count = 0;
      for (const row of rows) {
        const fits = (!organ.value || row.dataset.organ === organ.value) && (!outcome.value || row.dataset.outcome === outcome.value)
          && words.every(word => row.textContent.toLowerCase().includes(word));
        row.hidden = !fits;
        count += fits;
      }
      shown.textContent = count === rows.length ? `${count}` : `${count} of ${rows.length}`;
    };
    for (const field of [text, organ, outcome]) field.addEventListener("input", filter);
    const heads = [...document.querySelectorAll("#entries thead th")];
    const value = (row, column, numeric) => {
      let at = 0;  // a cell may span several columns
      for (const cell of row.cells) {
        if (at >= column) return at > column ? "" : numeric ? cell.dataset.value ?? "" : cell.textContent.trim();
        at += cell.colSpan;
      }
      return "";
    };
    heads.forEach((head, column) => {
      if (!head.textContent.trim() || head.classList.contains("strip")) return;
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending", numeric = head.classList.contains("n");
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = (a, b) => numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });
        body.append(...[...rows].sort((a, b) => {
          const [x, y] = [value(a, column, numeric), value(b, column, numeric)];
          if (x === "" || y === "") return (x === "") - (y === "");  // what has no value comes last
          return down ? order(y, x) : order(x, y);
        }));
      });
    });
    document.getElementById("filters").hidden = false;
    filter();
  })();
