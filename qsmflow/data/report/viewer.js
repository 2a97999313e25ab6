// The slice viewer: three planes through volumes that lie in the page as compressed bytes.
"use strict";
(() => {
  const PLANES = [
    { name: "Axial", normal: 2, across: 0, up: 1 },
    { name: "Coronal", normal: 1, across: 0, up: 2 },
    { name: "Sagittal", normal: 0, across: 1, up: 2 },
  ];
  const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
  const DIRECTIONS = ["Left to right", "Back to front", "Bottom to top"];
  const LEVELS = 254; // steps between the codes 1 and 255; 0 is no value
  const OUTLINE = [255, 96, 0];
  const minus = (text) => String(text).replace("-", "−");

  /** Make an element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** Undo base64, zlib and the differences between neighbours. */
  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const codes = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let i = 1; i < codes.length; i++) codes[i] += codes[i - 1];
    return codes;
  }

  class Viewer {
    static count = 0;

    constructor(figure) {
      this.figure = figure;
      this.number = Viewer.count++;
      Object.assign(this, JSON.parse(figure.querySelector(".viewer-data").textContent));
      this.crosshair = [...this.centre];
      this.layer = this.layers[0];
      this.mask = this.layers.find((layer) => layer.name === "mask");
      this.contrast = 1;
      this.options = { outline: false, crosshair: true, radiological: false };
      this.build();
    }

    /** Decode a volume when it is first asked for, and show it. */
    async choose(layer) {
      this.layer = layer;
      layer.codes ??= await unpack(layer.data);
      if (this.options.outline) this.mask.codes ??= await unpack(this.mask.data);
      delete layer.data;
      if (this.layer === layer) this.draw();
    }

    build() {
      const choices = make("fieldset", { class: "viewer-layers" }, make("legend", {}, "Map"));
      for (const layer of this.layers) {
        const input = make("input", { type: "radio", name: `layer-${this.number}`, value: layer.name });
        input.checked = layer === this.layer;
        input.addEventListener("change", () => this.choose(layer));
        choices.append(make("label", {}, input, ` ${layer.title}`));
      }
      const options = make("fieldset", { class: "viewer-options" }, make("legend", {}, "Show"));
      const words = {
        crosshair: "Crosshair", outline: "Outline of the mask", radiological: "Left on the right (radiological)",
      };
      for (const [name, title] of Object.entries(words)) {
        const input = make("input", { type: "checkbox", name });
        input.checked = this.options[name];
        input.addEventListener("change", () => {
          this.options[name] = input.checked;
          this.choose(this.layer);
        });
        options.append(make("label", {}, input, ` ${title}`));
      }
      this.window = make("output");
      const contrast = make("input", { type: "range", min: "-2", max: "1", step: "0.1", value: "0" });
      contrast.addEventListener("input", () => {
        this.contrast = 2 ** Number(contrast.value);
        this.draw();
      });
      this.contrastInput = contrast;
      const windowing = make("label", { class: "viewer-window" }, "Window ", contrast, " ", this.window);
      this.readout = make("output", { class: "viewer-crosshair", "aria-live": "polite" });
      this.pointed = make("span", { class: "viewer-pointed", "aria-hidden": "true" });
      this.planes = PLANES.map((plane) => this.buildPlane(plane));
      const film = make("div", { class: "film viewer-planes" }, ...this.planes.map((plane) => plane.box));
      const extent = this.shape.map((count, axis) => count * this.spacing[axis]);
      film.style.setProperty("--planes", PLANES.map((plane) => `${extent[plane.across]}fr`).join(" "));
      const voxel = this.spacing.map((size) => Number(size.toFixed(1))).join(" × ");
      const hint = make("p", { class: "hint" },
        "Click into a picture to move the crosshair; then the wheel and Page Up/Down change its slice, ",
        `arrow keys move in it, Home leads back to the middle. Shown with voxels of ${voxel} mm.`);
      const live = make("div", { class: "viewer-live" },
        make("div", { class: "viewer-controls" }, choices, options, windowing),
        film, make("p", { class: "viewer-readout" }, this.readout, this.pointed), hint);
      this.figure.prepend(live);
      this.figure.classList.add("live");
      new ResizeObserver(() => this.draw()).observe(film);
    }

    /** Canvas and slider of a plane. */
    buildPlane(plane) {
      const { normal, across, up } = plane;
      const canvas = make("canvas", { tabindex: "0", role: "img", "data-plane": plane.name.toLowerCase() });
      canvas.style.aspectRatio =
        `${this.shape[across] * this.spacing[across]} / ${this.shape[up] * this.spacing[up]}`;
      const point = (event) => this.voxelAt(canvas, plane, event);
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.move(point(event));
      });
      canvas.addEventListener("pointermove", (event) => {
        if (event.buttons) this.move(point(event));
        this.pointed.textContent = `Pointer: ${this.describe(point(event))}`;
      });
      canvas.addEventListener("pointerleave", () => { this.pointed.textContent = ""; });
      // Only where it was asked for: otherwise the page could not be scrolled past the viewer.
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas) return;
        event.preventDefault();
        this.step(normal, event.deltaY < 0 ? 1 : -1);
      }, { passive: false });
      canvas.addEventListener("keydown", (event) => {
        const mirrored = this.mirrored(across) ? -1 : 1;
        const steps = {
          ArrowLeft: [across, -mirrored], ArrowRight: [across, mirrored],
          ArrowDown: [up, -1], ArrowUp: [up, 1], PageDown: [normal, -1], PageUp: [normal, 1],
        };
        if (event.key in steps) this.step(...steps[event.key]);
        else if (event.key === "Home") this.move([...this.centre]);
        else return;
        event.preventDefault();
      });
      const slider = make("input", { type: "range", min: "0", max: String(this.shape[normal] - 1), step: "1" });
      slider.addEventListener("input", () => {
        this.step(normal, Number(slider.value) - this.crosshair[normal]);
      });
      const label = make("label", {}, `${plane.name}: ${DIRECTIONS[normal].toLowerCase()}`, slider);
      return { ...plane, canvas, slider, box: make("div", { class: "viewer-plane" }, canvas, label) };
    }

    mirrored(axis) { return axis === 0 && this.options.radiological; }

    /** Indices of the voxel under the pointer. */
    voxelAt(canvas, plane, event) {
      const box = canvas.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      const voxel = [...this.crosshair];
      voxel[plane.across] = (this.mirrored(plane.across) ? 1 - share : share) * this.shape[plane.across];
      voxel[plane.up] = (1 - (event.clientY - box.top) / box.height) * this.shape[plane.up];
      return this.clamp(voxel.map(Math.floor));
    }

    clamp(voxel) { return voxel.map((index, axis) => Math.min(Math.max(index, 0), this.shape[axis] - 1)); }

    step(axis, count) {
      const voxel = [...this.crosshair];
      voxel[axis] += count;
      this.move(voxel);
    }

    move(voxel) {
      this.crosshair = this.clamp(voxel);
      this.draw();
    }

    /** Value of a code in the unit of the volume. */
    value(code) { return this.layer.low + ((code - 1) / LEVELS) * (this.layer.high - this.layer.low); }

    position(voxel) { return voxel.map((index, axis) => this.origin[axis] + index * this.spacing[axis]); }

    /** Place and value of a voxel in words. */
    describe(voxel) {
      const place = this.position(voxel).map((mm, axis) => `${"xyz"[axis]} ${minus(mm.toFixed(0))}`).join(", ");
      const code = this.layer.codes[voxel[0] + this.shape[0] * (voxel[1] + this.shape[1] * voxel[2])];
      return `${place} mm: ${this.write(code)}`;
    }

    write(code) {
      if (code === 0) return "no value";
      if (this.layer.name === "mask") return code > LEVELS / 2 ? "in the mask" : "outside";
      const step = (this.layer.high - this.layer.low) / LEVELS;
      const text = this.value(code).toFixed(Math.max(0, Math.ceil(-Math.log10(step))));
      const bound = code === 1 && this.layer.low < 0 ? "≤ " : code === LEVELS + 1 ? "≥ " : "";
      return `${bound}${minus(text)} ${this.layer.unit}`;
    }

    /** Grey of each code in the present window. */
    greys() {
      const [low, high] = this.range();
      const greys = new Uint8ClampedArray(256);
      for (let code = 1; code < 256; code++) greys[code] = (255 * (this.value(code) - low)) / (high - low);
      return greys;
    }

    range() {
      if (this.layer.name === "mask") return this.layer.window;
      return this.layer.window.map((end) => end * this.contrast);
    }

    /** Bring everything on the screen up to date, once a frame. */
    draw() {
      if (!this.layer.codes) return;
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => {
        const greys = this.greys();
        for (const plane of this.planes) this.drawPlane(plane, greys);
        const [low, high] = this.range().map((end) => minus(Number(end.toPrecision(2))));
        this.window.textContent = `${low} to ${high} ${this.layer.unit}`.trim();
        this.contrastInput.setAttribute("aria-valuetext", this.window.textContent);
        this.contrastInput.disabled = this.layer.name === "mask";
        const text = `Crosshair: ${this.describe(this.crosshair)}`;
        if (this.readout.textContent !== text) this.readout.textContent = text;
      });
    }

    drawPlane(plane, greys) {
      const { canvas, normal, across, up, slider, name } = plane;
      const density = window.devicePixelRatio || 1;
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * density));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * density));
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = this.layer.name !== "mask";
      context.save();
      if (this.mirrored(across)) {
        context.translate(canvas.width, 0);
        context.scale(-1, 1);
      }
      context.drawImage(this.slice(plane, greys), 0, 0, canvas.width, canvas.height);
      context.restore();
      if (this.options.crosshair) this.drawCrosshair(context, plane);
      this.drawLetters(context, plane, density);
      const place = `${"xyz"[normal]} = ${minus(this.position(this.crosshair)[normal].toFixed(0))} mm`;
      canvas.setAttribute("aria-label", `${name} slice of ${this.layer.title} at ${place}`);
      slider.value = String(this.crosshair[normal]);
      slider.setAttribute("aria-valuetext", place);
    }

    /** Pixels of a slice, one a voxel, the upper row first. */
    slice({ normal, across, up }, greys) {
      const strides = [1, this.shape[0], this.shape[0] * this.shape[1]];
      const [width, height] = [this.shape[across], this.shape[up]];
      const image = new ImageData(width, height);
      const start = this.crosshair[normal] * strides[normal];
      const mask = this.options.outline ? this.mask.codes : undefined;
      const inside = (column, row) =>
        column >= 0 && column < width && row >= 0 && row < height &&
        mask[start + column * strides[across] + row * strides[up]] > 128;
      for (let row = 0; row < height; row++) {
        for (let column = 0; column < width; column++) {
          const grey = greys[this.layer.codes[start + column * strides[across] + row * strides[up]]];
          const edge = mask && inside(column, row) && !(inside(column - 1, row) && inside(column + 1, row) &&
            inside(column, row - 1) && inside(column, row + 1));
          image.data.set(edge ? [...OUTLINE, 255] : [grey, grey, grey, 255], 4 * ((height - 1 - row) * width + column));
        }
      }
      const canvas = make("canvas", { width: String(width), height: String(height) });
      canvas.getContext("2d").putImageData(image, 0, 0);
      return canvas;
    }

    drawCrosshair(context, { across, up }) {
      const { width, height } = context.canvas;
      const share = (this.crosshair[across] + 0.5) / this.shape[across];
      const x = Math.round((this.mirrored(across) ? 1 - share : share) * width) + 0.5;
      const y = Math.round((1 - (this.crosshair[up] + 0.5) / this.shape[up]) * height) + 0.5;
      const gap = Math.round(width / 30); // leaves what is pointed at to be seen
      context.strokeStyle = "rgb(110 190 255 / 75%)";
      context.lineWidth = 1;
      context.beginPath();
      for (const [fromX, fromY, toX, toY] of [
        [0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height],
      ]) {
        context.moveTo(fromX, fromY);
        context.lineTo(toX, toY);
      }
      context.stroke();
    }

    drawLetters(context, { across, up }, density) {
      const { width, height } = context.canvas;
      const size = 13 * density;
      context.font = `600 ${size}px system-ui, sans-serif`;
      context.fillStyle = "#e8eaed";
      context.strokeStyle = "#0b0d10";
      context.lineWidth = 3 * density;
      const [start, end] = this.mirrored(across) ? [...ENDS[across]].reverse() : ENDS[across];
      const edge = 5 * density;
      for (const [letter, x, y, align] of [
        [start, edge, height / 2 - size / 2, "left"], [end, width - edge, height / 2 - size / 2, "right"],
        [ENDS[up][1], width / 2, size, "center"], [ENDS[up][0], width / 2, height - edge, "center"],
      ]) {
        context.textAlign = align;
        context.strokeText(letter, x, y);
        context.fillText(letter, x, y);
      }
    }
  }

  // A browser that cannot unpack the volumes keeps the still picture.
  if (!("DecompressionStream" in window)) return;
  // Volumes are unpacked when their viewer comes near.
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      const viewer = new Viewer(target);
      viewer.choose(viewer.layer);
    }
  }, { rootMargin: "50% 0px" });
  for (const figure of document.querySelectorAll(".viewer")) observer.observe(figure);
})();
