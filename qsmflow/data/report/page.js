// What the page does beside its viewers: navigation, the slider over a correction, copying, rating.
"use strict";
(() => {
  /** Mark the section that is being read in the navigation. */
  function followReading() {
    const links = [...document.querySelectorAll("nav a")];
    const sections = [...document.querySelectorAll("main > section")];
    const mark = () => {
      const boxes = new Map(sections.map((section) => [section, section.getBoundingClientRect()]));
      const begun = sections.filter((section) => boxes.get(section).top < 48);
      // Short sections at the end never reach the top: there, the one that was asked for counts.
      const atEnd = scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
      const asked = sections.find((section) => `#${section.id}` === location.hash);
      const seen = asked && boxes.get(asked).top < innerHeight && boxes.get(asked).bottom > 0;
      const current = (atEnd && (seen ? asked : sections.at(-1))) || begun.at(-1) || sections[0];
      for (const link of links) {
        if (link.hash === `#${current.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    };
    addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
    addEventListener("hashchange", mark);
    mark();
  }

  /** Let the reader move the line between the map before and the one after. */
  function wipe(figure) {
    const input = figure.querySelector("input");
    const show = () => {
      figure.style.setProperty("--wipe", `${input.value}%`);
      input.setAttribute("aria-valuetext", `${input.value} % from the left`);
    };
    figure.querySelector(".wipe-control").hidden = false;
    input.addEventListener("input", show);
    for (const pair of figure.querySelectorAll(".wipe-pair")) {
      const point = (event) => {
        const box = pair.getBoundingClientRect();
        input.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
        show();
      };
      pair.addEventListener("pointerdown", (event) => {
        pair.setPointerCapture(event.pointerId);
        point(event);
      });
      pair.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
    }
    show();
  }

  /** Copy the text of an element; where that is not allowed, select it. */
  function offerCopy(button) {
    const source = document.getElementById(button.dataset.copies);
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.dataset.as === "html" ? source.innerHTML.trim() : source.textContent;
      const told = button.nextElementSibling;
      try {
        await navigator.clipboard.writeText(text);
        told.textContent = "Copied.";
      } catch {
        source.closest("details")?.setAttribute("open", "");
        getSelection().selectAllChildren(source);
        told.textContent = "Selected: copy it with your keyboard.";
      }
    });
  }

  /** Save the reader's judgement as a file of theirs; nothing is sent. */
  function offerRating(form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const fields = new FormData(form);
      const ratings = {};
      for (const series of form.querySelectorAll("fieldset[data-series]")) {
        ratings[series.dataset.series] = fields.get(series.dataset.field);
      }
      const now = new Date().toISOString();
      const record = {
        ...JSON.parse(form.dataset.about),
        Ratings: ratings,
        Findings: fields.getAll("finding"),
        Notes: fields.get("notes"),
        Rater: fields.get("rater"),
        Date: now,
      };
      const file = new Blob([`${JSON.stringify(record, null, 2)}\n`], { type: "application/json" });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(file);
      link.download = `sub-${record.Subject}_desc-rating_${now.slice(0, 10)}.json`;
      link.click();
      URL.revokeObjectURL(link.href);
      form.querySelector("output").textContent = `Saved as ${link.download}.`;
    });
  }

  followReading();
  document.querySelectorAll(".wipe").forEach(wipe);
  document.querySelectorAll("button[data-copies]").forEach(offerCopy);
  document.querySelectorAll("form.rating").forEach(offerRating);
  // What is folded for the screen only is unfolded for paper.
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details.print:not([open])")) folded.open = true;
  });
})();
