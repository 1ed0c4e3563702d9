for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const rises = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", rises ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        if (column === 0) {
          return a.cells[0].textContent.localeCompare(b.cells[0].textContent, undefined, { numeric: true });
        }
        if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "") || 0;
        return Number(key(a)) - Number(key(b));
      });
      if (!rises) rows.reverse();
      const undefinedLast = rows.filter((row) => column > 0 && key(row) === "");
      body.append(...rows.filter((row) => !undefinedLast.includes(row)), ...undefinedLast);
    });
  });
}
